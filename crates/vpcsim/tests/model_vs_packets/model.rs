//! Questions with the model's answers, and how packets answer them.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use flowset::Packet;
use vpc::facts::*;
use vpc::{DropReason, Leg, Network, Origin, Outcome, Permit, Stage};

use crate::bed::Bed;
use crate::bed::probe::{PATIENCE, Probe, Seen};
use crate::bed::random::{self, Rng};

/// Cases of one world.
pub const PER_WORLD: usize = 60;

/// What decided a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Decision {
    GroupEgress,
    GroupIngress,
    AclOut,
    AclIn,
    NoRoute,
    Blackhole,
    SourceCheck,
    PeeringNotTransitive,
    PrefixList,
    IcmpType,
    IcmpCode,
    Untracked,
    Other,
}

/// One question with the model's answer.
#[derive(Clone)]
pub struct Case {
    pub eni: EniId,
    pub probe: Probe,
    pub expected: Seen,
    pub decision: Decision,
    pub why: String,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let spoofed = if self.probe.spoofed { " (spoofed)" } else { "" };
        write!(
            f,
            "{} {}{spoofed}: {}",
            self.eni, self.probe.packet, self.why
        )
    }
}

/// What should be seen of a probe; `None` when the model does not know.
pub fn predict(network: &Network<'_>, eni: &EniId, probe: &Probe) -> Option<(Seen, Outcome)> {
    let trace = network.trace(&Origin::Eni(eni.clone()), &probe.packet.into());
    let outcome = trace.part_of(&probe.packet)?.outcome.clone();
    let udp = probe.packet.protocol() == flowset::UDP;
    let seen = match &outcome {
        Outcome::Delivered { .. } => Seen {
            arrived: udp,
            answered: !probe.spoofed,
        },
        Outcome::Dropped {
            leg: Leg::Forward, ..
        } => Seen::default(),
        Outcome::Dropped {
            leg: Leg::Reply, ..
        } => Seen {
            arrived: udp,
            answered: false,
        },
        Outcome::Unknown { .. } => return None,
    };
    Some((seen, outcome))
}

pub fn decision(network: &Network<'_>, eni: &EniId, probe: &Probe, outcome: &Outcome) -> Decision {
    if let Some((kind, code)) = probe.packet.icmp_type_code() {
        let differs = |kind, code| {
            let packet = Packet::icmp(probe.packet.src(), probe.packet.dst(), kind, code);
            let twin = predict(network, eni, &Probe { packet, ..*probe });
            twin.is_some_and(|(seen, _)| seen.answered != outcome.is_delivered())
        };
        if differs(kind, 1 - code) {
            return Decision::IcmpCode;
        }
        if differs(if kind == 8 { 13 } else { 8 }, code) {
            return Decision::IcmpType;
        }
    }
    match outcome {
        Outcome::Dropped { reason, .. } => match reason {
            DropReason::GroupEgress => Decision::GroupEgress,
            DropReason::GroupIngress => Decision::GroupIngress,
            DropReason::AclOut => Decision::AclOut,
            DropReason::AclIn => Decision::AclIn,
            DropReason::NoRoute => Decision::NoRoute,
            DropReason::Blackhole => Decision::Blackhole,
            DropReason::SourceCheck => Decision::SourceCheck,
            DropReason::PeeringNotTransitive => Decision::PeeringNotTransitive,
            _ => Decision::Other,
        },
        Outcome::Delivered {
            egress, ingress, ..
        } => {
            let trace = network.trace(&Origin::Eni(eni.clone()), &probe.packet.into());
            let hops = trace
                .part_of(&probe.packet)
                .map(|part| part.hops.as_slice());
            let listed = hops.unwrap_or_default().iter().any(|hop| {
                matches!(hop.stage, Stage::GroupEgress | Stage::GroupIngress)
                    && hop
                        .source
                        .as_ref()
                        .and_then(|s| s.peer.as_ref())
                        .is_some_and(|p| p.starts_with("pl-"))
            });
            match (
                listed,
                *egress == Permit::Untracked || *ingress == Permit::Untracked,
            ) {
                (true, _) => Decision::PrefixList,
                (_, true) => Decision::Untracked,
                _ => Decision::Other,
            }
        }
        Outcome::Unknown { .. } => Decision::Other,
    }
}

/// Chooses questions so that every kind of decision gets its share: many candidates, taken in turn.
pub fn cases(rng: &mut Rng, world: &World) -> Vec<Case> {
    let network = Network::new(world);
    let mut by_kind: BTreeMap<(Decision, bool), Vec<Case>> = BTreeMap::new();
    for number in 0..1500 {
        let (eni, probe) = random::probe(rng, world, number);
        let Some((expected, outcome)) = predict(&network, &eni, &probe) else {
            continue;
        };
        let decision = decision(&network, &eni, &probe, &outcome);
        let kind = by_kind
            .entry((decision, outcome.is_delivered()))
            .or_default();
        kind.push(Case {
            eni,
            probe,
            expected,
            decision,
            why: outcome.to_string(),
        });
    }
    let mut chosen = Vec::new();
    while chosen.len() < PER_WORLD && by_kind.values().any(|kind| !kind.is_empty()) {
        for ((_, delivered), kind) in &mut by_kind {
            // Most kinds are denials: take as many that pass.
            let share = if *delivered { 3 } else { 1 };
            for _ in 0..share {
                chosen.extend(kind.pop());
            }
        }
    }
    chosen.truncate(PER_WORLD);
    chosen
}

fn ask(bed: &Bed, cases: &[Case], within: Duration) -> Vec<Seen> {
    let probes: Vec<_> = cases
        .iter()
        .map(|case| (case.eni.clone(), case.probe))
        .collect();
    bed.ask(&probes, within)
}

/// Cases where packets say something else than the model. A denial that was expected to pass is asked again and waited
/// for longer, if there must be none: a busy machine can make an answer late, but nothing makes a denied packet arrive.
pub fn disagreements(bed: &Bed, cases: &[Case], again_within: Duration) -> Vec<(Case, Seen)> {
    let compare = |cases: &[Case], seen: Vec<Seen>| -> Vec<(Case, Seen)> {
        let pairs = cases.iter().cloned().zip(seen);
        pairs
            .filter(|(case, seen)| case.expected != *seen)
            .collect()
    };
    let first = compare(cases, ask(bed, cases, PATIENCE));
    if first.is_empty() {
        return first;
    }
    let again: Vec<Case> = first
        .into_iter()
        .map(|(mut case, _)| {
            case.probe.packet = from_other_port(&case.probe.packet, 1);
            case
        })
        .collect();
    compare(&again, ask(bed, &again, again_within))
}

/// The same packet from another ephemeral port, so that no state of an earlier attempt is met.
pub fn from_other_port(packet: &Packet, attempt: u16) -> Packet {
    match (packet.src_port(), packet.dst_port()) {
        (Some(from), Some(to)) => {
            let from = 20000 + (from - 20000 + attempt * 1500) % 40000;
            Packet::new(packet.src(), packet.dst(), packet.protocol(), from, to)
        }
        _ => *packet,
    }
}
