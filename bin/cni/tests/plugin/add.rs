//! ADD: what it leaves in the kernel and in its result, and that it leaves nothing when it fails.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use cni::rpc::backend::{AddNetworkReply, Failure, FailureKind, IpAllocationMetadata};
use ipnet::{IpNet, Ipv4Net};
use kernel::{LinkEnd, Socket};
use nodenet::{LinkName, NodeNet, Rule, TableId};
use serde_json::json;

use crate::agent::Agent;
use crate::node::{Node, Pod, address_of, host_link, need_root};

const VERSIONS: [&str; 7] = [
    "0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0",
];

#[test]
fn line_01_result_has_the_version_of_the_configuration() {
    need_root!();
    let node = Node::new();
    for (n, version) in VERSIONS.into_iter().enumerate() {
        let pod = Pod::new(&format!("pod-{n}"));
        let result = node.call("ADD", &pod, &node.conf(version)).result();
        assert_eq!(result["cniVersion"], version);
    }
}

#[test]
fn line_02_interfaces_are_host_end_and_container_end_with_its_sandbox() {
    need_root!();
    let node = Node::new();
    let pod = Pod::new("sample-pod");
    let result = node.call("ADD", &pod, &node.conf("1.1.0")).result();
    let interfaces = result["interfaces"].as_array().expect("a list");
    assert_eq!(interfaces.len(), 2);
    let (host, container) = (&interfaces[0], &interfaces[1]);
    assert_eq!(host["name"], "enicc21c2d7785");
    assert!(host.get("sandbox").is_none());
    assert_eq!(container["name"], "eth0");
    assert_eq!(container["sandbox"], pod.path());
    // The specification wants the truth, and has MTU since 1.1.0.
    let eth0 = pod
        .net()
        .links
        .into_iter()
        .find(|l| l.name.as_str() == "eth0")
        .expect("eth0");
    assert_eq!(
        container["mac"],
        eth0.mac.expect("a veth has one").to_string()
    );
    assert_eq!(container["mtu"], 9001);
}

/// Up to 0.4.0 upstream's bytes win over the specification: the table in `mac`, and a last
/// interface that does not exist.
#[test]
fn line_02_up_to_0_4_0_the_result_is_upstreams_byte_for_byte() {
    need_root!();
    let node = Node::new();
    for version in VERSIONS.into_iter().filter(|version| *version < "1") {
        let pod = Pod::new("sample-pod");
        let outcome = node.call("ADD", &pod, &node.conf(version));
        assert!(outcome.success, "{outcome:?}");
        let golden = format!(
            "{}/../../crates/cni/tests/golden/result/{version}.json",
            env!("CARGO_MANIFEST_DIR")
        );
        let address = node
            .agent
            .state()
            .given
            .values()
            .next()
            .expect("one")
            .ipv4_addr
            .clone();
        let golden = std::fs::read_to_string(golden)
            .expect("the golden file is in the repository")
            .replace("10.0.1.5", &address)
            .replace("/var/run/netns/cni-1", &pod.path());
        assert_eq!(outcome.stdout, golden, "{version}");
        node.call("DEL", &pod, &node.conf(version)).silent();
    }
}

#[test]
fn line_03_each_address_is_cidr_and_points_to_the_container_interface() {
    need_root!();
    let node = Node::new();
    for (n, version) in VERSIONS.into_iter().enumerate().skip(2) {
        let pod = Pod::new(&format!("pod-{n}"));
        let result = node.call("ADD", &pod, &node.conf(version)).result();
        let ip = &result["ips"][0];
        let index = usize::try_from(ip["interface"].as_u64().expect("an index")).expect("small");
        assert_eq!(result["interfaces"][index]["name"], "eth0", "{version}");
        let address: IpNet = ip["address"].as_str().expect("text").parse().expect("CIDR");
        assert_eq!(address.prefix_len(), 32);
    }
}

