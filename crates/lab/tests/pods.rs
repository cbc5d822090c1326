//! Pods on a node with the real agent and the real plugin.
#![allow(
    clippy::unwrap_used,
    reason = "a helper of a test may panic as the test may"
)]

mod common;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Output;
use std::time::Duration;

use common::{Lab, eventually, machine, require_root};
use lab::cgroup::Cgroups;
use lab::client::{self, Placed};
use lab::node::{Phase, PodName};
use lab::state::State;
use lab::teardown;
use rustix::process::{Pid, Signal, kill_process};

const NODE: &str = "ip-10-0-1-11";

fn up() -> Lab {
    let lab = Lab::new("pods");
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scenarios/rds/topology.yaml");
    let output = lab
        .branchline()
        .args(["up", "--file"])
        .arg(file)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    lab
}

fn branchline(lab: &Lab, args: &[&str]) -> (Output, String, String) {
    let output = lab.branchline().args(args).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, told) = (text(&output.stdout), text(&output.stderr));
    (output, out, told)
}

fn run(lab: &Lab, name: &str, count: u32, command: &[&str]) -> Vec<Placed> {
    let names: Vec<PodName> = match count {
        1 => vec![name.parse().unwrap()],
        n => (1..=n)
            .map(|i| format!("{name}-{i}").parse().unwrap())
            .collect(),
    };
    let command: Vec<String> = command.iter().map(ToString::to_string).collect();
    let retry = Duration::from_secs(10);
    let started = client::run_pods(&lab.place, &names, None, &command, retry).unwrap();
    started.into_iter().map(Result::unwrap).collect()
}

fn phase(lab: &Lab, name: &str) -> Option<Phase> {
    let name: PodName = name.parse().unwrap();
    let pods = client::pods(&lab.place).unwrap();
    pods.into_iter()
        .find(|p| p.status.pod == name)
        .map(|p| p.status.phase)
}

/// Can the pod open a TCP connection to another pod's listener?
fn connects(lab: &Lab, from: &str, to: std::net::Ipv4Addr) -> bool {
    let script = format!("exec 3<>/dev/tcp/{to}/8080 && read -t 20 x <&3 && echo $x");
    let (output, out, _) = branchline(
        lab,
        &["exec", from, "--", "timeout", "30", "bash", "-c", &script],
    );
    output.status.success() && out.contains(&format!("{to}:8080 sees "))
}

#[test]
fn fifteen_pods_at_once_each_with_an_address_of_the_vpc() {
    require_root!();
    let before = machine();
    let lab = up();
    let pods = run(&lab, "app", 15, &["sleep", "1000"]);
    let addresses: BTreeSet<_> = pods.iter().map(|p| p.status.address.unwrap()).collect();
    assert_eq!(addresses.len(), 15);
    assert!(
        pods.iter()
            .all(|p| p.status.phase == Phase::Running && p.node == NODE)
    );

    // One more than the instance type has addresses for: refused, and nothing of it stays.
    let (output, _, told) = branchline(&lab, &["pod", "run", "x", "--retry", "0", "--", "true"]);
    assert!(!output.status.success());
    assert!(
        told.contains("ADD by plugin 'aws-cni' failed") && told.contains("code 11"),
        "{told}"
    );
    assert_eq!(phase(&lab, "x"), None);

    let (output, _, told) = branchline(&lab, &["pod", "delete", "--all"]);
    assert!(output.status.success(), "{told}");
    let (_, netns, _) = branchline(&lab, &["node", "exec", NODE, "--", "ls", "/run/netns"]);
    assert_eq!(netns, "", "no namespace is left");
    // The kernel takes the veths away with the pods' namespaces, in the background.
    eventually("no link of a pod is left", || {
        let (_, links, _) = branchline(&lab, &["node", "exec", NODE, "--", "ls", "/sys/class/net"]);
        !links.is_empty() && links.lines().all(|l| l == "lo" || l.starts_with("eth"))
    });
    lab::down(&lab.place).unwrap();
    assert!(!teardown::is_left(&lab.place, &Cgroups::mounted().unwrap()));
    common::same(&before, &machine());
}

