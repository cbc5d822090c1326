//! /28 prefixes: how they come, are filled and go; what happens where there are none; nodes that have
//! both kinds.

use ipam::{Blocks, Call, FailureKind, Refusal, Want};

use crate::bed::{
    Bed, NOTHING, SUBNET, by_address, by_prefix, config, eni, ip, prefix, seconds, subnet,
};

/// A node whose primary interface has the prefixes at these addresses.
fn node(config: ipam::Config, firsts: &[u8]) -> Bed {
    let mut bed = Bed::new(config);
    let mut primary = eni("eni-0", Some(0));
    primary.prefixes = firsts.iter().map(|first| prefix(*first)).collect();
    bed.show(&[primary]);
    bed
}

#[test]
fn a_free_prefix_is_kept_and_all_sixteen_addresses_are_pods() {
    let mut bed = node(by_prefix(1), &[]);
    assert_eq!(bed.assign().unwrap().2, Want::Prefixes(1));
    bed.give_prefixes(&[16]);
    assert_eq!(bed.assign(), None);
    let first = bed.add("c0");
    assert_eq!(
        bed.leased(first),
        ip(16),
        "the first address of a prefix is a pod's"
    );
    // 15 addresses are not a whole prefix.
    bed.give_prefixes(&[64]);
    let rest = bed.fill(1..16);
    assert_eq!(rest, (17..32).map(ip).collect::<Vec<_>>());
    assert_eq!(bed.changes.len(), 2);
    let counts = bed.pool.counts();
    assert_eq!(
        (counts.total, counts.available, counts.prefixes),
        (32, 16, 2)
    );
    assert_eq!(bed.pool.most_addresses(), 3 * 5 * 16);
}

#[test]
fn waiting_pods_get_prefixes_for_all_of_them_at_once() {
    let mut bed = Bed::new(by_prefix(1));
    let pods: Vec<_> = (0..20).map(|n| bed.add(&format!("c{n}"))).collect();
    bed.show(&[eni("eni-0", Some(0))]);
    assert_eq!(bed.assign().unwrap().2, Want::Prefixes(3));
    bed.give_prefixes(&[0, 16, 32]);
    assert!(pods.iter().all(|ticket| bed.leased(*ticket) < ip(48)));
}

#[test]
fn the_fullest_prefix_is_filled_first_so_that_others_empty_and_go_whole() {
    let mut bed = node(by_prefix(1), &[16, 32, 48]);
    bed.fill(0..18);
    // 16 of the first, 2 of the second; then the first empties but for one.
    for n in 0..15 {
        bed.delete(&format!("c{n}"));
    }
    bed.pass(seconds(40));
    assert_eq!(
        bed.fill(20..22),
        [ip(34), ip(35)],
        "the second one is the fullest now"
    );
    for n in [15, 16, 17] {
        bed.delete(&format!("c{n}"));
    }
    // The first and the third are free, one is wanted: the one with the highest addresses goes,
    // once its addresses have rested and the surplus has lasted.
    bed.pass(seconds(29));
    assert_eq!(bed.returning(), None);
    bed.pass(seconds(70));
    assert_eq!(bed.returning(), Some(Blocks::Prefixes(vec![prefix(48)])));
    bed.done("UnassignPrivateIpAddresses");
    bed.pass(seconds(600));
    assert_eq!(bed.changes.len(), 1, "the other one is the warm one");
}

#[test]
fn a_prefix_with_a_pod_or_a_resting_address_never_goes() {
    let mut bed = node(by_prefix(1), &[16, 32, 48]);
    bed.fill(0..1);
    bed.pass(seconds(61));
    assert_eq!(bed.returning(), Some(Blocks::Prefixes(vec![prefix(48)])));
    bed.done("UnassignPrivateIpAddresses");
    bed.delete("c0");
    bed.pass(seconds(29));
    let ticket = bed.add("c1");
    assert_eq!(bed.leased(ticket), ip(17), "the released one rests");
    bed.pass(seconds(600));
    assert_eq!(bed.returning(), None);
}

