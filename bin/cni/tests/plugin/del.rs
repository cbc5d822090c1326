//! DEL: repeatable, complete, and never at the cost of another pod.

use std::net::Ipv4Addr;
use std::os::unix::net::UnixListener;

use cni::rpc::backend::{DelNetworkReply, Failure, FailureKind};
use serde_json::{Value, json};

use crate::agent::Agent;
use crate::node::{Node, Outcome, Pod, address_of, need_root};

/// A pod on a secondary interface, so that both rules are there.
fn attached(node: &Node, name: &str) -> (Pod, Value) {
    let next = node.agent.state().given.len() as u8 + 1;
    node.agent
        .state()
        .free
        .push((Ipv4Addr::new(10, 9, 2, next), 2));
    let pod = Pod::new(name);
    let result = node.add(&pod);
    (pod, result)
}

fn del_without_netns(node: &Node, pod: &Pod, conf: &Value) -> Outcome {
    let mut environment = node.environment("DEL", pod);
    environment.retain(|(name, _)| *name != "CNI_NETNS");
    node.execute(&environment, conf.to_string().as_bytes())
}

#[test]
fn line_11_del_is_repeatable_with_everything_missing() {
    need_root!();
    let node = Node::new();
    let before = node.policy();
    let never = Pod::new("never-attached");
    node.call("DEL", &never, &node.conf("0.4.0")).silent();
    let (pod, result) = attached(&node, "sample-pod");
    let conf = node.conf_after("0.4.0", &result);
    for _ in 0..3 {
        node.call("DEL", &pod, &conf).silent();
        assert_eq!(node.policy(), before);
    }
    let mut environment = node.environment("DEL", &pod);
    environment.retain(|(name, _)| *name != "CNI_NETNS");
    environment.push(("CNI_NETNS", "/run/netns/gone".to_owned()));
    node.execute(&environment, conf.to_string().as_bytes())
        .silent();
}

#[test]
fn line_12_del_works_without_netns_and_without_previous_result() {
    need_root!();
    let node = Node::new();
    let before = node.policy();
    let (pod, _) = attached(&node, "sample-pod");
    del_without_netns(&node, &pod, &node.conf("0.4.0")).silent();
    assert!(node.agent.state().given.is_empty());
    assert_eq!(node.policy(), before);
}

#[test]
fn line_13_the_address_is_freed_though_the_netns_is_gone() {
    need_root!();
    let node = Node::new();
    let before = node.policy();
    let (pod, result) = attached(&node, "sample-pod");
    let environment = {
        let mut environment = node.environment("DEL", &pod);
        environment.retain(|(name, _)| *name != "CNI_NETNS");
        environment.push(("CNI_NETNS", "/run/netns/gone".to_owned()));
        environment
    };
    drop(pod);
    let conf = node.conf_after("0.4.0", &result);
    node.execute(&environment, conf.to_string().as_bytes())
        .silent();
    assert!(node.agent.state().given.is_empty());
    assert_eq!(node.policy(), before);
}

#[test]
fn line_14_del_after_a_failed_add_cleans_what_it_left() {
    need_root!();
    let node = Node::new();
    let pod = Pod::new("sample-pod");
    let before = (node.net(), pod.net());
    // The daemon cannot take the address back when the ADD fails, so the DEL must.
    node.agent.state().policy_mode = "strict".to_owned();
    node.agent.state().policy_success = false;
    node.agent.state().del_reply = Some(DelNetworkReply::default());
    node.call("ADD", &pod, &node.conf("0.4.0")).error();
    assert_eq!(node.agent.state().given.len(), 1);
    node.agent.state().del_reply = None;
    node.call("DEL", &pod, &node.conf("0.4.0")).silent();
    assert!(node.agent.state().given.is_empty());
    assert_eq!((node.net(), pod.net()), before);
}

