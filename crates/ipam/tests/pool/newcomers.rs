//! What a new interface costs, and what must be known of its groups before pods get it.

use std::time::Duration;

use ipam::{Answer, AttachmentId, Blocks, Call, EniView, Event, FailureKind, ImdsEni, OpId, Stage};
use settings::WarmTargets;

use crate::bed::{Bed, NOTHING, by_address, config, eni, failure, id, ip, sg};

/// A node whose primary interface is full, and a pod that waits: an interface is being created.
fn creating() -> (Bed, EniView) {
    let mut bed = Bed::new(by_address(0));
    let mut primary = eni("eni-0", Some(0));
    primary.secondary = [4, 5, 6, 7, 8].map(ip).to_vec();
    bed.show(&[primary.clone()]);
    bed.fill(0..5);
    bed.add("c5");
    assert!(bed.create().is_some());
    (bed, primary)
}

/// The new interface as EC2 shows it.
fn second(device: Option<u32>) -> EniView {
    let mut new = eni("eni-1", device);
    new.secondary = [40, 41, 42, 43, 44].map(ip).to_vec();
    new
}

/// EC2 has created it with these groups.
fn created(bed: &mut Bed, groups: &[&str]) {
    let (op, ..) = bed.create().expect("an interface is asked for");
    let mut new = second(None);
    new.groups = groups.iter().map(|group| sg(group)).collect();
    bed.answer(op, Ok(Answer::Created(new)));
}

/// It is attached and set up.
fn attached(bed: &mut Bed) {
    let op = bed.find(|call| matches!(call, Call::AttachEni { .. }));
    let attachment = AttachmentId("attach-eni-1".to_owned());
    bed.answer(
        op.expect("it is attached"),
        Ok(Answer::Attached(attachment)),
    );
    bed.done("interface set-up");
    bed.answer(protection(bed).expect("it is protected"), Ok(Answer::Done));
}

fn protection(bed: &Bed) -> Option<OpId> {
    bed.find(|call| matches!(call, Call::SetDeleteOnTermination { .. }))
}

fn stage(bed: &Bed) -> Stage {
    let new = bed.pool.enis().find(|eni| eni.id == id("eni-1"));
    new.expect("it is there").stage
}

fn asks_ec2(bed: &Bed) -> bool {
    bed.find(|call| matches!(call, Call::Show { .. })).is_some()
}

#[test]
fn a_new_interface_costs_three_calls() {
    let (mut bed, _) = creating();
    let before = bed.changes.len() - 1;
    created(&mut bed, &["sg-a"]);
    attached(&mut bed);
    assert_eq!(stage(&bed), Stage::Grouping, "metadata was not read yet");
    bed.metadata(Ok(&["sg-a"]));
    assert_eq!(stage(&bed), Stage::Ready);
    let actions: Vec<&str> = bed.changes[before..].iter().map(Call::action).collect();
    let expected = [
        "CreateNetworkInterface",
        "AttachNetworkInterface",
        "interface set-up",
        "ModifyNetworkInterfaceAttribute",
    ];
    assert_eq!(actions, expected);
    bed.pass(Duration::from_secs(30));
    assert!(!asks_ec2(&bed) && bed.calls.is_empty(), "{:?}", bed.calls);
    assert_eq!(bed.pool.counts().waiting, 0);
}

#[test]
fn where_metadata_shows_other_groups_of_the_primary_pods_wait_for_ec2() {
    let (mut bed, mut primary) = creating();
    created(&mut bed, &["sg-a"]);
    attached(&mut bed);
    bed.metadata(Ok(&["sg-b"]));
    assert_eq!(stage(&bed), Stage::Grouping);
    primary.groups = vec![sg("sg-b")];
    bed.show(&[primary, second(Some(1))]);
    assert_eq!(
        (stage(&bed), bed.pool.counts().waiting),
        (Stage::Grouping, 1)
    );
    // EC2 takes them: that is its word.
    let set = bed.done("ModifyNetworkInterfaceAttribute");
    let groups = vec![sg("sg-b")];
    let eni = id("eni-1");
    assert_eq!(set, Call::SetGroups { eni, groups });
    assert_eq!((stage(&bed), bed.pool.counts().waiting), (Stage::Ready, 0));
}

#[test]
fn where_metadata_lags_or_cannot_be_read_ec2_says_that_nothing_changed() {
    for answer in [Ok(&["sg-old"][..]), Ok(&[]), Err(FailureKind::Unclear)] {
        let (mut bed, primary) = creating();
        created(&mut bed, &["sg-a"]);
        attached(&mut bed);
        bed.metadata(answer);
        assert_eq!(stage(&bed), Stage::Grouping, "{answer:?}");
        bed.show(&[primary, second(Some(1))]);
        assert_eq!(stage(&bed), Stage::Ready, "{answer:?}");
    }
}

