//! A node's network as plain data: what `ip link/addr/neigh/route/rule` show, IPv4 only.
//!
//! The same types come from [`crate::compile`] (what should be), from `kernel::read` (what is),
//! and go into [`crate::trace`] and [`crate::diff`]. Nothing is dropped on the way in: what the
//! types cannot express is kept as text (`Unmodelled`), and a trace that depends on it says so.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::name::{LinkName, Mac, TableId};

/// Everything in one network namespace that decides where an IPv4 packet goes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeNet {
    /// Links, one per name.
    pub links: BTreeSet<Link>,
    /// IPv4 addresses of the links.
    pub addrs: BTreeSet<Addr>,
    /// Permanent neighbours. Learnt ones are not part of the configuration.
    pub neighbours: BTreeSet<Neighbour>,
    /// Routes of every table.
    pub routes: BTreeSet<Route>,
    /// Policy-routing rules; the order of the set is the order of priorities.
    pub rules: BTreeSet<Rule>,
}

/// A network link.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Link {
    /// Name, unique in its namespace.
    pub name: LinkName,
    /// What sort of device it is.
    pub kind: LinkKind,
    /// Ethernet address; `None` where it is not known in advance (host ends of pods' veths get a
    /// random one) or the link has none.
    pub mac: Option<Mac>,
    /// MTU in bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
}

/// The sort of a link, as far as anything here depends on it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LinkKind {
    /// `lo`.
    Loopback,
    /// One end of a veth pair.
    Veth,
    /// No `IFLA_LINKINFO`: a device with a driver, for example an ENI on EC2.
    Device,
    /// Not known in advance: an ENI is a device on EC2 and a veth or macvlan in a lab.
    Any,
    /// Anything else, by the kernel's name of the kind (`vlan`, `bridge`, `macvlan`, …).
    Other(String),
}

/// An IPv4 address on a link.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Addr {
    /// The link that has it.
    pub link: LinkName,
    /// The address with the prefix length it was configured with.
    pub net: Ipv4Net,
    /// Scope; `Global` except for loopback and link-local use.
    pub scope: Scope,
    /// Whether the kernel makes the connected route for the prefix in `main` (the default of
    /// `ip addr add`); false is `noprefixroute`.
    pub prefix_route: bool,
}

/// A permanent neighbour entry.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Neighbour {
    /// The link it is valid on.
    pub link: LinkName,
    /// The neighbour's IPv4 address.
    pub addr: Ipv4Addr,
    /// Its Ethernet address.
    pub mac: Mac,
}

/// A route of one table. `(table, dst, metric)` identifies it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Route {
    /// The table it is in.
    pub table: TableId,
    /// The destinations it is for (network address; host bits are zero).
    pub dst: Ipv4Net,
    /// Smaller wins between routes of the same destination; 0 is the default.
    pub metric: u32,
    /// What happens to a packet that it matches.
    pub target: Target,
    /// How far away the destination is: `Link` for directly connected, `Global` via a gateway.
    pub scope: Scope,
    /// Source address that the node prefers for its own packets on this route.
    pub prefsrc: Option<Ipv4Addr>,
    /// Who made it (`proto` of `ip route`). Does not decide anything about packets.
    pub origin: Origin,
}

/// What a route does.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// Out by a link, to the destination itself or to a gateway.
    Unicast {
        /// The link that the packet leaves by.
        link: LinkName,
        /// The next hop; `None` when the destination is on the link.
        via: Option<Ipv4Addr>,
        /// The gateway counts as reachable though no address of the link covers it.
        onlink: bool,
    },
    /// Delivered to the node itself (`local`).
    Local {
        /// The link that has the address.
        link: LinkName,
    },
    /// Delivered as a broadcast (`broadcast`).
    Broadcast {
        /// The link that has the address.
        link: LinkName,
    },
    /// Silently dropped.
    Blackhole,
    /// Dropped, answered with ICMP host unreachable.
    Unreachable,
    /// Dropped, answered with ICMP administratively prohibited.
    Prohibit,
    /// Ends the look-up in this table; the next rule is asked.
    Throw,
    /// Something that we do not understand (several next hops, encapsulation, `nat` …), as text.
    Unmodelled(String),
}

/// The scope of an address or a route, in the kernel's numbers.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// Everywhere (0).
    #[default]
    Global,
    /// Within the site (200), IPv6 history.
    Site,
    /// On the link (253).
    Link,
    /// Within the host (254).
    Host,
    /// Nowhere (255): the kernel's own, for routes that drop.
    Nowhere,
    /// A number without a name.
    Other(u8),
}

impl Scope {
    /// The scope that `ip route add` gives to a route when none is said.
    pub fn of(target: &Target) -> Self {
        match target {
            Target::Unicast { via: None, .. } | Target::Broadcast { .. } => Self::Link,
            Target::Local { .. } => Self::Host,
            _ => Self::Global,
        }
    }
}

/// Who made a route (`rtm_protocol`).
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// The kernel itself (2), with an address.
    Kernel,
    /// 3: what tools use that do not say otherwise; upstream's daemon and we.
    #[default]
    Boot,
    /// 4: the administrator.
    Static,
    /// 16: a DHCP client.
    Dhcp,
    /// Any other number.
    Other(u8),
}

