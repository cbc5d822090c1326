//! Clusters: the group `eks-cluster-sg-NAME-ID`, two interfaces, the record. Source: EKS user guide, "Amazon EKS
//! security group requirements" and "VPC and subnet considerations"; EKS API reference.

use std::collections::BTreeMap;

use ec2::eks::*;
use ipnet::Ipv4Net;

use super::access;
use super::actions::{EksAction, arn, check_name, check_tags, page, role_name};
use super::catalog::KUBERNETES_VERSION;
use super::error::{bad_request, in_use, invalid, of_ec2, unsupported};
use super::store;
use super::update::{self, Target};
use crate::actions::{Action, Context};
use crate::error::ApiResult;
use crate::ids::{EniId, GroupId, GroupRuleId, SubnetId, VpcId};
use crate::store::{
    EniKind, Group, GroupRule, Holder, NewEni, Peer, Protocol, State, Tracking, Wanted,
};

/// What EC2 shows as requester and owner of a control plane's interfaces.
const OWNER: &str = "amazon-eks";
const GROUP_DESCRIPTION: &str = "EKS created security group applied to ENI that is attached to EKS Control Plane \
                                 master nodes, as well as any managed workloads.";

/// The control plane as a host of the fabric. No host of a topology can have this name.
pub(super) fn host(cluster: &str) -> String {
    format!("eks:{cluster}")
}

/// Where a cluster is to be, checked.
struct Place {
    vpc: VpcId,
    subnets: Vec<SubnetId>,
    /// The subnets of the interfaces.
    two: [SubnetId; 2],
    groups: Vec<GroupId>,
}

fn place(state: &State, request: &VpcConfigRequest) -> ApiResult<Place> {
    let mut subnets = Vec::new();
    for text in &request.subnet_ids {
        let (id, _) = state.subnets.find(text).map_err(of_ec2)?;
        if !subnets.contains(&id) {
            subnets.push(id);
        }
    }
    let Some(first) = subnets.first().map(|id| (*id, &state.subnets[id])) else {
        return Err(invalid(
            "Subnets are required: resourcesVpcConfig.subnetIds is empty.",
        ));
    };
    let (vpc, zone) = (first.1.vpc, first.1.zone);
    if let Some(other) = subnets.iter().find(|id| state.subnets[*id].vpc != vpc) {
        return Err(invalid(format_args!(
            "Subnets must belong to one VPC: {other} is in {}, {} in {vpc}.",
            state.subnets[other].vpc, first.0
        )));
    }
    let Some(second) = subnets.iter().find(|id| state.subnets[*id].zone != zone) else {
        return Err(invalid(
            "Subnets specified must be in at least two different AZs",
        ));
    };
    let groups = state
        .check_groups(&request.security_group_ids, vpc)
        .map_err(of_ec2)?;
    let most = state.config.quotas.groups_per_interface - 1;
    if groups.len() > most {
        return Err(invalid(format_args!(
            "At most {most} security groups can be given: the cluster's own comes to them."
        )));
    }
    Ok(Place {
        vpc,
        two: [first.0, *second],
        subnets,
        groups,
    })
}

