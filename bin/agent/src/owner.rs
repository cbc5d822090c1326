//! The one task that owns the pool: events in, effects out, nothing in between is shared.

use std::collections::{BTreeMap, HashMap};
use std::future::pending;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ipam::{
    Answer, Call, Effect, Event, Failure, FailureKind, ImdsEni, Key, Lease, Millis, OpId, Pod,
    Pool, Record, Ticket, step,
};
use settings::Settings;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;
use vpc::facts::EniId;

use crate::boot::Node;
use crate::connections::Connections;
use crate::findings::Findings;
use crate::kubernetes::{News, Voice};
use crate::metrics::{Metrics, Seen};
use crate::repair::{self, Repairer};
use crate::store::{Recovered, Store};
use crate::{gc, install, rpc, show};

mod askers;
mod leases;

use askers::Asker;

/// The checkpoint is written when nothing has changed for this long …
const QUIET: Duration = Duration::from_millis(250);
/// … or when the oldest change is this old.
const LATEST: Duration = Duration::from_secs(2);

/// Until a failed installation is tried again.
const INSTALL_AGAIN: Duration = Duration::from_secs(10);

/// What the owner is asked or told.
#[derive(Debug)]
pub(crate) enum Message {
    Add {
        key: Key,
        pod: Pod,
        to: oneshot::Sender<(rpc::Answer, Vec<String>)>,
    },
    Delete {
        key: Key,
        reason: String,
        to: oneshot::Sender<rpc::Answer>,
    },
    Status(oneshot::Sender<Readiness>),
    List(oneshot::Sender<Vec<(ipam::Allocation, Lease)>>),
    Get {
        key: Key,
        to: oneshot::Sender<Option<(ipam::Allocation, Lease)>>,
    },
    Node(oneshot::Sender<Option<NodeView>>),
    Page {
        path: String,
        to: oneshot::Sender<Option<String>>,
    },
    Unknown(String),
    Booted(Box<Node>),
    Imds(BTreeMap<EniId, ImdsEni>),
    /// What EC2 would deny, by dry runs.
    Denied(Vec<Failure>),
    Done(OpId, Box<Call>, Result<Answer, Failure>),
    Cluster(News),
    /// Leases and pods were looked at; or why they cannot be.
    Compare(Box<Result<gc::Look, String>>, oneshot::Sender<gc::Settled>),
    /// The kernel's network changed.
    Network(Vec<kernel::Change>),
    /// An interface is set up in the kernel.
    Laid(Box<nodenet::EniFacts>),
}

/// The node, for the policy agent.
#[derive(Debug)]
pub(crate) struct NodeView {
    pub(crate) instance: String,
    pub(crate) region: String,
    pub(crate) address: Ipv4Addr,
}

/// What keeps the agent from its work, if anything.
#[derive(Debug)]
pub(crate) struct Readiness {
    /// Why pods are not served.
    pub(crate) reason: Option<String>,
    /// Why plugin and network list could not be installed.
    pub(crate) installation: Option<String>,
}

/// Whether plugin and network list are on the node.
#[derive(Debug)]
enum Installed {
    No,
    Yes,
    /// Tried again at a time; and why it failed.
    Failed(Instant, String),
}

impl Installed {
    fn trouble(&self) -> Option<&str> {
        match self {
            Self::Failed(_, error) => Some(error),
            Self::No | Self::Yes => None,
        }
    }
}

/// The pool and all that is done for it.
#[derive(Debug)]
pub(crate) struct Owner {
    pool: Pool,
    store: Store,
    settings: Settings,
    node: Option<Node>,
    metrics: Metrics,
    /// What was found and put right, or not; for metrics and `/state`.
    pub(crate) findings: Findings,
    /// Keeps the kernel's network as it must be.
    connections: Connections,
    repairer: Repairer,
    /// Interfaces that are set up in the kernel, by id.
    laid: BTreeMap<String, nodenet::EniFacts>,
    voice: Voice,
    askers: HashMap<Ticket, Asker>,
    next_ticket: u64,
    wake: Option<Instant>,
    /// When the last change and the oldest unsaved one happened.
    changed: Option<(Instant, Instant)>,
    /// The clock: what the wall showed at an instant.
    anchor: (Instant, Millis),
    installed: Installed,
    ledger: gc::Ledger,
    /// Has leases compared with pods soon.
    nudge: Arc<Notify>,
    to_self: mpsc::Sender<Message>,
}

