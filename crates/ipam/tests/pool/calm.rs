//! What must not happen: calls that take back what the last one did, addresses that come back too early, leases
//! that change hands.

use std::collections::BTreeMap;

use ipam::{Allocation, Blocks, Event, Millis, Pod, Record, Refusal};
use settings::WarmTargets;

use crate::bed::{Bed, NOTHING, by_address, by_prefix, config, eni, ip, key, prefix, seconds};

/// Pods come and go every 20 s for half an hour; returns the calls that it cost.
fn breathe(bed: &mut Bed, top: std::ops::Range<u32>) -> Vec<ipam::Call> {
    let before = bed.changes.len();
    for round in 0..45 {
        for n in top.clone() {
            let ticket = bed.add(&format!("b{round}-{n}"));
            bed.leased(ticket);
        }
        bed.pass(seconds(20));
        for n in top.clone() {
            bed.delete(&format!("b{round}-{n}"));
        }
        bed.pass(seconds(20));
    }
    bed.changes[before..].to_vec()
}

fn fast(mut config: ipam::Config) -> ipam::Config {
    // So that the same few addresses can go round.
    config.cooldown = seconds(5);
    config
}

#[test]
fn pods_that_come_and_go_cost_no_call_with_single_addresses() {
    for warm in [
        WarmTargets { ip: 2, ..NOTHING },
        WarmTargets {
            minimum: 5,
            ..NOTHING
        },
        WarmTargets {
            ip: 2,
            minimum: 5,
            ..NOTHING
        },
        WarmTargets { eni: 0, ..NOTHING },
    ] {
        let mut bed = Bed::new(fast(config(warm)));
        let mut primary = eni("eni-0", Some(0));
        primary.secondary = [4, 5, 6, 7, 8].map(ip).to_vec();
        bed.show(&[primary]);
        let cost = breathe(&mut bed, 0..3);
        assert!(cost.is_empty(), "{warm:?}: {cost:?}");
    }
}

#[test]
fn pods_that_come_and_go_cost_no_call_with_prefixes() {
    for warm in [
        WarmTargets {
            prefix: 1,
            ..NOTHING
        },
        WarmTargets { ip: 14, ..NOTHING },
        WarmTargets {
            minimum: 20,
            ..NOTHING
        },
    ] {
        let mut asked = config(warm);
        asked.prefixes = true;
        let mut bed = Bed::new(fast(asked));
        let mut primary = eni("eni-0", Some(0));
        primary.prefixes = vec![prefix(16), prefix(32)];
        bed.show(&[primary]);
        let cost = breathe(&mut bed, 0..3);
        assert!(cost.is_empty(), "{warm:?}: {cost:?}");
    }
}

#[test]
fn only_what_was_too_much_all_the_while_goes() {
    let mut bed = Bed::new(fast(by_address(1)));
    let mut primary = eni("eni-0", Some(0));
    primary.secondary = [4, 5, 6, 7, 8].map(ip).to_vec();
    bed.show(&[primary]);
    // 4 too many at times, 2 at others.
    bed.pass(seconds(30));
    bed.fill(0..2);
    bed.pass(seconds(10));
    bed.delete("c0");
    bed.delete("c1");
    bed.pass(seconds(21));
    assert_eq!(bed.returning().unwrap().len(), 2);
    bed.done("UnassignPrivateIpAddresses");
    let two = bed.fill(2..4);
    assert_eq!(two.len(), 2);
    assert_eq!(bed.changes.len(), 1 + usize::from(bed.assign().is_some()));
}

#[test]
fn a_resting_address_is_not_available_and_grows_the_pool() {
    let mut bed = Bed::new(by_address(2));
    let mut primary = eni("eni-0", Some(0));
    primary.secondary = [4, 5].map(ip).to_vec();
    bed.show(&[primary]);
    bed.fill(0..1);
    bed.give_addresses(&[6]);
    bed.delete("c0");
    let counts = bed.pool.counts();
    assert_eq!((counts.available, counts.resting, counts.total), (2, 1, 3));
    assert_eq!(bed.fill(1..3), [ip(5), ip(6)], "not the one that rests");
    bed.give_addresses(&[7]);
    bed.give_addresses(&[8]);
    bed.fill(3..5);
    let (op, ..) = bed.create().expect("what rests is no reason not to grow");
    bed.answer(
        op,
        Err(crate::bed::failure(
            "CreateNetworkInterface",
            ipam::FailureKind::Denied,
        )),
    );
    // The next pod waits for the resting one rather than to be refused.
    let ticket = bed.add("c5");
    assert!(
        !bed.replies.contains_key(&ticket) || matches!(bed.refused(ticket), Refusal::Ec2 { .. })
    );
}

#[test]
fn a_restart_does_not_end_the_rest() {
    let mut bed = Bed::empty(by_address(1));
    let released = Millis(bed.now.0 - 10_000);
    bed.feed(Event::Recovered {
        allocations: Vec::new(),
        released: BTreeMap::from([(ip(4), released)]),
        returned: BTreeMap::new(),
    });
    bed.boot(|facts| facts);
    let mut primary = eni("eni-0", Some(0));
    primary.secondary = [4, 5].map(ip).to_vec();
    bed.show(&[primary]);
    assert_eq!(bed.pool.counts().resting, 1);
    assert_eq!(bed.fill(0..1), [ip(5)]);
    bed.give_addresses(&[6]);
    assert_eq!(bed.fill(1..2), [ip(6)]);
    bed.pass(seconds(19));
    assert_eq!(bed.pool.released(), BTreeMap::from([(ip(4), released)]));
    bed.pass(seconds(2));
    assert_eq!(bed.pool.counts().resting, 0);
    assert!(bed.pool.released().is_empty());
}

