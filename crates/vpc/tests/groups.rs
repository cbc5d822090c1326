//! Addresses and security groups: who may send, what is let in, what is remembered.

mod common;

use common::*;
use vpc::facts::*;

#[test]
fn addresses() {
    check(&[
        (
            "same subnet",
            as_is,
            "eni-a1",
            A1_A1B,
            "delivered eni-a1b tracked/tracked",
        ),
        (
            "other subnet",
            as_is,
            "eni-a1",
            A1_A2,
            "delivered eni-a2 tracked/tracked",
        ),
        (
            "secondary source",
            as_is,
            "eni-a1",
            "tcp 10.0.1.12:1 -> 10.0.2.11:1",
            "delivered eni-a2 tracked/tracked",
        ),
        (
            "prefix source",
            as_is,
            "eni-a1",
            "tcp 10.0.1.40:1 -> 10.0.2.11:1",
            "delivered eni-a2 tracked/tracked",
        ),
        (
            "prefix destination",
            as_is,
            "eni-a2",
            "tcp 10.0.2.11:1 -> 10.0.1.47:1",
            "delivered eni-a1 tracked/tracked",
        ),
        (
            "behind the prefix",
            as_is,
            "eni-a2",
            "tcp 10.0.2.11:1 -> 10.0.1.48:1",
            "dropped no_such_address at vpc-a",
        ),
        (
            "spoofed source",
            as_is,
            "eni-a1",
            "tcp 10.0.1.13:1 -> 10.0.2.11:1",
            "dropped source_check at eni-a1",
        ),
        (
            "check off, answer goes to the owner",
            |w| eni(w, "eni-a1").source_dest_check = false,
            "eni-a1",
            "tcp 10.0.1.13:1 -> 10.0.2.11:1",
            "reply dropped reply_elsewhere at eni-a1b",
        ),
        (
            "unassigned in the VPC, never to the default route",
            as_is,
            "eni-a1",
            "tcp 10.0.1.11:1 -> 10.0.77.1:1",
            "dropped no_such_address at vpc-a",
        ),
        (
            "detached receiver",
            |w| eni(w, "eni-a2").status = EniStatus::Available,
            "eni-a1",
            A1_A2,
            "dropped not_attached at eni-a2",
        ),
        (
            "detached sender",
            |w| eni(w, "eni-a1").status = EniStatus::Available,
            "eni-a1",
            A1_A2,
            "dropped not_attached at eni-a1",
        ),
        (
            "unknown sender",
            as_is,
            "eni-x",
            A1_A2,
            "unknown: eni-x: not among the network interfaces…",
        ),
    ]);
}

#[test]
fn groups() {
    check(&[
        (
            "no egress rule",
            |w| rules(w, "sg-a", &[]),
            "eni-a1",
            A1_A2,
            "dropped group_egress at eni-a1",
        ),
        (
            "no ingress rule",
            |w| rules(w, "sg-b", &["egress all to 0.0.0.0/0"]),
            "eni-a1",
            A1_A2,
            "dropped group_ingress at eni-a2",
        ),
        (
            "no group at all",
            |w| eni(w, "eni-a2").groups.clear(),
            "eni-a1",
            A1_A2,
            "dropped group_ingress at eni-a2",
        ),
        (
            "no group sends nothing",
            |w| eni(w, "eni-a1").groups.clear(),
            "eni-a1",
            A1_A2,
            "dropped group_egress at eni-a1",
        ),
        (
            "same subnet is filtered too",
            |w| rules(w, "sg-a", &["egress all to 0.0.0.0/0"]),
            "eni-a1",
            A1_A1B,
            "dropped group_ingress at eni-a1b",
        ),
        (
            "answers need no rule",
            |w| {
                rules(w, "sg-a", &["egress tcp/5432 to 10.0.2.0/24"]);
                rules(w, "sg-b", &["ingress tcp/5432 from 10.0.1.0/24"])
            },
            "eni-a1",
            A1_A2,
            "delivered eni-a2 tracked/tracked",
        ),
        (
            "union of groups",
            |w| {
                add_group(w, "sg-x", "vpc-a", &["ingress tcp/5432 from sg-a"]);
                rules(w, "sg-b", &[]);
                eni(w, "eni-a2").groups.insert(id("sg-x"));
            },
            "eni-a1",
            A1_A2,
            "delivered eni-a2 tracked/tracked",
        ),
        (
            "port below",
            |w| rules(w, "sg-b", &["ingress tcp/5433-6000 from 10.0.0.0/8"]),
            "eni-a1",
            A1_A2,
            "dropped group_ingress at eni-a2",
        ),
        (
            "last port",
            |w| rules(w, "sg-b", &["ingress tcp/5000-5432 from 10.0.0.0/8"]),
            "eni-a1",
            A1_A2,
            "delivered eni-a2 tracked/tracked",
        ),
        (
            "other protocol",
            |w| rules(w, "sg-b", &["ingress udp/5432 from 10.0.0.0/8"]),
            "eni-a1",
            A1_A2,
            "dropped group_ingress at eni-a2",
        ),
        (
            "icmp type",
            |w| rules(w, "sg-b", &["ingress icmp/8 from 10.0.0.0/8"]),
            "eni-a1",
            "icmp/8/0 10.0.1.11 -> 10.0.2.11",
            "delivered eni-a2 tracked/tracked",
        ),
        (
            "icmp other type",
            |w| rules(w, "sg-b", &["ingress icmp/8 from 10.0.0.0/8"]),
            "eni-a1",
            "icmp/13/0 10.0.1.11 -> 10.0.2.11",
            "dropped group_ingress at eni-a2",
        ),
        (
            "icmp code",
            |w| rules(w, "sg-b", &["ingress icmp/3/4 from 10.0.0.0/8"]),
            "eni-a1",
            "icmp/3/3 10.0.1.11 -> 10.0.2.11",
            "dropped group_ingress at eni-a2",
        ),
        (
            "-1 includes icmp and others",
            as_is,
            "eni-a1",
            "47 10.0.1.11 -> 10.0.2.11",
            "delivered eni-a2 tracked/tracked",
        ),
        (
            "other protocol by number",
            |w| rules(w, "sg-b", &["ingress protocol 47 from 10.0.0.0/8"]),
            "eni-a1",
            "47 10.0.1.11 -> 10.0.2.11",
            "delivered eni-a2 tracked/tracked",
        ),
        (
            "ipv6 rules match no ipv4",
            |w| rules(w, "sg-b", &["ingress all from ::/0"]),
            "eni-a1",
            A1_A2,
            "dropped group_ingress at eni-a2",
        ),
    ]);
}

