//! The page is what a scraper reads, and what upstream's dashboards look for.

use std::collections::{BTreeMap, BTreeSet};

use ipam::{Config, Event, FailureKind, Key, Pod, Ticket, View, step};

use super::*;
use crate::show::tests::{Bed, shown};

/// Upstream's families (v1.23.1) and their kinds.
const UPSTREAM: [(&str, &str); 27] = [
    ("awscni_ipamd_error_count", "counter"),
    ("awscni_reconcile_count", "counter"),
    ("awscni_add_ip_req_count", "counter"),
    ("awscni_del_ip_req_count", "counter"),
    ("awscni_pod_eni_error_count", "counter"),
    ("awscni_aws_api_error_count", "counter"),
    ("awscni_aws_utils_error_count", "counter"),
    ("awscni_ec2api_req_count", "counter"),
    ("awscni_ec2api_error_count", "counter"),
    ("awscni_force_removed_enis", "counter"),
    ("awscni_force_removed_ips", "counter"),
    ("awscni_no_available_ip_addresses", "counter"),
    ("awscni_connmark_reconcile_total", "counter"),
    ("awscni_ipamd_action_inprogress", "gauge"),
    ("awscni_eni_max", "gauge"),
    ("awscni_ip_max", "gauge"),
    ("awscni_eni_allocated", "gauge"),
    ("awscni_total_ip_addresses", "gauge"),
    ("awscni_assigned_ip_addresses", "gauge"),
    ("awscni_total_ipv4_prefixes", "gauge"),
    ("awscni_assigned_ip_per_cidr", "gauge"),
    ("awscni_assigned_ip_per_eni", "gauge"),
    ("awscni_connmark_backend", "gauge"),
    ("awscni_build_info", "gauge"),
    ("awscni_aws_api_latency_ms", "summary"),
    ("awscni_ipamd_startup_duration_seconds", "histogram"),
    (
        "awscni_ipamd_node_initialization_duration_seconds",
        "histogram",
    ),
];

/// One family of a page.
#[derive(Debug, Default)]
struct Family {
    kind: String,
    samples: Vec<(String, BTreeMap<String, String>, f64)>,
}

/// Reads a page as `promtool check metrics` does: every family once, HELP before TYPE before its
/// samples, names and labels well formed, no series twice, histograms whole.
fn parse(page: &str) -> BTreeMap<String, Family> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut helped: Option<String> = None;
    let mut current = String::new();
    let mut series = BTreeSet::new();
    assert!(page.ends_with('\n'));
    for line in page.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, text) = help.split_once(' ').expect("a help text");
            assert!(!text.is_empty() && !families.contains_key(name), "{line}");
            helped = Some(name.to_owned());
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').expect("a kind");
            assert_eq!(helped.take().as_deref(), Some(name), "{line}");
            let kinds = ["counter", "gauge", "histogram", "summary"];
            assert!(kinds.contains(&kind), "{line}");
            assert!(is_name(name), "{line}");
            name.clone_into(&mut current);
            let family = Family {
                kind: kind.to_owned(),
                ..Family::default()
            };
            families.insert(name.to_owned(), family);
        } else {
            let (name, labels, value) = sample(line);
            let suffix = name.strip_prefix(current.as_str()).unwrap_or("?");
            let family = families.get_mut(&current).expect("TYPE comes first");
            let allowed: &[&str] = match family.kind.as_str() {
                "histogram" => &["_bucket", "_sum", "_count"],
                "summary" => &["", "_sum", "_count"],
                _ => &[""],
            };
            assert!(allowed.contains(&suffix), "{line} in {current}");
            assert!(series.insert((name.clone(), labels.clone())), "{line}");
            assert!(value.is_finite(), "{line}");
            family.samples.push((name, labels, value));
        }
    }
    for (name, family) in families.iter().filter(|(_, f)| f.kind == "histogram") {
        whole(name, family);
    }
    families
}

/// Buckets do not fall, and the last of them is the count.
fn whole(name: &str, family: &Family) {
    let mut buckets: BTreeMap<BTreeMap<String, String>, Vec<(f64, f64)>> = BTreeMap::new();
    for (sample, labels, value) in &family.samples {
        if sample.ends_with("_bucket") {
            let mut labels = labels.clone();
            let le = labels.remove("le").expect("a bucket has le");
            let bound = if le == "+Inf" {
                f64::INFINITY
            } else {
                le.parse().expect("a bound")
            };
            buckets.entry(labels).or_default().push((bound, *value));
        }
    }
    for (labels, list) in buckets {
        assert!(list.windows(2).all(|w| w[0].0 < w[1].0 && w[0].1 <= w[1].1));
        let count = family
            .samples
            .iter()
            .find(|(n, l, _)| *n == format!("{name}_count") && *l == labels);
        let (bound, last) = list.last().expect("buckets");
        assert_eq!(
            (*bound, Some(*last)),
            (f64::INFINITY, count.map(|c| c.2)),
            "{name} {labels:?}"
        );
    }
}

