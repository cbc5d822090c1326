//! The one-line forms of rules, entries and routes, read back: for topology files, what-if questions
//! and tests.
//!
//! ```text
//! group rule   ingress tcp/5432 from sg-0a1b        egress all to 0.0.0.0/0
//! ACL entry    100 ingress deny icmp/3/4 from 10.0.0.0/16
//! route        0.0.0.0/0 -> igw-0a1b                10.9.0.0/16 -> pcx-0a1b (blackhole)
//! protocol     all, tcp, tcp/80, udp/1-1024, icmp, icmp/8, icmp/3/4, icmpv6, protocol 47
//! ```

use std::str::FromStr;

use ipnet::{Ipv4Net, Ipv6Net};

use crate::facts::*;

/// A text that is not a rule, entry or route.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadText {
    /// The line has not the expected form.
    #[error("{text:?} is not {what}: expected as in `{example}`")]
    Shape {
        /// The line.
        text: String,
        /// What was expected.
        what: &'static str,
        /// One that is right.
        example: &'static str,
    },
    /// The protocol is not known, or its ports, type or code are out of range.
    #[error(
        "{0:?} is not a protocol: expected all, tcp/PORT[-PORT], udp/…, icmp[/TYPE[/CODE]], icmpv6 or `protocol NUMBER`"
    )]
    Protocol(String),
    /// The other side is neither a CIDR nor a group nor a prefix list.
    #[error("{0:?} is not a peer: expected a CIDR block, sg-… or pl-…")]
    Peer(String),
    /// The destination of a route is neither a CIDR nor a prefix list.
    #[error("{0:?} is not a destination: expected a CIDR block or pl-…")]
    Destination(String),
    /// The network has bits set behind its prefix length: EC2 would store another one.
    #[error("{0} has address bits behind its prefix length: is {1} meant?")]
    HostBits(String, String),
}

impl FromStr for Protocol {
    type Err = BadText;
    fn from_str(text: &str) -> Result<Self, BadText> {
        let bad = || BadText::Protocol(text.to_owned());
        if let Some(number) = text.strip_prefix("protocol ") {
            return Ok(Protocol::Number(number.parse().map_err(|_| bad())?));
        }
        let mut words = text.splitn(3, '/');
        let (name, first, second) = (words.next(), words.next(), words.next());
        let byte = |s: Option<&str>| s.map(|s| s.parse::<u8>()).transpose().map_err(|_| bad());
        match (name, first, second) {
            (Some("all"), None, None) => Ok(Protocol::All),
            (Some("tcp"), ports, None) => Ok(Protocol::Tcp(parse_ports(ports).ok_or_else(bad)?)),
            (Some("udp"), ports, None) => Ok(Protocol::Udp(parse_ports(ports).ok_or_else(bad)?)),
            (Some("icmp"), kind, code) => Ok(Protocol::Icmp {
                kind: byte(kind)?,
                code: byte(code)?,
            }),
            (Some("icmpv6"), kind, code) => Ok(Protocol::Icmp6 {
                kind: byte(kind)?,
                code: byte(code)?,
            }),
            _ => Err(bad()),
        }
    }
}

fn parse_ports(text: Option<&str>) -> Option<Ports> {
    let Some(text) = text else {
        return Some(Ports {
            from: 0,
            to: u16::MAX,
        });
    };
    let (from, to) = text.split_once('-').unwrap_or((text, text));
    let ports = Ports {
        from: from.parse().ok()?,
        to: to.parse().ok()?,
    };
    (ports.from <= ports.to).then_some(ports)
}

impl FromStr for RulePeer {
    type Err = BadText;
    fn from_str(text: &str) -> Result<Self, BadText> {
        if let Ok(id) = text.parse() {
            return Ok(RulePeer::Group {
                id,
                vpc: None,
                peering: None,
            });
        }
        if let Ok(id) = text.parse() {
            return Ok(RulePeer::PrefixList(id));
        }
        if let Ok(net) = text.parse::<Ipv4Net>() {
            return Ok(RulePeer::Cidr4(exact(net)?));
        }
        let net = text
            .parse::<Ipv6Net>()
            .map_err(|_| BadText::Peer(text.to_owned()))?;
        Ok(RulePeer::Cidr6(net))
    }
}

