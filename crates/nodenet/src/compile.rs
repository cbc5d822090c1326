//! What a node's network must be: upstream's layout for given facts.
//!
//! [`compile`] is the part that the agent and the plugin own and repair; [`machine_made`] is what
//! a machine image and the kernel make around it (DHCP on the primary ENI, local tables, default
//! rules). A trace of a node that nobody can read needs both: [`whole`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::Error;
use crate::facts::{EniFacts, NodeFacts, PodFacts};
use crate::layout::{self, priority};
use crate::model::{Addr, Link, LinkKind, NodeNet, Origin, Route, Rule, Scope, Target, host};
use crate::name::{LinkName, TableId};
use crate::wiring::{PodPort, PodWiring};

/// The part of a node's network that is ours (upstream `setupENINetwork` and the plugin's host
/// side). The pods' own namespaces are [`PodWiring::pod_net`].
pub fn compile(facts: &NodeFacts) -> Result<NodeNet, Error> {
    check(facts)?;
    let mut net = NodeNet::default();
    for eni in &facts.enis {
        net.links.insert(eni_link(facts, eni));
        if !eni.is_primary() {
            secondary_eni(eni, &mut net);
        }
    }
    for pod in &facts.pods {
        net = net.union(wiring(facts, pod)?.host_net());
    }
    let settings = &facts.settings;
    if settings.marks_packets() {
        let mark = settings.connmark;
        net.rules
            .insert(Rule::lookup(priority::MARKED, TableId::MAIN).mark(mark.value, mark.mask));
    }
    for cidr in &settings.external_service_cidrs {
        net.rules
            .insert(Rule::lookup(priority::EXTERNAL_SERVICE, TableId::MAIN).to(*cidr));
    }
    Ok(net)
}

/// The wiring of one pod of the facts, its interface called `eth0`.
pub fn wiring(facts: &NodeFacts, pod: &PodFacts) -> Result<PodWiring, Error> {
    let eni = facts
        .enis
        .iter()
        .find(|eni| eni.id == pod.eni)
        .ok_or_else(|| Error::UnknownEni {
            pod: pod.pod.to_string(),
            address: pod.address,
            eni: pod.eni.clone(),
        })?;
    Ok(PodWiring::new(&PodPort {
        pod: pod.pod.clone(),
        index: pod.index,
        ifname: LinkName::new("eth0")?,
        address: pod.address,
        table: eni.table(),
        veth_prefix: facts.settings.veth_prefix.clone(),
        mtu: facts.settings.pod_mtu,
    }))
}

/// What the machine image and the kernel make on a node with these ENIs.
pub fn machine_made(facts: &NodeFacts) -> Result<NodeNet, Error> {
    check(facts)?;
    let mut net = NodeNet::default();
    let lo = LinkName::loopback();
    net.links.insert(Link {
        name: lo.clone(),
        kind: LinkKind::Loopback,
        mac: None,
        mtu: 65_536,
        up: true,
    });
    let loopback = Ipv4Net::new_assert(Ipv4Addr::LOCALHOST, 8);
    net.addrs.insert(Addr {
        scope: Scope::Host,
        ..Addr::new(lo.clone(), loopback)
    });
    local_routes(&lo, loopback, &mut net);
    net.routes
        .insert(kernels(local(&lo, loopback.trunc()), Ipv4Addr::LOCALHOST));
    for eni in &facts.enis {
        let net_of_eni = eni_net(eni);
        local_routes(&eni.link, net_of_eni, &mut net);
        if eni.is_primary() {
            primary_eni(eni, net_of_eni, &mut net);
        }
    }
    net.rules
        .insert(Rule::lookup(priority::LOCAL, TableId::LOCAL));
    net.rules
        .insert(Rule::lookup(priority::MAIN, TableId::MAIN));
    net.rules
        .insert(Rule::lookup(priority::DEFAULT, TableId::DEFAULT));
    Ok(net)
}

/// A node's whole network as it must be: ours and the machine's.
pub fn whole(facts: &NodeFacts) -> Result<NodeNet, Error> {
    Ok(compile(facts)?.union(machine_made(facts)?))
}

/// One primary ENI, and no two of one table.
fn check(facts: &NodeFacts) -> Result<(), Error> {
    if !facts.enis.iter().any(EniFacts::is_primary) {
        return Err(Error::NoPrimaryEni);
    }
    let mut tables = BTreeSet::new();
    match facts
        .enis
        .iter()
        .map(EniFacts::table)
        .find(|table| !tables.insert(*table))
    {
        Some(table) => Err(Error::TableTwice { table }),
        None => Ok(()),
    }
}

fn eni_link(facts: &NodeFacts, eni: &EniFacts) -> Link {
    Link {
        name: eni.link.clone(),
        kind: LinkKind::Any,
        mac: Some(eni.mac),
        mtu: facts.settings.eni_mtu,
        up: true,
    }
}

/// The ENI's address with the length of its subnet.
fn eni_net(eni: &EniFacts) -> Ipv4Net {
    Ipv4Net::new_assert(eni.address, eni.subnet.prefix_len())
}

fn secondary_eni(eni: &EniFacts, net: &mut NodeNet) {
    let (table, gateway) = (eni.table(), eni.gateway());
    // Upstream lets the kernel make the connected route in main and deletes it; without a route
    // from the start there is no moment at which both ENIs have it.
    net.addrs
        .insert(Addr::without_route(eni.link.clone(), eni_net(eni)));
    net.routes
        .insert(Route::direct(table, host(gateway), eni.link.clone()));
    net.routes
        .insert(Route::default_via(table, gateway, eni.link.clone()));
    if !eni.trunk {
        net.rules
            .insert(Rule::lookup(priority::FROM_ENI, table).from(host(eni.address)));
    }
}

fn primary_eni(eni: &EniFacts, eni_net: Ipv4Net, net: &mut NodeNet) {
    net.addrs.insert(Addr::new(eni.link.clone(), eni_net));
    let connected = Route::direct(TableId::MAIN, eni_net, eni.link.clone());
    net.routes.insert(kernels(connected, eni.address));
    let mut default = Route::default_via(TableId::MAIN, eni.gateway(), eni.link.clone());
    default.origin = Origin::Dhcp;
    net.routes.insert(default);
}

/// What the kernel puts into `local` for an address.
fn local_routes(link: &LinkName, addr: Ipv4Net, net: &mut NodeNet) {
    net.routes
        .insert(kernels(local(link, host(addr.addr())), addr.addr()));
    if addr.prefix_len() < 31 {
        let broadcast = Target::Broadcast { link: link.clone() };
        let route = Route::new(TableId::LOCAL, host(addr.broadcast()), broadcast);
        net.routes.insert(kernels(route, addr.addr()));
    }
}

fn local(link: &LinkName, dst: Ipv4Net) -> Route {
    Route::new(TableId::LOCAL, dst, Target::Local { link: link.clone() })
}

fn kernels(route: Route, prefsrc: Ipv4Addr) -> Route {
    Route {
        prefsrc: Some(prefsrc),
        origin: Origin::Kernel,
        ..route
    }
}

/// Pods by the host end of their veth, for answers that name a link.
pub fn pods_by_veth(facts: &NodeFacts) -> BTreeMap<LinkName, &PodFacts> {
    let name = |pod: &PodFacts| layout::host_veth(&facts.settings.veth_prefix, &pod.pod, pod.index);
    facts.pods.iter().map(|pod| (name(pod), pod)).collect()
}
