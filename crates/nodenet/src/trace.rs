//! Where a node sends a set of packets: policy rules in order of priority, tables, longest prefix.
//!
//! The set is partitioned: every packet of the question is in exactly one part of the answer, with
//! the rule and the route that decided it. The model is fib_rules and fib_trie of the kernel
//! (net/ipv4/fib_*.c, route.c) and is compared with the kernel's own answers in the tests of
//! `kernel`. What it cannot know is a part of its own ([`Exit::Unknown`]), never a guess.
//!
//! Assumed and not part of a [`NodeNet`]: `ip_forward` is on; the reverse-path filter is off or
//! loose (upstream needs that on the primary ENI); a route over a link without carrier still
//! counts (the default of `ignore_routes_with_linkdown`).

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;

use flowset::{FlowSet, RangeSet};
use ipnet::Ipv4Net;

use crate::layout::VethPrefix;
use crate::model::{NodeNet, Route, Rule, RuleAction, Target};
use crate::name::{LinkName, Mac, TableId};

/// How the packets come to the routing decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entering {
    /// Sent by a pod: they arrive on the host end of its veth.
    Pod(LinkName),
    /// Sent by a process in the node's own network namespace.
    Local,
    /// Received on another link, for example an ENI.
    Link(LinkName),
}

/// A question about one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question<'a> {
    /// How the packets come in.
    pub entering: Entering,
    /// Their firewall mark at the time of routing; 0x80 for replies to NodePort connections that
    /// came in by the primary ENI, 0 for all other traffic within the VPC.
    pub mark: u32,
    /// CIDRs of the VPC: what leaves for elsewhere is subject to the node's SNAT.
    pub vpc: &'a [Ipv4Net],
    /// How the links of pods are called.
    pub veth_prefix: &'a VethPrefix,
}

/// One part of the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The packets.
    pub flows: FlowSet,
    /// What becomes of them.
    pub exit: Exit,
    /// The policy rule that decided; none before rules are asked or when no rule answered.
    pub rule: Option<Rule>,
    /// The route that decided; none when it was the rule itself.
    pub route: Option<Route>,
}

/// What becomes of packets.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exit {
    /// They leave the node by a link that is no pod's, with their source address kept.
    Link {
        /// Which link.
        link: LinkName,
        /// Its Ethernet address, by which it is known which ENI it is.
        mac: Option<Mac>,
        /// The gateway; `None` when the destination itself is asked for on the link.
        next_hop: Option<Ipv4Addr>,
    },
    /// They go to a pod of this node.
    Pod {
        /// Host end of its veth.
        veth: LinkName,
    },
    /// They are for the node itself.
    LocalDelivery {
        /// The link that has the address.
        link: LinkName,
    },
    /// They are dropped.
    Dropped(Reason),
    /// It cannot be said without knowing more.
    Unknown(Need),
}

/// Why packets are dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// No rule's table has a route (ENETUNREACH; ICMP network unreachable).
    NoRoute,
    /// A blackhole route or rule: silence.
    Blackhole,
    /// An unreachable route or rule: ICMP host unreachable.
    Unreachable,
    /// A prohibit route or rule: ICMP administratively prohibited.
    Prohibit,
    /// Received with an address that cannot come from outside: the node's own, loopback or none.
    Martian,
    /// Sent by the node with a source address that it does not have.
    SourceNotOurs,
}

/// What would have to be known.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// It leaves the VPC: source translation decides what others see.
    NodeSnat,
    /// Multicast and broadcast are not routed like other packets.
    Multicast,
    /// A selector or an action of a rule that is not modelled.
    RuleText(String),
    /// A route that is not modelled.
    RouteText(String),
    /// Two rules of one priority that do different things: the kernel asks the older one first.
    RuleOrder(u32),
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NodeSnat => f.write_str("node SNAT not modelled yet"),
            Self::Multicast => f.write_str("multicast and broadcast not modelled"),
            Self::RuleText(text) => write!(f, "rule not modelled: {text}"),
            Self::RouteText(text) => write!(f, "route not modelled: {text}"),
            Self::RuleOrder(priority) => {
                write!(
                    f,
                    "the age of the rules with priority {priority}, which differ"
                )
            }
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoRoute => "no route",
            Self::Blackhole => "blackhole",
            Self::Unreachable => "unreachable",
            Self::Prohibit => "prohibited",
            Self::Martian => "impossible address (martian)",
            Self::SourceNotOurs => "source address is not the node's",
        })
    }
}

