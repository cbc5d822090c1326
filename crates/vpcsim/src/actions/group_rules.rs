//! Rules of security groups: authorize, revoke, modify, describe.
//!
//! A permission of a request is split into one rule per peer, as EC2 keeps them.

use ec2::types::*;

use super::describe::{self, Query};
use super::{Action, Context, group, group_view, parse, required, tag};
use crate::error::{ApiError, ApiResult};
use crate::filter;
use crate::ids::*;
use crate::store::{GroupRule, Peer, Peering, PeeringState, Protocol, State};

/// A permission in any of the spellings that requests have for it.
struct Spelled<'r> {
    permissions: &'r [IpPermission],
    protocol: &'r Option<String>,
    from: Option<i32>,
    to: Option<i32>,
    cidr: &'r Option<String>,
    source_group: &'r Option<String>,
}

/// From any of the four requests, whose members have the same names.
macro_rules! spelled {
    ($request:expr) => {
        Spelled {
            permissions: &$request.ip_permissions,
            protocol: &$request.ip_protocol,
            from: $request.from_port,
            to: $request.to_port,
            cidr: &$request.cidr_ip,
            source_group: &$request.source_security_group_name,
        }
    };
}

impl Spelled<'_> {
    fn permissions(&self) -> ApiResult<Vec<IpPermission>> {
        if self.source_group.is_some() {
            return Err(ApiError::combination(
                "SourceSecurityGroupName is for groups of a default VPC; use IpPermissions.",
            ));
        }
        if self.protocol.is_none() && self.cidr.is_none() {
            return Ok(self.permissions.to_vec());
        }
        let range = |cidr: &String| IpRange {
            cidr_ip: Some(cidr.clone()),
            description: None,
        };
        Ok(vec![IpPermission {
            ip_protocol: self.protocol.clone(),
            from_port: self.from,
            to_port: self.to,
            ip_ranges: self.cidr.iter().map(range).collect(),
            ..Default::default()
        }])
    }
}

/// Protocol and ports of a rule, checked.
fn protocol(
    text: &str,
    from: Option<i32>,
    to: Option<i32>,
) -> ApiResult<(Protocol, Option<(i32, i32)>)> {
    let protocol = Protocol::parse(text).ok_or_else(|| {
        ApiError::new(
            "InvalidPermission.Malformed",
            format_args!("Unsupported IP protocol \"{text}\""),
        )
    })?;
    if protocol.is_icmp() {
        let (kind, code) = (from.unwrap_or(-1), to.unwrap_or(-1));
        let valid = (-1..=255).contains(&kind) && (-1..=255).contains(&code);
        if !valid || (kind == -1 && code != -1) {
            return Err(ApiError::value(format_args!(
                "ICMP code ({code}) is specified with an invalid type ({kind})"
            )));
        }
        return Ok((protocol, Some((kind, code))));
    }
    if !protocol.has_ports() {
        return Ok((protocol, None));
    }
    match (from, to) {
        (Some(from), Some(to)) if (from, to) == (-1, -1) => Ok((protocol, Some((0, 65535)))),
        (Some(from), Some(to)) if 0 <= from && from <= to && to <= 65535 => {
            Ok((protocol, Some((from, to))))
        }
        (Some(from), Some(to)) => Err(ApiError::value(format_args!(
            "Invalid port range {from}-{to}: the ports are 0 to 65535, the first not above the last"
        ))),
        _ => Err(ApiError::value(format_args!(
            "Invalid value for portRange. Must specify both from and to ports with {protocol}."
        ))),
    }
}

