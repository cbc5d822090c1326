//! A node: the pool, its calls on their way, its clock, pods that come and go, kills. Every effect of the pool is
//! checked as it is carried out.

use std::collections::{BTreeMap, BTreeSet};

use branchline_agent::translate::{Request, Response, failure};
use ipam::{
    Answer, Call, ClientToken, Config, Effect, Event, Failure, FailureKind, Key, Millis, NodeFacts,
    OpId, Pod, Pool, Refusal, Reply, Stage, View, step,
};
use settings::GroupSync;
use vpc::facts::EniId;

use crate::broken::{Check, ensure};
use crate::coverage::Coverage;
use crate::ledger::Ledger;
use crate::mutants::{self, Mutant};
use crate::rng::Rng;
use crate::sky::{Sky, Strike};
use crate::words::Words;

/// How long EC2's views lag at most.
pub(crate) const LAG: u64 = 30_000;

/// A call on its way.
#[derive(Debug)]
pub(crate) struct Flight {
    pub(crate) call: Call,
    /// The step that asked for it.
    asked: u64,
    /// When the next thing happens to it.
    pub(crate) at: u64,
    /// Requests not sent yet, the last one first.
    pub(crate) requests: Vec<Request>,
    responses: Vec<Response>,
    pub(super) strike: Option<Strike>,
    struck: bool,
    pub(crate) result: Option<Result<Answer, Failure>>,
}

pub(crate) struct World {
    pub(crate) pool: Pool,
    pub(crate) sky: Sky,
    pub(crate) rng: Rng,
    pub(crate) config: Config,
    pub(crate) node: NodeFacts,
    pub(crate) ledger: Ledger,
    pub(crate) coverage: Coverage,
    /// EC2's time, in milliseconds.
    pub(crate) now: u64,
    /// The node's clock minus EC2's.
    pub(crate) skew: i64,
    /// The process stands still until then.
    pub(crate) stalled: u64,
    pub(crate) flights: BTreeMap<OpId, Flight>,
    /// Requests of agents that were killed, still on their way.
    pub(crate) ghosts: Vec<(u64, Vec<Request>)>,
    pub(crate) cordoned: bool,
    tokens: BTreeSet<ClientToken>,
    pub(crate) wake: Option<Millis>,
    /// Chance of a fault per call, percent, and which one most of the time.
    pub(crate) faulty: u64,
    pub(crate) favourite: Strike,
    pub(crate) lagging: bool,
    /// The process dies in the middle of a step, after so many effects.
    pub(crate) doom: Option<u64>,
    pub(crate) steps: u64,
    pub(crate) trace: bool,
    pub(crate) mutant: Option<Mutant>,
    /// Which step decided that an interface goes, and which step's question EC2 has answered with it.
    pub(crate) decided: BTreeMap<EniId, u64>,
    pub(crate) confirmed: BTreeMap<EniId, u64>,
    pub(crate) words: Words,
    last_view: Option<View>,
}

impl World {
    pub(crate) fn new(config: Config, node: NodeFacts, sky: Sky, now: u64, rng: Rng) -> Self {
        Self {
            pool: Pool::new(config.clone()),
            sky,
            rng,
            config,
            node,
            ledger: Ledger::default(),
            coverage: Coverage::default(),
            now,
            skew: 0,
            stalled: 0,
            flights: BTreeMap::new(),
            ghosts: Vec::new(),
            cordoned: false,
            tokens: BTreeSet::new(),
            wake: None,
            faulty: 0,
            favourite: Strike::Throttled,
            lagging: false,
            doom: None,
            steps: 0,
            trace: false,
            mutant: None,
            decided: BTreeMap::new(),
            confirmed: BTreeMap::new(),
            words: Words::default(),
            last_view: None,
        }
    }

    /// What the node's clock shows.
    pub(crate) fn clock(&self) -> Millis {
        Millis(self.now.saturating_add_signed(self.skew))
    }

