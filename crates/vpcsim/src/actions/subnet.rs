//! Subnets.

use ec2::types::*;

use super::vpc::{cidr, overlap};
use super::{Action, Context, Field, Query, one, opt, required, s, tag, unmodelled, yes};
use crate::addrs::Pool;
use crate::error::{ApiError, ApiResult};
use crate::ids::*;
use crate::store::{self, State, Zone};

const FIELDS: &[Field<SubnetId, store::Subnet>] = &[
    ("subnet-id", |_, id, _| one(id)),
    ("subnet-arn", |s, id, _| one(s.arn("subnet", id))),
    ("vpc-id", |_, _, n| one(n.vpc)),
    ("availability-zone", |s, _, n| one(s.zone_name(n.zone))),
    ("availabilityZone", |s, _, n| one(s.zone_name(n.zone))),
    ("availability-zone-id", |s, _, n| one(s.zone_id(n.zone))),
    ("availabilityZoneId", |s, _, n| one(s.zone_id(n.zone))),
    ("available-ip-address-count", |_, _, n| one(n.pool.free())),
    ("cidr-block", |_, _, n| one(n.pool.cidr())),
    ("cidr", |_, _, n| one(n.pool.cidr())),
    ("cidrBlock", |_, _, n| one(n.pool.cidr())),
    ("default-for-az", |_, _, _| yes(false)),
    ("defaultForAz", |_, _, _| yes(false)),
    ("map-public-ip-on-launch", |_, _, n| yes(n.map_public_ip)),
    ("owner-id", |s, _, _| one(&s.config.account)),
    ("state", |_, _, _| one("available")),
    ("ipv6-native", |_, _, _| yes(false)),
    ("outpost-arn", |_, _, _| opt(None::<String>)),
];

/// The zone that a request names by name or id; the first one when it names none.
fn zone(state: &State, name: Option<&str>, id: Option<&str>) -> ApiResult<Zone> {
    let mut zones = (0..state.config.zones.len() as u8).map(Zone);
    let wanted = |z: &Zone| {
        name.is_none_or(|n| state.zone_name(*z) == n) && id.is_none_or(|i| state.zone_id(*z) == i)
    };
    zones.find(wanted).ok_or_else(|| {
        let (value, region) = (name.or(id).unwrap_or(""), &state.config.region);
        ApiError::bad_value(
            "availabilityZone",
            value,
            format_args!("Subnets can currently only be created in the zones of {region}."),
        )
    })
}

pub(super) fn view(state: &State, id: SubnetId) -> Subnet {
    let subnet = &state.subnets[&id];
    Subnet {
        subnet_id: s(id),
        subnet_arn: s(state.arn("subnet", id)),
        vpc_id: s(subnet.vpc),
        availability_zone: s(state.zone_name(subnet.zone)),
        availability_zone_id: s(state.zone_id(subnet.zone)),
        available_ip_address_count: Some(subnet.pool.free() as i32),
        cidr_block: s(subnet.pool.cidr()),
        default_for_az: Some(false),
        map_public_ip_on_launch: Some(subnet.map_public_ip),
        map_customer_owned_ip_on_launch: Some(false),
        assign_ipv6_address_on_creation: Some(false),
        ipv6_native: Some(false),
        enable_dns64: Some(false),
        owner_id: s(&state.config.account),
        state: s("available"),
        private_dns_name_options_on_launch: Some(PrivateDnsNameOptionsOnLaunch {
            hostname_type: s("ip-name"),
            enable_resource_name_dns_a_record: Some(false),
            enable_resource_name_dns_aaaa_record: Some(false),
        }),
        tags: tag::list(state.tags_of(id)),
        ..Default::default()
    }
}

