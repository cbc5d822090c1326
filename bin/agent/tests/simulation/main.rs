//! The pool and its shell's translation against the lab's EC2 in virtual time, over random events, faults, kills,
//! clocks and people.
//!
//! `SEED=… STEPS=… cargo test -p branchline-agent --test simulation random -- --nocapture` repeats a run; `make soak`
//! is the long one. Every episode is one seed; a failing one prints it, and `SEED=that STEPS=1 TRACE=1` shows each
//! event and effect of it. What must hold at every step is checked in `world` and `ledger`, what must hold when the
//! weather clears in `episode`, what must have happened in `coverage`. Planted bugs are in `mutants`.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of a test; a panic is its failure"
)]

mod broken;
mod coverage;
mod episode;
mod ledger;
mod life;
mod mutants;
mod node;
mod people;
mod rng;
mod sky;
mod words;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use broken::{Broken, Check, Invariant};
use coverage::Coverage;
use mutants::{MUTANTS, Mutant};

/// In `cargo test`; `make soak` takes more.
const STEPS: u64 = 60_000;
/// From so many steps on, everything must have happened with somebody waiting and without.
const LONG: u64 = 1_000_000;
const SEED: u64 = 20_261_121;

fn number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) if !text.is_empty() => text.parse().expect("SEED and STEPS are numbers"),
        _ => default,
    }
}

/// One episode; how many steps it took, what happened, and what broke.
fn episode(seed: u64, mutant: Option<Mutant>) -> (u64, Coverage, Check) {
    let mut world = episode::build(seed, mutant);
    world.trace = std::env::var_os("TRACE").is_some();
    let ran = catch_unwind(AssertUnwindSafe(|| episode::run(&mut world)));
    let check = ran.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        Err(Broken {
            invariant: Invariant::Panic,
            text: text.unwrap_or_default(),
        })
    });
    (world.steps, world.coverage, check)
}

#[derive(Default)]
struct Sum {
    steps: u64,
    episodes: u64,
    coverage: Coverage,
    broken: Vec<(u64, Broken)>,
}

#[test]
fn random_events_and_faults() {
    let (first, steps) = (number("SEED", SEED), number("STEPS", STEPS));
    println!("SEED={first} STEPS={steps}");
    let (next, began) = (AtomicU64::new(first), Instant::now());
    let sum = Mutex::new(Sum::default());
    let work = || {
        loop {
            {
                let sum = sum.lock().unwrap();
                // What has not happened yet is waited for, not for ever.
                let complete = steps < STEPS || sum.coverage.missing(steps >= LONG).is_empty();
                if sum.steps >= 5 * steps || (sum.steps >= steps && complete) {
                    return;
                }
            }
            let seed = next.fetch_add(1, Ordering::Relaxed);
            let (took, coverage, check) = episode(seed, None);
            let mut sum = sum.lock().unwrap();
            sum.steps += took;
            sum.episodes += 1;
            sum.coverage.merge(&coverage);
            if let Err(broken) = check {
                println!("seed {seed}: {broken}\n  replay: SEED={seed} STEPS=1 TRACE=1 make soak");
                sum.broken.push((seed, broken));
            }
        }
    };
    std::thread::scope(|scope| {
        // A replay is one seed and its trace.
        let threads = match steps {
            1 => 1,
            _ => std::thread::available_parallelism().map_or(1, usize::from),
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let mut told = Instant::now();
        while workers.iter().any(|worker| !worker.is_finished()) {
            std::thread::sleep(Duration::from_millis(50));
            if told.elapsed() >= Duration::from_secs(5) {
                told = Instant::now();
                let sum = sum.lock().unwrap();
                let (episodes, broken) = (sum.episodes, sum.broken.len());
                println!("{} steps, {episodes} seeds, {broken} broken", sum.steps);
            }
        }
    });
    let sum = sum.into_inner().unwrap();
    let took = began.elapsed().as_secs();
    println!(
        "{} steps over {} seeds from {first} in {took} s; {} broken",
        sum.steps,
        sum.episodes,
        sum.broken.len()
    );
    println!("refused: {:?}", sum.coverage.refused);
    println!("{:?}", sum.coverage.seen);
    let missing = sum.coverage.missing(steps >= LONG);
    println!("never happened: {missing:?}");
    assert!(sum.broken.is_empty(), "{:?}", sum.broken);
    if steps >= STEPS {
        assert!(missing.is_empty(), "never happened: {missing:#?}");
    }
}

#[test]
fn every_planted_bug_is_found() {
    let next = AtomicU64::new(0);
    let unfound = Mutex::new(Vec::new());
    let work = || {
        while let Some((mutant, promises)) =
            MUTANTS.get(next.fetch_add(1, Ordering::Relaxed) as usize)
        {
            if let Err(what) = hunt(*mutant, promises) {
                unfound.lock().unwrap().push(what);
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(work);
        scope.spawn(work);
    });
    let unfound = unfound.into_inner().unwrap();
    assert!(unfound.is_empty(), "{unfound:#?}");
}

/// Finds a bug by one of the promises that it breaks, within a bounded number of episodes.
fn hunt(mutant: Mutant, promises: &[Invariant]) -> Result<(), String> {
    const SEEDS: u64 = 60;
    let mut steps = 0;
    let found = (SEED..SEED + SEEDS).find_map(|seed| {
        let (took, _, check) = episode(seed, Some(mutant));
        steps += took;
        check.err().map(|broken| (seed, broken))
    });
    match found {
        Some((seed, broken)) if promises.contains(&broken.invariant) => {
            println!("{mutant:?}: found after {steps} steps (seed {seed}): {broken}");
            Ok(())
        }
        other => Err(format!("{mutant:?} within {steps} steps: {other:?}")),
    }
}
