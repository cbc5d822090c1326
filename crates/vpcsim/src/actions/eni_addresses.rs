//! Secondary addresses and delegated prefixes of interfaces.

use ec2::types::*;

use super::eni::{address, check_kinds, prefix};
use super::{Action, Context, count, required, s};
use crate::error::{ApiError, ApiResult};
use crate::ids::*;
use crate::store::{Eni, State, Wanted};
use ec2::limits;

/// The address slots of the instance that holds `eni`; unbounded while it is not attached.
fn slot_limit(state: &State, eni: &Eni) -> Option<u32> {
    let (instance, _) = eni.instance()?;
    let kind = &state.instances.get(&instance)?.instance_type;
    limits::of(kind).map(|l| l.ipv4_per_interface)
}

impl Action for AssignPrivateIpAddressesRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<AssignPrivateIpAddressesResult> {
        let state = &mut *cx.state;
        let text = required(&self.network_interface_id, "networkInterfaceId")?;
        let (id, eni) = state.enis.find(text)?;
        let mut wanted = Wanted {
            count: count(
                self.secondary_private_ip_address_count,
                "secondaryPrivateIpAddressCount",
            )?,
            prefix_count: count(self.ipv4_prefix_count, "ipv4PrefixCount")?,
            ..Wanted::default()
        };
        for text in &self.private_ip_addresses {
            wanted.addresses.push(address(text, "privateIpAddress")?);
        }
        for text in &self.ipv4_prefixes {
            wanted.prefixes.push(prefix(text)?);
        }
        check_kinds(&wanted)?;
        let new = wanted.count
            + wanted.prefix_count
            + (wanted.addresses.len() + wanted.prefixes.len()) as u32;
        if new == 0 {
            return Err(ApiError::missing("privateIpAddress"));
        }
        if slot_limit(state, eni).is_some_and(|limit| eni.slots() + new > limit) {
            return Err(ApiError::new(
                "PrivateIpAddressLimitExceeded",
                "Number of private addresses will exceed limit.",
            ));
        }
        let (vpc, subnet) = (eni.vpc, eni.subnet);
        if self.allow_reassignment == Some(true) {
            reassign(state, id, &wanted)?;
        }
        let given = state.give(subnet, &wanted)?;
        if let Some(eni) = state.enis.get_mut(&id) {
            eni.secondary.extend(&given.addresses);
            eni.prefixes.extend(&given.prefixes);
        }
        state.index(id, vpc, &given);
        let address = |a: &std::net::Ipv4Addr| AssignedPrivateIpAddress {
            private_ip_address: s(a),
        };
        let prefix = |p: &ipnet::Ipv4Net| Ipv4PrefixSpecification { ipv4_prefix: s(p) };
        Ok(AssignPrivateIpAddressesResult {
            network_interface_id: s(id),
            assigned_private_ip_addresses: given.addresses.iter().map(address).collect(),
            assigned_ipv4_prefixes: given.prefixes.iter().map(prefix).collect(),
        })
    }
}

/// Frees the named addresses that other interfaces hold as secondary ones.
fn reassign(state: &mut State, to: EniId, wanted: &Wanted) -> ApiResult<()> {
    let (vpc, subnet) = (state.enis[&to].vpc, state.enis[&to].subnet);
    let mut moves = Vec::new();
    for (at, address) in wanted.addresses.iter().enumerate() {
        if wanted.addresses[..at].contains(address) {
            return Err(ApiError::value(format_args!(
                "Address {address} is named twice."
            )));
        }
        let Some(holder) = state.by_address.get(&(vpc, *address)) else {
            continue;
        };
        let other = &state.enis[holder];
        if other.primary == *address {
            return Err(ApiError::value(format_args!(
                "Address {address} is the primary address of {holder} and cannot be reassigned."
            )));
        }
        if other.subnet == subnet && *holder != to {
            moves.push((*holder, *address));
        }
    }
    // What is not held as a secondary address must be free, or nothing may move.
    for address in &wanted.addresses {
        let moving = moves.iter().any(|(_, a)| a == address);
        if !moving && state.subnets[&subnet].pool.check(*address).is_err() {
            return Err(ApiError::new(
                "InvalidIPAddress.InUse",
                format_args!("Address {address} is in use."),
            ));
        }
    }
    for (holder, address) in moves {
        state.take_back(holder, &[address], &[]);
    }
    Ok(())
}

impl Action for UnassignPrivateIpAddressesRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<Done> {
        let state = &mut *cx.state;
        let text = required(&self.network_interface_id, "networkInterfaceId")?;
        let (id, eni) = state.enis.find(text)?;
        if self.private_ip_addresses.is_empty() && self.ipv4_prefixes.is_empty() {
            return Err(ApiError::missing("privateIpAddress"));
        }
        let mut addresses = Vec::new();
        for text in &self.private_ip_addresses {
            let own = address(text, "privateIpAddress")?;
            if own == eni.primary {
                return Err(ApiError::value(format_args!(
                    "The primary address {own} of interface {id} cannot be unassigned."
                )));
            }
            if !eni.secondary.contains(&own) {
                return Err(ApiError::value(format_args!(
                    "Some of the specified addresses are not assigned to interface {id}"
                )));
            }
            addresses.push(own);
        }
        let mut prefixes = Vec::new();
        for text in &self.ipv4_prefixes {
            let own = prefix(text)?;
            if !eni.prefixes.contains(&own) {
                return Err(ApiError::value(format_args!(
                    "Some of the specified prefixes are not assigned to interface {id}"
                )));
            }
            prefixes.push(own);
        }
        state.take_back(id, &addresses, &prefixes);
        Ok(Done::OK)
    }
}
