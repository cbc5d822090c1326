//! An interface's life: attached, set up, in service, and out again.
//!
//! ```text
//! Unattached → Attaching → Unplumbed → Plumbing → Grouping → Ready
//!      └────────→ Deleting ← Detached ← Detaching ← Confirming ┘
//! ```
//! Each stage has at most one call in flight; what failed is repeated after a backoff and shown as
//! the interface's trouble.

use std::time::Duration;

use vpc::facts::EniId;

use crate::effect::{Call, Effect, Record};
use crate::eni::Wanted;
use crate::event::{Failure, FailureKind, HandsOff};
use crate::pool::{Eni, Pool, Stage};
use crate::types::{AttachmentId, Millis, Want};
use crate::ways::Road;

pub(crate) fn drive(pool: &mut Pool, now: Millis, effects: &mut Vec<Effect>) {
    let ids: Vec<EniId> = pool.enis.keys().cloned().collect();
    for id in ids {
        settle_groups(pool, &id, now);
        let Some(eni) = pool.enis.get(&id) else {
            continue;
        };
        let next = eni.retry.open(now).then(|| next_call(pool, eni)).flatten();
        if let Some((stage, call)) = next {
            if let Some(eni) = pool.enis.get_mut(&id) {
                eni.enter(stage, now);
            }
            pool.call(call, effects);
        }
        protect(pool, &id, now, effects);
    }
}

/// The call that the stage needs, with the stage that it leads to.
fn next_call(pool: &Pool, eni: &Eni) -> Option<(Stage, Call)> {
    let id = eni.id.clone();
    if !pool.config.provision && eni.stage != Stage::Unplumbed {
        return None;
    }
    match eni.stage {
        Stage::Unattached => {
            let device = free_device(pool)?;
            Some((Stage::Attaching, Call::AttachEni { eni: id, device }))
        }
        Stage::Unplumbed => {
            let device = eni.device?;
            let call = Call::SetUp {
                eni: id,
                mac: eni.mac,
                device,
                primary: eni.primary,
                subnet: eni.subnet.clone(),
            };
            Some((Stage::Plumbing, call))
        }
        // Its addresses turned out to be pods': back in.
        Stage::Detached if eni.has_pods() => {
            let device = free_device(pool)?;
            Some((Stage::Attaching, Call::AttachEni { eni: id, device }))
        }
        Stage::Detached => Some((Stage::Deleting, Call::DeleteEni { eni: id })),
        // These wait for an answer, for EC2 to show something, or for nothing.
        Stage::Attaching
        | Stage::Plumbing
        | Stage::Grouping
        | Stage::Ready
        | Stage::Confirming
        | Stage::Detaching
        | Stage::Deleting => None,
    }
}

/// The lowest device index that no interface has or is getting.
fn free_device(pool: &Pool) -> Option<u32> {
    let taken = |device: u32| {
        let attached = pool.enis.values().any(|eni| eni.device == Some(device));
        let foreign = pool
            .foreign
            .values()
            .any(|other| other.device == device && !matches!(other.why, HandsOff::Card(_)));
        let coming = pool
            .ops
            .values()
            .any(|call| matches!(call, Call::AttachEni { device: d, .. } if *d == device));
        attached || foreign || coming
    };
    (1..100).find(|device| !taken(*device))
}

/// In service only with the primary's groups, as far as they can be had: EC2 has said that it has
/// them (it does when it creates or sets them), and the primary's have been heard since it was
/// created. What EC2 has refused once goes on in the background, pods do not wait for it.
fn settle_groups(pool: &mut Pool, id: &EniId, now: Millis) {
    let sync = pool.syncs_groups();
    let primary = &pool.groups.primary;
    let Some(eni) = pool
        .enis
        .get_mut(id)
        .filter(|eni| eni.stage == Stage::Grouping)
    else {
        return;
    };
    let settled = eni.wanted == Wanted::Heard && eni.groups == *primary;
    if !sync || settled || eni.group_retry.failures > 0 {
        eni.enter(Stage::Ready, now);
        eni.trouble = None;
    }
}

/// An interface of ours must go away with its instance; serves pods meanwhile.
fn protect(pool: &mut Pool, id: &EniId, now: Millis, effects: &mut Vec<Effect>) {
    let Some(eni) = pool.enis.get(id) else { return };
    let due = pool.config.provision
        && eni.ours
        && !eni.protected
        && !eni.is_primary()
        && !eni.stage.is_leaving();
    let Some(attachment) = eni.attachment.clone().filter(|_| due) else {
        return;
    };
    let protecting = |call: &Call| matches!(call, Call::SetDeleteOnTermination { .. });
    if eni.protect_retry.open(now) && !pool.is_busy(id, protecting) {
        pool.call(
            Call::SetDeleteOnTermination {
                eni: id.clone(),
                attachment,
            },
            effects,
        );
    }
}

pub(crate) fn protected(pool: &mut Pool, id: &EniId, result: Result<(), Failure>, now: Millis) {
    let failures = pool
        .enis
        .get(id)
        .map_or(0, |eni| eni.protect_retry.failures);
    let retry = pool.backed_off(
        failures,
        now,
        Duration::from_secs(1),
        Duration::from_secs(60),
    );
    if let Some(eni) = pool.enis.get_mut(id) {
        match result {
            Ok(()) => eni.protected = true,
            Err(_) => eni.protect_retry = retry,
        }
    }
}

pub(crate) fn attached(pool: &mut Pool, id: &EniId, device: u32, by: AttachmentId, now: Millis) {
    if let Some(eni) = pool
        .enis
        .get_mut(id)
        .filter(|eni| eni.stage == Stage::Attaching)
    {
        eni.device = Some(device);
        eni.attachment = Some(by);
        eni.attached_at = now;
        proceed(eni, Stage::Unplumbed, now);
    }
    pool.opened(Road::Create);
}

