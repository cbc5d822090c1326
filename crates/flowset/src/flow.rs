//! [`FlowSet`]: a union of disjoint cubes.

use std::net::Ipv4Addr;

use crate::cube::{Cube, Family};
use crate::range::RangeSet;
use crate::{ICMP, Packet};

/// A set of packets. Equality is equality of sets, whatever the representation.
#[derive(Debug, Clone, Default)]
pub struct FlowSet {
    /// Pairwise disjoint, none empty.
    cubes: Vec<Cube>,
}

impl FlowSet {
    /// No packet.
    pub fn empty() -> Self {
        FlowSet { cubes: Vec::new() }
    }

    /// Every IPv4 packet.
    pub fn full() -> Self {
        FlowSet {
            cubes: Family::ALL.map(Family::cube).into(),
        }
    }

    /// Whether there is no packet in the set.
    pub fn is_empty(&self) -> bool {
        self.cubes.is_empty()
    }

    /// Whether a packet is in the set.
    pub fn contains(&self, packet: &Packet) -> bool {
        self.cubes.iter().any(|c| c.contains(packet))
    }

    /// The packets in both sets.
    pub fn intersect(&self, other: &Self) -> Self {
        let pairs = self
            .cubes
            .iter()
            .flat_map(|c| other.cubes.iter().map(move |d| (c, d)));
        Self::compact(pairs.filter_map(|(c, d)| c.intersect(d)).collect())
    }

    /// The packets in this set and not in `other`.
    pub fn difference(&self, other: &Self) -> Self {
        let mut rest = self.cubes.clone();
        for cut in &other.cubes {
            let mut next = Vec::with_capacity(rest.len());
            for cube in &rest {
                cube.difference(cut, &mut next);
            }
            rest = next;
        }
        Self::compact(rest)
    }

    /// The packets in either set.
    pub fn union(&self, other: &Self) -> Self {
        let mut cubes = self.difference(other).cubes;
        cubes.extend(other.cubes.iter().cloned());
        Self::compact(cubes)
    }

    /// All packets not in this set.
    pub fn complement(&self) -> Self {
        Self::full().difference(self)
    }

    /// Whether every packet of this set is in `other`.
    pub fn is_subset(&self, other: &Self) -> bool {
        self.difference(other).is_empty()
    }

    /// The packets from these source addresses.
    pub fn from_sources(&self, sources: &RangeSet<u32>) -> Self {
        self.cut(|c| Cube {
            src: c.src.intersect(sources),
            ..c.clone()
        })
    }

    /// The packets to these destination addresses.
    pub fn to_destinations(&self, destinations: &RangeSet<u32>) -> Self {
        self.cut(|c| Cube {
            dst: c.dst.intersect(destinations),
            ..c.clone()
        })
    }

    /// The packets of these IP protocols.
    pub fn of_protocols(&self, protocols: &RangeSet<u8>) -> Self {
        self.cut(|c| Cube {
            protocol: c.protocol.intersect(protocols),
            ..c.clone()
        })
    }

    /// The TCP and UDP packets to these destination ports.
    pub fn to_ports(&self, ports: &RangeSet<u16>) -> Self {
        let cut = |c: &Cube| Cube {
            b: c.b.intersect(ports),
            ..c.clone()
        };
        FlowSet {
            cubes: self
                .family(Family::Ports)
                .filter_map(|c| cut(c).non_empty())
                .collect(),
        }
    }

    /// The TCP and UDP packets from these source ports.
    pub fn from_ports(&self, ports: &RangeSet<u16>) -> Self {
        let cut = |c: &Cube| Cube {
            a: c.a.intersect(ports),
            ..c.clone()
        };
        FlowSet {
            cubes: self
                .family(Family::Ports)
                .filter_map(|c| cut(c).non_empty())
                .collect(),
        }
    }