fn is_name(name: &str) -> bool {
    let first = |c: char| c.is_ascii_alphabetic() || c == '_';
    name.starts_with(first) && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn sample(line: &str) -> (String, BTreeMap<String, String>, f64) {
    let (head, value) = line.rsplit_once(' ').expect("a value");
    let (name, inner) = match head.split_once('{') {
        Some((name, rest)) => (name, rest.strip_suffix('}').expect("a brace")),
        None => (head, ""),
    };
    assert!(is_name(name), "{line}");
    let mut labels = BTreeMap::new();
    let mut rest = inner;
    while !rest.is_empty() {
        let (label, tail) = rest.split_once("=\"").expect("a label");
        assert!(is_name(label), "{line}");
        let mut text = String::new();
        let mut chars = tail.char_indices();
        let end = loop {
            let (at, c) = chars.next().expect("a closing quote");
            match c {
                '"' => break at,
                '\\' => {
                    let (_, c) = chars.next().expect("an escaped character");
                    assert!(matches!(c, '\\' | '"' | 'n'), "{line}");
                    text.push(c);
                }
                c => text.push(c),
            }
        };
        assert!(labels.insert(label.to_owned(), text).is_none(), "{line}");
        rest = tail[end + 1..].trim_start_matches(',');
    }
    (name.to_owned(), labels, value.parse().expect("a number"))
}

fn page(metrics: &Metrics, pool: &Pool, findings: &Findings) -> String {
    metrics.page(&Seen {
        pool,
        findings,
        settings: &Settings::default(),
        cluster: Some(Counts {
            connected: true,
            failed: vec![("watch nodes".to_owned(), 2)],
            dropped: 0,
        }),
        now: Millis(9_000),
        started: Millis(1_000),
    })
}

fn value(families: &BTreeMap<String, Family>, name: &str, labels: &[(&str, &str)]) -> f64 {
    let family = name.trim_end_matches("_count").trim_end_matches("_sum");
    let family = families.get(name).or_else(|| families.get(family));
    let wanted: BTreeMap<String, String> = labels
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect();
    let samples = &family.unwrap_or_else(|| panic!("no {name}")).samples;
    let found = samples.iter().find(|(n, l, _)| n == name && *l == wanted);
    found.unwrap_or_else(|| panic!("no {name} {labels:?}")).2
}

#[test]
fn all_of_upstreams_names_are_there_from_the_start() {
    let pool = Pool::new(Config::new(&Settings::default(), 1));
    let families = parse(&page(&Metrics::default(), &pool, &Findings::default()));
    for (name, kind) in UPSTREAM {
        assert_eq!(
            families.get(name).map(|f| f.kind.as_str()),
            Some(kind),
            "{name}"
        );
    }
    let alien = families.keys().find(|name| {
        let known = ["awscni_", "branchline_", "process_"];
        !known.iter().any(|prefix| name.starts_with(prefix))
    });
    assert_eq!(alien, None);
    // Every reason has its series before the first refusal.
    let refused = &families["branchline_refused_adds_total"].samples;
    assert_eq!(refused.len(), ipam::Refusal::WORDS.len() - 1);
}

#[test]
fn what_happens_is_counted() {
    let mut pool = Pool::new(Config::new(&Settings::default(), 1));
    let mut metrics = Metrics::default();
    let mut findings = Findings::default();
    metrics.adds += 1;
    let add = Event::Add {
        ticket: Ticket(1),
        key: Key {
            network: "aws-cni".to_owned(),
            container: "c".to_owned(),
            ifname: "eth0".to_owned(),
        },
        pod: Pod::default(),
    };
    step(&mut pool, add, Millis(4_000));
    metrics.added(Duration::from_micros(300), true);
    metrics.added(Duration::from_secs(8), false);
    metrics.released(Duration::from_micros(50));
    metrics.deleted("PodDeleted");
    metrics.deleted("made \"up\"\n");
    metrics.identified(Duration::from_millis(300), false);
    metrics.identified(Duration::from_millis(900), true);
    metrics.ready(Duration::from_millis(950), false);
    metrics.ready(Duration::from_secs(100), true);
    *metrics.refused.entry("subnet-full").or_default() += 1;
    *metrics.refused.entry("not-ready").or_default() += 1;
    let call = Call::Show { leftovers: false };
    let denied = Err(Failure {
        action: call.action(),
        kind: FailureKind::Denied,
        message: "UnauthorizedOperation".to_owned(),
    });
    metrics.called(&pool, &call, &denied);
    findings.called(&call, denied.as_ref().err(), Millis(5_000));
    findings.repaired("rule", 1, "1536 from 10.0.1.7".to_owned(), Millis(6_000));
    findings.released(
        &Pod::default(),
        Ipv4Addr::LOCALHOST,
        "no-namespace",
        Millis(1),
    );
    let families = parse(&page(&metrics, &pool, &findings));
    let is = |name, labels: &[(&str, &str)], wanted: f64| {
        let got = value(&families, name, labels);
        assert!((got - wanted).abs() < 1e-9, "{name} {labels:?}: {got}");
    };
    is("awscni_add_ip_req_count", &[], 1.0);
    is("awscni_del_ip_req_count", &[("reason", "other")], 1.0);
    is("branchline_waiting_pods", &[], 1.0);
    is("branchline_longest_wait_seconds", &[], 5.0);
    is(
        "branchline_add_duration_seconds_count",
        &[("result", "leased")],
        1.0,
    );
    is(
        "branchline_add_duration_seconds_sum",
        &[("result", "refused")],
        8.0,
    );
    is("branchline_del_duration_seconds_count", &[], 1.0);
    is("awscni_no_available_ip_addresses", &[], 1.0);
    is(
        "branchline_refused_adds_total",
        &[("reason", "not-ready")],
        1.0,
    );
    is(
        "branchline_refused_adds_total",
        &[("reason", "throttled")],
        0.0,
    );
    let action = ("action", "DescribeNetworkInterfaces");
    is(
        "branchline_calls_total",
        &[action, ("outcome", "denied")],
        1.0,
    );
    is("branchline_denied_actions", &[action], 1.0);
    is("branchline_obstacle", &[("reason", "not-ready")], 1.0);
    is("branchline_kernel_repairs_total", &[("kind", "rule")], 1.0);
    is(
        "branchline_leases_released_total",
        &[("reason", "no-namespace")],
        1.0,
    );
    is(
        "awscni_ipamd_error_count",
        &[("fn", "reconcileFailedGetENIs")],
        1.0,
    );
    let started = [
        ("success", "true"),
        ("with_api_server", "false"),
        ("failure_reason", ""),
    ];
    is("awscni_ipamd_startup_duration_seconds_sum", &started, 0.95);
    is(
        "awscni_ipamd_node_initialization_duration_seconds_count",
        &[("success", "false")],
        1.0,
    );
    is(
        "branchline_kubernetes_failed_total",
        &[("right", "watch nodes")],
        2.0,
    );
}

#[test]
fn what_ec2_shows_otherwise_is_counted_once() {
    let mut bed = Bed::new(&[("WARM_ENI_TARGET", "0")]);
    for n in 0..4 {
        bed.add(&format!("p{n}"));
    }
    let mut metrics = Metrics::default();
    let look = |metrics: &mut Metrics, view: &View| {
        let call = Call::Show { leftovers: false };
        metrics.called(&bed.pool, &call, &Ok(Answer::Shown(view.clone())));
        let families = parse(&page(metrics, &bed.pool, &Findings::default()));
        let value = |name, labels: &[(&str, &str)]| value(&families, name, labels) as u64;
        [
            value("awscni_force_removed_ips", &[]),
            value("awscni_reconcile_count", &[("fn", "eniReconcileAdd")]),
            value("awscni_reconcile_count", &[("fn", "eniReconcileDel")]),
        ]
    };
    // Pods have single addresses and one of the prefix; all are there.
    let mut view = shown();
    assert_eq!(look(&mut metrics, &view), [0, 0, 0]);
    // An interface that is not the pool's is new once.
    let mut foreign = view.enis[0].clone();
    foreign.id = "eni-0f1".parse().unwrap();
    foreign.secondary.clear();
    foreign.prefixes.clear();
    view.enis.push(foreign);
    assert_eq!(look(&mut metrics, &view), [0, 1, 0]);
    assert_eq!(look(&mut metrics, &view), [0, 1, 0]);
    // Two addresses of pods are gone, and go once.
    view.enis[0].secondary.clear();
    let lost = look(&mut metrics, &view)[0];
    assert!((1..=2).contains(&lost), "{lost}");
    assert_eq!(look(&mut metrics, &view), [lost, 1, 0]);
    view.enis.clear();
    assert_eq!(look(&mut metrics, &view), [4, 1, 1]);
}
