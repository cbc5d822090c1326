//! `drift`: each difference is found, named and gone again; without one there is none.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::{IMAGE, World, build, objects, runtime};

fn kinds(document: &Value) -> Vec<String> {
    let differences = document["differences"].as_array().unwrap();
    differences
        .iter()
        .map(|d| d["what"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn each_difference_is_found() {
    // A cluster of its own: it is changed.
    let world: Arc<World> = Arc::new(runtime().block_on(build()));
    let drift = |world: &World| world.tool("operator", &["drift", "-o", "json"]);
    let daemon_set = "/apis/apps/v1/namespaces/kube-system/daemonsets/aws-node";
    runtime().block_on(async {
        // No controller runs here: it has acted on what there is.
        let status = json!({"status": {"observedGeneration": 1}});
        world
            .plane
            .call("PATCH", &format!("{daemon_set}/status"), Some(&status))
            .await;
    });
    let first = drift(&world).ends(1).json();
    assert_eq!(kinds(&first), Vec::<String>::new(), "{first:#}");
    assert_eq!(
        first["groups"][0]["code"], "BL0301",
        "add_sg was attached by hand"
    );
    assert!(
        first["groups_verdict"]
            .as_str()
            .unwrap()
            .contains("by hand")
    );

    // kubectl set env daemonset aws-node WARM_IP_TARGET=5
    let env = objects::agent_env(&[("WARM_IP_TARGET", "5")]);
    let (_, mut changed) = objects::agent_daemon_set(IMAGE, &env);
    let containers = changed["spec"]["template"]["spec"]["containers"].take();
    let patch = json!({"spec": {"template": {"spec": {"containers": containers}}}});
    runtime().block_on(world.plane.call("PATCH", daemon_set, Some(&patch)));
    let after = drift(&world).ends(1).json();
    assert_eq!(kinds(&after), ["outdated_pod", "not_observed"]);
    let pods = &after["differences"][0];
    assert_eq!(
        pods["objects"].as_array().unwrap().len(),
        2,
        "both nodes, told once"
    );
    assert_eq!(
        pods["lines"],
        json!(["WARM_IP_TARGET: DaemonSet \"5\", this pod \"2\""])
    );

    // The pods are replaced, the group is taken off: nothing is left.
    runtime().block_on(async {
        let status = json!({"status": {"observedGeneration": 2}});
        world
            .plane
            .call("PATCH", &format!("{daemon_set}/status"), Some(&status))
            .await;
        let pods = "/api/v1/namespaces/kube-system/pods";
        let now = json!({"gracePeriodSeconds": 0});
        for (number, machine) in world.machines.iter().enumerate() {
            world
                .plane
                .call("DELETE", &format!("{pods}/aws-node-{number}"), Some(&now))
                .await;
            let again = objects::agent_pod(number, machine, IMAGE, &env);
            world.plane.create(vec![again]).await;
        }
        world.cloud.detach_by_hand(&world.machines[0]).await;
    });
    let last = drift(&world).ends(0).json();
    assert!(
        last["groups_verdict"]
            .as_str()
            .unwrap()
            .contains("reaches all pods at once"),
        "{last:#}"
    );
    world
        .tool("operator", &["drift"])
        .ends(0)
        .says(&["NO DRIFT", "generation 2"]);

    // A node without its agent.
    runtime().block_on(async {
        let now = json!({"gracePeriodSeconds": 0});
        world
            .plane
            .call(
                "DELETE",
                "/api/v1/namespaces/kube-system/pods/aws-node-1",
                Some(&now),
            )
            .await;
    });
    assert_eq!(kinds(&drift(&world).ends(1).json()), ["no_agent"]);
    // Who may not read DaemonSets is told so.
    world
        .tool("nobody", &["drift"])
        .ends(3)
        .says(&["UNKNOWN", "list daemonsets.apps"]);
}

#[test]
fn settings_that_an_add_on_update_would_take_away() {
    let world: Arc<World> = Arc::new(runtime().block_on(build()));
    let none = world.tool("operator", &["drift", "-o", "json"]).json();
    assert!(
        none["not_checked"][0]
            .as_str()
            .unwrap()
            .contains("no add-on vpc-cni"),
        "{none:#}"
    );
    // The DaemonSet says WARM_IP_TARGET=2, the add-on knows nothing of it.
    runtime().block_on(world.cloud.addon("dev", r#"{"env":{"MAX_ENI":"3"}}"#));
    let drift = world
        .tool("operator", &["drift", "-o", "json"])
        .ends(1)
        .json();
    let found = drift["differences"]
        .as_array()
        .unwrap()
        .iter()
        .find(|d| d["code"] == "BL0108");
    let found = found.unwrap_or_else(|| panic!("{drift:#}"));
    let line = "WARM_IP_TARGET   add-on: not set   DaemonSet: \"2\"   nodes run: \"2\" (2)";
    assert_eq!(found["lines"], json!([line]));
    let help = found["help"].as_str().unwrap();
    let (_, values) = help.split_once("--configuration-values '").unwrap();
    let values: Value = serde_json::from_str(values.trim_end_matches('\'')).unwrap();
    assert_eq!(
        values,
        json!({"env": {"MAX_ENI": "3", "WARM_IP_TARGET": "2"}}),
        "the whole configuration"
    );
    // With the configuration that help names there is nothing to take away.
    runtime().block_on(async {
        let request = ec2::eks::UpdateAddonRequest {
            cluster_name: "dev".to_owned(),
            addon_name: "vpc-cni".to_owned(),
            configuration_values: Some(values.to_string()),
            ..Default::default()
        };
        world
            .cloud
            .sim
            .eks()
            .report_addon("dev", "vpc-cni", 1, Ok(()))
            .unwrap();
        world.cloud.sim.eks().call(&request).await.unwrap();
    });
    let after = world.tool("operator", &["drift", "-o", "json"]).json();
    assert!(!after.to_string().contains("BL0108"), "{after:#}");
}
