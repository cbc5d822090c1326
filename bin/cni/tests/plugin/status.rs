//! STATUS and VERSION.

use cni::rpc::node::StatusReply;
use serde_json::{Value, json};

use crate::agent::Agent;
use crate::node::{Node, Outcome, Pod, need_root};

fn status(node: &Node, conf: &Value) -> Outcome {
    node.execute(
        &[("CNI_COMMAND", "STATUS".to_owned())],
        conf.to_string().as_bytes(),
    )
}

#[test]
fn line_30_status_succeeds_only_if_an_add_can_be_served() {
    need_root!();
    let mut node = Node::new();
    let conf = node.conf("1.1.0");
    status(&node, &conf).silent();
    for (existing_pods_affected, expected) in [(false, 50), (true, 51)] {
        node.agent.state().status = StatusReply {
            ready: false,
            reason: "ENI eni-1 is being attached".to_owned(),
            existing_pods_affected,
            ..StatusReply::default()
        };
        let (code, message) = status(&node, &conf).error();
        assert_eq!(code, expected);
        assert!(message.contains("ENI eni-1 is being attached"), "{message}");
    }
    node.agent.kill();
    let (code, message) = status(&node, &conf).error();
    assert_eq!(code, 50);
    assert!(message.contains("ipamd.sock"), "{message}");
}

/// The daemon is what this plugin delegates to; upstream's is asked for its health.
#[test]
fn line_31_the_daemon_is_asked_and_its_answer_passed_on() {
    need_root!();
    let node = Node::with(Agent::start_as_upstream());
    status(&node, &node.conf("1.1.0")).silent();
    let node = Node::with(Agent::nobody());
    assert_eq!(status(&node, &node.conf("1.1.0")).error().0, 50);
}

#[test]
fn line_32_no_other_command_depends_on_status() {
    need_root!();
    let node = Node::new();
    node.agent.state().status = StatusReply::default();
    assert_eq!(status(&node, &node.conf("1.1.0")).error().0, 50);
    let pod = Pod::new("sample-pod");
    let result = node.call("ADD", &pod, &node.conf("1.1.0")).result();
    let conf = node.conf_after("1.1.0", &result);
    node.call("CHECK", &pod, &conf).silent();
    node.call("DEL", &pod, &conf).silent();
}

#[test]
fn line_33_status_needs_1_1_0() {
    need_root!();
    let node = Node::new();
    for version in ["0.4.0", "1.0.0"] {
        assert_eq!(status(&node, &node.conf(version)).error().0, 1, "{version}");
    }
}

#[test]
fn line_34_the_error_object_is_on_stdout() {
    need_root!();
    let node = Node::with(Agent::nobody());
    let outcome = status(&node, &node.conf("1.1.0"));
    assert_eq!(outcome.error().0, 50);
    assert_eq!(outcome.stderr, "");
}

#[test]
fn line_35_version_echoes_the_version_and_lists_all() {
    need_root!();
    let node = Node::new();
    let all = json!([
        "0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"
    ]);
    let version = |stdin: &str| {
        let environment = [("CNI_COMMAND", "VERSION".to_owned())];
        node.execute(&environment, stdin.as_bytes()).result()
    };
    for asked in all.as_array().expect("a list") {
        let answer = version(&json!({ "cniVersion": asked }).to_string());
        assert_eq!(
            answer,
            json!({"cniVersion": asked, "supportedVersions": all})
        );
    }
    // Runtimes ask with versions that are newer than the plugin, or with nothing.
    for stdin in [r#"{"cniVersion":"9.9.9"}"#, "", "{}garbage"] {
        assert_eq!(version(stdin)["supportedVersions"], all, "{stdin}");
    }
}
