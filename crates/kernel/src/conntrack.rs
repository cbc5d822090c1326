//! Forgetting the connections of an address.
//!
//! An address that goes from one pod to another takes the old pod's conntrack entries along: a
//! reply to a connection of the old one would reach the new one. ctnetlink has no "delete by
//! address" before Linux 6.9, so the table is read and the entries that name the address are
//! deleted by their own tuples (nf_conntrack_netlink.c).

use std::net::Ipv4Addr;

use netlink_packet_core::NLM_F_DUMP;
use netlink_sys::protocols::NETLINK_NETFILTER;
use rustix::io::Errno;

use crate::netlink::{Attributes, Channel, Request};
use crate::{Error, NetNs, Result};

/// NFNL_SUBSYS_CTNETLINK, the high byte of the message type.
const CTNETLINK: u16 = 1 << 8;
const GET: u16 = CTNETLINK | 1;
const DELETE: u16 = CTNETLINK | 2;

/// Attributes of a connection (nfnetlink_conntrack.h).
const TUPLE_ORIG: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ID: u16 = 12;
const ZONE: u16 = 18;
/// Attributes of a tuple and of its addresses.
const TUPLE_IP: u16 = 1;
const IP_V4_SRC: u16 = 1;
const IP_V4_DST: u16 = 2;
/// `struct nfgenmsg`: family AF_INET, version 0, resource 0.
const IPV4: [u8; 4] = [2, 0, 0, 0];

/// Deletes every IPv4 connection of a namespace in which one of these addresses is a source or a
/// destination, before or after translation. Returns how many there were.
pub fn forget(ns: &NetNs, addresses: &[Ipv4Addr]) -> Result<usize> {
    forget_with(ns.run(|| Channel::open(NETLINK_NETFILTER))??, addresses)
}

/// The same in this process's own namespace, which needs no right but NET_ADMIN.
pub fn forget_here(addresses: &[Ipv4Addr]) -> Result<usize> {
    forget_with(Channel::open(NETLINK_NETFILTER)?, addresses)
}

fn forget_with(mut channel: Channel, addresses: &[Ipv4Addr]) -> Result<usize> {
    if addresses.is_empty() {
        return Ok(0);
    }
    let list = Request::raw("conntrack list".to_owned(), GET, NLM_F_DUMP, &IPV4);
    let mut deletions: Vec<Request> = channel
        .dump("connections", &list)?
        .iter()
        .filter_map(|reply| reply.payload.get(IPV4.len()..))
        .filter(|connection| names(connection, addresses))
        .map(deletion)
        .collect();
    let mut forgotten = 0;
    for requests in deletions.chunks_mut(64) {
        for outcome in channel.exchange(requests)? {
            match outcome {
                Ok(()) => forgotten += 1,
                // It ended by itself.
                Err(Error::Refused {
                    errno: Errno::NOENT,
                    ..
                }) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(forgotten)
}

/// Whether a connection names one of the addresses.
fn names(connection: &[u8], addresses: &[Ipv4Addr]) -> bool {
    Attributes(connection)
        .filter(|(kind, ..)| matches!(*kind, TUPLE_ORIG | TUPLE_REPLY))
        .flat_map(|(_, tuple, _)| Attributes(tuple))
        .filter(|(kind, ..)| *kind == TUPLE_IP)
        .flat_map(|(_, ip, _)| Attributes(ip))
        .filter(|(kind, ..)| matches!(*kind, IP_V4_SRC | IP_V4_DST))
        .filter_map(|(_, value, _)| <[u8; 4]>::try_from(value).ok())
        .any(|octets| addresses.contains(&Ipv4Addr::from(octets)))
}

/// The request that deletes exactly this connection: its tuple, zone and id as they were read.
fn deletion(connection: &[u8]) -> Request {
    let mut payload = IPV4.to_vec();
    for (kind, _, whole) in Attributes(connection) {
        if matches!(kind, TUPLE_ORIG | ZONE | ID) {
            payload.extend_from_slice(whole);
            payload.resize(payload.len().next_multiple_of(4), 0);
        }
    }
    Request::raw("conntrack delete".to_owned(), DELETE, 0, &payload)
}
