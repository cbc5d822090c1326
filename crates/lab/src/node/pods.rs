//! Bare pods: what a container runtime does to a plugin, and a process in the namespace it made.
//!
//! Life of a pod: namespace pinned, STATUS, ADD, command started · command ends or is ended · DEL,
//! namespace unpinned. Whatever fails on the way in is undone in reverse; after a failed ADD comes a
//! DEL without the result, as containerd does it. A failed DEL leaves the pod `Stuck`: its network
//! is still there, and deleting it tries again.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kernel::{NetNs, Socket};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::cni::{self, Attachment, CniError, ConfList};
use super::protocol::{Phase, PodName, PodStatus, RunPod};
use super::spec::PodSpec;
use crate::cgroup::Cgroups;
use crate::error::{Error, IoContext as _};
use crate::mounts;
use crate::procs::{Procs, Started};
use crate::sys;

/// Pause between two attempts at a pod's network.
const RETRY: Duration = Duration::from_millis(100);

/// Why an order about a pod was not carried out.
#[derive(Debug, thiserror::Error)]
pub(super) enum PodError {
    #[error("pod {0} exists already on this node")]
    Exists(PodName),
    #[error("no pod {0} on this node")]
    Unknown(PodName),
    #[error("pod {pod}: the network is not as it was made: {source}")]
    Check { pod: PodName, source: Box<CniError> },
    #[error("pod {0} has not got its network yet")]
    NoNetwork(PodName),
    #[error("pod {pod}: {source}")]
    Network { pod: PodName, source: Box<CniError> },
    #[error("pod {pod}: cannot run '{command}': {why}")]
    Command {
        pod: PodName,
        command: String,
        why: String,
    },
    #[error("pod {pod}: {source}")]
    Lab { pod: PodName, source: Box<Error> },
    #[error("garbage collection: {0}")]
    Gc(Box<CniError>),
}

#[derive(Debug)]
struct Pod {
    phase: Phase,
    command: Vec<String>,
    attachment: Attachment,
    conf: Option<ConfList>,
    result: Option<Value>,
    pid: Option<i32>,
}

/// The pods of this node.
#[derive(Debug)]
pub(super) struct Runtime {
    procs: Procs,
    cgroups: Cgroups,
    program: PathBuf,
    pods: Mutex<BTreeMap<PodName, Pod>>,
    changed: Condvar,
}

type Pods<'a> = MutexGuard<'a, BTreeMap<PodName, Pod>>;

