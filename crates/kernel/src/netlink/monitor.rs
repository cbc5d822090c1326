//! What changes in a namespace's network, as it happens.
//!
//! A [`Monitor`] is a descriptor that becomes readable when something changed: links, IPv4
//! addresses, routes, rules, permanent neighbours, and the IPv4 settings that the kernel announces.
//! It never blocks and knows no runtime: whoever has an event loop watches the descriptor.
//!
//! Neighbours that are learnt change all the time on a node with probed pods; a filter in the
//! kernel keeps their changes from waking anybody.

#![allow(
    unsafe_code,
    reason = "neither rustix nor netlink-sys attach a socket filter (SO_ATTACH_FILTER)"
)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use ipnet::Ipv4Net;
use netlink_packet_core::NetlinkDeserializable;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use nodenet::{Addr, LinkName, Neighbour, Rule, TableId};
use rustix::io::Errno;

use super::engine::{Reply, failed, messages};
use super::{LinkState, addr, link, neigh, route, rule};
use crate::{NetNs, Result};

/// RTNLGRP_LINK, _NEIGH, _IPV4_IFADDR, _IPV4_ROUTE, _IPV4_RULE, _IPV4_NETCONF (linux/rtnetlink.h).
const GROUPS: [u32; 6] = [1, 3, 5, 7, 8, 24];
/// RTM_NEWNETCONF, which netlink-packet-route does not know.
const NEW_NETCONF: u16 = 80;
/// NETCONFA_IFINDEX, the first attribute of such a message (after the family, padded to 4 bytes).
const NETCONF_INDEX: std::ops::Range<usize> = 8..12;
/// Bytes of the kernel that wait to be read: a flush of some hundred rules fits. What does not fit
/// is lost and told ([`Change::Missed`]).
const QUEUE: usize = 1 << 20;
/// The longest datagram; a link with everything that drivers tell takes some kilobytes.
const DATAGRAM: usize = 32 * 1024;
/// At most so many datagrams are read at once, so that a storm does not keep the reader.
const AT_ONCE: usize = 1024;

/// Something that changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A link was made or changed.
    Link(LinkState),
    /// A link was deleted, or moved to another namespace.
    LinkGone {
        /// Its number; it is not used again.
        index: u32,
        /// Its last name.
        name: LinkName,
    },
    /// An address was added, changed or removed.
    Addr {
        /// The address.
        addr: Addr,
        /// Removed.
        gone: bool,
    },
    /// A route was added, replaced or removed. The kernel does not tell those that go with their
    /// link, or when it is set down.
    Route {
        /// Its table.
        table: TableId,
        /// Its destination.
        dst: Ipv4Net,
        /// Its metric.
        metric: u32,
        /// Removed.
        gone: bool,
    },
    /// A rule was added or removed.
    Rule {
        /// The rule.
        rule: Rule,
        /// Removed.
        gone: bool,
    },
    /// A permanent neighbour was added or changed. The kernel does not tell that one was permanent
    /// when it is removed.
    Neighbour(Neighbour),
    /// IPv4 settings (`rp_filter`, `forwarding` …) of a link were changed.
    Settings {
        /// The link's number; negative for `all` and `default`.
        index: i32,
    },
    /// Changes were lost, or one could not be understood: anything may be different.
    Missed,
}

/// Watches the network of one namespace.
pub struct Monitor {
    socket: netlink_sys::Socket,
    buffer: Vec<u8>,
}

impl std::fmt::Debug for Monitor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.socket.fmt(f)
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Monitor {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.socket.as_raw_fd()
    }
}

impl Monitor {
    /// Watches the namespace of the calling thread. What changes from now on is told.
    pub fn open() -> Result<Self> {
        let socket = subscribed().map_err(|source| failed("subscribe", source))?;
        Ok(Self {
            socket,
            buffer: Vec::with_capacity(DATAGRAM),
        })
    }

    /// Watches another namespace; may then be used from any thread.
    pub fn open_in(ns: &NetNs) -> Result<Self> {
        ns.run(Self::open)?
    }

    /// What changed since the last call, in order; nothing when nothing did. Never waits.
    pub fn read(&mut self) -> Result<Vec<Change>> {
        let mut changes = Vec::new();
        for _ in 0..AT_ONCE {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer, 0) {
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if Errno::from_io_error(&e) == Some(Errno::NOBUFS) => {
                    changes.push(Change::Missed);
                    continue;
                }
                Err(source) => return Err(failed("receive", source)),
            }
            let cut = messages(&self.buffer, &mut |reply| {
                changes.extend(change(&self.socket, &reply).unwrap_or(Some(Change::Missed)));
            });
            if cut.is_err() {
                changes.push(Change::Missed);
            }
        }
        Ok(changes)
    }
}