    /// The ICMP packets of a type and code; `None` is any. A code without a type is not a thing EC2
    /// accepts; here it means any type with that code.
    pub fn of_icmp(&self, kind: Option<u8>, code: Option<u8>) -> Self {
        let kinds = kind.map_or(0..=u8::MAX, |k| k..=k);
        let codes = code.map_or((0, u8::MAX), |c| (c, c));
        let number = |kind, code| u16::from_be_bytes([kind, code]);
        let b: RangeSet<u16> = kinds
            .map(|k| (number(k, codes.0), number(k, codes.1)))
            .collect();
        let cut = |c: &Cube| Cube {
            b: c.b.intersect(&b),
            ..c.clone()
        };
        FlowSet {
            cubes: self
                .family(Family::Icmp)
                .filter_map(|c| cut(c).non_empty())
                .collect(),
        }
    }

    /// The source addresses that occur.
    pub fn sources(&self) -> RangeSet<u32> {
        self.cubes
            .iter()
            .flat_map(|c| c.src.ranges())
            .copied()
            .collect()
    }

    /// The destination addresses that occur.
    pub fn destinations(&self) -> RangeSet<u32> {
        self.cubes
            .iter()
            .flat_map(|c| c.dst.ranges())
            .copied()
            .collect()
    }

    /// The protocols that occur.
    pub fn protocols(&self) -> RangeSet<u8> {
        self.cubes
            .iter()
            .flat_map(|c| c.protocol.ranges())
            .copied()
            .collect()
    }

    /// The destination ports of the TCP and UDP packets.
    pub fn ports(&self) -> RangeSet<u16> {
        self.family(Family::Ports)
            .flat_map(|c| c.b.ranges())
            .copied()
            .collect()
    }

    /// The same packets with another source address.
    pub fn with_source(&self, source: Ipv4Addr) -> Self {
        self.rewrite(|c| Cube {
            src: source.into(),
            ..c.clone()
        })
    }

    /// The same packets with another destination address.
    pub fn with_destination(&self, destination: Ipv4Addr) -> Self {
        self.rewrite(|c| Cube {
            dst: destination.into(),
            ..c.clone()
        })
    }

    /// The same packets, but from any of these source addresses.
    pub fn with_sources(&self, sources: &RangeSet<u32>) -> Self {
        self.rewrite(|c| Cube {
            src: sources.clone(),
            ..c.clone()
        })
    }

    /// The same packets, but to any of these destination addresses.
    pub fn with_destinations(&self, destinations: &RangeSet<u32>) -> Self {
        self.rewrite(|c| Cube {
            dst: destinations.clone(),
            ..c.clone()
        })
    }

    /// The same packets, but the TCP and UDP ones from any of these source ports.
    pub fn with_source_ports(&self, ports: &RangeSet<u16>) -> Self {
        self.rewrite(|c| match c.family() {
            Family::Ports => Cube {
                a: ports.clone(),
                ..c.clone()
            },
            Family::Icmp | Family::Other => c.clone(),
        })
    }

    /// The same packets, but the TCP and UDP ones to any of these destination ports.
    pub fn with_destination_ports(&self, ports: &RangeSet<u16>) -> Self {
        self.rewrite(|c| match c.family() {
            Family::Ports => Cube {
                b: ports.clone(),
                ..c.clone()
            },
            Family::Icmp | Family::Other => c.clone(),
        })
    }

    /// The packets that answer these: addresses and ports exchanged, ICMP queries (echo, timestamp,
    /// information, address mask) turned into their replies and replies into queries, as Linux's
    /// connection tracking pairs them. ICMP errors have no answer and drop out. Its own inverse
    /// otherwise.
    pub fn reply(&self) -> Self {
        let mut cubes = Vec::with_capacity(self.cubes.len());
        for c in &self.cubes {
            let (src, dst) = (c.dst.clone(), c.src.clone());
            match c.family() {
                Family::Icmp => {
                    let b = icmp_answer(&c.b);
                    cubes.extend(
                        Cube {
                            src,
                            dst,
                            b,
                            ..c.clone()
                        }
                        .non_empty(),
                    );
                }
                Family::Ports | Family::Other => cubes.push(Cube {
                    src,
                    dst,
                    protocol: c.protocol.clone(),
                    a: c.b.clone(),
                    b: c.a.clone(),
                }),
            }
        }
        FlowSet { cubes }
    }

    /// The packets that something is expected to answer: all but ICMP errors and ICMP replies.
    pub fn expecting_reply(&self) -> Self {
        let queries: RangeSet<u16> = QUERIES.iter().map(|(q, _)| kind_range(*q)).collect();
        self.cut(|c| match c.family() {
            Family::Icmp => Cube {
                b: c.b.intersect(&queries),
                ..c.clone()
            },
            Family::Ports | Family::Other => c.clone(),
        })
    }

