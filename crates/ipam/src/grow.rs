//! More addresses: first on interfaces that have room, then on new interfaces.
//!
//! A waiting pod makes the pool grow in the same step, or, where the exact number is asked for,
//! after the few milliseconds in which the pods of its burst come; several interfaces are created at
//! once when one does not do. What EC2 refuses is not asked for again before a back-off
//! ([`crate::ways`]); a subnet that is nearly full is asked for half as much each time, down to one.
//! Where a subnet has no /28 in one piece, single addresses stand in for prefixes until one can be
//! had.

use std::time::Duration;

use settings::GroupSync;
use vpc::facts::{EniId, SubnetId};

use crate::arithmetic;
use crate::effect::{Call, Effect, Refusal};
use crate::event::{Failure, FailureKind};
use crate::pool::{Backoff, Birth, Eni, Pool, SlotState, Stage, len};
use crate::types::{ClientToken, Millis, PREFIX_SIZE, Unit, Want};
use crate::ways::{Road, Way};

pub(crate) fn plan(pool: &mut Pool, now: Millis, effects: &mut Vec<Effect>) {
    if !pool.config.provision {
        return;
    }
    retry_births(pool, now, effects);
    let unit = pool.unit();
    let short = arithmetic::short(pool.targets(), pool.stock(false));
    if short == 0 {
        pool.short_since = None;
        return;
    }
    cancel_removals(pool, now);
    if gathers(pool, now) {
        return;
    }
    let missing = more(pool, unit, short, now, effects);
    if missing == 0 || unit == Unit::Address {
        return;
    }
    let is_full = !has_room(pool) && pool.enis.values().all(|eni| free_slots(pool, eni) == 0);
    if is_full {
        crate::shrink::make_room(pool, missing.div_ceil(PREFIX_SIZE), now, effects);
    } else if prefixes_only_missing(pool, now) {
        let targets = pool.targets().without_prefixes();
        let short = arithmetic::short(targets, pool.stock(true));
        more(pool, Unit::Address, short, now, effects);
    }
}

/// Whether what is short is not asked for yet, since more of the same burst may follow. Whole
/// interfaces are asked for at once: they have room for what follows.
fn gathers(pool: &mut Pool, now: Millis) -> bool {
    let since = *pool.short_since.get_or_insert(now);
    pool.config.warm.by_address() && since.after(pool.config.gather) > now
}

/// Asks for what is short, in a unit; returns how much of it could not be asked for.
fn more(pool: &mut Pool, unit: Unit, short: u32, now: Millis, effects: &mut Vec<Effect>) -> u32 {
    let mut missing = short;
    while missing > 0 {
        let grown = match fill(pool, unit, missing, now, effects) {
            // Sooner than a new interface is there, one that is being filled can be asked again.
            0 => match missing.saturating_sub(room_soon(pool, unit, now)) {
                0 => return 0,
                beyond => create(pool, unit, beyond, now, effects),
            },
            n => n,
        };
        if grown == 0 {
            return missing;
        }
        missing = missing.saturating_sub(grown);
    }
    0
}

/// Addresses for which there is room on interfaces that are being filled, or are on their way and
/// can be filled as soon as they serve: a new interface would not be there earlier.
fn room_soon(pool: &Pool, unit: Unit, now: Millis) -> u32 {
    let filling = pool.enis.values().filter(|eni| {
        pool.is_busy(&eni.id, |call| matches!(call, Call::Assign { .. }))
            && pool.ways.open(Road::Assign, unit, &eni.subnet, now)
    });
    let filling: u32 = filling.map(|eni| free_slots(pool, eni)).sum();
    let slots = pool.slots_per_eni();
    let open = |subnet| pool.ways.open(Road::Assign, unit, subnet, now);
    let arriving = pool.enis.values().filter(|eni| {
        let healthy = eni.trouble.is_none() && !pool.is_excluded(eni);
        eni.stage.is_coming() && healthy && open(&eni.subnet)
    });
    let arriving: u32 = arriving
        .map(|eni| slots.saturating_sub(eni.used_slots()))
        .sum();
    let births = pool.births.iter();
    let births = births.filter(|birth| birth.trouble.is_none() && open(&birth.subnet));
    let births: u32 = births
        .map(|birth| slots.saturating_sub(birth.want.slots()))
        .sum();
    Want::of(unit, filling + arriving + births).addresses()
}

