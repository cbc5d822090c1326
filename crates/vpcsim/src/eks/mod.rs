//! The embedded EKS: clusters, node groups, Fargate profiles, add-ons, access entries; tokens of callers.
//!
//! It keeps the records, makes groups, interfaces and instances in the embedded EC2, and shows the lab what is wanted
//! ([`Eks::clusters`]). It runs nothing: a cluster is CREATING until the lab reports its API server, an add-on until
//! the lab reports that it is installed.
//!
//! * `store` the records · `actions` what each call does · `catalog` the add-ons there are, their schemas;
//! * `view` and `handle` are the lab's side: [`Eks`]; `report` what the lab tells;
//! * `users` callers of AWS as users of Kubernetes · `api` REST and JSON.

mod access;
mod actions;
mod addon;
mod api;
mod catalog;
mod cluster;
mod error;
mod fargate;
mod handle;
mod nodegroup;
mod nodes;
mod report;
mod schema;
mod store;
mod tags;
mod update;
mod users;
mod view;

pub use actions::EksAction;
pub use catalog::KUBERNETES_VERSION;
pub use handle::Eks;
pub use users::KubernetesUser;
pub use view::{
    AccessView, AddonView, ClusterEni, ClusterStatus, ClusterView, NodegroupView, PolicyView,
    TaintView,
};

pub(crate) use api::answer;
pub(crate) use store::Store;
pub(crate) use view::views;
