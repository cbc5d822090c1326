//! Pods: who gets which address, who waits, who is refused and why.
//!
//! Packing: the interface with the lowest device index is filled first, so that interfaces empty
//! from the top and can be given back, and so that a node's first pods share its primary
//! interface; within an interface the fullest prefix, so that prefixes empty and can be given back.
//! Within that a never used address comes first, then the one that has rested longest. What is not
//! of the kind that the pool takes now comes last, so that it empties.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::effect::{Effect, Record, Refusal, Reply};
use crate::grow::{self, Outlook};
use crate::pool::{Eni, Pool, Slot, SlotState, Waiting};
use crate::types::{Allocation, Key, Lease, Millis, Pod, Ticket};

pub(crate) fn add(
    pool: &mut Pool,
    ticket: Ticket,
    key: Key,
    pod: Pod,
    now: Millis,
    effects: &mut Vec<Effect>,
) {
    if let Some(known) = pool.allocations.get_mut(&key) {
        // Its plugin is at work (again): what was said of the attachment before is over.
        known.since = now;
        let known = known.clone();
        let lease = lease(pool, known.address);
        effects.push(Effect::Record(Record::Leased(known)));
        effects.push(Effect::Reply(ticket, Reply::Leased(lease)));
        return;
    }
    if pool.draining {
        effects.push(Effect::Reply(ticket, Reply::Refused(Refusal::Draining)));
        return;
    }
    if let Some(waiting) = pool.waiting.iter_mut().find(|waiting| waiting.key == key) {
        waiting.tickets.push(ticket);
        return;
    }
    let patience = if pool.is_ready() {
        pool.config.patience
    } else {
        pool.config.boot_patience
    };
    let deadline = now.after(patience);
    pool.waiting.push_back(Waiting {
        tickets: vec![ticket],
        key,
        pod,
        since: now,
        deadline,
    });
}

pub(crate) fn delete(
    pool: &mut Pool,
    ticket: Ticket,
    key: Key,
    now: Millis,
    effects: &mut Vec<Effect>,
) {
    if let Some(at) = pool.waiting.iter().position(|waiting| waiting.key == key) {
        let gone = pool
            .waiting
            .remove(at)
            .expect("the position was just found");
        refuse_one(gone, &Refusal::Deleted { key: key.clone() }, effects);
    }
    let Some(gone) = pool.allocations.remove(&key) else {
        effects.push(Effect::Reply(
            ticket,
            Reply::Refused(Refusal::UnknownPod { key }),
        ));
        return;
    };
    let lease = lease(pool, gone.address);
    pool.by_address.remove(&gone.address);
    release(pool, gone.address, now);
    effects.push(Effect::Record(Record::Released {
        key,
        address: gone.address,
        at: now,
    }));
    effects.push(Effect::Reply(ticket, Reply::Released(lease)));
}

/// Every waiting pod for which an address is there gets it, in order of arrival.
pub(crate) fn serve(pool: &mut Pool, now: Millis, effects: &mut Vec<Effect>) {
    if !pool.is_working() {
        return;
    }
    while !pool.waiting.is_empty() {
        let Some(address) = pick(pool) else { return };
        let Some(next) = pool.waiting.pop_front() else {
            return;
        };
        let Waiting {
            tickets, key, pod, ..
        } = next;
        if let Some(slot) = slot_mut(pool, address) {
            slot.state = SlotState::Assigned(key.clone());
            slot.assigned_at = Some(now);
        }
        let allocation = Allocation {
            key: key.clone(),
            pod,
            address,
            since: now,
        };
        pool.by_address.insert(address, key.clone());
        pool.allocations.insert(key, allocation.clone());
        effects.push(Effect::Record(Record::Leased(allocation)));
        for ticket in tickets {
            effects.push(Effect::Reply(ticket, Reply::Leased(lease(pool, address))));
        }
    }
}

