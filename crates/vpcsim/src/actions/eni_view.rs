//! Network interfaces as answers show them, and the filters on them.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ec2::types::*;

use super::{Field, one, opt, s, tag, yes};
use crate::ids::*;
use crate::store::{self, AttachStatus, EniKind, Holder, State};

pub(super) const FIELDS: &[Field<EniId, store::Eni>] = &[
    ("network-interface-id", |_, id, _| one(id)),
    ("subnet-id", |_, _, e| one(e.subnet)),
    ("vpc-id", |_, _, e| one(e.vpc)),
    ("availability-zone", |s, _, e| {
        one(s.zone_name(s.subnets[&e.subnet].zone))
    }),
    ("description", |_, _, e| one(&e.description)),
    ("group-id", |_, _, e| {
        e.groups.iter().map(ToString::to_string).collect()
    }),
    ("group-name", |s, _, e| {
        e.groups.iter().map(|g| s.groups[g].name.clone()).collect()
    }),
    ("interface-type", |s, id, e| one(kind(s, id, e))),
    ("mac-address", |_, _, e| one(e.mac)),
    ("owner-id", |s, _, _| one(&s.config.account)),
    ("private-dns-name", |s, _, e| one(s.private_dns(e.primary))),
    ("private-ip-address", |_, _, e| one(e.primary)),
    ("addresses.private-ip-address", |_, _, e| {
        e.addresses().map(|a| a.to_string()).collect()
    }),
    ("addresses.primary", |_, _, e| {
        let more = (!e.secondary.is_empty()).then_some("false");
        ["true"]
            .into_iter()
            .chain(more)
            .map(str::to_owned)
            .collect()
    }),
    ("addresses.association.public-ip", |s, id, e| {
        publics(s, id, e)
    }),
    ("association.public-ip", |s, id, e| publics(s, id, e)),
    ("association.allocation-id", |s, id, _| {
        let own = s
            .addresses
            .iter()
            .filter(|(_, a)| a.association.is_some_and(|x| x.eni == id));
        own.map(|(k, _)| k.to_string()).collect()
    }),
    ("association.association-id", |s, id, _| {
        let own = s
            .addresses
            .values()
            .filter_map(|a| a.association.filter(|x| x.eni == id));
        own.map(|x| x.id.to_string()).collect()
    }),
    ("ipv4-prefix.ipv4-prefix", |_, _, e| {
        e.prefixes.iter().map(ToString::to_string).collect()
    }),
    ("requester-id", |_, _, e| opt(e.requester.as_ref())),
    ("requester-managed", |_, _, e| yes(e.requester.is_some())),
    ("source-dest-check", |_, _, e| yes(e.source_dest_check)),
    ("status", |s, id, e| one(status(s, id, e))),
    ("attachment.attachment-id", |_, _, e| {
        opt(e.attachment.as_ref().map(|a| a.id))
    }),
    ("attachment.status", |_, _, e| {
        opt(e.attachment.as_ref().map(|a| a.status.name()))
    }),
    ("attachment.attach-time", |_, _, e| {
        opt(e.attachment.as_ref().map(|a| format!("{:.3}", a.since)))
    }),
    ("attachment.delete-on-termination", |_, _, e| {
        opt(e.attachment.as_ref().map(|a| a.delete_on_termination))
    }),
    ("attachment.device-index", |_, _, e| {
        opt(device(e).map(|(_, device, _)| device))
    }),
    ("attachment.network-card-index", |_, _, e| {
        opt(device(e).map(|(_, _, card)| card))
    }),
    ("attachment.instance-id", |_, _, e| {
        opt(device(e).map(|(instance, ..)| instance))
    }),
    ("attachment.instance-owner-id", |s, _, e| {
        opt(e.attachment.as_ref().map(|a| owner(s, a)))
    }),
];

fn publics(state: &State, id: EniId, eni: &store::Eni) -> Vec<String> {
    let own = state
        .addresses
        .values()
        .filter(|a| a.association.is_some_and(|x| x.eni == id));
    own.map(|a| a.public_ip)
        .chain(eni.auto_public)
        .map(|ip| ip.to_string())
        .collect()
}

fn device(eni: &store::Eni) -> Option<(InstanceId, u32, u32)> {
    match eni.attachment.as_ref()?.holder {
        Holder::Instance {
            instance,
            device,
            card,
        } => Some((instance, device, card)),
        Holder::Managed { .. } => None,
    }
}

fn owner(state: &State, attachment: &store::Attachment) -> String {
    match &attachment.holder {
        Holder::Instance { .. } => state.config.account.clone(),
        Holder::Managed { owner, .. } => owner.clone(),
    }
}

/// EC2's name for the kind; an interface is a branch from its association with a trunk on.
pub(super) fn kind(state: &State, id: EniId, eni: &store::Eni) -> &'static str {
    match eni.kind {
        EniKind::Interface if state.by_branch.contains_key(&id) => "branch",
        EniKind::Interface => "interface",
        EniKind::Trunk => "trunk",
        EniKind::Efa => "efa",
        EniKind::EfaOnly => "efa-only",
        EniKind::NatGateway => "nat_gateway",
    }
}