/// Whether there is room for prefixes, and only a subnet's lack of them keeps them from being
/// asked for.
fn prefixes_only_missing(pool: &Pool, now: Millis) -> bool {
    let lacking = |road, subnet: &SubnetId| pool.ways.no_prefix(road, subnet, now);
    let with_room = pool.enis.values().filter(|eni| free_slots(pool, eni) > 0);
    let mut on_interfaces = with_room.map(|eni| lacking(Road::Assign, &eni.subnet));
    if on_interfaces.any(|lacking| lacking) {
        return true;
    }
    has_room(pool)
        && pool
            .places()
            .iter()
            .any(|subnet| lacking(Road::Create, subnet))
}

/// An interface that EC2 has not yet been told to detach stays when it is needed after all.
fn cancel_removals(pool: &mut Pool, now: Millis) {
    let untold = |eni: &&mut Eni| eni.stage == Stage::Confirming && eni.retry.failures == 0;
    for eni in pool.enis.values_mut().filter(untold) {
        eni.enter(Stage::Ready, now);
    }
}

/// How much is asked for at once: what is short, as far as there are slots and as the subnet gives.
fn amount(pool: &Pool, unit: Unit, short: u32, slots: u32, cap: u32) -> Want {
    let n = match unit {
        Unit::Prefix => short.div_ceil(PREFIX_SIZE),
        // Single addresses that stand in for prefixes are as few as do.
        Unit::Address if pool.config.warm.by_address() || pool.unit() == Unit::Prefix => short,
        Unit::Address => u32::MAX,
    };
    Want::of(unit, n.min(slots).min(cap))
}

/// Asks for more on one interface; returns how many addresses.
fn fill(pool: &mut Pool, unit: Unit, short: u32, now: Millis, effects: &mut Vec<Effect>) -> u32 {
    let asking = pool.is_on(Road::Assign);
    let room = |eni: &&Eni| {
        free_slots(pool, eni) > 0
            && !is_assigning(pool, eni)
            && pool.ways.open(Road::Assign, unit, &eni.subnet, now)
            // Where EC2 has refused, one is tried at a time.
            && !(asking && pool.ways.troubled(Road::Assign, unit, &eni.subnet))
    };
    let Some(eni) = pool.enis.values().filter(room).min_by_key(|eni| eni.device) else {
        return 0;
    };
    let cap = pool.ways.cap(Road::Assign, unit, &eni.subnet);
    let want = amount(pool, unit, short, free_slots(pool, eni), cap);
    let eni = eni.id.clone();
    pool.call(Call::Assign { eni, want }, effects);
    want.addresses()
}

/// Creates one interface; returns how many addresses it will have.
fn create(pool: &mut Pool, unit: Unit, short: u32, now: Millis, effects: &mut Vec<Effect>) -> u32 {
    let slots = pool.slots_per_eni();
    if !has_room(pool) || slots == 0 || pool.births.iter().any(|birth| birth.trouble.is_some()) {
        return 0;
    }
    // Where EC2 has refused, one is tried at a time.
    let trying = !pool.births.is_empty() || pool.is_on(Road::Assign);
    let open = |subnet: &SubnetId| {
        pool.ways.open(Road::Create, unit, subnet, now)
            && !(trying && pool.ways.troubled(Road::Create, unit, subnet))
    };
    let Some(subnet) = pool.places().into_iter().find(open) else {
        return 0;
    };
    let cap = pool.ways.cap(Road::Create, unit, &subnet);
    let want = amount(pool, unit, short, slots, cap);
    let groups = match pool.config.group_sync {
        GroupSync::AtStart => pool.groups.at_start.clone(),
        GroupSync::OncePerChange | GroupSync::UntilConfirmed => pool.groups.primary.clone(),
    };
    let token = ClientToken(format!("{:016x}-{}", pool.random(), pool.next_token));
    pool.next_token += 1;
    let birth = Birth {
        token,
        at: now,
        want,
        subnet,
        groups,
        retry: Backoff::default(),
        trouble: None,
    };
    pool.call(birth.call(), effects);
    pool.births.push(birth);
    want.addresses()
}

impl Birth {
    fn call(&self) -> Call {
        Call::CreateEni {
            token: self.token.clone(),
            at: self.at,
            subnet: self.subnet.clone(),
            groups: self.groups.clone(),
            want: self.want,
        }
    }
}