impl Owner {
    pub(crate) fn new(
        pool: Pool,
        store: Store,
        settings: Settings,
        metrics: Metrics,
        ledger: gc::Ledger,
        to_self: mpsc::Sender<Message>,
    ) -> Self {
        let wall = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let wall = Millis(0).after(wall);
        let repairer = Repairer::new(settings.repair);
        let rest = settings.cooldown;
        let voice = Voice::start(&settings, &to_self, wall);
        Self {
            pool,
            store,
            settings,
            node: None,
            metrics,
            findings: Findings::default(),
            connections: Connections::new(rest),
            repairer,
            laid: BTreeMap::new(),
            voice,
            askers: HashMap::new(),
            next_ticket: 0,
            wake: None,
            changed: Some((Instant::now(), Instant::now())),
            anchor: (Instant::now(), wall),
            installed: Installed::No,
            ledger,
            nudge: Arc::default(),
            to_self,
        }
    }

    /// Has leases compared with pods from now on.
    pub(crate) fn compare_leases(&self) -> impl Future<Output = ()> + use<> {
        gc::run(
            self.voice.lister(),
            self.settings.paths.socket.clone(),
            self.nudge.clone(),
            self.to_self.clone(),
        )
    }

    /// Takes in what an earlier start left, and writes it down as this start sees it: whatever was
    /// wrong with the files is over then.
    pub(crate) fn recover(&mut self, found: Recovered) {
        self.findings.checkpoint.found = found.told();
        if !found.broken.is_empty() {
            let now = self.now();
            self.voice.finding("CheckpointRebuilt", found.told(), now);
        }
        let allocations = found.allocations.into_values().collect();
        let Recovered {
            released, returned, ..
        } = found;
        let now = self.now();
        for (address, at) in &released {
            self.connections
                .released(*address, now.since(*at), Instant::now());
        }
        self.feed(Event::Recovered {
            allocations,
            released,
            returned,
        });
        self.save();
    }