#[test]
fn where_nobody_tells_the_primarys_groups_pods_do_not_wait_for_ever() {
    let (mut bed, _) = creating();
    created(&mut bed, &["sg-a"]);
    attached(&mut bed);
    bed.metadata(Err(FailureKind::Unclear));
    bed.refuse("DescribeNetworkInterfaces", FailureKind::Denied);
    assert_eq!(stage(&bed), Stage::Ready);
}

#[test]
fn one_that_ec2_created_with_other_groups_is_put_right_first() {
    for groups in [&["sg-default"][..], &[]] {
        let (mut bed, _) = creating();
        created(&mut bed, groups);
        attached(&mut bed);
        bed.metadata(Ok(&["sg-a"]));
        assert_eq!(stage(&bed), Stage::Grouping, "{groups:?}");
        bed.done("ModifyNetworkInterfaceAttribute");
        assert_eq!(stage(&bed), Stage::Ready, "{groups:?}");
    }
}

#[test]
fn a_change_while_it_is_created_reaches_it_before_pods_do() {
    let (mut bed, mut primary) = creating();
    let bell = ImdsEni {
        groups: vec![sg("sg-b")],
    };
    bed.feed(Event::Imds([(id("eni-0"), bell)].into()));
    primary.groups = vec![sg("sg-b")];
    bed.show(&[primary]);
    created(&mut bed, &["sg-a"]);
    let op = bed.find(|call| matches!(call, Call::AttachEni { .. }));
    let attachment = AttachmentId("attach-eni-1".to_owned());
    bed.answer(op.expect("attached"), Ok(Answer::Attached(attachment)));
    bed.done("interface set-up");
    assert_eq!(stage(&bed), Stage::Grouping);
    let op = bed.find(|call| matches!(call, Call::SetGroups { .. }));
    bed.answer(op.expect("they are set"), Ok(Answer::Done));
    assert_eq!(stage(&bed), Stage::Ready);
}

#[test]
fn one_that_is_found_waits_for_no_metadata_since_ec2_itself_showed_it() {
    let mut bed = Bed::new(by_address(2));
    let mut left = eni("eni-1", None);
    left.secondary = vec![ip(40), ip(41)];
    left.groups = vec![sg("sg-old")];
    bed.show(&[eni("eni-0", Some(0)), left]);
    attached(&mut bed);
    assert!(
        bed.find(|call| matches!(call, Call::PrimaryGroups))
            .is_none()
    );
    assert_eq!(stage(&bed), Stage::Grouping, "EC2 showed others");
    bed.done("ModifyNetworkInterfaceAttribute");
    assert_eq!(stage(&bed), Stage::Ready);
}

const MOMENT: Duration = Duration::from_millis(30);

/// A node with one free address, on which what is short is gathered for a moment.
fn gathering(warm: WarmTargets) -> Bed {
    let mut asked = config(warm);
    asked.gather = MOMENT;
    let mut bed = Bed::with(asked, |mut facts| {
        facts.limits.ipv4_per_interface = 30;
        facts
    });
    let mut primary = eni("eni-0", Some(0));
    primary.secondary = vec![ip(4)];
    bed.show(&[primary]);
    bed
}

#[test]
fn a_burst_costs_one_call() {
    let mut bed = gathering(WarmTargets { ip: 1, ..NOTHING });
    for n in 0..10 {
        bed.add(&format!("c{n}"));
        bed.pass(Duration::from_millis(2));
        assert_eq!(bed.assign(), None, "more may come");
    }
    bed.pass(MOMENT);
    let (_, _, want) = bed.assign().expect("asked for");
    assert_eq!(want.addresses(), 10, "nine that wait, and a warm one");
    // Those that come meanwhile are asked for together when the answer is there.
    for n in 10..13 {
        bed.add(&format!("c{n}"));
        bed.pass(MOMENT);
    }
    bed.give(Blocks::Addresses((10..20).map(ip).collect()));
    let (_, _, want) = bed.assign().expect("at once");
    assert_eq!(want.addresses(), 3);
    assert_eq!(bed.changes.len(), 2);
}

#[test]
fn a_whole_interface_is_asked_for_at_once() {
    let bed = gathering(WarmTargets { eni: 1, ..NOTHING });
    let asked = bed.assign().map(|(_, _, want)| want.addresses());
    assert_eq!(asked, Some(28));
}

#[test]
fn what_ec2_refused_is_gathered_no_second_time() {
    let mut bed = gathering(WarmTargets { ip: 1, ..NOTHING });
    bed.fill(0..1);
    bed.pass(MOMENT);
    let (op, ..) = bed.assign().expect("asked for");
    let throttled = failure("AssignPrivateIpAddresses", FailureKind::Throttled);
    bed.answer(op, Err(throttled));
    assert!(bed.create().is_some(), "the other way is tried at once");
}
