//! Security groups, network ACLs and prefix lists.

use std::collections::BTreeMap;

use vpc::facts::{
    AclCidr, AclEntry, Direction, GroupRule, NetworkAcl, Ports, PrefixList, Protocol, RulePeer,
    SecurityGroup, SgRuleId, Unread,
};

use super::{FactError, Of, tags};
use crate::types as t;

/// The ids of security group rules, found by what a rule says: `describe-security-groups` does not print them.
#[derive(Clone, Debug, Default)]
pub struct RuleIds {
    /// By group.
    rules: BTreeMap<String, Vec<(Direction, Protocol, RulePeer, SgRuleId)>>,
}

impl RuleIds {
    /// From DescribeSecurityGroupRules.
    pub fn read(answers: &[t::SecurityGroupRule]) -> Result<Self, FactError> {
        let mut ids = Self::default();
        for answer in answers {
            let of = Of::id("DescribeSecurityGroupRules", &answer.security_group_rule_id)?;
            let group = of.need("groupId", &answer.group_id)?;
            let direction = match of.need("isEgress", &answer.is_egress)? {
                true => Direction::Egress,
                false => Direction::Ingress,
            };
            let protocol = protocol(&of, &answer.ip_protocol, answer.from_port, answer.to_port)?;
            let rule = (
                direction,
                protocol,
                rule_peer(&of, answer)?,
                of.parse("id", of.0)?,
            );
            ids.rules.entry(group.clone()).or_default().push(rule);
        }
        Ok(ids)
    }

    fn find(&self, group: &str, rule: &GroupRule) -> Option<SgRuleId> {
        let rules = self.rules.get(group)?;
        let found = rules.iter().find(|(direction, protocol, peer, _)| {
            (*direction, *protocol) == (rule.direction, rule.protocol)
                && same_peer(peer, &rule.peer)
        });
        found.map(|(.., id)| id.clone())
    }
}

/// The two actions differ in how much they say about a referenced group: its id decides.
fn same_peer(a: &RulePeer, b: &RulePeer) -> bool {
    match (a, b) {
        (RulePeer::Group { id: a, .. }, RulePeer::Group { id: b, .. }) => a == b,
        _ => a == b,
    }
}

fn rule_peer(of: &Of<'_>, answer: &t::SecurityGroupRule) -> Result<RulePeer, FactError> {
    if answer.cidr_ipv4.is_some() {
        return Ok(RulePeer::Cidr4(of.net4("cidrIpv4", &answer.cidr_ipv4)?));
    }
    if answer.cidr_ipv6.is_some() {
        return Ok(RulePeer::Cidr6(of.net6("cidrIpv6", &answer.cidr_ipv6)?));
    }
    if answer.prefix_list_id.is_some() {
        return Ok(RulePeer::PrefixList(
            of.parsed("prefixListId", &answer.prefix_list_id)?,
        ));
    }
    let group = of.need("peer", &answer.referenced_group_info)?;
    Ok(RulePeer::Group {
        id: of.parsed("referencedGroupInfo.groupId", &group.group_id)?,
        vpc: of.parse_some("referencedGroupInfo.vpcId", &group.vpc_id)?,
        peering: of.parse_some("vpcPeeringConnectionId", &group.vpc_peering_connection_id)?,
    })
}

/// A group, its permissions taken apart into one rule per peer.
pub fn security_group(group: &t::SecurityGroup, ids: &RuleIds) -> Result<SecurityGroup, FactError> {
    let of = Of::id("DescribeSecurityGroups", &group.group_id)?;
    let mut rules = Vec::new();
    for permission in &group.ip_permissions {
        group_rules(&of, Direction::Ingress, permission, &mut rules)?;
    }
    for permission in &group.ip_permissions_egress {
        group_rules(&of, Direction::Egress, permission, &mut rules)?;
    }
    for rule in &mut rules {
        rule.id = ids.find(of.0, rule);
    }
    Ok(SecurityGroup {
        id: of.parse("groupId", of.0)?,
        vpc: of.parsed("vpcId", &group.vpc_id)?,
        name: group.group_name.clone().unwrap_or_default(),
        owner: group.owner_id.clone().unwrap_or_default(),
        description: group.description.clone().unwrap_or_default(),
        rules,
        tags: tags(&group.tags),
    })
}

