//! CHECK: passes after ADD and fails for whatever is gone since.

use std::net::Ipv4Addr;

use kernel::Socket;
use nodenet::{LinkName, TableId};
use serde_json::{Value, json};

use crate::agent::Agent;
use crate::node::{Node, Pod, address_of, host_link, need_root};

struct Checked {
    node: Node,
    pod: Pod,
    result: Value,
    version: &'static str,
}

impl Checked {
    fn new(version: &'static str) -> Self {
        let node = Node::new();
        node.agent.state().free = vec![(Ipv4Addr::new(10, 9, 2, 1), 2)];
        let pod = Pod::new("sample-pod");
        let result = node.call("ADD", &pod, &node.conf(version)).result();
        let made = Self {
            node,
            pod,
            result,
            version,
        };
        made.passes();
        made
    }

    fn conf(&self) -> Value {
        self.node.conf_after(self.version, &self.result)
    }

    fn passes(&self) {
        self.node.call("CHECK", &self.pod, &self.conf()).silent();
    }

    fn fails(&self) -> (u64, String) {
        self.node.call("CHECK", &self.pod, &self.conf()).error()
    }

    fn inside(&self) -> Socket {
        Socket::open_in(&self.pod.ns).expect("a socket")
    }
}

fn eth0() -> LinkName {
    LinkName::new("eth0").expect("a name")
}

#[test]
fn line_17_check_needs_a_previous_result() {
    need_root!();
    let made = Checked::new("1.0.0");
    let (code, message) = made
        .node
        .call("CHECK", &made.pod, &made.node.conf("1.0.0"))
        .error();
    assert_eq!(code, 7);
    assert!(message.contains("prevResult"), "{message}");
    let other = json!({"cniVersion": "1.0.0", "interfaces": [], "ips": []});
    let conf = made.node.conf_after("1.0.0", &other);
    let (code, _) = made.node.call("CHECK", &made.pod, &conf).error();
    assert_eq!(code, 103);
}

#[test]
fn line_17_a_missing_link_is_found() {
    need_root!();
    let made = Checked::new("0.4.0");
    made.node
        .host()
        .del_link(&host_link(&made.pod))
        .expect("deleted");
    let (code, message) = made.fails();
    assert_eq!(code, 103);
    assert!(message.contains(host_link(&made.pod).as_str()), "{message}");
}

#[test]
fn line_17_a_link_that_is_down_is_found() {
    need_root!();
    let made = Checked::new("0.4.0");
    made.node
        .host()
        .set_up(&host_link(&made.pod), false)
        .expect("down");
    let (code, _) = made.fails();
    assert_eq!(code, 103);
}

#[test]
fn line_17_a_missing_address_is_found() {
    need_root!();
    let made = Checked::new("1.1.0");
    let address = address_of(&made.result);
    made.inside()
        .del_addr(&nodenet::Addr::new(eth0(), nodenet::host(address)))
        .expect("deleted");
    let (code, message) = made.fails();
    assert_eq!(code, 103);
    assert!(message.contains(&address.to_string()), "{message}");
}

#[test]
fn line_17_each_missing_route_is_found() {
    need_root!();
    for side in ["node", "gateway", "default"] {
        let made = Checked::new("0.4.0");
        let address = address_of(&made.result);
        let gateway = nodenet::layout::pod_gateway(0);
        let (mut socket, route) = match side {
            "node" => {
                let to_pod = nodenet::host(address);
                let link = host_link(&made.pod);
                (
                    made.node.host(),
                    nodenet::Route::direct(TableId::MAIN, to_pod, link),
                )
            }
            "gateway" => {
                let to = nodenet::host(gateway);
                (
                    made.inside(),
                    nodenet::Route::direct(TableId::MAIN, to, eth0()),
                )
            }
            _ => {
                let all = ipnet::Ipv4Net::default();
                (
                    made.inside(),
                    nodenet::Route::via(TableId::MAIN, all, gateway, eth0()),
                )
            }
        };
        socket.del_route(&route).expect("deleted");
        let (code, message) = made.fails();
        assert_eq!(code, 103, "{side}");
        assert!(message.contains("route"), "{message}");
    }
}

