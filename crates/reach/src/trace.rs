//! One place, one destination: what happens to the packets, hop by hop.
//!
//! The sender's node decides by which interface they leave (`nodenet`), the VPC whether they arrive
//! and whether answers get back (`vpc`). Both are asked with the same set of packets: the sender's
//! address, every source port that Linux picks, the destination and its service.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use flowset::{FlowSet, ICMP, RangeSet, TCP, UDP};
use serde::Serialize;
use vpc::facts::{EniId, World};
use vpc::network::Network;
use vpc::path::{DropReason, Hop, Leg, Origin, Permit, Stage};

use crate::node::{Leave, NodeStep, Nodes, Tracers};
use crate::noun::Service;
use crate::resolve::Sender;
use crate::target::Target;

/// Source ports of new connections: `net.ipv4.ip_local_port_range` as Linux sets it.
pub const EPHEMERAL: (u16, u16) = (32768, 60999);

/// What happens to the packets of one place.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "result")]
pub enum Outcome {
    /// They arrive, and answers get back.
    Works {
        /// How they pass the sender's groups; `None` when they never meet any.
        egress: Option<Permit>,
        /// How they pass the receiver's groups.
        ingress: Option<Permit>,
    },
    /// They do not, or answers do not get back.
    Blocked {
        /// Why.
        reason: DropReason,
        /// Whether the packets or the answers.
        leg: Leg,
        /// The object that drops them.
        at: String,
        /// The rule that decides, if one does, as people read it.
        rule: Option<String>,
    },
    /// It depends: on the source port that the sender happens to pick, or on the endpoint that
    /// kube-proxy picks.
    Partly {
        /// What is blocked.
        blocked: String,
        /// Why.
        why: String,
    },
    /// Nobody is there to receive them: kube-proxy rejects them on the sender's node.
    NoEndpoint {
        /// Why.
        why: String,
    },
    /// It cannot be said.
    Unknown {
        /// What would have to be known.
        need: String,
    },
    /// The place cannot exist.
    Impossible {
        /// Why.
        why: String,
    },
}

impl Outcome {
    /// Whether everything works.
    pub fn works(&self) -> bool {
        matches!(self, Outcome::Works { .. })
    }

    /// Why it does not work, in words; empty when it does.
    pub fn reason(&self) -> String {
        match self {
            Outcome::Works { .. } => String::new(),
            Outcome::Blocked { reason, at, .. } => format!("{at}: {reason}"),
            Outcome::Partly { why, .. }
            | Outcome::NoEndpoint { why }
            | Outcome::Impossible { why } => why.clone(),
            Outcome::Unknown { need } => need.clone(),
        }
    }

    /// The reason why packets are dropped.
    pub fn blocked_by(&self) -> Option<DropReason> {
        match self {
            Outcome::Blocked { reason, .. } => Some(*reason),
            _ => None,
        }
    }
}

/// The way of the packets.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Path {
    /// What the node does with them first, if they come from a pod.
    pub node: Option<NodeStep>,
    /// The hops in the VPC, there and back.
    pub hops: Vec<Hop>,
}

impl Path {
    /// The hop of a stage on the way there.
    pub fn stage(&self, stage: Stage) -> Option<&Hop> {
        self.hops
            .iter()
            .find(|h| h.stage == stage && h.leg == Leg::Forward)
    }
}

/// Answers for one target, from any place of one world.
pub struct Tracer<'a> {
    network: Network<'a>,
    nodes: Tracers<'a>,
    target: &'a Target,
}

impl<'a> Tracer<'a> {
    /// Prepares a world: sets and layers are computed once for all places.
    pub fn new(world: &'a World, nodes: &'a Nodes, target: &'a Target) -> Self {
        Self {
            network: Network::new(world),
            nodes: nodes.tracers(),
            target,
        }
    }

    /// By which interface each sender's packets leave its node.
    pub fn leave(&self, sender: &Sender) -> Leave {
        self.nodes.leave(sender, &self.flows(sender.address))
    }

    /// What happens to the packets of running senders that leave their nodes as told.
    ///
    /// The senders of one interface are traced as one set of packets; only where that set falls
    /// apart is each of them traced alone.
    pub fn for_senders(&self, senders: &[Sender], leaves: &[Leave]) -> Vec<(Outcome, Path)> {
        let mut by_eni: BTreeMap<&EniId, RangeSet<u32>> = BTreeMap::new();
        for (sender, leave) in senders.iter().zip(leaves) {
            if let Some(eni) = leave.eni(sender) {
                let own = RangeSet::single(u32::from(sender.address));
                let all = by_eni.entry(eni).or_insert_with(RangeSet::empty);
                *all = all.union(&own);
            }
        }
        let shared: BTreeMap<&EniId, (Outcome, Path)> = by_eni
            .into_iter()
            .filter_map(|(eni, sources)| Some((eni, self.for_all_of(eni, &sources)?)))
            .collect();
        senders
            .iter()
            .zip(leaves)
            .map(|(sender, leave)| self.for_sender(sender, leave, &shared))
            .collect()
    }

