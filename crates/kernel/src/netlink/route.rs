//! IPv4 routes of every table, and the kernel's own answer to "where would this packet go?".

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
    RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nodenet::{LinkName, Origin, Route, Scope, TableId, Target};

use super::batch::no_link;
use super::engine::{Request, Socket};
use crate::{Error, Result};

/// A packet for [`Socket::route_get`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteQuery {
    /// Its destination.
    pub dst: Ipv4Addr,
    /// Its source; `None` lets the kernel choose, for packets of the node itself.
    pub src: Option<Ipv4Addr>,
    /// The link that it comes in by; `None` for packets of the node itself.
    pub iif: Option<LinkName>,
    /// Its firewall mark.
    pub mark: u32,
}

/// Where the kernel would send a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteAnswer {
    /// The table that had the answer; `main` for `local` in a namespace that has no rules of its
    /// own (the kernel keeps both in one trie then).
    pub table: TableId,
    /// Type of the route, link and next hop.
    pub target: Target,
    /// The source address that the node would use for a packet of its own.
    pub prefsrc: Option<Ipv4Addr>,
}

impl Socket {
    /// Adds a route. EEXIST when the table has one of the same destination and metric.
    pub fn add_route(&mut self, route: &Route) -> Result<()> {
        self.batch().add_route(route).commit()
    }

    /// Adds a route, or takes the place of the one of the same destination and metric.
    pub fn replace_route(&mut self, route: &Route) -> Result<()> {
        self.batch().replace_route(route).commit()
    }

    /// Removes a route. ESRCH when it is not there.
    pub fn del_route(&mut self, route: &Route) -> Result<()> {
        self.batch().del_route(route).commit()
    }

    /// The IPv4 routes of all tables.
    pub fn routes(&mut self) -> Result<Vec<Route>> {
        self.list_routes(TableId(0))
    }

    /// The IPv4 routes of one table; none when the table does not exist.
    pub fn routes_of(&mut self, table: TableId) -> Result<Vec<Route>> {
        self.list_routes(table)
    }

    fn list_routes(&mut self, table: TableId) -> Result<Vec<Route>> {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        if table.0 != 0 {
            message.attributes.push(RouteAttribute::Table(table.0));
        }
        let list = self.dump("routes", &RouteNetlinkMessage::GetRoute(message))?;
        let mut routes = Vec::with_capacity(list.len());
        for message in list {
            if let RouteNetlinkMessage::NewRoute(message) = message
                && let Some(route) = self.decode_route(&message)?
            {
                routes.push(route);
            }
        }
        Ok(routes)
    }

    /// Asks the kernel where a packet would go (`ip route get`). EHOSTUNREACH, ENETUNREACH, EACCES
    /// and EINVAL are how it says unreachable, no route, prohibit and blackhole; EXDEV that the
    /// source is refused by the reverse-path check or not the node's own.
    pub fn route_get(&mut self, query: &RouteQuery) -> Result<RouteAnswer> {
        let words = get_words(query);
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.header.destination_prefix_length = 32;
        // The route that matched, with its own table, instead of a copy made for the packet.
        message.header.flags = RouteFlags::LookupTable;
        message
            .attributes
            .push(RouteAttribute::Destination(RouteAddress::Inet(query.dst)));
        if let Some(src) = query.src {
            message.header.source_prefix_length = 32;
            message
                .attributes
                .push(RouteAttribute::Source(RouteAddress::Inet(src)));
        }
        if let Some(iif) = &query.iif {
            let index = self
                .index(iif)
                .map_err(|errno| no_link(iif, &words, errno))?;
            message.attributes.push(RouteAttribute::Iif(index));
        }
        if query.mark != 0 {
            message.attributes.push(RouteAttribute::Mark(query.mark));
        }
        let request = Request::new(words.clone(), RouteNetlinkMessage::GetRoute(message), 0);
        let RouteNetlinkMessage::NewRoute(answer) = self.get(request)? else {
            return Err(Error::Decode {
                request: words,
                reason: "not a route".to_owned(),
            });
        };
        let route = self.decode_route(&answer)?.ok_or_else(|| Error::Decode {
            request: words,
            reason: "the link of the answer is gone".to_owned(),
        })?;
        Ok(RouteAnswer {
            table: route.table,
            target: route.target,
            prefsrc: route.prefsrc,
        })
    }

