//! Netlink, network namespaces and nft: read a node's network, apply the difference.
//!
//! The shell around [`nodenet`]: it speaks that crate's types, decides nothing itself and never
//! runs `ip`. Everything is blocking and needs no async runtime, so the CNI plugin can use it as
//! it is and a daemon calls it from a thread of its own.
//!
//! * [`netns`]: open, create, pin network namespaces; run code in one without disturbing the caller.
//! * [`netlink`]: a socket with one method per operation, and batches of requests in one send.
//! * [`sysctl`]: settings under `/proc/sys/net` of a namespace.
//! * [`nft`]: rule sets as text, applied in one transaction.
//! * [`conntrack`]: forgetting the flows of an address.
//! * [`pod`]: wiring one pod, the fast path of a CNI ADD.
//! * [`node`]: a whole [`nodenet::NodeNet`] read, a [`nodenet::Diff`] applied.
//!
//! Minimum kernel: 5.15 unless a function says otherwise.

pub mod conntrack;
mod error;
pub mod netlink;
pub mod netns;
pub mod nft;
pub mod node;
pub mod pod;
pub mod sysctl;

pub use error::Error;
pub use netlink::{Batch, Change, LinkEnd, LinkState, Monitor, Socket};
pub use netns::{NetNs, NsId};
pub use rustix::io::Errno;

/// Results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
