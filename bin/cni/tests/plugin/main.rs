//! The real plugin, executed as a runtime executes it, in fresh network namespaces, against a real
//! gRPC server that keeps real allocation state. Test names carry the number of the line of
//! `tests/oracles/cni-checklist.json` that they hold.

#![allow(
    clippy::expect_used,
    reason = "tests state what they rely on and stop where it does not hold"
)]

mod add;
mod agent;
mod check;
mod checklist;
mod common;
mod del;
mod gc;
mod node;
mod noise;
mod status;
