//! What `why` and `drift` print about a cluster: 15 pods of a Deployment on one node, a group on that
//! node's primary interface alone, Services before the database and before pods.

use advice::{advise, drift, text};
use kube_view::facts::{EnvValue, Kind, ObjectName, Unread};
use reach::ask::{Question, Verdict, ask};
use reach::facts::Inputs;
use reach::noun::parse_destination;
use reach::place::Over;

fn inputs() -> Inputs {
    serde_json::from_str(include_str!("cluster.json")).expect("the fixture is an Inputs")
}

fn question(source: &str, destination: &str) -> Question {
    let (to, service) = parse_destination(destination).expect("a destination");
    Question {
        source: source.parse().expect("a noun"),
        service: reach::target::service_of(&inputs(), &to, service).expect("a service"),
        destination: to,
        over: [Over::Running].into(),
    }
}

fn why(inputs: &Inputs, source: &str, destination: &str) -> String {
    let answer = ask(inputs, &question(source, destination)).expect("an answer");
    let advice = advise(inputs, &answer, None).expect("advice");
    plain(&text::render(inputs, &answer, &advice).expect("text"))
}

/// Without colours.
fn plain(text: &str) -> String {
    let mut plain = String::new();
    let mut escaped = false;
    for c in text.chars() {
        match (escaped, c) {
            (false, '\u{1b}') => escaped = true,
            (true, 'm') => escaped = false,
            (true, _) => {}
            (false, c) => plain.push(c),
        }
    }
    plain
}

#[test]
fn a_deployment_and_the_database() {
    insta::assert_snapshot!(why(&inputs(), "dev/deploy/api", "rds/orders:5432"));
}

#[test]
fn a_service_with_two_endpoints() {
    insta::assert_snapshot!(why(&inputs(), "dev/deploy/api", "dev/svc/mixed"));
}

#[test]
fn what_may_not_be_read_is_unknown() {
    let mut inputs = inputs();
    let cluster = inputs.kubernetes.as_mut().expect("a cluster");
    let reason = "replicasets.apps is forbidden: User \"reader\" cannot list resource".to_owned();
    let right = "list replicasets.apps".to_owned();
    cluster
        .unread
        .insert(Kind::ReplicaSet, Unread { right, reason });
    insta::assert_snapshot!(why(&inputs, "dev/deploy/api", "rds/orders:5432"));
}

#[test]
fn drift_of_a_group_and_of_a_variable() {
    let mut inputs = inputs();
    let cluster = inputs.kubernetes.as_mut().expect("a cluster");
    let set = cluster
        .daemon_sets
        .get_mut(&ObjectName::new("kube-system", "aws-node"));
    let agent = &mut set.expect("the agent's DaemonSet").containers[0];
    agent
        .env
        .insert("WARM_IP_TARGET".to_owned(), EnvValue::Is("5".to_owned()));
    let found = drift::drift(&inputs, Some("dev"));
    insta::assert_snapshot!(plain(&drift::render(&found).expect("text")));
    let document = serde_json::to_value(&found).expect("JSON");
    let schema: serde_json::Value =
        serde_json::from_str(include_str!("../../../docs/schema/drift.v1.json")).expect("a schema");
    let required = schema["required"].as_array().expect("a list");
    let keys = document.as_object().expect("an object");
    assert_eq!(keys.len(), required.len());
    assert!(
        required
            .iter()
            .all(|key| keys.contains_key(key.as_str().expect("a key")))
    );
}

#[test]
fn a_pod_without_its_node_is_unknown_and_not_unreachable() {
    let mut inputs = inputs();
    let gone = inputs.nodes.remove("ip-10-0-0-6").expect("it is there");
    let name = gone.kubernetes.expect("Kubernetes' name");
    inputs
        .unread_nodes
        .insert(name, "EC2 lists no instance of it".to_owned());
    let answer = ask(&inputs, &question("dev/deploy/api", "rds/orders:5432")).expect("an answer");
    assert_eq!(
        (answer.verdict, answer.works, answer.of),
        (Verdict::Unknown, 0, 15)
    );
    assert!(
        answer
            .unknown
            .iter()
            .any(|need| need.contains("EC2 lists no instance")),
        "{:?}",
        answer.unknown
    );
}

#[test]
fn the_host_network_is_not_a_pods() {
    let answer = ask(
        &inputs(),
        &question("kube-system/ds/aws-node", "rds/orders:5432"),
    )
    .expect("an answer");
    assert_eq!(
        (answer.verdict, answer.works, answer.of),
        (Verdict::Sometimes, 1, 2)
    );
    for place in &answer.running {
        assert_eq!(place.device, Some(0), "{}", place.label);
    }
}
