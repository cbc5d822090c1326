//! From the network that is to the one that must be.
//!
//! A [`Diff`] is a list of steps in an order in which each can be taken, every one of which can be
//! repeated and taken back. It touches only what is [`Owned`]. Links are adjusted, never made or
//! deleted: a missing one is named, and what depends on it is left out until it is there.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::model::{Addr, Neighbour, NodeNet, Route, Rule, Target};
use crate::name::LinkName;
use crate::owned::Owned;

/// What must be changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diff {
    /// The changes, in order.
    pub steps: Vec<Step>,
    /// Links that must exist and do not: ENIs whose device has not appeared, pods whose veth is
    /// gone. Their routes and addresses are not among the steps.
    pub missing: BTreeSet<LinkName>,
}

/// One change. Each may be repeated: adding what is there and removing what is not are no errors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// Sets a link's MTU.
    SetMtu {
        /// The link.
        link: LinkName,
        /// Bytes before.
        was: u32,
        /// Bytes after.
        mtu: u32,
    },
    /// Sets a link administratively up or down.
    SetUp {
        /// The link.
        link: LinkName,
        /// Up afterwards.
        up: bool,
    },
    /// Removes an address.
    DelAddr(Addr),
    /// Adds an address.
    AddAddr(Addr),
    /// Adds a permanent neighbour, or changes its Ethernet address.
    PutNeighbour(Neighbour),
    /// Removes a neighbour.
    DelNeighbour(Neighbour),
    /// Adds a route, or takes the place of the one with the same table, destination and metric.
    PutRoute {
        /// The route that must be.
        route: Route,
        /// The route whose place it takes.
        was: Option<Route>,
    },
    /// Adds a rule.
    AddRule(Rule),
    /// Removes a rule.
    DelRule(Rule),
    /// Removes a route.
    DelRoute(Route),
}

impl Step {
    /// The step that takes this one back.
    #[must_use]
    pub fn inverse(&self) -> Self {
        match self.clone() {
            Self::SetMtu { link, was, mtu } => Self::SetMtu {
                link,
                was: mtu,
                mtu: was,
            },
            Self::SetUp { link, up } => Self::SetUp { link, up: !up },
            Self::DelAddr(addr) => Self::AddAddr(addr),
            Self::AddAddr(addr) => Self::DelAddr(addr),
            Self::PutNeighbour(neighbour) => Self::DelNeighbour(neighbour),
            Self::DelNeighbour(neighbour) => Self::PutNeighbour(neighbour),
            Self::PutRoute { route, was: None } => Self::DelRoute(route),
            Self::PutRoute {
                route,
                was: Some(was),
            } => Self::PutRoute {
                route: was,
                was: Some(route),
            },
            Self::AddRule(rule) => Self::DelRule(rule),
            Self::DelRule(rule) => Self::AddRule(rule),
            Self::DelRoute(route) => Self::PutRoute { route, was: None },
        }
    }

    /// Does the step to a value, as the kernel does it to a namespace.
    pub fn apply_to(&self, net: &mut NodeNet) {
        match self {
            Self::SetMtu { link, mtu, .. } => change_link(net, link, |l| l.mtu = *mtu),
            Self::SetUp { link, up } => change_link(net, link, |l| l.up = *up),
            Self::DelAddr(addr) => net.addrs.retain(|a| !same_addr(a, addr)),
            Self::AddAddr(addr) => {
                if !net.addrs.iter().any(|a| same_addr(a, addr)) {
                    net.addrs.insert(addr.clone());
                }
            }
            Self::PutNeighbour(n) => {
                net.neighbours
                    .retain(|o| (&o.link, o.addr) != (&n.link, n.addr));
                net.neighbours.insert(n.clone());
            }
            Self::DelNeighbour(n) => {
                net.neighbours
                    .retain(|o| (&o.link, o.addr) != (&n.link, n.addr));
            }
            Self::PutRoute { route, .. } => {
                net.routes.retain(|r| !same_place(r, route));
                net.routes.insert(route.clone());
            }
            Self::DelRoute(route) => net.routes.retain(|r| !same_route(r, route)),
            Self::AddRule(rule) => {
                net.rules.insert(rule.clone());
            }
            Self::DelRule(rule) => {
                net.rules.remove(rule);
            }
        }
    }
}

impl Diff {
    /// Nothing to do and nothing missing.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty() && self.missing.is_empty()
    }

    /// Does all steps to a value, as the kernel does them to a namespace.
    pub fn apply_to(&self, net: &mut NodeNet) {
        for step in &self.steps {
            step.apply_to(net);
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SetMtu { link, mtu, .. } => write!(f, "link set {link} mtu {mtu}"),
            Self::SetUp { link, up } => {
                write!(f, "link set {link} {}", if *up { "up" } else { "down" })
            }
            Self::DelAddr(addr) => write!(f, "addr del {} dev {}", addr.net, addr.link),
            Self::AddAddr(addr) => write!(f, "addr add {} dev {}", addr.net, addr.link),
            Self::PutNeighbour(n) => {
                write!(
                    f,
                    "neigh replace {} lladdr {} dev {}",
                    n.addr, n.mac, n.link
                )
            }
            Self::DelNeighbour(n) => write!(f, "neigh del {} dev {}", n.addr, n.link),
            Self::PutRoute { route, was: None } => write!(f, "route add {route}"),
            Self::PutRoute { route, .. } => write!(f, "route replace {route}"),
            Self::DelRoute(route) => write!(f, "route del {route}"),
            Self::AddRule(rule) => write!(f, "rule add {rule}"),
            Self::DelRule(rule) => write!(f, "rule del {rule}"),
        }
    }
}

