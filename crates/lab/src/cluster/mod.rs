//! Kubernetes clusters: a real control plane in namespaces of its own, behind two interfaces in the
//! VPC.

mod binaries;
mod flags;
mod join;
mod kubeconfig;
mod pki;
mod plane;
mod probe;

pub use binaries::Binaries;
pub use flags::COMPONENTS;
pub use join::{Joinable, Joining};
pub(crate) use pki::write as write_file;
pub use pki::{Authority, Identity, KubeletIdentity, Pki};
pub use plane::act;
