//! The packet plane in the kernel: wiring, gateways, changes, crashes, clean-up.

#![allow(clippy::unwrap_used, reason = "in test code a panic is the report")]

mod bed;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use bed::probe::{FAITH, Flow, PATIENCE, Probe};
use bed::topology::*;
use bed::{Bed, can_run, output};
use flowset::Packet;
use kernel::NetNs;
use vpc::facts::*;
use vpcsim::fabric::{Fabric, Handle, NotPlugged};

fn two_hosts() -> Builder {
    let mut b = Builder::default();
    b.vpc("a", "10.0.0.0/16");
    b.subnet("a1", "a", "10.0.1.0/24", "a", "a")
        .subnet("a2", "a", "10.0.2.0/24", "a", "a");
    b.group(
        "all",
        "a",
        vec![egress("all", "0.0.0.0/0"), ingress("all", "sg-all")],
    );
    b.group(
        "web",
        "a",
        vec![
            ingress("tcp/80", "10.0.0.0/16"),
            ingress("icmp/8", "10.0.0.0/16"),
        ],
    );
    b.eni("x", "a1", "10.0.1.10", &["all"]);
    b.eni("y", "a1", "10.0.1.11", &["web"]);
    b.eni("z", "a2", "10.0.2.10", &["web"]);
    b
}

