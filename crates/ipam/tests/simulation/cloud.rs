//! An EC2 that is simple but honest: limits, a subnet that runs out, idempotent creates, answers
//! that are old, failures before and after the effect, and other people who change things.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::Ipv4Addr;

use ipam::{
    Answer, AttachmentId, Call, ClientToken, EniView, Failure, FailureKind, ImdsEni, Limits,
    Millis, View,
};
use vpc::facts::{EniId, Mac, SgId};

use crate::rng::Rng;

pub(crate) const LAG: u64 = 30_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    Throttled,
    Denied,
    Rejected,
    AccountLimit,
    UnclearBefore,
    UnclearAfter,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CloudEni {
    pub(crate) view: EniView,
    pub(crate) foreign: bool,
}

pub(crate) struct Cloud {
    pub(crate) limits: Limits,
    pub(crate) enis: BTreeMap<EniId, CloudEni>,
    /// What people outside took from us: addresses that may no longer be on an interface.
    pub(crate) taken: BTreeSet<Ipv4Addr>,
    tokens: BTreeMap<ClientToken, EniId>,
    free: BTreeSet<Ipv4Addr>,
    history: VecDeque<(u64, BTreeMap<EniId, CloudEni>)>,
    next: u32,
    pub(crate) lagging: bool,
}

impl Cloud {
    pub(crate) fn new(limits: Limits, subnet: u32, start: u32, groups: &[SgId]) -> Self {
        let base = u32::from(Ipv4Addr::new(10, 0, 0, 4));
        let mut cloud = Self {
            limits,
            enis: BTreeMap::new(),
            taken: BTreeSet::new(),
            tokens: BTreeMap::new(),
            free: (0..subnet).map(|i| Ipv4Addr::from(base + i)).collect(),
            history: VecDeque::new(),
            next: 0,
            lagging: false,
        };
        let id = cloud.create(start, groups, false).unwrap();
        cloud.plug(&id, 0);
        cloud
    }

    pub(crate) fn free_addresses(&self) -> usize {
        self.free.len()
    }

    pub(crate) fn attached(&self) -> impl Iterator<Item = &CloudEni> {
        self.enis
            .values()
            .filter(|eni| eni.view.attachment.is_some())
    }

    pub(crate) fn primary_groups(&self) -> Vec<SgId> {
        let primary = |eni: &&CloudEni| eni.view.attachment.as_ref().is_some_and(|a| a.device == 0);
        self.enis
            .values()
            .find(primary)
            .map(|eni| eni.view.groups.clone())
            .unwrap_or_default()
    }

    pub(crate) fn holder(&self, address: Ipv4Addr) -> Option<&CloudEni> {
        self.attached()
            .find(|eni| eni.view.secondary.contains(&address))
    }

    /// Keeps what was true, for answers that are old.
    pub(crate) fn remember(&mut self, now: Millis) {
        if self
            .history
            .back()
            .is_none_or(|(_, then)| *then != self.enis)
        {
            self.history.push_back((now.0, self.enis.clone()));
        }
        while self.history.len() > 1 && self.history[1].0 + LAG < now.0 {
            self.history.pop_front();
        }
    }

    fn past(&self, now: Millis, rng: &mut Rng) -> &BTreeMap<EniId, CloudEni> {
        if !self.lagging {
            return &self.enis;
        }
        let at = now.0.saturating_sub(rng.below(LAG));
        self.history
            .iter()
            .rev()
            .find(|(t, _)| *t <= at)
            .map_or(&self.enis, |(_, then)| then)
    }

    pub(crate) fn imds(&self, now: Millis, rng: &mut Rng) -> BTreeMap<EniId, ImdsEni> {
        let attached = |eni: &&CloudEni| eni.view.attachment.is_some();
        let past = self.past(now, rng).values().filter(attached);
        past.map(|e| {
            (
                e.view.id.clone(),
                ImdsEni {
                    groups: e.view.groups.clone(),
                },
            )
        })
        .collect()
    }

    /// Does a call, with a fault or without.
    pub(crate) fn answer(
        &mut self,
        call: &Call,
        fault: Option<Fault>,
        now: Millis,
        rng: &mut Rng,
    ) -> Result<Answer, Failure> {
        let fail = |kind| {
            Err(Failure {
                action: call.action(),
                kind,
                message: format!("{kind:?} by plan"),
            })
        };
        match fault {
            None => self.effect(call, now, rng).or_else(fail),
            Some(Fault::Throttled) => fail(FailureKind::Throttled),
            Some(Fault::Denied) => fail(FailureKind::Denied),
            Some(Fault::Rejected) => fail(FailureKind::Rejected),
            Some(Fault::AccountLimit) => fail(FailureKind::AccountEniLimit),
            Some(Fault::UnclearBefore) => fail(FailureKind::Unclear),
            Some(Fault::UnclearAfter) => {
                let _ = self.effect(call, now, rng);
                fail(FailureKind::Unclear)
            }
        }
    }

