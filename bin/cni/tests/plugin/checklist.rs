//! Every line of the checklist is claimed by a test, and no test claims a line that is not there.

use std::collections::BTreeSet;

const SOURCES: [&str; 6] = [
    include_str!("add.rs"),
    include_str!("del.rs"),
    include_str!("check.rs"),
    include_str!("gc.rs"),
    include_str!("status.rs"),
    include_str!("common.rs"),
];

#[test]
fn every_line_of_the_checklist_has_a_test() {
    let checklist = include_str!("../../../../tests/oracles/cni-checklist.json");
    let lines: Vec<serde_json::Value> = serde_json::from_str(checklist).expect("JSON");
    let wanted: BTreeSet<u64> = lines
        .iter()
        .map(|line| line["n"].as_u64().expect("a number"))
        .collect();
    assert_eq!(wanted.len(), 39);
    let claims = SOURCES
        .iter()
        .flat_map(|source| source.split("\nfn line_").skip(1));
    let number = |claim: &str| claim[..2].parse::<u64>().expect("two digits");
    let claimed: BTreeSet<u64> = claims.map(number).collect();
    assert_eq!(claimed, wanted);
}
