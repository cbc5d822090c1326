//! Every operation against brute force, on spaces small enough to enumerate.
//!
//! proptest prints the failing case and writes its seed under `proptest-regressions/`, which replays it.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use flowset::{FlowSet, Packet, RangeSet};
use proptest::prelude::*;

/// A set of bytes as a bitmap: the oracle for `RangeSet<u8>`.
type Bitmap = [bool; 256];

fn bitmap(set: &RangeSet<u8>) -> Bitmap {
    std::array::from_fn(|i| set.contains(i as u8))
}

fn ranges() -> impl Strategy<Value = Vec<(u8, u8)>> {
    let edge = prop_oneof![Just(0u8), Just(1), Just(254), Just(255), any::<u8>()];
    prop::collection::vec((edge, any::<u8>()), 0..6)
}

fn canonical(set: &RangeSet<u8>) -> bool {
    let apart = |w: &[(u8, u8)]| u16::from(w[0].1) + 1 < u16::from(w[1].0);
    set.ranges().iter().all(|r| r.0 <= r.1) && set.ranges().windows(2).all(apart)
}

proptest! {
    #[test]
    fn range_sets_are_sets(a in ranges(), b in ranges()) {
        let (x, y): (RangeSet<u8>, RangeSet<u8>) =
            (a.iter().copied().collect(), b.iter().copied().collect());
        let (p, q) = (bitmap(&x), bitmap(&y));
        for i in 0..=255u8 {
            prop_assert_eq!(p[usize::from(i)], a.iter().any(|r| r.0 <= i && i <= r.1));
        }
        let op = |f: &dyn Fn(bool, bool) -> bool| -> Bitmap {
            std::array::from_fn(|i| f(p[i], q[i]))
        };
        for (got, want) in [
            (x.union(&y), op(&|a, b| a || b)),
            (x.intersect(&y), op(&|a, b| a && b)),
            (x.difference(&y), op(&|a, b| a && !b)),
            (x.complement(), op(&|a, _| !a)),
        ] {
            prop_assert_eq!(bitmap(&got), want);
            prop_assert!(canonical(&got), "{:?}", got);
            prop_assert_eq!(got.count(), want.iter().filter(|b| **b).count() as u64);
            prop_assert_eq!(got.sample(), want.iter().position(|b| *b).map(|i| i as u8));
        }
        prop_assert_eq!(x == y, p == q);
        prop_assert_eq!(x.is_subset(&y), (0..256).all(|i| !p[i] || q[i]));
        prop_assert_eq!(x.is_full(), p.iter().all(|b| *b));
    }

    #[test]
    fn nets_cover_exactly_the_set(a in prop::collection::vec((any::<u8>(), any::<u8>()), 0..5)) {
        let base = u32::from(Ipv4Addr::new(10, 0, 0, 0));
        let at = |x: u8| base + u32::from(x);
        let set: RangeSet<u32> = a.iter().map(|r| (at(r.0), at(r.1))).collect();
        prop_assert_eq!(set.nets().into_iter().collect::<RangeSet<u32>>(), set);
    }
}

/// The corners where boxes meet: two addresses and a neighbour, edges of ports, each family.
const HOSTS: [u32; 4] = [0x0a00_0001, 0x0a00_0002, 0x0a00_0103, 0xffff_ffff];
const PORTS: [u16; 4] = [0, 443, 444, 65535];
const KINDS: [u16; 6] = [0x0000, 0x0007, 0x0300, 0x0304, 0x0800, 0x0900];

fn universe() -> Vec<Packet> {
    let mut all = Vec::new();
    for src in HOSTS.map(Ipv4Addr::from) {
        for dst in HOSTS.map(Ipv4Addr::from) {
            for protocol in [6, 17] {
                for a in PORTS {
                    all.extend(PORTS.map(|b| Packet::new(src, dst, protocol, a, b)));
                }
            }
            all.extend(KINDS.map(|b| Packet::new(src, dst, 1, 0, b)));
            all.extend([2u8, 47].map(|p| Packet::new(src, dst, p, 0, 0)));
        }
    }
    all
}