    pub(crate) fn feed(&mut self, event: Event) -> Check {
        self.steps += 1;
        self.wake = None;
        // A clock that goes back is one that stands still.
        let back = if self.rng.chance(1) {
            self.rng.below(100_000)
        } else {
            0
        };
        let at = Millis(self.clock().0.saturating_sub(back));
        if self.trace {
            println!("{} {event:?}", self.now);
        }
        let leaving = self.leaving();
        let effects = step(&mut self.pool, event, at);
        self.decisions();
        if self.config.group_sync != GroupSync::AtStart {
            self.words.serving(&self.pool)?;
        }
        if self.cordoned {
            let more: Vec<_> = self.leaving().difference(&leaving).cloned().collect();
            ensure!(more.is_empty(), Cordon, "{more:?} go from a cordoned node");
        }
        let effects = mutants::effects(self.mutant, effects);
        let doom = match self.doom.take() {
            Some(dice) if !effects.is_empty() => Some((dice % effects.len() as u64) as usize),
            _ => None,
        };
        for (i, effect) in effects.into_iter().enumerate() {
            if doom == Some(i) {
                self.coverage.saw("killed between effects");
                return self.restart();
            }
            if self.trace {
                println!("    {effect:?}");
            }
            self.perform(effect)?;
        }
        // Whoever asked the pool with an older clock asks about an older patience.
        if back == 0 {
            let clock = self.clock();
            self.ledger.patient(clock, self.config.patience)?;
        }
        self.check()
    }

    pub(crate) fn cordon(&mut self, cordoned: bool) -> Check {
        if cordoned {
            self.coverage.saw("cordoned");
        }
        // A pool that does not hear of it is judged as if it had.
        self.cordoned = cordoned;
        match self.mutant {
            Some(Mutant::CordonNotHeard) => Ok(()),
            _ => self.feed(Event::Cordoned(cordoned)),
        }
    }

    /// Attached interfaces that are to be removed. One that EC2 refuses to attach goes from nowhere.
    fn leaving(&self) -> BTreeSet<EniId> {
        let enis = self.pool.enis();
        let leaving = enis.filter(|eni| eni.stage.is_leaving() && eni.attachment.is_some());
        leaving.map(|eni| eni.id.clone()).collect()
    }

    /// Notes when the pool decided that an interface goes.
    fn decisions(&mut self) {
        let stages: BTreeMap<&EniId, Stage> =
            self.pool.enis().map(|eni| (&eni.id, eni.stage)).collect();
        self.decided
            .retain(|id, _| stages.get(id).is_some_and(|stage| stage.is_leaving()));
        for (id, stage) in stages {
            if stage == Stage::Confirming {
                self.decided.entry(id.clone()).or_insert(self.steps);
            }
        }
    }

    fn perform(&mut self, effect: Effect) -> Check {
        let (clock, now) = (self.clock(), self.now);
        match effect {
            Effect::Call(op, call) => self.dial(op, call),
            Effect::Record(record) => {
                let sky = &mut self.sky;
                let on_node =
                    |address| sky.taken.contains(&address) || sky.holder(address, now).is_some();
                self.ledger.record(record, clock, REST, on_node)
            }
            Effect::Reply(ticket, reply) => {
                let open = self.ledger.reply(ticket, &reply)?;
                let Reply::Refused(refusal) = &reply else {
                    return Ok(());
                };
                if open.add {
                    let free = self.pool.counts().available;
                    let ceiling =
                        matches!(refusal, Refusal::Limit { .. } | Refusal::SubnetFull { .. });
                    ensure!(
                        !ceiling || free == 0,
                        Reason,
                        "{free} free, but refused: {refusal}"
                    );
                    let text = format!("{refusal:?}");
                    let name = text.split([' ', '{']).next().unwrap_or_default().to_owned();
                    *self.coverage.refused.entry(name).or_default() += 1;
                }
                Ok(())
            }
            Effect::WakeAt(at) => {
                let pool = clock;
                ensure!(
                    at.0 + 100_000 > pool.0,
                    Wake,
                    "a wake-up in the past: {at:?} at {pool:?}"
                );
                self.wake = Some(at);
                Ok(())
            }
        }
    }

