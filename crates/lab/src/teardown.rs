//! Removing a lab, whether its daemon lives or was killed.
//!
//! Everything is found from the lab's name: processes by cgroup, pinned namespaces by the mounts
//! below the directories. Links, routes, rules and connections live in those namespaces and end with
//! them. Doing it twice, or to a lab that never was, is fine.

use std::fs;
use std::path::Path;

use crate::cgroup::Cgroups;
use crate::error::{Error, IoContext as _};
use crate::place::Place;
use crate::sys;

/// Removes all of a lab but the calling process. The daemon must have ended, or be the caller.
///
/// # Errors
/// The first thing that could not be removed; the rest is attempted nevertheless.
pub fn sweep(place: &Place, cgroups: &Cgroups) -> Result<(), Error> {
    let group = place.cgroup();
    let steps = [
        cgroups.kill(&group),
        sys::unmount_below(place.dir()),
        sys::unmount_below(&place.disk()),
        cgroups.remove(&group),
        remove_dir(&place.disk()),
        remove_dir(place.dir()),
    ];
    if let Some(top) = group.parent() {
        cgroups.remove_if_empty(top);
    }
    for parent in [Some(place.parent()), place.disk().parent()] {
        // Not empty: another lab lives there.
        let _ = parent.map(fs::remove_dir);
    }
    steps.into_iter().collect()
}

/// Whether anything of the lab is left on the machine.
#[must_use]
pub fn is_left(place: &Place, cgroups: &Cgroups) -> bool {
    place.dir().exists() || place.disk().exists() || cgroups.exists(&place.cgroup())
}

/// Removes a directory with all in it; that it is not there is fine.
pub(crate) fn remove_dir(dir: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e).at(dir),
        _ => Ok(()),
    }
}
