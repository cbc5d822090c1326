//! One-line forms of security group rules and network ACL entries.
//!
//! `tcp/5432 from sg/add_sg` · `all to 0.0.0.0/0` · `icmp/8 from pl/offices` · `udp/53 from self` ·
//! `proto/50 to 10.0.0.0/8`; an ACL entry puts its number and its action in front:
//! `100 deny tcp/22 from 0.0.0.0/0`. The word `from` or `to` must fit the list the rule stands in,
//! so that a rule copied into the wrong list is an error and not an opened port.

use std::fmt;
use std::str::FromStr;

use ipnet::Ipv4Net;

/// Protocol and, where the protocol has them, ports or ICMP type and code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proto {
    /// Everything (EC2's `-1`).
    All,
    /// TCP.
    Tcp(PortRange),
    /// UDP.
    Udp(PortRange),
    /// ICMP: type and code, `None` is any.
    Icmp {
        /// Type.
        kind: Option<u8>,
        /// Code.
        code: Option<u8>,
    },
    /// Any other protocol, by its number.
    Other(u8),
}

/// Ports `from..=to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortRange {
    /// First port.
    pub from: u16,
    /// Last port.
    pub to: u16,
}

/// The other side of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// A block.
    Cidr(Ipv4Net),
    /// A group of the file by name.
    Group(String),
    /// The group that holds the rule.
    Own,
    /// A prefix list of the file by name.
    PrefixList(String),
}

/// A rule of a security group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// What it admits.
    pub proto: Proto,
    /// Written with `from` (ingress) or `to` (egress).
    pub ingress: bool,
    /// The other side.
    pub peer: Peer,
}

/// What an ACL entry does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AclAction {
    /// Lets the packet pass.
    Allow,
    /// Drops it.
    Deny,
}

/// An entry of a network ACL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AclEntry {
    /// Its number, 1 to 32766; lower numbers decide first.
    pub number: u16,
    /// What it does.
    pub action: AclAction,
    /// What it looks at; its peer is always a block.
    pub rule: Rule,
}

/// Text that is no rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// Not of the shape `WHAT from|to PEER`.
    #[error("'{0}' is no rule: write WHAT from|to PEER, for example 'tcp/5432 from sg/add_sg'")]
    Shape(String),
    /// The protocol or its ports.
    #[error(
        "'{0}' is no protocol: write all, tcp/5432, udp/1024-65535, tcp, icmp, icmp/8, icmp/3/4 or proto/50"
    )]
    Proto(String),
    /// The other side.
    #[error("'{0}' is no peer: write a CIDR block, sg/NAME, pl/NAME or self")]
    Peer(String),
    /// An ACL entry's front.
    #[error(
        "'{0}' is no ACL entry: write NUMBER allow|deny RULE, for example '100 deny tcp/22 from 0.0.0.0/0'"
    )]
    Entry(String),
    /// ACLs know blocks only.
    #[error("a network ACL entry takes a CIDR block, not '{0}'")]
    EntryPeer(String),
}

impl FromStr for Proto {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let wrong = || RuleError::Proto(text.to_owned());
        let (name, rest) = match text.split_once('/') {
            Some((name, rest)) => (name, Some(rest)),
            None => (text, None),
        };
        match (name, rest) {
            ("all", None) => Ok(Self::All),
            ("tcp", rest) => Ok(Self::Tcp(ports(rest).ok_or_else(wrong)?)),
            ("udp", rest) => Ok(Self::Udp(ports(rest).ok_or_else(wrong)?)),
            ("icmp", None) => Ok(Self::Icmp {
                kind: None,
                code: None,
            }),
            ("icmp", Some(rest)) => {
                let (kind, code) = match rest.split_once('/') {
                    Some((kind, code)) => (kind, Some(code)),
                    None => (rest, None),
                };
                Ok(Self::Icmp {
                    kind: Some(kind.parse().map_err(|_| wrong())?),
                    code: code.map(str::parse).transpose().map_err(|_| wrong())?,
                })
            }
            ("proto", Some(number)) => Ok(Self::Other(number.parse().map_err(|_| wrong())?)),
            _ => Err(wrong()),
        }
    }
}

fn ports(text: Option<&str>) -> Option<PortRange> {
    let Some(text) = text else {
        return Some(PortRange {
            from: 0,
            to: u16::MAX,
        });
    };
    let (from, to) = text.split_once('-').unwrap_or((text, text));
    let range = PortRange {
        from: from.parse().ok()?,
        to: to.parse().ok()?,
    };
    (range.from <= range.to).then_some(range)
}

