//! Control groups: which processes belong to a lab, a node, a pod.
//!
//! Both versions are used as the machine has them: version 1 with the controllers memory, cpu, pids
//! and freezer where they are mounted, version 2 otherwise. In version 2 a group with children holds
//! no processes, so processes always live in leaves (`<node>/init`, `<node>/agent`, `<node>/pod-…`),
//! in version 1 too.
//!
//! A node of a Kubernetes cluster is more: kubelet and runc want the same path in every hierarchy of
//! version 1, the named ones included. Its group is made by [`Cgroups::create_whole`]; from then on
//! what is made below it or joined is made and joined in all of them, and removing looks in all of
//! them always.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::error::{Error, IoContext as _};

const WANTED: [&str; 4] = ["memory", "cpu", "pids", "freezer"];

/// What version 1 can have more than that, and what is an option of the mount and no controller.
const OTHERS: [&str; 10] = [
    "cpuacct",
    "cpuset",
    "devices",
    "blkio",
    "net_cls",
    "net_prio",
    "perf_event",
    "hugetlb",
    "rdma",
    "misc",
];

/// A group of the version-1 controller `cpuset` takes no process before these have values.
const CPUSET: [&str; 2] = ["cpuset.cpus", "cpuset.mems"];

/// The hierarchies of this machine (or, inside a node, of that node).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroups {
    /// Those that every group of the lab is in.
    roots: Vec<Root>,
    /// The other hierarchies of version 1: for nodes of Kubernetes clusters.
    rest: Vec<Root>,
}

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Root {
    path: PathBuf,
    /// Version 1: the controllers (or the name), as mount options. Version 2: none.
    controllers: Option<String>,
}

impl Root {
    fn has(&self, controller: &str) -> bool {
        let mut names = self.controllers.iter().flat_map(|c| c.split(','));
        names.any(|n| n == controller)
    }

    /// Makes a group with its parents and, where there are CPU sets, gives each its parent's.
    fn make(&self, group: &Path) -> Result<(), Error> {
        let path = self.path.join(group);
        make(&path).at(&path)?;
        if self.has("cpuset") {
            let mut at = self.path.clone();
            for part in group {
                let parent = at.clone();
                at.push(part);
                fill_cpuset(&parent, &at)?;
            }
        }
        Ok(())
    }
}