/// The group that a pair names: of the same VPC, or of one that an active peering joins to it.
fn group_peer(state: &State, vpc: VpcId, pair: &UserIdGroupPair) -> ApiResult<Peer> {
    let (id, peer) = state
        .groups
        .find(required(&pair.group_id, "Groups.GroupId")?)?;
    if peer.vpc == vpc {
        return Ok(Peer::Group {
            id,
            vpc,
            peering: None,
        });
    }
    let joins = |p: &Peering| p.joins(vpc, peer.vpc) && p.state == PeeringState::Active;
    match state.peerings.iter().find(|(_, p)| joins(p)) {
        Some((peering, _)) => Ok(Peer::Group {
            id,
            vpc: peer.vpc,
            peering: Some(*peering),
        }),
        None => Err(ApiError::new(
            "InvalidGroup.NotFound",
            format_args!(
                "You have specified two resources that belong to different networks: '{id}' of {} and {vpc}",
                peer.vpc
            ),
        )),
    }
}

fn v4(text: &str) -> ApiResult<Peer> {
    super::vpc::cidr(text, "CidrIp")
        .map(Peer::V4)
        .map_err(|_| ApiError::value(format_args!("CIDR block {text} is malformed")))
}

fn v6(text: &str) -> ApiResult<Peer> {
    let net: ipnet::Ipv6Net = parse(text, "CidrIpv6", "an IPv6 CIDR")?;
    Ok(Peer::V6(net.trunc()))
}

/// One rule per peer of the permissions.
fn rules(
    state: &State,
    vpc: VpcId,
    egress: bool,
    permissions: &[IpPermission],
) -> ApiResult<Vec<GroupRule>> {
    let mut rules: Vec<GroupRule> = Vec::new();
    for p in permissions {
        let text = required(&p.ip_protocol, "IpPermissions.IpProtocol")?;
        let (protocol, ports) = protocol(text, p.from_port, p.to_port)?;
        let mut peers = Vec::new();
        for range in &p.ip_ranges {
            peers.push((v4(required(&range.cidr_ip, "CidrIp")?)?, &range.description));
        }
        for range in &p.ipv6_ranges {
            peers.push((
                v6(required(&range.cidr_ipv6, "CidrIpv6")?)?,
                &range.description,
            ));
        }
        for pair in &p.user_id_group_pairs {
            peers.push((group_peer(state, vpc, pair)?, &pair.description));
        }
        for list in &p.prefix_list_ids {
            let text = required(&list.prefix_list_id, "PrefixListId")?;
            let (id, _) = state.prefix_lists.find(text)?;
            peers.push((Peer::List(id), &list.description));
        }
        if peers.is_empty() {
            return Err(ApiError::missing("IpPermissions.IpRanges"));
        }
        rules.extend(peers.into_iter().map(|(peer, description)| GroupRule {
            egress,
            protocol,
            ports,
            peer,
            description: description.clone(),
        }));
    }
    if rules.is_empty() {
        return Err(ApiError::missing("ipPermissions"));
    }
    Ok(rules)
}

/// What a rule counts towards the quota: a prefix list its entries at most, everything else one.
fn weight(state: &State, rule: &GroupRule) -> usize {
    match rule.peer {
        Peer::List(id) => state
            .prefix_lists
            .get(&id)
            .map_or(1, |list| list.max_entries.max(0) as usize),
        _ => 1,
    }
}

fn check_quota(state: &State, all: &[&GroupRule], egress: bool) -> ApiResult<()> {
    let limit = state.config.quotas.rules_per_group;
    let of = |v6: bool| {
        let counted = all.iter().filter(|r| r.egress == egress);
        let counted = counted.filter(|r| matches!(r.peer, Peer::V6(_)) == v6);
        counted.map(|r| weight(state, r)).sum::<usize>()
    };
    if of(false) > limit || of(true) > limit {
        return Err(ApiError::new(
            "RulesPerSecurityGroupLimitExceeded",
            "The maximum number of rules per security group has been reached.",
        ));
    }
    Ok(())
}

fn describe_rule(rule: &GroupRule) -> String {
    let peer = match rule.peer {
        Peer::V4(net) => net.to_string(),
        Peer::V6(net) => net.to_string(),
        Peer::Group { id, .. } => id.to_string(),
        Peer::List(id) => id.to_string(),
    };
    let ports = match rule.ports {
        Some((from, to)) => format!("from port: {from}, to port: {to}"),
        None => "all ports".into(),
    };
    let protocol = if rule.protocol == Protocol::ALL {
        "ALL".into()
    } else {
        rule.protocol.to_string()
    };
    format!("peer: {peer}, {}, {ports}, ALLOW", protocol.to_uppercase())
}

