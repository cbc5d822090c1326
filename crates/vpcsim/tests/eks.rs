//! Clusters as the lab sees them, our own client of EKS and STS against the API on real sockets, and tokens made with
//! the credentials that instance metadata hands out.
#![expect(
    clippy::unwrap_used,
    reason = "the helpers of a test fail it by panicking"
)]

use std::net::TcpListener;
use std::sync::Arc;

use ec2::Credentials;
use ec2::eks::token::{self, TokenError};
use ec2::eks::*;
use ec2::types::{
    AuthorizeSecurityGroupIngressRequest, CreateLaunchTemplateRequest,
    CreateLaunchTemplateVersionRequest, CreateSecurityGroupRequest, CreateSubnetRequest,
    CreateVpcRequest, DescribeInstancesRequest, DescribeLaunchTemplateVersionsRequest,
    DescribeLaunchTemplatesRequest, IpPermission, LaunchTemplateVersion,
    ModifyLaunchTemplateRequest, RequestLaunchTemplateData, UserIdGroupPair,
};
use jiff::{SignedDuration, Timestamp};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use vpcsim::eks::{ClusterStatus, ClusterView};
use vpcsim::{Caller, Config, Sim};

const STS: &str = "https://sts.us-west-2.amazonaws.com";
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

#[tokio::test]
async fn the_lab_sees_clusters_come_change_and_go() {
    let lab = lab().await;
    let eks = lab.sim.eks();
    let mut clusters = eks.clusters();
    assert!(clusters.borrow_and_update().is_empty());
    eks.call(&lab.request("dev")).await.unwrap();
    assert!(clusters.has_changed().unwrap());
    let seen: Arc<Vec<ClusterView>> = clusters.borrow_and_update().clone();
    let dev = &seen[0];
    assert_eq!(
        (dev.name.as_str(), dev.status, dev.version.as_str()),
        ("dev", ClusterStatus::Creating, "1.36")
    );
    assert_eq!(
        dev.service_cidr.to_string(),
        "10.100.0.0/16",
        "the VPC is not of 10/8"
    );
    assert_eq!(dev.vpc.as_str(), lab.vpc);
    assert_eq!(
        dev.security_groups
            .iter()
            .map(|g| g.as_str())
            .collect::<Vec<_>>(),
        [lab.shared.as_str()]
    );
    assert!(dev.public_access && !dev.private_access && dev.self_managed_addons);
    let zones: Vec<_> = dev
        .enis
        .iter()
        .map(|e| (e.device, e.zone.as_str()))
        .collect();
    assert_eq!(zones, [(0, "us-west-2a"), (1, "us-west-2b")]);

    // The fabric is told to plug both into the control plane's host.
    let desired = lab.sim.desired().unwrap();
    for eni in &dev.enis {
        let at = &desired.attachments[&eni.id];
        assert_eq!(
            (at.host.as_str(), at.device),
            (dev.host.as_str(), eni.device)
        );
        let facts = &desired.world.enis[&eni.id];
        assert_eq!(facts.addresses[0].address, eni.address);
        let expected = [
            dev.cluster_security_group.clone(),
            lab.shared.parse().unwrap(),
        ]
        .into();
        assert_eq!(facts.groups, expected);
    }

    lab.nodegroup_refused().await;
    eks.set_cluster_failed("dev", "no etcd").unwrap();
    assert_eq!(
        clusters.borrow_and_update()[0].status,
        ClusterStatus::Failed
    );
    eks.set_cluster_active("dev", "https://127.0.0.1:6443", "Q0E=")
        .unwrap();
    assert_eq!(
        clusters.borrow_and_update()[0].status,
        ClusterStatus::Active
    );
    eks.set_cluster_active("dev", "https://127.0.0.1:6443", "Q0E=")
        .unwrap();
    assert!(
        !clusters.has_changed().unwrap(),
        "the same again is no change"
    );

    lab.nodegroup(3).await;
    let group = lab.view()[0].nodegroups[0].clone();
    assert_eq!(
        (group.labels["role"].as_str(), group.instances.len()),
        ("web", 3)
    );
    assert_eq!(
        (group.taints[0].key.as_str(), group.taints[0].effect),
        ("a", "NoExecute")
    );
    eks.call(&DeleteNodegroupRequest {
        cluster_name: "dev".into(),
        nodegroup_name: "ng".into(),
    })
    .await
    .unwrap();
    assert!(
        lab.view()[0]
            .nodegroups
            .iter()
            .all(|g| g.instances.is_empty())
    );

    eks.call(&DeleteClusterRequest { name: "dev".into() })
        .await
        .unwrap();
    assert!(lab.view().is_empty());
    let desired = lab.sim.desired().unwrap();
    assert!(
        dev.enis
            .iter()
            .all(|e| !desired.world.enis.contains_key(&e.id))
    );
    assert!(
        !desired
            .world
            .groups
            .contains_key(&dev.cluster_security_group)
    );
    assert_eq!(
        eks.set_cluster_active("dev", "", "").unwrap_err().code,
        "ResourceNotFoundException"
    );
}

