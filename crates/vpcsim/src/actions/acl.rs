//! Network ACLs, their entries, and which subnet uses which.

use std::collections::BTreeMap;

use ec2::types::*;

use super::{Action, Context, Field, Query, one, parse, required, s, tag, yes};
use crate::error::{ApiError, ApiResult};
use crate::ids::*;
use crate::store::{self, Acl, AclCidr, AclEntry, Protocol, State};

const FIELDS: &[Field<AclId, Acl>] = &[
    ("network-acl-id", |_, id, _| one(id)),
    ("vpc-id", |_, _, a| one(a.vpc)),
    ("default", |_, _, a| yes(a.is_default)),
    ("owner-id", |s, _, _| one(&s.config.account)),
    ("association.association-id", |s, id, _| {
        users(s, id).map(|(a, _)| a.to_string()).collect()
    }),
    ("association.network-acl-id", |s, id, _| {
        users(s, id).map(|_| id.to_string()).collect()
    }),
    ("association.subnet-id", |s, id, _| {
        users(s, id).map(|(_, n)| n.to_string()).collect()
    }),
    ("entry.cidr", |_, _, a| {
        let v4 = |e: &AclEntry| match e.cidr {
            AclCidr::V4(net) => Some(net.to_string()),
            AclCidr::V6(_) => None,
        };
        a.entries.values().filter_map(v4).collect()
    }),
    ("entry.egress", |_, _, a| {
        a.entries
            .keys()
            .map(|(egress, _)| egress.to_string())
            .collect()
    }),
    ("entry.protocol", |_, _, a| {
        a.entries
            .values()
            .map(|e| e.protocol.0.to_string())
            .collect()
    }),
    ("entry.rule-action", |_, _, a| {
        a.entries
            .values()
            .map(|e| action(e.allow).to_owned())
            .collect()
    }),
    ("entry.rule-number", |_, _, a| {
        a.entries.keys().map(|(_, n)| n.to_string()).collect()
    }),
];

fn users(state: &State, acl: AclId) -> impl Iterator<Item = (AclAssociationId, SubnetId)> {
    let own =
        move |(id, n): (&SubnetId, &store::Subnet)| (n.acl.1 == acl).then_some((n.acl.0, *id));
    state.subnets.iter().filter_map(own)
}

fn action(allow: bool) -> &'static str {
    if allow { "allow" } else { "deny" }
}

fn entry_view(egress: bool, number: i32, entry: &AclEntry) -> NetworkAclEntry {
    let mut view = NetworkAclEntry {
        egress: Some(egress),
        rule_number: Some(number),
        protocol: s(entry.protocol.0),
        rule_action: s(action(entry.allow)),
        port_range: entry.ports.map(|(from, to)| PortRange {
            from: Some(from),
            to: Some(to),
        }),
        icmp_type_code: entry.icmp.map(|(kind, code)| IcmpTypeCode {
            type_: Some(kind),
            code: Some(code),
        }),
        ..Default::default()
    };
    match entry.cidr {
        AclCidr::V4(net) => view.cidr_block = s(net),
        AclCidr::V6(net) => view.ipv6_cidr_block = s(net),
    }
    view
}

/// The closing `*` entry that EC2 shows in each direction.
fn closing(egress: bool) -> NetworkAclEntry {
    let cidr = AclCidr::V4(super::vpc::anywhere());
    let entry = AclEntry {
        allow: false,
        protocol: Protocol::ALL,
        cidr,
        ports: None,
        icmp: None,
    };
    entry_view(egress, 32767, &entry)
}

fn view(state: &State, id: AclId) -> NetworkAcl {
    let acl = &state.acls[&id];
    let of = |direction: bool| {
        let own = acl
            .entries
            .iter()
            .filter(move |((egress, _), _)| *egress == direction);
        let own = own.map(|((egress, n), e)| entry_view(*egress, (*n).into(), e));
        own.chain([closing(direction)]).collect::<Vec<_>>()
    };
    let association = |(association, subnet): (AclAssociationId, SubnetId)| NetworkAclAssociation {
        network_acl_association_id: s(association),
        network_acl_id: s(id),
        subnet_id: s(subnet),
    };
    NetworkAcl {
        network_acl_id: s(id),
        vpc_id: s(acl.vpc),
        is_default: Some(acl.is_default),
        owner_id: s(&state.config.account),
        associations: users(state, id).map(association).collect(),
        entries: of(true).into_iter().chain(of(false)).collect(),
        tags: tag::list(state.tags_of(id)),
    }
}

