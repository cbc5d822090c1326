//! [`Sim`]: one state machine, shared by the API, instance metadata, the fabric and the lab.
//!
//! One mutex guards the state; it is held for microseconds and never across an await. Every change
//! has a version. Views that lag (instance metadata, Describe) read older copies of the state.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ec2::facts::FactError;
use jiff::{SignedDuration, Timestamp};
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use vpc::facts::EniId;

use super::auth::{Principal, Principals};
use super::bucket::Buckets;
use super::desired::{self, Desired};
use super::knobs::Knobs;
use crate::actions::{self, Action, Caller};
use crate::eks::{self, ClusterView};
use crate::error::{ApiError, ApiResult};
use crate::ids;
use crate::rng::Rng;
use crate::store::{Config, Holder, State};

/// The embedded EC2, running. Cheap to clone; all clones are the same EC2.
#[derive(Clone)]
pub struct Sim(pub(super) Arc<Inner>);

/// Why a listener cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The listener cannot be used by the runtime.
    #[error("cannot serve on {address}: {source}")]
    Listener {
        /// The listener's address.
        address: String,
        /// The system's reason.
        source: std::io::Error,
    },
}

/// The listener in the runtime's hands, and how a failure of it is told.
pub(super) fn serving(
    listener: std::net::TcpListener,
) -> Result<(TcpListener, impl Fn(std::io::Error) -> ServeError), ServeError> {
    let address = listener
        .local_addr()
        .map_or_else(|e| e.to_string(), |a| a.to_string());
    let failed = move |source| ServeError::Listener {
        address: address.clone(),
        source,
    };
    listener.set_nonblocking(true).map_err(&failed)?;
    let listener = TcpListener::from_std(listener).map_err(&failed)?;
    Ok((listener, failed))
}

pub(super) struct Inner {
    core: Mutex<Core>,
    versions: watch::Sender<u64>,
    applied: watch::Sender<Option<u64>>,
    agenda: Notify,
}

/// What the mutex guards.
pub(crate) struct Core {
    pub(crate) state: State,
    pub(super) knobs: Knobs,
    pub(super) buckets: Buckets,
    pub(crate) principals: Principals,
    /// For the shell's own randomness: request ids, credentials, the chance of faults.
    pub(super) rng: Rng,
    pub(super) tokens: BTreeMap<String, (String, Timestamp)>,
    pub(super) roles: BTreeMap<String, (String, Timestamp)>,
    pub(super) version: u64,
    /// Copies of the state, oldest first, kept while some view lags.
    history: VecDeque<(Timestamp, Arc<State>)>,
    desired: Option<Arc<Desired>>,
    names: BTreeMap<String, Vec<Ipv4Addr>>,
    clusters: watch::Sender<Arc<Vec<ClusterView>>>,
    /// Calls that were understood, by caller (ARN) and action.
    pub(super) calls: BTreeMap<String, BTreeMap<&'static str, u64>>,
}

impl Core {
    pub(super) fn new(config: Config) -> Self {
        let rng = Rng::new(config.seed ^ 0x5eed_0f5e_11ed);
        let knobs = Knobs {
            timing: Some(config.timing),
            ..Knobs::default()
        };
        Self {
            state: State::new(config),
            knobs,
            buckets: Buckets::default(),
            principals: Principals::new(),
            rng,
            tokens: BTreeMap::new(),
            roles: BTreeMap::new(),
            version: 0,
            history: VecDeque::new(),
            desired: None,
            names: BTreeMap::new(),
            clusters: watch::Sender::new(Arc::default()),
            calls: BTreeMap::new(),
        }
    }

    /// Records that the state has changed.
    pub(super) fn changed(&mut self, now: Timestamp) {
        self.version += 1;
        self.desired = None;
        self.show_clusters();
        let lag = self.knobs.longest_lag_ms();
        if lag == 0 {
            self.history.clear();
            return;
        }
        self.history.push_back((now, Arc::new(self.state.clone())));
        let horizon = before(now, lag);
        // The newest copy at or before the horizon is still what the slowest view shows.
        while self.history.get(1).is_some_and(|(at, _)| *at <= horizon) {
            self.history.pop_front();
        }
    }

