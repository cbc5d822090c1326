//! More addresses: first on interfaces that have room, then on new interfaces.
//!
//! A waiting pod makes the pool grow in the same step; several interfaces are created at once when
//! one does not do. What EC2 refuses is not asked for again before a backoff, per way; a subnet
//! that is nearly full is asked for half as much each time, down to one address.

use std::time::Duration;

use crate::arithmetic;
use crate::effect::{Call, Effect, Refusal};
use crate::event::{Failure, FailureKind};
use crate::pool::{Backoff, Birth, Eni, Pool, SlotState, Stage, Way, len};
use crate::types::{ClientToken, Millis, Want};
use settings::GroupSync;

pub(crate) fn plan(pool: &mut Pool, now: Millis, effects: &mut Vec<Effect>) {
    retry_births(pool, now, effects);
    let mut short = arithmetic::short(pool.config.warm, pool.slots_per_eni(), pool.stock());
    if short == 0 {
        return;
    }
    cancel_removals(pool, now);
    while short > 0 {
        let grown = match fill(pool, short, now, effects) {
            0 => create(pool, short, now, effects),
            n => n,
        };
        if grown == 0 {
            return;
        }
        short = short.saturating_sub(grown);
    }
}

/// An interface that EC2 has not yet been told to detach stays when it is needed after all.
fn cancel_removals(pool: &mut Pool, now: Millis) {
    let untold = |eni: &&mut Eni| eni.stage == Stage::Confirming && eni.retry.failures == 0;
    for eni in pool.enis.values_mut().filter(untold) {
        eni.enter(Stage::Ready, now);
    }
}

/// Asks for more addresses on one interface; returns how many.
fn fill(pool: &mut Pool, short: u32, now: Millis, effects: &mut Vec<Effect>) -> u32 {
    let probing = pool.assign.trouble.is_some()
        && pool
            .ops
            .values()
            .any(|call| matches!(call, Call::Assign { .. }));
    if !pool.assign.retry.open(now) || probing {
        return 0;
    }
    let room = |eni: &&Eni| free_slots(pool, eni) > 0 && !is_assigning(pool, eni);
    let Some(eni) = pool.enis.values().filter(room).min_by_key(|eni| eni.device) else {
        return 0;
    };
    let room = free_slots(pool, eni);
    let wanted = if pool.config.warm.by_address() {
        short
    } else {
        u32::MAX
    };
    let count = room.min(wanted).min(pool.assign.cap.unwrap_or(u32::MAX));
    let eni = eni.id.clone();
    let want = Want::Addresses(count);
    pool.call(Call::Assign { eni, want }, effects);
    count
}

/// Creates one interface; returns how many addresses it will have.
fn create(pool: &mut Pool, short: u32, now: Millis, effects: &mut Vec<Effect>) -> u32 {
    let Some(node) = pool.node.as_ref() else {
        return 0;
    };
    let (slots, subnet) = (node.limits.slots(), node.subnet.clone());
    // Where EC2 has refused, one is tried at a time.
    let unsettled = pool.births.iter().any(|birth| birth.trouble.is_some())
        || (pool.create.trouble.is_some() && !pool.births.is_empty());
    if !pool.create.retry.open(now) || !has_room(pool) || slots == 0 || unsettled {
        return 0;
    }
    let wanted = if pool.config.warm.by_address() {
        short
    } else {
        u32::MAX
    };
    let count = slots.min(wanted).min(pool.create.cap.unwrap_or(u32::MAX));
    let groups = match pool.config.group_sync {
        GroupSync::AtStart => pool.groups.at_start.clone(),
        GroupSync::OncePerChange | GroupSync::UntilConfirmed => pool.groups.primary.clone(),
    };
    let token = ClientToken(format!("{:016x}-{}", pool.random(), pool.next_token));
    pool.next_token += 1;
    pool.births.push(Birth {
        token: token.clone(),
        want: Want::Addresses(count),
        groups: groups.clone(),
        retry: Backoff::default(),
        trouble: None,
    });
    pool.call(
        Call::CreateEni {
            token,
            subnet,
            groups,
            want: Want::Addresses(count),
        },
        effects,
    );
    if pool.config.group_sync != GroupSync::AtStart {
        // The copy may be old: EC2 is asked while it creates, and the interface waits for that.
        pool.wish(now, false);
    }
    count
}

