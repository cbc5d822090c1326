//! The pool against a cloud that fails in every way, over random events.
//!
//! Seeded: the seed is printed, `SEED=… cargo test -p ipam` repeats a run. What holds at every
//! step is checked in `World`; when the weather clears, [`settled`] checks what must hold then:
//! nothing leaked, targets met, groups equal, nobody waiting.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of a test; a panic is its failure"
)]

mod cloud;
mod rng;
mod world;

use std::collections::BTreeSet;
use std::time::Duration;

use cloud::Cloud;
use ipam::{Config, Eni, GroupState, Limits, Millis, NodeFacts, SlotState, Stage};
use rng::Rng;
use settings::{GroupSync, Settings, WarmTargets};
use vpc::facts::SgId;
use world::{Coverage, FAULTS, World};

const STEPS: u64 = 120_000;

#[test]
fn random_events_and_faults() {
    let seed: u64 = match std::env::var("SEED") {
        Ok(text) => text.parse().expect("SEED is a number"),
        Err(_) => 20_261_121,
    };
    println!("SEED={seed}");
    let mut coverage = Coverage::new();
    let mut refused = std::collections::BTreeMap::<String, u32>::new();
    let (mut steps, mut episode) = (0, 0u64);
    while steps < STEPS || (steps < 5 * STEPS && !missing(&coverage).is_empty()) {
        let mut rng = Rng(seed.wrapping_mul(1_000_003).wrapping_add(episode));
        println!("episode {episode}");
        let mut world = build(&mut rng, episode);
        storm(&mut world, &mut coverage);
        settle(&mut world, &mut coverage);
        settled(&world);
        steps += world.steps;
        for (reason, n) in world.refused {
            *refused.entry(reason).or_default() += n;
        }
        episode += 1;
    }
    println!("{steps} steps in {episode} episodes; refused: {refused:?}");
    let missing = missing(&coverage);
    assert!(
        missing.is_empty(),
        "never happened (somebody waits, call, outcome): {missing:#?}"
    );
    for reason in [
        "SubnetFull",
        "Limit",
        "Ec2",
        "NotReady",
        "Deleted",
        "NotUsable",
    ] {
        assert!(
            refused.contains_key(reason),
            "no ADD was refused with {reason}: {refused:?}"
        );
    }
}

fn groups() -> Vec<Vec<SgId>> {
    let sets: [&[&str]; 3] = [&["sg-a"], &["sg-a", "sg-b"], &["sg-c"]];
    sets.iter()
        .map(|set| set.iter().map(|g| g.parse().unwrap()).collect())
        .collect()
}

fn build(rng: &mut Rng, episode: u64) -> World {
    let limits = *rng.pick(&[
        Limits {
            interfaces: 3,
            ipv4_per_interface: 6,
        },
        Limits {
            interfaces: 4,
            ipv4_per_interface: 15,
        },
        Limits {
            interfaces: 2,
            ipv4_per_interface: 4,
        },
        Limits {
            interfaces: 8,
            ipv4_per_interface: 30,
        },
    ]);
    let mut config = Config::new(&Settings::default(), rng.next());
    config.warm = *rng.pick(&[
        WarmTargets {
            eni: 1,
            ip: 0,
            minimum: 0,
            prefix: 1,
        },
        WarmTargets {
            eni: 0,
            ip: 0,
            minimum: 0,
            prefix: 1,
        },
        WarmTargets {
            eni: 2,
            ip: 0,
            minimum: 0,
            prefix: 1,
        },
        WarmTargets {
            eni: 1,
            ip: 2,
            minimum: 0,
            prefix: 1,
        },
        WarmTargets {
            eni: 1,
            ip: 5,
            minimum: 10,
            prefix: 1,
        },
        WarmTargets {
            eni: 1,
            ip: 0,
            minimum: 7,
            prefix: 1,
        },
    ]);
    config.discovery = false;
    config.max_eni = *rng.pick(&[None, None, Some(2)]);
    config.group_sync = if episode.is_multiple_of(4) {
        GroupSync::AtStart
    } else {
        GroupSync::UntilConfirmed
    };
    // Large, or too small for the instance.
    let subnet = *rng.pick(&[240, 240, 12, 30]);
    let node = NodeFacts {
        instance: "i-1".parse().unwrap(),
        subnet: "subnet-1".parse().unwrap(),
        prefixes: true,
        limits,
    };
    let start = *rng.pick(&[0, 0, 1]);
    let cloud = Cloud::new(limits, subnet, start, &groups()[0]);
    let mut world = World::new(config, node, cloud, Rng(rng.next()));
    world.cloud.lagging = rng.chance(50);
    world.faulty = *rng.pick(&[0, 10, 30, 60]);
    world
}