fn authorize(
    cx: &mut Context<'_>,
    id: GroupId,
    egress: bool,
    spelled: &Spelled<'_>,
    tags: &[TagSpecification],
) -> ApiResult<Vec<SecurityGroupRule>> {
    let tags = tag::of_spec(tags, "security-group-rule")?;
    let state = &mut *cx.state;
    let group = &state.groups[&id];
    let new = rules(state, group.vpc, egress, &spelled.permissions()?)?;
    for (at, rule) in new.iter().enumerate() {
        if group.rules.values().any(|r| r.same(rule)) {
            return Err(ApiError::new(
                "InvalidPermission.Duplicate",
                format_args!(
                    "the specified rule \"{}\" already exists",
                    describe_rule(rule)
                ),
            ));
        }
        if new[..at].iter().any(|r| r.same(rule)) {
            return Err(ApiError::value(
                "The same permission must not appear multiple times",
            ));
        }
    }
    let all: Vec<&GroupRule> = group.rules.values().chain(&new).collect();
    check_quota(state, &all, egress)?;
    let mut answer = Vec::new();
    for rule in new {
        let rule_id: GroupRuleId = state.fresh();
        tag::put(state, rule_id, tags.clone());
        answer.push(group_view::rule(state, id, rule_id, &rule));
        if let Some(group) = state.groups.get_mut(&id) {
            group.rules.insert(rule_id, rule);
        }
    }
    Ok(answer)
}

impl Action for AuthorizeSecurityGroupIngressRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<AuthorizeSecurityGroupIngressResult> {
        let id = group::find(cx.state, &self.group_id, &self.group_name)?;
        let spelled = spelled!(self);
        let rules = authorize(cx, id, false, &spelled, &self.tag_specifications)?;
        Ok(AuthorizeSecurityGroupIngressResult {
            return_: Some(true),
            security_group_rules: rules,
        })
    }
}

impl Action for AuthorizeSecurityGroupEgressRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<AuthorizeSecurityGroupEgressResult> {
        let id = group::find(cx.state, &self.group_id, &None)?;
        let spelled = spelled!(self);
        let rules = authorize(cx, id, true, &spelled, &self.tag_specifications)?;
        Ok(AuthorizeSecurityGroupEgressResult {
            return_: Some(true),
            security_group_rules: rules,
        })
    }
}

/// The rules that a revoke names, by id or by content; all must exist.
fn revoke(
    cx: &mut Context<'_>,
    id: GroupId,
    egress: bool,
    rule_ids: &[String],
    spelled: &Spelled<'_>,
) -> ApiResult<Vec<RevokedSecurityGroupRule>> {
    let state = &mut *cx.state;
    let group = &state.groups[&id];
    let mut gone: Vec<GroupRuleId> = Vec::new();
    for text in rule_ids {
        let rule: GroupRuleId = text.parse()?;
        match group.rules.get(&rule) {
            Some(known) if known.egress == egress => gone.push(rule),
            _ => return Err(GroupRuleId::not_found(text)),
        }
    }
    let permissions = spelled.permissions()?;
    if rule_ids.is_empty() || !permissions.is_empty() {
        for wanted in rules(state, group.vpc, egress, &permissions)? {
            match group.rules.iter().find(|(_, r)| r.same(&wanted)) {
                Some((rule, _)) => gone.push(*rule),
                None => {
                    return Err(ApiError::new(
                        "InvalidPermission.NotFound",
                        "The specified rule does not exist in this security group.",
                    ));
                }
            }
        }
    }
    gone.sort();
    gone.dedup();
    let mut answer = Vec::new();
    for rule_id in gone {
        let rule = state
            .groups
            .get_mut(&id)
            .and_then(|g| g.rules.remove(&rule_id));
        if let Some(rule) = rule {
            answer.push(group_view::revoked(id, rule_id, &rule));
            state.drop_tags(rule_id);
        }
    }
    Ok(answer)
}

impl Action for RevokeSecurityGroupIngressRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<RevokeSecurityGroupIngressResult> {
        let id = group::find(cx.state, &self.group_id, &self.group_name)?;
        let spelled = spelled!(self);
        let gone = revoke(cx, id, false, &self.security_group_rule_ids, &spelled)?;
        Ok(RevokeSecurityGroupIngressResult {
            return_: Some(true),
            revoked_security_group_rules: gone,
            ..Default::default()
        })
    }
}

impl Action for RevokeSecurityGroupEgressRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<RevokeSecurityGroupEgressResult> {
        let id = group::find(cx.state, &self.group_id, &None)?;
        let spelled = spelled!(self);
        let gone = revoke(cx, id, true, &self.security_group_rule_ids, &spelled)?;
        Ok(RevokeSecurityGroupEgressResult {
            return_: Some(true),
            revoked_security_group_rules: gone,
            ..Default::default()
        })
    }
}

/// The rule that a ModifySecurityGroupRules entry describes, in place of `old`.
fn modified(
    state: &State,
    vpc: VpcId,
    old: &GroupRule,
    wanted: &SecurityGroupRuleRequest,
) -> ApiResult<GroupRule> {
    let text = required(&wanted.ip_protocol, "SecurityGroupRule.IpProtocol")?;
    let (protocol, ports) = protocol(text, wanted.from_port, wanted.to_port)?;
    let mut peers = Vec::new();
    if let Some(text) = &wanted.cidr_ipv4 {
        peers.push(v4(text)?);
    }
    if let Some(text) = &wanted.cidr_ipv6 {
        peers.push(v6(text)?);
    }
    if let Some(text) = &wanted.prefix_list_id {
        peers.push(Peer::List(state.prefix_lists.find(text)?.0));
    }
    if let Some(text) = &wanted.referenced_group_id {
        let pair = UserIdGroupPair {
            group_id: Some(text.clone()),
            ..Default::default()
        };
        peers.push(group_peer(state, vpc, &pair)?);
    }
    match peers[..] {
        [peer] => Ok(GroupRule {
            egress: old.egress,
            protocol,
            ports,
            peer,
            description: wanted.description.clone(),
        }),
        _ => Err(ApiError::combination(
            "A security group rule has exactly one source or destination.",
        )),
    }
}

impl Action for ModifySecurityGroupRulesRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<ModifySecurityGroupRulesResult> {
        let state = &mut *cx.state;
        let (id, group) = state.groups.find(required(&self.group_id, "groupId")?)?;
        let mut rules = group.rules.clone();
        for update in &self.security_group_rules {
            let text = required(&update.security_group_rule_id, "SecurityGroupRuleId")?;
            let rule_id: GroupRuleId = text.parse()?;
            let old = rules
                .get(&rule_id)
                .ok_or_else(|| GroupRuleId::not_found(text))?;
            let wanted = update
                .security_group_rule
                .as_ref()
                .ok_or_else(|| ApiError::missing("SecurityGroupRule"))?;
            let new = modified(state, group.vpc, old, wanted)?;
            if rules
                .iter()
                .any(|(other, r)| *other != rule_id && r.same(&new))
            {
                return Err(ApiError::new(
                    "InvalidPermission.Duplicate",
                    format_args!(
                        "the specified rule \"{}\" already exists",
                        describe_rule(&new)
                    ),
                ));
            }
            rules.insert(rule_id, new);
        }
        let all: Vec<&GroupRule> = rules.values().collect();
        check_quota(state, &all, false)?;
        check_quota(state, &all, true)?;
        if let Some(group) = state.groups.get_mut(&id) {
            group.rules = rules;
        }
        Ok(ModifySecurityGroupRulesResult {
            return_: Some(true),
        })
    }
}

impl Action for DescribeSecurityGroupRulesRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<DescribeSecurityGroupRulesResult> {
        let filters = describe::read(&self.filters)?;
        describe::check_names(&filters, ["group-id", "security-group-rule-id"].into_iter())?;
        let mut wanted: Vec<GroupRuleId> = Vec::new();
        for text in &self.security_group_rule_ids {
            wanted.push(text.parse()?);
        }
        let mut found = Vec::new();
        for (id, group) in cx.state.groups.iter() {
            for (rule_id, rule) in &group.rules {
                let own = |name: &str| match name {
                    "group-id" => Some(vec![id.to_string()]),
                    "security-group-rule-id" => Some(vec![rule_id.to_string()]),
                    _ => None,
                };
                if (wanted.is_empty() || wanted.contains(rule_id))
                    && filter::matches(&filters, cx.state.tags_of(rule_id), own)?
                {
                    found.push((*rule_id, group_view::rule(cx.state, *id, *rule_id, rule)));
                }
            }
        }
        if let Some(missing) = wanted
            .iter()
            .find(|w| !found.iter().any(|(id, _)| id == *w))
            && self.filters.is_empty()
        {
            return Err(GroupRuleId::not_found(missing));
        }
        found.sort_by_key(|(id, _)| *id);
        let query = Query::new(&self.security_group_rule_ids, &[]);
        let query = query.paged(self.max_results, &self.next_token);
        let (page, next_token) = query.page(found, |(id, _)| id.to_string())?;
        let security_group_rules = page.into_iter().map(|(_, rule)| rule).collect();
        Ok(DescribeSecurityGroupRulesResult {
            security_group_rules,
            next_token,
        })
    }
}

fn update_descriptions(
    cx: &mut Context<'_>,
    id: GroupId,
    egress: bool,
    permissions: &[IpPermission],
    by_id: &[SecurityGroupRuleDescription],
) -> ApiResult<()> {
    let state = &mut *cx.state;
    let group = &state.groups[&id];
    let mut updates: Vec<(GroupRuleId, Option<String>)> = Vec::new();
    for entry in by_id {
        let text = required(&entry.security_group_rule_id, "SecurityGroupRuleId")?;
        let rule: GroupRuleId = text.parse()?;
        if !group.rules.contains_key(&rule) {
            return Err(GroupRuleId::not_found(text));
        }
        updates.push((rule, entry.description.clone()));
    }
    if !permissions.is_empty() || by_id.is_empty() {
        for wanted in rules(state, group.vpc, egress, permissions)? {
            let known = group.rules.iter().find(|(_, r)| r.same(&wanted));
            let (rule, _) = known.ok_or_else(|| {
                ApiError::new(
                    "InvalidPermission.NotFound",
                    "The specified rule does not exist in this security group.",
                )
            })?;
            updates.push((*rule, wanted.description));
        }
    }
    if let Some(group) = state.groups.get_mut(&id) {
        for (rule, description) in updates {
            if let Some(rule) = group.rules.get_mut(&rule) {
                rule.description = description;
            }
        }
    }
    Ok(())
}

impl Action for UpdateSecurityGroupRuleDescriptionsIngressRequest {
    fn run(
        &self,
        cx: &mut Context<'_>,
    ) -> ApiResult<UpdateSecurityGroupRuleDescriptionsIngressResult> {
        let id = group::find(cx.state, &self.group_id, &self.group_name)?;
        let by_id = &self.security_group_rule_descriptions;
        update_descriptions(cx, id, false, &self.ip_permissions, by_id)?;
        Ok(UpdateSecurityGroupRuleDescriptionsIngressResult {
            return_: Some(true),
        })
    }
}

impl Action for UpdateSecurityGroupRuleDescriptionsEgressRequest {
    fn run(
        &self,
        cx: &mut Context<'_>,
    ) -> ApiResult<UpdateSecurityGroupRuleDescriptionsEgressResult> {
        let id = group::find(cx.state, &self.group_id, &self.group_name)?;
        let by_id = &self.security_group_rule_descriptions;
        update_descriptions(cx, id, true, &self.ip_permissions, by_id)?;
        Ok(UpdateSecurityGroupRuleDescriptionsEgressResult {
            return_: Some(true),
        })
    }
}
