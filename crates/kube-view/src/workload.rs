//! Which workload a pod belongs to: pod → ReplicaSet → Deployment, by owner references alone.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::facts::{Cluster, Controller, Kind, ObjectName, Pod};

/// The kinds that people ask about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "Kubernetes' own words")]
pub enum WorkloadKind {
    Deployment,
    StatefulSet,
    DaemonSet,
    Job,
}

impl WorkloadKind {
    /// As kubectl shortens it: `deploy`.
    pub fn short(self) -> &'static str {
        match self {
            WorkloadKind::Deployment => "deploy",
            WorkloadKind::StatefulSet => "sts",
            WorkloadKind::DaemonSet => "ds",
            WorkloadKind::Job => "job",
        }
    }

    /// The kind of its objects.
    pub fn kind(self) -> Kind {
        match self {
            WorkloadKind::Deployment => Kind::Deployment,
            WorkloadKind::StatefulSet => Kind::StatefulSet,
            WorkloadKind::DaemonSet => Kind::DaemonSet,
            WorkloadKind::Job => Kind::Job,
        }
    }
}

impl FromStr for WorkloadKind {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "deploy" | "deployment" | "deployments" => Ok(WorkloadKind::Deployment),
            "sts" | "statefulset" | "statefulsets" => Ok(WorkloadKind::StatefulSet),
            "ds" | "daemonset" | "daemonsets" => Ok(WorkloadKind::DaemonSet),
            "job" | "jobs" => Ok(WorkloadKind::Job),
            _ => Err(()),
        }
    }
}

/// A workload by kind and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Workload {
    /// Its kind.
    pub kind: WorkloadKind,
    /// Its name.
    pub name: ObjectName,
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ObjectName { namespace, name } = &self.name;
        write!(f, "{namespace}/{}/{name}", self.kind.short())
    }
}

/// What a pod's owner references lead to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Belongs {
    /// To this workload.
    To(Workload),
    /// To nothing that people ask about: a bare pod, a bare ReplicaSet, a custom controller.
    ToNone,
    /// It cannot be said without this kind: a ReplicaSet is its owner, and it was not read.
    Unknown(Kind),
}

impl Cluster {
    /// Follows a pod's owner references.
    pub fn workload_of(&self, name: &ObjectName, pod: &Pod) -> Belongs {
        let Some(owner) = &pod.owner else {
            return Belongs::ToNone;
        };
        let at = ObjectName::new(&name.namespace, &owner.name);
        let to = |kind| {
            Belongs::To(Workload {
                kind,
                name: at.clone(),
            })
        };
        match owner.kind.as_str() {
            "ReplicaSet" => match self.replica_sets.get(&at) {
                None => Belongs::Unknown(Kind::ReplicaSet),
                Some(set) => deployment_of(set, &at),
            },
            "StatefulSet" => to(WorkloadKind::StatefulSet),
            "DaemonSet" => to(WorkloadKind::DaemonSet),
            "Job" => to(WorkloadKind::Job),
            _ => Belongs::ToNone,
        }
    }

    /// The pods of a service's selector, or of anything else that selects by labels.
    pub fn selected<'a>(
        &'a self,
        namespace: &'a str,
        selector: &'a BTreeMap<String, String>,
    ) -> impl Iterator<Item = (&'a ObjectName, &'a Pod)> {
        self.pods
            .iter()
            .filter(move |(name, pod)| name.namespace == namespace && pod.labels.fit(selector))
    }

    /// All workloads of a kind that are known, by their own objects or as owners of pods.
    pub fn workloads(&self, kind: WorkloadKind) -> Vec<Workload> {
        let mut names: Vec<ObjectName> = match kind {
            WorkloadKind::Deployment => self.deployments.keys().cloned().collect(),
            WorkloadKind::StatefulSet => self.stateful_sets.keys().cloned().collect(),
            WorkloadKind::DaemonSet => self.daemon_sets.keys().cloned().collect(),
            WorkloadKind::Job => self.jobs.keys().cloned().collect(),
        };
        names.extend(self.pods.iter().filter_map(
            |(name, pod)| match self.workload_of(name, pod) {
                Belongs::To(found) if found.kind == kind => Some(found.name),
                _ => None,
            },
        ));
        names.sort();
        names.dedup();
        names
            .into_iter()
            .map(|name| Workload { kind, name })
            .collect()
    }
}

fn deployment_of(set: &Controller, at: &ObjectName) -> Belongs {
    match &set.owner {
        Some(owner) if owner.kind == "Deployment" => Belongs::To(Workload {
            kind: WorkloadKind::Deployment,
            name: ObjectName::new(&at.namespace, &owner.name),
        }),
        _ => Belongs::ToNone,
    }
}