    fn show_clusters(&self) {
        let clusters = eks::views(&self.state);
        self.clusters.send_if_modified(|known| {
            let differs = **known != clusters;
            if differs {
                *known = Arc::new(clusters);
            }
            differs
        });
    }

    /// The state as a view shows it that lags by `lag` milliseconds; `None`: as it is now.
    pub(super) fn view(&self, now: Timestamp, lag: u64) -> Option<Arc<State>> {
        if lag == 0 {
            return None;
        }
        let horizon = before(now, lag);
        let seen = self.history.iter().rev().find(|(at, _)| *at <= horizon);
        seen.or(self.history.front())
            .map(|(_, state)| Arc::clone(state))
    }

    fn make_desired(&mut self) -> Result<Desired, FactError> {
        let answers = desired::answers(&mut self.state, Sim::now());
        let answers = answers.map_err(|error| FactError::Malformed {
            object: "the embedded EC2".into(),
            member: "answer",
            value: error.code.to_string(),
            problem: error.message,
        })?;
        let mut names = desired::names(&self.state);
        names.extend(self.names.clone());
        Ok(Desired {
            version: self.version,
            world: ec2::facts::world(&answers)?,
            attachments: desired::attachments(&self.state)?,
            names,
        })
    }

    pub(super) fn set_knobs(&mut self, knobs: Knobs) {
        self.history.clear();
        self.turn(knobs);
    }

    /// Turns the knobs; a view that lags already goes on to.
    pub(super) fn turn(&mut self, knobs: Knobs) {
        self.state.set_timing(knobs.timing());
        self.knobs = knobs;
        if self.knobs.longest_lag_ms() > 0 && self.history.is_empty() {
            // Where the lagging views start from.
            let copy = Arc::new(self.state.clone());
            self.history.push_back((Timestamp::MIN, copy));
        }
    }

    /// Lets due transitions happen.
    pub(super) fn settle(&mut self, now: Timestamp) -> bool {
        let changed = self.state.tick(now);
        if changed {
            self.changed(now);
        }
        changed
    }
}

fn before(now: Timestamp, lag_ms: u64) -> Timestamp {
    let lag = SignedDuration::from_millis(i64::try_from(lag_ms).unwrap_or(i64::MAX));
    now.checked_sub(lag).unwrap_or(Timestamp::MIN)
}

impl Sim {
    /// An EC2 without resources. Must be called inside a tokio runtime, which drives transitions
    /// that take time.
    pub fn new(config: Config) -> Self {
        let core = Core::new(config);
        let sim = Self(Arc::new(Inner {
            core: Mutex::new(core),
            versions: watch::Sender::new(0),
            applied: watch::Sender::new(None),
            agenda: Notify::new(),
        }));
        tokio::spawn(drive(Arc::downgrade(&sim.0)));
        sim
    }

    /// The time that EC2 goes by.
    pub(crate) fn now() -> Timestamp {
        Timestamp::now()
    }

    pub(crate) fn core(&self) -> MutexGuard<'_, Core> {
        // A panic inside of an action leaves a state that is whole as far as it got; serving it
        // beats answering nothing from then on.
        self.0.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `change` on the core, publishes the version it made, and returns that version when
    /// something changed.
    pub(crate) fn mutate<T>(
        &self,
        now: Timestamp,
        change: impl FnOnce(&mut Core) -> ApiResult<T>,
    ) -> ApiResult<(T, u64)> {
        let mut core = self.core();
        core.settle(now);
        let result = change(&mut core);
        if result.is_ok() {
            core.state.tick(now);
            core.changed(now);
        }
        let version = core.version;
        drop(core);
        self.publish(version);
        result.map(|value| (value, version))
    }

    pub(super) fn publish(&self, version: u64) {
        self.0.versions.send_if_modified(|known| {
            let newer = version > *known;
            *known = version.max(*known);
            newer
        });
        self.0.agenda.notify_one();
    }