fn text() -> impl Strategy<Value = String> {
    let net = prop_oneof![
        Just("any"),
        Just("10.0.0.1"),
        Just("10.0.0.0/30"),
        Just("10.0.0.1,10.0.1.3"),
        Just("10.0.0.2-10.0.1.2"),
        Just("255.255.255.255"),
    ];
    let ports = prop_oneof![Just(""), Just(":443"), Just(":0-443"), Just(":444,65535")];
    let with_ports = (
        prop_oneof![Just("tcp"), Just("udp"), Just("tcp,udp")],
        net.clone(),
        ports.clone(),
        net.clone(),
        ports,
    );
    let without = (
        prop_oneof![
            Just("any"),
            Just("icmp"),
            Just("icmp/8"),
            Just("icmp/3/0-4,8/0"),
            Just("2,47"),
            Just("0-255"),
        ],
        net.clone(),
        net,
    );
    let flow = prop_oneof![
        with_ports.prop_map(|(p, s, a, d, b)| format!("{p} {s}{a} -> {d}{b}")),
        without.prop_map(|(p, s, d)| format!("{p} {s} -> {d}")),
    ];
    prop::collection::vec(flow, 0..4).prop_map(|f| {
        if f.is_empty() {
            "none".to_owned()
        } else {
            f.join("; ")
        }
    })
}

fn members(set: &FlowSet, all: &[Packet]) -> BTreeSet<Packet> {
    all.iter().filter(|p| set.contains(p)).copied().collect()
}

proptest! {
    #[test]
    fn flow_sets_are_sets(a in text(), b in text()) {
        let all = universe();
        let (x, y): (FlowSet, FlowSet) = (a.parse().unwrap(), b.parse().unwrap());
        let (p, q) = (members(&x, &all), members(&y, &all));
        prop_assert_eq!(members(&x.union(&y), &all), &p | &q);
        prop_assert_eq!(members(&x.intersect(&y), &all), &p & &q);
        prop_assert_eq!(members(&x.difference(&y), &all), &p - &q);
        prop_assert_eq!(members(&x.complement(), &all).len(), all.len() - p.len());

        // Laws that hold for sets and for nothing less, on the whole space.
        prop_assert_eq!(&x.union(&y), &y.union(&x));
        prop_assert_eq!(&x.difference(&y).union(&x.intersect(&y)), &x);
        prop_assert!(x.difference(&y).intersect(&y).is_empty());
        prop_assert_eq!(&x.complement().complement(), &x);
        prop_assert_eq!(x.union(&x.complement()), FlowSet::full());
        prop_assert_eq!(x.is_subset(&y), x.union(&y) == y);
        if x.is_subset(&y) { prop_assert!(p.is_subset(&q)); }
    }

    #[test]
    fn witness_is_a_member_and_absent_only_from_the_empty_set(a in text(), b in text()) {
        let (x, y): (FlowSet, FlowSet) = (a.parse().unwrap(), b.parse().unwrap());
        for set in [x.difference(&y), x.intersect(&y), x] {
            match set.witness() {
                Some(packet) => prop_assert!(set.contains(&packet), "{packet} of {set}"),
                None => prop_assert!(set.is_empty()),
            }
        }
    }

    #[test]
    fn text_round_trips(a in text(), b in text()) {
        let (x, y): (FlowSet, FlowSet) = (a.parse().unwrap(), b.parse().unwrap());
        for set in [x.difference(&y), x.union(&y), x] {
            prop_assert_eq!(&set.to_string().parse::<FlowSet>().unwrap(), &set, "{}", set);
        }
    }

    #[test]
    fn reply_of_reply_is_what_has_replies(a in text()) {
        let x: FlowSet = a.parse().unwrap();
        let back = x.reply().reply();
        prop_assert!(back.is_subset(&x));
        prop_assert!(x.difference(&back).is_subset(&"icmp any -> any".parse().unwrap()));
        prop_assert!(x.expecting_reply().is_subset(&back));
        for packet in universe().iter().filter(|p| x.contains(p)) {
            let reply = FlowSet::from(packet).reply();
            prop_assert!(reply.is_subset(&x.reply()));
        }
    }

    #[test]
    fn cuts_and_rewrites_do_what_they_say(a in text()) {
        let x: FlowSet = a.parse().unwrap();
        let all = universe();
        let only = |f: &dyn Fn(&Packet) -> bool| -> BTreeSet<Packet> {
            members(&x, &all).into_iter().filter(|p| f(p)).collect()
        };
        let one = RangeSet::single(HOSTS[0]);
        let host = Ipv4Addr::from(HOSTS[0]);
        let low = RangeSet::range(0, 443);
        prop_assert_eq!(members(&x.from_sources(&one), &all), only(&|p| p.src() == host));
        prop_assert_eq!(members(&x.to_destinations(&one), &all), only(&|p| p.dst() == host));
        prop_assert_eq!(
            members(&x.to_ports(&low), &all), only(&|p| p.dst_port().is_some_and(|d| d <= 443)));
        prop_assert_eq!(
            members(&x.from_ports(&low), &all), only(&|p| p.src_port().is_some_and(|d| d <= 443)));
        prop_assert_eq!(
            members(&x.of_icmp(Some(3), Some(4)), &all),
            only(&|p| p.icmp_type_code() == Some((3, 4))));
        prop_assert_eq!(
            members(&x.of_icmp(Some(0), None), &all),
            only(&|p| p.icmp_type_code().is_some_and(|t| t.0 == 0)));
        let moved = x.with_source(host);
        prop_assert_eq!(moved.is_empty(), x.is_empty());
        prop_assert!(moved.sources().is_subset(&one));
        for p in members(&x, &all) {
            prop_assert!(moved.contains(&"any 10.0.0.1 -> any".parse::<FlowSet>().unwrap()
                .intersect(&FlowSet::from(p).with_source(host)).witness().unwrap()));
        }
    }
}

