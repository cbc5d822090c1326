//! One run from one seed: a node, a storm, and what must hold when the weather clears.

use std::collections::BTreeSet;
use std::time::Duration;

use ipam::{
    Config, Eni, Event, Failure, FailureKind, GroupState, NodeFacts, SlotState, Stage, Want,
};
use settings::{GroupSync, Settings, WarmTargets};
use vpcsim::Timing;
use vpcsim::addrs::Placement;
use vpcsim::knobs::{Bucket, Deny, Knobs};

use crate::broken::{Check, ensure};
use crate::coverage::CALLS;
use crate::mutants::Mutant;
use crate::rng::Rng;
use crate::sky::{Fact, Plan, STRIKES, Sky};
use crate::world::{LAG, REST, World};

/// 2023-11-14.
const START: u64 = 1_700_000_000_000;

const WARM: [WarmTargets; 9] = {
    const fn warm(eni: u32, ip: u32, minimum: u32, prefix: u32) -> WarmTargets {
        WarmTargets {
            eni,
            ip,
            minimum,
            prefix,
        }
    }
    [
        warm(1, 0, 0, 0),
        warm(0, 0, 0, 0),
        warm(2, 0, 0, 0),
        warm(1, 2, 0, 0),
        warm(1, 5, 10, 0),
        warm(1, 0, 7, 0),
        warm(1, 0, 0, 1),
        warm(0, 0, 0, 2),
        warm(0, 20, 0, 1),
    ]
};

/// A node as a seed wants it.
pub(crate) fn build(seed: u64, mutant: Option<Mutant>) -> World {
    let mut rng = Rng(seed.wrapping_mul(0x2545_f491_4f6c_dd1d));
    // Small nodes meet their limits, large ones have room; the last has two network cards.
    let instance_type = *rng.pick(&[
        "t3.medium",
        "t3.medium",
        "t3.small",
        "m5.xlarge",
        "m5.4xlarge",
        "c4.xlarge",
        "c6in.32xlarge",
    ]);
    let subnets: Vec<&'static str> = match rng.below(8) {
        0 | 1 => vec!["10.0.1.0/28"],
        2 | 3 => vec!["10.0.1.0/27"],
        4 => vec!["10.0.1.0/26", "10.0.2.0/27"],
        5 => vec!["10.0.1.0/28", "10.0.2.0/24", "10.0.3.0/26"],
        _ => vec!["10.0.4.0/23"],
    };
    let discovery = subnets.len() > 1;
    let plan = Plan {
        seed: rng.next(),
        instance_type,
        subnets,
        placement: *rng.pick(&[Placement::LowestFree, Placement::Random]),
        timing: *rng.pick(&[Timing::INSTANT, Timing::AWS_LIKE]),
        interfaces: *rng.pick(&[5_000, 5_000, 5_000, 6]),
        secondary: *rng.pick(&[0, 0, 1, 2]),
    };
    let sky = Sky::new(&plan, START);
    let kind = ec2::limits::of(instance_type).unwrap();
    let node = NodeFacts {
        instance: sky.translator.instance.clone(),
        subnet: sky.translator.place.subnet.clone(),
        limits: ipam::Limits {
            interfaces: kind.card(0).unwrap(),
            ipv4_per_interface: kind.ipv4_per_interface,
        },
        prefixes: kind.hypervisor == "nitro" || kind.bare_metal,
    };
    let mut config = Config::new(&Settings::default(), rng.next());
    config.warm = *rng.pick(&WARM);
    config.max_eni = *rng.pick(&[None, None, None, Some(2)]);
    config.prefixes = rng.chance(40);
    // Interfaces come and go more often where a surplus need not last as long.
    let shrink_after = *rng.pick(&[60, 10, 5]);
    config.shrink_after = Duration::from_secs(shrink_after);
    config.gather = Duration::from_millis(*rng.pick(&[0, 30]));
    config.discovery = discovery;
    config.group_sync = if rng.chance(25) {
        GroupSync::AtStart
    } else {
        GroupSync::UntilConfirmed
    };
    config.cooldown = match mutant {
        Some(Mutant::NoRest) => Duration::ZERO,
        _ => REST,
    };
    let mut world = World::new(config, node, sky, START, Rng(rng.next()));
    world.mutant = mutant;
    world.faulty = *rng.pick(&[0, 15, 35, 60]);
    world.favourite = *rng.pick(&STRIKES);
    world.lagging = rng.chance(50);
    if mutant == Some(Mutant::MetadataAssumed) {
        // Its moment is a create during which EC2 is not asked for another reason.
        world.config.group_sync = GroupSync::UntilConfirmed;
        world.faulty = 0;
    }
    if mutant == Some(Mutant::ReturnNotRecorded) {
        // Its moment is a kill right after a return that EC2 does not show yet.
        world.config.warm = WARM[3];
        world.config.prefixes = false;
        world.faulty = 0;
        world.lagging = true;
    }
    world
}

