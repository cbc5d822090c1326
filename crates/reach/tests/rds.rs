//! The story of the database that answers only sometimes, on the model alone.

use std::collections::BTreeSet;

use reach::ask::{Answer, Question, Verdict, ask};
use reach::blast::blast;
use reach::edit;
use reach::facts::{GroupSync, Inputs};
use reach::node::NodeStep;
use reach::noun::parse_destination;
use reach::place::Over;
use reach::trace::Outcome;
use vpc::facts::{Kind, SgId, Unread};
use vpc::path::DropReason;

fn inputs() -> Inputs {
    serde_json::from_str(include_str!("rds.json")).expect("the fixture is an Inputs")
}

fn question(source: &str, destination: &str, over: &[Over]) -> Question {
    let (to, service) = parse_destination(destination).expect("a destination");
    Question {
        source: source.parse().expect("a noun"),
        destination: to,
        service: service.expect("a service"),
        over: over.iter().copied().collect(),
    }
}

fn why(inputs: &Inputs, destination: &str, over: &[Over]) -> Answer {
    ask(inputs, &question("node/ip-10-0-1-11", destination, over)).expect("an answer")
}

fn what_if(text: &str) -> Inputs {
    let mut inputs = inputs();
    let edit = edit::parse(&inputs, text).expect(text);
    edit.apply(&mut inputs).expect(text);
    inputs
}

#[test]
fn five_of_fifteen_split_by_eni() {
    let answer = why(&inputs(), "rds/orders:5432", &Over::ALL);
    assert_eq!(
        (answer.verdict, answer.works, answer.of),
        (Verdict::Sometimes, 5, 15)
    );
    let split = answer.split.expect("they differ");
    assert_eq!(split.attribute, Some("ENI"));
    let node = split
        .scores
        .iter()
        .find(|s| s.attribute == "node")
        .expect("scored");
    assert!(node.score < 0.001);
    let outcomes: BTreeSet<String> = answer
        .future
        .iter()
        .map(|p| format!("{:?}", p.outcome))
        .collect();
    assert!(
        outcomes.iter().any(|o| o.contains("t3.medium: 3 ENIs")),
        "{outcomes:?}"
    );
    assert_eq!(
        answer.future[1].outcome.blocked_by(),
        Some(DropReason::GroupIngress)
    );
    assert_eq!(answer.future[1].weight, 15);
}

#[test]
fn each_pod_leaves_by_the_eni_that_owns_its_address() {
    let answer = why(&inputs(), "rds/orders:5432", &[Over::Running]);
    for place in &answer.running {
        let Some(NodeStep::Leaves { eni, .. }) = &place.path.node else {
            panic!("{}: {:?}", place.label, place.path.node);
        };
        assert_eq!(Some(eni), place.eni.as_ref(), "{}", place.label);
    }
}

#[test]
fn a_rule_for_a_group_that_all_enis_have_makes_it_always() {
    let after = what_if("sg/add_sg ingress += tcp/5432 from sg/nodes");
    let answer = why(&after, "rds/orders:5432", &Over::ALL);
    assert_eq!((answer.verdict, answer.works), (Verdict::Always, 15));
    assert!(answer.future[1].outcome.works(), "the next node too");
    let radius = blast(&inputs(), &after);
    let [opens] = radius.opens.as_slice() else {
        panic!("{radius:?}")
    };
    assert_eq!(opens.services, ["tcp/5432"]);
    assert_eq!(
        opens.on.len(),
        2,
        "add_sg is on the database and on the node's primary ENI"
    );
    assert_eq!(opens.nodes.primary, 1);
    assert!(radius.closes.is_empty());
}

#[test]
fn removing_the_rule_makes_it_never_and_closes_something() {
    let after = what_if("sg/add_sg ingress -= tcp/5432 from self");
    assert_eq!(
        why(&after, "rds/orders:5432", &[Over::Running]).verdict,
        Verdict::Never
    );
    assert_eq!(blast(&inputs(), &after).closes.len(), 1);
    let gone = edit::parse(&after, "sg/add_sg ingress -= tcp/5432 from self").expect("it parses");
    assert!(
        gone.apply(&mut after.clone()).is_err(),
        "there is no such rule any more"
    );
}

