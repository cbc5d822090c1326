//! The shell around the state machine: clock, sockets, knobs. Decides nothing about EC2.

mod admin;
mod auth;
mod bucket;
mod desired;
mod imds;
mod imds_paths;
pub mod knobs;
mod query;
mod sim;
mod sts;

pub use desired::{Attached, Desired};

pub use sim::{ServeError, Sim};
