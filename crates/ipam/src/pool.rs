//! The pool's state. What the shell may see of it is in `view`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::Ipv4Addr;
use std::time::Duration;

use vpc::facts::{EniId, SgId, SubnetId};

use crate::arithmetic::{Stock, Targets};
use crate::effect::{Call, Effect, OpId};
pub(crate) use crate::eni::{Eni, Foreign, Slot, SlotState, Stage};
use crate::event::{Failure, HandsOff, ImdsEni};
use crate::subnets::Subnets;
use crate::types::{
    Allocation, ClientToken, Config, EniLimitBy, Key, Millis, NodeFacts, Pod, Ticket, Unit, Want,
};
use crate::ways::Ways;

/// The node's address pool.
#[derive(Debug, Clone)]
pub struct Pool {
    pub(crate) config: Config,
    pub(crate) clock: Millis,
    pub(crate) rng: u64,
    pub(crate) node: Option<NodeFacts>,
    /// Why the pool does not serve yet; `None` once it has.
    pub(crate) not_ready: Option<String>,
    pub(crate) draining: bool,
    pub(crate) cordoned: bool,
    pub(crate) enis: BTreeMap<EniId, Eni>,
    /// Attached interfaces that are not ours to use; those of card 0 count against the instance's
    /// limit.
    pub(crate) foreign: BTreeMap<EniId, Foreign>,
    pub(crate) births: Vec<Birth>,
    pub(crate) allocations: BTreeMap<Key, Allocation>,
    pub(crate) by_address: BTreeMap<Ipv4Addr, Key>,
    /// When an address was released that no interface shows (yet).
    pub(crate) resting: BTreeMap<Ipv4Addr, Millis>,
    /// Addresses given back to EC2, and when: what EC2 shows of them soon after is old.
    pub(crate) returned: BTreeMap<Ipv4Addr, Millis>,
    pub(crate) waiting: VecDeque<Waiting>,
    pub(crate) ops: BTreeMap<OpId, Call>,
    pub(crate) next_op: u64,
    pub(crate) next_token: u64,
    pub(crate) ways: Ways,
    pub(crate) subnets: Subnets,
    /// Actions whose last answer was that the credentials do not allow them.
    pub(crate) denied: BTreeMap<&'static str, Failure>,
    pub(crate) groups: Groups,
    pub(crate) show: Show,
    pub(crate) surplus: Option<Surplus>,
    /// Since when something is short, and not asked for.
    pub(crate) short_since: Option<Millis>,
}

/// What is on its way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Coming {
    pub(crate) current: u32,
    pub(crate) other: u32,
    pub(crate) prefixes: u32,
}

impl Coming {
    pub(crate) fn addresses(self) -> u32 {
        self.current + self.other
    }
}

/// An interface that is being created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Birth {
    pub(crate) token: ClientToken,
    pub(crate) at: Millis,
    pub(crate) want: Want,
    pub(crate) subnet: SubnetId,
    pub(crate) groups: Vec<SgId>,
    pub(crate) retry: Backoff,
    pub(crate) trouble: Option<Failure>,
}

/// An ADD without an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub(crate) tickets: Vec<Ticket>,
    pub(crate) key: Key,
    pub(crate) pod: Pod,
    pub(crate) since: Millis,
    pub(crate) deadline: Millis,
}

/// A time before which something is not tried again; grows with each failure.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Backoff {
    pub(crate) failures: u32,
    pub(crate) until: Millis,
}

impl Backoff {
    pub(crate) fn open(&self, now: Millis) -> bool {
        self.until <= now
    }
}

/// More than the targets need, for as long as it lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Surplus {
    pub(crate) since: Millis,
    /// The least that was too much all the time: a pool that breathes with its pods keeps what it
    /// needs at the top of a breath.
    pub(crate) least: u32,
    /// A whole interface was too much all the time.
    pub(crate) spare: bool,
}