/// The address daemon is this plugin's IPAM.
#[test]
fn line_15_the_daemons_refusal_is_returned() {
    need_root!();
    let node = Node::new();
    let (pod, result) = attached(&node, "sample-pod");
    let failure = Failure {
        kind: FailureKind::Internal.into(),
        reason: "checkpoint not writable".to_owned(),
        cni_code: 0,
    };
    let refusal = DelNetworkReply {
        failure: Some(failure),
        ..DelNetworkReply::default()
    };
    node.agent.state().del_reply = Some(refusal);
    let conf = node.conf_after("0.4.0", &result);
    let (code, message) = node.call("DEL", &pod, &conf).error();
    assert_eq!(code, 102);
    assert!(message.contains("checkpoint not writable"), "{message}");
}

/// The runtime gives the result of the whole chain, with what later plugins added.
#[test]
fn line_16_the_final_result_of_a_chain_is_accepted() {
    need_root!();
    for version in ["0.4.0", "1.0.0", "1.1.0"] {
        let mut node = Node::new();
        let before = node.policy();
        node.agent.state().free = vec![(Ipv4Addr::new(10, 9, 2, 1), 2)];
        let pod = Pod::new("sample-pod");
        let mut result = node.call("ADD", &pod, &node.conf(version)).result();
        let interfaces = result["interfaces"].as_array_mut().expect("a list");
        // egress-cni appends its two interfaces and no address.
        interfaces.push(json!({"name": "veth0a1b2c3d"}));
        interfaces.push(json!({"name": "v6if0", "sandbox": pod.path()}));
        result["dns"] = json!({"nameservers": ["10.100.0.10"]});
        // Without the daemon, so that the result is all there is.
        node.agent.kill();
        del_without_netns(&node, &pod, &node.conf_after(version, &result)).silent();
        drop(pod);
        assert_eq!(node.policy().rules, before.rules, "{version}");
    }
}

#[test]
fn without_the_daemon_the_previous_result_of_every_version_is_enough() {
    need_root!();
    for version in [
        "0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0",
    ] {
        let mut node = Node::new();
        let before = node.policy();
        node.agent.state().free = vec![(Ipv4Addr::new(10, 9, 2, 1), 2)];
        let pod = Pod::new("sample-pod");
        let result = node.call("ADD", &pod, &node.conf(version)).result();
        node.agent.kill();
        let conf = node.conf_after(version, &result);
        node.call("DEL", &pod, &conf).silent();
        node.call("DEL", &pod, &conf).silent();
        assert_eq!(node.policy(), before, "{version}");
    }
}

#[test]
fn without_daemon_and_result_the_kernel_is_asked() {
    need_root!();
    let mut node = Node::new();
    let before = node.policy();
    let (pod, _) = attached(&node, "sample-pod");
    node.agent.kill();
    node.call("DEL", &pod, &node.conf("0.4.0")).silent();
    assert_eq!(node.policy(), before);
}

#[test]
fn without_daemon_result_and_namespace_del_still_succeeds() {
    need_root!();
    let mut node = Node::new();
    let (pod, _) = attached(&node, "sample-pod");
    node.agent.kill();
    del_without_netns(&node, &pod, &node.conf("0.4.0")).silent();
}

#[test]
fn a_daemon_that_never_answers_does_not_fail_a_del() {
    need_root!();
    let mut node = Node::new();
    let before = node.policy();
    let (pod, result) = attached(&node, "sample-pod");
    node.agent.kill();
    let _silent = UnixListener::bind(node.agent.ipamd()).expect("bind");
    let mut conf = node.conf_after("0.4.0", &result);
    conf["daemonWait"] = json!("100ms");
    node.call("DEL", &pod, &conf).silent();
    assert_eq!(node.policy(), before);
}

#[test]
fn a_del_that_no_daemon_heard_leaves_a_note_and_one_that_was_heard_none() {
    need_root!();
    let mut node = Node::new();
    let notes = |node: &Node| cni::deleted::read(&node.agent.ipamd()).expect("read the notes");
    let (heard, _) = attached(&node, "heard");
    node.call("DEL", &heard, &node.conf("0.4.0")).silent();
    assert_eq!(notes(&node), []);
    let (lost, _) = attached(&node, "lost");
    node.agent.kill();
    for _ in 0..2 {
        node.call("DEL", &lost, &node.conf("0.4.0")).silent();
    }
    let [note] = &notes(&node)[..] else {
        panic!("one note: {:?}", notes(&node));
    };
    let deleted = note.deleted.as_ref().expect("a note that can be read");
    assert_eq!(
        (deleted.network_name.as_str(), deleted.if_name.as_str()),
        ("aws-cni", "eth0")
    );
    assert_eq!(deleted.container_id, lost.container);
}

