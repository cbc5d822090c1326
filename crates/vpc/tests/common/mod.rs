//! A small world to ask questions of, and answers in one line each.
//!
//! ```text
//! vpc-a 10.0.0.0/16    subnet-a1 10.0.1.0/24  eni-a1 .11 (.12 secondary, 10.0.1.32/28)  groups sg-a
//!                                             eni-a1b .13                              groups sg-a
//!                      subnet-a2 10.0.2.0/24  eni-a2 .11                               groups sg-b
//!                      subnet-ap 10.0.9.0/24  nat-a (eni-nat .5, 203.0.113.5), eni-ap .11 (203.0.113.11)
//! vpc-b 10.1.0.0/16    subnet-b1 10.1.1.0/24  eni-b1 .11                               groups sg-pb
//! vpc-c 10.2.0.0/16    subnet-c1 10.2.1.0/24  eni-c1 .11                               groups sg-pc
//! pcx-ab, pcx-bc active; igw-a in vpc-a; a1, a2 -> nat-a, ap -> igw-a
//! ```

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(dead_code, reason = "each test binary uses its part of this module")]

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use flowset::Packet;
use vpc::facts::*;
use vpc::{DropReason, Endpoint, Leg, Network, Origin, Outcome, Permit};

pub(crate) fn id<T: std::str::FromStr>(text: &str) -> T
where
    T::Err: std::fmt::Debug,
{
    text.parse().unwrap()
}