/// The same call again, with the same token: the interface may exist already.
fn retry_births(pool: &mut Pool, now: Millis, effects: &mut Vec<Effect>) {
    let Some(subnet) = pool.node.as_ref().map(|node| node.subnet.clone()) else {
        return;
    };
    for birth in pool.births.clone() {
        let asked = pool.ops.values().any(|call| match call {
            Call::CreateEni { token, .. } => *token == birth.token,
            _ => false,
        });
        if !asked && birth.retry.open(now) {
            let Birth {
                token,
                want,
                groups,
                ..
            } = birth;
            pool.call(
                Call::CreateEni {
                    token,
                    subnet: subnet.clone(),
                    groups,
                    want,
                },
                effects,
            );
        }
    }
}

/// A create failed: forgotten if nothing can have been done, else repeated until that is clear.
pub(crate) fn create_failed(pool: &mut Pool, token: &ClientToken, failure: Failure, now: Millis) {
    let Some(at) = pool.births.iter().position(|birth| birth.token == *token) else {
        return;
    };
    if failure.kind == FailureKind::Unclear {
        let failures = pool.births[at].retry.failures;
        let retry = pool.backed_off(
            failures,
            now,
            Duration::from_millis(500),
            Duration::from_secs(30),
        );
        let birth = &mut pool.births[at];
        birth.retry = retry;
        birth.trouble = Some(failure);
        return;
    }
    let birth = pool.births.remove(at);
    if birth.retry.failures > 0 {
        // An earlier try had an unclear end: what it may have left is found by its tag.
        pool.show.recheck = Some(now.after(pool.config.lag));
    }
    let way = std::mem::take(&mut pool.create);
    pool.create = refused(pool, way, birth.want.slots(), failure, now);
}

pub(crate) fn assign_failed(pool: &mut Pool, count: u32, failure: Failure, now: Millis) {
    use FailureKind::{Denied, SubnetFull, Throttled};
    if !matches!(failure.kind, SubnetFull | Throttled | Denied) {
        // It may have been done, or the interface is not as we think: what EC2 shows now, and once
        // more when its answers cannot lag any longer, settles it.
        pool.wish(now, false);
        pool.show.recheck = Some(now.after(pool.config.lag));
    }
    let way = std::mem::take(&mut pool.assign);
    pool.assign = refused(pool, way, count, failure, now);
}

/// What stands in a way after a refusal of `count` addresses.
fn refused(pool: &mut Pool, mut way: Way, count: u32, failure: Failure, now: Millis) -> Way {
    let seconds = Duration::from_secs;
    if failure.kind == FailureKind::SubnetFull && count > 1 {
        way.cap = Some(count / 2);
        way.trouble = Some(failure);
        return way;
    }
    let (first, most) = match failure.kind {
        FailureKind::SubnetFull | FailureKind::NoPrefix => (seconds(10), seconds(120)),
        FailureKind::Throttled | FailureKind::Unclear => (Duration::from_millis(500), seconds(30)),
        FailureKind::Denied | FailureKind::InstanceEniLimit | FailureKind::AccountEniLimit => {
            (seconds(30), seconds(300))
        }
        FailureKind::AddressLimit
        | FailureKind::NotFound
        | FailureKind::Conflict
        | FailureKind::Rejected => (seconds(2), seconds(60)),
    };
    way.retry = pool.backed_off(way.retry.failures, now, first, most);
    way.trouble = Some(failure);
    way
}

/// EC2 gave what was asked for: a way that was narrow widens again.
pub(crate) fn granted(way: &mut Way) {
    way.retry = Backoff::default();
    way.trouble = None;
    way.cap = way
        .cap
        .and_then(|cap| cap.checked_mul(2))
        .filter(|cap| *cap < 64);
}

/// When more addresses can be had.
pub(crate) enum Outlook {
    /// They have been asked for, or will be in this step.
    Soon { waiting_for: String },
    /// Asked for again at a time; until then this is the reason.
    At(Millis, Refusal),
    /// Not while pods use what there is.
    Never(Refusal),
}

impl Outlook {
    /// The words for a pod that has waited for so long.
    pub(crate) fn reason(&self, waited: Duration) -> Refusal {
        match self {
            Self::At(_, refusal) | Self::Never(refusal) => refusal.clone(),
            Self::Soon { waiting_for } => Refusal::TimedOut {
                waiting_for: waiting_for.clone(),
                patience: waited,
            },
        }
    }
}

