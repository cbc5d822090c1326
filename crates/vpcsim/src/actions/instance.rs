//! Instances after their launch: describe, stop, start, terminate, attributes; and instance types.

use std::collections::BTreeMap;

use ec2::types::*;

use super::describe::{self, Query};
use super::eni::incorrect_state;
use super::instance_view::{self, FIELDS, state_of};
use super::launch::{bool_value, instance_id, text_value};
use super::{Action, Context, eni_view, launch, s, unmodelled};
use crate::error::{ApiError, ApiResult};
use crate::filter;
use crate::ids::*;
use crate::page::{self, Sizes};
use crate::store::{self, Change, PRIMARY, State};
use ec2::limits::{self, TypeLimits};

use store::InstanceState as Is;

impl Action for DescribeInstancesRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<DescribeInstancesResult> {
        let query = Query::new(&self.instance_ids, &self.filters);
        let query = query.paged(self.max_results, &self.next_token);
        let (ids, next_token) = query.select(cx, &cx.state.instances, FIELDS)?;
        let mut by_launch: BTreeMap<LaunchId, Vec<InstanceId>> = BTreeMap::new();
        for id in ids {
            by_launch
                .entry(cx.state.instances[&id].launch)
                .or_default()
                .push(id);
        }
        let reservation = |(launch, ids): (LaunchId, Vec<InstanceId>)| Reservation {
            reservation_id: s(launch),
            owner_id: s(&cx.state.config.account),
            instances: ids
                .into_iter()
                .map(|i| instance_view::instance(cx.state, i))
                .collect(),
            ..Default::default()
        };
        let reservations = by_launch.into_iter().map(reservation).collect();
        Ok(DescribeInstancesResult {
            reservations,
            next_token,
        })
    }
}

impl Action for DescribeInstanceStatusRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<DescribeInstanceStatusResult> {
        let query = Query::new(&self.instance_ids, &self.filters);
        let query = query.paged(self.max_results, &self.next_token);
        let (ids, next_token) = query.select(cx, &cx.state.instances, FIELDS)?;
        let all = self.include_all_instances == Some(true);
        let status = |id: InstanceId| {
            let instance = &cx.state.instances[&id];
            let running = instance.state == Is::Running;
            let text = if running { "ok" } else { "not-applicable" };
            let summary = Some(InstanceStatusSummary {
                status: s(text),
                ..Default::default()
            });
            (running || all).then(|| InstanceStatus {
                instance_id: s(id),
                availability_zone: s(cx.state.zone_name(instance.zone)),
                availability_zone_id: s(cx.state.zone_id(instance.zone)),
                instance_state: state_of(instance),
                instance_status: summary.clone(),
                system_status: summary,
                ..Default::default()
            })
        };
        let instance_statuses = ids.into_iter().filter_map(status).collect();
        Ok(DescribeInstanceStatusResult {
            instance_statuses,
            next_token,
        })
    }
}

/// Moves instances on; all are checked before the first one is touched.
fn transition(
    cx: &mut Context<'_>,
    ids: &[String],
    check: fn(&State, InstanceId, &store::Instance) -> ApiResult<()>,
    go: fn(&mut Context<'_>, InstanceId),
) -> ApiResult<Vec<InstanceStateChange>> {
    if ids.is_empty() {
        return Err(ApiError::missing("InstanceId"));
    }
    let ids = cx.state.instances.find_all(ids)?;
    for id in &ids {
        check(cx.state, *id, &cx.state.instances[id])?;
    }
    let mut changes = Vec::new();
    for id in ids {
        let previous_state = state_of(&cx.state.instances[&id]);
        go(cx, id);
        changes.push(InstanceStateChange {
            instance_id: s(id),
            previous_state,
            current_state: state_of(&cx.state.instances[&id]),
        });
    }
    Ok(changes)
}

fn set(cx: &mut Context<'_>, id: InstanceId, state: Is, delay: u64, change: Change) {
    if let Some(instance) = cx.state.instances.get_mut(&id) {
        instance.state = state;
    }
    cx.state.schedule(cx.now, delay, change);
}

impl Action for TerminateInstancesRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<TerminateInstancesResult> {
        let check = |_: &State, id: InstanceId, instance: &store::Instance| {
            if instance.disable_termination && !instance.state.ends() {
                return Err(ApiError::not_permitted(format_args!(
                    "The instance '{id}' may not be terminated. Modify its 'disableApiTermination' \
                     instance attribute and try again."
                )));
            }
            Ok(())
        };
        let terminating_instances = transition(cx, &self.instance_ids, check, |cx, id| {
            if !cx.state.instances[&id].state.ends() {
                let delay = cx.state.config.timing.stop;
                set(cx, id, Is::ShuttingDown, delay, Change::Terminated(id));
            }
        })?;
        Ok(TerminateInstancesResult {
            terminating_instances,
        })
    }
}

