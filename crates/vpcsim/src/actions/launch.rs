//! RunInstances: from a request and its launch template to instances with their interfaces.

use ec2::types::*;

use super::eni::{groups_or_default, kind, tracking, wanted};
use super::{Action, Context, count, instance_view, required, s, tag, template, unmodelled};
use crate::error::{ApiError, ApiResult};
use crate::filter::Tags;
use crate::ids::*;
use crate::store::{
    Change, Holder, Instance, InstanceState, MetadataOptions, NewEni, PRIMARY, State, Tracking,
    Wanted,
};
use ec2::limits;

/// What is launched: the request's members, or the template's where the request is silent.
struct Launch {
    instance_type: String,
    image: String,
    key_name: Option<String>,
    profile: Option<String>,
    user_data: Option<String>,
    metadata: MetadataOptions,
    disable_termination: bool,
    interfaces: Vec<InstanceNetworkInterfaceSpecification>,
    tags: Tags,
    eni_tags: Tags,
}

/// An interface of a launch: one that exists, or one to be made.
enum Plan {
    Existing(EniId),
    New { eni: Box<NewEni>, public: bool },
}

struct Planned {
    plan: Plan,
    device: u32,
    card: u32,
    delete_on_termination: bool,
}

pub(super) fn metadata(
    base: MetadataOptions,
    tokens: Option<&str>,
    hops: Option<i32>,
    endpoint: Option<&str>,
    tags: Option<&str>,
) -> ApiResult<MetadataOptions> {
    let mut options = base;
    match tokens {
        None => {}
        Some("required") => options.tokens_required = true,
        Some("optional") => options.tokens_required = false,
        Some(other) => return Err(ApiError::bad_value("httpTokens", other, "Unknown state.")),
    }
    if let Some(hops) = hops {
        options.hop_limit = u8::try_from(hops)
            .ok()
            .filter(|h| (1..=64).contains(h))
            .ok_or_else(|| {
                ApiError::bad_value("httpPutResponseHopLimit", hops, "Expecting 1 to 64.")
            })?;
    }
    match endpoint {
        None => {}
        Some("enabled") => options.enabled = true,
        Some("disabled") => options.enabled = false,
        Some(other) => return Err(ApiError::bad_value("httpEndpoint", other, "Unknown state.")),
    }
    match tags {
        None => {}
        Some("enabled") => options.tags = true,
        Some("disabled") => options.tags = false,
        Some(other) => {
            return Err(ApiError::bad_value(
                "instanceMetadataTags",
                other,
                "Unknown state.",
            ));
        }
    }
    Ok(options)
}

/// An interface of a template as one of a launch.
pub(crate) fn interface_of_template(
    spec: &LaunchTemplateInstanceNetworkInterfaceSpecificationRequest,
) -> InstanceNetworkInterfaceSpecification {
    let spec = spec.clone();
    InstanceNetworkInterfaceSpecification {
        associate_public_ip_address: spec.associate_public_ip_address,
        connection_tracking_specification: spec.connection_tracking_specification,
        delete_on_termination: spec.delete_on_termination,
        description: spec.description,
        device_index: spec.device_index,
        groups: spec.groups,
        interface_type: spec.interface_type,
        ipv4_prefix_count: spec.ipv4_prefix_count,
        ipv4_prefixes: spec.ipv4_prefixes,
        network_card_index: spec.network_card_index,
        network_interface_id: spec.network_interface_id,
        private_ip_address: spec.private_ip_address,
        private_ip_addresses: spec.private_ip_addresses,
        secondary_private_ip_address_count: spec.secondary_private_ip_address_count,
        subnet_id: spec.subnet_id,
        ..Default::default()
    }
}