impl fmt::Display for Diff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.steps {
            writeln!(f, "{step}")?;
        }
        for link in &self.missing {
            writeln!(f, "missing link {link}")?;
        }
        Ok(())
    }
}

/// The changes that make the owned part of `have` equal to `want`.
///
/// Order: links; addresses (removed before added, because the kernel removes the other addresses
/// of a subnet with its first one); neighbours; routes, directly connected ones first; rules added
/// before others are removed, so that no packet of a pod falls through; stale routes last.
pub fn diff(want: &NodeNet, have: &NodeNet, owned: &Owned) -> Diff {
    let mut diff = Diff::default();
    links(want, have, &mut diff);
    let disturbed = addrs(want, have, owned, &mut diff);
    neighbours(want, have, owned, &mut diff);
    routes(want, have, &disturbed, &mut diff);
    let steps = &mut diff.steps;
    steps.extend(
        want.rules
            .difference(&have.rules)
            .cloned()
            .map(Step::AddRule),
    );
    let stale = have
        .rules
        .difference(&want.rules)
        .filter(|rule| owned.rule(rule));
    steps.extend(stale.cloned().map(Step::DelRule));
    steps.extend(stale_routes(want, have, owned).map(Step::DelRoute));
    diff
}

fn links(want: &NodeNet, have: &NodeNet, diff: &mut Diff) {
    for link in &want.links {
        let found = have
            .link(&link.name)
            .filter(|h| link.mac.is_none() || h.mac == link.mac);
        let Some(found) = found else {
            diff.missing.insert(link.name.clone());
            continue;
        };
        let name = || link.name.clone();
        if found.mtu != link.mtu {
            diff.steps.push(Step::SetMtu {
                link: name(),
                was: found.mtu,
                mtu: link.mtu,
            });
        }
        if found.up != link.up {
            diff.steps.push(Step::SetUp {
                link: name(),
                up: link.up,
            });
        }
    }
}

/// Addresses. Returns the links from which one is removed: with the last address of a link the
/// kernel removes its routes (fib_disable_ip), with the first of a subnet the others.
fn addrs(want: &NodeNet, have: &NodeNet, owned: &Owned, diff: &mut Diff) -> BTreeSet<LinkName> {
    let wanted = |addr: &Addr| want.addrs.iter().any(|w| same_addr(w, addr));
    let stale: Vec<_> = have
        .addrs
        .iter()
        .filter(|a| owned.addr(a) && !wanted(a))
        .collect();
    let disturbed: BTreeSet<LinkName> = stale.iter().map(|addr| addr.link.clone()).collect();
    diff.steps
        .extend(stale.into_iter().cloned().map(Step::DelAddr));
    for addr in &want.addrs {
        let there = have.addrs.iter().any(|h| same_addr(h, addr));
        if !diff.missing.contains(&addr.link) && (!there || disturbed.contains(&addr.link)) {
            diff.steps.push(Step::AddAddr(addr.clone()));
        }
    }
    disturbed
}

fn neighbours(want: &NodeNet, have: &NodeNet, owned: &Owned, diff: &mut Diff) {
    let stale = |n: &&Neighbour| {
        let wanted = |w: &Neighbour| (&w.link, w.addr) == (&n.link, n.addr);
        owned.neighbour(n) && !want.neighbours.iter().any(wanted)
    };
    let stale = have.neighbours.iter().filter(stale).cloned();
    diff.steps.extend(stale.map(Step::DelNeighbour));
    let absent = want.neighbours.difference(&have.neighbours);
    for neighbour in absent.filter(|n| have.link(&n.link).is_some()) {
        diff.steps.push(Step::PutNeighbour(neighbour.clone()));
    }
}

fn routes(want: &NodeNet, have: &NodeNet, disturbed: &BTreeSet<LinkName>, diff: &mut Diff) {
    let (via, direct): (Vec<_>, Vec<_>) = want
        .routes
        .iter()
        .partition(|r| matches!(&r.target, Target::Unicast { via: Some(_), .. }));
    for route in direct.into_iter().chain(via) {
        let on = |links: &BTreeSet<LinkName>| route.link().is_some_and(|l| links.contains(l));
        let was = have.routes.iter().find(|h| same_place(h, route));
        let there = was.is_some_and(|h| same_route(h, route));
        if !on(&diff.missing) && (!there || on(disturbed)) {
            diff.steps.push(Step::PutRoute {
                route: route.clone(),
                was: was.cloned(),
            });
        }
    }
}

fn stale_routes<'a>(
    want: &'a NodeNet,
    have: &'a NodeNet,
    owned: &'a Owned,
) -> impl Iterator<Item = Route> + 'a {
    let stale = move |route: &&Route| {
        owned.route(route) && !want.routes.iter().any(|w| same_place(w, route))
    };
    have.routes.iter().filter(stale).cloned()
}

fn change_link(net: &mut NodeNet, name: &LinkName, change: impl Fn(&mut crate::Link)) {
    if let Some(mut link) = net.link(name).cloned() {
        net.links.remove(&link);
        change(&mut link);
        net.links.insert(link);
    }
}

/// Whether the kernel would call it the same address.
fn same_addr(a: &Addr, b: &Addr) -> bool {
    (&a.link, a.net) == (&b.link, b.net)
}

/// Whether one would take the place of the other.
fn same_place(a: &Route, b: &Route) -> bool {
    (a.table, a.dst, a.metric) == (b.table, b.dst, b.metric)
}

/// Whether both do the same to every packet. Who made them does not matter.
fn same_route(a: &Route, b: &Route) -> bool {
    same_place(a, b) && (&a.target, a.scope, a.prefsrc) == (&b.target, b.scope, b.prefsrc)
}
