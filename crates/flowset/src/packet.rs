//! One packet, as far as the network decides by it.

use std::net::Ipv4Addr;

use crate::{ICMP, TCP, UDP};

/// The header fields of one IPv4 packet, in the shape the crate's table describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Packet {
    src: Ipv4Addr,
    dst: Ipv4Addr,
    protocol: u8,
    a: u16,
    b: u16,
}

impl Packet {
    /// A TCP packet.
    pub fn tcp(src: Ipv4Addr, src_port: u16, dst: Ipv4Addr, dst_port: u16) -> Self {
        Packet {
            src,
            dst,
            protocol: TCP,
            a: src_port,
            b: dst_port,
        }
    }

    /// A UDP packet.
    pub fn udp(src: Ipv4Addr, src_port: u16, dst: Ipv4Addr, dst_port: u16) -> Self {
        Packet {
            src,
            dst,
            protocol: UDP,
            a: src_port,
            b: dst_port,
        }
    }

    /// An ICMP packet.
    pub fn icmp(src: Ipv4Addr, dst: Ipv4Addr, kind: u8, code: u8) -> Self {
        Packet {
            src,
            dst,
            protocol: ICMP,
            a: 0,
            b: u16::from_be_bytes([kind, code]),
        }
    }

    /// An ICMP echo request.
    pub fn ping(src: Ipv4Addr, dst: Ipv4Addr) -> Self {
        Self::icmp(src, dst, 8, 0)
    }

    /// A packet from its five numbers; those that the protocol does not have are set to 0.
    pub fn new(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, a: u16, b: u16) -> Self {
        match protocol {
            TCP | UDP => Packet {
                src,
                dst,
                protocol,
                a,
                b,
            },
            ICMP => Packet {
                src,
                dst,
                protocol,
                a: 0,
                b,
            },
            _ => Packet {
                src,
                dst,
                protocol,
                a: 0,
                b: 0,
            },
        }
    }

    /// The source address.
    pub fn src(&self) -> Ipv4Addr {
        self.src
    }

    /// The destination address.
    pub fn dst(&self) -> Ipv4Addr {
        self.dst
    }

    /// The IP protocol number.
    pub fn protocol(&self) -> u8 {
        self.protocol
    }

    /// The source port of TCP and UDP.
    pub fn src_port(&self) -> Option<u16> {
        self.has_ports().then_some(self.a)
    }

    /// The destination port of TCP and UDP.
    pub fn dst_port(&self) -> Option<u16> {
        self.has_ports().then_some(self.b)
    }

    /// Type and code of ICMP.
    pub fn icmp_type_code(&self) -> Option<(u8, u8)> {
        let [kind, code] = self.b.to_be_bytes();
        (self.protocol == ICMP).then_some((kind, code))
    }

    pub(crate) fn a(&self) -> u16 {
        self.a
    }

    pub(crate) fn b(&self) -> u16 {
        self.b
    }

    fn has_ports(&self) -> bool {
        matches!(self.protocol, TCP | UDP)
    }
}
