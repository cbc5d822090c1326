//! The model's predictions against real packets, in random worlds.
//!
//! `SEED` repeats a run, `CASES` asks for more of it. Every decision that the model knows must have decided at
//! least [`PER_HOP`] cases, and a planted fault in the model or in the packet plane must show as a disagreement.

#![allow(
    clippy::unwrap_used,
    unreachable_pub,
    reason = "in test code a panic is the report"
)]

#[path = "../bed/mod.rs"]
mod bed;
mod changes;
mod model;
mod mutants;

use std::collections::BTreeMap;

use bed::probe::FAITH;
use bed::random::{self, Rng};
use bed::{Bed, can_run};
use model::{Decision, PER_WORLD, cases, disagreements};

/// Cases per run unless `CASES` says otherwise.
const CASES: usize = 240;
/// How many cases each kind of decision must have decided.
const PER_HOP: usize = 5;

const MUST_DECIDE: [Decision; 11] = [
    Decision::GroupEgress,
    Decision::GroupIngress,
    Decision::AclOut,
    Decision::AclIn,
    Decision::NoRoute,
    Decision::Blackhole,
    Decision::SourceCheck,
    Decision::PeeringNotTransitive,
    Decision::PrefixList,
    Decision::IcmpType,
    Decision::Untracked,
];

fn seed() -> u64 {
    match std::env::var("SEED") {
        Ok(text) => text.parse().expect("SEED is a number"),
        Err(_) => u64::from(std::process::id()) ^ 0x5eed_0000,
    }
}

#[test]
fn the_model_and_the_packets_agree() {
    if !can_run() {
        return;
    }
    let seed = seed();
    let wanted = std::env::var("CASES").map_or(CASES, |text| text.parse().expect("a number"));
    println!("SEED={seed} CASES={wanted}");
    let mut rng = Rng(seed);
    let mut decided: BTreeMap<Decision, usize> = BTreeMap::new();
    let (mut total, mut allowed) = (0, 0);
    let short = |decided: &BTreeMap<Decision, usize>| {
        MUST_DECIDE
            .iter()
            .any(|d| decided.get(d).copied().unwrap_or(0) < PER_HOP)
    };
    let mut worlds = 0;
    while total < wanted || (short(&decided) && worlds < 4 + wanted / PER_WORLD) {
        let world = random::world(&mut rng);
        let cases = cases(&mut rng, &world);
        let bed = Bed::new(world);
        let wrong = disagreements(&bed, &cases, FAITH);
        for (case, seen) in &wrong {
            println!(
                "SEED={seed} world {worlds}: {case}\n    expected {:?}, seen {seen:?}",
                case.expected
            );
        }
        assert!(
            wrong.is_empty(),
            "{} of {} cases disagree (SEED={seed})",
            wrong.len(),
            cases.len()
        );
        for case in &cases {
            *decided.entry(case.decision).or_default() += 1;
            allowed += usize::from(case.expected.answered);
        }
        total += cases.len();
        worlds += 1;
    }
    println!("{total} cases in {worlds} worlds, {allowed} allowed; decided by {decided:?}");
    assert!(allowed * 10 >= total * 3, "{allowed} of {total} allowed");
    assert!(
        (total - allowed) * 10 >= total * 3,
        "{} of {total} denied",
        total - allowed
    );
    for hop in MUST_DECIDE {
        let count = decided.get(&hop).copied().unwrap_or(0);
        assert!(
            count >= PER_HOP,
            "{hop:?} decided {count} cases only (SEED={seed})"
        );
    }
}
