//! Other people and programs with rights on the account: what they do to a node, through the same EC2.

use std::net::Ipv4Addr;

use ec2::types as t;
use ipam::{Blocks, Call};
use vpc::facts::{EniId, SgId};

use crate::rng::Rng;
use crate::sky::{Fact, Sky};

impl Sky {
    fn attached(&mut self, now: u64) -> Vec<Fact> {
        let truth = self.truth(now).values();
        truth
            .filter(|f| f.view.attachment.is_some())
            .cloned()
            .collect()
    }

    /// Interfaces that are the pool's to use, the primary one aside.
    fn secondaries(&mut self, now: u64) -> Vec<Fact> {
        let foreign = self.foreign.clone();
        let mut all = self.attached(now);
        all.retain(|f| f.device() != Some(0) && !foreign.contains(&f.view.id));
        all
    }

    fn create(&mut self, subnet: &str, count: u32, hands_off: bool, now: u64) -> Option<EniId> {
        let tags = match hands_off {
            false => Vec::new(),
            true => vec![t::TagSpecification {
                resource_type: Some("network-interface".into()),
                tags: vec![t::Tag {
                    key: Some("node.k8s.amazonaws.com/no_manage".into()),
                    value: Some("true".into()),
                }],
            }],
        };
        let request = t::CreateNetworkInterfaceRequest {
            subnet_id: Some(subnet.to_owned()),
            secondary_private_ip_address_count: (count > 0).then_some(count as i32),
            groups: vec![self.groups[0][0].to_string()],
            tag_specifications: tags,
            ..Default::default()
        };
        let created = self.owner(&request, now)?.network_interface?;
        let id: EniId = created.network_interface_id?.parse().ok()?;
        self.foreign.insert(id.clone());
        Some(id)
    }

    /// An interface of somebody's own on our instance, on card 0 or on another one.
    pub(crate) fn attach_foreign(&mut self, card: i32, now: u64) {
        let devices: Vec<u32> = self.attached(now).iter().filter_map(Fact::device).collect();
        let Some(device) = (1..100).find(|d| !devices.contains(d)) else {
            return;
        };
        let subnet = self.subnets[0].clone();
        let Some(eni) = self.create(&subnet, 0, true, now) else {
            return;
        };
        let attach = t::AttachNetworkInterfaceRequest {
            device_index: Some(device as i32),
            instance_id: Some(self.translator.instance.to_string()),
            network_card_index: Some(card),
            network_interface_id: Some(eni.to_string()),
            ..Default::default()
        };
        if self.owner(&attach, now).is_none() {
            self.delete(&eni, now);
            self.foreign.remove(&eni);
        }
    }

    pub(crate) fn remove_foreign(&mut self, rng: &mut Rng, now: u64) {
        let foreign: Vec<EniId> = self.foreign.iter().cloned().collect();
        if foreign.is_empty() {
            return;
        }
        let eni = rng.pick(&foreign).clone();
        self.remove(&eni, now);
    }

    /// Somebody fills a subnet, with single addresses here and there.
    pub(crate) fn crowd(&mut self, rng: &mut Rng, now: u64) {
        let subnet = rng.pick(&self.subnets).clone();
        for _ in 0..=rng.below(3) {
            let count = rng.below(25) as u32;
            self.create(&subnet, count, false, now);
        }
    }

    /// Somebody deletes or detaches a secondary interface under its pods.
    pub(crate) fn rip_out(&mut self, rng: &mut Rng, now: u64) {
        let all = self.secondaries(now);
        if all.is_empty() {
            return;
        }
        let fact = rng.pick(&all).clone();
        self.taken.extend(fact.addresses());
        self.remove(&fact.view.id, now);
    }

    /// Somebody takes an address or a prefix away.
    pub(crate) fn snatch(&mut self, rng: &mut Rng, now: u64) {
        let holds = |f: &Fact| f.addresses().next().is_some();
        let mut all = self.attached(now);
        all.retain(holds);
        if all.is_empty() {
            return;
        }
        let fact = rng.pick(&all).clone();
        let mut request = t::UnassignPrivateIpAddressesRequest {
            network_interface_id: Some(fact.view.id.to_string()),
            ..Default::default()
        };
        let prefix = !fact.view.prefixes.is_empty() && rng.chance(50);
        if prefix || fact.view.secondary.is_empty() {
            let prefix = *rng.pick(&fact.view.prefixes);
            request.ipv4_prefixes = vec![prefix.to_string()];
            self.taken.extend(ipam::addresses_of(prefix));
        } else {
            let address = *rng.pick(&fact.view.secondary);
            request.private_ip_addresses = vec![address.to_string()];
            self.taken.insert(address);
        }
        self.owner(&request, now);
    }

