//! Clusters of a topology: what an operator would give `aws eks create-cluster`, `create-nodegroup`
//! and `create-addon`.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::Deserialize;
use serde_saphyr::Spanned;

use super::Ref;

/// A Kubernetes cluster whose control plane stands behind two interfaces in the VPC.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Cluster {
    /// Its name, unique in the file.
    pub name: Ref,
    /// The VPC of its subnets; need not be written.
    pub vpc: Option<Ref>,
    /// The control plane has one interface in each: two subnets in different zones.
    pub subnets: Vec<Ref>,
    /// Groups of the control plane's interfaces besides the cluster security group.
    #[serde(default)]
    pub security_groups: Vec<Ref>,
    /// Addresses of Services; `.1` is the API server, `.10` the cluster's DNS.
    #[serde(default = "default_service_cidr")]
    pub service_cidr: Spanned<Ipv4Net>,
    /// `false`: the API server answers only inside of the VPC.
    #[serde(default = "super::yes")]
    pub endpoint_public_access: bool,
    /// How kube-proxy programs Services.
    #[serde(default)]
    pub proxy_mode: ProxyMode,
    /// Managed node groups.
    #[serde(default)]
    pub nodegroups: Vec<Nodegroup>,
    /// Configuration of the add-ons, where it differs from the defaults.
    #[serde(default)]
    pub addons: Addons,
}

fn default_service_cidr() -> Spanned<Ipv4Net> {
    let net = Ipv4Net::new(Ipv4Addr::new(172, 20, 0, 0), 16).expect("16 is a prefix length");
    let nowhere = serde_saphyr::Location::UNKNOWN;
    Spanned::new(net, nowhere, nowhere)
}

/// How kube-proxy programs Services.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProxyMode {
    /// EKS's default.
    #[default]
    Iptables,
    /// kube-proxy's newer mode.
    Nftables,
}

impl ProxyMode {
    /// As kube-proxy's configuration names it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Iptables => "iptables",
            Self::Nftables => "nftables",
        }
    }
}

/// A managed node group.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Nodegroup {
    /// Its name, unique in the cluster.
    pub name: Ref,
    /// Instance type.
    #[serde(rename = "type", default = "super::default_type")]
    pub instance_type: String,
    /// Subnets of its instances; the cluster's when left out.
    #[serde(default)]
    pub subnets: Vec<Ref>,
    /// How many instances.
    #[serde(default = "super::one")]
    pub size: Spanned<u32>,
    /// Groups of its instances, given through a launch template. Then they do not get the cluster
    /// security group, as on EKS.
    #[serde(default)]
    pub groups: Vec<Ref>,
    /// Labels of its Kubernetes nodes.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Taints of its Kubernetes nodes.
    #[serde(default)]
    pub taints: Vec<Taint>,
}

/// A taint of a node group's Kubernetes nodes.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Taint {
    /// Its key.
    pub key: String,
    /// Its value; none when left out.
    pub value: Option<String>,
    /// What it does to pods that do not tolerate it.
    pub effect: TaintEffect,
}

/// What a taint does, in Kubernetes' words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum TaintEffect {
    /// New pods stay away.
    NoSchedule,
    /// New pods stay away if they can.
    PreferNoSchedule,
    /// Pods that are there leave too.
    NoExecute,
}

impl TaintEffect {
    /// In EKS's words.
    #[must_use]
    pub fn eks(self) -> &'static str {
        match self {
            Self::NoSchedule => "NO_SCHEDULE",
            Self::PreferNoSchedule => "PREFER_NO_SCHEDULE",
            Self::NoExecute => "NO_EXECUTE",
        }
    }
}

/// Configuration of a cluster's add-ons, in the form of `aws eks create-addon
/// --configuration-values`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Addons {
    /// Values of the chart `aws-vpc-cni`.
    pub vpc_cni: Option<Spanned<serde_json::Value>>,
    /// Values of CoreDNS: `replicaCount`, `nodeSelector`.
    pub coredns: Option<Spanned<serde_json::Value>>,
    /// Values of kube-proxy: `mode`.
    pub kube_proxy: Option<Spanned<serde_json::Value>>,
}
