//! A VPC and its nodes on one Linux machine: topologies, nodes, pods, life cycle.

pub mod build;
pub mod cgroup;
pub mod client;
pub mod cluster;
mod daemon;
mod error;
pub mod exec;
pub mod host;
mod http;
pub mod image;
pub mod knob;
mod mounts;
pub mod node;
pub mod place;
pub mod power;
mod procs;
pub mod state;
mod sys;
pub mod teardown;
pub mod topology;
mod up;

pub use daemon::serve;
pub use error::Error;
pub use sys::require_root;
pub use up::{UpOptions, down, up};
