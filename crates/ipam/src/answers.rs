//! Events: each is taken in by the part of the pool that it concerns.

use std::collections::btree_map::Entry;
use std::time::Duration;

use crate::effect::{Call, Effect, OpId, Record};
use crate::event::{Answer, Event, Failure, FailureKind};
use crate::pool::{Pool, SlotState};
use crate::types::{Allocation, Millis};
use crate::ways::Road;
use crate::{adopt, allocate, groups, grow, lifecycle, subnets};

pub(crate) fn take(pool: &mut Pool, event: Event, now: Millis, effects: &mut Vec<Effect>) {
    match event {
        Event::Tick => {}
        Event::Recovered {
            allocations,
            released,
            returned,
        } => {
            for allocation in allocations {
                recover(pool, allocation);
            }
            pool.resting.extend(released);
            // From now on: a wall clock that went ahead between two starts must not end a lag that
            // is EC2's.
            let returned = returned.into_keys().map(|address| (address, now));
            pool.returned.extend(returned);
        }
        Event::Found(allocation) => found(pool, allocation, effects),
        Event::Unknown { reason } => {
            if pool.node.is_none() {
                pool.not_ready = Some(reason);
            }
        }
        Event::Node(facts) => {
            if pool.node.replace(facts).is_none() {
                pool.subnets.wish = true;
                pool.not_ready = Some("EC2 has not shown its interfaces yet".to_owned());
                pool.wish(now, true);
            }
        }
        Event::Add { ticket, key, pod } => allocate::add(pool, ticket, key, pod, now, effects),
        Event::Delete { ticket, key } => allocate::delete(pool, ticket, key, now, effects),
        Event::Imds(seen) => groups::imds(pool, seen),
        Event::Denied(failures) => denied(pool, failures, now),
        Event::Cordoned(cordoned) => pool.cordoned = cordoned,
        Event::Drain => pool.draining = true,
        Event::Answered { op, result } => {
            if let Some(call) = pool.ops.remove(&op) {
                answered(pool, op, call, result, now, effects);
            }
        }
    }
}

/// EC2 would refuse these: what needs them is not tried before a back-off, and is known by name.
fn denied(pool: &mut Pool, failures: Vec<Failure>, now: Millis) {
    for failure in failures {
        let road = match failure.action {
            "CreateNetworkInterface" | "AttachNetworkInterface" | "CreateTags" => Road::Create,
            "AssignPrivateIpAddresses" => Road::Assign,
            _ => {
                pool.denied.insert(failure.action, failure);
                continue;
            }
        };
        pool.denied.insert(failure.action, failure.clone());
        pool.bar(road, failure, now);
    }
}

/// A pod that had its address before the agent started. The second of two with one address is
/// left out: the shell refuses such a checkpoint, this only keeps the invariant.
fn recover(pool: &mut Pool, allocation: Allocation) {
    let Entry::Vacant(address) = pool.by_address.entry(allocation.address) else {
        return;
    };
    address.insert(allocation.key.clone());
    pool.allocations.insert(allocation.key.clone(), allocation);
}

/// A pod that nobody wrote down. Its address is not given away; one that is on its way back to EC2
/// is kept from then on as one that EC2 has taken.
fn found(pool: &mut Pool, allocation: Allocation, effects: &mut Vec<Effect>) {
    let (key, address) = (&allocation.key, allocation.address);
    if let Some(known) = pool.allocations.get_mut(key)
        && known.address == address
    {
        // It is known by more than its link now.
        known.pod = allocation.pod;
        effects.push(Effect::Record(Record::Leased(known.clone())));
        return;
    }
    if pool.by_address.contains_key(&address) || pool.allocations.contains_key(key) {
        return;
    }
    let slots = pool
        .enis
        .values_mut()
        .find_map(|eni| eni.slots.get_mut(&address));
    if let Some(slot) = slots {
        slot.lost |= slot.state == SlotState::Leaving;
        slot.state = SlotState::Assigned(key.clone());
        slot.assigned_at = Some(allocation.since);
    }
    effects.push(Effect::Record(Record::Leased(allocation.clone())));
    recover(pool, allocation);
}

