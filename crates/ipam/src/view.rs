//! What the shell may see of the pool: for introspection, metrics and answers. Nothing here changes it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use settings::GroupSync;
use vpc::facts::{EniId, SgId};

use crate::effect::{Call, Refusal};
use crate::event::Failure;
use crate::grow::{self, Outlook};
use crate::pool::{Eni, Pool, SlotState, Stage, len};
use crate::types::{Allocation, Key, Millis, NodeFacts};

/// Whether the security groups of all interfaces are equal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GroupState {
    /// They are copied at start only.
    Off,
    /// EC2 shows them equal.
    Equal,
    /// They are being set.
    Applying {
        /// The interfaces that EC2 does not yet show with the primary's groups.
        enis: Vec<EniId>,
        /// Why the last attempt failed, if it did.
        trouble: Option<Failure>,
    },
}

/// The pool in numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Interfaces in use by the pool, the coming and leaving ones included.
    pub interfaces: u32,
    /// Interfaces that it may use.
    pub interfaces_max: u32,
    /// Addresses for pods on interfaces in service.
    pub total: u32,
    /// Addresses with pods.
    pub assigned: u32,
    /// Addresses that rest.
    pub resting: u32,
    /// Free and rested.
    pub available: u32,
    /// Addresses on their way.
    pub coming: u32,
    /// ADDs that wait.
    pub waiting: u32,
}

impl Pool {
    /// Why no pod is served, or `None` when pods are.
    pub fn not_ready(&self) -> Option<&str> {
        if self.draining {
            Some("it is shutting down")
        } else {
            self.not_ready.as_deref()
        }
    }

    /// What a pod is told that has waited since `since` without an address.
    pub fn why_waiting(&self, since: Millis) -> Refusal {
        if let Some(reason) = self.not_ready() {
            return Refusal::NotReady {
                reason: reason.to_owned(),
            };
        }
        grow::standing_in_the_way(self, self.clock)
            .unwrap_or_else(|| grow::outlook(self, self.clock).reason(self.clock.since(since)))
    }

    /// Why the next pod would get no address, as far as that is foreseen; `None` while there is one,
    /// or one is on its way.
    pub fn obstacle(&self) -> Option<Refusal> {
        if let Some(reason) = self.not_ready() {
            return Some(Refusal::NotReady {
                reason: reason.to_owned(),
            });
        }
        let counts = self.counts();
        if counts.available > counts.waiting {
            return None;
        }
        match grow::outlook(self, self.clock) {
            Outlook::Soon { .. } => grow::standing_in_the_way(self, self.clock),
            Outlook::At(_, refusal) | Outlook::Never(refusal) => Some(refusal),
        }
    }

    /// The node, once known.
    pub fn node(&self) -> Option<&NodeFacts> {
        self.node.as_ref()
    }

    /// The interfaces, by id.
    pub fn enis(&self) -> impl Iterator<Item = &Eni> {
        self.enis.values()
    }

    /// Addresses in use, by attachment; those included whose interface EC2 does not show.
    pub fn allocations(&self) -> impl Iterator<Item = &Allocation> {
        self.allocations.values()
    }

    /// The address of an attachment.
    pub fn allocation(&self, key: &Key) -> Option<&Allocation> {
        self.allocations.get(key)
    }

    /// The interface that holds an address.
    pub fn eni_of(&self, address: Ipv4Addr) -> Option<&Eni> {
        self.enis
            .values()
            .find(|eni| eni.slots.contains_key(&address))
    }

    /// When each free address was released, as far as that still matters.
    pub fn released(&self) -> BTreeMap<Ipv4Addr, Millis> {
        let rested = |at: Millis| at.after(self.config.cooldown) <= self.clock;
        let slots = self.enis.values().flat_map(|eni| &eni.slots);
        let free = slots.filter_map(|(address, slot)| match slot.state {
            SlotState::Free(Some(at)) => Some((*address, at)),
            _ => None,
        });
        let unseen = self.resting.iter().map(|(address, at)| (*address, *at));
        free.chain(unseen).filter(|(_, at)| !rested(*at)).collect()
    }

    /// When addresses were given back to EC2, as far as its answers may still show them.
    pub fn returned(&self) -> &BTreeMap<Ipv4Addr, Millis> {
        &self.returned
    }

    /// Calls without an answer.
    pub fn in_flight(&self) -> impl Iterator<Item = &Call> {
        self.ops.values()
    }

    /// Whether the security groups of all interfaces are equal.
    pub fn group_state(&self) -> GroupState {
        if self.config.group_sync == GroupSync::AtStart {
            return GroupState::Off;
        }
        let differing = self.enis.values().filter(|eni| {
            self.is_synced_kind(eni)
                && (eni.groups != self.groups.primary || self.groups.unconfirmed.contains(&eni.id))
        });
        let enis: Vec<EniId> = differing.map(|eni| eni.id.clone()).collect();
        if enis.is_empty() {
            GroupState::Equal
        } else {
            GroupState::Applying {
                enis,
                trouble: self.groups.trouble.clone(),
            }
        }
    }

    /// The primary interface's groups as EC2 showed them at the start.
    pub fn groups_at_start(&self) -> &[SgId] {
        &self.groups.at_start
    }

    /// The pool in numbers.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts {
            interfaces: len(self.enis.len() + self.births.len()),
            interfaces_max: self.usable_interfaces().0,
            coming: self.coming(),
            waiting: len(self.waiting.len()),
            ..Counts::default()
        };
        for eni in self.enis.values().filter(|eni| eni.stage == Stage::Ready) {
            for slot in eni.slots.values() {
                counts.total += 1;
                match slot.state {
                    SlotState::Assigned(_) => counts.assigned += 1,
                    SlotState::Leaving => {}
                    SlotState::Free(_) if self.is_rested(slot) && eni.missing_since.is_none() => {
                        counts.available += 1;
                    }
                    SlotState::Free(_) => counts.resting += 1,
                }
            }
        }
        counts
    }
}
