//! Rules, entries and targets in one line, in the words operators use.

use std::fmt;

use crate::facts::*;

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Direction::Ingress => "ingress",
            Direction::Egress => "egress",
        })
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let icmp = |f: &mut fmt::Formatter<'_>, name, kind: Option<u8>, code: Option<u8>| {
            f.write_str(name)?;
            match (kind, code) {
                (None, _) => Ok(()),
                (Some(kind), None) => write!(f, "/{kind}"),
                (Some(kind), Some(code)) => write!(f, "/{kind}/{code}"),
            }
        };
        match *self {
            Protocol::All => f.write_str("all"),
            Protocol::Tcp(ports) => write!(f, "tcp{ports}"),
            Protocol::Udp(ports) => write!(f, "udp{ports}"),
            Protocol::Icmp { kind, code } => icmp(f, "icmp", kind, code),
            Protocol::Icmp6 { kind, code } => icmp(f, "icmpv6", kind, code),
            Protocol::Number(number) => write!(f, "protocol {number}"),
        }
    }
}

impl fmt::Display for Ports {
    /// With the slash that separates them from a protocol; nothing for all ports.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.from, self.to) {
            (0, u16::MAX) => Ok(()),
            (from, to) if from == to => write!(f, "/{from}"),
            (from, to) => write!(f, "/{from}-{to}"),
        }
    }
}

impl fmt::Display for RulePeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RulePeer::Cidr4(net) => net.fmt(f),
            RulePeer::Cidr6(net) => net.fmt(f),
            RulePeer::PrefixList(id) => id.fmt(f),
            RulePeer::Group { id, .. } => id.fmt(f),
        }
    }
}

impl fmt::Display for GroupRule {
    /// `ingress tcp/5432 from sg-0a1b`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {} {} {}",
            self.direction,
            self.protocol,
            side(self.direction),
            self.peer
        )
    }
}

impl AclEntry {
    /// The entry without its number: `ingress deny tcp/5432 from 10.0.0.0/16`.
    pub fn text(&self) -> String {
        let action = if self.allow { "allow" } else { "deny" };
        let AclEntry {
            direction,
            protocol,
            ..
        } = self;
        let what = format!("{direction} {action} {protocol} {}", side(*direction));
        match self.cidr {
            AclCidr::V4(net) => format!("{what} {net}"),
            AclCidr::V6(net) => format!("{what} {net}"),
        }
    }
}

impl fmt::Display for AclEntry {
    /// `100 ingress deny tcp/5432 from 10.0.0.0/16`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.number, self.text())
    }
}

fn side(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "from",
        Direction::Egress => "to",
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Destination::Cidr(net) => net.fmt(f),
            Destination::Cidr6(net) => net.fmt(f),
            Destination::PrefixList(id) => id.fmt(f),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Local => f.write_str("local"),
            Target::Igw(id) => id.fmt(f),
            Target::Nat(id) => id.fmt(f),
            Target::Pcx(id) => id.fmt(f),
            Target::Eni(id) => id.fmt(f),
            Target::Instance(id) => id.fmt(f),
            Target::Unmodelled { id, .. } => f.write_str(id),
        }
    }
}

impl fmt::Display for Route {
    /// `0.0.0.0/0 -> igw-0a1b (blackhole)`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {}", self.destination, self.target)?;
        match self.state {
            RouteState::Active => Ok(()),
            RouteState::Blackhole => f.write_str(" (blackhole)"),
        }
    }
}
