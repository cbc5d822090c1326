//! Each planted fault changes an answer: none is a fault in name only, and these tables see it.

mod common;

use common::*;
use layers::mutants::{Mutant, plant};

/// One question whose answer a mutant must change.
type Case = (Mutant, Change, &'static str, &'static str);

const CASES: &[Case] = &[
    (
        Mutant::DefaultFlipped,
        |w| rules(w, "sg-b", &[]),
        "eni-a1",
        A1_A2,
    ),
    (
        Mutant::PortRangeOffByOne,
        |w| rules(w, "sg-b", &["ingress tcp/5000-5432 from 10.0.0.0/8"]),
        "eni-a1",
        A1_A2,
    ),
    (
        Mutant::SourceAndDestinationSwapped,
        |w| rules(w, "sg-b", &["ingress all from 10.0.1.0/24"]),
        "eni-a1",
        A1_A2,
    ),
    (
        Mutant::LastMatchWins,
        |w| {
            let entries = [
                "50 ingress deny tcp/5432 from 10.0.1.0/24",
                "100 ingress allow all from 0.0.0.0/0",
                "100 egress allow all to 0.0.0.0/0",
            ];
            acl(w, "acl-a2", &entries);
        },
        "eni-a1",
        A1_A2,
    ),
    (Mutant::LastRuleForgotten, as_is, "eni-a1", A1_A2),
    (
        Mutant::SetIgnored,
        |w| rules(w, "sg-b", &["ingress all from sg-b"]),
        "eni-a1",
        A1_A2,
    ),
    (
        Mutant::IcmpCodeIgnored,
        |w| rules(w, "sg-b", &["ingress icmp/3/4 from 10.0.0.0/8"]),
        "eni-a1",
        "icmp/3/3 10.0.1.11 -> 10.0.2.11",
    ),
    (
        Mutant::PrefixLengthOffByOne,
        |w| rules(w, "sg-b", &["ingress all from 10.0.1.10/32"]),
        "eni-a1",
        A1_A2,
    ),
    (
        Mutant::AllProtocolsMissIcmp,
        as_is,
        "eni-a1",
        "icmp/8/0 10.0.1.11 -> 10.0.2.11",
    ),
    (
        Mutant::AclReplyIgnored,
        |w| acl(w, "acl-a2", &["1 ingress allow all from 0.0.0.0/0"]),
        "eni-a1",
        A1_A2,
    ),
    (
        Mutant::AclInsideSubnet,
        |w| acl(w, "acl-a1", &[]),
        "eni-a1",
        A1_A1B,
    ),
    (
        Mutant::SourceCheckSkipped,
        as_is,
        "eni-a1",
        "tcp 10.0.1.99:1 -> 10.0.2.11:1",
    ),
    (
        Mutant::BlackholeIgnored,
        |w| {
            rtb(w, "rtb-a")
                .routes
                .push(id("10.1.1.0/24 -> pcx-ab (blackhole)"))
        },
        "eni-a1",
        A1_B1,
    ),
    (Mutant::ShortestPrefixWins, as_is, "eni-a1", A1_A2),
    (
        Mutant::PeeringTransitive,
        |w| rtb(w, "rtb-c").routes.push(id("10.0.0.0/17 -> pcx-bc")),
        "eni-a1",
        "tcp 10.0.1.11:1 -> 10.2.1.11:1",
    ),
    (
        Mutant::PeerGroupMissed,
        |w| rules(w, "sg-pb", &["ingress all from sg-a"]),
        "eni-a1",
        A1_B1,
    ),
    (
        Mutant::UntrackedForgotten,
        |w| {
            rules(
                w,
                "sg-b",
                &["ingress all from 0.0.0.0/0", "egress all to 0.0.0.0/0"],
            )
        },
        "eni-a1",
        A1_A2,
    ),
    (
        Mutant::AclOrderReversed,
        |w| {
            let entries = [
                "50 ingress deny tcp/5432 from 10.0.1.0/24",
                "100 ingress allow all from 0.0.0.0/0",
                "100 egress allow all to 0.0.0.0/0",
            ];
            acl(w, "acl-a2", &entries);
        },
        "eni-a1",
        A1_A2,
    ),
    (
        Mutant::GroupEgressSkipped,
        |w| rules(w, "sg-a", &[]),
        "eni-a1",
        A1_A2,
    ),
    (
        Mutant::PrefixesNotOwned,
        as_is,
        "eni-a1",
        "tcp 10.0.1.33:1 -> 10.0.2.11:1",
    ),
];

#[test]
fn every_mutant_changes_an_answer() {
    for mutant in Mutant::ALL {
        let cases: Vec<&Case> = CASES.iter().filter(|c| c.0 == *mutant).collect();
        assert!(!cases.is_empty(), "{mutant:?} has no case");
        for (_, change, from, packet) in cases {
            let mut w = world();
            change(&mut w);
            let right = fate(&w, from, packet);
            let wrong = {
                let _planted = plant(*mutant);
                fate(&w, from, packet)
            };
            assert_ne!(right, wrong, "{mutant:?} changes nothing for {packet}");
            assert_eq!(
                right,
                fate(&w, from, packet),
                "{mutant:?} stays after its guard is gone"
            );
        }
    }
}
