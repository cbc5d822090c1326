//! The pool, event by event: each test is one story that can be read. What holds under every fault and in any
//! order is the agent's simulation's to show.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of a test; a panic is its failure"
)]

mod bed;
mod calm;
mod newcomers;
mod places;
mod prefixes;
mod reasons;
