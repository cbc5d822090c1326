//! The words of the pool.

use std::fmt;
use std::net::Ipv4Addr;
use std::time::Duration;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use settings::{GroupDrift, GroupSync, Settings, WarmTargets};
use vpc::facts::{InstanceId, SubnetId};

/// A time: milliseconds since the Unix epoch. The shell reads the wall clock once, at its start,
/// and counts on from there by the monotonic clock, so that a checkpoint's times keep a meaning.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Millis(pub u64);

impl Millis {
    /// Later by `by`.
    #[must_use]
    pub fn after(self, by: Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX)),
        )
    }

    /// The time from `earlier` to `self`; zero if that is not earlier.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// An attachment of a pod to a network, as the CNI specification names it. ADD is idempotent by it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key {
    /// The network's name, `aws-cni`.
    pub network: String,
    /// The container, as the runtime names it.
    pub container: String,
    /// The interface in the container.
    pub ifname: String,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.network, self.container, self.ifname)
    }
}

/// The pod behind an attachment; for people, never a key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID; empty when the runtime did not send it.
    pub uid: String,
}

/// An address in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allocation {
    /// Whose it is.
    pub key: Key,
    /// The pod, for people.
    pub pod: Pod,
    /// The address.
    pub address: Ipv4Addr,
    /// Since when.
    pub since: Millis,
}

/// What an ADD gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The address.
    pub address: Ipv4Addr,
    /// Device index of the interface that holds it; `None` when that interface is gone from EC2.
    pub device: Option<u32>,
}

/// What is asked of EC2 for pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Want {
    /// So many single addresses.
    Addresses(u32),
    /// So many /28 prefixes.
    Prefixes(u32),
}

/// What EC2 gives at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unit {
    /// Single addresses.
    Address,
    /// /28 prefixes.
    Prefix,
}

/// Addresses in a /28 prefix; all of them are pods'.
pub const PREFIX_SIZE: u32 = 16;

impl Want {
    /// So many of a unit.
    pub fn of(unit: Unit, n: u32) -> Self {
        match unit {
            Unit::Address => Self::Addresses(n),
            Unit::Prefix => Self::Prefixes(n),
        }
    }

    /// What it counts.
    pub fn unit(self) -> Unit {
        match self {
            Self::Addresses(_) => Unit::Address,
            Self::Prefixes(_) => Unit::Prefix,
        }
    }

    /// How many addresses pods get from it.
    pub fn addresses(self) -> u32 {
        match self {
            Self::Addresses(n) => n,
            Self::Prefixes(n) => n.saturating_mul(PREFIX_SIZE),
        }
    }

    /// How many of an interface's slots it takes: a prefix takes one, as an address does.
    pub fn slots(self) -> u32 {
        match self {
            Self::Addresses(n) | Self::Prefixes(n) => n,
        }
    }
}

/// Addresses or prefixes that come from EC2 or go back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Blocks {
    /// Single addresses.
    Addresses(Vec<Ipv4Addr>),
    /// /28 prefixes.
    Prefixes(Vec<Ipv4Net>),
}

impl Blocks {
    /// How many addresses or prefixes.
    #[expect(
        clippy::len_without_is_empty,
        reason = "EC2 never gives or takes nothing"
    )]
    pub fn len(&self) -> usize {
        match self {
            Self::Addresses(all) => all.len(),
            Self::Prefixes(all) => all.len(),
        }
    }

    /// All addresses for pods in them.
    pub fn addresses(&self) -> Vec<Ipv4Addr> {
        match self {
            Self::Addresses(all) => all.clone(),
            Self::Prefixes(all) => all
                .iter()
                .flat_map(|prefix| addresses_of(*prefix))
                .collect(),
        }
    }
}

/// Every address of a prefix, the first and the last included: they are no network and broadcast
/// addresses on an interface.
pub fn addresses_of(prefix: Ipv4Net) -> impl Iterator<Item = Ipv4Addr> {
    let first = u32::from(prefix.network());
    let last = u32::from(prefix.broadcast());
    (first..=last).map(Ipv4Addr::from)
}

/// Names a waiting request; the shell chooses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// `eni-attach-…`, opaque here.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct AttachmentId(pub String);

/// Makes a create idempotent: EC2 answers a repetition with the first one's interface.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClientToken(pub String);

