//! Traces through the node of the article, part by part, and agreement of a set with its packets.

#![allow(clippy::unwrap_used, reason = "the helpers are tests as well")]

mod common;

use common::{fifteen_pods, name};
use flowset::{FlowSet, Packet, RangeSet};
use nodenet::{
    Entering, Exit, LinkName, Need, NodeNet, Part, Question, Reason, TableId, Tracer, VethPrefix,
    host, layout, trace, whole,
};

const VPC: &str = "10.0.0.0/16";

fn ask(net: &NodeNet, flows: &FlowSet, entering: Entering, mark: u32) -> Vec<Part> {
    let (vpc, veth_prefix) = ([VPC.parse().unwrap()], VethPrefix::default());
    trace(
        net,
        flows,
        &Question {
            entering,
            mark,
            vpc: &vpc,
            veth_prefix: &veth_prefix,
        },
    )
}

fn veth(i: usize) -> LinkName {
    layout::host_veth(&VethPrefix::default(), &fifteen_pods().pods[i].pod, 0)
}

fn tcp(src: &str, dst: &str) -> FlowSet {
    Packet::tcp(src.parse().unwrap(), 40000, dst.parse().unwrap(), 5432).into()
}

fn one(parts: Vec<Part>) -> Part {
    assert_eq!(parts.len(), 1, "{parts:#?}");
    parts.into_iter().next().unwrap()
}

