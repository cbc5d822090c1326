//! A node: an EC2 instance as namespaces, with the agent and pods in it.
//!
//! `branchline lab node-init` is the node's first process. It holds the namespaces, keeps its services
//! (the agent, or containerd and kubelet) running and takes orders on a unix socket; when it ends, the kernel ends everything in the node.
//! It does not need the lab's daemon: with the daemon stopped, pods run on and new ones start.

mod cni;
mod init;
pub mod kube;
mod launch;
mod pods;
mod protocol;
mod service;
mod spec;

pub(crate) use init::say_ready;
pub use init::{enter_cgroup, init, pod_init};
pub use launch::{Boot, Node};
pub(crate) use launch::{await_ready, pin, start_logged};
pub use protocol::{
    AGENT, Answer, NodeStatus, Phase, PodName, PodNameError, PodStatus, Request, RunPod,
    ServiceAction, ServiceStatus, ask,
};
pub use spec::{ClusterNode, NodeSpec, PodSpec, ServiceSpec};
