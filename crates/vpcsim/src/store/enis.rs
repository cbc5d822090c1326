//! The life of an interface: addresses, attachment, end. Every path that gives or takes an address
//! goes through here, which keeps pools, interfaces and indexes in step.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use jiff::Timestamp;

use super::records::*;
use super::state::State;
use crate::addrs::Refusal;
use crate::error::{ApiError, ApiResult};
use crate::ids::*;
use ec2::limits;

/// The addresses that a request asks for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wanted {
    pub(crate) addresses: Vec<Ipv4Addr>,
    pub(crate) count: u32,
    pub(crate) prefixes: Vec<Ipv4Net>,
    pub(crate) prefix_count: u32,
}

/// The addresses that were given.
#[derive(Debug, Clone, Default)]
pub(crate) struct Given {
    pub(crate) addresses: Vec<Ipv4Addr>,
    pub(crate) prefixes: Vec<Ipv4Net>,
}

/// An interface to be made.
#[derive(Debug, Clone)]
pub(crate) struct NewEni {
    pub(crate) kind: EniKind,
    pub(crate) subnet: SubnetId,
    pub(crate) description: String,
    pub(crate) groups: Vec<GroupId>,
    pub(crate) primary: Option<Ipv4Addr>,
    pub(crate) wanted: Wanted,
    pub(crate) tracking: Tracking,
    pub(crate) requester: Option<String>,
}

fn refused(refusal: Refusal, what: impl std::fmt::Display) -> ApiError {
    match refusal {
        Refusal::NoAddress => ApiError::new(
            "InsufficientFreeAddressesInSubnet",
            "The specified subnet does not have enough free addresses to satisfy the request.",
        ),
        Refusal::NoPrefix => ApiError::new(
            "InsufficientCidrBlocks",
            "The specified subnet does not have enough free cidr blocks to satisfy the request.",
        ),
        Refusal::Reserved => ApiError::value(format_args!(
            "Address {what} is in subnet's reserved address range"
        )),
        Refusal::Outside => ApiError::value(format_args!(
            "Address {what} does not fall within the subnet's address range"
        )),
        Refusal::Taken => ApiError::new(
            "InvalidIPAddress.InUse",
            format_args!("Address {what} is in use."),
        ),
    }
}

impl State {
    fn subnet_mut(&mut self, id: SubnetId) -> &mut Subnet {
        self.subnets
            .get_mut(&id)
            .expect("an interface keeps its subnet from being deleted")
    }

    /// Takes addresses from a subnet's pool: all of them or, on an error, none.
    pub(crate) fn give(&mut self, subnet: SubnetId, wanted: &Wanted) -> ApiResult<Given> {
        let placement = self.config.placement;
        let mut rng = self.rng.clone();
        let Some(subnet) = self.subnets.get_mut(&subnet) else {
            return Err(SubnetId::not_found(subnet));
        };
        let mut pool = subnet.pool.clone();
        let mut given = Given::default();
        for address in &wanted.addresses {
            pool.take(*address).map_err(|r| refused(r, address))?;
            given.addresses.push(*address);
        }
        for prefix in &wanted.prefixes {
            pool.take_prefix(*prefix).map_err(|r| refused(r, prefix))?;
            given.prefixes.push(*prefix);
        }
        let free = pool
            .allocate(wanted.count, placement, &mut rng)
            .map_err(|r| refused(r, ""))?;
        given.addresses.extend(free);
        let blocks = pool.allocate_prefixes(wanted.prefix_count, placement, &mut rng);
        given.prefixes.extend(blocks.map_err(|r| refused(r, ""))?);
        subnet.pool = pool;
        self.rng = rng;
        Ok(given)
    }