/// Partitions `flows` by where the node sends them. For many questions about one node make one
/// [`Tracer`].
pub fn trace(net: &NodeNet, flows: &FlowSet, question: &Question<'_>) -> Vec<Part> {
    Tracer::new(net).trace(flows, question)
}

/// A node's network, sorted for look-ups.
#[derive(Debug)]
pub struct Tracer<'a> {
    net: &'a NodeNet,
    /// In order of priority, each with the other rules of its priority that contradict it.
    rules: Vec<(&'a Rule, Vec<&'a Rule>)>,
    /// Routes by table, longest prefix first, then smallest metric.
    tables: BTreeMap<TableId, Vec<&'a Route>>,
    /// The node's own addresses.
    own: RangeSet<u32>,
    /// The broadcast addresses of its subnets.
    broadcast: RangeSet<u32>,
}

/// The packets that are still on their way, and the answer so far.
struct Walk<'q> {
    question: &'q Question<'q>,
    vpc: RangeSet<u32>,
    parts: Vec<Part>,
}

impl<'a> Tracer<'a> {
    /// Sorts a node's network.
    pub fn new(net: &'a NodeNet) -> Self {
        let mut tables: BTreeMap<TableId, Vec<&Route>> = BTreeMap::new();
        for route in &net.routes {
            tables.entry(route.table).or_default().push(route);
        }
        for routes in tables.values_mut() {
            routes.sort_by_key(|r| (std::cmp::Reverse(r.dst.prefix_len()), r.dst, r.metric));
        }
        let local = |wanted: fn(&Target) -> bool| {
            let of_table = net.routes.iter().filter(|r| r.table == TableId::LOCAL);
            of_table
                .filter(move |r| wanted(&r.target))
                .map(|r| r.dst)
                .collect()
        };
        let own = local(|target| matches!(target, Target::Local { .. }));
        let broadcast = local(|target| matches!(target, Target::Broadcast { .. }));
        let contradicting = |rule: &'a Rule| {
            let same_priority = net
                .rules
                .iter()
                .filter(|other| other.priority == rule.priority);
            same_priority
                .filter(|other| contradict(rule, other))
                .collect()
        };
        let rules = net
            .rules
            .iter()
            .map(|rule| (rule, contradicting(rule)))
            .collect();
        Self {
            net,
            rules,
            tables,
            own,
            broadcast,
        }
    }

    /// Partitions `flows` by where the node sends them.
    pub fn trace(&self, flows: &FlowSet, question: &Question<'_>) -> Vec<Part> {
        let vpc = question.vpc.iter().copied().collect();
        let mut walk = Walk {
            question,
            vpc,
            parts: Vec::new(),
        };
        let flows = self.admit(flows.clone(), &mut walk);
        let left = self.rules(flows, 0, &mut walk);
        walk.end(left, Exit::Dropped(Reason::NoRoute), None, None);
        walk.parts
    }

    /// What happens before any rule is asked.
    fn admit(&self, flows: FlowSet, walk: &mut Walk<'_>) -> FlowSet {
        let many = ranges(&["224.0.0.0/4", "255.255.255.255/32", "0.0.0.0/32"]);
        let flows = walk.cut_destinations(flows, &many, Exit::Unknown(Need::Multicast));
        if walk.question.entering == Entering::Local {
            let others = self.own.complement();
            return walk.cut_sources(flows, &others, Exit::Dropped(Reason::SourceNotOurs));
        }
        let martian = Exit::Dropped(Reason::Martian);
        let nobody = ranges(&[
            "0.0.0.0/32",
            "127.0.0.0/8",
            "224.0.0.0/4",
            "255.255.255.255/32",
        ]);
        let flows = walk.cut_sources(flows, &nobody, martian.clone());
        walk.cut_destinations(flows, &ranges(&["127.0.0.0/8"]), martian)
    }

    /// Asks the rules from number `first` on; returns the packets that none of them decided.
    fn rules(&self, mut flows: FlowSet, first: usize, walk: &mut Walk<'_>) -> FlowSet {
        // A node has a rule or two for each of its pods: those of other pods are passed over by
        // their addresses alone. What is left of `flows` is never more than what came in.
        let (sources, destinations) = (flows.sources(), flows.destinations());
        let misses =
            |net: Option<Ipv4Net>, set: &RangeSet<u32>| net.is_some_and(|net| !overlaps(net, set));
        for (i, (rule, contradicting)) in self.rules.iter().enumerate().skip(first) {
            if flows.is_empty() {
                break;
            }
            let elsewhere = misses(rule.from, &sources) || misses(rule.to, &destinations);
            if elsewhere && !rule.invert {
                continue;
            }
            let mut fits = fitting(rule, &flows, walk.question);
            if fits.is_empty() {
                continue;
            }
            flows = flows.difference(&fits);
            for other in contradicting {
                let both = fitting(other, &fits, walk.question);
                fits = fits.difference(&both);
                let need = Exit::Unknown(Need::RuleOrder(rule.priority));
                walk.end(both, need, Some(rule), None);
            }
            if rule.unmodelled.is_some() {
                let need = Exit::Unknown(Need::RuleText(rule.to_string()));
                walk.end(fits, need, Some(rule), None);
                continue;
            }
            let undecided = self.act(rule, i, fits, walk);
            flows = flows.union(&undecided);
        }
        flows
    }

    /// Does what a rule says to the packets that fit it; returns those that it leaves undecided.
    fn act(&self, rule: &Rule, i: usize, flows: FlowSet, walk: &mut Walk<'_>) -> FlowSet {
        let exit = match &rule.action {
            RuleAction::Lookup(table) => return self.look_up(*table, rule, flows, walk),
            RuleAction::Nop => return flows,
            RuleAction::Goto(priority) => return self.go_to(*priority, i, flows, walk),
            RuleAction::Blackhole => Exit::Dropped(Reason::Blackhole),
            RuleAction::Unreachable => Exit::Dropped(Reason::Unreachable),
            RuleAction::Prohibit => Exit::Dropped(Reason::Prohibit),
            RuleAction::Unmodelled(_) => Exit::Unknown(Need::RuleText(rule.to_string())),
        };
        walk.end(flows, exit, Some(rule), None);
        FlowSet::empty()
    }

    /// Goes on at the first rule of a priority; when there is none the rule does nothing.
    fn go_to(&self, priority: u32, i: usize, flows: FlowSet, walk: &mut Walk<'_>) -> FlowSet {
        match self
            .rules
            .iter()
            .skip(i + 1)
            .position(|(rule, _)| rule.priority == priority)
        {
            None => flows,
            Some(offset) => {
                let left = self.rules(flows, i + 1 + offset, walk);
                // The rules after the target have been asked: nothing is left to ask.
                walk.end(left, Exit::Dropped(Reason::NoRoute), None, None);
                FlowSet::empty()
            }
        }
    }

    /// Longest prefix in one table; returns the packets for which it has no answer.
    fn look_up(&self, table: TableId, rule: &Rule, flows: FlowSet, walk: &mut Walk<'_>) -> FlowSet {
        let mut open = flows.destinations();
        let mut undecided = RangeSet::empty();
        for route in self.tables.get(&table).into_iter().flatten() {
            if open.is_empty() {
                break;
            }
            if !overlaps(route.dst, &open) {
                continue;
            }
            let takes = open.intersect(&route.dst.into());
            if takes.is_empty() || !self.is_usable(route) {
                continue;
            }
            open = open.difference(&takes);
            match route.target {
                Target::Throw => undecided = undecided.union(&takes),
                _ => self.leave(flows.to_destinations(&takes), rule, route, walk),
            }
        }
        flows.to_destinations(&open.union(&undecided))
    }

    /// The kernel drops the routes of links that are down; a NodeNet that was written by hand may
    /// still have them.
    fn is_usable(&self, route: &Route) -> bool {
        match &route.target {
            Target::Unicast { link, .. } => self.net.link(link).is_none_or(|link| link.up),
            _ => true,
        }
    }

    /// The packets that a route decides.
    fn leave(&self, flows: FlowSet, rule: &Rule, route: &Route, walk: &mut Walk<'_>) {
        let flows = self.refuse_martians(flows, (rule, route), walk);
        let exit = match &route.target {
            Target::Unicast { link, via, .. } => {
                return self.send(flows, link, *via, (rule, route), walk);
            }
            Target::Local { link } => Exit::LocalDelivery { link: link.clone() },
            Target::Broadcast { .. } => Exit::Unknown(Need::Multicast),
            Target::Blackhole => Exit::Dropped(Reason::Blackhole),
            Target::Unreachable => Exit::Dropped(Reason::Unreachable),
            Target::Prohibit => Exit::Dropped(Reason::Prohibit),
            Target::Unmodelled(_) | Target::Throw => {
                Exit::Unknown(Need::RouteText(route.to_string()))
            }
        };
        walk.end(flows, exit, Some(rule), Some(route));
    }

    /// A received packet that has an answer is refused when its source is the node's own address
    /// (fib_validate_source); drops by the route itself come first.
    fn refuse_martians(
        &self,
        flows: FlowSet,
        (rule, route): (&Rule, &Route),
        walk: &mut Walk<'_>,
    ) -> FlowSet {
        let answered = matches!(
            route.target,
            Target::Unicast { .. } | Target::Local { .. } | Target::Broadcast { .. }
        );
        if walk.question.entering == Entering::Local || !answered {
            return flows;
        }
        let own = flows.from_sources(&self.own.union(&self.broadcast));
        let rest = flows.difference(&own);
        walk.end(own, Exit::Dropped(Reason::Martian), Some(rule), Some(route));
        rest
    }

    /// The packets that leave by a link.
    fn send(
        &self,
        flows: FlowSet,
        link: &LinkName,
        via: Option<Ipv4Addr>,
        (rule, route): (&Rule, &Route),
        walk: &mut Walk<'_>,
    ) {
        // Received ones were dropped on entry; the node's own are refused here (__mkroute_output).
        let loopback = flows.from_sources(&ranges(&["127.0.0.0/8"]));
        let martian = Exit::Dropped(Reason::Martian);
        let flows = flows.difference(&loopback);
        walk.end(loopback, martian, Some(rule), Some(route));
        if walk.question.veth_prefix.made(link) {
            let exit = Exit::Pod { veth: link.clone() };
            return walk.end(flows, exit, Some(rule), Some(route));
        }
        let outside = flows.to_destinations(&walk.vpc.complement());
        let inside = flows.to_destinations(&walk.vpc);
        walk.end(
            outside,
            Exit::Unknown(Need::NodeSnat),
            Some(rule),
            Some(route),
        );
        let mac = self.net.link(link).and_then(|l| l.mac);
        let exit = Exit::Link {
            link: link.clone(),
            mac,
            next_hop: via,
        };
        walk.end(inside, exit, Some(rule), Some(route));
    }
}

