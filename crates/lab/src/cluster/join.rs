//! What an instance needs to join a cluster.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::Ipv4Net;
use tokio::sync::watch;

use super::api::Api;
use super::pki::{KubeletIdentity, Pki};
use super::stop::Stop;
use crate::error::Error;

/// A cluster that can be joined: its API server answers.
#[derive(Debug, Clone)]
pub struct Joining {
    /// The cluster's name: the one in the tag `kubernetes.io/cluster/NAME`.
    pub cluster: String,
    /// URL of the API server inside of the VPC: one of the control plane's interfaces.
    pub server: String,
    /// Certificate of the authority that signed the API server and every kubelet.
    pub ca_pem: String,
    /// Address of the Service `kube-dns`.
    pub cluster_dns: Ipv4Addr,
    /// Addresses of Services.
    pub service_cidr: Ipv4Net,
    /// The directory with `kubelet`, `kubectl` and the rest of Kubernetes.
    pub bin_dir: PathBuf,
    pub(super) pki: Arc<Pki>,
    /// The API server as the lab sees it.
    pub(super) api: Arc<Api>,
    pub(super) stop: Stop,
}

impl Joining {
    /// Certificates for the kubelet of the Kubernetes node `name`, whose primary address is
    /// `address`.
    ///
    /// # Errors
    /// When the name is no DNS name.
    pub fn issue_kubelet(&self, name: &str, address: Ipv4Addr) -> Result<KubeletIdentity, Error> {
        self.pki.kubelet(name, address)
    }

    /// Deletes the Node of an instance that is gone. That there is none is fine. Blocks.
    ///
    /// # Errors
    /// [`Error::NodeStays`]: what the API server answered.
    pub fn forget_node(&self, name: &str) -> Result<(), Error> {
        let deleted = self.api.delete(&format!("/api/v1/nodes/{name}"));
        deleted.map_err(|said| Error::NodeStays {
            node: name.to_owned(),
            cluster: self.cluster.clone(),
            said,
        })
    }
}

/// The clusters that can be joined, by name. An instance whose cluster is not there yet waits for a
/// change.
pub type Joinable = watch::Receiver<BTreeMap<String, Arc<Joining>>>;
