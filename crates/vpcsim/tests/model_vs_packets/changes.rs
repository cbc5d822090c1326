//! What happens to open connections when rules change: the model's word and the packets', flow by flow.

use flowset::Packet;
use layers::mutants as model_mutants;
use vpc::facts::*;
use vpc::{Network, Origin, Outcome, Permit};
use vpcsim::fabric::mutants as fabric_mutants;

use crate::bed::probe::{FAITH, Flow, PATIENCE, Probe};
use crate::bed::topology::*;
use crate::bed::{Bed, can_run};
use crate::model::predict;

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
pub fn compare(
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
    // A mutant is to be met with a flow that ends unexpectedly.
    let sound = in_fabric.is_none() && in_model.is_none();
    let faith = if sound { FAITH } else { PATIENCE };
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
            let goes_on = outcome.is_delivered();
            let within = if goes_on { faith } else { PATIENCE };
            (open.packet, goes_on, open.flow.lives(within))
        })
        .collect()
}

pub fn bed() -> Bed {
    Bed::new(before().world)
}

pub fn revoke(world: &mut World) {
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
