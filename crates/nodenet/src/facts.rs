//! What has to be known about a node to say what its network must look like. All of it comes from
//! the EC2 API, the agent's pool and its settings; nothing from the kernel.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use settings::NodeNetwork;

use crate::Error;
use crate::layout::{self, PodName, VethPrefix};
use crate::model::Mark;
use crate::name::{LinkName, Mac, TableId};

/// One node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeFacts {
    /// ENIs that are attached and ours to set up.
    pub enis: Vec<EniFacts>,
    /// Pods that have an address.
    pub pods: Vec<PodFacts>,
    /// What the agent's variables say.
    #[serde(default)]
    pub settings: NodeSettings,
}

/// One attached ENI.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EniFacts {
    /// `eni-…`, opaque here.
    pub id: String,
    /// Network card; 0 on most instances.
    pub card: u32,
    /// Device index on its card; 0 on card 0 is the primary ENI.
    pub device: u32,
    /// Ethernet address, by which the kernel's link is found.
    pub mac: Mac,
    /// Name of the kernel's link with that MAC.
    pub link: LinkName,
    /// The ENI's primary private address.
    pub address: Ipv4Addr,
    /// CIDR of its subnet.
    pub subnet: Ipv4Net,
    /// The trunk of security groups for pods: set up like others but without rule 32765.
    #[serde(default)]
    pub trunk: bool,
}

impl EniFacts {
    /// Whether it is the ENI that the instance was launched with.
    pub fn is_primary(&self) -> bool {
        self.card == 0 && self.device == 0
    }

    /// The routing table of traffic that must leave by it.
    pub fn table(&self) -> TableId {
        layout::eni_table(self.card, self.device)
    }

    /// The router of its subnet.
    pub fn gateway(&self) -> Ipv4Addr {
        layout::subnet_gateway(self.subnet)
    }
}

/// One address of a pod that shares an ENI with others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PodFacts {
    /// The pod.
    pub pod: PodName,
    /// Which of its interfaces; 0 is `eth0`.
    #[serde(default)]
    pub index: u8,
    /// Its address: a secondary address of the ENI or one out of a delegated prefix.
    pub address: Ipv4Addr,
    /// [`EniFacts::id`] of the ENI that owns the address.
    pub eni: String,
}

/// The variables of the agent that decide about the layout, with upstream's defaults.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NodeSettings {
    /// AWS_VPC_K8S_CNI_VETHPREFIX.
    pub veth_prefix: VethPrefix,
    /// AWS_VPC_ENI_MTU, bytes.
    pub eni_mtu: u32,
    /// POD_MTU, bytes; upstream takes AWS_VPC_ENI_MTU when it is not set.
    pub pod_mtu: u32,
    /// AWS_VPC_K8S_CNI_EXTERNALSNAT: somebody else translates source addresses.
    pub external_snat: bool,
    /// AWS_VPC_CNI_NODE_PORT_SUPPORT.
    pub node_port: bool,
    /// AWS_VPC_K8S_CNI_CONNMARK.
    pub connmark: Mark,
    /// AWS_EXTERNAL_SERVICE_CIDRS.
    pub external_service_cidrs: Vec<Ipv4Net>,
}

impl TryFrom<&NodeNetwork> for NodeSettings {
    type Error = Error;

    /// The agent's own variables, read; an error for a veth prefix that no link name can begin with.
    fn try_from(of: &NodeNetwork) -> Result<Self, Error> {
        Ok(Self {
            veth_prefix: VethPrefix::new(of.veth_prefix.as_str())?,
            eni_mtu: of.eni_mtu.into(),
            pod_mtu: of.pod_mtu.into(),
            external_snat: of.external_snat,
            node_port: of.node_port,
            connmark: Mark {
                value: of.connmark,
                mask: of.connmark,
            },
            external_service_cidrs: of.external_services.clone(),
        })
    }
}

impl Default for NodeSettings {
    fn default() -> Self {
        Self {
            veth_prefix: VethPrefix::default(),
            eni_mtu: layout::ENI_MTU,
            pod_mtu: layout::ENI_MTU,
            external_snat: false,
            node_port: true,
            connmark: layout::CONNMARK,
            external_service_cidrs: Vec::new(),
        }
    }
}

impl NodeSettings {
    /// Whether the rule for marked packets exists: with NodePort support or our own SNAT.
    pub fn marks_packets(&self) -> bool {
        self.node_port || !self.external_snat
    }
}
