//! Keeps the services of a node running: the agent of a bare one, containerd and kubelet of a
//! cluster's.
//!
//! One thread for each waits for its end and starts it again, after a pause that grows while it keeps
//! ending early. Orders change what is wanted and wake that thread.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::protocol::{ServiceAction, ServiceStatus};
use super::spec::ServiceSpec;
use crate::error::{Error, IoContext as _};
use crate::mounts;
use crate::procs::{Procs, Started};

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// A service that ran this long had started well: the next pause is the first one again.
const WELL: Duration = Duration::from_secs(30);
/// How long a service may take to end before it is killed.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long it may take to be there again: after the longest pause and the wait for a socket, on a
/// machine that is busy.
const BACK: Duration = Duration::from_secs(60);
/// How long a service waits for another one's socket before it is started anyway.
const SOCKET: Duration = Duration::from_secs(10);

/// Why an order about a service was not carried out.
#[derive(Debug, thiserror::Error)]
pub(super) enum ServiceError {
    #[error("{0} was started on this node already")]
    Runs(String),
    #[error("no service '{name}' on this node{}", crate::error::among(known))]
    Unknown { name: String, known: Vec<String> },
    #[error("{0} did not come up again: see its log")]
    NotBack(String),
    #[error(transparent)]
    Lab(#[from] Error),
}

/// The services of this node.
#[derive(Debug)]
pub(super) struct Services {
    procs: Procs,
    program: PathBuf,
    all: Mutex<BTreeMap<String, Service>>,
}

impl Services {
    pub(super) fn new(procs: Procs, program: PathBuf) -> Self {
        Self {
            procs,
            program,
            all: Mutex::default(),
        }
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<String, Service>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn named(&self, name: &str) -> Result<Service, ServiceError> {
        let all = self.all();
        all.get(name).cloned().ok_or_else(|| ServiceError::Unknown {
            name: name.to_owned(),
            known: all.keys().cloned().collect(),
        })
    }

    /// Starts a service and keeps it running for as long as the node lives.
    pub(super) fn start(&self, spec: ServiceSpec) -> Result<(), ServiceError> {
        let mut all = self.all();
        if all.contains_key(&spec.name) {
            return Err(ServiceError::Runs(spec.name));
        }
        let name = spec.name.clone();
        let service = Service::start(spec, self.procs.clone(), self.program.clone())?;
        all.insert(name, service);
        Ok(())
    }

    /// Changes variables (`None` removes one) and starts the service anew with them, as a rollout of
    /// a DaemonSet does. Returns when the new one runs.
    pub(super) fn set_env(
        &self,
        name: &str,
        changes: BTreeMap<String, Option<String>>,
    ) -> Result<(), ServiceError> {
        let service = self.named(name)?;
        {
            let env = &mut service.lock().spec.env;
            for (name, value) in changes {
                match value {
                    Some(value) => drop(env.insert(name, value)),
                    None => drop(env.remove(&name)),
                }
            }
        }
        service.restart()
    }

    pub(super) fn act(&self, name: &str, action: ServiceAction) -> Result<(), ServiceError> {
        let service = self.named(name)?;
        match action {
            ServiceAction::Start => service.resume(),
            ServiceAction::Stop => {
                service.stop();
                Ok(())
            }
            ServiceAction::Restart => service.restart(),
            ServiceAction::Kill => service.kill(),
        }
    }

    pub(super) fn status(&self) -> BTreeMap<String, ServiceStatus> {
        let status = |(name, s): (&String, &Service)| (name.clone(), s.lock().status.clone());
        self.all().iter().map(status).collect()
    }
}

#[derive(Debug, Clone)]
struct Service {
    shared: Arc<(Mutex<Shared>, Condvar)>,
    procs: Procs,
    program: PathBuf,
}

#[derive(Debug)]
struct Shared {
    spec: ServiceSpec,
    status: ServiceStatus,
    /// Its end or its start was asked for: no pause before the next start.
    asked: bool,
}

impl Service {
    fn start(spec: ServiceSpec, procs: Procs, program: PathBuf) -> Result<Self, Error> {
        let shared = Shared {
            spec,
            status: ServiceStatus::default(),
            asked: false,
        };
        let service = Self {
            shared: Arc::new((Mutex::new(shared), Condvar::new())),
            procs,
            program,
        };
        service.await_socket();
        let started = service.spawn()?;
        let keeper = service.clone();
        std::thread::spawn(move || keeper.keep(started));
        Ok(service)
    }

    fn keep(&self, mut started: Started) -> ! {
        let mut pause = FIRST_PAUSE;
        loop {
            let since = Instant::now();
            let status = started.wait();
            if since.elapsed() > WELL {
                pause = FIRST_PAUSE;
            }
            self.ended(status.to_string());
            started = loop {
                self.await_turn(&mut pause);
                self.await_socket();
                match self.spawn() {
                    Ok(started) => break started,
                    Err(e) => self.ended(e.to_string()),
                }
            };
        }
    }