/// The interfaces that a request asks for, the primary one included.
fn interfaces(
    r: &RunInstancesRequest,
    data: Option<&RequestLaunchTemplateData>,
) -> ApiResult<Vec<InstanceNetworkInterfaceSpecification>> {
    if !r.network_interfaces.is_empty() {
        if r.subnet_id.is_some() || !r.security_group_ids.is_empty() {
            return Err(ApiError::combination(
                "Network interfaces and an instance-level subnet ID or security groups may not be \
                 specified on the same request",
            ));
        }
        return Ok(r.network_interfaces.clone());
    }
    let of_template: Vec<_> = data
        .iter()
        .flat_map(|d| &d.network_interfaces)
        .map(interface_of_template)
        .collect();
    if !of_template.is_empty() {
        if !r.security_group_ids.is_empty() {
            return Err(ApiError::combination(
                "Security groups may not be specified with network interfaces of a launch template",
            ));
        }
        let mut specs = of_template;
        for spec in specs
            .iter_mut()
            .filter(|s| s.device_index.unwrap_or(0) == 0)
        {
            spec.subnet_id = r.subnet_id.clone().or_else(|| spec.subnet_id.take());
        }
        return Ok(specs);
    }
    let groups = match (&r.security_group_ids[..], data) {
        ([], Some(data)) => data.security_group_ids.clone(),
        (own, _) => own.to_vec(),
    };
    Ok(vec![InstanceNetworkInterfaceSpecification {
        device_index: Some(0),
        subnet_id: r.subnet_id.clone(),
        groups,
        private_ip_address: r.private_ip_address.clone(),
        delete_on_termination: Some(true),
        ..Default::default()
    }])
}

fn profile_name(arn: Option<&String>, name: Option<&String>) -> Option<String> {
    name.cloned()
        .or_else(|| arn?.rsplit('/').next().map(str::to_owned))
}

fn read(state: &State, r: &RunInstancesRequest) -> ApiResult<Launch> {
    unmodelled(&[
        (
            r.ipv6_address_count.is_some_and(|n| n > 0),
            "Ipv6AddressCount",
        ),
        (!r.ipv6_addresses.is_empty(), "Ipv6Addresses"),
        (!r.security_groups.is_empty(), "SecurityGroup"),
        (!r.secondary_interfaces.is_empty(), "SecondaryInterfaces"),
    ])?;
    let version = r
        .launch_template
        .as_ref()
        .map(|t| template::of_launch(state, t))
        .transpose()?;
    let data = version.as_ref().map(|v| &v.data);
    let missing = || ApiError::missing("ImageId");
    let image = r
        .image_id
        .clone()
        .or_else(|| data?.image_id.clone())
        .ok_or_else(missing)?;
    if !image.starts_with("ami-") {
        return Err(ApiError::new(
            "InvalidAMIID.Malformed",
            format_args!("Invalid id: \"{image}\""),
        ));
    }
    let instance_type = r
        .instance_type
        .clone()
        .or_else(|| data?.instance_type.clone())
        .unwrap_or_else(|| "m5.large".to_owned());
    if limits::of(&instance_type).is_none() {
        return Err(ApiError::value(format_args!(
            "Invalid value '{instance_type}' for InstanceType."
        )));
    }
    let mut options = MetadataOptions::default();
    if let Some(o) = data.and_then(|d| d.metadata_options.as_ref()) {
        let (tokens, endpoint) = (o.http_tokens.as_deref(), o.http_endpoint.as_deref());
        let tags = o.instance_metadata_tags.as_deref();
        options = metadata(
            options,
            tokens,
            o.http_put_response_hop_limit,
            endpoint,
            tags,
        )?;
    }
    if let Some(o) = &r.metadata_options {
        let (tokens, endpoint) = (o.http_tokens.as_deref(), o.http_endpoint.as_deref());
        let tags = o.instance_metadata_tags.as_deref();
        options = metadata(
            options,
            tokens,
            o.http_put_response_hop_limit,
            endpoint,
            tags,
        )?;
    }
    let kinds = [
        "instance",
        "network-interface",
        "volume",
        "spot-instances-request",
    ];
    let of_template: Vec<TagSpecification> = data
        .iter()
        .flat_map(|d| &d.tag_specifications)
        .map(|t| TagSpecification {
            resource_type: t.resource_type.clone(),
            tags: t.tags.clone(),
        })
        .collect();
    let mut tags = tag::of_specs(&of_template, &kinds)?;
    for (all, own) in tags
        .iter_mut()
        .zip(tag::of_specs(&r.tag_specifications, &kinds)?)
    {
        all.extend(own);
    }
    if let Some(version) = &version {
        // The tags by which an instance tells what it was launched from.
        tags[0].insert("aws:ec2launchtemplate:id".into(), version.id.to_string());
        tags[0].insert(
            "aws:ec2launchtemplate:version".into(),
            version.number.to_string(),
        );
    }
    let of_template = data.and_then(|d| d.iam_instance_profile.as_ref());
    let profile = match (&r.iam_instance_profile, of_template) {
        (Some(p), _) => profile_name(p.arn.as_ref(), p.name.as_ref()),
        (None, Some(p)) => profile_name(p.arn.as_ref(), p.name.as_ref()),
        (None, None) => None,
    };
    Ok(Launch {
        interfaces: interfaces(r, data)?,
        instance_type,
        image,
        key_name: r.key_name.clone().or_else(|| data?.key_name.clone()),
        profile,
        user_data: r.user_data.clone().or_else(|| data?.user_data.clone()),
        metadata: options,
        disable_termination: r
            .disable_api_termination
            .or_else(|| data?.disable_api_termination)
            .unwrap_or(false),
        eni_tags: tags.swap_remove(1),
        tags: tags.swap_remove(0),
    })
}

