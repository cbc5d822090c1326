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
use layers::mutants as model_mutants;
use vpc::facts::*;
use vpc::{DropReason, Leg, Network, Origin, Outcome, Permit, Stage};
use vpcsim::fabric::{Fabric, mutants as fabric_mutants};

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
    IcmpCode,
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
            case.probe.packet = from_other_port(&case.probe.packet, 1);
            case
        })
        .collect();
    compare(&again, ask(bed, &again))
}

/// The same packet from another ephemeral port, so that no state of an earlier attempt is met.
fn from_other_port(packet: &Packet, attempt: u16) -> Packet {
    match (packet.src_port(), packet.dst_port()) {
        (Some(from), Some(to)) => {
            let from = 20000 + (from - 20000 + attempt * 1500) % 40000;
            Packet::new(packet.src(), packet.dst(), packet.protocol(), from, to)
        }
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

/// What happens to open connections when rules change: the model's word and the packets', flow by flow.
mod changes {
    use super::*;
    use bed::probe::Flow;
    use bed::topology::*;

    /// One open flow: from where, the first packet, and which change is about it.
    struct Open {
        eni: EniId,
        packet: Packet,
        permits: (Permit, Permit),
        flow: Flow,
    }

    /// `web` permits port 80 to everybody and lets everything out: untracked. Port 443 is permitted to a range:
    /// tracked.
    fn before() -> Builder {
        let mut b = Builder::default();
        b.vpc("a", "10.0.0.0/16");
        b.acl("strict", "a", allow_all());
        b.subnet("a1", "a", "10.0.1.0/24", "a", "a");
        b.subnet("a2", "a", "10.0.2.0/24", "strict", "a");
        b.group(
            "client",
            "a",
            vec![egress("all", "0.0.0.0/0"), ingress("all", "0.0.0.0/0")],
        );
        b.group("web", "a", web(true));
        b.group(
            "other",
            "a",
            vec![
                ingress("tcp/22", "10.0.0.0/8"),
                ingress("udp/22", "10.0.0.0/8"),
            ],
        );
        b.eni("client", "a1", "10.0.1.10", &["client"]);
        b.eni("web", "a2", "10.0.2.10", &["web"]);
        b.eni("other", "a1", "10.0.1.20", &["other"]);
        b
    }

    fn web(permits: bool) -> Vec<GroupRule> {
        let mut rules = vec![egress("all", "0.0.0.0/0")];
        if permits {
            rules.extend([
                ingress("tcp/80", "0.0.0.0/0"),
                ingress("udp/80", "0.0.0.0/0"),
            ]);
            rules.extend([
                ingress("tcp/443", "10.0.0.0/8"),
                ingress("udp/443", "10.0.0.0/8"),
            ]);
        }
        rules
    }

    fn open(bed: &Bed) -> Vec<Open> {
        let network = Network::new(&bed.desired.world);
        let from: EniId = "eni-client".parse().unwrap();
        let address = |text: &str| text.parse().unwrap();
        let targets = [("10.0.2.10", 80), ("10.0.2.10", 443), ("10.0.1.20", 22)];
        let packets = targets.into_iter().flat_map(|(to, port)| {
            let from = address("10.0.1.10");
            [
                Packet::tcp(from, 41000 + port, address(to), port),
                Packet::udp(from, 42000 + port, address(to), port),
            ]
        });
        packets
            .map(|packet| {
                let probe = Probe {
                    packet,
                    spoofed: false,
                };
                let Some((
                    _,
                    Outcome::Delivered {
                        egress, ingress, ..
                    },
                )) = predict(&network, &from, &probe)
                else {
                    panic!("{packet} is to be delivered");
                };
                let flow = Flow::open(bed.host("eni-client"), &packet);
                Open {
                    eni: from.clone(),
                    packet,
                    permits: (egress, ingress),
                    flow,
                }
            })
            .collect()
    }

    /// Applies a change and compares, flow by flow: `(packet, model says it lives, it lives)`. A mutant is planted
    /// in one of the two only.
    pub(super) fn compare(
        bed: &mut Bed,
        change: impl FnOnce(&mut World),
        in_fabric: Option<fabric_mutants::Mutant>,
        in_model: Option<model_mutants::Mutant>,
    ) -> Vec<(Packet, bool, bool)> {
        let apply = |bed: &mut Bed| {
            let _planted = in_fabric.map(fabric_mutants::plant);
            bed.apply();
        };
        apply(bed);
        let mut flows = {
            let _planted = in_model.map(model_mutants::plant);
            open(bed)
        };
        change(&mut bed.desired.world);
        apply(bed);
        let _planted = in_model.map(model_mutants::plant);
        let network = Network::new(&bed.desired.world);
        flows
            .iter_mut()
            .map(|open| {
                let (egress, ingress) = open.permits;
                let origin = Origin::Eni(open.eni.clone());
                let flows = open.packet.into();
                let trace = network.trace_established(&origin, &flows, egress, ingress);
                let outcome = &trace.part_of(&open.packet).unwrap().outcome;
                (open.packet, outcome.is_delivered(), open.flow.lives())
            })
            .collect()
    }

    pub(super) fn bed() -> Bed {
        Bed::new(before().world)
    }

    pub(super) fn revoke(world: &mut World) {
        let web: SgId = "sg-web".parse().unwrap();
        world.groups.get_mut(&web).unwrap().rules = web_revoked();
    }

    fn web_revoked() -> Vec<GroupRule> {
        web(false)
    }

    fn deny(world: &mut World) {
        let acl: AclId = "acl-strict".parse().unwrap();
        let deny = entry(10, Direction::Ingress, "all", "10.0.1.0/24", false);
        world.acls.get_mut(&acl).unwrap().entries.push(deny);
    }

    /// Port, protocol and whether the flow lives.
    fn lives(compared: &[(Packet, bool, bool)]) -> Vec<(u16, u8, bool)> {
        for (packet, model, packets) in compared {
            assert_eq!(model, packets, "{packet}: the model says {model}");
        }
        compared
            .iter()
            .map(|(p, _, lives)| (p.dst_port().unwrap(), p.protocol(), *lives))
            .collect()
    }

    #[test]
    fn a_tracked_flow_survives_a_revoke_and_an_untracked_one_dies() {
        if !can_run() {
            return;
        }
        let mut bed = bed();
        let seen = lives(&compare(&mut bed, revoke, None, None));
        let (tcp, udp) = (flowset::TCP, flowset::UDP);
        let expected = [
            (80, tcp, false),
            (80, udp, false),
            (443, tcp, true),
            (443, udp, true),
            (22, tcp, true),
            (22, udp, true),
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn a_denying_acl_kills_both_and_touches_nobody_else() {
        if !can_run() {
            return;
        }
        let mut bed = bed();
        let seen = lives(&compare(&mut bed, deny, None, None));
        assert!(
            seen.iter().all(|(port, _, lives)| *lives == (*port == 22)),
            "{seen:?}"
        );
    }
}

/// Worlds for the mutants: the same every time, so that a mutant that is caught stays caught.
fn mutant_worlds() -> Vec<(World, Vec<Case>)> {
    let random = [11, 12, 13, 14].into_iter().map(|seed| {
        let mut rng = Rng(seed);
        let world = random::world(&mut rng);
        let cases = cases(&mut rng, &world);
        (world, cases)
    });
    random.chain([corners()]).collect()
}

/// What random worlds rarely show: a group of a VPC whose peering is gone, with a host that pretends to be one of its
/// members; a blackhole inside a route that works; a rule for one ICMP code.
fn corners() -> (World, Vec<Case>) {
    use bed::topology::*;
    let mut b = Builder::default();
    b.vpc("a", "10.0.0.0/16")
        .vpc("b", "10.1.0.0/16")
        .vpc("c", "10.2.0.0/16");
    b.peering("ac", "a", "c", PeeringStatus::Deleted);
    b.peering("ab", "a", "b", PeeringStatus::Active);
    b.subnet("a1", "a", "10.0.1.0/24", "a", "a")
        .subnet("c1", "c", "10.2.1.0/24", "c", "c");
    b.subnet("b1", "b", "10.1.1.0/24", "b", "b");
    b.route("a", "10.1.0.0/16", through("pcx-ab"), RouteState::Active);
    b.route(
        "a",
        "10.1.1.0/24",
        through("pcx-gone"),
        RouteState::Blackhole,
    );
    b.route("b", "10.0.0.0/16", through("pcx-ab"), RouteState::Active);
    let ping = Protocol::Icmp {
        kind: Some(8),
        code: Some(0),
    };
    let ping = rule(Direction::Ingress, ping, peer("0.0.0.0/0"));
    b.group(
        "liar",
        "a",
        vec![egress("all", "0.0.0.0/0"), ingress("all", "0.0.0.0/0")],
    );
    b.group(
        "victim",
        "a",
        vec![
            ingress("udp/80", "sg-member"),
            ping,
            egress("all", "0.0.0.0/0"),
        ],
    );
    b.group("member", "c", vec![]);
    b.group(
        "open",
        "b",
        vec![egress("all", "0.0.0.0/0"), ingress("all", "0.0.0.0/0")],
    );
    b.eni("liar", "a1", "10.0.1.10", &["liar"])
        .source_dest_check = false;
    b.eni("victim", "a1", "10.0.1.20", &["victim"]);
    b.eni("far", "b1", "10.1.1.10", &["open"]);
    b.eni("member", "c1", "10.2.1.10", &["member"]);
    let address = |text: &str| text.parse().unwrap();
    let (liar, victim) = (address("10.0.1.10"), address("10.0.1.20"));
    let network = Network::new(&b.world);
    let case = |packet, spoofed| {
        let (eni, probe) = ("eni-liar".parse().unwrap(), Probe { packet, spoofed });
        let (expected, outcome) = predict(&network, &eni, &probe).unwrap();
        let decision = decision(&network, &eni, &probe, &outcome);
        Case {
            eni,
            probe,
            expected,
            decision,
            why: outcome.to_string(),
        }
    };
    let cases = vec![
        case(Packet::udp(address("10.2.1.10"), 40000, victim, 80), true),
        case(Packet::udp(liar, 40001, address("10.1.1.10"), 80), false),
        case(Packet::icmp(liar, victim, 8, 0), false),
        case(Packet::icmp(liar, victim, 8, 1), false),
    ];
    (b.world, cases)
}

#[test]
fn every_planted_fault_of_the_packet_plane_is_caught() {
    if !can_run() {
        return;
    }
    use fabric_mutants::{Mutant, plant};
    let mut missed: Vec<Mutant> = Mutant::ALL.to_vec();
    for (world, cases) in mutant_worlds() {
        let mut bed = Bed::new(world.clone());
        let mut attempt = 0;
        missed.retain(|mutant| {
            attempt += 2;
            // Everybody was in other groups before: also a fault that shows in a change only is met.
            bed.desired.world = with_groups_moved(&world);
            bed.apply();
            bed.desired.world = world.clone();
            let planted = plant(*mutant);
            bed.apply();
            drop(planted);
            let caught = !disagreements(&bed, &from_other_ports(&cases, attempt)).is_empty();
            // A fabric that knows nothing reads the kernel and puts right also what a change would not touch.
            bed.fabric = Fabric::new(bed.dir.path()).unwrap();
            bed.apply();
            !caught
        });
    }
    // Whether a permit is tracked shows only when it is revoked.
    missed.retain(|mutant| {
        let compared = changes::compare(&mut changes::bed(), changes::revoke, Some(*mutant), None);
        compared.iter().all(|(_, model, packets)| model == packets)
    });
    assert!(missed.is_empty(), "not caught: {missed:?}");
}

fn with_groups_moved(world: &World) -> World {
    let mut other = world.clone();
    let groups: Vec<_> = world
        .enis
        .values()
        .map(|eni| (eni.vpc.clone(), eni.groups.clone()))
        .collect();
    for (at, eni) in other.enis.values_mut().enumerate() {
        let next = groups
            .iter()
            .cycle()
            .skip(at + 1)
            .find(|(vpc, _)| *vpc == eni.vpc);
        eni.groups = next.map(|(_, groups)| groups.clone()).unwrap();
    }
    other
}

fn from_other_ports(cases: &[Case], attempt: u16) -> Vec<Case> {
    let mut cases = cases.to_vec();
    for case in &mut cases {
        case.probe.packet = from_other_port(&case.probe.packet, attempt);
    }
    cases
}

#[test]
fn every_planted_fault_of_the_evaluator_is_caught() {
    if !can_run() {
        return;
    }
    use model_mutants::{Mutant, plant};
    let mut missed: Vec<Mutant> = Mutant::ALL.to_vec();
    for (world, cases) in mutant_worlds() {
        let bed = Bed::new(world.clone());
        // What is compared with the mutants is what was seen; and that is what the sound model says.
        let wrong = disagreements(&bed, &cases);
        assert!(wrong.is_empty(), "{}", wrong[0].0);
        missed.retain(|mutant| {
            let _planted = plant(*mutant);
            let network = Network::new(&world);
            cases.iter().all(|case| {
                let mutated = predict(&network, &case.eni, &case.probe);
                mutated.is_none_or(|(says, _)| says == case.expected)
            })
        });
    }
    missed.retain(|mutant| {
        let compared = changes::compare(&mut changes::bed(), changes::revoke, None, Some(*mutant));
        compared.iter().all(|(_, model, packets)| model == packets)
    });
    assert!(missed.is_empty(), "not caught: {missed:?}");
}
