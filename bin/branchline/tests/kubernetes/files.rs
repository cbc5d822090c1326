//! A snapshot answers as the live cluster did, and holds no secret.

use serde_json::Value;

use crate::world;

/// An answer without what changes from one reading to the next.
fn settled(mut answer: Value) -> Value {
    answer.as_object_mut().unwrap().remove("evidence");
    answer
}

#[test]
fn a_snapshot_answers_as_the_cluster_did() {
    let world = world();
    let file = world.plane.dir.path().join("snapshot.json");
    let path = file.to_str().unwrap();
    world
        .tool("operator", &["snapshot", "-o", path])
        .ends(0)
        .says(&["2 nodes", "20 running pods"]);
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(
        !text.contains("do-not-keep"),
        "a variable of a pod, or a secret of the agent, was kept"
    );
    for question in [
        &["why", "dev/deploy/api", "rds/orders:5432"][..],
        &["why", "dev/deploy/api", "dev/svc/mixed:5432"],
        &["why", "dev/deploy/api", "apiserver"],
        &["who-is", "dev/deploy/api"],
        &["drift"],
    ] {
        let live = world.tool("operator", &[question, &["-o", "json"]].concat());
        let offline = world.tool_offline(&[question, &["-o", "json", "--snapshot", path]].concat());
        assert_eq!(offline.code, live.code, "{question:?}: {}", offline.err);
        assert_eq!(
            settled(offline.json()),
            settled(live.json()),
            "{question:?}"
        );
    }
    let evidence = world
        .tool_offline(&[
            "why",
            "dev/deploy/api",
            "apiserver",
            "-o",
            "json",
            "--snapshot",
            path,
        ])
        .json();
    assert!(evidence["evidence"].to_string().contains("resourceVersion"));
}

#[test]
fn what_is_no_snapshot_is_refused() {
    let world = world();
    let file = world.plane.dir.path().join("other.json");
    let why = [
        "why",
        "dev/deploy/api",
        "apiserver",
        "--snapshot",
        file.to_str().unwrap(),
    ];
    world.tool_offline(&why).ends(5).says(&["No such file"]);
    for (text, says) in [
        ("{}", "missing field"),
        (
            r#"{"schema": "branchline/snapshot/v9", "written_by": "branchline 9", "taken": "x", "inputs": {}}"#,
            "v9",
        ),
    ] {
        std::fs::write(&file, text).unwrap();
        world
            .tool_offline(&why)
            .ends(2)
            .says(&["is not a snapshot", says]);
    }
}
