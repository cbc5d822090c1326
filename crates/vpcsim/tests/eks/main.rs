//! Clusters as the lab sees them, our own client of EKS and STS against the API on real sockets, and tokens made with
//! the credentials that instance metadata hands out.
#![expect(
    clippy::unwrap_used,
    reason = "the helpers of a test fail it by panicking"
)]

mod client;
mod clusters;
mod nodegroups;
mod tokens;

use std::net::TcpListener;

use ec2::Credentials;
use ec2::eks::*;
use ec2::types::{CreateSecurityGroupRequest, CreateSubnetRequest, CreateVpcRequest};
use vpcsim::eks::ClusterView;
use vpcsim::{Caller, Config, Sim};

const NODE_ROLE: &str = "arn:aws:iam::111122223333:role/node";

fn some(text: impl ToString) -> Option<String> {
    Some(text.to_string())
}

struct Lab {
    sim: Sim,
    vpc: String,
    subnets: Vec<String>,
    /// A group for "additional security groups".
    shared: String,
}

/// A VPC with a subnet in each of two zones. It lies in 127/8, whose addresses are all this machine's: a socket bound
/// to an interface's address is that interface to instance metadata.
async fn lab() -> Lab {
    let sim = Sim::new(Config::default());
    let request = CreateVpcRequest {
        cidr_block: some("127.78.0.0/16"),
        ..Default::default()
    };
    let vpc = sim
        .call(&request)
        .await
        .unwrap()
        .vpc
        .unwrap()
        .vpc_id
        .unwrap();
    let mut subnets = Vec::new();
    for (cidr, zone) in [
        ("127.78.1.0/24", "us-west-2a"),
        ("127.78.2.0/24", "us-west-2b"),
    ] {
        let request = CreateSubnetRequest {
            vpc_id: some(&vpc),
            cidr_block: some(cidr),
            availability_zone: some(zone),
            ..Default::default()
        };
        subnets.push(
            sim.call(&request)
                .await
                .unwrap()
                .subnet
                .unwrap()
                .subnet_id
                .unwrap(),
        );
    }
    let request = CreateSecurityGroupRequest {
        group_name: some("shared"),
        description: some("shared"),
        vpc_id: some(&vpc),
        ..Default::default()
    };
    let shared = sim.call(&request).await.unwrap().group_id.unwrap();
    Lab {
        sim,
        vpc,
        subnets,
        shared,
    }
}

impl Lab {
    fn request(&self, name: &str) -> CreateClusterRequest {
        CreateClusterRequest {
            name: name.into(),
            role_arn: "arn:aws:iam::111122223333:role/eks".into(),
            resources_vpc_config: Some(VpcConfigRequest {
                subnet_ids: self.subnets.clone(),
                security_group_ids: vec![self.shared.clone()],
                ..Default::default()
            }),
            access_config: Some(AccessConfig {
                authentication_mode: some("API"),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    /// An ACTIVE cluster.
    async fn cluster(&self, name: &str) -> Cluster {
        let eks = self.sim.eks();
        eks.call(&self.request(name)).await.unwrap();
        eks.set_cluster_active(name, "https://127.0.0.1:6443", "Q0E=")
            .unwrap();
        let request = DescribeClusterRequest { name: name.into() };
        eks.call(&request).await.unwrap().cluster
    }

    async fn nodegroup(&self, desired: i32) -> Nodegroup {
        let request = CreateNodegroupRequest {
            cluster_name: "dev".into(),
            nodegroup_name: "ng".into(),
            node_role: NODE_ROLE.into(),
            subnets: self.subnets.clone(),
            labels: [("role".to_owned(), "web".to_owned())].into(),
            taints: vec![Taint {
                key: some("a"),
                value: None,
                effect: some("NO_EXECUTE"),
            }],
            scaling_config: Some(NodegroupScalingConfig {
                min_size: Some(0),
                max_size: Some(5),
                desired_size: Some(desired),
            }),
            ..Default::default()
        };
        self.sim.eks().call(&request).await.unwrap().nodegroup
    }

    /// While the cluster is not active, it takes no group.
    async fn nodegroup_refused(&self) {
        let request = CreateNodegroupRequest {
            cluster_name: "dev".into(),
            nodegroup_name: "ng".into(),
            node_role: NODE_ROLE.into(),
            subnets: self.subnets.clone(),
            ..Default::default()
        };
        let error = self.sim.eks().call(&request).await.unwrap_err();
        assert_eq!(error.code, "InvalidRequestException");
    }

    fn view(&self) -> Vec<ClusterView> {
        self.sim.eks().clusters().borrow().to_vec()
    }

    /// A user whose secret the account knows.
    fn user(&self, name: &str) -> Credentials {
        let key = format!("AKID{}", name.to_uppercase());
        let arn = format!("arn:aws:iam::111122223333:user/{name}");
        let caller = Caller {
            arn,
            access_key: key.clone(),
            ..Caller::root("111122223333")
        };
        self.sim.add_access_key(caller, "secret");
        Credentials::new(key, "secret", None, None, "test")
    }
}

async fn api(sim: &Sim) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let sim = sim.clone();
    tokio::spawn(async move { sim.serve_api(listener, true).await });
    format!("http://{at}")
}

fn builder(endpoint: &str, credentials: Credentials) -> ec2::client::Builder {
    ec2::Client::builder()
        .region("us-west-2")
        .endpoint(endpoint)
        .credentials(credentials)
}
