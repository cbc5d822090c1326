//! Policy-routing rules, IPv4.

use std::net::IpAddr;

use ipnet::Ipv4Net;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::rule::{
    RuleAction as KernelAction, RuleAttribute, RuleFlags, RuleMessage,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nodenet::{LinkName, Mark, Rule, RuleAction, TableId};

use super::engine::{Request, Socket};
use crate::{Error, Result};

impl Socket {
    /// Adds a rule. EEXIST when exactly this one is there.
    pub fn add_rule(&mut self, rule: &Rule) -> Result<()> {
        self.batch().add_rule(rule).commit()
    }

    /// Removes exactly this rule. ENOENT when it is not there.
    pub fn del_rule(&mut self, rule: &Rule) -> Result<()> {
        self.batch().del_rule(rule).commit()
    }

    /// The IPv4 rules, in the order in which the kernel asks them.
    pub fn rules(&mut self) -> Result<Vec<Rule>> {
        let mut message = RuleMessage::default();
        message.header.family = AddressFamily::Inet;
        let list = self.dump("rules", &RouteNetlinkMessage::GetRule(message))?;
        let rules = list.into_iter().filter_map(|m| match m {
            RouteNetlinkMessage::NewRule(rule) => Some(decode(&rule)),
            _ => None,
        });
        rules.collect()
    }
}

pub(super) fn words(verb: &str, rule: &Rule) -> String {
    format!("{verb} {rule}")
}

pub(super) fn add(words: String, rule: &Rule) -> Result<Request> {
    let message = RouteNetlinkMessage::NewRule(message(&words, rule)?);
    Ok(Request::new(words, message, NLM_F_CREATE | NLM_F_EXCL))
}

pub(super) fn del(words: String, rule: &Rule) -> Result<Request> {
    let message = RouteNetlinkMessage::DelRule(message(&words, rule)?);
    Ok(Request::new(words, message, 0))
}

fn message(words: &str, rule: &Rule) -> Result<RuleMessage> {
    let unsupported = |reason| Error::Unsupported {
        request: words.to_owned(),
        reason,
    };
    if rule.unmodelled.is_some() {
        return Err(unsupported(
            "selectors that were read but not understood cannot be written",
        ));
    }
    let mut message = RuleMessage::default();
    message.header.family = AddressFamily::Inet;
    let attributes = &mut message.attributes;
    attributes.push(RuleAttribute::Priority(rule.priority));
    if rule.invert {
        message.header.flags = RuleFlags::Invert;
    }
    if let Some(net) = rule.from {
        message.header.src_len = net.prefix_len();
        attributes.push(RuleAttribute::Source(net.addr().into()));
    }
    if let Some(net) = rule.to {
        message.header.dst_len = net.prefix_len();
        attributes.push(RuleAttribute::Destination(net.addr().into()));
    }
    if let Some(link) = &rule.iif {
        attributes.push(RuleAttribute::Iifname(link.as_str().to_owned()));
    }
    if let Some(link) = &rule.oif {
        attributes.push(RuleAttribute::Oifname(link.as_str().to_owned()));
    }
    if let Some(mark) = rule.mark {
        attributes.push(RuleAttribute::FwMark(mark.value));
        attributes.push(RuleAttribute::FwMask(mark.mask));
    }
    message.header.action = match &rule.action {
        RuleAction::Lookup(table) => {
            message.header.table = u8::try_from(table.0).unwrap_or(0);
            attributes.push(RuleAttribute::Table(table.0));
            KernelAction::ToTable
        }
        RuleAction::Blackhole => KernelAction::Blackhole,
        RuleAction::Unreachable => KernelAction::Unreachable,
        RuleAction::Prohibit => KernelAction::Prohibit,
        RuleAction::Nop => KernelAction::Nop,
        RuleAction::Goto(priority) => {
            attributes.push(RuleAttribute::Goto(*priority));
            KernelAction::Goto
        }
        RuleAction::Unmodelled(_) => {
            return Err(unsupported("an action that was read but not understood"));
        }
    };
    Ok(message)
}

pub(super) fn decode(message: &RuleMessage) -> Result<Rule> {
    let header = &message.header;
    let mut rule = Rule::lookup(0, TableId(u32::from(header.table)));
    rule.invert = header.flags.contains(RuleFlags::Invert);
    let (mut mark, mut mask, mut goto) = (None, None, 0);
    let mut table = u32::from(header.table);
    let mut strange = Vec::new();
    let mut suppress = Vec::new();
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(value) => rule.priority = *value,
            RuleAttribute::Source(IpAddr::V4(ip)) => {
                rule.from = Ipv4Net::new(*ip, header.src_len).ok();
            }
            RuleAttribute::Destination(IpAddr::V4(ip)) => {
                rule.to = Ipv4Net::new(*ip, header.dst_len).ok();
            }
            RuleAttribute::Iifname(name) => rule.iif = Some(link_name(name)?),
            RuleAttribute::Oifname(name) => rule.oif = Some(link_name(name)?),
            RuleAttribute::FwMark(value) => mark = Some(*value),
            RuleAttribute::FwMask(value) => mask = Some(*value),
            RuleAttribute::Table(value) => table = *value,
            RuleAttribute::Goto(value) => goto = *value,
            // All bits set is the kernel's way to say "not at all".
            RuleAttribute::SuppressPrefixLen(u32::MAX)
            | RuleAttribute::SuppressIfGroup(u32::MAX)
            | RuleAttribute::Protocol(_)
            | RuleAttribute::L3MDev(false) => {}
            RuleAttribute::SuppressPrefixLen(_) | RuleAttribute::SuppressIfGroup(_) => {
                suppress.push(format!("{attribute:?}"));
            }
            other => strange.push(format!("{other:?}")),
        }
    }
    if header.tos != 0 {
        strange.push(format!("tos {}", header.tos));
    }
    rule.mark = mark.map(|value| Mark {
        value,
        mask: mask.unwrap_or(u32::MAX),
    });
    rule.unmodelled = (!strange.is_empty()).then(|| strange.join(" "));
    rule.action = match header.action {
        KernelAction::ToTable if suppress.is_empty() => RuleAction::Lookup(TableId(table)),
        KernelAction::ToTable => {
            RuleAction::Unmodelled(format!("lookup {} {}", TableId(table), suppress.join(" ")))
        }
        KernelAction::Blackhole => RuleAction::Blackhole,
        KernelAction::Unreachable => RuleAction::Unreachable,
        KernelAction::Prohibit => RuleAction::Prohibit,
        KernelAction::Nop => RuleAction::Nop,
        KernelAction::Goto => RuleAction::Goto(goto),
        other => RuleAction::Unmodelled(format!("{other:?}")),
    };
    Ok(rule)
}

fn link_name(name: &str) -> Result<LinkName> {
    LinkName::new(name).map_err(|error| Error::Decode {
        request: "rule show".to_owned(),
        reason: error.to_string(),
    })
}