/// What an instance type may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// Interfaces (of network card 0).
    pub interfaces: u32,
    /// IPv4 addresses per interface, its own primary one included.
    pub ipv4_per_interface: u32,
}

impl Limits {
    /// Addresses for pods that one interface can carry.
    pub fn slots(self) -> u32 {
        self.ipv4_per_interface.saturating_sub(1)
    }
}

/// Which ceiling bounds the number of interfaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EniLimitBy {
    /// The instance type's own limit.
    InstanceType,
    /// The variable `MAX_ENI`.
    MaxEni,
    /// The node is cordoned: it keeps the interfaces that it has.
    Cordon,
    /// Somebody else gives the node its interfaces and addresses.
    NoProvisioning,
}

impl fmt::Display for EniLimitBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InstanceType => "the instance type",
            Self::MaxEni => "MAX_ENI",
            Self::Cordon => "a cordoned node (AWS_MANAGE_ENIS_NON_SCHEDULABLE is false)",
            Self::NoProvisioning => "DISABLE_NETWORK_RESOURCE_PROVISIONING",
        })
    }
}

/// What instance metadata and the type's table say about the node; constant while it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeFacts {
    /// The instance.
    pub instance: InstanceId,
    /// The primary interface's subnet, where new interfaces go unless others are found.
    pub subnet: SubnetId,
    /// Its type takes prefixes: Nitro or bare metal.
    pub prefixes: bool,
    /// What its type may have.
    pub limits: Limits,
}

/// How the pool behaves; constant while the agent runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The warm targets.
    pub warm: WarmTargets,
    /// `ENABLE_PREFIX_DELEGATION`: /28 prefixes instead of single addresses.
    pub prefixes: bool,
    /// `ENABLE_SUBNET_DISCOVERY`: new interfaces in tagged subnets of the zone.
    pub discovery: bool,
    /// Not `DISABLE_NETWORK_RESOURCE_PROVISIONING`: interfaces and addresses are ours to change.
    pub provision: bool,
    /// `MAX_ENI`.
    pub max_eni: Option<u32>,
    /// How long a released address rests.
    pub cooldown: Duration,
    /// Until when another agent gave and took this node's addresses. It does not write down when it
    /// took them back, so every address that is free when we start may be one of the last.
    pub unwatched_until: Option<Millis>,
    /// How security groups travel.
    pub group_sync: GroupSync,
    /// What happens to groups that somebody sets by hand.
    pub group_drift: GroupDrift,
    /// Interfaces without our tag belong to the pool.
    pub manage_untagged: bool,
    /// Interfaces that an earlier start created and did not attach are used or deleted.
    pub leaked_eni_cleanup: bool,
    /// The longest an ADD waits for an address.
    pub patience: Duration,
    /// The longest an ADD waits while the agent does not know its node yet.
    pub boot_patience: Duration,
    /// How long EC2's answers may lag behind its acts; what a young change contradicts is not
    /// believed for this long.
    pub lag: Duration,
    /// How long what is short is gathered before EC2 is asked for it, where the warm targets count
    /// addresses: a burst's pods come within milliseconds of each other, and one call does for all.
    pub gather: Duration,
    /// How long a surplus must last before any of it is given back.
    pub shrink_after: Duration,
    /// How often leftovers are looked for.
    pub sweep_every: Duration,
    /// Where jitter and client tokens start; the only randomness.
    pub seed: u64,
}

impl Config {
    /// The configuration that the settings ask for.
    pub fn new(settings: &Settings, seed: u64) -> Self {
        Self {
            warm: settings.warm,
            prefixes: settings.prefix_delegation,
            discovery: settings.subnet_discovery,
            provision: settings.provision,
            max_eni: settings.max_eni,
            cooldown: settings.cooldown,
            unwatched_until: None,
            group_sync: settings.group_sync,
            group_drift: settings.group_drift,
            manage_untagged: settings.manage_untagged,
            leaked_eni_cleanup: settings.leaked_eni_cleanup,
            patience: Duration::from_secs(20),
            boot_patience: Duration::from_secs(3),
            lag: Duration::from_secs(60),
            // A tenth of what EC2 takes for one call, which the rest of the burst would wait for.
            gather: Duration::from_millis(30),
            shrink_after: Duration::from_secs(60),
            sweep_every: Duration::from_secs(3600),
            seed,
        }
    }
}
