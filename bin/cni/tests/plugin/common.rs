//! What holds for every command.

use serde_json::json;

use crate::agent::Agent;
use crate::node::{Node, Pod, need_root};

#[test]
fn line_36_failure_is_an_error_object_with_codes_of_ours_from_100() {
    need_root!();
    let node = Node::with(Agent::nobody());
    let pod = Pod::new("sample-pod");
    // `error` looks at the object's form.
    let (code, _) = node.call("ADD", &pod, &node.conf("0.4.0")).error();
    assert_eq!(code, 11);
    let (code, message) = node.execute(&node.environment("ADD", &pod), b"{").error();
    assert_eq!(code, 6);
    assert!(message.contains("line 1 column"), "{message}");
    let (code, _) = node.execute(&[], b"{}").error();
    assert_eq!(code, 4);
    // In the request's own version, once that is known.
    let conf = node.conf("1.0.0").to_string();
    let error = node.execute(&node.environment("ADD", &pod), conf.as_bytes());
    assert_eq!(error.json()["cniVersion"], "1.0.0");
    let gone = [("CNI_NETNS", "/run/netns/gone".to_owned())];
    let environment = node.environment("ADD", &pod);
    let environment: Vec<_> = environment
        .into_iter()
        .filter(|(name, _)| *name != "CNI_NETNS")
        .chain(gone)
        .collect();
    let (code, message) = node.execute(&environment, conf.as_bytes()).error();
    assert_eq!(code, 8);
    assert!(message.contains("/run/netns/gone"), "{message}");
}

#[test]
fn line_37_container_id_and_network_name_have_their_syntax() {
    need_root!();
    let node = Node::new();
    let pod = Pod::new("sample-pod");
    for bad in ["-a", "_a", ".a", "a b", "a/b", "\u{e4}"] {
        let wrong = Pod {
            container: bad.to_owned(),
            ..Pod::new("sample-pod")
        };
        let (code, message) = node.call("ADD", &wrong, &node.conf("0.4.0")).error();
        assert_eq!(code, 4, "{bad}");
        assert!(message.contains("container id"), "{message}");
        let mut conf = node.conf("0.4.0");
        conf["name"] = json!(bad);
        let (code, message) = node.call("ADD", &pod, &conf).error();
        assert_eq!(code, 7, "{bad}");
        assert!(message.contains("network name"), "{message}");
    }
    let good = Pod {
        container: "9a_b.c-D".to_owned(),
        ..Pod::new("sample-pod")
    };
    let mut conf = node.conf("0.4.0");
    conf["name"] = json!("9a_b.c-D");
    node.call("ADD", &good, &conf).result();
}

/// For the runtime: one operation per container at a time. For us: different containers at once,
/// ADDs and DELs mixed, none failing, nothing left in the end.
#[test]
fn line_38_different_containers_at_once_do_not_disturb_each_other() {
    need_root!();
    let node = Node::new();
    let before = node.policy();
    let names: Vec<String> = (0..10).map(|n| format!("pod-{n}")).collect();
    std::thread::scope(|scope| {
        for name in &names {
            let node = &node;
            scope.spawn(move || {
                for _ in 0..2 {
                    let pod = Pod::new(name);
                    let conf = node.conf_after("0.4.0", &node.add(&pod));
                    node.call("CHECK", &pod, &conf).silent();
                    node.call("DEL", &pod, &conf).silent();
                }
            });
        }
    });
    assert_eq!(node.policy(), before);
    assert!(node.agent.state().given.is_empty());
}

/// For the runtime: choose the highest common version. For us: every one we list works from ADD to
/// DEL.
#[test]
fn line_39_every_version_we_list_works() {
    need_root!();
    let node = Node::new();
    let before = node.policy();
    let version = [("CNI_COMMAND", "VERSION".to_owned())];
    let listed = node
        .execute(&version, br#"{"cniVersion":"1.1.0"}"#)
        .result();
    for version in listed["supportedVersions"].as_array().expect("a list") {
        let version = version.as_str().expect("text");
        let pod = Pod::new("sample-pod");
        let result = node.call("ADD", &pod, &node.conf(version)).result();
        node.call("DEL", &pod, &node.conf_after(version, &result))
            .silent();
        assert_eq!(node.policy(), before, "{version}");
    }
}