/// Addresses of services: the request's, or one that is not the VPC's.
fn service_cidr(state: &State, vpc: VpcId, wanted: Option<&str>) -> ApiResult<Ipv4Net> {
    let of_vpc: Vec<Ipv4Net> = state.vpcs[&vpc].cidrs.iter().map(|(_, net)| *net).collect();
    let overlaps = |net: &Ipv4Net| {
        of_vpc
            .iter()
            .any(|own| own.contains(net) || net.contains(own))
    };
    let net = |text: &str| text.parse::<Ipv4Net>().ok();
    let Some(text) = wanted else {
        // What AWS takes: 10.100 unless the VPC is of 10/8.
        let first_of_ten = of_vpc
            .first()
            .is_some_and(|own| own.addr().octets()[0] == 10);
        let order = if first_of_ten {
            ["172.20.0.0/16", "10.100.0.0/16"]
        } else {
            ["10.100.0.0/16", "172.20.0.0/16"]
        };
        let free = order.into_iter().filter_map(net).find(|n| !overlaps(n));
        return free.ok_or_else(|| {
            invalid("Both default service CIDRs overlap the VPC's: give kubernetesNetworkConfig.serviceIpv4Cidr.")
        });
    };
    let wrong = |why: &str| invalid(format_args!("The service CIDR {text} is not valid: {why}."));
    let cidr = net(text)
        .filter(|n| n.trunc() == *n)
        .ok_or_else(|| wrong("it is not a network such as 172.20.0.0/16"))?;
    if !(12..=24).contains(&cidr.prefix_len()) {
        return Err(wrong("its prefix must be between /24 and /12"));
    }
    let private = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"];
    if !private
        .into_iter()
        .filter_map(net)
        .any(|p| p.contains(&cidr))
    {
        return Err(wrong(
            "it must be within 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16",
        ));
    }
    if overlaps(&cidr) {
        return Err(wrong("it overlaps a CIDR block of the VPC"));
    }
    Ok(cidr)
}

/// The endpoint's reach: public and private access, and from where.
fn reach(request: &VpcConfigRequest, old: &VpcConfigResponse) -> ApiResult<VpcConfigResponse> {
    let mut new = old.clone();
    new.endpoint_public_access = request
        .endpoint_public_access
        .unwrap_or(old.endpoint_public_access);
    new.endpoint_private_access = request
        .endpoint_private_access
        .unwrap_or(old.endpoint_private_access);
    if !new.endpoint_public_access && !new.endpoint_private_access {
        return Err(invalid(
            "Private and public endpoint access cannot be false",
        ));
    }
    if let Some(wrong) = request
        .public_access_cidrs
        .iter()
        .find(|c| c.parse::<Ipv4Net>().is_err())
    {
        return Err(invalid(format_args!(
            "The following CIDRs are invalid in publicAccessCidrs: [{wrong}]"
        )));
    }
    if !request.public_access_cidrs.is_empty() {
        new.public_access_cidrs = request.public_access_cidrs.clone();
    }
    Ok(new)
}

/// One of a few words, or an error that names them.
fn word(what: &str, value: &str, known: &[&str]) -> ApiResult<String> {
    match known.contains(&value) {
        true => Ok(value.to_owned()),
        false => Err(invalid(format_args!(
            "{what} is '{value}': expected one of {}.",
            known.join(", ")
        ))),
    }
}

const MODES: [&str; 3] = ["API", "API_AND_CONFIG_MAP", "CONFIG_MAP"];
const SUPPORT: [&str; 2] = ["STANDARD", "EXTENDED"];
const LOGS: [&str; 5] = [
    "api",
    "audit",
    "authenticator",
    "controllerManager",
    "scheduler",
];

fn access_config(request: Option<&AccessConfig>) -> ApiResult<AccessConfig> {
    let mode = request.and_then(|a| a.authentication_mode.as_deref());
    let bootstrap = request.and_then(|a| a.bootstrap_cluster_creator_admin_permissions);
    Ok(AccessConfig {
        // The API's default; the console's is API_AND_CONFIG_MAP.
        authentication_mode: Some(word(
            "accessConfig.authenticationMode",
            mode.unwrap_or("CONFIG_MAP"),
            &MODES,
        )?),
        bootstrap_cluster_creator_admin_permissions: Some(bootstrap.unwrap_or(true)),
    })
}

fn logging(request: Option<&Logging>) -> ApiResult<Logging> {
    let (mut on, mut off) = (Vec::new(), LOGS.map(str::to_owned).to_vec());
    for setup in request.iter().flat_map(|l| &l.cluster_logging) {
        for kind in &setup.types {
            word("logging.clusterLogging.types", kind, &LOGS)?;
            if setup.enabled == Some(true) && !on.contains(kind) {
                off.retain(|o| o != kind);
                on.push(kind.clone());
            }
        }
    }
    let setup = |types: Vec<String>, enabled| LogSetup {
        types,
        enabled: Some(enabled),
    };
    let cluster_logging = [setup(on, true), setup(off, false)]
        .into_iter()
        .filter(|s| !s.types.is_empty())
        .collect();
    Ok(Logging { cluster_logging })
}