    fn effect(&mut self, call: &Call, now: Millis, rng: &mut Rng) -> Result<Answer, FailureKind> {
        match call {
            Call::CreateEni {
                token,
                groups,
                want,
                ..
            } => {
                let id = match self.tokens.get(token) {
                    Some(id) => id.clone(),
                    None => self.create(want.addresses(), groups, true)?,
                };
                self.tokens.insert(token.clone(), id.clone());
                let eni = self.enis.get(&id).ok_or(FailureKind::NotFound)?;
                Ok(Answer::Created(eni.view.clone()))
            }
            Call::AttachEni { eni, device } => {
                let attached = self.enis.get(eni).ok_or(FailureKind::NotFound)?;
                let taken = self.attached().any(|e| {
                    e.view
                        .attachment
                        .as_ref()
                        .is_some_and(|a| a.device == *device)
                });
                if attached.view.attachment.is_some() || taken {
                    return Err(FailureKind::Conflict);
                }
                if self.attached().count() >= self.limits.interfaces as usize {
                    return Err(FailureKind::InstanceEniLimit);
                }
                Ok(Answer::Attached(self.plug(eni, *device)))
            }
            Call::SetDeleteOnTermination { eni, attachment } => {
                let eni = self.enis.get_mut(eni).ok_or(FailureKind::NotFound)?;
                match &mut eni.view.attachment {
                    Some(a) if a.id == *attachment => a.delete_on_termination = true,
                    _ => return Err(FailureKind::NotFound),
                }
                Ok(Answer::Done)
            }
            Call::ShowSubnets => Err(FailureKind::Rejected),
            Call::Assign { eni, want } => {
                let count = &want.addresses();
                let most = self.limits.slots() as usize;
                let has = self
                    .enis
                    .get(eni)
                    .ok_or(FailureKind::NotFound)?
                    .view
                    .secondary
                    .len();
                if has + *count as usize > most {
                    return Err(FailureKind::AddressLimit);
                }
                let new = self.take(*count)?;
                self.taken.retain(|a| !new.contains(a));
                let eni = self.enis.get_mut(eni).ok_or(FailureKind::NotFound)?;
                eni.view.secondary.extend(new.iter().copied());
                Ok(Answer::Assigned(ipam::Blocks::Addresses(new)))
            }
            Call::Unassign { eni, blocks } => {
                let addresses = blocks.addresses();
                let eni = self.enis.get_mut(eni).ok_or(FailureKind::NotFound)?;
                if addresses.iter().any(|a| !eni.view.secondary.contains(a)) {
                    return Err(FailureKind::NotFound);
                }
                eni.view.secondary.retain(|a| !addresses.contains(a));
                self.free.extend(addresses);
                Ok(Answer::Done)
            }
            Call::DetachEni { eni, attachment } => {
                let eni = self.enis.get_mut(eni).ok_or(FailureKind::NotFound)?;
                match &eni.view.attachment {
                    Some(a) if a.id == *attachment => eni.view.attachment = None,
                    _ => return Err(FailureKind::NotFound),
                }
                Ok(Answer::Done)
            }
            Call::DeleteEni { eni } => {
                let gone = self.enis.get(eni).ok_or(FailureKind::NotFound)?;
                if gone.view.attachment.is_some() {
                    return Err(FailureKind::Conflict);
                }
                self.remove(&eni.clone());
                Ok(Answer::Done)
            }
            Call::SetGroups { eni, groups } => {
                let eni = self.enis.get_mut(eni).ok_or(FailureKind::NotFound)?;
                eni.view.groups.clone_from(groups);
                Ok(Answer::Done)
            }
            Call::Show { leftovers } => {
                let shown = self.past(now, rng).values().map(|eni| eni.view.clone());
                let ours = |eni: &EniView| eni.attachment.is_some() || (*leftovers && eni.ours);
                Ok(Answer::Shown(View {
                    enis: shown.filter(ours).collect(),
                }))
            }
            Call::SetUp { eni, .. } => {
                let eni = self.enis.get(eni).ok_or(FailureKind::NotFound)?;
                eni.view.attachment.as_ref().ok_or(FailureKind::NotFound)?;
                Ok(Answer::Done)
            }
        }
    }

    fn take(&mut self, count: u32) -> Result<Vec<Ipv4Addr>, FailureKind> {
        if self.free.len() < count as usize {
            return Err(FailureKind::SubnetFull);
        }
        let new: Vec<Ipv4Addr> = self.free.iter().take(count as usize).copied().collect();
        self.free.retain(|a| !new.contains(a));
        Ok(new)
    }

