//! What the owner does about leases whose pods are not there, and about pods without a lease.

use ipam::{Allocation, Event, Key};
use kernel::Change;
use tokio::sync::oneshot;

use super::Owner;
use super::askers::Asker;
use crate::boot::Node;
use crate::gc::{self, Look, Pods, Seen, Settled, Veth};
use crate::links;

/// What a release is called that no DEL asked for.
const GONE: &str = "PodGone";

impl Owner {
    /// Does what follows from a look, in one go.
    pub(super) fn compare(&mut self, look: Result<Look, String>, to: oneshot::Sender<Settled>) {
        let now = self.now();
        let look = match look {
            Ok(look) => look,
            Err(why) => {
                tracing::warn!("leases are not compared with pods: {why}");
                self.findings.not_compared = why;
                drop(to.send(Settled::default()));
                return;
            }
        };
        let found = self.ledger.compare(&look, &self.pool, now);
        self.findings.compared = Some(now);
        self.findings.not_compared = match &look.pods {
            Pods::Failed(why) => format!("by the kernel alone: {why}"),
            Pods::None | Pods::NotAsked | Pods::Listed(_) => String::new(),
        };
        for (held, why) in found.release {
            self.take_back(&held, why);
        }
        for held in found.hold {
            tracing::warn!(
                address = %held.address, link = held.key.container,
                "a pod that has no lease: its address is held until its link goes"
            );
            self.feed(Event::Found(held));
        }
        for held in found.named {
            tracing::info!(address = %held.address, pod = %pod_of(&held), "a pod that has no lease is known by its link");
            self.feed(Event::Found(held));
        }
        for (held, why) in found.news {
            tracing::warn!(key = %held.key, pod = %pod_of(&held), address = %held.address, why, "a lease in doubt is kept");
            let text = format!("{} of {}: {why}", held.address, pod_of(&held));
            self.voice.finding("LeaseInDoubt", text, now);
        }
        let doubts = found.doubts.into_iter();
        self.findings.doubtful = doubts
            .map(|(held, why)| {
                (
                    held.address.to_string(),
                    format!("{}: {why}", pod_of(&held)),
                )
            })
            .collect();
        // Whoever asked is gone only when the agent ends.
        drop(to.send(Settled {
            next: found.next,
            unsettled: found.unsettled,
        }));
    }

    fn take_back(&mut self, held: &Allocation, why: &'static str) {
        // Before the address is free for another pod.
        links::forget(held.address);
        tracing::info!(key = %held.key, pod = %pod_of(held), address = %held.address, why, "pod is gone, address released");
        let now = self.now();
        self.findings.released(&held.pod, held.address, why, now);
        self.metrics.deleted(GONE);
        self.voice.address(&held.pod, None);
        let ticket = self.ticket(Asker::Nobody);
        let key = held.key.clone();
        self.feed(Event::Delete { ticket, key });
    }

    /// A DEL of who has no lease may be that of a pod that is known by its link alone.
    pub(super) fn nudge(&self) {
        if self.pool.allocations().any(|held| gc::is_stray(&held.key)) {
            self.nudge.notify_one();
        }
    }

    /// A link that goes while its pod has a lease: the runtime ended without a DEL, perhaps.
    pub(super) fn miss(&self, changes: &[Change]) {
        let gone = changes.iter().filter_map(|change| match change {
            Change::LinkGone { name, .. } => Some(name),
            _ => None,
        });
        if gone.into_iter().any(|link| {
            self.pool
                .allocations()
                .any(|held| gc::is_link_of(link, held))
        }) {
            self.nudge.notify_one();
        }
    }

    /// The files may be another instance's, from an image or a disk that was one's before: of its
    /// leases only those count whose pods are there. Nothing of it is given back to EC2: that asks
    /// what this instance has.
    pub(super) fn check_instance(&mut self, node: &Node) {
        let now = node.facts.instance.to_string();
        let was = self.store.belongs_to(&now);
        let Some(was) = was.filter(|was| *was != now) else {
            return;
        };
        let text = format!("the checkpoint is that of {was}, this instance is {now}");
        tracing::warn!("{text}: of its leases those count whose pods are there");
        self.findings.checkpoint.found = format!("rebuilt: {text}");
        let time = self.now();
        self.voice.finding("CheckpointRebuilt", text, time);
        match Seen::look() {
            Ok(seen) => {
                let gone =
                    |held: &&Allocation| matches!(seen.veth(held), Veth::Gone | Veth::Leads(_));
                let gone: Vec<Allocation> = self.pool.allocations().filter(gone).cloned().collect();
                for held in gone {
                    self.take_back(&held, "other-instance");
                }
            }
            Err(error) => tracing::warn!("its leases are compared later: {error:#}"),
        }
    }
}

fn pod_of(held: &Allocation) -> String {
    let Key { container, .. } = &held.key;
    match (gc::is_stray(&held.key), held.pod.name.as_str()) {
        (true, "") => format!("the pod behind {container}"),
        (false, "") => format!("a pod without a name (container {container})"),
        (_, name) => format!("{}/{name}", held.pod.namespace),
    }
}
