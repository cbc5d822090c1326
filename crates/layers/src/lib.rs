//! The intermediate form: ordered layers of rules with provenance, and the one evaluator over them.
//!
//! Security groups, network ACLs and NetworkPolicies compile to [`Layer`]s; nothing else decides.
//! Four consumers read the same value: [`eval`] here, the lab's nftables, the datapath's maps, and
//! [`Layer`]'s `Display` for people. A [`Match`] names address *sets* that stand in one [`Sets`]
//! table, so that membership changes a set and never a rule.

mod eval;
mod layer;
pub mod mutants;
mod sets;
mod text;

pub use eval::{Decided, Part, eval};
pub use layer::{Action, Addresses, Layer, LayerName, Match, Provenance, Rule, Service};
pub use sets::{SetName, Sets};