/// What is known about security groups.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Groups {
    /// The primary interface's, as EC2 first showed them.
    pub(crate) at_start: Vec<SgId>,
    /// The primary interface's, as EC2 last showed them.
    pub(crate) primary: Vec<SgId>,
    pub(crate) imds: BTreeMap<EniId, ImdsEni>,
    /// It was read and not compared yet.
    pub(crate) imds_is_news: bool,
    /// Why the last attempt to set groups failed.
    pub(crate) trouble: Option<Failure>,
    /// Interfaces whose groups were set since EC2 last showed them.
    pub(crate) unconfirmed: BTreeSet<EniId>,
    pub(crate) disagreement: Backoff,
}

/// When EC2 is asked next what it shows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Show {
    pub(crate) wish: Option<(Millis, bool)>,
    pub(crate) retry: Backoff,
    pub(crate) trouble: Option<Failure>,
    pub(crate) next_sweep: Millis,
    /// When an answer can no longer be older than a call that had an unclear end.
    pub(crate) recheck: Option<Millis>,
    /// When it was last asked: an answer is as old as that, or older, whenever it is heard.
    pub(crate) asked: Millis,
    /// The last call that EC2 answered.
    pub(crate) last: u64,
    /// EC2 has answered at least once.
    pub(crate) once: bool,
}

impl Pool {
    /// An empty pool that knows nothing of its node yet.
    pub fn new(config: Config) -> Self {
        Self {
            rng: config.seed,
            config,
            clock: Millis(0),
            node: None,
            not_ready: Some("it has not read its identity from instance metadata yet".to_owned()),
            draining: false,
            cordoned: false,
            enis: BTreeMap::new(),
            foreign: BTreeMap::new(),
            births: Vec::new(),
            allocations: BTreeMap::new(),
            by_address: BTreeMap::new(),
            resting: BTreeMap::new(),
            returned: BTreeMap::new(),
            waiting: VecDeque::new(),
            ops: BTreeMap::new(),
            next_op: 1,
            next_token: 1,
            ways: Ways::default(),
            subnets: Subnets::default(),
            denied: BTreeMap::new(),
            groups: Groups::default(),
            show: Show::default(),
            surplus: None,
            short_since: None,
        }
    }

    pub(crate) fn advance(&mut self, now: Millis) -> Millis {
        self.clock = self.clock.max(now);
        self.clock
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.not_ready.is_none()
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining
    }

    /// Whether interfaces and addresses may change.
    pub(crate) fn is_working(&self) -> bool {
        self.is_ready() && !self.draining
    }

    pub(crate) fn is_rested(&self, slot: &Slot) -> bool {
        match slot.state {
            SlotState::Free(None) => true,
            SlotState::Free(Some(at)) => at.after(self.config.cooldown) <= self.clock,
            SlotState::Assigned(_) | SlotState::Leaving => false,
        }
    }

    pub(crate) fn slots_per_eni(&self) -> u32 {
        self.node.as_ref().map_or(0, |node| node.limits.slots())
    }

    /// Interfaces that are not ours to use and count against the instance's limit.
    pub(crate) fn foreign_here(&self) -> u32 {
        let here = |other: &&Foreign| !matches!(other.why, HandsOff::Card(_));
        len(self.foreign.values().filter(here).count())
    }

    /// Whether an interface gives its addresses to pods.
    pub(crate) fn serves(&self, eni: &Eni) -> bool {
        eni.stage == Stage::Ready && eni.missing_since.is_none() && !self.is_excluded(eni)
    }

    /// Whether an address is of the kind that the pool takes now. The others are from before a
    /// change of `ENABLE_PREFIX_DELEGATION`, or stand in for prefixes that a subnet has not got:
    /// pods keep them, new ones get them when nothing else is free, and they go back.
    pub(crate) fn is_current(&self, slot: &Slot) -> bool {
        slot.prefix.is_some() == (self.unit() == Unit::Prefix)
    }

    pub(crate) fn targets(&self) -> Targets {
        Targets {
            warm: self.config.warm,
            unit: self.unit(),
            slots: self.slots_per_eni(),
        }
    }

    /// How many interfaces the pool may have, and whose limit that is.
    pub(crate) fn usable_interfaces(&self) -> (u32, EniLimitBy) {
        let limit = self.node.as_ref().map_or(0, |node| node.limits.interfaces);
        if !self.config.provision {
            let has = len(self.enis.len());
            return (has, EniLimitBy::NoProvisioning);
        }
        let (most, by) = match self.config.max_eni {
            Some(max) if max < limit => (max, EniLimitBy::MaxEni),
            _ => (limit, EniLimitBy::InstanceType),
        };
        (most.saturating_sub(self.foreign_here()), by)
    }

