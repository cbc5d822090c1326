//! What `branchline why` prints for the story of the database that answers only sometimes.

use advice::{advise, json, text};
use reach::ask::{Answer, Question, ask};
use reach::facts::{GroupSync, Inputs};
use reach::noun::parse_destination;
use reach::place::Over;

fn inputs() -> Inputs {
    serde_json::from_str(include_str!("../../reach/tests/rds.json"))
        .expect("the fixture is an Inputs")
}

fn why(inputs: &Inputs, over: &[Over]) -> Answer {
    let (destination, service) = parse_destination("rds/orders:5432").expect("a destination");
    let question = Question {
        source: "node/ip-10-0-1-11".parse().expect("a noun"),
        destination,
        service: service.expect("a service"),
        over: over.iter().copied().collect(),
    };
    ask(inputs, &question).expect("an answer")
}

fn rendered(inputs: &Inputs, over: &[Over]) -> String {
    let answer = why(inputs, over);
    let advice = advise(inputs, &answer, None).expect("advice");
    let text = text::render(inputs, &answer, &advice).expect("text");
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
fn sometimes() {
    insta::assert_snapshot!(rendered(&inputs(), &Over::ALL));
}

#[test]
fn repaired_by_group_sync() {
    let mut inputs = inputs();
    let edit = reach::edit::parse(&inputs, "node/ip-10-0-1-11 group-sync = on").expect("an edit");
    edit.apply(&mut inputs).expect("it applies");
    let node = inputs.nodes.values_mut().next().expect("a node");
    node.groups = GroupSync::On {
        pending: Default::default(),
    };
    insta::assert_snapshot!(rendered(&inputs, &Over::ALL));
}

#[test]
fn every_fix_was_tried() {
    let inputs = inputs();
    let answer = why(&inputs, &Over::ALL);
    let advice = advise(&inputs, &answer, None).expect("advice");
    assert!(advice.fixes.len() >= 3, "{:?}", advice.fixes);
    let best = &advice.fixes[0];
    assert_eq!((best.works, best.of, best.next_node), (15, 15, Some(true)));
    assert_eq!(best.nodes_to_replace, 0);
    for fix in &advice.fixes {
        let mut after = inputs.clone();
        for edit in &fix.edits {
            edit.apply(&mut after).expect("a fix applies");
        }
        assert_eq!(
            why(&after, &[Over::Running]).works,
            fix.works,
            "{}",
            fix.title
        );
    }
}

#[test]
fn nothing_is_called_innocent_that_is_the_cause() {
    let mut inputs = inputs();
    let edit =
        reach::edit::parse(&inputs, "sg/add_sg ingress -= tcp/5432 from self").expect("an edit");
    edit.apply(&mut inputs).expect("it applies");
    let answer = why(&inputs, &Over::ALL);
    let advice = advise(&inputs, &answer, None).expect("advice");
    let out: Vec<&str> = advice
        .ruled_out
        .iter()
        .map(|r| r.hypothesis.as_str())
        .collect();
    assert!(
        !out.contains(&"rule and port") && !out.contains(&"self-reference"),
        "{out:?}"
    );
    assert!(out.contains(&"network ACL"), "{out:?}");
}

#[test]
fn json_follows_its_schema() {
    let inputs = inputs();
    let answer = why(&inputs, &Over::ALL);
    let advice = advise(&inputs, &answer, None).expect("advice");
    let document = serde_json::to_value(json::document(&inputs, &answer, &advice)).expect("JSON");
    let schema: serde_json::Value =
        serde_json::from_str(include_str!("../../../docs/schema/why.v1.json")).expect("a schema");
    let required: Vec<&str> = schema["required"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|v| v.as_str())
        .collect();
    let mut keys: Vec<&str> = document
        .as_object()
        .expect("an object")
        .keys()
        .map(String::as_str)
        .collect();
    keys.sort_unstable();
    let mut sorted = required.clone();
    sorted.sort_unstable();
    assert_eq!(keys, sorted, "the schema lists exactly what is printed");
    assert_eq!(document["split"]["scores"]["ENI"], 1.0);
    assert_eq!(document["placements"].as_array().expect("a list").len(), 17);
}
