//! What can fail while the packet plane is changed.

use std::io;
use std::path::PathBuf;

use nodenet::LinkName;
use vpc::facts::EniId;

/// Every failure of the fabric.
#[derive(Debug, thiserror::Error)]
pub enum FabricError {
    /// The directory for the pins of namespaces cannot be made or read.
    #[error("cannot use {path} for the lab's network namespaces: not root, or not a directory?")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Two interfaces would have ports of one name.
    #[error("{first} and {second} would both get the port {link}: their ids end alike")]
    PortName {
        /// The name.
        link: LinkName,
        /// The interface that has it.
        first: EniId,
        /// The other one.
        second: EniId,
    },
    /// The kernel refused a change. What was applied is not known now, and is read back before the next change.
    #[error("the packet plane cannot be changed")]
    Kernel(#[from] kernel::Error),
    /// The fabric's thread cannot be started.
    #[error("cannot start the fabric's thread: too many processes?")]
    Thread(#[source] io::Error),
    /// The fabric's thread has ended: it was stopped, or it panicked.
    #[error("the fabric's thread has ended")]
    Stopped,
}
