//! Repairing changes what is ours until it is as it must be, and nothing else.

#![allow(clippy::unwrap_used, reason = "the helpers are tests as well")]

mod common;

use common::{fifteen_pods, name};
use nodenet::{
    Addr, Link, LinkKind, LinkName, Mac, Neighbour, NodeFacts, NodeNet, Owned, Route, Rule, Scope,
    Step, compile, diff, machine_made, whole,
};
use proptest::prelude::*;

/// What other programs have on the node.
fn foreign() -> NodeNet {
    let routes = [
        "10.50.0.0/16 via 10.0.0.1 dev eth0",
        "172.17.0.0/16 dev docker0 proto kernel scope link src 172.17.0.1",
        "default via 10.0.1.1 dev eth1 table 10",
        "10.0.1.50 dev vlan.eth.1 table 101 scope link",
        "default via 10.0.1.1 dev eth1 table 1000",
        "10.0.0.200 dev calib5faff8a083 scope link",
    ];
    let rules = [
        "10: from all iif vlan.eth.1 lookup 101",
        "512: from 10.0.0.7 lookup main",
        "512: from all to 10.0.0.0/24 lookup main",
        "1024: from all fwmark 0x40/0x40 lookup main",
        "1536: from 10.0.1.50 lookup 101",
        "1536: from 10.0.1.0/24 lookup 2",
        "30200: from all lookup 10",
        "32765: from 10.0.1.20 lookup 1000",
    ];
    let link = |text: &str, kind| Link {
        name: name(text),
        kind,
        mac: None,
        mtu: 1500,
        up: true,
    };
    NodeNet {
        links: [
            link("docker0", LinkKind::Other("bridge".to_owned())),
            link("calib5faff8a083", LinkKind::Veth),
            link("vlan.eth.1", LinkKind::Other("vlan".to_owned())),
        ]
        .into(),
        addrs: [
            Addr::new(name("docker0"), "172.17.0.1/16".parse().unwrap()),
            Addr::new(name("eth0"), "10.0.0.11/32".parse().unwrap()),
            Addr {
                scope: Scope::Link,
                ..Addr::new(name("eth1"), "169.254.7.7/16".parse().unwrap())
            },
        ]
        .into(),
        neighbours: Default::default(),
        routes: routes.iter().map(|l| l.parse().unwrap()).collect(),
        rules: rules.iter().map(|l| l.parse().unwrap()).collect(),
    }
}

/// What earlier versions and accidents leave behind, all of it ours.
fn residue() -> NodeNet {
    let routes = [
        "10.0.1.99 dev enib5faff8a083 scope link",
        "10.0.1.0/24 dev eth1 proto kernel scope link src 10.0.1.20",
        "10.9.0.0/16 via 10.0.1.1 dev eth1 table 2",
    ];
    let rules = [
        "512: from all to 10.0.1.99 lookup main",
        "1535: from all to 203.0.113.0/24 lookup main",
        "1536: from 10.0.1.99 lookup 3",
        "1536: from 10.0.1.105 to 10.0.0.0/16 lookup 2",
        "32765: from 10.0.2.9 lookup 3",
    ];
    NodeNet {
        addrs: [Addr::new(name("eth1"), "10.0.1.77/24".parse().unwrap())].into(),
        routes: routes.iter().map(|l| l.parse().unwrap()).collect(),
        rules: rules.iter().map(|l| l.parse().unwrap()).collect(),
        ..NodeNet::default()
    }
}

/// The owned part of a network, as far as a repair can decide it.
fn owned_part(net: &NodeNet, owned: &Owned) -> (Vec<Route>, Vec<Rule>, Vec<String>) {
    let routes = net
        .routes
        .iter()
        .filter(|r| owned.route(r))
        .cloned()
        .collect();
    let rules = net
        .rules
        .iter()
        .filter(|r| owned.rule(r))
        .cloned()
        .collect();
    let addrs = net.addrs.iter().filter(|a| owned.addr(a));
    (
        routes,
        rules,
        addrs.map(|a| format!("{} {}", a.link, a.net)).collect(),
    )
}

fn foreign_part(net: &NodeNet, owned: &Owned) -> NodeNet {
    let mut net = net.clone();
    net.routes.retain(|r| !owned.route(r));
    net.rules.retain(|r| !owned.rule(r));
    net.addrs.retain(|a| !owned.addr(a));
    net.links.clear();
    net
}

