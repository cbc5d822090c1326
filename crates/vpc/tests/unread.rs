//! What could not be read: UNKNOWN with the IAM action, and nothing else is.

mod common;

use common::*;
use vpc::facts::*;

#[test]
fn what_was_not_read_is_unknown_and_names_the_action() {
    let cases: &[(Change, &str, &str)] = &[
        (
            |w| {
                w.acls.clear();
                unread(w, Kind::Acls)
            },
            A1_A2,
            "ec2:DescribeNetworkAcls",
        ),
        (
            |w| {
                w.groups.clear();
                unread(w, Kind::Groups)
            },
            A1_A2,
            "ec2:DescribeSecurityGroups",
        ),
        (
            |w| {
                w.route_tables.clear();
                unread(w, Kind::RouteTables)
            },
            A1_A2,
            "ec2:DescribeRouteTables",
        ),
        (
            |w| {
                w.subnets.clear();
                unread(w, Kind::Subnets)
            },
            A1_A2,
            "ec2:DescribeSubnets",
        ),
        (
            |w| {
                w.enis.clear();
                unread(w, Kind::Enis)
            },
            A1_A2,
            "ec2:DescribeNetworkInterfaces",
        ),
        (
            |w| {
                w.nat_gateways.clear();
                unread(w, Kind::NatGateways)
            },
            A1_WEB,
            "ec2:DescribeNatGateways",
        ),
        (
            |w| {
                w.internet_gateways.clear();
                unread(w, Kind::InternetGateways)
            },
            AP_WEB,
            "ec2:DescribeInternetGateways",
        ),
        (
            |w| {
                rules(w, "sg-b", &["ingress all from pl-1"]);
                unread(w, Kind::PrefixLists)
            },
            A1_A2,
            "ec2:GetManagedPrefixListEntries",
        ),
        (
            |w| {
                rtb(w, "rtb-a").routes.push(id("pl-1 -> tgw-1"));
                unread(w, Kind::PrefixLists)
            },
            A1_WEB,
            "ec2:GetManagedPrefixListEntries",
        ),
    ];
    for (change, packet, action) in cases {
        let mut w = world();
        change(&mut w);
        let from = if *packet == AP_WEB {
            "eni-ap"
        } else {
            "eni-a1"
        };
        let got = fate(&w, from, packet);
        assert!(
            got.starts_with("unknown: ") && got.contains(action),
            "{action}: {got}"
        );
    }
}

#[test]
fn what_needs_nothing_unread_is_answered() {
    let mut w = world();
    w.acls.clear();
    unread(&mut w, Kind::Acls);
    assert_eq!(
        fate(&w, "eni-a1", A1_A1B),
        "delivered eni-a1b tracked/tracked"
    );
    rules(&mut w, "sg-a", &[]);
    assert_eq!(fate(&w, "eni-a1", A1_A2), "dropped group_egress at eni-a1");
    let mut w = world();
    rules(
        &mut w,
        "sg-b",
        &["ingress all from pl-1", "ingress tcp/5432 from sg-a"],
    );
    unread(&mut w, Kind::PrefixLists);
    assert_eq!(
        fate(&w, "eni-a1", A1_A2),
        "delivered eni-a2 tracked/tracked"
    );
    let mut w = world();
    rtb(&mut w, "rtb-a").routes.push(id("pl-1 -> tgw-1"));
    unread(&mut w, Kind::PrefixLists);
    assert_eq!(
        fate(&w, "eni-a1", A1_A2),
        "delivered eni-a2 tracked/tracked"
    );
}
