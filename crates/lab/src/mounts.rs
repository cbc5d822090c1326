//! What a node and a pod see of the machine's files.
//!
//! A node shares the machine's root but has its own `/run` (tmpfs), `/proc`, `/sys`, and its own
//! copies of the few directories that the stack writes: `/etc/cni`, `/opt/cni`,
//! `/var/log/aws-routed-eni`, `/var/lib/cni`. Since those may not exist on the machine and nothing may
//! be created there, the directories that hold them are replaced by a tmpfs full of symlinks to the
//! machine's entries (kept under `/run/host`), in which the node's own directories are real. No
//! overlay file system is needed, and 300 symlinks take less than a millisecond.

use std::fs;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::symlink;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, mount, mount_bind, mount_bind_recursive, mount_move};

use crate::cgroup::Cgroups;
use crate::error::{Error, IoContext as _};
use crate::sys;

/// Where a node keeps the machine's directories that it replaced.
const HOST: &str = "/run/host";
/// Where a node sees its own directory of the lab.
pub(crate) const SELF: &str = "/run/branchline-node";
/// Where the stack's logs are, in the node's own directory.
pub(crate) const STACK_LOGS: &str = "aws-routed-eni";
/// Where a node pins its pods' network namespaces.
pub(crate) const POD_NETNS: &str = "/run/netns";

/// Directories with entries of the node's own.
const FARMS: [(&str, &[&str]); 5] = [
    ("/etc", &["cni"]),
    ("/opt", &["cni"]),
    ("/var", &["run", "log", "lib"]),
    ("/var/log", &["aws-routed-eni"]),
    ("/var/lib", &["cni"]),
];

/// Directories of the node's own.
const OWN: [&str; 7] = [
    "/etc/cni/net.d",
    "/opt/cni/bin",
    "/var/log/aws-routed-eni",
    "/var/lib/cni",
    POD_NETNS,
    "/run/aws-node",
    POD_RUN,
];

/// Where a pod's `/run` is put together.
const POD_RUN: &str = "/run/.pod";

/// Builds a node's view. The caller is the node's first process, alone in fresh mount, network and
/// cgroup namespaces; `node_dir` is the node's directory in the lab.
///
/// Returns the node's own view of the cgroups.
pub(crate) fn enter_node(node_dir: &Path, cgroups: &Cgroups) -> Result<Cgroups, Error> {
    sys::own_mounts()?;
    // Opened before /run is covered: the directory normally lies under it.
    let dir = rustix::fs::open(node_dir, OFlags::PATH | OFlags::DIRECTORY, Mode::empty());
    let dir = dir.at(node_dir)?;
    tmpfs("/run")?;
    for dir in [HOST, SELF, "/run/lock"] {
        fs::create_dir_all(dir).at(dir)?;
    }
    let from = format!("/proc/self/fd/{}", dir.as_raw_fd());
    mount_bind(&from, SELF).at(SELF)?;
    drop(dir);
    for (dir, own) in FARMS {
        farm(Path::new(dir), own)?;
    }
    for dir in OWN {
        fs::create_dir_all(dir).at(dir)?;
    }
    // The stack's logs can be read from outside, and outlive the node.
    let logs = Path::new(SELF).join(STACK_LOGS);
    fs::create_dir_all(&logs).at(&logs)?;
    mount_bind(&logs, "/var/log/aws-routed-eni").at(&logs)?;
    proc_and_sys()?;
    cgroups.remount()
}

/// Builds a pod's view. The caller is the pod's first process, alone in fresh mount and network
/// namespaces copied from a node's.
pub(crate) fn enter_pod() -> Result<(), Error> {
    sys::own_mounts()?;
    tmpfs(POD_RUN)?;
    let host = Path::new(POD_RUN).join("host");
    fs::create_dir(&host).at(&host)?;
    mount_bind_recursive(HOST, &host).at(&host)?;
    mount_move(POD_RUN, "/run").at("/run")?;
    proc_and_sys()
}

fn tmpfs(at: &str) -> Result<(), Error> {
    mount(
        "tmpfs",
        at,
        "tmpfs",
        MountFlags::NOSUID | MountFlags::NODEV,
        Some(c"mode=755"),
    )
    .at(at)
}

fn proc_and_sys() -> Result<(), Error> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("proc", "/proc", "proc", flags, None).at("/proc")?;
    mount("sysfs", "/sys", "sysfs", flags, None).at("/sys")?;
    let bpf = "/sys/fs/bpf";
    if Path::new(bpf).exists() {
        mount("bpf", bpf, "bpf", flags, Some(c"mode=700")).at(bpf)?;
    }
    Ok(())
}

/// Replaces a directory by links to the machine's entries, leaving out `own`.
fn farm(dir: &Path, own: &[&str]) -> Result<(), Error> {
    let relative = dir.strip_prefix("/").unwrap_or(dir);
    let source = Path::new(HOST).join(relative);
    if relative.components().count() == 1 {
        fs::create_dir_all(&source).at(&source)?;
        mount_bind_recursive(dir, &source).at(dir)?;
        tmpfs(&dir.to_string_lossy())?;
    } else {
        fs::create_dir_all(dir).at(dir)?;
    }
    for entry in fs::read_dir(&source).at(&source)? {
        let entry = entry.at(&source)?;
        let name = entry.file_name();
        if own.iter().any(|o| name == *o) {
            continue;
        }
        // A relative link means the same thing in its old place only.
        let is_link = entry.file_type().at(entry.path())?.is_symlink();
        let target = if is_link {
            fs::read_link(entry.path()).at(entry.path())?
        } else {
            entry.path()
        };
        let link = dir.join(&name);
        symlink(target, &link).at(&link)?;
    }
    if own.contains(&"run") {
        symlink("/run", dir.join("run")).at(dir)?;
    }
    Ok(())
}
