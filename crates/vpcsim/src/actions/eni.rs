//! Network interfaces: create, attach, detach, delete, modify, describe.

use std::net::Ipv4Addr;

use ec2::types::*;
use ipnet::Ipv4Net;

use super::{Action, Context, Query, count, eni_view, parse, required, s, tag, unmodelled};
use crate::error::{ApiError, ApiResult};
use crate::ids::*;
use crate::store::{self, EniKind, Holder, InstanceState, NewEni, State, Tracking, Wanted};

pub(super) fn tracking(
    wanted: Option<&ConnectionTrackingSpecificationRequest>,
    old: Tracking,
) -> ApiResult<Tracking> {
    let Some(wanted) = wanted else { return Ok(old) };
    let check = |value: Option<i32>, old, name: &str, low, high| match value {
        None => Ok(old),
        Some(v) if (low..=high).contains(&v) => Ok(Some(v)),
        Some(v) => Err(ApiError::bad_value(
            name,
            v,
            format_args!("Expecting a value between {low} and {high}"),
        )),
    };
    let tcp = wanted.tcp_established_timeout;
    Ok(Tracking {
        tcp_established: check(
            tcp,
            old.tcp_established,
            "TcpEstablishedTimeout",
            60,
            432_000,
        )?,
        udp: check(wanted.udp_timeout, old.udp, "UdpTimeout", 30, 60)?,
        udp_stream: check(
            wanted.udp_stream_timeout,
            old.udp_stream,
            "UdpStreamTimeout",
            60,
            180,
        )?,
    })
}

pub(super) fn address(text: &str, name: &str) -> ApiResult<Ipv4Addr> {
    parse(text, name, "an IPv4 address")
}

pub(super) fn prefix(text: &str) -> ApiResult<Ipv4Net> {
    parse(text, "ipv4Prefix", "an IPv4 prefix such as 10.0.1.16/28")
}

/// Addresses of a create request: the primary one, and what else is asked for.
pub(super) fn wanted(
    primary: &Option<String>,
    specs: &[PrivateIpAddressSpecification],
    addresses: Option<i32>,
    prefixes: &[Ipv4PrefixSpecificationRequest],
    prefix_count: Option<i32>,
) -> ApiResult<(Option<Ipv4Addr>, Wanted)> {
    let mut first = primary
        .as_deref()
        .map(|t| address(t, "privateIpAddress"))
        .transpose()?;
    let mut wanted = Wanted {
        count: count(addresses, "secondaryPrivateIpAddressCount")?,
        prefix_count: count(prefix_count, "ipv4PrefixCount")?,
        ..Wanted::default()
    };
    for spec in specs {
        let own = address(
            required(&spec.private_ip_address, "privateIpAddress")?,
            "privateIpAddress",
        )?;
        match spec.primary {
            Some(true) if first.is_some() => {
                return Err(ApiError::combination(
                    "Only one primary address can be specified.",
                ));
            }
            Some(true) => first = Some(own),
            _ => wanted.addresses.push(own),
        }
    }
    for spec in prefixes {
        wanted
            .prefixes
            .push(prefix(required(&spec.ipv4_prefix, "ipv4Prefix")?)?);
    }
    check_kinds(&wanted)?;
    Ok((first, wanted))
}

/// EC2 takes one way of asking at a time.
pub(super) fn check_kinds(wanted: &Wanted) -> ApiResult<()> {
    if !wanted.addresses.is_empty() && wanted.count > 0 {
        return Err(ApiError::combination(
            "Cannot specify both private addresses and secondaryPrivateIpAddressCount",
        ));
    }
    if !wanted.prefixes.is_empty() && wanted.prefix_count > 0 {
        return Err(ApiError::combination(
            "Cannot specify both ipv4Prefixes and ipv4PrefixCount",
        ));
    }
    Ok(())
}

/// The kind that a request names.
pub(super) fn kind(text: Option<&str>) -> ApiResult<EniKind> {
    match text {
        None | Some("interface") => Ok(EniKind::Interface),
        Some("trunk") => Ok(EniKind::Trunk),
        Some("efa") => Ok(EniKind::Efa),
        Some("efa-only") => Ok(EniKind::EfaOnly),
        Some("branch") => Ok(EniKind::Interface),
        Some(other) => Err(ApiError::bad_value(
            "interfaceType",
            other,
            "Unknown interface type.",
        )),
    }
}

/// The groups of a new interface: those named, else the VPC's default group.
pub(super) fn groups_or_default(
    state: &State,
    texts: &[String],
    vpc: VpcId,
) -> ApiResult<Vec<GroupId>> {
    match texts {
        [] => Ok(vec![state.vpcs[&vpc].default_group]),
        texts => state.check_groups(texts, vpc),
    }
}

impl Action for CreateNetworkInterfaceRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<CreateNetworkInterfaceResult> {
        unmodelled(&[
            (
                self.ipv6_address_count.is_some_and(|n| n > 0),
                "Ipv6AddressCount",
            ),
            (!self.ipv6_addresses.is_empty(), "Ipv6Addresses"),
            (
                self.ipv6_prefix_count.is_some_and(|n| n > 0),
                "Ipv6PrefixCount",
            ),
            (!self.ipv6_prefixes.is_empty(), "Ipv6Prefixes"),
            (self.enable_primary_ipv6 == Some(true), "EnablePrimaryIpv6"),
        ])?;
        let tags = tag::of_spec(&self.tag_specifications, "network-interface")?;
        let (primary, wanted) = wanted(
            &self.private_ip_address,
            &self.private_ip_addresses,
            self.secondary_private_ip_address_count,
            &self.ipv4_prefixes,
            self.ipv4_prefix_count,
        )?;
        let (subnet, record) = cx
            .state
            .subnets
            .find(required(&self.subnet_id, "subnetId")?)?;
        let groups = groups_or_default(cx.state, &self.groups, record.vpc)?;
        let new = NewEni {
            kind: kind(self.interface_type.as_deref())?,
            subnet,
            description: self.description.clone().unwrap_or_default(),
            groups,
            primary,
            wanted,
            tracking: tracking(
                self.connection_tracking_specification.as_ref(),
                Tracking::default(),
            )?,
            requester: None,
        };
        let id = cx.state.make_eni(new)?;
        tag::put(cx.state, id, tags);
        let mut network_interface = eni_view::interface(cx.state, id);
        network_interface.status = s("pending");
        Ok(CreateNetworkInterfaceResult {
            network_interface: Some(network_interface),
            client_token: self.client_token.clone(),
        })
    }
}

impl Action for AttachNetworkInterfaceRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<AttachNetworkInterfaceResult> {
        let state = &mut *cx.state;
        let (id, eni) = state
            .enis
            .find(required(&self.network_interface_id, "networkInterfaceId")?)?;
        let (instance_id, instance) = state
            .instances
            .find(required(&self.instance_id, "instanceId")?)?;
        let device = self
            .device_index
            .ok_or_else(|| ApiError::missing("deviceIndex"))?;
        let device = count(Some(device), "deviceIndex")?;
        let card = count(self.network_card_index, "networkCardIndex")?;
        if !matches!(
            instance.state,
            InstanceState::Running | InstanceState::Stopped
        ) {
            return Err(incorrect_state(instance_id, instance.state));
        }
        if eni.requester.is_some() {
            return Err(ApiError::new(
                "OperationNotPermitted",
                format_args!("You do not have permission to attach the interface {id}."),
            ));
        }
        state.check_attach(id, eni, instance_id, device, card)?;
        let holder = Holder::Instance {
            instance: instance_id,
            device,
            card,
        };
        let delay = state.config.timing.attach;
        let attachment = state.attach(id, holder, false, cx.now, delay);
        Ok(AttachNetworkInterfaceResult {
            attachment_id: s(attachment),
            network_card_index: Some(card as i32),
        })
    }
}

pub(super) fn incorrect_state(id: InstanceId, state: InstanceState) -> ApiError {
    ApiError::new(
        "IncorrectState",
        format_args!(
            "The instance '{id}' is not in a valid state for this operation: {}",
            state.code().1
        ),
    )
}

impl Action for DetachNetworkInterfaceRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<Done> {
        let text = required(&self.attachment_id, "attachmentId")?;
        let state = &mut *cx.state;
        let (id, eni) = by_attachment(state, text)?;
        if matches!(eni.held(), Some(a) if matches!(a.holder, Holder::Managed { .. })) {
            return Err(ApiError::new(
                "AuthFailure",
                "You do not have permission to access the specified resource.",
            ));
        }
        if let Some((instance, 0)) = eni.instance() {
            return Err(ApiError::not_permitted(format_args!(
                "The network interface at device index 0 cannot be detached (instance '{instance}')."
            )));
        }
        if state
            .by_trunk
            .get(&id)
            .is_some_and(|branches| !branches.is_empty())
        {
            return Err(ApiError::not_permitted(format_args!(
                "The trunk interface {id} has branch interfaces associated."
            )));
        }
        let attachment = eni.attachment.as_ref().map(|a| (a.id, a.status));
        match attachment {
            Some((attachment, store::AttachStatus::Attaching | store::AttachStatus::Attached)) => {
                let delay = state.config.timing.detach;
                state.detach(attachment, cx.now, delay);
                Ok(Done::OK)
            }
            _ => Err(ApiError::new(
                "IncorrectState",
                format_args!("The attachment '{text}' is not in a valid state for this operation."),
            )),
        }
    }
}

fn by_attachment<'s>(state: &'s State, text: &str) -> ApiResult<(EniId, &'s store::Eni)> {
    let id: AttachmentId = text.parse()?;
    let eni = state
        .by_attachment
        .get(&id)
        .ok_or_else(|| AttachmentId::not_found(text))?;
    state
        .enis
        .get_key_value(eni)
        .map(|(k, v)| (*k, v))
        .ok_or_else(|| AttachmentId::not_found(text))
}

impl Action for DeleteNetworkInterfaceRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<Done> {
        let state = &mut *cx.state;
        let (id, eni) = state
            .enis
            .find(required(&self.network_interface_id, "networkInterfaceId")?)?;
        if eni.held().is_some()
            || state.by_branch.contains_key(&id)
            || state.by_trunk.contains_key(&id)
        {
            return Err(ApiError::value(format_args!(
                "Network interface '{id}' is currently in use."
            )));
        }
        if let Some(requester) = &eni.requester {
            return Err(ApiError::not_permitted(format_args!(
                "The interface '{id}' is managed by {requester}."
            )));
        }
        state.remove_eni(id);
        Ok(Done::OK)
    }
}

impl Action for ModifyNetworkInterfaceAttributeRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<Done> {
        unmodelled(&[
            (
                self.associate_public_ip_address.is_some(),
                "AssociatePublicIpAddress",
            ),
            (self.enable_primary_ipv6 == Some(true), "EnablePrimaryIpv6"),
            (
                !self.associated_subnet_ids.is_empty(),
                "AssociatedSubnetIds",
            ),
            (self.ena_srd_specification.is_some(), "EnaSrdSpecification"),
        ])?;
        let state = &mut *cx.state;
        let (id, eni) = state
            .enis
            .find(required(&self.network_interface_id, "networkInterfaceId")?)?;
        let mut changed = eni.clone();
        if !self.groups.is_empty() {
            if eni.kind == EniKind::NatGateway {
                return Err(ApiError::not_permitted(format_args!(
                    "The interface '{id}' of a NAT gateway takes no security groups."
                )));
            }
            changed.groups = state.check_groups(&self.groups, eni.vpc)?;
        }
        if let Some(description) = self.description.as_ref().and_then(|d| d.value.clone()) {
            changed.description = description;
        }
        if let Some(check) = self.source_dest_check.as_ref().and_then(|v| v.value) {
            changed.source_dest_check = check;
        }
        let spec = self.connection_tracking_specification.as_ref();
        changed.tracking = tracking(spec, eni.tracking)?;
        if let Some(wanted) = &self.attachment {
            let text = required(&wanted.attachment_id, "attachment.attachmentId")?;
            let attachment: AttachmentId = text.parse()?;
            let own = changed.attachment.as_mut().filter(|a| a.id == attachment);
            let own = own.ok_or_else(|| AttachmentId::not_found(text))?;
            own.delete_on_termination = wanted
                .delete_on_termination
                .unwrap_or(own.delete_on_termination);
        }
        state.enis.insert(id, changed);
        Ok(Done::OK)
    }
}

impl Action for ResetNetworkInterfaceAttributeRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<Done> {
        let text = required(&self.network_interface_id, "networkInterfaceId")?;
        let (_, eni) = cx.state.enis.find_mut(text)?;
        if self.source_dest_check.is_none() {
            return Err(ApiError::missing("sourceDestCheck"));
        }
        eni.source_dest_check = true;
        Ok(Done::OK)
    }
}

impl Action for DescribeNetworkInterfacesRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<DescribeNetworkInterfacesResult> {
        let query = Query::new(&self.network_interface_ids, &self.filters);
        let query = query.paged(self.max_results, &self.next_token);
        let (ids, next_token) = query.select(cx, &cx.state.enis, eni_view::FIELDS)?;
        let by_address = eni_view::associations(cx.state);
        let view = |id| eni_view::interface_with(cx.state, id, &by_address);
        let network_interfaces = ids.into_iter().map(view).collect();
        Ok(DescribeNetworkInterfacesResult {
            network_interfaces,
            next_token,
        })
    }
}

impl Action for DescribeNetworkInterfaceAttributeRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<DescribeNetworkInterfaceAttributeResult> {
        let text = required(&self.network_interface_id, "networkInterfaceId")?;
        let (id, eni) = cx.state.enis.find(text)?;
        let mut answer = DescribeNetworkInterfaceAttributeResult {
            network_interface_id: s(id),
            ..Default::default()
        };
        match required(&self.attribute, "attribute")? {
            "description" => {
                answer.description = Some(AttributeValue {
                    value: s(&eni.description),
                })
            }
            "groupSet" => answer.groups = eni_view::groups(cx.state, &eni.groups),
            "sourceDestCheck" => {
                answer.source_dest_check = Some(AttributeBooleanValue {
                    value: Some(eni.source_dest_check),
                });
            }
            "attachment" => {
                answer.attachment = eni
                    .attachment
                    .as_ref()
                    .map(|a| eni_view::attachment(cx.state, a));
            }
            "associatePublicIpAddress" => {
                answer.associate_public_ip_address = Some(eni.auto_public.is_some());
            }
            other => {
                return Err(ApiError::bad_value(
                    "attribute",
                    other,
                    "Unknown attribute.",
                ));
            }
        }
        Ok(answer)
    }
}
