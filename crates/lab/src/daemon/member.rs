//! From an instance to a member of its Kubernetes cluster.
//!
//! On EKS the instance's user data starts kubelet, which waits for the cluster's endpoint. Here the
//! lab does: the runtime starts at once, kubelet when the control plane answers. What a cloud
//! controller would add to the Node (zone, region, instance type, provider id) kubelet says itself.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;

use ec2::limits;
use ec2::types::DescribeAvailabilityZonesRequest;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use vpc::facts::{Instance, World};
use vpcsim::eks::NodegroupView;
use vpcsim::{Desired, Sim};

use super::launcher::blocking;
use crate::cluster::{Binaries, Joinable, Joining};
use crate::error::Error;
use crate::image::Programs;
use crate::node::kube::{self, Member, Taint};
use crate::place::Place;
use crate::state::State;

/// The tag by which an instance says that it belongs to a cluster; the name follows.
const TAG: &str = "kubernetes.io/cluster/";

/// Pods of the host's network that every node has besides those with an address of their own:
/// aws-node and kube-proxy.
const HOST_PODS: u32 = 2;

/// Work beside the launcher; it ends when this is dropped.
pub(super) struct Task(pub(super) JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The cluster that an instance is to join.
pub(super) fn cluster_of(instance: &Instance) -> Option<String> {
    let mut names = instance.tags.keys().filter_map(|key| key.strip_prefix(TAG));
    names.next().map(str::to_owned)
}

/// What DHCP gives an instance: the VPC's resolver, at its base address plus two.
pub(super) fn resolv_conf(instance: &Instance, world: &World, region: &str) -> String {
    let vpc = instance.vpc.as_ref().and_then(|id| world.vpcs.get(id));
    let base = vpc.and_then(|v| v.cidrs.first()).map(|c| c.network());
    let resolver = base.map_or(Ipv4Addr::new(169, 254, 169, 253), |base| {
        Ipv4Addr::from(u32::from(base) + 2)
    });
    format!("search {}\nnameserver {resolver}\n", domain(region))
}

/// The domain of private DNS names.
fn domain(region: &str) -> String {
    match region {
        "us-east-1" => "ec2.internal".to_owned(),
        other => format!("{other}.compute.internal"),
    }
}

/// The primary address of an instance.
pub(super) fn address(desired: &Desired, id: &str) -> Option<Ipv4Addr> {
    let primary = |at: &vpcsim::Attached| at.host == id && at.device == 0;
    let (eni, _) = desired.attachments.iter().find(|(_, at)| primary(at))?;
    Some(desired.world.enis.get(eni)?.addresses.first()?.address)
}

/// An instance that is to join a cluster.
pub(super) struct Candidate {
    pub(super) instance: String,
    pub(super) node: String,
    pub(super) cluster: String,
}

/// What joining needs.
pub(super) struct Ways {
    pub(super) place: Place,
    /// The `branchline` binary.
    pub(super) program: PathBuf,
    /// The directory with Kubernetes' programs, when one was given.
    pub(super) kubernetes: Option<PathBuf>,
    pub(super) containerd: Option<PathBuf>,
    pub(super) sim: Sim,
    pub(super) joinable: Joinable,
    pub(super) state: watch::Sender<State>,
}

impl Ways {
    /// Starts the runtime, waits for the cluster, and starts kubelet.
    pub(super) async fn join(self, candidate: Candidate) {
        let Candidate { node, cluster, .. } = &candidate;
        match self.try_join(&candidate).await {
            Ok(()) => tracing::info!(node, cluster, "joined its cluster"),
            Err(error) => {
                tracing::error!(node, cluster, %error, "cannot join its cluster");
                let trouble = format!("node {node} cannot join cluster {cluster}: {error}");
                self.state.send_modify(|s| s.trouble = Some(trouble));
            }
        }
    }

    async fn try_join(&self, candidate: &Candidate) -> Result<(), Error> {
        let (place, node) = (self.place.clone(), candidate.node.clone());
        let (program, kubernetes) = (self.program.clone(), self.kubernetes.clone());
        let containerd = self.containerd.clone();
        blocking(move || {
            let binaries = Binaries::find(kubernetes.as_deref(), &program)?;
            let programs = Programs::new(program, &binaries);
            kube::start_runtime(&place, &node, &programs, containerd.as_deref())
        })
        .await?;
        let Some(joining) = self.cluster(&candidate.cluster).await else {
            return Ok(());
        };
        let member = self.member(candidate, &joining).await?;
        let (place, node) = (self.place.clone(), candidate.node.clone());
        blocking(move || kube::join(&place, &node, &member)).await
    }

    /// Waits until a cluster can be joined; `None` when the lab ends.
    async fn cluster(&self, name: &str) -> Option<Arc<Joining>> {
        let mut joinable = self.joinable.clone();
        let there = joinable.wait_for(|all| all.contains_key(name)).await;
        there.ok()?.get(name).cloned()
    }

    async fn member(&self, candidate: &Candidate, joining: &Joining) -> Result<Member, Error> {
        let left_out = |field| Error::LeftOut {
            what: candidate.instance.clone(),
            field,
        };
        let desired = self.sim.desired()?;
        let mut all = desired.world.instances.values();
        let instance = all.find(|i| i.id.as_str() == candidate.instance);
        let instance = instance.ok_or_else(|| left_out("instance"))?;
        let subnet = instance.subnet.as_ref();
        let subnet = subnet.and_then(|id| desired.world.subnets.get(id));
        let zone = &subnet.ok_or_else(|| left_out("subnetId"))?.zone;
        let address = address(&desired, &candidate.instance);
        let address = address.ok_or_else(|| left_out("privateIpAddress"))?;
        let name = instance.private_dns_name.clone();
        let group = self.group(candidate);
        let mut labels = self.labels(instance, zone).await?;
        labels.extend(group.labels);
        Ok(Member {
            identity: joining.issue_kubelet(&name, address)?,
            name,
            address,
            provider_id: format!("aws:///{zone}/{}", instance.id),
            labels,
            taints: group.taints,
            max_pods: max_pods(&instance.instance_type),
            server: joining.server.clone(),
            ca: joining.ca_pem.clone(),
            cluster_dns: joining.cluster_dns,
            bin_dir: joining.bin_dir.clone(),
        })
    }

    /// The labels that a cloud controller gives a Node.
    async fn labels(
        &self,
        instance: &Instance,
        zone: &str,
    ) -> Result<BTreeMap<String, String>, Error> {
        let region = self.sim.region();
        let request = DescribeAvailabilityZonesRequest {
            zone_names: vec![zone.to_owned()],
            ..Default::default()
        };
        let zones = self.sim.call(&request).await?.availability_zones;
        let zone_id = zones.into_iter().next().and_then(|z| z.zone_id);
        let kind = instance.instance_type.as_str();
        let mut labels = vec![
            ("beta.kubernetes.io/instance-type", kind),
            ("node.kubernetes.io/instance-type", kind),
            ("failure-domain.beta.kubernetes.io/region", &region),
            ("topology.kubernetes.io/region", &region),
            ("failure-domain.beta.kubernetes.io/zone", zone),
            ("topology.kubernetes.io/zone", zone),
        ];
        labels.extend(
            zone_id
                .as_deref()
                .map(|id| ("topology.k8s.aws/zone-id", id)),
        );
        let owned = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
        Ok(labels.into_iter().map(owned).collect())
    }

    /// What the managed node group of an instance says about its nodes.
    fn group(&self, candidate: &Candidate) -> Group {
        let clusters = self.sim.eks().clusters();
        let clusters = clusters.borrow();
        let cluster = clusters.iter().find(|c| c.name == candidate.cluster);
        let has = |g: &&NodegroupView| g.instances.iter().any(|i| i.as_str() == candidate.instance);
        let Some(group) = cluster.and_then(|c| c.nodegroups.iter().find(has)) else {
            return Group::default();
        };
        let mut labels: BTreeMap<String, String> = group.labels.clone().into_iter().collect();
        let own = [
            ("eks.amazonaws.com/nodegroup", &group.name),
            ("eks.amazonaws.com/capacityType", &group.capacity_type),
        ];
        labels.extend(own.map(|(key, value)| (key.to_owned(), value.clone())));
        let taint = |t: &vpcsim::eks::TaintView| Taint {
            key: t.key.clone(),
            value: t.value.clone(),
            effect: t.effect.to_owned(),
        };
        Group {
            labels,
            taints: group.taints.iter().map(taint).collect(),
        }
    }
}

/// What a node group adds to its nodes.
#[derive(Default)]
struct Group {
    labels: BTreeMap<String, String>,
    taints: Vec<Taint>,
}

/// Deletes the Node of an instance that was terminated, as a cloud controller does.
pub(super) async fn forget(joining: Arc<Joining>, name: String) {
    let node = name.clone();
    let deleted = blocking(move || joining.forget_node(&node)).await;
    if let Err(error) = deleted {
        tracing::warn!(node = name, %error, "the Node of a terminated instance stays");
    }
}

/// How many pods fit on an instance: the secondary addresses of all its interfaces, and pods of the
/// host's network.
fn max_pods(instance_type: &str) -> u32 {
    limits::of(instance_type).map_or(HOST_PODS, |l| {
        l.interfaces * (l.ipv4_per_interface - 1) + HOST_PODS
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_fit_as_in_upstreams_table() {
        for (kind, pods) in [("t3.medium", 17), ("m5.large", 29), ("m5.4xlarge", 234)] {
            assert_eq!(max_pods(kind), pods, "{kind}");
        }
    }
}