impl Walk<'_> {
    fn end(&mut self, flows: FlowSet, exit: Exit, rule: Option<&Rule>, route: Option<&Route>) {
        if !flows.is_empty() {
            let (rule, route) = (rule.cloned(), route.cloned());
            self.parts.push(Part {
                flows,
                exit,
                rule,
                route,
            });
        }
    }

    fn cut_sources(&mut self, flows: FlowSet, sources: &RangeSet<u32>, exit: Exit) -> FlowSet {
        self.end(flows.from_sources(sources), exit, None, None);
        flows.from_sources(&sources.complement())
    }

    fn cut_destinations(&mut self, flows: FlowSet, to: &RangeSet<u32>, exit: Exit) -> FlowSet {
        self.end(flows.to_destinations(to), exit, None, None);
        flows.to_destinations(&to.complement())
    }
}

/// Whether a network has an address in common with a set, without making either into the other.
fn overlaps(net: Ipv4Net, set: &RangeSet<u32>) -> bool {
    let (first, last) = (u32::from(net.network()), u32::from(net.broadcast()));
    set.ranges().iter().any(|&(a, b)| a <= last && first <= b)
}

/// The packets that fit a rule's selectors (those that are modelled).
fn fitting(rule: &Rule, flows: &FlowSet, question: &Question<'_>) -> FlowSet {
    // A socket bound to a link would set `oif`; the packets of a question are of no such socket.
    let same_for_all = rule.oif.is_none()
        && rule.mark.is_none_or(|mark| mark.matches(question.mark))
        && rule
            .iif
            .as_ref()
            .is_none_or(|iif| match &question.entering {
                Entering::Local => *iif == LinkName::loopback(),
                Entering::Pod(link) | Entering::Link(link) => iif == link,
            });
    if !same_for_all {
        return if rule.invert {
            flows.clone()
        } else {
            FlowSet::empty()
        };
    }
    let mut fits = flows.clone();
    if let Some(net) = rule.from {
        fits = fits.from_sources(&net.into());
    }
    if let Some(net) = rule.to {
        fits = fits.to_destinations(&net.into());
    }
    if rule.invert {
        flows.difference(&fits)
    } else {
        fits
    }
}

/// Whether two rules of one priority do different things and may fit the same packet.
fn contradict(a: &Rule, b: &Rule) -> bool {
    fn apart(a: Option<Ipv4Net>, b: Option<Ipv4Net>) -> bool {
        a.zip(b)
            .is_some_and(|(a, b)| !a.contains(&b) && !b.contains(&a))
    }
    let plain = !a.invert && !b.invert;
    a.action != b.action && !(plain && (apart(a.from, b.from) || apart(a.to, b.to)))
}

fn ranges(nets: &[&str]) -> RangeSet<u32> {
    nets.iter()
        .map(|net| net.parse::<Ipv4Net>().expect("a constant of this file"))
        .collect()
}
