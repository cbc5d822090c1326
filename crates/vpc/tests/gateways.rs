//! Internet gateways, NAT gateways, peerings, and the services of a VPC.

mod common;

use common::*;
use vpc::facts::*;

#[test]
fn internet_gateways() {
    check(&[
        (
            "with a public address",
            as_is,
            "eni-ap",
            AP_WEB,
            "delivered internet by igw-a tracked/none",
        ),
        (
            "without",
            |w| eni(w, "eni-ap").addresses[0].public = None,
            "eni-ap",
            AP_WEB,
            "dropped no_public_address at igw-a",
        ),
        (
            "detached gateway",
            |w| {
                w.internet_gateways
                    .get_mut(&id::<IgwId>("igw-a"))
                    .unwrap()
                    .vpc = None
            },
            "eni-ap",
            AP_WEB,
            "dropped blackhole at igw-a",
        ),
        (
            "private ranges are not on the internet",
            as_is,
            "eni-ap",
            "tcp 10.0.9.11:1 -> 192.168.1.1:1",
            "dropped no_route at igw-a",
        ),
        (
            "from outside",
            |w| rules(w, "sg-a", &OPEN),
            "outside",
            WEB_AP,
            "delivered eni-ap none/untracked",
        ),
        (
            "from outside, not admitted",
            as_is,
            "outside",
            WEB_AP,
            "dropped group_ingress at eni-ap",
        ),
        (
            "from outside to nobody",
            as_is,
            "outside",
            "tcp 198.51.100.7:1 -> 203.0.113.99:1",
            "dropped no_such_address at the internet",
        ),
        (
            "from outside to a NAT gateway",
            as_is,
            "outside",
            "tcp 198.51.100.7:1 -> 203.0.113.5:1",
            "dropped nat_unsolicited at eni-nat",
        ),
        (
            "from outside, answer by a NAT gateway",
            |w| {
                rules(w, "sg-a", &OPEN);
                publish(w, "eni-a1", "203.0.113.12");
            },
            "outside",
            "tcp 198.51.100.7:1 -> 203.0.113.12:1",
            "reply dropped reply_elsewhere at nat-a",
        ),
        (
            "ACL of the subnet, out",
            |w| acl(w, "acl-ap", &["1 ingress allow all from 0.0.0.0/0"]),
            "eni-ap",
            AP_WEB,
            "dropped acl_out at subnet-ap",
        ),
        (
            "ACL of the subnet, answer",
            |w| acl(w, "acl-ap", &["1 egress allow all to 0.0.0.0/0"]),
            "eni-ap",
            AP_WEB,
            "reply dropped acl_in at subnet-ap",
        ),
        (
            "by public address inside: groups do not match",
            |w| {
                rules(
                    w,
                    "sg-a",
                    &["ingress all from sg-a", "egress all to 0.0.0.0/0"],
                );
                add_eni(w, "eni-ap2", "subnet-ap", &["10.0.9.12"], &["sg-a"]);
                publish(w, "eni-ap2", "203.0.113.12");
            },
            "eni-ap",
            "tcp 10.0.9.11:1 -> 203.0.113.12:1",
            "dropped group_ingress at eni-ap2",
        ),
        (
            "by public address inside: addresses do",
            |w| {
                rules(
                    w,
                    "sg-a",
                    &[
                        "ingress all from 203.0.113.11/32",
                        "egress all to 0.0.0.0/0",
                    ],
                );
                add_eni(w, "eni-ap2", "subnet-ap", &["10.0.9.12"], &["sg-a"]);
                publish(w, "eni-ap2", "203.0.113.12");
            },
            "eni-ap",
            "tcp 10.0.9.11:1 -> 203.0.113.12:1",
            "delivered eni-ap2 tracked/tracked",
        ),
        (
            "a route table of the gateway",
            |w| {
                rtb(w, "rtb-b").edges.insert("igw-a".into());
            },
            "eni-ap",
            AP_WEB,
            "unknown: rtb-b (route table of igw-a) is not modelled",
        ),
    ]);
}

