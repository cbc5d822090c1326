//! Destinations and targets of routes: reading requests, checking, showing.

use ec2::types::*;

use super::s;
use super::vpc::cidr;
use crate::error::{ApiError, ApiResult};
use crate::ids::*;
use crate::store::{Destination, NatState, PRIMARY, PeeringState, State, Target};

/// The targets of a request, by the parameters that EC2 has for them.
#[derive(Default)]
struct Targets<'r> {
    gateway: Option<&'r str>,
    nat: Option<&'r str>,
    eni: Option<&'r str>,
    instance: Option<&'r str>,
    peering: Option<&'r str>,
    others: Vec<(&'static str, &'r str)>,
}

pub(super) fn destination(
    state: &State,
    v4: Option<&str>,
    v6: Option<&str>,
    list: Option<&str>,
) -> ApiResult<Destination> {
    match (v4, v6, list) {
        (Some(text), None, None) => Ok(Destination::V4(cidr(text, "destinationCidrBlock")?)),
        (None, Some(text), None) => super::parse(text, "destinationIpv6CidrBlock", "an IPv6 CIDR")
            .map(|net: ipnet::Ipv6Net| Destination::V6(net.trunc())),
        (None, None, Some(text)) => Ok(Destination::List(state.prefix_lists.find(text)?.0)),
        (None, None, None) => Err(ApiError::missing("destinationCidrBlock")),
        _ => Err(ApiError::combination(
            "A route has exactly one destination.",
        )),
    }
}

fn target(state: &State, vpc: VpcId, targets: &Targets<'_>) -> ApiResult<Target> {
    let given = [
        targets.gateway,
        targets.nat,
        targets.eni,
        targets.instance,
        targets.peering,
    ];
    let count = given.iter().flatten().count() + targets.others.len();
    if count == 0 {
        return Err(ApiError::missing("gatewayId"));
    }
    if count > 1 {
        return Err(ApiError::combination("A route has exactly one target."));
    }
    if let Some(text) = targets.gateway {
        if text == "local" {
            return Err(ApiError::value("local routes come with the route table"));
        }
        if text.starts_with("igw-") {
            let (id, gateway) = state.internet_gateways.find(text)?;
            if gateway.vpc != Some(vpc) {
                return Err(other_network("route table", "internet gateway", id));
            }
            return Ok(Target::Internet(id));
        }
        return Ok(Target::Other {
            parameter: "GatewayId",
            id: text.to_owned(),
        });
    }
    if let Some(text) = targets.nat {
        let (id, nat) = state.nat_gateways.find(text)?;
        if nat.vpc != vpc {
            return Err(other_network("route table", "NAT gateway", id));
        }
        return Ok(Target::Nat(id));
    }
    if let Some(text) = targets.eni {
        let (id, eni) = state.enis.find(text)?;
        if eni.vpc != vpc {
            return Err(other_network("route table", "interface", id));
        }
        return Ok(Target::Eni(id));
    }
    if let Some(text) = targets.instance {
        let (id, instance) = state.instances.find(text)?;
        return match (instance.enis.get(&PRIMARY), instance.enis.len()) {
            (Some(eni), 1) => Ok(Target::Eni(*eni)),
            _ => Err(ApiError::new(
                "InvalidInstanceID",
                format_args!(
                    "There are multiple interfaces attached to instance '{id}'. Please specify an \
                     interface ID for the operation instead."
                ),
            )),
        };
    }
    if let Some(text) = targets.peering {
        let (id, peering) = state.peerings.find(text)?;
        if peering.requester != vpc && peering.accepter != vpc {
            return Err(other_network("route table", "peering connection", id));
        }
        return Ok(Target::Peering(id));
    }
    let (parameter, id) = targets.others[0];
    Ok(Target::Other {
        parameter,
        id: id.to_owned(),
    })
}

fn other_network(a: &str, b: &str, id: impl std::fmt::Display) -> ApiError {
    ApiError::value(format_args!(
        "{a} and {b} {id} belong to different networks"
    ))
}

fn others<'r>(pairs: [(&'static str, &'r Option<String>); 7]) -> Vec<(&'static str, &'r str)> {
    pairs
        .into_iter()
        .filter_map(|(name, id)| Some((name, id.as_deref()?)))
        .collect()
}

/// From a CreateRoute or a ReplaceRoute, whose members have the same names.
macro_rules! targets {
    ($request:expr) => {
        Targets {
            gateway: $request.gateway_id.as_deref(),
            nat: $request.nat_gateway_id.as_deref(),
            eni: $request.network_interface_id.as_deref(),
            instance: $request.instance_id.as_deref(),
            peering: $request.vpc_peering_connection_id.as_deref(),
            others: others([
                ("TransitGatewayId", &$request.transit_gateway_id),
                ("VpcEndpointId", &$request.vpc_endpoint_id),
                (
                    "EgressOnlyInternetGatewayId",
                    &$request.egress_only_internet_gateway_id,
                ),
                ("LocalGatewayId", &$request.local_gateway_id),
                ("CarrierGatewayId", &$request.carrier_gateway_id),
                ("CoreNetworkArn", &$request.core_network_arn),
                ("OdbNetworkArn", &$request.odb_network_arn),
            ]),
        }
    };
}

