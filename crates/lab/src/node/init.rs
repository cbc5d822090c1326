//! The first process of a node, the first process of a pod, and the step into a cgroup.

use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use kernel::{NetNs, Socket};
use rustix::thread::UnshareFlags;

use super::cni;
use super::pods::{PodError, Runtime};
use super::protocol::{Answer, NodeStatus, Request, RunPod};
use super::service::{ServiceError, Services};
use super::spec::{NodeSpec, PodSpec};
use crate::cgroup::Cgroups;
use crate::error::{Error, IoContext as _};
use crate::mounts;
use crate::procs::Procs;
use crate::sys;

/// What a node's first process writes to standard output when it takes orders.
pub(super) const READY: &str = "ready";

/// The cgroup of a node's own processes, below the node's.
const LEAF: &str = "init";

/// Becomes a node: the body of `branchline lab node-init`. The process must be the first of a new
/// PID namespace and single-threaded. Never returns while the node lives.
///
/// # Errors
/// When the node's view of the machine cannot be built.
pub fn init(spec: &Path) -> Result<(), Error> {
    let spec: NodeSpec = read_spec(spec)?;
    let machine = Cgroups::mounted()?;
    machine.join(&spec.cgroup)?;
    sys::unshare(UnshareFlags::NEWCGROUP)?;
    machine.join_leaf(&spec.cgroup, LEAF, spec.cluster.is_some())?;

    NetNs::open(&spec.netns)?.enter_for_good()?;
    sys::unshare(UnshareFlags::NEWNS | UnshareFlags::NEWUTS | UnshareFlags::NEWIPC)?;
    rustix::system::sethostname(spec.hostname.as_bytes()).doing("set the node's host name")?;
    let socket = spec.dir.join("node.sock");
    let orders = UnixListener::bind(&socket).at(&socket)?;
    let logs = spec.dir.join("logs");
    std::fs::create_dir_all(&logs).at(&logs)?;
    let cgroups = mounts::enter_node(&spec.dir, spec.cluster.as_ref(), &machine)?;
    let lo = "lo".parse().expect("a valid link name");
    Socket::open()?.set_up(&lo, true)?;
    // Nobody in the stack sets it: the images of EKS nodes do.
    kernel::sysctl::write_here("ipv4/ip_forward", "1")?;

    let procs = Procs::default();
    let reaper = procs.clone();
    std::thread::spawn(move || reaper.reap());
    let node = Arc::new(NodeInit {
        runtime: Arc::new(Runtime::new(procs.clone(), cgroups, spec.program.clone())),
        services: Services::new(procs, spec.program.clone()),
        spec,
    });
    say_ready()?;
    for stream in orders.incoming() {
        let stream = stream.doing("take orders")?;
        let node = Arc::clone(&node);
        std::thread::spawn(move || {
            if let Err(e) = node.serve(stream) {
                tracing::warn!(error = %e, "an order was lost");
            }
        });
    }
    Ok(())
}

fn read_spec(path: &Path) -> Result<NodeSpec, Error> {
    let text = std::fs::read(path).at(path)?;
    serde_json::from_slice(&text).map_err(|source| Error::Message {
        what: path.display().to_string(),
        source,
    })
}

/// Tells whoever started us, and lets go of its pipe.
pub(crate) fn say_ready() -> Result<(), Error> {
    println!("{READY}");
    std::io::stdout()
        .flush()
        .doing("report that the node is ready")?;
    let null = File::options()
        .write(true)
        .open("/dev/null")
        .at("/dev/null")?;
    rustix::stdio::dup2_stdout(&null).doing("close standard output")
}

struct NodeInit {
    spec: NodeSpec,
    runtime: Arc<Runtime>,
    services: Services,
}

impl NodeInit {
    fn serve(&self, stream: UnixStream) -> Result<(), Error> {
        let mut line = String::new();
        let mut reader = BufReader::new(&stream);
        reader.read_line(&mut line).doing("read an order")?;
        let answer = match serde_json::from_str(&line) {
            Ok(request) => self
                .carry_out(request)
                .unwrap_or_else(|e| Answer::Failed(e.to_string())),
            Err(e) => Answer::Failed(format!("cannot read the order: {e}")),
        };
        let mut text = serde_json::to_string(&answer).map_err(|source| Error::Message {
            what: "node".to_owned(),
            source,
        })?;
        text.push('\n');
        (&stream)
            .write_all(text.as_bytes())
            .doing("answer an order")
    }

