//! An interface of the node and its addresses.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use vpc::facts::{EniId, Mac, SgId, SubnetId};

use crate::event::{Failure, HandsOff};
use crate::pool::{Backoff, len};
use crate::types::{AttachmentId, Blocks, Key, Millis};

/// An attached interface that is not the pool's to use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Foreign {
    /// Its device index, on its card.
    pub device: u32,
    /// Why it is not.
    pub why: HandsOff,
}

/// An interface of the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Eni {
    /// Its id.
    pub id: EniId,
    /// Its Ethernet address.
    pub mac: Mac,
    /// Its subnet.
    pub subnet: SubnetId,
    /// Its own address; never a pod's.
    pub primary: Ipv4Addr,
    /// Its device index, once attached; 0 is the instance's primary interface.
    pub device: Option<u32>,
    /// Its attachment, once attached.
    pub attachment: Option<AttachmentId>,
    /// Its groups as EC2 last said, sorted.
    pub groups: Vec<SgId>,
    /// We created it: only then is it ever detached or deleted.
    pub ours: bool,
    /// Where it is in its life.
    pub stage: Stage,
    /// Since when.
    pub stage_since: Millis,
    /// Its addresses for pods.
    pub slots: BTreeMap<Ipv4Addr, Slot>,
    /// Why its life does not go on, if it does not.
    pub trouble: Option<Failure>,
    pub(crate) retry: Backoff,
    pub(crate) protected: bool,
    pub(crate) protect_retry: Backoff,
    pub(crate) group_retry: Backoff,
    /// What has been heard of the primary's groups since this one was created.
    pub(crate) wanted: Wanted,
    /// The primary's groups that EC2 has last shown on it: if they are still the primary's and it
    /// has others, somebody set those by hand.
    pub(crate) synced: Option<Vec<SgId>>,
    /// The last call that changed it; what was asked for before shows an older state.
    pub(crate) touched: u64,
    /// When it was attached, or first seen attached.
    pub(crate) attached_at: Millis,
    /// The call that created it; 0 if that was before this start.
    pub(crate) born: u64,
    /// Calls about it go unanswered, or EC2 shows it no more.
    pub(crate) missing_since: Option<Millis>,
    /// Addresses whose return had an unclear end; repeated until EC2 says that they are gone.
    pub(crate) doubt: Option<(Blocks, Backoff)>,
}

/// What has been heard of the primary interface's groups since an interface was created. That it has
/// the groups that it was created with, the answer to the create says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Nothing: somebody may have changed them. Instance metadata is read.
    Unheard,
    /// Metadata shows others than the pool knows, or cannot be read: EC2 is asked.
    Doubtful,
    /// They are as the pool knows them.
    Heard,
}

/// Where an interface is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// Created, attached to nothing.
    Unattached,
    /// Being attached.
    Attaching,
    /// Attached, not set up in the kernel.
    Unplumbed,
    /// Being set up in the kernel.
    Plumbing,
    /// Set up, but its groups are not yet known to be the primary's.
    Grouping,
    /// In service.
    Ready,
    /// To be removed; EC2 is asked first.
    Confirming,
    /// Being detached.
    Detaching,
    /// Detached.
    Detached,
    /// Being deleted.
    Deleting,
}

impl Stage {
    /// On its way into service.
    pub fn is_coming(self) -> bool {
        use Stage::{Attaching, Grouping, Plumbing, Unattached, Unplumbed};
        matches!(
            self,
            Unattached | Attaching | Unplumbed | Plumbing | Grouping
        )
    }

    /// On its way out.
    pub fn is_leaving(self) -> bool {
        use Stage::{Confirming, Deleting, Detached, Detaching};
        matches!(self, Confirming | Detaching | Detached | Deleting)
    }
}

/// An address of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// Whose it is.
    pub state: SlotState,
    /// Since when the pool knows it.
    pub known: Millis,
    /// When it last went to a pod.
    pub assigned_at: Option<Millis>,
    /// EC2 shows it no more although a pod has it.
    pub lost: bool,
    /// The prefix that it is of; `None`: a single address.
    pub prefix: Option<Ipv4Net>,
}

/// Whose an address is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SlotState {
    /// Nobody's; released by its last pod at the time, if it ever had one.
    Free(Option<Millis>),
    /// A pod's.
    Assigned(Key),
    /// On its way back to EC2.
    Leaving,
}

impl Eni {
    /// Whether it is the interface that the instance was launched with.
    pub fn is_primary(&self) -> bool {
        self.device == Some(0)
    }

    pub(crate) fn enter(&mut self, stage: Stage, now: Millis) {
        self.stage = stage;
        self.stage_since = now;
    }

    pub(crate) fn has_pods(&self) -> bool {
        self.slots
            .values()
            .any(|slot| matches!(slot.state, SlotState::Assigned(_)))
    }

    /// Slots that its addresses and prefixes take. What EC2 took away takes none, though a pod has it.
    pub(crate) fn used_slots(&self) -> u32 {
        let singles = self.slots.values();
        let singles = singles.filter(|slot| slot.prefix.is_none() && !slot.lost);
        len(singles.count() + self.prefixes(|slot| !slot.lost).len())
    }

    /// Its prefixes of which every address is as `all` says.
    pub(crate) fn prefixes(&self, all: impl Fn(&Slot) -> bool) -> Vec<Ipv4Net> {
        // Sorted by address, the addresses of a prefix follow one another.
        let mut found: Vec<(Ipv4Net, bool)> = Vec::new();
        for slot in self.slots.values() {
            let Some(prefix) = slot.prefix else { continue };
            match found.last_mut() {
                Some((last, good)) if *last == prefix => *good &= all(slot),
                _ => found.push((prefix, all(slot))),
            }
        }
        let good = found.into_iter().filter(|(_, good)| *good);
        good.map(|(prefix, _)| prefix).collect()
    }

    /// No pod, and nothing that a pod just left.
    pub(crate) fn is_idle(&self, rested: impl Fn(&Slot) -> bool) -> bool {
        self.slots.values().all(rested)
    }
}
