//! Where interfaces go (`ENABLE_SUBNET_DISCOVERY`), and which ones are the pool's at all.

use ipam::{Blocks, Call, Event, FailureKind, HandsOff, Refusal, SubnetUse, Want};
use settings::WarmTargets;

use crate::bed::{Bed, NOTHING, SUBNET, by_address, config, eni, id, ip, place, seconds, subnet};

fn discovering(warm: WarmTargets) -> ipam::Config {
    let mut config = config(warm);
    config.discovery = true;
    config
}

/// A node with 5 addresses on its primary interface, and so many pods.
fn full(config: ipam::Config, pods: u32) -> (Bed, ipam::EniView) {
    let mut bed = Bed::new(config);
    let mut primary = eni("eni-0", Some(0));
    primary.secondary = [4, 5, 6, 7, 8].map(ip).to_vec();
    for n in 0..pods {
        bed.add(&format!("c{n}"));
    }
    bed.show(std::slice::from_ref(&primary));
    (bed, primary)
}

const ONE: WarmTargets = WarmTargets { ip: 1, ..NOTHING };

#[test]
fn the_subnet_with_the_most_free_addresses_comes_first_and_a_full_one_is_passed_over() {
    let (mut bed, _) = full(discovering(ONE), 6);
    assert_eq!(bed.create(), None, "the zone's subnets are being asked for");
    let why = bed.pool.why_waiting(bed.now).to_string();
    assert!(why.contains("DescribeSubnets"), "{why}");
    bed.show_subnets(&[
        place(SUBNET, 20, SubnetUse::Pods),
        place("subnet-b", 100, SubnetUse::Pods),
        place("subnet-c", 500, SubnetUse::NotTagged),
        place("subnet-d", 900, SubnetUse::Excluded),
    ]);
    let (_, first, want) = bed.create().unwrap();
    assert_eq!((first, want), (subnet("subnet-b"), Want::Addresses(2)));
    bed.refuse("CreateNetworkInterface", FailureKind::SubnetFull);
    assert_eq!(
        bed.create().unwrap().1,
        subnet(SUBNET),
        "others had taken its addresses"
    );
}

#[test]
fn what_went_to_us_is_counted_without_asking_again() {
    let (mut bed, primary) = full(discovering(WarmTargets { ip: 3, ..NOTHING }), 5);
    bed.show_subnets(&[
        place(SUBNET, 20, SubnetUse::Pods),
        place("subnet-b", 23, SubnetUse::Pods),
    ]);
    let mut new = eni("eni-1", None);
    new.secondary = [40, 41, 42].map(ip).to_vec();
    bed.bring(new, 1, &[primary]);
    let left: Vec<u32> = bed.pool.subnets().map(|subnet| subnet.free).collect();
    assert_eq!(left, [20, 19]);
    assert!(
        !bed.calls
            .values()
            .any(|call| matches!(call, Call::ShowSubnets))
    );
}

#[test]
fn interfaces_in_an_excluded_subnet_take_no_new_pods_and_empty() {
    let (mut bed, primary) = full(discovering(ONE), 2);
    bed.show_subnets(&[
        place(SUBNET, 200, SubnetUse::Excluded),
        place("subnet-b", 10, SubnetUse::Pods),
    ]);
    assert_eq!(bed.create().unwrap().1, subnet("subnet-b"));
    let mut new = eni("eni-1", None);
    new.secondary = vec![ip(40)];
    bed.bring(new, 1, &[primary]);
    assert_eq!(bed.fill(2..3), [ip(40)]);
    bed.give_addresses(&[41]);
    bed.pass(seconds(61));
    assert_eq!(
        bed.returning(),
        Some(Blocks::Addresses([6, 7, 8].map(ip).to_vec()))
    );
    bed.done("UnassignPrivateIpAddresses");
    bed.delete("c0");
    bed.pass(seconds(100));
    assert_eq!(
        bed.returning(),
        Some(Blocks::Addresses(vec![ip(4)])),
        "it drains"
    );
    assert!(
        bed.pool.allocation(&crate::bed::key("c1")).is_some(),
        "its pods stay"
    );
}

#[test]
fn a_zone_whose_subnets_are_all_excluded_is_the_reason() {
    let (mut bed, _) = full(discovering(ONE), 5);
    bed.show_subnets(&[place(SUBNET, 200, SubnetUse::Excluded)]);
    let ticket = bed.add("c9");
    let refusal = bed.refused(ticket);
    assert!(matches!(refusal, Refusal::NoSubnet { .. }), "{refusal}");
    assert!(refusal.to_string().contains(SUBNET) && refusal.to_string().contains("role/cni"));
    assert_eq!(refusal.word(), "no-subnet");
}

