//! Waits until a cluster is what its user expects of one that is up: nodes that take pods, the
//! stack and DNS at work.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::api::Api;
use super::join::Joining;
use crate::error::Error;

/// How long nodes and add-ons may take, images included.
const PATIENCE: Duration = Duration::from_secs(150);
const STEP: Duration = Duration::from_millis(50);
const SYSTEM: &str = "kube-system";

impl Joining {
    /// Waits for `nodes` nodes that are Ready and have no taints, and for the add-ons on them. Blocks.
    ///
    /// # Errors
    /// [`Error::ClusterNotReady`] with events and logs that tell why.
    pub fn settle(&self, nodes: usize) -> Result<(), Error> {
        if nodes == 0 {
            return Ok(());
        }
        self.wait(|api| nodes_are_ready(api, nodes))?;
        for name in ["aws-node", "kube-proxy"] {
            self.wait(|api| rolled_out(api, name))?;
        }
        self.wait(available)
    }

    fn wait(&self, is: impl Fn(&Api) -> Result<(), String>) -> Result<(), Error> {
        let begun = Instant::now();
        loop {
            let what = match is(&self.api) {
                Ok(()) => return Ok(()),
                Err(what) => what,
            };
            if begun.elapsed() > PATIENCE {
                return Err(Error::ClusterNotReady {
                    cluster: self.cluster.clone(),
                    what,
                    seconds: PATIENCE.as_secs(),
                    said: why(&self.api),
                });
            }
            self.stop.pause(STEP)?;
        }
    }
}

fn items(list: &Value) -> &[Value] {
    list["items"].as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn condition<'v>(object: &'v Value, kind: &str) -> Option<&'v Value> {
    let conditions = object["status"]["conditions"].as_array()?;
    conditions.iter().find(|c| c["type"] == kind)
}

fn nodes_are_ready(api: &Api, wanted: usize) -> Result<(), String> {
    let list = api.get("/api/v1/nodes")?;
    let mut waiting = Vec::new();
    for node in items(&list) {
        let name = text(&node["metadata"]["name"]);
        let ready = condition(node, "Ready");
        if ready.is_none_or(|c| c["status"] != "True") {
            let why = ready.map_or("no condition Ready", |c| text(&c["message"]));
            waiting.push(format!("{name} is not Ready: {why}"));
        } else if let Some(taint) = passing_taint(node) {
            waiting.push(format!("{name} is tainted {}", text(&taint["key"])));
        }
    }
    let there = items(&list).len() - waiting.len();
    if there >= wanted {
        return Ok(());
    }
    Err(format!(
        "{there} of {wanted} nodes ready ({})",
        waiting.join("; ")
    ))
}

/// A taint that Kubernetes itself put there and takes away when the node is ready. Those of a node
/// group stay.
fn passing_taint(node: &Value) -> Option<&Value> {
    let taints = node["spec"]["taints"].as_array()?;
    let passes = |t: &&Value| text(&t["key"]).starts_with("node.kubernetes.io/");
    taints.iter().find(passes)
}

fn rolled_out(api: &Api, name: &str) -> Result<(), String> {
    let path = format!("/apis/apps/v1/namespaces/{SYSTEM}/daemonsets/{name}");
    let set = api.get(&path)?;
    let status = &set["status"];
    let number = |field: &str| status[field].as_u64().unwrap_or(0);
    let seen = status["observedGeneration"] == set["metadata"]["generation"];
    let desired = number("desiredNumberScheduled");
    let there = number("numberAvailable").min(number("updatedNumberScheduled"));
    if seen && desired > 0 && there >= desired {
        return Ok(());
    }
    Err(format!("daemonset {name}: {there} of {desired} available"))
}

fn available(api: &Api) -> Result<(), String> {
    let path = format!("/apis/apps/v1/namespaces/{SYSTEM}/deployments/coredns");
    let deployment = api.get(&path)?;
    let wanted = deployment["spec"]["replicas"].as_u64().unwrap_or(1);
    let there = deployment["status"]["availableReplicas"]
        .as_u64()
        .unwrap_or(0);
    if there >= wanted {
        return Ok(());
    }
    Err(format!("deployment coredns: {there} of {wanted} available"))
}

/// Warnings about the system's pods, and the last words of those that are not ready.
fn why(api: &Api) -> String {
    let mut lines = Vec::new();
    let events = format!("/api/v1/namespaces/{SYSTEM}/events?fieldSelector=type%3DWarning");
    match api.get(&events) {
        Ok(list) => {
            let said = items(&list).iter().rev().take(5).map(|e| {
                let name = text(&e["involvedObject"]["name"]);
                format!("{name}: {}", text(&e["message"]))
            });
            lines.extend(said);
        }
        Err(said) => lines.push(said),
    }
    if let Ok(pods) = api.get(&format!("/api/v1/namespaces/{SYSTEM}/pods")) {
        for pod in items(&pods) {
            if condition(pod, "Ready").is_some_and(|c| c["status"] == "True") {
                continue;
            }
            let name = text(&pod["metadata"]["name"]);
            for container in pod["status"]["containerStatuses"]
                .as_array()
                .into_iter()
                .flatten()
            {
                let container = text(&container["name"]);
                let log = api.log(SYSTEM, name, container);
                lines.push(format!("{name}/{container}: {}", log.trim()));
            }
        }
    }
    lines.join("\n")
}