fn address(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

fn tcp(src: &str, sport: u16, dst: &str, dport: u16) -> Packet {
    Packet::tcp(address(src), sport, address(dst), dport)
}

fn from(eni: &str, packet: Packet) -> (EniId, Probe) {
    (
        eni.parse().unwrap(),
        Probe {
            packet,
            spoofed: false,
        },
    )
}

/// Of each probe, whether it is to be answered: it is waited for as long as it takes, or else for a moment.
fn agree(bed: &Bed, probes: &[((EniId, Probe), bool)]) {
    for (expected, within) in [(true, FAITH), (false, PATIENCE)] {
        let asked = probes.iter().filter(|(_, answer)| *answer == expected);
        let asked: Vec<_> = asked.map(|(probe, _)| probe.clone()).collect();
        for (probe, seen) in asked.iter().zip(bed.ask(&asked, within)) {
            assert_eq!(seen.answered, expected, "{probe:?}");
        }
    }
}

#[test]
fn hosts_reach_what_their_groups_allow() {
    if !can_run() {
        return;
    }
    let bed = Bed::new(two_hosts().world);
    let probes = [
        ("eni-x", tcp("10.0.1.10", 40000, "10.0.1.11", 80), true),
        ("eni-x", tcp("10.0.1.10", 40001, "10.0.1.11", 22), false),
        ("eni-x", tcp("10.0.1.10", 40002, "10.0.2.10", 80), true),
        (
            "eni-x",
            Packet::ping(address("10.0.1.10"), address("10.0.2.10")),
            true,
        ),
        ("eni-y", tcp("10.0.1.11", 40003, "10.0.2.10", 80), false),
    ];
    agree(
        &bed,
        &probes.map(|(eni, packet, answer)| (from(eni, packet), answer)),
    );
}

#[test]
fn nothing_differs_so_nothing_is_done() {
    if !can_run() {
        return;
    }
    let mut bed = Bed::new(two_hosts().world);
    let report = bed.apply();
    let done = (
        report.links_changed,
        report.routes_changed,
        report.nft_transactions,
    );
    assert_eq!((done, report.flows_ended), ((0, 0, 0), 0));
    assert_eq!(report.plugged.len(), 3);
}

#[test]
fn one_membership_is_one_transaction_and_no_link() {
    if !can_run() {
        return;
    }
    let mut bed = Bed::new(two_hosts().world);
    let mut flow = Flow::open(bed.host("eni-x"), &tcp("10.0.1.10", 0, "10.0.2.10", 80));
    let y: EniId = "eni-y".parse().unwrap();
    let all: SgId = "sg-all".parse().unwrap();
    bed.desired
        .world
        .enis
        .get_mut(&y)
        .unwrap()
        .groups
        .insert(all);
    let report = bed.apply();
    assert_eq!(
        (
            report.links_changed,
            report.routes_changed,
            report.nft_transactions
        ),
        (0, 0, 1)
    );
    let probe = from("eni-x", tcp("10.0.1.10", 40001, "10.0.1.11", 22));
    agree(&bed, &[(probe, true)]);
    assert!(flow.lives(FAITH), "a connection between others survives");
}

#[test]
fn an_address_that_changes_hands_takes_no_connection_along() {
    if !can_run() {
        return;
    }
    let mut world = two_hosts();
    let second = EniAddress {
        address: address("10.0.2.77"),
        primary: false,
        public: None,
    };
    world
        .world
        .enis
        .get_mut(&"eni-z".parse::<EniId>().unwrap())
        .unwrap()
        .addresses
        .push(second.clone());
    let mut bed = Bed::new(world.world);
    let mut moved = Flow::open(bed.host("eni-x"), &tcp("10.0.1.10", 0, "10.0.2.77", 80));
    let mut other = Flow::open(bed.host("eni-x"), &tcp("10.0.1.10", 0, "10.0.2.10", 80));
    let enis = &mut bed.desired.world.enis;
    enis.get_mut(&"eni-z".parse::<EniId>().unwrap())
        .unwrap()
        .addresses
        .pop();
    let report = bed.apply();
    assert_eq!((report.links_changed, report.flows_ended), (0, 1));
    assert!(!moved.lives(PATIENCE), "nobody has the address");
    assert!(other.lives(FAITH), "the other address is untouched");
}

/// A public subnet with a NAT gateway, a private one behind it, and a web server with a public address.
fn with_internet() -> Builder {
    let mut b = Builder::default();
    b.vpc("a", "10.0.0.0/16")
        .igw("a")
        .table("pub", "a")
        .table("priv", "a");
    b.subnet("pub", "a", "10.0.1.0/24", "a", "pub")
        .subnet("priv", "a", "10.0.2.0/24", "a", "priv");
    b.group("app", "a", vec![egress("all", "0.0.0.0/0")]);
    b.group(
        "web",
        "a",
        vec![
            egress("all", "0.0.0.0/0"),
            ingress("tcp/80", "198.51.100.0/24"),
        ],
    );
    b.nat("gw", "pub", "10.0.1.5", Some("203.0.113.5"));
    b.route("pub", "0.0.0.0/0", through("igw-a"), RouteState::Active);
    b.route("priv", "0.0.0.0/0", through("nat-gw"), RouteState::Active);
    b.eni("app", "priv", "10.0.2.10", &["app"]);
    b.eni("dark", "pub", "10.0.1.20", &["web"]);
    b.eni("web", "pub", "10.0.1.10", &["web"]).addresses[0].public =
        Some(public_address("203.0.113.10"));
    b
}

/// Who a server on the internet sees when a host connects to it within this time, after a transfer of a megabyte.
fn seen_as(bed: &Bed, eni: &str, within: Duration) -> Option<Ipv4Addr> {
    let internet = NetNs::open(bed.pin("internet")).unwrap();
    let server = internet
        .run(|| TcpListener::bind("198.51.100.10:0").unwrap())
        .unwrap();
    server.set_nonblocking(true).unwrap();
    let to = server.local_addr().unwrap();
    let client = bed
        .host(eni)
        .run(|| TcpStream::connect_timeout(&to, within))
        .unwrap();
    let mut client = client.ok()?;
    let (mut stream, peer) = server.accept().unwrap();
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(FAITH)).unwrap();
    let sender = std::thread::spawn(move || client.write_all(&vec![7; 1 << 20]).map(|()| client));
    let mut received = vec![0; 1 << 20];
    // Segments of 9001 bytes do not fit the way outside: this needs path MTU discovery.
    stream.read_exact(&mut received).unwrap();
    sender.join().unwrap().unwrap();
    match peer.ip() {
        std::net::IpAddr::V4(address) => Some(address),
        std::net::IpAddr::V6(_) => None,
    }
}

#[test]
fn the_internet_is_behind_a_gateway_and_a_public_address() {
    if !can_run() {
        return;
    }
    let mut bed = Bed::new(with_internet().world);
    bed.desired.internet.insert(address("198.51.100.10"));
    bed.apply();
    assert_eq!(
        seen_as(&bed, "eni-app", FAITH),
        Some(address("203.0.113.5")),
        "through the NAT gateway"
    );
    assert_eq!(
        seen_as(&bed, "eni-web", FAITH),
        Some(address("203.0.113.10")),
        "by its own address"
    );
    assert_eq!(
        seen_as(&bed, "eni-dark", PATIENCE),
        None,
        "no public address, no internet"
    );

    let internet = NetNs::open(bed.pin("internet")).unwrap();
    let connect = |to: &str, within| {
        let to = to.parse().unwrap();
        // From the address that the group admits.
        internet
            .run(|| TcpStream::connect_timeout(&to, within).is_ok())
            .unwrap()
    };
    assert!(connect("203.0.113.10:80", FAITH), "the group admits it");
    for (to, why) in [
        ("203.0.113.10:22", "the group does not"),
        ("203.0.113.5:80", "a NAT gateway takes no connections"),
        ("10.0.1.10:80", "private addresses are not routed"),
    ] {
        assert!(!connect(to, PATIENCE), "{to}: {why}");
    }
}

