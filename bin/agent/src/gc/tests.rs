use super::*;

const NOW: Millis = Millis(1_700_000_000_000);

fn address(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 1, last)
}

fn held(container: &str, name: &str, last: u8, age: u64) -> Allocation {
    Allocation {
        key: Key {
            network: "aws-cni".into(),
            container: container.into(),
            ifname: "eth0".into(),
        },
        pod: Pod {
            namespace: "ns".into(),
            name: name.into(),
            uid: format!("u-{container}"),
        },
        address: address(last),
        since: Millis(NOW.0 - age * 1000),
    }
}

fn link(name: &str) -> LinkName {
    let pod = nodenet::PodName::new("ns", name);
    nodenet::layout::host_veth(&VethPrefix::default(), &pod, 0)
}

/// A node with these links; an address leads to each where one is given.
fn node(links: &[(LinkName, Option<u8>)]) -> Seen {
    let all = links.iter().map(|(link, _)| link.clone()).collect();
    let led = links
        .iter()
        .filter_map(|(link, last)| Some((address((*last)?), link.clone())));
    Seen::of(all, led.collect())
}

fn pool(allocations: Vec<Allocation>) -> Pool {
    let mut pool = Pool::new(ipam::Config::new(&settings::Settings::default(), 1));
    let recovered = ipam::Event::Recovered {
        allocations,
        released: BTreeMap::new(),
        returned: BTreeMap::new(),
    };
    ipam::step(&mut pool, recovered, NOW);
    pool
}

fn look(seen: Seen, pods: Pods) -> Look {
    Look {
        seen,
        pods,
        deleted: Vec::new(),
    }
}

fn listed(pods: &[(&str, &str)]) -> Pods {
    let one = |(name, uid): &(&str, &str)| {
        let name = ("ns".to_owned(), (*name).to_owned());
        (name, [(*uid).to_owned()].into())
    };
    Pods::Listed(pods.iter().map(one).collect())
}

fn ledger() -> Ledger {
    let mut ledger = Ledger::new(VethPrefix::default());
    ledger.ask_at = NOW.after(ASK_EVERY);
    ledger
}

#[test]
fn a_link_is_a_pods_by_its_address() {
    let web = held("c1", "web-0", 5, 600);
    let other = link("other");
    for (seen, veth) in [
        (node(&[(link("web-0"), Some(5))]), Veth::There),
        (node(&[]), Veth::Gone),
        (node(&[(other.clone(), Some(6))]), Veth::Gone),
        (node(&[(link("web-0"), None)]), Veth::Bare),
        (node(&[(link("web-0"), Some(6))]), Veth::Leads(address(6))),
        (node(&[(other.clone(), Some(5))]), Veth::Elsewhere(other)),
    ] {
        assert_eq!(seen.veth(&web), veth, "{seen:?}");
    }
    let mut nameless = web.clone();
    nameless.pod = Pod::default();
    assert_eq!(node(&[(link("x"), Some(5))]).veth(&nameless), Veth::There);
    assert_eq!(node(&[]).veth(&nameless), Veth::Nameless);
    let stray = stray(address(5), &link("web-0"), NOW);
    assert_eq!(node(&[(link("web-0"), Some(5))]).veth(&stray), Veth::There);
    assert_eq!(node(&[]).veth(&stray), Veth::Gone);
}