/// The whole run.
pub(crate) fn run(world: &mut World) -> Check {
    if world.lagging {
        world.sky.ec2.turn(|knobs| {
            knobs.describe_lag_ms = LAG;
            knobs.imds_lag_ms = Some(LAG);
        });
    }
    let config = world.config.clone();
    world.start(config, Default::default())?;
    storm(world)?;
    settle(world)?;
    settled(world)
}

fn until(world: &mut World, ms: u64) -> Check {
    let until = world.now + ms;
    while world.advance(until)? {}
    Ok(())
}

/// Pods come and go, EC2 fails, people interfere, the agent is killed.
fn storm(world: &mut World) -> Check {
    let busy = *world.rng.pick(&[20u64, 45, 60]);
    let length = 120 + world.rng.below(160);
    for _ in 0..length {
        match world.rng.below(100) {
            n if n < busy => {
                for _ in 0..=world.rng.below(4) {
                    world.add()?;
                }
            }
            n if n < 72 => {
                for _ in 0..=world.rng.below(3) {
                    world.delete(true)?;
                }
            }
            72..=75 => world.add_again()?,
            76..=80 => world.metadata()?,
            81..=83 => somebody_else(world),
            84..=85 => weather(world)?,
            86 => world.restart()?,
            87 if world.rng.chance(60) => ebb(world)?,
            88 => {
                let cordoned = world.rng.chance(30);
                world.cordon(cordoned)?;
            }
            89 => world.doom = Some(world.rng.next()),
            90 => {
                let ms = *world.rng.pick(&[500, 5_000, 60_000]);
                world.stall(ms);
            }
            91..=94 => world.clear_orphans(3)?,
            _ => {}
        }
        let span = *world.rng.pick(&[1u64, 50, 500, 3_000, 40_000]);
        let span = world.rng.below(span);
        until(world, span)?;
        meddle(world)?;
    }
    world.doom = None;
    Ok(())
}

/// Throttling in bursts, denials for a while.
fn weather(world: &mut World) -> Check {
    let empty = Bucket {
        capacity: 1.0,
        refill_per_second: 0.05,
    };
    let what = world.rng.below(4);
    let named = *world.rng.pick(&CALLS);
    let action = named.to_owned();
    let denied = matches!(what, 1) && world.rng.chance(70);
    world.sky.ec2.turn(|knobs: &mut Knobs| match what {
        0 => {
            knobs.throttle.enabled = true;
            knobs.throttle.mutating = empty;
            knobs.throttle.reading = empty;
        }
        1 if denied => knobs.denies.push(Deny {
            principal: "node".to_owned(),
            action: action.clone(),
        }),
        1 => knobs.denies.push(Deny {
            principal: "*".to_owned(),
            action: "*".to_owned(),
        }),
        _ => {
            knobs.throttle.enabled = false;
            knobs.denies.clear();
        }
    });
    // The probes of a start find some of it.
    if what == 1 && world.rng.chance(50) {
        let failure = Failure {
            action: named,
            kind: FailureKind::Denied,
            message: "found by a dry run".to_owned(),
        };
        world.coverage.saw("told by probes what is denied");
        world.feed(Event::Denied(vec![failure]))?;
    }
    Ok(())
}

fn somebody_else(world: &mut World) {
    let now = world.now;
    let World { sky, rng, .. } = world;
    match rng.below(11) {
        0 => sky.attach_foreign(0, now),
        1 => sky.attach_foreign(1, now),
        2 => sky.remove_foreign(rng, now),
        3 => sky.rip_out(rng, now),
        4 => sky.snatch(rng, now),
        5 => sky.shift(rng, now),
        6 => sky.crowd(rng, now),
        7 | 8 => sky.change_groups(false, rng, now),
        _ => sky.change_groups(true, rng, now),
    }
}

