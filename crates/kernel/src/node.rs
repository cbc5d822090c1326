//! A namespace's network as one value: read it, apply a difference to it.

use nodenet::NodeNet;

use crate::netlink::Socket;
use crate::{NetNs, Result};

/// Reads links, IPv4 addresses, permanent neighbours, routes of all tables and rules of a
/// namespace. Each list is consistent in itself; the five are read one after the other.
pub fn read(ns: &NetNs) -> Result<NodeNet> {
    read_with(&mut Socket::open_in(ns)?)
}

/// Like [`read`], with a socket in the namespace.
pub fn read_with(socket: &mut Socket) -> Result<NodeNet> {
    Ok(NodeNet {
        links: socket
            .links()?
            .into_iter()
            .map(|state| state.link)
            .collect(),
        addrs: socket.addrs()?.into_iter().collect(),
        neighbours: socket.neighbours()?.into_iter().collect(),
        routes: socket.routes()?.into_iter().collect(),
        rules: socket.rules()?.into_iter().collect(),
    })
}
