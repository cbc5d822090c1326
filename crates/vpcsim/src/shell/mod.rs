//! The shell around the state machine: clock, sockets, knobs. Decides nothing about EC2.

mod admin;
mod admit;
mod auth;
mod bucket;
mod clockless;
mod desired;
mod imds;
mod imds_paths;
pub mod knobs;
mod query;
mod sim;

pub(crate) use admit::{Dialect, guarded};
pub(crate) use auth::Signed;
pub use clockless::{Admitted, Clockless};
pub use desired::{Attached, Desired};
pub(crate) use query::request_id;
pub(crate) use sim::Core;

pub use sim::{ServeError, Sim};