#[test]
fn without_the_right_to_ask_the_primary_interfaces_subnet_is_used() {
    let (mut bed, _) = full(discovering(ONE), 5);
    bed.refuse("DescribeSubnets", FailureKind::Denied);
    assert_eq!(bed.create().unwrap().1, subnet(SUBNET));
    assert!(
        bed.pool
            .denied()
            .any(|failure| failure.action == "DescribeSubnets")
    );
    let asks = |bed: &Bed| {
        bed.calls
            .values()
            .any(|call| matches!(call, Call::ShowSubnets))
    };
    bed.pass(seconds(29));
    assert!(!asks(&bed));
    bed.pass(seconds(40));
    assert!(asks(&bed), "the right may have been given meanwhile");
}

#[test]
fn interfaces_of_others_are_not_touched_and_shown_with_the_reason() {
    let mut bed = Bed::new(by_address(4));
    let mut tagged = eni("eni-5", Some(1));
    (tagged.hands_off, tagged.ours) = (Some(HandsOff::Tagged), false);
    let mut card = eni("eni-6", Some(1));
    (card.hands_off, card.ours) = (Some(HandsOff::Card(1)), false);
    bed.show(&[eni("eni-0", Some(0)), tagged, card]);
    let why: Vec<_> = bed
        .pool
        .foreign()
        .map(|(eni, f)| (eni.clone(), f.why.to_string()))
        .collect();
    assert_eq!(why.len(), 2);
    assert!(
        why[0].0 == id("eni-5") && why[0].1.contains("no_manage"),
        "{why:?}"
    );
    assert!(
        why[1].0 == id("eni-6") && why[1].1.contains("network card 1"),
        "{why:?}"
    );
    // The one on our card takes one of three places, that on another card none.
    assert_eq!(bed.pool.counts().interfaces_max, 2);
    bed.give_addresses(&[4, 5, 6, 7]);
    bed.fill(0..1);
    bed.give_addresses(&[8]);
    bed.fill(1..2);
    let device = {
        let (op, ..) = bed.create().unwrap();
        let mut new = eni("eni-1", None);
        new.secondary = vec![ip(40)];
        bed.answer(op, Ok(ipam::Answer::Created(new)));
        bed.calls.values().find_map(|call| match call {
            Call::AttachEni { device, .. } => Some(*device),
            _ => None,
        })
    };
    assert_eq!(
        device,
        Some(2),
        "device 1 of card 0 is taken, that of card 1 is another"
    );
}

#[test]
fn untagged_interfaces_are_others_when_asked_to() {
    let mut asked = by_address(1);
    asked.manage_untagged = false;
    let mut bed = Bed::new(asked);
    let mut other = eni("eni-5", Some(1));
    other.ours = false;
    bed.show(&[eni("eni-0", Some(0)), other]);
    let why: Vec<_> = bed.pool.foreign().map(|(_, f)| f.why.clone()).collect();
    assert_eq!(why, [HandsOff::Untagged]);
}

#[test]
fn nothing_is_changed_in_ec2_where_somebody_else_provides() {
    let mut asked = discovering(WarmTargets { eni: 2, ..NOTHING });
    asked.provision = false;
    let (mut bed, primary) = full(asked, 5);
    let mut second = eni("eni-1", Some(1));
    second.secondary = vec![ip(40)];
    second.groups = vec![crate::bed::sg("sg-other")];
    if let Some(attachment) = &mut second.attachment {
        attachment.delete_on_termination = false;
    }
    let late = bed.add("c5");
    assert!(matches!(bed.refused(late), Refusal::Limit { .. }));
    assert!(
        bed.refused(late)
            .to_string()
            .contains("DISABLE_NETWORK_RESOURCE_PROVISIONING")
    );
    // Somebody gives the node another interface: instance metadata shows it, EC2 is asked.
    let imds = [("eni-0", "sg-a"), ("eni-1", "sg-other")].map(|(eni, group)| {
        let groups = vec![crate::bed::sg(group)];
        (id(eni), ipam::ImdsEni { groups })
    });
    bed.feed(Event::Imds(imds.into()));
    bed.show(&[primary.clone(), second.clone()]);
    bed.done("interface set-up");
    let next = bed.add("c6");
    assert_eq!(bed.leased(next), ip(40));
    bed.delete("c6");
    bed.pass_showing(seconds(8_000), &[primary, second]);
    let changes: Vec<_> = bed.changes.iter().map(Call::action).collect();
    assert_eq!(changes, ["interface set-up"]);
}
