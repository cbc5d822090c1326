//! What a change is to us, which steps may be taken, what is left to others: pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ipam::Millis;
use kernel::Change;
use nodenet::layout::priority;
use nodenet::{Link, LinkName, NodeNet, Owned, Step, TableId};

use super::Round;
use super::facts::{Facts, Leased, veth};
use super::identity::Sorted;

/// When a change of an address, a route, a rule or a neighbour makes a look due.
pub(super) fn concerns(
    change: &Change,
    (want, owned): (&NodeNet, &Owned),
    facts: &Facts,
    now: Millis,
) -> Option<Millis> {
    // What is added for a young pod is its plugin's work; what is removed may be a failed ADD.
    let of_pod = |address, gone: bool| {
        let at = facts.pod_at(address).map(Leased::settled_at);
        match at {
            Some(at) if at > now => gone.then_some(at),
            Some(_) => Some(now),
            None => Some(now),
        }
    };
    match change {
        Change::Addr { addr, .. } => owned.addr(addr).then_some(now),
        Change::Neighbour(neighbour) => owned.neighbour(neighbour).then_some(now),
        Change::Rule { rule, gone } => {
            let right = want.rules.contains(rule) != *gone;
            let address = owned.rule_about(rule);
            let known = address.is_none_or(|a| facts.pod_at(a).is_some() || is_eni(facts, a));
            if right || !owned.rule(rule) || !known {
                return None;
            }
            address.map_or(Some(now), |address| of_pod(address, *gone))
        }
        Change::Route {
            table,
            dst,
            metric,
            gone,
        } => {
            if *table != TableId::MAIN {
                let secondary = facts.enis.iter().any(|eni| eni.table() == *table);
                return secondary.then_some(now);
            }
            let place = |route: &nodenet::Route| {
                (route.table, route.dst, route.metric) == (*table, *dst, *metric)
            };
            if want.routes.iter().any(place) {
                return of_pod(dst.addr(), *gone);
            }
            // The connected route that the kernel makes for an address added without care.
            let connected =
                |eni: &nodenet::EniFacts| !eni.is_primary() && eni.subnet.trunc() == *dst;
            (!gone && facts.enis.iter().any(connected)).then_some(now)
        }
        _ => None,
    }
}

fn is_eni(facts: &Facts, address: Ipv4Addr) -> bool {
    facts.enis.iter().any(|eni| eni.address == address)
}

/// Whether a step may be taken. What adds or corrects is about pods with a lease and interfaces in
/// service. What removes must not take anything from somebody of whom the pool does not know:
/// only what contradicts them, and what leads to addresses that are free and have rested.
pub(super) fn ours_for_sure(
    step: &Step,
    facts: &Facts,
    sorted: &Sorted,
    (owned, have): (&Owned, &NodeNet),
) -> bool {
    let looked_after = |address| sorted.pods.iter().any(|(l, _)| l.pod.address == address);
    match step {
        Step::DelRule(rule) => owned.rule_about(rule).is_some_and(|address| {
            let left_over = facts.is_idle(address) && !leads_to_a_pod(address, owned, have);
            looked_after(address) || is_eni(facts, address) || left_over
        }),
        Step::DelRoute(route) => owned.route_about(route).is_none_or(looked_after),
        Step::DelNeighbour(neighbour) => sorted
            .pods
            .iter()
            .any(|(leased, _)| veth(&facts.settings, &leased.pod) == neighbour.link),
        _ => true,
    }
}

/// Whether a step removes the rule of an interface that was in service and is so no more.
pub(super) fn is_of_former(step: &Step, facts: &Facts, served: &BTreeSet<Ipv4Addr>) -> bool {
    let Step::DelRule(rule) = step else {
        return false;
    };
    let address = rule.from.map(|net| net.addr());
    let former = |at: Ipv4Addr| served.contains(&at) && !is_eni(facts, at);
    rule.priority == priority::FROM_ENI && address.is_some_and(former)
}

/// An address that has a route to a pod's veth is used, whatever the pool says.
fn leads_to_a_pod(address: Ipv4Addr, owned: &Owned, have: &NodeNet) -> bool {
    have.routes
        .iter()
        .any(|route| owned.route_about(route) == Some(address))
}

/// A link that leads to another address and not to the pod's own is another pod's, of the same name:
/// the lease is one whose DEL was lost, and that is not for a repair to settle.
pub(super) fn leave_to_others(
    facts: &Facts,
    sorted: &mut Sorted,
    (owned, have): (&Owned, &NodeNet),
    round: &mut Round,
) {
    let mut leads: BTreeMap<&LinkName, Vec<Ipv4Addr>> = BTreeMap::new();
    for route in &have.routes {
        if let Some((address, link)) = owned.route_about(route).zip(route.link()) {
            leads.entry(link).or_default().push(address);
        }
    }
    sorted.pods.retain(|(Leased { pod, .. }, _)| {
        let link = veth(&facts.settings, pod);
        let Some(other) = leads.get(&link).filter(|to| !to.contains(&pod.address)) else {
            return true;
        };
        let what = format!("link {link} of pod {}", pod.pod);
        let why = format!(
            "it leads to {} and not to the pod's {}: another pod of that name has it, and this \
             one's DEL was lost, or somebody changed the route",
            other[0], pod.address
        );
        round.fails(what, why);
        false
    });
}

/// What is missing and nobody can make but EC2 or the runtime, and what nobody should have.
pub(super) fn told_missing(
    facts: &Facts,
    sorted: &Sorted,
    (owned, have): (&Owned, &NodeNet),
    round: &mut Round,
) {
    for eni in &sorted.absent {
        let what = format!("link of {} ({})", eni.id, eni.mac);
        let why = "no link has its MAC: was it detached by hand, or moved to another namespace?";
        round.fails(what, why);
    }
    for Leased { pod, .. } in &sorted.without {
        let what = format!("link {} of pod {}", veth(&facts.settings, pod), pod.pod);
        let why = "the veth is gone: the pod's namespace ended without a DEL, or somebody deleted \
                   it; a new pod gets a new one";
        round.fails(what, why);
    }
    for route in &have.routes {
        let idle = owned.route_about(route).filter(|at| facts.is_idle(*at));
        if idle.is_some() {
            let why = "a pod's link has an address that the pool holds for free: it is left alone";
            round.fails(format!("route {route}"), why);
        }
    }
}

/// Pods' veths keep the MTU that they were made with: `POD_MTU` is for new pods.
pub(super) fn with_mtus(mut want: NodeNet, sorted: &Sorted, facts: &Facts) -> NodeNet {
    for (leased, mtu) in &sorted.pods {
        if let Some(link) = want.link(&veth(&facts.settings, &leased.pod)).cloned() {
            want.links.remove(&link);
            want.links.insert(Link { mtu: *mtu, ..link });
        }
    }
    want
}

/// What a step is about, whichever way it goes.
pub(super) fn object(step: &Step) -> String {
    match step {
        Step::SetMtu { link, .. } => format!("link {link} mtu"),
        Step::SetUp { link, .. } => format!("link {link}"),
        Step::AddAddr(addr) | Step::DelAddr(addr) => format!("address {} {}", addr.net, addr.link),
        Step::PutNeighbour(n) | Step::DelNeighbour(n) => format!("neighbour {} {}", n.addr, n.link),
        Step::PutRoute { route, .. } | Step::DelRoute(route) => {
            format!("route {} {} {}", route.table, route.dst, route.metric)
        }
        Step::AddRule(rule) | Step::DelRule(rule) => format!("rule {rule}"),
    }
}