impl Runtime {
    pub(super) fn new(procs: Procs, cgroups: Cgroups, program: PathBuf) -> Self {
        Self {
            procs,
            cgroups,
            program,
            pods: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// Starts a pod and returns once its command runs.
    pub(super) fn run(self: &Arc<Self>, order: RunPod) -> Result<PodStatus, PodError> {
        let name = order.pod.clone();
        let patience = Duration::from_millis(order.retry_ms);
        let attachment = self.reserve(order)?;
        match self.start_patiently(&name, &attachment, patience) {
            Ok(started) => {
                let status = self.status_of(&name)?;
                let (runtime, name) = (Arc::clone(self), name);
                std::thread::spawn(move || {
                    let status = started.wait();
                    runtime.ended(&name, status);
                });
                Ok(status)
            }
            Err(e) => {
                self.lock().remove(&name);
                self.changed.notify_all();
                Err(e)
            }
        }
    }

    /// Ends a pod, removes its network and forgets it.
    pub(super) fn delete(&self, name: &PodName, grace: Duration) -> Result<(), PodError> {
        let starting = |p: &mut Pods<'_>| p.get(name).is_some_and(|p| p.phase == Phase::Starting);
        let mut pods = self.lock();
        while starting(&mut pods) {
            pods = self
                .changed
                .wait(pods)
                .unwrap_or_else(PoisonError::into_inner);
        }
        let pod = pods
            .get(name)
            .ok_or_else(|| PodError::Unknown(name.clone()))?;
        match (&pod.phase, pod.pid) {
            (Phase::Running, Some(pid)) => {
                drop(pods);
                self.end(name, pid, grace);
            }
            (Phase::Stuck(_), _) => {
                drop(pods);
                self.release(name, 0);
            }
            _ => drop(pods),
        }
        let mut pods = self.lock();
        match pods.get(name).map(|p| p.phase.clone()) {
            Some(Phase::Stuck(_)) => {
                let pod = pods
                    .get(name)
                    .ok_or_else(|| PodError::Unknown(name.clone()))?;
                let (conf, at) = (pod.conf.clone(), pod.attachment.clone());
                drop(pods);
                // Once more, for the reason itself.
                let again = conf.map_or(Ok(()), |c| c.del(&self.procs, &at, None));
                again.map_err(|e| network_error(name, e))?;
                pods = self.lock();
            }
            None => return Err(PodError::Unknown(name.clone())),
            Some(_) => {}
        }
        pods.remove(name);
        Ok(())
    }

    /// CNI CHECK.
    pub(super) fn check(&self, name: &PodName) -> Result<(), PodError> {
        let pods = self.lock();
        let pod = pods
            .get(name)
            .ok_or_else(|| PodError::Unknown(name.clone()))?;
        let (Some(conf), Some(result)) = (pod.conf.clone(), pod.result.clone()) else {
            return Err(PodError::NoNetwork(name.clone()));
        };
        let at = pod.attachment.clone();
        drop(pods);
        conf.check(&self.procs, &at, &result)
            .map_err(|e| PodError::Check {
                pod: name.clone(),
                source: Box::new(e),
            })
    }

    /// CNI GC.
    pub(super) fn gc(&self) -> Result<(), PodError> {
        let pods = self.lock();
        let valid: Vec<Attachment> = pods
            .values()
            .filter(|p| p.conf.is_some())
            .map(|p| p.attachment.clone())
            .collect();
        drop(pods);
        let collect = || ConfList::load()?.gc(&self.procs, &valid);
        collect().map_err(|e| PodError::Gc(Box::new(e)))
    }

    /// All pods.
    pub(super) fn list(&self) -> Vec<PodStatus> {
        self.lock()
            .iter()
            .map(|(name, pod)| status(name, pod))
            .collect()
    }

    fn lock(&self) -> Pods<'_> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn status_of(&self, name: &PodName) -> Result<PodStatus, PodError> {
        let pods = self.lock();
        let pod = pods
            .get(name)
            .ok_or_else(|| PodError::Unknown(name.clone()))?;
        Ok(status(name, pod))
    }

    fn reserve(&self, order: RunPod) -> Result<Attachment, PodError> {
        let mut pods = self.lock();
        if pods.contains_key(&order.pod) {
            return Err(PodError::Exists(order.pod));
        }
        let lab = |e| lab_error(&order.pod, e);
        let (container, uid) = (random_hex::<32>().map_err(lab)?, uid().map_err(lab)?);
        let PodName { namespace, name } = &order.pod;
        let attachment = Attachment {
            netns: Path::new(mounts::POD_NETNS).join(format!("cni-{uid}")),
            args: format!(
                "IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};\
                 K8S_POD_INFRA_CONTAINER_ID={container};K8S_POD_UID={uid}"
            ),
            container,
        };
        let pod = Pod {
            phase: Phase::Starting,
            command: order.command,
            attachment: attachment.clone(),
            conf: None,
            result: None,
            pid: None,
        };
        pods.insert(order.pod, pod);
        Ok(attachment)
    }

    /// As kubelet does: a plugin that says "try again later" is tried again.
    fn start_patiently(
        &self,
        name: &PodName,
        at: &Attachment,
        patience: Duration,
    ) -> Result<Started, PodError> {
        let begun = Instant::now();
        loop {
            match self.start(name, at) {
                Err(PodError::Network { source, .. })
                    if source.asks_to_try_again() && begun.elapsed() < patience =>
                {
                    tracing::info!(pod = %name, %source, "trying again");
                    std::thread::sleep(RETRY);
                }
                done => return done,
            }
        }
    }

    /// Network, then process. What was made is unmade when a later step fails.
    fn start(&self, name: &PodName, at: &Attachment) -> Result<Started, PodError> {
        let network = |e| network_error(name, e);
        let conf = ConfList::load().map_err(network)?;
        conf.status(&self.procs).map_err(network)?;
        self.make_netns(name, at)?;
        let result = match conf.add(&self.procs, at) {
            Ok(result) => result,
            Err(e) => {
                let undone = conf.del(&self.procs, at, None);
                self.drop_netns(name, at);
                if let Err(e) = undone {
                    tracing::error!(pod = %name, error = %e, "DEL after a failed ADD failed");
                }
                return Err(network(e));
            }
        };
        let command = {
            let mut pods = self.lock();
            let pod = pods
                .get_mut(name)
                .ok_or_else(|| PodError::Unknown(name.clone()))?;
            pod.conf = Some(conf.clone());
            pod.result = Some(result.clone());
            pod.command.clone()
        };
        match self.spawn(name, at, command) {
            Ok(started) => {
                if let Some(pod) = self.lock().get_mut(name) {
                    pod.phase = Phase::Running;
                    pod.pid = Some(started.pid());
                }
                self.changed.notify_all();
                Ok(started)
            }
            Err(e) => {
                if let Err(e) = conf.del(&self.procs, at, Some(&result)) {
                    tracing::error!(pod = %name, error = %e, "DEL after a failed start failed");
                }
                self.drop_netns(name, at);
                Err(e)
            }
        }
    }

    /// A namespace with loopback up, as a runtime hands it to the plugins.
    fn make_netns(&self, name: &PodName, at: &Attachment) -> Result<(), PodError> {
        let made = NetNs::create_pinned(&at.netns).and_then(|netns| {
            let lo = "lo".parse().expect("a valid link name");
            Socket::open_in(&netns)?.set_up(&lo, true)
        });
        made.map_err(|e| {
            self.drop_netns(name, at);
            lab_error(name, e.into())
        })
    }

    fn drop_netns(&self, name: &PodName, at: &Attachment) {
        if let Err(e) = NetNs::unpin(&at.netns) {
            tracing::error!(pod = %name, error = %e, "cannot unpin the pod's namespace");
        }
        if let Err(e) = self.cgroups.remove(Path::new(&name.leaf())) {
            tracing::error!(pod = %name, error = %e, "cannot remove the pod's cgroup");
        }
    }

    fn spawn(
        &self,
        name: &PodName,
        at: &Attachment,
        command: Vec<String>,
    ) -> Result<Started, PodError> {
        let lab = |e| lab_error(name, e);
        let shown = command.first().cloned().unwrap_or_default();
        let leaf = name.leaf();
        self.cgroups.create(Path::new(&leaf)).map_err(lab)?;
        let spec = PodSpec {
            hostname: name.name.clone(),
            log: Path::new(mounts::SELF)
                .join("logs")
                .join(format!("{leaf}.log")),
            cgroup: leaf,
            command,
            env: pod_env(name),
        };
        let mut started = sys::on_thread(|| {
            NetNs::open(&at.netns)?.enter_for_good()?;
            let mut command = Command::new(&self.program);
            command.args(["lab", "pod-init"]);
            command
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::inherit());
            sys::unshare(rustix::thread::UnshareFlags::NEWPID)?;
            self.procs.spawn(&mut command)
        })
        .map_err(lab)?;
        match begin(&mut started, &spec) {
            Ok(said) if said.is_empty() => Ok(started),
            Ok(why) => {
                started.wait();
                Err(PodError::Command {
                    pod: name.clone(),
                    command: shown,
                    why,
                })
            }
            Err(source) => {
                started.wait();
                Err(lab(source))
            }
        }
    }

