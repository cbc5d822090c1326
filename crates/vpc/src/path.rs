//! What happens to packets between two interfaces: the answer's types, and the question.
//!
//! [`trace`] walks a set of packets through the VPC in the order AWS documents (see `walk`), and
//! answers with a partition of the set. Each part lists the hops it took, each with the rule that
//! decided, and its outcome. *Delivered* means that an exchange works: the packet arrives and its
//! answer gets back through everything that keeps no state.

use std::fmt;

use flowset::FlowSet;
use layers::Provenance;
use serde::{Deserialize, Serialize};

use crate::facts::*;
use crate::need::Need;
use crate::network::Network;
use crate::walk;

/// Where packets come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A host sends them through this interface.
    Eni(EniId),
    /// They come from the internet, addressed to public addresses.
    Outside,
}

impl From<&EniId> for Origin {
    fn from(id: &EniId) -> Self {
        Origin::Eni(id.clone())
    }
}

/// The fate of a set of packets: disjoint parts that together are the set.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Trace {
    /// The parts, never an empty one.
    pub parts: Vec<Part>,
}

/// Packets that take the same way to the same end.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Part {
    /// The packets as they were sent.
    pub flows: FlowSet,
    /// The packets as they looked at the last hop of the way there, after address translation.
    pub arrives: FlowSet,
    /// The way, in order: there, then back.
    pub hops: Vec<Hop>,
    /// The end.
    pub outcome: Outcome,
}

/// One decision on the way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Hop {
    /// What was decided.
    pub stage: Stage,
    /// On the way there or back.
    pub leg: Leg,
    /// The id of the object at which it was decided: an interface, subnet, route table, gateway.
    pub at: String,
    /// The rule, entry or route that decided; `None` where nothing but the facts decide.
    pub source: Option<Provenance>,
}

/// The way there, or the way of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Leg {
    /// From the sender.
    Forward,
    /// Back to the sender.
    Reply,
}

/// The kinds of decisions, in the order in which a packet meets them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The sender's addresses.
    SourceCheck,
    /// A service of the VPC itself, exempt from groups and ACLs.
    Service,
    /// The sender's security groups.
    GroupEgress,
    /// The ACL of the subnet that is left.
    AclOut,
    /// The route table of the subnet that is left.
    Route,
    /// Exchange of private for public addresses, or back.
    InternetGateway,
    /// Translation to the gateway's own address, or back.
    NatGateway,
    /// A peering connection.
    Peering,
    /// The ACL of the subnet that is entered.
    AclIn,
    /// The receiver's security groups.
    GroupIngress,
    /// The receiver's addresses.
    DestinationCheck,
}

/// How an exchange passed the security groups of an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Permit {
    /// Remembered: what is open survives the removal of the rule until it times out.
    Tracked,
    /// Not remembered: what is open breaks as soon as the rule goes.
    Untracked,
    /// No groups apply here: a NAT gateway, a service of the VPC, the internet.
    NoGroups,
}

/// Where packets arrived.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Endpoint {
    /// At an interface that owns the destination address.
    Eni(EniId),
    /// On the internet, through this gateway.
    Internet(IgwId),
    /// At a service of the VPC, as `Amazon DNS`.
    Service(&'static str),
}

/// The end of a way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The packets arrive, and answers get back.
    Delivered {
        /// Where.
        to: Endpoint,
        /// How they passed the sender's groups.
        egress: Permit,
        /// How they passed the receiver's groups.
        ingress: Permit,
    },
    /// The packets, or the answers to them, are dropped.
    Dropped {
        /// Why.
        reason: DropReason,
        /// Whether the packets or the answers.
        leg: Leg,
        /// The id of the object that dropped them.
        at: String,
        /// The rule, entry or route that decided.
        source: Option<Provenance>,
    },
    /// It cannot be said.
    Unknown {
        /// What would have to be known.
        need: Need,
    },
}