    /// Runs `read` on the core. Transitions that were due happen first, and are published.
    pub(crate) fn read<T>(&self, now: Timestamp, read: impl FnOnce(&mut Core) -> T) -> T {
        let mut core = self.core();
        let changed = core.settle(now);
        let value = read(&mut core);
        let version = core.version;
        drop(core);
        if changed {
            self.publish(version);
        }
        value
    }

    /// Waits until the packets follow `version`, as long as a fabric is registered and the knobs
    /// allow. The call has succeeded either way; a slow fabric only delays its answer.
    pub(crate) async fn wait_applied(&self, version: u64) {
        let limit = self.core().knobs.applied_timeout_ms;
        if limit == 0 {
            return;
        }
        let mut applied = self.0.applied.subscribe();
        let done = applied.wait_for(|a| a.is_none_or(|done| done >= version));
        if tokio::time::timeout(Duration::from_millis(limit), done)
            .await
            .is_err()
        {
            tracing::warn!(
                version,
                limit,
                "the fabric has not applied a change in time"
            );
        }
    }

    /// Makes a call as the lab itself, in this process; a change waits for the fabric.
    ///
    /// # Errors
    /// The EC2 error that a client would get.
    pub async fn call<A: Action>(&self, request: &A) -> ApiResult<A::Output> {
        let now = Self::now();
        let caller = Caller::root(&self.account());
        if A::READ_ONLY {
            return self.read(now, |core| {
                actions::call(&mut core.state, &caller, request, now)
            });
        }
        let (answer, version) = self.mutate(now, |core| {
            actions::call(&mut core.state, &caller, request, now)
        })?;
        self.wait_applied(version).await;
        Ok(answer)
    }

    /// The account that owns everything.
    pub fn account(&self) -> String {
        self.core().state.config.account.clone()
    }

    /// The region.
    pub fn region(&self) -> String {
        self.core().state.config.region.clone()
    }

    /// The clusters, as they come, change and go.
    pub(crate) fn clusters(&self) -> watch::Receiver<Arc<Vec<ClusterView>>> {
        self.core().clusters.subscribe()
    }

    /// Versions of the network, as they come.
    pub fn versions(&self) -> watch::Receiver<u64> {
        self.0.versions.subscribe()
    }

    /// What the network should be now.
    ///
    /// # Errors
    /// An answer of our own that is no fact: a defect of this crate.
    pub fn desired(&self) -> Result<Arc<Desired>, FactError> {
        self.read(Self::now(), |core| {
            if let Some(known) = &core.desired {
                return Ok(Arc::clone(known));
            }
            let made = Arc::new(core.make_desired()?);
            core.desired = Some(Arc::clone(&made));
            Ok(made)
        })
    }

    /// Tells that the packets follow `version`. The first call registers the fabric: from then on
    /// mutating calls wait for it.
    pub fn applied(&self, version: u64) {
        self.0.applied.send_if_modified(|known| {
            let newer = known.is_none_or(|k| version > k);
            *known = Some(known.map_or(version, |k| k.max(version)));
            newer
        });
    }

    /// Tells that no fabric follows any more; calls stop waiting.
    pub fn fabric_gone(&self) {
        self.0.applied.send_replace(None);
    }

    /// The knobs as they are set.
    pub fn knobs(&self) -> Knobs {
        self.core().knobs.clone()
    }

    /// Turns the knobs.
    pub fn set_knobs(&self, knobs: Knobs) {
        self.core().set_knobs(knobs);
    }

    /// Adds an access key, for callers that the lab tells apart.
    pub fn add_access_key(&self, caller: Caller, secret: &str) {
        let key = caller.access_key.clone();
        let principal = Principal {
            caller,
            secret: secret.to_owned(),
            session_token: None,
            expires: None,
        };
        self.core().principals.insert(key, principal);
    }

    /// Adds a name to the VPCs' DNS.
    pub fn set_name(&self, name: &str, addresses: Vec<Ipv4Addr>) {
        let now = Self::now();
        // Nothing here can fail; a version is made so that whoever serves DNS hears of it.
        let set = self.mutate(now, |core| {
            core.names.insert(name.to_owned(), addresses);
            Ok(())
        });
        debug_assert!(set.is_ok());
    }

