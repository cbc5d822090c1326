//! The orders a node takes: one JSON line each way over its unix socket.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::spec::ServiceSpec;
use crate::error::{Error, IoContext as _};

/// The service that is a bare node's agent.
pub const AGENT: &str = "agent";

/// A pod's namespace and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct PodName {
    /// The Kubernetes namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
}

/// Text that cannot name a pod.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' cannot name a pod: write NAME or NAMESPACE/NAME in lower-case letters, digits and '-'"
)]
pub struct PodNameError(String);

impl PodName {
    /// A pod `name` in `namespace`.
    ///
    /// # Errors
    /// When either is not what Kubernetes accepts.
    pub fn new(namespace: &str, name: &str) -> Result<Self, PodNameError> {
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
        let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let good = |t: &str, most: usize| {
            t.len() <= most && t.starts_with(edge) && t.ends_with(edge) && t.chars().all(fits)
        };
        if good(namespace, 63) && good(name, 120) {
            Ok(Self {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
            })
        } else {
            Err(PodNameError(format!("{namespace}/{name}")))
        }
    }

    /// The pod's cgroup below its node's, and the stem of its files. Unique, since neither part
    /// contains `_`.
    #[must_use]
    pub fn leaf(&self) -> String {
        format!("pod-{}_{}", self.namespace, self.name)
    }

    /// The inverse of [`PodName::leaf`].
    #[must_use]
    pub fn from_leaf(leaf: &str) -> Option<Self> {
        let (namespace, name) = leaf.strip_prefix("pod-")?.split_once('_')?;
        Self::new(namespace, name).ok()
    }
}

impl FromStr for PodName {
    type Err = PodNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (namespace, name) = text.split_once('/').unwrap_or(("default", text));
        Self::new(namespace, name)
    }
}

impl fmt::Display for PodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}/{}", self.namespace, self.name))
    }
}

impl From<PodName> for String {
    fn from(name: PodName) -> Self {
        name.to_string()
    }
}

impl TryFrom<String> for PodName {
    type Error = PodNameError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

/// A pod to start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunPod {
    /// Its name.
    pub pod: PodName,
    /// What to run in it.
    pub command: Vec<String>,
    /// For how many milliseconds the network is tried again when a plugin asks for that (code 11).
    pub retry_ms: u64,
}

/// An order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub enum Request {
    /// Keep this program running.
    StartService(ServiceSpec),
    /// Change a service's environment (`None` removes a variable) and start it anew.
    SetEnv {
        /// Which.
        service: String,
        /// The variables.
        changes: BTreeMap<String, Option<String>>,
    },
    /// Stop, start, restart or kill a service.
    Service {
        /// Which.
        service: String,
        /// What to do with it.
        action: ServiceAction,
    },
    /// Start a pod; answered with its [`PodStatus`].
    RunPod(RunPod),
    /// End a pod and forget it. The command gets SIGTERM and, `grace_ms` later, SIGKILL.
    DeletePod {
        /// Which.
        pod: PodName,
        /// How long it may take to end by itself, in milliseconds.
        grace_ms: u64,
    },
    /// Ask the plugins whether a pod's network is as they made it (CNI CHECK).
    CheckPod {
        /// Which.
        pod: PodName,
    },
    /// Tell the plugins which pods exist, so that they free everything else (CNI GC).
    Gc,
    /// Answered with [`NodeStatus`].
    Status,
}

/// The answer to an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// Done.
    Done,
    /// A pod.
    Pod(PodStatus),
    /// The whole node.
    Node(NodeStatus),
    /// Not done, and why.
    Failed(String),
}

/// How far a pod is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// The plugins are at work.
    Starting,
    /// Its command runs.
    Running,
    /// Its command ended with this code (128 + the signal's number when killed).
    Exited(i32),
    /// Its network could not be removed; deleting it tries again.
    Stuck(String),
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Starting => f.pad("Starting"),
            Self::Running => f.pad("Running"),
            Self::Exited(code) => f.pad(&format!("Exited({code})")),
            Self::Stuck(why) => f.pad(&format!("Stuck: {why}")),
        }
    }
}

/// One pod of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodStatus {
    /// Its name.
    pub pod: PodName,
    /// How far it is.
    pub phase: Phase,
    /// Its address, once it has one.
    pub address: Option<std::net::Ipv4Addr>,
    /// Its container id, as the plugins know it.
    pub container: String,
    /// What it runs.
    pub command: Vec<String>,
}

/// What can be done with a service of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServiceAction {
    /// Keep it running again.
    Start,
    /// SIGTERM, SIGKILL if that does not end it, and no new start.
    Stop,
    /// Stop it and start it at once.
    Restart,
    /// SIGKILL; it is started again as after a crash.
    Kill,
}

/// A service of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// Its process in the node, when it runs.
    pub pid: Option<i32>,
    /// Whether it was told to stay down.
    #[serde(default)]
    pub stopped: bool,
    /// How often it was started again.
    pub restarts: u32,
    /// How it ended last.
    pub last_exit: Option<String>,
}

/// One node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Whether a network configuration is installed, which makes a node ready for pods.
    pub ready: bool,
    /// What it keeps running, by name: `agent` on a bare node, `containerd` and `kubelet` on a
    /// cluster's.
    pub services: BTreeMap<String, ServiceStatus>,
    /// Its pods, by name.
    pub pods: Vec<PodStatus>,
}

impl NodeStatus {
    /// Its agent, when it has one of its own.
    #[must_use]
    pub fn agent(&self) -> Option<&ServiceStatus> {
        self.services.get(AGENT)
    }
}

/// Sends an order to the node behind a socket and waits for the answer.
///
/// # Errors
/// When the node does not answer, or answers that it failed ([`Error::Refused`]).
pub fn ask(socket: &Path, request: &Request) -> Result<Answer, Error> {
    let mut stream = UnixStream::connect(socket).at(socket)?;
    let what = || socket.display().to_string();
    let mut line = serde_json::to_string(request).map_err(|source| Error::Message {
        what: what(),
        source,
    })?;
    line.push('\n');
    stream.write_all(line.as_bytes()).at(socket)?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).at(socket)?;
    match serde_json::from_str(&answer).map_err(|source| Error::Message {
        what: what(),
        source,
    })? {
        Answer::Failed(message) => Err(Error::Refused {
            what: "node".into(),
            message,
        }),
        answer => Ok(answer),
    }
}
