//! Nodes of a cluster: real kubelets, real containers, and what happens when the power goes.
#![allow(
    clippy::unwrap_used,
    reason = "a helper of a test may panic as the test may"
)]

mod common;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::{Lab, machine, program, require_root};
use lab::client;
use lab::state::State;
use serde_json::Value;

/// Two pods that serve, with probes of both kinds.
const WEB: &str = r#"{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {
  "replicas": 2, "selector": {"matchLabels": {"app": "web"}},
  "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"terminationGracePeriodSeconds": 1, "containers": [{
    "name": "web", "image": "nginx", "imagePullPolicy": "IfNotPresent", "ports": [{"containerPort": 80}],
    "resources": {"requests": {"cpu": "10m"}, "limits": {"memory": "64Mi"}},
    "readinessProbe": {"httpGet": {"path": "/", "port": 80}, "periodSeconds": 1},
    "livenessProbe": {"exec": {"command": ["true"]}, "periodSeconds": 2}}]}}}}"#;

struct Cluster {
    lab: Lab,
    env: BTreeMap<String, String>,
}

impl Cluster {
    fn up(name: &str) -> Self {
        let lab = Lab::new(name);
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kubelet.yaml");
        let output = lab.branchline().args(["up", "--file"]).arg(file).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{}", told(&output));
        let env = lab.branchline().args(["env", "--shell", "json"]).output();
        let env = serde_json::from_slice(&env.unwrap().stdout).unwrap();
        Self { lab, env }
    }

    fn kubectl(&self) -> Command {
        let target = program("branchline");
        let target = target.parent().and_then(Path::parent).unwrap();
        let mut command = Command::new(target.join("kubernetes/bin/kubectl"));
        command.envs(&self.env);
        command
    }