impl Cgroups {
    /// Reads the machine's mounts.
    ///
    /// # Errors
    /// When they cannot be read or no usable hierarchy is mounted.
    pub fn mounted() -> Result<Self, Error> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").at("/proc/self/mountinfo")?;
        Self::parse(&mounts).ok_or(Error::NoCgroups)
    }

    fn parse(mountinfo: &str) -> Option<Self> {
        let mut v1: Vec<Root> = Vec::new();
        let mut rest: Vec<Root> = Vec::new();
        let mut v2 = None;
        for line in mountinfo.lines() {
            let Some((left, right)) = line.split_once(" - ") else {
                continue;
            };
            let Some(path) = left.split(' ').nth(4).map(PathBuf::from) else {
                continue;
            };
            let mut right = right.split(' ');
            match (right.next(), right.nth(1)) {
                (Some("cgroup2"), _) => {
                    v2 = Some(Root {
                        path,
                        controllers: None,
                    })
                }
                (Some("cgroup"), Some(options)) => {
                    let names: Vec<&str> = options.split(',').filter(|o| names_it(o)).collect();
                    // Of a hierarchy that is mounted in two places, the first one will do.
                    let options = names.join(",");
                    let known = |r: &Root| r.controllers.as_ref() == Some(&options);
                    if names.is_empty() || v1.iter().chain(&rest).any(known) {
                        continue;
                    }
                    let wanted = names.iter().any(|n| WANTED.contains(n));
                    let list = if wanted { &mut v1 } else { &mut rest };
                    list.push(Root {
                        path,
                        controllers: Some(options),
                    });
                }
                _ => {}
            }
        }
        let (roots, rest) = if v1.is_empty() {
            (Vec::from_iter(v2), Vec::new())
        } else {
            (v1, rest)
        };
        (!roots.is_empty()).then_some(Self { roots, rest })
    }

    fn every(&self) -> impl Iterator<Item = &Root> {
        self.roots.iter().chain(&self.rest)
    }

    /// Those of the other hierarchies in which a group exists.
    fn rest_with(&self, group: &Path) -> impl Iterator<Item = &Root> {
        let group = group.to_owned();
        self.rest
            .iter()
            .filter(move |r| r.path.join(&group).exists())
    }

    /// Creates a group and its parents; in the other hierarchies too where its parent is there.
    ///
    /// # Errors
    /// When a directory cannot be made.
    pub fn create(&self, group: &Path) -> Result<(), Error> {
        for root in &self.roots {
            root.make(group)?;
            if root.controllers.is_none() {
                hand_down_controllers(&root.path, group, &WANTED)?;
            }
        }
        let parent = group.parent().unwrap_or(Path::new(""));
        self.rest_with(parent).try_for_each(|root| root.make(group))
    }

    /// Creates a group and its parents in every hierarchy, with every controller that there is.
    ///
    /// # Errors
    /// When a directory cannot be made.
    pub fn create_whole(&self, group: &Path) -> Result<(), Error> {
        for root in self.every() {
            root.make(group)?;
            if root.controllers.is_none() {
                hand_down_controllers(&root.path, group, &[])?;
            }
        }
        Ok(())
    }

    /// Moves the calling process into a group, in every hierarchy that has it.
    ///
    /// # Errors
    /// When the group does not exist or the kernel refuses.
    pub fn join(&self, group: &Path) -> Result<(), Error> {
        for root in self.roots.iter().chain(self.rest_with(group)) {
            let procs = root.path.join(group).join("cgroup.procs");
            fs::write(&procs, "0").at(&procs)?;
        }
        Ok(())
    }

    /// Moves the calling process, which is alone in `group`, into the new leaf `group/leaf`, so
    /// that `group` may have other children.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn join_leaf(&self, group: &Path, leaf: &str, whole: bool) -> Result<(), Error> {
        let leaf = group.join(leaf);
        for root in self.roots.iter().chain(self.rest_with(group)) {
            root.make(&leaf)?;
        }
        self.join(&leaf)?;
        if whole {
            self.create_whole(&leaf)
        } else {
            self.create(&leaf)
        }
    }

    /// The processes in a group and below it, as this process's PID namespace numbers them.
    #[must_use]
    pub fn members(&self, group: &Path) -> BTreeSet<i32> {
        let mut pids = BTreeSet::new();
        for root in &self.roots {
            for dir in tree(&root.path.join(group)) {
                // A group that went away has no members.
                let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
                pids.extend(
                    text.lines()
                        .filter_map(|l| l.parse::<i32>().ok())
                        .filter(|p| *p > 0),
                );
            }
        }
        pids
    }

    /// The names of a group's children, from every hierarchy.
    #[must_use]
    pub fn children(&self, group: &Path) -> BTreeSet<String> {
        let dirs = self
            .roots
            .iter()
            .filter_map(|r| fs::read_dir(r.path.join(group)).ok());
        dirs.flatten()
            .filter_map(Result::ok)
            .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
            .filter_map(|e| e.file_name().into_string().ok())
            .collect()
    }

    /// Whether the group exists in any hierarchy.
    #[must_use]
    pub fn exists(&self, group: &Path) -> bool {
        self.every().any(|r| r.path.join(group).exists())
    }

    /// Kills everything in a group and below, and waits until it is gone.
    ///
    /// Each process is signalled through a pidfd taken before its membership is read again, so a
    /// number that was reused meanwhile is never hit.
    ///
    /// # Errors
    /// When processes remain after about a minute, which is for a machine that is busy.
    pub fn kill(&self, group: &Path) -> Result<(), Error> {
        const ROUNDS: u32 = 12_000;
        for round in 0..ROUNDS {
            let members = self.members(group);
            if members.is_empty() {
                return Ok(());
            }
            for pid in members {
                self.kill_member(group, pid)?;
            }
            std::thread::sleep(Duration::from_millis(if round < 100 { 1 } else { 5 }));
        }
        let left = self.members(group).into_iter().collect();
        Err(Error::CannotKill {
            group: group.to_owned(),
            pids: left,
        })
    }

    fn kill_member(&self, group: &Path, number: i32) -> Result<(), Error> {
        let gone = |e: rustix::io::Errno| e == rustix::io::Errno::SRCH;
        let Some(pid) = Pid::from_raw(number) else {
            return Ok(());
        };
        let fd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(fd) => fd,
            Err(e) if gone(e) => return Ok(()),
            Err(e) => {
                return Err(Error::Process {
                    what: "open",
                    pid: number,
                    source: e.into(),
                });
            }
        };
        if !self.members(group).contains(&number) {
            return Ok(());
        }
        match pidfd_send_signal(&fd, Signal::KILL) {
            Err(e) if !gone(e) => Err(Error::Process {
                what: "kill",
                pid: number,
                source: e.into(),
            }),
            _ => Ok(()),
        }
    }

    /// Removes a group with all below it. A group that does not exist is fine.
    ///
    /// # Errors
    /// When a directory stays busy for about half a minute, which is for a machine that is busy.
    pub fn remove(&self, group: &Path) -> Result<(), Error> {
        for root in self.every() {
            // Children come after their parents in `tree`.
            for dir in tree(&root.path.join(group)).iter().rev() {
                remove_group(dir)?;
            }
        }
        Ok(())
    }

    /// Removes a group in every hierarchy if it has no children; for the parent of all labs.
    pub fn remove_if_empty(&self, group: &Path) {
        for root in self.every() {
            // Busy means that another lab lives there.
            let _ = fs::remove_dir(root.path.join(group));
        }
    }

    /// Mounts this node's view of the hierarchies on a fresh `/sys/fs/cgroup`, with `whole` all of
    /// them. To be called in the node's cgroup and mount namespaces; the paths of the result are the
    /// new ones.
    pub(crate) fn remount(&self, whole: bool) -> Result<Self, Error> {
        use rustix::mount::{MountFlags, mount};
        let top = Path::new("/sys/fs/cgroup");
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        let version_1 = self.roots.iter().any(|r| r.controllers.is_some());
        if version_1 {
            mount("tmpfs", top, "tmpfs", flags, Some(c"mode=755")).at(top)?;
        }
        let remount = |root: &Root| {
            let (path, kind, options) = match &root.controllers {
                None => (top.to_owned(), "cgroup2", None),
                Some(names) => {
                    let (dir, options) = match names.strip_prefix("name=") {
                        Some(name) => (name, format!("none,{names}")),
                        None => (names.as_str(), names.clone()),
                    };
                    let options = std::ffi::CString::new(options).ok();
                    (top.join(dir), "cgroup", options)
                }
            };
            fs::create_dir_all(&path).at(&path)?;
            mount(kind, &path, kind, flags, options.as_deref()).at(&path)?;
            Ok(Root {
                path,
                controllers: root.controllers.clone(),
            })
        };
        let all = |list: &[Root]| list.iter().map(remount).collect::<Result<Vec<_>, Error>>();
        Ok(Self {
            roots: all(&self.roots)?,
            rest: all(if whole { &self.rest } else { &[] })?,
        })
    }
}