#[test]
fn address_targets_are_met_with_whole_prefixes() {
    let mut warm = NOTHING;
    (warm.ip, warm.minimum) = (3, 20);
    let mut asked = config(warm);
    asked.prefixes = true;
    let mut bed = node(asked, &[]);
    assert_eq!(
        bed.assign().unwrap().2,
        Want::Prefixes(2),
        "20 addresses are 2 prefixes"
    );
    bed.give_prefixes(&[0, 16]);
    bed.fill(0..29);
    assert_eq!(bed.changes.len(), 1, "3 are left");
    bed.fill(29..30);
    assert_eq!(bed.assign().unwrap().2, Want::Prefixes(1));
}

#[test]
fn a_fragmented_subnet_gives_single_addresses_until_it_has_a_prefix_again() {
    let mut bed = node(by_prefix(1), &[]);
    bed.refuse("AssignPrivateIpAddresses", FailureKind::NoPrefix);
    // At once: as many as stand in for a prefix, as far as the interface carries them.
    assert_eq!(bed.assign().unwrap().2, Want::Addresses(5));
    bed.give_addresses(&[4, 9, 14, 77, 78]);
    assert_eq!(bed.fill(0..2), [ip(4), ip(9)]);
    let standing = bed.pool.standing();
    assert_eq!(standing[0].failure.kind.word(), "no-prefix");
    assert_eq!(standing[0].subnet, Some(subnet(SUBNET)));
    assert!(bed.pool.no_prefixes().unwrap().contains("NoPrefix"));
    assert!(
        bed.find(|call| matches!(call, Call::CreateEni { .. }))
            .is_some()
    );
}

#[test]
fn prefixes_are_tried_again_and_single_addresses_go_back() {
    let mut warm = NOTHING;
    warm.ip = 2;
    let mut asked = config(warm);
    asked.prefixes = true;
    let mut bed = node(asked, &[]);
    bed.refuse("AssignPrivateIpAddresses", FailureKind::NoPrefix);
    bed.give_addresses(&[4, 9]);
    bed.fill(0..1);
    bed.give_addresses(&[14]);
    assert_eq!(bed.pool.counts().available, 2);
    let asked = bed.changes.len();
    bed.pass(seconds(14));
    assert_eq!(bed.changes.len(), asked, "not before a back-off");
    bed.pass(seconds(16));
    assert_eq!(bed.assign().unwrap().2, Want::Prefixes(1));
    bed.refuse("AssignPrivateIpAddresses", FailureKind::NoPrefix);
    bed.pass(seconds(29));
    assert_eq!(bed.assign(), None, "the pause grows");
    bed.pass(seconds(31));
    bed.give_prefixes(&[32]);
    assert_eq!(bed.pool.no_prefixes(), None);
    let ticket = bed.add("c1");
    assert_eq!(
        bed.leased(ticket),
        ip(32),
        "prefixes go before what stood in for them"
    );
    bed.pass(seconds(61));
    assert_eq!(
        bed.returning(),
        Some(Blocks::Addresses(vec![ip(9), ip(14)]))
    );
    bed.done("UnassignPrivateIpAddresses");
    bed.delete("c0");
    bed.pass(seconds(100));
    assert_eq!(bed.returning(), Some(Blocks::Addresses(vec![ip(4)])));
}

#[test]
fn a_subnet_without_anything_is_named() {
    let mut bed = node(by_prefix(1), &[]);
    bed.refuse("AssignPrivateIpAddresses", FailureKind::SubnetFull);
    assert_eq!(bed.assign().unwrap().2, Want::Addresses(5));
    // Halved down to one.
    for left in [2, 1] {
        bed.refuse("AssignPrivateIpAddresses", FailureKind::SubnetFull);
        assert_eq!(bed.assign().unwrap().2, Want::Addresses(left));
    }
    bed.refuse("AssignPrivateIpAddresses", FailureKind::SubnetFull);
    assert!(
        bed.calls.is_empty(),
        "a new interface would need even more: {:?}",
        bed.calls
    );
    let ticket = bed.add("c0");
    bed.pass(seconds(21));
    let refusal = bed.refused(ticket);
    assert!(matches!(refusal, Refusal::SubnetFull { .. }), "{refusal}");
    assert!(refusal.to_string().contains(SUBNET));
}

