//! A node in the simulation: the pool, the cloud, pods that come and go, and a ledger of its own
//! that every effect of the pool is checked against.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ipam::{
    Allocation, Answer, Call, ClientToken, Config, Effect, Eni, Event, Failure, Key, Millis,
    NodeFacts, OpId, Pod, Pool, Record, Refusal, Reply, Ticket, step,
};
use vpc::facts::{EniId, SgId};

use crate::cloud::{Cloud, Fault};
use crate::rng::Rng;

pub(crate) const FAULTS: [Fault; 6] = [
    Fault::Throttled,
    Fault::Denied,
    Fault::Rejected,
    Fault::AccountLimit,
    Fault::UnclearBefore,
    Fault::UnclearAfter,
];

/// (somebody waits, action, outcome) -> how often.
pub(crate) type Coverage = BTreeMap<(bool, &'static str, String), u32>;

pub(crate) struct World {
    pub(crate) pool: Pool,
    pub(crate) cloud: Cloud,
    pub(crate) now: Millis,
    pub(crate) rng: Rng,
    pub(crate) config: Config,
    pub(crate) node: NodeFacts,
    calls: BTreeMap<OpId, (u64, Call, Option<Fault>)>,
    cordoned: bool,
    tokens: BTreeSet<ClientToken>,
    /// What a checkpoint would hold.
    ledger: BTreeMap<Key, Allocation>,
    released: BTreeMap<Ipv4Addr, Millis>,
    returned: BTreeMap<Ipv4Addr, Millis>,
    open: BTreeMap<Ticket, (Key, u64)>,
    wake: Option<Millis>,
    next: u64,
    /// Chance of a fault per call, percent.
    pub(crate) faulty: u64,
    pub(crate) steps: u64,
    pub(crate) refused: BTreeMap<String, u32>,
    pub(crate) calls_made: u64,
}

impl World {
    pub(crate) fn new(config: Config, node: NodeFacts, cloud: Cloud, rng: Rng) -> Self {
        let mut world = Self {
            pool: Pool::new(config.clone()),
            cloud,
            now: Millis(1_700_000_000_000),
            rng,
            config,
            node: node.clone(),
            calls: BTreeMap::new(),
            cordoned: false,
            tokens: BTreeSet::new(),
            ledger: BTreeMap::new(),
            released: BTreeMap::new(),
            returned: BTreeMap::new(),
            open: BTreeMap::new(),
            wake: None,
            next: 0,
            faulty: 0,
            steps: 0,
            refused: BTreeMap::new(),
            calls_made: 0,
        };
        world.cloud.remember(world.now);
        world.feed(Event::Node(node));
        world
    }

    pub(crate) fn feed(&mut self, event: Event) {
        self.steps += 1;
        self.wake = None;
        if std::env::var_os("TRACE").is_some() {
            println!("{} {event:?}", self.now.0);
        }
        let leaving = self.leaving();
        let effects = step(&mut self.pool, event, self.now);
        if self.cordoned {
            let more: Vec<_> = self.leaving().difference(&leaving).cloned().collect();
            assert!(more.is_empty(), "{more:?} go from a cordoned node");
        }
        if std::env::var_os("TRACE").is_some() {
            for effect in &effects {
                println!("    {effect:?}");
            }
        }
        for effect in effects {
            self.perform(effect);
        }
        self.check();
    }

    pub(crate) fn cordon(&mut self, cordoned: bool) {
        self.cordoned = cordoned;
        self.feed(Event::Cordoned(cordoned));
    }

    /// Attached interfaces that are to be removed. One that EC2 refuses to attach goes from nowhere.
    fn leaving(&self) -> BTreeSet<EniId> {
        let leaves = |eni: &&Eni| eni.stage.is_leaving() && eni.attachment.is_some();
        let leaving = self.pool.enis().filter(leaves);
        leaving.map(|eni| eni.id.clone()).collect()
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Call(op, call) => self.dial(op, call),
            Effect::Record(Record::Leased(allocation)) => self.leased(allocation),
            Effect::Record(Record::Released { key, address, at }) => {
                let was = self.ledger.remove(&key).expect("released without a lease");
                assert_eq!(was.address, address);
                self.released.insert(address, at);
            }
            Effect::Record(Record::Returning { addresses, at }) => {
                self.returned
                    .extend(addresses.into_iter().map(|address| (address, at)));
            }
            Effect::Reply(ticket, reply) => {
                let (key, _) = self.open.remove(&ticket).expect("a ticket answered twice");
                match reply {
                    Reply::Leased(lease) => {
                        let has = self.ledger.get(&key).expect("a lease that is not recorded");
                        assert_eq!(has.address, lease.address);
                    }
                    Reply::Released(_) => {}
                    Reply::Refused(refusal) => {
                        let free = self.pool.counts().available;
                        let ceiling =
                            matches!(refusal, Refusal::Limit { .. } | Refusal::SubnetFull { .. });
                        assert!(!ceiling || free == 0, "{free} free, but refused: {refusal}");
                        let text = format!("{refusal:?}");
                        let name = text.split([' ', '{']).next().unwrap_or_default().to_owned();
                        *self.refused.entry(name).or_default() += 1;
                    }
                }
            }
            Effect::WakeAt(at) => {
                assert!(at > self.now, "a wake-up in the past");
                self.wake = Some(at);
            }
        }
    }

    fn leased(&mut self, allocation: Allocation) {
        let address = allocation.address;
        if let Some(held) = self.ledger.get(&allocation.key) {
            // Asked for again: recorded anew, with the same address.
            assert_eq!(held.address, address);
            return;
        }
        let double = self.ledger.values().find(|other| other.address == address);
        assert!(
            double.is_none(),
            "{address} given to {} and {double:?}",
            allocation.key
        );
        if let Some(at) = self.released.get(&address) {
            let rest = self.now.since(*at);
            assert!(
                rest >= self.config.cooldown,
                "{address} rested only {rest:?}"
            );
        }
        if !self.cloud.taken.contains(&address) {
            let holder = self.cloud.holder(address);
            assert!(
                holder.is_some(),
                "{address} is on no interface of this node"
            );
        }
        self.ledger.insert(allocation.key.clone(), allocation);
    }

    /// Takes a call up; checks that it is one that may be made.
    fn dial(&mut self, op: OpId, call: Call) {
        self.calls_made += 1;
        let same = |other: &Call| other.eni() == call.eni() && other.action() == call.action();
        let shape = |c: &Call| std::mem::discriminant(c);
        let twice = self.calls.values().any(|(_, other, _)| {
            shape(other) == shape(&call) && same(other) && call.eni().is_some()
        });
        assert!(!twice, "asked twice at once: {call:?}");
        // A pod whose interface somebody else took away has lost its address already.
        let in_use = |address: &Ipv4Addr| {
            let taken = self.cloud.taken.contains(address);
            !taken && self.ledger.values().any(|a| a.address == *address)
        };
        match &call {
            Call::DetachEni { eni, .. } | Call::DeleteEni { eni } => {
                if let Some(eni) = self.cloud.enis.get(eni) {
                    assert!(
                        eni.view.ours && !eni.foreign,
                        "not ours to remove: {call:?}"
                    );
                    let pod = eni.view.secondary.iter().find(|address| in_use(address));
                    assert!(pod.is_none(), "{call:?} under a pod with {pod:?}");
                }
            }
            Call::Unassign { blocks, .. } => {
                assert!(
                    !blocks.addresses().iter().any(in_use),
                    "unassigned under a pod: {call:?}"
                );
            }
            Call::CreateEni { token, .. } => {
                let new = self.tokens.insert(token.clone());
                assert!(
                    !(new && self.cordoned),
                    "a new interface on a cordoned node"
                );
            }
            _ => {}
        }
        // Removals are rare, so they fail more often than others.
        let rare = matches!(call, Call::Unassign { .. } | Call::DetachEni { .. });
        let chance = if rare && self.faulty > 0 {
            60
        } else {
            self.faulty
        };
        let fault = self.rng.chance(chance).then(|| *self.rng.pick(&FAULTS));
        // The kernel is not throttled and knows no accounts.
        let fault = match (&call, fault) {
            (Call::SetUp { .. }, Some(Fault::Throttled | Fault::Denied | Fault::AccountLimit)) => {
                Some(Fault::Rejected)
            }
            (Call::CreateEni { .. }, fault) => fault,
            (_, Some(Fault::AccountLimit)) => Some(Fault::Throttled),
            (_, fault) => fault,
        };
        let finish = self.now.0 + 20 + self.rng.below(2500);
        self.calls.insert(op, (finish, call, fault));
    }

    /// Time goes on to the next thing that happens by itself, at most to `until`.
    pub(crate) fn advance(&mut self, until: Millis, coverage: &mut Coverage) -> bool {
        let first = self.calls.iter().min_by_key(|(_, (at, ..))| *at);
        let call = first
            .map(|(op, (at, ..))| (Millis(*at), *op))
            .filter(|(at, _)| *at <= until);
        let wake = self.wake.filter(|at| *at <= until);
        match (call, wake) {
            (Some((at, op)), wake) if wake.is_none_or(|w| at <= w) => {
                self.now = self.now.max(at);
                self.finish(op, coverage);
                true
            }
            (_, Some(wake)) => {
                self.now = self.now.max(wake);
                self.feed(Event::Tick);
                true
            }
            _ => {
                self.now = self.now.max(until);
                false
            }
        }
    }

    fn finish(&mut self, op: OpId, coverage: &mut Coverage) {
        let (_, call, fault) = self.calls.remove(&op).expect("the call is in flight");
        let result = self.cloud.answer(&call, fault, self.now, &mut self.rng);
        self.cloud.remember(self.now);
        self.cover(&call, &fault, &result, coverage);
        self.feed(Event::Answered { op, result });
    }

    fn cover(
        &self,
        call: &Call,
        fault: &Option<Fault>,
        result: &Result<Answer, Failure>,
        coverage: &mut Coverage,
    ) {
        let outcome = match (fault, result) {
            (Some(fault), _) => format!("{fault:?}"),
            (None, Ok(_)) => "Ok".to_owned(),
            (None, Err(failure)) => format!("{:?}", failure.kind),
        };
        *coverage
            .entry((self.pool.counts().waiting > 0, name(call), outcome))
            .or_default() += 1;
    }

    pub(crate) fn add(&mut self) {
        self.next += 1;
        let key = Key {
            network: "aws-cni".into(),
            container: format!("c{}", self.next),
            ifname: "eth0".into(),
        };
        self.add_key(key);
    }

    /// The runtime asks again for an attachment that it already has or waits for.
    pub(crate) fn add_again(&mut self) {
        let waiting = self.open.values().map(|(key, _)| key.clone());
        let keys: Vec<Key> = self.ledger.keys().cloned().chain(waiting).collect();
        if !keys.is_empty() {
            let key = self.rng.pick(&keys).clone();
            self.add_key(key);
        }
    }

    fn add_key(&mut self, key: Key) {
        self.next += 1;
        let ticket = Ticket(self.next);
        self.open.insert(ticket, (key.clone(), self.now.0));
        self.feed(Event::Add {
            ticket,
            key,
            pod: Pod::default(),
        });
    }

    pub(crate) fn delete(&mut self, any: bool) {
        let waiting: Vec<Key> = self
            .open
            .values()
            .map(|(key, _)| key.clone())
            .filter(|_| any)
            .collect();
        let keys: Vec<Key> = self.ledger.keys().cloned().chain(waiting).collect();
        if keys.is_empty() {
            return;
        }
        let key = self.rng.pick(&keys).clone();
        self.next += 1;
        let ticket = Ticket(self.next);
        self.open.insert(ticket, (key.clone(), self.now.0));
        self.feed(Event::Delete { ticket, key });
        assert!(!self.open.contains_key(&ticket), "a DEL waits");
    }

    pub(crate) fn metadata(&mut self) {
        let seen = self.cloud.imds(self.now, &mut self.rng);
        self.feed(Event::Imds(seen));
    }

    pub(crate) fn somebody_else(&mut self, groups: &[Vec<SgId>]) {
        let set = self.rng.pick(groups).clone();
        match self.rng.below(8) {
            0 => self.cloud.attach_foreign(&set),
            1 => self.cloud.remove_foreign(),
            2 => self.cloud.rip_out(&mut self.rng),
            3 => self.cloud.snatch(&mut self.rng),
            4 | 5 => self.cloud.change_some_groups(&set, &mut self.rng),
            _ => self.cloud.change_primary_groups(&set),
        }
        self.cloud.remember(self.now);
    }

    /// The worst moment: while something is being given back or attached, pods come or somebody else is faster.
    pub(crate) fn meddle(&mut self) {
        let attaching = self
            .calls
            .values()
            .any(|(_, call, _)| matches!(call, Call::AttachEni { .. }));
        if attaching && self.rng.chance(10) {
            let groups = self.cloud.primary_groups();
            for _ in 0..self.cloud.limits.interfaces {
                self.cloud.attach_foreign(&groups);
            }
            self.cloud.remember(self.now);
        }
        let removal = self.calls.values().find_map(|(_, call, _)| match call {
            Call::Unassign { .. } | Call::DetachEni { .. } | Call::DeleteEni { .. } => {
                Some(call.clone())
            }
            _ => None,
        });
        let Some(call) = removal else { return };
        if self.rng.chance(50) {
            for _ in 0..self.rng.below(40) {
                self.add();
            }
        }
        if self.rng.chance(15) {
            self.cloud.overtake(&call);
            self.cloud.remember(self.now);
        }
    }

    /// Killed and started again: calls in flight end as they like, nobody hears of it; what was
    /// recorded is all that is known.
    pub(crate) fn restart(&mut self, coverage: &mut Coverage) {
        for (_, (_, call, _)) in std::mem::take(&mut self.calls) {
            let fault = if self.rng.chance(50) {
                None
            } else {
                Some(Fault::UnclearBefore)
            };
            let _ = self.cloud.answer(&call, fault, self.now, &mut self.rng);
            *coverage
                .entry((false, name(&call), "Killed".to_owned()))
                .or_default() += 1;
        }
        self.cloud.remember(self.now);
        self.open.clear();
        let mut config = self.config.clone();
        config.seed = self.rng.next();
        // It was another agent, which records only what is in use, and when it last changed that.
        // What it gave back to EC2 is taken to have gone long ago.
        let other = self.rng.chance(30);
        config.unwatched_until = self.released.values().max().copied().filter(|_| other);
        self.pool = Pool::new(config);
        let released = if other {
            BTreeMap::new()
        } else {
            self.released.clone()
        };
        self.feed(Event::Recovered {
            allocations: self.ledger.values().cloned().collect(),
            released,
            returned: self.returned.clone(),
        });
        self.feed(Event::Cordoned(self.cordoned));
        self.feed(Event::Node(self.node.clone()));
    }

    fn check(&self) {
        let patience = self.config.patience.as_millis() as u64;
        for (key, since) in self.open.values() {
            let waited = self.now.0 - since;
            assert!(waited <= patience, "{key} waits since {waited} ms");
        }
        let held: BTreeMap<_, _> = self
            .pool
            .allocations()
            .map(|a| (&a.key, a.address))
            .collect();
        let ledger: BTreeMap<_, _> = self.ledger.values().map(|a| (&a.key, a.address)).collect();
        assert_eq!(held, ledger, "the pool and the records differ");
        let mut seen = BTreeSet::new();
        for address in self.pool.enis().flat_map(|eni| eni.slots.keys()) {
            assert!(
                seen.insert(address),
                "{address} is on two interfaces of the pool"
            );
        }
    }

    pub(crate) fn calls_in_flight(&self) -> usize {
        self.calls.len()
    }

    /// Whether nothing is asked of EC2 but whether a full subnet has room again, or what a create
    /// asks for besides.
    pub(crate) fn only_probes_a_full_subnet(&self) -> bool {
        let probe = |call: &Call| {
            matches!(
                call,
                Call::Assign { .. } | Call::CreateEni { .. } | Call::Show { .. }
            )
        };
        let full = self.cloud.free_addresses() <= 1;
        self.calls.is_empty() || (full && self.calls.values().all(|(_, call, _)| probe(call)))
    }

    pub(crate) fn pods(&self) -> usize {
        self.ledger.len()
    }
}

/// The action, with the two uses of ModifyNetworkInterfaceAttribute apart.
fn name(call: &Call) -> &'static str {
    match call {
        Call::SetGroups { .. } => "SetGroups",
        call => call.action(),
    }
}
