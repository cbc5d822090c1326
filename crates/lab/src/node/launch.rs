//! Starting a node from outside of it.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead as _, BufReader};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use kernel::NetNs;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::init::READY;
use super::protocol::{Answer, Request, ask};
use super::spec::{ClusterNode, NodeSpec, ServiceSpec};
use crate::cgroup::Cgroups;
use crate::error::{Error, IoContext as _};
use crate::place::Place;
use crate::sys;

/// A node to boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Boot {
    /// Its name in the lab.
    pub name: String,
    /// Its host name.
    pub hostname: String,
    /// The `branchline` program.
    pub program: PathBuf,
    /// Its `/etc/resolv.conf` when it is to be a node of a Kubernetes cluster; its disk is
    /// [`Place::node_disk`] then, and what is on it stays.
    pub cluster: Option<String>,
}

/// A running node, as the daemon holds it.
#[derive(Debug)]
pub struct Node {
    name: String,
    socket: PathBuf,
    netns: PathBuf,
    child: Child,
}

impl Node {
    /// Boots a bare node: see [`Node::boot`].
    ///
    /// # Errors
    /// When it did not come up.
    pub fn start(
        place: &Place,
        cgroups: &Cgroups,
        name: &str,
        hostname: &str,
        program: &Path,
    ) -> Result<Self, Error> {
        let boot = Boot {
            name: name.to_owned(),
            hostname: hostname.to_owned(),
            program: program.to_owned(),
            cluster: None,
        };
        Self::boot(place, cgroups, &boot)
    }

    /// Creates a node's namespaces and starts its first process; returns when it takes orders.
    ///
    /// # Errors
    /// When it did not come up; what was made is left to [`crate::teardown`].
    pub fn boot(place: &Place, cgroups: &Cgroups, boot: &Boot) -> Result<Self, Error> {
        let name = &boot.name;
        let dir = place.node_dir(name);
        fs::create_dir_all(&dir).at(&dir)?;
        let netns = pin(place, name)?;
        let group = place.host_cgroup(name);
        let cluster = match &boot.cluster {
            None => {
                cgroups.create(&group)?;
                None
            }
            Some(resolv_conf) => {
                cgroups.create_whole(&group)?;
                let disk = place.node_disk(name);
                fs::create_dir_all(&disk).at(&disk)?;
                Some(ClusterNode {
                    disk,
                    resolv_conf: resolv_conf.clone(),
                })
            }
        };
        let spec = NodeSpec {
            name: name.clone(),
            hostname: boot.hostname.clone(),
            netns: netns.clone(),
            dir: dir.clone(),
            cgroup: group,
            program: boot.program.clone(),
            cluster,
        };
        let path = dir.join("spec.json");
        let text = serde_json::to_vec_pretty(&spec).map_err(|source| Error::Message {
            what: "a node's description".into(),
            source,
        })?;
        fs::write(&path, text).at(&path)?;
        let log = dir.join("node.log");
        let mut command = Command::new(&boot.program);
        command.args(["lab", "node-init"]).arg(&path);
        let mut child = start_logged(&mut command, &log, true)?;
        await_ready(&mut child, name, &log)?;
        Ok(Self {
            name: name.clone(),
            socket: place.node_socket(name),
            netns,
            child,
        })
    }

    /// The node's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its pinned network namespace.
    #[must_use]
    pub fn netns(&self) -> &Path {
        &self.netns
    }

    /// The number of its first process on the machine.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A descriptor that becomes readable when the node's first process ends.
    ///
    /// # Errors
    /// When the kernel has no descriptors left.
    pub fn watch(&self) -> Result<OwnedFd, Error> {
        let failed = |source: std::io::Error| Error::Process {
            what: "watch",
            pid: self.child.id().cast_signed(),
            source,
        };
        let pid = Pid::from_child(&self.child);
        // Our own child, not waited for before `end`: the number is its own.
        pidfd_open(pid, PidfdFlags::NONBLOCK).map_err(|e| failed(e.into()))
    }

    /// Gives the node an order.
    ///
    /// # Errors
    /// When it is not carried out.
    pub fn ask(&self, request: &Request) -> Result<Answer, Error> {
        ask(&self.socket, request)
    }

    /// Starts a program that the node then keeps running.
    ///
    /// # Errors
    /// When it cannot be started, or was started before.
    pub fn start_service(&self, service: ServiceSpec) -> Result<(), Error> {
        self.ask(&Request::StartService(service)).map(drop)
    }

    /// Ends the node with everything in it and removes what it had, its logs and its disk excepted:
    /// for what runs in it, a power cut.
    ///
    /// # Errors
    /// When something of it remains.
    pub fn end(mut self, place: &Place, cgroups: &Cgroups) -> Result<(), Error> {
        let group = place.host_cgroup(&self.name);
        cgroups.kill(&group)?;
        self.child.wait().doing("wait for a node's end")?;
        NetNs::unpin(&self.netns)?;
        cgroups.remove(&group)?;
        match fs::remove_file(&self.socket) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e).at(&self.socket),
            _ => Ok(()),
        }
    }
}

/// Makes the pinned network namespace of a node or host.
pub(crate) fn pin(place: &Place, name: &str) -> Result<PathBuf, Error> {
    let path = place.netns(name);
    fs::create_dir_all(place.netns_dir()).at(place.netns_dir())?;
    NetNs::create_pinned(&path)?;
    Ok(path)
}

/// Starts one of the lab's own processes with its output in a log and standard output as a pipe.
pub(crate) fn start_logged(command: &mut Command, log: &Path, pid_1: bool) -> Result<Child, Error> {
    let file: File = OpenOptions::new()
        .create(true)
        .append(true)
        .open(log)
        .at(log)?;
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(file);
    if pid_1 {
        sys::on_thread(|| sys::spawn_as_pid_1(command))
    } else {
        sys::spawn(command)
    }
}

/// Waits until a process started by [`start_logged`] says that it is ready.
pub(crate) fn await_ready(child: &mut Child, what: &str, log: &Path) -> Result<(), Error> {
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_line(&mut line).at(log)?;
    }
    if line.trim_end() == READY {
        return Ok(());
    }
    // It ended or is about to: nothing else closes the pipe.
    child
        .wait()
        .doing("wait for a process that did not start")?;
    let said = fs::read_to_string(log).unwrap_or_default();
    Err(Error::EndedEarly {
        what: what.to_owned(),
        said: crate::up::tail(&said),
    })
}