#[test]
fn witnesses_are_ordinary_packets() {
    let of = |s: &str| s.parse::<FlowSet>().unwrap().witness().unwrap().to_string();
    assert_eq!(
        of("any 10.0.0.0/16 -> 10.1.2.3"),
        "tcp 10.0.0.1:32768 -> 10.1.2.3:443"
    );
    assert_eq!(
        of("udp 10.0.0.0/16 -> 10.1.0.0/24:53"),
        "udp 10.0.0.1:32768 -> 10.1.0.1:53"
    );
    assert_eq!(
        of("icmp 10.0.0.9 -> 10.1.0.0/24"),
        "icmp/8/0 10.0.0.9 -> 10.1.0.1"
    );
    assert_eq!(
        of("tcp 10.0.0.9:1-9 -> 10.1.0.0:5432"),
        "tcp 10.0.0.9:1 -> 10.1.0.0:5432"
    );
    assert_eq!(of("50 10.0.0.9 -> 10.1.0.1"), "50 10.0.0.9 -> 10.1.0.1");
    assert_eq!(FlowSet::empty().witness(), None);
}

#[test]
fn replies_exchange_what_they_should() {
    let of = |s: &str| s.parse::<FlowSet>().unwrap().reply().to_string();
    assert_eq!(
        of("tcp 10.0.0.9:40000 -> 10.1.0.1:5432"),
        "tcp 10.1.0.1:5432 -> 10.0.0.9:40000"
    );
    assert_eq!(
        of("icmp/8/0 10.0.0.9 -> 10.1.0.1"),
        "icmp/0/0 10.1.0.1 -> 10.0.0.9"
    );
    assert_eq!(
        of("icmp/0/0 10.0.0.9 -> 10.1.0.1"),
        "icmp/8/0 10.1.0.1 -> 10.0.0.9"
    );
    assert_eq!(of("icmp/3/4 10.0.0.9 -> 10.1.0.1"), "none");
    assert_eq!(of("47 10.0.0.9 -> 10.1.0.1"), "47 10.1.0.1 -> 10.0.0.9");
}

#[test]
fn malformed_text_is_named() {
    for (text, part) in [
        ("", "is not a flow"),
        ("tcp 10.0.0.1", "is not a flow"),
        ("tcp 10.0.0.1 => 10.0.0.2", "is not a flow"),
        ("tcp 10.0.0.256 -> any", "10.0.0.256"),
        ("tcp 10.0.0.9-10.0.0.1 -> any", "10.0.0.9-10.0.0.1"),
        ("tcp 10.0.0.0/33 -> any", "10.0.0.0/33"),
        ("tcp any -> any:70000", "up to 65535"),
        ("tcp any -> any:9-1", "9-1"),
        ("tcp any -> any:", "\"\""),
        ("icmp any -> any:80", "only tcp and udp"),
        ("icmp/300 any -> any", "up to 255"),
        ("gre any -> any", "up to 255"),
    ] {
        let error = text.parse::<FlowSet>().unwrap_err().to_string();
        assert!(error.contains(part), "{text:?}: {error}");
    }
    let error = "tcp any -> 10.0.0.1:80"
        .parse::<Packet>()
        .unwrap_err()
        .to_string();
    assert!(error.contains("not one packet"), "{error}");
}