/// The cluster's group: everything from itself, everything out.
fn make_group(state: &mut State, cluster: &str, vpc: VpcId) -> GroupId {
    let name = format!(
        "eks-cluster-sg-{cluster}-{:010}",
        state.rng.below(10_000_000_000)
    );
    let id: GroupId = state.fresh();
    let all = |egress, peer| GroupRule {
        egress,
        protocol: Protocol::ALL,
        ports: None,
        peer,
        description: None,
    };
    let own = Peer::Group {
        id,
        vpc,
        peering: None,
    };
    let rules: BTreeMap<GroupRuleId, GroupRule> = BTreeMap::from([
        (state.fresh(), all(false, own)),
        (state.fresh(), all(true, Peer::V4(Ipv4Net::default()))),
    ]);
    state.groups.insert(
        id,
        Group {
            vpc,
            name: name.clone(),
            description: GROUP_DESCRIPTION.to_owned(),
            rules,
        },
    );
    let tags = [
        ("Name".to_owned(), name),
        ("aws:eks:cluster-name".to_owned(), cluster.to_owned()),
        (
            format!("kubernetes.io/cluster/{cluster}"),
            "owned".to_owned(),
        ),
    ];
    state
        .tags
        .insert(id.to_string(), tags.into_iter().collect());
    id
}

/// The control plane's interfaces, held by its host.
fn make_interfaces(
    cx: &mut Context<'_>,
    cluster: &str,
    place: &Place,
    own: GroupId,
) -> ApiResult<Vec<EniId>> {
    let mut enis = Vec::new();
    for (device, subnet) in (0..).zip(place.two) {
        let eni = cx.state.make_eni(NewEni {
            kind: EniKind::Interface,
            subnet,
            description: format!("Amazon EKS {cluster}"),
            groups: std::iter::once(own)
                .chain(place.groups.iter().copied())
                .collect(),
            primary: None,
            wanted: Wanted::default(),
            tracking: Tracking::default(),
            requester: Some(OWNER.to_owned()),
        })?;
        let holder = Holder::Managed {
            host: host(cluster),
            owner: OWNER.to_owned(),
            device,
        };
        cx.state.attach(eni, holder, true, cx.now, 0);
        enis.push(eni);
    }
    Ok(enis)
}

fn texts(ids: &[impl ToString]) -> Vec<String> {
    ids.iter().map(ToString::to_string).collect()
}

fn issuer(state: &mut State) -> String {
    let (region, a, b) = (
        state.config.region.clone(),
        state.rng.next_u64(),
        state.rng.next_u64(),
    );
    format!("https://oidc.eks.{region}.amazonaws.com/id/{a:016X}{b:016X}")
}

impl EksAction for CreateClusterRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<ClusterAnswer> {
        let name = &self.name;
        check_name("The cluster name", name, 100)?;
        check_tags(&self.tags)?;
        if let Some(known) = cx.state.eks.clusters.get(name) {
            // A repeated request is answered as the first one was.
            if self.client_request_token.is_some()
                && known.wire.client_request_token == self.client_request_token
            {
                return Ok(ClusterAnswer {
                    cluster: known.wire.clone(),
                });
            }
            return Err(in_use(format_args!(
                "Cluster already exists with name: {name}"
            )));
        }
        role_name("roleArn", &self.role_arn)?;
        let version = self.version.as_deref().unwrap_or(KUBERNETES_VERSION);
        if version != KUBERNETES_VERSION {
            return Err(invalid(format_args!(
                "unsupported Kubernetes version {version}: the lab's control planes are {KUBERNETES_VERSION}"
            )));
        }
        let network = self.kubernetes_network_config.clone().unwrap_or_default();
        if network.ip_family.as_deref().is_some_and(|f| f != "ipv4") {
            return Err(unsupported("The ipFamily ipv6"));
        }
        let config = self.resources_vpc_config.clone().unwrap_or_default();
        let place = place(cx.state, &config)?;
        let service_cidr = service_cidr(cx.state, place.vpc, network.service_ipv4_cidr.as_deref())?;
        let old = VpcConfigResponse {
            endpoint_public_access: true,
            public_access_cidrs: vec!["0.0.0.0/0".into()],
            ..Default::default()
        };
        let reach = reach(&config, &old)?;
        let support = self
            .upgrade_policy
            .as_ref()
            .and_then(|p| p.support_type.as_deref());
        let support_type = Some(word(
            "upgradePolicy.supportType",
            support.unwrap_or("EXTENDED"),
            &SUPPORT,
        )?);
        let access_config = access_config(self.access_config.as_ref())?;
        let logging = logging(self.logging.as_ref())?;

