//! Leases against the pods that are really there, so that a lost DEL is repaired.
//!
//! Three witnesses say whether a pod is gone: the runtime (a DEL that nobody heard leaves a note,
//! [`cni::deleted`]), the kernel (the pod's link, and where the pod's address leads), the API server
//! (which pods this node has). An address is never taken back while its pod's link is there, and not
//! while the runtime may still be at work on a young pod; what the witnesses disagree about is kept
//! and told. Which link is a pod's is a matter of its address: a pod of the same name has a link of
//! the same name.
//!
//! [`Ledger::compare`] decides; the owner of the pool does what it says, at once, so that no ADD and
//! no DEL comes between.

mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::Context as _;
use ipam::{Allocation, Key, Millis, Pod, Pool};
use kernel::Socket;
use nodenet::{LinkName, TableId, VethPrefix};

/// A pod this young may not have its link yet: its plugin was at work when the agent was killed.
pub(crate) const YOUNG: Duration = Duration::from_secs(120);
/// Until the API server is asked again about a pod that it lists and that has no link.
const ASK_LATER: Duration = Duration::from_secs(60);
/// Between looks at what changes by itself.
pub(crate) const EVERY: Duration = Duration::from_secs(300);
/// Until a second look at what seems to be gone.
const SOON: Duration = Duration::from_secs(2);
/// Until the API server is asked again that could not tell.
const ASK_AGAIN: Duration = Duration::from_secs(20);
/// The API server is asked at least this often, for pods whose sandbox was forgotten.
const ASK_EVERY: Duration = Duration::from_secs(3600);
/// So many looks in a row must show that a link is gone.
const LOOKS: u32 = 2;

/// The network of attachments that are not in the checkpoint; their container is the link's name.
const UNKNOWN: &str = "_not-in-checkpoint";

/// A pod that is in no checkpoint, by its link. Nobody knows its container; a DEL with the real
/// one finds nothing, and makes the agent look whether the link has gone.
pub(crate) fn stray(address: Ipv4Addr, link: &LinkName, since: Millis) -> Allocation {
    Allocation {
        key: Key {
            network: UNKNOWN.to_owned(),
            container: link.as_str().to_owned(),
            ifname: UNKNOWN.to_owned(),
        },
        pod: Pod::default(),
        address,
        since,
    }
}

pub(crate) fn is_stray(key: &Key) -> bool {
    key.network == UNKNOWN
}

pub(crate) use watch::{Notes, Settled, run};

/// The node's links, and where each address leads.
#[derive(Debug, Default, Clone)]
pub(crate) struct Seen {
    links: BTreeSet<LinkName>,
    by_address: BTreeMap<Ipv4Addr, LinkName>,
    by_link: BTreeMap<LinkName, Ipv4Addr>,
}

/// The link of a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Veth {
    /// Its address leads to it.
    There,
    /// It is not there, and its address leads nowhere.
    Gone,
    /// It leads to another address by now.
    Leads(Ipv4Addr),
    /// It is there, and no address leads to it.
    Bare,
    /// The address leads to this one, which is not the pod's.
    Elsewhere(LinkName),
    /// The pod has no name from which its link's would follow.
    Nameless,
}

impl Seen {
    pub(crate) fn look() -> anyhow::Result<Self> {
        let mut socket = Socket::open().context("links cannot be listed")?;
        let links = socket.links().context("links cannot be listed")?;
        let routes = socket
            .routes_of(TableId::MAIN)
            .context("routes cannot be listed")?;
        let links = links.into_iter().map(|state| state.link.name).collect();
        let to_hosts = routes.iter().filter(|route| route.dst.prefix_len() == 32);
        let led = to_hosts.filter_map(|route| Some((route.dst.addr(), route.link()?.clone())));
        Ok(Self::of(links, led.collect()))
    }

    fn of(links: BTreeSet<LinkName>, by_address: BTreeMap<Ipv4Addr, LinkName>) -> Self {
        let by_link = by_address.iter().map(|(at, link)| (link.clone(), *at));
        Self {
            by_link: by_link.collect(),
            links,
            by_address,
        }
    }

