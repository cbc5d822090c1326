//! A pod is wired as upstream does it, carries packets, and leaves nothing behind.

#![allow(clippy::unwrap_used, reason = "the helpers are tests as well")]

mod common;

use std::net::{Ipv4Addr, TcpListener, TcpStream};

use common::{may_run, name, namespace};
use kernel::pod::{self, Macs};
use kernel::{NetNs, Socket, node, sysctl};
use nodenet::{NodeNet, PodName, PodPort, PodWiring, TableId, VethPrefix};

fn wiring(pod: &str, address: [u8; 4], table: TableId, index: u8) -> PodWiring {
    PodWiring::new(&PodPort {
        pod: PodName::new("default", pod),
        index,
        ifname: name("eth0"),
        address: Ipv4Addr::from(address),
        table,
        veth_prefix: VethPrefix::default(),
        mtu: 9001,
    })
}

/// Runs a pod operation as the plugin does: on a thread in the node's namespace.
fn add(node: &NetNs, pod_ns: &NetNs, wiring: &PodWiring) -> kernel::Result<Macs> {
    node.run(|| {
        let macs = Macs::random()?;
        pod::add(&mut Socket::open()?, pod_ns, wiring, macs)?;
        Ok(macs)
    })?
}

/// Only what configuration decides; indexes and random addresses of links left aside.
fn settled(ns: &NetNs) -> NodeNet {
    node::read(ns).unwrap()
}

#[test]
fn a_pod_is_wired_checked_and_unwired() {
    if !may_run("pod") {
        return;
    }
    let (host, mut s) = namespace();
    sysctl::write(&host, "ipv4/ip_forward", "1").unwrap();
    let before = settled(&host);
    let (pod_a, _a) = namespace();
    let (pod_b, _b) = namespace();
    let a = wiring("sample-pod", [10, 0, 1, 7], TableId(2), 0);
    let b = wiring("other", [10, 0, 0, 9], TableId::MAIN, 0);
    let macs = add(&host, &pod_a, &a).unwrap();
    add(&host, &pod_b, &b).unwrap();

    assert_eq!(a.host.link, name("enicc21c2d7785"));
    let have = settled(&host);
    let lines: Vec<String> = have.rules.iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            "0: from all lookup local",
            "512: from all to 10.0.0.9 lookup main",
            "512: from all to 10.0.1.7 lookup main",
            "1536: from 10.0.1.7 lookup 2",
            "32766: from all lookup main",
            "32767: from all lookup default",
        ]
    );
    let main: Vec<String> = have.table(TableId::MAIN).map(ToString::to_string).collect();
    let b_route = format!("10.0.0.9 dev {} scope link", b.host.link);
    assert_eq!(
        main,
        [b_route, "10.0.1.7 dev enicc21c2d7785 scope link".to_owned()]
    );

    let in_pod = settled(&pod_a);
    let want = a.pod_net(macs.host);
    assert!(want.addrs.is_subset(&in_pod.addrs));
    assert!(want.neighbours.is_subset(&in_pod.neighbours));
    assert_eq!(in_pod.table(TableId::MAIN).cloned().collect::<Vec<_>>(), {
        let mut routes = a.pod.routes.to_vec();
        routes.sort();
        routes
    });
    let eth0 = in_pod.link(&name("eth0")).unwrap();
    assert_eq!((eth0.mtu, eth0.up, eth0.mac), (9001, true, Some(macs.pod)));
    let key = format!("ipv6/conf/{}/forwarding", a.host.link);
    if let Ok(value) = sysctl::read(&host, &key) {
        assert_eq!(value, "0");
    }

    // Packets: pod a to pod b and the node's own socket.
    let server = pod_b
        .run(|| TcpListener::bind((Ipv4Addr::new(10, 0, 0, 9), 80)).unwrap())
        .unwrap();
    let client = pod_a
        .run(|| TcpStream::connect(("10.0.0.9", 80)).unwrap())
        .unwrap();
    let (_, from) = server.accept().unwrap();
    assert_eq!(from, client.local_addr().unwrap());
    drop((server, client));

    assert_eq!(
        pod::check(&mut s, &pod_a, &a).unwrap(),
        Vec::<String>::new()
    );
    s.del_rule(&a.host.to_pod).unwrap();
    assert_eq!(
        pod::check(&mut s, &pod_a, &a).unwrap(),
        ["node: rule 512: from all to 10.0.1.7 lookup main"]
    );

    for wiring in [&a, &b, &a] {
        pod::del(&mut s, &wiring.host).unwrap();
    }
    s.del_link(&a.host.link).unwrap();
    s.del_link(&b.host.link).unwrap();
    assert_eq!(settled(&host), before);
}