        let group = make_group(cx.state, name, place.vpc);
        let enis = make_interfaces(cx, name, &place, group).map_err(of_ec2)?;
        let wire = Cluster {
            name: name.clone(),
            arn: arn(cx.state, "cluster", format_args!("{name}")),
            created_at: Some(cx.now),
            version: version.to_owned(),
            role_arn: self.role_arn.clone(),
            resources_vpc_config: VpcConfigResponse {
                subnet_ids: texts(&place.subnets),
                security_group_ids: texts(&place.groups),
                cluster_security_group_id: Some(group.to_string()),
                vpc_id: place.vpc.to_string(),
                ..reach
            },
            kubernetes_network_config: KubernetesNetworkConfigResponse {
                service_ipv4_cidr: Some(service_cidr.to_string()),
                ip_family: "ipv4".into(),
            },
            logging,
            identity: Some(Identity {
                oidc: Some(Oidc {
                    issuer: Some(issuer(cx.state)),
                }),
            }),
            status: "CREATING".into(),
            client_request_token: self.client_request_token.clone(),
            platform_version: "eks.1".into(),
            tags: self.tags.clone(),
            access_config: Some(access_config),
            upgrade_policy: UpgradePolicy { support_type },
            deletion_protection: self.deletion_protection.unwrap_or(false),
            ..Default::default()
        };
        let mut record = store::Cluster {
            wire: wire.clone(),
            vpc: place.vpc,
            service_cidr,
            group,
            groups: place.groups,
            subnets: place.subnets,
            enis,
            self_managed_addons: self.bootstrap_self_managed_addons.unwrap_or(true),
            nodegroups: BTreeMap::new(),
            fargate: BTreeMap::new(),
            addons: BTreeMap::new(),
            access: BTreeMap::new(),
            updates: BTreeMap::new(),
        };
        access::admit_creator(cx, &mut record);
        cx.state.eks.clusters.insert(name.clone(), record);
        Ok(ClusterAnswer { cluster: wire })
    }
}

impl EksAction for DescribeClusterRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<ClusterAnswer> {
        Ok(ClusterAnswer {
            cluster: cx.state.eks.cluster(&self.name)?.wire.clone(),
        })
    }
}

impl EksAction for ListClustersRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<ListClustersResponse> {
        if let Some(other) = self.include.iter().find(|i| *i != "all") {
            return Err(invalid(format_args!("include is '{other}': expected all.")));
        }
        let (clusters, next_token) = page(
            cx.state.eks.clusters.keys(),
            self.max_results,
            self.next_token.as_deref(),
        )?;
        Ok(ListClustersResponse {
            clusters,
            next_token,
        })
    }
}

