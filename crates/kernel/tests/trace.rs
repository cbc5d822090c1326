//! The model of routing against the kernel's own answers, packet by packet.
//!
//! The network is always read from the kernel, so this checks the reader as well.

#![allow(clippy::unwrap_used, reason = "the helpers are tests as well")]

mod common;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use common::node::{Node, fifteen_pods};
use common::{may_run, name};
use flowset::Packet;
use kernel::netlink::RouteQuery;
use kernel::{Errno, Error, node};
use nodenet::{
    Entering, Exit, NodeNet, Owned, Question, Reason, Route, Rule, Target, Tracer, VethPrefix,
    compile, diff,
};

/// Numbers that are the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

/// What became of a packet, in words that the kernel's answer and the model's can both be put.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    Out(String, Option<Ipv4Addr>),
    Local,
    Dropped(Errno2),
    Unknown,
}

/// The error numbers as text, since `Errno` has no order.
type Errno2 = &'static str;

fn by_kernel(node: &mut Node, query: &RouteQuery) -> Fate {
    match node.socket.route_get(query) {
        Ok(answer) => match answer.target {
            Target::Unicast { link, via, .. } => Fate::Out(link.to_string(), via),
            Target::Local { .. } => Fate::Local,
            other => panic!("{query:?}: {other:?}"),
        },
        Err(Error::Refused {
            errno: Errno::INVAL,
            ..
        }) => Fate::Dropped("EINVAL"),
        Err(Error::Refused {
            errno: Errno::HOSTUNREACH,
            ..
        }) => Fate::Dropped("EHOSTUNREACH"),
        Err(Error::Refused {
            errno: Errno::NETUNREACH,
            ..
        }) => Fate::Dropped("ENETUNREACH"),
        Err(Error::Refused {
            errno: Errno::ACCESS,
            ..
        }) => Fate::Dropped("EACCES"),
        Err(error) => panic!("{query:?}: {error}"),
    }
}

fn by_model(tracer: &Tracer<'_>, query: &RouteQuery) -> Fate {
    let entering = match &query.iif {
        None => Entering::Local,
        Some(link) => Entering::Link(link.clone()),
    };
    let everywhere = [ipnet::Ipv4Net::default()];
    let question = Question {
        entering,
        mark: query.mark,
        vpc: &everywhere,
        veth_prefix: &VethPrefix::default(),
    };
    let packet = Packet::tcp(query.src.unwrap(), 1, query.dst, 2);
    let mut parts = tracer.trace(&packet.into(), &question);
    assert_eq!(parts.len(), 1, "{query:?}: {parts:#?}");
    let part = parts.remove(0);
    let rule_itself = part.route.is_none();
    match part.exit {
        Exit::Link { link, next_hop, .. } => Fate::Out(link.to_string(), next_hop),
        Exit::Pod { veth } => Fate::Out(veth.to_string(), None),
        Exit::LocalDelivery { .. } => Fate::Local,
        Exit::Unknown(_) => Fate::Unknown,
        Exit::Dropped(reason) => Fate::Dropped(match reason {
            Reason::NoRoute | Reason::SourceNotOurs => "ENETUNREACH",
            // fib4_rule_action answers ENETUNREACH where a route of the type says EHOSTUNREACH.
            Reason::Unreachable if rule_itself => "ENETUNREACH",
            Reason::Unreachable => "EHOSTUNREACH",
            Reason::Prohibit => "EACCES",
            Reason::Blackhole | Reason::Martian => "EINVAL",
        }),
    }
}

/// Compares both for every combination of the given packets. Returns how often each fate came up.
fn compare(
    node: &mut Node,
    sources: &[Ipv4Addr],
    destinations: &[Ipv4Addr],
    incoming: &[Option<&str>],
    marks: &[u32],
) -> BTreeMap<String, usize> {
    let net = node::read(&node.ns).unwrap();
    let tracer = Tracer::new(&net);
    let mut fates = BTreeMap::new();
    for (&src, &dst) in sources
        .iter()
        .flat_map(|s| destinations.iter().map(move |d| (s, d)))
    {
        for (iif, &mark) in incoming
            .iter()
            .flat_map(|i| marks.iter().map(move |m| (i, m)))
        {
            let query = RouteQuery {
                dst,
                src: Some(src),
                iif: iif.map(name),
                mark,
            };
            let (model, kernel) = (by_model(&tracer, &query), by_kernel(node, &query));
            assert_eq!(model, kernel, "{query:?}\n{}", text(&net));
            let word = match kernel {
                Fate::Out(link, _) if link.starts_with("eni") => "pod".to_owned(),
                Fate::Out(link, _) => link,
                Fate::Local => "local".to_owned(),
                Fate::Dropped(errno) => errno.to_owned(),
                Fate::Unknown => unreachable!("the kernel knows"),
            };
            *fates.entry(word).or_default() += 1;
        }
    }
    fates
}

