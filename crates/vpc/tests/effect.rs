//! Changes under open connections: tracked ones survive a revoke, untracked die, ACLs kill both.

mod common;

use common::*;
use flowset::Packet;
use vpc::facts::*;
use vpc::{ConnectionEffect, DropReason, Leg, open_connection_effect};

const OPEN_PORT: [&str; 2] = ["ingress tcp/5432 from 0.0.0.0/0", "egress all to 0.0.0.0/0"];
const BY_GROUP: [&str; 2] = ["ingress tcp/5432 from sg-a", "egress all to 0.0.0.0/0"];

fn effect(before: Change, after: Change) -> ConnectionEffect {
    let (mut old, mut new) = (world(), world());
    before(&mut old);
    after(&mut new);
    let packet: Packet = id(A1_A2);
    open_connection_effect(&old, &new, &origin("eni-a1"), &packet)
}

fn breaks(effect: &ConnectionEffect) -> Option<(DropReason, Leg)> {
    match effect {
        ConnectionEffect::Breaks { reason, leg, .. } => Some((*reason, *leg)),
        _ => None,
    }
}

#[test]
fn a_tracked_connection_survives_the_revoke() {
    let got = effect(|w| rules(w, "sg-b", &BY_GROUP), |w| rules(w, "sg-b", &[]));
    let ConnectionEffect::LivesOn { reason, source } = got else {
        panic!("{got:?}")
    };
    assert_eq!(reason, DropReason::GroupIngress);
    assert_eq!(source.unwrap().text, "no ingress rule matches");
    let egress = effect(as_is, |w| rules(w, "sg-a", &[]));
    assert!(matches!(
        egress,
        ConnectionEffect::LivesOn {
            reason: DropReason::GroupEgress,
            ..
        }
    ));
}

#[test]
fn an_untracked_one_breaks_at_once() {
    let got = effect(
        |w| rules(w, "sg-b", &OPEN_PORT),
        |w| rules(w, "sg-b", &["egress all to 0.0.0.0/0"]),
    );
    assert_eq!(breaks(&got), Some((DropReason::GroupIngress, Leg::Forward)));
}

#[test]
fn an_untracked_one_with_another_rule_goes_on() {
    let got = effect(
        |w| rules(w, "sg-b", &OPEN_PORT),
        |w| rules(w, "sg-b", &BY_GROUP),
    );
    assert_eq!(got, ConnectionEffect::Continues);
}

#[test]
fn an_acl_breaks_either() {
    let deny: &[&str] = &[
        "50 ingress deny tcp/5432 from 10.0.1.0/24",
        "100 ingress allow all from 0.0.0.0/0",
        "100 egress allow all to 0.0.0.0/0",
    ];
    for rule in [&BY_GROUP, &OPEN_PORT] {
        let (mut old, mut new) = (world(), world());
        rules(&mut old, "sg-b", rule);
        rules(&mut new, "sg-b", rule);
        acl(&mut new, "acl-a2", deny);
        let got = open_connection_effect(&old, &new, &origin("eni-a1"), &id(A1_A2));
        assert_eq!(breaks(&got), Some((DropReason::AclIn, Leg::Forward)));
    }
    let got = effect(as_is, |w| {
        acl(w, "acl-a2", &["1 ingress allow all from 0.0.0.0/0"])
    });
    assert_eq!(breaks(&got), Some((DropReason::AclOut, Leg::Reply)));
}

#[test]
fn a_route_breaks_either_and_what_was_closed_is_not_open() {
    let got = effect(as_is, |w| routes(w, "rtb-a", &[]));
    assert_eq!(breaks(&got), Some((DropReason::NoRoute, Leg::Forward)));
    assert_eq!(
        effect(|w| rules(w, "sg-b", &[]), as_is),
        ConnectionEffect::NotOpen
    );
    assert_eq!(effect(as_is, as_is), ConnectionEffect::Continues);
}

#[test]
fn what_cannot_be_read_afterwards_is_unknown() {
    let got = effect(as_is, |w| {
        w.acls.clear();
        unread(w, Kind::Acls);
    });
    assert!(matches!(got, ConnectionEffect::Unknown { .. }), "{got:?}");
}
