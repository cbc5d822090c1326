//! Network ACLs, routes and interfaces as route targets.

mod common;

use common::*;
use vpc::facts::*;

#[test]
fn acls() {
    check(&[
        (
            "out",
            |w| acl(w, "acl-a1", &["100 ingress allow all from 0.0.0.0/0"]),
            "eni-a1",
            A1_A2,
            "dropped acl_out at subnet-a1",
        ),
        (
            "in",
            |w| acl(w, "acl-a2", &["100 egress allow all to 0.0.0.0/0"]),
            "eni-a1",
            A1_A2,
            "dropped acl_in at subnet-a2",
        ),
        (
            "answer out",
            |w| {
                acl(
                    w,
                    "acl-a2",
                    &[
                        "100 ingress allow all from 0.0.0.0/0",
                        "100 egress allow tcp/1-32767 to 0.0.0.0/0",
                    ],
                )
            },
            "eni-a1",
            A1_A2,
            "reply dropped acl_out at subnet-a2",
        ),
        (
            "answer in",
            |w| {
                acl(
                    w,
                    "acl-a1",
                    &[
                        "100 ingress allow tcp/50000-65535 from 0.0.0.0/0",
                        "100 egress allow all to 0.0.0.0/0",
                    ],
                )
            },
            "eni-a1",
            A1_A2,
            "reply dropped acl_in at subnet-a1",
        ),
        (
            "answer in by ephemeral ports",
            |w| {
                acl(
                    w,
                    "acl-a1",
                    &[
                        "100 ingress allow tcp/32768-61000 from 0.0.0.0/0",
                        "100 egress allow all to 0.0.0.0/0",
                    ],
                )
            },
            "eni-a1",
            A1_A2,
            "delivered eni-a2 tracked/tracked",
        ),
        (
            "not inside a subnet",
            |w| acl(w, "acl-a1", &[]),
            "eni-a1",
            A1_A1B,
            "delivered eni-a1b tracked/tracked",
        ),
        (
            "the lowest number decides",
            |w| {
                acl(
                    w,
                    "acl-a2",
                    &[
                        "200 ingress allow all from 0.0.0.0/0",
                        "100 ingress deny tcp/5432 from 10.0.1.0/24",
                        "100 egress allow all to 0.0.0.0/0",
                    ],
                )
            },
            "eni-a1",
            A1_A2,
            "dropped acl_in at subnet-a2",
        ),
        (
            "and not the order of the list",
            |w| {
                acl(
                    w,
                    "acl-a2",
                    &[
                        "200 ingress deny tcp/5432 from 10.0.1.0/24",
                        "100 ingress allow all from 0.0.0.0/0",
                        "100 egress allow all to 0.0.0.0/0",
                    ],
                )
            },
            "eni-a1",
            A1_A2,
            "delivered eni-a2 tracked/tracked",
        ),
        (
            "ping by type and code",
            |w| {
                acl(
                    w,
                    "acl-a2",
                    &[
                        "100 ingress allow icmp/8/0 from 0.0.0.0/0",
                        "100 egress allow icmp/0/0 to 0.0.0.0/0",
                    ],
                )
            },
            "eni-a1",
            "icmp/8/0 10.0.1.11 -> 10.0.2.11",
            "delivered eni-a2 tracked/tracked",
        ),
        (
            "pong denied",
            |w| {
                acl(
                    w,
                    "acl-a2",
                    &[
                        "100 ingress allow icmp/8/0 from 0.0.0.0/0",
                        "100 egress allow icmp/8/0 to 0.0.0.0/0",
                    ],
                )
            },
            "eni-a1",
            "icmp/8/0 10.0.1.11 -> 10.0.2.11",
            "reply dropped acl_out at subnet-a2",
        ),
        (
            "icmp errors need no answer",
            |w| acl(w, "acl-a2", &["100 ingress allow icmp/3 from 0.0.0.0/0"]),
            "eni-a1",
            "icmp/3/4 10.0.1.11 -> 10.0.2.11",
            "delivered eni-a2 tracked/tracked",
        ),
        (
            "ipv6 entries match no ipv4",
            |w| acl(w, "acl-a2", &["100 ingress allow all from ::/0"]),
            "eni-a1",
            A1_A2,
            "dropped acl_in at subnet-a2",
        ),
    ]);
}