impl Action for CreateNetworkAclRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<CreateNetworkAclResult> {
        let tags = tag::of_spec(&self.tag_specifications, "network-acl")?;
        let (vpc, _) = cx.state.vpcs.find(required(&self.vpc_id, "vpcId")?)?;
        let id: AclId = cx.state.fresh();
        cx.state.acls.insert(
            id,
            Acl {
                vpc,
                is_default: false,
                entries: BTreeMap::new(),
            },
        );
        tag::put(cx.state, id, tags);
        Ok(CreateNetworkAclResult {
            network_acl: Some(view(cx.state, id)),
            client_token: self.client_token.clone(),
        })
    }
}

impl Action for DeleteNetworkAclRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<Done> {
        let (id, acl) = cx
            .state
            .acls
            .find(required(&self.network_acl_id, "networkAclId")?)?;
        if acl.is_default {
            return Err(ApiError::value(format_args!(
                "cannot delete default network ACL {id}"
            )));
        }
        if users(cx.state, id).next().is_some() {
            return Err(ApiError::dependency("networkAcl", id));
        }
        cx.state.acls.remove(&id);
        cx.state.drop_tags(id);
        Ok(Done::OK)
    }
}

impl Action for DescribeNetworkAclsRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<DescribeNetworkAclsResult> {
        let query = Query::new(&self.network_acl_ids, &self.filters);
        let query = query.paged(self.max_results, &self.next_token);
        let (ids, next_token) = query.select(cx, &cx.state.acls, FIELDS)?;
        let network_acls = ids.into_iter().map(|id| view(cx.state, id)).collect();
        Ok(DescribeNetworkAclsResult {
            network_acls,
            next_token,
        })
    }
}

/// The members that CreateNetworkAclEntry and ReplaceNetworkAclEntry share.
struct EntryRequest<'r> {
    number: Option<i32>,
    egress: Option<bool>,
    protocol: &'r Option<String>,
    action: &'r Option<String>,
    cidr: &'r Option<String>,
    cidr6: &'r Option<String>,
    ports: &'r Option<PortRange>,
    icmp: &'r Option<IcmpTypeCode>,
}

/// From either of them.
macro_rules! entry_request {
    ($request:expr) => {
        EntryRequest {
            number: $request.rule_number,
            egress: $request.egress,
            protocol: &$request.protocol,
            action: &$request.rule_action,
            cidr: &$request.cidr_block,
            cidr6: &$request.ipv6_cidr_block,
            ports: &$request.port_range,
            icmp: &$request.icmp_type_code,
        }
    };
}

fn number(value: Option<i32>) -> ApiResult<u16> {
    let value = value.ok_or_else(|| ApiError::missing("ruleNumber"))?;
    u16::try_from(value)
        .ok()
        .filter(|n| (1..=32766).contains(n))
        .ok_or_else(|| ApiError::bad_value("ruleNumber", value, "Expecting 1 to 32766."))
}

impl EntryRequest<'_> {
    fn read(&self) -> ApiResult<((bool, u16), AclEntry)> {
        let egress = self.egress.ok_or_else(|| ApiError::missing("egress"))?;
        let text = required(self.protocol, "protocol")?;
        let protocol = Protocol::parse(text)
            .ok_or_else(|| ApiError::bad_value("protocol", text, "Unknown protocol."))?;
        let allow = match required(self.action, "ruleAction")? {
            "allow" => true,
            "deny" => false,
            other => return Err(ApiError::bad_value("ruleAction", other, "Unknown action.")),
        };
        let cidr = match (self.cidr, self.cidr6) {
            (Some(text), None) => AclCidr::V4(super::vpc::cidr(text, "cidrBlock")?),
            (None, Some(text)) => {
                let net: ipnet::Ipv6Net = parse(text, "ipv6CidrBlock", "an IPv6 CIDR")?;
                AclCidr::V6(net.trunc())
            }
            (None, None) => return Err(ApiError::missing("cidrBlock")),
            _ => {
                return Err(ApiError::combination(
                    "Specify either cidrBlock or ipv6CidrBlock.",
                ));
            }
        };
        let ports = match self.ports.as_ref().filter(|_| protocol.has_ports()) {
            Some(PortRange {
                from: Some(from),
                to: Some(to),
            }) if (0..=65535).contains(from) && from <= to && *to <= 65535 => Some((*from, *to)),
            Some(range) => {
                return Err(ApiError::value(format_args!(
                    "Invalid port range {range:?}"
                )));
            }
            None if protocol.has_ports() => return Err(ApiError::missing("portRange")),
            None => None,
        };
        let icmp = match self.icmp.as_ref().filter(|_| protocol.is_icmp()) {
            Some(IcmpTypeCode {
                type_: Some(kind),
                code: Some(code),
            }) if (-1..=255).contains(kind) && (-1..=255).contains(code) => Some((*kind, *code)),
            Some(icmp) => {
                return Err(ApiError::value(format_args!(
                    "Invalid ICMP type and code {icmp:?}"
                )));
            }
            None if protocol.is_icmp() => return Err(ApiError::missing("icmpTypeCode")),
            None => None,
        };
        let key = (egress, number(self.number)?);
        Ok((
            key,
            AclEntry {
                allow,
                protocol,
                cidr,
                ports,
                icmp,
            },
        ))
    }
}

impl Action for CreateNetworkAclEntryRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<Done> {
        let request = entry_request!(self);
        let (key, entry) = request.read()?;
        let limit = cx.state.config.quotas.entries_per_acl;
        let (_, acl) = cx
            .state
            .acls
            .find_mut(required(&self.network_acl_id, "networkAclId")?)?;
        if acl.entries.contains_key(&key) {
            return Err(ApiError::new(
                "NetworkAclEntryAlreadyExists",
                format_args!(
                    "The network acl entry identified by {} already exists.",
                    key.1
                ),
            ));
        }
        if acl
            .entries
            .keys()
            .filter(|(egress, _)| *egress == key.0)
            .count()
            >= limit
        {
            return Err(ApiError::new(
                "NetworkAclEntryLimitExceeded",
                format_args!(
                    "The maximum number of network ACL entries has been reached: {limit}."
                ),
            ));
        }
        acl.entries.insert(key, entry);
        Ok(Done::OK)
    }
}

fn no_entry(number: u16, egress: bool) -> ApiError {
    let direction = if egress { "egress" } else { "ingress" };
    ApiError::new(
        "InvalidNetworkAclEntry.NotFound",
        format_args!("The {direction} network acl entry identified by {number} does not exist"),
    )
}

impl Action for ReplaceNetworkAclEntryRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<Done> {
        let request = entry_request!(self);
        let (key, entry) = request.read()?;
        let (_, acl) = cx
            .state
            .acls
            .find_mut(required(&self.network_acl_id, "networkAclId")?)?;
        match acl.entries.get_mut(&key) {
            Some(known) => *known = entry,
            None => return Err(no_entry(key.1, key.0)),
        }
        Ok(Done::OK)
    }
}

impl Action for DeleteNetworkAclEntryRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<Done> {
        let egress = self.egress.ok_or_else(|| ApiError::missing("egress"))?;
        let number = number(self.rule_number)?;
        let (_, acl) = cx
            .state
            .acls
            .find_mut(required(&self.network_acl_id, "networkAclId")?)?;
        match acl.entries.remove(&(egress, number)) {
            Some(_) => Ok(Done::OK),
            None => Err(no_entry(number, egress)),
        }
    }
}

impl Action for ReplaceNetworkAclAssociationRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<ReplaceNetworkAclAssociationResult> {
        let state = &mut *cx.state;
        let text = required(&self.association_id, "associationId")?;
        let association: AclAssociationId = text.parse()?;
        let found = state.subnets.iter().find(|(_, n)| n.acl.0 == association);
        let (subnet, record) = found.ok_or_else(|| AclAssociationId::not_found(text))?;
        let (subnet, vpc) = (*subnet, record.vpc);
        let (acl, target) = state
            .acls
            .find(required(&self.network_acl_id, "networkAclId")?)?;
        if target.vpc != vpc {
            return Err(ApiError::value(format_args!(
                "Network ACL {acl} and subnet {subnet} belong to different networks"
            )));
        }
        let fresh: AclAssociationId = state.fresh();
        if let Some(subnet) = state.subnets.get_mut(&subnet) {
            subnet.acl = (fresh, acl);
        }
        Ok(ReplaceNetworkAclAssociationResult {
            new_association_id: s(fresh),
        })
    }
}