impl Action for CreateSubnetRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<CreateSubnetResult> {
        unmodelled(&[
            (self.ipv6_cidr_block.is_some(), "Ipv6CidrBlock"),
            (self.ipv6_native == Some(true), "Ipv6Native"),
            (self.outpost_arn.is_some(), "OutpostArn"),
            (self.ipv4_ipam_pool_id.is_some(), "Ipv4IpamPoolId"),
        ])?;
        let text = required(&self.cidr_block, "cidrBlock")?;
        let net = cidr(text, "cidrBlock")?;
        let tags = tag::of_spec(&self.tag_specifications, "subnet")?;
        let state = &mut *cx.state;
        let (vpc_id, vpc) = state.vpcs.find(required(&self.vpc_id, "vpcId")?)?;
        let range = || {
            ApiError::new(
                "InvalidSubnet.Range",
                format_args!("The CIDR '{text}' is invalid."),
            )
        };
        if !(16..=28).contains(&net.prefix_len())
            || !vpc.cidrs.iter().any(|(_, own)| own.contains(&net))
        {
            return Err(range());
        }
        let mut others = state.subnets.values().filter(|x| x.vpc == vpc_id);
        if others.any(|x| overlap(x.pool.cidr(), net)) {
            return Err(ApiError::new(
                "InvalidSubnet.Conflict",
                format_args!("The CIDR '{text}' conflicts with another subnet"),
            ));
        }
        let zone = zone(
            state,
            self.availability_zone.as_deref(),
            self.availability_zone_id.as_deref(),
        )?;
        let acl = vpc.default_acl;
        let id: SubnetId = state.fresh();
        let subnet = store::Subnet {
            vpc: vpc_id,
            zone,
            pool: Pool::new(net),
            map_public_ip: false,
            route_table: None,
            acl: (state.fresh(), acl),
        };
        state.subnets.insert(id, subnet);
        tag::put(state, id, tags);
        Ok(CreateSubnetResult {
            subnet: Some(view(state, id)),
        })
    }
}

impl Action for DeleteSubnetRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<Done> {
        let state = &mut *cx.state;
        let (id, _) = state.subnets.find(required(&self.subnet_id, "subnetId")?)?;
        let mut gateways = state.nat_gateways.values();
        if state.enis.values().any(|e| e.subnet == id)
            || gateways.any(|n| n.subnet == id && n.state != store::NatState::Deleted)
        {
            return Err(ApiError::dependency("subnet", id));
        }
        let reservations: Vec<ReservationId> = state
            .reservations
            .iter()
            .filter(|(_, r)| r.subnet == id)
            .map(|(k, _)| *k)
            .collect();
        for reservation in reservations {
            state.reservations.remove(&reservation);
            state.drop_tags(reservation);
        }
        state.subnets.remove(&id);
        state.drop_tags(id);
        Ok(Done::OK)
    }
}

impl Action for DescribeSubnetsRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<DescribeSubnetsResult> {
        let query = Query::new(&self.subnet_ids, &self.filters);
        let query = query.paged(self.max_results, &self.next_token);
        let (ids, next_token) = query.select(cx, &cx.state.subnets, FIELDS)?;
        let subnets = ids.into_iter().map(|id| view(cx.state, id)).collect();
        Ok(DescribeSubnetsResult {
            subnets,
            next_token,
        })
    }
}

impl Action for ModifySubnetAttributeRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<Done> {
        let (_, subnet) = cx
            .state
            .subnets
            .find_mut(required(&self.subnet_id, "subnetId")?)?;
        let wants = |value: &Option<AttributeBooleanValue>| {
            value.as_ref().is_some_and(|v| v.value == Some(true))
        };
        unmodelled(&[
            (
                wants(&self.assign_ipv6_address_on_creation),
                "AssignIpv6AddressOnCreation",
            ),
            (
                wants(&self.map_customer_owned_ip_on_launch),
                "MapCustomerOwnedIpOnLaunch",
            ),
            (wants(&self.enable_dns64), "EnableDns64"),
            (
                self.private_dns_hostname_type_on_launch.is_some(),
                "PrivateDnsHostnameTypeOnLaunch",
            ),
            (
                self.enable_lni_at_device_index.is_some(),
                "EnableLniAtDeviceIndex",
            ),
        ])?;
        if let Some(value) = self.map_public_ip_on_launch.as_ref().and_then(|v| v.value) {
            subnet.map_public_ip = value;
        }
        Ok(Done::OK)
    }
}