/// `Ok(None)`: nothing that anybody watches; `Err`: something that is not understood.
fn change(socket: &netlink_sys::Socket, reply: &Reply) -> Result<Option<Change>, ()> {
    if reply.header.message_type == NEW_NETCONF {
        let index = reply.payload.get(NETCONF_INDEX).ok_or(())?;
        let index = i32::from_ne_bytes(index.try_into().map_err(drop)?);
        return Ok(Some(Change::Settings { index }));
    }
    use RouteNetlinkMessage as M;
    let message = M::deserialize(&reply.header, &reply.payload).map_err(drop)?;
    let gone = matches!(
        message,
        M::DelLink(_) | M::DelAddress(_) | M::DelRoute(_) | M::DelRule(_)
    );
    Ok(match message {
        // Other families tell what a bridge or IPv6 thinks of the link.
        M::NewLink(link) | M::DelLink(link)
            if link.header.interface_family != AddressFamily::Unspec =>
        {
            None
        }
        M::NewLink(link) => Some(Change::Link(
            link::state("link event", &link).map_err(drop)?,
        )),
        M::DelLink(link) => {
            let state = link::state("link event", &link).map_err(drop)?;
            let (index, name) = (state.index, state.link.name);
            Some(Change::LinkGone { index, name })
        }
        M::NewAddress(address) | M::DelAddress(address) => {
            match rustix::net::netdevice::index_to_name(socket.as_fd(), address.header.index) {
                Ok(name) => {
                    let name = LinkName::new(name).map_err(drop)?;
                    let addr = addr::decode(name, &address).map_err(drop)?;
                    Some(Change::Addr { addr, gone })
                }
                // It went with its link, which is told as well.
                Err(_) => None,
            }
        }
        M::NewRoute(message) | M::DelRoute(message) => {
            let (table, dst, metric) = route::place(&message);
            Some(Change::Route {
                table,
                dst,
                metric,
                gone,
            })
        }
        M::NewRule(message) | M::DelRule(message) => {
            let rule = rule::decode(&message).map_err(drop)?;
            Some(Change::Rule { rule, gone })
        }
        M::NewNeighbour(message) => {
            let index = message.header.ifindex;
            let name = rustix::net::netdevice::index_to_name(socket.as_fd(), index).ok();
            let name = name.and_then(|name| LinkName::new(name).ok());
            let neighbour = name.zip(neigh::decode(&message));
            neighbour.map(|(link, (addr, mac))| Change::Neighbour(Neighbour { link, addr, mac }))
        }
        _ => None,
    })
}

fn subscribed() -> io::Result<netlink_sys::Socket> {
    let mut socket = netlink_sys::Socket::new(NETLINK_ROUTE)?;
    socket.set_non_blocking(true)?;
    // Without CAP_NET_ADMIN in the first user namespace the default has to do.
    if rustix::net::sockopt::set_socket_recv_buffer_size_force(socket.as_fd(), QUEUE).is_err() {
        rustix::net::sockopt::set_socket_recv_buffer_size(socket.as_fd(), QUEUE)?;
    }
    // Before the first message can come.
    keep_out_learnt_neighbours(&socket)?;
    socket.bind_auto()?;
    for group in GROUPS {
        socket.add_membership(group)?;
    }
    Ok(socket)
}

/// Drops messages about neighbours that are not permanent.
fn keep_out_learnt_neighbours(socket: &netlink_sys::Socket) -> io::Result<()> {
    // A filter reads the message in network order.
    const NEW: u32 = (28_u16).to_be() as u32; // RTM_NEWNEIGH
    const DEL: u32 = (29_u16).to_be() as u32; // RTM_DELNEIGH
    const PERMANENT: u32 = (0x80_u16).to_be() as u32; // NUD_PERMANENT
    const TYPE: u32 = 4; // nlmsg_type
    const STATE: u32 = 16 + 8; // ndm_state
    const LOAD: u16 = 0x28; // BPF_LD | BPF_H | BPF_ABS
    const EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
    const SET: u16 = 0x45; // BPF_JMP | BPF_JSET | BPF_K
    const RETURN: u16 = 0x06; // BPF_RET | BPF_K
    let line = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut program = [
        line(LOAD, 0, 0, TYPE),
        line(EQUAL, 1, 0, NEW),
        line(EQUAL, 0, 2, DEL),
        line(LOAD, 0, 0, STATE),
        line(SET, 0, 1, PERMANENT),
        line(RETURN, 0, 0, u32::MAX),
        line(RETURN, 0, 0, 0),
    ];
    let filter = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: the kernel copies the program during the call; pointer and lengths are of the values
    // above, which live until it returns.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const filter).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
