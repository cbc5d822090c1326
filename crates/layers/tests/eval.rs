//! The evaluator on sets against a naive first-match loop on single packets, and as a partition.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::net::Ipv4Addr;

use flowset::{FlowSet, Packet, RangeSet};
use layers::{
    Action, Addresses, Decided, Layer, LayerName, Match, Provenance, Rule, Service, SetName, Sets,
    eval,
};
use proptest::prelude::*;

const HOSTS: [Ipv4Addr; 4] = [
    Ipv4Addr::new(10, 0, 0, 1),
    Ipv4Addr::new(10, 0, 0, 2),
    Ipv4Addr::new(10, 0, 1, 1),
    Ipv4Addr::new(192, 0, 2, 1),
];

fn packets() -> Vec<Packet> {
    let mut all = Vec::new();
    for src in HOSTS {
        for dst in HOSTS {
            for port in [79, 80, 81, 443, 65535] {
                all.push(Packet::tcp(src, 40000, dst, port));
                all.push(Packet::udp(src, 40000, dst, port));
            }
            for (kind, code) in [(8, 0), (3, 0), (3, 4), (0, 0)] {
                all.push(Packet::icmp(src, dst, kind, code));
            }
            all.push(Packet::new(src, dst, 47, 0, 0));
        }
    }
    all
}

fn addresses() -> impl Strategy<Value = Addresses> {
    prop_oneof![
        Just(Addresses::Any),
        Just(Addresses::Net("10.0.0.0/24".parse().unwrap())),
        Just(Addresses::Net("10.0.0.2/32".parse().unwrap())),
        Just(Addresses::Net("0.0.0.0/0".parse().unwrap())),
        Just(Addresses::Set("sg-a".into())),
        Just(Addresses::Set("sg-empty".into())),
        Just(Addresses::Set("pl-unknown".into())),
    ]
}

fn service() -> impl Strategy<Value = Service> {
    prop_oneof![
        Just(Service::All),
        Just(Service::Tcp(80, 80)),
        Just(Service::Tcp(80, 443)),
        Just(Service::Udp(0, 65535)),
        Just(Service::TcpUdp(79, 81)),
        Just(Service::Icmp(None, None)),
        Just(Service::Icmp(Some(3), None)),
        Just(Service::Icmp(Some(3), Some(4))),
        Just(Service::Protocol(47)),
    ]
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        Just(Action::Deny),
        Just(Action::Allow { tracked: true }),
        Just(Action::Allow { tracked: false }),
    ]
}

fn layer() -> impl Strategy<Value = Layer> {
    let rule =
        (addresses(), addresses(), service(), action()).prop_map(|(src, dst, service, action)| {
            Rule {
                matches: Match { src, dst, service },
                action,
                source: Provenance::default(),
            }
        });
    (prop::collection::vec(rule, 0..6), action()).prop_map(|(rules, default)| Layer {
        name: LayerName("test".into()),
        stateful: true,
        default,
        rules,
    })
}

fn sets() -> Sets {
    let a: RangeSet<u32> = [HOSTS[0], HOSTS[3]].into_iter().collect();
    [
        (SetName::from("sg-a"), a),
        (SetName::from("sg-empty"), RangeSet::empty()),
    ]
    .into_iter()
    .collect()
}

/// The oracle: written from the definition, packet by packet, without sets.
fn naive(layer: &Layer, packet: &Packet) -> (Action, Decided) {
    let side = |a: &Addresses, host: Ipv4Addr| match a {
        Addresses::Any => Ok(true),
        Addresses::Net(net) => Ok(net.contains(&host)),
        Addresses::Set(name) => match name.0.as_str() {
            "sg-a" => Ok(host == HOSTS[0] || host == HOSTS[3]),
            "sg-empty" => Ok(false),
            _ => Err(name.clone()),
        },
    };
    let ports = |numbers: &[u8], a: u16, b: u16| {
        numbers.contains(&packet.protocol()) && packet.dst_port().is_some_and(|p| a <= p && p <= b)
    };
    for (index, rule) in layer.rules.iter().enumerate() {
        let service = match rule.matches.service {
            Service::All => true,
            Service::Tcp(a, b) => ports(&[6], a, b),
            Service::Udp(a, b) => ports(&[17], a, b),
            Service::TcpUdp(a, b) => ports(&[6, 17], a, b),
            Service::Icmp(kind, code) => packet.icmp_type_code().is_some_and(|(k, c)| {
                kind.is_none_or(|kind| kind == k) && code.is_none_or(|code| code == c)
            }),
            Service::Protocol(number) => packet.protocol() == number,
        };
        if !service {
            continue;
        }
        match (
            side(&rule.matches.src, packet.src()),
            side(&rule.matches.dst, packet.dst()),
        ) {
            (Ok(true), Ok(true)) => return (rule.action, Decided::Rule(index)),
            (Ok(false), _) | (_, Ok(false)) => {}
            (Err(set), _) | (_, Err(set)) => {
                return (Action::Deny, Decided::Unresolved { rule: index, set });
            }
        }
    }
    (layer.default, Decided::Default)
}

proptest! {
    #[test]
    fn a_set_is_evaluated_as_each_of_its_packets(layer in layer()) {
        let all = packets();
        let parts = eval(&layer, &sets(), &FlowSet::full());
        for packet in &all {
            let (action, decided) = naive(&layer, packet);
            let mine: Vec<_> = parts.iter().filter(|p| p.flows.contains(packet)).collect();
            prop_assert_eq!(mine.len(), 1, "{} is in {} parts", packet, mine.len());
            prop_assert_eq!(mine[0].action, action, "{}", packet);
            prop_assert_eq!(&mine[0].decided, &decided, "{}", packet);
            let alone = eval(&layer, &sets(), &packet.into());
            prop_assert_eq!(alone.len(), 1);
            prop_assert_eq!(&alone[0].decided, &decided);
        }
    }

    #[test]
    fn parts_are_a_partition(layer in layer(), flows in prop_oneof![
        Just("any any -> any"), Just("tcp 10.0.0.0/16 -> any:1-100"), Just("none"),
        Just("icmp any -> 10.0.0.2; udp 10.0.0.1:53 -> any"),
    ]) {
        let flows: FlowSet = flows.parse().unwrap();
        let parts = eval(&layer, &sets(), &flows);
        let mut seen = FlowSet::empty();
        for part in &parts {
            prop_assert!(!part.flows.is_empty());
            prop_assert!(part.flows.intersect(&seen).is_empty());
            seen = seen.union(&part.flows);
        }
        prop_assert_eq!(seen, flows);
    }
}

#[test]
fn a_layer_reads_as_text() {
    let layer = Layer {
        name: LayerName("eni-1 ingress".into()),
        stateful: true,
        default: Action::Deny,
        rules: vec![Rule {
            matches: Match {
                src: Addresses::Set("sg-nodes".into()),
                dst: Addresses::Any,
                service: Service::Tcp(5432, 5432),
            },
            action: Action::Allow { tracked: true },
            source: Provenance {
                object: "sg-rds".into(),
                name: Some("rds".into()),
                rule: Some("sgr-1".into()),
                peer: Some("sg-nodes".into()),
                text: "ingress tcp/5432 from sg-nodes".into(),
                note: None,
            },
        }],
    };
    assert_eq!(
        layer.to_string(),
        "eni-1 ingress (stateful)\n    0  allow (tracked) tcp/5432 @sg-nodes -> any  \
         # sg-rds (rds) sgr-1: ingress tcp/5432 from sg-nodes\n    *  deny\n"
    );
}
