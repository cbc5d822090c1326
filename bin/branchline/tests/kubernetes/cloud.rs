//! The embedded EC2 with a VPC, a database, control-plane interfaces and nodes.

use std::net::{Ipv4Addr, TcpListener};

use ec2::types::*;
use vpcsim::{Config, Sim};

/// A node's instance.
#[derive(Debug, Clone)]
pub(crate) struct Machine {
    pub(crate) instance: String,
    /// What Kubernetes calls it.
    pub(crate) name: String,
    pub(crate) address: Ipv4Addr,
    /// Interfaces with the addresses that pods can have, by device.
    pub(crate) enis: Vec<(String, Vec<Ipv4Addr>)>,
}

/// The account.
pub(crate) struct Cloud {
    pub(crate) sim: Sim,
    pub(crate) url: String,
    vpc: String,
    subnet: String,
    pub(crate) nodes: String,
    pub(crate) add_sg: String,
    pub(crate) database: Ipv4Addr,
    /// The API server's interface in the VPC.
    pub(crate) control_plane: Ipv4Addr,
}

fn some(text: impl ToString) -> Option<String> {
    Some(text.to_string())
}

impl Cloud {
    /// `add_sg` admits 5432 from itself and is on the database; the nodes' group admits itself.
    pub(crate) async fn start() -> Self {
        let sim = Sim::new(Config::default());
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("its address"));
        let serving = sim.clone();
        tokio::spawn(async move { serving.serve_api(listener, true).await });
        let vpc = CreateVpcRequest {
            cidr_block: some("10.0.0.0/16"),
            ..Default::default()
        };
        let vpc = sim
            .call(&vpc)
            .await
            .expect("a VPC")
            .vpc
            .and_then(|v| v.vpc_id)
            .expect("its id");
        let subnet = CreateSubnetRequest {
            vpc_id: some(&vpc),
            cidr_block: some("10.0.0.0/20"),
            availability_zone: some("us-west-2a"),
            ..Default::default()
        };
        let subnet = sim
            .call(&subnet)
            .await
            .expect("a subnet")
            .subnet
            .and_then(|s| s.subnet_id);
        let subnet = subnet.expect("its id");
        let nodes = group(&sim, &vpc, "nodes").await;
        let add_sg = group(&sim, &vpc, "add_sg").await;
        let control = group(&sim, &vpc, "eks-cluster-sg-dev-1").await;
        admit(&sim, &nodes, "-1", None, &nodes).await;
        admit(&sim, &add_sg, "tcp", Some(5432), &add_sg).await;
        admit(&sim, &control, "-1", None, &nodes).await;
        let database = eni(
            &sim,
            &subnet,
            &[&add_sg],
            "RDSNetworkInterface",
            Some("orders"),
            0,
        )
        .await;
        let (id, control_plane) = eni(&sim, &subnet, &[&control], "Amazon EKS dev", None, 0).await;
        for (id, owner) in [(&database.0, "amazon-rds"), (&id, "amazon-eks")] {
            let id = id.parse().expect("an id");
            sim.attach_managed(&id, owner, owner)
                .await
                .expect("attached");
        }
        Self {
            sim,
            url,
            vpc,
            subnet,
            nodes,
            add_sg,
            database: database.1[0],
            control_plane: control_plane[0],
        }
    }

    /// An EKS cluster of that name with the add-on `vpc-cni`, configured so.
    pub(crate) async fn addon(&self, cluster: &str, configuration: &str) {
        let second = CreateSubnetRequest {
            vpc_id: some(&self.vpc),
            cidr_block: some("10.0.16.0/20"),
            availability_zone: some("us-west-2b"),
            ..Default::default()
        };
        let second = self.sim.call(&second).await.expect("a subnet").subnet;
        let second = second.and_then(|s| s.subnet_id).expect("its id");
        let request = ec2::eks::CreateClusterRequest {
            name: cluster.to_owned(),
            role_arn: "arn:aws:iam::111122223333:role/eks".to_owned(),
            resources_vpc_config: Some(ec2::eks::VpcConfigRequest {
                subnet_ids: vec![self.subnet.clone(), second],
                ..Default::default()
            }),
            ..Default::default()
        };
        self.sim.eks().call(&request).await.expect("a cluster");
        let active = self
            .sim
            .eks()
            .set_cluster_active(cluster, "https://127.0.0.1:9", "");
        active.expect("the cluster is there");
        let request = ec2::eks::CreateAddonRequest {
            cluster_name: cluster.to_owned(),
            addon_name: "vpc-cni".to_owned(),
            configuration_values: some(configuration),
            ..Default::default()
        };
        self.sim.eks().call(&request).await.expect("an add-on");
    }

    /// An instance with all its interfaces, each full of secondary addresses.
    pub(crate) async fn machine(&self, kind: &str, interfaces: i32, addresses: i32) -> Machine {
        let run = RunInstancesRequest {
            image_id: some("ami-1"),
            instance_type: some(kind),
            subnet_id: some(&self.subnet),
            security_group_ids: vec![self.nodes.clone()],
            min_count: Some(1),
            max_count: Some(1),
            ..Default::default()
        };
        let made = self
            .sim
            .call(&run)
            .await
            .expect("an instance")
            .instances
            .remove(0);
        let instance = made.instance_id.expect("its id");
        let primary = made.network_interfaces[0]
            .network_interface_id
            .clone()
            .expect("its interface");
        let assign = AssignPrivateIpAddressesRequest {
            network_interface_id: some(&primary),
            secondary_private_ip_address_count: Some(addresses - 1),
            ..Default::default()
        };
        let assigned = self
            .sim
            .call(&assign)
            .await
            .expect("addresses")
            .assigned_private_ip_addresses;
        let parsed = assigned
            .iter()
            .filter_map(|a| a.private_ip_address.as_ref()?.parse().ok());
        let mut enis = vec![(primary, parsed.collect())];
        for device in 1..interfaces {
            let description = format!("aws-K8S-{instance}");
            let (id, all) = eni(
                &self.sim,
                &self.subnet,
                &[&self.nodes],
                &description,
                None,
                addresses - 1,
            )
            .await;
            let attach = AttachNetworkInterfaceRequest {
                network_interface_id: some(&id),
                instance_id: some(&instance),
                device_index: Some(device),
                ..Default::default()
            };
            self.sim.call(&attach).await.expect("attached");
            enis.push((id, all[1..].to_vec()));
        }
        Machine {
            instance,
            name: made.private_dns_name.expect("its name"),
            address: made
                .private_ip_address
                .expect("its address")
                .parse()
                .expect("an address"),
            enis,
        }
    }

    /// What the EC2 console does to "an instance": the groups of its primary interface.
    pub(crate) async fn attach_by_hand(&self, machine: &Machine) {
        self.groups_of_primary(machine, vec![self.nodes.clone(), self.add_sg.clone()])
            .await;
    }

    /// And back.
    pub(crate) async fn detach_by_hand(&self, machine: &Machine) {
        self.groups_of_primary(machine, vec![self.nodes.clone()])
            .await;
    }

    async fn groups_of_primary(&self, machine: &Machine, groups: Vec<String>) {
        let modify = ModifyNetworkInterfaceAttributeRequest {
            network_interface_id: some(&machine.enis[0].0),
            groups,
            ..Default::default()
        };
        self.sim.call(&modify).await.expect("groups");
    }
}

