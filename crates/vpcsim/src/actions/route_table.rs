//! Route tables and their associations with subnets.

use std::collections::BTreeMap;

use ec2::types::*;

use super::route::{self, route_view};
use super::{Action, Context, Field, Query, one, required, s, tag, unmodelled};
use crate::error::{ApiError, ApiResult};
use crate::ids::{PrefixListId, *};
use crate::page::Sizes;
use crate::store::{self, Destination, State};

const FIELDS: &[Field<RouteTableId, store::RouteTable>] = &[
    ("route-table-id", |_, id, _| one(id)),
    ("vpc-id", |_, _, t| one(t.vpc)),
    ("owner-id", |s, _, _| one(&s.config.account)),
    ("association.main", |_, _, t| one(t.main.is_some())),
    ("association.route-table-association-id", |s, id, t| {
        let explicit = explicit(s, id).map(|(a, _)| a.to_string());
        t.main
            .map(|a| a.to_string())
            .into_iter()
            .chain(explicit)
            .collect()
    }),
    ("association.route-table-id", |s, id, t| {
        let used = t.main.is_some() || explicit(s, id).next().is_some();
        if used { one(id) } else { Vec::new() }
    }),
    ("association.subnet-id", |s, id, _| {
        explicit(s, id).map(|(_, n)| n.to_string()).collect()
    }),
    ("association.gateway-id", |_, _, _| Vec::new()),
    ("route.destination-cidr-block", |s, id, _| {
        of_routes(s, id, |r| r.destination_cidr_block)
    }),
    ("route.destination-prefix-list-id", |s, id, _| {
        of_routes(s, id, |r| r.destination_prefix_list_id)
    }),
    ("route.destination-ipv6-cidr-block", |s, id, _| {
        of_routes(s, id, |r| r.destination_ipv6_cidr_block)
    }),
    ("route.gateway-id", |s, id, _| {
        of_routes(s, id, |r| r.gateway_id)
    }),
    ("route.nat-gateway-id", |s, id, _| {
        of_routes(s, id, |r| r.nat_gateway_id)
    }),
    ("route.instance-id", |s, id, _| {
        of_routes(s, id, |r| r.instance_id)
    }),
    ("route.transit-gateway-id", |s, id, _| {
        of_routes(s, id, |r| r.transit_gateway_id)
    }),
    ("route.vpc-peering-connection-id", |s, id, _| {
        of_routes(s, id, |r| r.vpc_peering_connection_id)
    }),
    ("route.origin", |s, id, _| of_routes(s, id, |r| r.origin)),
    ("route.state", |s, id, _| of_routes(s, id, |r| r.state)),
];

fn of_routes(state: &State, id: RouteTableId, f: fn(Route) -> Option<String>) -> Vec<String> {
    routes(state, &state.route_tables[&id])
        .into_iter()
        .filter_map(f)
        .collect()
}

/// The subnets that name a table.
fn explicit(
    state: &State,
    table: RouteTableId,
) -> impl Iterator<Item = (RouteAssociationId, SubnetId)> {
    state.subnets.iter().filter_map(move |(id, subnet)| {
        let (association, own) = subnet.route_table?;
        (own == table).then_some((association, *id))
    })
}

/// All routes, the local ones first: they follow from the VPC's CIDRs.
fn routes(state: &State, table: &store::RouteTable) -> Vec<Route> {
    let local = state.vpcs[&table.vpc].cidrs.iter().map(|(_, net)| Route {
        destination_cidr_block: s(net),
        gateway_id: s("local"),
        origin: s("CreateRouteTable"),
        state: s("active"),
        ..Default::default()
    });
    let replaced = |net: &Option<String>| table.routes.keys().any(|d| Some(d.to_string()) == *net);
    let own = table
        .routes
        .iter()
        .map(|(to, via)| route_view(state, table.vpc, to, via));
    local
        .filter(|r| !replaced(&r.destination_cidr_block))
        .chain(own)
        .collect()
}

fn associated() -> Option<RouteTableAssociationState> {
    Some(RouteTableAssociationState {
        state: s("associated"),
        status_message: None,
    })
}

fn view(state: &State, id: RouteTableId) -> RouteTable {
    let table = &state.route_tables[&id];
    let association =
        |association: RouteAssociationId, subnet: Option<SubnetId>| RouteTableAssociation {
            route_table_association_id: s(association),
            route_table_id: s(id),
            main: Some(subnet.is_none()),
            subnet_id: subnet.map(|n| n.to_string()),
            association_state: associated(),
            ..Default::default()
        };
    let main = table.main.map(|a| association(a, None));
    RouteTable {
        route_table_id: s(id),
        vpc_id: s(table.vpc),
        owner_id: s(&state.config.account),
        associations: main
            .into_iter()
            .chain(explicit(state, id).map(|(a, n)| association(a, Some(n))))
            .collect(),
        routes: routes(state, table),
        tags: tag::list(state.tags_of(id)),
        ..Default::default()
    }
}

