//! One namespace of the fabric: made, or found after a crash, and brought to a planned state.
//!
//! Invariant: what is remembered as applied is what the kernel holds, or the namespace is *unknown* and read back
//! before the next change.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::Path;

use ipnet::{Ipv4AddrRange, Ipv4Net};
use kernel::{NetNs, Socket};
use nodenet::{LinkName, NodeNet, Origin, Route, TableId, Target};

use super::FabricError;
use super::names::{NEXT_HOP, TABLE_MASK};
use super::plan::{Place, RULE_PRIORITY};
use super::ruleset::Ruleset;

/// Forwarding without second thoughts: no reverse-path check (the nft rules check sources), no redirects, answers
/// to every ARP request, and AWS's connection tracking times. No IPv6: it is not modelled, so it carries nothing.
const ROUTER: &[(&str, &str)] = &[
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
    ("ipv4/conf/all/send_redirects", "0"),
    ("ipv4/conf/default/send_redirects", "0"),
    ("ipv4/conf/default/proxy_arp", "1"),
    ("ipv4/ip_forward", "1"),
    ("netfilter/nf_conntrack_tcp_timeout_established", "432000"),
    ("netfilter/nf_conntrack_udp_timeout", "30"),
    ("netfilter/nf_conntrack_udp_timeout_stream", "180"),
    ("netfilter/nf_conntrack_tcp_be_liberal", "1"),
];

/// A NAT gateway forgets idle connections after 350 s.
const NAT: &[(&str, &str)] = &[
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
    ("ipv4/conf/all/send_redirects", "0"),
    ("ipv4/conf/default/send_redirects", "0"),
    ("ipv4/ip_forward", "1"),
    ("netfilter/nf_conntrack_tcp_timeout_established", "350"),
    ("netfilter/nf_conntrack_udp_timeout_stream", "350"),
];

const INTERNET: &[(&str, &str)] = &[
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
    ("ipv4/conf/all/send_redirects", "0"),
    ("ipv4/conf/default/send_redirects", "0"),
    ("ipv4/ip_forward", "1"),
];

/// Kernels may be built without IPv6.
const NO_IPV6: [&str; 2] = [
    "ipv6/conf/all/disable_ipv6",
    "ipv6/conf/default/disable_ipv6",
];

/// A namespace that the fabric owns.
pub(super) struct Space {
    pub(super) ns: NetNs,
    pub(super) socket: Socket,
    /// What was applied besides links.
    known: NodeNet,
    /// The table that was applied; `None` when what the kernel holds is not known.
    ruleset: Option<Ruleset>,
}

impl Space {
    /// Makes the namespace and pins it.
    pub(super) fn create(place: &Place, pin: &Path) -> Result<Self, FabricError> {
        let ns = NetNs::create_pinned(pin)?;
        let settings = match place {
            Place::Router(_) => ROUTER,
            Place::Nat(_) => NAT,
            Place::Internet | Place::Host(_) => INTERNET,
        };
        kernel::sysctl::write_all(&ns, settings)?;
        ns.run(|| {
            let off = |key: &&str| kernel::sysctl::write_here_if_present(key, "1").map(drop);
            NO_IPV6.iter().try_for_each(off)
        })??;
        let mut socket = Socket::open_in(&ns)?;
        socket.set_up(&LinkName::loopback(), true)?;
        Ok(Self {
            ns,
            socket,
            known: NodeNet::default(),
            ruleset: Some(Ruleset::default()),
        })
    }

    /// Opens a namespace that an earlier process left, and reads what is ours in it.
    pub(super) fn adopt(pin: &Path) -> Result<Self, FabricError> {
        let ns = NetNs::open(pin)?;
        let mut socket = Socket::open_in(&ns)?;
        let known = read(&mut socket)?;
        Ok(Self {
            ns,
            socket,
            known,
            ruleset: None,
        })
    }

    /// Takes out what differs from `want`: before the addresses concerned are given to somebody else.
    ///
    /// Returns how many objects went, and the networks that are reached by another link or by none now.
    pub(super) fn remove(&mut self, want: &NodeNet) -> Result<(usize, Vec<Ipv4Net>), FabricError> {
        let Self { socket, known, .. } = self;
        // A route that another one replaces is not deleted first: there is never a moment without.
        let replaced: BTreeSet<_> = want.routes.iter().map(|r| (r.table, r.dst)).collect();
        let routes: Vec<_> = known.routes.difference(&want.routes).cloned().collect();
        let gone = routes
            .iter()
            .filter(|r| !replaced.contains(&(r.table, r.dst)));
        let rules: Vec<_> = known.rules.difference(&want.rules).cloned().collect();
        let neighbours: Vec<_> = known
            .neighbours
            .difference(&want.neighbours)
            .cloned()
            .collect();
        let addrs: Vec<_> = known.addrs.difference(&want.addrs).cloned().collect();
        let mut batch = socket.batch();
        let mut count = 0;
        for rule in &rules {
            (batch, count) = (batch.del_rule(rule), count + 1);
        }
        for route in gone {
            (batch, count) = (batch.del_route(route), count + 1);
        }
        let same_key = |n: &&nodenet::Neighbour| {
            !want
                .neighbours
                .iter()
                .any(|w| (&w.link, w.addr) == (&n.link, n.addr))
        };
        for neighbour in neighbours.iter().filter(same_key) {
            (batch, count) = (batch.del_neighbour(neighbour), count + 1);
        }
        for addr in &addrs {
            (batch, count) = (batch.del_addr(addr), count + 1);
        }
        if count > 0 {
            batch.commit()?;
        }
        known
            .routes
            .retain(|r| want.routes.contains(r) || replaced.contains(&(r.table, r.dst)));
        known.rules.retain(|r| want.rules.contains(r));
        known.neighbours.retain(|n| want.neighbours.contains(n));
        known.addrs.retain(|a| want.addrs.contains(a));
        let released = routes
            .iter()
            .filter(|r| r.table == TableId::MAIN && r.link().is_some());
        Ok((count, released.map(|r| r.dst).collect()))
    }

