//! Internet gateways.

use ec2::types::*;

use super::{Action, Context, Field, Query, one, opt, required, s, tag};
use crate::error::{ApiError, ApiResult};
use crate::ids::*;
use crate::store::{self, State};

const FIELDS: &[Field<InternetGatewayId, store::InternetGateway>] = &[
    ("internet-gateway-id", |_, id, _| one(id)),
    ("attachment.vpc-id", |_, _, g| opt(g.vpc)),
    ("attachment.state", |_, _, g| {
        opt(g.vpc.map(|_| "available"))
    }),
    ("owner-id", |s, _, _| one(&s.config.account)),
];

fn view(state: &State, id: InternetGatewayId) -> InternetGateway {
    let attachment = |vpc: VpcId| InternetGatewayAttachment {
        state: s("available"),
        vpc_id: s(vpc),
    };
    InternetGateway {
        internet_gateway_id: s(id),
        attachments: state.internet_gateways[&id]
            .vpc
            .map(attachment)
            .into_iter()
            .collect(),
        owner_id: s(&state.config.account),
        tags: tag::list(state.tags_of(id)),
    }
}

impl Action for CreateInternetGatewayRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<CreateInternetGatewayResult> {
        let tags = tag::of_spec(&self.tag_specifications, "internet-gateway")?;
        let id: InternetGatewayId = cx.state.fresh();
        cx.state
            .internet_gateways
            .insert(id, store::InternetGateway::default());
        tag::put(cx.state, id, tags);
        Ok(CreateInternetGatewayResult {
            internet_gateway: Some(view(cx.state, id)),
        })
    }
}

impl Action for AttachInternetGatewayRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<Done> {
        let gateways = &cx.state.internet_gateways;
        let (id, gateway) =
            gateways.find(required(&self.internet_gateway_id, "internetGatewayId")?)?;
        let (vpc, _) = cx.state.vpcs.find(required(&self.vpc_id, "vpcId")?)?;
        if gateway.vpc.is_some() {
            return Err(ApiError::new(
                "Resource.AlreadyAssociated",
                format_args!("resource {id} is already attached to network {vpc}"),
            ));
        }
        if gateways.values().any(|g| g.vpc == Some(vpc)) {
            return Err(ApiError::value(format_args!(
                "Network {vpc} already has an internet gateway attached"
            )));
        }
        cx.state
            .internet_gateways
            .insert(id, store::InternetGateway { vpc: Some(vpc) });
        Ok(Done::OK)
    }
}

impl Action for DetachInternetGatewayRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<Done> {
        let gateways = &cx.state.internet_gateways;
        let (id, gateway) =
            gateways.find(required(&self.internet_gateway_id, "internetGatewayId")?)?;
        let (vpc, _) = cx.state.vpcs.find(required(&self.vpc_id, "vpcId")?)?;
        if gateway.vpc != Some(vpc) {
            return Err(ApiError::new(
                "Gateway.NotAttached",
                format_args!("resource {id} is not attached to network {vpc}"),
            ));
        }
        let mapped = |e: &store::Eni| e.vpc == vpc && e.auto_public.is_some();
        let associated = cx
            .state
            .addresses
            .values()
            .filter_map(|a| a.association.as_ref());
        if cx.state.enis.values().any(mapped)
            || associated
                .into_iter()
                .any(|a| cx.state.enis[&a.eni].vpc == vpc)
        {
            return Err(ApiError::new(
                "DependencyViolation",
                format_args!(
                    "Network {vpc} has some mapped public address(es). Please unmap those public \
                     address(es) before detaching the gateway."
                ),
            ));
        }
        cx.state
            .internet_gateways
            .insert(id, store::InternetGateway::default());
        Ok(Done::OK)
    }
}

impl Action for DeleteInternetGatewayRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<Done> {
        let gateways = &cx.state.internet_gateways;
        let (id, gateway) =
            gateways.find(required(&self.internet_gateway_id, "internetGatewayId")?)?;
        if gateway.vpc.is_some() {
            return Err(ApiError::dependency("internetGateway", id));
        }
        cx.state.internet_gateways.remove(&id);
        cx.state.drop_tags(id);
        Ok(Done::OK)
    }
}

impl Action for DescribeInternetGatewaysRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<DescribeInternetGatewaysResult> {
        let query = Query::new(&self.internet_gateway_ids, &self.filters);
        let query = query.paged(self.max_results, &self.next_token);
        let (ids, next_token) = query.select(cx, &cx.state.internet_gateways, FIELDS)?;
        let internet_gateways = ids.into_iter().map(|id| view(cx.state, id)).collect();
        Ok(DescribeInternetGatewaysResult {
            internet_gateways,
            next_token,
        })
    }
}
