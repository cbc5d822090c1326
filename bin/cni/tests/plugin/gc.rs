//! GC: frees what is not listed, only that, and all of it that it can.

use std::net::Ipv4Addr;

use cni::rpc::backend::DelNetworkReply;
use serde_json::{Value, json};

use crate::agent::Agent;
use crate::node::{Node, Outcome, Pod, need_root};

fn gc(node: &Node, conf: &Value) -> Outcome {
    let environment = [
        ("CNI_COMMAND", "GC".to_owned()),
        ("CNI_PATH", "/opt/cni/bin".to_owned()),
    ];
    node.execute(&environment, conf.to_string().as_bytes())
}

fn conf(node: &Node, valid: &[&Pod]) -> Value {
    let listed: Vec<_> = valid
        .iter()
        .map(|pod| json!({"containerID": pod.container, "ifname": "eth0"}))
        .collect();
    let mut conf = node.conf("1.1.0");
    conf["cni.dev/valid-attachments"] = json!(listed);
    conf
}

fn attached(node: &Node, count: u8) -> Vec<Pod> {
    let address = |n| (Ipv4Addr::new(10, 9, 2, n), 2);
    node.agent.state().free = (1..=count).map(address).collect();
    let pods: Vec<_> = (0..count).map(|n| Pod::new(&format!("pod-{n}"))).collect();
    for pod in &pods {
        node.call("ADD", pod, &node.conf("1.1.0")).result();
    }
    pods
}

fn containers(node: &Node) -> Vec<String> {
    let state = node.agent.state();
    state
        .given
        .keys()
        .map(|(container, ..)| container.clone())
        .collect()
}

#[test]
fn line_23_what_is_not_listed_is_freed_in_daemon_and_kernel() {
    need_root!();
    let node = Node::new();
    let before = node.policy();
    let pods = attached(&node, 3);
    gc(&node, &conf(&node, &[&pods[1]])).silent();
    assert_eq!(containers(&node), [pods[1].container.as_str()]);
    assert!(
        node.agent
            .calls()
            .contains(&"DelNetwork GarbageCollected".to_owned())
    );
    gc(&node, &conf(&node, &[])).silent();
    assert_eq!(node.policy(), before);
}

#[test]
fn line_24_what_is_listed_is_never_freed() {
    need_root!();
    let node = Node::new();
    let pods = attached(&node, 3);
    let before = node.net();
    let all: Vec<&Pod> = pods.iter().collect();
    gc(&node, &conf(&node, &all)).silent();
    assert_eq!(node.net(), before);
    assert_eq!(containers(&node).len(), 3);
    // A list that is missing or malformed is not an empty list.
    let (code, _) = gc(&node, &node.conf("1.1.0")).error();
    assert_eq!(code, 7);
    let mut malformed = conf(&node, &all);
    malformed["cni.dev/valid-attachments"][0]["containerID"] = json!(7);
    let (code, _) = gc(&node, &malformed).error();
    assert_eq!(code, 6);
    assert_eq!(node.net(), before);
    // Nor are attachments of another network.
    let mut other = conf(&node, &[]);
    other["name"] = json!("another-network");
    gc(&node, &other).silent();
    assert_eq!(containers(&node).len(), 3);
}

#[test]
fn line_25_errors_are_collected_and_reported_at_the_end() {
    need_root!();
    let node = Node::new();
    let pods = attached(&node, 3);
    node.agent.state().del_reply = Some(DelNetworkReply::default());
    let (code, message) = gc(&node, &conf(&node, &[&pods[1]])).error();
    assert_eq!(code, 104);
    for pod in [&pods[0], &pods[2]] {
        assert!(message.contains(&pod.container), "{message}");
    }
    assert!(!message.contains(&pods[1].container), "{message}");
}

/// The address daemon is what this plugin delegates to.
#[test]
fn line_26_the_daemon_does_the_freeing_and_must_be_there() {
    need_root!();
    let node = Node::with(Agent::nobody());
    let (code, message) = gc(&node, &conf(&node, &[])).error();
    assert_eq!(code, 11);
    assert!(message.contains("ipamd.sock"), "{message}");
    // Upstream's daemon has no list to free from: said, not passed over.
    let node = Node::with(Agent::start_as_upstream());
    let (code, message) = gc(&node, &conf(&node, &[])).error();
    assert_eq!(code, 102);
    assert!(message.contains("UNIMPLEMENTED"), "{message}");
}

#[test]
fn line_27_success_prints_nothing() {
    need_root!();
    let node = Node::new();
    attached(&node, 1);
    let outcome = gc(&node, &conf(&node, &[]));
    assert!(outcome.success);
    assert_eq!(outcome.stdout, "");
}

#[test]
fn line_28_gc_needs_1_1_0() {
    need_root!();
    let node = Node::new();
    for version in ["0.4.0", "1.0.0"] {
        let mut conf = conf(&node, &[]);
        conf["cniVersion"] = json!(version);
        assert_eq!(gc(&node, &conf).error().0, 1, "{version}");
    }
}

/// For the runtime: exclusive, never instead of DEL. For us: a DEL after a GC that already freed
/// everything succeeds, and so does a second GC.
#[test]
fn line_29_gc_and_del_may_follow_each_other() {
    need_root!();
    let node = Node::new();
    let pods = attached(&node, 2);
    gc(&node, &conf(&node, &[])).silent();
    node.call("DEL", &pods[0], &node.conf("1.1.0")).silent();
    node.call("DEL", &pods[1], &node.conf("1.1.0")).silent();
    gc(&node, &conf(&node, &[])).silent();
}
