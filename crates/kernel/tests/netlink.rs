//! Every netlink operation against the running kernel, in namespaces of the tests' own.

#![allow(clippy::unwrap_used, reason = "the helpers are tests as well")]

mod common;

use common::{may_run, name, namespace};
use kernel::{Errno, LinkEnd, NetNs, Socket, netlink::RouteQuery};
use nodenet::{Addr, LinkKind, Mac, Neighbour, Route, Rule, TableId, Target};

const MAC_A: Mac = Mac([2, 0, 0, 0, 0, 0xa]);
const MAC_B: Mac = Mac([2, 0, 0, 0, 0, 0xb]);

fn route(line: &str) -> Route {
    line.parse().unwrap()
}

fn rule(line: &str) -> Rule {
    line.parse().unwrap()
}

#[test]
fn a_veth_pair_is_created_with_both_ends_in_other_namespaces() {
    if !may_run("veth") {
        return;
    }
    let (_here, mut here) = namespace();
    let (a_ns, mut a) = namespace();
    let (b_ns, mut b) = namespace();
    let (na, nb) = (name("a0"), name("b0"));
    let end_a = LinkEnd::new(&na).in_ns(&a_ns).mac(MAC_A).mtu(9001).up();
    let end_b = LinkEnd::new(&nb).in_ns(&b_ns).mac(MAC_B).mtu(9001);
    here.add_veth(&end_a, &end_b).unwrap();

    assert_eq!(
        here.links().unwrap().len(),
        1,
        "only lo in the creator's namespace"
    );
    let state = a.link(&na).unwrap().unwrap();
    assert_eq!(
        (state.link.mac, state.link.mtu, state.link.up),
        (Some(MAC_A), 9001, true)
    );
    assert_eq!(state.link.kind, LinkKind::Veth);
    assert!(!state.carrier, "the other end is down");
    b.set_up(&nb, true).unwrap();
    let state = a.link(&na).unwrap().unwrap();
    assert!(state.carrier, "both ends are up");
    assert_eq!(b.link(&nb).unwrap().unwrap().link.mac, Some(MAC_B));
    assert_eq!(a.link_by_mac(MAC_A).unwrap().unwrap(), state);
    assert_eq!(a.link_by_index(state.index).unwrap().unwrap(), state);

    let error = here.add_veth(&end_a, &end_b.up()).unwrap_err();
    assert!(
        matches!(error, kernel::Error::Unsupported { .. }),
        "{error}"
    );
    let again = here.add_veth(&end_a, &end_b).unwrap_err();
    assert_eq!(again.errno(), Some(Errno::EXIST));
    assert!(
        again.to_string().contains("link add a0 type veth peer b0"),
        "{again}"
    );

    a.del_link(&na).unwrap();
    assert_eq!(b.link(&nb).unwrap(), None, "the other end goes with it");
    assert!(a.del_link(&na).unwrap_err().is_absent());
}

#[test]
fn a_link_can_be_changed() {
    if !may_run("link changes") {
        return;
    }
    let (ns, mut s) = namespace();
    let (other, mut o) = namespace();
    let (x, y) = (name("x"), name("y"));
    s.add_veth(
        &LinkEnd::new(&x).in_ns(&ns),
        &LinkEnd::new(&y).in_ns(&other),
    )
    .unwrap();
    s.set_mtu(&x, 1400).unwrap();
    s.set_mac(&x, MAC_A).unwrap();
    s.rename(&x, &name("z")).unwrap();
    s.set_up(&name("z"), true).unwrap();
    o.set_up(&y, true).unwrap();
    let z = s.link(&name("z")).unwrap().unwrap().link;
    assert_eq!((z.mtu, z.mac, z.up), (1400, Some(MAC_A), true));
    s.set_up(&name("z"), false).unwrap();
    assert!(!s.link(&name("z")).unwrap().unwrap().link.up);
    assert!(s.set_up(&x, true).unwrap_err().is_absent());

    let m = name("mv0");
    s.add_macvlan(&LinkEnd::new(&m).in_ns(&other).mac(MAC_B), &name("z"))
        .unwrap();
    let kind = o.link(&m).unwrap().unwrap().link.kind;
    assert_eq!(kind, LinkKind::Other("macvlan".to_owned()));
}