/// The same call again, with the same token: the interface may exist already.
fn retry_births(pool: &mut Pool, now: Millis, effects: &mut Vec<Effect>) {
    for birth in pool.births.clone() {
        let asked = pool.ops.values().any(|call| match call {
            Call::CreateEni { token, .. } => *token == birth.token,
            _ => false,
        });
        if !asked && birth.retry.open(now) {
            pool.call(birth.call(), effects);
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
    if failure.kind == FailureKind::SubnetFull {
        pool.subnets
            .lacks(&birth.subnet, birth.want.addresses() + 1, now);
    }
    pool.refused(Road::Create, birth.want, &birth.subnet, failure, now);
}

pub(crate) fn assign_failed(
    pool: &mut Pool,
    id: &EniId,
    want: Want,
    failure: Failure,
    now: Millis,
) {
    use FailureKind::{Denied, NoPrefix, SubnetFull, Throttled};
    if !matches!(failure.kind, SubnetFull | NoPrefix | Throttled | Denied) {
        // It may have been done, or the interface is not as we think: what EC2 shows now, and once
        // more when its answers cannot lag any longer, settles it.
        pool.wish(now, false);
        pool.show.recheck = Some(now.after(pool.config.lag));
    }
    let subnet = pool.enis.get(id).map(|eni| eni.subnet.clone());
    let subnet = subnet.or_else(|| pool.node.as_ref().map(|node| node.subnet.clone()));
    let Some(subnet) = subnet else { return };
    if failure.kind == SubnetFull {
        pool.subnets.lacks(&subnet, want.addresses(), now);
    }
    pool.refused(Road::Assign, want, &subnet, failure, now);
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
    let units = match pool.unit() {
        Unit::Address => &[Unit::Address][..],
        Unit::Prefix => &[Unit::Prefix, Unit::Address],
    };
    let mut found: Vec<Outlook> = Vec::new();
    let with_room = pool.enis.values().filter(|eni| free_slots(pool, eni) > 0);
    for eni in with_room.filter(|_| pool.config.provision) {
        for unit in units {
            found.push(blocked(pool, Road::Assign, *unit, &eni.subnet, now));
        }
    }
    if found.is_empty() && has_room(pool) && pool.slots_per_eni() > 0 {
        let unsettled = pool.births.iter().find_map(|birth| {
            let failure = birth.trouble.clone()?;
            Some(Outlook::At(birth.retry.until, Refusal::Ec2 { failure }))
        });
        if let Some(unsettled) = unsettled {
            return unsettled;
        }
        if let Some(subnets) = pool.all_excluded() {
            return Outlook::Never(Refusal::NoSubnet { subnets });
        }
        for subnet in pool.places() {
            for unit in units {
                found.push(blocked(pool, Road::Create, *unit, &subnet, now));
            }
        }
        if found.is_empty() {
            // The zone's subnets are being asked for.
            found.push(soon(pool));
        }
    }
    let leaving = pool.enis.values().any(|eni| eni.stage.is_leaving());
    if found.is_empty() && (leaving || pool.coming().addresses() > 0) {
        return soon(pool);
    }
    // The way that opens first.
    let first = found.into_iter().min_by_key(|outlook| match outlook {
        Outlook::Soon { .. } => Millis(0),
        Outlook::At(at, _) => *at,
        Outlook::Never(_) => Millis(u64::MAX),
    });
    first.unwrap_or_else(|| Outlook::Never(limit(pool)))
}

fn soon(pool: &Pool) -> Outlook {
    Outlook::Soon {
        waiting_for: in_flight(pool),
    }
}

fn blocked(pool: &Pool, road: Road, unit: Unit, subnet: &SubnetId, now: Millis) -> Outlook {
    match pool.ways.barrier(road, unit, subnet, now) {
        Some(way) => match &way.trouble {
            Some(failure) => Outlook::At(
                way.retry.until,
                refusal(pool, failure.clone(), Some(subnet), way, now),
            ),
            None => soon(pool),
        },
        None => soon(pool),
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
    let mut ways = pool.ways.all().filter(|(_, way)| way.trouble.is_some());
    let (subnet, way) = ways.next()?;
    Some(refusal(pool, way.trouble.clone()?, subnet, way, now))
}

fn refusal(
    pool: &Pool,
    failure: Failure,
    subnet: Option<&SubnetId>,
    way: &Way,
    now: Millis,
) -> Refusal {
    let retry = way.retry.until.since(now);
    match (failure.kind, subnet.cloned()) {
        (FailureKind::SubnetFull, Some(subnet)) => Refusal::SubnetFull {
            subnet,
            failure,
            retry,
        },
        (FailureKind::NoPrefix, Some(subnet)) => Refusal::Fragmented {
            subnet,
            failure,
            retry,
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

/// Slots for addresses or prefixes that an interface in service still has.
fn free_slots(pool: &Pool, eni: &Eni) -> u32 {
    if !pool.serves(eni) {
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
        .saturating_sub(eni.used_slots() + in_flight)
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