#[test]
fn nat_gateways() {
    check(&[
        (
            "public",
            as_is,
            "eni-a1",
            A1_WEB,
            "delivered internet by igw-a tracked/none",
        ),
        (
            "ping",
            as_is,
            "eni-a1",
            "icmp/8/0 10.0.1.11 -> 198.51.100.7",
            "delivered internet by igw-a tracked/none",
        ),
        (
            "other protocols",
            as_is,
            "eni-a1",
            "47 10.0.1.11 -> 198.51.100.7",
            "dropped nat_protocol at nat-a",
        ),
        (
            "own subnet",
            |w| routes(w, "rtb-ap", &["10.0.0.0/16 -> local", "0.0.0.0/0 -> nat-a"]),
            "eni-ap",
            AP_WEB,
            "dropped nat_own_subnet at nat-a",
        ),
        (
            "not available",
            |w| nat(w).state = NatState::Deleted,
            "eni-a1",
            A1_WEB,
            "dropped blackhole at nat-a",
        ),
        (
            "private, on to an internet gateway",
            |w| {
                eni(w, "eni-nat").addresses[0].public = None;
                nat(w).addresses[0].public = None;
                nat(w).public = false;
            },
            "eni-a1",
            A1_WEB,
            "dropped no_public_address at igw-a",
        ),
        (
            "ACL into its subnet",
            |w| acl(w, "acl-ap", &["1 egress allow all to 0.0.0.0/0"]),
            "eni-a1",
            A1_WEB,
            "dropped acl_in at subnet-ap",
        ),
        (
            "ACL out of its subnet",
            |w| acl(w, "acl-ap", &["1 ingress allow all from 0.0.0.0/0"]),
            "eni-a1",
            A1_WEB,
            "dropped acl_out at subnet-ap",
        ),
        (
            "ACL for the answer: all of 1024-65535",
            |w| {
                acl(
                    w,
                    "acl-ap",
                    &[
                        "1 ingress allow tcp/443 from 10.0.0.0/16",
                        "2 ingress allow tcp/1024-65535 from 0.0.0.0/0",
                        "1 egress allow all to 0.0.0.0/0",
                    ],
                )
            },
            "eni-a1",
            A1_WEB,
            "delivered internet by igw-a tracked/none",
        ),
        (
            "ACL for the answer: some of them",
            |w| {
                acl(
                    w,
                    "acl-ap",
                    &[
                        "1 ingress allow tcp/443 from 10.0.0.0/16",
                        "2 ingress allow tcp/32768-65535 from 0.0.0.0/0",
                        "1 egress allow all to 0.0.0.0/0",
                    ],
                )
            },
            "eni-a1",
            A1_WEB,
            "unknown: the answer depends on the source port or address that nat-a picks",
        ),
        (
            "ACL for the answer: none",
            |w| {
                acl(
                    w,
                    "acl-ap",
                    &[
                        "1 ingress allow tcp/443 from 10.0.0.0/16",
                        "1 egress allow all to 0.0.0.0/0",
                    ],
                )
            },
            "eni-a1",
            A1_WEB,
            "reply dropped acl_in at subnet-ap",
        ),
        (
            "ACL of the sender for the answer",
            |w| {
                acl(
                    w,
                    "acl-a1",
                    &[
                        "1 ingress deny tcp/40000 from 198.51.100.0/24",
                        "2 ingress allow all from 0.0.0.0/0",
                        "1 egress allow all to 0.0.0.0/0",
                    ],
                )
            },
            "eni-a1",
            A1_WEB,
            "reply dropped acl_in at subnet-a1",
        ),
        (
            "private, into a peer, seen with its address",
            |w| {
                routes(
                    w,
                    "rtb-a",
                    &["10.0.0.0/16 -> local", "10.1.0.0/16 -> nat-a"],
                );
                routes(
                    w,
                    "rtb-ap",
                    &["10.0.0.0/16 -> local", "10.1.0.0/16 -> pcx-ab"],
                );
                rules(w, "sg-pb", &["ingress tcp/5432 from 10.0.9.5/32"]);
            },
            "eni-a1",
            A1_B1,
            "delivered eni-b1 tracked/tracked",
        ),
        (
            "groups do not match behind it",
            |w| {
                routes(
                    w,
                    "rtb-a",
                    &["10.0.0.0/16 -> local", "10.1.0.0/16 -> nat-a"],
                );
                routes(
                    w,
                    "rtb-ap",
                    &["10.0.0.0/16 -> local", "10.1.0.0/16 -> pcx-ab"],
                );
                rules(w, "sg-pb", &["ingress tcp/5432 from sg-a"]);
            },
            "eni-a1",
            A1_B1,
            "dropped group_ingress at eni-b1",
        ),
        (
            "accepts nothing itself",
            as_is,
            "eni-a1",
            "tcp 10.0.1.11:1 -> 10.0.9.5:1",
            "dropped nat_unsolicited at eni-nat",
        ),
    ]);
}

