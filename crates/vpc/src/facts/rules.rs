//! Facts that permit or deny: security groups, network ACLs, prefix lists.

use std::collections::BTreeSet;

use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use super::{Tags, Unread};

use crate::ids::*;

/// A security group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecurityGroup {
    /// Its id.
    pub id: SgId,
    /// The VPC it belongs to.
    pub vpc: VpcId,
    /// Its name, unique in the VPC.
    pub name: String,
    /// The account that owns it.
    #[serde(default)]
    pub owner: String,
    /// Its description.
    #[serde(default)]
    pub description: String,
    /// Its rules of both directions, one per peer as `describe-security-group-rules` lists them.
    pub rules: Vec<GroupRule>,
    /// Tags.
    #[serde(default)]
    pub tags: Tags,
}

/// The direction of a rule, as seen from the interface or subnet it protects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Towards the interface or into the subnet.
    Ingress,
    /// From the interface or out of the subnet.
    Egress,
}

/// One permission of a security group for one peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupRule {
    /// Its id, when rule ids were read.
    #[serde(default)]
    pub id: Option<SgRuleId>,
    /// Its direction.
    pub direction: Direction,
    /// Protocol and ports.
    pub protocol: Protocol,
    /// The other side.
    pub peer: RulePeer,
    /// Its description.
    #[serde(default)]
    pub description: String,
}

/// Protocol and ports (or ICMP type and code) of a group rule or ACL entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// EC2's `-1`: every protocol and port.
    All,
    /// TCP to these destination ports.
    Tcp(Ports),
    /// UDP to these destination ports.
    Udp(Ports),
    /// ICMP; `None` is EC2's -1, any. A code never stands without a type.
    Icmp {
        /// ICMP type.
        kind: Option<u8>,
        /// ICMP code.
        code: Option<u8>,
    },
    /// ICMPv6 (kept, not modelled).
    Icmp6 {
        /// ICMPv6 type.
        kind: Option<u8>,
        /// ICMPv6 code.
        code: Option<u8>,
    },
    /// Another protocol by its number; it has no ports.
    Number(u8),
}

/// An inclusive range of ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ports {
    /// First port.
    pub from: u16,
    /// Last port, not below the first.
    pub to: u16,
}

/// The other side of a group rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RulePeer {
    /// An IPv4 range.
    Cidr4(Ipv4Net),
    /// An IPv6 range (kept, not modelled).
    Cidr6(Ipv6Net),
    /// The entries of a prefix list.
    PrefixList(PrefixListId),
    /// The private addresses of the interfaces that carry a group.
    Group {
        /// The group.
        id: SgId,
        /// The VPC of the group as EC2 reports it, for groups of a peered VPC.
        #[serde(default)]
        vpc: Option<VpcId>,
        /// The peering through which the group is referenced, as EC2 reports it.
        #[serde(default)]
        peering: Option<PcxId>,
    },
}

/// A network ACL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkAcl {
    /// Its id.
    pub id: AclId,
    /// The VPC it belongs to.
    pub vpc: VpcId,
    /// Whether it is the VPC's default ACL.
    pub default: bool,
    /// The subnets it guards.
    pub subnets: BTreeSet<SubnetId>,
    /// Its entries in any order; they are evaluated by number. The closing `*` entry may be left out.
    pub entries: Vec<AclEntry>,
    /// Tags.
    #[serde(default)]
    pub tags: Tags,
}

/// One entry of a network ACL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AclEntry {
    /// Its number: the lowest that matches decides. 32767 is `*`.
    pub number: u16,
    /// Its direction.
    pub direction: Direction,
    /// Protocol and ports.
    pub protocol: Protocol,
    /// The remote range.
    pub cidr: AclCidr,
    /// Allow or deny.
    pub allow: bool,
}

/// The remote range of an ACL entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AclCidr {
    /// IPv4
    V4(Ipv4Net),
    /// IPv6 (kept, not modelled)
    V6(Ipv6Net),
}

/// A managed prefix list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrefixList {
    /// Its id.
    pub id: PrefixListId,
    /// Its name.
    pub name: String,
    /// Its IPv4 entries.
    pub entries: Vec<Ipv4Net>,
    /// Its IPv6 entries (kept, not modelled).
    #[serde(default)]
    pub entries6: Vec<Ipv6Net>,
    /// `MaxEntries`: what it counts in rule quotas.
    #[serde(default)]
    pub max_entries: Option<u32>,
    /// Set when this list's entries could not be read; the list then decides nothing.
    #[serde(default)]
    pub unread: Option<Unread>,
}
