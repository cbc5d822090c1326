//! Permanent IPv4 neighbours.

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nodenet::{Mac, Neighbour};

use super::engine::{Request, Socket};
use crate::Result;

impl Socket {
    /// Adds or replaces a permanent neighbour.
    pub fn set_neighbour(&mut self, neighbour: &Neighbour) -> Result<()> {
        self.batch().set_neighbour(neighbour).commit()
    }

    /// Removes a neighbour. ENOENT when there is none.
    pub fn del_neighbour(&mut self, neighbour: &Neighbour) -> Result<()> {
        self.batch().del_neighbour(neighbour).commit()
    }

    /// The permanent IPv4 neighbours of all links.
    pub fn neighbours(&mut self) -> Result<Vec<Neighbour>> {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Inet;
        let list = self.dump("neighbours", &RouteNetlinkMessage::GetNeighbour(message))?;
        let mut neighbours = Vec::new();
        for message in list {
            if let RouteNetlinkMessage::NewNeighbour(message) = message
                && message.header.state == NeighbourState::Permanent
                && let Some(link) = self.name_still(message.header.ifindex)?
                && let Some((addr, mac)) = decode(&message)
            {
                neighbours.push(Neighbour { link, addr, mac });
            }
        }
        Ok(neighbours)
    }
}

pub(super) fn words(verb: &str, n: &Neighbour) -> String {
    format!(
        "{verb} {} lladdr {} dev {} nud permanent",
        n.addr, n.mac, n.link
    )
}

pub(super) fn set(words: String, neighbour: &Neighbour, index: u32) -> Result<Request> {
    let mut message = message(neighbour, index);
    message.header.state = NeighbourState::Permanent;
    message
        .attributes
        .push(NeighbourAttribute::LinkLayerAddress(
            neighbour.mac.0.to_vec(),
        ));
    let flags = NLM_F_CREATE | NLM_F_REPLACE;
    Ok(Request::new(
        words,
        RouteNetlinkMessage::NewNeighbour(message),
        flags,
    ))
}

pub(super) fn del(words: String, neighbour: &Neighbour, index: u32) -> Result<Request> {
    let message = message(neighbour, index);
    Ok(Request::new(
        words,
        RouteNetlinkMessage::DelNeighbour(message),
        0,
    ))
}

fn message(neighbour: &Neighbour, index: u32) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.ifindex = index;
    let addr = NeighbourAddress::Inet(neighbour.addr);
    message
        .attributes
        .push(NeighbourAttribute::Destination(addr));
    message
}

/// Address and Ethernet address; `None` for entries of links without Ethernet (`lo`, tunnels).
pub(super) fn decode(message: &NeighbourMessage) -> Option<(std::net::Ipv4Addr, Mac)> {
    let (mut addr, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => addr = Some(*ip),
            NeighbourAttribute::LinkLayerAddress(bytes) => {
                mac = bytes.as_slice().try_into().ok().map(Mac);
            }
            _ => {}
        }
    }
    Some((addr?, mac?))
}
