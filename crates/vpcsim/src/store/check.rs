//! The invariants of [`State`], as one function: what a test asserts after every step.

use std::collections::{BTreeMap, BTreeSet};

use super::records::{AttachStatus, EniKind, Holder, InstanceState, PRIMARY, Peer};
use super::state::State;
use ec2::limits;

impl State {
    /// Every invariant that does not hold, in words. Empty when the state is sound.
    pub fn violations(&self) -> Vec<String> {
        let mut found = Vec::new();
        self.check_addresses(&mut found);
        self.check_attachments(&mut found);
        self.check_references(&mut found);
        self.check_trunks(&mut found);
        self.check_clusters(&mut found);
        found
    }

    fn check_addresses(&self, found: &mut Vec<String>) {
        let (mut addresses, mut prefixes) = (BTreeMap::new(), BTreeMap::new());
        let mut used: BTreeMap<_, u32> = BTreeMap::new();
        for (id, eni) in self.enis.iter() {
            for address in eni.addresses() {
                if let Some(other) = addresses.insert((eni.vpc, address), *id) {
                    found.push(format!("{address} belongs to {other} and {id}"));
                }
            }
            for prefix in &eni.prefixes {
                if let Some(other) = prefixes.insert((eni.vpc, prefix.network()), *id) {
                    found.push(format!("{prefix} belongs to {other} and {id}"));
                }
            }
            *used.entry(eni.subnet).or_default() +=
                eni.addresses().count() as u32 + 16 * eni.prefixes.len() as u32;
            let Some(subnet) = self.subnets.get(&eni.subnet) else {
                found.push(format!("{id} is in {}, which is gone", eni.subnet));
                continue;
            };
            if eni.addresses().any(|a| !subnet.pool.cidr().contains(&a)) {
                found.push(format!("{id} has an address outside of its subnet"));
            }
        }
        for ((vpc, address), id) in &addresses {
            let block = std::net::Ipv4Addr::from(address.to_bits() & !15);
            if let Some(other) = prefixes.get(&(*vpc, block)) {
                found.push(format!("{address} of {id} is in a prefix of {other}"));
            }
        }
        if addresses != self.by_address || prefixes != self.by_prefix {
            found.push("the address indexes differ from the interfaces".into());
        }
        for (id, subnet) in self.subnets.iter() {
            let size = 1u32 << (32 - u32::from(subnet.pool.cidr().prefix_len()));
            let expected = size - crate::addrs::RESERVED - used.get(id).copied().unwrap_or(0);
            if subnet.pool.free() != expected {
                let free = subnet.pool.free();
                found.push(format!("{id} counts {free} free addresses, {expected} are"));
            }
        }
    }

    fn check_attachments(&self, found: &mut Vec<String>) {
        let mut indexed = BTreeMap::new();
        for (id, eni) in self.enis.iter() {
            let Some(attachment) = &eni.attachment else {
                continue;
            };
            indexed.insert(attachment.id, *id);
            let Holder::Instance {
                instance,
                device,
                card,
            } = attachment.holder
            else {
                continue;
            };
            let holds = self
                .instances
                .get(&instance)
                .and_then(|i| i.enis.get(&(card, device)));
            let held = attachment.status != AttachStatus::Detached;
            if held && holds != Some(id) {
                found.push(format!(
                    "{id} is attached to {instance}, which does not know it"
                ));
            }
        }
        if indexed != self.by_attachment {
            found.push("the attachment index differs from the interfaces".into());
        }
        for (id, instance) in self.instances.iter() {
            let distinct: BTreeSet<_> = instance.enis.values().collect();
            if distinct.len() != instance.enis.len() {
                found.push(format!("{id} has an interface at two device indexes"));
            }
            for ((card, device), eni) in &instance.enis {
                let holder = self.enis.get(eni).and_then(|e| e.instance());
                if holder != Some((*id, *device)) {
                    found.push(format!(
                        "{id} has {eni} at {device} of card {card}, which does not know it"
                    ));
                }
            }
            if !instance.state.ends() && !instance.enis.contains_key(&PRIMARY) {
                found.push(format!("{id} has no primary interface"));
            }
            if instance.state == InstanceState::Terminated && !instance.enis.is_empty() {
                found.push(format!("{id} is terminated and has interfaces"));
            }
            let Some(limits) = limits::of(&instance.instance_type) else {
                continue;
            };
            let slots = instance
                .enis
                .values()
                .filter_map(|e| self.enis.get(e))
                .map(|e| e.slots());
            if instance.enis.len() as u32 > limits.interfaces
                || slots.max().unwrap_or(0) > limits.ipv4_per_interface
            {
                found.push(format!("{id} is beyond the limits of its type"));
            }
        }
    }

