//! Route tables to next hops: longest prefix first (VPC user guide, "Route priority").

use flowset::{FlowSet, RangeSet};
use ipnet::Ipv4Net;
use layers::{Provenance, mutated};

use crate::facts::*;
use crate::need::Need;

/// A route table, ready for look-ups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NextHops {
    /// The table.
    pub table: RtbId,
    /// One hop per destination network, the longest prefix first.
    pub hops: Vec<NextHop>,
    /// Set when a route's prefix list could not be read: such a route may be more specific than any
    /// other, so that only what `local` decides is known.
    pub unknown: Option<Need>,
}

/// One way out of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NextHop {
    /// Where to.
    pub net: Ipv4Net,
    /// Through what.
    pub target: Target,
    /// Whether the target is there.
    pub state: RouteState,
    /// The route.
    pub source: Provenance,
}

/// Where a part of a set goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way<'a> {
    /// By this hop.
    Hop(&'a NextHop),
    /// No route matches.
    NoRoute,
    /// Not known.
    Unknown(&'a Need),
}

/// Compiles a route table. Among routes to the same network `local` comes before all others, static
/// ones before propagated, and CIDRs before entries of prefix lists.
pub fn next_hops(world: &World, table: &RouteTable) -> NextHops {
    let mut ranked: Vec<(Rank, NextHop)> = Vec::new();
    let mut unknown = None;
    for route in &table.routes {
        let nets: Vec<Ipv4Net> = match &route.destination {
            Destination::Cidr(net) => vec![*net],
            Destination::Cidr6(_) => continue,
            Destination::PrefixList(id) => match entries(world, id) {
                Ok(nets) => nets,
                Err(need) => {
                    unknown.get_or_insert(need);
                    continue;
                }
            },
        };
        let hop = |net: Ipv4Net| NextHop {
            net: net.trunc(),
            target: route.target.clone(),
            state: route.state,
            source: provenance(table, route),
        };
        ranked.extend(nets.into_iter().map(|net| (rank(route, net), hop(net))));
    }
    ranked.sort_by_key(|(rank, hop)| (*rank, hop.net));
    let mut hops: Vec<NextHop> = Vec::with_capacity(ranked.len());
    for (_, hop) in ranked {
        if hops.iter().all(|h| h.net != hop.net) {
            hops.push(hop);
        }
    }
    NextHops {
        table: table.id.clone(),
        hops,
        unknown,
    }
}

/// Smaller goes first.
type Rank = (std::cmp::Reverse<u8>, bool, bool, bool);

fn rank(route: &Route, net: Ipv4Net) -> Rank {
    let propagated = route.origin == RouteOrigin::Propagated;
    let listed = matches!(route.destination, Destination::PrefixList(_));
    (
        std::cmp::Reverse(net.prefix_len()),
        route.target != Target::Local,
        propagated,
        listed,
    )
}

fn entries(world: &World, id: &PrefixListId) -> Result<Vec<Ipv4Net>, Need> {
    let list = world
        .prefix_lists
        .get(id)
        .ok_or_else(|| world.need(Kind::PrefixLists, id))?;
    match &list.unread {
        None => Ok(list.entries.clone()),
        Some(u) => Err(Need::Unread {
            object: id.to_string(),
            action: u.action.clone(),
            reason: u.reason.clone(),
        }),
    }
}

fn provenance(table: &RouteTable, route: &Route) -> Provenance {
    Provenance {
        object: table.id.to_string(),
        name: crate::world::name_tag(&table.tags).map(str::to_owned),
        rule: None,
        peer: Some(route.destination.to_string()),
        text: route.to_string(),
        note: None,
    }
}

impl NextHops {
    /// Splits packets by the hop they take. The parts are disjoint, none is empty, and together
    /// they are the set.
    pub fn split<'a>(&'a self, flows: &FlowSet) -> Vec<(FlowSet, Way<'a>)> {
        let mut rest = flows.clone();
        let mut parts = Vec::new();
        let mut hops: Vec<&NextHop> = self.hops.iter().collect();
        if mutated!(ShortestPrefixWins) {
            hops.reverse();
        }
        for hop in hops {
            let net = RangeSet::from(hop.net);
            let hit = rest.to_destinations(&net);
            if hit.is_empty() {
                continue;
            }
            rest = rest.to_destinations(&net.complement());
            let way = match &self.unknown {
                Some(need) if hop.target != Target::Local => Way::Unknown(need),
                _ => Way::Hop(hop),
            };
            parts.push((hit, way));
        }
        if !rest.is_empty() {
            parts.push((
                rest,
                self.unknown.as_ref().map_or(Way::NoRoute, Way::Unknown),
            ));
        }
        parts
    }
}
