//! Metrics under upstream's names, in the text form of Prometheus.
//!
//! Written by hand: the client library appends `_total` to counters, and dashboards know
//! upstream's names without it. Labels hold names of actions and error codes only, never texts.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ec2::client::Attempt;
use ipam::{GroupState, Pool};

use crate::kubernetes::Counts;

/// Upper bounds of the time of an ADD, in seconds.
const BUCKETS: [f64; 8] = [0.0005, 0.001, 0.0025, 0.01, 0.1, 1.0, 5.0, 10.0];

/// Attempts of EC2 calls, counted where they are made.
#[derive(Debug, Clone, Default)]
pub(crate) struct Api(Arc<Mutex<BTreeMap<(&'static str, String), Series>>>);

#[derive(Debug, Clone, Copy, Default)]
struct Series {
    count: u64,
    millis: f64,
}

impl Api {
    pub(crate) fn saw(&self, attempt: &Attempt) {
        let code = attempt.code.clone().unwrap_or_default();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let series = all.entry((attempt.action, code)).or_default();
        series.count += 1;
        series.millis += attempt.took.as_secs_f64() * 1000.0;
    }
}

/// What happened since the start.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) api: Api,
    pub(crate) adds: u64,
    pub(crate) dels: BTreeMap<String, u64>,
    pub(crate) refused: BTreeMap<&'static str, u64>,
    add_times: [u64; BUCKETS.len()],
    add_count: u64,
    add_seconds: f64,
}

impl Metrics {
    pub(crate) fn added(&mut self, took: Duration) {
        let seconds = took.as_secs_f64();
        for (bound, count) in BUCKETS.iter().zip(&mut self.add_times) {
            *count += u64::from(seconds <= *bound);
        }
        self.add_count += 1;
        self.add_seconds += seconds;
    }

    /// A DEL, by its reason; reasons come from outside, so that only the known ones get a series.
    pub(crate) fn deleted(&mut self, reason: &str) {
        use cni::rpc::{REASON_GARBAGE, REASON_POD_DELETED, REASON_SETUP_FAILED};
        let known = [REASON_GARBAGE, REASON_POD_DELETED, REASON_SETUP_FAILED];
        let reason = if known.contains(&reason) {
            reason
        } else {
            "other"
        };
        *self.dels.entry(reason.to_owned()).or_default() += 1;
    }

    /// The page at `/metrics`.
    pub(crate) fn page(&self, pool: &Pool, cluster: Option<Counts>) -> String {
        let mut page = Page::default();
        let counts = pool.counts();
        page.value(
            "awscni_eni_max",
            "gauge",
            "Interfaces that pods may use",
            counts.interfaces_max,
        );
        page.value(
            "awscni_eni_allocated",
            "gauge",
            "Interfaces in use",
            counts.interfaces,
        );
        let slots = pool.node().map_or(0, |node| node.limits.slots());
        let most = counts.interfaces_max.saturating_mul(slots);
        page.value(
            "awscni_ip_max",
            "gauge",
            "Addresses that pods may have",
            most,
        );
        page.value(
            "awscni_total_ip_addresses",
            "gauge",
            "Addresses held",
            counts.total,
        );
        page.value(
            "awscni_assigned_ip_addresses",
            "gauge",
            "Addresses of pods",
            counts.assigned,
        );
        page.value(
            "branchline_resting_ip_addresses",
            "gauge",
            "Addresses at rest",
            counts.resting,
        );
        page.value(
            "branchline_waiting_pods",
            "gauge",
            "ADDs without an address",
            counts.waiting,
        );
        page.head(
            "awscni_assigned_ip_per_eni",
            "gauge",
            "Addresses of pods by interface",
        );
        for eni in pool.enis() {
            let pods = pool
                .allocations()
                .filter(|a| eni.slots.contains_key(&a.address))
                .count();
            page.line(
                "awscni_assigned_ip_per_eni",
                &[("eni", eni.id.as_str())],
                pods,
            );
        }
        let equal = !matches!(pool.group_state(), GroupState::Applying { .. });
        page.value(
            "branchline_groups_in_sync",
            "gauge",
            "Groups are equal in EC2",
            u8::from(equal),
        );
        let ready = u8::from(pool.not_ready().is_none());
        page.value("branchline_ready", "gauge", "ADDs are served", ready);
        page.value("awscni_add_ip_req_count", "counter", "ADDs", self.adds);
        page.head("awscni_del_ip_req_count", "counter", "DELs by reason");
        for (reason, n) in &self.dels {
            page.line("awscni_del_ip_req_count", &[("reason", reason)], n);
        }
        page.head(
            "branchline_refused_adds",
            "counter",
            "ADDs refused, by what was in the way",
        );
        for (reason, n) in &self.refused {
            page.line("branchline_refused_adds", &[("reason", reason)], n);
        }
        let none = self.refused.values().sum::<u64>();
        page.value(
            "awscni_no_available_ip_addresses",
            "counter",
            "ADDs without an address",
            none,
        );
        self.add_times(&mut page);
        self.api_lines(&mut page);
        if let Some(counts) = cluster {
            cluster_lines(&mut page, &counts);
        }
        page.head("awscni_build_info", "gauge", "The build");
        let version = [("version", env!("CARGO_PKG_VERSION")), ("goversion", "")];
        page.line("awscni_build_info", &version, 1);
        page.0
    }

    fn add_times(&self, page: &mut Page) {
        let name = "branchline_add_duration_seconds";
        page.head(
            name,
            "histogram",
            "From an ADD's arrival at the agent to its answer",
        );
        for (bound, count) in BUCKETS.iter().zip(self.add_times) {
            let bound = bound.to_string();
            page.line(&format!("{name}_bucket"), &[("le", bound.as_str())], count);
        }
        page.line(&format!("{name}_bucket"), &[("le", "+Inf")], self.add_count);
        page.line(&format!("{name}_sum"), &[], self.add_seconds);
        page.line(&format!("{name}_count"), &[], self.add_count);
    }

    fn api_lines(&self, page: &mut Page) {
        let all = self.api.0.lock().unwrap_or_else(PoisonError::into_inner);
        page.head(
            "awscni_ec2api_req_count",
            "counter",
            "EC2 requests by action",
        );
        let mut requests: BTreeMap<&str, u64> = BTreeMap::new();
        for ((action, _), series) in all.iter() {
            *requests.entry(action).or_default() += series.count;
        }
        for (action, n) in requests {
            page.line("awscni_ec2api_req_count", &[("fn", action)], n);
        }
        page.head(
            "awscni_aws_api_error_count",
            "counter",
            "Failed EC2 requests",
        );
        for ((action, code), series) in all.iter().filter(|((_, code), _)| !code.is_empty()) {
            let labels = [("api", *action), ("error", code.as_str())];
            page.line("awscni_aws_api_error_count", &labels, series.count);
        }
        page.head(
            "awscni_aws_api_latency_ms",
            "summary",
            "Time of EC2 requests",
        );
        for ((action, code), series) in all.iter() {
            let failed = if code.is_empty() { "false" } else { "true" };
            let labels = [
                ("api", *action),
                ("error", failed),
                ("status", code.as_str()),
            ];
            page.line("awscni_aws_api_latency_ms_sum", &labels, series.millis);
            page.line("awscni_aws_api_latency_ms_count", &labels, series.count);
        }
    }
}

fn cluster_lines(page: &mut Page, counts: &Counts) {
    page.value(
        "branchline_kubernetes_connected",
        "gauge",
        "The API server answers",
        u8::from(counts.connected),
    );
    page.head(
        "branchline_kubernetes_failed",
        "counter",
        "Requests to the API server that were not done, by right",
    );
    for (right, n) in &counts.failed {
        page.line("branchline_kubernetes_failed", &[("right", right)], n);
    }
    page.value(
        "branchline_kubernetes_events_dropped",
        "counter",
        "Events that were too many to be written",
        counts.dropped,
    );
}

#[derive(Default)]
struct Page(String);

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to text cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        let labels: Vec<String> = labels
            .iter()
            .map(|(name, value)| format!("{name}={value:?}"))
            .collect();
        let _ = match labels.is_empty() {
            true => writeln!(self.0, "{name} {value}"),
            false => writeln!(self.0, "{name}{{{}}} {value}", labels.join(",")),
        };
    }

    fn value(&mut self, name: &str, kind: &str, help: &str, value: impl std::fmt::Display) {
        self.head(name, kind, help);
        self.line(name, &[], value);
    }
}