    fn check_references(&self, found: &mut Vec<String>) {
        for (id, eni) in self.enis.iter() {
            let lost = eni.groups.iter().find(|g| !self.groups.contains_key(*g));
            if let Some(group) = lost {
                found.push(format!("{id} has the group {group}, which is gone"));
            }
            let quota = self.config.quotas.groups_per_interface;
            let bare = eni.groups.is_empty() && eni.kind != EniKind::NatGateway;
            if eni.groups.len() > quota || bare {
                found.push(format!("{id} has {} groups", eni.groups.len()));
            }
        }
        for (id, subnet) in self.subnets.iter() {
            let table = subnet
                .route_table
                .is_none_or(|(_, t)| self.route_tables.contains_key(&t));
            if !table || !self.acls.contains_key(&subnet.acl.1) {
                found.push(format!("{id} has a route table or ACL that is gone"));
            }
            if !self.vpcs.contains_key(&subnet.vpc) {
                found.push(format!("{id} is in a VPC that is gone"));
            }
        }
        for (id, group) in self.groups.iter() {
            for rule in group.rules.values() {
                let lost = match rule.peer {
                    // A reference over a peering may turn stale; EC2 keeps it.
                    Peer::Group {
                        id, peering: None, ..
                    } => !self.groups.contains_key(&id),
                    Peer::List(list) => !self.prefix_lists.contains_key(&list),
                    _ => false,
                };
                if lost {
                    found.push(format!("a rule of {id} names what is gone"));
                }
            }
        }
        for (id, address) in self.addresses.iter() {
            let Some(association) = address.association else {
                continue;
            };
            let eni = self.enis.get(&association.eni);
            if !eni.is_some_and(|e| e.addresses().any(|a| a == association.private_ip)) {
                found.push(format!("{id} is associated with an address that is gone"));
            }
        }
    }

    fn check_clusters(&self, found: &mut Vec<String>) {
        for (name, cluster) in &self.eks.clusters {
            let held = |id| match self.enis.get(id)?.held()?.holder {
                Holder::Managed { device, .. } => Some(device),
                Holder::Instance { .. } => None,
            };
            let devices: Vec<Option<u32>> = cluster.enis.iter().map(held).collect();
            if devices != [Some(0), Some(1)] {
                found.push(format!(
                    "the cluster {name} does not hold its two interfaces"
                ));
            }
        }
    }

    fn check_trunks(&self, found: &mut Vec<String>) {
        let (mut branches, mut trunks): (BTreeMap<_, _>, BTreeMap<_, BTreeMap<_, _>>) =
            Default::default();
        for (id, association) in self.trunk_associations.iter() {
            branches.insert(association.branch, *id);
            trunks
                .entry(association.trunk)
                .or_default()
                .insert(association.vlan, *id);
            if !self.enis.contains_key(&association.branch)
                || !self.enis.contains_key(&association.trunk)
            {
                found.push(format!("{id} joins an interface that is gone"));
            }
        }
        if branches != self.by_branch || trunks != self.by_trunk {
            found.push("the trunk indexes differ from the associations".into());
        }
    }
}
