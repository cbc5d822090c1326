//! Fewer addresses: what was too much for a while goes back, from the top down.
//!
//! Nothing goes back while a pod waits or anything is being added, nothing that has not rested,
//! and nothing before the surplus has lasted: a pool that breathes with its pods would pay for it
//! with EC2 calls. A whole interface goes only if we created it, and EC2 is asked first.

use std::net::Ipv4Addr;

use vpc::facts::EniId;

use crate::arithmetic;
use crate::effect::{Call, Effect, Record};
use crate::pool::{Eni, Pool, SlotState, Stage};
use crate::types::{Blocks, Millis};

pub(crate) fn plan(pool: &mut Pool, now: Millis, effects: &mut Vec<Effect>) {
    repeat_unclear(pool, now, effects);
    let over = arithmetic::over(pool.config.warm, pool.stock());
    let spare = match pool.cordoned {
        true => None,
        false => spare_interface(pool, now),
    };
    if is_moving(pool) || (over == 0 && spare.is_none()) {
        pool.surplus_since = None;
        return;
    }
    let since = *pool.surplus_since.get_or_insert(now);
    if since.after(pool.config.shrink_after) > now {
        return;
    }
    pool.surplus_since = None;
    match spare {
        Some(eni) => {
            if let Some(eni) = pool.enis.get_mut(&eni) {
                eni.enter(Stage::Confirming, now);
            }
            pool.wish(now, false);
        }
        None => give_back(pool, over, now, effects),
    }
}

fn repeat_unclear(pool: &mut Pool, now: Millis, effects: &mut Vec<Effect>) {
    let returning = |eni: &Eni| pool.is_busy(&eni.id, |call| matches!(call, Call::Unassign { .. }));
    let due = |eni: &Eni| {
        let (blocks, retry) = eni.doubt.as_ref()?;
        (retry.open(now) && !returning(eni)).then(|| (eni.id.clone(), blocks.clone()))
    };
    let calls: Vec<(EniId, Blocks)> = pool.enis.values().filter_map(due).collect();
    for (eni, blocks) in calls {
        pool.call(Call::Unassign { eni, blocks }, effects);
    }
}

/// Something is being added or removed: the numbers are about to change.
fn is_moving(pool: &Pool) -> bool {
    let moving = |eni: &Eni| eni.stage != Stage::Ready;
    let calls = pool
        .ops
        .values()
        .any(|call| matches!(call, Call::Assign { .. } | Call::Unassign { .. }));
    calls || !pool.births.is_empty() || pool.enis.values().any(moving)
}

/// The interface with the highest index that the targets can do without.
fn spare_interface(pool: &Pool, now: Millis) -> Option<EniId> {
    let stock = pool.stock();
    let slots = pool.slots_per_eni();
    let may_go = |eni: &&Eni| {
        let young = eni.stage_since.after(pool.config.shrink_after) > now;
        eni.ours
            && eni.stage == Stage::Ready
            && !eni.is_primary()
            && eni.attachment.is_some()
            && eni.missing_since.is_none()
            && !young
            && eni.is_idle(|slot| pool.is_rested(slot) && !slot.lost)
            && arithmetic::spare(
                pool.config.warm,
                slots,
                stock,
                crate::pool::len(eni.slots.len()),
            )
    };
    let spare = pool
        .enis
        .values()
        .filter(may_go)
        .max_by_key(|eni| eni.device)?;
    Some(spare.id.clone())
}

fn give_back(pool: &mut Pool, over: u32, now: Millis, effects: &mut Vec<Effect>) {
    let mut left = over as usize;
    let mut by_device: Vec<&Eni> = pool
        .enis
        .values()
        .filter(|eni| eni.missing_since.is_none())
        .collect();
    by_device.sort_by_key(|eni| std::cmp::Reverse(eni.device));
    let mut calls: Vec<(EniId, Vec<Ipv4Addr>)> = Vec::new();
    for eni in by_device {
        let rested = eni
            .slots
            .iter()
            .rev()
            .filter(|(_, slot)| pool.is_rested(slot) && !slot.lost);
        let addresses: Vec<Ipv4Addr> = rested.map(|(address, _)| *address).take(left).collect();
        left -= addresses.len();
        if !addresses.is_empty() {
            calls.push((eni.id.clone(), addresses));
        }
    }
    for (eni, addresses) in calls {
        if let Some(eni) = pool.enis.get_mut(&eni) {
            for address in &addresses {
                if let Some(slot) = eni.slots.get_mut(address) {
                    slot.state = SlotState::Leaving;
                }
            }
        }
        let record = Record::Returning {
            addresses: addresses.clone(),
            at: now,
        };
        effects.push(Effect::Record(record));
        let blocks = Blocks::Addresses(addresses);
        pool.call(Call::Unassign { eni, blocks }, effects);
    }
}
