//! What a lab's daemon says about itself in `lab.json`: for `lab status`, `lab env`, `lab down`.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use crate::error::{Error, IoContext as _};
use crate::place::Place;

/// The access key that `lab env` hands out. Any key works; this one is easy to recognise.
pub(crate) const ACCESS_KEY: &str = "AKIABRANCHLINELAB000";
/// Its secret.
pub(crate) const SECRET_KEY: &str = "branchline-lab-secret";

/// A lab as its daemon describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The daemon's process.
    pub daemon: Process,
    /// The topology's file.
    pub topology: PathBuf,
    /// Region of everything in the lab.
    pub region: String,
    /// Port of the EC2 API on 127.0.0.1.
    pub port: u16,
    /// Whether everything in the topology stands.
    pub ready: bool,
    /// Nodes by name.
    pub nodes: BTreeMap<String, NodeState>,
    /// Nodes whose instance is stopped, by name.
    #[serde(default)]
    pub stopped: BTreeMap<String, NodeState>,
    /// Hosts by name.
    pub hosts: BTreeMap<String, HostState>,
    /// Clusters by name.
    #[serde(default)]
    pub clusters: BTreeMap<String, ClusterState>,
    /// What does not follow EC2, and why.
    #[serde(default)]
    pub trouble: Option<String>,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeState {
    /// Its EC2 instance.
    pub instance: String,
    /// The instance's private DNS name, which is the Kubernetes node's.
    #[serde(default)]
    pub dns_name: String,
    /// The Kubernetes cluster that it is to join, if any.
    #[serde(default)]
    pub cluster: Option<String>,
    /// Its primary address.
    pub address: Option<Ipv4Addr>,
    /// The port on 127.0.0.1 behind which its agent's introspection answers, when it has an agent.
    pub introspection: Option<u16>,
}

/// One host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostState {
    /// Its interface, unless it is on the internet.
    pub eni: Option<String>,
    /// Its address.
    pub address: Option<Ipv4Addr>,
    /// Where it answers.
    pub listen: Vec<String>,
}

/// One cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterState {
    /// URL of its API server.
    pub endpoint: String,
    /// The port on 127.0.0.1 behind which the API server answers, unless its endpoint is private.
    pub port: Option<u16>,
    /// Version of Kubernetes.
    pub version: String,
    /// Certificate of its authority.
    pub ca: PathBuf,
    /// Directory of the programs of Kubernetes, `kubectl` and `helm` among them.
    pub programs: PathBuf,
    /// Whether its add-ons are installed.
    pub ready: bool,
}

/// A process that is known again: its number and when it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its number.
    pub pid: i32,
    /// Its start in clock ticks since boot (field 22 of `/proc/PID/stat`).
    pub started: u64,
}

impl Process {
    /// The calling process.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn own() -> Result<Self, Error> {
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        let path = "/proc/self/stat";
        let text = fs::read_to_string(path).at(path)?;
        let started = start_time(&text).ok_or(Error::NoStartTime)?;
        Ok(Self { pid, started })
    }

    /// Whether this very process still runs.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        let text = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        start_time(&text) == Some(self.started) && !is_zombie(&text)
    }

    /// Sends it a signal unless it has ended.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn signal(&self, signal: Signal) -> Result<(), Error> {
        let gone = |e: rustix::io::Errno| e == rustix::io::Errno::SRCH;
        let failed = |e: rustix::io::Errno| Error::Process {
            what: "signal",
            pid: self.pid,
            source: e.into(),
        };
        let Some(pid) = Pid::from_raw(self.pid) else {
            return Ok(());
        };
        let fd = match pidfd_open(pid, PidfdFlags::empty()) {
            Err(e) if gone(e) => return Ok(()),
            other => other.map_err(failed)?,
        };
        // The descriptor is of this process if it still was the one after the opening.
        if !self.is_alive() {
            return Ok(());
        }
        match pidfd_send_signal(&fd, signal) {
            Err(e) if !gone(e) => Err(failed(e)),
            _ => Ok(()),
        }
    }
}

fn fields(stat: &str) -> impl Iterator<Item = &str> {
    // The command's name may hold blanks and parentheses; what follows the last one does not.
    stat.rsplit_once(") ")
        .map_or("", |(_, rest)| rest)
        .split(' ')
}

fn start_time(stat: &str) -> Option<u64> {
    fields(stat).nth(19)?.parse().ok()
}

