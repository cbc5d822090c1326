//! What the kernel can refuse, with the object that it was about and its error number.

use std::io;
use std::path::PathBuf;

use nodenet::LinkName;
use rustix::io::Errno;

use crate::netns::NsId;

/// Every failure of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A namespace's file cannot be opened.
    #[error("cannot open network namespace {path}: has its process or its container ended?")]
    NamespaceOpen {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file exists but does not stand for a network namespace.
    #[error("{path} is not a network namespace: nothing is bind-mounted there (any more)")]
    NotANamespace {
        /// The file.
        path: PathBuf,
    },
    /// No new network namespace.
    #[error("cannot create a network namespace: not root (CAP_SYS_ADMIN)?")]
    NamespaceCreate {
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A new network namespace cannot be given a place in the file system.
    #[error("cannot pin a network namespace at {path}")]
    NamespacePin {
        /// The place.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A pinned network namespace cannot be let go.
    #[error("cannot unpin the network namespace at {path}")]
    NamespaceUnpin {
        /// The place.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A thread cannot move into the namespace.
    #[error("cannot enter network namespace {ns}: not root (CAP_SYS_ADMIN)?")]
    NamespaceEnter {
        /// The namespace.
        ns: NsId,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No thread for work in a namespace.
    #[error("cannot start a thread for network namespace {ns}: too many processes?")]
    Thread {
        /// The namespace.
        ns: NsId,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The netlink socket itself failed: nothing is known about the requests.
    #[error("netlink socket: {step}")]
    Socket {
        /// What was tried: open, send, receive.
        step: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel refused a request.
    #[error("{request}: {}{}", Cause(*errno), Detail(detail.as_deref()))]
    Refused {
        /// What was asked for, in the words of `ip`.
        request: String,
        /// The kernel's error number.
        errno: Errno,
        /// The kernel's own explanation, when it gave one.
        detail: Option<String>,
    },
    /// The namespace has no link of this name.
    #[error("no link {name} in this network namespace ({request})")]
    NoLink {
        /// The name.
        name: LinkName,
        /// What it was needed for.
        request: String,
    },
    /// A list kept changing while the kernel wrote it down.
    #[error("listing {what}: changed during each of {attempts} attempts")]
    Interrupted {
        /// What was listed.
        what: &'static str,
        /// How often we tried.
        attempts: u32,
    },
    /// An answer of the kernel that we do not understand.
    #[error("an answer to {request} cannot be decoded: {reason}")]
    Decode {
        /// What was asked for.
        request: String,
        /// Why not.
        reason: String,
    },
    /// The change contains something that has no netlink form, for example a route read as
    /// `Unmodelled`.
    #[error("{request}: {reason}")]
    Unsupported {
        /// What was asked for.
        request: String,
        /// Why it cannot be.
        reason: &'static str,
    },
    /// `nft` cannot be executed.
    #[error("cannot run nft: is the package nftables installed?")]
    NftStart {
        /// Why.
        #[source]
        source: io::Error,
    },
    /// `nft` refused a text; nothing of it is in force.
    #[error("nft refused line {line} ({text}): {message}")]
    NftRefused {
        /// Number of the line, from 1; 0 when nft did not say.
        line: usize,
        /// That line.
        text: String,
        /// What nft said.
        message: String,
    },
    /// The output of `nft -j` is not what we know.
    #[error("cannot read the output of nft {args}: another version than 1.0?")]
    NftOutput {
        /// Its arguments.
        args: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A change failed, and taking back what had been done failed as well.
    #[error("{error}; and taking back what was done failed too: {second}")]
    Unwind {
        /// The first failure.
        #[source]
        error: Box<Error>,
        /// The failure of the clean-up: something is left over.
        second: Box<Error>,
    },
    /// No random bytes for Ethernet addresses.
    #[error("getrandom")]
    Random {
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A setting under `/proc/sys/net` cannot be read or written.
    #[error("sysctl net/{key}")]
    Sysctl {
        /// Path below `/proc/sys/net`.
        key: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// An error number in the system's words.
struct Cause(Errno);

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Errno's own text ends in "(os error N)", which is what one searches for.
        io::Error::from(self.0).fmt(f)
    }
}

/// The kernel's explanation, if any.
struct Detail<'a>(Option<&'a str>);

impl std::fmt::Display for Detail<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.map_or(Ok(()), |text| write!(f, ": {text}"))
    }
}

impl Error {
    /// The kernel's error number, when it was the kernel that refused.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused { errno, .. } => Some(*errno),
            _ => None,
        }
    }

    /// The object is there already (EEXIST).
    pub fn is_exists(&self) -> bool {
        self.errno() == Some(Errno::EXIST)
    }

    /// The object, or the link it needs, is not there: ENOENT (rules, neighbours), ESRCH (routes),
    /// ENODEV (links), EADDRNOTAVAIL (addresses).
    pub fn is_absent(&self) -> bool {
        const ABSENT: [Errno; 4] = [Errno::NOENT, Errno::SRCH, Errno::NODEV, Errno::ADDRNOTAVAIL];
        matches!(self, Self::NoLink { .. }) || self.errno().is_some_and(|e| ABSENT.contains(&e))
    }
}
