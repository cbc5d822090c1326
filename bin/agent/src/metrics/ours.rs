//! The families that upstream has not: how long pods wait and for what, what was repaired, what is
//! not tried again for a while.

use std::collections::BTreeMap;

use ipam::{GroupState, Refusal};

use super::page::Page;
use super::{Metrics, Seen};
use crate::kubernetes::Counts;

impl Metrics {
    pub(super) fn ours(&self, page: &mut Page, seen: &Seen<'_>) {
        let name = "branchline_add_duration_seconds";
        let help = "From an ADD's arrival at the agent to its answer";
        page.head(name, "histogram", help);
        page.histogram(name, &[("result", "leased")], &self.served);
        page.histogram(name, &[("result", "refused")], &self.not_served);
        let name = "branchline_del_duration_seconds";
        let help = "From a DEL's arrival at the agent to its answer";
        page.head(name, "histogram", help);
        page.histogram(name, &[], &self.deleted);
        gauges(page, seen);
        self.refusals(page);
        standing(page, seen);
        self.calls(page);
        findings(page, seen);
        if let Some(counts) = &seen.cluster {
            cluster(page, counts);
        }
        page.value(
            "branchline_log_lines_left_out_total",
            "counter",
            "Warnings that the log has not because they repeat",
            crate::log::left_out(),
        );
        let name = "branchline_build_info";
        page.head(name, "gauge", "The build");
        page.line(name, &[("version", env!("CARGO_PKG_VERSION"))], 1);
        let name = "branchline_settings_info";
        let help = "The settings: nodes that run alike have the same fingerprint";
        page.head(name, "gauge", help);
        let fingerprint = seen.settings.fingerprint();
        page.line(name, &[("fingerprint", fingerprint.as_str())], 1);
    }

    fn refusals(&self, page: &mut Page) {
        // All of them from the start: of a series that begins with its first refusal, no rate is
        // known.
        let known = Refusal::WORDS.iter().filter(|word| **word != "unknown-pod");
        let mut refused: BTreeMap<&str, u64> = known.map(|word| (*word, 0)).collect();
        refused.extend(&self.refused);
        page.by(
            (
                "branchline_refused_adds_total",
                "counter",
                "ADDs refused, by what was in the way",
            ),
            "reason",
            refused,
        );
    }

    fn calls(&self, page: &mut Page) {
        let name = "branchline_calls_total";
        page.head(
            name,
            "counter",
            "Calls of the pool to EC2 and the kernel by outcome, repetitions by the client not counted",
        );
        for ((action, outcome), n) in &self.calls {
            page.line(name, &[("action", action), ("outcome", outcome)], n);
        }
    }
}

fn gauges(page: &mut Page, seen: &Seen<'_>) {
    let pool = seen.pool;
    let counts = pool.counts();
    let (short, over) = pool.against_targets();
    let pending = match pool.group_state() {
        GroupState::Applying { enis, .. } => enis.len(),
        GroupState::SetByHand { enis } => enis.len(),
        GroupState::Off | GroupState::Equal => 0,
    };
    let longest = pool.waiting().map(|(_, since)| seen.now.since(since)).max();
    let gauges = [
        (
            "branchline_available_ip_addresses",
            "Addresses free and rested",
            counts.available,
        ),
        (
            "branchline_resting_ip_addresses",
            "Addresses at rest after their last pod",
            counts.resting,
        ),
        (
            "branchline_coming_ip_addresses",
            "Addresses on their way",
            counts.coming,
        ),
        (
            "branchline_short_ip_addresses",
            "Addresses that the warm targets ask for besides",
            short,
        ),
        (
            "branchline_over_ip_addresses",
            "Addresses that the warm targets can do without",
            over,
        ),
        (
            "branchline_waiting_pods",
            "ADDs without an address",
            counts.waiting,
        ),
        (
            "branchline_group_sync_pending",
            "Interfaces that EC2 does not show with the primary's security groups",
            u32::try_from(pending).unwrap_or(u32::MAX),
        ),
        (
            "branchline_ready",
            "ADDs are served",
            u32::from(pool.not_ready().is_none()),
        ),
    ];
    for (name, help, value) in gauges {
        page.value(name, "gauge", help, value);
    }
    page.value(
        "branchline_longest_wait_seconds",
        "gauge",
        "How long the oldest of the waiting ADDs has waited",
        longest.unwrap_or_default().as_secs_f64(),
    );
    page.value(
        "branchline_start_time_seconds",
        "gauge",
        "When the agent started, since the epoch",
        seen.started.0 / 1000,
    );
}

fn standing(page: &mut Page, seen: &Seen<'_>) {
    page.by(
        (
            "branchline_obstacle",
            "gauge",
            "Why the next pod would get no address; no sample: it gets one",
        ),
        "reason",
        seen.pool.obstacle().map(|refusal| (refusal.word(), 1)),
    );
    let mut longest: BTreeMap<(&str, &str), f64> = BTreeMap::new();
    for standing in seen.pool.standing() {
        let key = (standing.failure.action, standing.failure.kind.word());
        let left = longest.entry(key).or_default();
        *left = left.max(standing.left.as_secs_f64());
    }
    let name = "branchline_backoff_seconds";
    page.head(name, "gauge", "Until a failed call is made again");
    for ((action, reason), left) in longest {
        page.line(name, &[("action", action), ("reason", reason)], left);
    }
}

fn findings(page: &mut Page, seen: &Seen<'_>) {
    let findings = seen.findings;
    page.by(
        (
            "branchline_denied_actions",
            "gauge",
            "Actions that EC2 denies to the node's role",
        ),
        "action",
        findings.denied.keys().map(|action| (action, 1)),
    );
    page.by(
        (
            "branchline_kernel_repairs_total",
            "counter",
            "Links, rules, routes … of the node's own that somebody changed and that were put right",
        ),
        "kind",
        &findings.repairs,
    );
    page.value(
        "branchline_kernel_differences",
        "gauge",
        "What differs on the node and could not be put right",
        findings.failing.len(),
    );
    page.by(
        (
            "branchline_leases_released_total",
            "counter",
            "Addresses taken back from pods that are gone without a DEL",
        ),
        "reason",
        &findings.released,
    );
    page.value(
        "branchline_checkpoint_errors_total",
        "counter",
        "Writes of changes or of the checkpoint that failed",
        findings.checkpoint.errors,
    );
}

fn cluster(page: &mut Page, counts: &Counts) {
    page.value(
        "branchline_kubernetes_connected",
        "gauge",
        "The API server answers",
        u8::from(counts.connected),
    );
    page.by(
        (
            "branchline_kubernetes_failed_total",
            "counter",
            "Requests to the API server that were not done, by right",
        ),
        "right",
        counts.failed.iter().map(|(right, n)| (right, n)),
    );
    page.value(
        "branchline_kubernetes_events_dropped_total",
        "counter",
        "Events that were too many to be written",
        counts.dropped,
    );
}