fn status(state: &State, id: EniId, eni: &store::Eni) -> &'static str {
    match eni.attachment.as_ref().map(|a| a.status) {
        Some(AttachStatus::Attaching) => "attaching",
        Some(AttachStatus::Attached) => "in-use",
        Some(AttachStatus::Detaching) => "detaching",
        Some(AttachStatus::Detached) | None if state.by_branch.contains_key(&id) => "associated",
        Some(AttachStatus::Detached) | None => "available",
    }
}

pub(super) fn groups(state: &State, ids: &[GroupId]) -> Vec<GroupIdentifier> {
    let identifier = |id: &GroupId| GroupIdentifier {
        group_id: s(id),
        group_name: state.groups.get(id).map(|g| g.name.clone()),
    };
    ids.iter().map(identifier).collect()
}

pub(super) fn attachment(
    state: &State,
    attachment: &store::Attachment,
) -> NetworkInterfaceAttachment {
    let mut view = NetworkInterfaceAttachment {
        attachment_id: s(attachment.id),
        attach_time: Some(attachment.since),
        delete_on_termination: Some(attachment.delete_on_termination),
        status: s(attachment.status.name()),
        instance_owner_id: s(owner(state, attachment)),
        ..Default::default()
    };
    match &attachment.holder {
        Holder::Instance {
            instance,
            device,
            card,
        } => {
            view.instance_id = s(instance);
            view.device_index = Some(*device as i32);
            view.network_card_index = Some(*card as i32);
        }
        Holder::Managed { .. } => {
            view.attachment_id = s(format!("ela-attach-{}", &attachment.id.to_string()[11..]));
            view.device_index = Some(1);
            view.network_card_index = Some(0);
        }
    }
    view
}

/// Elastic addresses by what they are associated with.
pub(super) type Associations<'s> =
    BTreeMap<(EniId, Ipv4Addr), (AllocationId, AddressAssociationId, Ipv4Addr)>;

pub(super) fn associations(state: &State) -> Associations<'_> {
    let own = |(id, a): (&AllocationId, &store::Address)| {
        a.association
            .map(|x| ((x.eni, x.private_ip), (*id, x.id, a.public_ip)))
    };
    state.addresses.iter().filter_map(own).collect()
}

pub(super) fn interface(state: &State, id: EniId) -> NetworkInterface {
    interface_with(state, id, &associations(state))
}

pub(super) fn interface_with(
    state: &State,
    id: EniId,
    elastic: &Associations<'_>,
) -> NetworkInterface {
    let eni = &state.enis[&id];
    let zone = state.subnets[&eni.subnet].zone;
    let association = |ip: Ipv4Addr| match elastic.get(&(id, ip)) {
        Some((allocation, association, public)) => Some(NetworkInterfaceAssociation {
            allocation_id: s(allocation),
            association_id: s(association),
            ip_owner_id: s(&state.config.account),
            public_dns_name: s(state.public_dns(*public)),
            public_ip: s(public),
            ..Default::default()
        }),
        None => eni.auto_public.filter(|_| ip == eni.primary).map(|public| {
            NetworkInterfaceAssociation {
                ip_owner_id: s("amazon"),
                public_dns_name: s(state.public_dns(public)),
                public_ip: s(public),
                ..Default::default()
            }
        }),
    };
    let address = |ip: Ipv4Addr| NetworkInterfacePrivateIpAddress {
        association: association(ip),
        primary: Some(ip == eni.primary),
        private_dns_name: s(state.private_dns(ip)),
        private_ip_address: s(ip),
    };
    let prefix = |net: &ipnet::Ipv4Net| Ipv4PrefixSpecification {
        ipv4_prefix: s(net),
    };
    NetworkInterface {
        network_interface_id: s(id),
        subnet_id: s(eni.subnet),
        vpc_id: s(eni.vpc),
        availability_zone: s(state.zone_name(zone)),
        availability_zone_id: s(state.zone_id(zone)),
        description: s(&eni.description),
        owner_id: s(&state.config.account),
        requester_id: eni.requester.clone(),
        requester_managed: Some(eni.requester.is_some()),
        status: s(status(state, id, eni)),
        mac_address: s(eni.mac),
        private_ip_address: s(eni.primary),
        private_dns_name: s(state.private_dns(eni.primary)),
        source_dest_check: Some(eni.source_dest_check),
        groups: groups(state, &eni.groups),
        attachment: eni.attachment.as_ref().map(|a| attachment(state, a)),
        association: association(eni.primary),
        private_ip_addresses: eni.addresses().map(address).collect(),
        ipv4_prefixes: eni.prefixes.iter().map(prefix).collect(),
        interface_type: s(kind(state, id, eni)),
        connection_tracking_configuration: connection_tracking(eni),
        tag_set: tag::list(state.tags_of(id)),
        deny_all_igw_traffic: Some(false),
        ..Default::default()
    }
}

fn connection_tracking(eni: &store::Eni) -> Option<ConnectionTrackingConfiguration> {
    let tracking = eni.tracking;
    (tracking != store::Tracking::default()).then_some(ConnectionTrackingConfiguration {
        tcp_established_timeout: tracking.tcp_established,
        udp_timeout: tracking.udp,
        udp_stream_timeout: tracking.udp_stream,
    })
}
