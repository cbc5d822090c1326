//! Traces hop by hop over nodenet and vpc; placements; the verdict ALWAYS, SOMETIMES, NEVER or
//! UNKNOWN.
//!
//! The question is never "can this packet pass?" alone: it is "can it from wherever the sender may
//! run?". A pod's fate is decided by the interface that owns its address, and that is chosen for it
//! when it starts. So a question is answered once for each *place*: for every pod that runs
//! ([`place::Over::Running`]), and for the places where the next pod would land: the next interface
//! of a node, the next node of its launch template. Only running pods are counted in *k of n*; the
//! other places are answered beside them and never added to n.
//!
//! Nothing here knows a security group's or a routing rule's meaning: `vpc` and `nodenet` decide,
//! this crate asks them and compares the answers.

pub mod ask;
pub mod blast;
pub mod edit;
pub mod error;
pub mod facts;
pub mod node;
pub mod noun;
pub mod place;
pub mod resolve;
pub mod split;
pub mod target;
pub mod trace;

pub use ask::{Answer, Question, Verdict, ask, ask_after};
pub use error::Error;
pub use facts::Inputs;