#[test]
fn references() {
    let by_group: Change = |w| rules(w, "sg-b", &["ingress tcp/5432 from sg-a"]);
    check(&[
        (
            "primary",
            by_group,
            "eni-a1",
            A1_A2,
            "delivered eni-a2 tracked/tracked",
        ),
        (
            "secondary",
            by_group,
            "eni-a1",
            "tcp 10.0.1.12:1 -> 10.0.2.11:5432",
            "delivered eni-a2 tracked/tracked",
        ),
        (
            "prefix",
            by_group,
            "eni-a1",
            "tcp 10.0.1.33:1 -> 10.0.2.11:5432",
            "delivered eni-a2 tracked/tracked",
        ),
        (
            "not a member",
            |w| {
                rules(w, "sg-b", &["ingress tcp/5432 from sg-a"]);
                eni(w, "eni-a1").groups = [id("sg-pb")].into();
            },
            "eni-a1",
            A1_A2,
            "dropped group_ingress at eni-a2",
        ),
        (
            "self reference",
            |w| rules(w, "sg-a", &["ingress all from sg-a", "egress all to sg-a"]),
            "eni-a1",
            A1_A1B,
            "delivered eni-a1b tracked/tracked",
        ),
        (
            "egress to a group",
            |w| rules(w, "sg-a", &["egress tcp/5432 to sg-b"]),
            "eni-a1",
            A1_A2,
            "delivered eni-a2 tracked/tracked",
        ),
        (
            "a peer's group",
            |w| rules(w, "sg-pb", &["ingress tcp/5432 from sg-a"]),
            "eni-a1",
            A1_B1,
            "delivered eni-b1 tracked/tracked",
        ),
        (
            "deleted group",
            |w| rules(w, "sg-b", &["ingress tcp/5432 from sg-gone"]),
            "eni-a1",
            A1_A2,
            "dropped group_ingress at eni-a2",
        ),
        (
            "group of a VPC behind the peer",
            |w| {
                rules(w, "sg-pc", &["ingress all from sg-a"]);
                add_peering(w, "pcx-ac", "vpc-a", "vpc-c");
                pcx(w, "pcx-ac").status = PeeringStatus::Deleted;
                routes(
                    w,
                    "rtb-c",
                    &["10.2.0.0/16 -> local", "10.1.0.0/16 -> pcx-bc"],
                );
            },
            "eni-b1",
            "tcp 10.1.1.11:1 -> 10.2.1.11:1",
            "dropped group_ingress at eni-c1",
        ),
        (
            "group of another account",
            |w| {
                rules(w, "sg-b", &["ingress tcp/5432 from sg-other"]);
                let RulePeer::Group { vpc, .. } =
                    &mut w.groups.get_mut(&id::<SgId>("sg-b")).unwrap().rules[0].peer
                else {
                    panic!()
                };
                *vpc = Some(id("vpc-other"));
                add_vpc(w, "vpc-other", "10.9.0.0/16");
                add_peering(w, "pcx-ao", "vpc-a", "vpc-other");
                w.vpcs.remove(&id::<VpcId>("vpc-other"));
            },
            "eni-a1",
            A1_A2,
            "unknown: the members of sg-other: not among the security groups…",
        ),
        (
            "prefix list",
            |w| {
                add_prefix_list(w, "pl-1", &["10.0.1.0/28"]);
                rules(w, "sg-b", &["ingress tcp/5432 from pl-1"]);
            },
            "eni-a1",
            A1_A2,
            "delivered eni-a2 tracked/tracked",
        ),
        (
            "prefix list without it",
            |w| {
                add_prefix_list(w, "pl-1", &["10.0.1.64/28"]);
                rules(w, "sg-b", &["ingress tcp/5432 from pl-1"]);
            },
            "eni-a1",
            A1_A2,
            "dropped group_ingress at eni-a2",
        ),
    ]);
}

