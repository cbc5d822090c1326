//! Why a pod has no address: each ceiling by its name, each pause by its reason; and groups set by hand.

use ipam::{Event, FailureKind, GroupState, ImdsEni, Millis, Refusal};
use settings::{GroupDrift, WarmTargets};

use crate::bed::{Bed, NOTHING, by_address, config, eni, failure, id, ip, seconds, sg};

/// A node without a free address that wants one more; so many interfaces may it have.
fn crammed(most: u32) -> Bed {
    let mut asked = config(WarmTargets { ip: 1, ..NOTHING });
    asked.max_eni = Some(most);
    let mut bed = Bed::new(asked);
    let mut primary = eni("eni-0", Some(0));
    primary.secondary = [4, 5, 6, 7, 8].map(ip).to_vec();
    for n in 0..5 {
        bed.add(&format!("c{n}"));
    }
    bed.show(&[primary]);
    bed
}

#[test]
fn each_ceiling_has_its_word_and_its_object() {
    use FailureKind::{AccountEniLimit, Denied, Rejected, SubnetFull, Throttled};
    #[rustfmt::skip]
    let cases = [
        (SubnetFull, "subnet-full", "subnet-a"),
        (AccountEniLimit, "account-interface-limit", "CreateNetworkInterface"),
        (Denied, "denied", "CreateNetworkInterface"),
        (Throttled, "throttled", "CreateNetworkInterface"),
        (Rejected, "rejected", "CreateNetworkInterface"),
    ];
    for (kind, word, object) in cases {
        let mut bed = crammed(3);
        // Until one at a time is refused too.
        let mut tries = 0;
        while bed.create().is_some() && tries < 3 {
            bed.refuse("CreateNetworkInterface", kind);
            tries += 1;
        }
        let obstacle = bed.pool.obstacle().unwrap();
        assert_eq!(obstacle.word(), word, "{kind:?}: {obstacle}");
        assert!(obstacle.to_string().contains(object), "{obstacle}");
        let standing = bed.pool.standing();
        assert_eq!(standing.len(), 1, "{standing:?}");
        assert_eq!(standing[0].failure.kind, kind);
    }
    let mut bed = crammed(1);
    let ticket = bed.add("c9");
    assert_eq!(bed.refused(ticket).word(), "limit");
    assert!(bed.refused(ticket).to_string().contains("MAX_ENI"));
}

#[test]
fn pauses_grow_with_one_reason_and_start_anew_with_another() {
    let mut bed = crammed(3);
    let pause = |bed: &mut Bed, kind| {
        bed.refuse("CreateNetworkInterface", kind);
        let left = bed.pool.standing()[0].left;
        let failures = bed.pool.standing()[0].failures;
        bed.pass(left);
        (left, failures)
    };
    let pauses: Vec<_> = (0..8)
        .map(|_| pause(&mut bed, FailureKind::Throttled))
        .collect();
    assert!(
        pauses[0].0 <= seconds(1) && pauses[7].0 >= seconds(15),
        "{pauses:?}"
    );
    assert!(pauses.iter().all(|(left, _)| *left <= seconds(30)));
    assert_eq!(pauses[7].1, 8);
    assert_eq!(pause(&mut bed, FailureKind::Rejected).1, 1);
    assert_eq!(pause(&mut bed, FailureKind::Throttled).1, 1);
}

#[test]
fn an_action_that_is_denied_beforehand_is_not_tried_and_is_the_reason() {
    let mut bed = Bed::new(by_address(2));
    bed.feed(Event::Denied(vec![
        failure("AssignPrivateIpAddresses", FailureKind::Denied),
        failure("CreateNetworkInterface", FailureKind::Denied),
        failure("DeleteNetworkInterface", FailureKind::Denied),
    ]));
    bed.show(&[eni("eni-0", Some(0))]);
    assert!(bed.changes.is_empty(), "{:?}", bed.changes);
    let denied: Vec<_> = bed.pool.denied().map(|failure| failure.action).collect();
    assert_eq!(
        denied,
        [
            "AssignPrivateIpAddresses",
            "CreateNetworkInterface",
            "DeleteNetworkInterface"
        ]
    );
    // Before any pod waits it is known what the next one is told; and that one is told in time.
    let obstacle = bed.pool.obstacle().unwrap();
    assert_eq!(obstacle.word(), "denied");
    assert!(
        obstacle.to_string().contains("AssignPrivateIpAddresses"),
        "{obstacle}"
    );
    let ticket = bed.add("c0");
    bed.pass(seconds(20));
    assert!(matches!(bed.refused(ticket), Refusal::Ec2 { .. }));
    // It is tried again, and once it works nothing stands in the way any more.
    bed.pass(seconds(20));
    let count = bed.assign().unwrap().2.slots() as u8;
    bed.give_addresses(&(4..4 + count).collect::<Vec<_>>());
    assert!(
        bed.pool
            .denied()
            .all(|failure| failure.action != "AssignPrivateIpAddresses")
    );
    assert_eq!(bed.pool.obstacle(), None);
}

