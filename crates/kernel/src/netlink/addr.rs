//! IPv4 addresses of links.

use std::net::IpAddr;

use ipnet::Ipv4Net;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nodenet::{Addr, LinkName, Scope};

use super::engine::{Request, Socket};
use super::route::{scope_from, scope_number};
use crate::{Error, Result};

impl Socket {
    /// Adds an address. EEXIST when the link has it.
    pub fn add_addr(&mut self, addr: &Addr) -> Result<()> {
        self.batch().add_addr(addr).commit()
    }

    /// Removes an address. EADDRNOTAVAIL when the link does not have it.
    pub fn del_addr(&mut self, addr: &Addr) -> Result<()> {
        self.batch().del_addr(addr).commit()
    }

    /// The IPv4 addresses of all links.
    pub fn addrs(&mut self) -> Result<Vec<Addr>> {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
        let list = self.dump("addresses", &RouteNetlinkMessage::GetAddress(message))?;
        let mut addrs = Vec::with_capacity(list.len());
        for message in list {
            if let RouteNetlinkMessage::NewAddress(message) = message
                && let Some(name) = self.name_still(message.header.index)?
            {
                addrs.push(decode(name, &message)?);
            }
        }
        Ok(addrs)
    }

    /// The name of a link out of a list; `None` when it has gone since.
    pub(super) fn name_still(&self, index: u32) -> Result<Option<LinkName>> {
        use rustix::io::Errno;
        match self.name_of(index) {
            Ok(name) => LinkName::new(name)
                .map(Some)
                .map_err(|error| Error::Decode {
                    request: format!("name of link {index}"),
                    reason: error.to_string(),
                }),
            Err(Errno::NODEV | Errno::NXIO) => Ok(None),
            Err(errno) => Err(Error::Refused {
                request: format!("name of link {index}"),
                errno,
                detail: None,
            }),
        }
    }
}

pub(super) fn words(verb: &str, addr: &Addr) -> String {
    format!("{verb} {} dev {}", addr.net, addr.link)
}

pub(super) fn add(words: String, addr: &Addr, index: u32) -> Result<Request> {
    let message = RouteNetlinkMessage::NewAddress(message(addr, index));
    Ok(Request::new(words, message, NLM_F_CREATE | NLM_F_EXCL))
}

pub(super) fn del(words: String, addr: &Addr, index: u32) -> Result<Request> {
    Ok(Request::new(
        words,
        RouteNetlinkMessage::DelAddress(message(addr, index)),
        0,
    ))
}

fn message(addr: &Addr, index: u32) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = addr.net.prefix_len();
    message.header.scope = AddressScope::from(scope_number(addr.scope));
    message.header.index = index;
    let ip = IpAddr::V4(addr.net.addr());
    message.attributes = vec![AddressAttribute::Local(ip), AddressAttribute::Address(ip)];
    if addr.net.prefix_len() < 31 {
        message
            .attributes
            .push(AddressAttribute::Broadcast(addr.net.broadcast()));
    }
    if !addr.prefix_route {
        message
            .attributes
            .push(AddressAttribute::Flags(AddressFlags::Noprefixroute));
    }
    message
}

pub(super) fn decode(link: LinkName, message: &AddressMessage) -> Result<Addr> {
    let (mut local, mut peer) = (None, None);
    let mut flags = AddressFlags::from_bits_retain(header_flags(message.header.flags));
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(IpAddr::V4(ip)) => local = Some(*ip),
            AddressAttribute::Address(IpAddr::V4(ip)) => peer = Some(*ip),
            AddressAttribute::Flags(value) => flags = *value,
            _ => {}
        }
    }
    let undecodable = |reason: &str| Error::Decode {
        request: format!("addr show dev {link}"),
        reason: reason.to_owned(),
    };
    let ip = local.or(peer).ok_or_else(|| undecodable("no address"))?;
    let net = Ipv4Net::new(ip, message.header.prefix_len)
        .map_err(|_| undecodable("prefix longer than 32 bits"))?;
    let scope: Scope = scope_from(message.header.scope.into());
    Ok(Addr {
        net,
        scope,
        prefix_route: !flags.contains(AddressFlags::Noprefixroute),
        link,
    })
}

fn header_flags(flags: AddressHeaderFlags) -> u32 {
    u32::from(flags.bits())
}