fn text(net: &NodeNet) -> String {
    let rules = net.rules.iter().map(ToString::to_string);
    rules
        .chain(net.routes.iter().map(ToString::to_string))
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn the_layout_routes_as_the_model_says() {
    if !may_run("trace of the layout") {
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

    let more = [
        "10.0.0.10",
        "10.0.1.20",
        "10.0.0.50",
        "10.0.1.50",
        "10.0.7.7",
        "127.0.0.1",
    ];
    let more = more.iter().map(|a| a.parse().unwrap());
    let all: Vec<Ipv4Addr> = node
        .facts
        .pods
        .iter()
        .map(|p| p.address)
        .chain(more)
        .collect();
    let veth = have
        .links
        .iter()
        .find(|l| l.name.as_str().starts_with("eni"))
        .unwrap()
        .name
        .clone();
    let incoming = [None, Some("eth0"), Some("eth1"), Some(veth.as_str())];
    let fates = compare(&mut node, &all, &all, &incoming, &[0, 0x80]);
    for fate in ["pod", "eth0", "eth1", "local", "EINVAL"] {
        assert!(
            fates.get(fate).is_some_and(|n| *n >= 10),
            "{fate}: {fates:?}"
        );
    }
}

/// A configuration that no one would write: random rules and routes over a few prefixes.
fn scramble(node: &mut Node, random: &mut Random) {
    let nets = [
        "default",
        "10.0.0.0/16",
        "10.0.2.0/24",
        "10.0.2.0/25",
        "10.0.3.0/24",
        "10.0.2.5",
    ];
    let tables = ["main", "2", "3", "10101"];
    let mut routes = Vec::new();
    for table in ["2", "3", "10101"] {
        for net in nets {
            let kind = random.below(9);
            let line = match kind {
                0 => format!("{net} dev eth0 table {table}"),
                1 => format!("{net} dev eth1 table {table}"),
                2 => format!("{net} via 10.0.0.1 dev eth0 table {table} onlink"),
                3 => format!("{net} via 10.0.1.1 dev eth1 table {table} onlink"),
                4..=7 => {
                    let kind = ["blackhole", "unreachable", "prohibit", "throw"][kind as usize - 4];
                    format!("{kind} {net} table {table}")
                }
                _ => continue,
            };
            routes.push(line.parse::<Route>().unwrap());
            if random.below(4) == 0 {
                let line = format!("{net} via 10.0.1.9 dev eth1 table {table} onlink metric 50");
                routes.push(line.parse::<Route>().unwrap());
            }
        }
    }
    let mut rules = Vec::new();
    for priority in 1..12 {
        let mut line = format!("{}:", priority * 10);
        if random.below(6) == 0 {
            line.push_str(" not");
        }
        line.push_str(&match random.below(2) {
            0 => " from all".to_owned(),
            _ => format!(" from {}", random.pick(&nets[1..])),
        });
        if random.below(2) == 0 {
            line.push_str(&format!(" to {}", random.pick(&nets[1..])));
        }
        if random.below(5) == 0 {
            line.push_str(random.pick(&[" fwmark 0x80/0x80", " fwmark 0x1"]));
        }
        if random.below(5) == 0 {
            line.push_str(random.pick(&[" iif eth0", " iif eth1", " iif lo"]));
        }
        line.push_str(&match random.below(12) {
            0 => " blackhole".to_owned(),
            1 => " unreachable".to_owned(),
            2 => " prohibit".to_owned(),
            3 => " nop".to_owned(),
            4 => format!(" goto {}", (priority + 1 + random.below(4)) * 10),
            _ => format!(" lookup {}", random.pick(&tables)),
        });
        rules.push(line.parse::<Rule>().unwrap());
    }
    let batch = routes
        .iter()
        .fold(node.socket.batch(), |batch, route| batch.add_route(route));
    // Targets of goto first, as the kernel resolves them when they are there.
    rules
        .iter()
        .rev()
        .fold(batch, |batch, rule| batch.add_rule(rule))
        .commit()
        .unwrap();
}

#[test]
fn random_rules_and_routes_route_as_the_model_says() {
    if !may_run("trace of random networks") {
        return;
    }
    let mut random = Random(7);
    let mut fates = BTreeMap::new();
    for _ in 0..40 {
        let mut facts = fifteen_pods();
        facts.pods.clear();
        let mut node = Node::new(facts);
        node.socket.set_up(&name("eth1"), true).unwrap();
        let addr = nodenet::Addr::new(name("eth1"), "10.0.1.20/24".parse().unwrap());
        node.socket.add_addr(&addr).unwrap();
        scramble(&mut node, &mut random);
        let addresses = [
            "10.0.0.10",
            "10.0.1.20",
            "10.0.0.50",
            "10.0.2.5",
            "10.0.2.6",
            "10.0.2.200",
            "10.0.3.1",
            "10.0.9.9",
            "192.0.2.1",
        ]
        .map(|a| a.parse().unwrap());
        let incoming = [None, Some("eth0"), Some("eth1")];
        for (fate, n) in compare(&mut node, &addresses, &addresses, &incoming, &[0, 1, 0x80]) {
            *fates.entry(fate).or_insert(0) += n;
        }
    }
    for fate in [
        "eth0",
        "eth1",
        "local",
        "EINVAL",
        "EHOSTUNREACH",
        "ENETUNREACH",
        "EACCES",
    ] {
        assert!(
            fates.get(fate).is_some_and(|n| *n >= 200),
            "{fate}: {fates:?}"
        );
    }
}