#[test]
fn addresses_routes_neighbours_and_rules_come_back_as_they_went_in() {
    if !may_run("round trip") {
        return;
    }
    let (_ns, mut s) = namespace();
    let (other, _o) = namespace();
    let e = name("eth1");
    s.add_veth(
        &LinkEnd::new(&e).up(),
        &LinkEnd::new(&name("far")).in_ns(&other),
    )
    .unwrap();

    let addr = Addr::without_route(e.clone(), "10.0.1.7/24".parse().unwrap());
    s.add_addr(&addr).unwrap();
    assert!(s.add_addr(&addr).unwrap_err().is_exists());
    assert!(s.addrs().unwrap().contains(&addr));
    assert!(
        !s.routes_of(TableId::MAIN)
            .unwrap()
            .iter()
            .any(|r| r.link() == Some(&e))
    );

    let routes = [
        "10.0.1.1 dev eth1 table 2 scope link",
        "default via 10.0.1.1 dev eth1 table 2",
        "10.9.0.0/16 via 169.254.1.1 dev eth1 table 10101 metric 7 onlink",
        "blackhole 10.8.0.0/16 table 2",
        "unreachable 10.7.0.0/16 table 2 metric 100",
        "throw 10.6.0.0/16 table 2",
        "prohibit 10.5.0.0/16 table 2",
        "10.3.0.4 dev eth1 proto static scope link src 10.0.1.7",
    ];
    let mut batch = s.batch();
    for line in routes {
        batch = batch.add_route(&route(line));
    }
    batch.commit().unwrap();
    let have = s.routes().unwrap();
    for line in routes {
        assert!(have.contains(&route(line)), "{line} in {have:#?}");
    }
    assert!(s.add_route(&route(routes[0])).unwrap_err().is_exists());
    s.replace_route(&route("default via 10.0.1.254 dev eth1 table 2 onlink"))
        .unwrap();
    assert_eq!(
        s.routes_of(TableId(2))
            .unwrap()
            .iter()
            .filter(|r| r.dst.prefix_len() == 0)
            .count(),
        1
    );
    let gone = route("10.99.0.0/16 dev eth1");
    assert_eq!(s.del_route(&gone).unwrap_err().errno(), Some(Errno::SRCH));
    s.del_route(&route(routes[3])).unwrap();

    let neighbour = Neighbour {
        link: e.clone(),
        addr: "169.254.1.1".parse().unwrap(),
        mac: MAC_B,
    };
    s.set_neighbour(&neighbour).unwrap();
    s.set_neighbour(&neighbour).unwrap();
    assert_eq!(s.neighbours().unwrap(), vec![neighbour.clone()]);
    s.del_neighbour(&neighbour).unwrap();
    assert_eq!(s.neighbours().unwrap(), vec![]);

    let rules = [
        "512: from all to 10.0.1.8 lookup main",
        "1024: from all fwmark 0x80/0x80 lookup main",
        "1536: from 10.0.1.8 lookup 2",
        "1600: not from 10.0.0.0/16 to 10.0.2.0/24 iif eth1 lookup 10101",
        "1700: from 10.0.1.9 blackhole",
        "32765: from 10.0.1.7 lookup 2",
    ];
    for line in rules {
        s.add_rule(&rule(line)).unwrap();
    }
    let lines: Vec<String> = s.rules().unwrap().iter().map(ToString::to_string).collect();
    let mut want = vec!["0: from all lookup local"];
    want.extend(rules);
    want.extend([
        "32766: from all lookup main",
        "32767: from all lookup default",
    ]);
    assert_eq!(lines, want);
    assert!(s.add_rule(&rule(rules[2])).unwrap_err().is_exists());
    for line in rules {
        s.del_rule(&rule(line)).unwrap();
    }
    assert_eq!(
        s.del_rule(&rule(rules[2])).unwrap_err().errno(),
        Some(Errno::NOENT)
    );
    assert_eq!(s.rules().unwrap().len(), 3);
}