#[test]
fn line_04_an_existing_interface_is_an_error_and_nothing_is_touched() {
    need_root!();
    let node = Node::new();
    let pod = Pod::new("sample-pod");
    node.add(&pod);
    let (host, inside) = (node.net(), pod.net());
    let (code, message) = node.call("ADD", &pod, &node.conf("0.4.0")).error();
    assert_eq!(code, 100);
    assert!(message.contains("eth0 already exists"), "{message}");
    assert_eq!((node.net(), pod.net()), (host, inside));
    // The address of the attachment that lives was neither asked for again nor released.
    assert_eq!(node.agent.calls(), ["AddNetwork"]);
}

#[test]
fn line_05_an_interface_name_that_cannot_be_used_is_an_error() {
    need_root!();
    let node = Node::new();
    let pod = Pod::new("sample-pod");
    for name in ["", "a-name-of-16-byt", "a/b", ".", "..", "a b", "a:b"] {
        let mut environment = node.environment("ADD", &pod);
        environment.retain(|(variable, _)| *variable != "CNI_IFNAME");
        environment.push(("CNI_IFNAME", name.to_owned()));
        let conf = node.conf("0.4.0").to_string();
        let (code, _) = node.execute(&environment, conf.as_bytes()).error();
        assert_eq!(code, 4, "{name:?}");
    }
    assert!(node.agent.calls().is_empty());
}

#[test]
fn line_06_a_previous_result_is_passed_on_with_ours_behind_it() {
    need_root!();
    let node = Node::new();
    let pod = Pod::new("sample-pod");
    let before = json!({
        "cniVersion": "1.0.0",
        "interfaces": [{"name": "net0", "sandbox": pod.path()}],
        "ips": [{"address": "192.0.2.7/24", "gateway": "192.0.2.1", "interface": 0}],
        "routes": [{"dst": "198.51.100.0/24", "gw": "192.0.2.1"}],
        "dns": {"nameservers": ["192.0.2.53"]},
    });
    let conf = node.conf_after("1.0.0", &before);
    let result = node.call("ADD", &pod, &conf).result();
    assert_eq!(result["interfaces"][0], before["interfaces"][0]);
    assert_eq!(result["ips"][0], before["ips"][0]);
    assert_eq!(result["routes"][0], before["routes"][0]);
    assert_eq!(result["dns"], before["dns"]);
    assert_eq!(result["interfaces"][2]["name"], "eth0");
    assert_eq!(result["ips"][1]["interface"], 2);
}

/// The daemons are what this plugin delegates to: what they did is undone before the error.
#[test]
fn line_07_a_failing_policy_daemon_leads_to_everything_being_taken_back() {
    need_root!();
    let node = Node::new();
    let pod = Pod::new("sample-pod");
    let (host, inside) = (node.net(), pod.net());
    node.agent.state().policy_mode = "strict".to_owned();
    node.agent.state().policy_success = false;
    let (code, message) = node.call("ADD", &pod, &node.conf("0.4.0")).error();
    assert_eq!(code, 101, "{message}");
    assert_eq!((node.net(), pod.net()), (host, inside));
    assert!(node.agent.state().given.is_empty());
    assert_eq!(
        node.agent.calls(),
        [
            "AddNetwork",
            "EnforceNpToPod strict 1",
            "DelNetwork SetupNSFailed"
        ]
    );
}

#[test]
fn line_07_an_absent_policy_daemon_leads_to_everything_being_taken_back() {
    need_root!();
    let mut agent = Agent::nobody();
    agent.start_addresses(true);
    agent.state().policy_mode = "standard".to_owned();
    let node = Node::with(agent);
    let pod = Pod::new("sample-pod");
    let (host, inside) = (node.net(), pod.net());
    let (code, message) = node.call("ADD", &pod, &node.conf("0.4.0")).error();
    assert_eq!(code, 11);
    assert!(message.contains("npa.sock"), "{message}");
    assert_eq!((node.net(), pod.net()), (host, inside));
    assert!(node.agent.state().given.is_empty());
}

