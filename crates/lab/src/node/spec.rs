//! What a node and a pod are told when they start.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A node, as its first process is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeSpec {
    /// Its name in the lab.
    pub name: String,
    /// Its host name.
    pub hostname: String,
    /// Its pinned network namespace.
    pub netns: PathBuf,
    /// Its directory in the lab.
    pub dir: PathBuf,
    /// Its cgroup.
    pub cgroup: PathBuf,
    /// The `branchline` program.
    pub program: PathBuf,
}

/// The agent of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentSpec {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// Its whole environment.
    pub env: BTreeMap<String, String>,
}

/// A pod's process, as its first process is told (it then becomes the command).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodSpec {
    /// The pod's host name.
    pub hostname: String,
    /// Its cgroup, below the node's.
    pub cgroup: String,
    /// Where its output goes.
    pub log: PathBuf,
    /// What to run.
    pub command: Vec<String>,
    /// Its whole environment.
    pub env: BTreeMap<String, String>,
}
