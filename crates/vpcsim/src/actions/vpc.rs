//! VPCs with their CIDRs, attributes and the objects that come with every VPC.

use std::collections::BTreeMap;

use ec2::types::*;
use ipnet::Ipv4Net;

use super::{Action, Context, Field, Query, one, required, s, tag, unmodelled, yes};
use crate::error::{ApiError, ApiResult};
use crate::ids::*;
use crate::store::{self, Acl, AclCidr, AclEntry, Group, GroupRule, Peer, Protocol, State};

const FIELDS: &[Field<VpcId, store::Vpc>] = &[
    ("vpc-id", |_, id, _| one(id)),
    ("cidr", |_, _, v| one(v.cidrs[0].1)),
    ("cidr-block-association.cidr-block", |_, _, v| {
        v.cidrs.iter().map(|(_, net)| net.to_string()).collect()
    }),
    ("cidr-block-association.association-id", |_, _, v| {
        v.cidrs.iter().map(|(id, _)| id.to_string()).collect()
    }),
    ("cidr-block-association.state", |_, _, _| one("associated")),
    ("dhcp-options-id", |_, _, v| one(v.dhcp_options)),
    ("is-default", |_, _, v| yes(v.is_default)),
    ("isDefault", |_, _, v| yes(v.is_default)),
    ("owner-id", |s, _, _| one(&s.config.account)),
    ("state", |_, _, _| one("available")),
];

/// A CIDR block between /16 and /28, in canonical form.
pub(super) fn cidr(text: &str, parameter: &str) -> ApiResult<Ipv4Net> {
    let net: Ipv4Net = text.parse().map_err(|_| {
        ApiError::value(format_args!(
            "Value ({text}) for parameter {parameter} is invalid. This is not a valid CIDR block."
        ))
    })?;
    Ok(net.trunc())
}

fn vpc_cidr(text: &str) -> ApiResult<Ipv4Net> {
    let net = cidr(text, "cidrBlock")?;
    match net.prefix_len() {
        16..=28 => Ok(net),
        _ => Err(ApiError::new(
            "InvalidVpc.Range",
            format_args!("The CIDR '{text}' is invalid."),
        )),
    }
}

/// Whether two ranges share an address.
pub(super) fn overlap(a: Ipv4Net, b: Ipv4Net) -> bool {
    a.contains(&b) || b.contains(&a)
}

fn association(id: VpcCidrId, net: Ipv4Net, state: &str) -> VpcCidrBlockAssociation {
    VpcCidrBlockAssociation {
        association_id: s(id),
        cidr_block: s(net),
        cidr_block_state: Some(VpcCidrBlockState {
            state: s(state),
            ..Default::default()
        }),
    }
}

pub(super) fn view(state: &State, id: VpcId) -> Vpc {
    let vpc = &state.vpcs[&id];
    Vpc {
        vpc_id: s(id),
        cidr_block: s(vpc.cidrs[0].1),
        cidr_block_association_set: vpc
            .cidrs
            .iter()
            .map(|(id, net)| association(*id, *net, "associated"))
            .collect(),
        dhcp_options_id: s(vpc.dhcp_options),
        instance_tenancy: s(&vpc.tenancy),
        is_default: Some(vpc.is_default),
        owner_id: s(&state.config.account),
        state: s("available"),
        tags: tag::list(state.tags_of(id)),
        ..Default::default()
    }
}

/// The rule that lets everything through, in one direction.
pub(super) fn allow_all(egress: bool, peer: Peer) -> GroupRule {
    GroupRule {
        egress,
        protocol: Protocol::ALL,
        ports: None,
        peer,
        description: None,
    }
}

/// 0.0.0.0/0.
pub(super) fn anywhere() -> Ipv4Net {
    Ipv4Net::default()
}

fn default_acl(vpc: VpcId) -> Acl {
    let allow = AclEntry {
        allow: true,
        protocol: Protocol::ALL,
        cidr: AclCidr::V4(anywhere()),
        ports: None,
        icmp: None,
    };
    let entries = BTreeMap::from([((false, 100), allow.clone()), ((true, 100), allow)]);
    Acl {
        vpc,
        is_default: true,
        entries,
    }
}

fn default_group(state: &mut State, id: GroupId, vpc: VpcId) -> Group {
    let own = Peer::Group {
        id,
        vpc,
        peering: None,
    };
    let rules = [allow_all(false, own), allow_all(true, Peer::V4(anywhere()))];
    Group {
        vpc,
        name: "default".into(),
        description: "default VPC security group".into(),
        rules: rules
            .into_iter()
            .map(|rule| (state.fresh(), rule))
            .collect(),
    }
}

