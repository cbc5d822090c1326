//! The few system calls with which namespaces are made and entered.
//!
//! Everything here acts on the calling *thread*. Whoever must not change calls it from a thread of
//! its own ([`on_thread`]) or is single-threaded and about to `exec`.
#![allow(
    unsafe_code,
    reason = "unshare(2) is unsafe in rustix for one flag that is never used"
)]

use std::fs;
use std::path::Path;
use std::process::{Child, Command};

use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_change, unmount};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::error::{Error, IoContext as _};

const MOUNTS: &str = "/proc/self/mountinfo";

/// Gives the calling thread namespaces of its own. `FILES` must not be among the flags.
pub(crate) fn unshare(flags: UnshareFlags) -> Result<(), Error> {
    debug_assert!(!flags.contains(UnshareFlags::FILES));
    // SAFETY: the call is unsafe only for CLONE_FILES (descriptors of another thread would become
    // invalid here); no caller passes it.
    unsafe { unshare_unsafe(flags) }.doing("make a namespace")
}

/// Runs a closure on a new thread whose namespaces may be changed at will.
pub(crate) fn on_thread<T: Send>(
    work: impl FnOnce() -> Result<T, Error> + Send,
) -> Result<T, Error> {
    std::thread::scope(|scope| match scope.spawn(work).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// Starts a command as the first process of a new PID namespace.
pub(crate) fn spawn_as_pid_1(command: &mut Command) -> Result<Child, Error> {
    unshare(UnshareFlags::NEWPID)?;
    spawn(command)
}

/// Starts a command.
pub(crate) fn spawn(command: &mut Command) -> Result<Child, Error> {
    let program = command.get_program().to_owned();
    command.spawn().map_err(|source| Error::Spawn {
        program: program.into(),
        source,
    })
}

/// Cuts the calling thread's mounts off from everybody else's. After [`UnshareFlags::NEWNS`].
///
/// The copy holds every namespace that is pinned on the machine; they are let go, or none of them
/// could end while this copy lives.
pub(crate) fn own_mounts() -> Result<(), Error> {
    let flags = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", flags).doing("make the mounts private")?;
    let text = fs::read_to_string(MOUNTS).at(MOUNTS)?;
    let pins = text.lines().rev().filter(|line| line.contains(" - nsfs "));
    pins.filter_map(|line| line.split(' ').nth(4))
        .try_for_each(|p| detach(&unescape(p)))
}

fn detach(point: &Path) -> Result<(), Error> {
    match unmount(point, UnmountFlags::DETACH) {
        // Gone with a mount it was in.
        Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => Ok(()),
        Err(e) => Err(e).at(point),
    }
}

/// All mount points below a path, the latest first.
pub(crate) fn mounts_below(top: &Path) -> Result<Vec<std::path::PathBuf>, Error> {
    let text = fs::read_to_string(MOUNTS).at(MOUNTS)?;
    let points = text
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(unescape);
    let mut found: Vec<_> = points.filter(|p| p != top && p.starts_with(top)).collect();
    found.reverse();
    Ok(found)
}

/// Undoes mountinfo's octal escapes of blanks and backslashes.
fn unescape(text: &str) -> std::path::PathBuf {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&b, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|_| b == b'\\');
        let value = octal
            .and_then(|d| std::str::from_utf8(d).ok())
            .and_then(|d| u8::from_str_radix(d, 8).ok());
        match value {
            Some(v) => (out.push(v), rest = &tail[3..]).1,
            None => (out.push(b), rest = tail).1,
        }
    }
    <std::ffi::OsString as std::os::unix::ffi::OsStringExt>::from_vec(out).into()
}

/// Lazily unmounts everything below a path.
pub(crate) fn unmount_below(top: &Path) -> Result<(), Error> {
    mounts_below(top)?
        .iter()
        .try_for_each(|point| detach(point))
}

/// Fails with a clear message when the process is not root.
///
/// # Errors
/// [`Error::NotRoot`].
pub fn require_root() -> Result<(), Error> {
    if rustix::process::geteuid().is_root() {
        Ok(())
    } else {
        Err(Error::NotRoot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_with_blanks_are_read() {
        assert_eq!(unescape(r"/a\040b\134c"), Path::new("/a b\\c"));
        assert_eq!(unescape(r"/a\04"), Path::new(r"/a\04"));
    }
}
