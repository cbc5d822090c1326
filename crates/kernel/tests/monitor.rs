//! A monitor tells what changes in its namespace, and says when it missed something.

#![allow(clippy::unwrap_used, reason = "the helpers are tests as well")]

mod common;

use std::time::{Duration, Instant};

use common::{may_run, name, namespace};
use kernel::{Change, LinkEnd, Monitor, Socket, sysctl};
use nodenet::{Addr, Mac, Neighbour, TableId};
use rustix::event::{PollFd, PollFlags, poll};

/// How long a change may take to be told: a carrier is told by a worker of the kernel when it comes
/// to it (link_watch.c), all else before the request is answered.
const PATIENCE: Duration = Duration::from_secs(30);

/// What comes within this time; nothing when nothing does.
fn comes(monitor: &mut Monitor, within: Duration) -> Vec<Change> {
    let mut fds = [PollFd::new(&*monitor, PollFlags::IN)];
    if poll(&mut fds, Some(&within.try_into().unwrap())).unwrap() == 0 {
        return Vec::new();
    }
    monitor.read().unwrap()
}

/// What comes until nothing has come for a while.
fn told(monitor: &mut Monitor) -> Vec<Change> {
    let mut all = Vec::new();
    loop {
        let more = comes(monitor, Duration::from_millis(100));
        if more.is_empty() {
            return all;
        }
        all.extend(more);
    }
}

/// What comes until this has come, and for a while after it.
fn told_until(monitor: &mut Monitor, is_it: impl Fn(&Change) -> bool) -> Vec<Change> {
    let begun = Instant::now();
    let mut all = Vec::new();
    while !all.iter().any(&is_it) {
        assert!(begun.elapsed() < PATIENCE, "only {all:?}");
        all.extend(comes(monitor, PATIENCE));
    }
    all.extend(told(monitor));
    all
}

fn carrier(change: &Change, name: &str) -> bool {
    matches!(change, Change::Link(state) if state.link.name.as_str() == name && state.carrier)
}

fn pair(socket: &mut Socket) {
    let (a, b) = (name("eth1"), name("far1"));
    let end = LinkEnd::new(&a).mac(Mac([2, 0, 0, 0, 0, 1]));
    socket.add_veth(&end, &LinkEnd::new(&b)).unwrap();
    socket.set_up(&a, true).unwrap();
    socket.set_up(&b, true).unwrap();
}