/// Pods come and go, EC2 fails, people interfere, the agent is killed.
fn storm(world: &mut World, coverage: &mut Coverage) {
    let groups = groups();
    let busy = *world.rng.pick(&[20u64, 45, 60]);
    for _ in 0..700 {
        match world.rng.below(100) {
            n if n < busy => {
                for _ in 0..=world.rng.below(4) {
                    world.add();
                }
            }
            n if n < 75 => {
                for _ in 0..=world.rng.below(3) {
                    world.delete(true);
                }
            }
            75..=78 => world.add_again(),
            79..=84 => world.metadata(),
            85..=87 => world.somebody_else(&groups),
            88 if world.rng.chance(30) => world.restart(coverage),
            89 => ebb(world, coverage),
            90 => {
                let cordoned = world.rng.chance(30);
                world.cordon(cordoned);
            }
            _ => {}
        }
        let span = *world.rng.pick(&[1u64, 50, 500, 3_000, 40_000]);
        let until = Millis(world.now.0 + world.rng.below(span));
        while world.advance(until, coverage) {}
        world.meddle();
    }
}

/// Nearly all pods go, for long enough that the pool shrinks; then something gets in the way.
fn ebb(world: &mut World, coverage: &mut Coverage) {
    while world.pods() > 0 && world.rng.chance(95) {
        world.delete(false);
    }
    for _ in 0..250 {
        let until = Millis(world.now.0 + world.rng.below(1_000));
        while world.advance(until, coverage) {}
        world.meddle();
        if world.calls_in_flight() > 0 && world.rng.chance(2) {
            world.restart(coverage);
        }
    }
}

/// No more faults, no more people: ten minutes and two sweeps later all must be well.
fn settle(world: &mut World, coverage: &mut Coverage) {
    world.faulty = 0;
    world.cordon(false);
    world.cloud.lagging = false;
    for _ in 0..280 {
        world.metadata();
        let until = world.now.after(Duration::from_secs(30));
        while world.advance(until, coverage) {}
    }
}

fn settled(world: &World) {
    let counts = world.pool.counts();
    assert_eq!(world.pool.not_ready(), None);
    assert_eq!(counts.waiting, 0);
    assert!(world.only_probes_a_full_subnet(), "something is still open");
    no_leak(world);
    targets_met(world);
    groups_equal(world);
}

/// Every interface that EC2 shows as ours is in service, and every address of it is known.
fn no_leak(world: &World) {
    for eni in world.cloud.enis.values().filter(|eni| !eni.foreign) {
        let known = world.pool.enis().find(|known| known.id == eni.view.id);
        let known = known.unwrap_or_else(|| panic!("{} leaked: {eni:?}", eni.view.id));
        let no_place = world.cloud.attached().count() >= world.node.limits.interfaces as usize;
        if known.stage == Stage::Detached && no_place {
            // Ripped out under its pods, and others took its place: kept, shown, tried again.
            assert!(known.trouble.is_some(), "{known:?}");
            continue;
        }
        assert_eq!(known.stage, Stage::Ready, "{known:?}");
        assert!(known.is_primary() || eni.view.attachment.as_ref().unwrap().delete_on_termination);
        let truth: BTreeSet<_> = eni.view.secondary.iter().collect();
        let held: BTreeSet<_> = known
            .slots
            .iter()
            .filter(|(_, slot)| !slot.lost)
            .map(|(a, _)| a)
            .collect();
        assert_eq!(held, truth, "addresses of {}", known.id);
        assert!(
            known
                .slots
                .values()
                .all(|slot| slot.state != SlotState::Leaving)
        );
    }
    for eni in world.pool.enis() {
        assert!(
            world.cloud.enis.contains_key(&eni.id),
            "{} is no more",
            eni.id
        );
    }
}

