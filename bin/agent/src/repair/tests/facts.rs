//! What the pool knows becomes what the node's network must be.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use ipam::{
    Allocation, Answer, Attached, AttachmentId, Call, Config, Effect, EniView, Event, Key, Limits,
    Millis, NodeFacts, Pod, Pool, Ticket, View, step,
};
use nodenet::{EniFacts, LinkName, Mac, NodeSettings};
use settings::Settings;

use super::super::Facts;
use super::super::facts::SETTLED;

const NOW: Millis = Millis(1_700_000_000_000);

fn address(net: u8, last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, net, last)
}

fn held(container: &str, name: &str, address: Ipv4Addr, since: Millis) -> Allocation {
    Allocation {
        key: Key {
            network: "aws-cni".to_owned(),
            container: container.to_owned(),
            ifname: "eth0".to_owned(),
        },
        pod: Pod {
            namespace: "default".to_owned(),
            name: name.to_owned(),
            uid: String::new(),
        },
        address,
        since,
    }
}

fn view(device: u8) -> EniView {
    EniView {
        id: format!("eni-{device}").parse().unwrap(),
        mac: vpc::facts::Mac([2, 0, 0, 0, 0, device]),
        subnet: "subnet-1".parse().unwrap(),
        primary: address(device, 10),
        secondary: (100..110).map(|last| address(device, last)).collect(),
        prefixes: Vec::new(),
        groups: Vec::new(),
        attachment: Some(Attached {
            id: AttachmentId(format!("eni-attach-{device}")),
            device: device.into(),
            delete_on_termination: true,
        }),
        ours: device > 0,
        hands_off: None,
    }
}

fn laid(device: u8) -> (String, EniFacts) {
    let id = format!("eni-{device}");
    let facts = EniFacts {
        id: id.clone(),
        card: 0,
        device: device.into(),
        mac: Mac([2, 0, 0, 0, 0, device]),
        link: LinkName::new(format!("eth{device}")).unwrap(),
        address: address(device, 10),
        subnet: format!("10.0.{device}.0/24").parse().unwrap(),
        trunk: false,
    };
    (id, facts)
}

/// Feeds an event and answers what EC2 and the kernel are asked for, until nothing is asked.
fn feed(pool: &mut Pool, event: Event, now: Millis) {
    let mut events = vec![event];
    while let Some(event) = events.pop() {
        for effect in step(pool, event, now) {
            let Effect::Call(op, call) = effect else {
                continue;
            };
            let result = match call {
                Call::Show { .. } => Ok(Answer::Shown(View {
                    enis: vec![view(0), view(1)],
                })),
                _ => Ok(Answer::Done),
            };
            events.push(Event::Answered { op, result });
        }
    }
}

fn pool(allocations: Vec<Allocation>) -> Pool {
    let mut pool = Pool::new(Config::new(&Settings::default(), 1));
    let recovered = Event::Recovered {
        allocations,
        released: BTreeMap::new(),
        returned: BTreeMap::new(),
    };
    feed(&mut pool, recovered, NOW);
    let node = NodeFacts {
        instance: "i-1".parse().unwrap(),
        subnet: "subnet-1".parse().unwrap(),
        prefixes: true,
        limits: Limits {
            interfaces: 2,
            ipv4_per_interface: 11,
        },
    };
    feed(&mut pool, Event::Node(node), NOW);
    assert_eq!(pool.not_ready(), None);
    pool
}

fn names(facts: &Facts) -> Vec<String> {
    let names = facts.pods.iter().map(|leased| {
        let pod = &leased.pod;
        format!("{} {} {}", pod.pod, pod.address, pod.eni)
    });
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

#[test]
fn pods_of_interfaces_in_service_and_rested_addresses() {
    let old = Millis(NOW.0 - 600_000);
    let nameless = Allocation {
        pod: Pod::default(),
        ..held("c3", "", address(1, 102), old)
    };
    let mut pool = pool(vec![
        held("c0", "web-0", address(0, 100), old),
        held("c1", "web-1", address(1, 100), old),
        // The same name again: a DEL that was lost, and the pod that came after it.
        held("c2", "web-1", address(1, 101), NOW),
        nameless,
    ]);
    let settings = NodeSettings::default();
    let both: BTreeMap<_, _> = [laid(0), laid(1)].into();
    let facts = Facts::of(&pool, &both, &settings);
    assert_eq!(facts.enis.len(), 2);
    let expected = [
        "default/web-0 10.0.0.100 eni-0",
        "default/web-1 10.0.1.101 eni-1",
    ];
    assert_eq!(names(&facts), expected);
    let young = facts.pod_at(address(1, 101)).unwrap();
    assert_eq!(young.settled_at(), NOW.after(SETTLED));
    // Nobody's addresses; not those of pods, named or not.
    assert_eq!(facts.idle.len(), 20 - 4);
    assert!(facts.is_idle(address(1, 109)) && !facts.is_idle(address(1, 102)));
    assert!(!facts.is_idle(address(1, 100)) && !facts.is_idle(address(9, 9)));

    // A released address is idle once it has rested, not before.
    let delete = |container: &str| Event::Delete {
        ticket: Ticket(1),
        key: held(container, "", address(0, 0), NOW).key,
    };
    feed(&mut pool, delete("c0"), NOW);
    let facts = Facts::of(&pool, &both, &settings);
    assert_eq!(facts.pods.len(), 1);
    assert!(!facts.is_idle(address(0, 100)));
    feed(&mut pool, Event::Tick, NOW.after(Duration::from_secs(31)));
    assert!(Facts::of(&pool, &both, &settings).is_idle(address(0, 100)));

    // An interface that is not set up in the kernel yet, and its pods, are left alone.
    let primary = [laid(0)].into();
    let facts = Facts::of(&pool, &primary, &settings);
    assert_eq!((facts.enis.len(), facts.pods.len()), (1, 0));
    assert!(facts.primary().is_some());
}
