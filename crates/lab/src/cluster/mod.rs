//! Kubernetes clusters: a real control plane in namespaces of its own, behind two interfaces in the
//! VPC.

mod addons;
mod api;
mod binaries;
mod chart;
mod flags;
mod join;
mod kubeconfig;
mod life;
mod manager;
mod manifests;
mod pki;
mod plane;
mod settle;
mod stop;
mod tools;
mod webhook;

pub use binaries::Binaries;
pub use flags::COMPONENTS;
pub use join::{Joinable, Joining};
pub(crate) use manager::{Manager, Tell};
pub use manifests::{coredns_image, kube_proxy_image};
pub(crate) use pki::write as write_file;
pub use pki::{Authority, Identity, KubeletIdentity, Pki};
pub use plane::act;