    pub(crate) fn veth(&self, held: &Allocation) -> Veth {
        let leads_to = self.by_address.get(&held.address);
        let Some(is_its) = own_link(held) else {
            return match leads_to {
                Some(_) => Veth::There,
                None => Veth::Nameless,
            };
        };
        match leads_to {
            Some(link) if is_its(link) => return Veth::There,
            Some(link) => return Veth::Elsewhere(link.clone()),
            None => {}
        }
        match self.links.iter().find(|link| is_its(link)) {
            None => Veth::Gone,
            Some(link) => self
                .by_link
                .get(link)
                .map_or(Veth::Bare, |at| Veth::Leads(*at)),
        }
    }

    /// Addresses that lead to a link as pods have it.
    pub(crate) fn pods(&self, prefix: &VethPrefix) -> impl Iterator<Item = (Ipv4Addr, &LinkName)> {
        let all = self.by_address.iter().map(|(at, link)| (*at, link));
        all.filter(|(_, link)| prefix.made(link))
    }
}

/// Tells a pod's link from others, whatever the prefix of its day; `None`: the pod has no name.
fn own_link(held: &Allocation) -> Option<impl Fn(&LinkName) -> bool + use<>> {
    let end = if is_stray(&held.key) {
        held.key.container.clone()
    } else if held.pod.namespace.is_empty() || held.pod.name.is_empty() {
        return None;
    } else {
        let pod = nodenet::PodName::new(held.pod.namespace.as_str(), held.pod.name.as_str());
        nodenet::layout::pod_hash(&pod, 0)
    };
    Some(move |link: &LinkName| link.as_str().ends_with(&end))
}

/// Whether a link has the name that a lease's pod gives it.
pub(crate) fn is_link_of(link: &LinkName, held: &Allocation) -> bool {
    own_link(held).is_some_and(|is_its| is_its(link))
}

/// The pods of this node that have not ended, by namespace and name, each with what may be its UID.
pub(crate) type Alive = BTreeMap<(String, String), BTreeSet<String>>;

/// What the API server says.
#[derive(Debug, Clone)]
pub(crate) enum Pods {
    /// There is no cluster.
    None,
    /// It was not asked.
    NotAsked,
    /// It did not answer.
    Failed(String),
    Listed(Alive),
}

/// What it says about one pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Listed {
    Alive,
    /// Not on this node, ended, or another pod of the same name.
    Gone,
    NotAsked,
    Unknown,
}

impl Pods {
    /// A stray with its pod's name, which its link's name comes from.
    fn behind(&self, stray: &Allocation) -> Option<Allocation> {
        let Self::Listed(alive) = self else {
            return None;
        };
        let ((namespace, name), uids) = alive.iter().find(|((namespace, name), _)| {
            let pod = nodenet::PodName::new(namespace.as_str(), name.as_str());
            stray
                .key
                .container
                .ends_with(&nodenet::layout::pod_hash(&pod, 0))
        })?;
        let uid = uids.first().filter(|_| uids.len() == 1);
        let pod = Pod {
            namespace: namespace.clone(),
            name: name.clone(),
            uid: uid.cloned().unwrap_or_default(),
        };
        Some(Allocation {
            pod,
            ..stray.clone()
        })
    }

    fn of(&self, held: &Allocation) -> Listed {
        let alive = match self {
            Self::NotAsked => return Listed::NotAsked,
            Self::None | Self::Failed(_) => return Listed::Unknown,
            Self::Listed(alive) => alive,
        };
        let pod = &held.pod;
        if pod.name.is_empty() || pod.namespace.is_empty() {
            return Listed::Unknown;
        }
        match alive.get(&(pod.namespace.clone(), pod.name.clone())) {
            Some(uids) if pod.uid.is_empty() || uids.contains(&pod.uid) => Listed::Alive,
            _ => Listed::Gone,
        }
    }
}

/// What is to become of a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    Keep,
    /// It cannot be told yet.
    Wait,
    /// It cannot be told until the API server says something.
    Ask,
    /// The witnesses disagree: kept, and told.
    Doubt(String),
    /// Its link is gone, and the cluster lists it: kept, told, and asked about again.
    Alive,
    /// The pod is gone. The word is a label of a metric.
    Release(&'static str),
}