    /// Takes a call up; checks that it is one that may be made.
    fn dial(&mut self, op: OpId, call: Call) -> Check {
        let same = |other: &Call| match (other, &call) {
            (Call::CreateEni { token: a, .. }, Call::CreateEni { token: b, .. }) => a == b,
            _ => name(other) == name(&call) && other.eni() == call.eni(),
        };
        let twice = self.flights.values().any(|flight| same(&flight.call));
        ensure!(!twice, Doubled, "asked twice at once: {call:?}");
        self.may(&call)?;
        // Removals are rare, so they fail more often than others.
        let chance = match call {
            Call::Unassign { .. } | Call::DetachEni { .. } if self.faulty > 0 => 70,
            Call::Show { .. } if self.faulty > 0 => {
                // Few questions meet an interface in these stages.
                let short = |eni: &ipam::Eni| {
                    eni.stage.is_coming()
                        || matches!(eni.stage, Stage::Detached | Stage::Confirming)
                };
                match self.pool.enis().any(short) {
                    true => 70,
                    false => self.faulty.max(35),
                }
            }
            _ => self.faulty,
        };
        let strike = self.rng.chance(chance);
        // A theme makes runs differ; what is rare meets everything.
        let rare = matches!(
            call,
            Call::DetachEni { .. } | Call::Show { .. } | Call::SetGroups { .. }
        );
        let themed = !rare || self.rng.chance(15);
        let theme = themed.then_some(self.favourite);
        let strike = strike.then(|| Sky::strike(&mut self.rng, call.action(), theme));
        let mut requests = self.sky.translator.requests(&call);
        requests.reverse();
        let flight = Flight {
            asked: self.steps,
            at: self.now + 10 + self.rng.below(2_000),
            requests,
            responses: Vec::new(),
            strike,
            struck: false,
            result: None,
            call,
        };
        self.flights.insert(op, flight);
        Ok(())
    }

    /// Whether EC2 and the pods allow a call.
    fn may(&mut self, call: &Call) -> Check {
        if let Some(eni) = call.eni() {
            ensure!(
                !self.sky.foreign.contains(eni),
                Foreign,
                "not ours: {call:?}"
            );
        }
        let fact = call.eni().and_then(|eni| {
            let truth = self.sky.truth(self.now);
            truth.get(eni).cloned()
        });
        // A pod whose interface somebody else took away has lost its address already.
        let taken = &self.sky.taken;
        let in_use = |address: &std::net::Ipv4Addr| {
            let mut held = self.ledger.allocations.values();
            !taken.contains(address) && held.any(|a| a.address == *address)
        };
        match call {
            Call::DetachEni { eni, .. } | Call::DeleteEni { eni } => {
                let Some(fact) = fact else { return Ok(()) };
                ensure!(fact.view.ours, Foreign, "not ours to remove: {call:?}");
                let pod = fact.addresses().find(in_use);
                ensure!(pod.is_none(), UnderPod, "{call:?} under a pod with {pod:?}");
                if matches!(call, Call::DetachEni { .. }) {
                    let (decided, shown) = (self.decided.get(eni), self.confirmed.get(eni));
                    ensure!(
                        decided.is_some_and(|at| shown.is_some_and(|shown| shown >= at)),
                        Unconfirmed,
                        "{eni} goes: decided in step {decided:?}, EC2 was asked in step {shown:?}"
                    );
                }
            }
            Call::Unassign { blocks, .. } => {
                let pod = blocks.addresses().into_iter().find(in_use);
                ensure!(
                    pod.is_none(),
                    UnderPod,
                    "unassigned under a pod with {pod:?}: {call:?}"
                );
            }
            Call::CreateEni { token, want, .. } => {
                let new = self.tokens.insert(token.clone());
                ensure!(
                    !(new && self.cordoned),
                    Cordon,
                    "a new interface on a cordoned node"
                );
                self.mode(*want)?;
            }
            Call::Assign { want, .. } => self.mode(*want)?,
            _ => {}
        }
        Ok(())
    }

    fn mode(&self, want: ipam::Want) -> Check {
        let prefixes = matches!(want, ipam::Want::Prefixes(_));
        ensure!(
            !prefixes || (self.config.prefixes && self.node.prefixes),
            Mode,
            "{want:?} without prefix delegation"
        );
        ensure!(want.slots() > 0, Mode, "nothing is asked for: {want:?}");
        Ok(())
    }

