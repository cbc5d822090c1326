//! Kernel drift: what of the node's network is ours is put right when somebody changes it.
//!
//! Other programs configure the same node: NetworkManager flushes rules, udev renames links and
//! gives them addresses, an operator cleans up. The kernel tells every change ([`watch`]); what
//! concerns something of ours makes the owner of the pool look: links, addresses, routes and rules
//! are read, compared with what [`nodenet::compile`] says they must be, and the difference is
//! applied. Foreign things are never touched ([`nodenet::Owned`]), nor is an address of which the
//! pool does not know for sure whose it is.
//!
//! A look happens between two messages of the owner, so no pod can be released while it lasts: what
//! is added belongs to a pod that has its lease, and its DEL, which takes it away, comes later.

mod decide;
mod facts;
mod fights;
mod identity;
mod settings;
#[cfg(test)]
mod tests;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use ipam::Millis;
use kernel::{Change, Socket, node};
use nodenet::{NodeFacts, Owned, Step, TableId};

use decide::{
    concerns, is_of_former, leave_to_others, object, ours_for_sure, told_missing, with_mtus,
};
pub(crate) use facts::Facts;
use facts::veth;
use fights::Fights;
use identity::{Amiss, Known, Sorted};
pub(crate) use settings::loose_source_check;
pub(crate) use watch::watch;

use crate::findings::Findings;

/// Between two looks, so that a storm of changes does not become a storm of looks.
const APART: Duration = Duration::from_millis(200);
/// A look without a reason: for what the kernel does not tell, and to remove leftovers.
const SAFETY_NET: Duration = Duration::from_secs(300);
/// Until what could not be repaired is tried again.
const AGAIN: Duration = Duration::from_secs(10);

/// What is repaired, as metrics and `/state` call it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Link,
    Mtu,
    Rename,
    Mac,
    Address,
    Neighbour,
    Route,
    Rule,
    Sysctl,
}

impl Kind {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Link => "link",
            Self::Mtu => "mtu",
            Self::Rename => "rename",
            Self::Mac => "mac",
            Self::Address => "address",
            Self::Neighbour => "neighbour",
            Self::Route => "route",
            Self::Rule => "rule",
            Self::Sysctl => "sysctl",
        }
    }

    fn of(step: &Step) -> Self {
        match step {
            Step::SetMtu { .. } => Self::Mtu,
            Step::SetUp { .. } => Self::Link,
            Step::AddAddr(_) | Step::DelAddr(_) => Self::Address,
            Step::PutNeighbour(_) | Step::DelNeighbour(_) => Self::Neighbour,
            Step::PutRoute { .. } | Step::DelRoute(_) => Self::Route,
            Step::AddRule(_) | Step::DelRule(_) => Self::Rule,
        }
    }
}

/// Compares and repairs, and remembers which link is which and who fights back.
#[derive(Debug)]
pub(crate) struct Repairer {
    /// `BRANCHLINE_REPAIR`; otherwise differences are told only.
    enabled: bool,
    known: Known,
    fights: Fights,
    last: Option<Millis>,
    /// When to look besides; a pod that was touched while it was young waits for its time.
    wishes: BTreeSet<Millis>,
    /// The settings under /proc/sys are compared at the next look.
    settings_too: bool,
    /// Those that differed when they last were.
    unset: BTreeMap<String, String>,
    /// The own addresses of secondary interfaces that were ever in service: the rule of one that
    /// was given back would misguide the pod that gets its address.
    served: BTreeSet<Ipv4Addr>,
}

/// What one look did.
#[derive(Debug, Default)]
struct Round {
    done: Vec<(Kind, String)>,
    failing: BTreeMap<String, String>,
    /// Objects that are left alone from now on, and for how long.
    fought: Vec<(String, Duration)>,
    again: Option<Millis>,
}

impl Round {
    fn fails(&mut self, what: String, why: impl Into<String>) {
        self.failing.insert(what, why.into());
    }

    fn again_at(&mut self, at: Millis) {
        self.again = Some(self.again.map_or(at, |other| other.min(at)));
    }
}

impl Repairer {
    pub(crate) fn new(enabled: bool) -> Self {
        Self {
            enabled,
            known: Known::default(),
            fights: Fights::default(),
            last: None,
            wishes: BTreeSet::new(),
            settings_too: true,
            unset: BTreeMap::new(),
            served: BTreeSet::new(),
        }
    }

    /// When to look next.
    pub(crate) fn due(&self) -> Millis {
        let Some(last) = self.last else {
            return Millis(0);
        };
        let net = last.after(SAFETY_NET);
        let wish = self
            .wishes
            .first()
            .map(|wish| *wish.max(&last.after(APART)));
        wish.map_or(net, |wish| wish.min(net))
    }

    /// To look at `at`.
    pub(crate) fn wish(&mut self, at: Millis) {
        self.wishes.insert(at);
    }

