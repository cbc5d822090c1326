//! NAT gateways, public and private. A gateway is an interface of its own in its subnet.

use ec2::types::*;

use super::{Action, Context, Field, Query, eni, one, opt, required, s, tag, unmodelled};
use crate::error::{ApiError, ApiResult};
use crate::ids::*;
use crate::store::{
    self, AddressAssociation, Change, EniKind, Holder, NatState, NewEni, State, Tracking, Wanted,
};

const FIELDS: &[Field<NatGatewayId, store::NatGateway>] = &[
    ("nat-gateway-id", |_, id, _| one(id)),
    ("subnet-id", |_, _, n| one(n.subnet)),
    ("vpc-id", |_, _, n| one(n.vpc)),
    ("state", |_, _, n| one(n.state.name())),
    ("connectivity-type", |_, _, n| one(connectivity(n))),
    ("allocation-id", |_, _, n| opt(n.elastic.map(|(id, _)| id))),
];

fn connectivity(nat: &store::NatGateway) -> &'static str {
    if nat.elastic.is_some() {
        "public"
    } else {
        "private"
    }
}

fn view(state: &State, id: NatGatewayId) -> NatGateway {
    let nat = &state.nat_gateways[&id];
    let association = nat
        .elastic
        .and_then(|(id, _)| state.addresses.get(&id)?.association);
    NatGateway {
        nat_gateway_id: s(id),
        subnet_id: s(nat.subnet),
        vpc_id: s(nat.vpc),
        state: s(nat.state.name()),
        connectivity_type: s(connectivity(nat)),
        create_time: Some(nat.created),
        delete_time: nat.deleted,
        nat_gateway_addresses: vec![NatGatewayAddress {
            allocation_id: nat.elastic.map(|(id, _)| id.to_string()),
            association_id: association.map(|a| a.id.to_string()),
            is_primary: Some(true),
            network_interface_id: s(nat.eni),
            private_ip: s(nat.private_ip),
            public_ip: nat.elastic.map(|(_, ip)| ip.to_string()),
            status: s("succeeded"),
            ..Default::default()
        }],
        tags: tag::list(state.tags_of(id)),
        ..Default::default()
    }
}

impl Action for CreateNatGatewayRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<CreateNatGatewayResult> {
        unmodelled(&[
            (
                !self.secondary_allocation_ids.is_empty(),
                "SecondaryAllocationId",
            ),
            (
                !self.secondary_private_ip_addresses.is_empty(),
                "SecondaryPrivateIpAddress",
            ),
            (
                self.secondary_private_ip_address_count.is_some(),
                "SecondaryPrivateIpAddressCount",
            ),
            (
                self.availability_mode
                    .as_deref()
                    .is_some_and(|m| m != "zonal"),
                "AvailabilityMode",
            ),
        ])?;
        let tags = tag::of_spec(&self.tag_specifications, "natgateway")?;
        let (subnet, record) = cx
            .state
            .subnets
            .find(required(&self.subnet_id, "subnetId")?)?;
        let vpc = record.vpc;
        let public = match self.connectivity_type.as_deref() {
            None | Some("public") => true,
            Some("private") => false,
            Some(other) => {
                return Err(ApiError::bad_value(
                    "connectivityType",
                    other,
                    "Unknown type.",
                ));
            }
        };
        let elastic = match (public, &self.allocation_id) {
            (true, None) => return Err(ApiError::missing("AllocationId")),
            (false, Some(_)) => {
                return Err(ApiError::combination(
                    "A private NAT gateway takes no allocation ID.",
                ));
            }
            (false, None) => None,
            (true, Some(text)) => {
                let (id, address) = cx.state.addresses.find(text)?;
                if address.association.is_some() {
                    return Err(ApiError::new(
                        "InvalidElasticIpID.InUse",
                        format_args!("Elastic IP address [{id}] is already associated"),
                    ));
                }
                let attached = |g: &store::InternetGateway| g.vpc == Some(vpc);
                if !cx.state.internet_gateways.values().any(attached) {
                    return Err(ApiError::new(
                        "Gateway.NotAttached",
                        format_args!("Network {vpc} has no Internet gateway attached"),
                    ));
                }
                Some((id, address.public_ip))
            }
        };
        let primary = self.private_ip_address.as_deref();
        let primary = primary
            .map(|t| eni::address(t, "privateIpAddress"))
            .transpose()?;
        let state = &mut *cx.state;
        let id: NatGatewayId = state.fresh();
        let eni = state.make_eni(NewEni {
            kind: EniKind::NatGateway,
            subnet,
            description: format!("Interface for NAT Gateway {id}"),
            groups: Vec::new(),
            primary,
            wanted: Wanted::default(),
            tracking: Tracking::default(),
            requester: Some("amazon-nat-gateway".into()),
        })?;
        let (host, owner) = (id.to_string(), "amazon-aws".to_owned());
        let holder = Holder::Managed {
            host,
            device: 0,
            owner,
        };
        state.attach(eni, holder, true, cx.now, 0);
        let private_ip = state.enis[&eni].primary;
        if let Some((allocation, _)) = elastic {
            let association = AddressAssociation {
                id: state.fresh(),
                eni,
                private_ip,
            };
            if let Some(address) = state.addresses.get_mut(&allocation) {
                address.association = Some(association);
            }
        }
        let nat = store::NatGateway {
            vpc,
            subnet,
            eni,
            private_ip,
            elastic,
            state: NatState::Pending,
            created: cx.now,
            deleted: None,
        };
        state.nat_gateways.insert(id, nat);
        tag::put(state, id, tags);
        state.schedule(cx.now, state.config.timing.nat, Change::NatAvailable(id));
        Ok(CreateNatGatewayResult {
            nat_gateway: Some(view(state, id)),
            client_token: self.client_token.clone(),
        })
    }
}

impl Action for DeleteNatGatewayRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<DeleteNatGatewayResult> {
        let text = required(&self.nat_gateway_id, "natGatewayId")?;
        let (id, nat) = cx.state.nat_gateways.find_mut(text)?;
        if !matches!(nat.state, NatState::Deleting | NatState::Deleted) {
            nat.state = NatState::Deleting;
            nat.deleted = Some(cx.now);
            cx.state
                .schedule(cx.now, cx.state.config.timing.nat, Change::NatDeleted(id));
        }
        Ok(DeleteNatGatewayResult {
            nat_gateway_id: s(id),
        })
    }
}

impl Action for DescribeNatGatewaysRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<DescribeNatGatewaysResult> {
        let query = Query::new(&self.nat_gateway_ids, &self.filter);
        let query = query.paged(self.max_results, &self.next_token);
        let (ids, next_token) = query.select(cx, &cx.state.nat_gateways, FIELDS)?;
        let nat_gateways = ids.into_iter().map(|id| view(cx.state, id)).collect();
        Ok(DescribeNatGatewaysResult {
            nat_gateways,
            next_token,
        })
    }
}