impl Action for CreateVpcRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<CreateVpcResult> {
        unmodelled(&[
            (
                self.amazon_provided_ipv6_cidr_block == Some(true),
                "AmazonProvidedIpv6CidrBlock",
            ),
            (self.ipv6_cidr_block.is_some(), "Ipv6CidrBlock"),
            (self.ipv6_ipam_pool_id.is_some(), "Ipv6IpamPoolId"),
            (self.ipv4_ipam_pool_id.is_some(), "Ipv4IpamPoolId"),
        ])?;
        let net = vpc_cidr(required(&self.cidr_block, "cidrBlock")?)?;
        let tags = tag::of_spec(&self.tag_specifications, "vpc")?;
        let state = &mut *cx.state;
        if state.vpcs.len() >= state.config.quotas.vpcs {
            return Err(ApiError::new(
                "VpcLimitExceeded",
                "The maximum number of VPCs has been reached.",
            ));
        }
        let id: VpcId = state.fresh();
        let vpc = store::Vpc {
            cidrs: vec![(state.fresh(), net)],
            is_default: false,
            tenancy: self
                .instance_tenancy
                .clone()
                .unwrap_or_else(|| "default".into()),
            dhcp_options: state.dhcp_options,
            dns_support: true,
            dns_hostnames: false,
            usage_metrics: false,
            main_route_table: state.fresh(),
            default_acl: state.fresh(),
            default_group: state.fresh(),
        };
        let main = Some(state.fresh());
        let table = store::RouteTable {
            vpc: id,
            main,
            routes: BTreeMap::new(),
        };
        state.route_tables.insert(vpc.main_route_table, table);
        state.acls.insert(vpc.default_acl, default_acl(id));
        let group = default_group(state, vpc.default_group, id);
        state.groups.insert(vpc.default_group, group);
        state.vpcs.insert(id, vpc);
        tag::put(state, id, tags);
        Ok(CreateVpcResult {
            vpc: Some(view(state, id)),
        })
    }
}

impl Action for DeleteVpcRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<Done> {
        let state = &mut *cx.state;
        let (id, vpc) = state.vpcs.find(required(&self.vpc_id, "vpcId")?)?;
        let (table, acl, group) = (vpc.main_route_table, vpc.default_acl, vpc.default_group);
        let used = state.subnets.values().any(|x| x.vpc == id)
            || state.internet_gateways.values().any(|x| x.vpc == Some(id))
            || state
                .route_tables
                .iter()
                .any(|(k, x)| x.vpc == id && *k != table)
            || state.acls.iter().any(|(k, x)| x.vpc == id && *k != acl)
            || state.groups.iter().any(|(k, x)| x.vpc == id && *k != group)
            || state.peerings.values().any(|p| {
                p.state == store::PeeringState::Active && (p.requester == id || p.accepter == id)
            });
        if used {
            return Err(ApiError::dependency("vpc", id));
        }
        state.vpcs.remove(&id);
        state.route_tables.remove(&table);
        state.acls.remove(&acl);
        state.groups.remove(&group);
        for gone in [
            id.to_string(),
            table.to_string(),
            acl.to_string(),
            group.to_string(),
        ] {
            state.drop_tags(gone);
        }
        Ok(Done::OK)
    }
}

impl Action for DescribeVpcsRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<DescribeVpcsResult> {
        let query = Query::new(&self.vpc_ids, &self.filters);
        let query = query.paged(self.max_results, &self.next_token);
        let (ids, next_token) = query.select(cx, &cx.state.vpcs, FIELDS)?;
        let vpcs = ids.into_iter().map(|id| view(cx.state, id)).collect();
        Ok(DescribeVpcsResult { vpcs, next_token })
    }
}

impl Action for AssociateVpcCidrBlockRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<AssociateVpcCidrBlockResult> {
        unmodelled(&[
            (
                self.amazon_provided_ipv6_cidr_block == Some(true),
                "AmazonProvidedIpv6CidrBlock",
            ),
            (self.ipv6_cidr_block.is_some(), "Ipv6CidrBlock"),
            (self.ipv6_ipam_pool_id.is_some(), "Ipv6IpamPoolId"),
            (self.ipv4_ipam_pool_id.is_some(), "Ipv4IpamPoolId"),
        ])?;
        let net = vpc_cidr(required(&self.cidr_block, "cidrBlock")?)?;
        let state = &mut *cx.state;
        let (id, vpc) = state.vpcs.find(required(&self.vpc_id, "vpcId")?)?;
        let limit = state.config.quotas.cidrs_per_vpc;
        if vpc.cidrs.len() >= limit {
            return Err(ApiError::new(
                "CidrLimitExceeded",
                format_args!(
                    "This network '{id}' has met its maximum number of allowed CIDRs: {limit}"
                ),
            ));
        }
        let taken = vpc.cidrs.iter().map(|(_, own)| *own);
        let peers = state
            .peerings
            .values()
            .filter(|p| p.state == store::PeeringState::Active);
        let of_peers = peers
            .filter(|p| p.requester == id || p.accepter == id)
            .flat_map(|p| {
                let other = if p.requester == id {
                    p.accepter
                } else {
                    p.requester
                };
                state
                    .vpcs
                    .get(&other)
                    .into_iter()
                    .flat_map(|v| v.cidrs.iter().map(|(_, n)| *n))
            });
        if let Some(other) = taken.chain(of_peers).find(|own| overlap(*own, net)) {
            return Err(ApiError::new(
                "InvalidVpc.Range",
                format_args!("The CIDR '{net}' conflicts with '{other}' of the VPC or of a peer."),
            ));
        }
        let association_id = state.fresh();
        let (_, vpc) = state.vpcs.find_mut(&id.to_string())?;
        vpc.cidrs.push((association_id, net));
        Ok(AssociateVpcCidrBlockResult {
            vpc_id: s(id),
            cidr_block_association: Some(association(association_id, net, "associating")),
            ..Default::default()
        })
    }
}

impl Action for DisassociateVpcCidrBlockRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<DisassociateVpcCidrBlockResult> {
        let text = required(&self.association_id, "associationId")?;
        let association_id: VpcCidrId = text.parse()?;
        let state = &mut *cx.state;
        let (id, at) = state
            .vpcs
            .iter()
            .find_map(|(id, v)| {
                Some((*id, v.cidrs.iter().position(|(a, _)| *a == association_id)?))
            })
            .ok_or_else(|| VpcCidrId::not_found(text))?;
        let net = state.vpcs[&id].cidrs[at].1;
        if at == 0 {
            return Err(ApiError::not_permitted(format_args!(
                "The vpc CIDR block with association ID {text} may not be disassociated. It is the \
                 primary IPv4 CIDR block of the VPC"
            )));
        }
        if state
            .subnets
            .values()
            .any(|x| x.vpc == id && net.contains(&x.pool.cidr()))
        {
            return Err(ApiError::new(
                "InvalidCidrBlock.InUse",
                format_args!("The vpc {id} currently has a subnet within CIDR block {net}"),
            ));
        }
        if let Some(vpc) = state.vpcs.get_mut(&id) {
            vpc.cidrs.remove(at);
        }
        Ok(DisassociateVpcCidrBlockResult {
            vpc_id: s(id),
            cidr_block_association: Some(association(association_id, net, "disassociating")),
            ..Default::default()
        })
    }
}

impl Action for ModifyVpcAttributeRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<Done> {
        let (_, vpc) = cx.state.vpcs.find_mut(required(&self.vpc_id, "vpcId")?)?;
        let value = |attribute: &Option<AttributeBooleanValue>| attribute.as_ref()?.value;
        let support = value(&self.enable_dns_support);
        let hostnames = value(&self.enable_dns_hostnames);
        let metrics = value(&self.enable_network_address_usage_metrics);
        match [support, hostnames, metrics].iter().flatten().count() {
            1 => {}
            0 => return Err(ApiError::missing("attribute")),
            _ => {
                return Err(ApiError::combination(
                    "Only one attribute can be modified at a time",
                ));
            }
        }
        vpc.dns_support = support.unwrap_or(vpc.dns_support);
        vpc.dns_hostnames = hostnames.unwrap_or(vpc.dns_hostnames);
        vpc.usage_metrics = metrics.unwrap_or(vpc.usage_metrics);
        Ok(Done::OK)
    }
}

impl Action for DescribeVpcAttributeRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<DescribeVpcAttributeResult> {
        let (id, vpc) = cx.state.vpcs.find(required(&self.vpc_id, "vpcId")?)?;
        let mut answer = DescribeVpcAttributeResult {
            vpc_id: s(id),
            ..Default::default()
        };
        let value = |value| Some(AttributeBooleanValue { value: Some(value) });
        match required(&self.attribute, "attribute")? {
            "enableDnsSupport" => answer.enable_dns_support = value(vpc.dns_support),
            "enableDnsHostnames" => answer.enable_dns_hostnames = value(vpc.dns_hostnames),
            "enableNetworkAddressUsageMetrics" => {
                answer.enable_network_address_usage_metrics = value(vpc.usage_metrics);
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