/// One interface of the launch, checked against what exists.
fn plan(state: &State, spec: &InstanceNetworkInterfaceSpecification) -> ApiResult<Planned> {
    unmodelled(&[
        (
            spec.ipv6_address_count.is_some_and(|n| n > 0),
            "NetworkInterface.Ipv6AddressCount",
        ),
        (
            !spec.ipv6_addresses.is_empty(),
            "NetworkInterface.Ipv6Addresses",
        ),
        (
            spec.ipv6_prefix_count.is_some_and(|n| n > 0),
            "NetworkInterface.Ipv6PrefixCount",
        ),
    ])?;
    let device = count(spec.device_index, "deviceIndex")?;
    let card = count(spec.network_card_index, "networkCardIndex")?;
    if let Some(text) = &spec.network_interface_id {
        let (id, eni) = state.enis.find(text)?;
        if eni.held().is_some() || state.by_branch.contains_key(&id) {
            return Err(ApiError::new(
                "InvalidNetworkInterface.InUse",
                format_args!("Interface: [{id}] in use."),
            ));
        }
        let delete_on_termination = spec.delete_on_termination.unwrap_or(false);
        return Ok(Planned {
            plan: Plan::Existing(id),
            device,
            card,
            delete_on_termination,
        });
    }
    let Some(text) = spec.subnet_id.as_deref() else {
        return Err(ApiError::new(
            "MissingInput",
            "No subnets found for the default VPC. Please specify a subnet.",
        ));
    };
    let (subnet, record) = state.subnets.find(text)?;
    let (primary, wanted) = wanted(
        &spec.private_ip_address,
        &spec.private_ip_addresses,
        spec.secondary_private_ip_address_count,
        &spec.ipv4_prefixes,
        spec.ipv4_prefix_count,
    )?;
    let eni = NewEni {
        kind: kind(spec.interface_type.as_deref())?,
        subnet,
        description: spec.description.clone().unwrap_or_default(),
        groups: groups_or_default(state, &spec.groups, record.vpc)?,
        primary,
        wanted: Wanted { ..wanted },
        tracking: tracking(
            spec.connection_tracking_specification.as_ref(),
            Tracking::default(),
        )?,
        requester: None,
    };
    let public = spec
        .associate_public_ip_address
        .unwrap_or(device == 0 && record.map_public_ip);
    Ok(Planned {
        plan: Plan::New {
            eni: Box::new(eni),
            public,
        },
        device,
        card,
        delete_on_termination: spec.delete_on_termination.unwrap_or(true),
    })
}