#[test]
fn nothing_is_done_to_a_node_that_is_right() {
    let facts = fifteen_pods();
    let have = whole(&facts).unwrap().union(foreign());
    let found = diff(&compile(&facts).unwrap(), &have, &Owned::by(&facts));
    assert!(found.is_empty(), "{found}");
}

#[test]
fn foreign_objects_are_foreign_and_residue_is_ours() {
    let owned = Owned::by(&fifteen_pods());
    let (routes, rules, addrs) = owned_part(&foreign(), &owned);
    assert_eq!((routes, rules, addrs), Default::default());
    let left = foreign_part(&residue(), &owned);
    assert_eq!(left, NodeNet::default());
    let machine = machine_made(&fifteen_pods()).unwrap();
    let (routes, rules, addrs) = owned_part(&machine, &owned);
    assert_eq!((routes, rules, addrs), Default::default());
}

#[test]
fn missing_links_are_named_and_what_needs_them_is_left_out() {
    let facts = fifteen_pods();
    let want = compile(&facts).unwrap();
    let have = machine_made(&facts).unwrap();
    let found = diff(&want, &have, &Owned::by(&facts));
    assert_eq!(found.missing.len(), 17, "both ENIs and all veths");
    assert!(
        found
            .steps
            .iter()
            .all(|step| matches!(step, Step::AddRule(_))),
        "{found}"
    );
}

#[test]
fn an_address_that_goes_takes_others_along_so_they_are_put_back() {
    let facts = NodeFacts {
        pods: Vec::new(),
        ..fifteen_pods()
    };
    let want = compile(&facts).unwrap();
    let mut have = whole(&facts).unwrap();
    have.addrs
        .insert(Addr::new(name("eth1"), "10.0.1.77/24".parse().unwrap()));
    let text = diff(&want, &have, &Owned::by(&facts)).to_string();
    assert_eq!(
        text,
        "addr del 10.0.1.77/24 dev eth1\n\
         addr add 10.0.1.20/24 dev eth1\n\
         route replace 10.0.1.1 dev eth1 table 2 scope link\n\
         route replace default via 10.0.1.1 dev eth1 table 2\n"
    );
}

#[test]
fn a_wrong_default_route_of_an_eni_is_replaced() {
    let facts = NodeFacts {
        pods: Vec::new(),
        ..fifteen_pods()
    };
    let want = compile(&facts).unwrap();
    let mut have = whole(&facts).unwrap();
    let right: Route = "default via 10.0.1.1 dev eth1 table 2".parse().unwrap();
    let wrong: Route = "default via 10.0.0.1 dev eth0 table 2".parse().unwrap();
    have.routes.remove(&right);
    have.routes.insert(wrong.clone());
    let found = diff(&want, &have, &Owned::by(&facts));
    assert_eq!(
        found.steps,
        [Step::PutRoute {
            route: right,
            was: Some(wrong)
        }]
    );
}

#[test]
fn a_permanent_neighbour_on_a_pods_veth_is_taken_away_and_others_stay() {
    let facts = fifteen_pods();
    let want = compile(&facts).unwrap();
    let mut have = whole(&facts).unwrap();
    let veth = want
        .links
        .iter()
        .find(|l| facts.settings.veth_prefix.made(&l.name))
        .unwrap();
    let neighbour = |link: LinkName| Neighbour {
        link,
        addr: [10, 0, 1, 105].into(),
        mac: Mac([2, 0, 0, 0, 9, 9]),
    };
    let planted = neighbour(veth.name.clone());
    have.neighbours = [planted.clone(), neighbour(name("eth1"))].into();
    let found = diff(&want, &have, &Owned::by(&facts));
    assert_eq!(found.steps, [Step::DelNeighbour(planted.clone())]);

    // One that must be is put in the place of another.
    let mut want = want;
    let right = Neighbour {
        mac: Mac([2, 0, 0, 0, 9, 8]),
        ..planted
    };
    want.neighbours.insert(right.clone());
    let found = diff(&want, &have, &Owned::by(&facts));
    assert_eq!(found.steps, [Step::PutNeighbour(right)]);
}