#[test]
fn a_public_address_that_is_taken_away_takes_its_flows_along() {
    if !can_run() {
        return;
    }
    let mut bed = Bed::new(with_internet().world);
    bed.desired.internet.insert(address("198.51.100.10"));
    bed.apply();
    let internet = NetNs::open(bed.pin("internet")).unwrap();
    let echo = internet
        .run(|| UdpSocket::bind("198.51.100.10:7000").unwrap())
        .unwrap();
    let client = bed
        .host("eni-web")
        .run(|| UdpSocket::bind("10.0.1.10:0").unwrap())
        .unwrap();
    echo.set_read_timeout(Some(Duration::from_millis(50)))
        .unwrap();
    client.connect("198.51.100.10:7000").unwrap();
    // Sent again and again: what meets a link that is up and not started yet is lost.
    let exchange = |word: &[u8], within| {
        let begun = Instant::now();
        while begun.elapsed() < within {
            client.send(word).unwrap();
            let mut bytes = [0; 8];
            if let Ok((length, peer)) = echo.recv_from(&mut bytes)
                && bytes[..length] == *word
            {
                return Some(peer.ip());
            }
        }
        None
    };
    let seen = exchange(b"before", FAITH);
    assert_eq!(seen, Some(address("203.0.113.10").into()));
    let web: EniId = "eni-web".parse().unwrap();
    bed.desired.world.enis.get_mut(&web).unwrap().addresses[0].public = None;
    let report = bed.apply();
    assert_eq!(report.flows_ended, 1);
    assert_eq!(exchange(b"after", PATIENCE), None);
}

#[test]
fn what_cannot_be_plugged_is_named() {
    if !can_run() {
        return;
    }
    let mut world = two_hosts();
    let branch = world.eni("b", "a1", "10.0.1.50", &["all"]);
    branch.kind = EniKind::Branch;
    branch.trunk = Some(TrunkAssociation {
        id: None,
        trunk: "eni-x".parse().unwrap(),
        vlan: 7,
    });
    let bed_world = world.world;
    let mut bed = Bed::new(two_hosts().world);
    bed.desired.world = bed_world;
    let plug = bed.desired.plugs[&"eni-x".parse::<EniId>().unwrap()].clone();
    bed.desired.plugs.insert("eni-b".parse().unwrap(), plug);
    let gone = vpcsim::fabric::HostId("eni-z".to_owned());
    let path = bed.desired.hosts[&gone].clone();
    bed.desired
        .hosts
        .insert(gone.clone(), path.with_extension("gone"));
    let report = bed.apply();
    bed.desired.hosts.insert(gone.clone(), path.clone());
    let why = &report.not_plugged;
    let branch = &why[&"eni-b".parse::<EniId>().unwrap()];
    assert_eq!(
        *branch,
        NotPlugged::Branch {
            trunk: Some("eni-x".parse().unwrap())
        }
    );
    assert!(
        branch
            .to_string()
            .contains("branch interfaces are not part of this slice")
    );
    let z = &why[&"eni-z".parse::<EniId>().unwrap()];
    assert_eq!(
        *z,
        NotPlugged::HostGone {
            host: gone,
            path: path.with_extension("gone")
        }
    );
    assert_eq!(report.plugged.len(), 2);
    // And it comes back.
    assert_eq!(bed.apply().plugged.len(), 3);
    bed.settle();
    let probe = from("eni-x", tcp("10.0.1.10", 40000, "10.0.2.10", 80));
    agree(&bed, &[(probe, true)]);
}