#[test]
fn a_batch_tries_everything_and_says_what_failed() {
    if !may_run("batch") {
        return;
    }
    let (_ns, mut s) = namespace();
    let outcomes = s
        .batch()
        .add_rule(&rule("100: from 10.0.0.1 lookup main"))
        .add_rule(&rule("100: from 10.0.0.1 lookup main"))
        .add_route(&route("10.0.0.1 dev nowhere"))
        .add_rule(&rule("101: from 10.0.0.1 lookup main"))
        .outcomes()
        .unwrap();
    assert!(outcomes[0].is_ok());
    assert!(outcomes[1].as_ref().unwrap_err().is_exists());
    let missing = outcomes[2].as_ref().unwrap_err();
    assert!(missing.is_absent());
    assert_eq!(
        missing.to_string(),
        "no link nowhere in this network namespace (route add 10.0.0.1 dev nowhere scope link)"
    );
    assert!(outcomes[3].is_ok());
    assert_eq!(s.rules().unwrap().len(), 5);

    // More than one datagram, with failures in the middle.
    let mut batch = s.batch();
    for i in 0..300u32 {
        batch = batch.add_rule(&rule(&format!(
            "{}: from 10.0.0.1 lookup main",
            1000 + i / 2
        )));
    }
    let outcomes = batch.outcomes().unwrap();
    assert_eq!(outcomes.len(), 300);
    assert!(
        outcomes
            .iter()
            .enumerate()
            .all(|(i, o)| o.is_ok() == (i % 2 == 0))
    );
}

#[test]
fn the_kernel_explains_itself() {
    if !may_run("extended acknowledgement") {
        return;
    }
    let (_ns, mut s) = namespace();
    let error = s
        .add_route(&route("10.1.0.0/16 via 10.9.9.9 dev lo"))
        .unwrap_err();
    assert_eq!(error.errno(), Some(Errno::NETUNREACH));
    assert_eq!(
        error.to_string(),
        "route add 10.1.0.0/16 via 10.9.9.9 dev lo: Network is unreachable (os error 101): \
         Nexthop has invalid gateway"
    );
}

#[test]
fn the_kernel_says_where_a_packet_goes() {
    if !may_run("route get") {
        return;
    }
    let (_ns, mut s) = namespace();
    s.add_route(&route("blackhole 10.1.0.0/16")).unwrap();
    s.add_addr(&Addr::new(name("lo"), "10.2.0.1/32".parse().unwrap()))
        .unwrap();
    let query = |dst: &str| RouteQuery {
        dst: dst.parse().unwrap(),
        src: None,
        iif: None,
        mark: 0,
    };
    assert_eq!(
        s.route_get(&query("10.1.0.1")).unwrap_err().errno(),
        Some(Errno::INVAL)
    );
    assert_eq!(
        s.route_get(&query("10.3.0.1")).unwrap_err().errno(),
        Some(Errno::NETUNREACH)
    );
    let local = s.route_get(&query("10.2.0.1")).unwrap();
    assert_eq!(local.target, Target::Local { link: name("lo") });
    // As long as a namespace has no rules of its own, local and main are one trie in the kernel.
    assert_eq!(local.table, TableId::MAIN);
    s.add_rule(&rule("100: from 10.0.0.1 lookup main")).unwrap();
    assert_eq!(
        s.route_get(&query("10.2.0.1")).unwrap().table,
        TableId::LOCAL
    );
}

#[test]
fn lists_are_complete_while_others_change_them() {
    if !may_run("interrupted lists") {
        return;
    }
    let (ns, mut s) = namespace();
    let fixed: Vec<Rule> = (0..200)
        .map(|i| rule(&format!("{}: from 10.1.0.1 lookup main", 2000 + i)))
        .collect();
    fixed
        .iter()
        .fold(s.batch(), |b, r| b.add_rule(r))
        .commit()
        .unwrap();
    std::thread::scope(|scope| {
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let ns = &ns;
        let churn = scope.spawn(move || {
            let mut s = Socket::open_in(ns).unwrap();
            let extra = rule("100: from 10.0.0.1 lookup main");
            while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                s.add_rule(&extra).unwrap();
                s.del_rule(&extra).unwrap();
            }
        });
        for _ in 0..100 {
            // Either the whole list or a named error, never a part of it.
            match s.rules() {
                Ok(rules) => assert!(fixed.iter().all(|r| rules.contains(r)), "a rule is missing"),
                Err(error) => assert!(
                    matches!(error, kernel::Error::Interrupted { .. }),
                    "{error}"
                ),
            }
        }
        drop(stop);
        churn.join().unwrap();
    });
}

#[test]
fn a_socket_of_a_namespace_works_from_any_thread() {
    if !may_run("socket threads") {
        return;
    }
    let ns = NetNs::create().unwrap();
    let mut s = Socket::open_in(&ns).unwrap();
    let names = std::thread::spawn(move || {
        s.links()
            .unwrap()
            .into_iter()
            .map(|l| l.link.name.to_string())
            .collect::<Vec<_>>()
    });
    assert_eq!(names.join().unwrap(), ["lo"]);
}
