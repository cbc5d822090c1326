//! The agent in its cluster: it hears whether its node is cordoned and says why pods wait.
//!
//! No pod depends on it. ADD and DEL are served from the checkpoint and from EC2 while the API
//! server cannot be reached, a right is missing or the node has no cluster at all; what is missing
//! then is named in the log, on `/state` and in the metrics, once.

mod access;
mod node;
mod notes;
mod pods;
mod post;

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::time::Duration;

use cni::introspect::Cluster;
use ipam::{Call, Failure, Millis, Pod, Pool, Refusal};
use settings::Settings;
use tokio::sync::{mpsc, watch};

use crate::owner::Message;
use access::Access;
pub(crate) use access::Trouble;
use notes::{Condition, Gate, Note, Notes};
pub(crate) use pods::Lister;
use post::{Client, Post, Writer};

/// Whether the next pod gets an address; beside the kubelet's own conditions on the Node.
const TYPE: &str = "PodNetworkReady";
/// Posts that wait for the API server; more are dropped, and counted.
const WAITING_POSTS: usize = 256;

/// A start takes well under a second; only after this is "not ready" a condition of the node.
const STARTS_WITHIN: Duration = Duration::from_secs(5);

/// A right that the agent uses, as RBAC names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Right {
    WatchNodes,
    PatchNodeStatus,
    CreateEvents,
    PatchEvents,
    PatchPods,
    ListPods,
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::WatchNodes => "watch nodes",
            Self::PatchNodeStatus => "patch nodes/status",
            Self::CreateEvents => "create events",
            Self::PatchEvents => "patch events",
            Self::PatchPods => "patch pods",
            Self::ListPods => "list pods",
        })
    }
}

impl Right {
    /// What is missing without it.
    fn without(self) -> &'static str {
        match self {
            Self::WatchNodes => "a cordoned node is not noticed",
            Self::PatchNodeStatus => "the node's condition PodNetworkReady is not kept",
            Self::CreateEvents => "pods that wait have no event with the reason",
            Self::PatchEvents => "events are not counted up",
            Self::PatchPods => "the annotation vpc.amazonaws.com/pod-ips is not kept",
            Self::ListPods => "whether a pod is gone is told by the kernel alone",
        }
    }
}

/// What the owner hears from the cluster.
#[derive(Debug)]
pub(crate) enum News {
    /// Whether the node is cordoned.
    Cordoned(bool),
    /// A request was done.
    Done(Right),
    /// A request was not done.
    Failed(Right, Trouble),
}

/// The agent's voice in its cluster; silent without one.
#[derive(Debug)]
pub(crate) struct Voice {
    on: Option<On>,
    /// Why there is none.
    off: String,
    manage_cordoned: bool,
}

#[derive(Debug)]
struct On {
    access: Access,
    posts: mpsc::Sender<Post>,
    condition: watch::Sender<Option<Condition>>,
    lister: Lister,
    notes: Notes,
    gate: Gate,
    began: Millis,
    annotate: bool,
    connected: bool,
    cordoned: bool,
    failures: BTreeMap<Right, Trouble>,
    failed: BTreeMap<Right, u64>,
    overflowed: u64,
}

impl Voice {
    /// Finds the cluster and starts to listen to it; never waits for it.
    pub(crate) fn start(settings: &Settings, to: &mpsc::Sender<Message>, now: Millis) -> Self {
        let on = Access::find(&settings.kubernetes)
            .map_err(|off| off.to_string())
            .and_then(|access| {
                let client = access.client().map_err(|trouble| trouble.to_string())?;
                Ok(On::start(access, client, settings, to, now))
            });
        let off = match &on {
            Ok(on) => {
                tracing::info!(node = on.access.node, url = on.access.url, "in a cluster");
                String::new()
            }
            Err(off) => {
                tracing::info!(reason = off, "no cluster: no events, no node condition");
                off.clone()
            }
        };
        Self {
            on: on.ok(),
            off,
            manage_cordoned: settings.manage_enis_cordoned,
        }
    }

    /// Takes in what the cluster says; returns what the pool must know.
    pub(crate) fn heard(&mut self, news: News) -> Option<ipam::Event> {
        let on = self.on.as_mut()?;
        match news {
            News::Cordoned(cordoned) => {
                if cordoned != on.cordoned {
                    let manage = self.manage_cordoned;
                    tracing::info!(cordoned, manage, "the node's cordon changed");
                }
                on.cordoned = cordoned;
                return Some(ipam::Event::Cordoned(cordoned && !self.manage_cordoned));
            }
            News::Done(right) => {
                on.connected = true;
                if on.failures.remove(&right).is_some() {
                    tracing::info!(%right, "works again");
                }
            }
            News::Failed(right, trouble) => on.failed(right, trouble),
        }
        None
    }

    /// A pod was refused an address.
    pub(crate) fn refused(&mut self, pod: &Pod, refusal: &Refusal, now: Millis) {
        self.tell(now, || Note::refused(pod, refusal));
    }

    /// A pod waits for an address.
    pub(crate) fn waits(&mut self, pod: &Pod, why: &Refusal, now: Millis) {
        self.tell(now, || Note::waits(pod, why));
    }