/// A late, repeated DEL without a daemon, after the address went to another pod.
#[test]
fn an_address_that_belongs_to_another_pod_by_now_is_left_alone() {
    need_root!();
    let mut node = Node::new();
    let (first, result) = attached(&node, "first");
    let address = address_of(&result);
    let conf = node.conf_after("0.4.0", &result);
    node.call("DEL", &first, &conf).silent();
    node.agent.state().free = vec![(address, 2)];
    let second = Pod::new("second");
    node.add(&second);
    let before = (node.net(), second.net());
    node.agent.kill();
    node.call("DEL", &first, &conf).silent();
    assert_eq!((node.net(), second.net()), before);
}

/// The sandbox of a pod is remade: its new ADD comes before the old one's DEL.
#[test]
fn the_del_of_an_old_sandbox_leaves_the_new_one_of_the_same_pod_alone() {
    need_root!();
    let node = Node::new();
    let (old, result) = attached(&node, "stateful-0");
    let new = Pod {
        container: "another-container".to_owned(),
        ..Pod::new("stateful-0")
    };
    node.agent
        .state()
        .free
        .push((Ipv4Addr::new(10, 9, 3, 1), 3));
    let made = node.add(&new);
    node.call("DEL", &old, &node.conf_after("0.4.0", &result))
        .silent();
    node.call("CHECK", &new, &node.conf_after("0.4.0", &made))
        .silent();
}

#[test]
fn the_policy_daemon_is_told_and_its_absence_does_not_matter() {
    need_root!();
    let node = Node::new();
    node.agent.state().policy_mode = "standard".to_owned();
    let (pod, result) = attached(&node, "sample-pod");
    node.call("DEL", &pod, &node.conf_after("0.4.0", &result))
        .silent();
    let expected = [
        "AddNetwork",
        "EnforceNpToPod standard 1",
        "DelNetwork PodDeleted",
        "DeletePodNp",
    ];
    assert_eq!(node.agent.calls(), expected);

    let mut agent = Agent::nobody();
    agent.start_addresses(true);
    let node = Node::with(agent);
    let (pod, result) = attached(&node, "sample-pod");
    node.agent.state().policy_mode = "standard".to_owned();
    node.call("DEL", &pod, &node.conf_after("0.4.0", &result))
        .silent();
}

#[test]
fn a_pod_on_a_branch_interface_is_refused_by_name_not_leaked() {
    need_root!();
    let node = Node::new();
    let pod = Pod::new("sample-pod");
    let result = json!({
        "cniVersion": "0.4.0",
        "interfaces": [
            {"name": "vlancc21c2d7785"},
            {"name": "eth0", "mac": "0", "sandbox": pod.path()},
            {"name": "dummycc21c2d7785", "mac": "7"},
        ],
        "ips": [{"version": "4", "interface": 1, "address": "10.9.1.1/32"}],
        "dns": {},
    });
    let (code, message) = node
        .call("DEL", &pod, &node.conf_after("0.4.0", &result))
        .error();
    assert_eq!(code, 105);
    assert!(message.contains("VLAN 7"), "{message}");
}

#[test]
fn a_namespace_that_is_the_nodes_own_is_never_touched() {
    need_root!();
    let node = Node::new();
    let own = Pod {
        ns: node.ns.try_clone().expect("a second handle"),
        container: "c1".to_owned(),
        name: "sample-pod".to_owned(),
    };
    let before = node.policy();
    let (code, message) = node.call("ADD", &own, &node.conf("0.4.0")).error();
    assert_eq!(code, 8);
    assert!(message.contains("own network namespace"), "{message}");
    node.call("DEL", &own, &node.conf("0.4.0")).silent();
    assert_eq!(node.policy(), before);
}
