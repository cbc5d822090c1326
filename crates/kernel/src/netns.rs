//! Network namespaces as values.
//!
//! A namespace is held by an open file descriptor; it lives as long as a descriptor, a bind mount
//! or a thread holds it. The thread that calls anything here is never moved: work inside a
//! namespace happens on a thread made for it, because a thread that fails to return to its
//! namespace would silently configure the wrong one (namespaces(7), setns(2)).

#![allow(
    unsafe_code,
    reason = "unshare(2) is unsafe in rustix because of CLONE_FILES; we pass CLONE_NEWNET only"
)]

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::thread;

use rustix::mount::UnmountFlags;
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use crate::{Error, Result};

/// `f_type` of a namespace file (linux/magic.h).
const NSFS_MAGIC: i64 = 0x6e73_6673;

/// Where a thread finds its own network namespace.
const OWN: &str = "/proc/thread-self/ns/net";

/// A network namespace, held open.
pub struct NetNs {
    fd: OwnedFd,
    id: NsId,
}

/// What makes two namespaces the same one: device and inode of its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NsId {
    /// Device of the nsfs file system.
    pub dev: u64,
    /// Inode: the number that `lsns` and `readlink /proc/PID/ns/net` show.
    pub ino: u64,
}

impl fmt::Display for NsId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "net:[{}]", self.ino)
    }
}

impl fmt::Debug for NetNs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NetNs({})", self.id)
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl NetNs {
    /// Opens the namespace that is bind-mounted at `path`, or a file `/proc/PID/ns/net`.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = File::open(path).map_err(|source| Error::NamespaceOpen {
            path: path.to_owned(),
            source,
        })?;
        Self::from_fd(file.into(), path)
    }

    /// Opens the namespace of a process.
    pub fn of_process(pid: u32) -> Result<Self> {
        Self::open(format!("/proc/{pid}/ns/net"))
    }

    /// Opens the namespace of the calling thread.
    pub fn current() -> Result<Self> {
        Self::open(OWN)
    }

    /// Takes a descriptor of a namespace file; `path` is for messages only.
    pub fn from_fd(fd: OwnedFd, path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let failed = |errno| Error::NamespaceOpen {
            path: path.to_owned(),
            source: io::Error::from(errno),
        };
        if rustix::fs::fstatfs(&fd).map_err(failed)?.f_type as i64 != NSFS_MAGIC {
            return Err(Error::NotANamespace {
                path: path.to_owned(),
            });
        }
        let stat = rustix::fs::fstat(&fd).map_err(failed)?;
        Ok(Self {
            fd,
            id: NsId {
                dev: stat.st_dev,
                ino: stat.st_ino,
            },
        })
    }

    /// Makes a new namespace that nothing but the returned value holds. Its `lo` is down.
    pub fn create() -> Result<Self> {
        Self::create_with(|_| Ok(()))
    }

    /// Makes a new namespace and bind-mounts it at `path`, which outlives this process and is
    /// undone by [`NetNs::unpin`]. The file is created; its directory must exist and may be any.
    /// Fails with EEXIST when the file exists.
    pub fn create_pinned(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let failed = |source| Error::NamespacePin {
            path: path.to_owned(),
            source,
        };
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(path)
            .map_err(failed)?;
        let made = Self::create_with(|own| {
            rustix::mount::mount_bind(own, path).map_err(|errno| failed(errno.into()))
        });
        if made.is_err() {
            // The error that counts is the first one; the empty file would block the next attempt.
            let _ = std::fs::remove_file(path);
        }
        made
    }

    /// Undoes [`NetNs::create_pinned`]: unmounts and removes the file. The namespace itself ends
    /// when the last process, socket or descriptor in it ends. A path that does not exist is fine.
    pub fn unpin(path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let failed = |source| Error::NamespaceUnpin {
            path: path.to_owned(),
            source,
        };
        match rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            // EINVAL: not a mount point, only the file of an attempt that was interrupted.
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(rustix::io::Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(failed(errno.into())),
        }
        match std::fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed(e)),
            _ => Ok(()),
        }
    }

    /// What identifies the namespace.
    pub fn id(&self) -> NsId {
        self.id
    }

    /// A second handle of the same namespace.
    pub fn try_clone(&self) -> Result<Self> {
        let fd = self.fd.try_clone().map_err(|source| Error::NamespaceOpen {
            path: OWN.into(),
            source,
        })?;
        Ok(Self { fd, id: self.id })
    }

    /// Runs `work` on a new thread inside the namespace and waits for it. Sockets opened by it
    /// belong to the namespace and may be used from any thread afterwards. A panic of `work`
    /// goes on in the caller.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        thread::scope(|scope| {
            let thread = thread::Builder::new()
                .name(format!("{}", self.id))
                .spawn_scoped(scope, || self.enter_for_good().map(|()| work()))
                .map_err(|source| Error::Thread {
                    ns: self.id,
                    source,
                })?;
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Moves the calling thread into the namespace, for threads that never do anything else: a
    /// thread of the namespace's own, or a child process between fork and exec.
    pub fn enter_for_good(&self) -> Result<()> {
        rustix::thread::move_into_link_name_space(self.fd.as_fd(), Some(LinkNameSpaceType::Network))
            .map_err(|errno| Error::NamespaceEnter {
                ns: self.id,
                source: errno.into(),
            })
    }

    /// Makes a namespace on a thread of its own and calls `pin` there with the namespace's path.
    fn create_with(pin: impl FnOnce(&str) -> Result<()> + Send) -> Result<Self> {
        let create = || {
            // SAFETY: CLONE_NEWNET replaces only the thread's view of the network; memory,
            // descriptors and file system stay shared, so no safe code can be surprised.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.map_err(|errno| {
                Error::NamespaceCreate {
                    source: errno.into(),
                }
            })?;
            pin(OWN)?;
            Self::open(OWN)
        };
        thread::scope(|scope| {
            let thread = thread::Builder::new()
                .name("netns-create".to_owned())
                .spawn_scoped(scope, create)
                .map_err(|source| Error::NamespaceCreate { source })?;
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}
