//! Facts that lead packets on: route tables, gateways, peerings.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use super::Tags;
use crate::ids::*;

/// A route table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteTable {
    /// Its id.
    pub id: RtbId,
    /// The VPC it belongs to.
    pub vpc: VpcId,
    /// Whether subnets without a table of their own use it.
    pub main: bool,
    /// The subnets explicitly associated with it.
    pub subnets: BTreeSet<SubnetId>,
    /// Gateways associated with it (edge associations), by id: not modelled.
    #[serde(default)]
    pub edges: BTreeSet<String>,
    /// Its routes, the `local` ones included.
    pub routes: Vec<Route>,
    /// Tags.
    #[serde(default)]
    pub tags: Tags,
}

/// One route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Where to.
    pub destination: Destination,
    /// Through what.
    pub target: Target,
    /// Whether the target is there.
    pub state: RouteState,
    /// Who made the route.
    pub origin: RouteOrigin,
}

/// The destination of a route.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Destination {
    /// An IPv4 range.
    Cidr(Ipv4Net),
    /// An IPv6 range (kept, not modelled).
    Cidr6(Ipv6Net),
    /// Each entry of a prefix list.
    PrefixList(PrefixListId),
}

/// The target of a route.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// Inside the VPC.
    Local,
    /// An internet gateway.
    Igw(IgwId),
    /// A NAT gateway.
    Nat(NatId),
    /// A peering connection.
    Pcx(PcxId),
    /// A network interface.
    Eni(EniId),
    /// An instance, through its primary interface.
    Instance(InstanceId),
    /// A target that is not modelled: whatever goes there is UNKNOWN.
    Unmodelled {
        /// What it is, as `transit gateway`.
        kind: String,
        /// Its id.
        id: String,
    },
}

/// `State` of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RouteState {
    /// In force.
    Active,
    /// The target is gone: packets are dropped.
    Blackhole,
}

/// `Origin` of a route. Static beats propagated for equal destinations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RouteOrigin {
    /// Came with the table (`local`).
    CreateRouteTable,
    /// Made by hand.
    CreateRoute,
    /// Propagated by a virtual private gateway.
    Propagated,
}

/// An internet gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InternetGateway {
    /// Its id.
    pub id: IgwId,
    /// The VPC it is attached to.
    #[serde(default)]
    pub vpc: Option<VpcId>,
    /// Tags.
    #[serde(default)]
    pub tags: Tags,
}

/// A NAT gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NatGateway {
    /// Its id.
    pub id: NatId,
    /// The VPC it is in.
    pub vpc: VpcId,
    /// The subnet it is in.
    pub subnet: SubnetId,
    /// Public (with an Elastic IP address) or private.
    pub public: bool,
    /// EC2's `State`.
    pub state: NatState,
    /// Its addresses; the first is the primary.
    pub addresses: Vec<NatAddress>,
    /// Tags.
    #[serde(default)]
    pub tags: Tags,
}

/// `State` of a NAT gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NatState {
    /// Being created.
    Pending,
    /// Could not be created.
    Failed,
    /// Works.
    Available,
    /// Being deleted.
    Deleting,
    /// Gone.
    Deleted,
}

/// One address of a NAT gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NatAddress {
    /// The interface that carries it.
    pub eni: EniId,
    /// The private address.
    pub private: Ipv4Addr,
    /// The public address, for a public gateway.
    #[serde(default)]
    pub public: Option<Ipv4Addr>,
}

/// A VPC peering connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peering {
    /// Its id.
    pub id: PcxId,
    /// EC2's status code; only `active` carries traffic.
    pub status: PeeringStatus,
    /// The side that asked.
    pub requester: PeeringSide,
    /// The side that was asked.
    pub accepter: PeeringSide,
    /// Tags.
    #[serde(default)]
    pub tags: Tags,
}

/// One side of a peering.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeeringSide {
    /// The VPC.
    pub vpc: VpcId,
    /// Its account.
    #[serde(default)]
    pub owner: String,
    /// Its region.
    #[serde(default)]
    pub region: String,
    /// Its IPv4 ranges as EC2 reports them on the peering (absent until accepted).
    #[serde(default)]
    pub cidrs: Vec<Ipv4Net>,
}

/// Status code of a peering.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PeeringStatus {
    /// `initiating-request`
    InitiatingRequest,
    /// `pending-acceptance`
    PendingAcceptance,
    /// `provisioning`
    Provisioning,
    /// `active`
    Active,
    /// `failed`
    Failed,
    /// `expired`
    Expired,
    /// `rejected`
    Rejected,
    /// `deleting`
    Deleting,
    /// `deleted`
    Deleted,
}
