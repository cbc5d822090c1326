//! Security groups and their rules as answers show them: one by one, or grouped into permissions.

use std::collections::BTreeMap;

use ec2::types::*;

use super::{s, tag};
use crate::ids::*;
use crate::store::{self, GroupRule, Peer, State};

pub(super) fn group(state: &State, id: GroupId) -> SecurityGroup {
    let group = &state.groups[&id];
    SecurityGroup {
        group_id: s(id),
        group_name: s(&group.name),
        description: s(&group.description),
        vpc_id: s(group.vpc),
        owner_id: s(&state.config.account),
        security_group_arn: s(state.arn("security-group", id)),
        ip_permissions: permissions(state, group, false),
        ip_permissions_egress: permissions(state, group, true),
        tags: tag::list(state.tags_of(id)),
    }
}

/// The rules of one direction, grouped by protocol and ports as EC2 does.
fn permissions(state: &State, group: &store::Group, egress: bool) -> Vec<IpPermission> {
    let mut by_ports: BTreeMap<_, IpPermission> = BTreeMap::new();
    for rule in group.rules.values().filter(|r| r.egress == egress) {
        let entry = by_ports
            .entry((rule.protocol, rule.ports))
            .or_insert_with(|| IpPermission {
                ip_protocol: s(rule.protocol),
                from_port: rule.ports.map(|p| p.0),
                to_port: rule.ports.map(|p| p.1),
                ..Default::default()
            });
        add_peer(state, entry, rule);
    }
    by_ports.into_values().collect()
}

/// One rule as a permission of its own.
pub(super) fn permission(state: &State, rule: &GroupRule) -> IpPermission {
    let mut permission = IpPermission {
        ip_protocol: s(rule.protocol),
        from_port: rule.ports.map(|p| p.0),
        to_port: rule.ports.map(|p| p.1),
        ..Default::default()
    };
    add_peer(state, &mut permission, rule);
    permission
}

fn add_peer(state: &State, to: &mut IpPermission, rule: &GroupRule) {
    let description = rule.description.clone();
    match rule.peer {
        Peer::V4(net) => to.ip_ranges.push(IpRange {
            cidr_ip: s(net),
            description,
        }),
        Peer::V6(net) => to.ipv6_ranges.push(Ipv6Range {
            cidr_ipv6: s(net),
            description,
        }),
        Peer::List(id) => {
            to.prefix_list_ids.push(ec2::types::PrefixListId {
                prefix_list_id: s(id),
                description,
            });
        }
        Peer::Group { id, vpc, peering } => to.user_id_group_pairs.push(UserIdGroupPair {
            description,
            group_id: s(id),
            user_id: s(&state.config.account),
            vpc_id: peering.map(|_| vpc.to_string()),
            vpc_peering_connection_id: peering.map(|p| p.to_string()),
            peering_status: peering_status(state, peering),
            group_name: None,
        }),
    }
}

fn peering_status(state: &State, peering: Option<PeeringId>) -> Option<String> {
    let record = state.peerings.get(&peering?);
    Some(record.map_or("deleted", |p| p.state.code().0).to_owned())
}

pub(super) fn stale(state: &State, rule: &GroupRule) -> StaleIpPermission {
    let permission = permission(state, rule);
    StaleIpPermission {
        ip_protocol: permission.ip_protocol,
        from_port: permission.from_port,
        to_port: permission.to_port,
        user_id_group_pairs: permission.user_id_group_pairs,
        ..Default::default()
    }
}

pub(super) fn rule(
    state: &State,
    group: GroupId,
    id: GroupRuleId,
    rule: &GroupRule,
) -> SecurityGroupRule {
    let mut view = SecurityGroupRule {
        security_group_rule_id: s(id),
        security_group_rule_arn: s(state.arn("security-group-rule", id)),
        group_id: s(group),
        group_owner_id: s(&state.config.account),
        is_egress: Some(rule.egress),
        ip_protocol: s(rule.protocol),
        // Here EC2 writes -1 where a permission leaves the ports out.
        from_port: Some(rule.ports.map_or(-1, |p| p.0)),
        to_port: Some(rule.ports.map_or(-1, |p| p.1)),
        description: rule.description.clone(),
        tags: tag::list(state.tags_of(id)),
        ..Default::default()
    };
    match rule.peer {
        Peer::V4(net) => view.cidr_ipv4 = s(net),
        Peer::V6(net) => view.cidr_ipv6 = s(net),
        Peer::List(list) => view.prefix_list_id = s(list),
        Peer::Group { id, vpc, peering } => {
            view.referenced_group_info = Some(ReferencedSecurityGroup {
                group_id: s(id),
                user_id: s(&state.config.account),
                vpc_id: peering.map(|_| vpc.to_string()),
                vpc_peering_connection_id: peering.map(|p| p.to_string()),
                peering_status: peering_status(state, peering),
            });
        }
    }
    view
}

pub(super) fn revoked(
    group: GroupId,
    id: GroupRuleId,
    rule: &GroupRule,
) -> RevokedSecurityGroupRule {
    let mut view = RevokedSecurityGroupRule {
        security_group_rule_id: s(id),
        group_id: s(group),
        is_egress: Some(rule.egress),
        ip_protocol: s(rule.protocol),
        from_port: Some(rule.ports.map_or(-1, |p| p.0)),
        to_port: Some(rule.ports.map_or(-1, |p| p.1)),
        description: rule.description.clone(),
        ..Default::default()
    };
    match rule.peer {
        Peer::V4(net) => view.cidr_ipv4 = s(net),
        Peer::V6(net) => view.cidr_ipv6 = s(net),
        Peer::List(list) => view.prefix_list_id = s(list),
        Peer::Group { id, .. } => view.referenced_group_id = s(id),
    }
    view
}
