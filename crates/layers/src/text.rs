//! Layers as text, for people and snapshot tests.

use std::fmt;

use crate::{Action, Addresses, Layer, LayerName, Match, Provenance, Rule, Service};

impl fmt::Display for LayerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Action::Allow { tracked: true } => "allow (tracked)",
            Action::Allow { tracked: false } => "allow",
            Action::Deny => "deny",
        })
    }
}

impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Addresses::Any => f.write_str("any"),
            Addresses::Net(net) => net.fmt(f),
            Addresses::Set(name) => write!(f, "@{name}"),
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ports =
            |f: &mut fmt::Formatter<'_>, name: &str, first: u16, last: u16| match (first, last) {
                (0, u16::MAX) => f.write_str(name),
                (a, b) if a == b => write!(f, "{name}/{a}"),
                (a, b) => write!(f, "{name}/{a}-{b}"),
            };
        match *self {
            Service::All => f.write_str("all"),
            Service::Tcp(first, last) => ports(f, "tcp", first, last),
            Service::Udp(first, last) => ports(f, "udp", first, last),
            Service::TcpUdp(first, last) => ports(f, "tcp,udp", first, last),
            Service::Icmp(None, None) => f.write_str("icmp"),
            Service::Icmp(Some(kind), None) => write!(f, "icmp/{kind}"),
            Service::Icmp(kind, Some(code)) => match kind {
                Some(kind) => write!(f, "icmp/{kind}/{code}"),
                None => write!(f, "icmp/any/{code}"),
            },
            Service::Protocol(number) => write!(f, "protocol {number}"),
        }
    }
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} -> {}", self.service, self.src, self.dst)
    }
}

impl fmt::Display for Provenance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.object)?;
        if let Some(name) = &self.name {
            write!(f, " ({name})")?;
        }
        if let Some(rule) = &self.rule {
            write!(f, " {rule}")?;
        }
        write!(f, ": {}", self.text)?;
        match &self.note {
            Some(note) => write!(f, " [{note}]"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}  # {}", self.action, self.matches, self.source)
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.stateful {
            "stateful"
        } else {
            "stateless"
        };
        writeln!(f, "{} ({kind})", self.name)?;
        for (index, rule) in self.rules.iter().enumerate() {
            writeln!(f, "  {index:>3}  {rule}")?;
        }
        writeln!(f, "    *  {}", self.default)
    }
}
