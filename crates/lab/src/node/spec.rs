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
    /// What a node of a Kubernetes cluster has more than a bare one.
    #[serde(default)]
    pub cluster: Option<ClusterNode>,
}

/// What a node of a Kubernetes cluster sees, and a bare one does not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterNode {
    /// The directory that stands for its disk: what survives a power cut.
    pub disk: PathBuf,
    /// Its `/etc/resolv.conf`, as its VPC's DHCP would write it.
    pub resolv_conf: String,
}

/// A program that a node keeps running.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceSpec {
    /// Its name, also of its cgroup below the node's and of its log.
    pub name: String,
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// Its whole environment.
    pub env: BTreeMap<String, String>,
    /// A socket that has to take connections before it is started: that of another service.
    #[serde(default)]
    pub after: Option<PathBuf>,
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