#[test]
fn every_kind_of_change_is_told() {
    if !may_run("monitor") {
        return;
    }
    let (ns, mut socket) = namespace();
    let mut monitor = Monitor::open_in(&ns).unwrap();
    assert_eq!(monitor.read().unwrap(), [], "nothing has changed yet");

    pair(&mut socket);
    let eth1 = name("eth1");
    let last = |changes: &[Change], name: &str| {
        let mut states = changes.iter().filter_map(|change| match change {
            Change::Link(state) if state.link.name.as_str() == name => Some(state.clone()),
            _ => None,
        });
        states.next_back().unwrap()
    };
    let changes = told_until(&mut monitor, |change| carrier(change, "eth1"));
    let made = last(&changes, "eth1");
    assert!(made.link.up && made.carrier);
    assert_eq!(made.link.mac, Some(Mac([2, 0, 0, 0, 0, 1])));

    socket.set_mac(&eth1, Mac([2, 0, 0, 0, 0, 9])).unwrap();
    socket.set_mtu(&eth1, 1400).unwrap();
    let state = last(&told(&mut monitor), "eth1");
    assert_eq!(
        (state.index, state.link.mtu, state.link.mac),
        (made.index, 1400, Some(Mac([2, 0, 0, 0, 0, 9])))
    );

    let addr = Addr::without_route(eth1.clone(), "10.0.1.20/24".parse().unwrap());
    socket.add_addr(&addr).unwrap();
    let route = "10.0.1.1 dev eth1 table 2 scope link".parse().unwrap();
    socket.add_route(&route).unwrap();
    let rule: nodenet::Rule = "1536: from 10.0.1.108 lookup 2".parse().unwrap();
    socket.add_rule(&rule).unwrap();
    let neighbour = Neighbour {
        link: eth1.clone(),
        addr: [10, 0, 1, 9].into(),
        mac: Mac([2, 0, 0, 0, 9, 9]),
    };
    socket.set_neighbour(&neighbour).unwrap();
    let place = |gone| Change::Route {
        table: TableId(2),
        dst: "10.0.1.1/32".parse().unwrap(),
        metric: 0,
        gone,
    };
    let told_of = |gone| {
        [
            Change::Addr {
                addr: addr.clone(),
                gone,
            },
            place(gone),
            Change::Rule {
                rule: rule.clone(),
                gone,
            },
        ]
    };
    let changes = told(&mut monitor);
    for expected in told_of(false) {
        assert!(changes.contains(&expected), "{expected:?} in {changes:?}");
    }
    assert!(changes.contains(&Change::Neighbour(neighbour)));

    socket.del_rule(&rule).unwrap();
    socket.del_route(&route).unwrap();
    socket.del_addr(&addr).unwrap();
    let changes = told(&mut monitor);
    for expected in told_of(true) {
        assert!(changes.contains(&expected), "{expected:?} in {changes:?}");
    }

    sysctl::write(&ns, "ipv4/conf/eth1/rp_filter", "1").unwrap();
    let settings = Change::Settings {
        index: made.index as i32,
    };
    assert!(told(&mut monitor).contains(&settings));

    socket.rename(&eth1, &name("ens6")).unwrap();
    assert_eq!(last(&told(&mut monitor), "ens6").index, made.index);
    socket.del_link(&name("ens6")).unwrap();
    let gone = Change::LinkGone {
        index: made.index,
        name: name("ens6"),
    };
    assert!(told(&mut monitor).contains(&gone));
    assert_eq!(monitor.read().unwrap(), []);
}

#[test]
fn learnt_neighbours_wake_nobody() {
    if !may_run("learnt neighbours") {
        return;
    }
    let (ns, mut socket) = namespace();
    let mut monitor = Monitor::open_in(&ns).unwrap();
    pair(&mut socket);
    let net = "10.0.1.20/24".parse().unwrap();
    socket.add_addr(&Addr::new(name("eth1"), net)).unwrap();
    told_until(&mut monitor, |change| carrier(change, "eth1"));
    // Nobody answers, so the entry goes through its states.
    ns.run(|| {
        let socket = std::net::UdpSocket::bind("10.0.1.20:0").unwrap();
        socket.send_to(b"who is there?", "10.0.1.99:9").unwrap();
    })
    .unwrap();
    // The other end's carrier may be told as late as this.
    let mut woken = told(&mut monitor);
    woken.retain(|change| !carrier(change, "far1"));
    assert_eq!(woken, []);
}

#[test]
fn changes_that_were_lost_are_told() {
    if !may_run("lost changes") {
        return;
    }
    let (ns, mut socket) = namespace();
    let mut monitor = Monitor::open_in(&ns).unwrap();
    for round in 0..16 {
        let rules = (0..500u32).map(|i| {
            let line = format!("{}: from all lookup 7", 1000 + i + 1000 * round);
            line.parse::<nodenet::Rule>().unwrap()
        });
        let rules: Vec<_> = rules.collect();
        let add = rules
            .iter()
            .fold(socket.batch(), |b, rule| b.add_rule(rule));
        add.commit().unwrap();
    }
    let changes = told(&mut monitor);
    assert!(changes.contains(&Change::Missed), "{}", changes.len());
    // And it goes on.
    let rule: nodenet::Rule = "99: from all lookup 8".parse().unwrap();
    socket.add_rule(&rule).unwrap();
    assert_eq!(told(&mut monitor), [Change::Rule { rule, gone: false }]);
}