#[test]
fn a_node_that_had_single_addresses_serves_on_and_moves_to_prefixes() {
    let mut bed = Bed::new(by_prefix(1));
    let mut primary = eni("eni-0", Some(0));
    primary.secondary = [4, 5, 6, 7, 8].map(ip).to_vec();
    let pods = [bed.add("c0"), bed.add("c1")];
    bed.show(&[primary]);
    assert_eq!(pods.map(|ticket| bed.leased(ticket)), [ip(4), ip(5)]);
    // All slots are taken, two more interfaces may come: the prefix comes with one of them.
    let create = bed.find(|call| {
        matches!(
            call,
            Call::CreateEni {
                want: Want::Prefixes(1),
                ..
            }
        )
    });
    assert!(create.is_some(), "{:?}", bed.calls);
}

#[test]
fn single_addresses_make_room_where_no_slot_is_left_for_a_prefix() {
    let mut asked = by_prefix(1);
    asked.max_eni = Some(1);
    let mut bed = Bed::new(asked);
    let mut primary = eni("eni-0", Some(0));
    primary.secondary = [4, 5, 6, 7, 8].map(ip).to_vec();
    let pods = [bed.add("c0"), bed.add("c1")];
    bed.show(&[primary]);
    assert!(pods.iter().all(|ticket| bed.leased(*ticket) < ip(6)));
    assert_eq!(bed.returning(), Some(Blocks::Addresses(vec![ip(8)])));
    bed.done("UnassignPrivateIpAddresses");
    bed.give_prefixes(&[32]);
    let ticket = bed.add("c2");
    assert_eq!(bed.leased(ticket), ip(32));
    // The next one costs the next.
    assert_eq!(bed.returning(), Some(Blocks::Addresses(vec![ip(7)])));
}

#[test]
fn a_node_that_had_prefixes_serves_on_and_moves_to_single_addresses() {
    let mut bed = Bed::new(by_address(2));
    let mut primary = eni("eni-0", Some(0));
    primary.prefixes = vec![prefix(16), prefix(32)];
    let first = bed.add("c0");
    bed.show(&[primary]);
    assert_eq!(bed.leased(first), ip(16), "better than to wait");
    bed.give_addresses(&[4, 5]);
    let next = bed.add("c1");
    assert_eq!(bed.leased(next), ip(4));
    bed.give_addresses(&[6]);
    bed.pass(seconds(61));
    assert_eq!(bed.returning(), Some(Blocks::Prefixes(vec![prefix(32)])));
    bed.done("UnassignPrivateIpAddresses");
    bed.delete("c0");
    bed.pass(seconds(100));
    assert_eq!(
        bed.returning(),
        Some(Blocks::Prefixes(vec![prefix(16)])),
        "it drained"
    );
}

#[test]
fn a_type_without_prefixes_takes_single_addresses_and_says_so() {
    let mut bed = Bed::with(by_prefix(1), |facts| ipam::NodeFacts {
        prefixes: false,
        ..facts
    });
    bed.show(&[eni("eni-0", Some(0))]);
    assert!(matches!(bed.assign(), Some((_, _, Want::Addresses(_)))));
    assert!(bed.pool.no_prefixes().unwrap().contains("Nitro"));
}

#[test]
fn what_ec2_shows_of_a_prefix_that_just_went_is_old() {
    let mut bed = node(by_prefix(1), &[16, 32]);
    bed.pass(seconds(61));
    bed.done("UnassignPrivateIpAddresses");
    let mut primary = eni("eni-0", Some(0));
    primary.prefixes = vec![prefix(16), prefix(32)];
    bed.feed(ipam::Event::Imds(
        [(crate::bed::id("eni-x"), ipam::ImdsEni { groups: vec![] })].into(),
    ));
    bed.show(std::slice::from_ref(&primary));
    assert_eq!(bed.pool.counts().prefixes, 1);
    // When its answers can no longer be older than the call, it is ours again.
    bed.pass_showing(seconds(130), &[primary]);
    assert!(
        bed.changes.len() >= 2,
        "taken up, and given back once more: {:?}",
        bed.changes
    );
}
