//! What the embedded EKS knows: one record per cluster, owned by [`crate::State`] beside EC2's records.
//!
//! A record keeps what EKS answers (the wire type) and, typed, what the lab and EC2 need. Names of groups, subnets
//! and interfaces are EC2's ids.

use std::collections::BTreeMap;

use ec2::eks as wire;
use ipnet::Ipv4Net;

use crate::ids::{EniId, GroupId, InstanceId, SubnetId, TemplateId, VpcId};

/// Clusters by name.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Store {
    pub(crate) clusters: BTreeMap<String, Cluster>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Cluster {
    pub(crate) wire: wire::Cluster,
    pub(crate) vpc: VpcId,
    pub(crate) service_cidr: Ipv4Net,
    /// `eks-cluster-sg-NAME-ID`.
    pub(crate) group: GroupId,
    /// Those of the request, in their order.
    pub(crate) groups: Vec<GroupId>,
    pub(crate) subnets: Vec<SubnetId>,
    /// The control plane's interfaces, in the order of their device index.
    pub(crate) enis: Vec<EniId>,
    /// Whether the cluster starts with vpc-cni, kube-proxy and CoreDNS that EKS does not manage.
    pub(crate) self_managed_addons: bool,
    pub(crate) nodegroups: BTreeMap<String, Nodegroup>,
    pub(crate) fargate: BTreeMap<String, Token<wire::FargateProfile>>,
    pub(crate) addons: BTreeMap<String, Addon>,
    /// By the principal's ARN.
    pub(crate) access: BTreeMap<String, Access>,
    /// By id.
    pub(crate) updates: BTreeMap<String, Update>,
}

/// Something that a request with an idempotency token has made.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Token<T> {
    pub(crate) wire: T,
    pub(crate) token: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Nodegroup {
    /// Its `status` is made when it is asked for: the nodes' own.
    pub(crate) wire: wire::Nodegroup,
    pub(crate) subnets: Vec<SubnetId>,
    /// EKS's own launch template of the group, `eks-ID`; the user's is `wire.launch_template`.
    pub(crate) template: TemplateId,
    /// In the order in which they were launched.
    pub(crate) instances: Vec<InstanceId>,
    pub(crate) token: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Addon {
    pub(crate) wire: wire::Addon,
    /// `wire.configuration_values`, read.
    pub(crate) configuration: serde_json::Value,
    /// Grows with every change, so that a report names the one that it is about.
    pub(crate) generation: u64,
    pub(crate) token: Option<String>,
    /// The update that waits for the lab's report.
    pub(crate) update: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Access {
    pub(crate) wire: wire::AccessEntry,
    /// By the policy's ARN.
    pub(crate) policies: BTreeMap<String, wire::AssociatedAccessPolicy>,
    pub(crate) token: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Update {
    pub(crate) wire: wire::Update,
    /// The node group or add-on that it changes; neither: the cluster.
    pub(crate) nodegroup: Option<String>,
    pub(crate) addon: Option<String>,
}