    /// Attaches an interface to a host that is no instance: its primary one, or the next one when it
    /// has some. `owner` is what EC2 shows as the attachment's owner, such as `amazon-rds`.
    ///
    /// # Errors
    /// The interface does not exist or is in use.
    pub async fn attach_managed(&self, eni: &EniId, host: &str, owner: &str) -> ApiResult<()> {
        let now = Self::now();
        let ((), version) = self.mutate(now, |core| {
            let (id, record) = core.state.enis.find(eni.as_str())?;
            if record.held().is_some() {
                return Err(ApiError::new(
                    "InvalidNetworkInterface.InUse",
                    format_args!("Interface: [{id}] in use."),
                ));
            }
            let holder = Holder::Managed {
                host: host.to_owned(),
                device: free_device(&core.state, host),
                owner: owner.to_owned(),
            };
            core.state.attach(id, holder, true, now, 0);
            if let Some(record) = core.state.enis.get_mut(&id) {
                record.requester = Some(owner.to_owned());
            }
            Ok(())
        })?;
        self.wait_applied(version).await;
        Ok(())
    }

    /// Ends what [`Sim::attach_managed`] made; the interface is free then.
    ///
    /// # Errors
    /// The interface does not exist.
    pub async fn release_managed(&self, eni: &EniId) -> ApiResult<()> {
        let now = Self::now();
        let ((), version) = self.mutate(now, |core| {
            let (_, record) = core.state.enis.find_mut(eni.as_str())?;
            record.requester = None;
            if let Some(attachment) = record.held().map(|a| a.id) {
                core.state.detach(attachment, now, 0);
            }
            Ok(())
        })?;
        self.wait_applied(version).await;
        Ok(())
    }

    /// The instance that has `address` in `vpc`, as the state is now.
    pub fn instance_at(&self, vpc: &vpc::facts::VpcId, address: IpAddr) -> Option<String> {
        let IpAddr::V4(address) = address else {
            return None;
        };
        let core = self.core();
        let (vpc, _) = core.state.vpcs.find(vpc.as_str()).ok()?;
        instance_at(&core.state, vpc, address).map(|id| id.to_string())
    }
}

/// The lowest number that no interface of a host has.
fn free_device(state: &State, host: &str) -> u32 {
    let taken = |eni: &crate::store::Eni| match &eni.held()?.holder {
        Holder::Managed {
            host: of, device, ..
        } if of == host => Some(*device),
        _ => None,
    };
    let taken: std::collections::BTreeSet<u32> = state.enis.values().filter_map(taken).collect();
    (0..)
        .find(|d| !taken.contains(d))
        .expect("fewer interfaces than numbers")
}

/// The instance that holds the interface with `address`.
pub(super) fn instance_at(
    state: &State,
    vpc: ids::VpcId,
    address: Ipv4Addr,
) -> Option<ids::InstanceId> {
    let eni = state.eni_of_address(vpc, address)?;
    state
        .enis
        .get(&eni)?
        .instance()
        .map(|(instance, _)| instance)
}

/// Makes transitions when they are due, until the last [`Sim`] is gone.
async fn drive(inner: std::sync::Weak<Inner>) {
    loop {
        let Some(strong) = inner.upgrade() else {
            return;
        };
        let sim = Sim(strong);
        let now = Sim::now();
        let (changed, version, next) = {
            let mut core = sim.core();
            (core.settle(now), core.version, core.state.next_change())
        };
        if changed {
            sim.publish(version);
        }
        // The longest nap also bounds how long this task outlives the last Sim.
        let nap = Duration::from_secs(1);
        let until = next.map_or(nap, |at| {
            let ms = at.duration_since(Sim::now()).as_millis();
            Duration::from_millis(u64::try_from(ms).unwrap_or(0) + 1).min(nap)
        });
        let inner = Arc::clone(&sim.0);
        drop(sim);
        // A notification means that the agenda may have an earlier entry.
        tokio::select! {
            () = tokio::time::sleep(until) => {}
            () = inner.agenda.notified() => {}
        }
    }
}
