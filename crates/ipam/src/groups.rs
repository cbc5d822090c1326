//! Security groups: every interface carries the primary's, until EC2 itself shows it.
//!
//! Pods get the groups of the interface that holds their address, so a group attached to the
//! primary interface alone reaches only some of them. Upstream applies a change once and forgets;
//! here a difference is applied until EC2 shows none. Groups that somebody sets on another interface
//! by hand are set back, or reported only (`BRANCHLINE_GROUP_DRIFT`); a change of the primary's goes
//! to all interfaces either way, as does what differs when the agent starts: nobody knows then whose
//! doing that is. Instance metadata, which costs no EC2 call,
//! is only the bell: it makes the pool ask EC2, it never decides.
//!
//! A new interface is created with the groups that the pool knows as the primary's, and EC2's answer
//! says which it has. What it cannot say is whether the primary still has them: before pods get the
//! interface, metadata is read, and EC2 asked when metadata shows others or cannot be read.

use std::collections::BTreeMap;
use std::time::Duration;

use settings::{GroupDrift, GroupSync};
use vpc::facts::{EniId, SgId};

use crate::effect::{Call, Effect, OpId};
use crate::eni::Wanted;
use crate::event::{Failure, FailureKind, ImdsEni};
use crate::pool::{Backoff, Eni, Pool, Stage};
use crate::types::Millis;

pub(crate) fn imds(pool: &mut Pool, seen: BTreeMap<EniId, ImdsEni>) {
    if pool.groups.imds != seen {
        pool.groups.imds = seen;
        pool.groups.disagreement = Backoff::default();
    }
    pool.groups.imds_is_news = true;
}

pub(crate) fn drive(pool: &mut Pool, now: Millis, effects: &mut Vec<Effect>) {
    ask_when_metadata_disagrees(pool, now);
    if !pool.syncs_groups() {
        return;
    }
    read_for_new_ones(pool, effects);
    let report_only = pool.config.group_drift == GroupDrift::Report;
    let wrong = |eni: &&Eni| {
        pool.is_synced_kind(eni)
            && eni.groups != pool.groups.primary
            && !(report_only && pool.is_set_by_hand(eni))
            && eni.group_retry.open(now)
            && !pool.is_busy(&eni.id, |call| matches!(call, Call::SetGroups { .. }))
    };
    let wrong: Vec<EniId> = pool
        .enis
        .values()
        .filter(wrong)
        .map(|eni| eni.id.clone())
        .collect();
    for eni in wrong {
        let groups = pool.groups.primary.clone();
        pool.call(Call::SetGroups { eni, groups }, effects);
    }
}

/// A new interface is about to serve: are the groups that it has still the primary's?
fn read_for_new_ones(pool: &mut Pool, effects: &mut Vec<Effect>) {
    let about = |eni: &Eni| {
        matches!(eni.stage, Stage::Plumbing | Stage::Grouping) && eni.wanted == Wanted::Unheard
    };
    let reading = |call: &Call| matches!(call, Call::PrimaryGroups);
    if pool.enis.values().any(about) && !pool.ops.values().any(reading) {
        pool.call(Call::PrimaryGroups, effects);
    }
}

/// Metadata showed the primary's groups, or could not be read: then EC2 must be asked.
pub(crate) fn primary_read(pool: &mut Pool, op: OpId, seen: Option<&[SgId]>, now: Millis) {
    let wanted = match seen {
        Some(groups) if *groups == *pool.groups.primary => Wanted::Heard,
        _ => Wanted::Doubtful,
    };
    let waits = |eni: &&mut Eni| eni.wanted == Wanted::Unheard && eni.born < op.0;
    let mut waiting = pool.enis.values_mut().filter(waits).peekable();
    let somebody = waiting.peek().is_some();
    waiting.for_each(|eni| eni.wanted = wanted);
    if somebody && wanted == Wanted::Doubtful {
        pool.wish(now, false);
    }
}