    /// Time goes on to the next thing that happens by itself, at most to `until`.
    pub(crate) fn advance(&mut self, until: u64) -> Result<bool, crate::Broken> {
        let stalled = self.stalled;
        // What EC2 does is done in time, what the process hears waits for the process.
        let due = |flight: &Flight| match flight.result {
            None => flight.at,
            Some(_) => flight.at.max(stalled),
        };
        let flights = self.flights.iter().map(|(op, f)| (due(f), *op));
        let flight = flights.min().filter(|(at, _)| *at <= until);
        let ghost = (0..self.ghosts.len()).min_by_key(|i| self.ghosts[*i].0);
        let ghost = ghost.map(|i| (self.ghosts[i].0, i));
        let ghost = ghost.filter(|(at, _)| *at <= until);
        let wake = self.wake.map(|at| at.0.saturating_add_signed(-self.skew));
        let wake = wake.map(|at| at.max(stalled)).filter(|at| *at <= until);
        let first = [flight.map(|f| f.0), ghost.map(|g| g.0), wake];
        let Some(first) = first.into_iter().flatten().min() else {
            self.now = self.now.max(until);
            if self.now > stalled {
                let clock = self.clock();
                self.ledger.patient(clock, self.config.patience)?;
            }
            return Ok(false);
        };
        self.now = self.now.max(first);
        match (ghost, flight) {
            (Some((at, i)), _) if at == first => self.haunt(i),
            (_, Some((at, op))) if at == first => self.go_on(op)?,
            _ => self.feed(Event::Tick)?,
        }
        Ok(true)
    }

    /// A request of a dead agent arrives.
    fn haunt(&mut self, i: usize) {
        let (_, requests) = self.ghosts.swap_remove(i);
        self.coverage.saw("a late call of a dead agent");
        for request in requests.into_iter().rev() {
            let now = self.now;
            if let Request::Unassign(r) = &request {
                // It may take what the next agent was given meanwhile: as other people do.
                let all = r.private_ip_addresses.iter().filter_map(|a| a.parse().ok());
                let prefixes = r.ipv4_prefixes.iter().filter_map(|p| p.parse().ok());
                let prefixes = prefixes.flat_map(ipam::addresses_of);
                self.sky.taken.extend(all.chain(prefixes));
            }
            if self.sky.ask(&request, None, now).is_err() {
                break;
            }
        }
    }

    /// The next thing happens to a call: EC2 does it, or its answer is heard.
    fn go_on(&mut self, op: OpId) -> Check {
        let Some(mut flight) = self.flights.remove(&op) else {
            return Ok(());
        };
        if let Some(result) = flight.result.take() {
            return self.hear(op, flight, result);
        }
        flight.result = self.act(&mut flight);
        flight.at = self.now + 1 + self.rng.below(600);
        self.flights.insert(op, flight);
        Ok(())
    }

    fn act(&mut self, flight: &mut Flight) -> Option<Result<Answer, Failure>> {
        let call = flight.call.clone();
        if let Call::SetUp { eni, .. } = &call {
            let eni = eni.clone();
            return Some(self.set_up(&eni, flight));
        }
        if call == Call::PrimaryGroups {
            return Some(self.primary_groups(flight));
        }
        if mutants::skips(self.mutant, &call) {
            return Some(Ok(Answer::Done));
        }
        let request = mutants::request(self.mutant, flight.requests.pop()?);
        let strike = flight.strike.filter(|_| !flight.struck);
        flight.struck = true;
        let answer = self.lagging(|sky, now| sky.ask(&request, strike, now));
        match answer {
            Ok(response) => flight.responses.push(response),
            Err(error) => return Some(Err(failure(call.action(), &error))),
        }
        match flight.requests.is_empty() {
            true => {
                let responses = std::mem::take(&mut flight.responses);
                Some(self.sky.translator.answer(&call, responses))
            }
            false => None,
        }
    }

    /// With views as old as they may be this time.
    pub(super) fn lagging<T>(&mut self, ask: impl FnOnce(&mut Sky, u64) -> T) -> T {
        let now = self.now;
        if !self.lagging {
            return ask(&mut self.sky, now);
        }
        self.sky.ec2.settle(crate::sky::time(now));
        let lag = self.rng.below(LAG);
        let set = |sky: &mut Sky, lag| {
            sky.ec2.turn(|knobs| {
                knobs.describe_lag_ms = lag;
                knobs.imds_lag_ms = Some(lag);
            });
        };
        set(&mut self.sky, lag.max(1));
        let answer = ask(&mut self.sky, now);
        set(&mut self.sky, LAG);
        answer
    }

    fn hear(&mut self, op: OpId, flight: Flight, result: Result<Answer, Failure>) -> Check {
        let Flight {
            call,
            asked,
            strike,
            ..
        } = flight;
        self.cover(&call, strike, &result);
        self.words.heard(op, &call, &result);
        if let Ok(Answer::Shown(view)) = &result {
            for eni in view
                .enis
                .iter()
                .filter(|e| e.ours && e.attachment.is_some())
            {
                self.confirmed.insert(eni.id.clone(), asked);
            }
        }
        if self.mutant == Some(Mutant::AnswerDropped) && self.rng.chance(10) {
            return Ok(());
        }
        let result = mutants::answer(self.mutant, &call, result, &mut self.last_view);
        self.feed(Event::Answered { op, result })
    }