fn link_of(part: &Part) -> &str {
    match &part.exit {
        Exit::Link { link, .. } => link.as_str(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_pod_leaves_by_the_eni_that_owns_its_address() {
    let net = whole(&fifteen_pods()).unwrap();
    let first = one(ask(
        &net,
        &tcp("10.0.0.103", "10.0.2.5"),
        Entering::Pod(veth(3)),
        0,
    ));
    assert_eq!(link_of(&first), "eth0");
    assert_eq!(
        first.rule.unwrap().to_string(),
        "32766: from all lookup main"
    );
    let second = one(ask(
        &net,
        &tcp("10.0.1.107", "10.0.2.5"),
        Entering::Pod(veth(7)),
        0,
    ));
    assert_eq!(
        second.exit,
        Exit::Link {
            link: name("eth1"),
            mac: Some(nodenet::Mac([2, 0, 0, 0, 0, 1])),
            next_hop: Some("10.0.1.1".parse().unwrap()),
        }
    );
    assert_eq!(
        second.rule.unwrap().to_string(),
        "1536: from 10.0.1.107 lookup 2"
    );
    assert_eq!(
        second.route.unwrap().to_string(),
        "default via 10.0.1.1 dev eth1 table 2"
    );
}

#[test]
fn a_marked_packet_leaves_by_the_primary_eni() {
    let net = whole(&fifteen_pods()).unwrap();
    let part = one(ask(
        &net,
        &tcp("10.0.1.107", "10.0.2.5"),
        Entering::Pod(veth(7)),
        0x80,
    ));
    assert_eq!(link_of(&part), "eth0");
    assert_eq!(part.rule.unwrap().priority, layout::priority::MARKED);
}

#[test]
fn a_neighbour_in_the_subnet_of_the_primary_eni_is_reached_through_it_or_through_the_router() {
    let net = whole(&fifteen_pods()).unwrap();
    let exit =
        |src: &str, i| match one(ask(&net, &tcp(src, "10.0.0.50"), Entering::Pod(veth(i)), 0)).exit
        {
            Exit::Link { link, next_hop, .. } => {
                (link.to_string(), next_hop.map(|h| h.to_string()))
            }
            other => panic!("{other:?}"),
        };
    assert_eq!(exit("10.0.0.103", 3), ("eth0".to_owned(), None));
    // The second ENI's table has only the router: it carries even what is next door.
    assert_eq!(
        exit("10.0.1.107", 7),
        ("eth1".to_owned(), Some("10.0.1.1".to_owned()))
    );
}

#[test]
fn pods_are_reached_from_everywhere_by_their_veth() {
    let net = whole(&fifteen_pods()).unwrap();
    for entering in [
        Entering::Pod(veth(3)),
        Entering::Link(name("eth0")),
        Entering::Link(name("eth1")),
    ] {
        let part = one(ask(&net, &tcp("10.0.2.5", "10.0.1.107"), entering, 0));
        assert_eq!(part.exit, Exit::Pod { veth: veth(7) });
        assert_eq!(part.rule.unwrap().priority, layout::priority::TO_POD);
    }
    let part = one(ask(
        &net,
        &tcp("10.0.0.10", "10.0.1.107"),
        Entering::Local,
        0,
    ));
    assert_eq!(part.exit, Exit::Pod { veth: veth(7) });
}

#[test]
fn the_node_itself_is_local() {
    let net = whole(&fifteen_pods()).unwrap();
    for own in ["10.0.0.10", "10.0.1.20"] {
        let part = one(ask(
            &net,
            &tcp("10.0.1.107", own),
            Entering::Pod(veth(7)),
            0,
        ));
        assert!(matches!(part.exit, Exit::LocalDelivery { .. }));
        assert_eq!(part.rule.unwrap().priority, layout::priority::LOCAL);
    }
    let part = one(ask(&net, &tcp("10.0.1.20", "10.0.2.5"), Entering::Local, 0));
    assert_eq!(
        link_of(&part),
        "eth1",
        "rule 32765 holds for the ENI's own address"
    );
}

#[test]
fn what_leaves_the_vpc_is_unknown_with_a_name() {
    let net = whole(&fifteen_pods()).unwrap();
    let part = one(ask(
        &net,
        &tcp("10.0.1.107", "93.184.216.34"),
        Entering::Pod(veth(7)),
        0,
    ));
    assert_eq!(part.exit, Exit::Unknown(Need::NodeSnat));
    let Exit::Unknown(need) = part.exit else {
        panic!()
    };
    assert_eq!(need.to_string(), "node SNAT not modelled yet");
}

#[test]
fn impossible_addresses_are_dropped() {
    let net = whole(&fifteen_pods()).unwrap();
    let exit = |src: &str, dst: &str, entering| one(ask(&net, &tcp(src, dst), entering, 0)).exit;
    let pod = || Entering::Pod(veth(7));
    assert_eq!(
        exit("127.0.0.1", "10.0.2.5", pod()),
        Exit::Dropped(Reason::Martian)
    );
    assert_eq!(
        exit("10.0.0.10", "10.0.2.5", pod()),
        Exit::Dropped(Reason::Martian)
    );
    assert_eq!(
        exit("10.0.1.107", "127.0.0.1", pod()),
        Exit::Dropped(Reason::Martian)
    );
    assert_eq!(
        exit("10.0.1.107", "224.0.0.1", pod()),
        Exit::Unknown(Need::Multicast)
    );
    let elsewhere = exit("10.0.3.3", "10.0.2.5", Entering::Local);
    assert_eq!(elsewhere, Exit::Dropped(Reason::SourceNotOurs));
}

#[test]
fn drops_name_the_rule_and_the_route() {
    let mut net = whole(&fifteen_pods()).unwrap();
    net.routes.insert("blackhole 10.0.9.0/24".parse().unwrap());
    net.routes
        .insert("unreachable 10.0.8.0/24 table 2".parse().unwrap());
    net.routes
        .insert("throw 10.0.7.0/24 table 2".parse().unwrap());
    net.rules
        .insert("600: from 10.0.1.108 prohibit".parse().unwrap());
    let ask = |src: &str, dst: &str| one(ask(&net, &tcp(src, dst), Entering::Pod(veth(7)), 0));
    let part = ask("10.0.0.103", "10.0.9.1");
    assert_eq!(part.exit, Exit::Dropped(Reason::Blackhole));
    assert_eq!(part.route.unwrap().to_string(), "blackhole 10.0.9.0/24");
    assert_eq!(
        ask("10.0.1.107", "10.0.8.1").exit,
        Exit::Dropped(Reason::Unreachable)
    );
    assert_eq!(
        link_of(&ask("10.0.1.107", "10.0.7.1")),
        "eth0",
        "throw: the next rules decide"
    );
    assert_eq!(
        ask("10.0.1.108", "10.0.9.1").exit,
        Exit::Dropped(Reason::Prohibit)
    );
    net.routes.retain(|r| r.dst.prefix_len() != 0);
    let part = one(super_ask(&net, "10.0.0.103", "10.0.2.5"));
    assert_eq!(
        (part.exit, part.rule),
        (Exit::Dropped(Reason::NoRoute), None)
    );
}

fn super_ask(net: &NodeNet, src: &str, dst: &str) -> Vec<Part> {
    ask(net, &tcp(src, dst), Entering::Pod(veth(3)), 0)
}

#[test]
fn what_is_not_modelled_is_never_guessed() {
    let mut net = whole(&fifteen_pods()).unwrap();
    let mut strange: nodenet::Rule = "700: from 10.0.1.107 lookup main".parse().unwrap();
    strange.unmodelled = Some("sport 80".to_owned());
    net.rules.insert(strange);
    // Equal priority, different tables, overlapping selectors: order of creation decides.
    net.rules.insert(
        "1536: from 10.0.1.108 to 10.0.2.0/24 lookup main"
            .parse()
            .unwrap(),
    );
    let ask = |src: &str, dst: &str| one(ask(&net, &tcp(src, dst), Entering::Pod(veth(7)), 0)).exit;
    assert!(matches!(
        ask("10.0.1.107", "10.0.2.5"),
        Exit::Unknown(Need::RuleText(_))
    ));
    assert_eq!(
        ask("10.0.1.108", "10.0.2.5"),
        Exit::Unknown(Need::RuleOrder(1536))
    );
    assert!(matches!(ask("10.0.1.108", "10.0.3.5"), Exit::Link { .. }));
}

#[test]
fn goto_skips_and_a_target_that_is_not_there_does_nothing() {
    let mut net = whole(&fifteen_pods()).unwrap();
    net.rules
        .insert("1500: from 10.0.1.107 goto 32766".parse().unwrap());
    net.rules
        .insert("1500: from 10.0.1.108 goto 31000".parse().unwrap());
    let ask = |src: &str| one(ask(&net, &tcp(src, "10.0.2.5"), Entering::Pod(veth(7)), 0));
    assert_eq!(link_of(&ask("10.0.1.107")), "eth0");
    assert_eq!(link_of(&ask("10.0.1.108")), "eth1");
}

#[test]
fn the_parts_of_all_packets_are_disjoint_complete_and_agree_with_each_packet() {
    let mut net = whole(&fifteen_pods()).unwrap();
    net.routes.insert("blackhole 10.0.9.0/24".parse().unwrap());
    net.rules.insert(
        "1000: not from 10.0.1.0/24 to 10.0.3.0/24 lookup 2"
            .parse()
            .unwrap(),
    );
    net.rules
        .insert("1001: from all iif eth1 blackhole".parse().unwrap());
    let enterings = [
        Entering::Local,
        Entering::Pod(veth(7)),
        Entering::Link(name("eth0")),
        Entering::Link(name("eth1")),
    ];
    let tracer = Tracer::new(&net);
    let (vpc, veth_prefix) = ([VPC.parse().unwrap()], VethPrefix::default());
    for entering in enterings {
        for mark in [0, 0x80] {
            let entering = entering.clone();
            let question = Question {
                entering,
                mark,
                vpc: &vpc,
                veth_prefix: &veth_prefix,
            };
            let parts = tracer.trace(&FlowSet::full(), &question);
            let mut seen = FlowSet::empty();
            for part in &parts {
                assert!(seen.intersect(&part.flows).is_empty(), "disjoint");
                seen = seen.union(&part.flows);
                let packet = part.flows.witness().unwrap();
                let alone = one(tracer.trace(&packet.into(), &question));
                assert_eq!(
                    (&alone.exit, &alone.route),
                    (&part.exit, &part.route),
                    "{packet:?}"
                );
            }
            assert_eq!(seen, FlowSet::full(), "complete");
        }
    }
}

#[test]
fn routes_of_links_that_are_down_do_not_count() {
    let mut net = whole(&fifteen_pods()).unwrap();
    let mut eth1 = net.link(&name("eth1")).cloned().unwrap();
    net.links.remove(&eth1);
    eth1.up = false;
    net.links.insert(eth1);
    assert_eq!(net.table(TableId(2)).count(), 2);
    let part = one(ask(
        &net,
        &tcp("10.0.1.107", "10.0.2.5"),
        Entering::Pod(veth(7)),
        0,
    ));
    assert_eq!(
        link_of(&part),
        "eth0",
        "table 2 has nothing to say, main decides"
    );
}

#[test]
fn a_set_of_pods_is_split_by_eni() {
    let facts = fifteen_pods();
    let net = whole(&facts).unwrap();
    let pods: RangeSet<u32> = facts.pods.iter().map(|pod| host(pod.address)).collect();
    let flows = FlowSet::full()
        .from_sources(&pods)
        .with_destination("10.0.2.5".parse().unwrap());
    // Whatever veth they come from: no rule of the layout looks at it.
    let parts = ask(&net, &flows, Entering::Pod(veth(0)), 0);
    let by_link = |link: &str| {
        let of_link = parts.iter().filter(|part| link_of(part) == link);
        of_link
            .map(|part| part.flows.sources().count())
            .sum::<u64>()
    };
    assert_eq!((by_link("eth0"), by_link("eth1")), (5, 10));
}