    fn carry_out(&self, request: Request) -> Result<Answer, OrderError> {
        match request {
            Request::StartService(spec) => self.services.start(spec)?,
            Request::SetEnv { service, changes } => self.services.set_env(&service, changes)?,
            Request::Service { service, action } => self.services.act(&service, action)?,
            Request::RunPod(order) => return self.run(order),
            Request::DeletePod { pod, grace_ms } => {
                self.runtime.delete(&pod, Duration::from_millis(grace_ms))?;
            }
            Request::CheckPod { pod } => self.runtime.check(&pod)?,
            Request::Gc => self.runtime.gc()?,
            Request::Status => {
                return Ok(Answer::Node(NodeStatus {
                    ready: cni::is_configured(),
                    services: self.services.status(),
                    pods: self.runtime.list(),
                }));
            }
        }
        Ok(Answer::Done)
    }

    fn run(&self, order: RunPod) -> Result<Answer, OrderError> {
        if self.spec.cluster.is_some() {
            return Err(OrderError::Kubernetes(order.pod.to_string()));
        }
        Ok(Answer::Pod(self.runtime.run(order)?))
    }
}

#[derive(Debug, thiserror::Error)]
enum OrderError {
    #[error(
        "pod {0}: this node belongs to a cluster, and its pods to kubelet: start it with kubectl"
    )]
    Kubernetes(String),
    #[error(transparent)]
    Service(#[from] ServiceError),
    #[error(transparent)]
    Pod(#[from] PodError),
    #[error(transparent)]
    Lab(#[from] Error),
}

/// Becomes a pod's command: the body of `branchline lab pod-init`. The process must be the first of
/// a new PID namespace, already in the pod's network namespace; it reads a [`PodSpec`] from standard
/// input and writes why it could not become the command to standard output.
///
/// # Errors
/// Whatever it wrote.
pub fn pod_init() -> Result<(), Error> {
    let status = rustix::io::fcntl_dupfd_cloexec(std::io::stdout(), 3).doing("keep the pipe")?;
    let outcome = become_command();
    if let Err(e) = &outcome {
        let why = match e {
            Error::Spawn { source, .. } => source.to_string(),
            other => other.to_string(),
        };
        File::from(status)
            .write_all(why.as_bytes())
            .doing("report why the pod failed")?;
    }
    outcome
}

fn become_command() -> Result<(), Error> {
    let mut text = String::new();
    std::io::stdin()
        .read_to_string(&mut text)
        .doing("read what to run")?;
    let spec: PodSpec = serde_json::from_str(&text).map_err(|source| Error::Message {
        what: "the node".to_owned(),
        source,
    })?;
    Cgroups::mounted()?.join(Path::new(&spec.cgroup))?;
    sys::unshare(
        UnshareFlags::NEWNS | UnshareFlags::NEWUTS | UnshareFlags::NEWIPC | UnshareFlags::NEWCGROUP,
    )?;
    rustix::system::sethostname(spec.hostname.as_bytes()).doing("set the pod's host name")?;
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&spec.log)
        .at(&spec.log)?;
    let null = File::open("/dev/null").at("/dev/null")?;
    mounts::enter_pod()?;
    rustix::stdio::dup2_stdin(&null).doing("set the pod's standard input")?;
    rustix::stdio::dup2_stdout(&log).doing("set the pod's standard output")?;
    rustix::stdio::dup2_stderr(&log).doing("set the pod's standard error")?;
    exec(&spec.command, Some(&spec.env))
}

/// Joins a cgroup below this namespace's root and becomes the command: the body of
/// `branchline lab enter-cgroup`.
///
/// # Errors
/// When either fails.
pub fn enter_cgroup(group: &str, command: &[String]) -> Result<(), Error> {
    let cgroups = Cgroups::mounted()?;
    cgroups.create(Path::new(group))?;
    cgroups.join(Path::new(group))?;
    exec(command, None)
}

fn exec(
    command: &[String],
    env: Option<&std::collections::BTreeMap<String, String>>,
) -> Result<(), Error> {
    let (program, args) = command.split_first().ok_or(Error::NoCommand)?;
    let mut exec = Command::new(program);
    exec.args(args);
    if let Some(env) = env {
        exec.env_clear().envs(env);
    }
    Err(Error::Spawn {
        program: program.into(),
        source: exec.exec(),
    })
}