fn exact(net: Ipv4Net) -> Result<Ipv4Net, BadText> {
    if net == net.trunc() {
        return Ok(net);
    }
    Err(BadText::HostBits(net.to_string(), net.trunc().to_string()))
}

/// `ingress X from Y` or `egress X to Y`, as direction, X, Y.
fn directed(text: &str) -> Option<(Direction, &str, &str)> {
    let (word, rest) = text.trim().split_once(' ')?;
    let (direction, between) = match word {
        "ingress" => (Direction::Ingress, " from "),
        "egress" => (Direction::Egress, " to "),
        _ => return None,
    };
    let (protocol, peer) = rest.rsplit_once(between)?;
    Some((direction, protocol.trim(), peer.trim()))
}

impl FromStr for GroupRule {
    type Err = BadText;
    fn from_str(text: &str) -> Result<Self, BadText> {
        let shape = || BadText::Shape {
            text: text.to_owned(),
            what: "a group rule",
            example: "ingress tcp/5432 from sg-0a1b",
        };
        let (direction, protocol, peer) = directed(text).ok_or_else(shape)?;
        Ok(GroupRule {
            id: None,
            direction,
            protocol: protocol.parse()?,
            peer: peer.parse()?,
            description: String::new(),
        })
    }
}

impl FromStr for AclEntry {
    type Err = BadText;
    fn from_str(text: &str) -> Result<Self, BadText> {
        let shape = || BadText::Shape {
            text: text.to_owned(),
            what: "an entry of a network ACL",
            example: "100 ingress deny tcp/5432 from 10.0.0.0/16",
        };
        let (number, rest) = text.trim().split_once(' ').ok_or_else(shape)?;
        let (direction, rest, cidr) = directed(rest).ok_or_else(shape)?;
        let (action, protocol) = rest.split_once(' ').ok_or_else(shape)?;
        Ok(AclEntry {
            number: number.parse().map_err(|_| shape())?,
            direction,
            protocol: protocol.parse()?,
            cidr: match cidr.parse()? {
                RulePeer::Cidr4(net) => AclCidr::V4(net),
                RulePeer::Cidr6(net) => AclCidr::V6(net),
                RulePeer::PrefixList(_) | RulePeer::Group { .. } => return Err(shape()),
            },
            allow: match action {
                "allow" => true,
                "deny" => false,
                _ => return Err(shape()),
            },
        })
    }
}

impl FromStr for Route {
    type Err = BadText;
    fn from_str(text: &str) -> Result<Self, BadText> {
        let shape = || BadText::Shape {
            text: text.to_owned(),
            what: "a route",
            example: "0.0.0.0/0 -> igw-0a1b",
        };
        let (line, state) = match text.strip_suffix(" (blackhole)") {
            Some(line) => (line, RouteState::Blackhole),
            None => (text, RouteState::Active),
        };
        let (destination, target) = line.split_once(" -> ").ok_or_else(shape)?;
        let destination = match destination.trim().parse::<RulePeer>() {
            Ok(RulePeer::Cidr4(net)) => Destination::Cidr(net),
            Ok(RulePeer::Cidr6(net)) => Destination::Cidr6(net),
            Ok(RulePeer::PrefixList(id)) => Destination::PrefixList(id),
            Err(error @ BadText::HostBits(..)) => return Err(error),
            Ok(RulePeer::Group { .. }) | Err(_) => {
                return Err(BadText::Destination(destination.to_owned()));
            }
        };
        let target = Target::of_id(target.trim());
        let local = target == Target::Local;
        let origin = if local {
            RouteOrigin::CreateRouteTable
        } else {
            RouteOrigin::CreateRoute
        };
        Ok(Route {
            destination,
            target,
            state,
            origin,
        })
    }
}

