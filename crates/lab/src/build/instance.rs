//! Interfaces of hosts, launch templates, instances.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ec2::types::{
    AttributeBooleanValue, CreateLaunchTemplateRequest, CreateNetworkInterfaceRequest,
    LaunchTemplateIamInstanceProfileSpecificationRequest, LaunchTemplateSpecification,
    ModifyNetworkInterfaceAttributeRequest, RequestLaunchTemplateData, RunInstancesRequest,
};

use super::cluster::owned;
use super::{Builder, BuiltHost, BuiltNode, id, named, said};
use crate::error::Error;
use crate::topology::{Host, HostKind, Node};

/// Images are not modelled; RunInstances wants one.
const IMAGE: &str = "ami-0b1a2c3d4e5f60718";

/// The role of every node: where its agent's credentials come from, as on EKS.
pub(super) const NODE_ROLE: &str = "branchline-node";

impl Builder<'_> {
    pub(super) async fn hosts(&mut self) -> Result<(), Error> {
        for host in self
            .topology
            .hosts
            .iter()
            .filter(|h| h.kind != HostKind::Internet)
        {
            let built = self.host(host).await?;
            self.hosts.insert(host.name.value.clone(), built);
        }
        Ok(())
    }

    async fn host(&self, host: &Host) -> Result<BuiltHost, Error> {
        let name = &host.name.value;
        let subnet = host.subnet.as_ref().map_or("", |s| s.value.as_str());
        let groups = host.groups.iter().map(|g| &g.value);
        let description = match (&host.description, host.kind) {
            (Some(text), _) => text.clone(),
            // What RDS writes on the interfaces of its databases.
            (None, HostKind::Rds) => "RDSNetworkInterface".to_owned(),
            (None, _) => name.clone(),
        };
        let request = CreateNetworkInterfaceRequest {
            description: Some(description),
            groups: self.group_ids(self.vpc_of(subnet), groups).await?,
            private_ip_address: host.address.as_ref().map(|a| a.value.to_string()),
            subnet_id: id(&self.subnets, subnet),
            tag_specifications: named("network-interface", name),
            ..Default::default()
        };
        let made = self
            .call(name, request)
            .await?
            .network_interface
            .unwrap_or_default();
        let eni = said(made.network_interface_id, name, "networkInterfaceId")?;
        let address = address(made.private_ip_address, name)?;
        if !host.source_dest_check {
            let request = ModifyNetworkInterfaceAttributeRequest {
                network_interface_id: Some(eni.clone()),
                source_dest_check: Some(AttributeBooleanValue { value: Some(false) }),
                ..Default::default()
            };
            self.call(name, request).await?;
        }
        Ok(BuiltHost { eni, address })
    }

    /// The VPC in which a subnet was defined.
    pub(super) fn vpc_of(&self, subnet: &str) -> &str {
        let mut vpcs = self.topology.vpcs.iter();
        let owner = vpcs.find(|v| v.subnets.iter().any(|s| s.name.value == subnet));
        owner.map_or("", |v| v.name.value.as_str())
    }

    /// One launch template per name; the nodes that share one were checked to agree.
    pub(super) async fn templates(&mut self) -> Result<(), Error> {
        let templates: BTreeMap<&str, &Node> = self
            .topology
            .nodes
            .iter()
            .map(|n| (template(n), n))
            .collect();
        for (name, node) in templates {
            let vpc = self.vpc_of(&node.subnet.value);
            let mut groups = self
                .group_ids(vpc, node.groups.iter().map(|g| &g.value))
                .await?;
            if let Some(cluster) = &node.cluster
                && groups.is_empty()
            {
                groups.extend(id(&self.cluster_groups, &cluster.value));
            }
            let data = RequestLaunchTemplateData {
                image_id: Some(IMAGE.to_owned()),
                iam_instance_profile: Some(LaunchTemplateIamInstanceProfileSpecificationRequest {
                    name: Some(NODE_ROLE.to_owned()),
                    ..Default::default()
                }),
                instance_type: Some(node.instance_type.clone()),
                security_group_ids: groups,
                ..Default::default()
            };
            let request = CreateLaunchTemplateRequest {
                launch_template_name: Some(name.to_owned()),
                launch_template_data: Some(data),
                tag_specifications: named("launch-template", name),
                ..Default::default()
            };
            self.call(name, request).await?;
        }
        Ok(())
    }

    pub(super) async fn instances(&self) -> Result<BTreeMap<String, BuiltNode>, Error> {
        let mut built = BTreeMap::new();
        for (name, node) in self.topology.instances() {
            let mut tags = named("instance", &name);
            if let (Some(cluster), Some(of_instance)) = (&node.cluster, tags.first_mut()) {
                of_instance.tags.push(owned(&cluster.value));
            }
            tags.extend(named("network-interface", &name));
            let request = RunInstancesRequest {
                min_count: Some(1),
                max_count: Some(1),
                launch_template: Some(LaunchTemplateSpecification {
                    launch_template_name: Some(template(node).to_owned()),
                    version: Some("$Latest".to_owned()),
                    ..Default::default()
                }),
                private_ip_address: node.address.as_ref().map(|a| a.value.to_string()),
                subnet_id: id(&self.subnets, &node.subnet.value),
                tag_specifications: tags,
                ..Default::default()
            };
            let made = self
                .call(&name, request)
                .await?
                .instances
                .into_iter()
                .next();
            let made = made.unwrap_or_default();
            let node = BuiltNode {
                instance: said(made.instance_id, &name, "instanceId")?,
                address: address(made.private_ip_address, &name)?,
            };
            built.insert(name, node);
        }
        Ok(built)
    }
}

fn template(node: &Node) -> &str {
    node.launch_template
        .as_ref()
        .map_or(&node.name.value, |t| &t.value)
}

fn address(text: Option<String>, what: &str) -> Result<Ipv4Addr, Error> {
    let parsed = text.and_then(|t| t.parse().ok());
    said(parsed, what, "privateIpAddress")
}