impl Action for CreateRouteTableRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<CreateRouteTableResult> {
        let tags = tag::of_spec(&self.tag_specifications, "route-table")?;
        let (vpc, _) = cx.state.vpcs.find(required(&self.vpc_id, "vpcId")?)?;
        let id: RouteTableId = cx.state.fresh();
        let table = store::RouteTable {
            vpc,
            main: None,
            routes: BTreeMap::new(),
        };
        cx.state.route_tables.insert(id, table);
        tag::put(cx.state, id, tags);
        Ok(CreateRouteTableResult {
            route_table: Some(view(cx.state, id)),
            client_token: self.client_token.clone(),
        })
    }
}

impl Action for DeleteRouteTableRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<Done> {
        let text = required(&self.route_table_id, "routeTableId")?;
        let (id, table) = cx.state.route_tables.find(text)?;
        if table.main.is_some() || explicit(cx.state, id).next().is_some() {
            return Err(ApiError::dependency("routeTable", id));
        }
        cx.state.route_tables.remove(&id);
        cx.state.drop_tags(id);
        Ok(Done::OK)
    }
}

impl Action for DescribeRouteTablesRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<DescribeRouteTablesResult> {
        let query = Query::new(&self.route_table_ids, &self.filters).sizes(Sizes(5, 100));
        let query = query.paged(self.max_results, &self.next_token);
        let (ids, next_token) = query.select(cx, &cx.state.route_tables, FIELDS)?;
        let route_tables = ids.into_iter().map(|id| view(cx.state, id)).collect();
        Ok(DescribeRouteTablesResult {
            route_tables,
            next_token,
        })
    }
}

impl Action for AssociateRouteTableRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<AssociateRouteTableResult> {
        unmodelled(&[
            (self.gateway_id.is_some(), "GatewayId"),
            (self.public_ipv4_pool.is_some(), "PublicIpv4Pool"),
        ])?;
        let state = &mut *cx.state;
        let text = required(&self.route_table_id, "routeTableId")?;
        let (table_id, table) = state.route_tables.find(text)?;
        let (subnet_id, subnet) = state.subnets.find(required(&self.subnet_id, "subnetId")?)?;
        if table.vpc != subnet.vpc {
            return Err(ApiError::value(format_args!(
                "Route table {table_id} and network {subnet_id} belong to different networks"
            )));
        }
        let association = match subnet.route_table {
            Some((association, own)) if own == table_id => association,
            Some((_, own)) => {
                return Err(ApiError::new(
                    "Resource.AlreadyAssociated",
                    format_args!(
                        "the specified association for route table {own} conflicts with an existing \
                         association"
                    ),
                ));
            }
            None => state.fresh(),
        };
        if let Some(subnet) = state.subnets.get_mut(&subnet_id) {
            subnet.route_table = Some((association, table_id));
        }
        Ok(AssociateRouteTableResult {
            association_id: s(association),
            association_state: associated(),
        })
    }
}

/// What a route table association is: a VPC's main one, or a subnet's.
enum Association {
    Main(VpcId),
    Subnet(SubnetId),
}

fn find_association(state: &State, text: &str) -> ApiResult<Association> {
    let id: RouteAssociationId = text.parse()?;
    let is_own = |n: &store::Subnet| n.route_table.is_some_and(|(a, _)| a == id);
    if let Some((subnet, _)) = state.subnets.iter().find(|(_, n)| is_own(n)) {
        return Ok(Association::Subnet(*subnet));
    }
    let main = state.route_tables.values().find(|t| t.main == Some(id));
    main.map(|t| Association::Main(t.vpc))
        .ok_or_else(|| RouteAssociationId::not_found(text))
}

impl Action for DisassociateRouteTableRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<Done> {
        let text = required(&self.association_id, "associationId")?;
        match find_association(cx.state, text)? {
            Association::Main(_) => Err(ApiError::value(format_args!(
                "cannot disassociate the main route table association {text}"
            ))),
            Association::Subnet(id) => {
                if let Some(subnet) = cx.state.subnets.get_mut(&id) {
                    subnet.route_table = None;
                }
                Ok(Done::OK)
            }
        }
    }
}

impl Action for ReplaceRouteTableAssociationRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<ReplaceRouteTableAssociationResult> {
        let state = &mut *cx.state;
        let association =
            find_association(state, required(&self.association_id, "associationId")?)?;
        let text = required(&self.route_table_id, "routeTableId")?;
        let (table_id, table) = state.route_tables.find(text)?;
        let vpc = match association {
            Association::Main(vpc) => vpc,
            Association::Subnet(subnet) => state.subnets[&subnet].vpc,
        };
        if table.vpc != vpc {
            return Err(ApiError::value(format_args!(
                "Route table {table_id} does not belong to the network {vpc}"
            )));
        }
        let fresh: RouteAssociationId = state.fresh();
        match association {
            Association::Subnet(subnet) => {
                if let Some(subnet) = state.subnets.get_mut(&subnet) {
                    subnet.route_table = Some((fresh, table_id));
                }
            }
            Association::Main(vpc) => {
                let tables = state.route_tables.iter_mut().filter(|(_, t)| t.vpc == vpc);
                for (id, table) in tables {
                    table.main = (*id == table_id).then_some(fresh);
                }
                if let Some(vpc) = state.vpcs.get_mut(&vpc) {
                    vpc.main_route_table = table_id;
                }
            }
        }
        Ok(ReplaceRouteTableAssociationResult {
            new_association_id: s(fresh),
            association_state: associated(),
        })
    }
}

/// Static routes of a table, to be changed.
fn table_mut<'s>(
    state: &'s mut State,
    id: &Option<String>,
) -> ApiResult<(RouteTableId, &'s mut store::RouteTable)> {
    state.route_tables.find_mut(required(id, "routeTableId")?)
}

impl Action for CreateRouteRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<CreateRouteResult> {
        let (vpc, to, via) = route::of_create(cx.state, self)?;
        let limit = cx.state.config.quotas.routes_per_table;
        let (_, table) = table_mut(cx.state, &self.route_table_id)?;
        match table.routes.get(&to) {
            // EC2 takes the same route again as done, another one as a conflict.
            Some(known) if *known == via => {
                return Ok(CreateRouteResult {
                    return_: Some(true),
                });
            }
            Some(_) => {
                return Err(ApiError::new(
                    "RouteAlreadyExists",
                    format_args!("The route identified by {to} already exists."),
                ));
            }
            None if table.routes.len() >= limit => {
                return Err(ApiError::new(
                    "RouteLimitExceeded",
                    format_args!("The maximum number of routes has been reached: {limit}."),
                ));
            }
            None => {}
        }
        route::check_local(cx.state, vpc, &to, &via)?;
        let (_, table) = table_mut(cx.state, &self.route_table_id)?;
        table.routes.insert(to, via);
        Ok(CreateRouteResult {
            return_: Some(true),
        })
    }
}

impl Action for ReplaceRouteRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<Done> {
        let (vpc, to, via) = route::of_replace(cx.state, self)?;
        if let Some(via) = &via {
            route::check_local(cx.state, vpc, &to, via)?;
        }
        let (id, table) = table_mut(cx.state, &self.route_table_id)?;
        if table.routes.remove(&to).is_none() {
            return Err(no_route(&to, id));
        }
        if let Some(via) = via {
            table.routes.insert(to, via);
        }
        Ok(Done::OK)
    }
}

fn no_route(to: &Destination, table: RouteTableId) -> ApiError {
    ApiError::new(
        "InvalidRoute.NotFound",
        format_args!("no route with destination-cidr-block {to} in route table {table}"),
    )
}

impl Action for DeleteRouteRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<Done> {
        let to = route::destination(
            cx.state,
            self.destination_cidr_block.as_deref(),
            self.destination_ipv6_cidr_block.as_deref(),
            self.destination_prefix_list_id.as_deref(),
        )?;
        let vpc = table_mut(cx.state, &self.route_table_id)?.1.vpc;
        let local = cx.state.vpcs[&vpc]
            .cidrs
            .iter()
            .any(|(_, net)| Destination::V4(*net) == to);
        let (id, table) = table_mut(cx.state, &self.route_table_id)?;
        if table.routes.remove(&to).is_none() {
            return Err(match local {
                true => ApiError::value(format_args!(
                    "cannot remove local route {to} in route table {id}"
                )),
                false => no_route(&to, id),
            });
        }
        Ok(Done::OK)
    }
}

/// Whether a route has this prefix list as its destination.
pub(super) fn routed_to_list(state: &State, list: PrefixListId) -> bool {
    let to = Destination::List(list);
    state
        .route_tables
        .values()
        .any(|table| table.routes.contains_key(&to))
}
