//! One box of a [`crate::FlowSet`]: the product of one set per dimension.
//!
//! Invariant: no dimension is empty, and the protocols are all of one family (ports, ICMP, other).

use std::net::Ipv4Addr;

use crate::range::RangeSet;
use crate::{ICMP, Packet, TCP, UDP};

/// A product of five sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cube {
    pub(crate) src: RangeSet<u32>,
    pub(crate) dst: RangeSet<u32>,
    pub(crate) protocol: RangeSet<u8>,
    pub(crate) a: RangeSet<u16>,
    pub(crate) b: RangeSet<u16>,
}

/// What the numbers `a` and `b` mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    Ports,
    Icmp,
    Other,
}

impl Family {
    pub(crate) const ALL: [Family; 3] = [Family::Ports, Family::Icmp, Family::Other];

    pub(crate) fn protocols(self) -> RangeSet<u8> {
        let ports: RangeSet<u8> = [(TCP, TCP), (UDP, UDP)].into_iter().collect();
        match self {
            Family::Ports => ports,
            Family::Icmp => ICMP.into(),
            Family::Other => ports.union(&ICMP.into()).complement(),
        }
    }

    /// All packets of the family.
    pub(crate) fn cube(self) -> Cube {
        let zero = || RangeSet::single(0);
        let (a, b) = match self {
            Family::Ports => (RangeSet::full(), RangeSet::full()),
            Family::Icmp => (zero(), RangeSet::full()),
            Family::Other => (zero(), zero()),
        };
        Cube {
            src: RangeSet::full(),
            dst: RangeSet::full(),
            protocol: self.protocols(),
            a,
            b,
        }
    }
}

impl Cube {
    pub(crate) fn family(&self) -> Family {
        if self.protocol.contains(ICMP) {
            Family::Icmp
        } else if self.protocol.contains(TCP) || self.protocol.contains(UDP) {
            Family::Ports
        } else {
            Family::Other
        }
    }

    /// The cube unless one of its dimensions is empty.
    pub(crate) fn non_empty(self) -> Option<Cube> {
        let empty = self.src.is_empty()
            || self.dst.is_empty()
            || self.protocol.is_empty()
            || self.a.is_empty()
            || self.b.is_empty();
        (!empty).then_some(self)
    }

    pub(crate) fn intersect(&self, other: &Cube) -> Option<Cube> {
        let cube = Cube {
            protocol: self.protocol.intersect(&other.protocol),
            src: self.src.intersect(&other.src),
            dst: self.dst.intersect(&other.dst),
            a: self.a.intersect(&other.a),
            b: self.b.intersect(&other.b),
        };
        cube.non_empty()
    }

    /// Appends `self` without `other` to `out`, as disjoint cubes: one per dimension that differs.
    pub(crate) fn difference(&self, other: &Cube, out: &mut Vec<Cube>) {
        let Some(common) = self.intersect(other) else {
            out.push(self.clone());
            return;
        };
        let mut rest = self.clone();
        macro_rules! peel {
            ($($dim:ident)*) => {$(
                let outside = rest.$dim.difference(&common.$dim);
                if !outside.is_empty() {
                    out.push(Cube { $dim: outside, ..rest.clone() });
                    rest.$dim = common.$dim.clone();
                }
            )*};
        }
        peel!(protocol src dst b a);
    }

    /// The union of two cubes if it is a cube: they differ in one dimension at most, or nest.
    pub(crate) fn merge(&self, other: &Cube) -> Option<Cube> {
        if self.family() != other.family() {
            return None;
        }
        let same = [
            self.src == other.src,
            self.dst == other.dst,
            self.protocol == other.protocol,
            self.a == other.a,
            self.b == other.b,
        ];
        if same.iter().filter(|s| !**s).count() > 1 {
            return None;
        }
        Some(Cube {
            src: self.src.union(&other.src),
            dst: self.dst.union(&other.dst),
            protocol: self.protocol.union(&other.protocol),
            a: self.a.union(&other.a),
            b: self.b.union(&other.b),
        })
    }

    pub(crate) fn contains(&self, packet: &Packet) -> bool {
        self.protocol.contains(packet.protocol())
            && self.src.has(packet.src())
            && self.dst.has(packet.dst())
            && self.a.contains(packet.a())
            && self.b.contains(packet.b())
    }

    pub(crate) fn of(packet: &Packet) -> Cube {
        Cube {
            src: packet.src().into(),
            dst: packet.dst().into(),
            protocol: packet.protocol().into(),
            a: packet.a().into(),
            b: packet.b().into(),
        }
    }

    /// A packet of the cube, as ordinary as the cube allows.
    pub(crate) fn witness(&self) -> Option<Packet> {
        let protocol = [TCP, UDP, ICMP]
            .into_iter()
            .find(|p| self.protocol.contains(*p));
        let protocol = protocol.or(self.protocol.sample())?;
        let a = EPHEMERAL
            .into_iter()
            .find_map(|floor| self.a.sample_from(floor))?;
        let b = match self.family() {
            Family::Ports => [443, 80].into_iter().find(|p| self.b.contains(*p)),
            Family::Icmp => Some(ECHO_REQUEST).filter(|b| self.b.contains(*b)),
            Family::Other => None,
        };
        let b = b.or(self.b.sample_from(1)).or(self.b.sample())?;
        Some(Packet::new(
            host(&self.src)?,
            host(&self.dst)?,
            protocol,
            a,
            b,
        ))
    }
}

/// Where to look for a source port: Linux's ephemeral range, any unprivileged port, any.
const EPHEMERAL: [u16; 3] = [32768, 1024, 0];

/// ICMP type 8, code 0.
pub(crate) const ECHO_REQUEST: u16 = 8 << 8;

/// The first address of the set that looks like a host's: last byte neither 0 nor 255.
fn host(set: &RangeSet<u32>) -> Option<Ipv4Addr> {
    let mut seen = set
        .ranges()
        .iter()
        .flat_map(|&(a, b)| (a..=b).take(3))
        .take(64);
    let ordinary = |address: &u32| !matches!(address & 0xff, 0 | 0xff);
    seen.find(ordinary).or(set.sample()).map(Ipv4Addr::from)
}
