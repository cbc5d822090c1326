//! Follows the embedded EKS: every cluster gets a control plane, whoever asked for it, and a cluster
//! that is gone has none.
//!
//! One task per cluster does everything about it in order, so that nothing of a cluster happens
//! twice at once: boot, interfaces, programs, bootstrap, add-ons, and then whatever changes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio::task::JoinHandle;
use vpcsim::Sim;
use vpcsim::eks::ClusterView;

use super::binaries::Binaries;
use super::join::Joining;
use super::kubeconfig::{self, Context};
use super::life;
use super::stop::Stop;
use crate::cgroup::Cgroups;
use crate::error::Error;
use crate::place::Place;
use crate::state::State;

/// What the clusters of a lab share.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) place: Place,
    pub(super) cgroups: Cgroups,
    /// The `branchline` binary.
    pub(super) program: PathBuf,
    /// `--kubernetes`.
    pub(super) kubernetes: Option<PathBuf>,
    pub(super) sim: Sim,
    /// Namespaces of hosts: where the fabric plugs interfaces.
    pub(super) hosts: watch::Sender<BTreeMap<String, PathBuf>>,
    pub(super) joinable: watch::Sender<BTreeMap<String, Arc<Joining>>>,
    pub(super) state: watch::Sender<State>,
    pub(super) stop: Stop,
    /// Clusters whose add-ons somebody brings through EKS: they get none by themselves.
    furnished: Arc<Mutex<BTreeSet<String>>>,
    contexts: Arc<Mutex<BTreeMap<String, Context>>>,
}

impl Shared {
    /// The programs of Kubernetes.
    pub(super) fn binaries(&self) -> Result<Binaries, Error> {
        Binaries::find(self.kubernetes.as_deref(), &self.program)
    }

    pub(super) fn furnished(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.furnished
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a cluster into the user's kubeconfig, or takes it out.
    pub(super) fn set_context(&self, cluster: &str, context: Option<Context>) -> Result<(), Error> {
        let mut all = self.contexts.lock().unwrap_or_else(PoisonError::into_inner);
        match context {
            Some(context) => drop(all.insert(cluster.to_owned(), context)),
            None => drop(all.remove(cluster)),
        }
        let list: Vec<Context> = all.values().cloned().collect();
        kubeconfig::save(&self.place.kubeconfig(), &list)
    }
}

/// Where the manager tells what it has made.
pub(crate) struct Tell {
    /// Namespaces of hosts: where the fabric plugs interfaces.
    pub(crate) hosts: watch::Sender<BTreeMap<String, PathBuf>>,
    /// Clusters that instances can join.
    pub(crate) joinable: watch::Sender<BTreeMap<String, Arc<Joining>>>,
    /// The lab's state.
    pub(crate) state: watch::Sender<State>,
}

/// One cluster's task and what it is told.
struct Running {
    view: watch::Sender<Option<ClusterView>>,
    task: JoinHandle<()>,
}

/// The clusters of a lab.
pub(crate) struct Manager {
    shared: Shared,
    running: BTreeMap<String, Running>,
}

impl Manager {
    /// A manager of no clusters. `furnished` are those whose add-ons somebody brings through EKS.
    pub(crate) fn new(
        place: Place,
        cgroups: Cgroups,
        program: PathBuf,
        kubernetes: Option<PathBuf>,
        furnished: BTreeSet<String>,
        sim: Sim,
        tell: Tell,
    ) -> Self {
        let shared = Shared {
            place,
            cgroups,
            program,
            kubernetes,
            sim,
            hosts: tell.hosts,
            joinable: tell.joinable,
            state: tell.state,
            stop: Stop::default(),
            furnished: Arc::new(Mutex::new(furnished)),
            contexts: Arc::default(),
        };
        Self {
            shared,
            running: BTreeMap::new(),
        }
    }

    /// Follows every change; ends only with the daemon.
    pub(crate) async fn run(mut self) -> Result<(), Error> {
        let mut views = self.shared.sim.eks().clusters();
        views.mark_changed();
        while views.changed().await.is_ok() {
            let now = Arc::clone(&views.borrow_and_update());
            self.follow(&now).await;
        }
        std::future::pending().await
    }

    async fn follow(&mut self, now: &[ClusterView]) {
        let gone: Vec<String> = self
            .running
            .keys()
            .filter(|name| !now.iter().any(|v| v.name == **name))
            .cloned()
            .collect();
        for name in gone {
            let Some(running) = self.running.remove(&name) else {
                continue;
            };
            running.view.send_replace(None);
            // A cluster of the same name may come next: its files and namespaces are these.
            if let Err(error) = running.task.await {
                tracing::error!(cluster = name, %error, "a cluster's task ended badly");
            }
        }
        for view in now {
            if let Some(running) = self.running.get(&view.name) {
                running.view.send_if_modified(|known| {
                    let differs = known.as_ref() != Some(view);
                    *known = Some(view.clone());
                    differs
                });
                continue;
            }
            let (tell, hear) = watch::channel(Some(view.clone()));
            let task = tokio::spawn(life::live(self.shared.clone(), view.clone(), hear));
            let running = Running { view: tell, task };
            self.running.insert(view.name.clone(), running);
        }
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        self.shared.stop.set();
        self.running.values().for_each(|r| r.task.abort());
    }
}
