//! VPC peering connections. Both sides are of this account and region.

use ec2::types::*;
use ipnet::Ipv4Net;

use super::vpc::overlap;
use super::{Action, Context, Field, Query, one, required, s, tag};
use crate::error::{ApiError, ApiResult};
use crate::ids::*;
use crate::store::{Change, Peering, PeeringState, State};

const FIELDS: &[Field<PeeringId, Peering>] = &[
    ("vpc-peering-connection-id", |_, id, _| one(id)),
    ("requester-vpc-info.vpc-id", |_, _, p| one(p.requester)),
    ("accepter-vpc-info.vpc-id", |_, _, p| one(p.accepter)),
    ("requester-vpc-info.owner-id", |s, _, _| {
        one(&s.config.account)
    }),
    ("accepter-vpc-info.owner-id", |s, _, _| {
        one(&s.config.account)
    }),
    ("requester-vpc-info.cidr-block", |_, _, p| texts(&p.cidrs.0)),
    ("accepter-vpc-info.cidr-block", |_, _, p| texts(&p.cidrs.1)),
    ("status-code", |_, _, p| one(p.state.code().0)),
    ("status-message", |_, _, p| one(p.state.code().1)),
];

fn texts(nets: &[Ipv4Net]) -> Vec<String> {
    nets.iter().map(ToString::to_string).collect()
}

fn cidrs(state: &State, vpc: VpcId) -> Vec<Ipv4Net> {
    state
        .vpcs
        .get(&vpc)
        .into_iter()
        .flat_map(|v| v.cidrs.iter().map(|(_, net)| *net))
        .collect()
}