impl Target {
    /// The target that an id, or `local`, stands for; what is not modelled keeps its id and is named
    /// by the prefix of the id.
    pub fn of_id(id: &str) -> Target {
        if id == "local" {
            return Target::Local;
        }
        let modelled = [
            id.parse().map(Target::Igw).ok(),
            id.parse().map(Target::Nat).ok(),
            id.parse().map(Target::Pcx).ok(),
            id.parse().map(Target::Eni).ok(),
            id.parse().map(Target::Instance).ok(),
        ];
        modelled
            .into_iter()
            .flatten()
            .next()
            .unwrap_or_else(|| Target::Unmodelled {
                kind: unmodelled_kind(id).to_owned(),
                id: id.to_owned(),
            })
    }
}

fn unmodelled_kind(id: &str) -> &'static str {
    match id.split_once('-').map_or(id, |(prefix, _)| prefix) {
        "tgw" => "transit gateway",
        "vgw" => "virtual private gateway",
        "vpce" => "VPC endpoint",
        "eigw" => "egress-only internet gateway",
        "lgw" => "local gateway",
        "cagw" => "carrier gateway",
        _ => "target",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_round_trip() {
        for line in [
            "ingress tcp/5432 from sg-0a1b",
            "ingress tcp/1-1024 from 10.0.0.0/16",
            "ingress udp from pl-1",
            "egress all to 0.0.0.0/0",
            "egress all to ::/0",
            "ingress icmp from 10.0.0.1/32",
            "ingress icmp/3/4 from sg-0a1b",
            "ingress icmpv6 from ::/0",
            "egress protocol 47 to 10.0.0.0/8",
        ] {
            assert_eq!(line.parse::<GroupRule>().unwrap().to_string(), line);
        }
        for line in [
            "100 ingress deny tcp/5432 from 10.0.0.0/16",
            "1 egress allow all to 0.0.0.0/0",
        ] {
            assert_eq!(line.parse::<AclEntry>().unwrap().to_string(), line);
        }
        for line in [
            "10.0.0.0/16 -> local",
            "0.0.0.0/0 -> igw-1",
            "pl-1 -> nat-1",
            "10.9.0.0/16 -> pcx-1 (blackhole)",
            "10.8.0.0/16 -> tgw-1",
            "10.7.0.0/16 -> i-1",
            "::/0 -> eigw-1",
        ] {
            assert_eq!(line.parse::<Route>().unwrap().to_string(), line);
        }
    }

    #[test]
    fn malformed_lines_are_named() {
        for (line, part) in [
            ("ingress tcp/5432 to sg-1", "is not a group rule"),
            ("tcp/5432 from sg-1", "is not a group rule"),
            ("ingress tcp/70000 from sg-1", "tcp/70000"),
            ("ingress tcp/9-1 from sg-1", "tcp/9-1"),
            ("ingress gre from sg-1", "gre"),
            ("ingress icmp/3/4/5 from sg-1", "icmp/3/4/5"),
            ("ingress all from eni-1", "eni-1"),
            ("ingress all from 10.0.0.1/16", "is 10.0.0.0/16 meant?"),
        ] {
            let error = line.parse::<GroupRule>().unwrap_err().to_string();
            assert!(error.contains(part), "{line}: {error}");
        }
        assert!(
            "ingress deny all from 10.0.0.0/8"
                .parse::<AclEntry>()
                .is_err()
        );
        assert!("1 ingress deny all from sg-1".parse::<AclEntry>().is_err());
        assert!(
            "1 ingress drop all from 10.0.0.0/8"
                .parse::<AclEntry>()
                .is_err()
        );
        assert!("default -> igw-1".parse::<Route>().is_err());
        assert!("sg-1 -> igw-1".parse::<Route>().is_err());
    }
}