    /// SIGTERM, the grace period, SIGKILL; returns when the network is removed.
    fn end(&self, name: &PodName, pid: i32, grace: Duration) {
        let signal = |signal| {
            if let Some(pid) = Pid::from_raw(pid) {
                // Ended by itself meanwhile: fine. The number is not reused before `ended` ran.
                let _ = kill_process(pid, signal);
            }
        };
        let running =
            |p: &mut BTreeMap<PodName, Pod>| p.get(name).is_some_and(|p| p.phase == Phase::Running);
        if !grace.is_zero() {
            signal(Signal::TERM);
            let waited = self.changed.wait_timeout_while(self.lock(), grace, running);
            drop(waited.unwrap_or_else(PoisonError::into_inner));
        }
        if running(&mut self.lock()) {
            signal(Signal::KILL);
        }
        let ended = self.changed.wait_while(self.lock(), running);
        drop(ended.unwrap_or_else(PoisonError::into_inner));
    }

    fn ended(&self, name: &PodName, status: ExitStatus) {
        let code = status
            .code()
            .or(status.signal().map(|s| 128 + s))
            .unwrap_or(255);
        self.release(name, code);
        self.changed.notify_all();
    }

    /// Removes a pod's network and says how it went in the pod's phase.
    fn release(&self, name: &PodName, code: i32) {
        let (conf, result, at) = {
            let pods = self.lock();
            let Some(pod) = pods.get(name) else { return };
            (pod.conf.clone(), pod.result.clone(), pod.attachment.clone())
        };
        let done = conf.map_or(Ok(()), |c| c.del(&self.procs, &at, result.as_ref()));
        self.drop_netns(name, &at);
        if let Some(pod) = self.lock().get_mut(name) {
            pod.pid = None;
            pod.phase = match done {
                Ok(()) => {
                    pod.conf = None;
                    Phase::Exited(code)
                }
                Err(e) => Phase::Stuck(e.to_string()),
            };
        }
    }
}

