//! Elastic IP addresses.

use std::net::Ipv4Addr;

use ec2::types::*;

use super::{Action, Context, Field, Query, eni, one, opt, required, s, tag, unmodelled};
use crate::error::{ApiError, ApiResult};
use crate::ids::*;
use crate::store::{self, AddressAssociation, EniKind, PRIMARY, State};

const FIELDS: &[Field<AllocationId, store::Address>] = &[
    ("allocation-id", |_, id, _| one(id)),
    ("public-ip", |_, _, a| one(a.public_ip)),
    ("domain", |_, _, _| one("vpc")),
    ("association-id", |_, _, a| opt(a.association.map(|x| x.id))),
    ("network-interface-id", |_, _, a| {
        opt(a.association.map(|x| x.eni))
    }),
    ("network-interface-owner-id", |s, _, a| {
        opt(a.association.map(|_| s.config.account.clone()))
    }),
    ("private-ip-address", |_, _, a| {
        opt(a.association.map(|x| x.private_ip))
    }),
    ("instance-id", |s, _, a| {
        opt(a
            .association
            .and_then(|x| s.enis.get(&x.eni)?.instance())
            .map(|(id, _)| id))
    }),
    ("network-border-group", |s, _, _| one(&s.config.region)),
];

fn view(state: &State, id: AllocationId) -> Address {
    let address = &state.addresses[&id];
    let association = address.association;
    let instance = association.and_then(|a| state.enis.get(&a.eni)?.instance());
    Address {
        allocation_id: s(id),
        public_ip: s(address.public_ip),
        domain: s("vpc"),
        network_border_group: s(&state.config.region),
        public_ipv4_pool: s("amazon"),
        association_id: association.map(|a| a.id.to_string()),
        network_interface_id: association.map(|a| a.eni.to_string()),
        network_interface_owner_id: association.map(|_| state.config.account.clone()),
        private_ip_address: association.map(|a| a.private_ip.to_string()),
        instance_id: instance.map(|(id, _)| id.to_string()),
        tags: tag::list(state.tags_of(id)),
        ..Default::default()
    }
}

impl Action for AllocateAddressRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<AllocateAddressResult> {
        unmodelled(&[
            (
                self.public_ipv4_pool
                    .as_deref()
                    .is_some_and(|p| p != "amazon"),
                "PublicIpv4Pool",
            ),
            (
                self.customer_owned_ipv4_pool.is_some(),
                "CustomerOwnedIpv4Pool",
            ),
            (self.ipam_pool_id.is_some(), "IpamPoolId"),
        ])?;
        let tags = tag::of_spec(&self.tag_specifications, "elastic-ip")?;
        let state = &mut *cx.state;
        let limit = state.config.quotas.addresses;
        if state.addresses.len() >= limit {
            return Err(ApiError::new(
                "AddressLimitExceeded",
                "The maximum number of addresses has been reached.",
            ));
        }
        let public_ip = match &self.address {
            Some(text) => {
                let wanted: Ipv4Addr = eni::address(text, "Address")?;
                let ours = state.config.public.iter().any(|net| net.contains(&wanted));
                if !ours || state.public_in_use.contains_key(&wanted) {
                    return Err(ApiError::new(
                        "InvalidAddress.NotFound",
                        format_args!("Address '{text}' not found."),
                    ));
                }
                wanted
            }
            None => state.free_public().ok_or_else(|| {
                ApiError::new(
                    "InsufficientAddressCapacity",
                    "No public addresses are left.",
                )
            })?,
        };
        let id: AllocationId = state.fresh();
        state.addresses.insert(
            id,
            store::Address {
                public_ip,
                association: None,
            },
        );
        state.public_in_use.insert(public_ip, Some(id));
        tag::put(state, id, tags);
        Ok(AllocateAddressResult {
            allocation_id: s(id),
            public_ip: s(public_ip),
            domain: s("vpc"),
            public_ipv4_pool: s("amazon"),
            network_border_group: s(&state.config.region),
            ..Default::default()
        })
    }
}

fn find(state: &State, id: &Option<String>, public: &Option<String>) -> ApiResult<AllocationId> {
    if let Some(text) = id {
        return Ok(state.addresses.find(text)?.0);
    }
    let text = required(public, "AllocationId")?;
    let public_ip: Ipv4Addr = eni::address(text, "PublicIp")?;
    state
        .public_in_use
        .get(&public_ip)
        .copied()
        .flatten()
        .ok_or_else(|| {
            ApiError::new(
                "InvalidAddress.NotFound",
                format_args!("Address '{text}' not found."),
            )
        })
}

impl Action for ReleaseAddressRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<Done> {
        let state = &mut *cx.state;
        let id = find(state, &self.allocation_id, &self.public_ip)?;
        let address = &state.addresses[&id];
        if address.association.is_some() {
            return Err(ApiError::new(
                "InvalidIPAddress.InUse",
                format_args!("Address '{}' is in use.", address.public_ip),
            ));
        }
        let public_ip = address.public_ip;
        state.addresses.remove(&id);
        state.public_in_use.remove(&public_ip);
        state.drop_tags(id);
        Ok(Done::OK)
    }
}

