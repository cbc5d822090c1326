//! Where a lab keeps what it has: one directory per lab, a second one for what is big, one cgroup.
//!
//! Invariant: everything that a lab leaves on the machine is found from its name alone: processes by
//! the cgroup, namespaces and files by the directories. That is what lets `lab down` clean up after a
//! daemon that was killed.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Parent of all labs' directories unless told otherwise.
pub const DEFAULT_PARENT: &str = "/run/branchline";

/// Parent of the disks of labs in [`DEFAULT_PARENT`], which is in memory.
const DISKS: &str = "/var/lib/branchline";

/// What the host names of control planes begin with.
const PLANE: &str = "cluster-";

/// The name of a lab: what a directory, a cgroup and a shell word can be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LabName(String);

/// A name that cannot name a lab.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' cannot name a lab: lower-case letters, digits and '-', at most 32, first a letter")]
pub struct LabNameError(String);

impl FromStr for LabName {
    type Err = LabNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let first = text.starts_with(|c: char| c.is_ascii_lowercase());
        if first && text.len() <= 32 && text.chars().all(fits) {
            Ok(Self(text.to_owned()))
        } else {
            Err(LabNameError(text.to_owned()))
        }
    }
}

impl fmt::Display for LabName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A lab's directory and the names of the files in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    name: LabName,
    parent: PathBuf,
    dir: PathBuf,
}

impl Place {
    /// The lab `name` below `parent` (normally [`DEFAULT_PARENT`]).
    #[must_use]
    pub fn new(name: LabName, parent: &Path) -> Self {
        let dir = parent.join(&name.0);
        Self {
            name,
            parent: parent.to_owned(),
            dir,
        }
    }

    /// The lab's name.
    #[must_use]
    pub fn name(&self) -> &LabName {
        &self.name
    }

    /// The directory that holds all labs.
    #[must_use]
    pub fn parent(&self) -> &Path {
        &self.parent
    }

    /// The lab's directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The lab's directory for what is big or must be on a disk: containers' files, data bases.
    /// Made by whoever puts something there; goes with the lab.
    #[must_use]
    pub fn disk(&self) -> PathBuf {
        if self.parent == Path::new(DEFAULT_PARENT) {
            Path::new(DISKS).join(&self.name.0)
        } else {
            self.dir.join("disk")
        }
    }

    /// The disk of a node: what stays when its instance is stopped.
    #[must_use]
    pub fn node_disk(&self, node: &str) -> PathBuf {
        self.disk().join("nodes").join(node)
    }

    /// What the daemon says about itself: [`crate::state::State`].
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.dir.join("lab.json")
    }

    /// Locked by the daemon for as long as it lives.
    #[must_use]
    pub fn lock(&self) -> PathBuf {
        self.dir.join("lock")
    }

    /// The daemon's log.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.dir.join("lab.log")
    }

    /// Where the network namespaces are pinned.
    #[must_use]
    pub fn netns_dir(&self) -> PathBuf {
        self.dir.join("netns")
    }

    /// The pinned network namespace of a node or host.
    #[must_use]
    pub fn netns(&self, host: &str) -> PathBuf {
        self.netns_dir().join(host)
    }

    /// Where the nodes' directories are.
    #[must_use]
    pub fn nodes_dir(&self) -> PathBuf {
        self.dir.join("nodes")
    }

    /// Where the directories of clusters' control planes are.
    #[must_use]
    pub fn clusters_dir(&self) -> PathBuf {
        self.dir.join("clusters")
    }

    /// The name under which a cluster's control plane is a host: of its namespace and its cgroup. No
    /// node can have it.
    #[must_use]
    pub fn plane(cluster: &str) -> String {
        format!("{PLANE}{cluster}")
    }

    /// The directory of a node or, under its host name, of a control plane: its socket, its log, its
    /// pods' logs.
    #[must_use]
    pub fn node_dir(&self, node: &str) -> PathBuf {
        match node.strip_prefix(PLANE) {
            Some(cluster) => self.clusters_dir().join(cluster),
            None => self.nodes_dir().join(node),
        }
    }

    /// The user's kubeconfig: one context per cluster.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig")
    }

    /// The log that a node's agent writes.
    #[must_use]
    pub fn agent_log(&self, node: &str) -> PathBuf {
        self.node_dir(node)
            .join(crate::mounts::STACK_LOGS)
            .join("ipamd.log")
    }

    /// The socket on which a node takes orders.
    #[must_use]
    pub fn node_socket(&self, node: &str) -> PathBuf {
        self.node_dir(node).join("node.sock")
    }

    /// The lab's cgroup, below every controller's root.
    #[must_use]
    pub fn cgroup(&self) -> PathBuf {
        // Two labs of one name in different parents are different labs.
        let leaf = if self.parent == Path::new(DEFAULT_PARENT) {
            self.name.0.clone()
        } else {
            format!("{}@{:08x}", self.name, fnv(&self.parent))
        };
        Path::new("branchline").join(leaf)
    }

    /// The cgroup of a node or host.
    #[must_use]
    pub fn host_cgroup(&self, host: &str) -> PathBuf {
        self.cgroup().join(host)
    }
}

/// FNV-1a over a path's bytes: a short, stable name for it.
fn fnv(path: &Path) -> u32 {
    use std::os::unix::ffi::OsStrExt;
    let step = |h: u32, b: &u8| (h ^ u32::from(*b)).wrapping_mul(0x0100_0193);
    path.as_os_str().as_bytes().iter().fold(0x811c_9dc5, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labs_of_one_name_in_two_places_share_nothing() {
        let name: LabName = "default".parse().unwrap();
        let a = Place::new(name.clone(), Path::new(DEFAULT_PARENT));
        let b = Place::new(name, Path::new("elsewhere"));
        assert_eq!(a.cgroup(), Path::new("branchline/default"));
        assert_ne!(a.cgroup(), b.cgroup());
        assert_ne!(a.dir(), b.dir());
        assert_eq!(a.disk(), Path::new("/var/lib/branchline/default"));
        assert!(b.disk().starts_with(b.dir()));
    }

    #[test]
    fn names_that_would_be_paths_are_refused() {
        for text in ["", "..", "a/b", "A", "1a", "a b", &"a".repeat(33)] {
            assert!(text.parse::<LabName>().is_err(), "{text}");
        }
    }
}
