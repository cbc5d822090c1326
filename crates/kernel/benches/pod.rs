//! The kernel's part of a CNI ADD and DEL through this crate, in one process: sockets opened, veth
//! pair, settings, host side, pod side. Pods' namespaces exist beforehand, as a runtime makes them.
//!
//! `cargo bench -p kernel --bench pod [-- PODS]` prints p50 and p99; needs root.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use kernel::pod::{self, Macs};
use kernel::{LinkEnd, NetNs, Socket};
use nodenet::{LinkName, PodName, PodPort, PodWiring, TableId, VethPrefix};

fn main() -> kernel::Result<()> {
    let pods = std::env::args()
        .skip(1)
        .find_map(|a| a.parse().ok())
        .unwrap_or(300);
    let host = NetNs::create()?;
    Socket::open_in(&host)?.set_up(&LinkName::loopback(), true)?;
    let namespaces = (0..pods)
        .map(|_| NetNs::create())
        .collect::<kernel::Result<Vec<_>>>()?;
    let wirings: Vec<PodWiring> = (0..pods).map(wiring).collect();
    // One thread stays in the node's namespace, as the plugin's process does.
    let floor = host.run(|| pairs_alone(&namespaces, &wirings))??;
    report("veth pair alone", &floor);
    for (how, own) in [("with a thread", None), ("on one thread", Some(&host))] {
        let (add, del) = host.run(|| measure(&namespaces, &wirings, own))??;
        report(&format!("ADD {how}"), &add);
        report(&format!("ADD {how}, first 30"), &add[..add.len().min(30)]);
        report(
            &format!("ADD {how}, last 30"),
            &add[add.len().saturating_sub(30)..],
        );
        report("DEL", &del);
    }
    Ok(())
}

fn wiring(i: u32) -> PodWiring {
    PodWiring::new(&PodPort {
        pod: PodName::new("default", format!("web-{i}")),
        index: 0,
        ifname: LinkName::new("eth0").expect("a constant"),
        address: Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 1, 0)) + i),
        table: TableId(2),
        veth_prefix: VethPrefix::default(),
        mtu: 9001,
    })
}

/// What the kernel takes for the veth pair alone, most of an ADD: the yardstick of the same run.
fn pairs_alone(namespaces: &[NetNs], wirings: &[PodWiring]) -> kernel::Result<Vec<Duration>> {
    let mut host = Socket::open()?;
    let mut times = Vec::new();
    for (ns, wiring) in namespaces.iter().zip(wirings) {
        let (pod, node) = (&wiring.pod.link, &wiring.host.link);
        let start = Instant::now();
        host.add_veth(
            &LinkEnd::new(pod).in_ns(ns).mtu(9001).up(),
            &LinkEnd::new(node).mtu(9001),
        )?;
        times.push(start.elapsed());
        host.del_link(node)?;
    }
    Ok(times)
}

/// ADD and DEL of every pod, each with sockets of its own. With a thread for the pod's namespace
/// ([`pod::add`]), or on this thread alone as the plugin does, which visits it.
fn measure(
    namespaces: &[NetNs],
    wirings: &[PodWiring],
    own: Option<&NetNs>,
) -> kernel::Result<(Vec<Duration>, Vec<Duration>)> {
    let (mut add, mut del) = (Vec::new(), Vec::new());
    for (ns, wiring) in namespaces.iter().zip(wirings) {
        let start = Instant::now();
        let mut host = Socket::open()?;
        match own {
            None => pod::add(&mut host, ns, wiring, Macs::random()?)?,
            Some(own) => {
                ns.enter_for_good()?;
                let pod = Socket::open();
                own.enter_for_good()?;
                let macs = Macs::random()?;
                pod::make_pair(&mut host, ns, &wiring.pair(), macs)?;
                pod::wire(&mut host, &mut pod?, wiring, macs)?;
            }
        }
        add.push(start.elapsed());
    }
    for wiring in wirings {
        let start = Instant::now();
        pod::del(&mut Socket::open()?, &wiring.host)?;
        del.push(start.elapsed());
    }
    let mut host = Socket::open()?;
    for wiring in wirings {
        host.del_link(&wiring.host.link)?;
    }
    Ok((add, del))
}

fn report(what: &str, times: &[Duration]) {
    let mut times = times.to_vec();
    times.sort();
    let at = |percent: usize| times.get((times.len() - 1) * percent / 100);
    if let (Some(p50), Some(p99)) = (at(50), at(99)) {
        println!("{what}: p50 {p50:.3?} p99 {p99:.3?} of {}", times.len());
    }
}
