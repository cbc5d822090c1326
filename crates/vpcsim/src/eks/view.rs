//! The clusters as the lab sees them: what its daemon needs to run a control plane, and to let callers in.

use std::net::Ipv4Addr;

use ec2::eks as wire;
use ipnet::Ipv4Net;
use vpc::facts::{EniId, InstanceId, SgId, SubnetId, VpcId};

use super::store::{Access, Addon, Cluster, Nodegroup};
use super::{access, cluster, nodegroup};
use crate::store::State;

/// A cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterView {
    /// Its name.
    pub name: String,
    /// `arn:aws:eks:REGION:ACCOUNT:cluster/NAME`
    pub arn: String,
    /// Where it is in its life.
    pub status: ClusterStatus,
    /// The minor version of Kubernetes, `1.36`.
    pub version: String,
    /// Where ClusterIPs come from; `kubernetes.default` is its first address.
    pub service_cidr: Ipv4Net,
    /// The VPC.
    pub vpc: VpcId,
    /// The subnets of the request, those of the interfaces first.
    pub subnets: Vec<SubnetId>,
    /// The control plane's interfaces, by device index.
    pub enis: Vec<ClusterEni>,
    /// What [`crate::Attached::host`] is on those interfaces: the control plane as a host of the fabric.
    pub host: String,
    /// `eks-cluster-sg-NAME-ID`: on the interfaces, managed nodes and Fargate pods.
    pub cluster_security_group: SgId,
    /// Additional groups of the interfaces.
    pub security_groups: Vec<SgId>,
    /// Whether the endpoint can be reached from outside of the VPC.
    pub public_access: bool,
    /// Whether the endpoint's name leads to the interfaces inside of the VPC.
    pub private_access: bool,
    /// Who may use the public endpoint.
    pub public_access_cidrs: Vec<String>,
    /// What the API server has as `--service-account-issuer`.
    pub issuer: String,
    /// Whether the cluster starts with vpc-cni, kube-proxy and CoreDNS that EKS does not manage: those of them that
    /// are not in `addons` are to be installed with their defaults.
    pub self_managed_addons: bool,
    /// `API`, `API_AND_CONFIG_MAP` or `CONFIG_MAP`.
    pub authentication_mode: String,
    /// Add-ons to install, by name.
    pub addons: Vec<AddonView>,
    /// Node groups, by name. Their instances carry `kubernetes.io/cluster/NAME=owned` and are launched already.
    pub nodegroups: Vec<NodegroupView>,
    /// Who of AWS is who in Kubernetes; [`super::Eks::user`] applies it.
    pub access_entries: Vec<AccessView>,
}

/// Where a cluster is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClusterStatus {
    /// Its group and interfaces are there, its control plane is awaited.
    Creating,
    /// The lab has reported endpoint and CA.
    Active,
    /// The lab has reported why it cannot be.
    Failed,
}

/// An interface of a control plane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterEni {
    /// Its id.
    pub id: EniId,
    /// Its subnet.
    pub subnet: SubnetId,
    /// The subnet's zone, `us-west-2a`.
    pub zone: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// 0 and 1: `eth0` and `eth1` of the control plane.
    pub device: u32,
}

/// An add-on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddonView {
    /// `vpc-cni`, `coredns`, `kube-proxy`.
    pub name: String,
    /// `v1.23.1-eksbuild.1`
    pub version: String,
    /// What the user set, as JSON; valid for the add-on's schema. Empty object: nothing.
    pub configuration: serde_json::Value,
    /// `CREATING`, `ACTIVE`, `UPDATING` … as EKS shows it.
    pub status: String,
    /// Grows with every change; [`super::Eks::report_addon`] takes it.
    pub generation: u64,
}

/// A managed node group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodegroupView {
    /// Its name.
    pub name: String,
    /// Labels that its nodes register with, beside those that every node has.
    pub labels: wire::Texts,
    /// Taints that its nodes register with, in Kubernetes' words.
    pub taints: Vec<TaintView>,
    /// `ON_DEMAND` or `SPOT`: the label `eks.amazonaws.com/capacityType`.
    pub capacity_type: String,
    /// Its instances that are not terminated.
    pub instances: Vec<InstanceId>,
}

/// A taint in Kubernetes' words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaintView {
    /// Its key.
    pub key: String,
    /// Its value, perhaps empty.
    pub value: String,
    /// `NoSchedule`, `NoExecute`, `PreferNoSchedule`.
    pub effect: &'static str,
}

/// Who of AWS is who in Kubernetes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessView {
    /// The user or role.
    pub principal_arn: String,
    /// The user in Kubernetes; may have `{{SessionName}}` or `{{EC2PrivateDNSName}}` in it.
    pub username: String,
    /// Groups in Kubernetes.
    pub groups: Vec<String>,
    /// Policies of EKS.
    pub policies: Vec<PolicyView>,
}

