//! The one-line form: `tcp 10.0.0.0/16 -> 10.1.2.3:443`.
//!
//! ```text
//! set      = "none" | flow { "; " flow }
//! flow     = protocol " " addresses [":" ports] " -> " addresses [":" ports]
//! protocol = "any" | "tcp" | "udp" | "tcp,udp" | "icmp" [ "/" kinds ] | numbers
//! kinds    = kind { "," kind },  kind = range [ "/" range ]        type and code
//! addresses, ports, numbers = "any" | item { "," item }            10.0.0.1, 10.0.0.0/8, 10.0.0.1-10.0.0.9; 80, 1-9
//! ```

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::cube::{Cube, Family};
use crate::range::{Bound, RangeSet};
use crate::{FlowSet, Packet, TCP, UDP};

/// A text that is not a flow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// The line has not the form of a flow.
    #[error("{0:?} is not a flow: expected as in `tcp 10.0.0.0/16 -> 10.1.2.3:443`")]
    Shape(String),
    /// An address, network or range of addresses is malformed.
    #[error("{0:?} is not an address: expected 10.0.0.1, 10.0.0.0/16, 10.0.0.1-10.0.0.9 or any")]
    Address(String),
    /// A port, type, code or protocol number is malformed.
    #[error("{0:?} is not a number or range of numbers up to {1}")]
    Number(String, u64),
    /// Ports were given for a protocol that has none.
    #[error("{0:?}: only tcp and udp have ports")]
    PortsWithoutProtocol(String),
    /// The set has not exactly one packet.
    #[error("{0:?} is not one packet: give one address, one port and one protocol on each side")]
    NotOnePacket(String),
}

impl FromStr for FlowSet {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        if text.trim() == "none" {
            return Ok(FlowSet::empty());
        }
        let mut cubes = Vec::new();
        for flow in text.split(';') {
            cubes.extend(parse_flow(flow.trim())?);
        }
        Ok(FlowSet::from_cubes(cubes))
    }
}

fn parse_flow(text: &str) -> Result<Vec<Cube>, ParseError> {
    let shape = || ParseError::Shape(text.to_owned());
    let words: Vec<&str> = text.split_whitespace().collect();
    let [protocol, src, "->", dst] = words[..] else {
        return Err(shape());
    };
    let (src, a) = end(src)?;
    let (dst, b) = end(dst)?;
    let mut cubes = parse_protocol(protocol)?;
    for cube in &mut cubes {
        cube.src = src.clone();
        cube.dst = dst.clone();
        for (ports, dim) in [(&a, &mut cube.a), (&b, &mut cube.b)] {
            let Some(ports) = ports else { continue };
            if !cube.protocol.is_subset(&Family::Ports.protocols()) {
                return Err(ParseError::PortsWithoutProtocol(text.to_owned()));
            }
            *dim = ports.clone();
        }
    }
    Ok(cubes)
}

type End = (RangeSet<u32>, Option<RangeSet<u16>>);

fn end(text: &str) -> Result<End, ParseError> {
    match text.split_once(':') {
        None => Ok((addresses(text)?, None)),
        Some((net, ports)) => Ok((addresses(net)?, Some(numbers(ports)?))),
    }
}

fn addresses(text: &str) -> Result<RangeSet<u32>, ParseError> {
    if text == "any" {
        return Ok(RangeSet::full());
    }
    let mut all = RangeSet::empty();
    for item in text.split(',') {
        let bad = || ParseError::Address(item.to_owned());
        let host = |s: &str| s.parse::<Ipv4Addr>().map_err(|_| bad());
        let part = match item.split_once('-') {
            Some((a, b)) => ordered(host(a)?.into(), host(b)?.into()).ok_or_else(bad)?,
            None if item.contains('/') => item.parse::<Ipv4Net>().map_err(|_| bad())?.into(),
            None => host(item)?.into(),
        };
        all = all.union(&part);
    }
    Ok(all)
}