#[test]
fn a_pod_lives_and_ends_as_its_process_does() {
    require_root!();
    let lab = up();
    // Its own of everything, and the exit code of what runs in it.
    run(
        &lab,
        "web",
        1,
        &[
            "sh",
            "-c",
            "echo hello from $(hostname); while :; do sleep 1; done",
        ],
    );
    let (_, out, _) = branchline(
        &lab,
        &[
            "exec",
            "web",
            "--",
            "sh",
            "-c",
            "echo $$ >/dev/null; cat /proc/1/comm; hostname; ls /sys/class/net",
        ],
    );
    assert_eq!(out, "sh\nweb\neth0\nlo\n");
    let (output, ..) = branchline(&lab, &["exec", "default/web", "--", "sh", "-c", "exit 42"]);
    assert_eq!(output.status.code(), Some(42));
    eventually("the pod's output is in its log", || {
        branchline(&lab, &["logs", "web"]).1 == "hello from web\n"
    });
    branchline(&lab, &["pod", "check", "web"]);

    let (_, _, told) = branchline(&lab, &["pod", "run", "web", "--", "true"]);
    assert!(told.contains("pod default/web exists already"), "{told}");
    let (_, _, told) = branchline(&lab, &["pod", "run", "bad", "--", "no-such-program"]);
    assert!(
        told.contains("cannot run 'no-such-program': No such file"),
        "{told}"
    );
    assert_eq!(phase(&lab, "bad"), None);

    // A command that ends takes its network with it and leaves its code and its log.
    run(&lab, "job", 1, &["sh", "-c", "echo done; exit 3"]);
    eventually("the job ends", || {
        phase(&lab, "job") == Some(Phase::Exited(3))
    });
    eventually("web's namespace is the only one", || {
        let count = [
            "node",
            "exec",
            NODE,
            "--",
            "sh",
            "-c",
            "ls /run/netns | wc -l",
        ];
        branchline(&lab, &count).1 == "1\n"
    });
    branchline(&lab, &["pod", "delete", "job"]);
    assert_eq!(phase(&lab, "job"), None);
    eventually("a log outlives its pod", || {
        branchline(&lab, &["logs", "job"]).1 == "done\n"
    });

    // SIGTERM and a grace period, when asked for.
    run(
        &lab,
        "polite",
        1,
        &[
            "bash",
            "-c",
            "trap 'echo bye; exit 0' TERM; while :; do sleep 0.01; done",
        ],
    );
    let (output, _, told) = branchline(&lab, &["pod", "delete", "polite", "--grace", "20"]);
    assert!(output.status.success(), "{told}");
    eventually("the last word is in the log", || {
        branchline(&lab, &["logs", "polite"]).1 == "bye\n"
    });
}

#[test]
fn traffic_and_new_pods_need_no_daemon_and_ends_need_no_agent() {
    require_root!();
    let lab = up();
    let program = common::program("branchline");
    let program = program.to_str().unwrap();
    let server = run(&lab, "server", 1, &[program, "lab", "listen", "tcp/8080"]).remove(0);
    let address = server.status.address.unwrap();
    run(&lab, "client", 1, &["sleep", "1000"]);
    eventually("the server listens", || connects(&lab, "client", address));

    // Everything of the lab that is not a pod stops: packets go on.
    let daemon = State::of_running(&lab.place).unwrap().daemon;
    let mut stopped = vec![daemon.pid];
    let cgroups = Cgroups::mounted().unwrap();
    for leaf in ["init", "agent"] {
        stopped.extend(cgroups.members(&lab.place.host_cgroup(NODE).join(leaf)));
    }
    let each = |signal: Signal| {
        stopped
            .iter()
            .for_each(|p| kill_process(Pid::from_raw(*p).unwrap(), signal).unwrap());
    };
    each(Signal::STOP);
    let went_on = connects(&lab, "client", address);
    each(Signal::CONT);
    assert!(went_on);

    // A new pod from the node's warm addresses, the daemon stopped.
    daemon.signal(Signal::STOP).unwrap();
    run(&lab, "late", 1, &["sleep", "1000"]);
    assert!(connects(&lab, "late", address));
    daemon.signal(Signal::CONT).unwrap();

    // The agent is killed: it is started again, and meanwhile a pod can end.
    let agent = |lab: &Lab| {
        client::node_status(&lab.place, NODE)
            .unwrap()
            .agent()
            .cloned()
            .unwrap()
    };
    let before = agent(&lab).restarts;
    let (output, _, told) = branchline(
        &lab,
        &[
            "node",
            "exec",
            NODE,
            "--",
            "pkill",
            "-9",
            "-x",
            "branchline-agen",
        ],
    );
    assert!(output.status.success(), "{told}");
    let (output, _, told) = branchline(&lab, &["pod", "delete", "late"]);
    assert!(
        output.status.success(),
        "DEL succeeds with the agent down: {told}"
    );
    eventually("the agent is started again", || {
        let now = agent(&lab);
        now.restarts > before && now.pid.is_some()
    });

    // Its environment is changed as a rollout of the DaemonSet does.
    let pid = agent(&lab).pid;
    let (output, _, told) = branchline(
        &lab,
        &["node", "set-env", NODE, "BRANCHLINE_GROUP_SYNC=true"],
    );
    assert!(output.status.success(), "{told}");
    assert!(agent(&lab).pid.is_some() && agent(&lab).pid != pid);
    let (_, env, _) = branchline(
        &lab,
        &[
            "node",
            "exec",
            NODE,
            "--",
            "sh",
            "-c",
            "tr '\\0' '\\n' < /proc/$(pgrep -x branchline-agen)/environ | grep SYNC",
        ],
    );
    assert_eq!(env, "BRANCHLINE_GROUP_SYNC=true\n");
}
