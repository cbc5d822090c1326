//! A VPC and its nodes on one Linux machine: topologies, nodes, pods, life cycle.

pub mod cgroup;
pub mod client;
mod error;
pub mod exec;
pub mod host;
mod mounts;
pub mod node;
pub mod place;
mod procs;
pub mod state;
mod sys;
pub mod teardown;
pub mod topology;

pub use error::Error;
pub use sys::require_root;
