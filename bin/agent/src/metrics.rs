//! Metrics: upstream's names and labels, all of them, and ours under `branchline_`.
//!
//! Labels hold words of a fixed list, names of EC2's actions, ids of this node's interfaces and
//! bounded error codes; never texts, pods or addresses (but for upstream's `cidr`). What upstream
//! counts for a feature that is not built here has its family and no sample.

mod api;
mod ours;
mod page;
mod process;
mod upstream;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use ipam::{Answer, Call, Failure, Millis, Pool, SlotState};
use settings::Settings;
use vpc::facts::EniId;

use crate::findings::Findings;
use crate::kubernetes::Counts;
pub(crate) use api::Api;
use page::{Histogram, Page};

/// Upper bounds of the time of an ADD or a DEL at the agent, in seconds: from what an address at
/// hand costs to more than an ADD's patience.
const REQUEST: [f64; 11] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.01, 0.1, 1.0, 2.5, 5.0, 10.0,
];
/// Upper bounds of the time of a start, in seconds; the client library's own.
const START: [f64; 11] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// What happened since the start.
#[derive(Debug)]
pub(crate) struct Metrics {
    pub(crate) api: Api,
    pub(crate) adds: u64,
    pub(crate) dels: BTreeMap<String, u64>,
    pub(crate) refused: BTreeMap<&'static str, u64>,
    served: Histogram,
    not_served: Histogram,
    deleted: Histogram,
    /// Calls of the pool by action and outcome.
    calls: BTreeMap<(&'static str, &'static str), u64>,
    /// Upstream's names of what failed.
    errors: BTreeMap<&'static str, u64>,
    /// Upstream's names of what EC2 showed otherwise than the pool had it.
    reconciled: BTreeMap<&'static str, u64>,
    /// Interfaces and addresses that EC2 showed no more while pods had them.
    lost: (u64, u64),
    lost_now: BTreeSet<Ipv4Addr>,
    /// The interfaces that EC2 last showed attached.
    shown: BTreeSet<EniId>,
    not_identified: u64,
    identified: Histogram,
    failed_to_identify: Histogram,
    /// The time until the first pod could be served, and whether the API server answered by then.
    started: Option<(Histogram, bool)>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            api: Api::default(),
            adds: 0,
            dels: BTreeMap::new(),
            refused: BTreeMap::new(),
            served: Histogram::new(&REQUEST),
            not_served: Histogram::new(&REQUEST),
            deleted: Histogram::new(&REQUEST),
            calls: BTreeMap::new(),
            errors: BTreeMap::new(),
            reconciled: BTreeMap::new(),
            lost: (0, 0),
            lost_now: BTreeSet::new(),
            shown: BTreeSet::new(),
            not_identified: 0,
            identified: Histogram::new(&START),
            failed_to_identify: Histogram::new(&START),
            started: None,
        }
    }
}

/// What of the agent a page shows.
#[derive(Debug)]
pub(crate) struct Seen<'a> {
    pub(crate) pool: &'a Pool,
    pub(crate) findings: &'a Findings,
    pub(crate) settings: &'a Settings,
    pub(crate) cluster: Option<Counts>,
    pub(crate) now: Millis,
    pub(crate) started: Millis,
}

impl Metrics {
    /// An ADD was answered.
    pub(crate) fn added(&mut self, took: Duration, served: bool) {
        match served {
            true => self.served.observe(took),
            false => self.not_served.observe(took),
        }
    }

    /// A DEL came, by its reason; reasons come from outside, so that only the known ones get a
    /// series.
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

    /// A DEL was answered.
    pub(crate) fn released(&mut self, took: Duration) {
        self.deleted.observe(took);
    }

    /// A call of the pool was answered; `pool` before it is told.
    pub(crate) fn called(&mut self, pool: &Pool, call: &Call, result: &Result<Answer, Failure>) {
        let outcome = match result {
            Ok(_) => "ok",
            Err(failure) => failure.kind.word(),
        };
        *self.calls.entry((call.action(), outcome)).or_default() += 1;
        if result.is_err()
            && let Some(name) = upstream::error_of(call)
        {
            *self.errors.entry(name).or_default() += 1;
        }
        if let Ok(Answer::Shown(view)) = result {
            self.compare(pool, view);
        }
    }

    /// What EC2 shows otherwise than the pool has it.
    fn compare(&mut self, pool: &Pool, view: &ipam::View) {
        let attached = view.enis.iter().filter(|eni| eni.attachment.is_some());
        let seen: BTreeSet<&EniId> = attached.clone().map(|eni| &eni.id).collect();
        let had: BTreeSet<&EniId> = pool
            .enis()
            .filter(|eni| eni.device.is_some() && !eni.stage.is_leaving())
            .map(|eni| &eni.id)
            .collect();
        let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        let gone: Vec<&EniId> = had.difference(&seen).copied().collect();
        // Interfaces that are not the pool's to use are shown each time.
        let new = seen
            .difference(&had)
            .filter(|id| !self.shown.contains(**id));
        *self.reconciled.entry(upstream::ENI_ADDED).or_default() += count(new.count());
        *self.reconciled.entry(upstream::ENI_GONE).or_default() += count(gone.len());
        let shown: BTreeSet<Ipv4Addr> = attached.flat_map(ipam::EniView::addresses).collect();
        let lost = |address: &Ipv4Addr| !shown.contains(address);
        let lost: BTreeSet<Ipv4Addr> = pool.allocations().map(|a| a.address).filter(lost).collect();
        self.lost.1 += count(lost.difference(&self.lost_now).count());
        let with_pods = gone.iter().filter(|id| {
            let held = |slot: &ipam::Slot| matches!(slot.state, SlotState::Assigned(_));
            let eni = pool.enis().find(|eni| eni.id == ***id);
            eni.is_some_and(|eni| eni.slots.values().any(|slot| held(slot) && !slot.lost))
        });
        self.lost.0 += count(with_pods.count());
        self.lost_now = lost;
        self.shown = seen.into_iter().cloned().collect();
    }

    /// The node's identity was read, or not, so long after the start.
    pub(crate) fn identified(&mut self, after: Duration, known: bool) {
        if known {
            self.identified.observe(after);
        } else {
            self.not_identified += 1;
            self.failed_to_identify.observe(after);
        }
    }

    /// Pods are served, so long after the start; told once.
    pub(crate) fn ready(&mut self, after: Duration, with_api_server: bool) {
        if self.started.is_none() {
            let mut took = Histogram::new(&START);
            took.observe(after);
            self.started = Some((took, with_api_server));
        }
    }

    /// The page at `/metrics`.
    pub(crate) fn page(&self, seen: &Seen<'_>) -> String {
        let mut page = Page::default();
        self.upstream(&mut page, seen);
        self.api.lines(&mut page);
        self.ours(&mut page, seen);
        process::lines(&mut page);
        page.0
    }
}

/// The page of an agent that has just started, in a cluster: every family.
pub(crate) fn at_start() -> String {
    let settings = Settings::default();
    Metrics::default().page(&Seen {
        pool: &Pool::new(ipam::Config::new(&settings, 0)),
        findings: &Findings::default(),
        settings: &settings,
        cluster: Some(Counts {
            connected: false,
            failed: Vec::new(),
            dropped: 0,
        }),
        now: Millis(0),
        started: Millis(0),
    })
}

#[cfg(test)]
mod tests;