    /// Waits until the service is to be started again: at once when that was asked for, else after
    /// a pause, and never while it is to stay down.
    fn await_turn(&self, pause: &mut Duration) {
        let shared = self.lock();
        let (name, how) = (&shared.spec.name, &shared.status.last_exit);
        if !shared.asked && !shared.status.stopped {
            tracing::warn!(service = name, status = ?how, ?pause, "ended; starting it again");
        }
        let waits = |s: &mut Shared| !s.asked && !s.status.stopped;
        let waited = self.shared.1.wait_timeout_while(shared, *pause, waits);
        let (shared, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        let stays = |s: &mut Shared| s.status.stopped;
        let woken = self.shared.1.wait_while(shared, stays);
        let mut shared = woken.unwrap_or_else(PoisonError::into_inner);
        if timeout.timed_out() {
            *pause = (*pause * 2).min(LONGEST_PAUSE);
            shared.status.restarts += 1;
        }
        shared.asked = false;
    }

    /// Waits until the socket of the service that this one needs takes connections. If it never
    /// does, this one is started all the same and says itself what is missing.
    fn await_socket(&self) {
        let Some(socket) = self.lock().spec.after.clone() else {
            return;
        };
        let since = Instant::now();
        while UnixStream::connect(&socket).is_err() && since.elapsed() < SOCKET {
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until the process is another one than `before`; whether that came in time.
    fn replaced<'a>(
        &'a self,
        shared: MutexGuard<'a, Shared>,
        before: Option<i32>,
        patience: Duration,
    ) -> (MutexGuard<'a, Shared>, bool) {
        let old = |s: &mut Shared| s.status.pid.is_none() || s.status.pid == before;
        let waited = self.shared.1.wait_timeout_while(shared, patience, old);
        let (shared, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        (shared, !timeout.timed_out())
    }

    /// Ends the process, by force if it does not end by itself, and starts it anew.
    fn restart(&self) -> Result<(), ServiceError> {
        let mut shared = self.lock();
        let before = shared.status.pid;
        shared.asked = true;
        shared.status.stopped = false;
        self.shared.1.notify_all();
        signal(before, Signal::TERM);
        let (shared, done) = self.replaced(shared, before, PATIENCE);
        if done {
            return Ok(());
        }
        if shared.status.pid == before {
            signal(before, Signal::KILL);
        }
        self.expect_back(shared, before)
    }

    fn expect_back(
        &self,
        shared: MutexGuard<'_, Shared>,
        before: Option<i32>,
    ) -> Result<(), ServiceError> {
        let (shared, done) = self.replaced(shared, before, BACK);
        if done {
            Ok(())
        } else {
            Err(ServiceError::NotBack(shared.spec.name.clone()))
        }
    }

    /// Ends the process and does not start it again.
    fn stop(&self) {
        let mut shared = self.lock();
        shared.status.stopped = true;
        self.shared.1.notify_all();
        let before = shared.status.pid;
        signal(before, Signal::TERM);
        let runs = |s: &mut Shared| s.status.pid.is_some() && s.status.pid == before;
        let waited = self.shared.1.wait_timeout_while(shared, PATIENCE, runs);
        let (shared, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        if timeout.timed_out() {
            signal(shared.status.pid, Signal::KILL);
            let waited = self.shared.1.wait_timeout_while(shared, PATIENCE, runs);
            drop(waited.unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// Starts what was stopped; what runs, runs on.
    fn resume(&self) -> Result<(), ServiceError> {
        let mut shared = self.lock();
        shared.status.stopped = false;
        if shared.status.pid.is_some() {
            return Ok(());
        }
        shared.asked = true;
        self.shared.1.notify_all();
        self.expect_back(shared, None)
    }

    /// Kills the process; it is started again as after a crash.
    fn kill(&self) -> Result<(), ServiceError> {
        let shared = self.lock();
        let before = shared.status.pid;
        signal(before, Signal::KILL);
        self.expect_back(shared, before)
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ended(&self, how: String) {
        let status = &mut self.lock().status;
        status.pid = None;
        status.last_exit = Some(how);
        self.shared.1.notify_all();
    }

    /// Each service is charged to a cgroup of its own, so that its memory can be told.
    fn spawn(&self) -> Result<Started, Error> {
        let mut shared = self.lock();
        let spec = &shared.spec;
        let path = Path::new(mounts::SELF).join(format!("{}.log", spec.name));
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .at(&path)?;
        let both = log.try_clone().at(&path)?;
        let mut command = Command::new(&self.program);
        command
            .args(["lab", "enter-cgroup", &spec.name, "--"])
            .arg(&spec.program)
            .args(&spec.args);
        command.env_clear().envs(&spec.env);
        command.stdin(Stdio::null()).stdout(both).stderr(log);
        let started = self.procs.spawn(&mut command)?;
        shared.status.pid = Some(started.pid());
        self.shared.1.notify_all();
        Ok(started)
    }
}

/// Signals a service's process. That it has just ended is fine: numbers come round only after all
/// the others, not in the moment until `ended` forgets this one.
fn signal(pid: Option<i32>, signal: Signal) {
    if let Some(pid) = pid.and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}