    /// Checks the groups of an interface: they exist, are of its VPC, and are not too many.
    pub(crate) fn check_groups(&self, texts: &[String], vpc: VpcId) -> ApiResult<Vec<GroupId>> {
        let mut groups = Vec::with_capacity(texts.len());
        for text in texts {
            let (id, group) = self.groups.find(text)?;
            if group.vpc != vpc {
                return Err(ApiError::value(format_args!(
                    "You have specified two resources that belong to different networks: \
                     security group {id} and a resource of {vpc}."
                )));
            }
            if !groups.contains(&id) {
                groups.push(id);
            }
        }
        let limit = self.config.quotas.groups_per_interface;
        if groups.len() > limit {
            return Err(ApiError::new(
                "SecurityGroupsPerInterfaceLimitExceeded",
                format_args!("The maximum number of security groups per interface is {limit}."),
            ));
        }
        Ok(groups)
    }

    /// Makes an interface. `groups` are checked by the caller; the NAT gateway's has none.
    pub(crate) fn make_eni(&mut self, new: NewEni) -> ApiResult<EniId> {
        let limit = self.config.quotas.interfaces;
        if self.enis.len() >= limit {
            return Err(ApiError::new(
                "NetworkInterfaceLimitExceeded",
                format_args!("The maximum number of network interfaces has been reached: {limit}."),
            ));
        }
        let vpc = match self.subnets.get(&new.subnet) {
            Some(subnet) => subnet.vpc,
            None => return Err(SubnetId::not_found(new.subnet)),
        };
        let mut wanted = new.wanted.clone();
        // The primary address is the first of those given.
        match new.primary {
            Some(primary) => wanted.addresses.insert(0, primary),
            None if wanted.addresses.is_empty() => wanted.count += 1,
            None => {}
        }
        let named = wanted.addresses.len();
        let needs_primary = new.primary.is_none() && named > 0;
        if needs_primary {
            wanted.count += 1;
        }
        // A create is told otherwise than an assignment that no /28 is free in one piece.
        let mut given = self.give(new.subnet, &wanted).map_err(|error| {
            if error.code == "InsufficientCidrBlocks" {
                return ApiError::value("There aren't sufficient free Ipv4 addresses or prefixes");
            }
            error
        })?;
        if needs_primary {
            let primary = given.addresses.remove(named);
            given.addresses.insert(0, primary);
        }
        let id: EniId = self.fresh();
        let random = self.rng.next_u64().to_be_bytes();
        let mac = Mac([0x02, random[1], random[2], random[3], random[4], random[5]]);
        let primary = given.addresses.remove(0);
        self.enis.insert(
            id,
            Eni {
                kind: new.kind,
                vpc,
                subnet: new.subnet,
                mac,
                description: new.description,
                groups: new.groups,
                primary,
                secondary: given.addresses.clone(),
                prefixes: given.prefixes.clone(),
                auto_public: None,
                source_dest_check: new.kind != EniKind::NatGateway,
                tracking: new.tracking,
                attachment: None,
                requester: new.requester,
            },
        );
        given.addresses.push(primary);
        self.index(id, vpc, &given);
        Ok(id)
    }

    /// Records that `eni` has the addresses in `given`.
    pub(crate) fn index(&mut self, eni: EniId, vpc: VpcId, given: &Given) {
        self.by_address
            .extend(given.addresses.iter().map(|a| ((vpc, *a), eni)));
        self.by_prefix
            .extend(given.prefixes.iter().map(|p| ((vpc, p.network()), eni)));
    }

    /// Takes addresses and prefixes back from an interface and forgets public addresses on them.
    pub(crate) fn take_back(&mut self, id: EniId, addresses: &[Ipv4Addr], prefixes: &[Ipv4Net]) {
        let Some(eni) = self.enis.get_mut(&id) else {
            return;
        };
        let (vpc, subnet) = (eni.vpc, eni.subnet);
        let gone: BTreeSet<Ipv4Addr> = addresses.iter().copied().collect();
        eni.secondary.retain(|a| !gone.contains(a));
        eni.prefixes.retain(|p| !prefixes.contains(p));
        for address in addresses {
            self.by_address.remove(&(vpc, *address));
            self.subnet_mut(subnet).pool.release(*address);
        }
        for prefix in prefixes {
            self.by_prefix.remove(&(vpc, prefix.network()));
            self.subnet_mut(subnet).pool.release_prefix(*prefix);
        }
        for address in self.addresses.values_mut() {
            let on_gone = |a: &AddressAssociation| a.eni == id && gone.contains(&a.private_ip);
            if address.association.as_ref().is_some_and(on_gone) {
                address.association = None;
            }
        }
    }