/// Every waiting pod for which no address can come in time is told why.
pub(crate) fn refuse(pool: &mut Pool, now: Millis, effects: &mut Vec<Effect>) {
    if pool.waiting.is_empty() {
        return;
    }
    if pool.draining {
        for waiting in std::mem::take(&mut pool.waiting) {
            refuse_one(waiting, &Refusal::Draining, effects);
        }
        return;
    }
    if let Some(reason) = pool.not_ready.clone() {
        let refusal = Refusal::NotReady { reason };
        refuse_where(pool, effects, |_, waiting| {
            (waiting.deadline <= now).then(|| refusal.clone())
        });
        return;
    }
    let outlook = grow::outlook(pool, now);
    let coming = pool.coming().addresses() as usize;
    let mut rests: Vec<Millis> = resting(pool).collect();
    rests.sort_unstable();
    let late = grow::standing_in_the_way(pool, now);
    refuse_where(pool, effects, |place, waiting| {
        if waiting.deadline <= now {
            let waited = waiting.deadline.since(waiting.since);
            return Some(late.clone().unwrap_or_else(|| outlook.reason(waited)));
        }
        let behind = place.checked_sub(coming)?;
        let rested_in_time = rests.get(behind).is_some_and(|at| *at < waiting.deadline);
        match &outlook {
            _ if rested_in_time => None,
            Outlook::Soon { .. } => None,
            Outlook::At(at, _) if *at < waiting.deadline => None,
            Outlook::At(_, refusal) | Outlook::Never(refusal) => Some(refusal.clone()),
        }
    });
}

/// Takes out the waiting pods for which `judge` (by place in the queue) has a refusal.
fn refuse_where(
    pool: &mut Pool,
    effects: &mut Vec<Effect>,
    judge: impl Fn(usize, &Waiting) -> Option<Refusal>,
) {
    let mut kept = 0;
    for waiting in std::mem::take(&mut pool.waiting) {
        match judge(kept, &waiting) {
            Some(refusal) => refuse_one(waiting, &refusal, effects),
            None => {
                kept += 1;
                pool.waiting.push_back(waiting);
            }
        }
    }
}

fn refuse_one(waiting: Waiting, refusal: &Refusal, effects: &mut Vec<Effect>) {
    for ticket in waiting.tickets {
        effects.push(Effect::Reply(ticket, Reply::Refused(refusal.clone())));
    }
}

/// The times at which resting addresses of interfaces in service have rested.
pub(crate) fn resting(pool: &Pool) -> impl Iterator<Item = Millis> {
    let ready = pool.enis.values().filter(|eni| pool.serves(eni));
    ready
        .flat_map(|eni| eni.slots.values())
        .filter_map(|slot| match slot.state {
            SlotState::Free(Some(at)) if !pool.is_rested(slot) => {
                Some(at.after(pool.config.cooldown))
            }
            _ => None,
        })
}

/// The address for the next pod, in the order of the module's words.
fn pick(pool: &Pool) -> Option<Ipv4Addr> {
    let serving = pool.enis.values().filter(|eni| pool.serves(eni));
    let free = serving.flat_map(|eni| {
        let fullness = fullness(eni);
        let free = eni
            .slots
            .iter()
            .filter(|(_, slot)| pool.is_rested(slot) && !slot.lost);
        free.map(move |(address, slot)| {
            let of_prefix = slot.prefix.map(|prefix| {
                let used = fullness.get(&prefix).copied().unwrap_or(0);
                (std::cmp::Reverse(used), prefix)
            });
            let released = match slot.state {
                SlotState::Free(released) => released,
                SlotState::Assigned(_) | SlotState::Leaving => None,
            };
            let kind = !pool.is_current(slot);
            (kind, eni.device, of_prefix, released, *address)
        })
    });
    free.min().map(|(.., address)| address)
}

/// How many addresses of each prefix pods have.
fn fullness(eni: &Eni) -> BTreeMap<Ipv4Net, u32> {
    let mut used = BTreeMap::new();
    for slot in eni.slots.values() {
        if let (Some(prefix), SlotState::Assigned(_)) = (slot.prefix, &slot.state) {
            *used.entry(prefix).or_default() += 1;
        }
    }
    used
}

fn release(pool: &mut Pool, address: Ipv4Addr, now: Millis) {
    let holder = pool
        .enis
        .values_mut()
        .find(|eni| eni.slots.contains_key(&address));
    let Some(eni) = holder else {
        pool.resting.insert(address, now);
        return;
    };
    match eni.slots.get_mut(&address) {
        Some(slot) if slot.lost => {
            eni.slots.remove(&address);
            pool.resting.insert(address, now);
        }
        Some(slot) => slot.state = SlotState::Free(Some(now)),
        None => {}
    }
}

fn slot_mut(pool: &mut Pool, address: Ipv4Addr) -> Option<&mut Slot> {
    pool.enis
        .values_mut()
        .find_map(|eni| eni.slots.get_mut(&address))
}

fn lease(pool: &Pool, address: Ipv4Addr) -> Lease {
    Lease {
        address,
        device: pool.eni_of(address).and_then(|eni| eni.device),
    }
}