#[test]
fn group_sync_repairs_the_node_and_not_the_next_one() {
    let after = what_if("node/ip-10-0-1-11 group-sync = on");
    assert_eq!(
        why(&after, "rds/orders:5432", &Over::ALL).verdict,
        Verdict::Always
    );
    let next = why(&after, "rds/orders:5432", &[Over::NextNode]);
    assert_eq!((next.verdict, next.works, next.of), (Verdict::Never, 0, 15));
}

#[test]
fn the_next_eni_is_a_question_of_the_engine() {
    let mut inputs = inputs();
    inputs
        .limits
        .get_mut("t3.medium")
        .expect("known")
        .interfaces = 4;
    assert_eq!(
        why(&inputs, "rds/orders:5432", &[Over::NextEni]).verdict,
        Verdict::Never
    );
    let node = inputs.nodes.get_mut("ip-10-0-1-11").expect("known");
    node.groups = GroupSync::On {
        pending: BTreeSet::new(),
    };
    assert_eq!(
        why(&inputs, "rds/orders:5432", &[Over::NextEni]).verdict,
        Verdict::Always
    );
    inputs.nodes.get_mut("ip-10-0-1-11").expect("known").groups = GroupSync::Unknown;
    assert_eq!(
        why(&inputs, "rds/orders:5432", &[Over::NextEni]).verdict,
        Verdict::Unknown
    );
}

#[test]
fn what_could_not_be_read_is_unknown_and_named() {
    let mut inputs = inputs();
    inputs.world.acls.clear();
    let reason =
        "UnauthorizedOperation: You are not authorized to perform this operation.".to_owned();
    let denied = Unread {
        action: "ec2:DescribeNetworkAcls".to_owned(),
        reason,
    };
    inputs.world.unread.insert(Kind::Acls, denied);
    let answer = why(&inputs, "rds/orders:5432", &[Over::Running]);
    assert_eq!(answer.verdict, Verdict::Unknown);
    assert!(
        answer.unknown[0].contains("ec2:DescribeNetworkAcls"),
        "{:?}",
        answer.unknown
    );
}

#[test]
fn leaving_the_vpc_is_unknown_because_of_snat() {
    let answer = why(&inputs(), "198.51.100.7:443", &[Over::Running]);
    assert_eq!(answer.verdict, Verdict::Unknown);
    assert!(
        answer.unknown[0].contains("node SNAT not modelled yet"),
        "{:?}",
        answer.unknown
    );
}

#[test]
fn pods_of_one_node_meet_no_security_group() {
    let answer = why(&inputs(), "pod/api-15:8080", &[Over::Running]);
    let local = |p: &&reach::ask::Placement| matches!(p.path.node, Some(NodeStep::Local { .. }));
    assert_eq!(answer.running.iter().filter(local).count(), 15);
    assert_eq!(answer.verdict, Verdict::Always);
}

#[test]
fn an_address_that_ec2_does_not_know_is_unknown() {
    let mut inputs = inputs();
    let eni = inputs
        .world
        .enis
        .values_mut()
        .find(|e| e.id.as_str() == "eni-0a3")
        .expect("known");
    eni.addresses.truncate(1);
    let answer = why(&inputs, "rds/orders:5432", &[Over::Running]);
    assert_eq!(answer.verdict, Verdict::Unknown);
    let unknown = answer
        .running
        .iter()
        .filter(|p| matches!(p.outcome, Outcome::Unknown { .. }));
    assert_eq!(unknown.count(), 5);
}

#[test]
fn names_must_exist_and_be_unique() {
    let inputs = inputs();
    let asked = |source: &str| {
        ask(
            &inputs,
            &question(source, "rds/orders:5432", &[Over::Running]),
        )
    };
    assert!(asked("pod/nobody").is_err_and(|e| e.to_string().contains("default/api-1")));
    assert!(asked("pod/api").is_err_and(|e| e.to_string().contains("ambiguous")));
    assert!(asked("10.9.9.9").is_err_and(|e| e.to_string().contains("belongs to no interface")));
    assert!(edit::parse(&inputs, "sg/nobody ingress += tcp/1 from sg/nodes").is_err());
    assert!(edit::parse(&inputs, "sg/nodes ingress += tcp/x from sg/nodes").is_err());
    let group: SgId = "sg-nodes".parse().expect("an id");
    let edit = edit::parse(&inputs, "sg/nodes egress += udp/53 to 10.0.0.0/8").expect("an edit");
    assert_eq!(
        edit.to_string(),
        format!("sg/{group} egress += udp/53 to 10.0.0.0/8")
    );
}