#[test]
fn a_rule_or_route_of_ours_is_about_one_address() {
    let owned = Owned::by(&fifteen_pods());
    let about = |rule: &str| owned.rule_about(&rule.parse().unwrap());
    let address = |text: &str| Some(text.parse().unwrap());
    assert_eq!(
        about("512: from all to 10.0.1.99 lookup main"),
        address("10.0.1.99")
    );
    assert_eq!(about("1536: from 10.0.1.99 lookup 3"), address("10.0.1.99"));
    assert_eq!(about("32765: from 10.0.2.9 lookup 3"), address("10.0.2.9"));
    assert_eq!(about("1024: from all fwmark 0x80/0x80 lookup main"), None);
    let foreign = foreign();
    assert!(foreign.rules.iter().all(|r| owned.rule_about(r).is_none()));
    assert!(
        foreign
            .routes
            .iter()
            .all(|r| owned.route_about(r).is_none())
    );
    let route = "10.0.1.99 dev enib5faff8a083 scope link".parse().unwrap();
    assert_eq!(owned.route_about(&route), address("10.0.1.99"));
}

/// A node in any state between nothing and everything, with foreign things and residue on it.
fn any_have() -> impl Strategy<Value = (NodeFacts, NodeNet)> {
    let facts = fifteen_pods();
    let all = whole(&facts).unwrap().union(foreign()).union(residue());
    let (a, r, u) = (all.addrs.len(), all.routes.len(), all.rules.len());
    let keep = |n| proptest::collection::vec(any::<bool>(), n);
    let pods = proptest::collection::vec(any::<bool>(), facts.pods.len());
    let links = proptest::collection::vec((576u32..9002, any::<bool>()), all.links.len());
    (keep(a), keep(r), keep(u), pods, links).prop_map(move |(addrs, routes, rules, pods, links)| {
        let mut facts = facts.clone();
        let mut keep = pods.iter();
        facts.pods.retain(|_| *keep.next().unwrap_or(&true));
        let net = NodeNet {
            links: all
                .links
                .iter()
                .zip(links)
                .map(|(link, (mtu, up))| Link {
                    mtu,
                    up,
                    ..link.clone()
                })
                .collect(),
            addrs: some(&all.addrs, &addrs),
            neighbours: Default::default(),
            routes: some(&all.routes, &routes),
            rules: some(&all.rules, &rules),
        };
        (facts, net)
    })
}

fn some<T: Clone + Ord>(
    all: &std::collections::BTreeSet<T>,
    keep: &[bool],
) -> std::collections::BTreeSet<T> {
    all.iter()
        .zip(keep)
        .filter(|(_, keep)| **keep)
        .map(|(t, _)| t.clone())
        .collect()
}

proptest! {
    /// From any state the repaired node is right on the owned part and unchanged on the rest; a
    /// second repair has nothing to do; taking the steps back restores the first state.
    #[test]
    fn a_repair_makes_the_owned_part_right_and_touches_nothing_else((facts, have) in any_have()) {
        let want = compile(&facts).unwrap();
        let owned = Owned::by(&facts);
        let found = diff(&want, &have, &owned);
        prop_assert!(found.missing.is_empty());
        let mut got = have.clone();
        found.apply_to(&mut got);
        prop_assert_eq!(owned_part(&got, &owned), owned_part(&want, &owned));
        prop_assert_eq!(foreign_part(&got, &owned), foreign_part(&have, &owned));
        for link in &want.links {
            let now = got.link(&link.name).unwrap();
            prop_assert_eq!((now.mtu, now.up), (link.mtu, link.up));
        }
        let again = diff(&want, &got, &owned);
        prop_assert!(again.is_empty(), "{}", again);
    }

    /// Every step that changes something is undone by its inverse.
    #[test]
    fn every_step_has_an_inverse((facts, have) in any_have()) {
        let found = diff(&compile(&facts).unwrap(), &have, &Owned::by(&facts));
        for step in &found.steps {
            prop_assert_eq!(&step.inverse().inverse().to_string(), &step.to_string());
            let mut net = have.clone();
            let before = net.clone();
            step.apply_to(&mut net);
            let changed = net != before;
            step.inverse().apply_to(&mut net);
            prop_assert!(!changed || net == before, "{}", step);
        }
    }
}