fn group_rules(
    of: &Of<'_>,
    direction: Direction,
    permission: &t::IpPermission,
    rules: &mut Vec<GroupRule>,
) -> Result<(), FactError> {
    let protocol = protocol(
        of,
        &permission.ip_protocol,
        permission.from_port,
        permission.to_port,
    )?;
    let mut add = |peer, description: &Option<String>| {
        let description = description.clone().unwrap_or_default();
        rules.push(GroupRule {
            id: None,
            direction,
            protocol,
            peer,
            description,
        });
    };
    for range in &permission.ip_ranges {
        add(
            RulePeer::Cidr4(of.net4("cidrIp", &range.cidr_ip)?),
            &range.description,
        );
    }
    for range in &permission.ipv6_ranges {
        add(
            RulePeer::Cidr6(of.net6("cidrIpv6", &range.cidr_ipv6)?),
            &range.description,
        );
    }
    for list in &permission.prefix_list_ids {
        let id = of.parsed("prefixListId", &list.prefix_list_id)?;
        add(RulePeer::PrefixList(id), &list.description);
    }
    for pair in &permission.user_id_group_pairs {
        let peer = RulePeer::Group {
            id: of.parsed("groups.groupId", &pair.group_id)?,
            vpc: of.parse_some("groups.vpcId", &pair.vpc_id)?,
            peering: of.parse_some("vpcPeeringConnectionId", &pair.vpc_peering_connection_id)?,
        };
        add(peer, &pair.description);
    }
    Ok(())
}

/// Protocol of a permission. ICMP has its type in `FromPort` and its code in `ToPort`, -1 for any.
fn protocol(
    of: &Of<'_>,
    name: &Option<String>,
    from: Option<i32>,
    to: Option<i32>,
) -> Result<Protocol, FactError> {
    let ports = || {
        let (from, to) = (*of.need("fromPort", &from)?, *of.need("toPort", &to)?);
        ports(of, from, to)
    };
    let icmp = || {
        let (kind, code) = (*of.need("fromPort", &from)?, *of.need("toPort", &to)?);
        icmp(of, kind, code)
    };
    which(of, name, ports, icmp)
}

/// The protocol of this name, with the ports or the ICMP type that it has.
fn which(
    of: &Of<'_>,
    name: &Option<String>,
    ports: impl FnOnce() -> Result<Ports, FactError>,
    icmp: impl FnOnce() -> Result<(Option<u8>, Option<u8>), FactError>,
) -> Result<Protocol, FactError> {
    Ok(match protocol_number(of, name)? {
        None => Protocol::All,
        Some(6) => Protocol::Tcp(ports()?),
        Some(17) => Protocol::Udp(ports()?),
        Some(1) => {
            let (kind, code) = icmp()?;
            Protocol::Icmp { kind, code }
        }
        Some(58) => {
            let (kind, code) = icmp()?;
            Protocol::Icmp6 { kind, code }
        }
        Some(number) => Protocol::Number(number),
    })
}

/// The number of a protocol; None: EC2's -1, all.
fn protocol_number(of: &Of<'_>, name: &Option<String>) -> Result<Option<u8>, FactError> {
    let name = of.need("protocol", name)?;
    Ok(Some(match name.as_str() {
        "-1" => return Ok(None),
        "tcp" => 6,
        "udp" => 17,
        "icmp" => 1,
        "icmpv6" => 58,
        number => of.parse("protocol", number)?,
    }))
}

fn ports(of: &Of<'_>, from: i32, to: i32) -> Result<Ports, FactError> {
    let ports = Ports {
        from: of.number("fromPort", from)?,
        to: of.number("toPort", to)?,
    };
    if ports.from > ports.to {
        return Err(of.malformed("fromPort", from, format_args!("above toPort {to}")));
    }
    Ok(ports)
}