/// The interface that an association names, directly or by its instance.
fn interface(state: &State, r: &AssociateAddressRequest) -> ApiResult<EniId> {
    match (&r.network_interface_id, &r.instance_id) {
        (Some(text), _) => Ok(state.enis.find(text)?.0),
        (None, Some(text)) => {
            let (id, instance) = state.instances.find(text)?;
            match (instance.enis.get(&PRIMARY), instance.enis.len()) {
                (Some(eni), 1) => Ok(*eni),
                _ => Err(ApiError::new(
                    "InvalidInstanceID",
                    format_args!(
                        "There are multiple interfaces attached to instance '{id}'. Please specify an \
                         interface ID for the operation instead."
                    ),
                )),
            }
        }
        (None, None) => Err(ApiError::missing("NetworkInterfaceId")),
    }
}

impl Action for AssociateAddressRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<AssociateAddressResult> {
        let state = &mut *cx.state;
        let id = find(state, &self.allocation_id, &self.public_ip)?;
        let eni_id = interface(state, self)?;
        let eni = &state.enis[&eni_id];
        if eni.kind == EniKind::NatGateway {
            return Err(ApiError::not_permitted(format_args!(
                "The interface {eni_id} belongs to a NAT gateway."
            )));
        }
        let private_ip = match &self.private_ip_address {
            Some(text) => eni::address(text, "PrivateIpAddress")?,
            None => eni.primary,
        };
        if !eni.addresses().any(|a| a == private_ip) {
            return Err(ApiError::value(format_args!(
                "The address {private_ip} is not assigned to interface {eni_id}"
            )));
        }
        let vpc = eni.vpc;
        if !state.internet_gateways.values().any(|g| g.vpc == Some(vpc)) {
            return Err(ApiError::new(
                "Gateway.NotAttached",
                format_args!("Network {vpc} is not attached to any internet gateway"),
            ));
        }
        let here = |a: &AddressAssociation| a.eni == eni_id && a.private_ip == private_ip;
        let other = state
            .addresses
            .iter()
            .find(|(other, a)| **other != id && a.association.as_ref().is_some_and(here));
        let other = other.map(|(other, _)| *other);
        let allowed = self.allow_reassociation.unwrap_or(true);
        let elsewhere = state.addresses[&id].association.filter(|a| !here(a));
        if !allowed && (other.is_some() || elsewhere.is_some()) {
            return Err(ApiError::new(
                "Resource.AlreadyAssociated",
                format_args!("resource {id} is already associated with associate-id"),
            ));
        }
        if let Some(known) = state.addresses[&id].association.filter(here) {
            return Ok(AssociateAddressResult {
                association_id: s(known.id),
            });
        }
        if let Some(other) = other.and_then(|o| state.addresses.get_mut(&o)) {
            other.association = None;
        }
        let association = AddressAssociation {
            id: state.fresh(),
            eni: eni_id,
            private_ip,
        };
        if let Some(address) = state.addresses.get_mut(&id) {
            address.association = Some(association);
        }
        // An Elastic IP address on the primary address replaces the one that came at launch.
        if let Some(eni) = state.enis.get_mut(&eni_id)
            && eni.primary == private_ip
            && let Some(public) = eni.auto_public.take()
        {
            state.public_in_use.remove(&public);
        }
        Ok(AssociateAddressResult {
            association_id: s(association.id),
        })
    }
}

impl Action for DisassociateAddressRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<Done> {
        let state = &mut *cx.state;
        let id = match &self.association_id {
            Some(text) => {
                let wanted: AddressAssociationId = text.parse()?;
                let own = |a: &store::Address| a.association.is_some_and(|x| x.id == wanted);
                let found = state
                    .addresses
                    .iter()
                    .find(|(_, a)| own(a))
                    .map(|(id, _)| *id);
                found.ok_or_else(|| AddressAssociationId::not_found(text))?
            }
            None => find(state, &None, &self.public_ip)?,
        };
        let association = state.addresses[&id].association;
        let of_nat = |a: AddressAssociation| {
            state
                .enis
                .get(&a.eni)
                .is_some_and(|e| e.kind == EniKind::NatGateway)
        };
        if association.is_some_and(of_nat) {
            return Err(ApiError::not_permitted(format_args!(
                "You do not have permission to disassociate the address {id} of a NAT gateway."
            )));
        }
        if let Some(address) = state.addresses.get_mut(&id) {
            address.association = None;
        }
        Ok(Done::OK)
    }
}

impl Action for DescribeAddressesRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<DescribeAddressesResult> {
        let mut ids = self.allocation_ids.clone();
        for text in &self.public_ips {
            ids.push(find(cx.state, &None, &Some(text.clone()))?.to_string());
        }
        let query = Query::new(&ids, &self.filters);
        let (ids, _) = query.select(cx, &cx.state.addresses, FIELDS)?;
        let addresses = ids.into_iter().map(|id| view(cx.state, id)).collect();
        Ok(DescribeAddressesResult { addresses })
    }
}