    /// Adds what `want` has more, after [`Space::remove`] and after the links exist.
    pub(super) fn add(&mut self, want: &NodeNet) -> Result<usize, FabricError> {
        let Self { socket, known, .. } = self;
        let mut batch = socket.batch();
        let mut count = 0;
        for addr in want.addrs.difference(&known.addrs) {
            (batch, count) = (batch.add_addr(addr), count + 1);
        }
        for neighbour in want.neighbours.difference(&known.neighbours) {
            (batch, count) = (batch.set_neighbour(neighbour), count + 1);
        }
        for route in want.routes.difference(&known.routes) {
            (batch, count) = (batch.replace_route(route), count + 1);
        }
        for rule in want.rules.difference(&known.rules) {
            (batch, count) = (batch.add_rule(rule), count + 1);
        }
        if count > 0 {
            batch.commit()?;
        }
        *known = want.clone();
        Ok(count)
    }

    /// Applies a table in one transaction; false when nothing differs.
    pub(super) fn set_rules(&mut self, want: Ruleset) -> Result<bool, FabricError> {
        let text = match &self.ruleset {
            Some(known) if *known == want => return Ok(false),
            Some(known) if *known != Ruleset::default() => known.transaction(&want),
            _ => Some(want.replacement()),
        };
        if let Some(text) = text {
            kernel::nft::apply(&self.ns, &text)?;
        }
        self.ruleset = Some(want);
        Ok(true)
    }

    /// Forgets what the kernel deletes together with a link.
    pub(super) fn link_gone(&mut self, link: &LinkName) {
        self.known.routes.retain(|r| r.link() != Some(link));
        self.known.neighbours.retain(|n| n.link != *link);
        self.known.addrs.retain(|a| a.link != *link);
    }

    /// The networks that are reached by a link.
    pub(super) fn networks_through(&self, link: &LinkName) -> Vec<Ipv4Net> {
        let through = |r: &&Route| r.table == TableId::MAIN && r.link() == Some(link);
        self.known
            .routes
            .iter()
            .filter(through)
            .map(|r| r.dst)
            .collect()
    }

    /// Ends the tracked connections that have an address of these networks at either end.
    pub(super) fn end_flows(&self, networks: &BTreeSet<Ipv4Net>) -> Result<usize, FabricError> {
        // Not `hosts()`: of a delegated prefix the first and the last address are used as well.
        let all = |network: &Ipv4Net| Ipv4AddrRange::new(network.network(), network.broadcast());
        let addresses: Vec<Ipv4Addr> = networks.iter().flat_map(all).collect();
        Ok(kernel::conntrack::forget(&self.ns, &addresses)?)
    }
}

/// Reads what a [`super::plan::Plan`] speaks about: not the kernel's own entries, and not a NAT gateway's lease.
fn read(socket: &mut Socket) -> Result<NodeNet, FabricError> {
    let own_route = |route: &Route| {
        let table = route.table == TableId::MAIN || route.table.0 & !TABLE_MASK == 0;
        let lease = matches!(&route.target, Target::Unicast { via, .. } if *via != Some(NEXT_HOP));
        let builtin = [TableId::LOCAL, TableId::DEFAULT].contains(&route.table);
        table && !lease && !builtin && route.origin == Origin::Boot
    };
    let lo = LinkName::loopback();
    Ok(NodeNet {
        links: BTreeSet::new(),
        addrs: socket
            .addrs()?
            .into_iter()
            .filter(|a| a.link == lo && !a.net.addr().is_loopback())
            .collect(),
        neighbours: socket
            .neighbours()?
            .into_iter()
            .filter(|n| n.addr == NEXT_HOP)
            .collect(),
        routes: socket.routes()?.into_iter().filter(own_route).collect(),
        rules: socket
            .rules()?
            .into_iter()
            .filter(|r| r.priority == RULE_PRIORITY)
            .collect(),
    })
}