/// A policy of EKS: rights that are given without an object of RBAC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyView {
    /// `AmazonEKSClusterAdminPolicy` …
    pub name: String,
    /// The namespaces where it holds; `None`: the whole cluster.
    pub namespaces: Option<Vec<String>>,
}

fn id<T: std::str::FromStr>(text: &impl ToString) -> T
where
    T::Err: std::fmt::Debug,
{
    text.to_string()
        .parse()
        .expect("our own ids have EC2's form")
}

/// All clusters, by name.
pub(crate) fn views(state: &State) -> Vec<ClusterView> {
    state
        .eks
        .clusters
        .values()
        .map(|c| view(state, c))
        .collect()
}

fn view(state: &State, c: &Cluster) -> ClusterView {
    let config = &c.wire.resources_vpc_config;
    let enis = (0..).zip(&c.enis).filter_map(|(device, eni)| {
        let record = state.enis.get(eni)?;
        Some(ClusterEni {
            id: id(eni),
            subnet: id(&record.subnet),
            zone: state.zone_name(state.subnets[&record.subnet].zone),
            address: record.primary,
            device,
        })
    });
    let enis: Vec<ClusterEni> = enis.collect();
    let mut subnets: Vec<SubnetId> = enis.iter().map(|e| e.subnet.clone()).collect();
    let others = c.subnets.iter().map(id::<SubnetId>);
    subnets.extend(others.filter(|s| !enis.iter().any(|e| e.subnet == *s)));
    let issuer = c
        .wire
        .identity
        .as_ref()
        .and_then(|i| i.oidc.as_ref()?.issuer.clone());
    let mode = c
        .wire
        .access_config
        .as_ref()
        .and_then(|a| a.authentication_mode.clone());
    ClusterView {
        name: c.wire.name.clone(),
        arn: c.wire.arn.clone(),
        status: match c.wire.status.as_str() {
            "ACTIVE" => ClusterStatus::Active,
            "FAILED" => ClusterStatus::Failed,
            _ => ClusterStatus::Creating,
        },
        version: c.wire.version.clone(),
        service_cidr: c.service_cidr,
        vpc: id(&c.vpc),
        subnets,
        enis,
        host: cluster::host(&c.wire.name),
        cluster_security_group: id(&c.group),
        security_groups: c.groups.iter().map(id).collect(),
        public_access: config.endpoint_public_access,
        private_access: config.endpoint_private_access,
        public_access_cidrs: config.public_access_cidrs.clone(),
        issuer: issuer.unwrap_or_default(),
        self_managed_addons: c.self_managed_addons,
        authentication_mode: mode.unwrap_or_default(),
        addons: c.addons.values().map(addon).collect(),
        nodegroups: c
            .nodegroups
            .values()
            .map(|n| nodegroup_view(state, n))
            .collect(),
        access_entries: c.access.values().map(access_view).collect(),
    }
}

fn addon(a: &Addon) -> AddonView {
    AddonView {
        name: a.wire.addon_name.clone(),
        version: a.wire.addon_version.clone(),
        configuration: a.configuration.clone(),
        status: a.wire.status.clone(),
        generation: a.generation,
    }
}

fn nodegroup_view(state: &State, n: &Nodegroup) -> NodegroupView {
    let taint = |t: &wire::Taint| TaintView {
        key: t.key.clone().unwrap_or_default(),
        value: t.value.clone().unwrap_or_default(),
        effect: match t.effect.as_deref() {
            Some("NO_EXECUTE") => "NoExecute",
            Some("PREFER_NO_SCHEDULE") => "PreferNoSchedule",
            _ => "NoSchedule",
        },
    };
    NodegroupView {
        name: n.wire.nodegroup_name.clone(),
        labels: n.wire.labels.clone(),
        taints: n.wire.taints.iter().map(taint).collect(),
        capacity_type: n.wire.capacity_type.clone(),
        instances: nodegroup::alive(state, n).iter().map(id).collect(),
    }
}

fn access_view(a: &Access) -> AccessView {
    AccessView {
        principal_arn: a.wire.principal_arn.clone(),
        username: a.wire.username.clone(),
        groups: a.wire.kubernetes_groups.clone(),
        policies: policies(a),
    }
}

/// The policies of an entry.
pub(super) fn policies(a: &Access) -> Vec<PolicyView> {
    let policy = |p: &wire::AssociatedAccessPolicy| PolicyView {
        name: access::policy_name(&p.policy_arn).to_owned(),
        namespaces: match p.access_scope.type_.as_deref() {
            Some("namespace") => Some(p.access_scope.namespaces.clone()),
            _ => None,
        },
    };
    a.policies.values().map(policy).collect()
}