/// The world above: all groups open to everything inside, all ACLs open.
pub(crate) fn world() -> World {
    let mut w = World {
        account: "111122223333".into(),
        region: "us-west-2".into(),
        ..World::default()
    };
    for (vpc, cidr) in [
        ("vpc-a", "10.0.0.0/16"),
        ("vpc-b", "10.1.0.0/16"),
        ("vpc-c", "10.2.0.0/16"),
    ] {
        add_vpc(&mut w, vpc, cidr);
    }
    for (subnet, vpc, cidr) in [
        ("subnet-a1", "vpc-a", "10.0.1.0/24"),
        ("subnet-a2", "vpc-a", "10.0.2.0/24"),
        ("subnet-ap", "vpc-a", "10.0.9.0/24"),
        ("subnet-b1", "vpc-b", "10.1.1.0/24"),
        ("subnet-c1", "vpc-c", "10.2.1.0/24"),
    ] {
        add_subnet(&mut w, subnet, vpc, cidr);
    }
    for (group, vpc) in [
        ("sg-a", "vpc-a"),
        ("sg-b", "vpc-a"),
        ("sg-pb", "vpc-b"),
        ("sg-pc", "vpc-c"),
    ] {
        add_group(
            &mut w,
            group,
            vpc,
            &["ingress all from 10.0.0.0/8", "egress all to 0.0.0.0/0"],
        );
    }
    add_eni(
        &mut w,
        "eni-a1",
        "subnet-a1",
        &["10.0.1.11", "10.0.1.12"],
        &["sg-a"],
    );
    eni(&mut w, "eni-a1").prefixes.push(id("10.0.1.32/28"));
    add_eni(&mut w, "eni-a1b", "subnet-a1", &["10.0.1.13"], &["sg-a"]);
    add_eni(&mut w, "eni-a2", "subnet-a2", &["10.0.2.11"], &["sg-b"]);
    add_eni(&mut w, "eni-ap", "subnet-ap", &["10.0.9.11"], &["sg-a"]);
    add_eni(&mut w, "eni-nat", "subnet-ap", &["10.0.9.5"], &[]);
    add_eni(&mut w, "eni-b1", "subnet-b1", &["10.1.1.11"], &["sg-pb"]);
    add_eni(&mut w, "eni-c1", "subnet-c1", &["10.2.1.11"], &["sg-pc"]);
    eni(&mut w, "eni-nat").kind = EniKind::NatGateway;
    eni(&mut w, "eni-nat").source_dest_check = false;
    publish(&mut w, "eni-nat", "203.0.113.5");
    publish(&mut w, "eni-ap", "203.0.113.11");
    add_table(
        &mut w,
        "rtb-a",
        "vpc-a",
        &["subnet-a1", "subnet-a2"],
        &[
            "10.0.0.0/16 -> local",
            "0.0.0.0/0 -> nat-a",
            "10.1.0.0/16 -> pcx-ab",
            "10.2.0.0/16 -> pcx-ab",
        ],
    );
    add_table(
        &mut w,
        "rtb-ap",
        "vpc-a",
        &["subnet-ap"],
        &["10.0.0.0/16 -> local", "0.0.0.0/0 -> igw-a"],
    );
    add_table(
        &mut w,
        "rtb-b",
        "vpc-b",
        &[],
        &[
            "10.1.0.0/16 -> local",
            "10.0.0.0/16 -> pcx-ab",
            "10.2.0.0/16 -> pcx-bc",
        ],
    );
    add_table(
        &mut w,
        "rtb-c",
        "vpc-c",
        &[],
        &[
            "10.2.0.0/16 -> local",
            "10.1.0.0/16 -> pcx-bc",
            "10.0.0.0/16 -> pcx-bc",
        ],
    );
    for table in ["rtb-b", "rtb-c"] {
        rtb(&mut w, table).main = true;
    }
    let subnets: Vec<String> = w.subnets.keys().map(ToString::to_string).collect();
    for subnet in subnets {
        let acl = subnet.replace("subnet", "acl");
        add_acl(
            &mut w,
            &acl,
            &subnet,
            &[
                "100 ingress allow all from 0.0.0.0/0",
                "100 egress allow all to 0.0.0.0/0",
            ],
        );
    }
    add_peering(&mut w, "pcx-ab", "vpc-a", "vpc-b");
    add_peering(&mut w, "pcx-bc", "vpc-b", "vpc-c");
    w.internet_gateways.insert(
        id("igw-a"),
        InternetGateway {
            id: id("igw-a"),
            vpc: Some(id("vpc-a")),
            tags: Tags::new(),
        },
    );
    w.nat_gateways.insert(
        id("nat-a"),
        NatGateway {
            id: id("nat-a"),
            vpc: id("vpc-a"),
            subnet: id("subnet-ap"),
            public: true,
            state: NatState::Available,
            addresses: vec![NatAddress {
                eni: id("eni-nat"),
                private: id("10.0.9.5"),
                public: Some(id("203.0.113.5")),
            }],
            tags: Tags::new(),
        },
    );
    w
}

pub(crate) fn add_vpc(w: &mut World, vpc: &str, cidr: &str) {
    let facts = Vpc {
        id: id(vpc),
        owner: w.account.clone(),
        cidrs: vec![id(cidr)],
        cidrs6: Vec::new(),
        tags: Tags::new(),
    };
    w.vpcs.insert(id(vpc), facts);
}

pub(crate) fn add_subnet(w: &mut World, subnet: &str, vpc: &str, cidr: &str) {
    let facts = Subnet {
        id: id(subnet),
        vpc: id(vpc),
        cidr: id(cidr),
        cidrs6: Vec::new(),
        zone: "us-west-2a".into(),
        available: None,
        tags: Tags::new(),
    };
    w.subnets.insert(id(subnet), facts);
}

pub(crate) fn add_group(w: &mut World, group: &str, vpc: &str, rules: &[&str]) {
    let facts = SecurityGroup {
        id: id(group),
        vpc: id(vpc),
        name: group.trim_start_matches("sg-").to_owned(),
        owner: w.account.clone(),
        description: String::new(),
        rules: rules.iter().map(|r| id(r)).collect(),
        tags: Tags::new(),
    };
    w.groups.insert(id(group), facts);
}