    /// `None` when the route's link has gone since.
    fn decode_route(&self, message: &RouteMessage) -> Result<Option<Route>> {
        let parts = Parts::of(message);
        let link = match parts.oif {
            None => None,
            Some(index) => match self.name_still(index)? {
                None => return Ok(None),
                name => name,
            },
        };
        Ok(Some(parts.route(&message.header, link)))
    }
}

pub(super) fn words(verb: &str, route: &Route) -> String {
    format!("{verb} {route}")
}

pub(super) fn add(words: String, route: &Route, oif: Option<u32>) -> Result<Request> {
    let message = message(&words, route, oif)?;
    let flags = NLM_F_CREATE | NLM_F_EXCL;
    Ok(Request::new(
        words,
        RouteNetlinkMessage::NewRoute(message),
        flags,
    ))
}

pub(super) fn replace(words: String, route: &Route, oif: Option<u32>) -> Result<Request> {
    let message = message(&words, route, oif)?;
    let flags = NLM_F_CREATE | NLM_F_REPLACE;
    Ok(Request::new(
        words,
        RouteNetlinkMessage::NewRoute(message),
        flags,
    ))
}

pub(super) fn del(words: String, route: &Route, oif: Option<u32>) -> Result<Request> {
    let mut message = message(&words, route, oif)?;
    // Whoever made it and whatever flags it got: the rest identifies it.
    message.header.protocol = RouteProtocol::Unspec;
    message.header.flags = RouteFlags::empty();
    Ok(Request::new(
        words,
        RouteNetlinkMessage::DelRoute(message),
        0,
    ))
}

fn message(words: &str, route: &Route, oif: Option<u32>) -> Result<RouteMessage> {
    let mut message = RouteMessage::default();
    let header = &mut message.header;
    header.address_family = AddressFamily::Inet;
    header.destination_prefix_length = route.dst.prefix_len();
    header.protocol = RouteProtocol::from(origin_number(route.origin));
    header.scope = RouteScope::from(scope_number(route.scope));
    header.table = u8::try_from(route.table.0).unwrap_or(RouteHeader::RT_TABLE_UNSPEC);
    header.kind = match &route.target {
        Target::Unicast { .. } => RouteType::Unicast,
        Target::Local { .. } => RouteType::Local,
        Target::Broadcast { .. } => RouteType::Broadcast,
        Target::Blackhole => RouteType::BlackHole,
        Target::Unreachable => RouteType::Unreachable,
        Target::Prohibit => RouteType::Prohibit,
        Target::Throw => RouteType::Throw,
        Target::Unmodelled(_) => {
            return Err(Error::Unsupported {
                request: words.to_owned(),
                reason: "a route that was read but not understood cannot be written",
            });
        }
    };
    let attributes = &mut message.attributes;
    attributes.push(RouteAttribute::Table(route.table.0));
    if route.dst.prefix_len() > 0 {
        attributes.push(RouteAttribute::Destination(RouteAddress::Inet(
            route.dst.addr(),
        )));
    }
    if let Some(index) = oif {
        attributes.push(RouteAttribute::Oif(index));
    }
    if let Target::Unicast { via, onlink, .. } = &route.target {
        if let Some(gateway) = via {
            attributes.push(RouteAttribute::Gateway(RouteAddress::Inet(*gateway)));
        }
        if *onlink {
            header.flags = RouteFlags::Onlink;
        }
    }
    if route.metric != 0 {
        attributes.push(RouteAttribute::Priority(route.metric));
    }
    if let Some(src) = route.prefsrc {
        attributes.push(RouteAttribute::PrefSource(RouteAddress::Inet(src)));
    }
    Ok(message)
}

/// The attributes of a route, as far as we understand them.
#[derive(Default)]
struct Parts {
    dst: Option<Ipv4Addr>,
    oif: Option<u32>,
    via: Option<Ipv4Addr>,
    prefsrc: Option<Ipv4Addr>,
    metric: u32,
    table: Option<u32>,
    strange: Vec<String>,
}