/// What is known about one lease.
struct Case<'a> {
    veth: &'a Veth,
    pod: Listed,
    /// Its plugin cannot be at work any more.
    grown: bool,
    /// For how many looks it has been without its link.
    looks: u32,
    /// What its link leads to is a later lease of the same pod.
    succeeded: bool,
}

fn judge(case: &Case<'_>) -> Verdict {
    let gone = match case.veth {
        Veth::There if case.grown && case.pod == Listed::Gone => {
            return Verdict::Doubt(
                "the cluster has no such pod, and its link is still there: has the runtime not \
                 removed its sandbox?"
                    .to_owned(),
            );
        }
        Veth::There | Veth::Nameless => return Verdict::Keep,
        Veth::Bare => return Verdict::Doubt("no address leads to its link".to_owned()),
        Veth::Elsewhere(link) => {
            return Verdict::Doubt(format!(
                "its address leads to {link}, which is not its link"
            ));
        }
        Veth::Leads(to) if !case.succeeded => {
            return Verdict::Doubt(format!("its link leads to {to}, which is no later lease"));
        }
        Veth::Leads(_) => "replaced",
        Veth::Gone => "no-link",
    };
    match case.pod {
        _ if !case.grown || case.looks < LOOKS => Verdict::Wait,
        Listed::NotAsked => Verdict::Ask,
        // The sandbox was made anew: the pod is alive in another container.
        _ if case.succeeded => Verdict::Release(gone),
        Listed::Alive => Verdict::Alive,
        Listed::Gone => Verdict::Release("no-pod"),
        Listed::Unknown => Verdict::Release(gone),
    }
}

/// One look at everything.
#[derive(Debug)]
pub(crate) struct Look {
    pub(crate) seen: Seen,
    pub(crate) pods: Pods,
    /// DELs that nobody heard, with their times.
    pub(crate) deleted: Vec<(Key, Millis)>,
}

/// What is remembered between looks.
#[derive(Debug)]
pub(crate) struct Ledger {
    prefix: VethPrefix,
    /// For how many looks in a row a lease was without its link.
    without: BTreeMap<Key, u32>,
    /// For how many looks in a row an address that nobody has led to a pod's link.
    strays: BTreeMap<Ipv4Addr, u32>,
    /// When the API server is asked without a reason.
    ask_at: Millis,
    told: BTreeSet<Key>,
}

/// What follows from a look.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Leases whose pod is gone, and how that is known.
    pub(crate) release: Vec<(Allocation, &'static str)>,
    /// Pods that nobody wrote down.
    pub(crate) hold: Vec<Allocation>,
    /// Pods that nobody wrote down and whose names are known by now.
    pub(crate) named: Vec<Allocation>,
    /// Leases that are kept although something is wrong, and what.
    pub(crate) doubts: Vec<(Allocation, String)>,
    /// Those of them that were not in doubt before.
    pub(crate) news: Vec<(Allocation, String)>,
    pub(crate) next: Next,
    /// Notes of lost DELs that are not settled yet.
    pub(crate) unsettled: Vec<Key>,
}

/// When to look again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Next {
    pub(crate) after: Duration,
    /// Asking the API server as well.
    pub(crate) ask: bool,
}

impl Default for Next {
    fn default() -> Self {
        Self {
            after: EVERY,
            ask: false,
        }
    }
}

impl Next {
    fn at_most(&mut self, after: Duration) {
        self.after = self.after.min(after);
    }
}

impl Ledger {
    pub(crate) fn new(prefix: VethPrefix) -> Self {
        Self {
            prefix,
            without: BTreeMap::new(),
            strays: BTreeMap::new(),
            ask_at: Millis(0),
            told: BTreeSet::new(),
        }
    }