    fn create(&mut self, count: u32, groups: &[SgId], ours: bool) -> Result<EniId, FailureKind> {
        let mut addresses = self.take(count + 1)?;
        self.next += 1;
        let id: EniId = format!("eni-{}", self.next).parse().unwrap();
        let view = EniView {
            id: id.clone(),
            mac: Mac([2, 0, 0, 0, (self.next >> 8) as u8, self.next as u8]),
            subnet: "subnet-1".parse().unwrap(),
            primary: addresses.remove(0),
            secondary: addresses,
            prefixes: Vec::new(),
            groups: groups.to_vec(),
            attachment: None,
            ours,
            hands_off: None,
        };
        self.enis.insert(
            id.clone(),
            CloudEni {
                view,
                foreign: false,
            },
        );
        Ok(id)
    }

    fn plug(&mut self, id: &EniId, device: u32) -> AttachmentId {
        self.next += 1;
        let attachment = AttachmentId(format!("eni-attach-{}", self.next));
        if let Some(eni) = self.enis.get_mut(id) {
            eni.view.attachment = Some(ipam_attached(&attachment, device));
        }
        attachment
    }

    fn remove(&mut self, id: &EniId) {
        if let Some(eni) = self.enis.remove(id) {
            self.free.insert(eni.view.primary);
            self.free.extend(eni.view.secondary);
        }
    }

    // ------------------------------------------------ other people

    pub(crate) fn change_primary_groups(&mut self, groups: &[SgId]) {
        let primary = |e: &&mut CloudEni| e.view.attachment.as_ref().is_some_and(|a| a.device == 0);
        if let Some(eni) = self.enis.values_mut().find(primary) {
            eni.view.groups = groups.to_vec();
        }
    }

    pub(crate) fn change_some_groups(&mut self, groups: &[SgId], rng: &mut Rng) {
        let ids: Vec<EniId> = self.attached().map(|e| e.view.id.clone()).collect();
        if let Some(eni) = self.enis.get_mut(rng.pick(&ids)) {
            eni.view.groups = groups.to_vec();
        }
    }

    pub(crate) fn attach_foreign(&mut self, groups: &[SgId]) {
        let room = self.attached().count() < self.limits.interfaces as usize;
        let device = (1..).find(|d| {
            !self
                .attached()
                .any(|e| e.view.attachment.as_ref().is_some_and(|a| a.device == *d))
        });
        let (true, Some(device)) = (room, device) else {
            return;
        };
        if let Ok(id) = self.create(0, groups, false) {
            self.plug(&id, device);
            if let Some(eni) = self.enis.get_mut(&id) {
                eni.view.hands_off = Some(ipam::HandsOff::Tagged);
                eni.foreign = true;
            }
        }
    }

    pub(crate) fn remove_foreign(&mut self) {
        let foreign = self
            .enis
            .values()
            .find(|eni| eni.foreign)
            .map(|eni| eni.view.id.clone());
        if let Some(id) = foreign {
            self.remove(&id);
        }
    }

    /// Somebody deletes a secondary interface under its pods.
    pub(crate) fn rip_out(&mut self, rng: &mut Rng) {
        let secondary = |eni: &&CloudEni| {
            !eni.foreign && eni.view.attachment.as_ref().is_some_and(|a| a.device != 0)
        };
        let ids: Vec<EniId> = self
            .enis
            .values()
            .filter(secondary)
            .map(|eni| eni.view.id.clone())
            .collect();
        if ids.is_empty() {
            return;
        }
        let id = rng.pick(&ids).clone();
        if let Some(eni) = self.enis.get(&id) {
            self.taken.extend(eni.view.secondary.iter().copied());
        }
        self.remove(&id);
    }

    /// Somebody does what we are about to do.
    pub(crate) fn overtake(&mut self, call: &Call) {
        if let Some(eni) = call.eni().and_then(|eni| self.enis.get(eni)) {
            self.taken.extend(eni.view.secondary.iter().copied());
        }
        match call {
            Call::Unassign { eni, blocks } => {
                let addresses = blocks.addresses();
                let holds = |eni: &&mut CloudEni| eni.view.secondary.contains(&addresses[0]);
                if let Some(eni) = self.enis.get_mut(eni).filter(holds) {
                    eni.view.secondary.retain(|a| *a != addresses[0]);
                    self.free.insert(addresses[0]);
                }
            }
            Call::DetachEni { eni, .. } | Call::DeleteEni { eni } => self.remove(&eni.clone()),
            _ => {}
        }
    }

    /// Somebody takes an address away.
    pub(crate) fn snatch(&mut self, rng: &mut Rng) {
        let addresses: Vec<(EniId, Ipv4Addr)> = self
            .attached()
            .flat_map(|e| e.view.secondary.iter().map(|a| (e.view.id.clone(), *a)))
            .collect();
        if addresses.is_empty() {
            return;
        }
        let (id, address) = rng.pick(&addresses).clone();
        if let Some(eni) = self.enis.get_mut(&id) {
            eni.view.secondary.retain(|a| *a != address);
            self.free.insert(address);
            self.taken.insert(address);
        }
    }
}

fn ipam_attached(id: &AttachmentId, device: u32) -> ipam::Attached {
    ipam::Attached {
        id: id.clone(),
        device,
        delete_on_termination: device == 0,
    }
}
