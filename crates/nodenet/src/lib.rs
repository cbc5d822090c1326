//! What a node does to a packet.
//!
//! A node's network is a value, [`NodeNet`]: links, addresses, neighbours, routes and policy rules
//! as the kernel shows them. [`compile()`] says what it must be for given facts, `kernel::read`
//! what it is, [`diff()`] what to change (only what is ours), and [`trace()`] where a set of packets
//! goes. Upstream's names and numbers live in [`layout`] and nowhere else.

mod compile;
mod diff;
mod error;
pub mod facts;
pub mod layout;
mod model;
mod name;
mod owned;
mod text;
mod trace;
pub mod wiring;

pub use compile::{compile, machine_made, pods_by_veth, whole, wiring};
pub use diff::{Diff, Step, diff};
pub use error::Error;
pub use facts::{EniFacts, NodeFacts, NodeSettings, PodFacts};
pub use layout::{PodName, VethPrefix};
pub use model::{
    Addr, Link, LinkKind, Mark, Neighbour, NodeNet, Origin, Route, Rule, RuleAction, Scope, Target,
    host,
};
pub use name::{LinkName, Mac, TableId};
pub use owned::Owned;
pub use trace::{Entering, Exit, Need, Part, Question, Reason, Tracer, trace};
pub use wiring::{HostSide, PodPair, PodPort, PodSide, PodWiring};
