//! The embedded EC2 and EKS: state machine, API server, instance metadata, and the fabric that carries packets.
//!
//! * the state machine is pure: [`apply`] a request to a [`State`] at a given time, [`State::tick`]
//!   as time passes; no clock, no sockets, randomness from a seed;
//! * [`eks`] is the embedded EKS: clusters in the same state, [`Sim::eks`] for the lab;
//! * [`Sim`] is its shell: clock, sockets, knobs, versions of the network for the fabric;
//! * [`Clockless`] is the same with knobs, but without clock and sockets: for simulations in virtual time;
//! * `fabric` turns the network that the state describes into namespaces, links, routes and nft rules.

mod actions;
pub mod addrs;
pub mod eks;
pub mod error;
pub mod fabric;
mod filter;
mod idempotency;
mod ids;
mod page;
mod rng;
mod shell;
mod store;

pub use actions::{Action, BUILT, Caller, Context, apply, call};
pub use error::{ApiError, ApiResult};
pub use shell::{Admitted, Attached, Clockless, Desired, ServeError, Sim, knobs};
pub use store::{Config, Quotas, State, Timing};