#[test]
fn stale_references_say_so() {
    let mut w = world();
    rules(&mut w, "sg-pb", &["ingress all from sg-a"]);
    pcx(&mut w, "pcx-ab").status = PeeringStatus::Deleted;
    let layers = vpc::layers::group_layers(&w, &[id("sg-pb")]).unwrap();
    assert_eq!(
        layers.ingress.rules[0].source.note.as_deref(),
        Some("stale, matches nothing: no active peering with vpc-a, the VPC of sg-a")
    );
}

#[test]
fn tracking() {
    check(&[
        (
            "open both ways",
            |w| {
                rules(w, "sg-a", &OPEN);
                rules(w, "sg-b", &OPEN);
            },
            "eni-a1",
            A1_A2,
            "delivered eni-a2 untracked/untracked",
        ),
        (
            "one port, open reverse",
            |w| {
                rules(
                    w,
                    "sg-b",
                    &["ingress tcp/5432 from 0.0.0.0/0", "egress all to 0.0.0.0/0"],
                )
            },
            "eni-a1",
            A1_A2,
            "delivered eni-a2 tracked/untracked",
        ),
        (
            "reverse of another protocol",
            |w| {
                rules(
                    w,
                    "sg-b",
                    &["ingress tcp/5432 from 0.0.0.0/0", "egress udp to 0.0.0.0/0"],
                )
            },
            "eni-a1",
            A1_A2,
            "delivered eni-a2 tracked/tracked",
        ),
        (
            "reverse of all ports but one",
            |w| {
                rules(
                    w,
                    "sg-b",
                    &[
                        "ingress tcp/5432 from 0.0.0.0/0",
                        "egress tcp/1-65535 to 0.0.0.0/0",
                    ],
                )
            },
            "eni-a1",
            A1_A2,
            "delivered eni-a2 tracked/tracked",
        ),
        (
            "reverse tcp suffices",
            |w| {
                rules(
                    w,
                    "sg-b",
                    &["ingress all from 0.0.0.0/0", "egress tcp to 0.0.0.0/0"],
                )
            },
            "eni-a1",
            A1_A2,
            "delivered eni-a2 tracked/untracked",
        ),
        (
            "two halves are not everywhere",
            |w| {
                rules(
                    w,
                    "sg-b",
                    &[
                        "ingress tcp/5432 from 0.0.0.0/1",
                        "ingress tcp/5432 from 128.0.0.0/1",
                        "egress all to 0.0.0.0/0",
                    ],
                )
            },
            "eni-a1",
            A1_A2,
            "delivered eni-a2 tracked/tracked",
        ),
        (
            "the most permissive rule counts",
            |w| {
                rules(
                    w,
                    "sg-b",
                    &[
                        "ingress tcp/5432 from sg-a",
                        "ingress tcp/5432 from 0.0.0.0/0",
                        "egress all to 0.0.0.0/0",
                    ],
                )
            },
            "eni-a1",
            A1_A2,
            "delivered eni-a2 tracked/untracked",
        ),
        (
            "reverse in another group of the interface",
            |w| {
                rules(w, "sg-b", &["ingress tcp/5432 from 0.0.0.0/0"]);
                add_group(w, "sg-out", "vpc-a", &["egress all to 0.0.0.0/0"]);
                eni(w, "eni-a2").groups.insert(id("sg-out"));
            },
            "eni-a1",
            A1_A2,
            "delivered eni-a2 tracked/untracked",
        ),
        (
            "icmp is always tracked",
            |w| rules(w, "sg-b", &OPEN),
            "eni-a1",
            "icmp/8/0 10.0.1.11 -> 10.0.2.11",
            "delivered eni-a2 tracked/tracked",
        ),
        (
            "others are always tracked",
            |w| rules(w, "sg-b", &OPEN),
            "eni-a1",
            "47 10.0.1.11 -> 10.0.2.11",
            "delivered eni-a2 tracked/tracked",
        ),
        (
            "through a NAT gateway",
            |w| rules(w, "sg-a", &OPEN),
            "eni-a1",
            A1_WEB,
            "delivered internet by igw-a tracked/none",
        ),
        (
            "straight to the internet",
            |w| rules(w, "sg-a", &OPEN),
            "eni-ap",
            AP_WEB,
            "delivered internet by igw-a untracked/none",
        ),
    ]);
}