    /// Runs until `end`; then refuses who waits, and saves.
    pub(crate) async fn run(
        mut self,
        mut messages: mpsc::Receiver<Message>,
        end: impl Future<Output = ()>,
    ) {
        tokio::pin!(end);
        loop {
            let wake = self.wake;
            let save = self.save_at();
            let tell = self.tell_at();
            let repair = self.repair_at();
            let forget = self.connections.next();
            tokio::select! {
                biased;
                () = &mut end => break,
                message = messages.recv() => match message {
                    Some(message) => self.take(message),
                    None => break,
                },
                () = until(wake) => {
                    self.wake = None;
                    self.feed(Event::Tick);
                }
                () = until(save) => self.save(),
                () = until(tell) => self.tell_who_waits(),
                () = until(repair) => self.repair(),
                () = until(forget) => self.connections.forget(),
            }
            if self.pool.not_ready().is_none() {
                let with_api_server = self.voice.is_connected();
                self.metrics.ready(self.anchor.0.elapsed(), with_api_server);
            }
            self.install_when_ready();
            let now = self.now();
            self.voice.look(&self.pool, self.installed.trouble(), now);
        }
        self.feed(Event::Drain);
        self.save();
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Add { key, pod, to } => {
                self.metrics.adds += 1;
                // Before an address is given that would have to go back, and rest.
                if let Err(error) = self.store.is_writable() {
                    drop(to.send((Err(error.to_string()), Vec::new())));
                    return;
                }
                let asker = Asker::Add {
                    key: key.clone(),
                    pod: pod.clone(),
                    since: Instant::now(),
                    told: false,
                    to,
                };
                let ticket = self.ticket(asker);
                self.feed(Event::Add { ticket, key, pod });
            }
            Message::Delete { key, reason, to } => {
                self.metrics.deleted(&reason);
                let leaving = self.pool.allocation(&key).map(|held| held.pod.clone());
                let since = Instant::now();
                let ticket = self.ticket(Asker::Delete { since, to });
                self.feed(Event::Delete { ticket, key });
                match leaving {
                    Some(pod) => self.voice.address(&pod, None),
                    None => self.nudge(),
                }
            }
            Message::Unknown(reason) => {
                self.metrics.identified(self.anchor.0.elapsed(), false);
                self.feed(Event::Unknown { reason });
            }
            Message::Compare(look, to) => self.compare(*look, to),
            Message::Booted(node) => {
                self.check_instance(&node);
                self.metrics.identified(self.anchor.0.elapsed(), true);
                let facts = node.facts.clone();
                let primary = node.links.primary.clone();
                self.laid.insert(primary.id.clone(), primary);
                repair::watch(self.to_self.clone());
                self.node = Some(*node);
                self.feed(Event::Node(facts));
            }
            Message::Imds(seen) => self.feed(Event::Imds(seen)),
            Message::Denied(failures) => {
                let now = self.now();
                for failure in &failures {
                    tracing::warn!(action = failure.action, %failure, "would be denied");
                    self.voice.would_deny(failure, now);
                    self.findings
                        .denied(failure.action, failure.message.clone(), now);
                }
                self.feed(Event::Denied(failures));
            }
            Message::Network(changes) => {
                let (facts, now) = (self.network(), self.now());
                self.repairer.saw(&changes, &facts, now);
                self.miss(&changes);
            }
            Message::Laid(eni) => {
                self.laid.insert(eni.id.clone(), *eni);
                self.repairer.wish(self.now());
            }
            Message::Cluster(news) => {
                if let Some(event) = self.voice.heard(news) {
                    self.feed(event);
                }
            }
            Message::Done(op, call, result) => {
                if let Err(failure) = &result {
                    tracing::warn!(action = failure.action, kind = ?failure.kind, %failure, "call failed");
                }
                let now = self.now();
                self.metrics.called(&self.pool, &call, &result);
                self.findings.called(&call, result.as_ref().err(), now);
                self.voice
                    .called(&self.pool, &call, result.as_ref().err(), now);
                self.feed(Event::Answered { op, result });
            }
            question => self.answer(question),
        }
    }

    /// Questions change nothing. Whoever asked may be gone; that is no failure of ours.
    fn answer(&self, question: Message) {
        let held = |allocation: &ipam::Allocation| {
            let device = self
                .pool
                .eni_of(allocation.address)
                .and_then(|eni| eni.device);
            (
                allocation.clone(),
                Lease {
                    address: allocation.address,
                    device,
                },
            )
        };
        match question {
            Message::Status(to) => {
                // Whoever asks may have gone.
                let _ = to.send(Readiness {
                    reason: self.pool.not_ready().map(str::to_owned),
                    installation: self.installed.trouble().map(str::to_owned),
                });
            }
            Message::List(to) => drop(to.send(self.pool.allocations().map(held).collect())),
            Message::Get { key, to } => drop(to.send(self.pool.allocation(&key).map(held))),
            Message::Node(to) => drop(to.send(self.node.as_ref().map(|node| NodeView {
                instance: node.facts.instance.to_string(),
                region: node.region.clone(),
                address: node.address,
            }))),
            Message::Page { path, to } => {
                let text = match path.as_str() {
                    "/metrics" => Some(self.metrics.page(&Seen {
                        pool: &self.pool,
                        findings: &self.findings,
                        settings: &self.settings,
                        cluster: self.voice.counts(),
                        now: self.now(),
                        started: self.anchor.1,
                    })),
                    path => {
                        let told = show::Told {
                            now: self.now(),
                            started: self.anchor.1,
                            refused: &self.metrics.refused,
                            findings: &self.findings,
                            checkpoint: self.checkpoint(),
                        };
                        show::page(path, &self.pool, &self.settings, &self.voice, &told)
                            .map(|v| v.to_string())
                    }
                };
                drop(to.send(text));
            }
            _ => {}
        }
    }

    fn now(&self) -> Millis {
        self.anchor.1.after(self.anchor.0.elapsed())
    }

    fn feed(&mut self, event: Event) {
        let now = self.now();
        let effects = step(&mut self.pool, event, now);
        // What could not be recorded must not be told: the address goes back at once.
        let mut unrecorded: Option<String> = None;
        let mut undo = Vec::new();
        for effect in effects {
            match effect {
                Effect::Record(record) => match self.store.append(&record) {
                    Ok(()) => {
                        match &record {
                            Record::Leased(lease) => {
                                self.voice.address(&lease.pod, Some(lease.address));
                                self.connections.leased(lease.address);
                            }
                            Record::Released { address, .. } => {
                                self.connections
                                    .released(*address, Duration::ZERO, Instant::now());
                            }
                            Record::Returning { .. } => {}
                        }
                        self.mark_changed();
                    }
                    Err(error) => {
                        let error = format!("{error:#}");
                        tracing::error!("{error}");
                        self.findings.not_written(&error);
                        unrecorded = Some(error);
                    }
                },
                Effect::Reply(ticket, reply) => {
                    undo.extend(self.reply(ticket, reply, unrecorded.as_deref()));
                }
                Effect::Call(op, call) => self.dial(op, call),
                Effect::WakeAt(at) => self.wake = Some(Instant::now() + at.since(now)),
            }
        }
        for key in undo {
            let ticket = self.ticket(Asker::Nobody);
            self.feed(Event::Delete { ticket, key });
        }
    }

    fn dial(&self, op: OpId, call: Call) {
        tracing::debug!(action = call.action(), ?call, "call");
        let Some(node) = &self.node else { return };
        let (cloud, links) = (node.cloud.clone(), node.links.clone());
        let metadata = node.metadata.clone();
        let (known, cidr) = node.subnet.clone();
        let to = self.to_self.clone();
        tokio::spawn(async move {
            let result = match &call {
                Call::SetUp { subnet, .. } => {
                    let cidr = if *subnet == known {
                        Ok(cidr)
                    } else {
                        cloud.subnet_cidr(subnet).await
                    };
                    match cidr {
                        Ok(cidr) => match links.set_up(&call, cidr).await {
                            Ok(laid) => {
                                let laid = laid.map(|eni| Message::Laid(Box::new(eni)));
                                if let Some(laid) = laid {
                                    let _ = to.send(laid).await;
                                }
                                Ok(Answer::Done)
                            }
                            Err(failure) => Err(failure),
                        },
                        Err(error) => Err(Failure {
                            action: "DescribeSubnets",
                            kind: FailureKind::Rejected,
                            message: format!("{error:#}"),
                        }),
                    }
                }
                Call::PrimaryGroups => metadata.primary_groups().await,
                _ => cloud.call(&call).await,
            };
            // The owner is gone only when the agent ends.
            let _ = to.send(Message::Done(op, Box::new(call), result)).await;
        });
    }

    /// What the node's network must be.
    fn network(&self) -> repair::Facts {
        let settings = self.node.as_ref().map(|node| &node.links.settings);
        settings.map_or_else(repair::Facts::default, |settings| {
            repair::Facts::of(&self.pool, &self.laid, settings)
        })
    }

    /// When the kernel's network is compared next; not before EC2 has said whose addresses there are.
    fn repair_at(&self) -> Option<Instant> {
        let known = self.node.is_some() && self.pool.not_ready().is_none();
        known.then(|| Instant::now() + self.repairer.due().since(self.now()))
    }

    fn repair(&mut self) {
        let (facts, now) = (self.network(), self.now());
        self.repairer.look(&facts, now, &mut self.findings);
    }

    fn install_when_ready(&mut self) {
        let due = match &self.installed {
            Installed::No => true,
            Installed::Failed(at, _) => *at <= Instant::now(),
            Installed::Yes => false,
        };
        if !due || self.pool.not_ready().is_some() {
            return;
        }
        if matches!(self.installed, Installed::No) {
            self.ask_what_is_denied();
        }
        self.installed = match install::install(&self.settings) {
            Ok(()) => {
                tracing::info!("ready");
                Installed::Yes
            }
            Err(error) => {
                let error = format!("{error:#}");
                tracing::error!(error, "plugin and network list are not on the node");
                Installed::Failed(Instant::now() + INSTALL_AGAIN, error)
            }
        };
    }

    /// Once, when the node's interfaces are known: what EC2 would deny is known before a pod needs it.
    fn ask_what_is_denied(&self) {
        let Some(cloud) = self.node.as_ref().map(|node| node.cloud.clone()) else {
            return;
        };
        let (calls, to) = (self.pool.probes(), self.to_self.clone());
        tokio::spawn(async move {
            let denied = cloud.denied(&calls).await;
            if !denied.is_empty() {
                // The owner is gone only when the agent ends.
                let _ = to.send(Message::Denied(denied)).await;
            }
        });
    }

    fn mark_changed(&mut self) {
        let now = Instant::now();
        let first = self.changed.map_or(now, |(_, first)| first);
        self.changed = Some((now, first));
    }

    fn save_at(&self) -> Option<Instant> {
        self.changed
            .map(|(last, first)| (last + QUIET).min(first + LATEST))
    }

    fn save(&mut self) {
        self.changed = None;
        if !self.store.is_dirty() {
            return;
        }
        match self.store.checkpoint(&self.pool) {
            Ok(()) => {
                let now = self.now();
                self.findings.written(now);
            }
            Err(error) => {
                // The journal still has it all.
                let error = format!("{error:#}");
                tracing::error!("{error}");
                self.findings.not_written(&error);
                let now = Instant::now();
                self.changed = Some((now + LATEST, now + LATEST));
            }
        }
    }

    /// What survives the process, for `/state`.
    fn checkpoint(&self) -> cni::introspect::Checkpoint {
        cni::introspect::Checkpoint {
            path: self.settings.paths.checkpoint.display().to_string(),
            dirty: self.store.is_dirty(),
            ..self.findings.checkpoint.clone()
        }
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => pending().await,
    }
}
