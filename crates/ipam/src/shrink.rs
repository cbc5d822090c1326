//! Fewer addresses: what was too much for a while goes back, from the top down.
//!
//! Nothing goes back while a pod waits or anything is being added, nothing that has not rested,
//! and nothing before the surplus has lasted: a pool that breathes with its pods would pay for it
//! with EC2 calls. For the same reason only that goes which was too much all the while. A whole
//! interface goes only if we created it, and EC2 is asked first; a prefix goes whole.

use vpc::facts::EniId;

use crate::arithmetic::{self, Idle, Stock, Targets};
use crate::effect::{Call, Effect, Record};
use crate::pool::{Eni, Pool, Slot, SlotState, Stage, Surplus, len};
use crate::types::{Blocks, Millis, Unit, Want};

pub(crate) fn plan(pool: &mut Pool, now: Millis, effects: &mut Vec<Effect>) {
    if !pool.config.provision {
        return;
    }
    repeat_unclear(pool, now, effects);
    if is_moving(pool) {
        pool.surplus = None;
        return;
    }
    let (targets, stock) = pool.surplus_targets();
    let over = over(pool, targets, stock);
    let spare = match pool.cordoned {
        true => None,
        false => spare_interface(pool, targets, stock),
    };
    let unwanted = unwanted(pool, stock);
    if over.slots() == 0 && spare.is_none() && unwanted.is_empty() {
        pool.surplus = None;
        return;
    }
    let mut surplus = pool.surplus.unwrap_or(Surplus {
        since: now,
        least: over.slots(),
        spare: spare.is_some(),
    });
    surplus.least = surplus.least.min(over.slots());
    surplus.spare &= spare.is_some();
    pool.surplus = Some(surplus);
    if surplus.since.after(pool.config.shrink_after) > now {
        return;
    }
    pool.surplus = None;
    let least = Want::of(over.unit(), surplus.least);
    match spare.clone().filter(|_| surplus.spare) {
        Some(eni) => {
            let next = pool.next_op;
            if let Some(eni) = pool.enis.get_mut(&eni) {
                eni.enter(Stage::Confirming, now);
                // What was asked before this decision does not confirm it.
                eni.touched = next;
            }
            pool.wish(now, false);
        }
        None if !unwanted.is_empty() => give_back(pool, unwanted, now, effects),
        None if least.slots() > 0 => {
            let chosen = choose(pool, least);
            give_back(pool, chosen, now, effects);
        }
        // What is too much came a moment ago: it is watched from now on.
        None => {
            pool.surplus = Some(Surplus {
                since: now,
                least: over.slots(),
                spare: spare.is_some(),
            });
        }
    }
}

impl Pool {
    /// What the surplus is judged by: the targets, or what single addresses can do for them while a
    /// subnet has no prefix to give.
    pub(crate) fn surplus_targets(&self) -> (Targets, Stock) {
        let (targets, stock) = (self.targets(), self.stock(false));
        let scarce = self.unit() == Unit::Prefix && self.ways.no_prefix_trouble().is_some();
        if scarce && arithmetic::short(targets, stock) > 0 {
            (targets.without_prefixes(), self.stock(true))
        } else {
            (targets, stock)
        }
    }
}

/// What is too much and can be given back bit by bit.
pub(crate) fn over(pool: &Pool, targets: Targets, stock: Stock) -> Want {
    match arithmetic::over(targets, stock) {
        Want::Addresses(n) if n > 0 => {
            let serving = pool.enis.values().filter(|eni| pool.serves(eni));
            let single = |slot: &&Slot| slot.prefix.is_none() && is_free(pool, slot);
            let singles = serving.flat_map(|eni| eni.slots.values()).filter(single);
            // Addresses of a prefix that others have pods on go with it or not at all.
            Want::Addresses(n.min(len(singles.count())))
        }
        over => over,
    }
}

/// Free addresses that no new pod should get: those of excluded subnets, and those of the other
/// kind once what the pool takes now is enough.
fn unwanted(pool: &Pool, stock: Stock) -> Vec<(EniId, Blocks)> {
    let enough = arithmetic::short(pool.targets(), pool.stock(false)) == 0 && stock.waiting == 0;
    let unwanted =
        |eni: &Eni, slot: &Slot| pool.is_excluded(eni) || (enough && !pool.is_current(slot));
    let mut found = Vec::new();
    for eni in pool.enis.values().filter(|eni| eni.missing_since.is_none()) {
        let free = |slot: &Slot| is_free(pool, slot) && unwanted(eni, slot);
        let prefixes = eni.prefixes(free);
        let singles = eni.slots.iter();
        let singles = singles.filter(|(_, slot)| slot.prefix.is_none() && free(slot));
        let singles: Vec<_> = singles.map(|(address, _)| *address).collect();
        // One call at a time per interface.
        if !prefixes.is_empty() {
            found.push((eni.id.clone(), Blocks::Prefixes(prefixes)));
        } else if !singles.is_empty() {
            found.push((eni.id.clone(), Blocks::Addresses(singles)));
        }
    }
    found
}

