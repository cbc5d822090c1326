//! Upstream's numbers and names, and nothing else knows them.
//!
//! A node swapped in place keeps its running pods only if veth names, rule priorities and table
//! numbers are identical to those of amazon-vpc-cni-k8s v1.23 (driver.go, network.go, names.go);
//! and operators know them by heart.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use sha1::{Digest, Sha1};

use crate::Error;
use crate::model::Mark;
use crate::name::{LinkName, TableId};

/// Priorities of the policy-routing rules, in the order in which the kernel asks them.
pub mod priority {
    /// Kernel: `from all lookup local`.
    pub const LOCAL: u32 = 0;
    /// `to <pod> lookup main`: traffic to pods goes to their veth, whatever its source.
    pub const TO_POD: u32 = 512;
    /// `fwmark 0x80/0x80 lookup main`: leaves by the primary ENI.
    pub const MARKED: u32 = 1024;
    /// `to <AWS_EXTERNAL_SERVICE_CIDRS> lookup main`.
    pub const EXTERNAL_SERVICE: u32 = 1535;
    /// `from <pod> lookup <table of its ENI>`.
    pub const FROM_POD: u32 = 1536;
    /// `from <address of a secondary ENI> lookup <its table>`.
    pub const FROM_ENI: u32 = 32765;
    /// Kernel: `from all lookup main`.
    pub const MAIN: u32 = 32766;
    /// Kernel: `from all lookup default`.
    pub const DEFAULT: u32 = 32767;
}

/// Hex digits of the SHA-1 in a veth's name.
const HASH_DIGITS: usize = 11;

/// The longest veth prefix: what leaves room for [`HASH_DIGITS`] in a link name.
const MAX_PREFIX: usize = LinkName::MAX_LEN - HASH_DIGITS;

/// The default of AWS_VPC_K8S_CNI_CONNMARK, compared under a mask of the same bits.
pub const CONNMARK: Mark = Mark {
    value: 0x80,
    mask: 0x80,
};

/// The default of AWS_VPC_ENI_MTU.
pub const ENI_MTU: u32 = 9001;

/// The first part of the names of pods' veths on the node (AWS_VPC_K8S_CNI_VETHPREFIX, `eni`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VethPrefix(String);

impl VethPrefix {
    /// At most 4 characters; not `eth`, `lo` or `vlan`, which other links are called. Upstream
    /// takes an empty prefix.
    pub fn new(prefix: impl Into<String>) -> Result<Self, Error> {
        let prefix = prefix.into();
        let usable = prefix.len() <= MAX_PREFIX
            && !["eth", "lo", "vlan"].contains(&prefix.as_str())
            && (prefix.is_empty() || LinkName::new(prefix.as_str()).is_ok());
        if usable {
            Ok(Self(prefix))
        } else {
            Err(Error::VethPrefix { prefix })
        }
    }

    /// The prefix as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a link of this name is the host end of a pod's veth.
    pub fn made(&self, name: &LinkName) -> bool {
        name.as_str()
            .strip_prefix(self.as_str())
            .is_some_and(|rest| {
                rest.len() == HASH_DIGITS
                    && rest
                        .bytes()
                        .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
            })
    }
}

impl Default for VethPrefix {
    fn default() -> Self {
        Self("eni".to_owned())
    }
}

impl TryFrom<String> for VethPrefix {
    type Error = Error;
    fn try_from(prefix: String) -> Result<Self, Error> {
        Self::new(prefix)
    }
}

impl From<VethPrefix> for String {
    fn from(prefix: VethPrefix) -> Self {
        prefix.0
    }
}

impl FromStr for VethPrefix {
    type Err = Error;
    fn from_str(prefix: &str) -> Result<Self, Error> {
        Self::new(prefix)
    }
}

/// A pod as Kubernetes names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PodName {
    /// K8S_POD_NAMESPACE.
    pub namespace: String,
    /// K8S_POD_NAME.
    pub name: String,
}

impl PodName {
    /// A pod of a namespace.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for PodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The part of the names of a pod's links that identifies it: the first 11 hex digits of the
/// SHA-1 of `namespace.name`, with `.index` appended for its second and further interfaces.
/// Upstream's result carries `dummy` + this as well.
pub fn pod_hash(pod: &PodName, index: u8) -> String {
    let suffix = if index == 0 {
        String::new()
    } else {
        format!(".{index}")
    };
    let digest = Sha1::digest(format!("{}.{}{suffix}", pod.namespace, pod.name));
    let hex: String = digest
        .iter()
        .take(HASH_DIGITS / 2 + 1)
        .map(|b| format!("{b:02x}"))
        .collect();
    hex[..HASH_DIGITS].to_owned()
}

/// The host end of the veth of a pod's interface `index` (0 for `eth0`).
pub fn host_veth(prefix: &VethPrefix, pod: &PodName, index: u8) -> LinkName {
    LinkName::new(format!("{}{}", prefix.as_str(), pod_hash(pod, index)))
        .expect("a prefix of at most 4 characters and 11 hex digits are a link name")
}

/// The pod's end of that veth: what the runtime asked for (CNI_IFNAME) for index 0, `mNicIf<i>`
/// for the others.
pub fn pod_link(ifname: &LinkName, index: u8) -> LinkName {
    match index {
        0 => ifname.clone(),
        _ => LinkName::new(format!("mNicIf{index}")).expect("mNicIf and 3 digits are a link name"),
    }
}

/// The routing table of an ENI: `main` for the primary one, device + 1 for others of card 0,
/// 10000 + 100·card + device beyond.
pub fn eni_table(card: u32, device: u32) -> TableId {
    match (card, device) {
        (0, 0) => TableId::MAIN,
        (0, device) => TableId(device + 1),
        (card, device) => TableId(10_000 + 100 * card + device),
    }
}

/// Whether a table number is one that [`eni_table`] gives to a secondary ENI. Numbers from 100 up
/// belong to branch ENIs (100 + VLAN) and to other programs.
pub fn is_eni_table(table: TableId) -> bool {
    (2..100).contains(&table.0) || (10_100..20_000).contains(&table.0)
}

/// The table that a daemon's reply means: upstream takes values above 1 as they are and anything
/// else as `main` (older releases reported 1 for the primary ENI).
pub fn reply_table(route_table_id: u32) -> TableId {
    if route_table_id > 1 {
        TableId(route_table_id)
    } else {
        TableId::MAIN
    }
}

/// The address that is the default gateway of a pod's interface `index`. Nobody has it: a
/// permanent neighbour entry says that it is the host end of the veth.
pub fn pod_gateway(index: u8) -> Ipv4Addr {
    Ipv4Addr::new(169, 254, 1, index.saturating_add(1))
}

/// The router of a subnet: its second address.
pub fn subnet_gateway(subnet: Ipv4Net) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(subnet.network()).wrapping_add(1))
}