/// What tells a route from others: table, destination, metric.
pub(super) fn place(message: &RouteMessage) -> (TableId, Ipv4Net, u32) {
    let route = Parts::of(message).route(&message.header, None);
    (route.table, route.dst, route.metric)
}

impl Parts {
    fn of(message: &RouteMessage) -> Self {
        let mut parts = Self::default();
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(RouteAddress::Inet(ip)) => parts.dst = Some(*ip),
                RouteAttribute::Oif(index) => parts.oif = Some(*index),
                RouteAttribute::Gateway(RouteAddress::Inet(ip)) => parts.via = Some(*ip),
                RouteAttribute::PrefSource(RouteAddress::Inet(ip)) => parts.prefsrc = Some(*ip),
                RouteAttribute::Priority(metric) => parts.metric = *metric,
                RouteAttribute::Table(table) => parts.table = Some(*table),
                // They say nothing about where a packet goes.
                RouteAttribute::CacheInfo(_)
                | RouteAttribute::Uid(_)
                | RouteAttribute::Preference(_)
                | RouteAttribute::Metrics(_)
                | RouteAttribute::Source(_)
                | RouteAttribute::Iif(_)
                | RouteAttribute::Mark(_) => {}
                other => parts.strange.push(format!("{other:?}")),
            }
        }
        if message.header.tos != 0 {
            parts.strange.push(format!("tos {}", message.header.tos));
        }
        parts
    }

    fn route(self, header: &RouteHeader, link: Option<LinkName>) -> Route {
        let length = header.destination_prefix_length;
        let dst = self.dst.unwrap_or(Ipv4Addr::UNSPECIFIED);
        let onlink = header.flags.contains(RouteFlags::Onlink);
        let target = match (header.kind, link) {
            _ if !self.strange.is_empty() => Target::Unmodelled(self.strange.join(" ")),
            (RouteType::Unicast, Some(link)) => Target::Unicast {
                link,
                via: self.via,
                onlink,
            },
            (RouteType::Local, Some(link)) => Target::Local { link },
            (RouteType::Broadcast, Some(link)) => Target::Broadcast { link },
            (RouteType::BlackHole, _) => Target::Blackhole,
            (RouteType::Unreachable, _) => Target::Unreachable,
            (RouteType::Prohibit, _) => Target::Prohibit,
            (RouteType::Throw, _) => Target::Throw,
            (kind, link) => Target::Unmodelled(format!("{kind:?} {link:?}")),
        };
        Route {
            table: TableId(self.table.unwrap_or(u32::from(header.table))),
            dst: Ipv4Net::new(dst, length.min(32)).unwrap_or_default(),
            metric: self.metric,
            target,
            scope: scope_from(header.scope.into()),
            prefsrc: self.prefsrc,
            origin: origin_from(header.protocol.into()),
        }
    }
}

fn get_words(query: &RouteQuery) -> String {
    let mut words = format!("route get {}", query.dst);
    if let Some(src) = query.src {
        words.push_str(&format!(" from {src}"));
    }
    if let Some(iif) = &query.iif {
        words.push_str(&format!(" iif {iif}"));
    }
    if query.mark != 0 {
        words.push_str(&format!(" mark {:#x}", query.mark));
    }
    words
}

pub(super) fn scope_number(scope: Scope) -> u8 {
    match scope {
        Scope::Global => 0,
        Scope::Site => 200,
        Scope::Link => 253,
        Scope::Host => 254,
        Scope::Nowhere => 255,
        Scope::Other(n) => n,
    }
}

pub(super) fn scope_from(number: u8) -> Scope {
    match number {
        0 => Scope::Global,
        200 => Scope::Site,
        253 => Scope::Link,
        254 => Scope::Host,
        255 => Scope::Nowhere,
        n => Scope::Other(n),
    }
}

fn origin_number(origin: Origin) -> u8 {
    match origin {
        Origin::Kernel => 2,
        Origin::Boot => 3,
        Origin::Static => 4,
        Origin::Dhcp => 16,
        Origin::Other(n) => n,
    }
}

fn origin_from(number: u8) -> Origin {
    match number {
        2 => Origin::Kernel,
        3 => Origin::Boot,
        4 => Origin::Static,
        16 => Origin::Dhcp,
        n => Origin::Other(n),
    }
}