/// Slots for prefixes, where single addresses that nobody uses take them.
pub(crate) fn make_room(pool: &mut Pool, wanted: u32, now: Millis, effects: &mut Vec<Effect>) {
    if pool.ways.no_prefix_trouble().is_some() || is_moving(pool) {
        return;
    }
    let chosen = choose(pool, Want::Addresses(wanted));
    give_back(pool, chosen, now, effects);
}

fn is_free(pool: &Pool, slot: &Slot) -> bool {
    pool.is_rested(slot) && !slot.lost
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
    // One that EC2 refuses to attach again, others having taken its place, may wait for ever.
    let homeless = |eni: &Eni| {
        matches!(eni.stage, Stage::Unattached | Stage::Detached) && eni.retry.failures > 2
    };
    let moving = |eni: &Eni| eni.stage != Stage::Ready && !homeless(eni);
    let calls = pool
        .ops
        .values()
        .any(|call| matches!(call, Call::Assign { .. } | Call::Unassign { .. }));
    calls || !pool.births.is_empty() || pool.enis.values().any(moving)
}

/// The interface with the highest index that the targets can do without.
fn spare_interface(pool: &Pool, targets: Targets, stock: Stock) -> Option<EniId> {
    let may_go = |eni: &&Eni| {
        eni.ours
            && eni.stage == Stage::Ready
            && !eni.is_primary()
            && eni.attachment.is_some()
            && eni.missing_since.is_none()
            && eni.is_idle(|slot| is_free(pool, slot))
            && arithmetic::spare(targets, stock, idle(pool, targets, eni))
    };
    let spare = pool
        .enis
        .values()
        .filter(may_go)
        .max_by_key(|eni| eni.device)?;
    Some(spare.id.clone())
}

/// What an interface without pods has that counts in the stock.
fn idle(pool: &Pool, targets: Targets, eni: &Eni) -> Idle {
    if pool.is_excluded(eni) {
        return Idle::default();
    }
    let all = targets.unit != pool.unit();
    let counted = eni
        .slots
        .values()
        .filter(|slot| all || pool.is_current(slot));
    Idle {
        addresses: len(counted.count()),
        prefixes: pool.free_prefixes(eni),
    }
}

/// What goes of the current surplus: from the highest index down.
fn choose(pool: &Pool, over: Want) -> Vec<(EniId, Blocks)> {
    let mut left = over.slots() as usize;
    let mut by_device: Vec<&Eni> = pool.enis.values().filter(|eni| pool.serves(eni)).collect();
    by_device.sort_by_key(|eni| std::cmp::Reverse(eni.device));
    let mut chosen = Vec::new();
    for eni in by_device {
        let blocks = match over.unit() {
            Unit::Prefix => {
                let free = eni.prefixes(|slot| is_free(pool, slot));
                Blocks::Prefixes(free.into_iter().rev().take(left).collect())
            }
            Unit::Address => {
                let free = eni.slots.iter().rev();
                let free = free.filter(|(_, slot)| slot.prefix.is_none() && is_free(pool, slot));
                Blocks::Addresses(free.map(|(address, _)| *address).take(left).collect())
            }
        };
        let n = blocks.len();
        left -= n;
        if n > 0 {
            chosen.push((eni.id.clone(), blocks));
        }
    }
    chosen
}

fn give_back(
    pool: &mut Pool,
    chosen: Vec<(EniId, Blocks)>,
    now: Millis,
    effects: &mut Vec<Effect>,
) {
    for (eni, blocks) in chosen {
        // One return at a time: what became of an earlier one is not known yet.
        let returning = pool.is_busy(&eni, |call| matches!(call, Call::Unassign { .. }));
        let doubted = pool.enis.get(&eni).is_some_and(|eni| eni.doubt.is_some());
        if returning || doubted {
            continue;
        }
        let addresses = blocks.addresses();
        if let Some(eni) = pool.enis.get_mut(&eni) {
            for address in &addresses {
                if let Some(slot) = eni.slots.get_mut(address) {
                    slot.state = SlotState::Leaving;
                }
            }
        }
        effects.push(Effect::Record(Record::Returning { addresses, at: now }));
        pool.call(Call::Unassign { eni, blocks }, effects);
    }
}
