//! The model's predictions against real packets, in random worlds.
//!
//! `SEED` repeats a run, `CASES` asks for more of it. Every decision that the model knows must have decided at
//! least [`PER_HOP`] cases, and a planted fault in the model or in the packet plane must show as a disagreement.

mod bed;

use std::collections::BTreeMap;
use std::fmt;

use bed::probe::{Probe, Seen};
use bed::random::{self, Rng};
use bed::{Bed, can_run};
use flowset::{ICMP, Packet};
use vpc::facts::*;
use vpc::{DropReason, Leg, Network, Origin, Outcome, Permit, Stage};
use vpcsim::fabric::mutants as fabric_mutants;

/// Cases per run unless `CASES` says otherwise.
const CASES: usize = 240;
/// Cases of one world.
const PER_WORLD: usize = 60;
/// How many cases each kind of decision must have decided.
const PER_HOP: usize = 5;

/// What decided a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Decision {
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
    Untracked,
    Other,
}

const MUST_DECIDE: [Decision; 11] = [
    Decision::GroupEgress,
    Decision::GroupIngress,
    Decision::AclOut,
    Decision::AclIn,
    Decision::NoRoute,
    Decision::Blackhole,
    Decision::SourceCheck,
    Decision::PeeringNotTransitive,
    Decision::PrefixList,
    Decision::IcmpType,
    Decision::Untracked,
];

/// One question with the model's answer.
#[derive(Clone)]
struct Case {
    eni: EniId,
    probe: Probe,
    expected: Seen,
    decision: Decision,
    why: String,
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
fn predict(network: &Network<'_>, eni: &EniId, probe: &Probe) -> Option<(Seen, Outcome)> {
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

fn decision(network: &Network<'_>, eni: &EniId, probe: &Probe, outcome: &Outcome) -> Decision {
    if let Some((kind, code)) = probe.packet.icmp_type_code() {
        let other = if kind == 8 { 13 } else { 8 };
        let packet = Packet::icmp(probe.packet.src(), probe.packet.dst(), other, code);
        let twin = predict(network, eni, &Probe { packet, ..*probe });
        if twin.is_some_and(|(seen, _)| seen.answered != outcome.is_delivered()) {
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
fn cases(rng: &mut Rng, world: &World) -> Vec<Case> {
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

fn ask(bed: &Bed, cases: &[Case]) -> Vec<Seen> {
    let probes: Vec<_> = cases
        .iter()
        .map(|case| (case.eni.clone(), case.probe))
        .collect();
    bed.ask(&probes)
}

/// Cases where packets say something else than the model. A denial that was expected to pass is asked again: a busy
/// machine can make an answer late, but nothing makes a denied packet arrive.
fn disagreements(bed: &Bed, cases: &[Case]) -> Vec<(Case, Seen)> {
    let compare = |cases: &[Case], seen: Vec<Seen>| -> Vec<(Case, Seen)> {
        let pairs = cases.iter().cloned().zip(seen);
        pairs
            .filter(|(case, seen)| case.expected != *seen)
            .collect()
    };
    let first = compare(cases, ask(bed, cases));
    if first.is_empty() {
        return first;
    }
    let again: Vec<Case> = first
        .into_iter()
        .map(|(mut case, _)| {
            case.probe.packet = with_source_port(&case.probe.packet, 20000);
            case
        })
        .collect();
    compare(&again, ask(bed, &again))
}

/// The same packet from another ephemeral port, so that no state of the first attempt is met.
fn with_source_port(packet: &Packet, less: u16) -> Packet {
    match (packet.src_port(), packet.dst_port()) {
        (Some(from), Some(to)) => Packet::new(
            packet.src(),
            packet.dst(),
            packet.protocol(),
            from - less,
            to,
        ),
        _ => *packet,
    }
}

fn seed() -> u64 {
    match std::env::var("SEED") {
        Ok(text) => text.parse().expect("SEED is a number"),
        Err(_) => u64::from(std::process::id()) ^ 0x5eed_0000,
    }
}

#[test]
fn the_model_and_the_packets_agree() {
    if !can_run() {
        return;
    }
    let seed = seed();
    let wanted = std::env::var("CASES").map_or(CASES, |text| text.parse().expect("a number"));
    println!("SEED={seed} CASES={wanted}");
    let mut rng = Rng(seed);
    let mut decided: BTreeMap<Decision, usize> = BTreeMap::new();
    let (mut total, mut allowed) = (0, 0);
    let short = |decided: &BTreeMap<Decision, usize>| {
        MUST_DECIDE
            .iter()
            .any(|d| decided.get(d).copied().unwrap_or(0) < PER_HOP)
    };
    let mut worlds = 0;
    while total < wanted || (short(&decided) && worlds < 4 + wanted / PER_WORLD) {
        let world = random::world(&mut rng);
        let cases = cases(&mut rng, &world);
        let bed = Bed::new(world);
        let wrong = disagreements(&bed, &cases);
        for (case, seen) in &wrong {
            println!(
                "SEED={seed} world {worlds}: {case}\n    expected {:?}, seen {seen:?}",
                case.expected
            );
        }
        assert!(
            wrong.is_empty(),
            "{} of {} cases disagree (SEED={seed})",
            wrong.len(),
            cases.len()
        );
        for case in &cases {
            *decided.entry(case.decision).or_default() += 1;
            allowed += usize::from(case.expected.answered);
        }
        total += cases.len();
        worlds += 1;
    }
    println!("{total} cases in {worlds} worlds, {allowed} allowed; decided by {decided:?}");
    assert!(allowed * 10 >= total * 3, "{allowed} of {total} allowed");
    assert!(
        (total - allowed) * 10 >= total * 3,
        "{} of {total} denied",
        total - allowed
    );
    for hop in MUST_DECIDE {
        let count = decided.get(&hop).copied().unwrap_or(0);
        assert!(
            count >= PER_HOP,
            "{hop:?} decided {count} cases only (SEED={seed})"
        );
    }
}
