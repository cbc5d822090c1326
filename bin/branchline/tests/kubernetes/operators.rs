//! `capacity`, `status` and `bundle` on a real API server and the embedded EC2.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use serde_json::{Value, json};

use crate::{World, agent, build, runtime, world};

fn short(world: &World, number: usize) -> String {
    let name = &world.machines[number].name;
    name.split('.').next().unwrap().to_owned()
}

#[test]
fn capacity_names_the_ceiling() {
    let world = world();
    // 15 pods on one node, 3 on the other: 12 more of each node's 15.
    let told = world.tool("operator", &["capacity", "-o", "json"]);
    let answer = told.ends(0).json();
    assert_eq!(
        (&answer["verdict"], &answer["pods"], &answer["room"]),
        (&json!("room"), &json!(18), &json!(12)),
        "{answer:#}"
    );
    // kubelet's 17 pods leave 16: only the agent is on the host's network here.
    assert_eq!(answer["binds"], "interfaces");
    // What EC2 counts as free is what its interfaces leave.
    assert_eq!(answer["subnets"][0]["told"], Value::Null, "{answer:#}");
    let fits = ["capacity", "--add", "deploy/web x12"];
    world
        .tool("operator", &fits)
        .ends(0)
        .says(&["FITS", "12 of 12"]);
    let more = ["capacity", "--add", "deploy/web x13"];
    world.tool("operator", &more).ends(1).says(&[
        "DOES NOT FIT",
        "binds first: ENI × IP",
        "1 node more of t3.medium",
        "error[BL0501]",
    ]);
    world
        .tool("operator", &["capacity", "--add", "web"])
        .ends(2)
        .says(&["NAME xCOUNT"]);
    world
        .tool("nobody", &["capacity"])
        .ends(3)
        .says(&["UNKNOWN", "list pods", "list nodes"]);
    world
        .tool("operator", &["explain", "BL0503"])
        .ends(0)
        .says(&["fragmented"]);
}

#[test]
fn status_puts_the_three_side_by_side() {
    let world = world();
    let (first, second) = (short(&world, 0), short(&world, 1));
    let ask = |node: &str, more: &[&str]| {
        let node = format!("node/{node}");
        world.tool(
            "operator",
            &[&["status", &node, "-o", "json"], more].concat(),
        )
    };
    // Nobody asked the agent.
    let alone = ask(&second, &[]).ends(3).json();
    assert_eq!(alone["verdict"], "unknown");
    assert!(
        alone["unknown"]
            .to_string()
            .contains("believed: the agent was not asked"),
        "{alone:#}"
    );
    // It says what is so, but for the node on which somebody attached a group by hand.
    let url = agent::serve(agent::pages(&world.machines[0], "api", 15));
    let told = ask(&first, &["--node", &format!("{first}={url}")])
        .ends(1)
        .json();
    assert_eq!(told["differences"], json!([]), "{told:#}");
    assert_eq!(told["groups"][0]["code"], "BL0301");
    assert_eq!(told["interfaces"][1]["groups_equal"], false);
    assert_eq!(told["addresses"].as_array().unwrap().len(), 15);
    // The fixture's pods of the other node have the first address of each interface.
    let url = agent::serve(agent::pages(&world.machines[1], "web", 1));
    let wrong = ask(&second, &["--node", &format!("{second}={url}")])
        .ends(1)
        .json();
    let differences = wrong["differences"].as_array().unwrap();
    let kinds: Vec<&Value> = differences.iter().map(|d| &d["what"]).collect();
    assert_eq!(kinds, ["leases"], "{wrong:#}");
    // An agent that is gone.
    let gone = ask(
        &second,
        &["--node", &format!("{second}=http://127.0.0.1:9")],
    );
    gone.ends(3)
        .says(&["believed: ", "is the agent running and its port forwarded?"]);
    world
        .tool("operator", &["status", "dev/deploy/api"])
        .ends(2)
        .says(&["is not a node"]);
    world
        .tool("operator", &["status", "node/nothing"])
        .ends(2)
        .says(&["nothing"]);
}

