//! Security groups as objects: create, delete, describe, who refers to them.

use std::collections::{BTreeMap, BTreeSet};

use ec2::types::*;

use super::{Action, Context, Field, Query, group_view, one, required, s, tag};
use crate::error::{ApiError, ApiResult};
use crate::ids::*;
use crate::store::{self, GroupRule, Peer, PeeringState, State};

const FIELDS: &[Field<GroupId, store::Group>] = &[
    ("group-id", |_, id, _| one(id)),
    ("group-name", |_, _, g| one(&g.name)),
    ("description", |_, _, g| one(&g.description)),
    ("vpc-id", |_, _, g| one(g.vpc)),
    ("owner-id", |s, _, _| one(&s.config.account)),
    ("ip-permission.cidr", |_, _, g| cidrs(g, false)),
    ("egress.ip-permission.cidr", |_, _, g| cidrs(g, true)),
    ("ip-permission.group-id", |_, _, g| peers(g, false)),
    ("egress.ip-permission.group-id", |_, _, g| peers(g, true)),
    ("ip-permission.prefix-list-id", |_, _, g| lists(g, false)),
    ("egress.ip-permission.prefix-list-id", |_, _, g| {
        lists(g, true)
    }),
    ("ip-permission.protocol", |_, _, g| {
        each(g, false, |r| Some(r.protocol.to_string()))
    }),
    ("egress.ip-permission.protocol", |_, _, g| {
        each(g, true, |r| Some(r.protocol.to_string()))
    }),
    ("ip-permission.from-port", |_, _, g| {
        each(g, false, |r| Some(r.ports?.0.to_string()))
    }),
    ("egress.ip-permission.from-port", |_, _, g| {
        each(g, true, |r| Some(r.ports?.0.to_string()))
    }),
    ("ip-permission.to-port", |_, _, g| {
        each(g, false, |r| Some(r.ports?.1.to_string()))
    }),
    ("egress.ip-permission.to-port", |_, _, g| {
        each(g, true, |r| Some(r.ports?.1.to_string()))
    }),
];

fn each(g: &store::Group, egress: bool, f: fn(&GroupRule) -> Option<String>) -> Vec<String> {
    g.rules
        .values()
        .filter(|r| r.egress == egress)
        .filter_map(f)
        .collect()
}

fn cidrs(g: &store::Group, egress: bool) -> Vec<String> {
    each(g, egress, |r| match r.peer {
        Peer::V4(net) => Some(net.to_string()),
        _ => None,
    })
}

fn peers(g: &store::Group, egress: bool) -> Vec<String> {
    each(g, egress, |r| match r.peer {
        Peer::Group { id, .. } => Some(id.to_string()),
        _ => None,
    })
}

fn lists(g: &store::Group, egress: bool) -> Vec<String> {
    each(g, egress, |r| match r.peer {
        Peer::List(id) => Some(id.to_string()),
        _ => None,
    })
}

/// The group that a request names by id, or by name in the VPC where it is unique.
pub(super) fn find(
    state: &State,
    id: &Option<String>,
    name: &Option<String>,
) -> ApiResult<GroupId> {
    if let Some(text) = id {
        return Ok(state.groups.find(text)?.0);
    }
    let name = required(name, "groupId")?;
    // A name alone means the default VPC, which the embedded EC2 does not have.
    Err(ApiError::new(
        "InvalidGroup.NotFound",
        format_args!("The security group '{name}' does not exist in default VPC"),
    ))
}

impl Action for CreateSecurityGroupRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<CreateSecurityGroupResult> {
        let tags = tag::of_spec(&self.tag_specifications, "security-group")?;
        let name = required(&self.group_name, "groupName")?;
        let description = required(&self.description, "groupDescription")?;
        if name.is_empty() || name.chars().count() > 255 || name.starts_with("sg-") {
            return Err(ApiError::value(format_args!(
                "Invalid security group name '{name}': 1 to 255 characters, not starting with sg-."
            )));
        }
        let state = &mut *cx.state;
        let Some(vpc) = self.vpc_id.as_deref() else {
            return Err(ApiError::new(
                "VPCIdNotSpecified",
                "No default VPC for this user. GroupName is only supported for EC2-Classic and default VPC.",
            ));
        };
        let (vpc, _) = state.vpcs.find(vpc)?;
        if state
            .groups
            .values()
            .any(|g| g.vpc == vpc && g.name == name)
        {
            return Err(ApiError::new(
                "InvalidGroup.Duplicate",
                format_args!("The security group '{name}' already exists for VPC '{vpc}'"),
            ));
        }
        if name == "default" {
            return Err(ApiError::new(
                "InvalidGroup.Reserved",
                "The security group name 'default' is reserved",
            ));
        }
        let limit = state.config.quotas.groups;
        if state.groups.len() >= limit {
            return Err(ApiError::new(
                "SecurityGroupLimitExceeded",
                format_args!("The maximum number of security groups has been reached: {limit}."),
            ));
        }
        let id: GroupId = state.fresh();
        let rule: GroupRuleId = state.fresh();
        let egress = super::vpc::allow_all(true, Peer::V4(super::vpc::anywhere()));
        let group = store::Group {
            vpc,
            name: name.to_owned(),
            description: description.to_owned(),
            rules: BTreeMap::from([(rule, egress)]),
        };
        state.groups.insert(id, group);
        tag::put(state, id, tags);
        Ok(CreateSecurityGroupResult {
            group_id: s(id),
            security_group_arn: s(state.arn("security-group", id)),
            tags: tag::list(state.tags_of(id)),
        })
    }
}

