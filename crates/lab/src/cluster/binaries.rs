//! Where Kubernetes is: a directory with its programs.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use vpcsim::eks::KUBERNETES_VERSION;

use crate::error::{Error, IoContext as _};

/// Every program that a cluster runs.
const PROGRAMS: [&str; 10] = [
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "kubectl",
    "coredns",
    "helm",
    "pause",
];

/// Those that print `Kubernetes vX.Y.Z` and must agree.
const VERSIONED: [&str; 5] = [
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
];

/// The programs of Kubernetes, found and of one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binaries {
    dir: PathBuf,
    version: String,
}

impl Binaries {
    /// Looks into `given`, else into `kubernetes/bin` in the directory above that of `program`, the
    /// `branchline` binary.
    ///
    /// # Errors
    /// When a program is missing, or they are not of one version.
    pub fn find(given: Option<&Path>, program: &Path) -> Result<Self, Error> {
        let beside = || program.parent()?.parent().map(|p| p.join("kubernetes/bin"));
        let dir = match given {
            Some(dir) => dir.to_owned(),
            None => beside().unwrap_or_default(),
        };
        // Children have other working directories.
        let dir = fs::canonicalize(&dir).unwrap_or(dir);
        let missing: Vec<&str> = PROGRAMS
            .into_iter()
            .filter(|p| !dir.join(p).is_file())
            .collect();
        if !missing.is_empty() {
            return Err(Error::NoKubernetes {
                dir,
                missing: missing.join(", "),
            });
        }
        let version = common_version(&dir)?;
        Ok(Self { dir, version })
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The version of all of them, as `1.36.3`.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The path of a program.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

/// Asks every distinct file once: they are normally links to one.
fn common_version(dir: &Path) -> Result<String, Error> {
    let mut asked: BTreeMap<PathBuf, String> = BTreeMap::new();
    let mut first: Option<(&str, String)> = None;
    for name in VERSIONED {
        let path = dir.join(name);
        let real = fs::canonicalize(&path).at(&path)?;
        let version = match asked.get(&real) {
            Some(known) => known.clone(),
            None => version(&path)?,
        };
        asked.insert(real, version.clone());
        match &first {
            Some((other, others)) if *others != version => {
                return Err(Error::MixedKubernetes {
                    dir: dir.to_owned(),
                    first: format!("{other} is {others}"),
                    second: format!("{name} is {version}"),
                });
            }
            Some(_) => {}
            None => first = Some((name, version)),
        }
    }
    Ok(first.map_or_else(String::new, |(_, version)| version))
}

fn version(program: &Path) -> Result<String, Error> {
    let spawn = |source| Error::Spawn {
        program: program.to_owned(),
        source,
    };
    let output = Command::new(program)
        .arg("--version")
        .output()
        .map_err(spawn)?;
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let version = said.strip_prefix("Kubernetes v").filter(|v| {
        // EKS says that every cluster is of this minor version.
        v.rsplit_once('.')
            .is_some_and(|(minor, _)| minor == KUBERNETES_VERSION)
    });
    version.map(str::to_owned).ok_or_else(|| {
        let error = String::from_utf8_lossy(&output.stderr);
        let said = if said.is_empty() {
            error.lines().next().unwrap_or("nothing").to_owned()
        } else {
            said
        };
        Error::WrongKubernetes {
            program: program.to_owned(),
            wanted: KUBERNETES_VERSION,
            said,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Another process writes the program: a file that this one has open for writing, if only in a
    /// child that another test's thread is just starting, cannot be executed.
    fn install(dir: &Path, name: &str, says: &str) {
        let script = dir.join("script");
        fs::write(&script, format!("#!/bin/sh\necho '{says}'\n")).unwrap();
        let mut copy = Command::new("install");
        let copied = copy.args(["-m", "755"]).args([script, dir.join(name)]);
        assert!(copied.status().unwrap().success());
    }

    #[test]
    fn missing_old_and_mixed_programs_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let find = || Binaries::find(Some(dir.path()), Path::new("/bin/true"));
        let told = || find().unwrap_err().to_string();
        assert!(told().contains("etcd, kube-apiserver,"), "{}", told());
        assert!(told().contains("scripts/kubernetes.sh"), "{}", told());
        for name in PROGRAMS {
            install(dir.path(), name, "Kubernetes v1.36.3");
        }
        assert_eq!(find().unwrap().version(), "1.36.3");
        install(dir.path(), "kubelet", "Kubernetes v1.36.4");
        assert!(told().contains("kube-apiserver is 1.36.3"), "{}", told());
        assert!(told().contains("kubelet is 1.36.4"), "{}", told());
        install(dir.path(), "kube-apiserver", "Kubernetes v1.20.0");
        assert!(told().contains("said 'Kubernetes v1.20.0'"), "{}", told());
        install(
            dir.path(),
            "kube-apiserver",
            "kube-apiserver of another kind",
        );
        assert!(told().contains("of another kind"), "{}", told());
    }
}
