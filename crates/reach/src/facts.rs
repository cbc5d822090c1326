//! What must be known to answer: the VPC, and what runs on its nodes.
//!
//! The VPC comes from the EC2 API; a node's pods from Kubernetes, else from its agent's introspection.
//! None is trusted to be complete: what could not be read stands here by name, and leads to UNKNOWN.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use cni::introspect::{Enis, State};
use kube_view::Cluster;
use nodenet::NodeSettings;
use serde::{Deserialize, Serialize};
use vpc::facts::{InstanceId, SgId, Unread, World};

/// Everything an answer is computed from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inputs {
    /// The VPC side.
    pub world: World,
    /// What Kubernetes says; `None` when no cluster was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubernetes: Option<Cluster>,
    /// The nodes that are known, from Kubernetes or from their agents, by name.
    pub nodes: BTreeMap<String, Node>,
    /// Nodes that were named but whose pods are not known, and why.
    pub unread_nodes: BTreeMap<String, String>,
    /// What EC2 allows instances of a type, by type name.
    pub limits: BTreeMap<String, InstanceLimits>,
    /// Why limits are missing, if they could not be read.
    pub unread_limits: Option<Unread>,
    /// The add-on `vpc-cni`; `None` when EKS was not asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addon: Option<Addon>,
    /// Where sources contradict each other: node by node, in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub contradictions: Vec<String>,
    /// Where each part was read, and when.
    pub evidence: Vec<Evidence>,
}

/// One reading: which call, against what, how long it took to get.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// `aws` (API call), `k8s` (objects and their version), `node` (introspection), `file`.
    pub source: String,
    /// The call or address, as `DescribeNetworkInterfaces` or `ip-10-0-1-11 /v1/enis`.
    pub call: String,
    /// When it was read, RFC 3339.
    pub at: String,
}

/// A node: an instance whose agent gives addresses to pods.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its short name, as `ip-10-0-1-11`.
    pub name: String,
    /// Its instance.
    pub instance: InstanceId,
    /// What Kubernetes calls it, if it was read there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubernetes: Option<String>,
    /// The running pods with an address of their own, by Kubernetes' or the agent's word.
    pub pods: Vec<Pod>,
    /// The running pods on the host's network: their address is the node's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub host_pods: Vec<Pod>,
    /// What the agent's variables say about the node's network; `None`: the defaults.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<NodeSettings>,
    /// Why it cannot be said what the node does with packets, if it cannot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unclear: Option<String>,
    /// How the agent treats security groups.
    pub groups: GroupSync,
    /// Which agent answered, as `branchline 0.1.0` or `upstream`.
    pub agent: String,
    /// Variables that the agent says it runs with, where its pod declares something else.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub runs_otherwise: Vec<RunsOtherwise>,
    /// Whether a fresh IP would be drawn in the order of device indexes (ours) or at random
    /// (upstream).
    pub packs: bool,
    /// What the agent's introspection says, where it was asked and answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub told: Option<Box<Told>>,
    /// Why the agent did not answer, where it was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silent: Option<String>,
}

/// An agent's introspection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// When it was asked, RFC 3339.
    pub at: String,
    /// `/v1/enis`: upstream's document, ours too.
    pub enis: Enis,
    /// `/state`: ours only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<State>,
}

impl Node {
    /// Whether people may call it so: by its short name, Kubernetes' name or its instance.
    pub fn answers_to(&self, name: &str) -> bool {
        let names = [self.name.as_str(), self.instance.as_str()];
        names.contains(&name) || self.kubernetes.as_deref() == Some(name)
    }
}

/// A variable with two values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunsOtherwise {
    /// The variable.
    pub variable: String,
    /// What the agent's pod declares.
    pub declared: String,
    /// What the agent says.
    pub runs: String,
}

/// What EKS says of the add-on that manages the agent's DaemonSet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Addon {
    /// EKS manages it.
    Managed {
        /// Its version.
        version: String,
        /// Its status, as `ACTIVE`.
        status: String,
        /// The variables of its configuration.
        env: BTreeMap<String, String>,
    },
    /// EKS has no such add-on: somebody installed the DaemonSet.
    Absent,
    /// It could not be read.
    Unread(Unread),
}

/// A pod with an address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: Ipv4Addr,
}

impl Pod {
    /// `namespace/name`.
    pub fn label(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

/// What a node's agent does when the primary interface's groups change.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum GroupSync {
    /// Copies them to its other interfaces, and gives them to new ones (upstream since 1.7.2).
    On {
        /// Interfaces that the agent knows not to carry them yet.
        #[serde(default)]
        pending: BTreeSet<String>,
    },
    /// Never copies; a new interface gets the groups that the primary had when the agent started
    /// (upstream before 1.7.2).
    Off {
        /// That copy, if the agent tells.
        #[serde(default)]
        at_start: Option<BTreeSet<SgId>>,
    },
    /// The agent does not tell (upstream's introspection has no such field).
    #[default]
    Unknown,
}

/// What EC2 allows an instance of a type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceLimits {
    /// Network interfaces, the primary included.
    pub interfaces: u32,
    /// IPv4 addresses per interface, its primary included.
    pub addresses: u32,
    /// Interfaces of the card that carries the primary one, where the type has several cards: the
    /// agents use no other card.
    #[serde(default)]
    pub on_card: Option<u32>,
    /// Whether the type can have a trunk interface; `None` for a type that is newer than the table.
    #[serde(default)]
    pub trunking: Option<bool>,
    /// Branch interfaces that a trunk of the type carries; `None` as above.
    #[serde(default)]
    pub branches: Option<u32>,
    /// Whether its interfaces take `/28` prefixes (Nitro and bare metal do); `None` as above.
    #[serde(default)]
    pub prefixes: Option<bool>,
}

impl InstanceLimits {
    /// Interfaces that an agent can use.
    pub fn usable_interfaces(self) -> u32 {
        self.on_card.unwrap_or(self.interfaces)
    }

    /// Addresses that pods can have: each interface's primary address is the node's own.
    pub fn pod_addresses(self) -> u32 {
        self.interfaces * self.addresses.saturating_sub(1)
    }

    /// `max-pods` by upstream's formula: pod addresses and two pods on the host's network.
    pub fn max_pods(self) -> u32 {
        self.pod_addresses() + 2
    }
}
