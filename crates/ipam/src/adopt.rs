//! What EC2 shows becomes what the pool holds.
//!
//! EC2 is the authority, but its answers are snapshots that may be old: what a call changed after
//! the question was asked is not touched, what is younger than EC2's lag is not taken away, what
//! was just given back is not taken up again. And no answer ever takes an address from a pod: an
//! address that EC2 shows no more stays with its pod, is shown as lost, and goes when the pod goes.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use ipnet::Ipv4Net;
use settings::GroupSync;
use vpc::facts::EniId;

use crate::effect::{Call, Effect, OpId};
use crate::eni::Wanted;
use crate::event::{EniView, Failure, FailureKind, HandsOff, View};
use crate::pool::{Backoff, Eni, Foreign, Pool, Slot, SlotState, Stage};
use crate::types::{Blocks, Millis, addresses_of};
use crate::{groups, lifecycle};

/// Asks EC2 what it shows, when that is due and nothing of the kind is in flight.
pub(crate) fn ask(pool: &mut Pool, now: Millis, effects: &mut Vec<Effect>) {
    if pool.node.is_none() {
        return;
    }
    if pool.is_ready() && pool.show.next_sweep <= now {
        let jitter = Duration::from_secs(pool.random() % 300);
        pool.show.next_sweep = now.after(pool.config.sweep_every).after(jitter);
        pool.wish(now, true);
        pool.subnets.wish = true;
    }
    if pool.show.recheck.is_some_and(|at| at <= now) {
        pool.show.recheck = None;
        pool.wish(now, true);
    }
    let asking = pool
        .ops
        .values()
        .any(|call| matches!(call, Call::Show { .. }));
    let waits = |eni: &Eni| match eni.stage {
        Stage::Confirming => true,
        Stage::Grouping => eni.wanted == Wanted::Doubtful,
        _ => false,
    };
    if pool.show.wish.is_none() && !asking && pool.enis.values().any(waits) {
        pool.wish(now, false);
    }
    let Some((at, leftovers)) = pool.show.wish.filter(|_| !asking) else {
        return;
    };
    if at > now || !pool.show.retry.open(now) {
        return;
    }
    pool.show.wish = None;
    pool.show.asked = now;
    let leftovers = leftovers && pool.config.leaked_eni_cleanup && pool.config.provision;
    pool.call(Call::Show { leftovers }, effects);
}

pub(crate) fn failed(pool: &mut Pool, leftovers: bool, failure: Failure, now: Millis) {
    let (first, most) = match failure.kind {
        FailureKind::Denied => (Duration::from_secs(5), Duration::from_secs(60)),
        _ => (Duration::from_millis(500), Duration::from_secs(15)),
    };
    pool.show.retry = pool.backed_off(pool.show.retry.failures, now, first, most);
    pool.wish(now, leftovers);
    if !pool.show.once {
        pool.not_ready = Some(format!("EC2 has not shown its interfaces yet: {failure}"));
    }
    pool.show.trouble = Some(failure);
    // A new interface does not wait for the newest groups when nobody tells them.
    let doubtful = |eni: &&mut Eni| eni.wanted == Wanted::Doubtful;
    for eni in pool.enis.values_mut().filter(doubtful) {
        eni.wanted = Wanted::Heard;
    }
}

pub(crate) fn shown(pool: &mut Pool, op: OpId, view: View, now: Millis, fx: &mut Vec<Effect>) {
    pool.show.retry = Backoff::default();
    pool.show.trouble = None;
    if !adopt_primary(pool, &view) {
        return;
    }
    let first = !std::mem::replace(&mut pool.show.once, true);
    pool.show.last = op.0;
    let attached = view.enis.iter().filter(|seen| seen.attachment.is_some());
    let attached: BTreeSet<EniId> = attached.map(|seen| seen.id.clone()).collect();
    let (managed, foreign): (Vec<_>, Vec<_>) = view
        .enis
        .into_iter()
        .partition(|seen| is_managed(pool, seen));
    pool.foreign = foreign
        .into_iter()
        .filter_map(|seen| {
            let device = seen.attachment?.device;
            let why = seen.hands_off.unwrap_or(HandsOff::Untagged);
            Some((seen.id, Foreign { device, why }))
        })
        .collect();
    for seen in &managed {
        match pool.enis.get(&seen.id) {
            // Too old to say anything of it. What it was asked for is asked again.
            Some(known) if known.touched > op.0 || is_in_flight(pool, &seen.id) => {
                if pool.groups.unconfirmed.contains(&seen.id) {
                    pool.wish(now.after(Duration::from_secs(2)), false);
                }
            }
            Some(_) => refresh(pool, seen, now, fx),
            None => take_in(pool, seen, now),
        }
    }
    missed(pool, op, &attached, now);
    for eni in pool.enis.values_mut().filter(|eni| eni.born < op.0) {
        eni.wanted = Wanted::Heard;
    }
    pool.returned
        .retain(|_, at| at.after(pool.config.lag) > now);
    pool.resting
        .retain(|_, at| at.after(pool.config.cooldown) > now);
    if first {
        become_ready(pool, now);
    }
}