/// The pod has a default route by another interface, so the wiring fails in its last step.
#[test]
fn line_07_a_failing_kernel_leads_to_everything_being_taken_back() {
    need_root!();
    let node = Node::new();
    node.agent.state().free = vec![(Ipv4Addr::new(10, 9, 2, 1), 2)];
    let pod = Pod::new("sample-pod");
    let other = LinkName::new("other").expect("a name");
    let mut inside = Socket::open_in(&pod.ns).expect("a socket");
    let peer = LinkName::new("other-peer").expect("a name");
    inside
        .add_veth(&LinkEnd::new(&other), &LinkEnd::new(&peer))
        .expect("a pair");
    inside
        .set_up(&other, true)
        .and_then(|()| inside.set_up(&peer, true))
        .expect("up");
    let default = nodenet::Route::direct(TableId::MAIN, Ipv4Net::default(), other);
    inside.add_route(&default).expect("a default route");
    let before = (node.net(), pod.net());
    let (code, message) = node.call("ADD", &pod, &node.conf("0.4.0")).error();
    assert_eq!(code, 100);
    assert!(message.contains("File exists"), "{message}");
    assert_eq!((node.net(), pod.net()), before);
    assert_eq!(
        node.agent.calls(),
        ["AddNetwork", "DelNetwork SetupNSFailed"]
    );
}

#[test]
fn line_08_concurrent_adds_never_share_an_address() {
    need_root!();
    let node = Node::new();
    let pods: Vec<Pod> = (0..15).map(|n| Pod::new(&format!("pod-{n}"))).collect();
    let mut addresses: Vec<Ipv4Addr> = std::thread::scope(|scope| {
        let each = |pod| {
            let node = &node;
            scope.spawn(move || address_of(&node.add(pod)))
        };
        let running: Vec<_> = pods.iter().map(each).collect();
        running
            .into_iter()
            .map(|thread| thread.join().expect("an ADD"))
            .collect()
    });
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), pods.len());
}

#[test]
fn line_09_unknown_and_reserved_keys_are_accepted() {
    need_root!();
    let node = Node::new();
    let pod = Pod::new("sample-pod");
    let mut conf = node.conf("1.1.0");
    conf["someFutureKey"] = json!({"a": [1, 2]});
    conf["cni.dev/something"] = json!(true);
    node.call("ADD", &pod, &conf).result();
}

#[test]
fn line_10_no_daemon_is_code_11_with_the_sockets_path() {
    need_root!();
    let node = Node::with(Agent::nobody());
    let pod = Pod::new("sample-pod");
    let (code, message) = node.call("ADD", &pod, &node.conf("0.4.0")).error();
    assert_eq!(code, 11);
    let socket = node.agent.ipamd();
    assert!(
        message.contains(socket.to_str().expect("text")),
        "{message}"
    );
}

#[test]
fn line_10_a_daemon_that_never_answers_is_code_11_after_the_configured_wait() {
    need_root!();
    let node = Node::with(Agent::nobody());
    let _silent = UnixListener::bind(node.agent.ipamd()).expect("bind");
    let pod = Pod::new("sample-pod");
    let before = (node.net(), pod.net());
    let mut conf = node.conf("0.4.0");
    conf["daemonWait"] = json!("200ms");
    let started = Instant::now();
    let (code, message) = node.call("ADD", &pod, &conf).error();
    assert_eq!(code, 11);
    assert!(
        message.contains("did not answer /rpc.CNIBackend/AddNetwork"),
        "{message}"
    );
    // Far below the default of 10 s; the bound itself is not this test's business.
    assert!(started.elapsed() < Duration::from_secs(8));
    // The environment wins over the configuration.
    conf["daemonWait"] = json!("500s");
    let mut environment = node.environment("ADD", &pod);
    environment.push(("AWS_VPC_CNI_DAEMON_WAIT", "200ms".to_owned()));
    let (code, _) = node
        .execute(&environment, conf.to_string().as_bytes())
        .error();
    assert_eq!(code, 11);
    assert_eq!((node.net(), pod.net()), before);
}