impl Action for StopInstancesRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<StopInstancesResult> {
        let check = |_: &State, id: InstanceId, instance: &store::Instance| match instance.state {
            Is::Running | Is::Stopping | Is::Stopped => Ok(()),
            other => Err(incorrect_state(id, other)),
        };
        let stopping_instances = transition(cx, &self.instance_ids, check, |cx, id| {
            if cx.state.instances[&id].state == Is::Running {
                let delay = cx.state.config.timing.stop;
                set(cx, id, Is::Stopping, delay, Change::Stopped(id));
            }
        })?;
        Ok(StopInstancesResult { stopping_instances })
    }
}

impl Action for StartInstancesRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<StartInstancesResult> {
        let check = |_: &State, id: InstanceId, instance: &store::Instance| match instance.state {
            Is::Running | Is::Pending | Is::Stopped => Ok(()),
            Is::Stopping => Err(ApiError::new(
                "IncorrectInstanceState",
                format_args!("The instance '{id}' is not in a state from which it can be started."),
            )),
            other => Err(incorrect_state(id, other)),
        };
        let starting_instances = transition(cx, &self.instance_ids, check, |cx, id| {
            if cx.state.instances[&id].state == Is::Stopped {
                let delay = cx.state.config.timing.launch;
                set(cx, id, Is::Pending, delay, Change::Running(id));
            }
        })?;
        Ok(StartInstancesResult { starting_instances })
    }
}

/// The only interface of an instance; with several, EC2 wants the interface named instead.
fn only_interface(id: InstanceId, instance: &store::Instance) -> ApiResult<EniId> {
    match (instance.enis.values().next(), instance.enis.len()) {
        (Some(eni), 1) => Ok(*eni),
        _ => Err(ApiError::new(
            "InvalidInstanceID",
            format_args!(
                "There are multiple interfaces attached to instance '{id}'. Please specify an interface \
                 ID for the operation instead."
            ),
        )),
    }
}

impl Action for ModifyInstanceAttributeRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<Done> {
        unmodelled(&[
            (self.enclave_options.is_some(), "EnclaveOptions"),
            (!self.block_device_mappings.is_empty(), "BlockDeviceMapping"),
            (self.kernel.is_some(), "Kernel"),
            (self.ramdisk.is_some(), "Ramdisk"),
            (self.user_data.is_some(), "UserData"),
            (self.sriov_net_support.is_some(), "SriovNetSupport"),
        ])?;
        let state = &mut *cx.state;
        let (id, instance) = state.instances.find(instance_id(&self.instance_id)?)?;
        let mut changed = instance.clone();
        // Attribute and Value are the older spelling of single attributes.
        let spelled = |name: &str| {
            let same = self.attribute.as_deref() == Some(name);
            if same { self.value.as_deref() } else { None }
        };
        if let Some(name) = self.attribute.as_deref()
            && !["instanceType", "disableApiTermination", "sourceDestCheck"].contains(&name)
        {
            return Err(ApiError::unsupported(format_args!("The attribute {name}")));
        }
        if let Some(kind) = text_value(&self.instance_type).or(spelled("instanceType")) {
            if instance.state != Is::Stopped {
                return Err(ApiError::new(
                    "IncorrectInstanceState",
                    format_args!("The instance '{id}' is not in the 'stopped' state."),
                ));
            }
            if limits::of(kind).is_none() {
                return Err(ApiError::value(format_args!(
                    "Invalid value '{kind}' for InstanceType."
                )));
            }
            changed.instance_type = kind.to_owned();
        }
        let flag = |value: Option<bool>, name: &str| {
            value.or_else(|| spelled(name).map(|v| v.eq_ignore_ascii_case("true")))
        };
        let keep = flag(
            bool_value(&self.disable_api_termination),
            "disableApiTermination",
        );
        changed.disable_termination = keep.unwrap_or(changed.disable_termination);
        let mut of_eni = None;
        if let Some(check) = flag(bool_value(&self.source_dest_check), "sourceDestCheck") {
            changed.source_dest_check = check;
            let eni = only_interface(id, instance)?;
            let mut record = state.enis[&eni].clone();
            record.source_dest_check = check;
            of_eni = Some((eni, record));
        }
        if !self.groups.is_empty() {
            let eni = only_interface(id, instance)?;
            let groups = state.check_groups(&self.groups, instance.vpc)?;
            let record = of_eni.map_or_else(|| state.enis[&eni].clone(), |(_, record)| record);
            of_eni = Some((eni, store::Eni { groups, ..record }));
        }
        state.instances.insert(id, changed);
        if let Some((eni, record)) = of_eni {
            state.enis.insert(eni, record);
        }
        Ok(Done::OK)
    }
}

impl Action for DescribeInstanceAttributeRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<InstanceAttribute> {
        let (id, instance) = cx.state.instances.find(instance_id(&self.instance_id)?)?;
        let mut answer = InstanceAttribute {
            instance_id: s(id),
            ..Default::default()
        };
        let flag = |value| Some(AttributeBooleanValue { value: Some(value) });
        let text = |value: Option<String>| Some(AttributeValue { value });
        match super::required(&self.attribute, "attribute")? {
            "instanceType" => answer.instance_type = text(s(&instance.instance_type)),
            "userData" => answer.user_data = text(instance.user_data.clone()),
            "disableApiTermination" => {
                answer.disable_api_termination = flag(instance.disable_termination);
            }
            "disableApiStop" => answer.disable_api_stop = flag(false),
            "sourceDestCheck" => answer.source_dest_check = flag(instance.source_dest_check),
            "ebsOptimized" => answer.ebs_optimized = flag(false),
            "enaSupport" => answer.ena_support = flag(true),
            "rootDeviceName" => answer.root_device_name = text(s("/dev/xvda")),
            "instanceInitiatedShutdownBehavior" => {
                answer.instance_initiated_shutdown_behavior = text(s("stop"));
            }
            "groupSet" => {
                let primary = instance
                    .enis
                    .get(&PRIMARY)
                    .and_then(|e| cx.state.enis.get(e));
                let groups = primary.map(|e| e.groups.clone()).unwrap_or_default();
                answer.groups = eni_view::groups(cx.state, &groups);
            }
            other => return Err(ApiError::unsupported(format_args!("The attribute {other}"))),
        }
        Ok(answer)
    }
}

impl Action for ModifyInstanceMetadataOptionsRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<ModifyInstanceMetadataOptionsResult> {
        let (id, instance) = cx
            .state
            .instances
            .find_mut(instance_id(&self.instance_id)?)?;
        instance.metadata = launch::metadata(
            instance.metadata.clone(),
            self.http_tokens.as_deref(),
            self.http_put_response_hop_limit,
            self.http_endpoint.as_deref(),
            self.instance_metadata_tags.as_deref(),
        )?;
        let mut options = instance_view::metadata(&instance.metadata);
        options.state = s("pending");
        Ok(ModifyInstanceMetadataOptionsResult {
            instance_id: s(id),
            instance_metadata_options: Some(options),
        })
    }
}