/// The primary interface's groups are what all others get. Without it the answer is of no use.
fn adopt_primary(pool: &mut Pool, view: &View) -> bool {
    let primary = view
        .enis
        .iter()
        .find(|seen| seen.attachment.as_ref().is_some_and(|a| a.device == 0));
    let Some(primary) = primary else {
        if !pool.show.once {
            pool.not_ready = Some(
                "EC2 shows no interface with device index 0 on this instance: \
                 is AWS_ENDPOINT_URL_EC2 another account's or region's?"
                    .to_owned(),
            );
            pool.wish(pool.clock.after(Duration::from_secs(2)), true);
        }
        return false;
    };
    pool.groups.primary.clone_from(&primary.groups);
    if !pool.show.once {
        pool.groups.at_start.clone_from(&primary.groups);
    }
    true
}

fn become_ready(pool: &mut Pool, now: Millis) {
    pool.not_ready = None;
    pool.show.next_sweep = now.after(pool.config.sweep_every);
    for waiting in &mut pool.waiting {
        waiting.deadline = waiting.since.after(pool.config.patience);
    }
}

fn is_managed(pool: &Pool, seen: &EniView) -> bool {
    let primary = seen.attachment.as_ref().is_some_and(|a| a.device == 0);
    let attached = seen.attachment.is_some();
    let trusted = seen.ours || (attached && pool.config.manage_untagged);
    primary || (trusted && seen.hands_off.is_none())
}

/// A call about this interface, other than its set-up, has no answer yet.
fn is_in_flight(pool: &Pool, id: &EniId) -> bool {
    pool.is_busy(id, |call| !matches!(call, Call::SetUp { .. }))
}

/// An interface that the pool did not know.
fn take_in(pool: &mut Pool, seen: &EniView, now: Millis) {
    let primary = seen.attachment.as_ref().is_some_and(|a| a.device == 0);
    let being_born = seen.attachment.is_none() && !pool.births.is_empty();
    if being_born {
        // Possibly the very one whose create has no answer yet: that answer names it.
        pool.show.recheck = Some(now.after(pool.config.lag));
        return;
    }
    let has_pods = seen
        .addresses()
        .any(|address| pool.by_address.contains_key(&address));
    let stage = match (&seen.attachment, primary) {
        (Some(_), true) => Stage::Ready,
        (Some(_), false) => Stage::Unplumbed,
        (None, _) if pool.show.once && !has_pods && !is_wanted(pool) => Stage::Detached,
        (None, _) => Stage::Unattached,
    };
    let mut eni = new_eni(seen, stage, now);
    eni.wanted = Wanted::Heard;
    eni.synced = (eni.groups == pool.groups.primary).then(|| eni.groups.clone());
    pool.enis.insert(seen.id.clone(), eni);
    add_slots(pool, seen, pool.show.asked, now);
}

/// Whether an interface left over from an earlier start may be attached instead of deleted.
fn is_wanted(pool: &Pool) -> bool {
    let used = crate::pool::len(pool.enis.len() + pool.births.len());
    used < pool.usable_interfaces().0
        && crate::arithmetic::short(pool.targets(), pool.stock(false)) > 0
}

/// The interface that a create answered with.
pub(crate) fn created(pool: &mut Pool, op: OpId, seen: &EniView, now: Millis) {
    let mut eni = new_eni(seen, Stage::Unattached, now);
    eni.synced = (eni.groups == pool.groups.primary).then(|| eni.groups.clone());
    eni.ours = true;
    eni.touched = pool.next_op - 1;
    eni.born = op.0;
    if pool.show.last > op.0 || pool.config.group_sync == GroupSync::AtStart {
        eni.wanted = Wanted::Heard;
    }
    pool.enis.entry(seen.id.clone()).or_insert(eni);
    add_slots(pool, seen, now, now);
}