#[test]
fn line_10_the_daemons_reason_and_suggested_code_are_passed_on() {
    need_root!();
    let node = Node::new();
    let pod = Pod::new("sample-pod");
    let before = (node.net(), pod.net());
    node.agent.state().free.clear();
    let (code, message) = node.call("ADD", &pod, &node.conf("0.4.0")).error();
    assert_eq!(code, 11);
    assert!(
        message.contains("subnet subnet-1 has no free address"),
        "{message}"
    );
    for (kind, cni_code, expected) in [
        (FailureKind::InvalidRequest, 0, 102),
        (FailureKind::Internal, 0, 102),
        (FailureKind::NotReady, 0, 11),
        (FailureKind::Ec2, 50, 50),
    ] {
        let failure = Failure {
            kind: kind.into(),
            reason: "because".to_owned(),
            cni_code,
        };
        let reply = AddNetworkReply {
            failure: Some(failure),
            ..AddNetworkReply::default()
        };
        node.agent.state().add_reply = Some(reply);
        let (code, message) = node.call("ADD", &pod, &node.conf("0.4.0")).error();
        assert_eq!(code, expected, "{kind:?}");
        assert!(message.contains("because"));
    }
    // Upstream's daemon fails without a reason.
    node.agent.state().add_reply = Some(AddNetworkReply::default());
    let (code, message) = node.call("ADD", &pod, &node.conf("0.4.0")).error();
    assert_eq!(code, 11);
    assert!(message.contains("gave no reason"), "{message}");
    // The pair that was made meanwhile is gone.
    assert_eq!((node.net(), pod.net()), before);
}

#[test]
fn what_is_not_built_is_refused_by_name_and_taken_back() {
    need_root!();
    let node = Node::new();
    let pod = Pod::new("sample-pod");
    let before = (node.net(), pod.net());
    let v6 = IpAllocationMetadata {
        ipv6_addr: "2001:db8::5".into(),
        ..Default::default()
    };
    let success = AddNetworkReply {
        success: true,
        ..AddNetworkReply::default()
    };
    for (reply, code, named) in [
        (
            AddNetworkReply {
                pod_vlan_id: 7,
                ..success.clone()
            },
            105,
            "VLAN 7",
        ),
        (
            AddNetworkReply {
                ip_allocation_metadata: vec![v6],
                ..success.clone()
            },
            105,
            "2001:db8",
        ),
        (success, 102, "no address"),
    ] {
        node.agent.state().calls.clear();
        node.agent.state().add_reply = Some(reply);
        let (got, message) = node.call("ADD", &pod, &node.conf("0.4.0")).error();
        assert_eq!(got, code, "{message}");
        assert!(message.contains(named), "{message}");
        assert_eq!(
            node.agent.calls(),
            ["AddNetwork", "DelNetwork SetupNSFailed"]
        );
        assert_eq!((node.net(), pod.net()), before);
    }
}

fn wiring(node: &Node, pod: &Pod, address: Ipv4Addr, table: TableId) -> nodenet::PodWiring {
    let _ = node;
    nodenet::PodWiring::new(&nodenet::PodPort {
        pod: nodenet::PodName::new("default", &pod.name),
        index: 0,
        ifname: LinkName::new("eth0").expect("a name"),
        address,
        table,
        veth_prefix: nodenet::VethPrefix::default(),
        mtu: 9001,
    })
}

fn lacks(want: &NodeNet, have: &NodeNet) -> Vec<String> {
    let routes = want
        .routes
        .difference(&have.routes)
        .map(ToString::to_string);
    let rules = want.rules.difference(&have.rules).map(ToString::to_string);
    let neighbours = want
        .neighbours
        .difference(&have.neighbours)
        .map(|n| format!("{n:?}"));
    let addrs = want.addrs.difference(&have.addrs).map(|a| format!("{a:?}"));
    routes.chain(rules).chain(neighbours).chain(addrs).collect()
}