fn icmp(of: &Of<'_>, kind: i32, code: i32) -> Result<(Option<u8>, Option<u8>), FactError> {
    let some = |member, value| match value {
        -1 => Ok(None),
        value => of.number(member, value).map(Some),
    };
    let (kind, code) = (some("ICMP type", kind)?, some("ICMP code", code)?);
    match (kind, code) {
        (None, Some(code)) => Err(of.malformed("ICMP code", code, "a code without a type")),
        both => Ok(both),
    }
}

/// A network ACL with its entries.
pub fn network_acl(acl: &t::NetworkAcl) -> Result<NetworkAcl, FactError> {
    let of = Of::id("DescribeNetworkAcls", &acl.network_acl_id)?;
    let subnets = acl
        .associations
        .iter()
        .map(|a| of.parsed("subnetId", &a.subnet_id));
    Ok(NetworkAcl {
        id: of.parse("networkAclId", of.0)?,
        vpc: of.parsed("vpcId", &acl.vpc_id)?,
        default: *of.need("default", &acl.is_default)?,
        subnets: subnets.collect::<Result<_, _>>()?,
        entries: acl
            .entries
            .iter()
            .map(|e| acl_entry(of.0, e))
            .collect::<Result<_, _>>()?,
        tags: tags(&acl.tags),
    })
}

fn acl_entry(acl: &str, entry: &t::NetworkAclEntry) -> Result<AclEntry, FactError> {
    let number = *Of(acl).need("ruleNumber", &entry.rule_number)?;
    let name = format!("{acl} entry {number}");
    let of = Of(&name);
    Ok(AclEntry {
        number: of.number("ruleNumber", number)?,
        direction: match of.need("egress", &entry.egress)? {
            true => Direction::Egress,
            false => Direction::Ingress,
        },
        protocol: acl_protocol(&of, entry)?,
        cidr: if entry.ipv6_cidr_block.is_some() {
            AclCidr::V6(of.net6("ipv6CidrBlock", &entry.ipv6_cidr_block)?)
        } else {
            AclCidr::V4(of.net4("cidrBlock", &entry.cidr_block)?)
        },
        allow: match of.need("ruleAction", &entry.rule_action)?.as_str() {
            "allow" => true,
            "deny" => false,
            other => return Err(of.malformed("ruleAction", other, "neither allow nor deny")),
        },
    })
}

fn acl_protocol(of: &Of<'_>, entry: &t::NetworkAclEntry) -> Result<Protocol, FactError> {
    let range = || {
        let range = of.need("portRange", &entry.port_range)?;
        ports(
            of,
            *of.need("from", &range.from)?,
            *of.need("to", &range.to)?,
        )
    };
    let icmp = || {
        let icmp_type = of.need("icmpTypeCode", &entry.icmp_type_code)?;
        icmp(
            of,
            *of.need("type", &icmp_type.type_)?,
            *of.need("code", &icmp_type.code)?,
        )
    };
    which(of, &entry.protocol, range, icmp)
}

/// A prefix list with its entries, or with why they are not known.
pub fn prefix_list(
    list: &t::ManagedPrefixList,
    entries: Result<&[t::PrefixListEntry], Unread>,
) -> Result<PrefixList, FactError> {
    let of = Of::id("DescribeManagedPrefixLists", &list.prefix_list_id)?;
    let mut facts = PrefixList {
        id: of.parse("prefixListId", of.0)?,
        name: list.prefix_list_name.clone().unwrap_or_default(),
        entries: Vec::new(),
        entries6: Vec::new(),
        max_entries: list
            .max_entries
            .map(|n| of.number("maxEntries", n))
            .transpose()?,
        unread: None,
    };
    match entries {
        Err(unread) => facts.unread = Some(unread),
        Ok(entries) => {
            for entry in entries {
                if entry.cidr.as_deref().is_some_and(|cidr| cidr.contains(':')) {
                    facts.entries6.push(of.net6("cidr", &entry.cidr)?);
                } else {
                    facts.entries.push(of.net4("cidr", &entry.cidr)?);
                }
            }
        }
    }
    Ok(facts)
}