/// Destination and target of a CreateRoute, and the VPC of its table.
pub(super) fn of_create(
    state: &State,
    r: &CreateRouteRequest,
) -> ApiResult<(VpcId, Destination, Target)> {
    let table = super::required(&r.route_table_id, "routeTableId")?;
    let vpc = state.route_tables.find(table)?.1.vpc;
    let to = destination(
        state,
        r.destination_cidr_block.as_deref(),
        r.destination_ipv6_cidr_block.as_deref(),
        r.destination_prefix_list_id.as_deref(),
    )?;
    let targets = targets!(r);
    Ok((vpc, to, target(state, vpc, &targets)?))
}

/// Destination and target of a ReplaceRoute; no target: back to `local`.
pub(super) fn of_replace(
    state: &State,
    r: &ReplaceRouteRequest,
) -> ApiResult<(VpcId, Destination, Option<Target>)> {
    let table = super::required(&r.route_table_id, "routeTableId")?;
    let vpc = state.route_tables.find(table)?.1.vpc;
    let to = destination(
        state,
        r.destination_cidr_block.as_deref(),
        r.destination_ipv6_cidr_block.as_deref(),
        r.destination_prefix_list_id.as_deref(),
    )?;
    if r.local_target == Some(true) {
        return Ok((vpc, to, None));
    }
    let targets = targets!(r);
    let via = target(state, vpc, &targets)?;
    Ok((vpc, to, Some(via)))
}

/// A route inside the VPC's own ranges may only be a whole subnet's, to an interface or a NAT
/// gateway. Source: VPC user guide, "Route priority".
pub(super) fn check_local(
    state: &State,
    vpc: VpcId,
    to: &Destination,
    via: &Target,
) -> ApiResult<()> {
    let Destination::V4(net) = to else {
        return Ok(());
    };
    let record = &state.vpcs[&vpc];
    if record.cidrs.iter().any(|(_, own)| own == net) {
        return Err(ApiError::new(
            "RouteAlreadyExists",
            format_args!("The route identified by {net} already exists."),
        ));
    }
    if !record.cidrs.iter().any(|(_, own)| own.contains(net)) {
        return Ok(());
    }
    let subnet = state
        .subnets
        .values()
        .any(|n| n.vpc == vpc && n.pool.cidr() == *net);
    match via {
        Target::Eni(_) | Target::Nat(_) | Target::Other { .. } if subnet => Ok(()),
        _ => Err(ApiError::value(format_args!(
            "The destination CIDR block {net} is equal to or more specific than one of this VPC's CIDR \
             blocks. This route can target only an interface or an instance, and must be a subnet's."
        ))),
    }
}

/// Whether the target of a route can take packets.
fn active(state: &State, vpc: VpcId, via: &Target) -> bool {
    match via {
        Target::Internet(id) => state
            .internet_gateways
            .get(id)
            .is_some_and(|g| g.vpc == Some(vpc)),
        Target::Nat(id) => {
            let gone = [NatState::Deleting, NatState::Deleted];
            state
                .nat_gateways
                .get(id)
                .is_some_and(|n| !gone.contains(&n.state))
        }
        Target::Eni(id) => state.enis.get(id).is_some_and(|e| e.held().is_some()),
        Target::Peering(id) => state
            .peerings
            .get(id)
            .is_some_and(|p| p.state == PeeringState::Active),
        Target::Other { .. } => true,
    }
}

pub(super) fn route_view(state: &State, vpc: VpcId, to: &Destination, via: &Target) -> Route {
    let mut route = Route {
        origin: s("CreateRoute"),
        state: s(if active(state, vpc, via) {
            "active"
        } else {
            "blackhole"
        }),
        ..Default::default()
    };
    match to {
        Destination::V4(net) => route.destination_cidr_block = s(net),
        Destination::V6(net) => route.destination_ipv6_cidr_block = s(net),
        Destination::List(id) => route.destination_prefix_list_id = s(id),
    }
    match via {
        Target::Internet(id) => route.gateway_id = s(id),
        Target::Nat(id) => route.nat_gateway_id = s(id),
        Target::Peering(id) => route.vpc_peering_connection_id = s(id),
        Target::Eni(id) => {
            route.network_interface_id = s(id);
            if let Some((instance, _)) = state.enis.get(id).and_then(|e| e.instance()) {
                route.instance_id = s(instance);
                route.instance_owner_id = s(&state.config.account);
            }
        }
        Target::Other { parameter, id } => {
            let member = match *parameter {
                "TransitGatewayId" => &mut route.transit_gateway_id,
                "EgressOnlyInternetGatewayId" => &mut route.egress_only_internet_gateway_id,
                "LocalGatewayId" => &mut route.local_gateway_id,
                "CarrierGatewayId" => &mut route.carrier_gateway_id,
                "CoreNetworkArn" => &mut route.core_network_arn,
                "OdbNetworkArn" => &mut route.odb_network_arn,
                _ => &mut route.gateway_id,
            };
            *member = s(id);
        }
    }
    route
}