/// Upstream's kernel state on a secondary interface: both rules, and the pod's side with the
/// gateway that nobody has.
#[test]
fn the_kernel_has_upstreams_state() {
    need_root!();
    let node = Node::new();
    let address = Ipv4Addr::new(10, 9, 2, 1);
    node.agent.state().free = vec![(address, 2)];
    let pod = Pod::new("sample-pod");
    let result = node.add(&pod);
    assert_eq!(result["interfaces"][1]["mac"], "2");
    assert_eq!(result["interfaces"][2]["sandbox"], "1");
    let want = wiring(&node, &pod, address, TableId(2));
    let host = node.net();
    assert_eq!(lacks(&want.host_net(), &host), Vec::<String>::new());
    let link = host.link(&host_link(&pod)).expect("the host end");
    assert!(link.up && link.mtu == 9001);
    let inside = pod.net();
    let mac = link.mac.expect("a veth has one");
    assert_eq!(lacks(&want.pod_net(mac), &inside), Vec::<String>::new());
    let eth0 = inside.link(&want.pod.link).expect("eth0");
    assert!(eth0.up && eth0.mtu == 9001);
    let rules: Vec<&Rule> = host.rules.iter().filter(|r| r.priority > 0).collect();
    let texts: Vec<String> = rules.iter().map(ToString::to_string).collect();
    assert!(
        texts.iter().any(|rule| rule.starts_with("1536")),
        "{texts:?}"
    );
}

/// TCP from the node to the pod and back, over the veth.
#[test]
fn packets_flow_between_node_and_pod() {
    need_root!();
    let node = Node::new();
    let own = nodenet::host(Ipv4Addr::new(10, 9, 0, 1));
    node.host()
        .add_addr(&nodenet::Addr::new(LinkName::loopback(), own))
        .expect("an address");
    let pod = Pod::new("sample-pod");
    let address = address_of(&node.add(&pod));
    let listener = pod.ns.run(|| TcpListener::bind((address, 7)));
    let listener = listener
        .expect("entered")
        .expect("listens on the pod's address");
    let stream = node.ns.run(|| TcpStream::connect((address, 7)));
    let mut stream = stream.expect("entered").expect("connects");
    stream.write_all(b"hello").expect("sent");
    let (mut inside, from) = listener.accept().expect("accepted");
    let mut heard = [0; 5];
    inside.read_exact(&mut heard).expect("received");
    assert_eq!((&heard, from.ip()), (b"hello", own.addr().into()));
}

/// A pod of the same name may have left its veth behind; its name is the new pod's now.
#[test]
fn a_left_over_veth_of_the_same_name_is_replaced() {
    need_root!();
    let node = Node::new();
    let old = Pod::new("stateful-0");
    node.add(&old);
    let new = Pod {
        container: "another-container".to_owned(),
        ..Pod::new("stateful-0")
    };
    let result = node.add(&new);
    node.call("CHECK", &new, &node.conf_after("0.4.0", &result))
        .silent();
    assert!(
        old.net()
            .links
            .iter()
            .all(|link| link.name.as_str() != "eth0")
    );
}

#[test]
fn a_log_that_cannot_be_written_does_not_disturb_the_result() {
    need_root!();
    let node = Node::new();
    let pod = Pod::new("sample-pod");
    let mut conf = node.conf("0.4.0");
    conf["pluginLogFile"] = json!("/proc/1/no/such/log");
    let outcome = node.call("ADD", &pod, &conf);
    outcome.result();
    assert!(
        outcome.stderr.contains("cannot write the log"),
        "{outcome:?}"
    );
}

#[test]
fn the_log_has_upstreams_lines_in_upstreams_place() {
    need_root!();
    let node = Node::new();
    let pod = Pod::new("sample-pod");
    node.add(&pod);
    let log = std::fs::read_to_string(node.log()).expect("the log was made");
    assert!(!log.is_empty());
    for line in log.lines() {
        let entry: serde_json::Value = serde_json::from_str(line).expect("a JSON line");
        for key in ["level", "ts", "caller", "msg"] {
            assert!(entry[key].is_string(), "{line}");
        }
    }
    assert!(
        log.contains("ContainerID(container-of-sample-pod)"),
        "{log}"
    );
}