#[test]
fn a_node_that_was_not_found_out_says_so() {
    let mut bed = Bed::empty(by_address(1));
    bed.feed(Event::Unknown {
        reason: "instance metadata does not answer".into(),
    });
    let ticket = bed.add("c0");
    bed.pass(seconds(4));
    assert!(
        bed.refused(ticket)
            .to_string()
            .contains("instance metadata")
    );
}

/// A node with two interfaces whose groups are equal, as EC2 has shown.
fn two_equal(drift: GroupDrift) -> (Bed, [ipam::EniView; 2]) {
    let mut asked = by_address(2);
    asked.group_drift = drift;
    let mut bed = Bed::new(asked);
    let (mut primary, mut second) = (eni("eni-0", Some(0)), eni("eni-1", Some(1)));
    primary.secondary = vec![ip(4)];
    second.secondary = vec![ip(40)];
    bed.show(&[primary.clone(), second.clone()]);
    bed.done("interface set-up");
    assert_eq!(bed.pool.group_state(), GroupState::Equal);
    (bed, [primary, second])
}

/// Instance metadata shows the groups of both; the pool asks EC2.
fn notice(bed: &mut Bed, enis: &[ipam::EniView; 2]) {
    let seen = enis.iter().map(|eni| {
        let groups = eni.groups.clone();
        (eni.id.clone(), ImdsEni { groups })
    });
    bed.feed(Event::Imds(seen.collect()));
    bed.show(enis);
}

#[test]
fn groups_set_by_hand_are_set_back() {
    let (mut bed, mut enis) = two_equal(GroupDrift::Repair);
    enis[1].groups = vec![sg("sg-hand")];
    notice(&mut bed, &enis);
    assert!(matches!(
        bed.pool.group_state(),
        GroupState::Applying { .. }
    ));
    bed.done("ModifyNetworkInterfaceAttribute");
    enis[1].groups = vec![sg("sg-a")];
    bed.pass_showing(seconds(2), &enis);
    assert_eq!(bed.pool.group_state(), GroupState::Equal);
}

#[test]
fn groups_set_by_hand_stay_and_are_shown_where_that_is_asked_for() {
    let (mut bed, mut enis) = two_equal(GroupDrift::Report);
    let changes = bed.changes.len();
    enis[1].groups = vec![sg("sg-hand")];
    notice(&mut bed, &enis);
    bed.pass_showing(seconds(8_000), &enis);
    let shown = [(id("eni-1"), vec![sg("sg-hand")])].into();
    assert_eq!(
        bed.pool.group_state(),
        GroupState::SetByHand { enis: shown }
    );
    assert!(
        bed.changes[changes..]
            .iter()
            .all(|call| call.action() != "ModifyNetworkInterfaceAttribute")
    );
    // A change of the primary's goes to all, and ends it.
    enis[0].groups = vec![sg("sg-b")];
    notice(&mut bed, &enis);
    bed.done("ModifyNetworkInterfaceAttribute");
    enis[1].groups = vec![sg("sg-b")];
    bed.pass_showing(seconds(2), &enis);
    assert_eq!(bed.pool.group_state(), GroupState::Equal);
}

#[test]
fn what_differs_at_the_start_is_set_whoever_did_it() {
    let mut asked = by_address(1);
    asked.group_drift = GroupDrift::Report;
    let mut bed = Bed::new(asked);
    let mut second = eni("eni-1", Some(1));
    second.groups = vec![sg("sg-old")];
    bed.show(&[eni("eni-0", Some(0)), second]);
    assert!(matches!(
        bed.pool.group_state(),
        GroupState::Applying { .. }
    ));
    bed.done("ModifyNetworkInterfaceAttribute");
}

#[test]
fn time_does_not_go_back() {
    let mut bed = Bed::new(by_address(1));
    let mut primary = eni("eni-0", Some(0));
    primary.secondary = vec![ip(4)];
    bed.show(&[primary]);
    bed.fill(0..1);
    bed.delete("c0");
    bed.now = Millis(bed.now.0 - 3_600_000);
    let ticket = bed.add("c1");
    assert!(
        !bed.replies.contains_key(&ticket),
        "it rests, whatever the clock says"
    );
}

#[test]
fn what_can_be_asked_beforehand_is_asked_of_our_own_interfaces() {
    let names =
        |bed: &Bed| -> Vec<&str> { bed.pool.probes().iter().map(ipam::Call::action).collect() };
    let mut bed = Bed::empty(by_address(1));
    assert!(names(&bed).is_empty());
    bed.boot(|facts| facts);
    bed.show(&[eni("eni-0", Some(0))]);
    assert_eq!(
        names(&bed),
        ["CreateNetworkInterface", "AssignPrivateIpAddresses"]
    );
    let mut other = two_equal(GroupDrift::Repair).0;
    assert_eq!(
        names(&other),
        [
            "CreateNetworkInterface",
            "AssignPrivateIpAddresses",
            "ModifyNetworkInterfaceAttribute",
            "AttachNetworkInterface",
            "DetachNetworkInterface",
            "DeleteNetworkInterface",
        ]
    );
    other.feed(Event::Drain);
    let mut provided = by_address(1);
    provided.provision = false;
    let mut bed = Bed::new(provided);
    bed.show(&[eni("eni-0", Some(0))]);
    assert!(
        names(&bed).is_empty(),
        "nothing is changed, so nothing is asked"
    );
}
