//! What EKS answers with: clusters, node groups, profiles, add-ons, access entries.
//!
//! Members have AWS's names in snake case. Enumerations are text, as in [`crate::types`]: an answer with a value that
//! is newer than this file must still decode. Members that are unknown here are skipped. A list or map that AWS always
//! answers is there although it is empty.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Tags, labels: text by text.
pub type Texts = BTreeMap<String, String>;

/// Seconds since 1970 with a fraction, as JSON services of AWS write times.
pub(crate) mod time {
    use jiff::Timestamp;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(crate) fn serialize<S: Serializer>(
        time: &Option<Timestamp>,
        out: S,
    ) -> Result<S::Ok, S::Error> {
        time.map(|t| t.as_millisecond() as f64 / 1000.0)
            .serialize(out)
    }

    pub(crate) fn deserialize<'d, D: Deserializer<'d>>(
        input: D,
    ) -> Result<Option<Timestamp>, D::Error> {
        let Some(seconds) = Option::<f64>::deserialize(input)? else {
            return Ok(None);
        };
        let milliseconds = (seconds * 1000.0).round();
        let time = Timestamp::from_millisecond(milliseconds as i64);
        time.map(Some).map_err(serde::de::Error::custom)
    }
}

/// A structure of the protocol: camel case on the wire, members that are not set are left out.
macro_rules! shapes {
    ($($(#[$meta:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident: $type:ty,)* })*) => {$(
        $(#[$meta])*
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        pub struct $name {
            $($(#[$field_meta])* pub $field: $type,)*
        }
    )*};
}

/// Whether a member has nothing to say, and is left out of a request.
pub(crate) fn is_none<T>(value: &Option<T>) -> bool {
    value.is_none()
}

shapes! {
    /// A cluster. <https://docs.aws.amazon.com/eks/latest/APIReference/API_Cluster.html>
    Cluster {
        /// Its name, unique in account and region.
        name: String,
        /// `arn:aws:eks:REGION:ACCOUNT:cluster/NAME`
        arn: String,
        /// When it was asked for.
        #[serde(with = "time", skip_serializing_if = "is_none")]
        created_at: Option<Timestamp>,
        /// The minor version of Kubernetes, `1.36`.
        version: String,
        /// The API server's URL, from the time when it answers.
        #[serde(skip_serializing_if = "is_none")]
        endpoint: Option<String>,
        /// The role that the control plane acts as.
        role_arn: String,
        /// Subnets, groups, who may reach the endpoint.
        resources_vpc_config: VpcConfigResponse,
        /// Addresses of services.
        kubernetes_network_config: KubernetesNetworkConfigResponse,
        /// Which logs are kept.
        logging: Logging,
        /// The issuer of service accounts' tokens.
        #[serde(skip_serializing_if = "is_none")]
        identity: Option<Identity>,
        /// `CREATING`, `ACTIVE`, `DELETING`, `FAILED`, `UPDATING` or `PENDING`.
        status: String,
        /// The certificate authority of the endpoint; empty until it is known.
        certificate_authority: Certificate,
        /// The token of the request that made it.
        #[serde(skip_serializing_if = "is_none")]
        client_request_token: Option<String>,
        /// `eks.1`
        platform_version: String,
        /// Tags of the cluster, which its resources do not inherit.
        tags: Texts,
        /// What keeps it from working.
        health: Health,
        /// How callers of AWS become users of Kubernetes.
        #[serde(skip_serializing_if = "is_none")]
        access_config: Option<AccessConfig>,
        /// What happens when standard support of its version ends.
        upgrade_policy: UpgradePolicy,
        /// Whether DeleteCluster is refused.
        deletion_protection: bool,
    }

    /// A cluster's place in the VPC.
    VpcConfigResponse {
        /// Where its interfaces may be.
        subnet_ids: Vec<String>,
        /// Additional groups of the control plane's interfaces; nodes do not get them.
        security_group_ids: Vec<String>,
        /// `eks-cluster-sg-NAME-ID`: control plane, managed nodes, Fargate pods.
        #[serde(skip_serializing_if = "is_none")]
        cluster_security_group_id: Option<String>,
        /// The VPC of the subnets.
        vpc_id: String,
        /// Whether the endpoint can be reached from outside of the VPC.
        endpoint_public_access: bool,
        /// Whether the endpoint's name leads to the interfaces inside of the VPC.
        endpoint_private_access: bool,
        /// Who may use the public endpoint.
        public_access_cidrs: Vec<String>,
    }

    /// Addresses of services.
    KubernetesNetworkConfigResponse {
        /// Where ClusterIPs come from.
        #[serde(skip_serializing_if = "is_none")]
        service_ipv4_cidr: Option<String>,
        /// `ipv4` or `ipv6`.
        ip_family: String,
    }

    /// Which logs are kept.
    Logging {
        /// On and off, by type.
        cluster_logging: Vec<LogSetup>,
    }

    /// Some types of log.
    LogSetup {
        /// `api`, `audit`, `authenticator`, `controllerManager`, `scheduler`.
        types: Vec<String>,
        /// Whether they are kept.
        #[serde(skip_serializing_if = "is_none")]
        enabled: Option<bool>,
    }

    /// Identity providers.
    Identity {
        /// The issuer of service accounts' tokens.
        #[serde(skip_serializing_if = "is_none")]
        oidc: Option<Oidc>,
    }

    /// An OpenID Connect issuer.
    Oidc {
        /// Its URL.
        #[serde(skip_serializing_if = "is_none")]
        issuer: Option<String>,
    }

    /// A certificate.
    Certificate {
        /// PEM in base64.
        #[serde(skip_serializing_if = "is_none")]
        data: Option<String>,
    }

    /// What keeps something from working.
    Health {
        /// Known problems.
        issues: Vec<Issue>,
    }

    /// One problem.
    Issue {
        /// EKS's code.
        code: String,
        /// Text for people.
        message: String,
        /// Ids of what has the problem.
        resource_ids: Vec<String>,
    }

    /// How callers of AWS become users of Kubernetes.
    AccessConfig {
        /// Whether the creator of the cluster is its administrator; only when it is created.
        #[serde(skip_serializing_if = "is_none")]
        bootstrap_cluster_creator_admin_permissions: Option<bool>,
        /// `API`, `API_AND_CONFIG_MAP` or `CONFIG_MAP`.
        #[serde(skip_serializing_if = "is_none")]
        authentication_mode: Option<String>,
    }

    /// What happens when standard support of a version ends.
    UpgradePolicy {
        /// `STANDARD`: the control plane is upgraded; `EXTENDED`: support is paid for first.
        #[serde(skip_serializing_if = "is_none")]
        support_type: Option<String>,
    }

    /// A managed node group. <https://docs.aws.amazon.com/eks/latest/APIReference/API_Nodegroup.html>
    Nodegroup {
        /// Its name, unique in the cluster.
        nodegroup_name: String,
        /// `arn:aws:eks:REGION:ACCOUNT:nodegroup/CLUSTER/NAME/ID`
        nodegroup_arn: String,
        /// The cluster.
        cluster_name: String,
        /// The minor version of its kubelets.
        version: String,
        /// The version of its image.
        release_version: String,
        /// When it was asked for.
        #[serde(with = "time", skip_serializing_if = "is_none")]
        created_at: Option<Timestamp>,
        /// When it last changed.
        #[serde(with = "time", skip_serializing_if = "is_none")]
        modified_at: Option<Timestamp>,
        /// `CREATING`, `ACTIVE`, `UPDATING`, `DELETING`, `CREATE_FAILED`, `DELETE_FAILED`, `DEGRADED`.
        status: String,
        /// `ON_DEMAND` or `SPOT`.
        capacity_type: String,
        /// How many nodes.
        scaling_config: NodegroupScalingConfig,
        /// Instance types; empty when the launch template says it.
        instance_types: Vec<String>,
        /// Where its nodes are.
        subnets: Vec<String>,
        /// The family of its image.
        ami_type: String,
        /// The role of its nodes.
        node_role: String,
        /// Labels that its nodes register with.
        labels: Texts,
        /// Taints that its nodes register with.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        taints: Vec<Taint>,
        /// What was made for it.
        resources: NodegroupResources,
        /// Gibibytes of each node's disk.
        #[serde(skip_serializing_if = "is_none")]
        disk_size: Option<i32>,
        /// What keeps it from working.
        health: Health,
        /// How it is updated.
        update_config: NodegroupUpdateConfig,
        /// What its nodes are launched from.
        #[serde(skip_serializing_if = "is_none")]
        launch_template: Option<LaunchTemplateSpecification>,
        /// Tags of the group, which its nodes do not inherit.
        tags: Texts,
    }

    /// How many nodes.
    NodegroupScalingConfig {
        /// At least; 0 is possible.
        #[serde(skip_serializing_if = "is_none")]
        min_size: Option<i32>,
        /// At most, 1 or more.
        #[serde(skip_serializing_if = "is_none")]
        max_size: Option<i32>,
        /// Now.
        #[serde(skip_serializing_if = "is_none")]
        desired_size: Option<i32>,
    }

    /// A taint of a node.
    Taint {
        /// Its key.
        #[serde(skip_serializing_if = "is_none")]
        key: Option<String>,
        /// Its value.
        #[serde(skip_serializing_if = "is_none")]
        value: Option<String>,
        /// `NO_SCHEDULE`, `NO_EXECUTE`, `PREFER_NO_SCHEDULE`.
        #[serde(skip_serializing_if = "is_none")]
        effect: Option<String>,
    }

    /// A launch template by id or by name.
    LaunchTemplateSpecification {
        /// Its name.
        #[serde(skip_serializing_if = "is_none")]
        name: Option<String>,
        /// Its version; the default one otherwise.
        #[serde(skip_serializing_if = "is_none")]
        version: Option<String>,
        /// Its id.
        #[serde(skip_serializing_if = "is_none")]
        id: Option<String>,
    }

    /// How a node group is updated.
    NodegroupUpdateConfig {
        /// How many nodes at once.
        #[serde(skip_serializing_if = "is_none")]
        max_unavailable: Option<i32>,
        /// How many nodes at once, in percent.
        #[serde(skip_serializing_if = "is_none")]
        max_unavailable_percentage: Option<i32>,
    }

    /// What was made for a node group.
    NodegroupResources {
        /// Its Auto Scaling group.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        auto_scaling_groups: Vec<AutoScalingGroup>,
    }

    /// An Auto Scaling group.
    AutoScalingGroup {
        /// Its name.
        name: String,
    }

    /// Which pods run on Fargate.
    FargateProfile {
        /// Its name, unique in the cluster.
        fargate_profile_name: String,
        /// `arn:aws:eks:REGION:ACCOUNT:fargateprofile/CLUSTER/NAME/ID`
        fargate_profile_arn: String,
        /// The cluster.
        cluster_name: String,
        /// When it was asked for.
        #[serde(with = "time", skip_serializing_if = "is_none")]
        created_at: Option<Timestamp>,
        /// The role of its pods' kubelets.
        pod_execution_role_arn: String,
        /// Where its pods are.
        subnets: Vec<String>,
        /// Which pods.
        selectors: Vec<FargateProfileSelector>,
        /// `CREATING`, `ACTIVE`, `DELETING`, `CREATE_FAILED`, `DELETE_FAILED`.
        status: String,
        /// Tags.
        tags: Texts,
        /// What keeps it from working.
        health: Health,
    }

    /// Which pods: all of these labels, in this namespace.
    FargateProfileSelector {
        /// The namespace; wildcards `*` and `?`.
        #[serde(skip_serializing_if = "is_none")]
        namespace: Option<String>,
        /// Labels that the pod must have.
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        labels: Texts,
    }

    /// A managed add-on of a cluster.
    Addon {
        /// `vpc-cni`, `coredns`, `kube-proxy` …
        addon_name: String,
        /// The cluster.
        cluster_name: String,
        /// `CREATING`, `ACTIVE`, `CREATE_FAILED`, `UPDATING`, `DELETING`, `DELETE_FAILED`, `DEGRADED`, `UPDATE_FAILED`.
        status: String,
        /// Its version.
        addon_version: String,
        /// What keeps it from working.
        health: Health,
        /// `arn:aws:eks:REGION:ACCOUNT:addon/CLUSTER/NAME/ID`
        addon_arn: String,
        /// When it was asked for.
        #[serde(with = "time", skip_serializing_if = "is_none")]
        created_at: Option<Timestamp>,
        /// When it last changed.
        #[serde(with = "time", skip_serializing_if = "is_none")]
        modified_at: Option<Timestamp>,
        /// The role of its service account.
        #[serde(skip_serializing_if = "is_none")]
        service_account_role_arn: Option<String>,
        /// Tags.
        tags: Texts,
        /// What the user set: JSON or YAML, as it was given.
        #[serde(skip_serializing_if = "is_none")]
        configuration_values: Option<String>,
    }

    /// An add-on that there is, with its versions.
    AddonInfo {
        /// Its name.
        addon_name: String,
        /// `networking` …
        #[serde(rename = "type")]
        type_: String,
        /// The newest first.
        addon_versions: Vec<AddonVersionInfo>,
        /// `eks`
        publisher: String,
        /// `aws`
        owner: String,
        /// Where it runs.
        default_namespace: String,
    }

    /// A version of an add-on.
    AddonVersionInfo {
        /// `v1.23.1-eksbuild.1`
        addon_version: String,
        /// `amd64`, `arm64`
        architecture: Vec<String>,
        /// Which clusters it fits.
        compatibilities: Vec<Compatibility>,
        /// Whether it does not work without configuration.
        requires_configuration: bool,
        /// Whether it needs a role of its own.
        requires_iam_permissions: bool,
    }

    /// A version of Kubernetes that an add-on fits.
    Compatibility {
        /// The cluster's version.
        cluster_version: String,
        /// `*`: all of them.
        platform_versions: Vec<String>,
        /// Whether a new add-on gets this version.
        default_version: bool,
    }

    /// A change that takes time.
    Update {
        /// Its id.
        id: String,
        /// `InProgress`, `Failed`, `Cancelled`, `Successful`.
        status: String,
        /// `AddonUpdate`, `ConfigUpdate` …
        #[serde(rename = "type")]
        type_: String,
        /// What was asked for.
        params: Vec<UpdateParam>,
        /// When.
        #[serde(with = "time", skip_serializing_if = "is_none")]
        created_at: Option<Timestamp>,
        /// Why it failed.
        errors: Vec<ErrorDetail>,
    }

    /// One thing that was asked for.
    UpdateParam {
        /// `AddonVersion`, `ConfigurationValues`, `DesiredSize` …
        #[serde(rename = "type")]
        type_: String,
        /// Its value as text.
        value: String,
    }

    /// Why an update failed.
    ErrorDetail {
        /// EKS's code.
        error_code: String,
        /// Text for people.
        error_message: String,
        /// Ids of what has the problem.
        resource_ids: Vec<String>,
    }

    /// Who of AWS is who in Kubernetes.
    AccessEntry {
        /// The cluster.
        cluster_name: String,
        /// The user or role (not the session).
        principal_arn: String,
        /// Groups of Kubernetes, for RBAC.
        kubernetes_groups: Vec<String>,
        /// `arn:aws:eks:REGION:ACCOUNT:access-entry/CLUSTER/KIND/ACCOUNT/NAME/ID`
        access_entry_arn: String,
        /// When it was made.
        #[serde(with = "time", skip_serializing_if = "is_none")]
        created_at: Option<Timestamp>,
        /// When it last changed.
        #[serde(with = "time", skip_serializing_if = "is_none")]
        modified_at: Option<Timestamp>,
        /// Tags.
        tags: Texts,
        /// The user in Kubernetes; may have `{{SessionName}}` or `{{EC2PrivateDNSName}}` in it.
        username: String,
        /// `STANDARD`, `EC2_LINUX` …
        #[serde(rename = "type")]
        type_: String,
    }

    /// Where an access policy holds.
    AccessScope {
        /// `cluster` or `namespace`.
        #[serde(rename = "type", skip_serializing_if = "is_none")]
        type_: Option<String>,
        /// The namespaces.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        namespaces: Vec<String>,
    }

    /// A policy of an access entry.
    AssociatedAccessPolicy {
        /// `arn:aws:eks::aws:cluster-access-policy/AmazonEKSClusterAdminPolicy` …
        policy_arn: String,
        /// Where it holds.
        access_scope: AccessScope,
        /// When it was associated.
        #[serde(with = "time", skip_serializing_if = "is_none")]
        associated_at: Option<Timestamp>,
        /// When it last changed.
        #[serde(with = "time", skip_serializing_if = "is_none")]
        modified_at: Option<Timestamp>,
    }
}
