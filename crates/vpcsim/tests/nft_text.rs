//! The nft text of small worlds, as snapshots: what a change of the compiler does to it is seen in review.

#![allow(clippy::unwrap_used, reason = "in test code a panic is the report")]

mod bed;

use std::collections::BTreeSet;

use bed::topology::*;
use vpc::facts::*;
use vpcsim::fabric::plan::{Place, plan};
use vpcsim::fabric::ruleset::Ruleset;
use vpcsim::fabric::{Desired, HostId, Plug, compile};

/// Everything plugged, nothing applied.
fn rules(world: &World, place: &Place) -> Ruleset {
    let mut desired = Desired {
        world: world.clone(),
        ..Desired::default()
    };
    desired
        .hosts
        .insert(HostId("host".into()), "/nowhere".into());
    for eni in world
        .enis
        .values()
        .filter(|eni| eni.kind != EniKind::NatGateway)
    {
        let (host, link) = (
            HostId("host".into()),
            nodenet::LinkName::new("eth0").unwrap(),
        );
        let plug = Plug {
            host,
            link,
            mac: eni.mac,
            mtu: 9001,
            configure: false,
        };
        desired.plugs.insert(eni.id.clone(), plug);
    }
    let mut plan = plan(&desired, &BTreeSet::new());
    compile::rulesets(world, &mut plan).remove(place).unwrap()
}

fn router(vpc: &str) -> Place {
    Place::Router(vpc.parse().unwrap())
}

/// Tracked and untracked permits, references to groups and lists, ICMP; an ACL; two interfaces with one list of groups.
fn groups() -> Builder {
    let mut b = Builder::default();
    b.vpc("a", "10.0.0.0/16");
    let acl = vec![
        entry(10, Direction::Ingress, "tcp/22", "10.0.2.0/24", false),
        entry(100, Direction::Ingress, "all", "0.0.0.0/0", true),
        entry(100, Direction::Egress, "tcp/1024-65535", "0.0.0.0/0", true),
    ];
    b.acl("guard", "a", acl);
    b.subnet("a1", "a", "10.0.1.0/24", "guard", "a")
        .subnet("a2", "a", "10.0.2.0/24", "a", "a");
    b.prefix_list(
        "office",
        vec![
            net("192.0.2.0/25"),
            net("192.0.2.128/25"),
            net("198.51.100.7/32"),
        ],
    );
    b.group(
        "web",
        "a",
        vec![
            egress("all", "0.0.0.0/0"),
            ingress("tcp/80", "0.0.0.0/0"),
            ingress("tcp/443", "10.0.0.0/8"),
            ingress("icmp/8", "0.0.0.0/0"),
        ],
    );
    b.group(
        "db",
        "a",
        vec![
            ingress("tcp/5432", "sg-web"),
            ingress("tcp/22", "pl-office"),
        ],
    );
    b.eni("web1", "a1", "10.0.1.10", &["web"]);
    b.eni("web2", "a1", "10.0.1.11", &["web"])
        .prefixes
        .push(net("10.0.1.32/28"));
    b.eni("db", "a2", "10.0.2.10", &["db"]).source_dest_check = false;
    b
}

#[test]
fn groups_and_an_acl() {
    insta::assert_snapshot!(rules(&groups().world, &router("vpc-a")).render());
}

#[test]
fn a_member_more_is_an_element_more() {
    let before = rules(&groups().world, &router("vpc-a"));
    let mut b = groups();
    b.eni("web3", "a2", "10.0.2.11", &["web"]);
    let after = rules(&b.world, &router("vpc-a"));
    insta::assert_snapshot!(before.transaction(&after).unwrap());
}

#[test]
fn a_rule_more_is_one_chain_written_anew() {
    let before = rules(&groups().world, &router("vpc-a"));
    let mut b = groups();
    let db: SgId = "sg-db".parse().unwrap();
    b.world
        .groups
        .get_mut(&db)
        .unwrap()
        .rules
        .push(ingress("udp/53", "10.0.1.0/24"));
    let after = rules(&b.world, &router("vpc-a"));
    insta::assert_snapshot!(before.transaction(&after).unwrap());
}

#[test]
fn many_ranges_are_one_lookup() {
    let mut b = groups();
    let many = (0..9u8).map(|n| ingress("tcp/443", &format!("10.{n}.0.0/16")));
    // This one overlaps others: the kernel would refuse it in the same set.
    let overlapping = ingress("tcp/400-500", "10.0.0.0/8");
    b.group("many", "a", many.chain([overlapping]).collect());
    b.eni("many", "a2", "10.0.2.20", &["many"]);
    let rules = rules(&b.world, &router("vpc-a"));
    insta::assert_snapshot!(rules.chains["group_in_sg_many"].rules.join("\n"));
}

fn gateways() -> Builder {
    let mut b = Builder::default();
    b.vpc("a", "10.0.0.0/16").vpc("b", "10.1.0.0/16").igw("a");
    b.peering("ab", "a", "b", PeeringStatus::Active);
    b.subnet("a1", "a", "10.0.1.0/24", "a", "a")
        .subnet("b1", "b", "10.1.1.0/24", "b", "b");
    b.group("b", "b", vec![egress("all", "0.0.0.0/0")]);
    b.group("a", "a", vec![ingress("tcp/80", "sg-b")]);
    b.nat("gw", "a1", "10.0.1.5", Some("203.0.113.5"));
    b.eni("a", "a1", "10.0.1.10", &["a"]).addresses[0].public =
        Some(public_address("203.0.113.10"));
    b.eni("b", "b1", "10.1.1.10", &["b"]);
    b
}

#[test]
fn gateways_and_a_reference_over_a_peering() {
    insta::assert_snapshot!(rules(&gateways().world, &router("vpc-a")).render());
}

#[test]
fn a_nat_gateway() {
    let place = Place::Nat("nat-gw".parse().unwrap());
    insta::assert_snapshot!(rules(&gateways().world, &place).render());
}
