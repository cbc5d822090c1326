//! Kubernetes clusters: a real control plane in namespaces of its own, behind two interfaces in the
//! VPC.

mod join;
mod pki;

pub use join::{Joinable, Joining};
pub(crate) use pki::write as write_file;
pub use pki::{Authority, Identity, KubeletIdentity, Pki};