    /// Removes an interface and everything that hangs on it.
    pub(crate) fn remove_eni(&mut self, id: EniId) {
        let Some(eni) = self.enis.get(&id) else {
            return;
        };
        let addresses: Vec<Ipv4Addr> = eni.addresses().collect();
        let prefixes = eni.prefixes.clone();
        let attachment = eni.attachment.as_ref().map(|a| a.id);
        if let Some(public) = eni.auto_public {
            self.public_in_use.remove(&public);
        }
        self.take_back(id, &addresses, &prefixes);
        if let Some(attachment) = attachment {
            self.by_attachment.remove(&attachment);
        }
        self.enis.remove(&id);
        self.permissions.retain(|_, p| p.eni != id);
        self.drop_tags(id);
    }

    /// Whether `eni` may be attached to `instance` at `device` on `card`.
    pub(crate) fn check_attach(
        &self,
        id: EniId,
        eni: &Eni,
        instance_id: InstanceId,
        device: u32,
        card: u32,
    ) -> ApiResult<()> {
        let instance = &self.instances[&instance_id];
        if eni.held().is_some() || self.by_branch.contains_key(&id) {
            return Err(ApiError::new(
                "InvalidNetworkInterface.InUse",
                format_args!("Interface: [{id}] in use."),
            ));
        }
        let subnet = &self.subnets[&eni.subnet];
        if instance.vpc != eni.vpc || instance.zone != subnet.zone {
            return Err(ApiError::combination(format_args!(
                "You may not attach a network interface to an instance if they are not in the same \
                 availability zone: {id} is in {}, {instance_id} in {}",
                self.zone_name(subnet.zone),
                self.zone_name(instance.zone),
            )));
        }
        if instance.enis.contains_key(&(card, device)) {
            return Err(ApiError::value(format_args!(
                "Instance '{instance_id}' already has an interface attached at device index '{device}'."
            )));
        }
        self.check_type(id, eni, instance, card)
    }

    fn check_type(&self, id: EniId, eni: &Eni, instance: &Instance, card: u32) -> ApiResult<()> {
        let kind = &instance.instance_type;
        let Some(limits) = limits::of(kind) else {
            return Ok(());
        };
        let count = instance.enis.len() as u32 + 1;
        let on_card = instance
            .enis
            .values()
            .filter(|e| self.card_of(**e) == card)
            .count() as u32;
        let card_limit = limits.card(card).ok_or_else(|| {
            ApiError::value(format_args!(
                "Network card index {card} does not exist on {kind}"
            ))
        })?;
        if count > limits.interfaces || on_card + 1 > card_limit {
            return Err(ApiError::new(
                "AttachmentLimitExceeded",
                format_args!("Interface count {count} exceeds the limit for {kind}"),
            ));
        }
        if eni.slots() > limits.ipv4_per_interface {
            let slots = eni.slots();
            return Err(ApiError::new(
                "InvalidInterface.IpAddressLimitExceeded",
                format_args!(
                    "Address count {slots} on interface-{id} exceeds the limit for {kind}"
                ),
            ));
        }
        if eni.kind == EniKind::Trunk {
            let has = instance
                .enis
                .values()
                .any(|e| self.enis[e].kind == EniKind::Trunk);
            if !limits.trunking || has {
                return Err(ApiError::value(format_args!(
                    "Interface {id} cannot be attached: {kind} {}",
                    if has {
                        "has a trunk interface already"
                    } else {
                        "does not support trunking"
                    },
                )));
            }
        }
        Ok(())
    }

    fn card_of(&self, eni: EniId) -> u32 {
        match self.enis.get(&eni).and_then(Eni::held).map(|a| &a.holder) {
            Some(Holder::Instance { card, .. }) => *card,
            _ => 0,
        }
    }