/// The worst moment: while something is being given back or attached, pods come, somebody else is
/// faster, or the agent dies.
fn meddle(world: &mut World) -> Check {
    let now = world.now;
    let calls: Vec<ipam::Call> = world.flights.values().map(|f| f.call.clone()).collect();
    let attaching = calls
        .iter()
        .any(|c| matches!(c, ipam::Call::AttachEni { .. }));
    if attaching && world.rng.chance(10) {
        for _ in 0..world.node.limits.interfaces {
            world.sky.attach_foreign(0, now);
        }
    }
    // What the new interface gets is not the primary's any more.
    if attaching && world.rng.chance(15) {
        let World { sky, rng, .. } = world;
        sky.change_groups(true, rng, now);
    }
    let going = |c: &&ipam::Call| {
        matches!(
            c,
            ipam::Call::DetachEni { .. } | ipam::Call::Unassign { .. }
        )
    };
    let first = calls.iter().find(going).cloned();
    let removal = first.or_else(|| {
        calls.into_iter().find(|call| {
            matches!(
                call,
                ipam::Call::Unassign { .. }
                    | ipam::Call::DetachEni { .. }
                    | ipam::Call::DeleteEni { .. }
                    | ipam::Call::AttachEni { .. }
                    | ipam::Call::SetGroups { .. }
                    | ipam::Call::SetDeleteOnTermination { .. }
            )
        })
    });
    let Some(call) = removal else { return Ok(()) };
    let going = matches!(
        call,
        ipam::Call::DetachEni { .. } | ipam::Call::Unassign { .. }
    );
    if world.rng.chance(if going { 50 } else { 25 }) {
        // So many that some must wait, if that can be had.
        for _ in 0..80 {
            if world.pool.counts().waiting > 2 {
                break;
            }
            world.add()?;
        }
    }
    if world.rng.chance(if going { 15 } else { 8 }) {
        world.sky.overtake(&call, now);
    }
    if world.rng.chance(if going { 12 } else { 4 }) {
        world.restart()?;
        // What EC2 shows next may be older than what the last agent did.
        for _ in 0..world.rng.below(60) {
            world.add()?;
        }
    }
    Ok(())
}

/// Nearly all pods go, for long enough that the pool shrinks; then something gets in the way.
fn ebb(world: &mut World) -> Check {
    while !world.ledger.allocations.is_empty() && world.rng.chance(97) {
        world.delete(false)?;
    }
    for _ in 0..120 {
        let span = world.rng.below(2_000);
        until(world, span)?;
        meddle(world)?;
    }
    Ok(())
}

/// No more faults, no more people: two hours later, two sweeps included, all must be well.
fn settle(world: &mut World) -> Check {
    world.faulty = 0;
    world.lagging = false;
    world.sky.ec2.turn(|knobs| {
        knobs.throttle.enabled = false;
        knobs.denies.clear();
        knobs.describe_lag_ms = 0;
        knobs.imds_lag_ms = Some(0);
    });
    world.cordon(false)?;
    world.clear_orphans(usize::MAX)?;
    for _ in 0..140 {
        world.metadata()?;
        until(world, 60_000)?;
    }
    world.clear_orphans(usize::MAX)?;
    until(world, 60_000)
}

fn settled(world: &mut World) -> Check {
    let counts = world.pool.counts();
    let not_ready = world.pool.not_ready();
    ensure!(not_ready.is_none(), Stuck, "not ready: {not_ready:?}");
    ensure!(counts.waiting == 0, Stuck, "{} wait", counts.waiting);
    no_leak(world)?;
    targets_met(world)?;
    groups_equal(world)
}

/// Every interface that EC2 shows as ours is in service, and every address of it is known.
fn no_leak(world: &mut World) -> Check {
    let now = world.now;
    let foreign = world.sky.foreign.clone();
    let truth = world.sky.truth(now).clone();
    let attached = |f: &&Fact| f.view.attachment.is_some();
    let counts = world.pool.counts();
    let on_card =
        |f: &&Fact| attached(f) && !matches!(f.view.hands_off, Some(ipam::HandsOff::Card(_)));
    let no_place = truth.values().filter(on_card).count() >= world.node.limits.interfaces as usize;
    for fact in truth.values().filter(|f| !foreign.contains(&f.view.id)) {
        let id = &fact.view.id;
        let known = world.pool.enis().find(|known| known.id == *id);
        let Some(known) = known else {
            ensure!(false, Leak, "{id} leaked: {fact:?}");
            continue;
        };
        let homeless = matches!(known.stage, Stage::Detached | Stage::Unattached);
        let too_full = known.trouble.as_ref();
        let too_full = too_full.is_some_and(|why| why.kind == FailureKind::AddressLimit);
        if homeless && (no_place || too_full || counts.interfaces > counts.interfaces_max) {
            // Ripped out under its pods, and others took its place: kept, shown, tried again.
            ensure!(
                known.trouble.is_some(),
                Leak,
                "kept without a reason: {known:?}"
            );
            continue;
        }
        ensure!(
            known.stage == Stage::Ready,
            Leak,
            "not in service: {known:?}"
        );
        let protected = fact
            .view
            .attachment
            .as_ref()
            .is_some_and(|a| a.delete_on_termination);
        ensure!(
            known.is_primary() || !fact.view.ours || protected,
            Leak,
            "{id} outlives its instance"
        );
        let truth: BTreeSet<_> = fact.addresses().collect();
        let slots = known.slots.iter().filter(|(_, slot)| !slot.lost);
        let held: BTreeSet<_> = slots.map(|(a, _)| *a).collect();
        ensure!(
            held == truth,
            Leak,
            "{id}: EC2 alone has {:?}, the pool alone {:?}",
            truth.difference(&held).collect::<Vec<_>>(),
            held.difference(&truth)
                .map(|a| (a, &known.slots[a]))
                .collect::<Vec<_>>()
        );
        let leaving = known
            .slots
            .values()
            .any(|slot| slot.state == SlotState::Leaving);
        ensure!(!leaving, Leak, "addresses of {id} leave for ever");
    }
    for eni in world.pool.enis() {
        ensure!(truth.contains_key(&eni.id), Leak, "{} is no more", eni.id);
    }
    Ok(())
}

