//! The fabric on a thread of its own.
//!
//! The problem: a change blocks for milliseconds, and many changes may come at once. The thread applies the newest
//! state and skips the ones before it; every request hears of the version that covered it.

use std::path::Path;
use std::sync::mpsc;
use std::thread;

use super::{Desired, Fabric, FabricError, Report};

/// What happened to a version.
pub struct Outcome {
    /// The newest version that this attempt covered; older ones that were skipped are covered by it.
    pub version: u64,
    /// The report, or why the packet plane is not (all) as desired. The next request tries again.
    pub result: Result<Report, FabricError>,
}

/// Sends desired states to the fabric's thread; the thread ends when this is dropped.
pub struct Handle {
    queue: Option<mpsc::Sender<(u64, Box<Desired>)>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Handle {
    /// Starts the thread for the fabric in `dir`. `applied` is called on it after every attempt.
    pub fn start(
        dir: &Path,
        mut applied: impl FnMut(Outcome) + Send + 'static,
    ) -> Result<Self, FabricError> {
        let mut fabric = Fabric::new(dir)?;
        let (queue, requests) = mpsc::channel::<(u64, Box<Desired>)>();
        let work = move || {
            while let Ok(mut newest) = requests.recv() {
                while let Ok(newer) = requests.try_recv() {
                    newest = newer;
                }
                let (version, desired) = newest;
                applied(Outcome {
                    version,
                    result: fabric.apply(&desired),
                });
            }
        };
        let thread = thread::Builder::new()
            .name("fabric".to_owned())
            .spawn(work)
            .map_err(FabricError::Thread)?;
        Ok(Self {
            queue: Some(queue),
            thread: Some(thread),
        })
    }

    /// Asks for a state. Returns at once; versions are expected to grow.
    pub fn request(&self, version: u64, desired: Desired) -> Result<(), FabricError> {
        let queue = self.queue.as_ref().ok_or(FabricError::Stopped)?;
        queue
            .send((version, Box::new(desired)))
            .map_err(|_| FabricError::Stopped)
    }
}

impl Drop for Handle {
    /// Waits for the change in progress; the namespaces stay.
    fn drop(&mut self) {
        drop(self.queue.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the fabric's thread panicked");
        }
    }
}