    /// The kernel told changes: those that may concern something of ours make a look due.
    pub(crate) fn saw(&mut self, changes: &[Change], facts: &Facts, now: Millis) {
        for change in changes {
            if let Change::Link(state) = change {
                self.known.learn(state, &facts.settings.veth_prefix);
            }
        }
        let current = NodeFacts {
            enis: self.current(facts),
            ..facts.node()
        };
        // Of a link what counts is how it is after all changes.
        let mut links = BTreeMap::new();
        let mut wanted = None;
        for change in changes {
            let at = match change {
                Change::Link(state) => {
                    links.insert(state.index, state);
                    None
                }
                Change::LinkGone { index, .. } => {
                    links.remove(index);
                    self.known.forget(*index);
                    self.known.is_eni(*index).then_some(now)
                }
                Change::Missed => {
                    self.settings_too = true;
                    Some(now)
                }
                Change::Settings { index } => {
                    let primary = facts.primary().and_then(|eni| self.known.index_of(eni));
                    let ours = primary.is_some_and(|known| i64::from(known) == i64::from(*index));
                    self.settings_too |= ours;
                    ours.then_some(now)
                }
                other => {
                    let (want, owned) = wanted.get_or_insert_with(|| {
                        let want = nodenet::compile(&current).unwrap_or_default();
                        (want, Owned::by(&current))
                    });
                    concerns(other, (want, owned), facts, now)
                }
            };
            if let Some(at) = at {
                self.wish(at);
            }
        }
        for state in links.values() {
            let eni = current.enis.iter().find(|eni| {
                self.known.index_of(eni) == Some(state.index) || state.link.mac == Some(eni.mac)
            });
            let as_it_must_be = |eni: &nodenet::EniFacts| {
                let link = &state.link;
                let mtu = facts.settings.eni_mtu;
                (&link.name, link.mac, link.mtu, link.up) == (&eni.link, Some(eni.mac), mtu, true)
            };
            if eni.is_some_and(|eni| !as_it_must_be(eni)) {
                self.wish(now);
            }
            if let Some(name) = self.known.changed_veth(state) {
                let pod = facts
                    .pods
                    .iter()
                    .find(|leased| veth(&facts.settings, &leased.pod) == *name);
                if let Some(at) = pod.map(|leased| leased.settled_at().max(now)) {
                    self.wish(at);
                }
            }
        }
    }

    /// Compares everything that is ours with what it must be, and puts it right.
    /// What was done, and what was not, goes into the findings.
    pub(crate) fn look(&mut self, facts: &Facts, now: Millis, findings: &mut Findings) {
        let net_due = self.last.is_none_or(|last| last.after(SAFETY_NET) <= now);
        self.settings_too |= net_due;
        self.last = Some(now);
        self.wishes.retain(|wish| *wish > now);
        if net_due {
            // Nobody tells what happened to them before.
            let young = facts.pods.iter().map(|leased| leased.settled_at());
            self.wishes.extend(young.max().filter(|at| *at > now));
        }
        self.fights.forget(now);
        let mut round = Round::default();
        if let Err(error) = self.compare(facts, now, &mut round) {
            round.fails("the node's network".to_owned(), format!("{error:#}"));
            round.again_at(now.after(AGAIN));
        }
        self.finish(round, now, findings);
    }

    fn compare(&mut self, facts: &Facts, now: Millis, round: &mut Round) -> anyhow::Result<()> {
        let mut socket = Socket::open()?;
        let mut links = socket.links()?;
        let mut sorted = self.known.sort(&links, facts, now);
        for (eni, before, after) in &sorted.renamed {
            let what = format!("{eni}: {before} is called {after} now, and is used by that name");
            round.done.push((Kind::Rename, what));
        }
        if self.identities(&mut socket, &sorted, now, round) {
            links = socket.links()?;
            sorted = self.known.sort(&links, facts, now);
        }
        let enis = sorted.enis.iter().chain(&sorted.absent).cloned();
        let mut node = NodeFacts {
            enis: enis.collect(),
            pods: Vec::new(),
            settings: facts.settings.clone(),
        };
        let secondary = node.enis.iter().filter(|eni| !eni.is_primary());
        let tables = secondary.map(nodenet::EniFacts::table);
        let tables = tables.chain([TableId::MAIN]);
        let have = node::read_tables(&mut socket, &links, tables)?;
        let owned = Owned::by(&node);
        leave_to_others(facts, &mut sorted, (&owned, &have), round);
        node.pods = sorted.pods.iter().map(|(l, _)| l.pod.clone()).collect();
        let want = with_mtus(nodenet::compile(&node)?, &sorted, facts);
        let diff = nodenet::diff(&want, &have, &owned);
        let secondary = node.enis.iter().filter(|eni| !eni.is_primary());
        self.served.extend(secondary.map(|eni| eni.address));
        let may = |step: &Step| {
            is_of_former(step, facts, &self.served)
                || ours_for_sure(step, facts, &sorted, (&owned, &have))
        };
        let steps: Vec<Step> = diff.steps.into_iter().filter(may).collect();
        self.apply(&mut socket, steps, now, round)?;
        told_missing(facts, &sorted, (&owned, &have), round);
        if std::mem::take(&mut self.settings_too) {
            let mut settings = Round::default();
            self.settings(&node, now, &mut settings);
            self.unset = std::mem::take(&mut settings.failing);
            round.done.append(&mut settings.done);
            round.fought.append(&mut settings.fought);
            settings.again.into_iter().for_each(|at| round.again_at(at));
        }
        round.failing.extend(self.unset.clone());
        Ok(())
    }