    /// The same for now: a cordoned node gets no more than it has.
    pub(crate) fn allowed_interfaces(&self) -> (u32, EniLimitBy) {
        let (most, by) = self.usable_interfaces();
        let has = len(self.enis.len() + self.births.len());
        if self.cordoned && has < most {
            (has, EniLimitBy::Cordon)
        } else {
            (most, by)
        }
    }

    /// What was asked for and will be free when it comes: of the kind that the pool takes now, of
    /// the other kind, and whole prefixes of the former.
    pub(crate) fn coming(&self) -> Coming {
        let unit = self.unit();
        let mut coming = Coming::default();
        let asked = self.ops.values().filter_map(|call| match call {
            Call::Assign { want, .. } => Some(*want),
            _ => None,
        });
        for want in asked.chain(self.births.iter().map(|birth| birth.want)) {
            match want.unit() == unit {
                true => coming.current += want.addresses(),
                false => coming.other += want.addresses(),
            }
            if let (Unit::Prefix, Want::Prefixes(n)) = (unit, want) {
                coming.prefixes += n;
            }
        }
        let arriving = |eni: &&Eni| eni.stage.is_coming() && !self.is_excluded(eni);
        for eni in self.enis.values().filter(arriving) {
            for slot in eni.slots.values() {
                match slot.state {
                    SlotState::Free(_) if self.is_current(slot) => coming.current += 1,
                    SlotState::Free(_) => coming.other += 1,
                    SlotState::Assigned(_) | SlotState::Leaving => {}
                }
            }
            if unit == Unit::Prefix {
                coming.prefixes += self.free_prefixes(eni);
            }
        }
        coming
    }

    /// Prefixes of an interface that nobody has an address of, and from which nobody had one lately.
    pub(crate) fn free_prefixes(&self, eni: &Eni) -> u32 {
        len(eni
            .prefixes(|slot| self.is_rested(slot) && !slot.lost)
            .len())
    }

    /// The stock that the targets are compared with: of the kind that the pool takes now, or all.
    /// To take a node over is no reason to grow: what rests for that reason alone counts as there.
    pub(crate) fn stock(&self, all: bool) -> Stock {
        let coming = self.coming();
        let mut stock = Stock::default();
        for eni in self.enis.values() {
            if eni.stage != Stage::Ready || self.is_excluded(eni) {
                continue;
            }
            for slot in eni.slots.values() {
                let counted = all || self.is_current(slot);
                let assigned = matches!(slot.state, SlotState::Assigned(_));
                stock.total += u32::from(counted || assigned);
                let free = eni.missing_since.is_none() && self.is_rested(slot);
                let unwatched = matches!(slot.state, SlotState::Free(Some(at))
                    if Some(at) == self.config.unwatched_until);
                stock.available += u32::from(counted && (free || unwatched));
            }
            if self.unit() == Unit::Prefix {
                stock.free_prefixes += self.free_prefixes(eni);
            }
        }
        let mut waiting = len(self.waiting.len());
        if all {
            stock.available += coming.other;
            stock.total += coming.other;
        } else {
            waiting = waiting.saturating_sub(coming.other);
        }
        stock.available += coming.current;
        stock.total += coming.current;
        stock.free_prefixes += coming.prefixes;
        Stock {
            available: stock.available.saturating_sub(waiting),
            waiting: waiting.saturating_sub(stock.available),
            ..stock
        }
    }

    /// Interfaces whose groups follow the primary's.
    pub(crate) fn is_synced_kind(&self, eni: &Eni) -> bool {
        !eni.is_primary() && eni.device.is_some() && !eni.stage.is_leaving()
    }

    pub(crate) fn is_busy(&self, eni: &EniId, which: fn(&Call) -> bool) -> bool {
        self.ops
            .values()
            .any(|call| call.eni() == Some(eni) && which(call))
    }

    pub(crate) fn call(&mut self, call: Call, effects: &mut Vec<Effect>) {
        let op = OpId(self.next_op);
        self.next_op += 1;
        self.touch(&call, op.0);
        self.ops.insert(op, call.clone());
        effects.push(Effect::Call(op, call));
    }

