//! A node of a Kubernetes cluster: containerd, and kubelet as a member of the cluster.
//!
//! Both are ordinary programs with ordinary files, laid out as on an EKS node, so that what is known
//! about such a node holds here: `/etc/containerd/config.toml`, `/etc/kubernetes/kubelet/config.json`,
//! `/var/lib/kubelet/kubeconfig`. The files are written from outside, through the node's disk, before
//! the node is told to run the program. `/etc/cni/net.d` and `/opt/cni/bin` start empty: the node is
//! NotReady until a DaemonSet fills them, as on EKS.

mod containerd;
mod kubelet;

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::protocol::{Request, ask};
use super::spec::ServiceSpec;
use crate::cluster::KubeletIdentity;
use crate::error::Error;
use crate::image::{self, Programs};
use crate::mounts::on_disk;
use crate::place::Place;

/// The service that runs containers.
pub const CONTAINERD: &str = "containerd";
/// The service that is the node's side of Kubernetes.
pub const KUBELET: &str = "kubelet";

/// The service that answers containerd when it asks for an image.
pub const REGISTRY: &str = "registry";

/// Where containerd answers, in every node.
const SOCKET: &str = "/run/containerd/containerd.sock";

/// Programs of the machine that the services and their children use.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a kubelet is told when its node joins a cluster.
#[derive(Debug, Clone)]
pub struct Member {
    /// The Kubernetes node's name: the instance's private DNS name.
    pub name: String,
    /// The primary address of the instance.
    pub address: Ipv4Addr,
    /// `aws:///ZONE/INSTANCE`.
    pub provider_id: String,
    /// Labels that the kubelet may give its own node (not those of `kubernetes.io` that the API
    /// server reserves).
    pub labels: BTreeMap<String, String>,
    /// Taints of a new node.
    pub taints: Vec<Taint>,
    /// How many pods fit.
    pub max_pods: u32,
    /// URL of the API server, inside of the VPC.
    pub server: String,
    /// Certificate of the cluster's authority, as PEM.
    pub ca: String,
    /// The kubelet's certificates.
    pub identity: KubeletIdentity,
    /// Address of the cluster's DNS.
    pub cluster_dns: Ipv4Addr,
    /// The directory with the program `kubelet`.
    pub bin_dir: PathBuf,
}

/// A taint of a Kubernetes node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taint {
    /// Its key.
    pub key: String,
    /// Its value, possibly empty.
    #[serde(default)]
    pub value: String,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
    pub effect: String,
}

/// Starts the container runtime of the cluster's node `node`, which keeps it running. A disk on which
/// it never ran is given all images first. `containerd` is a directory with another containerd and its
/// shim than the distribution's.
///
/// # Errors
/// When containerd or runc is not there, its files cannot be written, or an image cannot be made.
pub fn start_runtime(
    place: &Place,
    node: &str,
    programs: &Programs,
    containerd: Option<&Path>,
) -> Result<(), Error> {
    let disk = place.node_disk(node);
    let root = on_disk(&disk, "/var/lib/containerd");
    let ran = fs::read_dir(&root).is_ok_and(|mut entries| entries.next().is_some());
    if !ran {
        image::install(programs, &root)?;
    }
    containerd::write(&disk)?;
    start(place, node, containerd::registry(place, programs))?;
    start(place, node, containerd::service(containerd)?)
}

/// Makes the node `node` a member of a cluster: writes the kubelet's files and starts it. The runtime must
/// have been started, and the node's links be there.
///
/// # Errors
/// When there is no kubelet, or its files cannot be written.
pub fn join(place: &Place, node: &str, member: &Member) -> Result<(), Error> {
    kubelet::write(&place.node_disk(node), member)?;
    start(place, node, kubelet::service(member)?)
}

fn start(place: &Place, node: &str, service: ServiceSpec) -> Result<(), Error> {
    ask(&place.node_socket(node), &Request::StartService(service)).map(drop)
}

fn service(name: &str, program: PathBuf, args: Vec<String>) -> ServiceSpec {
    ServiceSpec {
        name: name.to_owned(),
        program,
        args,
        env: BTreeMap::from([("PATH".to_owned(), PATH.to_owned())]),
        after: None,
    }
}

/// Finds a program that the machine's distribution has to provide.
fn installed(program: &'static str) -> Result<PathBuf, Error> {
    let dirs = PATH.split(':').map(|dir| Path::new(dir).join(program));
    let mut found = dirs.filter(|path| path.exists());
    found.next().ok_or(Error::NotInstalled { program })
}