impl EksAction for DeleteClusterRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<ClusterAnswer> {
        let cluster = cx.state.eks.cluster(&self.name)?;
        if cluster.wire.deletion_protection {
            return Err(bad_request(format_args!(
                "Cluster {} has deletion protection enabled: disable it before you delete the cluster.",
                self.name
            )));
        }
        if !cluster.nodegroups.is_empty() {
            return Err(in_use("Cluster has nodegroups attached"));
        }
        if !cluster.fargate.is_empty() {
            return Err(in_use("Cluster has Fargate profiles attached"));
        }
        let Some(mut cluster) = cx.state.eks.clusters.remove(&self.name) else {
            return Err(super::error::no_cluster(&self.name));
        };
        for eni in &cluster.enis {
            cx.state.remove_eni(*eni);
        }
        // The group stays when nodes still carry it or rules name it, as on AWS: the cluster's end does not wait for
        // it, and its tags tell where it came from.
        let delete = ec2::types::DeleteSecurityGroupRequest {
            group_id: Some(cluster.group.to_string()),
            ..Default::default()
        };
        let kept = delete.run(cx).is_err();
        cluster.wire.status = "DELETING".into();
        if kept {
            let message =
                "The cluster security group is still in use and was not deleted.".to_owned();
            let resource_ids = vec![cluster.group.to_string()];
            cluster.wire.health.issues.push(Issue {
                code: "Other".into(),
                message,
                resource_ids,
            });
        }
        Ok(ClusterAnswer {
            cluster: cluster.wire,
        })
    }
}

impl EksAction for UpdateClusterConfigRequest {
    fn run(&self, cx: &mut Context<'_>) -> ApiResult<UpdateAnswer> {
        let cluster = cx.state.eks.active(&self.name)?;
        let mut wire = cluster.wire.clone();
        let mut made = Vec::new();
        if let Some(config) = &self.resources_vpc_config {
            if !config.subnet_ids.is_empty() || !config.security_group_ids.is_empty() {
                return Err(unsupported(
                    "Changing subnets and security groups of a cluster",
                ));
            }
            let new = reach(config, &wire.resources_vpc_config)?;
            made.push((
                "EndpointAccessUpdate",
                vec![
                    (
                        "EndpointPublicAccess",
                        new.endpoint_public_access.to_string(),
                    ),
                    (
                        "EndpointPrivateAccess",
                        new.endpoint_private_access.to_string(),
                    ),
                    (
                        "PublicAccessCidrs",
                        format!("{:?}", new.public_access_cidrs),
                    ),
                ],
            ));
            wire.resources_vpc_config = new;
        }
        if let Some(mode) = self
            .access_config
            .as_ref()
            .and_then(|a| a.authentication_mode.as_deref())
        {
            let mode = word("accessConfig.authenticationMode", mode, &MODES)?;
            let old = wire.access_config.clone().unwrap_or_default();
            let rank = |m: &str| MODES.iter().rev().position(|known| *known == m);
            if rank(&mode) < rank(old.authentication_mode.as_deref().unwrap_or("CONFIG_MAP")) {
                return Err(invalid(
                    "The authentication mode can change from CONFIG_MAP to API_AND_CONFIG_MAP to API, not back.",
                ));
            }
            made.push((
                "AccessConfigUpdate",
                vec![("AuthenticationMode", mode.clone())],
            ));
            wire.access_config = Some(AccessConfig {
                authentication_mode: Some(mode),
                ..old
            });
        }
        if let Some(support) = self
            .upgrade_policy
            .as_ref()
            .and_then(|p| p.support_type.as_deref())
        {
            let support = word("upgradePolicy.supportType", support, &SUPPORT)?;
            made.push((
                "UpgradePolicyUpdate",
                vec![(
                    "UpgradePolicy",
                    format!("{{\"supportType\":\"{support}\"}}"),
                )],
            ));
            wire.upgrade_policy.support_type = Some(support);
        }
        if let Some(protected) = self.deletion_protection {
            made.push((
                "DeletionProtectionUpdate",
                vec![("DeletionProtection", protected.to_string())],
            ));
            wire.deletion_protection = protected;
        }
        let (kind, params) = match made.len() {
            0 => return Err(invalid("No changes needed for the cluster config provided")),
            1 => made.remove(0),
            _ => return Err(invalid("Only one type of update can be allowed.")),
        };
        cx.state.eks.cluster_mut(&self.name)?.wire = wire;
        update::done(cx, &self.name, Target::Cluster, kind, params)
            .map(|update| UpdateAnswer { update })
    }
}