fn new_eni(seen: &EniView, stage: Stage, now: Millis) -> Eni {
    Eni {
        id: seen.id.clone(),
        mac: seen.mac,
        subnet: seen.subnet.clone(),
        primary: seen.primary,
        device: seen.attachment.as_ref().map(|a| a.device),
        attachment: seen.attachment.as_ref().map(|a| a.id.clone()),
        groups: seen.groups.clone(),
        ours: seen.ours,
        stage,
        stage_since: now,
        slots: std::collections::BTreeMap::new(),
        trouble: None,
        retry: Backoff::default(),
        protected: seen
            .attachment
            .as_ref()
            .is_some_and(|a| a.delete_on_termination),
        protect_retry: Backoff::default(),
        group_retry: Backoff::default(),
        wanted: Wanted::Unheard,
        synced: None,
        touched: 0,
        attached_at: now,
        born: 0,
        missing_since: None,
        doubt: None,
    }
}

/// An interface that the pool knows, as EC2 shows it now.
fn refresh(pool: &mut Pool, seen: &EniView, now: Millis, fx: &mut Vec<Effect>) {
    let cordoned = pool.cordoned;
    let Some(eni) = pool.enis.get_mut(&seen.id) else {
        return;
    };
    if seen.attachment.is_some() {
        eni.missing_since = None;
    }
    match (&seen.attachment, eni.stage) {
        (Some(attached), Stage::Unattached | Stage::Attaching) => {
            // Its attach had an unclear answer.
            eni.device = Some(attached.device);
            eni.attachment = Some(attached.id.clone());
            eni.retry = Backoff::default();
            eni.trouble = None;
            eni.attached_at = now;
            eni.enter(Stage::Unplumbed, now);
        }
        (Some(attached), Stage::Detached) if eni.retry.failures > 2 => {
            // The delete is refused since it is still, or again, attached.
            eni.device = Some(attached.device);
            eni.attachment = Some(attached.id.clone());
            // A cordoned node keeps what is attached.
            let next = match cordoned {
                true => Stage::Unplumbed,
                false => Stage::Confirming,
            };
            eni.enter(next, now);
        }
        (Some(attached), Stage::Confirming) => {
            eni.attachment = Some(attached.id.clone());
            // What was decided on may have been older than this: it may hold pods after all.
            add_slots(pool, seen, pool.show.asked, now);
            lifecycle::confirm_removal(pool, &seen.id, now, fx);
            return;
        }
        (Some(attached), _) => {
            eni.protected |= attached.delete_on_termination;
            if eni.attachment.is_some() {
                eni.attachment = Some(attached.id.clone());
            }
        }
        (None, Stage::Confirming) => {
            eni.device = None;
            eni.attachment = None;
            eni.enter(Stage::Detached, now);
        }
        (None, _) => {}
    }
    if pool.enis.get(&seen.id).is_some_and(|eni| eni.is_primary()) {
        if let Some(eni) = pool.enis.get_mut(&seen.id) {
            eni.groups.clone_from(&seen.groups);
        }
    } else {
        groups::shown(pool, &seen.id, &seen.groups, now);
    }
    let leaving = pool
        .enis
        .get(&seen.id)
        .is_some_and(|eni| eni.stage.is_leaving());
    if !leaving {
        drop_slots(pool, seen);
        add_slots(pool, seen, pool.show.asked, now);
    }
}

/// Addresses and prefixes that EC2 shows and the pool does not have.
pub(crate) fn add_slots(pool: &mut Pool, seen: &EniView, asked: Millis, now: Millis) {
    for address in &seen.secondary {
        if !is_old_news(pool, &[*address], asked, now) {
            insert_slot(pool, &seen.id, *address, None, now);
        }
    }
    for prefix in &seen.prefixes {
        let all: Vec<Ipv4Addr> = addresses_of(*prefix).collect();
        if !is_old_news(pool, &all, asked, now) {
            for address in all {
                insert_slot(pool, &seen.id, address, Some(*prefix), now);
            }
        }
    }
}

/// What was given back a moment ago and is nobody's: EC2's answer is older than that.
fn is_old_news(pool: &mut Pool, addresses: &[Ipv4Addr], asked: Millis, now: Millis) -> bool {
    let lag = pool.config.lag;
    let young = |address: &Ipv4Addr| {
        let given = pool.returned.get(address);
        given.is_some_and(|at| at.after(lag) > asked)
    };
    let used = |address: &Ipv4Addr| pool.by_address.contains_key(address);
    let old = addresses.iter().any(young) && !addresses.iter().any(used);
    if old {
        pool.show.recheck = Some(now.after(lag));
    }
    old
}