    /// Attaches an interface; the caller has checked that it may.
    pub(crate) fn attach(
        &mut self,
        id: EniId,
        holder: Holder,
        delete_on_termination: bool,
        now: Timestamp,
        delay: u64,
    ) -> AttachmentId {
        let attachment: AttachmentId = self.fresh();
        if let Holder::Instance {
            instance,
            device,
            card,
        } = holder
            && let Some(instance) = self.instances.get_mut(&instance)
        {
            instance.enis.insert((card, device), id);
        }
        if let Some(eni) = self.enis.get_mut(&id) {
            if let Some(shown) = eni.attachment.take() {
                self.by_attachment.remove(&shown.id);
            }
            eni.attachment = Some(Attachment {
                id: attachment,
                holder,
                status: AttachStatus::Attaching,
                since: now,
                delete_on_termination,
            });
        }
        self.by_attachment.insert(attachment, id);
        self.schedule(now, delay, Change::Attached(attachment));
        attachment
    }

    /// Starts to detach.
    pub(crate) fn detach(&mut self, attachment: AttachmentId, now: Timestamp, delay: u64) {
        self.set_attachment(attachment, AttachStatus::Detaching, now);
        self.schedule(now, delay, Change::Detached(attachment));
    }

    pub(super) fn set_attachment(
        &mut self,
        id: AttachmentId,
        status: AttachStatus,
        _at: Timestamp,
    ) -> bool {
        let Some(eni) = self
            .by_attachment
            .get(&id)
            .and_then(|eni| self.enis.get_mut(eni))
        else {
            return false;
        };
        match &mut eni.attachment {
            // A detach that came meanwhile wins over the end of attaching.
            Some(a) if a.id == id && a.status != AttachStatus::Detaching => {
                a.status = status;
                true
            }
            _ => false,
        }
    }

    pub(super) fn finish_detach(&mut self, id: AttachmentId, at: Timestamp) -> bool {
        let Some(eni_id) = self.by_attachment.get(&id).copied() else {
            return false;
        };
        let Some(eni) = self.enis.get_mut(&eni_id) else {
            return false;
        };
        let Some(attachment) = eni.attachment.as_mut().filter(|a| a.id == id) else {
            return false;
        };
        attachment.status = AttachStatus::Detached;
        if let Holder::Instance {
            instance,
            device,
            card,
        } = attachment.holder
            && let Some(instance) = self.instances.get_mut(&instance)
        {
            instance.enis.remove(&(card, device));
        }
        self.schedule(
            at,
            self.config.timing.detached_shown,
            Change::AttachmentGone(id),
        );
        true
    }

    pub(super) fn forget_attachment(&mut self, id: AttachmentId) -> bool {
        let Some(eni) = self.by_attachment.remove(&id) else {
            return false;
        };
        match self.enis.get_mut(&eni) {
            Some(eni) if eni.attachment.as_ref().is_some_and(|a| a.id == id) => {
                eni.attachment = None;
                true
            }
            _ => false,
        }
    }

    /// The end of an instance: interfaces go or are set free.
    pub(super) fn finish_termination(&mut self, id: InstanceId, at: Timestamp) -> bool {
        let Some(instance) = self.instances.get_mut(&id) else {
            return false;
        };
        instance.state = InstanceState::Terminated;
        let enis: Vec<EniId> = std::mem::take(&mut instance.enis).into_values().collect();
        for eni_id in enis {
            let attachment = self
                .enis
                .get(&eni_id)
                .and_then(|eni| eni.attachment.clone());
            if attachment.as_ref().is_none_or(|a| a.delete_on_termination) {
                self.drop_trunk(eni_id);
                self.remove_eni(eni_id);
            } else if let Some(attachment) = attachment {
                self.finish_detach(attachment.id, at);
            }
        }
        self.schedule(at, self.config.timing.gone_shown, Change::InstanceGone(id));
        true
    }

    /// Ends the associations of a trunk interface that goes away.
    pub(crate) fn drop_trunk(&mut self, trunk: EniId) {
        for association in self
            .by_trunk
            .remove(&trunk)
            .unwrap_or_default()
            .into_values()
        {
            if let Some(gone) = self.trunk_associations.remove(&association) {
                self.by_branch.remove(&gone.branch);
                self.drop_tags(association);
            }
        }
    }
}