    /// Somebody moves an address from one interface to another.
    pub(crate) fn shift(&mut self, rng: &mut Rng, now: u64) {
        let all = self.attached(now);
        let from: Vec<&Fact> = all
            .iter()
            .filter(|f| !f.view.secondary.is_empty())
            .collect();
        if from.is_empty() {
            return;
        }
        let from = *rng.pick(&from);
        let to: Vec<&Fact> = all
            .iter()
            .filter(|f| f.view.subnet == from.view.subnet && f.view.id != from.view.id)
            .collect();
        if to.is_empty() {
            return;
        }
        let (to, address) = (*rng.pick(&to), *rng.pick(&from.view.secondary));
        let request = t::AssignPrivateIpAddressesRequest {
            network_interface_id: Some(to.view.id.to_string()),
            private_ip_addresses: vec![address.to_string()],
            allow_reassignment: Some(true),
            ..Default::default()
        };
        self.taken.insert(address);
        self.owner(&request, now);
    }

    pub(crate) fn change_groups(&mut self, primary: bool, rng: &mut Rng, now: u64) {
        let eni = match primary {
            true => self.primary(now).view.id,
            false => rng.pick(&self.attached(now)).view.id.clone(),
        };
        let groups = rng.pick(&self.groups).clone();
        self.set_groups(&eni, &groups, now);
    }

    fn set_groups(&mut self, eni: &EniId, groups: &[SgId], now: u64) {
        let request = t::ModifyNetworkInterfaceAttributeRequest {
            network_interface_id: Some(eni.to_string()),
            groups: groups.iter().map(ToString::to_string).collect(),
            ..Default::default()
        };
        self.owner(&request, now);
    }

    /// Somebody does what the pool is about to do.
    pub(crate) fn overtake(&mut self, call: &Call, now: u64) {
        let Some(eni) = call.eni().cloned() else {
            return;
        };
        if let Some(fact) = self.truth(now).get(&eni).cloned() {
            self.taken.extend(fact.addresses());
        }
        match call {
            Call::Unassign { blocks, .. } => {
                let mut request = t::UnassignPrivateIpAddressesRequest {
                    network_interface_id: Some(eni.to_string()),
                    ..Default::default()
                };
                match blocks {
                    Blocks::Addresses(all) => {
                        request.private_ip_addresses = vec![all[0].to_string()];
                    }
                    Blocks::Prefixes(all) => request.ipv4_prefixes = vec![all[0].to_string()],
                }
                self.owner(&request, now);
            }
            Call::AttachEni { .. }
            | Call::DetachEni { .. }
            | Call::DeleteEni { .. }
            | Call::SetGroups { .. }
            | Call::SetDeleteOnTermination { .. } => self.remove(&eni, now),
            _ => {}
        }
    }

    fn remove(&mut self, eni: &EniId, now: u64) {
        let attachment = self.truth(now).get(eni).and_then(|f| {
            let attachment = f.view.attachment.as_ref()?;
            Some(attachment.id.0.clone())
        });
        if let Some(attachment) = attachment {
            let detach = t::DetachNetworkInterfaceRequest {
                attachment_id: Some(attachment),
                ..Default::default()
            };
            self.owner(&detach, now);
        }
        // While it is being detached EC2 refuses this: then it is left over, as it would be.
        self.delete(eni, now);
        if !self.truth(now).contains_key(eni) {
            self.foreign.remove(eni);
        }
    }

    fn delete(&mut self, eni: &EniId, now: u64) {
        let delete = t::DeleteNetworkInterfaceRequest {
            network_interface_id: Some(eni.to_string()),
            ..Default::default()
        };
        self.owner(&delete, now);
    }

    /// The interface that holds an address here, if any.
    pub(crate) fn holder(&mut self, address: Ipv4Addr, now: u64) -> Option<Fact> {
        let mut truth = self.truth(now).values();
        truth
            .find(|f| f.view.attachment.is_some() && f.addresses().any(|a| a == address))
            .cloned()
    }
}
