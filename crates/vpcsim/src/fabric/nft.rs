//! One [`Layer`] as the rules of one nft chain.
//!
//! The problem: the evaluator and the packets must agree, so this translates and decides nothing. A layer's rules
//! become statements in the same order with the same first-match meaning; the names of sets stay names. A rule
//! whose set is not known drops whatever it could match, as [`layers::eval`] does.

use std::collections::BTreeSet;
use std::fmt::Write;

use flowset::RangeSet;
use ipnet::Ipv4Net;
use layers::{Action, Addresses, Layer, Match, Rule, Service, SetName, Sets};

use super::mutants::mutated;
use super::names::{TRACKED, word};
use super::ruleset::{Chain, Set};

/// From this many rules on, a run of CIDR rules becomes one look-up in a concatenated set.
const WORTH_A_SET: usize = 8;

/// Compiles a layer; the sets it refers to are added to `used`.
///
/// The chain is to be jumped to: it returns for what is allowed, with [`TRACKED`] set in the packet's mark when the
/// rule is a tracked one, and drops the rest.
pub fn chain(layer: &Layer, sets: &Sets, used: &mut BTreeSet<SetName>) -> Chain {
    let mut rules: Vec<&Rule> = layer.rules.iter().collect();
    if mutated!(OrderReversed) {
        rules.reverse();
    }
    let mut lines = Vec::new();
    let kind = |rule: &Rule| (rule.action, rule.matches.unresolved(sets).is_some());
    for run in rules.chunk_by(|a, b| kind(a) == kind(b)) {
        let (together, one_by_one) = concatenate(run);
        if !together.is_empty() {
            lines.push(format!("{} {}", together.join(" "), verdict(run[0].action)));
        }
        for rule in one_by_one {
            lines.push(statement(rule, sets, used));
        }
    }
    let mut default = layer.default;
    if mutated!(DefaultAccepts) {
        default = Action::Allow { tracked: true };
    }
    lines.push(verdict(default));
    Chain {
        hook: None,
        rules: lines,
    }
}

/// A set of the table, as nft holds it.
pub fn addresses(set: &RangeSet<u32>) -> Set {
    let mut out = Set::interval("ipv4_addr");
    for net in set.nets() {
        out.insert(network(net));
    }
    out
}

/// The name that an address set has in the table.
pub fn set_name(name: &SetName) -> String {
    word(&name.0)
}

/// A network as nft prints it: without the length when it is one address.
pub fn network(net: Ipv4Net) -> String {
    if net.prefix_len() == 32 {
        net.addr().to_string()
    } else {
        net.trunc().to_string()
    }
}

fn verdict(action: Action) -> String {
    match action {
        Action::Allow { tracked } if tracked || mutated!(UntrackedTracked) => {
            format!("meta mark set meta mark | {TRACKED:#x} return")
        }
        Action::Allow { .. } => "return".to_owned(),
        Action::Deny => "drop".to_owned(),
    }
}

fn statement(rule: &Rule, sets: &Sets, used: &mut BTreeSet<SetName>) -> String {
    let Match { src, dst, service } = &rule.matches;
    let known = rule.matches.unresolved(sets).is_none();
    let (mut from, mut to) = ("saddr", "daddr");
    if mutated!(SidesSwapped) {
        (from, to) = (to, from);
    }
    let mut line = String::new();
    for (side, addresses) in [(from, src), (to, dst)] {
        match addresses {
            Addresses::Set(name) if sets.contains(name) => {
                used.insert(name.clone());
                let _ = write!(line, "ip {side} @{} ", set_name(name));
            }
            Addresses::Net(net) if net.prefix_len() > 0 => {
                let _ = write!(line, "ip {side} {} ", network(*net));
            }
            Addresses::Any | Addresses::Net(_) | Addresses::Set(_) => {}
        }
    }
    line.push_str(&protocol(*service));
    line.push_str(&verdict(if known { rule.action } else { Action::Deny }));
    line.push_str(&comment(rule));
    line
}

fn protocol(service: Service) -> String {
    match service {
        Service::All => String::new(),
        Service::Tcp(first, last) => ports("tcp", first, last),
        Service::Udp(first, last) => ports("udp", first, last),
        Service::TcpUdp(first, last) => ports("{ tcp, udp }", first, last),
        Service::Icmp(..) if mutated!(IcmpTypeIgnored) => "ip protocol icmp ".to_owned(),
        Service::Icmp(None, None) => "ip protocol icmp ".to_owned(),
        Service::Icmp(Some(kind), None) => format!("icmp type {kind} "),
        Service::Icmp(None, Some(code)) => format!("icmp code {code} "),
        Service::Icmp(Some(kind), Some(code)) => format!("icmp type {kind} icmp code {code} "),
        Service::Protocol(number) => format!("ip protocol {number} "),
    }
}

