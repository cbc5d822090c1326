//! Sets of packets: prefixes, ports, protocols, ICMP types; union, intersection, difference, a witness packet.
//!
//! Every question about reachability is asked of a [`FlowSet`], never of a single packet: one packet
//! is the set of size one, so there is one evaluator and no second, symbolic one. A set is a union of
//! disjoint boxes over five dimensions:
//!
//! | dimension | TCP, UDP | ICMP | other protocols |
//! |---|---|---|---|
//! | source, destination | IPv4 addresses | | |
//! | protocol | 6, 17 | 1 | the rest |
//! | a | source port | 0 | 0 |
//! | b | destination port | type << 8 \| code | 0 |
//!
//! Only packets of this shape are ever in a set: [`FlowSet::full`] is three boxes, not one, and every
//! operation only cuts or rewrites within a family of protocols. IPv4 only; IPv6 is reported as not
//! modelled by the rooms above.

mod cube;
mod flow;
mod packet;
mod range;
mod text;

pub use flow::FlowSet;
pub use packet::Packet;
pub use range::{Bound, RangeSet};
pub use text::ParseError;

/// IP protocol number of ICMP.
pub const ICMP: u8 = 1;
/// IP protocol number of TCP.
pub const TCP: u8 = 6;
/// IP protocol number of UDP.
pub const UDP: u8 = 17;
