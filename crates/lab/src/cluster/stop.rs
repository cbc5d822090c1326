//! Tells work that blocks beside the event loop that nobody waits for it any more.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::error::Error;

/// Set once, when the clusters' manager goes. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Stop(Arc<AtomicBool>);

impl Stop {
    pub(super) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Sleeps for a moment between two looks at something.
    pub(super) fn pause(&self, moment: Duration) -> Result<(), Error> {
        std::thread::sleep(moment);
        if self.0.load(Ordering::Relaxed) {
            Err(Error::Interrupted)
        } else {
            Ok(())
        }
    }
}