#[test]
fn routing() {
    check(&[
        (
            "no route",
            |w| routes(w, "rtb-a", &["10.0.0.0/16 -> local"]),
            "eni-a1",
            A1_WEB,
            "dropped no_route at rtb-a",
        ),
        (
            "blackhole",
            |w| {
                routes(
                    w,
                    "rtb-a",
                    &[
                        "10.0.0.0/16 -> local",
                        "198.51.100.0/24 -> nat-a (blackhole)",
                        "0.0.0.0/0 -> nat-a",
                    ],
                )
            },
            "eni-a1",
            A1_WEB,
            "dropped blackhole at nat-a",
        ),
        (
            "the longest prefix decides",
            |w| {
                routes(
                    w,
                    "rtb-a",
                    &[
                        "10.0.0.0/16 -> local",
                        "0.0.0.0/0 -> nat-a (blackhole)",
                        "198.51.100.0/24 -> nat-a",
                    ],
                )
            },
            "eni-a1",
            A1_WEB,
            "delivered internet by igw-a tracked/none",
        ),
        (
            "same subnet needs no route",
            |w| routes(w, "rtb-a", &[]),
            "eni-a1",
            A1_A1B,
            "delivered eni-a1b tracked/tracked",
        ),
        (
            "other subnet does",
            |w| routes(w, "rtb-a", &[]),
            "eni-a1",
            A1_A2,
            "dropped no_route at rtb-a",
        ),
        (
            "and so does the answer",
            |w| {
                rtb(w, "rtb-a").subnets.remove(&id::<SubnetId>("subnet-a2"));
                add_table(w, "rtb-a2", "vpc-a", &["subnet-a2"], &[]);
            },
            "eni-a1",
            A1_A2,
            "reply dropped no_route at rtb-a2",
        ),
        (
            "main table",
            |w| {
                rtb(w, "rtb-a").subnets.remove(&id::<SubnetId>("subnet-a1"));
                rtb(w, "rtb-ap").main = true;
            },
            "eni-a1",
            A1_WEB,
            "dropped no_public_address at igw-a",
        ),
        (
            "no table at all",
            |w| {
                rtb(w, "rtb-a").subnets.clear();
            },
            "eni-a1",
            A1_A2,
            "unknown: the route table of subnet-a1: not among the route tables…",
        ),
        (
            "transit gateway",
            |w| rtb(w, "rtb-a").routes.push(id("198.51.100.0/24 -> tgw-1")),
            "eni-a1",
            A1_WEB,
            "unknown: tgw-1 (transit gateway) is not modelled",
        ),
        (
            "prefix list route",
            |w| {
                add_prefix_list(w, "pl-1", &["198.51.100.0/24"]);
                rtb(w, "rtb-a").routes.push(id("pl-1 -> tgw-1"));
            },
            "eni-a1",
            A1_WEB,
            "unknown: tgw-1 (transit gateway) is not modelled",
        ),
        (
            "CIDR before prefix list",
            |w| {
                add_prefix_list(w, "pl-1", &["0.0.0.0/0"]);
                rtb(w, "rtb-a").routes.insert(0, id("pl-1 -> tgw-1"));
            },
            "eni-a1",
            A1_WEB,
            "delivered internet by igw-a tracked/none",
        ),
        (
            "static before propagated",
            |w| {
                let mut route: Route = id("0.0.0.0/0 -> vgw-1");
                route.origin = RouteOrigin::Propagated;
                rtb(w, "rtb-a").routes.insert(0, route);
            },
            "eni-a1",
            A1_WEB,
            "delivered internet by igw-a tracked/none",
        ),
        (
            "loopback is never routed",
            as_is,
            "eni-a1",
            "tcp 10.0.1.11:1 -> 127.0.0.1:1",
            "dropped no_route at subnet-a1",
        ),
        (
            "multicast neither",
            as_is,
            "eni-a1",
            "udp 10.0.1.11:1 -> 224.0.0.251:5353",
            "dropped no_route at subnet-a1",
        ),
    ]);
}

#[test]
fn middleboxes() {
    check(&[
        (
            "check on",
            |w| {
                rules(w, "sg-a", &["egress all to 0.0.0.0/0"]);
                rtb(w, "rtb-a").routes.push(id("198.51.100.0/24 -> eni-ap"));
            },
            "eni-a1",
            A1_WEB,
            "dropped group_ingress at eni-ap",
        ),
        (
            "check on, groups open",
            |w| {
                rules(w, "sg-a", &OPEN);
                rtb(w, "rtb-a").routes.push(id("198.51.100.0/24 -> eni-ap"));
            },
            "eni-a1",
            A1_WEB,
            "dropped destination_check at eni-ap",
        ),
        (
            "check off",
            |w| {
                rules(w, "sg-a", &OPEN);
                eni(w, "eni-ap").source_dest_check = false;
                rtb(w, "rtb-a").routes.push(id("198.51.100.0/24 -> eni-ap"));
            },
            "eni-a1",
            A1_WEB,
            "unknown: the packets are handed to eni-ap…",
        ),
        (
            "its own address",
            |w| {
                rtb(w, "rtb-a").routes.push(id("10.0.9.11/32 -> eni-ap"));
            },
            "eni-a1",
            "tcp 10.0.1.11:1 -> 10.0.9.11:1",
            "delivered eni-ap tracked/tracked",
        ),
        (
            "detached",
            |w| {
                eni(w, "eni-ap").status = EniStatus::Available;
                rtb(w, "rtb-a").routes.push(id("198.51.100.0/24 -> eni-ap"));
            },
            "eni-a1",
            A1_WEB,
            "dropped blackhole at eni-ap",
        ),
        (
            "answers to a forwarded network come back by route",
            |w| {
                eni(w, "eni-a1").source_dest_check = false;
                for table in ["rtb-a", "rtb-ap"] {
                    rtb(w, table).routes.push(id("172.31.0.0/16 -> eni-a1"));
                }
                rules(w, "sg-b", &OPEN);
            },
            "eni-a1",
            "tcp 172.31.0.9:1 -> 10.0.2.11:1",
            "delivered eni-a2 tracked/untracked",
        ),
        (
            "an instance stands for its primary interface",
            |w| {
                let attachment = Attachment {
                    id: "eni-attach-1".into(),
                    instance: Some(id("i-1")),
                    owner: String::new(),
                    device_index: 0,
                    network_card: 0,
                    delete_on_termination: true,
                };
                eni(w, "eni-ap").attachment = Some(attachment);
                rules(w, "sg-a", &OPEN);
                rtb(w, "rtb-a").routes.push(id("198.51.100.0/24 -> i-1"));
            },
            "eni-a1",
            A1_WEB,
            "dropped destination_check at eni-ap",
        ),
    ]);
}
