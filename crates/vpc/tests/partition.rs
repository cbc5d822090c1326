//! Random worlds: the parts of a trace are a partition, and a set is traced as each of its packets.
//!
//! proptest prints the failing case and writes its seed under `proptest-regressions/`, which replays it.

mod common;

use common::*;
use flowset::{FlowSet, Packet};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use vpc::facts::*;
use vpc::{Network, Trace};

const GROUP_RULES: &[&str] = &[
    "ingress all from 0.0.0.0/0",
    "ingress tcp/5432 from sg-a",
    "ingress tcp/5000-6000 from 10.0.1.0/28",
    "ingress tcp/80 from 0.0.0.0/0",
    "ingress icmp/8 from 10.0.0.0/8",
    "ingress icmp/3/4 from sg-pb",
    "ingress all from sg-gone",
    "ingress udp from pl-1",
    "ingress udp/53 from pl-unknown",
    "egress all to 0.0.0.0/0",
    "egress tcp to 0.0.0.0/0",
    "egress tcp/5432 to sg-b",
    "egress icmp to 10.1.0.0/16",
    "egress protocol 47 to 10.0.0.0/8",
];

const ACL_ENTRIES: &[&str] = &[
    "100 ingress allow all from 0.0.0.0/0",
    "100 egress allow all to 0.0.0.0/0",
    "50 ingress deny tcp/5432 from 10.0.1.0/24",
    "60 egress deny tcp/40000-50000 to 10.0.1.0/24",
    "70 ingress deny icmp/0 from 10.0.0.0/8",
    "80 egress deny udp to 10.1.0.0/16",
    "90 ingress allow tcp/32768-61000 from 0.0.0.0/0",
];

const ROUTES: &[&str] = &[
    "10.0.0.0/16 -> local",
    "0.0.0.0/0 -> nat-a",
    "10.1.0.0/16 -> pcx-ab",
    "10.2.0.0/16 -> pcx-ab",
    "198.51.100.0/24 -> igw-a",
    "10.1.1.0/24 -> pcx-ab (blackhole)",
    "198.51.100.0/25 -> tgw-1",
    "10.2.1.0/24 -> eni-ap",
    "0.0.0.0/1 -> eni-gone",
];

fn chosen(from: &'static [&'static str]) -> impl Strategy<Value = Vec<&'static str>> {
    subsequence(from, 0..=from.len())
}

fn mostly(from: &'static [&'static str], keep: usize) -> impl Strategy<Value = Vec<&'static str>> {
    chosen(from).prop_map(move |some| {
        let kept = from[..keep].iter().filter(|r| !some.contains(r));
        kept.copied().chain(some.iter().copied()).collect()
    })
}

fn worlds() -> impl Strategy<Value = World> {
    let groups = (
        chosen(GROUP_RULES),
        chosen(GROUP_RULES),
        chosen(GROUP_RULES),
    );
    let acls = (
        mostly(ACL_ENTRIES, 2),
        mostly(ACL_ENTRIES, 2),
        mostly(ACL_ENTRIES, 2),
    );
    let tables = (mostly(ROUTES, 3), mostly(ROUTES, 1));
    let flags = (any::<bool>(), any::<bool>(), any::<bool>());
    (groups, acls, tables, flags).prop_map(|((a, b, p), (a1, a2, ap), (ra, rp), flags)| {
        let mut w = world();
        add_prefix_list(&mut w, "pl-1", &["10.0.1.0/24", "203.0.113.0/24"]);
        rules(&mut w, "sg-a", &a);
        rules(&mut w, "sg-b", &b);
        rules(&mut w, "sg-pb", &p);
        acl(&mut w, "acl-a1", &a1);
        acl(&mut w, "acl-a2", &a2);
        acl(&mut w, "acl-ap", &ap);
        routes(&mut w, "rtb-a", &ra);
        routes(&mut w, "rtb-ap", &rp);
        eni(&mut w, "eni-a1").source_dest_check = flags.0;
        eni(&mut w, "eni-ap").source_dest_check = flags.1;
        if flags.2 {
            pcx(&mut w, "pcx-ab").status = PeeringStatus::Deleted;
        }
        w
    })
}

fn packets() -> Vec<Packet> {
    let sources = [
        "10.0.1.11",
        "10.0.1.33",
        "10.0.1.13",
        "10.0.9.11",
        "198.51.100.7",
    ];
    let destinations = [
        "10.0.1.13",
        "10.0.2.11",
        "10.0.9.11",
        "10.0.9.5",
        "10.0.7.7",
        "10.1.1.11",
        "10.2.1.11",
        "198.51.100.7",
        "198.51.100.200",
        "203.0.113.11",
        "169.254.169.254",
        "10.0.0.2",
    ];
    let mut all = Vec::new();
    for src in sources {
        for dst in destinations {
            let (src, dst) = (id(src), id(dst));
            for port in [53, 80, 5432] {
                all.push(Packet::tcp(src, 45000, dst, port));
                all.push(Packet::tcp(src, 1, dst, port));
            }
            all.push(Packet::udp(src, 45000, dst, 53));
            all.push(Packet::ping(src, dst));
            all.push(Packet::icmp(src, dst, 3, 4));
            all.push(Packet::new(src, dst, 47, 0, 0));
        }
    }
    all
}

fn assert_partition(trace: &Trace, flows: &FlowSet) -> Result<(), TestCaseError> {
    let mut seen = FlowSet::empty();
    for part in &trace.parts {
        prop_assert!(!part.flows.is_empty(), "an empty part: {:?}", part.outcome);
        let twice = part.flows.intersect(&seen);
        prop_assert!(twice.is_empty(), "in two parts: {}", twice);
        seen = seen.union(&part.flows);
    }
    let lost = flows.difference(&seen);
    prop_assert!(lost.is_empty(), "lost: {}", lost);
    let made = seen.difference(flows);
    prop_assert!(made.is_empty(), "out of nothing: {}", made);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn parts_are_a_partition(
        world in worlds(),
        from in select(&["eni-a1", "eni-a2", "eni-ap", "eni-b1", "outside"][..]),
    ) {
        let net = Network::new(&world);
        for flows in ["any any -> any", "tcp 10.0.0.0/16:1024-65535 -> any:80,5432",
            "icmp any -> any; udp any -> 198.51.100.0/24"] {
            let flows: FlowSet = id(flows);
            assert_partition(&net.trace(&origin(from), &flows), &flows)?;
        }
    }

    #[test]
    fn a_set_is_traced_as_each_of_its_packets(
        world in worlds(),
        from in select(&["eni-a1", "eni-ap", "outside"][..]),
    ) {
        let net = Network::new(&world);
        let whole = net.trace(&origin(from), &FlowSet::full());
        for packet in packets() {
            let alone = net.trace(&origin(from), &packet.into());
            prop_assert_eq!(alone.parts.len(), 1, "{}", packet);
            let part = whole.part_of(&packet).expect("the parts are a partition");
            prop_assert_eq!(&part.outcome, &alone.parts[0].outcome, "{}", packet);
            prop_assert_eq!(&part.hops, &alone.parts[0].hops, "{}", packet);
        }
    }
}
