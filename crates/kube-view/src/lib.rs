//! Kubernetes objects, trimmed to what is used, and the facts they say.
//!
//! [`facts`] is plain data, for the model and for snapshots. With the feature `api` there are also the
//! objects as the API server sends them ([`objects`], each a `kube::Resource` with only the fields
//! that are used) and the [`Index`] that turns them into facts: `apply`, `delete`, `reset`, without a
//! client, a clock or a socket. Who reads once and who watches share both.
//!
//! An object that cannot be represented is never dropped in silence: it stands in
//! [`facts::Cluster::odd`], and what depends on it is unknown.

pub mod facts;
pub mod workload;

#[cfg(feature = "api")]
mod convert;
#[cfg(feature = "api")]
mod index;
#[cfg(feature = "api")]
pub mod objects;

#[cfg(feature = "api")]
pub use convert::Refusal;
pub use facts::Cluster;
#[cfg(feature = "api")]
pub use index::{HasLabels, Index, Indexed};