pub(crate) fn attach_failed(pool: &mut Pool, id: &EniId, failure: Failure, now: Millis) {
    match failure.kind {
        FailureKind::InstanceEniLimit => {
            // Somebody else attached one, or the type's limit is lower than we know: ask, and
            // give this one back.
            let eni = pool.enis.get(id);
            if let Some(subnet) = eni.map(|eni| eni.subnet.clone()) {
                let want = Want::of(pool.unit(), 1);
                pool.refused(Road::Create, want, &subnet, failure.clone(), now);
            }
            pool.wish(now, false);
            back_off(pool, id, Stage::Detached, failure, now);
        }
        // It carries more than this instance may have: somebody else's doing, or an answer of long
        // ago. Without pods it is of no use.
        FailureKind::AddressLimit => back_off(pool, id, Stage::Detached, failure, now),
        FailureKind::NotFound => {
            pool.forget(id);
            pool.wish(now, true);
        }
        // It may be attached by now; EC2 shows it, or it is tried again.
        FailureKind::Unclear | FailureKind::Conflict => {
            pool.wish(now, true);
            back_off(pool, id, Stage::Unattached, failure, now);
        }
        _ => back_off(pool, id, Stage::Unattached, failure, now),
    }
}

pub(crate) fn set_up(pool: &mut Pool, id: &EniId, result: Result<(), Failure>, now: Millis) {
    match result {
        Ok(()) => {
            if let Some(eni) = pool.enis.get_mut(id).filter(|e| e.stage == Stage::Plumbing) {
                proceed(eni, Stage::Grouping, now);
            }
        }
        Err(failure) => {
            if failure.kind == FailureKind::NotFound {
                pool.wish(now, false);
            }
            if pool
                .enis
                .get(id)
                .is_some_and(|eni| eni.stage == Stage::Plumbing)
            {
                back_off(pool, id, Stage::Unplumbed, failure, now);
            }
        }
    }
}

/// EC2, asked after the decision, shows an interface that is to go: it goes only if it is ours,
/// attached to us, and not the primary one.
pub(crate) fn confirm_removal(pool: &mut Pool, id: &EniId, now: Millis, fx: &mut Vec<Effect>) {
    let Some(eni) = pool
        .enis
        .get_mut(id)
        .filter(|e| e.stage == Stage::Confirming)
    else {
        return;
    };
    let removable = eni.ours && !eni.is_primary() && !eni.has_pods();
    match eni.attachment.clone() {
        Some(attachment) if removable => {
            eni.enter(Stage::Detaching, now);
            let addresses = eni.slots.keys().copied().collect();
            fx.push(Effect::Record(Record::Returning { addresses, at: now }));
            pool.call(
                Call::DetachEni {
                    eni: id.clone(),
                    attachment,
                },
                fx,
            );
        }
        _ => eni.enter(Stage::Ready, now),
    }
}

pub(crate) fn detached(pool: &mut Pool, id: &EniId, result: Result<(), Failure>, now: Millis) {
    let Some(eni) = pool
        .enis
        .get_mut(id)
        .filter(|e| e.stage == Stage::Detaching)
    else {
        return;
    };
    match result {
        Ok(()) => {
            eni.attachment = None;
            eni.device = None;
            proceed(eni, Stage::Detached, now);
            // EC2 refuses the delete while the detachment is under way.
            eni.retry.until = now.after(Duration::from_secs(2));
        }
        Err(failure) if failure.kind == FailureKind::NotFound => {
            eni.attachment = None;
            eni.device = None;
            proceed(eni, Stage::Detached, now);
            pool.wish(now, true);
        }
        Err(failure)
            if matches!(failure.kind, FailureKind::Unclear | FailureKind::Conflict)
                || eni.retry.failures > 0 =>
        {
            // It may be detached, or somebody else is at it: out of use, and back to the question what EC2 shows.
            back_off(pool, id, Stage::Confirming, failure, now);
            let until = pool.enis.get(id).map_or(now, |eni| eni.retry.until);
            pool.wish(until, false);
        }
        // Nothing was done: it serves on, and goes when the surplus lasts.
        Err(failure) => {
            eni.enter(Stage::Ready, now);
            eni.trouble = Some(failure);
        }
    }
}

pub(crate) fn deleted(pool: &mut Pool, id: &EniId, result: Result<(), Failure>, now: Millis) {
    match result {
        Ok(()) => {
            pool.forget(id);
        }
        Err(failure) if failure.kind == FailureKind::NotFound => {
            pool.forget(id);
        }
        Err(failure) => back_off(pool, id, Stage::Detached, failure, now),
    }
}

fn proceed(eni: &mut Eni, stage: Stage, now: Millis) {
    eni.enter(stage, now);
    eni.retry = crate::pool::Backoff::default();
    eni.trouble = None;
}

fn back_off(pool: &mut Pool, id: &EniId, stage: Stage, failure: Failure, now: Millis) {
    let failures = pool.enis.get(id).map_or(0, |eni| eni.retry.failures);
    let (first, most) = match failure.kind {
        FailureKind::Denied => (Duration::from_secs(10), Duration::from_secs(120)),
        // Only somebody else's interface makes room, or somebody at AWS.
        FailureKind::InstanceEniLimit | FailureKind::AccountEniLimit => {
            (Duration::from_secs(10), Duration::from_secs(300))
        }
        _ => (Duration::from_millis(500), Duration::from_secs(30)),
    };
    let retry = pool.backed_off(failures, now, first, most);
    if let Some(eni) = pool.enis.get_mut(id) {
        eni.enter(stage, now);
        eni.retry = retry;
        eni.trouble = Some(failure);
    }
}