#[test]
fn line_18_what_later_plugins_may_change_is_allowed() {
    need_root!();
    let mut made = Checked::new("1.1.0");
    // `tuning` sets another MTU; a mesh adds a route.
    made.inside().set_mtu(&eth0(), 1400).expect("set");
    let more = "198.51.100.0/24".parse().expect("CIDR");
    let gateway = nodenet::layout::pod_gateway(0);
    let route = nodenet::Route::via(TableId::MAIN, more, gateway, eth0());
    made.inside().add_route(&route).expect("added");
    made.passes();
    // Another default route instead of ours, announced in the result of the chain.
    let all = ipnet::Ipv4Net::default();
    let ours = nodenet::Route::via(TableId::MAIN, all, gateway, eth0());
    made.inside().del_route(&ours).expect("deleted");
    assert_eq!(made.fails().0, 103);
    made.result["routes"] = json!([{"dst": "0.0.0.0/0", "gw": "192.0.2.1"}]);
    made.passes();
}

#[test]
fn line_19_missing_rules_are_found() {
    need_root!();
    for priority in [512, 1536] {
        let made = Checked::new("0.4.0");
        let rules = made.node.net().rules;
        let rule = rules
            .iter()
            .find(|rule| rule.priority == priority)
            .expect("made by ADD");
        made.node.host().del_rule(rule).expect("deleted");
        let (code, message) = made.fails();
        assert_eq!(code, 103);
        assert!(message.contains(&priority.to_string()), "{message}");
    }
}

#[test]
fn line_19_a_missing_neighbour_is_found() {
    need_root!();
    let made = Checked::new("0.4.0");
    let neighbours = made.pod.net().neighbours;
    let gateway = neighbours.iter().next().expect("made by ADD");
    made.inside().del_neighbour(gateway).expect("deleted");
    assert_eq!(made.fails().0, 103);
}

#[test]
fn line_19_a_dead_daemon_is_found() {
    need_root!();
    let mut made = Checked::new("0.4.0");
    made.node.agent.kill();
    let (code, message) = made.fails();
    assert_eq!(code, 11);
    assert!(message.contains("ipamd.sock"), "{message}");
}

/// The address daemon is this plugin's IPAM: it is asked whether it still holds the address.
#[test]
fn line_20_an_address_that_the_daemon_does_not_hold_is_found() {
    need_root!();
    let made = Checked::new("0.4.0");
    let given = std::mem::take(&mut made.node.agent.state().given);
    let (code, message) = made.fails();
    assert_eq!(code, 103);
    assert!(message.contains("holds no address"), "{message}");
    made.node.agent.state().given = given;
    for allocation in made.node.agent.state().given.values_mut() {
        allocation.ipv4_addr = "10.9.2.99".to_owned();
    }
    let (code, message) = made.fails();
    assert_eq!(code, 103);
    assert!(message.contains("10.9.2.1"), "{message}");
}

#[test]
fn line_20_upstreams_daemon_cannot_be_asked_and_the_kernel_is_compared_all_the_same() {
    need_root!();
    let node = Node::with(Agent::start_as_upstream());
    let pod = Pod::new("sample-pod");
    let result = node.add(&pod);
    let conf = node.conf_after("0.4.0", &result);
    node.call("CHECK", &pod, &conf).silent();
    node.host().del_link(&host_link(&pod)).expect("deleted");
    assert_eq!(node.call("CHECK", &pod, &conf).error().0, 103);
}

#[test]
fn line_21_check_passes_right_after_add() {
    need_root!();
    for version in ["0.4.0", "1.0.0", "1.1.0"] {
        Checked::new(version);
    }
}

#[test]
fn line_22_check_needs_0_4_0() {
    need_root!();
    let node = Node::new();
    let pod = Pod::new("sample-pod");
    for version in ["0.1.0", "0.2.0", "0.3.0", "0.3.1"] {
        let (code, message) = node.call("CHECK", &pod, &node.conf(version)).error();
        assert_eq!(code, 1, "{version}");
        assert!(message.contains("CHECK"), "{message}");
    }
}