fn answered(
    pool: &mut Pool,
    op: OpId,
    call: Call,
    result: Result<Answer, Failure>,
    now: Millis,
    effects: &mut Vec<Effect>,
) {
    pool.touch(&call, pool.next_op - 1);
    let action = call.action();
    match &result {
        Ok(_) => drop(pool.denied.remove(action)),
        Err(failure) if failure.kind == FailureKind::Denied => {
            pool.denied.insert(action, failure.clone());
        }
        // It came after the right was checked, or says nothing of it.
        Err(_) => {}
    }
    match (call, result) {
        (
            Call::CreateEni {
                token,
                want,
                subnet,
                ..
            },
            Ok(Answer::Created(view)),
        ) => {
            pool.births.retain(|birth| birth.token != token);
            pool.granted(Road::Create, want.unit(), &subnet);
            pool.subnets.took(&subnet, want.addresses() + 1);
            adopt::created(pool, op, &view, now);
        }
        (Call::CreateEni { token, .. }, result) => {
            grow::create_failed(pool, &token, failure(action, result), now);
        }
        (Call::AttachEni { eni, device }, Ok(Answer::Attached(attachment))) => {
            lifecycle::attached(pool, &eni, device, attachment, now);
        }
        (Call::AttachEni { eni, .. }, result) => {
            lifecycle::attach_failed(pool, &eni, failure(action, result), now);
        }
        (Call::Assign { eni, want }, Ok(Answer::Assigned(blocks))) => {
            if let Some(subnet) = pool.enis.get(&eni).map(|eni| eni.subnet.clone()) {
                pool.granted(Road::Assign, want.unit(), &subnet);
                pool.subnets.took(&subnet, want.addresses());
            }
            adopt::assigned(pool, &eni, &blocks, now);
        }
        (Call::ShowSubnets, Ok(Answer::Subnets(seen))) => subnets::shown(pool, seen),
        (Call::PrimaryGroups, Ok(Answer::Groups(seen))) => {
            groups::primary_read(pool, op, Some(&seen), now);
        }
        (Call::PrimaryGroups, _) => groups::primary_read(pool, op, None, now),
        (Call::ShowSubnets, result) => subnets::failed(pool, failure(action, result), now),
        (Call::Assign { eni, want }, result) => {
            grow::assign_failed(pool, &eni, want, failure(action, result), now);
        }
        (Call::Show { .. }, Ok(Answer::Shown(view))) => {
            adopt::shown(pool, op, view, now, effects);
        }
        (Call::Show { leftovers }, result) => {
            adopt::failed(pool, leftovers, failure(action, result), now);
        }
        (Call::SetGroups { eni, groups }, result) => {
            groups::set(pool, &eni, groups, done(action, result), now);
        }
        (Call::SetDeleteOnTermination { eni, .. }, result) => {
            lifecycle::protected(pool, &eni, done(action, result), now);
        }
        (Call::SetUp { eni, .. }, result) => {
            lifecycle::set_up(pool, &eni, done(action, result), now);
        }
        (Call::DetachEni { eni, .. }, result) => {
            lifecycle::detached(pool, &eni, done(action, result), now);
        }
        (Call::DeleteEni { eni }, result) => {
            lifecycle::deleted(pool, &eni, done(action, result), now);
        }
        (Call::Unassign { eni, blocks }, result) => {
            unassigned(pool, &eni, blocks, done(action, result), now);
        }
    }
}

/// Addresses went back to EC2, or not. After an unclear answer they stay out of use, and the call
/// is repeated, until EC2 says that they are gone.
fn unassigned(
    pool: &mut Pool,
    id: &vpc::facts::EniId,
    blocks: crate::types::Blocks,
    result: Result<(), Failure>,
    now: Millis,
) {
    let addresses = blocks.addresses();
    let Some(eni) = pool.enis.get_mut(id) else {
        return;
    };
    match result.as_ref().map_err(|failure| failure.kind) {
        Ok(()) | Err(FailureKind::NotFound) => {
            eni.doubt = None;
            for address in addresses {
                eni.slots.remove(&address);
                pool.returned.insert(address, now);
            }
            if result.is_err() {
                // One of them was gone already; which, EC2 shows when it cannot lag any longer.
                pool.show.recheck = Some(now.after(pool.config.lag));
            }
        }
        Err(kind) if kind == FailureKind::Unclear || eni.doubt.is_some() => {
            let failures = eni.doubt.as_ref().map_or(0, |(_, retry)| retry.failures);
            let (first, most) = (Duration::from_secs(2), Duration::from_secs(60));
            let retry = pool.backed_off(failures, now, first, most);
            if let Some(eni) = pool.enis.get_mut(id) {
                eni.doubt = Some((blocks, retry));
            }
        }
        Err(_) => {
            for address in addresses {
                if let Some(slot) = eni.slots.get_mut(&address)
                    && slot.state == SlotState::Leaving
                {
                    slot.state = SlotState::Free(None);
                }
            }
        }
    }
}

fn done(action: &'static str, result: Result<Answer, Failure>) -> Result<(), Failure> {
    match result {
        Ok(Answer::Done) => Ok(()),
        other => Err(failure(action, other)),
    }
}

/// The failure of a call; an answer of another call's kind is as unclear as none.
fn failure(action: &'static str, result: Result<Answer, Failure>) -> Failure {
    match result {
        Err(failure) => failure,
        Ok(_) => Failure {
            action,
            kind: FailureKind::Unclear,
            message: "the answer is that of another call".to_owned(),
        },
    }
}