    fn for_sender(
        &self,
        sender: &Sender,
        leave: &Leave,
        shared: &BTreeMap<&EniId, (Outcome, Path)>,
    ) -> (Outcome, Path) {
        if sender.eni.is_none() {
            let need = match &sender.node {
                None => format!("the node of {}", sender.label()),
                Some(node) => format!(
                    "which ENI owns {}: {} on {node} has it, and EC2 lists it on no ENI attached to the node (branch ENIs of security groups for pods are not modelled yet)",
                    sender.address,
                    sender.label()
                ),
            };
            return (Outcome::Unknown { need }, Path::default());
        }
        let node = match leave {
            Leave::NotAPod => None,
            Leave::By(_, step) => Some(step.clone()),
            Leave::Stays(step) => {
                let (egress, ingress) = (None, None);
                let hops = Vec::new();
                let node = Some(step.clone());
                return (Outcome::Works { egress, ingress }, Path { node, hops });
            }
            Leave::Unknown(need) => {
                return (Outcome::Unknown { need: need.clone() }, Path::default());
            }
        };
        let eni = leave.eni(sender);
        let (outcome, path) = match (eni.and_then(|eni| shared.get(eni)), eni) {
            (Some(same), _) => same.clone(),
            (None, Some(eni)) => self.for_eni(eni, Some(sender.address)),
            (None, None) => {
                let need = format!("the interface of {}", sender.label());
                return (Outcome::Unknown { need }, Path::default());
            }
        };
        let Path { hops, .. } = path;
        (outcome, Path { node, hops })
    }

    /// The fate that all these sources on one interface share, if they do.
    fn for_all_of(&self, eni: &EniId, sources: &RangeSet<u32>) -> Option<(Outcome, Path)> {
        let flows = flows_from(sources, self.target.address, self.target.service);
        let trace = self.network.trace(&Origin::Eni(eni.clone()), &flows);
        match trace.parts.as_slice() {
            [part] => Some((outcome_of(&part.outcome), path_of(part))),
            _ => None,
        }
    }

    /// What happens to packets that an interface sends.
    pub fn for_eni(&self, eni: &EniId, address: Option<Ipv4Addr>) -> (Outcome, Path) {
        let Some(address) = address else {
            let need = format!("the address of {eni}");
            return (Outcome::Unknown { need }, Path::default());
        };
        let trace = self
            .network
            .trace(&Origin::Eni(eni.clone()), &self.flows(address));
        let unknown = trace.parts.iter().find_map(|p| match &p.outcome {
            vpc::path::Outcome::Unknown { need } => Some((need.to_string(), p)),
            _ => None,
        });
        if let Some((need, part)) = unknown {
            return (Outcome::Unknown { need }, path_of(part));
        }
        let dropped = trace.parts.iter().find(|p| !p.outcome.is_delivered());
        let delivered = trace.parts.iter().find(|p| p.outcome.is_delivered());
        match (delivered, dropped) {
            (Some(part), None) => (outcome_of(&part.outcome), path_of(part)),
            (None, Some(part)) => (outcome_of(&part.outcome), path_of(part)),
            (Some(_), Some(part)) => {
                let outcome = Outcome::Partly {
                    blocked: part.flows.to_string(),
                    why: part.outcome.to_string(),
                };
                (outcome, path_of(part))
            }
            (None, None) => {
                let need = format!("what {eni} does with its packets: the trace is empty");
                (Outcome::Unknown { need }, Path::default())
            }
        }
    }

    fn flows(&self, source: Ipv4Addr) -> FlowSet {
        flows(source, self.target.address, self.target.service)
    }
}

/// The packets that open an exchange: every source port that Linux picks.
pub fn flows(source: Ipv4Addr, destination: Ipv4Addr, service: Service) -> FlowSet {
    flows_from(&RangeSet::single(source.into()), destination, service)
}

fn flows_from(sources: &RangeSet<u32>, destination: Ipv4Addr, service: Service) -> FlowSet {
    let between = FlowSet::full()
        .from_sources(sources)
        .to_destinations(&RangeSet::single(destination.into()));
    let ports = |protocol: u8, port: u16| {
        between
            .of_protocols(&RangeSet::single(protocol))
            .to_ports(&RangeSet::single(port))
            .from_ports(&RangeSet::range(EPHEMERAL.0, EPHEMERAL.1))
    };
    match service {
        Service::Tcp(port) => ports(TCP, port),
        Service::Udp(port) => ports(UDP, port),
        Service::Icmp => between
            .of_protocols(&RangeSet::single(ICMP))
            .of_icmp(Some(8), Some(0)),
    }
}

fn path_of(part: &vpc::path::Part) -> Path {
    Path {
        node: None,
        hops: part.hops.clone(),
    }
}

fn outcome_of(outcome: &vpc::path::Outcome) -> Outcome {
    match outcome {
        vpc::path::Outcome::Delivered {
            egress, ingress, ..
        } => Outcome::Works {
            egress: Some(*egress),
            ingress: Some(*ingress),
        },
        vpc::path::Outcome::Dropped {
            reason,
            leg,
            at,
            source,
        } => Outcome::Blocked {
            reason: *reason,
            leg: *leg,
            at: at.clone(),
            rule: source.as_ref().map(ToString::to_string),
        },
        vpc::path::Outcome::Unknown { need } => Outcome::Unknown {
            need: need.to_string(),
        },
    }
}