#[test]
fn after_a_crash_everything_is_adopted_and_nothing_breaks() {
    if !can_run() {
        return;
    }
    let mut bed = Bed::new(with_internet().world);
    bed.desired.internet.insert(address("198.51.100.10"));
    bed.apply();
    let mut flow = {
        let internet = NetNs::open(bed.pin("internet")).unwrap();
        let server = internet
            .run(|| TcpListener::bind("198.51.100.10:80").unwrap())
            .unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = server.accept().unwrap();
            let mut bytes = [0; 4];
            while stream.read_exact(&mut bytes).is_ok() {
                stream.write_all(&bytes).unwrap();
            }
        });
        Flow::open(
            bed.host("eni-app"),
            &tcp("10.0.2.10", 0, "198.51.100.10", 80),
        )
    };
    let before: Vec<_> = ["vpc-a", "nat-gw", "internet"]
        .map(|pin| kernel_state(&bed, pin))
        .into();
    // A new process knows nothing.
    bed.fabric = Fabric::new(bed.dir.path()).unwrap();
    let report = bed.apply();
    assert_eq!(
        (
            report.links_changed,
            report.routes_changed,
            report.flows_ended
        ),
        (0, 0, 0)
    );
    let after: Vec<_> = ["vpc-a", "nat-gw", "internet"]
        .map(|pin| kernel_state(&bed, pin))
        .into();
    assert_eq!(before, after);
    assert!(
        flow.lives(FAITH),
        "a connection through the NAT gateway survives"
    );
}

/// Links, addresses, neighbours, routes, rules and the nft table of a namespace, without counters.
fn kernel_state(bed: &Bed, pin: &str) -> Vec<String> {
    let pin = bed.pin(pin);
    let commands: [&[&str]; 5] = [
        &["-br", "link"],
        &["-br", "addr"],
        &["neigh", "show", "nud", "permanent"],
        &["route", "show", "table", "all"],
        &["rule"],
    ];
    let mut state: Vec<String> = commands
        .iter()
        .map(|args| output(&pin, "ip", args))
        .collect();
    state.push(output(&pin, "nft", &["-s", "list", "ruleset"]));
    // A carrier is noticed some time after the link is up, and a set has no order: words, sorted.
    let words = |text: &String| -> Vec<String> {
        let carrier = [
            ("<NO-CARRIER,", "<"),
            (",LOWER_UP", ""),
            ("UNKNOWN", ""),
            ("DOWN ", ""),
            ("UP ", ""),
        ];
        let text = carrier
            .iter()
            .fold(text.clone(), |text, (word, by)| text.replace(word, by));
        // What the state's column leaves behind is as wide as the state was.
        let text = text
            .split(' ')
            .filter(|w| !w.is_empty())
            .collect::<Vec<_>>()
            .join(" ");
        let words = text.split([',', '\n', '{', '}']).map(str::trim);
        words
            .filter(|word| !word.is_empty())
            .map(str::to_owned)
            .collect()
    };
    let mut all: Vec<String> = state.iter().flat_map(words).collect();
    all.sort_unstable();
    all
}

#[test]
fn teardown_leaves_nothing_behind() {
    if !can_run() {
        return;
    }
    let mut bed = Bed::new(with_internet().world);
    let pins = |bed: &Bed| {
        std::fs::read_dir(bed.dir.path().join("netns"))
            .unwrap()
            .count()
    };
    assert_eq!(pins(&bed), 3);
    Fabric::teardown(bed.dir.path()).unwrap();
    assert_eq!(pins(&bed), 0);
    for host in ["eni-app", "eni-web", "eni-dark"] {
        let links = bed.host(host).run(|| {
            std::fs::read_dir("/proc/sys/net/ipv4/conf")
                .unwrap()
                .count()
        });
        assert_eq!(links.unwrap(), 3, "all, default and lo of {host}");
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let left = bed.dir.path().join("netns");
    assert!(!mounts.contains(left.to_str().unwrap()), "a mount is left");
    // And it can be laid out again where the old fabric was.
    bed.fabric = Fabric::new(bed.dir.path()).unwrap();
    assert_eq!(bed.apply().plugged.len(), 4);
}

#[test]
fn the_thread_applies_the_newest_state_and_says_which() {
    if !can_run() {
        return;
    }
    let bed = Bed::new(two_hosts().world);
    let (applied, outcomes) = std::sync::mpsc::channel();
    let handle = Handle::start(bed.dir.path(), move |outcome| {
        applied.send(outcome).unwrap()
    })
    .unwrap();
    for version in 1..=20 {
        handle.request(version, bed.desired.clone()).unwrap();
    }
    drop(handle);
    let versions: Vec<u64> = outcomes
        .iter()
        .map(|o| o.result.map(|_| o.version).unwrap())
        .collect();
    assert_eq!(versions.last(), Some(&20));
    assert!(versions.is_sorted());
}