/// Whether an option of a version-1 mount is part of the hierarchy's name.
fn names_it(option: &str) -> bool {
    WANTED.contains(&option) || OTHERS.contains(&option) || option.starts_with("name=")
}

/// Gives a new group of CPU sets its parent's.
fn fill_cpuset(parent: &Path, group: &Path) -> Result<(), Error> {
    for file in CPUSET {
        let (from, to) = (parent.join(file), group.join(file));
        if fs::read_to_string(&to).at(&to)?.trim().is_empty() {
            let value = fs::read_to_string(&from).at(&from)?;
            fs::write(&to, value.trim()).at(&to)?;
        }
    }
    Ok(())
}

/// Version 2: lets controllers reach `group` from every one of its ancestors; without a choice, all
/// that are offered.
fn hand_down_controllers(root: &Path, group: &Path, wanted: &[&str]) -> Result<(), Error> {
    let mut at = root.to_owned();
    for part in group {
        let control = at.join("cgroup.subtree_control");
        let offered = fs::read_to_string(at.join("cgroup.controllers")).unwrap_or_default();
        let chosen = |n: &&str| wanted.is_empty() || wanted.contains(n);
        for name in offered.split_whitespace().filter(chosen) {
            fs::write(&control, format!("+{name}")).at(&control)?;
        }
        at.push(part);
    }
    Ok(())
}