    fn run(&self, args: &[&str]) -> String {
        let output = self.kubectl().args(args).output().unwrap();
        assert!(
            output.status.success(),
            "kubectl {args:?}: {}",
            told(&output)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    fn get(&self, what: &[&str]) -> Value {
        let args: Vec<&str> = ["get", "-o", "json"].iter().chain(what).copied().collect();
        serde_json::from_str(&self.run(&args)).unwrap()
    }

    fn branchline(&self, args: &[&str]) -> String {
        let output = self.lab.branchline().args(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", told(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    fn state(&self) -> State {
        State::of_running(&self.lab.place).unwrap()
    }

    /// The lab's name of the only node.
    fn node(&self) -> String {
        self.state().nodes.into_keys().next().unwrap()
    }

    fn web(&self) -> Vec<Value> {
        let mut list = self.get(&["pods", "-l", "app=web"]);
        list["items"].as_array_mut().unwrap().drain(..).collect()
    }

    fn start_web(&self) {
        let mut apply = self.kubectl();
        apply.args(["apply", "-f", "-"]).stdin(Stdio::piped());
        let mut apply = apply.stdout(Stdio::null()).spawn().unwrap();
        apply
            .stdin
            .take()
            .unwrap()
            .write_all(WEB.as_bytes())
            .unwrap();
        assert!(apply.wait().unwrap().success());
        self.await_web();
    }

    fn await_web(&self) {
        self.run(&["rollout", "status", "deployment/web", "--timeout=300s"]);
        let ready = |p: &Value| p["status"]["containerStatuses"][0]["ready"] == true;
        eventually("web is ready", || self.web().iter().all(ready));
    }
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(300), "never: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap()
}

fn container(pod: &Value) -> (&str, u64) {
    let status = &pod["status"]["containerStatuses"][0];
    let id = status["containerID"].as_str().unwrap_or_default();
    (id, status["restartCount"].as_u64().unwrap_or_default())
}

/// Nothing of a lab in any cgroup hierarchy, no mount, no file, no process.
fn assert_nothing_left(lab: &Lab, before: &str) {
    let group = lab.place.cgroup();
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup").unwrap() {
        let left = hierarchy.unwrap().path().join(&group);
        assert!(!left.exists(), "{} is left", left.display());
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(
        !mounts.contains(lab.place.dir().to_str().unwrap()),
        "{mounts}"
    );
    assert!(!lab.place.dir().exists() && !lab.place.disk().exists());
    let group = group.to_str().unwrap();
    let in_group = |dir: &PathBuf| {
        let groups = std::fs::read_to_string(dir.join("cgroup")).unwrap_or_default();
        groups.contains(group)
    };
    let mut processes = std::fs::read_dir("/proc")
        .unwrap()
        .map(|e| e.unwrap().path());
    assert_eq!(processes.find(in_group), None);
    common::same(before, &machine());
}

#[test]
fn a_node_is_what_kubernetes_expects_of_one_on_eks() {
    require_root!();
    let before = machine();
    let cluster = Cluster::up("kubelet");
    let (place, node) = (&cluster.lab.place, cluster.node());
    let facts = &cluster.state().nodes[&node];

    let nodes = cluster.get(&["nodes"]);
    let [object] = nodes["items"].as_array().unwrap().as_slice() else {
        panic!("one node: {nodes}");
    };
    assert_eq!(name(object), facts.dns_name);
    let id = format!("aws:///us-west-2a/{}", facts.instance);
    assert_eq!(object["spec"]["providerID"], id.as_str());
    let labels = &object["metadata"]["labels"];
    for (key, value) in [
        ("topology.kubernetes.io/zone", "us-west-2a"),
        ("topology.kubernetes.io/region", "us-west-2"),
        ("node.kubernetes.io/instance-type", "t3.medium"),
        ("eks.amazonaws.com/nodegroup", "ng"),
        ("team", "a"),
    ] {
        assert_eq!(labels[key], value, "{key}");
    }
    assert_eq!(object["status"]["capacity"]["pods"], "17");

    cluster.start_web();
    let web = cluster.web();
    let pod = name(&web[0]).to_owned();
    assert_eq!(cluster.run(&["exec", &pod, "--", "hostname"]).trim(), pod);
    let write = "echo written > /proc/1/fd/1";
    cluster.run(&["exec", &pod, "--", "sh", "-c", write]);
    eventually("the pod's log has it", || {
        cluster.run(&["logs", &pod]).contains("written")
    });
    forwarded(&cluster, &pod);
    // What the agent keeps on the node is reached through the mounts of its pod.
    for path in [
        "/etc/cni/net.d/10-aws.conflist",
        "/opt/cni/bin/aws-cni",
        "/run/aws-node/ipamd.sock",
    ] {
        cluster.branchline(&["node", "exec", &facts.dns_name, "--", "test", "-e", path]);
    }
    // ctr finds the node's containerd, by either name of the node.
    let list = [
        "node",
        "exec",
        &node,
        "--",
        "ctr",
        "-n",
        "k8s.io",
        "containers",
        "ls",
        "-q",
    ];
    let running = cluster.branchline(&list);
    let of = |pod: &Value| {
        container(pod)
            .0
            .trim_start_matches("containerd://")
            .to_owned()
    };
    assert!(running.contains(&of(&web[0])), "{running}");

    // A killed container is started again, in the same pod.
    let task = of(&web[0]);
    let kill = [
        "node", "exec", &node, "--", "ctr", "-n", "k8s.io", "tasks", "kill", "-s", "9", &task,
    ];
    cluster.branchline(&kill);
    eventually("the container is started again", || {
        let now = cluster.web();
        let now = now.iter().find(|p| name(p) == pod).unwrap();
        container(now).1 == 1 && now["status"]["containerStatuses"][0]["ready"] == true
    });

    // The runtime and kubelet come back, and the containers never noticed.
    let before_kill: Vec<_> = cluster
        .web()
        .iter()
        .map(|p| (of(p), container(p).1))
        .collect();
    for service in ["containerd", "kubelet"] {
        let pid = || client::node_status(place, &node).unwrap().services[service].pid;
        let old = pid();
        cluster.branchline(&["node", "service", &node, service, "kill"]);
        assert!(pid().is_some() && pid() != old, "{service}");
    }
    let status = client::node_status(place, &node).unwrap();
    assert_eq!(status.services["containerd"].restarts, 1);
    eventually("kubelet answers", || {
        cluster
            .kubectl()
            .args(["exec", &pod, "--", "true"])
            .output()
            .unwrap()
            .status
            .success()
    });
    cluster.await_web();
    let after: Vec<_> = cluster
        .web()
        .iter()
        .map(|p| (of(p), container(p).1))
        .collect();
    assert_eq!(before_kill, after);

    // A service that is stopped stays down until it is started.
    cluster.branchline(&["node", "service", &facts.dns_name, "kubelet", "stop"]);
    let kubelet = || client::node_status(place, &node).unwrap().services["kubelet"].clone();
    assert!(kubelet().stopped && kubelet().pid.is_none());
    cluster.branchline(&["node", "service", &node, "kubelet", "start"]);
    assert!(kubelet().pid.is_some());
    let output = cluster
        .lab
        .branchline()
        .args(["node", "service", &node, "etcd", "kill"])
        .output();
    let said = told(&output.unwrap());
    assert!(
        said.contains("no service 'etcd' on this node (there is containerd, kubelet"),
        "{said}"
    );

    cluster.branchline(&["down"]);
    assert_nothing_left(&cluster.lab, &before);
}

/// A request through `kubectl port-forward` reaches the pod.
fn forwarded(cluster: &Cluster, pod: &str) {
    let mut forward = cluster.kubectl();
    forward
        .args(["port-forward", pod, ":80"])
        .stdout(Stdio::piped());
    let mut forward = forward.spawn().unwrap();
    let mut line = String::new();
    let out = forward.stdout.take().unwrap();
    // It ends when nobody reads what it writes.
    let mut out = BufReader::new(out);
    out.read_line(&mut line).unwrap();
    let port = line
        .split([':', ' '])
        .filter_map(|w| w.parse::<u16>().ok())
        .next();
    let mut stream = TcpStream::connect(("127.0.0.1", port.expect(&line))).unwrap();
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    forward.kill().unwrap();
    forward.wait().unwrap();
    assert!(answer.starts_with("HTTP/1"), "{answer}");
}

#[test]
fn a_node_survives_a_power_cut_and_its_end_leaves_nothing() {
    require_root!();
    let before = machine();
    let cluster = Cluster::up("power");
    let node = cluster.node();
    let facts = cluster.state().nodes[&node].clone();
    cluster.start_web();
    let object = || cluster.get(&["node", &facts.dns_name]);
    let boot = |o: &Value| {
        o["status"]["nodeInfo"]["bootID"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let machine_id = |o: &Value| {
        o["status"]["nodeInfo"]["machineID"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let first = object();

    cluster.branchline(&["node", "power-cycle", &facts.dns_name]);
    let restarted = |p: &Value| container(p).1 == 1;
    eventually("the pods' containers are started again", || {
        cluster.web().iter().all(restarted)
    });
    cluster.await_web();
    let second = object();
    assert_ne!(boot(&first), boot(&second));
    assert_eq!(machine_id(&first), machine_id(&second));
    // The runtime took the old sandboxes down without their namespaces.
    let log = cluster
        .lab
        .place
        .agent_log(&node)
        .with_file_name("plugin.log");
    let log = std::fs::read_to_string(log).unwrap();
    assert!(
        log.contains("Netns()"),
        "DEL with an empty CNI_NETNS: {log}"
    );
    assert_eq!(
        cluster.state().nodes[&node],
        facts,
        "the same name, address and port"
    );

    cluster.branchline(&["node", "stop", &node]);
    let state = cluster.state();
    assert!(state.nodes.is_empty() && state.stopped.contains_key(&node));
    assert!(cluster.branchline(&["node", "list"]).contains("stopped"));
    assert!(cluster.lab.place.node_disk(&node).exists());
    let output = cluster
        .lab
        .branchline()
        .args(["node", "stop", &node])
        .output();
    let said = told(&output.unwrap());
    assert!(
        said.contains(&format!("no running node '{node}'")),
        "{said}"
    );
    cluster.branchline(&["node", "start", &node]);
    eventually("the containers are started again", || {
        cluster.web().iter().all(|p| container(p).1 == 2)
    });
    cluster.await_web();

    // A Node that somebody deletes comes back as kubelet starts.
    cluster.run(&["delete", "node", &facts.dns_name]);
    cluster.branchline(&["node", "service", &node, "kubelet", "restart"]);
    eventually("kubelet registers again", || {
        let args = ["get", "node", &facts.dns_name];
        cluster
            .kubectl()
            .args(args)
            .output()
            .unwrap()
            .status
            .success()
    });

    cluster.branchline(&["node", "terminate", &node]);
    assert!(!cluster.lab.place.node_disk(&node).exists());
    eventually("the Node is deleted", || {
        cluster.get(&["nodes"])["items"]
            .as_array()
            .unwrap()
            .is_empty()
    });

    // A lab whose daemon was killed is swept with all that its nodes had.
    let daemon = cluster.state().daemon;
    daemon.signal(rustix::process::Signal::KILL).unwrap();
    eventually("the daemon ends", || !daemon.is_alive());
    cluster.branchline(&["down"]);
    assert_nothing_left(&cluster.lab, &before);
}
