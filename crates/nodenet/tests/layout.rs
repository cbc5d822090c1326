//! Upstream's names and numbers (vectors of its own tests), and the layout that was observed on a
//! node with 15 pods on two ENIs.

#![allow(clippy::unwrap_used, reason = "the helpers are tests as well")]

mod common;

use common::{eni, fifteen_pods, name};
use nodenet::layout::{eni_table, host_veth, is_eni_table, pod_gateway, pod_link, reply_table};
use nodenet::{
    Error, Mac, NodeFacts, NodeNet, PodName, Route, Rule, TableId, VethPrefix, compile, whole,
    wiring,
};

#[test]
fn veth_names_are_upstreams() {
    let vectors = [
        ("kube-system", "coredns-57ff979f67-qqbdh", "enib5faff8a083"),
        ("kube-system", "coredns-57ff979f67-8ns9b", "eni9571956a6cc"),
        ("default", "sample-pod", "enicc21c2d7785"),
    ];
    let prefix = VethPrefix::default();
    for (namespace, pod, veth) in vectors {
        let made = host_veth(&prefix, &PodName::new(namespace, pod), 0);
        assert_eq!(made.as_str(), veth);
        assert!(prefix.made(&made));
    }
    let pod = PodName::new("default", "sample-pod");
    let second = host_veth(&prefix, &pod, 1);
    assert_eq!(
        second,
        host_veth(&prefix, &PodName::new("default", "sample-pod.1"), 0)
    );
    assert_eq!(pod_link(&name("eth0"), 0), name("eth0"));
    assert_eq!(pod_link(&name("eth0"), 1), name("mNicIf1"));
    for foreign in [
        "eth0",
        "eni",
        "enicc21c2d778",
        "enicc21c2d77850",
        "eniCC21c2d7785",
        "lo",
    ] {
        assert!(!prefix.made(&name(foreign)), "{foreign}");
    }
}

#[test]
fn prefixes_that_upstream_refuses_are_refused() {
    for prefix in ["eth", "lo", "vlan", "fives", "a b", "a/b"] {
        assert!(VethPrefix::new(prefix).is_err(), "{prefix}");
    }
    for prefix in ["eni", "", "veth", "cali"] {
        assert!(VethPrefix::new(prefix).is_ok(), "{prefix}");
    }
}

#[test]
fn tables_are_upstreams() {
    assert_eq!(eni_table(0, 0), TableId::MAIN);
    assert_eq!(eni_table(0, 1), TableId(2));
    assert_eq!(eni_table(0, 14), TableId(15));
    assert_eq!(eni_table(1, 0), TableId(10_100));
    assert_eq!(eni_table(2, 3), TableId(10_203));
    assert_eq!(reply_table(0), TableId::MAIN);
    assert_eq!(reply_table(1), TableId::MAIN);
    assert_eq!(reply_table(2), TableId(2));
    for (table, ours) in [
        (1, false),
        (2, true),
        (15, true),
        (101, false),
        (254, false),
    ] {
        assert_eq!(is_eni_table(TableId(table)), ours, "{table}");
    }
    assert!(is_eni_table(eni_table(1, 0)));
    assert_eq!(pod_gateway(0).to_string(), "169.254.1.1");
    assert_eq!(pod_gateway(2).to_string(), "169.254.1.3");
}

#[test]
fn fifteen_pods_on_two_enis_are_laid_out_as_observed() {
    let facts = fifteen_pods();
    let net = compile(&facts).unwrap();
    let rules: Vec<String> = net.rules.iter().map(ToString::to_string).collect();
    let mut want = Vec::new();
    for pod in &facts.pods {
        want.push(format!("512: from all to {} lookup main", pod.address));
    }
    want.push("1024: from all fwmark 0x80/0x80 lookup main".to_owned());
    for pod in facts.pods.iter().skip(5) {
        want.push(format!("1536: from {} lookup 2", pod.address));
    }
    want.push("32765: from 10.0.1.20 lookup 2".to_owned());
    assert_eq!(rules, want);

    let table_2: Vec<String> = net.table(TableId(2)).map(ToString::to_string).collect();
    assert_eq!(
        table_2,
        [
            "default via 10.0.1.1 dev eth1 table 2",
            "10.0.1.1 dev eth1 table 2 scope link",
        ]
    );
    let main: Vec<&Route> = net.table(TableId::MAIN).collect();
    assert_eq!(main.len(), 15);
    for pod in &facts.pods {
        let veth = host_veth(&VethPrefix::default(), &pod.pod, 0);
        let line = format!("{} dev {veth} scope link", pod.address);
        assert!(main.contains(&&line.parse().unwrap()), "{line}");
    }
    assert_eq!(net.links.len(), 17);
    assert!(net.links.iter().all(|link| link.up && link.mtu == 9001));
    let addrs: Vec<String> = net
        .addrs
        .iter()
        .map(|a| format!("{} {}", a.link, a.net))
        .collect();
    assert_eq!(addrs, ["eth1 10.0.1.20/24"]);
}