/// Metadata, just read, shows other groups or other interfaces than we believe: EC2 is asked,
/// again and again with growing pauses as long as that lasts, since either side may lag.
fn ask_when_metadata_disagrees(pool: &mut Pool, now: Millis) {
    if !std::mem::take(&mut pool.groups.imds_is_news) {
        return;
    }
    let attached = |eni: &&Eni| eni.device.is_some() && !eni.stage.is_leaving();
    let seen = &pool.groups.imds;
    let other_groups = pool.enis.values().filter(attached).any(|eni| {
        seen.get(&eni.id)
            .is_some_and(|imds| imds.groups != eni.groups && pool.syncs_groups())
    });
    let gone = pool
        .enis
        .values()
        .filter(attached)
        .any(|eni| !seen.contains_key(&eni.id));
    let known = |id: &EniId| pool.enis.contains_key(id) || pool.foreign.contains_key(id);
    let new = seen.keys().any(|id| !known(id));
    if seen.is_empty() || !(other_groups || gone || new) {
        pool.groups.disagreement = Backoff::default();
        return;
    }
    if pool.groups.disagreement.open(now) {
        let failures = pool.groups.disagreement.failures;
        let (first, most) = (Duration::from_secs(2), Duration::from_secs(300));
        pool.groups.disagreement = pool.backed_off(failures, now, first, most);
        pool.wish(now, false);
    }
}

/// EC2 took the groups, or refused them.
pub(crate) fn set(
    pool: &mut Pool,
    id: &EniId,
    groups: Vec<SgId>,
    result: Result<(), Failure>,
    now: Millis,
) {
    let failures = pool.enis.get(id).map_or(0, |eni| eni.group_retry.failures);
    let (first, most) = (Duration::from_secs(1), Duration::from_secs(30));
    let retry = pool.backed_off(failures, now, first, most);
    let Some(eni) = pool.enis.get_mut(id) else {
        return;
    };
    match result {
        Ok(()) => {
            eni.groups = groups;
            // Until EC2 shows them they are repeated, but not at once: it may lag.
            eni.group_retry.until = retry.until;
            pool.groups.unconfirmed.insert(id.clone());
            pool.wish(now.after(Duration::from_secs(1)), false);
        }
        Err(failure) => {
            eni.group_retry = retry;
            if matches!(failure.kind, FailureKind::NotFound | FailureKind::Unclear) {
                pool.wish(now, false);
            }
            pool.groups.trouble = Some(failure);
        }
    }
}

/// EC2 shows an interface's groups.
pub(crate) fn shown(pool: &mut Pool, id: &EniId, groups: &[SgId], now: Millis) {
    let equal = *groups == *pool.groups.primary;
    let failures = pool.enis.get(id).map_or(0, |eni| eni.group_retry.failures);
    let (first, most) = (Duration::from_secs(1), Duration::from_secs(30));
    let again = pool.backed_off(failures, now, first, most);
    let was_set = pool.groups.unconfirmed.contains(id);
    let lag = pool.config.lag;
    let news = pool.enis.get(id).is_some_and(|eni| eni.groups != groups);
    let Some(eni) = pool.enis.get_mut(id) else {
        return;
    };
    eni.groups = groups.to_vec();
    if equal {
        eni.group_retry = Backoff::default();
        eni.synced = Some(groups.to_vec());
        pool.groups.unconfirmed.remove(id);
        if pool.groups.unconfirmed.is_empty() {
            pool.groups.trouble = None;
        }
    } else if was_set {
        // It was set, and EC2 does not show it: old news, or somebody else sets them too. Set again,
        // and then asked again.
        eni.group_retry = again;
    } else if news {
        // Set by hand, or EC2's answer is old: once more when it cannot be any longer.
        pool.wish(now.after(lag), false);
    }
}

impl Pool {
    /// Whether a change of the primary's groups goes to the others.
    pub(crate) fn syncs_groups(&self) -> bool {
        self.config.provision && self.config.group_sync != GroupSync::AtStart
    }

    /// Whether EC2 shows other groups on an interface although it had the primary's, and the primary
    /// still has the same.
    pub(crate) fn is_set_by_hand(&self, eni: &Eni) -> bool {
        eni.groups != self.groups.primary
            && eni.synced.as_ref() == Some(&self.groups.primary)
            && !self.groups.unconfirmed.contains(&eni.id)
    }
}
