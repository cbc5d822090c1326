//! A small blocking rtnetlink socket: one method per operation, all in [`nodenet`]'s types.
//!
//! Two rules keep it fast and safe beside other programs that change the network:
//! * Changes never need a list first. Links are found by name with one ioctl; requests that belong
//!   together are sent in one [`Batch`], and only the last asks for an acknowledgement (the kernel
//!   reports failures of the others without being asked).
//! * Lists that the kernel marks as interrupted (NLM_F_DUMP_INTR) are read again, never used.
//!
//! A socket belongs to the namespace that it was opened in and may be used from any thread.

mod addr;
mod attributes;
mod batch;
mod engine;
mod link;
mod monitor;
mod neigh;
mod route;
mod rule;

pub(crate) use attributes::Attributes;
pub use batch::Batch;
pub use engine::Socket;
pub(crate) use engine::{Channel, Reply, Request};
pub use link::{LinkEnd, LinkState, with_mac};
pub use monitor::{Change, Monitor};
pub use route::{RouteAnswer, RouteQuery};