#[test]
fn the_pods_side_is_upstreams() {
    let facts = fifteen_pods();
    let wiring = wiring(&facts, &facts.pods[7]).unwrap();
    let mac = Mac([6, 1, 2, 3, 4, 5]);
    let net = wiring.pod_net(mac);
    let routes: Vec<String> = wiring.pod.routes.iter().map(ToString::to_string).collect();
    assert_eq!(
        routes,
        [
            "169.254.1.1 dev eth0 scope link",
            "default via 169.254.1.1 dev eth0"
        ]
    );
    let neighbour = net.neighbours.first().unwrap();
    assert_eq!(
        (neighbour.addr.to_string(), neighbour.mac),
        ("169.254.1.1".to_owned(), mac)
    );
    let addr = net.addrs.first().unwrap();
    assert_eq!(addr.net.to_string(), "10.0.1.107/32");
    assert!(net.rules.is_empty());
    assert_eq!(
        wiring.host.sysctls[0].0,
        format!("ipv6/conf/{}/accept_ra", wiring.host.link)
    );
    // What the node has for the pod is part of what the whole node must have.
    let node = compile(&facts).unwrap();
    let host = wiring.host_net();
    assert!(host.routes.is_subset(&node.routes) && host.rules.is_subset(&node.rules));
    assert!(host.links.is_subset(&node.links));
}

#[test]
fn settings_change_the_rules() {
    let mut facts = NodeFacts {
        pods: Vec::new(),
        ..fifteen_pods()
    };
    facts.enis[1].trunk = true;
    facts.settings.external_snat = true;
    facts.settings.node_port = false;
    facts.settings.external_service_cidrs = vec!["198.51.100.0/24".parse().unwrap()];
    let lines: Vec<String> = compile(&facts)
        .unwrap()
        .rules
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(lines, ["1535: from all to 198.51.100.0/24 lookup main"]);
}

#[test]
fn facts_that_cannot_be_are_refused() {
    let facts = fifteen_pods();
    let none = NodeFacts {
        enis: vec![facts.enis[1].clone()],
        ..facts.clone()
    };
    assert_eq!(compile(&none).unwrap_err(), Error::NoPrimaryEni);
    let mut twice = facts.clone();
    twice.enis.push(eni(1, "10.0.1.30", "10.0.1.0/24"));
    assert_eq!(
        whole(&twice).unwrap_err(),
        Error::TableTwice { table: TableId(2) }
    );
    let mut lost = facts;
    lost.pods[3].eni = "eni-9".to_owned();
    assert_eq!(
        compile(&lost).unwrap_err().to_string(),
        "pod default/web-3 at 10.0.0.103 is on ENI eni-9, which is not attached to this node"
    );
}

#[test]
fn lines_are_read_back() {
    let net = whole(&fifteen_pods()).unwrap();
    for rule in &net.rules {
        assert_eq!(&rule.to_string().parse::<Rule>().unwrap(), rule);
    }
    for route in &net.routes {
        assert_eq!(&route.to_string().parse::<Route>().unwrap(), route);
    }
    let more = [
        "10.1.0.0/16 via 10.0.0.1 dev eth0 table 101 proto static scope link src 10.0.0.2 metric 5 onlink",
        "10.1.0.1 dev eth0 scope global",
        "blackhole 10.2.0.0/16 table 7",
        "throw default",
    ];
    for line in more {
        assert_eq!(line.parse::<Route>().unwrap().to_string(), line);
    }
    let rules = [
        "5: not from 10.0.0.0/8 fwmark 0x1 iif eth0 oif eth1 goto 9",
        "9: from all nop",
    ];
    for line in rules {
        assert_eq!(line.parse::<Rule>().unwrap().to_string(), line);
    }
    let bad = [
        ("", "\"\": empty"),
        ("10.0.0.0/8", "\"10.0.0.0/8\": no dev"),
        (
            "10.0.0.1/8 dev a",
            "\"10.0.0.1/8 dev a\": the destination 10.0.0.1/8 has bits behind its prefix length",
        ),
        (
            "10.0.0.0/8 dev a weight 1",
            "\"10.0.0.0/8 dev a weight 1\": \"weight\" is not understood",
        ),
        (
            "10.0.0.0/8 dev a metric",
            "\"10.0.0.0/8 dev a metric\": metric has no value",
        ),
    ];
    for (line, error) in bad {
        assert_eq!(line.parse::<Route>().unwrap_err().to_string(), error);
    }
    assert!("512 from all lookup main".parse::<Rule>().is_err());
    assert!("512: from all".parse::<Rule>().is_err());
}

#[test]
fn a_net_goes_through_json_unchanged() {
    let net = whole(&fifteen_pods()).unwrap();
    let json = serde_json::to_string(&net).unwrap();
    assert_eq!(serde_json::from_str::<NodeNet>(&json).unwrap(), net);
    assert!(serde_json::from_str::<Mac>("\"02:00:00:00:00:0\"").is_err());
    assert!(serde_json::from_str::<nodenet::LinkName>("\"a/b\"").is_err());
    let facts = fifteen_pods();
    let json = serde_json::to_string(&facts).unwrap();
    assert_eq!(serde_json::from_str::<NodeFacts>(&json).unwrap(), facts);
}