/// Why packets are dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DropReason {
    /// The source address is not one of the sending interface, and its check is on.
    SourceCheck,
    /// No egress rule of the sender's groups matches.
    GroupEgress,
    /// No ingress rule of the receiver's groups matches.
    GroupIngress,
    /// The ACL of the subnet that is left denies.
    AclOut,
    /// The ACL of the subnet that is entered denies.
    AclIn,
    /// No route matches, or the destination is never routed.
    NoRoute,
    /// The route's target is gone.
    Blackhole,
    /// Nobody has the destination address.
    NoSuchAddress,
    /// The interface is attached to nothing.
    NotAttached,
    /// The destination (or source) is not in the VPC at the other (this) end of the peering:
    /// peerings lead to no third place.
    PeeringNotTransitive,
    /// The peering is not active.
    PeeringInactive,
    /// The packet was handed to an interface that does not have its destination address, and whose
    /// check is on.
    DestinationCheck,
    /// The source has no public address to be exchanged for.
    NoPublicAddress,
    /// A NAT gateway translates TCP, UDP and ICMP only.
    NatProtocol,
    /// A NAT gateway does not serve its own subnet.
    NatOwnSubnet,
    /// A NAT gateway accepts no connections.
    NatUnsolicited,
    /// A service of the VPC does not listen there.
    NotServed,
    /// The answer takes another way and does not come back to where the packet came from.
    ReplyElsewhere,
    /// The routes lead in a circle.
    Loop,
}

/// Walks packets through the VPC. For many questions about one world make a [`Network`] once.
pub fn trace(world: &World, from: &Origin, flows: &FlowSet) -> Trace {
    Network::new(world).trace(from, flows)
}

impl Network<'_> {
    /// Walks packets through the VPC.
    pub fn trace(&self, from: &Origin, flows: &FlowSet) -> Trace {
        walk::walk(self, from, flows, None)
    }

    /// Walks packets of connections that are open already: an end that tracks them lets them pass
    /// whatever its groups say now.
    pub fn trace_established(
        &self,
        from: &Origin,
        flows: &FlowSet,
        egress: Permit,
        ingress: Permit,
    ) -> Trace {
        walk::walk(self, from, flows, Some((egress, ingress)))
    }
}

impl Trace {
    /// The packets that are delivered.
    pub fn delivered(&self) -> FlowSet {
        let parts = self.parts.iter().filter(|p| p.outcome.is_delivered());
        parts.fold(FlowSet::empty(), |all, p| all.union(&p.flows))
    }

    /// The part that a packet is in.
    pub fn part_of(&self, packet: &flowset::Packet) -> Option<&Part> {
        self.parts.iter().find(|p| p.flows.contains(packet))
    }
}

impl Outcome {
    /// Whether packets arrive and answers get back.
    pub fn is_delivered(&self) -> bool {
        matches!(self, Outcome::Delivered { .. })
    }

    /// The reason why packets are dropped, and on which leg.
    pub fn dropped(&self) -> Option<(DropReason, Leg)> {
        match self {
            Outcome::Dropped { reason, leg, .. } => Some((*reason, *leg)),
            Outcome::Delivered { .. } | Outcome::Unknown { .. } => None,
        }
    }
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DropReason::SourceCheck => {
                "the source address is not one of the interface (source check)"
            }
            DropReason::GroupEgress => "no egress rule of its security groups matches",
            DropReason::GroupIngress => "no ingress rule of its security groups matches",
            DropReason::AclOut => "the network ACL of the subnet that is left denies",
            DropReason::AclIn => "the network ACL of the subnet that is entered denies",
            DropReason::NoRoute => "no route",
            DropReason::Blackhole => "the route's target is gone (blackhole)",
            DropReason::NoSuchAddress => "nobody has the destination address",
            DropReason::NotAttached => "the interface is attached to nothing",
            DropReason::PeeringNotTransitive => {
                "the peering leads to its peer only (not transitive)"
            }
            DropReason::PeeringInactive => "the peering is not active",
            DropReason::DestinationCheck => {
                "the destination address is not one of the interface (destination check)"
            }
            DropReason::NoPublicAddress => "the source has no public address",
            DropReason::NatProtocol => "NAT gateways carry TCP, UDP and ICMP only",
            DropReason::NatOwnSubnet => "a NAT gateway does not serve its own subnet",
            DropReason::NatUnsolicited => "a NAT gateway accepts no connections",
            DropReason::NotServed => "the service does not listen there",
            DropReason::ReplyElsewhere => "the answer takes another way",
            DropReason::Loop => "the routes lead in a circle",
        })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Delivered { to, .. } => write!(f, "delivered to {to}"),
            Outcome::Dropped {
                reason,
                leg,
                at,
                source,
            } => {
                let what = match leg {
                    Leg::Forward => "dropped",
                    Leg::Reply => "answer dropped",
                };
                write!(f, "{what} at {at}: {reason}")?;
                source.as_ref().map_or(Ok(()), |s| write!(f, " [{s}]"))
            }
            Outcome::Unknown { need } => write!(f, "unknown: {need}"),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Eni(id) => id.fmt(f),
            Endpoint::Internet(id) => write!(f, "the internet through {id}"),
            Endpoint::Service(name) => f.write_str(name),
        }
    }
}