/// A directory and all directories below it, parents first; empty when it does not exist.
fn tree(top: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    let mut open = vec![top.to_owned()];
    while let Some(dir) = open.pop() {
        let Ok(entries) = fs::read_dir(&dir) else {
            continue;
        };
        let dirs = entries
            .filter_map(Result::ok)
            .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()));
        open.extend(dirs.map(|e| e.path()));
        all.push(dir);
    }
    all
}

/// Makes a group and its parents. The parent of all labs may go between two of these steps, when
/// another lab, the last so far, is taken down: then they are begun again.
fn make(path: &Path) -> io::Result<()> {
    const ROUNDS: u32 = 100;
    for _ in 1..ROUNDS {
        match fs::create_dir_all(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            done => return done,
        }
    }
    fs::create_dir_all(path)
}

/// A group is busy for a moment after its last process has ended.
fn remove_group(dir: &Path) -> Result<(), Error> {
    const ROUNDS: u32 = 6000;
    for round in 1.. {
        match fs::remove_dir(dir) {
            Ok(()) => break,
            Err(e) if e.kind() == io::ErrorKind::NotFound => break,
            Err(e) if e.kind() == io::ErrorKind::ResourceBusy && round < ROUNDS => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(e) => return Err(e).at(dir),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_1_wins_where_both_are_mounted() {
        let text = "30 25 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
                    31 30 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                    32 30 0:28 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n\
                    33 30 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let found = Cgroups::parse(text).unwrap();
        let paths: Vec<_> = found
            .roots
            .iter()
            .map(|r| r.path.to_str().unwrap())
            .collect();
        assert_eq!(paths, ["/sys/fs/cgroup/cpu"]);
        let rest: Vec<_> = found
            .rest
            .iter()
            .map(|r| r.path.to_str().unwrap())
            .collect();
        assert_eq!(rest, ["/sys/fs/cgroup/cpuset"]);
        let v2 = "33 30 0:29 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        assert_eq!(Cgroups::parse(v2).unwrap().roots[0].controllers, None);
        assert_eq!(Cgroups::parse("1 0 0:1 / / rw - ext4 /dev/x rw\n"), None);
    }

    #[test]
    fn hierarchies_are_known_by_all_their_controllers_or_their_name() {
        let text = "31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                    32 30 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
                    33 30 0:27 / /elsewhere rw - cgroup cgroup rw,cpu,cpuacct\n";
        let found = Cgroups::parse(text).unwrap();
        let options = |list: &[Root]| -> Vec<String> {
            list.iter().filter_map(|r| r.controllers.clone()).collect()
        };
        assert_eq!(options(&found.roots), ["cpu,cpuacct"]);
        assert_eq!(options(&found.rest), ["name=systemd"]);
    }
}