/// What EC2 just assigned: true whatever was given back before.
pub(crate) fn assigned(pool: &mut Pool, id: &EniId, blocks: &Blocks, now: Millis) {
    for address in blocks.addresses() {
        pool.returned.remove(&address);
    }
    match blocks {
        Blocks::Addresses(all) => {
            for address in all {
                insert_slot(pool, id, *address, None, now);
            }
        }
        Blocks::Prefixes(all) => {
            for prefix in all {
                for address in addresses_of(*prefix) {
                    insert_slot(pool, id, address, Some(*prefix), now);
                }
            }
        }
    }
}

fn insert_slot(
    pool: &mut Pool,
    id: &EniId,
    address: Ipv4Addr,
    prefix: Option<Ipv4Net>,
    now: Millis,
) {
    if !pool.enis.contains_key(id) {
        return;
    }
    let elsewhere = pool
        .enis
        .values()
        .find(|eni| eni.id != *id && eni.slots.contains_key(&address));
    if let Some(other) = elsewhere.map(|eni| eni.id.clone()) {
        // It moved, or EC2's answer is older than the move. A pod keeps it where it was unless
        // EC2 no longer shows it there; its rest goes with it.
        let Some(other) = pool.enis.get_mut(&other) else {
            return;
        };
        match other
            .slots
            .get(&address)
            .map(|slot| (slot.state.clone(), slot.lost))
        {
            Some((SlotState::Free(released), _)) => {
                pool.resting.extend(released.map(|at| (address, at)));
            }
            Some((SlotState::Assigned(_), true)) => {}
            _ => return,
        }
        other.slots.remove(&address);
    }
    // What another agent released last nobody has written down: it may be this one.
    let cooldown = pool.config.cooldown;
    let unwatched = pool.config.unwatched_until;
    let unwatched = unwatched.filter(|at| at.after(cooldown) > now);
    let state = match (pool.by_address.get(&address), pool.resting.remove(&address)) {
        (Some(key), _) => SlotState::Assigned(key.clone()),
        (None, released) => SlotState::Free(released.max(unwatched)),
    };
    let assigned_at = match &state {
        SlotState::Assigned(key) => pool.allocations.get(key).map(|a| a.since),
        _ => None,
    };
    let Some(eni) = pool.enis.get_mut(id) else {
        return;
    };
    let fresh = Slot {
        state,
        known: now,
        assigned_at,
        lost: false,
        prefix,
    };
    let slot = eni.slots.entry(address).or_insert(fresh);
    slot.lost = false;
    slot.prefix = prefix;
}

/// Addresses that the pool has and EC2 shows no more.
fn drop_slots(pool: &mut Pool, seen: &EniView) {
    let asked = pool.show.asked;
    let lag = pool.config.lag;
    let mut rest = Vec::new();
    let Some(eni) = pool.enis.get_mut(&seen.id) else {
        return;
    };
    let shown: BTreeSet<Ipv4Addr> = seen.addresses().collect();
    eni.slots.retain(|address, slot| {
        let young = slot.known.after(lag) > asked;
        if shown.contains(address) || young {
            return true;
        }
        match slot.state {
            SlotState::Assigned(_) => {
                slot.lost = true;
                true
            }
            SlotState::Free(released) => {
                rest.extend(released.map(|at| (*address, at)));
                false
            }
            SlotState::Leaving => true,
        }
    });
    pool.resting.extend(rest);
}

/// Interfaces that the pool has attached and EC2 does not: out of service at once, forgotten when EC2
/// shows them no more for longer than it may lag. Their pods keep their addresses.
fn missed(pool: &mut Pool, op: OpId, attached: &BTreeSet<EniId>, now: Millis) {
    let lag = pool.config.lag;
    let mut gone = Vec::new();
    let mut again = false;
    let mut births = false;
    for eni in pool.enis.values_mut() {
        let judged = eni.touched < op.0 && eni.attached_at.after(lag) <= now;
        let expected = eni.attachment.is_some() && !matches!(eni.stage, Stage::Detaching);
        if attached.contains(&eni.id) || !expected || !judged {
            continue;
        }
        let since = *eni.missing_since.get_or_insert(now);
        again = true;
        if since.after(lag) <= now {
            gone.push(eni.id.clone());
        }
        births |= eni.ours;
    }
    if again {
        pool.wish(now.after(Duration::from_secs(10)), births);
    }
    for id in gone {
        pool.forget(&id);
    }
}
