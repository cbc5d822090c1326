//! What the agent found and put right, and what it could not: the one account behind the metrics
//! and `/state`. Repairs of the kernel, leases whose DEL was lost, the checkpoint, denied actions.
//!
//! Counters go on for as long as the process lives; of single findings the last few are kept.

use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv4Addr;

use cni::introspect::{Checkpoint, Leases, Released, Repair, Repairs};
use ipam::{Call, Failure, FailureKind, Millis, Pod};
use jiff::Timestamp;

/// How many single findings of a kind are kept.
const KEPT: usize = 20;

/// An action that EC2 denies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Denial {
    pub(crate) at: Millis,
    pub(crate) message: String,
}

/// The account.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) repairs: BTreeMap<&'static str, u64>,
    recent_repairs: VecDeque<Repair>,
    /// What differs and could not be put right, and why; whoever repairs keeps it.
    pub(crate) failing: BTreeMap<String, String>,
    pub(crate) released: BTreeMap<&'static str, u64>,
    recent_released: VecDeque<Released>,
    /// When leases and pods were last compared, and why they cannot be.
    pub(crate) compared: Option<Millis>,
    pub(crate) not_compared: String,
    /// Leases that are kept although something is wrong with them: the address, and what.
    pub(crate) doubtful: BTreeMap<String, String>,
    pub(crate) checkpoint: Checkpoint,
    /// Actions whose last answer was that the role may not.
    pub(crate) denied: BTreeMap<&'static str, Denial>,
}

impl Findings {
    /// Something of the node's own was changed by somebody, and put right. `kind` is a label of a
    /// metric: one of a few words (`rule`, `route`, `link`, `neighbour`, `sysctl` …).
    /// `count` of them at once; `what` names the first.
    pub(crate) fn repaired(&mut self, kind: &'static str, count: u64, what: String, now: Millis) {
        *self.repairs.entry(kind).or_default() += count;
        let repair = Repair {
            at: time(now),
            kind: kind.to_owned(),
            what,
        };
        keep(&mut self.recent_repairs, repair);
    }

    /// An address was taken back although no DEL came. `why` is a label of a metric: one of a few
    /// words (`no-pod`, `no-namespace` …).
    pub(crate) fn released(
        &mut self,
        pod: &Pod,
        address: Ipv4Addr,
        why: &'static str,
        now: Millis,
    ) {
        *self.released.entry(why).or_default() += 1;
        let released = Released {
            at: time(now),
            address: address.to_string(),
            pod: format!("{}/{}", pod.namespace, pod.name),
            why: why.to_owned(),
        };
        keep(&mut self.recent_released, released);
    }

    /// A change or the checkpoint could not be written.
    pub(crate) fn not_written(&mut self, error: &str) {
        self.checkpoint.errors += 1;
        self.checkpoint.trouble = error.to_owned();
    }

    /// The checkpoint was written.
    pub(crate) fn written(&mut self, now: Millis) {
        self.checkpoint.written = time(now);
        self.checkpoint.trouble.clear();
    }

    /// EC2 denied an action, in a call of the pool or when the action was probed.
    pub(crate) fn denied(&mut self, action: &'static str, message: String, now: Millis) {
        self.denied.insert(action, Denial { at: now, message });
    }

    /// EC2 allowed an action.
    pub(crate) fn allowed(&mut self, action: &'static str) {
        self.denied.remove(action);
    }

    /// A call of the pool was answered. Any answer but a denial and a success came before the right
    /// was checked, or says nothing of it.
    pub(crate) fn called(&mut self, call: &Call, failure: Option<&Failure>, now: Millis) {
        match failure {
            Some(failure) if failure.kind == FailureKind::Denied => {
                self.denied(failure.action, failure.message.clone(), now);
            }
            Some(_) => {}
            None => self.allowed(call.action()),
        }
    }

    /// For `/state`.
    pub(crate) fn repairs(&self) -> Repairs {
        let counts = self.repairs.iter();
        Repairs {
            counts: counts.map(|(kind, n)| ((*kind).to_owned(), *n)).collect(),
            recent: self.recent_repairs.iter().cloned().collect(),
            failing: self.failing.clone(),
        }
    }

    /// For `/state`.
    pub(crate) fn leases(&self) -> Leases {
        Leases {
            compared: self.compared.map(time).unwrap_or_default(),
            released: self.released.values().sum(),
            recent: self.recent_released.iter().cloned().collect(),
            doubtful: self.doubtful.clone(),
            trouble: self.not_compared.clone(),
        }
    }
}

fn keep<T>(list: &mut VecDeque<T>, new: T) {
    list.truncate(KEPT - 1);
    list.push_front(new);
}

/// A time as `/state` shows it; empty for one that no calendar has.
pub(crate) fn time(at: Millis) -> String {
    let at = i64::try_from(at.0).ok();
    let at = at.and_then(|at| Timestamp::from_millisecond(at).ok());
    at.map(|at| at.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_findings_are_kept_and_all_are_counted() {
        let mut findings = Findings::default();
        for n in 0..30_u64 {
            findings.repaired("rule", 1, format!("rule {n}"), Millis(n * 1000));
        }
        let told = findings.repairs();
        assert_eq!((told.counts["rule"], told.recent.len()), (30, KEPT));
        assert_eq!(told.recent[0].what, "rule 29");
        assert_eq!(told.recent[0].at, "1970-01-01T00:00:29Z");
    }

    #[test]
    fn an_action_is_denied_until_it_is_allowed() {
        let mut findings = Findings::default();
        let call = Call::Show { leftovers: false };
        let failure = |kind| Failure {
            action: call.action(),
            kind,
            message: "no".to_owned(),
        };
        findings.called(&call, Some(&failure(FailureKind::Denied)), Millis(1));
        findings.called(&call, Some(&failure(FailureKind::Throttled)), Millis(2));
        assert_eq!(findings.denied["DescribeNetworkInterfaces"].at, Millis(1));
        findings.called(&call, None, Millis(3));
        assert!(findings.denied.is_empty());
    }

    #[test]
    fn a_checkpoint_that_is_written_again_is_no_trouble() {
        let mut findings = Findings::default();
        findings.not_written("disk full");
        findings.written(Millis(0));
        let told = &findings.checkpoint;
        assert_eq!((told.errors, told.trouble.as_str()), (1, ""));
        assert_eq!(told.written, "1970-01-01T00:00:00Z");
    }
}
