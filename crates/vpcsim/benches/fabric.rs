//! What the packet plane costs per interface: laying out N at once, changing one, looking at the same state again.
//!
//! `cargo bench -p vpcsim --bench fabric`, as root. Everything happens in namespaces of a temporary directory.

#![allow(clippy::unwrap_used, reason = "in test code a panic is the report")]

#[path = "../tests/bed/mod.rs"]
mod bed;

use std::time::{Duration, Instant};

use bed::can_run;
use bed::topology::*;
use kernel::NetNs;
use nodenet::LinkName;
use vpc::facts::*;
use vpcsim::fabric::{Desired, Fabric, HostId, Plug};

/// Interfaces per host: nobody has 500 machines in a lab.
const PER_HOST: usize = 10;
const ROUNDS: usize = 15;

fn main() {
    if !can_run() {
        return;
    }
    println!(
        "{:>6} {:>12} {:>14} {:>12} {:>12} {:>12}",
        "ENIs", "lay out", "per ENI", "one group", "one address", "nothing"
    );
    for count in [1, 50, 100, 200, 500] {
        measure(count);
    }
}

fn measure(count: usize) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut desired = desired(dir.path(), count);
    let mut fabric = Fabric::new(dir.path()).expect("a fabric");
    let start = Instant::now();
    let report = fabric.apply(&desired).expect("laid out");
    let all = start.elapsed();
    assert_eq!(report.plugged.len(), count);
    let eni: EniId = "eni-0".parse().expect("an id");
    let mut groups = Vec::new();
    let mut addresses = Vec::new();
    let mut nothing = Vec::new();
    for round in 0..ROUNDS {
        let changed = desired.world.enis.get_mut(&eni).expect("it is there");
        let other: SgId = "sg-other".parse().expect("an id");
        if !changed.groups.remove(&other) {
            changed.groups.insert(other);
        }
        groups.push(timed(&mut fabric, &desired));
        let changed = desired.world.enis.get_mut(&eni).expect("it is there");
        let address = nth(
            net("10.0.255.0/24"),
            1 + u32::try_from(round).expect("small"),
        );
        changed.addresses.push(EniAddress {
            address,
            primary: false,
            public: None,
        });
        addresses.push(timed(&mut fabric, &desired));
        nothing.push(timed(&mut fabric, &desired));
    }
    println!(
        "{count:>6} {all:>12.1?} {:>14.1?} {:>12.1?} {:>12.1?} {:>12.1?}",
        all / u32::try_from(count).expect("small"),
        median(&mut groups),
        median(&mut addresses),
        median(&mut nothing)
    );
    Fabric::teardown(dir.path()).expect("torn down");
    for path in desired.hosts.values() {
        NetNs::unpin(path).expect("unpinned");
    }
}

fn timed(fabric: &mut Fabric, desired: &Desired) -> Duration {
    let start = Instant::now();
    fabric.apply(desired).expect("applied");
    start.elapsed()
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn desired(dir: &std::path::Path, count: usize) -> Desired {
    let mut b = Builder::default();
    b.vpc("a", "10.0.0.0/16");
    b.subnet("a", "a", "10.0.0.0/16", "a", "a");
    b.group(
        "nodes",
        "a",
        vec![egress("all", "0.0.0.0/0"), ingress("all", "sg-nodes")],
    );
    b.group("other", "a", vec![ingress("tcp/443", "sg-nodes")]);
    let mut desired = Desired::default();
    for number in 0..count {
        let address = nth(
            net("10.0.16.0/20"),
            u32::try_from(number).expect("small") + 10,
        )
        .to_string();
        let eni = b.eni(&number.to_string(), "a", &address, &["nodes"]);
        let host = HostId((number / PER_HOST).to_string());
        let path = dir.join(&host.0);
        if !desired.hosts.contains_key(&host) {
            drop(NetNs::create_pinned(&path).expect("a namespace"));
            desired.hosts.insert(host.clone(), path);
        }
        let link = LinkName::new(format!("eth{}", number % PER_HOST)).expect("a name");
        let plug = Plug {
            host,
            link,
            mac: eni.mac,
            mtu: 9001,
            configure: false,
        };
        desired.plugs.insert(eni.id.clone(), plug);
    }
    desired.world = b.world;
    desired
}