fn is_zombie(stat: &str) -> bool {
    matches!(fields(stat).next(), Some("Z" | "X"))
}

impl State {
    /// Reads what the daemon of a lab last said; `None` when there is no such lab.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn read(place: &Place) -> Result<Option<Self>, Error> {
        let path = place.state();
        let text = match fs::read(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.at(&path)?,
        };
        let what = || path.display().to_string();
        serde_json::from_slice(&text)
            .map(Some)
            .map_err(|e| Error::Message {
                what: what(),
                source: e,
            })
    }

    /// Reads the state of a lab that must be up.
    ///
    /// # Errors
    /// [`Error::NotUp`] when it is not, or its daemon has ended.
    pub fn of_running(place: &Place) -> Result<Self, Error> {
        let not_up = || Error::NotUp {
            name: place.name().to_string(),
        };
        let state = Self::read(place)?.ok_or_else(not_up)?;
        if state.daemon.is_alive() {
            Ok(state)
        } else {
            Err(not_up())
        }
    }

    /// The lab's name of a node that is called by it, by its private DNS name, which is the Kubernetes
    /// node's, or by the first label of that. Another name is returned as it is.
    #[must_use]
    pub fn node_name(&self, called: &str) -> String {
        let all = || self.nodes.iter().chain(&self.stopped);
        if all().any(|(name, _)| name == called) {
            return called.to_owned();
        }
        let is = |node: &NodeState| {
            let label = node.dns_name.split('.').next().unwrap_or_default();
            !called.is_empty() && [node.dns_name.as_str(), label].contains(&called)
        };
        let found = all().find(|(_, node)| is(node));
        found.map_or(called, |(name, _)| name).to_owned()
    }

    /// Replaces the file in one step.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, place: &Place) -> Result<(), Error> {
        let (path, fresh) = (place.state(), place.dir().join("lab.json.new"));
        let text = serde_json::to_vec_pretty(self).map_err(|e| Error::Message {
            what: "the lab's state".to_owned(),
            source: e,
        })?;
        fs::write(&fresh, text).at(&fresh)?;
        fs::rename(&fresh, &path).at(&path)
    }

    /// The environment in which `aws`, `kubectl`, `helm` and `branchline` find the lab. `path` is the
    /// `PATH` as it is.
    #[must_use]
    pub fn environment(
        &self,
        place: &Place,
        program: &str,
        path: &str,
    ) -> Vec<(&'static str, String)> {
        let nodes: Vec<String> = self
            .nodes
            .iter()
            .filter_map(|(name, n)| {
                n.introspection
                    .map(|port| format!("{name}=http://127.0.0.1:{port}"))
            })
            .collect();
        let mut lab = String::new();
        if place.name().to_string() != "default" {
            lab = format!(" --lab {}", place.name());
        }
        if place.parent() != std::path::Path::new(crate::place::DEFAULT_PARENT) {
            lab.push_str(&format!(" --lab-dir {}", place.parent().display()));
        }
        let mut variables = vec![
            (
                "AWS_ENDPOINT_URL",
                format!("http://127.0.0.1:{}", self.port),
            ),
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", SECRET_KEY.to_owned()),
            ("AWS_DEFAULT_REGION", self.region.clone()),
            ("AWS_REGION", self.region.clone()),
            ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
            ("BRANCHLINE_NODES", nodes.join(",")),
        ];
        // Pods of a cluster are entered by `kubectl exec`, as on any other: an empty value says so,
        // and takes away what a lab before this one had said.
        let exec = match self.clusters.is_empty() {
            true => format!("{program} lab exec{lab} {{pod}} --"),
            false => String::new(),
        };
        variables.push(("BRANCHLINE_EXEC", exec));
        if let Some(cluster) = self.clusters.values().next() {
            let kubeconfig = place.kubeconfig().display().to_string();
            variables.push(("KUBECONFIG", kubeconfig));
            // The kubectl that fits, in front of one that may be of another version.
            let programs = cluster.programs.display().to_string();
            if path.split(':').next() != Some(programs.as_str()) {
                variables.push(("PATH", format!("{programs}:{path}")));
            }
        }
        variables
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_again_and_another_one_is_not() {
        let own = Process::own().unwrap();
        assert!(own.is_alive());
        assert!(
            !Process {
                started: own.started + 1,
                ..own
            }
            .is_alive()
        );
        assert_eq!(
            start_time(&format!("7 (a) b) {}", ["x"; 19].join(" ") + " 42 0")),
            Some(42)
        );
    }
}