impl Action for DeleteSecurityGroupRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<DeleteSecurityGroupResult> {
        let state = &mut *cx.state;
        let id = find(state, &self.group_id, &self.group_name)?;
        let vpc = state.groups[&id].vpc;
        if state.vpcs[&vpc].default_group == id {
            return Err(ApiError::new(
                "CannotDelete",
                format_args!(
                    "the specified group: \"{id}\" name: \"default\" cannot be deleted by a user"
                ),
            ));
        }
        // A reference from a peered VPC does not hold a group: that rule turns stale.
        let refers = |g: &store::Group| g.vpc == vpc && peers_of(g).any(|peer| peer == id);
        if state.enis.values().any(|e| e.groups.contains(&id))
            || state
                .groups
                .iter()
                .any(|(other, g)| *other != id && refers(g))
        {
            return Err(ApiError::new(
                "DependencyViolation",
                format_args!("resource {id} has a dependent object"),
            ));
        }
        if let Some(group) = state.groups.remove(&id) {
            group.rules.keys().for_each(|rule| state.drop_tags(rule));
        }
        state.drop_tags(id);
        Ok(DeleteSecurityGroupResult {
            return_: Some(true),
            group_id: s(id),
        })
    }
}

fn peers_of(group: &store::Group) -> impl Iterator<Item = GroupId> {
    group.rules.values().filter_map(|rule| match rule.peer {
        Peer::Group { id, .. } => Some(id),
        _ => None,
    })
}

impl Action for DescribeSecurityGroupsRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<DescribeSecurityGroupsResult> {
        if let Some(name) = self.group_names.first() {
            find(cx.state, &None, &Some(name.clone()))?;
        }
        let query = Query::new(&self.group_ids, &self.filters);
        let query = query.paged(self.max_results, &self.next_token);
        let (ids, next_token) = query.select(cx, &cx.state.groups, FIELDS)?;
        let security_groups = ids
            .into_iter()
            .map(|id| group_view::group(cx.state, id))
            .collect();
        Ok(DescribeSecurityGroupsResult {
            security_groups,
            next_token,
        })
    }
}

impl Action for DescribeSecurityGroupReferencesRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<DescribeSecurityGroupReferencesResult> {
        let ids: BTreeSet<GroupId> = cx
            .state
            .groups
            .find_all(&self.group_id)?
            .into_iter()
            .collect();
        let mut seen = BTreeSet::new();
        for group in cx.state.groups.values() {
            for rule in group.rules.values() {
                if let Peer::Group {
                    id,
                    peering: Some(peering),
                    ..
                } = rule.peer
                    && ids.contains(&id)
                {
                    seen.insert((id, group.vpc, peering));
                }
            }
        }
        let reference = |(id, vpc, peering): (GroupId, VpcId, PeeringId)| SecurityGroupReference {
            group_id: s(id),
            referencing_vpc_id: s(vpc),
            vpc_peering_connection_id: s(peering),
            ..Default::default()
        };
        Ok(DescribeSecurityGroupReferencesResult {
            security_group_reference_set: seen.into_iter().map(reference).collect(),
        })
    }
}

/// Whether a rule names a group that it can no longer mean: the group or the peering is gone.
pub(super) fn stale(state: &State, rule: &GroupRule) -> bool {
    let Peer::Group {
        id,
        peering: Some(peering),
        ..
    } = rule.peer
    else {
        return false;
    };
    let active = |p: &store::Peering| p.state == PeeringState::Active;
    !state.groups.contains_key(&id) || !state.peerings.get(&peering).is_some_and(active)
}

impl Action for DescribeStaleSecurityGroupsRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<DescribeStaleSecurityGroupsResult> {
        let state = &*cx.state;
        let (vpc, _) = state.vpcs.find(required(&self.vpc_id, "vpcId")?)?;
        let mut found = Vec::new();
        for (id, group) in state.groups.iter().filter(|(_, g)| g.vpc == vpc) {
            let of = |egress: bool| {
                let rules = group.rules.values();
                let rules = rules.filter(|r| r.egress == egress && stale(state, r));
                rules
                    .map(|r| group_view::stale(state, r))
                    .collect::<Vec<_>>()
            };
            let (ingress, egress) = (of(false), of(true));
            if !ingress.is_empty() || !egress.is_empty() {
                found.push(StaleSecurityGroup {
                    group_id: s(id),
                    group_name: s(&group.name),
                    description: s(&group.description),
                    vpc_id: s(vpc),
                    stale_ip_permissions: ingress,
                    stale_ip_permissions_egress: egress,
                });
            }
        }
        let query = Query::new(&[], &[]).paged(self.max_results, &self.next_token);
        let (stale_security_group_set, next_token) =
            query.page(found, |g| g.group_id.clone().unwrap_or_default())?;
        Ok(DescribeStaleSecurityGroupsResult {
            stale_security_group_set,
            next_token,
        })
    }
}
