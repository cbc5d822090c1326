//! Children of a node's first process.
//!
//! The first process of a PID namespace has to reap every orphan in it, and must not take the exit
//! status of a child that someone waits for. So one thread does all the waiting: it looks at who has
//! ended without reaping (`WNOWAIT`), takes the lock that every start holds, reaps, and hands the
//! status to whoever registered the process.

use std::collections::HashMap;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{WaitId, WaitIdOptions, WaitOptions, wait, waitid};

use crate::error::Error;
use crate::sys;

/// How often orphans of processes that entered from outside are looked for when there is no child.
const ORPHANS: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
struct Table {
    waiters: HashMap<i32, SyncSender<ExitStatus>>,
    /// How many were ever started: tells the reaper whether it missed one.
    started: u64,
}

/// Starts processes and waits for all of them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Procs {
    shared: Arc<(Mutex<Table>, Condvar)>,
}

/// A process that was started here. Its pipes are taken by whoever started it.
#[derive(Debug)]
pub(crate) struct Started {
    /// The process with its pipes; never to be waited on.
    pub(crate) child: Child,
    exit: Receiver<ExitStatus>,
}

impl Started {
    /// Its number in this PID namespace.
    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("Linux PIDs are at most 2^22")
    }

    /// Waits for its end.
    pub(crate) fn wait(self) -> ExitStatus {
        // The sender is dropped only with the table, when the whole node ends.
        self.exit.recv().unwrap_or_else(|_| ExitStatus::from_raw(0))
    }
}

impl Procs {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a command in the calling thread's namespaces.
    pub(crate) fn spawn(&self, command: &mut Command) -> Result<Started, Error> {
        let mut table = self.table();
        let child = sys::spawn(command)?;
        let (tell, exit) = sync_channel(1);
        let started = Started { child, exit };
        table.waiters.insert(started.pid(), tell);
        table.started += 1;
        self.shared.1.notify_all();
        Ok(started)
    }

    /// Reaps for ever.
    pub(crate) fn reap(&self) -> ! {
        loop {
            let before = self.table().started;
            let look = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
            if let Ok(Some(_)) = waitid(WaitId::All, look) {
                self.reap_ended();
                continue;
            }
            let (_table, _timeout) = self
                .shared
                .1
                .wait_timeout_while(self.table(), ORPHANS, |t| t.started == before)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn reap_ended(&self) {
        let mut table = self.table();
        // Any child: `waitpid(None)` would leave out those that made a process group of their own.
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if let Some(tell) = table.waiters.remove(&pid.as_raw_nonzero().get()) {
                // Nobody listens any more: then nobody needs the status.
                let _ = tell.send(ExitStatus::from_raw(status.as_raw()));
            }
        }
    }
}
