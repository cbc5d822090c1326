//! `why` and `who-is` about workloads, Services and the API server.

use serde_json::json;

use crate::world;

#[test]
fn a_deployment_reaches_the_database_from_one_interface_only() {
    let world = world();
    let told = world.tool(
        "operator",
        &["why", "dev/deploy/api", "rds/orders:5432", "-o", "json"],
    );
    let answer = told.ends(1).json();
    assert_eq!(
        (&answer["verdict"], &answer["works"], &answer["of"]),
        (&json!("SOMETIMES"), &json!(5), &json!(15))
    );
    assert_eq!(answer["split"]["attribute"], "ENI");
    let running = answer["placements"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|p| p["over"] == "running");
    let primary = &world.machines[0].enis[0].0;
    for place in running {
        assert_eq!(
            place["result"] == "works",
            place["eni"] == json!(primary),
            "{place}"
        );
    }
    let evidence: Vec<&str> = answer["evidence"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|e| e["source"].as_str())
        .collect();
    assert!(
        evidence.contains(&"k8s") && evidence.contains(&"aws"),
        "{evidence:?}"
    );
    let text = world.tool("operator", &["why", "dev/deploy/api", "rds/orders:5432"]);
    text.ends(1).says(&[
        "SOMETIMES",
        "dev/deploy/api → rds/orders",
        "5 of 15 running pods",
        "BL0301",
    ]);
}

#[test]
fn names_may_be_shortened_where_they_are_unique() {
    let world = world();
    world
        .tool(
            "operator",
            &["why", "deploy/we", "rds/orders:5432", "--over", "running"],
        )
        .ends(1)
        .says(&["0 of 3"]);
    let several = world.tool("operator", &["why", "deploy/api", "rds/orders:5432"]);
    several.ends(2).says(&["ambiguous", "dev/api", "other/api"]);
    let none = world.tool(
        "operator",
        &["why", "dev/deploy/nothing", "rds/orders:5432"],
    );
    none.ends(2).says(&["no deployment", "dev/web"]);
    // It exists and runs nowhere: nothing can be said.
    let idle = world.tool(
        "operator",
        &[
            "why",
            "other/deploy/api",
            "rds/orders:5432",
            "--over",
            "running",
        ],
    );
    idle.ends(3).says(&["no running pod"]);
}

#[test]
fn a_service_is_a_question_about_each_ready_endpoint() {
    let world = world();
    let told = world.tool(
        "operator",
        &[
            "why",
            "dev/deploy/api",
            "dev/svc/web",
            "--over",
            "running",
            "-o",
            "json",
        ],
    );
    let answer = told.ends(0).json();
    assert_eq!(answer["verdict"], "ALWAYS");
    assert_eq!(answer["destination"]["service"], "tcp/80");
    let targets = answer["destination"]["targets"].as_array().unwrap();
    assert_eq!(targets.len(), 2, "the third is not ready: {targets:?}");
    assert_eq!(targets[0]["service"], json!({"tcp": 8080}));
    assert_eq!(answer["destination"]["via"]["not_ready"], 1);

    let told = world.tool(
        "operator",
        &[
            "why",
            "dev/deploy/api",
            "dev/svc/mixed:5432",
            "--over",
            "running",
            "-o",
            "json",
        ],
    );
    let answer = told.ends(1).json();
    assert_eq!(
        (&answer["verdict"], &answer["works"], &answer["of"]),
        (&json!("SOMETIMES"), &json!(5), &json!(15))
    );
    let partly = answer["placements"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|p| p["result"] == "partly");
    assert_eq!(partly.count(), 10);
    let text = world.tool(
        "operator",
        &[
            "why",
            "dev/deploy/api",
            "dev/svc/mixed:5432",
            "--over",
            "running",
        ],
    );
    text.ends(1).says(&[
        "kube-proxy rewrites",
        "2 ready endpoints",
        "10 reach some of the endpoints",
        "5/15",
        "15/15",
    ]);

    world
        .tool(
            "operator",
            &[
                "why",
                "dev/deploy/api",
                "dev/svc/empty:80",
                "--over",
                "running",
            ],
        )
        .ends(1)
        .says(&["NEVER", "no endpoint"]);
    world
        .tool("operator", &["why", "dev/deploy/api", "dev/svc/web:81"])
        .ends(2)
        .says(&["no port tcp/81", "tcp/80"]);
    // An address of a Service is the Service.
    let ip = world
        .tool("operator", &["who-is", "dev/svc/orders", "-o", "json"])
        .ends(0)
        .json();
    let ip = ip["service"]["cluster_ip"].as_str().unwrap().to_owned();
    let told = world.tool(
        "operator",
        &[
            "why",
            "dev/deploy/api",
            &format!("{ip}:5432"),
            "--over",
            "running",
        ],
    );
    told.ends(1).says(&["dev/svc/orders", "5 of 15"]);
}

#[test]
fn the_api_server_is_reached_through_its_interfaces() {
    let world = world();
    let told = world.tool(
        "operator",
        &[
            "why",
            "dev/deploy/api",
            "apiserver",
            "--over",
            "running",
            "-o",
            "json",
        ],
    );
    let answer = told.ends(0).json();
    assert_eq!(
        answer["destination"]["targets"][0]["address"],
        json!(world.cloud.control_plane)
    );
    assert!(answer["destination"]["targets"][0]["eni"].is_string());
}

#[test]
fn pods_on_the_hosts_network_are_the_node() {
    let world = world();
    let told = world.tool(
        "operator",
        &[
            "why",
            "kube-system/ds/aws-node",
            "rds/orders:5432",
            "--over",
            "running",
            "-o",
            "json",
        ],
    );
    let answer = told.ends(1).json();
    assert_eq!(
        (&answer["works"], &answer["of"]),
        (&json!(1), &json!(2)),
        "{answer:#}"
    );
    let who = world
        .tool(
            "operator",
            &["who-is", "kube-system/pod/aws-node-0", "-o", "json"],
        )
        .ends(0)
        .json();
    assert_eq!(who["address"], json!(world.machines[0].address));
    assert_eq!(who["workload"], "kube-system/ds/aws-node");
    // They are not counted among the node's pods.
    let node = world.tool(
        "operator",
        &[
            "why",
            &format!("node/{}", world.machines[0].name),
            "rds/orders:5432",
            "--over",
            "running",
        ],
    );
    node.says(&["5 of 15"]);
}

#[test]
fn who_is_a_pod_and_back() {
    let world = world();
    let address = world.machines[0].enis[1].1[0].to_string();
    let told = world.tool("operator", &["who-is", &address]);
    told.ends(0).says(&[
        "dev/api-7c9-5",
        "dev/deploy/api",
        &world.machines[0].enis[1].0,
        "resourceVersion",
        "nodes",
    ]);
    world
        .tool("operator", &["who-is", "dev/deploy/web"])
        .ends(0)
        .says(&["dev/web-7c9-2", &world.machines[1].enis[2].0]);
}