    /// An interface is no more; its addresses still rest, wherever EC2 puts them next.
    pub(crate) fn forget(&mut self, id: &EniId) {
        self.groups.unconfirmed.remove(id);
        let slots = self
            .enis
            .remove(id)
            .map(|eni| eni.slots)
            .unwrap_or_default();
        for (address, slot) in slots {
            if let SlotState::Free(Some(at)) = slot.state {
                self.resting.insert(address, at);
            }
        }
    }

    /// A call that changes an interface in EC2: what was asked for before may show it otherwise.
    pub(crate) fn touch(&mut self, call: &Call, op: u64) {
        let in_ec2 = !matches!(call, Call::SetUp { .. });
        if let Some(eni) = call
            .eni()
            .filter(|_| in_ec2)
            .and_then(|id| self.enis.get_mut(id))
        {
            eni.touched = op;
        }
    }

    /// Asks EC2 what it shows, at `at` or before.
    pub(crate) fn wish(&mut self, at: Millis, leftovers: bool) {
        self.show.wish = Some(match self.show.wish {
            None => (at, leftovers),
            Some((other, others)) => (other.min(at), others || leftovers),
        });
    }

    /// The next backoff: doubled from `first` to `most`, the later half of it by chance.
    pub(crate) fn backed_off(
        &mut self,
        failures: u32,
        now: Millis,
        first: Duration,
        most: Duration,
    ) -> Backoff {
        let whole = first
            .saturating_mul(1 << failures.min(16))
            .min(most)
            .as_millis() as u64;
        let half = whole / 2;
        let wait = half + self.random() % (half + 1);
        Backoff {
            failures: failures.saturating_add(1),
            until: Millis(now.0 + wait),
        }
    }

    /// `splitmix64`.
    pub(crate) fn random(&mut self) -> u64 {
        self.rng = self.rng.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.rng;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// When something changes by time alone.
    pub(crate) fn next_wake(&self, now: Millis) -> Option<Millis> {
        if self.draining {
            return None;
        }
        let mut times: Vec<Millis> = self.waiting.iter().map(|w| w.deadline).collect();
        let asking = self
            .ops
            .values()
            .any(|call| matches!(call, Call::Show { .. }));
        if let Some((at, _)) = self.show.wish.filter(|_| self.node.is_some() && !asking) {
            times.push(at.max(self.show.retry.until));
        }
        if self.is_ready() {
            times.push(self.show.next_sweep);
            times.extend(self.ways.all().map(|(_, way)| way.retry.until));
            times.push(self.subnets.retry.until);
            times.extend(self.births.iter().map(|b| b.retry.until));
            times.extend(self.show.recheck);
            times.extend(self.short_since.map(|at| at.after(self.config.gather)));
            times.extend(
                self.surplus
                    .map(|surplus| surplus.since.after(self.config.shrink_after)),
            );
            for eni in self.enis.values() {
                times.extend([
                    eni.retry.until,
                    eni.protect_retry.until,
                    eni.group_retry.until,
                ]);
                times.push(eni.stage_since.after(self.config.shrink_after));
                times.extend(eni.doubt.as_ref().map(|(_, retry)| retry.until));
                times.extend(eni.slots.values().filter_map(|slot| match slot.state {
                    SlotState::Free(Some(at)) => Some(at.after(self.config.cooldown)),
                    _ => None,
                }));
            }
        }
        times.into_iter().filter(|at| *at > now).min()
    }
}

impl Call {
    /// The interface that it is about.
    pub fn eni(&self) -> Option<&EniId> {
        match self {
            Self::CreateEni { .. }
            | Self::Show { .. }
            | Self::ShowSubnets
            | Self::PrimaryGroups => None,
            Self::AttachEni { eni, .. }
            | Self::SetDeleteOnTermination { eni, .. }
            | Self::Assign { eni, .. }
            | Self::Unassign { eni, .. }
            | Self::DetachEni { eni, .. }
            | Self::DeleteEni { eni }
            | Self::SetGroups { eni, .. }
            | Self::SetUp { eni, .. } => Some(eni),
        }
    }
}

pub(crate) fn len(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