fn targets_met(world: &World) {
    let counts = world.pool.counts();
    let slots = world.node.limits.slots();
    let stock = ipam::arithmetic::Stock {
        total: counts.total,
        available: counts.available,
        ..Default::default()
    };
    let targets = ipam::arithmetic::Targets {
        warm: world.config.warm,
        unit: ipam::Unit::Address,
        slots,
    };
    let short = ipam::arithmetic::short(targets, stock);
    let has_no_room = |eni: &Eni| eni.stage != Stage::Ready || eni.slots.len() as u32 >= slots;
    let full = counts.interfaces >= counts.interfaces_max && world.pool.enis().all(has_no_room);
    // A new interface needs an address for itself as well.
    let subnet_full = world.cloud.free_addresses() <= 1;
    assert!(
        short == 0 || full || subnet_full,
        "short of {short}: {counts:?}, {} free in the subnet, {:?}",
        world.cloud.free_addresses(),
        world.config.warm
    );
    assert_eq!(
        ipam::arithmetic::over(targets, stock).slots(),
        0,
        "{counts:?}"
    );
}

fn groups_equal(world: &World) {
    if world.config.group_sync == GroupSync::AtStart {
        assert_eq!(world.pool.group_state(), GroupState::Off);
        return;
    }
    assert_eq!(world.pool.group_state(), GroupState::Equal);
    let wanted = world.cloud.primary_groups();
    for eni in world.cloud.attached().filter(|eni| !eni.foreign) {
        assert_eq!(eni.view.groups, wanted, "{}", eni.view.id);
    }
}

/// What must have happened and has not: every call meets every fault and its own refusals, while
/// pods wait and while none do, and the agent is killed during every call.
fn missing(coverage: &Coverage) -> Vec<(bool, &'static str, String)> {
    const EC2: [&str; 9] = [
        "CreateNetworkInterface",
        "AttachNetworkInterface",
        "ModifyNetworkInterfaceAttribute",
        "AssignPrivateIpAddresses",
        "UnassignPrivateIpAddresses",
        "DetachNetworkInterface",
        "DeleteNetworkInterface",
        "SetGroups",
        "DescribeNetworkInterfaces",
    ];
    let mut wanted: Vec<(&str, String)> = Vec::new();
    for action in EC2 {
        wanted.push((action, "Ok".to_owned()));
        for fault in FAULTS {
            let account = fault == cloud::Fault::AccountLimit;
            if !account || action == "CreateNetworkInterface" {
                wanted.push((action, format!("{fault:?}")));
            }
        }
    }
    let own = [
        ("CreateNetworkInterface", "SubnetFull"),
        ("AssignPrivateIpAddresses", "SubnetFull"),
        ("AssignPrivateIpAddresses", "AddressLimit"),
        ("AssignPrivateIpAddresses", "NotFound"),
        ("AttachNetworkInterface", "InstanceEniLimit"),
        ("AttachNetworkInterface", "Conflict"),
        ("UnassignPrivateIpAddresses", "NotFound"),
        ("DetachNetworkInterface", "NotFound"),
        ("DeleteNetworkInterface", "NotFound"),
        ("SetGroups", "NotFound"),
        ("interface set-up", "Ok"),
        ("interface set-up", "Rejected"),
        ("interface set-up", "NotFound"),
        ("interface set-up", "UnclearBefore"),
        ("interface set-up", "UnclearAfter"),
    ];
    wanted.extend(own.map(|(action, outcome)| (action, outcome.to_owned())));
    let seen = |waiting, action: &str, outcome: &String| {
        coverage
            .keys()
            .any(|(w, a, o)| *w == waiting && *a == action && o == outcome)
    };
    let both = wanted
        .into_iter()
        .flat_map(|(action, outcome)| [(true, action, outcome.clone()), (false, action, outcome)]);
    let killed = EC2.map(|action| (false, action, "Killed".to_owned()));
    both.chain(killed)
        .filter(|(waiting, action, outcome)| !seen(*waiting, action, outcome))
        .collect()
}