impl Lab {
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
}

#[tokio::test]
async fn a_cluster_that_finds_no_address_leaves_nothing() {
    let mut lab = lab().await;
    // A subnet with 11 addresses, all of them taken.
    let request = CreateSubnetRequest {
        vpc_id: some(&lab.vpc),
        cidr_block: some("127.78.9.0/28"),
        availability_zone: some("us-west-2b"),
        ..Default::default()
    };
    let small = lab
        .sim
        .call(&request)
        .await
        .unwrap()
        .subnet
        .unwrap()
        .subnet_id
        .unwrap();
    let request = ec2::types::CreateNetworkInterfaceRequest {
        subnet_id: some(&small),
        secondary_private_ip_address_count: Some(10),
        ..Default::default()
    };
    lab.sim.call(&request).await.unwrap();
    lab.subnets[1] = small;
    let before = lab.sim.desired().unwrap();
    let error = lab.sim.eks().call(&lab.request("dev")).await.unwrap_err();
    assert!(
        error.message.contains("InsufficientFreeAddressesInSubnet"),
        "{error}"
    );
    let after = lab.sim.desired().unwrap();
    assert_eq!(before.world, after.world);
    assert!(lab.view().is_empty());
}

#[tokio::test]
async fn a_group_that_something_uses_outlives_its_cluster() {
    let lab = lab().await;
    let cluster = lab.cluster("dev").await;
    let group = cluster
        .resources_vpc_config
        .cluster_security_group_id
        .unwrap();
    let pair = UserIdGroupPair {
        group_id: some(&group),
        ..Default::default()
    };
    let request = AuthorizeSecurityGroupIngressRequest {
        group_id: some(&lab.shared),
        ip_permissions: vec![IpPermission {
            ip_protocol: some("-1"),
            user_id_group_pairs: vec![pair],
            ..Default::default()
        }],
        ..Default::default()
    };
    lab.sim.call(&request).await.unwrap();
    let deleted = lab
        .sim
        .eks()
        .call(&DeleteClusterRequest { name: "dev".into() })
        .await
        .unwrap()
        .cluster;
    let named = &deleted.health.issues[0].resource_ids;
    assert_eq!(named, std::slice::from_ref(&group));
    assert!(
        lab.sim
            .desired()
            .unwrap()
            .world
            .groups
            .contains_key(&group.parse().unwrap())
    );
}