pub(crate) fn add_eni(
    w: &mut World,
    name: &str,
    subnet: &str,
    addresses: &[&str],
    groups: &[&str],
) {
    let last: Ipv4Addr = id(addresses[0]);
    let [_, b, c, d] = last.octets();
    let facts = Eni {
        id: id(name),
        subnet: id(subnet),
        vpc: w.subnets[&id::<SubnetId>(subnet)].vpc.clone(),
        mac: Mac([2, 0, 10, b, c, d]),
        addresses: addresses
            .iter()
            .enumerate()
            .map(|(n, a)| EniAddress {
                address: id(a),
                primary: n == 0,
                public: None,
            })
            .collect(),
        prefixes: Vec::new(),
        addresses6: Vec::new(),
        prefixes6: Vec::new(),
        groups: groups.iter().map(|g| id(g)).collect(),
        source_dest_check: true,
        kind: EniKind::Interface,
        status: EniStatus::InUse,
        attachment: None,
        trunk: None,
        description: String::new(),
        tags: Tags::new(),
    };
    w.enis.insert(id(name), facts);
}

pub(crate) fn add_table(w: &mut World, table: &str, vpc: &str, subnets: &[&str], routes: &[&str]) {
    let facts = RouteTable {
        id: id(table),
        vpc: id(vpc),
        main: false,
        subnets: subnets.iter().map(|s| id(s)).collect(),
        edges: BTreeSet::new(),
        routes: routes.iter().map(|r| id(r)).collect(),
        tags: Tags::new(),
    };
    w.route_tables.insert(id(table), facts);
}

pub(crate) fn add_acl(w: &mut World, acl: &str, subnet: &str, entries: &[&str]) {
    let facts = NetworkAcl {
        id: id(acl),
        vpc: w.subnets[&id::<SubnetId>(subnet)].vpc.clone(),
        default: false,
        subnets: [id(subnet)].into(),
        entries: entries.iter().map(|e| id(e)).collect(),
        tags: Tags::new(),
    };
    w.acls.insert(id(acl), facts);
}

pub(crate) fn add_peering(w: &mut World, pcx: &str, from: &str, to: &str) {
    let side = |vpc: &str| PeeringSide {
        vpc: id(vpc),
        owner: w.account.clone(),
        region: w.region.clone(),
        cidrs: w.vpcs[&id::<VpcId>(vpc)].cidrs.clone(),
    };
    let facts = Peering {
        id: id(pcx),
        status: PeeringStatus::Active,
        requester: side(from),
        accepter: side(to),
        tags: Tags::new(),
    };
    w.peerings.insert(id(pcx), facts);
}

pub(crate) fn add_prefix_list(w: &mut World, list: &str, entries: &[&str]) {
    let facts = PrefixList {
        id: id(list),
        name: list.to_owned(),
        entries: entries.iter().map(|e| id(e)).collect(),
        entries6: Vec::new(),
        max_entries: None,
        unread: None,
    };
    w.prefix_lists.insert(id(list), facts);
}

pub(crate) fn eni<'w>(w: &'w mut World, name: &str) -> &'w mut Eni {
    w.enis.get_mut(&id::<EniId>(name)).unwrap()
}

pub(crate) fn rtb<'w>(w: &'w mut World, name: &str) -> &'w mut RouteTable {
    w.route_tables.get_mut(&id::<RtbId>(name)).unwrap()
}

pub(crate) fn pcx<'w>(w: &'w mut World, name: &str) -> &'w mut Peering {
    w.peerings.get_mut(&id::<PcxId>(name)).unwrap()
}

pub(crate) fn nat(w: &mut World) -> &mut NatGateway {
    w.nat_gateways.get_mut(&id::<NatId>("nat-a")).unwrap()
}

pub(crate) fn publish(w: &mut World, name: &str, public: &str) {
    eni(w, name).addresses[0].public = Some(PublicAddress {
        address: id(public),
        allocation: None,
    });
}

pub(crate) fn rules(w: &mut World, group: &str, rules: &[&str]) {
    let group = w.groups.get_mut(&id::<SgId>(group)).unwrap();
    group.rules = rules.iter().map(|r| id(r)).collect();
}

