//! Layers, rules, and where rules come from.

use flowset::{FlowSet, RangeSet, TCP, UDP};
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::{SetName, Sets, mutated};

/// The name of a layer, unique in its world: `eni-0a1b ingress`, `acl-0a1b egress`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LayerName(pub String);

/// An ordered list of rules over packets: the first that matches decides, else the default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// Its name.
    pub name: LayerName,
    /// Whether replies to what it allowed pass without being evaluated. A rule that allows
    /// *untracked* ([`Action::Allow`]) is the exception: its replies are evaluated.
    pub stateful: bool,
    /// What happens to packets that no rule matches.
    pub default: Action,
    /// The rules, in order.
    pub rules: Vec<Rule>,
}

/// One rule of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The packets it is for.
    pub matches: Match,
    /// What happens to them.
    pub action: Action,
    /// Where it comes from.
    pub source: Provenance,
}

/// What a rule does with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Let it pass.
    Allow {
        /// In a stateful layer: whether a connection is remembered, so that it and its replies
        /// pass even after the rule is gone. Always false in a stateless layer.
        tracked: bool,
    },
    /// Drop it silently.
    Deny,
}

impl Action {
    /// Whether the packet passes.
    pub fn allows(self) -> bool {
        matches!(self, Action::Allow { .. })
    }
}

/// The packets a rule is for: source, destination and service must all match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Match {
    /// Source addresses.
    pub src: Addresses,
    /// Destination addresses.
    pub dst: Addresses,
    /// Protocol and ports.
    pub service: Service,
}

/// Addresses on one side of a match.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Addresses {
    /// Every address.
    Any,
    /// A network.
    Net(Ipv4Net),
    /// The set of this name in the [`Sets`] table.
    Set(SetName),
}

/// Protocol and ports of a match.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Service {
    /// Every protocol.
    All,
    /// TCP to destination ports `first..=last`.
    Tcp(u16, u16),
    /// UDP to destination ports `first..=last`.
    Udp(u16, u16),
    /// TCP and UDP to destination ports `first..=last`.
    TcpUdp(u16, u16),
    /// ICMP of this type and code; `None` is any.
    Icmp(Option<u8>, Option<u8>),
    /// Another protocol, by number, with whatever ports it has.
    Protocol(u8),
}

/// Where a rule comes from: enough to find it in the console and to name it in an answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Provenance {
    /// The id of the object, as `sg-0a1b` or `acl-0a1b`.
    pub object: String,
    /// What people call the object, if it has a name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The rule inside it: a rule id (`sgr-…`) or an entry's number. `None` for the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// The other side as the rule names it: a CIDR, a group, a prefix list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// The rule in one line, as `ingress tcp/5432 from sg-0a1b`.
    pub text: String,
    /// What one should know about it, as `stale: pcx-0a1b is deleted`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl Match {
    /// The packets of `flows` that match; `None` when a set it names is not in the table.
    pub fn select(&self, sets: &Sets, flows: &FlowSet) -> Option<FlowSet> {
        let (mut from, mut to) = (&self.src, &self.dst);
        if mutated!(SourceAndDestinationSwapped) {
            (from, to) = (to, from);
        }
        let mut hit = self.service.select(flows);
        if let Some(src) = from.resolve(sets)? {
            hit = hit.from_sources(&src);
        }
        if let Some(dst) = to.resolve(sets)? {
            hit = hit.to_destinations(&dst);
        }
        Some(hit)
    }

    /// The packets of `flows` that would match if unknown sets held every address.
    pub fn select_at_most(&self, sets: &Sets, flows: &FlowSet) -> FlowSet {
        let known = |a: &Addresses| match a {
            Addresses::Set(name) if !sets.contains(name) => Addresses::Any,
            _ => a.clone(),
        };
        let widest = Match {
            src: known(&self.src),
            dst: known(&self.dst),
            service: self.service,
        };
        widest.select(sets, flows).unwrap_or_else(|| flows.clone())
    }

    /// The first set it names that is not in the table.
    pub fn unresolved(&self, sets: &Sets) -> Option<&SetName> {
        [&self.src, &self.dst].into_iter().find_map(|a| match a {
            Addresses::Set(name) if !sets.contains(name) => Some(name),
            _ => None,
        })
    }
}

impl Addresses {
    /// `Some(None)` is every address, `None` an unknown set.
    fn resolve<'a>(&self, sets: &'a Sets) -> Option<Option<std::borrow::Cow<'a, RangeSet<u32>>>> {
        use std::borrow::Cow;
        match self {
            Addresses::Any => Some(None),
            Addresses::Net(net) => {
                let mut net = *net;
                if mutated!(PrefixLengthOffByOne) && net.prefix_len() > 0 {
                    net = Ipv4Net::new(net.addr(), net.prefix_len() - 1).unwrap_or(net);
                }
                Some(Some(Cow::Owned(net.into())))
            }
            Addresses::Set(name) => {
                let set = sets.get(name)?;
                Some(if mutated!(SetIgnored) {
                    None
                } else {
                    Some(Cow::Borrowed(set))
                })
            }
        }
    }
}

impl Service {
    /// The packets of `flows` with this protocol and these ports.
    pub fn select(&self, flows: &FlowSet) -> FlowSet {
        let ports = |protocols: &[u8], first: u16, last: u16| {
            let last = if mutated!(PortRangeOffByOne) && last > first {
                last - 1
            } else {
                last
            };
            let numbers = protocols.iter().map(|p| (*p, *p)).collect();
            flows
                .of_protocols(&numbers)
                .to_ports(&RangeSet::range(first, last))
        };
        match *self {
            Service::All if mutated!(AllProtocolsMissIcmp) => {
                flows.of_protocols(&RangeSet::single(flowset::ICMP).complement())
            }
            Service::All => flows.clone(),
            Service::Tcp(first, last) => ports(&[TCP], first, last),
            Service::Udp(first, last) => ports(&[UDP], first, last),
            Service::TcpUdp(first, last) => ports(&[TCP, UDP], first, last),
            Service::Icmp(kind, _) if mutated!(IcmpCodeIgnored) => flows.of_icmp(kind, None),
            Service::Icmp(kind, code) => flows.of_icmp(kind, code),
            Service::Protocol(number) => flows.of_protocols(&number.into()),
        }
    }
}