    /// Puts names and MACs back; whether anything was done.
    fn identities(
        &mut self,
        socket: &mut Socket,
        sorted: &Sorted,
        now: Millis,
        round: &mut Round,
    ) -> bool {
        let mut done = false;
        for amiss in &sorted.amiss {
            let (kind, object) = match amiss {
                Amiss::Mac { link, .. } => (Kind::Mac, format!("link {link} address")),
                Amiss::Name { name, .. } => (Kind::Rename, format!("link {name} name")),
            };
            let what = amiss.to_string();
            if self.may_repair(&object, &what, now, round) {
                done = true;
                let outcome = amiss.put_right(socket).map_err(|e| e.to_string());
                self.tried(kind, (object, what), outcome, now, round);
            }
        }
        done
    }

    fn apply(
        &mut self,
        socket: &mut Socket,
        mut steps: Vec<Step>,
        now: Millis,
        round: &mut Round,
    ) -> anyhow::Result<()> {
        steps.retain(|step| self.may_repair(&object(step), &step.to_string(), now, round));
        let outcomes = node::attempt(socket, &steps)?;
        for (step, outcome) in steps.iter().zip(outcomes) {
            let outcome = outcome.map_err(|error| error.to_string());
            let names = (object(step), step.to_string());
            self.tried(Kind::of(step), names, outcome, now, round);
        }
        Ok(())
    }

    /// Whether to repair something; if not, that is told with the reason.
    fn may_repair(&self, object: &str, what: &str, now: Millis, round: &mut Round) -> bool {
        if !self.enabled {
            round.fails(what.to_owned(), "told only: BRANCHLINE_REPAIR is false");
            return false;
        }
        match self.fights.paused(object, now) {
            None => true,
            Some(until) => {
                let why = format!(
                    "somebody else changes it again and again, so it is left alone for {}s: does \
                     another program configure this node's network (NetworkManager, \
                     systemd-networkd, another CNI)?",
                    until.since(now).as_secs() + 1
                );
                round.fails(what.to_owned(), why);
                round.again_at(until);
                false
            }
        }
    }

    fn tried(
        &mut self,
        kind: Kind,
        (object, what): (String, String),
        outcome: Result<(), String>,
        now: Millis,
        round: &mut Round,
    ) {
        match outcome {
            Ok(()) => {
                let pause = self.fights.repaired(&object, now);
                round.fought.extend(pause.map(|pause| (object, pause)));
                round.done.push((kind, what));
            }
            Err(error) => {
                round.fails(what, error);
                round.again_at(now.after(AGAIN));
            }
        }
    }

    /// Counts, keeps and logs what a look did.
    fn finish(&mut self, round: Round, now: Millis, findings: &mut Findings) {
        let mut by_kind: BTreeMap<Kind, Vec<String>> = BTreeMap::new();
        for (kind, what) in round.done {
            by_kind.entry(kind).or_default().push(what);
        }
        for (kind, what) in by_kind {
            let told = match what.as_slice() {
                [first, others @ ..] if !others.is_empty() => {
                    format!("{first}, and {} more", others.len())
                }
                what => what.concat(),
            };
            let (kind, count) = (kind.as_str(), what.len());
            tracing::warn!(kind, count, %told, "repaired");
            tracing::debug!(?what, "repaired");
            findings.repaired(kind, count as u64, told, now);
        }
        if let [(object, pause), others @ ..] = round.fought.as_slice() {
            tracing::error!(
                object,
                others = others.len(),
                seconds = pause.as_secs(),
                "somebody else changes this again and again; it is repaired less often: does \
                 another program configure this node's network?"
            );
        }
        let unheard = |(what, _): &(&String, &String)| !findings.failing.contains_key(*what);
        let count = round.failing.iter().filter(unheard).count();
        if let Some((what, why)) = round.failing.iter().find(unheard) {
            tracing::warn!(what, why, others = count - 1, "differs and is not repaired");
        }
        findings.failing = round.failing;
        if let Some(at) = round.again {
            self.wish(at);
        }
    }

    /// Interfaces by the names that their links last had.
    fn current(&self, facts: &Facts) -> Vec<nodenet::EniFacts> {
        let current = |eni: &nodenet::EniFacts| nodenet::EniFacts {
            link: self.known.name_of(eni),
            ..eni.clone()
        };
        facts.enis.iter().map(current).collect()
    }
}