#[test]
fn a_support_file_holds_no_secret_and_says_what_it_lacks() {
    // A cluster of its own: secrets are planted in it.
    let world = runtime().block_on(build());
    let planted = "planted-where-nobody-should-look";
    let patch = json!({"metadata": {"annotations": {"note": format!("{planted}-1")}}});
    runtime().block_on(async {
        for path in [
            "/apis/apps/v1/namespaces/kube-system/daemonsets/aws-node",
            "/api/v1/namespaces/kube-system/pods/aws-node-0",
            "/api/v1/namespaces/dev/pods/api-7c9-0",
        ] {
            world.plane.call("PATCH", path, Some(&patch)).await;
        }
        let event = json!({
            "metadata": {"name": "e1", "namespace": "dev"},
            "involvedObject": {"kind": "Pod", "namespace": "dev", "name": "late"},
            "reason": "FailedCreatePodSandBox", "type": "Warning", "count": 3,
            "message": format!("failed to assign an IP address to container; password={planted}-2, env do-not-keep"),
        });
        let path = "/api/v1/namespaces/dev/events";
        world.plane.create(vec![(path.to_owned(), event)]).await;
    });
    let first = short(&world, 0);
    let mut pages = agent::pages(&world.machines[0], "api", 15);
    let state = pages.get_mut("/state").unwrap();
    state["reason"] = json!(format!("Authorization: Bearer {planted}-3"));
    let url = agent::serve(pages);
    let at = world.plane.dir.path().join("incident.tar.gz");
    let file = at.to_str().unwrap();
    let node = format!("{first}={url}");
    // No kubelet runs here, so there are no logs; the operator may not read events either.
    let less = world.tool("operator", &["bundle", file, "--node", &node]);
    less.ends(3).says(&[
        "not in it: cluster/events.jsonl",
        "needs: list events",
        "get pods/log",
    ]);
    let told = world.tool("admin", &["bundle", file, "--node", &node]);
    told.ends(3).says(&["aws-node.log", "get pods/proxy"]);
    assert!(!told.err.contains("events.jsonl"), "{}", told.err);
    let mode = std::fs::metadata(&at).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(!at.with_extension("gz.part").exists());

    let out = world.plane.dir.path().join("unpacked");
    std::fs::create_dir(&out).unwrap();
    let tar = Command::new("tar")
        .args(["xzf", file, "-C"])
        .arg(&out)
        .status();
    assert!(tar.unwrap().success());
    let root = out.join("branchline-bundle");
    let read = |name: &str| {
        let path = root.join(name);
        std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{name}: {e}"))
    };
    let manifest: Value = serde_json::from_str(&read("manifest.json")).unwrap();
    assert_eq!(manifest["schema"], "branchline/bundle/v1");
    let names: Vec<String> = manifest["files"]
        .as_array()
        .unwrap()
        .iter()
        .map(|f| f["name"].as_str().unwrap().to_owned())
        .collect();
    for name in [
        "snapshot.json",
        "versions.json",
        "cluster/daemonset-aws-node.yaml",
        "cluster/events.jsonl",
        "answers/drift.json",
        "answers/capacity.json",
        &format!("answers/status-{first}.json"),
        &format!("nodes/{first}/state.json"),
        &format!("nodes/{first}/v1/enis.json"),
        &format!("nodes/{first}/pod.yaml"),
    ] {
        assert!(
            names.iter().any(|n| n == name),
            "{name} is not in {names:?}"
        );
    }
    for name in &names {
        let text = read(name);
        for secret in [planted, "do-not-keep"] {
            assert!(!text.contains(secret), "{name} holds {secret}");
        }
    }
    assert!(read("cluster/events.jsonl").contains("failed to assign an IP address"));
    assert!(read("cluster/daemonset-aws-node.yaml").contains("WARM_IP_TARGET"));
    assert!(read(&format!("nodes/{first}/state.json")).contains("branchline 0.1.0"));
    // The snapshot in it answers.
    let inside = root.join("snapshot.json");
    let ask = [
        "status",
        &format!("node/{first}"),
        "--snapshot",
        inside.to_str().unwrap(),
    ];
    world.tool_offline(&ask).ends(1).says(&["BL0301"]);
    // Without AWS there is a file too, and it says so.
    let other = world.plane.dir.path().join("no-aws.tar.gz");
    let told = world.tool_at(
        "http://127.0.0.1:9",
        "admin",
        &["bundle", other.to_str().unwrap()],
    );
    told.ends(3)
        .says(&["not in it: EC2 and the cluster's objects"]);
    assert!(other.exists());
    world
        .tool("admin", &["bundle", "/nowhere/at/all.tar.gz"])
        .ends(5)
        .says(&["the support file /nowhere/at/all.tar.gz"]);
}