    /// A call was answered; `pool` as it was before.
    pub(crate) fn called(
        &mut self,
        pool: &Pool,
        call: &Call,
        failure: Option<&Failure>,
        now: Millis,
    ) {
        self.tell(now, || Note::called(pool, call, failure));
    }

    /// Something was found on the node that somebody should see.
    pub(crate) fn finding(&mut self, reason: &'static str, message: String, now: Millis) {
        self.tell(now, || Some(Note::of_node(reason, message)));
    }

    /// An action was probed, and EC2 would deny it.
    pub(crate) fn would_deny(&mut self, failure: &Failure, now: Millis) {
        self.tell(now, || Some(Note::would_deny(failure)));
    }

    /// Who lists this node's pods; `None` without a cluster.
    pub(crate) fn lister(&self) -> Option<Lister> {
        self.on.as_ref().map(|on| on.lister.clone())
    }

    /// A pod has an address, or has it no more.
    pub(crate) fn address(&mut self, pod: &Pod, address: Option<Ipv4Addr>) {
        if let Some(on) = self.on.as_mut().filter(|on| on.annotate)
            && !pod.name.is_empty()
        {
            on.post(Post::PodIps(pod.clone(), address));
        }
    }

    /// Compares the node's condition with the pool.
    /// `not_installed`: why the runtime does not know the plugin.
    pub(crate) fn look(&mut self, pool: &Pool, not_installed: Option<&str>, now: Millis) {
        let Some(on) = &mut self.on else { return };
        if pool.not_ready().is_some() && now.since(on.began) < STARTS_WITHIN {
            return;
        }
        if let Some(condition) = on.gate.pass(Condition::of(pool, not_installed), now) {
            on.condition.send_replace(Some(condition));
        }
    }

    fn tell(&mut self, now: Millis, note: impl FnOnce() -> Option<Note>) {
        if let Some(on) = &mut self.on
            && let Some(note) = note()
            && let Some(telling) = on.notes.tell(note, now)
        {
            on.post(Post::Event(telling));
        }
    }

    /// For `/state`.
    pub(crate) fn state(&self) -> Cluster {
        let Some(on) = &self.on else {
            return Cluster {
                state: "off".to_owned(),
                reason: self.off.clone(),
                ..Cluster::default()
            };
        };
        let failures = on.failures.iter();
        Cluster {
            state: if on.connected {
                "connected"
            } else {
                "connecting"
            }
            .to_owned(),
            reason: String::new(),
            node: on.access.node.clone(),
            url: on.access.url.clone(),
            cordoned: on.cordoned,
            failures: failures
                .map(|(right, trouble)| (right.to_string(), trouble.to_string()))
                .collect(),
        }
    }

    /// Whether the API server answers.
    pub(crate) fn is_connected(&self) -> bool {
        self.on.as_ref().is_some_and(|on| on.connected)
    }

    /// For the metrics: connected, failed requests by right, notes that were dropped. `None`
    /// without a cluster.
    pub(crate) fn counts(&self) -> Option<Counts> {
        let on = self.on.as_ref()?;
        Some(Counts {
            connected: on.connected,
            failed: on.failed.iter().map(|(r, n)| (r.to_string(), *n)).collect(),
            dropped: on.notes.dropped + on.overflowed,
        })
    }
}

/// The cluster's side in numbers.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) connected: bool,
    pub(crate) failed: Vec<(String, u64)>,
    pub(crate) dropped: u64,
}

impl On {
    fn start(
        access: Access,
        client: kube::Client,
        settings: &Settings,
        to: &mpsc::Sender<Message>,
        now: Millis,
    ) -> Self {
        let (posts, posted) = mpsc::channel(WAITING_POSTS);
        let (condition, wanted) = watch::channel(None);
        let (saw, seen) = watch::channel(None);
        let writer = Writer {
            access: access.clone(),
            client: Client(client.clone()),
            to: to.clone(),
        };
        tokio::spawn(post::posts(writer.clone(), posted));
        tokio::spawn(post::conditions(writer, wanted, seen));
        let lister = Lister {
            access: access.clone(),
            client: Client(client.clone()),
        };
        tokio::spawn(node::run(access.clone(), client, to.clone(), saw));
        Self {
            access,
            posts,
            condition,
            lister,
            notes: Notes::new(now),
            gate: Gate::default(),
            began: now,
            annotate: settings.kubernetes.annotate_pod_ip,
            connected: false,
            cordoned: false,
            failures: BTreeMap::new(),
            failed: BTreeMap::new(),
            overflowed: 0,
        }
    }

    fn post(&mut self, post: Post) {
        if self.posts.try_send(post).is_err() {
            self.overflowed += 1;
        }
    }

    /// Said once; again when it is another failure.
    fn failed(&mut self, right: Right, trouble: Trouble) {
        *self.failed.entry(right).or_default() += 1;
        // An error is an answer, too.
        self.connected = trouble.code().is_some();
        let known = self.failures.get(&right);
        if known.is_none_or(|known| known.code() != trouble.code()) {
            tracing::error!(%right, %trouble, without = right.without(), "not done in the cluster");
        }
        self.failures.insert(right, trouble);
    }
}