    fn cover(&mut self, call: &Call, strike: Option<Strike>, result: &Result<Answer, Failure>) {
        let throttled = "Throttled by EC2".to_owned();
        let outcome = match (strike, result) {
            (Some(strike), _) => format!("{strike:?}"),
            (None, Ok(_)) => "Ok".to_owned(),
            (None, Err(failure)) => match failure.kind {
                FailureKind::Throttled => throttled,
                FailureKind::Denied => "Denied by EC2".to_owned(),
                kind => format!("{kind:?}"),
            },
        };
        let waiting = self.pool.counts().waiting > 0;
        let calls = &mut self.coverage.calls;
        *calls.entry((waiting, name(call), outcome)).or_default() += 1;
        if let Some(strike) = strike {
            for eni in self.pool.enis() {
                let stages = &mut self.coverage.stages;
                *stages.entry((eni.stage, strike)).or_default() += 1;
            }
        }
    }

    pub(crate) fn add(&mut self) -> Check {
        let key = self.ledger.fresh_key();
        self.add_key(key)
    }

    /// The runtime asks again for an attachment that it already has or waits for.
    pub(crate) fn add_again(&mut self) -> Check {
        let keys = self.ledger.keys(true);
        if keys.is_empty() {
            return Ok(());
        }
        let key = self.rng.pick(&keys).clone();
        self.add_key(key)
    }

    fn add_key(&mut self, key: Key) -> Check {
        let ticket = self.ledger.ask(key.clone(), true, self.clock());
        let pod = Pod::default();
        self.feed(Event::Add { ticket, key, pod })
    }

    /// A pod goes, now and then one that still waits.
    pub(crate) fn delete(&mut self, waiting: bool) -> Check {
        let keys = self.ledger.keys(waiting);
        if keys.is_empty() {
            return Ok(());
        }
        let key = self.rng.pick(&keys).clone();
        self.delete_key(key)
    }

    fn delete_key(&mut self, key: Key) -> Check {
        let ticket = self.ledger.ask(key.clone(), false, self.clock());
        let dropped = matches!(
            self.mutant,
            Some(Mutant::ReplyDropped | Mutant::RefusalDropped)
        );
        self.feed(Event::Delete { ticket, key })?;
        let waits = self.ledger.open.contains_key(&ticket);
        ensure!(!waits || dropped, Stuck, "a DEL waits");
        Ok(())
    }

    /// The runtime clears away what it never heard of again.
    pub(crate) fn clear_orphans(&mut self, most: usize) -> Check {
        for _ in 0..most {
            let Some(key) = self.ledger.orphans.pop() else {
                return Ok(());
            };
            self.delete_key(key)?;
        }
        Ok(())
    }

    fn check(&mut self) -> Check {
        let held = self.pool.allocations();
        let mut differ = held.filter(|a| {
            let known = self.ledger.allocations.get(&a.key);
            known.is_none_or(|known| known.address != a.address)
        });
        let unknown = differ.next();
        ensure!(
            unknown.is_none(),
            Recorded,
            "the pool has {unknown:?}, which is not recorded"
        );
        let (pool, ledger) = (
            self.pool.allocations().count(),
            self.ledger.allocations.len(),
        );
        ensure!(
            pool == ledger,
            Recorded,
            "the pool has {pool} leases, recorded are {ledger}"
        );
        let mut seen = BTreeSet::new();
        for address in self.pool.enis().flat_map(|eni| eni.slots.keys()) {
            ensure!(
                seen.insert(address),
                DoubleUse,
                "{address} is on two interfaces of the pool"
            );
        }
        Ok(())
    }
}

/// How long an address must rest in every run; what the pool is told is the configuration's.
pub(crate) const REST: std::time::Duration = std::time::Duration::from_secs(30);

/// The action, with the two uses of ModifyNetworkInterfaceAttribute apart.
pub(crate) fn name(call: &Call) -> &'static str {
    match call {
        Call::SetGroups { .. } => "SetGroups",
        call => call.action(),
    }
}