/// Every state of the kernel with every answer of the cluster.
#[test]
fn the_table_of_decisions() {
    use Listed::{Alive, Gone, NotAsked, Unknown};
    #[derive(Debug, PartialEq)]
    enum Is {
        Kept,
        Waits,
        Asks,
        Doubted,
        Released(&'static str),
    }
    use Is::{Asks, Doubted, Kept, Released, Waits};
    let leads = || Veth::Leads(address(9));
    let elsewhere = || Veth::Elsewhere(link("other"));
    // link · looks · succeeded · alive, gone, not asked, unknown
    for (veth, looks, succeeded, wanted) in [
        (Veth::There, 0, false, [Kept, Doubted, Kept, Kept]),
        (Veth::Nameless, 0, false, [Kept, Kept, Kept, Kept]),
        (Veth::Bare, 0, false, [Doubted, Doubted, Doubted, Doubted]),
        (elsewhere(), 0, false, [Doubted, Doubted, Doubted, Doubted]),
        (leads(), 9, false, [Doubted, Doubted, Doubted, Doubted]),
        (leads(), 1, true, [Waits, Waits, Waits, Waits]),
        (
            leads(),
            2,
            true,
            [
                Released("replaced"),
                Released("replaced"),
                Asks,
                Released("replaced"),
            ],
        ),
        (Veth::Gone, 1, false, [Waits, Waits, Waits, Waits]),
        (
            Veth::Gone,
            2,
            false,
            [Doubted, Released("no-pod"), Asks, Released("no-link")],
        ),
    ] {
        for (pod, wanted) in [Alive, Gone, NotAsked, Unknown].into_iter().zip(wanted) {
            let case = |grown| Case {
                veth: &veth,
                pod,
                grown,
                looks,
                succeeded,
            };
            let is = |verdict| match verdict {
                Verdict::Keep => Kept,
                Verdict::Wait => Waits,
                Verdict::Ask => Asks,
                Verdict::Doubt(_) | Verdict::Alive => Doubted,
                Verdict::Release(why) => Released(why),
            };
            assert_eq!(is(judge(&case(true))), wanted, "{veth:?} {looks} {pod:?}");
            // What is young is never taken back for want of a link.
            let young = is(judge(&case(false)));
            assert!(
                !matches!(young, Released(_) | Asks),
                "{veth:?} {pod:?}: {young:?}"
            );
        }
    }
}

#[test]
fn a_lost_del_is_found_at_the_second_look() {
    let pool = pool(vec![held("c1", "api", 5, 600), held("c2", "web", 6, 600)]);
    let seen = || node(&[(link("web"), Some(6))]);
    for (pods, why) in [
        (Pods::None, "no-link"),
        (Pods::Failed("down".into()), "no-link"),
        (listed(&[("web", "u-c2")]), "no-pod"),
        // Another pod of that name, on this very node.
        (listed(&[("web", "u-c2"), ("api", "u-new")]), "no-pod"),
    ] {
        let mut ledger = ledger();
        let first = ledger.compare(&look(seen(), pods.clone()), &pool, NOW);
        assert_eq!((first.release, first.doubts), (vec![], vec![]));
        assert_eq!(first.next.after, SOON);
        let later = NOW.after(SOON);
        let second = ledger.compare(&look(seen(), pods), &pool, later);
        assert_eq!(second.release, [(held("c1", "api", 5, 600), why)]);
    }
}

#[test]
fn the_cluster_is_asked_only_about_who_seems_to_be_gone() {
    let pool = pool(vec![held("c1", "api", 5, 600)]);
    let mut ledger = ledger();
    let there = node(&[(link("api"), Some(5))]);
    let calm = ledger.compare(&look(there, Pods::NotAsked), &pool, NOW);
    assert_eq!(calm, Outcome::default());
    for ask in [false, true] {
        let found = ledger.compare(&look(node(&[]), Pods::NotAsked), &pool, NOW);
        assert_eq!((found.next.ask, found.release), (ask, vec![]));
    }
    let alive = ledger.compare(&look(node(&[]), listed(&[("api", "u-c1")])), &pool, NOW);
    assert_eq!(
        (alive.release.len(), alive.doubts.len(), alive.news.len()),
        (0, 1, 1)
    );
    assert_eq!(
        alive.next,
        Next {
            after: ASK_LATER,
            ask: true
        }
    );
    // Told once, shown for as long as it lasts.
    let again = ledger.compare(&look(node(&[]), listed(&[("api", "u-c1")])), &pool, NOW);
    assert_eq!((again.doubts.len(), again.news.len()), (1, 0));
}

#[test]
fn a_link_that_comes_back_begins_anew() {
    let pool = pool(vec![held("c1", "api", 5, 600)]);
    let mut ledger = ledger();
    for links in [vec![], vec![(link("api"), Some(5))], vec![]] {
        let found = ledger.compare(&look(node(&links), Pods::None), &pool, NOW);
        assert_eq!(found.release, []);
    }
}

#[test]
fn a_reused_name_keeps_no_stale_lease_alive() {
    let (old, new) = (held("c1", "web-0", 5, 900), held("c2", "web-0", 6, 300));
    let pool = pool(vec![old.clone(), new]);
    let mut ledger = ledger();
    let seen = || node(&[(link("web-0"), Some(6))]);
    let alive = || listed(&[("web-0", "u-c2")]);
    assert_eq!(
        ledger.compare(&look(seen(), alive()), &pool, NOW).release,
        []
    );
    let found = ledger.compare(&look(seen(), alive()), &pool, NOW);
    assert_eq!(found.release, [(old, "replaced")]);
}

#[test]
fn a_young_pod_is_looked_at_when_it_is_grown() {
    let pool = pool(vec![held("c1", "api", 5, 20)]);
    let found = ledger().compare(&look(node(&[]), Pods::None), &pool, NOW);
    assert_eq!(found.next.after, YOUNG - Duration::from_secs(20) + SOON);
}

#[test]
fn a_note_of_the_runtime_is_enough() {
    let one = held("c1", "api", 5, 10);
    let pool = pool(vec![one.clone()]);
    let noted_of = |key: &Key, seen, at| Look {
        deleted: vec![(key.clone(), at)],
        ..look(seen, Pods::NotAsked)
    };
    let noted = |seen, at| noted_of(&one.key, seen, at);
    // The kernel is not through with it yet.
    let there = ledger().compare(&noted(node(&[(link("api"), Some(5))]), NOW), &pool, NOW);
    assert_eq!(
        (there.release, there.unsettled),
        (vec![], vec![one.key.clone()])
    );
    // Its route is gone; the link goes with the namespace.
    for seen in [node(&[]), node(&[(link("api"), None)])] {
        let gone = ledger().compare(&noted(seen, NOW), &pool, NOW);
        assert_eq!(gone.release, [(one.clone(), "deleted")]);
    }
    // One from before the lease is about an earlier attachment of the same container.
    let old = ledger().compare(&noted(node(&[]), Millis(1)), &pool, NOW);
    assert_eq!((old.release, old.unsettled), (vec![], vec![]));
    let other = noted_of(&held("c2", "api", 5, 10).key, node(&[]), NOW);
    let other = ledger().compare(&other, &pool, NOW);
    assert_eq!(other.release, []);
}

#[test]
fn a_pod_without_a_lease_is_held_at_the_second_look_until_its_link_goes() {
    let mut held_by = pool(vec![]);
    let mut ledger = ledger();
    let seen = || node(&[(link("api"), Some(5)), ("eth1".parse().unwrap(), Some(7))]);
    let first = ledger.compare(&look(seen(), Pods::None), &held_by, NOW);
    assert_eq!((first.hold, first.next.after), (vec![], SOON));
    let second = ledger.compare(&look(seen(), Pods::None), &held_by, NOW);
    assert_eq!(second.hold, [stray(address(5), &link("api"), NOW)]);
    ipam::step(
        &mut held_by,
        ipam::Event::Found(second.hold[0].clone()),
        NOW,
    );
    assert_eq!(
        ledger.compare(&look(seen(), Pods::None), &held_by, NOW),
        Outcome::default()
    );
    let gone = || look(node(&[]), Pods::None);
    assert_eq!(ledger.compare(&gone(), &held_by, NOW).release, []);
    let released = ledger.compare(&gone(), &held_by, NOW).release;
    assert_eq!(
        released,
        [(stray(address(5), &link("api"), NOW), "no-link")]
    );
}

#[test]
fn a_static_pod_has_the_uid_of_its_node_too() {
    let pool = pool(vec![held("c1", "api", 5, 600)]);
    let uids = ["u-mirror".to_owned(), "u-c1".to_owned()].into();
    let alive = Pods::Listed([(("ns".to_owned(), "api".to_owned()), uids)].into());
    let seen = node(&[(link("api"), Some(5))]);
    let found = ledger().compare(&look(seen, alive), &pool, NOW);
    assert_eq!(found.doubts, []);
}

#[test]
fn an_api_server_that_is_away_is_asked_again() {
    let found = ledger().compare(
        &look(node(&[]), Pods::Failed("x".into())),
        &pool(vec![]),
        NOW,
    );
    let after = ASK_AGAIN;
    assert_eq!(found.next, Next { after, ask: true });
}

#[test]
fn a_stray_is_named_by_the_cluster_and_goes_with_its_link() {
    let stray = stray(address(5), &link("api"), NOW);
    let mut held_by = pool(vec![stray.clone()]);
    let seen = || node(&[(link("api"), Some(5))]);
    let alive = || listed(&[("web", "u-web"), ("api", "u-api")]);
    let mut ledger = ledger();
    let found = ledger.compare(&look(seen(), alive()), &held_by, NOW);
    let [named] = &found.named[..] else {
        panic!("one is named: {found:?}");
    };
    assert_eq!(
        (named.pod.name.as_str(), named.pod.uid.as_str()),
        ("api", "u-api")
    );
    ipam::step(&mut held_by, ipam::Event::Found(named.clone()), NOW);
    let pods: Vec<Pod> = held_by.allocations().map(|held| held.pod.clone()).collect();
    assert_eq!(pods.as_slice(), std::slice::from_ref(&named.pod));
    assert_eq!(
        ledger.compare(&look(seen(), alive()), &held_by, NOW),
        Outcome::default()
    );
    // The cluster lists it until its DEL is through, which here waits for the link to go.
    let gone = || look(node(&[]), alive());
    assert_eq!(ledger.compare(&gone(), &held_by, NOW).release, []);
    assert_eq!(ledger.compare(&gone(), &held_by, NOW).release.len(), 1);
}
