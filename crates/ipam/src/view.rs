//! What the shell may see of the pool: for introspection, metrics and answers. Nothing here changes it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use settings::GroupDrift;
use vpc::facts::{EniId, SgId};

use crate::effect::{Call, Refusal};
use crate::event::Failure;
use crate::grow::{self, Outlook};
use crate::pool::{Eni, Foreign, Pool, Slot, SlotState, Stage, len};
use crate::types::{Allocation, ClientToken, Key, Millis, NodeFacts, Unit, Want};

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
    /// Somebody set others by hand, and they stay (`BRANCHLINE_GROUP_DRIFT=report`).
    SetByHand {
        /// The interfaces with the groups that EC2 shows on them.
        enis: BTreeMap<EniId, Vec<SgId>>,
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
    /// /28 prefixes on interfaces in service.
    pub prefixes: u32,
    /// Addresses on their way.
    pub coming: u32,
    /// ADDs that wait.
    pub waiting: u32,
}

impl Eni {
    /// Its addresses for pods by what EC2 gave them as: prefixes, and single ones as /32.
    pub fn by_block(&self) -> BTreeMap<Ipv4Net, Vec<(Ipv4Addr, &Slot)>> {
        let mut blocks: BTreeMap<Ipv4Net, Vec<(Ipv4Addr, &Slot)>> = BTreeMap::new();
        for (address, slot) in &self.slots {
            let block = slot.prefix.unwrap_or(Ipv4Net::from(*address));
            blocks.entry(block).or_default().push((*address, slot));
        }
        blocks
    }
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

    /// Attached interfaces that are not the pool's to use, by id, and why.
    pub fn foreign(&self) -> impl Iterator<Item = (&EniId, &Foreign)> {
        self.foreign.iter()
    }

    /// Actions that EC2 denies: asked beforehand, or by its last answer.
    pub fn denied(&self) -> impl Iterator<Item = &Failure> {
        self.denied.values()
    }

    /// Calls that show by a dry run what EC2 would deny. They name what the pool would name: rights
    /// are often given for interfaces with our tags alone, so of some nothing can be told before
    /// there is one. Assigning and unassigning addresses know no dry run.
    pub fn probes(&self) -> Vec<Call> {
        let Some(node) = self.node.as_ref().filter(|_| self.config.provision) else {
            return Vec::new();
        };
        let want = Want::of(self.unit(), 1);
        let mut calls = vec![Call::CreateEni {
            token: ClientToken("probe".to_owned()),
            at: self.clock,
            subnet: self
                .places()
                .into_iter()
                .next()
                .unwrap_or(node.subnet.clone()),
            groups: self.groups.primary.clone(),
            want,
        }];
        if let Some(primary) = self.enis.values().find(|eni| eni.is_primary()) {
            let eni = primary.id.clone();
            calls.push(Call::Assign { eni, want });
        }
        let ours = self
            .enis
            .values()
            .find(|eni| eni.ours && eni.device.is_some());
        if let Some((eni, attachment)) = ours.and_then(|o| Some((o, o.attachment.clone()?))) {
            let groups = eni.groups.clone();
            let eni = eni.id.clone();
            calls.extend([
                Call::SetGroups {
                    eni: eni.clone(),
                    groups,
                },
                Call::AttachEni {
                    eni: eni.clone(),
                    device: 99,
                },
                Call::DetachEni {
                    eni: eni.clone(),
                    attachment,
                },
                Call::DeleteEni { eni },
            ]);
        }
        calls
    }

    /// Why prefixes are asked for (`ENABLE_PREFIX_DELEGATION`) and single addresses are taken.
    pub fn no_prefixes(&self) -> Option<String> {
        let node = self.node.as_ref()?;
        if !self.config.prefixes {
            return None;
        }
        if !node.prefixes {
            return Some(
                "the instance type takes no prefixes: it is neither Nitro nor bare metal"
                    .to_owned(),
            );
        }
        let (targets, _) = self.surplus_targets();
        let trouble = self.ways.no_prefix_trouble()?;
        (targets.unit == Unit::Address).then(|| trouble.to_string())
    }

    /// Whether addresses are taken from EC2 as /28 prefixes.
    pub fn takes_prefixes(&self) -> bool {
        self.unit() == Unit::Prefix
    }

    /// The most addresses that pods can have on this node.
    pub fn most_addresses(&self) -> u32 {
        let each = Want::of(self.unit(), self.slots_per_eni()).addresses();
        self.usable_interfaces().0.saturating_mul(each)
    }

    /// Calls without an answer.
    pub fn in_flight(&self) -> impl Iterator<Item = &Call> {
        self.ops.values()
    }

    /// Whether the security groups of all interfaces are equal.
    pub fn group_state(&self) -> GroupState {
        if !self.syncs_groups() {
            return GroupState::Off;
        }
        let differing = self.enis.values().filter(|eni| {
            self.is_synced_kind(eni)
                && (eni.groups != self.groups.primary || self.groups.unconfirmed.contains(&eni.id))
        });
        let report_only = self.config.group_drift == GroupDrift::Report;
        let (by_hand, differing): (Vec<&Eni>, Vec<&Eni>) =
            differing.partition(|eni| report_only && self.is_set_by_hand(eni));
        let enis: Vec<EniId> = differing.into_iter().map(|eni| eni.id.clone()).collect();
        if enis.is_empty() && !by_hand.is_empty() {
            let shown = by_hand.into_iter();
            GroupState::SetByHand {
                enis: shown
                    .map(|eni| (eni.id.clone(), eni.groups.clone()))
                    .collect(),
            }
        } else if enis.is_empty() {
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
            coming: self.coming().addresses(),
            waiting: len(self.waiting.len()),
            ..Counts::default()
        };
        for eni in self.enis.values().filter(|eni| eni.stage == Stage::Ready) {
            counts.prefixes += len(eni.prefixes(|_| true).len());
            let serves = self.serves(eni);
            for slot in eni.slots.values() {
                counts.total += 1;
                match slot.state {
                    SlotState::Assigned(_) => counts.assigned += 1,
                    SlotState::Leaving => {}
                    SlotState::Free(_) if !self.is_rested(slot) => counts.resting += 1,
                    SlotState::Free(_) if serves => counts.available += 1,
                    // Its interface is missing, or its subnet excluded: nobody gets it.
                    SlotState::Free(_) => {}
                }
            }
        }
        counts
    }
}