#[tokio::test]
async fn our_client_of_eks_and_sts() {
    let lab = lab().await;
    let endpoint = api(&lab.sim).await;
    let me = lab.user("me");
    let eks = builder(&endpoint, me.clone()).build_eks().unwrap();
    let made = eks.call(lab.request("dev")).await.unwrap().cluster;
    assert_eq!(
        (made.name.as_str(), made.status.as_str()),
        ("dev", "CREATING")
    );
    assert!(
        made.client_request_token.is_some(),
        "the client fills in a token"
    );
    let missing = eks
        .call(DescribeClusterRequest {
            name: "nope".into(),
        })
        .await
        .unwrap_err();
    assert!(missing.is_not_found());
    assert_eq!(
        missing.to_string(),
        "eks:DescribeCluster: ResourceNotFoundException: No cluster found for name: nope."
    );
    let arn = "arn:aws:iam::111122223333:role/a/b c";
    let entry = CreateAccessEntryRequest {
        cluster_name: "dev".into(),
        principal_arn: arn.into(),
        ..Default::default()
    };
    eks.call(entry).await.unwrap();
    let request = DescribeAccessEntryRequest {
        cluster_name: "dev".into(),
        principal_arn: arn.into(),
    };
    assert_eq!(
        eks.call(request).await.unwrap().access_entry.principal_arn,
        arn
    );
    let denies =
        serde_json::from_str(r#"{"denies":[{"principal":"*user/me","action":"eks:List*"}]}"#)
            .unwrap();
    lab.sim.set_knobs(denies);
    let denied = eks.call(ListClustersRequest::default()).await.unwrap_err();
    assert!(denied.is_denied(), "{denied}");
    assert!(
        denied
            .to_string()
            .ends_with("(the IAM policy must allow eks:ListClusters)"),
        "{denied}"
    );
    assert_eq!(denied.iam_action().as_deref(), Some("eks:ListClusters"));

    lab.sim
        .set_knobs(serde_json::from_str(r#"{"strict_signatures":true}"#).unwrap());
    assert_eq!(
        eks.call(ListClustersRequest::default())
            .await
            .unwrap()
            .clusters,
        ["dev"]
    );
    let request = DescribeAccessEntryRequest {
        cluster_name: "dev".into(),
        principal_arn: arn.into(),
    };
    assert!(
        eks.call(request).await.is_ok(),
        "a path with escapes is signed as it is sent"
    );
    let sts = builder(&endpoint, me).build_sts().unwrap();
    let identity = sts.caller_identity().await.unwrap();
    assert_eq!(identity.arn, "arn:aws:iam::111122223333:user/me");
    assert!(identity.user_id.starts_with("AIDA"), "{}", identity.user_id);
    let wrong = Credentials::new("AKIDME", "wrong", None, None, "test");
    let refused = builder(&endpoint, wrong)
        .build_sts()
        .unwrap()
        .caller_identity()
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Some("SignatureDoesNotMatch"));
}

#[tokio::test]
async fn tokens_are_refused_by_name() {
    let lab = lab().await;
    lab.cluster("dev").await;
    lab.cluster("prod").await;
    let me = lab.user("me");
    let eks = lab.sim.eks();
    let now = Timestamp::now();
    let make = |by: &Credentials, cluster: &str, at: Timestamp| {
        token::make(by, "us-west-2", STS, cluster, at).unwrap()
    };
    let good = make(&me, "dev", now);
    assert_eq!(
        eks.authenticate(&good, "dev").unwrap().arn,
        "arn:aws:iam::111122223333:user/me"
    );

    let refused = |token: &str, cluster: &str| eks.authenticate(token, cluster).unwrap_err();
    let other = TokenError::OtherCluster {
        made_for: "dev".into(),
        cluster: "prod".into(),
    };
    assert_eq!(refused(&good, "prod"), other);
    assert_eq!(
        refused(&good, "nope"),
        TokenError::UnknownCluster {
            cluster: "nope".into()
        }
    );
    let old = make(&me, "dev", now - SignedDuration::from_mins(16));
    assert!(matches!(refused(&old, "dev"), TokenError::Expired { .. }));
    let early = make(&me, "dev", now + SignedDuration::from_mins(6));
    assert!(matches!(
        refused(&early, "dev"),
        TokenError::NotYetValid { .. }
    ));
    let unknown = Credentials::new("AKIDX", "secret", None, None, "test");
    let error = TokenError::UnknownAccessKey {
        access_key: "AKIDX".into(),
    };
    assert_eq!(refused(&make(&unknown, "dev", now), "dev"), error);
    let wrong = Credentials::new("AKIDME", "guess", None, None, "test");
    assert!(matches!(
        refused(&make(&wrong, "dev", now), "dev"),
        TokenError::Signature { .. }
    ));
    let session = Credentials::new("AKIDME", "secret", some("x"), None, "test");
    assert!(matches!(
        refused(&make(&session, "dev", now), "dev"),
        TokenError::SessionToken { .. }
    ));
    assert_eq!(refused("eyJ", "dev"), TokenError::Prefix);
}

/// One request of an instance to its metadata.
async fn metadata(
    from: std::net::IpAddr,
    to: std::net::SocketAddr,
    method: &str,
    path: &str,
    header: (&str, &str),
) -> String {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind((from, 0).into()).unwrap();
    let mut stream = socket.connect(to).await.unwrap();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{}: {}\r\n\r\n",
        header.0, header.1
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}

#[tokio::test]
async fn a_node_is_let_in_with_the_credentials_of_its_instance() {
    let lab = lab().await;
    lab.cluster("dev").await;
    lab.nodegroup(1).await;
    let instance = lab.view()[0].nodegroups[0].instances[0].to_string();
    let request = DescribeInstancesRequest {
        instance_ids: vec![instance.clone()],
        ..Default::default()
    };
    let described = lab
        .sim
        .call(&request)
        .await
        .unwrap()
        .reservations
        .remove(0)
        .instances
        .remove(0);
    let address: std::net::IpAddr = described.private_ip_address.unwrap().parse().unwrap();

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let (sim, vpc) = (lab.sim.clone(), lab.vpc.parse().unwrap());
    tokio::spawn(async move { sim.serve_imds(listener, vpc).await });
    let ttl = ("x-aws-ec2-metadata-token-ttl-seconds", "60");
    let session = metadata(address, at, "PUT", "/latest/api/token", ttl).await;
    let path = "/latest/meta-data/iam/security-credentials/node";
    let document = metadata(
        address,
        at,
        "GET",
        path,
        ("x-aws-ec2-metadata-token", &session),
    )
    .await;
    let document: serde_json::Value = serde_json::from_str(&document).unwrap();
    let text = |name: &str| document[name].as_str().unwrap().to_owned();
    let credentials = Credentials::new(
        text("AccessKeyId"),
        text("SecretAccessKey"),
        Some(text("Token")),
        None,
        "imds",
    );

    let identity = builder(&api(&lab.sim).await, credentials.clone())
        .build_sts()
        .unwrap()
        .caller_identity()
        .await
        .unwrap();
    assert_eq!(
        identity.arn,
        format!("arn:aws:sts::111122223333:assumed-role/node/{instance}")
    );
    assert_eq!(identity.session(), Some(instance.as_str()));
    let token = token::make(&credentials, "us-west-2", STS, "dev", Timestamp::now()).unwrap();
    let eks = lab.sim.eks();
    let caller = eks.authenticate(&token, "dev").unwrap();
    assert_eq!(caller, identity);
    let user = eks.user(&caller, "dev").unwrap().unwrap();
    let name = described.private_dns_name.unwrap();
    assert_eq!(
        (user.username, user.groups),
        (
            format!("system:node:{name}"),
            vec!["system:nodes".to_owned()]
        )
    );

    // Without its session token the key is worth nothing.
    let bare = Credentials::new(
        text("AccessKeyId"),
        text("SecretAccessKey"),
        None,
        None,
        "imds",
    );
    let token = token::make(&bare, "us-west-2", STS, "dev", Timestamp::now()).unwrap();
    assert!(matches!(
        eks.authenticate(&token, "dev"),
        Err(TokenError::SessionToken { .. })
    ));
    // A caller that no entry names is nobody.
    let stranger = CallerIdentity {
        arn: "arn:aws:iam::111122223333:user/x".into(),
        ..caller.clone()
    };
    assert_eq!(eks.user(&stranger, "dev").unwrap(), None);
    let gone = CallerIdentity {
        arn: caller.arn.replace("i-", "i-9"),
        ..caller
    };
    assert!(matches!(
        eks.user(&gone, "dev"),
        Err(TokenError::NoInstance { .. })
    ));
}

#[tokio::test]
async fn a_call_that_is_refused_changes_nothing() {
    let lab = lab().await;
    lab.cluster("dev").await;
    lab.nodegroup(2).await;
    let protect = ec2::types::ModifyInstanceAttributeRequest {
        instance_id: Some(lab.view()[0].nodegroups[0].instances[1].to_string()),
        disable_api_termination: Some(ec2::types::AttributeBooleanValue { value: Some(true) }),
        ..Default::default()
    };
    lab.sim.call(&protect).await.unwrap();
    let before = lab.view();
    let request = UpdateNodegroupConfigRequest {
        cluster_name: "dev".into(),
        nodegroup_name: "ng".into(),
        scaling_config: Some(NodegroupScalingConfig {
            desired_size: Some(1),
            ..Default::default()
        }),
        labels: Some(UpdateLabelsPayload {
            remove_labels: vec!["role".into()],
            ..Default::default()
        }),
        ..Default::default()
    };
    let error = lab.sim.eks().call(&request).await.unwrap_err();
    assert!(error.message.contains("may not be terminated"), "{error}");
    assert_eq!(lab.view(), before);
}

impl Lab {
    /// Versions of launch templates that were made for the group `ng`, and what its nodes say they are made from.
    async fn own_templates(&self) -> (Vec<LaunchTemplateVersion>, Vec<(String, String)>) {
        let every = DescribeLaunchTemplatesRequest::default();
        let all = self.sim.call(&every).await.unwrap().launch_templates;
        let own = all.iter().filter(|t| {
            let name = t.launch_template_name.as_deref().unwrap();
            let tags = t
                .tags
                .iter()
                .map(|t| (t.key.as_deref(), t.value.as_deref()));
            name.starts_with("eks-")
                && tags.eq([
                    (Some("eks:cluster-name"), Some("dev")),
                    (Some("eks:nodegroup-name"), Some("ng")),
                ])
        });
        let mut versions = Vec::new();
        for template in own {
            let request = DescribeLaunchTemplateVersionsRequest {
                launch_template_id: template.launch_template_id.clone(),
                ..Default::default()
            };
            let found = self.sim.call(&request).await.unwrap();
            versions.extend(found.launch_template_versions);
        }
        let every = DescribeInstancesRequest::default();
        let nodes = self.sim.call(&every).await.unwrap().reservations;
        let nodes = nodes.into_iter().flat_map(|r| r.instances);
        let tag = |i: &ec2::types::Instance, key: &str| {
            let tag = i.tags.iter().find(|t| t.key.as_deref() == Some(key));
            tag.and_then(|t| t.value.clone()).unwrap()
        };
        let tags = nodes.map(|i| {
            let made_of = |part| tag(&i, &format!("aws:ec2launchtemplate:{part}"));
            (made_of("id"), made_of("version"))
        });
        (versions, tags.collect())
    }

    async fn delete_nodegroup(&self) {
        let request = DeleteNodegroupRequest {
            cluster_name: "dev".into(),
            nodegroup_name: "ng".into(),
        };
        self.sim.eks().call(&request).await.unwrap();
    }
}

#[tokio::test]
async fn a_group_without_a_template_of_the_user_gets_one_of_its_own() {
    let lab = lab().await;
    let cluster = lab.cluster("dev").await;
    let group = lab.nodegroup(2).await;
    assert!(group.launch_template.is_none(), "it names the user's alone");

    let (versions, nodes) = lab.own_templates().await;
    let [version] = &versions[..] else {
        panic!("one template with one version: {versions:?}")
    };
    let id = group.nodegroup_arn.rsplit('/').next().unwrap();
    assert_eq!(version.launch_template_name, some(format_args!("eks-{id}")));
    assert!(
        version
            .created_by
            .as_deref()
            .unwrap()
            .ends_with("Nodegroup/EKS")
    );
    let data = version.launch_template_data.as_ref().unwrap();
    let config = cluster.resources_vpc_config;
    assert_eq!(
        data.security_group_ids,
        [config.cluster_security_group_id.unwrap()]
    );
    assert_eq!(
        data.metadata_options
            .as_ref()
            .unwrap()
            .http_put_response_hop_limit,
        Some(2)
    );
    let lt = version.launch_template_id.clone().unwrap();
    assert_eq!(nodes, vec![(lt, "1".to_owned()); 2]);

    lab.delete_nodegroup().await;
    let list = ListNodegroupsRequest {
        cluster_name: "dev".into(),
        ..Default::default()
    };
    assert!(
        lab.sim
            .eks()
            .call(&list)
            .await
            .unwrap()
            .nodegroups
            .is_empty()
    );
    let (versions, _) = lab.own_templates().await;
    assert!(versions.is_empty(), "it goes with the group: {versions:?}");
}

#[tokio::test]
async fn a_group_copies_the_template_of_the_user() {
    let lab = lab().await;
    let cluster = lab.cluster("dev").await;
    let data = |groups: Vec<String>| {
        Some(RequestLaunchTemplateData {
            instance_type: some("m5.large"),
            security_group_ids: groups,
            ..Default::default()
        })
    };
    let request = CreateLaunchTemplateRequest {
        launch_template_name: some("users"),
        launch_template_data: data(vec![lab.shared.clone()]),
        ..Default::default()
    };
    let users = lab
        .sim
        .call(&request)
        .await
        .unwrap()
        .launch_template
        .unwrap();
    let request = CreateNodegroupRequest {
        cluster_name: "dev".into(),
        nodegroup_name: "ng".into(),
        node_role: NODE_ROLE.into(),
        subnets: lab.subnets.clone(),
        launch_template: Some(LaunchTemplateSpecification {
            name: some("users"),
            ..Default::default()
        }),
        ..Default::default()
    };
    let group = lab.sim.eks().call(&request).await.unwrap().nodegroup;
    assert_eq!(group.launch_template, request.launch_template);

    // A later version of the user's is not the group's.
    let later = CreateLaunchTemplateVersionRequest {
        launch_template_name: some("users"),
        launch_template_data: data(Vec::new()),
        ..Default::default()
    };
    lab.sim.call(&later).await.unwrap();
    let default = ModifyLaunchTemplateRequest {
        launch_template_name: some("users"),
        default_version: some(2),
        ..Default::default()
    };
    lab.sim.call(&default).await.unwrap();
    let more = UpdateNodegroupConfigRequest {
        cluster_name: "dev".into(),
        nodegroup_name: "ng".into(),
        scaling_config: Some(NodegroupScalingConfig {
            max_size: Some(3),
            desired_size: Some(3),
            ..Default::default()
        }),
        ..Default::default()
    };
    lab.sim.eks().call(&more).await.unwrap();

    let (versions, nodes) = lab.own_templates().await;
    let [copy] = &versions[..] else {
        panic!("one template with one version: {versions:?}")
    };
    let own = copy.launch_template_data.as_ref().unwrap();
    assert_eq!(own.security_group_ids, std::slice::from_ref(&lab.shared));
    assert_eq!(own.instance_type, some("m5.large"));
    assert_ne!(copy.launch_template_id, users.launch_template_id);
    let lt = copy.launch_template_id.clone().unwrap();
    assert_eq!(nodes, vec![(lt, "1".to_owned()); 3]);
    assert_ne!(
        own.security_group_ids,
        [cluster
            .resources_vpc_config
            .cluster_security_group_id
            .unwrap()]
    );

    lab.delete_nodegroup().await;
    lab.sim
        .eks()
        .call(&DescribeClusterRequest { name: "dev".into() })
        .await
        .unwrap();
    let every = DescribeLaunchTemplatesRequest::default();
    let left = lab.sim.call(&every).await.unwrap().launch_templates;
    let names: Vec<_> = left
        .iter()
        .map(|t| t.launch_template_name.as_deref())
        .collect();
    assert_eq!(names, [Some("users")]);
}
