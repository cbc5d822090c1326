//! Keeps the agent of a node running.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

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
    status: Arc<Mutex<AgentStatus>>,
}

impl Agent {
    /// Starts the agent and keeps it running for as long as the node lives.
    pub(super) fn start(spec: AgentSpec, procs: Procs, program: PathBuf) -> Result<Self, Error> {
        let agent = Self {
            status: Arc::default(),
        };
        let mut started = agent.spawn(&spec, &procs, &program)?;
        let keeper = agent.clone();
        std::thread::spawn(move || {
            let mut pause = FIRST_PAUSE;
            loop {
                let since = Instant::now();
                let status = started.wait();
                pause = if since.elapsed() > WELL {
                    FIRST_PAUSE
                } else {
                    pause
                };
                tracing::warn!(%status, ?pause, "agent ended; starting it again");
                keeper.ended(status.to_string());
                started = loop {
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    match keeper.spawn(&spec, &procs, &program) {
                        Ok(started) => break started,
                        Err(e) => keeper.ended(e.to_string()),
                    }
                };
                keeper.lock().restarts += 1;
            }
        });
        Ok(agent)
    }

    pub(super) fn status(&self) -> AgentStatus {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, AgentStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ended(&self, how: String) {
        let mut status = self.lock();
        status.pid = None;
        status.last_exit = Some(how);
    }

    /// The agent is charged to a cgroup of its own, so that its memory can be told.
    fn spawn(&self, spec: &AgentSpec, procs: &Procs, program: &Path) -> Result<Started, Error> {
        let path = Path::new(mounts::SELF).join("agent.log");
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .at(&path)?;
        let both = log.try_clone().at(&path)?;
        let mut command = Command::new(program);
        command
            .args(["lab", "enter-cgroup", "agent", "--"])
            .arg(&spec.program)
            .args(&spec.args);
        command.env_clear().envs(&spec.env);
        command.stdin(Stdio::null()).stdout(both).stderr(log);
        let started = procs.spawn(&mut command)?;
        self.lock().pid = Some(started.pid());
        Ok(started)
    }
}
