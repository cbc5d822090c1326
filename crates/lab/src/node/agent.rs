//! Keeps the agent of a node running.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::protocol::AgentStatus;
use super::spec::AgentSpec;
use crate::error::{Error, IoContext as _};
use crate::mounts;
use crate::procs::{Procs, Started};

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// An agent that ran this long had started well: the next pause is the first one again.
const WELL: Duration = Duration::from_secs(30);

/// The agent of this node.
#[derive(Debug, Clone)]
pub(super) struct Agent {
    shared: Arc<(Mutex<Shared>, Condvar)>,
    procs: Procs,
    program: PathBuf,
}

#[derive(Debug)]
struct Shared {
    spec: AgentSpec,
    status: AgentStatus,
    /// Its end was asked for: start it again at once.
    asked: bool,
}

impl Agent {
    /// Starts the agent and keeps it running for as long as the node lives.
    pub(super) fn start(spec: AgentSpec, procs: Procs, program: PathBuf) -> Result<Self, Error> {
        let shared = Shared {
            spec,
            status: AgentStatus::default(),
            asked: false,
        };
        let agent = Self {
            shared: Arc::new((Mutex::new(shared), Condvar::new())),
            procs,
            program,
        };
        let started = agent.spawn()?;
        let keeper = agent.clone();
        std::thread::spawn(move || keeper.keep(started));
        Ok(agent)
    }

    fn keep(&self, mut started: Started) -> ! {
        let mut pause = FIRST_PAUSE;
        loop {
            let since = Instant::now();
            let status = started.wait();
            pause = if since.elapsed() > WELL {
                FIRST_PAUSE
            } else {
                pause
            };
            self.ended(status.to_string());
            started = loop {
                if !std::mem::take(&mut self.lock().asked) {
                    tracing::warn!(%status, ?pause, "the agent ended; starting it again");
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    self.lock().status.restarts += 1;
                }
                match self.spawn() {
                    Ok(started) => break started,
                    Err(e) => self.ended(e.to_string()),
                }
            };
        }
    }

    /// Changes variables (`None` removes one) and starts the agent anew with them, as a rollout of
    /// its DaemonSet does. Returns when the new one runs.
    pub(super) fn set_env(&self, changes: BTreeMap<String, Option<String>>) {
        let mut shared = self.lock();
        for (name, value) in changes {
            match value {
                Some(value) => drop(shared.spec.env.insert(name, value)),
                None => drop(shared.spec.env.remove(&name)),
            }
        }
        let before = shared.status.pid;
        let Some(pid) = before.and_then(Pid::from_raw) else {
            return;
        };
        shared.asked = true;
        // Reaped only after `ended` took this lock: the number is still its own.
        let _ = kill_process(pid, Signal::TERM);
        let gone = |s: &mut Shared| s.status.pid.is_none() || s.status.pid == before;
        let patience = Duration::from_secs(5);
        let waited = self.shared.1.wait_timeout_while(shared, patience, gone);
        let (shared, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        if timeout.timed_out() && shared.status.pid == before {
            let _ = kill_process(pid, Signal::KILL);
            let new = self.shared.1.wait_timeout_while(shared, patience, gone);
            drop(new.unwrap_or_else(PoisonError::into_inner));
        }
    }

    pub(super) fn status(&self) -> AgentStatus {
        self.lock().status.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ended(&self, how: String) {
        let status = &mut self.lock().status;
        status.pid = None;
        status.last_exit = Some(how);
    }

    /// The agent is charged to a cgroup of its own, so that its memory can be told.
    fn spawn(&self) -> Result<Started, Error> {
        let path = Path::new(mounts::SELF).join("agent.log");
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .at(&path)?;
        let both = log.try_clone().at(&path)?;
        let mut shared = self.lock();
        let spec = &shared.spec;
        let mut command = Command::new(&self.program);
        command
            .args(["lab", "enter-cgroup", "agent", "--"])
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
