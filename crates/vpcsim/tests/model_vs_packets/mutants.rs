//! A comparison that never failed proves nothing: planted faults of either side must show.

use flowset::Packet;
use vpc::Network;
use vpc::facts::*;
use vpcsim::fabric::Fabric;

use crate::bed::probe::{FAITH, PATIENCE, Probe};
use crate::bed::random::{self, Rng};
use crate::bed::topology::*;
use crate::bed::{Bed, can_run};
use crate::changes;
use crate::model::{Case, cases, decision, disagreements, from_other_port, predict};

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
/// members, and one whose pretence the source check sees; a group of a peer; a blackhole inside a route that works; a rule for one ICMP code.
fn corners() -> (World, Vec<Case>) {
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
    let from_peer = ingress("udp/5432", "sg-open");
    b.world
        .groups
        .get_mut(&"sg-victim".parse().unwrap())
        .unwrap()
        .rules
        .push(from_peer);
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
    b.subnet("b2", "b", "10.1.2.0/24", "b", "b")
        .eni("peer", "b2", "10.1.2.10", &["open"]);
    b.eni("member", "c1", "10.2.1.10", &["member"]);
    // Behind the peer, with every route that a careless network would need.
    b.vpc("d", "10.3.0.0/16")
        .peering("bd", "b", "d", PeeringStatus::Active);
    b.subnet("d1", "d", "10.3.1.0/24", "d", "d");
    b.route("a", "10.3.0.0/16", through("pcx-ab"), RouteState::Active);
    b.route("b", "10.3.0.0/16", through("pcx-bd"), RouteState::Active);
    b.route("d", "10.0.0.0/16", through("pcx-bd"), RouteState::Active);
    b.group(
        "behind",
        "d",
        vec![egress("all", "0.0.0.0/0"), ingress("all", "0.0.0.0/0")],
    );
    b.eni("behind", "d1", "10.3.1.10", &["behind"]);
    let address = |text: &str| text.parse().unwrap();
    let (liar, victim) = (address("10.0.1.10"), address("10.0.1.20"));
    let network = Network::new(&b.world);
    let case = |eni: &str, packet, spoofed| {
        let (eni, probe) = (eni.parse().unwrap(), Probe { packet, spoofed });
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
    let (pretended, far, peer) = (
        address("10.2.1.10"),
        address("10.1.1.10"),
        address("10.1.2.10"),
    );
    let nobody = address("10.1.2.99");
    let cases = vec![
        case("eni-liar", Packet::udp(pretended, 40000, victim, 80), true),
        case("eni-liar", Packet::udp(liar, 40001, far, 80), false),
        case("eni-liar", Packet::icmp(liar, victim, 8, 0), false),
        case("eni-liar", Packet::icmp(liar, victim, 8, 1), false),
        case("eni-peer", Packet::udp(peer, 40002, victim, 5432), false),
        case(
            "eni-liar",
            Packet::udp(liar, 40004, address("10.3.1.10"), 80),
            false,
        ),
        case("eni-peer", Packet::udp(nobody, 40003, liar, 80), true),
    ];
    (b.world, cases)
}

#[test]
fn every_planted_fault_of_the_packet_plane_is_caught() {
    if !can_run() {
        return;
    }
    use vpcsim::fabric::mutants::{Mutant, plant};
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
            let caught =
                !disagreements(&bed, &from_other_ports(&cases, attempt), PATIENCE).is_empty();
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
    use layers::mutants::{Mutant, plant};
    let mut missed: Vec<Mutant> = Mutant::ALL.to_vec();
    for (world, cases) in mutant_worlds() {
        let bed = Bed::new(world.clone());
        // What is compared with the mutants is what was seen; and that is what the sound model says.
        let wrong = disagreements(&bed, &cases, FAITH);
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
