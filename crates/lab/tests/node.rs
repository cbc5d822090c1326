//! A node from start to end, on this machine, as root.
#![allow(
    clippy::unwrap_used,
    reason = "a helper of a test may panic as the test may"
)]

mod common;

use common::{Lab, machine, require_root};
use lab::cgroup::Cgroups;
use lab::node::{Answer, Node, PodName, Request, RunPod};
use lab::{exec, teardown};

fn sh(lab: &Lab, name: &str, script: &str) -> (String, Option<i32>) {
    let mut command = lab.branchline();
    let output = command
        .args(["exec", name, "--", "sh", "-c", script])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    (text, output.status.code())
}

#[test]
fn a_node_has_its_own_of_everything_and_leaves_nothing() {
    require_root!();
    let lab = Lab::new("node");
    let before = machine();
    let cgroups = Cgroups::mounted().unwrap();
    let node = Node::start(
        &lab.place,
        &cgroups,
        "n1",
        "ip-10-0-1-11",
        &common::program("branchline"),
    )
    .unwrap();

    let (links, _) = sh(&lab, "n1", "ls /sys/class/net; cat /sys/class/net/lo/flags");
    assert_eq!(links, "lo\n0x9\n", "only lo, and it is up");
    let (name, _) = sh(&lab, "n1", "hostname; cat /proc/1/comm; readlink /var/run");
    assert_eq!(name, "ip-10-0-1-11\nbranchline\n/run\n");
    let (dirs, _) = sh(
        &lab,
        "n1",
        "ls -d /etc/cni/net.d /opt/cni/bin /var/log/aws-routed-eni",
    );
    assert_eq!(dirs.lines().count(), 3);
    let (own, _) = sh(
        &lab,
        "n1",
        "ls -A /etc/cni/net.d /opt/cni/bin; cat /etc/hostname >/dev/null",
    );
    assert_eq!(
        own.matches(':').count(),
        2,
        "both are there and empty: {own}"
    );
    let (cgroup, _) = sh(&lab, "n1", "cut -d: -f3 /proc/1/cgroup | sort -u");
    assert!(cgroup.lines().any(|l| l == "/init"), "{cgroup}");
    let (_, code) = sh(&lab, "n1", "exit 7");
    assert_eq!(code, Some(7));
    let (_, code) = sh(&lab, "n1", "kill -9 $$");
    assert_eq!(code, Some(137));
    // Nothing of another lab or node lives on in the node's mounts.
    let (pins, _) = sh(&lab, "n1", "grep -c nsfs /proc/self/mountinfo || true");
    assert_eq!(pins, "0\n");

    // Orphans are reaped, those that lead a process group of their own too.
    let (_, _) = sh(&lab, "n1", "(setsid true &) >/dev/null 2>&1");
    common::eventually("no zombie is left", || {
        let states = "cat /proc/[0-9]*/stat 2>/dev/null | sed 's/.*) //' | cut -c1";
        !sh(&lab, "n1", states).0.contains('Z')
    });

    // No network configuration: no pods, and why.
    let order = RunPod {
        pod: "p".parse().unwrap(),
        command: vec!["true".to_owned()],
        retry_ms: 0,
    };
    let error = node.ask(&Request::RunPod(order)).unwrap_err().to_string();
    assert!(error.contains("there is no CNI configuration"), "{error}");
    assert!(matches!(node.ask(&Request::Status).unwrap(), Answer::Node(n) if n.pods.is_empty()));

    // Something that left the node's process tree still ends with it.
    sh(&lab, "n1", "setsid sleep 1000 >/dev/null 2>&1 &");
    node.end(&lab.place, &cgroups).unwrap();
    assert!(exec::find(&lab.place, &cgroups, "n1").is_err());
    teardown::sweep(&lab.place, &cgroups).unwrap();
    teardown::sweep(&lab.place, &cgroups).unwrap();
    common::same(&before, &machine());
}

#[test]
fn a_killed_node_is_found_and_swept() {
    require_root!();
    let lab = Lab::new("killed");
    let before = machine();
    let cgroups = Cgroups::mounted().unwrap();
    let program = common::program("branchline");
    let node = Node::start(&lab.place, &cgroups, "n1", "n1", &program).unwrap();
    sh(&lab, "n1", "setsid sleep 1000 >/dev/null 2>&1 &");
    // Forget the node as a daemon does that is killed: nothing but the lab's name remains.
    std::mem::forget(node);
    teardown::sweep(&lab.place, &cgroups).unwrap();
    assert!(!teardown::is_left(&lab.place, &cgroups));
    common::same(&before, &machine());
}

#[test]
fn names_of_pods_survive_their_cgroup() {
    let name: PodName = "kube-system/coredns-57ff979f67-qqbdh".parse().unwrap();
    assert_eq!(PodName::from_leaf(&name.leaf()), Some(name));
    assert!("Default/x".parse::<PodName>().is_err());
    assert_eq!("x".parse::<PodName>().unwrap().to_string(), "default/x");
}
