//! The packet plane of the embedded VPC: a [`vpc::World`] as namespaces, veths, routes and nft rules.
//!
//! The problem: what the EC2 API says has to be what packets meet, with nothing in between that could disagree.
//! So nothing here decides: rules come from the same `layers::Layer`s that the evaluator reads, and this module
//! only writes them in the kernel's words (reference: AWS VPC user guide; order of evaluation: `compile`).
//!
//! Shape: one *router* namespace per VPC with one port per network interface, one namespace per NAT gateway, and one
//! that stands for the internet. All are pinned under the lab's directory, and every link is created with both ends
//! in their final namespaces, so the host's own network never shows any of it.
//!
//! Invariants:
//! * `Fabric::apply` is idempotent, and touches only what differs from what it applied last; what is not known
//!   (first call, or after a failure) is read back from the kernel.
//! * Fail closed: a port that no rule names drops; a target that is not modelled is a blackhole.
//! * A connection between interfaces that a change does not concern survives that change.
//!
//! Kernel: Linux 5.6 (concatenated interval sets), nft 1.0.6.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use nodenet::LinkName;
use vpc::facts::{EniId, Mac, World};

mod apply;
pub mod compile;
mod error;
mod handle;
pub mod mutants;
pub mod names;
pub mod nft;
pub mod plan;
pub mod ruleset;
mod space;

pub use apply::Fabric;
pub use error::FabricError;
pub use handle::{Handle, Outcome};

/// Something with a network namespace of its own: an instance, a database, a load balancer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostId(pub String);

impl fmt::Display for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// How an interface appears in the host that it is attached to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plug {
    /// The host; it must be one of [`Desired::hosts`].
    pub host: HostId,
    /// The link's name there, `ethN` for device index N.
    pub link: LinkName,
    /// The link's Ethernet address.
    pub mac: Mac,
    /// The link's MTU in bytes: 9001 inside a VPC.
    pub mtu: u32,
    /// True: the link is set up with the interface's primary address, its subnet's route and a default route
    /// through the subnet's first address, as DHCP does. False: plugged down and left alone, as a secondary
    /// interface is.
    pub configure: bool,
}

/// What the network should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// The VPCs with everything in them.
    pub world: World,
    /// Hosts, and the path of the network namespace of each.
    pub hosts: BTreeMap<HostId, PathBuf>,
    /// Attached interfaces. Interfaces of NAT gateways are not listed: the fabric has hosts for them.
    pub plugs: BTreeMap<EniId, Plug>,
    /// Addresses that answer in the namespace of the internet; listeners are the caller's.
    pub internet: BTreeSet<Ipv4Addr>,
}

/// What [`Fabric::apply`] did, and what it could not do and why.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Interfaces that carry packets now, those of NAT gateways included.
    pub plugged: BTreeSet<EniId>,
    /// Interfaces that were asked for and carry none.
    pub not_plugged: BTreeMap<EniId, NotPlugged>,
    /// Routes and rules whose target or peer is not modelled; packets there are dropped.
    pub dropped: BTreeSet<String>,
    /// Links created or deleted in this call.
    pub links_changed: usize,
    /// Addresses, routes, neighbours and routing rules added or deleted in this call.
    pub routes_changed: usize,
    /// nft transactions in this call, at most one per namespace.
    pub nft_transactions: usize,
    /// Tracked connections ended in this call because one of their addresses changed hands.
    pub flows_ended: usize,
}

/// Why an interface is not plugged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotPlugged {
    /// Branch interfaces need VLANs on the trunk.
    Branch {
        /// The trunk that carries it, when known.
        trunk: Option<EniId>,
    },
    /// The plug names an interface that the world does not have.
    UnknownInterface,
    /// The plug names a host without a namespace.
    UnknownHost(HostId),
    /// The host's namespace could not be opened: it has ended, or its path is wrong.
    HostGone {
        /// The host.
        host: HostId,
        /// Its namespace's path.
        path: PathBuf,
    },
    /// The interface's subnet or VPC is not in the world.
    UnknownSubnet,
}

impl fmt::Display for NotPlugged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Branch { trunk: Some(trunk) } => {
                write!(
                    f,
                    "not plugged: branch interfaces are not part of this slice (trunk {trunk})"
                )
            }
            Self::Branch { trunk: None } => {
                f.write_str("not plugged: branch interfaces are not part of this slice")
            }
            Self::UnknownInterface => f.write_str("not plugged: no such interface"),
            Self::UnknownHost(host) => write!(f, "not plugged: host {host} has no namespace"),
            Self::HostGone { host, path } => {
                write!(
                    f,
                    "not plugged: the namespace of host {host} at {} is gone",
                    path.display()
                )
            }
            Self::UnknownSubnet => f.write_str("not plugged: its subnet or VPC is not known"),
        }
    }
}