fn side(state: &State, vpc: VpcId, kept: &[Ipv4Net]) -> VpcPeeringConnectionVpcInfo {
    let now = cidrs(state, vpc);
    let nets = if now.is_empty() { kept } else { &now };
    VpcPeeringConnectionVpcInfo {
        vpc_id: s(vpc),
        owner_id: s(&state.config.account),
        region: s(&state.config.region),
        cidr_block: nets.first().map(ToString::to_string),
        cidr_block_set: nets
            .iter()
            .map(|n| CidrBlock { cidr_block: s(n) })
            .collect(),
        peering_options: Some(VpcPeeringConnectionOptionsDescription {
            allow_dns_resolution_from_remote_vpc: Some(false),
            allow_egress_from_local_classic_link_to_remote_vpc: Some(false),
            allow_egress_from_local_vpc_to_remote_classic_link: Some(false),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn view(state: &State, id: PeeringId) -> VpcPeeringConnection {
    let peering = &state.peerings[&id];
    let (code, message) = peering.state.code();
    VpcPeeringConnection {
        vpc_peering_connection_id: s(id),
        requester_vpc_info: Some(side(state, peering.requester, &peering.cidrs.0)),
        accepter_vpc_info: Some(side(state, peering.accepter, &peering.cidrs.1)),
        status: Some(VpcPeeringConnectionStateReason {
            code: s(code),
            message: s(message),
        }),
        tags: tag::list(state.tags_of(id)),
        ..Default::default()
    }
}

impl Action for CreateVpcPeeringConnectionRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<CreateVpcPeeringConnectionResult> {
        let tags = tag::of_spec(&self.tag_specifications, "vpc-peering-connection")?;
        let state = &mut *cx.state;
        let other_region = self
            .peer_region
            .as_ref()
            .filter(|r| **r != state.config.region);
        let other_owner = self
            .peer_owner_id
            .as_ref()
            .filter(|o| **o != state.config.account);
        if other_region.is_some() || other_owner.is_some() {
            return Err(ApiError::unsupported(
                "Peering with another region or account",
            ));
        }
        let (requester, _) = state.vpcs.find(required(&self.vpc_id, "vpcId")?)?;
        let (accepter, _) = state.vpcs.find(required(&self.peer_vpc_id, "peerVpcId")?)?;
        if requester == accepter {
            return Err(ApiError::value("A VPC cannot be peered with itself."));
        }
        let live = |p: &&Peering| {
            matches!(
                p.state,
                PeeringState::Active | PeeringState::PendingAcceptance
            )
        };
        if state
            .peerings
            .values()
            .filter(live)
            .any(|p| p.joins(requester, accepter))
        {
            return Err(ApiError::new(
                "VpcPeeringConnectionAlreadyExists",
                format_args!(
                    "There is already a peering connection between {requester} and {accepter}."
                ),
            ));
        }
        let (own, theirs) = (cidrs(state, requester), cidrs(state, accepter));
        if own.iter().any(|a| theirs.iter().any(|b| overlap(*a, *b))) {
            return Err(ApiError::not_permitted(format_args!(
                "The CIDR blocks of {requester} and {accepter} overlap."
            )));
        }
        let id: PeeringId = state.fresh();
        let peering = Peering {
            requester,
            accepter,
            state: PeeringState::PendingAcceptance,
            cidrs: (own, theirs),
        };
        state.peerings.insert(id, peering);
        tag::put(state, id, tags);
        Ok(CreateVpcPeeringConnectionResult {
            vpc_peering_connection: Some(view(state, id)),
        })
    }
}

/// A peering that still waits for its accepter.
fn pending<'s>(
    state: &'s mut State,
    text: &Option<String>,
) -> ApiResult<(PeeringId, &'s mut Peering)> {
    let (id, peering) = state
        .peerings
        .find_mut(required(text, "vpcPeeringConnectionId")?)?;
    match peering.state {
        PeeringState::PendingAcceptance => Ok((id, peering)),
        other => Err(ApiError::new(
            "InvalidStateTransition",
            format_args!(
                "The peering connection {id} is {}, not pending acceptance.",
                other.code().0
            ),
        )),
    }
}

impl Action for AcceptVpcPeeringConnectionRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<AcceptVpcPeeringConnectionResult> {
        let (id, peering) = pending(cx.state, &self.vpc_peering_connection_id)?;
        peering.state = PeeringState::Active;
        Ok(AcceptVpcPeeringConnectionResult {
            vpc_peering_connection: Some(view(cx.state, id)),
        })
    }
}

fn end(cx: &mut Context<'_>, id: PeeringId, to: PeeringState) {
    if let Some(peering) = cx.state.peerings.get_mut(&id) {
        peering.state = to;
    }
    cx.state.schedule(
        cx.now,
        cx.state.config.timing.gone_shown,
        Change::PeeringGone(id),
    );
}

impl Action for RejectVpcPeeringConnectionRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<RejectVpcPeeringConnectionResult> {
        let (id, _) = pending(cx.state, &self.vpc_peering_connection_id)?;
        end(cx, id, PeeringState::Rejected);
        Ok(RejectVpcPeeringConnectionResult {
            return_: Some(true),
        })
    }
}

impl Action for DeleteVpcPeeringConnectionRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<DeleteVpcPeeringConnectionResult> {
        let text = required(&self.vpc_peering_connection_id, "vpcPeeringConnectionId")?;
        let (id, peering) = cx.state.peerings.find(text)?;
        if matches!(
            peering.state,
            PeeringState::Deleted | PeeringState::Rejected
        ) {
            return Err(ApiError::new(
                "InvalidStateTransition",
                format_args!("The peering connection {id} is {}.", peering.state.code().0),
            ));
        }
        end(cx, id, PeeringState::Deleted);
        Ok(DeleteVpcPeeringConnectionResult {
            return_: Some(true),
        })
    }
}

impl Action for DescribeVpcPeeringConnectionsRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<DescribeVpcPeeringConnectionsResult> {
        let query = Query::new(&self.vpc_peering_connection_ids, &self.filters);
        let query = query.paged(self.max_results, &self.next_token);
        let (ids, next_token) = query.select(cx, &cx.state.peerings, FIELDS)?;
        let vpc_peering_connections = ids.into_iter().map(|id| view(cx.state, id)).collect();
        Ok(DescribeVpcPeeringConnectionsResult {
            vpc_peering_connections,
            next_token,
        })
    }
}