pub(crate) fn outlook(pool: &Pool, now: Millis) -> Outlook {
    let room_on_interfaces = pool.enis.values().any(|eni| free_slots(pool, eni) > 0);
    let leaving = pool.enis.values().any(|eni| eni.stage.is_leaving());
    if room_on_interfaces {
        blocked(pool, &pool.assign, now)
    } else if has_room(pool) && pool.slots_per_eni() > 0 {
        let unsettled = pool.births.iter().find_map(|birth| {
            Some((
                birth.retry.until,
                Refusal::Ec2 {
                    failure: birth.trouble.clone()?,
                },
            ))
        });
        match unsettled {
            Some((at, refusal)) => Outlook::At(at, refusal),
            None => blocked(pool, &pool.create, now),
        }
    } else if leaving || pool.coming() > 0 {
        Outlook::Soon {
            waiting_for: in_flight(pool),
        }
    } else {
        Outlook::Never(limit(pool))
    }
}

fn blocked(pool: &Pool, way: &Way, now: Millis) -> Outlook {
    match &way.trouble {
        Some(failure) if !way.retry.open(now) => {
            Outlook::At(way.retry.until, refusal(pool, failure.clone(), way, now))
        }
        _ => Outlook::Soon {
            waiting_for: in_flight(pool),
        },
    }
}

/// What keeps addresses from coming, for a pod whose patience ended while they were on their way.
pub(crate) fn standing_in_the_way(pool: &Pool, now: Millis) -> Option<Refusal> {
    let stuck = pool
        .enis
        .values()
        .find(|eni| eni.stage.is_coming() && eni.trouble.is_some());
    if let Some((eni, failure)) = stuck.and_then(|eni| Some((eni, eni.trouble.clone()?))) {
        return Some(match eni.stage {
            Stage::Unplumbed | Stage::Plumbing => Refusal::NotUsable {
                eni: eni.id.clone(),
                failure,
            },
            _ => Refusal::Ec2 { failure },
        });
    }
    if let Some(failure) = pool.births.iter().find_map(|birth| birth.trouble.clone()) {
        return Some(Refusal::Ec2 { failure });
    }
    let way = [&pool.assign, &pool.create]
        .into_iter()
        .find(|way| way.trouble.is_some())?;
    Some(refusal(pool, way.trouble.clone()?, way, now))
}

fn refusal(pool: &Pool, failure: Failure, way: &Way, now: Millis) -> Refusal {
    match (failure.kind, &pool.node) {
        (FailureKind::SubnetFull, Some(node)) => Refusal::SubnetFull {
            subnet: node.subnet.clone(),
            failure,
            retry: way.retry.until.since(now),
        },
        (FailureKind::InstanceEniLimit, _) if has_no_room_by_count(pool) => limit(pool),
        _ => Refusal::Ec2 { failure },
    }
}

fn limit(pool: &Pool) -> Refusal {
    let counts = pool.counts();
    let (most, by) = pool.allowed_interfaces();
    Refusal::Limit {
        interfaces: most + pool.foreign_here(),
        by,
        total: counts.total,
        assigned: counts.assigned,
        resting: counts.resting,
        next: crate::allocate::resting(pool)
            .min()
            .map(|at| at.since(pool.clock)),
    }
}

fn in_flight(pool: &Pool) -> String {
    let actions: std::collections::BTreeSet<&str> = pool.ops.values().map(Call::action).collect();
    if actions.is_empty() {
        let rested = crate::allocate::resting(pool).min();
        return rested.map_or_else(
            || "a retry".to_owned(),
            |at| {
                let wait = at.since(pool.clock).as_secs() + 1;
                format!("an address that was released lately and rests for {wait} s more")
            },
        );
    }
    actions.into_iter().collect::<Vec<_>>().join(", ")
}

/// Addresses that EC2 would still let an interface in service have.
fn free_slots(pool: &Pool, eni: &Eni) -> u32 {
    if eni.stage != Stage::Ready || eni.missing_since.is_some() {
        return 0;
    }
    let in_flight: u32 = pool
        .ops
        .values()
        .filter_map(|call| match call {
            Call::Assign { eni: id, want } if *id == eni.id => Some(want.slots()),
            _ => None,
        })
        .sum();
    pool.slots_per_eni()
        .saturating_sub(len(eni.slots.len()) + in_flight)
}

fn is_assigning(pool: &Pool, eni: &Eni) -> bool {
    pool.is_busy(&eni.id, |call| {
        matches!(call, Call::Assign { .. } | Call::Unassign { .. })
    }) || eni
        .slots
        .values()
        .any(|slot| slot.state == SlotState::Leaving)
}

fn has_room(pool: &Pool) -> bool {
    !has_no_room_by_count(pool)
}

fn has_no_room_by_count(pool: &Pool) -> bool {
    len(pool.enis.len() + pool.births.len()) >= pool.allowed_interfaces().0
}
