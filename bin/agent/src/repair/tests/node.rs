//! A node of the tests: two interfaces, three wired pods, and everything that other programs put on
//! a node, in a namespace of its own.

use std::net::{Ipv4Addr, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use ipam::Millis;
use kernel::pod::Macs;
use kernel::{LinkEnd, Monitor, NetNs, Socket, sysctl};
use nodenet::{Addr, EniFacts, LinkName, Mac, NodeSettings, PodFacts, PodName, Route, TableId};

use super::super::facts::{Leased, SETTLED, veth};
use super::super::{Facts, Repairer};
use crate::findings::Findings;
use crate::test_ns::in_a_namespace;

/// How long an answer that comes may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long one that does not is waited for.
const IMPATIENCE: Duration = Duration::from_millis(500);

/// What other programs have on a node. None of it may ever change.
const FOREIGN: [&str; 21] = [
    // A bridge of Docker's, a veth of Calico's.
    "link add docker0 type bridge",
    "addr add 172.17.0.1/16 dev docker0",
    "link set docker0 up",
    "link add calib5faff8a083 type veth peer name cali-far",
    "link set calib5faff8a083 up",
    "link set cali-far up",
    "route add 10.0.0.200 dev calib5faff8a083 scope link",
    "rule add pref 220 from all lookup 220",
    // nm-cloud-setup.
    "rule add pref 30200 from 10.0.0.10 lookup 30200",
    "route add default via 10.0.0.1 dev eth0 table 30200",
    // amazon-ec2-net-utils.
    "rule add pref 10001 from 10.0.1.20 lookup 10001",
    "route add default via 10.0.0.1 dev eth0 table 10001",
    // Cilium, kube-proxy and an IPsec daemon, by mark.
    "rule add pref 9 from all fwmark 0x200/0xf00 lookup 2004",
    "rule add pref 1024 from all fwmark 0x4000/0x4000 lookup main",
    // Rules of our priorities and other shapes.
    "rule add pref 512 from 10.0.0.7 lookup main",
    "rule add pref 512 to 10.0.0.0/24 lookup main",
    "rule add pref 1536 from 10.0.1.0/24 lookup 2",
    "rule add pref 1536 from 10.0.1.105 lookup 101",
    // Of an address that the pool does not know, in our shape: upstream's pods on branch interfaces.
    "rule add pref 512 to 10.0.9.9 lookup main",
    // An administrator's.
    "route add 10.50.0.0/16 via 10.0.0.1 dev eth0",
    "addr add 10.0.0.11/32 dev eth0",
];

pub(super) struct Node {
    pub(super) facts: Facts,
    pub(super) repairer: Repairer,
    pub(super) findings: Findings,
    pub(super) now: Millis,
    pub(super) socket: Socket,
    monitor: Monitor,
    pods: Vec<NetNs>,
    _far: NetNs,
}

/// Runs a test on a node, or says that it cannot. Everything happens on a thread in the node's
/// namespace, as in the agent.
pub(super) fn on_a_node(test: impl FnOnce(&mut Node) + Send) {
    in_a_namespace(|| test(&mut Node::new()));
}

pub(super) fn name(text: &str) -> LinkName {
    LinkName::new(text).unwrap()
}

fn eni(device: u32, address: &str, subnet: &str) -> EniFacts {
    EniFacts {
        id: format!("eni-{device}"),
        card: 0,
        device,
        mac: Mac([2, 0, 0, 0, 0, device as u8]),
        link: name(&format!("eth{device}")),
        address: address.parse().unwrap(),
        subnet: subnet.parse().unwrap(),
        trunk: false,
    }
}

/// One pod on the primary interface, two on the other.
fn facts() -> Facts {
    let pod = |i: u8, address: [u8; 4], eni: &str| Leased {
        pod: PodFacts {
            pod: PodName::new("default", format!("web-{i}")),
            index: 0,
            address: address.into(),
            eni: eni.to_owned(),
        },
        since: Millis(0),
    };
    Facts {
        settings: NodeSettings::default(),
        enis: vec![
            eni(0, "10.0.0.10", "10.0.0.0/24"),
            eni(1, "10.0.1.20", "10.0.1.0/24"),
        ],
        pods: vec![
            pod(0, [10, 0, 0, 100], "eni-0"),
            pod(1, [10, 0, 1, 105], "eni-1"),
            pod(2, [10, 0, 1, 106], "eni-1"),
        ],
        idle: vec!["10.0.1.150".parse().unwrap()],
    }
}

impl Node {
    fn new() -> Self {
        let facts = facts();
        let mut socket = Socket::open().unwrap();
        socket.set_up(&LinkName::loopback(), true).unwrap();
        let far = NetNs::create().unwrap();
        for eni in &facts.enis {
            let far_name = name(&format!("far{}", eni.device));
            let end = LinkEnd::new(&eni.link).mac(eni.mac);
            let other = LinkEnd::new(&far_name).in_ns(&far).mtu(9001);
            socket.add_veth(&end, &other).unwrap();
            let mut there = Socket::open_in(&far).unwrap();
            there.set_up(&far_name, true).unwrap();
        }
        let primary = &facts.enis[0];
        socket.set_mtu(&primary.link, 9001).unwrap();
        socket.set_up(&primary.link, true).unwrap();
        let net = "10.0.0.10/24".parse().unwrap();
        socket.add_addr(&Addr::new(name("eth0"), net)).unwrap();
        let default = Route::default_via(TableId::MAIN, primary.gateway(), name("eth0"));
        socket.add_route(&default).unwrap();
        for (key, value) in [("ipv4/ip_forward", "1"), ("ipv4/conf/eth0/rp_filter", "2")] {
            sysctl::write_here(key, value).unwrap();
        }
        let mut node = Self {
            repairer: Repairer::new(true),
            findings: Findings::default(),
            now: Millis(1_000_000),
            monitor: Monitor::open().unwrap(),
            pods: Vec::new(),
            socket,
            _far: far,
            facts,
        };
        for line in FOREIGN {
            node.ip(line);
        }
        for i in 0..node.facts.pods.len() {
            node.wire(i);
        }
        // The first look sets the other interface up, as `links` does.
        node.look();
        node.settle();
        node.findings = Findings::default();
        node
    }

    /// What the plugin does for a pod.
    fn wire(&mut self, i: usize) {
        let pod_ns = NetNs::create().unwrap();
        let wiring = nodenet::wiring(&self.facts.node(), &self.facts.pods[i].pod).unwrap();
        let macs = Macs::random().unwrap();
        kernel::pod::add(&mut self.socket, &pod_ns, &wiring, macs).unwrap();
        self.pods.push(pod_ns);
    }

    /// `ip`, as other programs and people run it.
    pub(super) fn ip(&self, line: &str) -> String {
        let done = Command::new("ip").args(line.split(' ')).output().unwrap();
        let told = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "ip {line}: {told}");
        String::from_utf8(done.stdout).unwrap()
    }

    /// Everything of the node as `ip` prints it, line by line. Rules of one priority have the order
    /// in which they were made, which says nothing here; nor does whether a link that is up was
    /// started already, which a worker of the kernel does when it comes to it (link_watch.c).
    pub(super) fn state(&self) -> Vec<String> {
        let shown = [
            "-4 rule show",
            "-4 route show table all",
            "-4 -brief addr show",
            "-brief link show",
            "-4 neigh show nud permanent",
        ];
        let mut lines = Vec::new();
        for line in shown {
            let text = self.ip(line);
            lines.extend(text.lines().map(without_carrier));
        }
        for link in self.socket_links() {
            lines.push(format!("{} mtu {}", link.name, link.mtu));
        }
        lines.sort();
        lines
    }

    fn socket_links(&self) -> Vec<nodenet::Link> {
        let links = Socket::open().unwrap().links().unwrap();
        links.into_iter().map(|state| state.link).collect()
    }

    /// The host end of a pod's veth.
    pub(super) fn veth(&self, i: usize) -> LinkName {
        veth(&self.facts.settings, &self.facts.pods[i].pod)
    }

    /// Time goes on, and the kernel's messages come in.
    pub(super) fn after(&mut self, time: Duration) {
        self.now = self.now.after(time);
        let mut changes = Vec::new();
        loop {
            let more = self.monitor.read().unwrap();
            if more.is_empty() {
                break;
            }
            changes.extend(more);
        }
        self.repairer.saw(&changes, &self.facts, self.now);
    }

    /// Whether the messages made a look due by now.
    pub(super) fn is_due(&self) -> bool {
        self.repairer.due() <= self.now
    }

    pub(super) fn look(&mut self) {
        self.repairer
            .look(&self.facts, self.now, &mut self.findings);
    }

    /// A second later: the messages, and the looks that they make due, until it is quiet.
    pub(super) fn settle(&mut self) -> usize {
        self.after(Duration::from_secs(1));
        let mut looks = 0;
        while self.is_due() {
            self.look();
            looks += 1;
            assert!(looks < 5, "it looks again and again");
            self.after(Duration::from_millis(250));
        }
        looks
    }

    /// The kinds that were repaired so far, in order of their names.
    pub(super) fn repaired(&self) -> Vec<&'static str> {
        self.findings.repairs.keys().copied().collect()
    }

    /// Whether a pod reaches the node and gets an answer.
    pub(super) fn pod_is_served(&self, i: usize) -> bool {
        self.pod_is_answered(i, PATIENCE)
    }

    /// Whether what a pod asks is lost.
    pub(super) fn pod_is_cut_off(&self, i: usize) -> bool {
        !self.pod_is_answered(i, IMPATIENCE)
    }

    /// Asks again and again: what is sent on a link that is up and not started yet is lost.
    fn pod_is_answered(&self, i: usize, within: Duration) -> bool {
        let node = UdpSocket::bind("10.0.0.10:0").unwrap();
        let to = node.local_addr().unwrap();
        let pod = self.pods[i].run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
        let pod = pod.unwrap();
        for socket in [&node, &pod] {
            let pause = Some(Duration::from_millis(50));
            socket.set_read_timeout(pause).unwrap();
        }
        let answered = || {
            let mut buffer = [0; 8];
            pod.send_to(b"?", to)?;
            let (_, from) = node.recv_from(&mut buffer)?;
            node.send_to(b"!", from)?;
            pod.recv(&mut buffer)
        };
        let begun = Instant::now();
        while begun.elapsed() < within {
            if answered().is_ok() {
                return true;
            }
        }
        false
    }

    /// A lease of this moment for a pod.
    pub(super) fn renew(&mut self, i: usize) {
        self.facts.pods[i].since = self.now;
    }

    pub(super) fn settled(&self, i: usize) -> Millis {
        self.facts.pods[i].since.after(SETTLED)
    }

    pub(super) fn address(&self, i: usize) -> Ipv4Addr {
        self.facts.pods[i].pod.address
    }
}

/// A line of `ip` without the words for a link's carrier; `UP` alone is the administrator's.
fn without_carrier(line: &str) -> String {
    let words = line.split_whitespace().enumerate();
    let states = ["UP", "DOWN", "UNKNOWN", "LOWERLAYERDOWN"];
    let words = words.filter(|(at, word)| *at != 1 || !states.contains(word));
    let words = words.filter(|(_, word)| *word != "linkdown");
    let words = words.map(|(_, word)| match word.strip_prefix('<') {
        Some(flags) => flags
            .trim_end_matches('>')
            .split(',')
            .filter(|flag| !["NO-CARRIER", "LOWER_UP"].contains(flag))
            .collect::<Vec<_>>()
            .join(","),
        None => word.to_owned(),
    });
    words.collect::<Vec<_>>().join(" ")
}