#[test]
fn the_rest_of_a_prefixs_address_outlives_a_restart_too() {
    let mut bed = Bed::empty(by_prefix(1));
    let released = Millis(bed.now.0 - 10_000);
    bed.feed(Event::Recovered {
        allocations: Vec::new(),
        released: BTreeMap::from([(ip(20), released)]),
        returned: BTreeMap::new(),
    });
    bed.boot(|facts| facts);
    let mut primary = eni("eni-0", Some(0));
    primary.prefixes = vec![prefix(16), prefix(32)];
    bed.show(&[primary]);
    let counts = bed.pool.counts();
    assert_eq!((counts.resting, counts.available), (1, 31));
    let others = bed.fill(0..15);
    assert!(!others.contains(&ip(20)), "{others:?}");
}

#[test]
fn what_was_about_to_go_back_is_not_taken_up_after_a_restart() {
    let mut bed = Bed::empty(by_prefix(1));
    let at = Millis(bed.now.0 - 1_000);
    bed.feed(Event::Recovered {
        allocations: Vec::new(),
        released: BTreeMap::new(),
        returned: Blocks::Prefixes(vec![prefix(16)])
            .addresses()
            .into_iter()
            .map(|a| (a, at))
            .collect(),
    });
    bed.boot(|facts| facts);
    let mut primary = eni("eni-0", Some(0));
    primary.prefixes = vec![prefix(16), prefix(32)];
    bed.show(&[primary]);
    assert_eq!(bed.pool.counts().prefixes, 1);
    assert_eq!(bed.fill(0..1), [ip(32)]);
}

fn pod(uid: &str) -> Pod {
    Pod {
        namespace: "shop".into(),
        name: "db-0".into(),
        uid: uid.into(),
    }
}

#[test]
fn the_same_add_again_has_the_same_result() {
    let mut bed = Bed::new(by_address(3));
    let mut primary = eni("eni-0", Some(0));
    primary.secondary = [4, 5, 6].map(ip).to_vec();
    // Twice while it waits, once after.
    let (a, b) = (bed.add_pod("c0", pod("u1")), bed.add_pod("c0", pod("u1")));
    bed.show(&[primary]);
    let c = bed.add_pod("c0", pod("u1"));
    assert_eq!([a, b, c].map(|ticket| bed.leased(ticket)), [ip(4); 3]);
    assert_eq!(bed.pool.counts().assigned, 1);
}

#[test]
fn a_pod_of_the_same_name_gets_an_address_of_its_own() {
    let mut bed = Bed::new(by_address(3));
    let mut primary = eni("eni-0", Some(0));
    primary.secondary = [4, 5, 6].map(ip).to_vec();
    bed.show(&[primary]);
    let old = bed.add_pod("c0", pod("u1"));
    // Its successor comes before its own DEL does.
    let new = bed.add_pod("c1", pod("u2"));
    assert_ne!(bed.leased(old), bed.leased(new));
    bed.delete("c0");
    let held: Vec<&Allocation> = bed.pool.allocations().collect();
    assert_eq!(held.len(), 1);
    assert_eq!((&held[0].key, held[0].pod.uid.as_str()), (&key("c1"), "u2"));
    let third = bed.add_pod("c2", pod("u3"));
    assert_ne!(
        bed.leased(third),
        bed.leased(old),
        "what was released rests"
    );
    let released = bed
        .records
        .iter()
        .filter(|r| matches!(r, Record::Released { .. }));
    assert_eq!(released.count(), 1);
}

#[test]
fn a_del_of_what_is_not_there_is_answered_as_such_and_changes_nothing() {
    let mut bed = Bed::new(by_address(1));
    bed.show(&[eni("eni-0", Some(0))]);
    let before = bed.records.len();
    bed.delete("nobody");
    let ticket = *bed.replies.keys().last().unwrap();
    assert!(matches!(bed.refused(ticket), Refusal::UnknownPod { .. }));
    assert_eq!(bed.records.len(), before);
}

#[test]
fn pods_that_come_while_an_interface_is_on_its_way_do_not_make_another_one() {
    let mut bed = Bed::new(by_address(1));
    let mut primary = eni("eni-0", Some(0));
    primary.secondary = [4, 5, 6, 7, 8].map(ip).to_vec();
    bed.show(std::slice::from_ref(&primary));
    bed.fill(0..5);
    let late: Vec<_> = (5..8).map(|n| bed.add(&format!("c{n}"))).collect();
    let mut new = eni("eni-1", None);
    new.secondary = vec![ip(40)];
    bed.bring(new, 1, &[primary]);
    // It serves, and is asked for what came meanwhile.
    bed.give_addresses(&[41, 42, 43]);
    assert!(late.iter().all(|ticket| bed.leased(*ticket) >= ip(40)));
    let creates = bed
        .changes
        .iter()
        .filter(|call| call.action() == "CreateNetworkInterface");
    assert_eq!(creates.count(), 1);
    // More than it carries is another matter.
    let more: Vec<_> = (8..12).map(|n| bed.add(&format!("c{n}"))).collect();
    assert!(bed.create().is_some() && !bed.replies.contains_key(more.last().unwrap()));
}