pub(crate) fn acl(w: &mut World, acl: &str, entries: &[&str]) {
    let acl = w.acls.get_mut(&id::<AclId>(acl)).unwrap();
    acl.entries = entries.iter().map(|e| id(e)).collect();
}

pub(crate) fn routes(w: &mut World, table: &str, routes: &[&str]) {
    rtb(w, table).routes = routes.iter().map(|r| id(r)).collect();
}

pub(crate) fn unread(w: &mut World, kind: Kind) {
    let denied = Unread {
        action: kind.action().into(),
        reason: "UnauthorizedOperation: You are not authorized to perform this operation.".into(),
    };
    w.unread.insert(kind, denied);
}

pub(crate) fn origin(from: &str) -> Origin {
    if from == "outside" {
        Origin::Outside
    } else {
        Origin::Eni(id(from))
    }
}

/// The fate of one packet in one line: `delivered eni-b1 tracked/untracked`,
/// `dropped group_ingress at eni-b1`, `reply dropped acl_in at subnet-a1`, `unknown: …`.
pub(crate) fn fate(world: &World, from: &str, packet: &str) -> String {
    let packet: Packet = id(packet);
    let trace = Network::new(world).trace(&origin(from), &packet.into());
    assert_eq!(
        trace.parts.len(),
        1,
        "one packet has one fate: {:#?}",
        trace.parts
    );
    line(&trace.parts[0].outcome)
}

pub(crate) fn line(outcome: &Outcome) -> String {
    let permit = |p: &Permit| match p {
        Permit::Tracked => "tracked",
        Permit::Untracked => "untracked",
        Permit::NoGroups => "none",
    };
    match outcome {
        Outcome::Delivered {
            to,
            egress,
            ingress,
        } => {
            let to = match to {
                Endpoint::Eni(id) => id.to_string(),
                Endpoint::Internet(id) => format!("internet by {id}"),
                Endpoint::Service(name) => (*name).to_owned(),
            };
            format!("delivered {to} {}/{}", permit(egress), permit(ingress))
        }
        Outcome::Dropped {
            reason, leg, at, ..
        } => {
            let reason: &DropReason = reason;
            let name = serde_json::to_string(reason).unwrap();
            let leg = if *leg == Leg::Reply { "reply " } else { "" };
            format!("{leg}dropped {} at {at}", name.trim_matches('"'))
        }
        Outcome::Unknown { need } => format!("unknown: {need}"),
    }
}

pub(crate) const A1_A1B: &str = "tcp 10.0.1.11:40000 -> 10.0.1.13:5432";
pub(crate) const A1_A2: &str = "tcp 10.0.1.11:40000 -> 10.0.2.11:5432";
pub(crate) const A1_B1: &str = "tcp 10.0.1.11:40000 -> 10.1.1.11:5432";
pub(crate) const A1_WEB: &str = "tcp 10.0.1.11:40000 -> 198.51.100.7:443";
pub(crate) const AP_WEB: &str = "tcp 10.0.9.11:40000 -> 198.51.100.7:443";
pub(crate) const WEB_AP: &str = "tcp 198.51.100.7:40000 -> 203.0.113.11:443";
pub(crate) const OPEN: [&str; 2] = ["ingress all from 0.0.0.0/0", "egress all to 0.0.0.0/0"];

pub(crate) type Change = fn(&mut World);

pub(crate) fn check(cases: &[(&str, Change, &str, &str, &str)]) {
    for (name, change, from, packet, want) in cases {
        let mut world = world();
        change(&mut world);
        let got = fate(&world, from, packet);
        assert!(
            got == *want || (want.ends_with('…') && got.starts_with(want.trim_end_matches('…'))),
            "{name}: {packet}\n  want {want}\n  got  {got}"
        );
    }
}

pub(crate) fn as_is(_: &mut World) {}