#[test]
fn nat_gateways_in_a_circle() {
    let mut w = world();
    add_eni(&mut w, "eni-nat2", "subnet-a2", &["10.0.2.5"], &[]);
    let address = NatAddress {
        eni: id("eni-nat2"),
        private: id("10.0.2.5"),
        public: None,
    };
    let other = NatGateway {
        id: id("nat-2"),
        subnet: id("subnet-a2"),
        addresses: vec![address],
        ..nat(&mut w).clone()
    };
    w.nat_gateways.insert(id("nat-2"), other);
    routes(
        &mut w,
        "rtb-ap",
        &["10.0.0.0/16 -> local", "0.0.0.0/0 -> nat-2"],
    );
    assert_eq!(fate(&w, "eni-a1", A1_WEB), "dropped loop at subnet-a2");
}

#[test]
fn peerings() {
    let back: Change = |w| routes(w, "rtb-b", &["10.1.0.0/16 -> local"]);
    check(&[
        (
            "active",
            as_is,
            "eni-a1",
            A1_B1,
            "delivered eni-b1 tracked/tracked",
        ),
        (
            "not active",
            |w| pcx(w, "pcx-ab").status = PeeringStatus::PendingAcceptance,
            "eni-a1",
            A1_B1,
            "dropped peering_inactive at pcx-ab",
        ),
        (
            "no way back",
            back,
            "eni-a1",
            A1_B1,
            "reply dropped no_route at rtb-b",
        ),
        (
            "not transitive",
            as_is,
            "eni-a1",
            "tcp 10.0.1.11:1 -> 10.2.1.11:1",
            "dropped peering_not_transitive at pcx-ab",
        ),
        (
            "no gateway of the peer",
            |w| rtb(w, "rtb-b").routes.push(id("0.0.0.0/0 -> pcx-ab")),
            "eni-b1",
            "tcp 10.1.1.11:1 -> 198.51.100.7:443",
            "dropped peering_not_transitive at pcx-ab",
        ),
        (
            "nobody there",
            as_is,
            "eni-a1",
            "tcp 10.0.1.11:1 -> 10.1.1.99:1",
            "dropped no_such_address at vpc-b",
        ),
        (
            "ACL of the peer",
            |w| acl(w, "acl-b1", &[]),
            "eni-a1",
            A1_B1,
            "dropped acl_in at subnet-b1",
        ),
        (
            "ACL of the peer, answer",
            |w| acl(w, "acl-b1", &["1 ingress allow all from 0.0.0.0/0"]),
            "eni-a1",
            A1_B1,
            "reply dropped acl_out at subnet-b1",
        ),
        (
            "peer not read",
            |w| {
                w.vpcs.remove(&id::<VpcId>("vpc-b"));
            },
            "eni-a1",
            A1_B1,
            "unknown: vpc-b: not among the VPCs…",
        ),
        (
            "connection not read",
            |w| {
                w.peerings.clear();
                unread(w, Kind::Peerings);
            },
            "eni-a1",
            A1_B1,
            "unknown: pcx-ab could not be read: ec2:DescribeVpcPeeringConnections failed…",
        ),
    ]);
}

#[test]
fn services_are_exempt() {
    let closed: Change = |w| {
        rules(w, "sg-a", &[]);
        acl(w, "acl-a1", &[]);
        routes(w, "rtb-a", &[]);
    };
    check(&[
        (
            "metadata",
            closed,
            "eni-a1",
            "tcp 10.0.1.11:1 -> 169.254.169.254:80",
            "delivered instance metadata none/none",
        ),
        (
            "resolver",
            closed,
            "eni-a1",
            "udp 10.0.1.11:1 -> 10.0.0.2:53",
            "delivered Amazon DNS none/none",
        ),
        (
            "resolver by link-local",
            closed,
            "eni-a1",
            "tcp 10.0.1.11:1 -> 169.254.169.253:53",
            "delivered Amazon DNS none/none",
        ),
        (
            "time",
            closed,
            "eni-a1",
            "udp 10.0.1.11:1 -> 169.254.169.123:123",
            "delivered Amazon Time Sync none/none",
        ),
        (
            "lab endpoint",
            closed,
            "eni-a1",
            "tcp 10.0.1.11:1 -> 169.254.169.249:80",
            "delivered the EC2 endpoint of the lab none/none",
        ),
        (
            "other ports",
            closed,
            "eni-a1",
            "tcp 10.0.1.11:1 -> 169.254.169.254:22",
            "dropped not_served at subnet-a1",
        ),
        (
            "reserved link-local",
            closed,
            "eni-a1",
            "tcp 10.0.1.11:1 -> 169.254.168.1:80",
            "dropped not_served at subnet-a1",
        ),
        (
            "not to spoofed sources",
            closed,
            "eni-a1",
            "tcp 10.0.1.99:1 -> 169.254.169.254:80",
            "dropped source_check at eni-a1",
        ),
    ]);
}