    pub(crate) fn compare(&mut self, look: &Look, pool: &Pool, now: Millis) -> Outcome {
        let mut out = Outcome::default();
        match look.pods {
            Pods::Listed(_) => self.ask_at = now.after(ASK_EVERY),
            Pods::Failed(_) => {
                out.next.ask = true;
                out.next.at_most(ASK_AGAIN);
            }
            Pods::None | Pods::NotAsked => {}
        }
        let before = std::mem::take(&mut self.without);
        for held in pool.allocations() {
            let veth = look.seen.veth(held);
            if look.deleted_at(held).is_some() {
                if matches!(veth, Veth::There) {
                    // The runtime is not through with it yet.
                    out.unsettled.push(held.key.clone());
                    out.next.at_most(SOON);
                } else {
                    out.release.push((held.clone(), "deleted"));
                }
                continue;
            }
            if is_stray(&held.key) && held.pod == Pod::default() {
                out.named.extend(look.pods.behind(held));
            }
            let looks = match veth {
                Veth::Gone | Veth::Leads(_) => before.get(&held.key).map_or(1, |n| n + 1),
                _ => 0,
            };
            if looks > 0 {
                self.without.insert(held.key.clone(), looks);
            }
            let age = now.since(held.since);
            let case = Case {
                succeeded: matches!(veth, Veth::Leads(to) if is_later(pool, held, to)),
                veth: &veth,
                // A DEL of a stray finds nothing: its link alone says when it is gone.
                pod: match is_stray(&held.key) {
                    true => Listed::Unknown,
                    false => look.pods.of(held),
                },
                grown: is_stray(&held.key) || age >= YOUNG,
                looks,
            };
            match judge(&case) {
                Verdict::Keep => {}
                Verdict::Wait if case.grown => out.next.at_most(SOON),
                Verdict::Wait => out.next.at_most(YOUNG.saturating_sub(age) + SOON),
                Verdict::Ask => {
                    out.next.ask = true;
                    out.next.at_most(Duration::ZERO);
                }
                Verdict::Doubt(why) => out.doubts.push((held.clone(), why)),
                Verdict::Alive => {
                    let why = "its link is gone, and the cluster still lists the pod: was the \
                               link deleted by hand?";
                    out.doubts.push((held.clone(), why.to_owned()));
                    out.next.ask = true;
                    out.next.at_most(ASK_LATER);
                }
                Verdict::Release(why) => out.release.push((held.clone(), why)),
            }
        }
        self.find_strays(look, pool, now, &mut out);
        out.next.ask |=
            self.ask_at <= now.after(out.next.after) && !matches!(look.pods, Pods::None);
        let told = std::mem::take(&mut self.told);
        let fresh = out
            .doubts
            .iter()
            .filter(|(held, _)| !told.contains(&held.key));
        out.news = fresh.cloned().collect();
        self.told = out
            .doubts
            .iter()
            .map(|(held, _)| held.key.clone())
            .collect();
        out
    }

    /// An address that leads to a pod's link and is nobody's. It may belong to a pod that is just
    /// being deleted: whoever is there at the next look, too, has it.
    fn find_strays(&mut self, look: &Look, pool: &Pool, now: Millis, out: &mut Outcome) {
        let before = std::mem::take(&mut self.strays);
        let known: BTreeSet<Ipv4Addr> = pool.allocations().map(|held| held.address).collect();
        for (address, link) in look.seen.pods(&self.prefix) {
            if known.contains(&address) {
                continue;
            }
            let looks = before.get(&address).map_or(1, |n| n + 1);
            if looks < LOOKS {
                self.strays.insert(address, looks);
                out.next.at_most(SOON);
            } else {
                out.hold.push(stray(address, link, now));
            }
        }
    }
}

impl Look {
    /// When the runtime deleted a lease's attachment, if it did so after the lease was given.
    fn deleted_at(&self, held: &Allocation) -> Option<Millis> {
        let note = self
            .deleted
            .iter()
            .find(|(key, at)| *key == held.key && *at >= held.since);
        note.map(|(_, at)| *at)
    }
}

/// Whether an address is leased to the same pod, later.
fn is_later(pool: &Pool, held: &Allocation, address: Ipv4Addr) -> bool {
    let same = |other: &&Allocation| {
        (&other.pod.namespace, &other.pod.name) == (&held.pod.namespace, &held.pod.name)
    };
    pool.allocations()
        .filter(|other| other.address == address && other.key != held.key)
        .filter(same)
        .any(|other| other.since >= held.since)
}

#[cfg(test)]
mod tests;
