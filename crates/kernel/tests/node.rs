//! A whole node in a real namespace: read, repaired and restored.

#![allow(clippy::unwrap_used, reason = "the helpers are tests as well")]

mod common;

use common::node::{Node, fifteen_pods};
use common::{may_run, name};
use kernel::node;
use nodenet::{Addr, NodeNet, Origin, Owned, Route, Step, compile, diff, whole};

/// Changes that stand for what a node has seen before we come: residue, losses, foreign objects.
fn disturb(node: &mut Node, how: u32) {
    let s = &mut node.socket;
    let rule = |line: &str| line.parse().unwrap();
    match how {
        0 => {}
        1 => {
            s.del_rule(&rule("512: from all to 10.0.1.107 lookup main"))
                .unwrap();
            s.del_rule(&rule("1536: from 10.0.1.108 lookup 2")).unwrap();
            s.add_rule(&rule("1536: from 10.0.1.108 lookup main"))
                .unwrap();
            s.add_rule(&rule("1536: from 10.0.1.108 lookup 3")).unwrap();
            s.add_rule(&rule("100: from 10.0.1.108 lookup 7")).unwrap();
        }
        2 => {
            // The stale address comes first, so the kernel makes ours a secondary of it.
            let ours = Addr::new(name("eth1"), "10.0.1.20/24".parse().unwrap());
            s.del_addr(&ours).unwrap();
            s.add_addr(&Addr::new(name("eth1"), "10.0.1.77/24".parse().unwrap()))
                .unwrap();
            s.add_addr(&ours).unwrap();
        }
        3 => s.set_up(&name("eth1"), false).unwrap(),
        4 => {
            let wrong = "default via 10.0.0.1 dev eth0 table 2".parse().unwrap();
            s.replace_route(&wrong).unwrap();
            let stale = "10.9.0.0/16 via 10.0.1.1 dev eth1 table 2".parse().unwrap();
            s.add_route(&stale).unwrap();
            s.set_mtu(&name("eth1"), 1500).unwrap();
        }
        _ => {
            s.add_addr(&Addr::new(name("eth0"), "10.0.0.11/32".parse().unwrap()))
                .unwrap();
            s.add_route(&"10.50.0.0/16 via 10.0.0.1 dev eth0".parse().unwrap())
                .unwrap();
        }
    }
}

fn foreign_part(net: &NodeNet, owned: &Owned) -> NodeNet {
    let mut net = net.clone();
    // What the kernel makes for an address comes and goes with it.
    net.routes
        .retain(|r| !owned.route(r) && r.table != nodenet::TableId::LOCAL);
    net.rules.retain(|r| !owned.rule(r));
    net.addrs.retain(|a| !owned.addr(a));
    net.links.clear();
    net
}

#[test]
fn a_node_is_set_up_and_repaired_and_foreign_things_stay() {
    if !may_run("repair") {
        return;
    }
    let mut node = Node::new(fifteen_pods());
    node.plug_pods();
    let want = compile(&node.facts).unwrap();
    let owned = Owned::by(&node.facts);
    for how in 0..6 {
        disturb(&mut node, how);
        let have = node::read(&node.ns).unwrap();
        let found = diff(&want, &have, &owned);
        assert!(found.missing.is_empty(), "{found}");
        node::apply(&node.ns, &found).unwrap();
        let got = node::read(&node.ns).unwrap();
        let again = diff(&want, &got, &owned);
        assert!(again.is_empty(), "after disturbance {how}: {again}");
        assert_eq!(
            foreign_part(&got, &owned),
            foreign_part(&have, &owned),
            "disturbance {how}"
        );
        // The same steps once more change nothing.
        node::apply(&node.ns, &found).unwrap();
        assert_eq!(node::read(&node.ns).unwrap(), got);
    }
}

#[test]
fn the_kernel_makes_of_the_facts_what_the_model_says() {
    if !may_run("whole node") {
        return;
    }
    let mut node = Node::new(fifteen_pods());
    node.plug_pods();
    let have = node::read(&node.ns).unwrap();
    let found = diff(
        &compile(&node.facts).unwrap(),
        &have,
        &Owned::by(&node.facts),
    );
    node::apply(&node.ns, &found).unwrap();
    let (got, model) = (node::read(&node.ns).unwrap(), whole(&node.facts).unwrap());
    assert_eq!(got.rules, model.rules);
    assert_eq!(got.addrs, model.addrs);
    // Who made a route is not part of what it does: DHCP on EC2, the test here.
    let lines = |net: &NodeNet| -> Vec<String> {
        let routes = net.routes.iter().cloned();
        let mut lines: Vec<_> = routes
            .map(|route| {
                Route {
                    origin: Origin::Boot,
                    ..route
                }
                .to_string()
            })
            .collect();
        lines.sort();
        lines
    };
    assert_eq!(lines(&got), lines(&model));
}

#[test]
fn a_repair_that_fails_is_taken_back() {
    if !may_run("taking back") {
        return;
    }
    let mut node = Node::new(fifteen_pods());
    node.plug_pods();
    let before = node::read(&node.ns).unwrap();
    let owned = Owned::by(&node.facts);
    let mut found = diff(&compile(&node.facts).unwrap(), &before, &owned);
    // A gateway that no link reaches.
    let bad = "10.77.0.0/16 via 10.99.0.1 dev eth0".parse().unwrap();
    found.steps.push(Step::PutRoute {
        route: bad,
        was: None,
    });
    let error = node::apply(&node.ns, &found).unwrap_err();
    assert!(
        error.to_string().contains("10.77.0.0/16 via 10.99.0.1"),
        "{error}"
    );
    assert_eq!(node::read(&node.ns).unwrap(), before);
}

#[test]
fn a_node_is_taken_down_to_what_it_was() {
    if !may_run("teardown") {
        return;
    }
    let mut node = Node::new(fifteen_pods());
    let before = node::read(&node.ns).unwrap();
    node.plug_pods();
    let owned = Owned::by(&node.facts);
    let found = diff(
        &compile(&node.facts).unwrap(),
        &node::read(&node.ns).unwrap(),
        &owned,
    );
    node::apply(&node.ns, &found).unwrap();
    assert_ne!(node::read(&node.ns).unwrap(), before);

    // The pods go: their objects are stale and removed.
    let mut facts = node.facts.clone();
    facts.pods.clear();
    let want = compile(&facts).unwrap();
    let found = diff(&want, &node::read(&node.ns).unwrap(), &Owned::by(&facts));
    node::apply(&node.ns, &found).unwrap();
    for link in node.socket.links().unwrap() {
        if facts.settings.veth_prefix.made(&link.link.name) {
            node.socket.del_link(&link.link.name).unwrap();
        }
    }
    // The second ENI goes: an empty want for it, with its tables still known as ours.
    let mut none = compile(&facts).unwrap();
    none.links.clear();
    none.addrs.clear();
    none.routes.clear();
    none.rules.clear();
    let found = diff(&none, &node::read(&node.ns).unwrap(), &Owned::by(&facts));
    node::apply(&node.ns, &found).unwrap();
    node.socket.set_up(&name("eth1"), false).unwrap();
    node.socket.set_mtu(&name("eth1"), 1500).unwrap();
    assert_eq!(node::read(&node.ns).unwrap(), before);
}