impl FromStr for Peer {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let wrong = || RuleError::Peer(text.to_owned());
        match text.split_once('/') {
            None if text == "self" => Ok(Self::Own),
            Some(("sg", name)) if !name.is_empty() => Ok(Self::Group(name.to_owned())),
            Some(("pl", name)) if !name.is_empty() => Ok(Self::PrefixList(name.to_owned())),
            _ => text.parse().map(Self::Cidr).map_err(|_| wrong()),
        }
    }
}

impl FromStr for Rule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let [what, word, peer] = words[..] else {
            return Err(RuleError::Shape(text.to_owned()));
        };
        let ingress = match word {
            "from" => true,
            "to" => false,
            _ => return Err(RuleError::Shape(text.to_owned())),
        };
        Ok(Self {
            proto: what.parse()?,
            ingress,
            peer: peer.parse()?,
        })
    }
}

impl FromStr for AclEntry {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let wrong = || RuleError::Entry(text.to_owned());
        let mut words = text.splitn(3, ' ');
        let number = words
            .next()
            .and_then(|w| w.parse().ok())
            .ok_or_else(wrong)?;
        if !(1..=32766).contains(&number) {
            return Err(wrong());
        }
        let action = match words.next() {
            Some("allow") => AclAction::Allow,
            Some("deny") => AclAction::Deny,
            _ => return Err(wrong()),
        };
        let rule: Rule = words.next().ok_or_else(wrong)?.parse()?;
        match rule.peer {
            Peer::Cidr(_) => Ok(Self {
                number,
                action,
                rule,
            }),
            ref other => Err(RuleError::EntryPeer(other.to_string())),
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cidr(net) => write!(f, "{net}"),
            Self::Group(name) => write!(f, "sg/{name}"),
            Self::Own => f.write_str("self"),
            Self::PrefixList(name) => write!(f, "pl/{name}"),
        }
    }
}

impl fmt::Display for Proto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ports = |f: &mut fmt::Formatter<'_>, name: &str, r: &PortRange| match (r.from, r.to) {
            (0, u16::MAX) => f.write_str(name),
            (from, to) if from == to => write!(f, "{name}/{from}"),
            (from, to) => write!(f, "{name}/{from}-{to}"),
        };
        match self {
            Self::All => f.write_str("all"),
            Self::Tcp(range) => ports(f, "tcp", range),
            Self::Udp(range) => ports(f, "udp", range),
            Self::Icmp { kind: None, .. } => f.write_str("icmp"),
            Self::Icmp {
                kind: Some(kind),
                code: None,
            } => write!(f, "icmp/{kind}"),
            Self::Icmp {
                kind: Some(kind),
                code: Some(code),
            } => write!(f, "icmp/{kind}/{code}"),
            Self::Other(number) => write!(f, "proto/{number}"),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {} {}",
            self.proto,
            if self.ingress { "from" } else { "to" },
            self.peer
        )
    }
}

/// Reads a type from its one-line form.
macro_rules! deserialize_from_str {
    ($type:ty) => {
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let text = String::deserialize(from)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
pub(super) use deserialize_from_str;

deserialize_from_str!(Rule);
deserialize_from_str!(AclEntry);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_forms_round_trip() {
        for text in [
            "tcp/5432 from sg/add_sg",
            "all to 0.0.0.0/0",
            "udp/1024-65535 from pl/offices",
            "icmp/8 from self",
            "icmp/3/4 to 10.0.0.0/8",
            "tcp from 10.0.0.1/32",
            "proto/50 to sg/vpn",
        ] {
            assert_eq!(text.parse::<Rule>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_rule_says_what_to_write() {
        for (text, hint) in [
            ("tcp/5432 sg/add_sg", "from|to"),
            ("tcp/5433-5432 from self", "no protocol"),
            ("tcp/70000 from self", "no protocol"),
            ("sctp from self", "no protocol"),
            ("tcp from sg/", "no peer"),
            ("tcp from 10.0.0.0", "no peer"),
        ] {
            let error = text.parse::<Rule>().unwrap_err().to_string();
            assert!(error.contains(hint), "{text}: {error}");
        }
        assert!("0 allow all from 0.0.0.0/0".parse::<AclEntry>().is_err());
        assert!("100 allow all from self".parse::<AclEntry>().is_err());
        assert!("100 permit all from 0.0.0.0/0".parse::<AclEntry>().is_err());
    }
}