/// Neither too few addresses where EC2 would give more, nor too many where they can be given back.
fn targets_met(world: &mut World) -> Check {
    let counts = world.pool.counts();
    let (short, over) = world.pool.against_targets();
    ensure!(over == 0, Targets, "{over} too many: {counts:?}");
    if short == 0 {
        return Ok(());
    }
    let can = growth(world);
    ensure!(
        can.is_none(),
        Targets,
        "short of {short}: {counts:?}, {:?}, prefixes {}; EC2 would do {can:?}",
        world.config.warm,
        world.config.prefixes && world.node.prefixes
    );
    Ok(())
}

/// A call that would help and that EC2 would do now.
fn growth(world: &mut World) -> Option<ipam::Call> {
    let now = world.now;
    let prefixes = world.config.prefixes && world.node.prefixes;
    // Where no prefix is left, single addresses are for pods that need one, not for the targets.
    let wants: &[Want] = match (prefixes, world.pool.counts().available) {
        (true, 0) => &[Want::Prefixes(1), Want::Addresses(1)],
        (true, _) => &[Want::Prefixes(1)],
        (false, _) => &[Want::Addresses(1)],
    };
    let truth = world.sky.truth(now).clone();
    let slots = world.node.limits.slots() as usize;
    let used = |eni: &Eni| {
        truth.get(&eni.id).map_or(usize::MAX, |fact| {
            fact.view.secondary.len() + fact.view.prefixes.len()
        })
    };
    let room = |eni: &&Eni| eni.stage == Stage::Ready && used(eni) < slots;
    let mut calls: Vec<ipam::Call> = Vec::new();
    for eni in world.pool.enis().filter(room) {
        calls.extend(wants.iter().map(|want| ipam::Call::Assign {
            eni: eni.id.clone(),
            want: *want,
        }));
    }
    let counts = world.pool.counts();
    if counts.interfaces < counts.interfaces_max {
        let subnets = match world.config.discovery {
            true => world.sky.subnets.clone(),
            false => vec![world.sky.subnets[0].clone()],
        };
        for subnet in subnets {
            calls.extend(wants.iter().map(|want| ipam::Call::CreateEni {
                token: ipam::ClientToken("would".to_owned()),
                at: world.clock(),
                subnet: subnet.parse().unwrap(),
                groups: world.sky.groups[0].clone(),
                want: *want,
            }));
        }
    }
    calls.into_iter().find(|call| {
        let requests = world.sky.translator.requests(call);
        requests.iter().all(|request| world.sky.would(request, now))
    })
}

fn groups_equal(world: &mut World) -> Check {
    if world.config.group_sync == GroupSync::AtStart {
        let state = world.pool.group_state();
        ensure!(state == GroupState::Off, Groups, "{state:?}");
        return Ok(());
    }
    let state = world.pool.group_state();
    ensure!(state == GroupState::Equal, Groups, "{state:?}");
    let now = world.now;
    let wanted = world.sky.primary(now).view.groups;
    let foreign = world.sky.foreign.clone();
    for fact in world.sky.truth(now).values() {
        let ours = fact.view.attachment.is_some() && !foreign.contains(&fact.view.id);
        ensure!(
            !ours || fact.view.groups == wanted,
            Groups,
            "{} has {:?}, the primary one {wanted:?}",
            fact.view.id,
            fact.view.groups
        );
    }
    Ok(())
}