fn network_error(pod: &PodName, source: CniError) -> PodError {
    PodError::Network {
        pod: pod.clone(),
        source: Box::new(source),
    }
}

fn lab_error(pod: &PodName, source: Error) -> PodError {
    PodError::Lab {
        pod: pod.clone(),
        source: Box::new(source),
    }
}

fn status(name: &PodName, pod: &Pod) -> PodStatus {
    PodStatus {
        pod: name.clone(),
        phase: pod.phase.clone(),
        address: pod.result.as_ref().and_then(cni::address),
        container: pod.attachment.container.clone(),
        command: pod.command.clone(),
    }
}

/// Tells the pod's first process what to become. Its answer is empty when it became that.
fn begin(started: &mut Started, spec: &PodSpec) -> Result<String, Error> {
    let text = serde_json::to_string(spec).map_err(|source| Error::Message {
        what: "a pod".to_owned(),
        source,
    })?;
    if let Some(mut stdin) = started.child.stdin.take() {
        stdin
            .write_all(text.as_bytes())
            .doing("tell a pod what to run")?;
    }
    let mut said = String::new();
    if let Some(mut stdout) = started.child.stdout.take() {
        stdout.read_to_string(&mut said).doing("hear from a pod")?;
    }
    Ok(said)
}

fn pod_env(name: &PodName) -> BTreeMap<String, String> {
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    [
        ("PATH", path),
        ("HOME", "/root"),
        ("HOSTNAME", &name.name),
        ("TERM", "xterm"),
    ]
    .into_iter()
    .map(|(k, v)| (k.to_owned(), v.to_owned()))
    .collect()
}

fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    let path = "/dev/urandom";
    std::fs::File::open(path)
        .and_then(|mut f| f.read_exact(&mut bytes))
        .at(path)?;
    Ok(bytes)
}

fn random_hex<const N: usize>() -> Result<String, Error> {
    Ok(random::<N>()?.iter().map(|b| format!("{b:02x}")).collect())
}

/// A random UUID, as the API server gives every pod.
fn uid() -> Result<String, Error> {
    let mut b = random::<16>()?;
    b[6] = b[6] & 0x0f | 0x40;
    b[8] = b[8] & 0x3f | 0x80;
    let hex: String = b.iter().map(|b| format!("{b:02x}")).collect();
    Ok([
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..],
    ]
    .join("-"))
}