fn ports(protocol: &str, first: u16, last: u16) -> String {
    if (first, last) == (0, u16::MAX) {
        return format!("ip protocol {protocol} ");
    }
    format!("ip protocol {protocol} th dport {} ", range(first, last))
}

fn range(first: u16, last: u16) -> String {
    let last = if mutated!(PortRangeOffByOne) && last > first {
        last - 1
    } else {
        last
    };
    if first == last {
        first.to_string()
    } else {
        format!("{first}-{last}")
    }
}

/// The object and rule, for people who read `nft list ruleset`.
fn comment(rule: &Rule) -> String {
    let text = match &rule.source.rule {
        Some(id) => format!("{} {id}", rule.source.object),
        None => rule.source.object.clone(),
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || " -_./:".contains(c);
    let text: String = text.chars().filter(|c| plain(*c)).take(100).collect();
    if text.is_empty() {
        String::new()
    } else {
        format!(" comment \"{text}\"")
    }
}

/// One element of a concatenated set: an address range, a protocol and a port range.
#[derive(Clone, Copy)]
struct Element {
    net: Ipv4Net,
    protocol: &'static str,
    ports: (u16, u16),
}

impl Element {
    /// The elements of a rule, and whether its address is the source; `None` when it has another shape.
    fn of(rule: &Rule) -> Option<(bool, Vec<Element>)> {
        let Match { src, dst, service } = &rule.matches;
        let (from_source, net) = match (src, dst) {
            (Addresses::Net(net), Addresses::Any) => (true, *net),
            (Addresses::Any, Addresses::Net(net)) => (false, *net),
            _ => return None,
        };
        let (protocols, ports): (&[&'static str], _) = match *service {
            Service::Tcp(first, last) => (&["tcp"], (first, last)),
            Service::Udp(first, last) => (&["udp"], (first, last)),
            Service::TcpUdp(first, last) => (&["tcp", "udp"], (first, last)),
            Service::All | Service::Icmp(..) | Service::Protocol(_) => return None,
        };
        let element = |protocol: &&'static str| Element {
            net,
            protocol,
            ports,
        };
        Some((from_source, protocols.iter().map(element).collect()))
    }

    /// The kernel refuses elements that overlap without being equal.
    fn overlaps(&self, other: &Element) -> bool {
        let nets = self.net.contains(&other.net) || other.net.contains(&self.net);
        let ports = self.ports.0 <= other.ports.1 && other.ports.0 <= self.ports.1;
        nets && ports && self.protocol == other.protocol
    }
}

/// Splits a run of rules with one action into statements that look up a concatenated set, and the rules left over.
/// Within such a run order decides nothing.
fn concatenate<'a>(run: &[&'a Rule]) -> (Vec<String>, Vec<&'a Rule>) {
    let shaped: Vec<_> = run.iter().map(|rule| (*rule, Element::of(rule))).collect();
    let sources = shaped
        .iter()
        .filter(|(_, e)| matches!(e, Some((true, _))))
        .count();
    let destinations = shaped
        .iter()
        .filter(|(_, e)| matches!(e, Some((false, _))))
        .count();
    let from_source = sources >= destinations;
    if sources.max(destinations) < WORTH_A_SET {
        return (Vec::new(), run.to_vec());
    }
    let mut elements: Vec<Element> = Vec::new();
    let mut rest = Vec::new();
    for (rule, shape) in shaped {
        let fits = shape.filter(|(source, new)| {
            *source == from_source
                && !new
                    .iter()
                    .any(|n| elements.iter().any(|old| old.overlaps(n)))
        });
        match fits {
            Some((_, new)) => elements.extend(new),
            None => rest.push(rule),
        }
    }
    let swapped = mutated!(SidesSwapped);
    let side = if from_source != swapped {
        "saddr"
    } else {
        "daddr"
    };
    let text = |e: &Element| {
        format!(
            "{} . {} . {}",
            network(e.net),
            e.protocol,
            range(e.ports.0, e.ports.1)
        )
    };
    let list: Vec<_> = elements.iter().map(text).collect();
    let lookup = format!(
        "ip {side} . ip protocol . th dport {{ {} }}",
        list.join(", ")
    );
    (vec![lookup], rest)
}