fn type_info(name: &str, limits: &TypeLimits) -> InstanceTypeInfo {
    let card = |card: &limits::CardLimits| NetworkCardInfo {
        network_card_index: Some(card.index as i32),
        maximum_network_interfaces: Some(card.interfaces as i32),
        ..Default::default()
    };
    InstanceTypeInfo {
        instance_type: s(name),
        bare_metal: Some(limits.bare_metal),
        hypervisor: (!limits.hypervisor.is_empty()).then(|| limits.hypervisor.clone()),
        supported_usage_classes: vec!["on-demand".into(), "spot".into()],
        supported_root_device_types: vec!["ebs".into()],
        supported_virtualization_types: vec!["hvm".into()],
        network_info: Some(NetworkInfo {
            maximum_network_interfaces: Some(limits.interfaces as i32),
            maximum_network_cards: Some(limits.network_cards.len() as i32),
            default_network_card_index: Some(limits.default_network_card as i32),
            network_cards: limits.network_cards.iter().map(card).collect(),
            ipv4_addresses_per_interface: Some(limits.ipv4_per_interface as i32),
            ipv6_addresses_per_interface: Some(limits.ipv4_per_interface as i32),
            ipv6_supported: Some(true),
            ena_support: s("required"),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// The instance types that a request selects by name patterns and filters.
fn types(
    names: &[String],
    filters: &[Filter],
    fields: &[&str],
    values: fn(&str, &str, &TypeLimits) -> Option<Vec<String>>,
) -> ApiResult<Vec<(&'static str, &'static TypeLimits)>> {
    if let Some(unknown) = names.iter().find(|n| limits::of(n).is_none()) {
        return Err(ApiError::new(
            "InvalidInstanceType",
            format_args!("The following supplied instance types do not exist: [{unknown}]"),
        ));
    }
    let filters = describe::read(filters)?;
    describe::check_names(&filters, fields.iter().copied())?;
    let mut found = Vec::new();
    for (name, limits) in limits::all() {
        if (names.is_empty() || names.contains(name))
            && filter::matches(&filters, None, |field| values(field, name, limits))?
        {
            found.push((name.as_str(), limits));
        }
    }
    Ok(found)
}

impl Action for DescribeInstanceTypesRequest {
    fn run(&self, _cx: &mut Context<'_>) -> ApiResult<DescribeInstanceTypesResult> {
        const NAMES: &[&str] = &[
            "instance-type",
            "bare-metal",
            "hypervisor",
            "network-info.maximum-network-interfaces",
            "network-info.ipv4-addresses-per-interface",
            "network-info.maximum-network-cards",
        ];
        let found = types(
            &self.instance_types,
            &self.filters,
            NAMES,
            |field, name, limits| {
                Some(vec![match field {
                    "instance-type" => name.to_owned(),
                    "bare-metal" => limits.bare_metal.to_string(),
                    "hypervisor" => limits.hypervisor.clone(),
                    "network-info.maximum-network-interfaces" => limits.interfaces.to_string(),
                    "network-info.ipv4-addresses-per-interface" => {
                        limits.ipv4_per_interface.to_string()
                    }
                    "network-info.maximum-network-cards" => limits.network_cards.len().to_string(),
                    _ => return None,
                }])
            },
        )?;
        page::ids_or_pages(&self.instance_types, "instanceTypes", self.max_results)?;
        // Without a page size EC2 answers this action in pages of 100.
        let size = self
            .max_results
            .or(self.instance_types.is_empty().then_some(100));
        let query = Query::new(&[], &[])
            .paged(size, &self.next_token)
            .sizes(Sizes(5, 100));
        let (found, next_token) = query.page(found, |(name, _)| (*name).to_owned())?;
        let instance_types = found.into_iter().map(|(n, l)| type_info(n, l)).collect();
        Ok(DescribeInstanceTypesResult {
            instance_types,
            next_token,
        })
    }
}

impl Action for DescribeInstanceTypeOfferingsRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<DescribeInstanceTypeOfferingsResult> {
        let kind = self.location_type.as_deref().unwrap_or("region");
        let zones = (0..cx.state.config.zones.len() as u8).map(store::Zone);
        let locations: Vec<String> = match kind {
            "region" => vec![cx.state.config.region.clone()],
            "availability-zone" => zones.map(|z| cx.state.zone_name(z)).collect(),
            "availability-zone-id" => zones.map(|z| cx.state.zone_id(z)).collect(),
            other => return Err(ApiError::bad_value("locationType", other, "Unknown type.")),
        };
        let filters = describe::read(&self.filters)?;
        describe::check_names(&filters, ["instance-type", "location"].into_iter())?;
        let mut found = Vec::new();
        for name in limits::all().keys() {
            for location in &locations {
                let own = |field: &str| match field {
                    "instance-type" => Some(vec![name.clone()]),
                    "location" => Some(vec![location.clone()]),
                    _ => None,
                };
                if filter::matches(&filters, None, own)? {
                    found.push((name.clone(), location.clone()));
                }
            }
        }
        let query = Query::new(&[], &[]).paged(self.max_results, &self.next_token);
        // The key must sort as the list does, so the name is closed by a space.
        let (found, next_token) = query.page(found, |(name, at)| format!("{name} {at}"))?;
        let offering = |(name, location)| InstanceTypeOffering {
            instance_type: Some(name),
            location: Some(location),
            location_type: s(kind),
        };
        let instance_type_offerings = found.into_iter().map(offering).collect();
        Ok(DescribeInstanceTypeOfferingsResult {
            instance_type_offerings,
            next_token,
        })
    }
}
