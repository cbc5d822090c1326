//! Hosts in namespaces around a real fabric, torn down when dropped.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test program uses a part of the bed"
)]

pub mod probe;
pub mod random;
pub mod topology;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use kernel::{NetNs, Socket};
use nodenet::{Addr, LinkName};
use vpc::facts::{EniId, EniKind, World};
use vpcsim::fabric::{Desired, Fabric, HostId, Plug, Report};

use probe::{PATIENCE, Probe, Responder, Seen};

/// A world with one host per interface, each answering on all [`probe::PORTS`].
pub struct Bed {
    pub fabric: Fabric,
    pub desired: Desired,
    pub dir: tempfile::TempDir,
    hosts: BTreeMap<EniId, Host>,
    /// Probes so far: no two have the same number.
    asked: AtomicU32,
}

struct Host {
    ns: NetNs,
    responder: Responder,
}

/// Whether tests of the kernel can run. They must not be skipped silently, and not at all in CI.
pub fn can_run() -> bool {
    if rustix::process::geteuid().is_root() {
        return true;
    }
    assert!(
        std::env::var_os("CI").is_none(),
        "tests of the packet plane need root"
    );
    eprintln!("SKIPPED: tests of the packet plane need root");
    false
}

impl Bed {
    /// Lays out a world.
    pub fn new(world: World) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("hosts")).unwrap();
        let mut bed = Self {
            fabric: Fabric::new(dir.path()).unwrap(),
            desired: Desired {
                world,
                ..Desired::default()
            },
            dir,
            hosts: BTreeMap::new(),
            asked: AtomicU32::new(0),
        };
        let enis: Vec<_> = bed.desired.world.enis.values().cloned().collect();
        for eni in enis.iter().filter(|eni| eni.kind != EniKind::NatGateway) {
            let host = HostId(eni.id.to_string());
            let path = bed.dir.path().join("hosts").join(eni.id.as_str());
            drop(NetNs::create_pinned(&path).unwrap());
            bed.desired.hosts.insert(host.clone(), path);
            let link = LinkName::new("eth0").unwrap();
            let plug = Plug {
                host,
                link,
                mac: eni.mac,
                mtu: 9001,
                configure: true,
            };
            bed.desired.plugs.insert(eni.id.clone(), plug);
        }
        bed.apply();
        for eni in enis.iter().filter(|eni| eni.kind != EniKind::NatGateway) {
            let ns = NetNs::open(bed.dir.path().join("hosts").join(eni.id.as_str())).unwrap();
            let mut addresses: Vec<Ipv4Addr> = eni.addresses.iter().map(|a| a.address).collect();
            addresses.extend(eni.prefixes.iter().map(|p| topology::nth(*p, 5)));
            let mut socket = Socket::open_in(&ns).unwrap();
            for address in addresses.iter().filter(|a| Some(**a) != eni.primary()) {
                let addr = Addr::new(LinkName::new("eth0").unwrap(), (*address).into());
                socket.add_addr(&addr).unwrap();
            }
            let responder = Responder::start(&ns, &addresses);
            bed.hosts.insert(eni.id.clone(), Host { ns, responder });
        }
        bed.settle();
        bed
    }

    /// Waits until every host can talk to its router. The kernel starts a link some time after it is up
    /// (link_watch.c), which on a busy machine is longer than a probe waits for its answer.
    pub fn settle(&self) {
        let world = &self.desired.world;
        let unsettled = |(id, host): &(&EniId, &Host)| {
            let eni = &world.enis[*id];
            let router = topology::nth(world.subnets[&eni.subnet].cidr, 1);
            let packet = flowset::Packet::ping(eni.primary().unwrap(), router);
            let probe = Probe {
                packet,
                spoofed: false,
            };
            let number = self.asked.fetch_add(1, Ordering::Relaxed);
            !probe::send(&host.ns, &[(number, probe)], PATIENCE)[0]
        };
        let begun = Instant::now();
        while self.hosts.iter().filter(unsettled).count() > 0 {
            assert!(
                begun.elapsed() < 3 * probe::FAITH,
                "hosts without a way to their router"
            );
        }
    }

    /// The pin of a namespace of the fabric.
    pub fn pin(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join("netns").join(name)
    }

    /// Applies what is desired now.
    pub fn apply(&mut self) -> Report {
        self.fabric.apply(&self.desired).unwrap()
    }

    /// The namespace of an interface's host.
    pub fn host(&self, eni: &str) -> &NetNs {
        &self.hosts[&eni.parse::<EniId>().unwrap()].ns
    }

    /// Sends all probes at once, each from its interface, and reports what was seen of each within this time.
    pub fn ask(&self, probes: &[(EniId, Probe)], within: Duration) -> Vec<Seen> {
        let mut by_host: BTreeMap<&EniId, Vec<(u32, Probe)>> = BTreeMap::new();
        let first = self
            .asked
            .fetch_add(u32::try_from(probes.len()).unwrap(), Ordering::Relaxed);
        for (number, (eni, probe)) in (first..).zip(probes) {
            by_host.entry(eni).or_default().push((number, *probe));
        }
        let mut seen = vec![Seen::default(); probes.len()];
        std::thread::scope(|scope| {
            let senders: Vec<_> = by_host
                .iter()
                .map(|(eni, list)| {
                    let ns = &self.hosts[*eni].ns;
                    (list, scope.spawn(move || probe::send(ns, list, within)))
                })
                .collect();
            for (list, sender) in senders {
                for ((number, _), answered) in list.iter().zip(sender.join().unwrap()) {
                    seen[(*number - first) as usize].answered = answered;
                }
            }
        });
        for (number, (_, probe)) in (first..).zip(probes) {
            let from = probe.packet.src();
            seen[(number - first) as usize].arrived = self
                .hosts
                .values()
                .any(|host| host.responder.has(from, number));
        }
        self.hosts.values().for_each(|host| host.responder.clear());
        seen
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if std::thread::panicking() && std::env::var_os("KEEP").is_some() {
            eprintln!(
                "kept: nsenter --net={}/netns/vpc-… nft list ruleset",
                self.dir.path().display()
            );
            let _ = std::mem::replace(&mut self.dir, tempfile::tempdir().unwrap()).keep();
            return;
        }
        self.hosts.clear();
        Fabric::teardown(self.dir.path()).unwrap();
        for path in self.desired.hosts.values() {
            NetNs::unpin(path).unwrap();
        }
    }
}

/// Runs a program in a namespace and returns what it printed; for looking at the kernel in tests.
pub fn output(ns: &Path, program: &str, args: &[&str]) -> String {
    let ns = NetNs::open(ns).unwrap();
    let run = || {
        std::process::Command::new(program)
            .args(args)
            .output()
            .unwrap()
    };
    let output = ns.run(run).unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}