fn ordered<T: Bound>(a: T, b: T) -> Option<RangeSet<T>> {
    (a <= b).then(|| RangeSet::range(a, b))
}

fn numbers<T: Bound + FromStr>(text: &str) -> Result<RangeSet<T>, ParseError> {
    if text == "any" {
        return Ok(RangeSet::full());
    }
    let mut all = RangeSet::empty();
    for item in text.split(',') {
        let bad = || ParseError::Number(item.to_owned(), T::MAX.to_u64());
        let number = |s: &str| s.parse::<T>().map_err(|_| bad());
        let (a, b) = item.split_once('-').unwrap_or((item, item));
        all = all.union(&ordered(number(a)?, number(b)?).ok_or_else(bad)?);
    }
    Ok(all)
}

fn parse_protocol(text: &str) -> Result<Vec<Cube>, ParseError> {
    let ports = |protocol| Cube {
        protocol,
        ..Family::Ports.cube()
    };
    match text {
        "any" => return Ok(Family::ALL.map(Family::cube).into()),
        "tcp" => return Ok(vec![ports(TCP.into())]),
        "udp" => return Ok(vec![ports(UDP.into())]),
        "tcp,udp" => return Ok(vec![Family::Ports.cube()]),
        "icmp" => return Ok(vec![Family::Icmp.cube()]),
        _ => {}
    }
    if let Some(kinds) = text.strip_prefix("icmp/") {
        let mut b = RangeSet::empty();
        for kind in kinds.split(',') {
            b = b.union(&icmp_kind(kind)?);
        }
        return Ok(vec![Cube {
            b,
            ..Family::Icmp.cube()
        }]);
    }
    let numbers: RangeSet<u8> = numbers(text)?;
    let whole = |f: Family| {
        Cube {
            protocol: numbers.intersect(&f.protocols()),
            ..f.cube()
        }
        .non_empty()
    };
    Ok(Family::ALL.into_iter().filter_map(whole).collect())
}

fn icmp_kind(text: &str) -> Result<RangeSet<u16>, ParseError> {
    let (kinds, codes) = text.split_once('/').unwrap_or((text, "any"));
    let (kinds, codes): (RangeSet<u8>, RangeSet<u8>) = (numbers(kinds)?, numbers(codes)?);
    let each = kinds.ranges().iter().flat_map(|r| r.0..=r.1);
    let pair =
        |kind, &(a, b): &(u8, u8)| (u16::from_be_bytes([kind, a]), u16::from_be_bytes([kind, b]));
    Ok(each
        .flat_map(|k| codes.ranges().iter().map(move |c| pair(k, c)))
        .collect())
}

impl FromStr for Packet {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let set: FlowSet = text.parse()?;
        let bad = || ParseError::NotOnePacket(text.to_owned());
        let packet = set.witness().ok_or_else(bad)?;
        if set == FlowSet::from(packet) {
            Ok(packet)
        } else {
            Err(bad())
        }
    }
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_cube(&Cube::of(self), f)
    }
}

impl fmt::Display for FlowSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("none");
        }
        let mut rest: Vec<&Cube> = self.cubes().iter().collect();
        let mut between = "";
        while let Some(cube) = rest.first().copied() {
            f.write_str(between)?;
            between = "; ";
            if let Some(mates) = whole_families(cube, &rest) {
                rest.retain(|c| !mates.contains(c));
                write!(
                    f,
                    "any {} -> {}",
                    Addresses(&cube.src),
                    Addresses(&cube.dst)
                )?;
            } else {
                rest.remove(0);
                write_cube(cube, f)?;
            }
        }
        Ok(())
    }
}

/// The cubes that together with this one are every packet between its addresses.
fn whole_families<'a>(cube: &Cube, all: &[&'a Cube]) -> Option<Vec<&'a Cube>> {
    let whole = |f: Family| Cube {
        src: cube.src.clone(),
        dst: cube.dst.clone(),
        ..f.cube()
    };
    let find = |f| all.iter().copied().find(|c| **c == whole(f));
    Family::ALL.into_iter().map(find).collect()
}

