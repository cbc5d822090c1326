//! What a node and a pod see of the machine's files.
//!
//! A node shares the machine's root but has its own `/run` (tmpfs), `/proc`, `/sys`, and its own
//! copies of the few directories that the stack writes: `/etc/cni`, `/opt/cni`,
//! `/var/log/aws-routed-eni`, `/var/lib/cni`. Since those may not exist on the machine and nothing may
//! be created there, the directories that hold them are replaced by a tmpfs full of symlinks to the
//! machine's entries (kept under `/run/host`), in which the node's own directories are real. No
//! overlay file system is needed, and 300 symlinks take less than a millisecond.
//!
//! A node of a Kubernetes cluster has a disk as well: what kubelet, the runtime and the CNI plugins
//! keep over a power cut lies in a directory of the lab, bound to its place. Its mounts are shared
//! with its containers, so that a volume or a namespace made on one side appears on the other.

use std::fs;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::mount::{
    MountFlags, MountPropagationFlags, mount, mount_bind, mount_bind_recursive, mount_change,
    mount_move,
};

use crate::cgroup::Cgroups;
use crate::error::{Error, IoContext as _};
use crate::node::ClusterNode;
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

/// More directories with entries of the node's own, on a node of a cluster.
const CLUSTER_FARMS: [(&str, &[&str]); 6] = [
    (
        "/etc",
        &[
            "cni",
            "kubernetes",
            "containerd",
            "resolv.conf",
            "crictl.yaml",
            "machine-id",
        ],
    ),
    ("/opt", &["cni"]),
    ("/var", &["run", "log", "lib"]),
    ("/var/log", &["aws-routed-eni", "pods", "containers"]),
    ("/var/lib", &["cni", "kubelet", "containerd"]),
    // kubelet makes a directory there whatever its configuration says.
    ("/usr/libexec", &["kubernetes"]),
];

/// What a node of a cluster keeps on its disk.
const ON_DISK: [&str; 9] = [
    "/etc/cni",
    "/etc/containerd",
    "/etc/kubernetes",
    "/opt/cni",
    "/var/lib/cni",
    "/var/lib/containerd",
    "/var/lib/kubelet",
    "/var/log/containers",
    "/var/log/pods",
];

/// Settings of the machine that kubelet wants, and would write if they read otherwise. In the node
/// they are ordinary files over the machine's, which stay as they are.
const SYSCTLS: [(&str, &str); 6] = [
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/keys/root_maxbytes", "25000000"),
];

/// Another one at each boot: kubelet tells a reboot by it.
const BOOT_ID: &str = "kernel/random/boot_id";

/// Where a path of a node lies on its disk.
pub(crate) fn on_disk(disk: &Path, path: &str) -> PathBuf {
    disk.join(path.trim_start_matches('/').replace('/', "-"))
}

/// Builds a node's view. The caller is the node's first process, alone in fresh mount, network and
/// cgroup namespaces; `node_dir` is the node's directory in the lab, `view` what a node of a
/// cluster has more than a bare one.
///
/// Returns the node's own view of the cgroups.
pub(crate) fn enter_node(
    node_dir: &Path,
    view: Option<&ClusterNode>,
    cgroups: &Cgroups,
) -> Result<Cgroups, Error> {
    sys::own_mounts()?;
    // Opened before /run is covered: the directories normally lie under it.
    let dir = directory(node_dir)?;
    let disk = view.map(|c| directory(&c.disk)).transpose()?;
    tmpfs("/run")?;
    for dir in [HOST, SELF, "/run/lock"] {
        fs::create_dir_all(dir).at(dir)?;
    }
    let from = format!("/proc/self/fd/{}", dir.as_raw_fd());
    mount_bind(&from, SELF).at(SELF)?;
    drop(dir);
    let farms: &[(&str, &[&str])] = if view.is_some() {
        &CLUSTER_FARMS
    } else {
        &FARMS
    };
    for (dir, own) in farms {
        farm(Path::new(dir), own)?;
    }
    if let Some(disk) = disk {
        bind_disk(&disk)?;
    }
    for dir in OWN {
        fs::create_dir_all(dir).at(dir)?;
    }
    // The stack's logs can be read from outside, and outlive the node.
    let logs = Path::new(SELF).join(STACK_LOGS);
    fs::create_dir_all(&logs).at(&logs)?;
    mount_bind(&logs, "/var/log/aws-routed-eni").at(&logs)?;
    proc_and_sys()?;
    let cgroups = cgroups.remount(view.is_some())?;
    if let Some(view) = view {
        settle(view)?;
    }
    Ok(cgroups)
}

/// The machine id of a node: made at its first boot, kept on its disk.
fn identity(kept: &Path) -> Result<String, Error> {
    if !kept.exists() {
        let id = random()?.replace('-', "");
        fs::write(kept, format!("{id}\n")).at(kept)?;
    }
    fs::read_to_string(kept).at(kept)
}

fn random() -> Result<String, Error> {
    let path = "/proc/sys/kernel/random/uuid";
    Ok(fs::read_to_string(path).at(path)?.trim().to_owned())
}

fn directory(path: &Path) -> Result<OwnedFd, Error> {
    rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).at(path)
}

/// Puts what the disk has in its places.
fn bind_disk(disk: &OwnedFd) -> Result<(), Error> {
    let top = PathBuf::from(format!("/proc/self/fd/{}", disk.as_raw_fd()));
    for path in ON_DISK {
        let from = on_disk(&top, path);
        for dir in [&from, Path::new(path)] {
            fs::create_dir_all(dir).at(dir)?;
        }
        mount_bind(&from, path).at(path)?;
    }
    Ok(())
}

/// The last of a cluster node's view: its files in `/etc`, the settings that kubelet reads, and the
/// propagation of mounts.
fn settle(view: &ClusterNode) -> Result<(), Error> {
    let machine = identity(Path::new("/var/lib/kubelet/.machine-id"))?;
    let crictl = "runtime-endpoint: unix:///run/containerd/containerd.sock\n";
    for (path, text) in [
        ("/etc/resolv.conf", view.resolv_conf.as_str()),
        ("/etc/crictl.yaml", crictl),
        ("/etc/machine-id", &machine),
    ] {
        fs::write(path, text).at(path)?;
    }
    let settings = Path::new("/run/.sysctl");
    let boot = random()?;
    let boot = (BOOT_ID, boot.as_str());
    for (name, value) in SYSCTLS.into_iter().chain([boot]) {
        let (over, file) = (Path::new("/proc/sys").join(name), settings.join(name));
        // Not every kernel has every one, and kubelet leaves out what is not there.
        if over.exists() {
            let dir = file.parent().unwrap_or(settings);
            fs::create_dir_all(dir).at(dir)?;
            fs::write(&file, format!("{value}\n")).at(&file)?;
            mount_bind(&file, &over).at(&over)?;
        }
    }
    let shared = MountPropagationFlags::SHARED | MountPropagationFlags::REC;
    mount_change("/", shared).doing("share the node's mounts with its containers")
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
    // Below a directory that was replaced before, the machine's is kept already.
    if !source.exists() {
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