/// A policy-routing rule. Field order makes the order of rules in a [`NodeNet`] that of their
/// priorities. The kernel tries rules of equal priority in order of creation, which a set does not
/// keep: where that would matter, a trace answers UNKNOWN.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Rule {
    /// Position: smaller is asked first.
    pub priority: u32,
    /// The rule matches packets that do **not** fit the selectors.
    pub invert: bool,
    /// Source prefix; `None` is any.
    pub from: Option<Ipv4Net>,
    /// Destination prefix; `None` is any.
    pub to: Option<Ipv4Net>,
    /// Name of the link that the packet came in by; `lo` for packets of the node itself.
    pub iif: Option<LinkName>,
    /// Name of the link that the socket is bound to (not the one that routing chose).
    pub oif: Option<LinkName>,
    /// Firewall mark.
    pub mark: Option<Mark>,
    /// Selectors that we do not understand (ports, TOS, user ids, `l3mdev` …), as text.
    pub unmodelled: Option<String>,
    /// What happens to a packet that it matches.
    pub action: RuleAction,
}

/// A firewall mark under a mask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Mark {
    /// The value that the masked mark must have.
    pub value: u32,
    /// The bits that are compared.
    pub mask: u32,
}

impl Mark {
    /// Whether a packet's mark fits.
    pub fn matches(self, mark: u32) -> bool {
        mark & self.mask == self.value & self.mask
    }
}

/// What a rule does.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RuleAction {
    /// Asks a table; when it has no answer the next rule is asked.
    Lookup(TableId),
    /// Silently drops.
    Blackhole,
    /// Drops and answers host unreachable.
    Unreachable,
    /// Drops and answers prohibited.
    Prohibit,
    /// Continues at another priority.
    Goto(u32),
    /// Nothing.
    Nop,
    /// Something that we do not understand (`suppress_prefixlength` …), as text.
    Unmodelled(String),
}

impl Route {
    /// A route in `table` to `dst` with metric 0; scope as `ip route add` would choose it:
    /// `Link` without a gateway, `Host` for local ones, `Global` otherwise.
    pub fn new(table: TableId, dst: Ipv4Net, target: Target) -> Self {
        let scope = Scope::of(&target);
        let dst = dst.trunc();
        Self {
            table,
            dst,
            metric: 0,
            target,
            scope,
            prefsrc: None,
            origin: Origin::Boot,
        }
    }

    /// `dst dev link scope link`: the destination is reached directly.
    pub fn direct(table: TableId, dst: Ipv4Net, link: LinkName) -> Self {
        Self::new(
            table,
            dst,
            Target::Unicast {
                link,
                via: None,
                onlink: false,
            },
        )
    }

    /// `dst via gateway dev link`.
    pub fn via(table: TableId, dst: Ipv4Net, gateway: Ipv4Addr, link: LinkName) -> Self {
        Self::new(
            table,
            dst,
            Target::Unicast {
                link,
                via: Some(gateway),
                onlink: false,
            },
        )
    }

    /// `default via gateway dev link`.
    pub fn default_via(table: TableId, gateway: Ipv4Addr, link: LinkName) -> Self {
        Self::via(table, Ipv4Net::default(), gateway, link)
    }

    /// The same route with the gateway taken as reachable over its link (`onlink`).
    #[must_use]
    pub fn onlink(mut self) -> Self {
        if let Target::Unicast { onlink, .. } = &mut self.target {
            *onlink = true;
        }
        self
    }

    /// The link that the route leaves by or delivers on.
    pub fn link(&self) -> Option<&LinkName> {
        match &self.target {
            Target::Unicast { link, .. } | Target::Local { link } | Target::Broadcast { link } => {
                Some(link)
            }
            _ => None,
        }
    }
}

impl Rule {
    /// `priority: from all lookup table`, to be narrowed by the other methods.
    pub fn lookup(priority: u32, table: TableId) -> Self {
        Self {
            priority,
            invert: false,
            from: None,
            to: None,
            iif: None,
            oif: None,
            mark: None,
            unmodelled: None,
            action: RuleAction::Lookup(table),
        }
    }

    /// Only packets from `net`.
    #[must_use]
    pub fn from(mut self, net: Ipv4Net) -> Self {
        self.from = Some(net.trunc());
        self
    }

    /// Only packets to `net`.
    #[must_use]
    pub fn to(mut self, net: Ipv4Net) -> Self {
        self.to = Some(net.trunc());
        self
    }

    /// Only packets that came in by `link`.
    #[must_use]
    pub fn iif(mut self, link: LinkName) -> Self {
        self.iif = Some(link);
        self
    }

    /// Only packets with this firewall mark.
    #[must_use]
    pub fn mark(mut self, value: u32, mask: u32) -> Self {
        self.mark = Some(Mark { value, mask });
        self
    }
}

impl Addr {
    /// A global address; the kernel makes the connected route.
    pub fn new(link: LinkName, net: Ipv4Net) -> Self {
        Self {
            link,
            net,
            scope: Scope::Global,
            prefix_route: true,
        }
    }

    /// A global address without a connected route (`noprefixroute`).
    pub fn without_route(link: LinkName, net: Ipv4Net) -> Self {
        Self {
            prefix_route: false,
            ..Self::new(link, net)
        }
    }
}

/// The /32 of one address.
pub fn host(addr: Ipv4Addr) -> Ipv4Net {
    Ipv4Net::from(addr)
}

impl NodeNet {
    /// The link of this name.
    pub fn link(&self, name: &LinkName) -> Option<&Link> {
        self.links.iter().find(|l| l.name == *name)
    }

    /// The link with this Ethernet address.
    pub fn link_by_mac(&self, mac: Mac) -> Option<&Link> {
        self.links.iter().find(|l| l.mac == Some(mac))
    }

    /// The routes of one table.
    pub fn table(&self, table: TableId) -> impl Iterator<Item = &Route> {
        self.routes.iter().filter(move |r| r.table == table)
    }

    /// Both together, for example what we own and what the machine image made.
    #[must_use]
    pub fn union(mut self, other: Self) -> Self {
        self.links.extend(other.links);
        self.addrs.extend(other.addrs);
        self.neighbours.extend(other.neighbours);
        self.routes.extend(other.routes);
        self.rules.extend(other.rules);
        self
    }
}