    /// A packet of the set, as ordinary as the set allows: TCP from an ephemeral port first, a ping
    /// before other ICMP. The same set in the same representation gives the same packet.
    pub fn witness(&self) -> Option<Packet> {
        let rank = |p: &Packet| match p.protocol() {
            crate::TCP => 0,
            crate::UDP => 1,
            ICMP => 2,
            _ => 3,
        };
        self.cubes
            .iter()
            .filter_map(Cube::witness)
            .min_by_key(|p| (rank(p), *p))
    }

    pub(crate) fn cubes(&self) -> &[Cube] {
        &self.cubes
    }

    /// The union of cubes that may overlap.
    pub(crate) fn from_cubes(cubes: impl IntoIterator<Item = Cube>) -> Self {
        let mut disjoint: Vec<Cube> = Vec::new();
        for cube in cubes.into_iter().filter_map(Cube::non_empty) {
            let mut fresh = vec![cube];
            for old in &disjoint {
                let mut next = Vec::with_capacity(fresh.len());
                for piece in &fresh {
                    piece.difference(old, &mut next);
                }
                fresh = next;
            }
            disjoint.extend(fresh);
        }
        Self::compact(disjoint)
    }

    /// Joins disjoint cubes that together are a cube, so that sets stay small and read well.
    fn compact(mut cubes: Vec<Cube>) -> Self {
        let mut at = 0;
        while at < cubes.len() {
            let joined = (at + 1..cubes.len())
                .find_map(|other| Some((other, cubes[at].merge(&cubes[other])?)));
            match joined {
                Some((other, cube)) => {
                    cubes.swap_remove(other);
                    cubes[at] = cube;
                    at = 0;
                }
                None => at += 1,
            }
        }
        FlowSet { cubes }
    }

    fn family(&self, family: Family) -> impl Iterator<Item = &Cube> {
        self.cubes.iter().filter(move |c| c.family() == family)
    }

    /// Applies a cut that keeps disjoint cubes disjoint.
    fn cut(&self, cut: impl Fn(&Cube) -> Cube) -> Self {
        FlowSet {
            cubes: self
                .cubes
                .iter()
                .filter_map(|c| cut(c).non_empty())
                .collect(),
        }
    }

    /// Applies a change that may make cubes overlap.
    fn rewrite(&self, change: impl Fn(&Cube) -> Cube) -> Self {
        Self::from_cubes(self.cubes.iter().map(change))
    }
}

/// ICMP queries and their replies (RFC 792, RFC 950).
const QUERIES: [(u8, u8); 4] = [(8, 0), (13, 14), (15, 16), (17, 18)];

fn kind_range(kind: u8) -> (u16, u16) {
    (
        u16::from_be_bytes([kind, 0]),
        u16::from_be_bytes([kind, u8::MAX]),
    )
}

/// Types and codes of the answers to ICMP packets of these types and codes.
fn icmp_answer(b: &RangeSet<u16>) -> RangeSet<u16> {
    let both = QUERIES.iter().flat_map(|&(q, r)| [(q, r), (r, q)]);
    let moved = both.flat_map(|(from, to)| {
        let (first, last) = kind_range(from);
        let shift = kind_range(to).0;
        let here = b.intersect(&RangeSet::range(first, last));
        let ranges: Vec<_> = here
            .ranges()
            .iter()
            .map(|r| (r.0 - first, r.1 - first))
            .collect();
        ranges.into_iter().map(move |(a, b)| (a + shift, b + shift))
    });
    moved.collect()
}

impl From<Packet> for FlowSet {
    fn from(packet: Packet) -> Self {
        FlowSet {
            cubes: vec![Cube::of(&packet)],
        }
    }
}

impl From<&Packet> for FlowSet {
    fn from(packet: &Packet) -> Self {
        (*packet).into()
    }
}

impl PartialEq for FlowSet {
    fn eq(&self, other: &Self) -> bool {
        self.is_subset(other) && other.is_subset(self)
    }
}

impl Eq for FlowSet {}