fn write_cube(cube: &Cube, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match cube.family() {
        Family::Ports => {
            let names: Vec<&str> = [(TCP, "tcp"), (UDP, "udp")]
                .into_iter()
                .filter_map(|(number, name)| cube.protocol.contains(number).then_some(name))
                .collect();
            write!(f, "{} ", names.join(","))?;
        }
        Family::Icmp => write_icmp(&cube.b, f)?,
        Family::Other => write!(f, "{} ", Numbers(&cube.protocol))?,
    }
    let ports = cube.family() == Family::Ports;
    let side = |f: &mut fmt::Formatter<'_>, net, set: &RangeSet<u16>| {
        write!(f, "{}", Addresses(net))?;
        if ports && !set.is_full() {
            write!(f, ":{}", Numbers(set))
        } else {
            Ok(())
        }
    };
    side(f, &cube.src, &cube.a)?;
    f.write_str(" -> ")?;
    side(f, &cube.dst, &cube.b)
}

fn write_icmp(b: &RangeSet<u16>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_str("icmp")?;
    if b.is_full() {
        return f.write_str(" ");
    }
    let mut between = "/";
    for kind in 0..=u8::MAX {
        let (first, last) = (
            u16::from_be_bytes([kind, 0]),
            u16::from_be_bytes([kind, u8::MAX]),
        );
        for &(x, y) in b.intersect(&RangeSet::range(first, last)).ranges() {
            write!(f, "{between}{kind}")?;
            between = ",";
            if (x, y) != (first, last) {
                write!(f, "/{}", Numbers(&RangeSet::range(x - first, y - first)))?;
            }
        }
    }
    f.write_str(" ")
}

struct Numbers<'a, T>(&'a RangeSet<T>);

impl<T: Bound> fmt::Display for Numbers<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        list(f, self.0.ranges(), |f, a, b| {
            if a == b {
                write!(f, "{a}")
            } else {
                write!(f, "{a}-{b}")
            }
        })
    }
}

struct Addresses<'a>(&'a RangeSet<u32>);

impl fmt::Display for Addresses<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_full() {
            return f.write_str("any");
        }
        list(f, self.0.ranges(), |f, a, b| {
            let (first, last) = (Ipv4Addr::from(a), Ipv4Addr::from(b));
            let mut nets = ipnet::Ipv4Subnets::new(first, last, 0);
            match (nets.next(), nets.next()) {
                (Some(net), None) if a == b => write!(f, "{}", net.addr()),
                (Some(net), None) => write!(f, "{net}"),
                _ => write!(f, "{first}-{last}"),
            }
        })
    }
}

fn list<T: Bound>(
    f: &mut fmt::Formatter<'_>,
    ranges: &[(T, T)],
    item: impl Fn(&mut fmt::Formatter<'_>, T, T) -> fmt::Result,
) -> fmt::Result {
    for (at, &(a, b)) in ranges.iter().enumerate() {
        if at > 0 {
            f.write_str(",")?;
        }
        item(f, a, b)?;
    }
    Ok(())
}

impl fmt::Display for RangeSet<u32> {
    /// Addresses: `10.0.0.1,10.0.1.0/24,10.0.2.1-10.0.2.9`, `any` or `none`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            f.write_str("none")
        } else {
            Addresses(self).fmt(f)
        }
    }
}

impl fmt::Display for RangeSet<u16> {
    /// Ports: `80,443,8000-8080`, `any` or `none`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.is_empty(), self.is_full()) {
            (true, _) => f.write_str("none"),
            (_, true) => f.write_str("any"),
            _ => Numbers(self).fmt(f),
        }
    }
}

macro_rules! serde_as_text {
    ($($t:ty)*) => {$(
        impl Serialize for $t {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $t {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                String::deserialize(from)?.parse().map_err(de::Error::custom)
            }
        }
    )*};
}

serde_as_text! { FlowSet Packet }