async fn group(sim: &Sim, vpc: &str, name: &str) -> String {
    let request = CreateSecurityGroupRequest {
        group_name: some(name),
        description: some(name),
        vpc_id: some(vpc),
        ..Default::default()
    };
    sim.call(&request)
        .await
        .expect("a group")
        .group_id
        .expect("its id")
}

async fn admit(sim: &Sim, group: &str, protocol: &str, port: Option<i32>, from: &str) {
    let request = AuthorizeSecurityGroupIngressRequest {
        group_id: some(group),
        ip_permissions: vec![IpPermission {
            ip_protocol: some(protocol),
            from_port: port,
            to_port: port,
            user_id_group_pairs: vec![UserIdGroupPair {
                group_id: some(from),
                ..Default::default()
            }],
            ..Default::default()
        }],
        ..Default::default()
    };
    sim.call(&request).await.expect("a rule");
}

async fn eni(
    sim: &Sim,
    subnet: &str,
    groups: &[&String],
    description: &str,
    name: Option<&str>,
    more: i32,
) -> (String, Vec<Ipv4Addr>) {
    let tags = name.map(|name| TagSpecification {
        resource_type: some("network-interface"),
        tags: vec![Tag {
            key: some("Name"),
            value: some(name),
        }],
    });
    let request = CreateNetworkInterfaceRequest {
        subnet_id: some(subnet),
        groups: groups.iter().map(|g| (*g).clone()).collect(),
        description: some(description),
        secondary_private_ip_address_count: (more > 0).then_some(more),
        tag_specifications: tags.into_iter().collect(),
        ..Default::default()
    };
    let made = sim
        .call(&request)
        .await
        .expect("an interface")
        .network_interface
        .expect("it");
    let addresses = made.private_ip_addresses.iter();
    let addresses = addresses.filter_map(|a| a.private_ip_address.as_ref()?.parse().ok());
    (
        made.network_interface_id.expect("its id"),
        addresses.collect(),
    )
}
