//! What on a node is ours: the agent changes nothing else.
//!
//! A node is shared with the machine image, ec2-net-utils, kube-proxy and the operator. An object
//! is ours when it has the shape that only the plugin and the agent give it, so that what an
//! earlier version left behind is recognised too. When in doubt it is foreign.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::facts::NodeFacts;
use crate::layout::{self, VethPrefix, priority};
use crate::model::{Addr, Mark, Neighbour, Route, Rule, RuleAction, Scope, Target};
use crate::name::{LinkName, TableId};

/// The shapes that are ours on one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owned {
    veth_prefix: VethPrefix,
    mark: Mark,
    /// Subnets of the secondary ENIs by link.
    secondary: BTreeMap<LinkName, Ipv4Net>,
    tables: BTreeSet<TableId>,
}

impl Owned {
    /// What is ours on the node of these facts.
    pub fn by(facts: &NodeFacts) -> Self {
        let secondary = facts.enis.iter().filter(|eni| !eni.is_primary());
        Self {
            veth_prefix: facts.settings.veth_prefix.clone(),
            mark: facts.settings.connmark,
            tables: secondary.clone().map(|eni| eni.table()).collect(),
            secondary: secondary
                .map(|e| (e.link.clone(), e.subnet.trunc()))
                .collect(),
        }
    }

    /// Rules of our priorities **and** shapes.
    pub fn rule(&self, rule: &Rule) -> bool {
        let RuleAction::Lookup(table) = rule.action else {
            return false;
        };
        if rule.invert || rule.iif.is_some() || rule.oif.is_some() || rule.unmodelled.is_some() {
            return false;
        }
        let one_address = |net: Option<Ipv4Net>| net.is_some_and(|net| net.prefix_len() == 32);
        let main = table == TableId::MAIN;
        let eni = layout::is_eni_table(table);
        match (rule.priority, rule.from, rule.to, rule.mark) {
            (priority::TO_POD, None, to, None) => main && one_address(to),
            (priority::MARKED, None, None, Some(mark)) => main && mark == self.mark,
            (priority::EXTERNAL_SERVICE, None, Some(_), None) => main,
            // Very old versions of upstream made one per CIDR of the VPC.
            (priority::FROM_POD, from, _, None) => eni && one_address(from),
            (priority::FROM_ENI, from, None, None) => eni && one_address(from),
            _ => false,
        }
    }

    /// Routes to pods, everything in the tables of our ENIs, and the connected route that the
    /// kernel makes in `main` for an address of a secondary ENI that is added without care.
    pub fn route(&self, route: &Route) -> bool {
        if self.tables.contains(&route.table) {
            return true;
        }
        let Target::Unicast {
            link, via: None, ..
        } = &route.target
        else {
            return false;
        };
        route.table == TableId::MAIN
            && (self.is_pod_route(route, link) || self.is_connected_route(route, link))
    }

    /// Global addresses of secondary ENIs. Those of the primary one are the machine's.
    pub fn addr(&self, addr: &Addr) -> bool {
        addr.scope == Scope::Global && self.secondary.contains_key(&addr.link)
    }

    /// Permanent neighbours on pods' veths. Nobody makes any: pods answer for their addresses.
    pub fn neighbour(&self, neighbour: &Neighbour) -> bool {
        self.veth_prefix.made(&neighbour.link)
    }

    /// The one address that a rule of ours is about: a pod's, or a secondary ENI's own. `None` for
    /// rules of the whole node and for foreign ones.
    pub fn rule_about(&self, rule: &Rule) -> Option<Ipv4Addr> {
        if !self.rule(rule) {
            return None;
        }
        let selector = match rule.priority {
            priority::TO_POD => rule.to,
            priority::FROM_POD | priority::FROM_ENI => rule.from,
            _ => None,
        };
        selector.map(|net| net.addr())
    }

    /// The pod's address that a route of ours leads to.
    pub fn route_about(&self, route: &Route) -> Option<Ipv4Addr> {
        let pod = route.link().is_some_and(|link| {
            route.table == TableId::MAIN && self.route(route) && self.is_pod_route(route, link)
        });
        pod.then(|| route.dst.addr())
    }

    fn is_pod_route(&self, route: &Route, link: &LinkName) -> bool {
        route.dst.prefix_len() == 32 && self.veth_prefix.made(link)
    }

    fn is_connected_route(&self, route: &Route, link: &LinkName) -> bool {
        self.secondary
            .get(link)
            .is_some_and(|subnet| route.dst == *subnet && route.prefsrc.is_some())
    }
}