/// Makes one instance. Works on a copy of the state: the caller keeps it only if all succeed.
fn launch_one(
    cx: &mut Context<'_>,
    state: &mut State,
    launch: &Launch,
    reservation: LaunchId,
    index: i32,
) -> ApiResult<InstanceId> {
    let mut planned = launch
        .interfaces
        .iter()
        .map(|spec| plan(state, spec))
        .collect::<ApiResult<Vec<Planned>>>()?;
    planned.sort_by_key(|p| (p.card, p.device));
    let primary = planned.first().filter(|p| p.device == 0);
    let subnet = match primary.map(|p| &p.plan) {
        Some(Plan::Existing(id)) => state.enis[id].subnet,
        Some(Plan::New { eni, .. }) => eni.subnet,
        None => return Err(ApiError::missing("NetworkInterface.1.DeviceIndex=0")),
    };
    let (vpc, zone) = (state.subnets[&subnet].vpc, state.subnets[&subnet].zone);
    let id: InstanceId = state.fresh();
    let instance = Instance {
        launch: reservation,
        launch_index: index,
        instance_type: launch.instance_type.clone(),
        image: launch.image.clone(),
        vpc,
        subnet,
        zone,
        state: InstanceState::Pending,
        launched: cx.now,
        enis: Default::default(),
        key_name: launch.key_name.clone(),
        profile: launch.profile.clone(),
        user_data: launch.user_data.clone(),
        metadata: launch.metadata.clone(),
        disable_termination: launch.disable_termination,
        source_dest_check: true,
        private_ip: None,
    };
    state.instances.insert(id, instance);
    tag::put(state, id, launch.tags.clone());
    for p in planned {
        let eni = match p.plan {
            Plan::Existing(eni) => eni,
            Plan::New { eni, public } => {
                let eni = state.make_eni(*eni)?;
                tag::put(state, eni, launch.eni_tags.clone());
                if public {
                    give_public(state, eni)?;
                }
                eni
            }
        };
        let record = &state.enis[&eni];
        state.check_attach(eni, record, id, p.device, p.card)?;
        let holder = Holder::Instance {
            instance: id,
            device: p.device,
            card: p.card,
        };
        state.attach(eni, holder, p.delete_on_termination, cx.now, 0);
    }
    let private_ip = state.instances[&id]
        .enis
        .get(&PRIMARY)
        .map(|eni| state.enis[eni].primary);
    if let Some(instance) = state.instances.get_mut(&id) {
        instance.private_ip = private_ip;
    }
    state.schedule(cx.now, state.config.timing.launch, Change::Running(id));
    Ok(id)
}

fn give_public(state: &mut State, eni: EniId) -> ApiResult<()> {
    let public = state.free_public().ok_or_else(|| {
        ApiError::new(
            "InsufficientAddressCapacity",
            "No public addresses are left.",
        )
    })?;
    state.public_in_use.insert(public, None);
    if let Some(eni) = state.enis.get_mut(&eni) {
        eni.auto_public = Some(public);
    }
    Ok(())
}

impl Action for RunInstancesRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<Reservation> {
        let least = self
            .min_count
            .ok_or_else(|| ApiError::missing("MinCount"))?;
        let most = self
            .max_count
            .ok_or_else(|| ApiError::missing("MaxCount"))?;
        if least < 1 || most < least {
            return Err(ApiError::value(format_args!(
                "Invalid value for instanceCount: minimum {least}, maximum {most}"
            )));
        }
        let launch = read(cx.state, self)?;
        if most > 1
            && launch
                .interfaces
                .iter()
                .any(|i| i.network_interface_id.is_some())
        {
            return Err(ApiError::combination(
                "Network interfaces cannot be specified when launching more than one instance",
            ));
        }
        let mut copy = cx.state.clone();
        let reservation: LaunchId = copy.fresh();
        let mut ids = Vec::new();
        for index in 0..most {
            // Each try works on its own copy, so that one that fails in the middle leaves nothing.
            let mut attempt = copy.clone();
            match launch_one(cx, &mut attempt, &launch, reservation, index) {
                Ok(id) => {
                    ids.push(id);
                    copy = attempt;
                }
                // Beyond the minimum, EC2 launches as many as it can.
                Err(_) if index >= least => break,
                Err(error) => return Err(error),
            }
        }
        *cx.state = copy;
        let instances = ids
            .iter()
            .map(|id| instance_view::instance(cx.state, *id))
            .collect();
        Ok(Reservation {
            reservation_id: s(reservation),
            owner_id: s(&cx.state.config.account),
            instances,
            ..Default::default()
        })
    }
}

pub(super) fn bool_value(value: &Option<AttributeBooleanValue>) -> Option<bool> {
    value.as_ref()?.value
}

pub(super) fn text_value(value: &Option<AttributeValue>) -> Option<&str> {
    value.as_ref()?.value.as_deref()
}

pub(super) fn instance_id(value: &Option<String>) -> ApiResult<&str> {
    required(value, "InstanceId")
}