#[test]
fn a_second_pod_of_the_same_name_takes_over() {
    if !may_run("same name") {
        return;
    }
    let (host, _s) = namespace();
    let (old, mut old_socket) = namespace();
    let (new, mut new_socket) = namespace();
    let pod = wiring("web-0", [10, 0, 1, 7], TableId(2), 0);
    add(&host, &old, &pod).unwrap();
    add(&host, &new, &pod).unwrap();
    assert_eq!(old_socket.link(&name("eth0")).unwrap(), None);
    assert!(new_socket.link(&name("eth0")).unwrap().is_some());
    assert_eq!(settled(&host).rules.len(), 5);
}

/// The kernel takes a gone pod's links away when it likes: also between two requests of the ADD
/// that meets them.
#[test]
fn a_pod_whose_namesake_vanishes_meanwhile_is_wired_all_the_same() {
    if !may_run("vanishing namesake") {
        return;
    }
    let (host, _s) = namespace();
    std::thread::scope(|scope| {
        for i in 0..10 {
            let host = &host;
            scope.spawn(move || {
                let pod = wiring(&format!("web-{i}"), [10, 0, 1, 10 + i], TableId(2), 0);
                for round in 0..50 {
                    // Its namespace goes at the end of the round; its links some time later.
                    let (ns, _socket) = namespace();
                    add(host, &ns, &pod).unwrap_or_else(|error| panic!("round {round}: {error}"));
                }
            });
        }
    });
}

#[test]
fn a_failed_add_leaves_nothing() {
    if !may_run("unwinding") {
        return;
    }
    let (host, mut s) = namespace();
    let (pod_ns, _p) = namespace();
    let first = wiring("web-0", [10, 0, 1, 7], TableId(2), 0);
    add(&host, &pod_ns, &first).unwrap();
    let before = settled(&host);

    // The pod's namespace has an eth0 already: of another pod's name, so the pair cannot be made.
    let second = wiring("web-1", [10, 0, 1, 8], TableId(2), 0);
    let error = add(&host, &pod_ns, &second).unwrap_err();
    assert!(error.is_exists(), "{error}");
    assert_eq!(settled(&host), before);

    // The pair can be made, but the pod has a default route: everything is taken back.
    let mut third = wiring("web-2", [10, 0, 1, 9], TableId(2), 0);
    let other_name = wiring("web-2", [10, 0, 1, 9], TableId(2), 1).pod.link;
    third.pod.link = other_name.clone();
    third.pod.addr.link = other_name.clone();
    for route in &mut third.pod.routes {
        if let nodenet::Target::Unicast { link, .. } = &mut route.target {
            *link = other_name.clone();
        }
    }
    let pod_before = settled(&pod_ns);
    let error = add(&host, &pod_ns, &third).unwrap_err();
    assert!(error.is_exists(), "{error}");
    assert_eq!(settled(&host), before);
    assert_eq!(settled(&pod_ns), pod_before);
    assert!(s.link(&third.host.link).unwrap().is_none());
}

#[test]
fn a_pod_has_a_second_interface_with_a_table_of_its_own() {
    if !may_run("second interface") {
        return;
    }
    let (host, _s) = namespace();
    let (pod_ns, mut p) = namespace();
    add(
        &host,
        &pod_ns,
        &wiring("multi", [10, 0, 1, 7], TableId(2), 0),
    )
    .unwrap();
    let second = wiring("multi", [10, 0, 9, 7], TableId(10_101), 1);
    add(&host, &pod_ns, &second).unwrap();
    let routes: Vec<String> = p
        .routes_of(TableId(1))
        .unwrap()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        routes,
        [
            "default via 169.254.1.2 dev mNicIf1 table 1",
            "169.254.1.2 dev mNicIf1 table 1 scope link"
        ]
    );
    let rules = settled(&pod_ns).rules;
    assert!(rules.contains(&"1: from 10.0.9.7 lookup 1".parse().unwrap()));
    assert!(
        settled(&host)
            .rules
            .contains(&"1536: from 10.0.9.7 lookup 10101".parse().unwrap())
    );
}
