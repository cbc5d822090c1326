//! Clusters, their add-ons and node groups, through the EKS API.

use ec2::eks;
use ec2::eks::{
    AccessConfig, Client, CreateAddonRequest, CreateClusterRequest, CreateNodegroupRequest,
    KubernetesNetworkConfigRequest, LaunchTemplateSpecification, NodegroupScalingConfig, Operation,
    VpcConfigRequest,
};
use ec2::types::{CreateLaunchTemplateRequest, RequestLaunchTemplateData, Tag};
use serde_json::{Value, json};

use super::{Builder, id, named, said};
use crate::error::Error;
use crate::topology::{Cluster, Nodegroup, Ref, Taint};

/// The role of every control plane.
const CLUSTER_ROLE: &str = "branchline-cluster";

/// The way to EKS and whose clusters they are.
#[derive(Debug, Clone)]
pub struct Eks {
    /// The client.
    pub client: Client,
    /// The account that owns everything, 12 digits.
    pub account: String,
}

impl Eks {
    fn role(&self, name: &str) -> String {
        format!("arn:aws:iam::{}:role/{name}", self.account)
    }
}

/// The tag by which an instance belongs to a cluster.
pub(super) fn owned(cluster: &str) -> Tag {
    Tag {
        key: Some(format!("kubernetes.io/cluster/{cluster}")),
        value: Some("owned".to_owned()),
    }
}

impl Builder<'_> {
    async fn eks<O: Operation>(&self, cluster: &str, request: O) -> Result<O::Output, Error> {
        let failed = |source| Error::Eks {
            cluster: cluster.to_owned(),
            source: Box::new(source),
        };
        self.eks.client.call(request).await.map_err(failed)
    }

    /// Asks for the clusters: their groups and interfaces are there at once.
    pub(super) async fn clusters(&mut self) -> Result<(), Error> {
        for cluster in &self.topology.clusters {
            let name = &cluster.name.value;
            let request = self.cluster(cluster).await?;
            let made = self.eks(name, request).await?.cluster;
            let group = made.resources_vpc_config.cluster_security_group_id;
            let group = said(group, name, "clusterSecurityGroupId")?;
            self.cluster_groups.insert(name.clone(), group);
        }
        Ok(())
    }

    async fn cluster(&self, cluster: &Cluster) -> Result<CreateClusterRequest, Error> {
        let first = cluster.subnets.first().map_or("", |s| s.value.as_str());
        let groups = cluster.security_groups.iter().map(|g| &g.value);
        let network = VpcConfigRequest {
            subnet_ids: self.subnet_ids(&cluster.subnets),
            security_group_ids: self.group_ids(self.vpc_of(first), groups).await?,
            endpoint_public_access: Some(cluster.endpoint_public_access),
            // Nodes always reach the control plane by its interfaces.
            endpoint_private_access: Some(true),
            ..Default::default()
        };
        let services = cluster.service_cidr.value.to_string();
        Ok(CreateClusterRequest {
            name: cluster.name.value.clone(),
            role_arn: self.eks.role(CLUSTER_ROLE),
            resources_vpc_config: Some(network),
            kubernetes_network_config: Some(KubernetesNetworkConfigRequest {
                service_ipv4_cidr: Some(services),
                ..Default::default()
            }),
            access_config: Some(AccessConfig {
                authentication_mode: Some("API".to_owned()),
                bootstrap_cluster_creator_admin_permissions: Some(true),
            }),
            // They come as add-ons, with the topology's configuration.
            bootstrap_self_managed_addons: Some(false),
            ..Default::default()
        })
    }

    fn subnet_ids(&self, names: &[Ref]) -> Vec<String> {
        names
            .iter()
            .filter_map(|n| id(&self.subnets, &n.value))
            .collect()
    }

    /// Add-ons and node groups of a cluster that is ACTIVE.
    pub(super) async fn furnish(&self, cluster: &Cluster) -> Result<(), Error> {
        let name = &cluster.name.value;
        for (addon, values) in configurations(cluster) {
            let request = CreateAddonRequest {
                cluster_name: name.clone(),
                addon_name: addon.to_owned(),
                resolve_conflicts: Some("OVERWRITE".to_owned()),
                configuration_values: values.map(|v| v.to_string()),
                ..Default::default()
            };
            self.eks(name, request).await?;
        }
        for group in &cluster.nodegroups {
            let request = self.nodegroup(cluster, group).await?;
            self.eks(name, request).await?;
        }
        Ok(())
    }

    async fn nodegroup(
        &self,
        cluster: &Cluster,
        group: &Nodegroup,
    ) -> Result<CreateNodegroupRequest, Error> {
        let subnets = match group.subnets.as_slice() {
            [] => &cluster.subnets,
            own => own,
        };
        let size = i32::try_from(group.size.value).ok();
        Ok(CreateNodegroupRequest {
            cluster_name: cluster.name.value.clone(),
            nodegroup_name: group.name.value.clone(),
            subnets: self.subnet_ids(subnets),
            node_role: self.eks.role(super::instance::NODE_ROLE),
            instance_types: vec![group.instance_type.clone()],
            labels: group.labels.clone(),
            taints: group.taints.iter().map(taint).collect(),
            scaling_config: Some(NodegroupScalingConfig {
                min_size: Some(0),
                // The greatest that EKS takes by default.
                max_size: Some(450),
                desired_size: size,
            }),
            launch_template: self.nodegroup_template(cluster, group).await?,
            ..Default::default()
        })
    }

    /// Groups of a managed node can be given by a launch template only.
    async fn nodegroup_template(
        &self,
        cluster: &Cluster,
        group: &Nodegroup,
    ) -> Result<Option<LaunchTemplateSpecification>, Error> {
        if group.groups.is_empty() {
            return Ok(None);
        }
        let name = format!("{}-{}", cluster.name.value, group.name.value);
        let first = cluster.subnets.first().map_or("", |s| s.value.as_str());
        let groups = group.groups.iter().map(|g| &g.value);
        let request = CreateLaunchTemplateRequest {
            launch_template_name: Some(name.clone()),
            launch_template_data: Some(RequestLaunchTemplateData {
                security_group_ids: self.group_ids(self.vpc_of(first), groups).await?,
                ..Default::default()
            }),
            tag_specifications: named("launch-template", &name),
            ..Default::default()
        };
        self.call(&name, request).await?;
        Ok(Some(LaunchTemplateSpecification {
            name: Some(name),
            ..Default::default()
        }))
    }
}

fn taint(taint: &Taint) -> eks::Taint {
    eks::Taint {
        key: Some(taint.key.clone()),
        value: taint.value.clone(),
        effect: Some(taint.effect.eks().to_owned()),
    }
}

/// The three add-ons with what the topology says about each.
fn configurations(cluster: &Cluster) -> [(&'static str, Option<Value>); 3] {
    let given =
        |values: &Option<serde_saphyr::Spanned<Value>>| values.as_ref().map(|v| v.value.clone());
    let addons = &cluster.addons;
    let mut proxy = given(&addons.kube_proxy).unwrap_or_else(|| json!({}));
    if let Some(values) = proxy.as_object_mut() {
        let mode = cluster.proxy_mode.as_str();
        values.entry("mode").or_insert_with(|| mode.into());
    }
    [
        ("vpc-cni", given(&addons.vpc_cni)),
        ("kube-proxy", Some(proxy)),
        ("coredns", given(&addons.coredns)),
    ]
}
