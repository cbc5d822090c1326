//! Inputs and outputs of the actions. Members that no request of ours or of the lab's users needs are not here: the
//! lab's EKS refuses them by name ([`super::AnyRequest::decode`]).

use serde::{Deserialize, Serialize};

use super::types::*;

/// An input: like [`shapes`], and empty lists are left out too.
macro_rules! inputs {
    ($($(#[$meta:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident: $type:tt $(<$inner:ty>)?,)* })*) => {$(
        $(#[$meta])*
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        #[allow(missing_docs, reason = "members are documented by AWS under the same names")]
        pub struct $name {
            $($(#[$field_meta])* #[serde(skip_serializing_if = "unset")] pub $field: $type $(<$inner>)?,)*
        }
    )*};
}

/// A member that is not set. An empty text is: UpdateAddon takes `""` as "no configuration".
trait Unset {
    fn unset(&self) -> bool;
}
impl<T> Unset for Option<T> {
    fn unset(&self) -> bool {
        self.is_none()
    }
}
impl<T> Unset for Vec<T> {
    fn unset(&self) -> bool {
        self.is_empty()
    }
}
impl Unset for Texts {
    fn unset(&self) -> bool {
        self.is_empty()
    }
}
impl Unset for String {
    fn unset(&self) -> bool {
        self.is_empty()
    }
}
fn unset(value: &impl Unset) -> bool {
    value.unset()
}

inputs! {
    /// Makes a cluster: its group and interfaces at once, its control plane in the background.
    CreateClusterRequest {
        name: String,
        version: Option<String>,
        role_arn: String,
        resources_vpc_config: Option<VpcConfigRequest>,
        kubernetes_network_config: Option<KubernetesNetworkConfigRequest>,
        logging: Option<Logging>,
        client_request_token: Option<String>,
        tags: Texts,
        access_config: Option<AccessConfig>,
        bootstrap_self_managed_addons: Option<bool>,
        upgrade_policy: Option<UpgradePolicy>,
        deletion_protection: Option<bool>,
    }
    /// Where a cluster's interfaces are, and who reaches the endpoint.
    VpcConfigRequest {
        subnet_ids: Vec<String>,
        security_group_ids: Vec<String>,
        endpoint_public_access: Option<bool>,
        endpoint_private_access: Option<bool>,
        public_access_cidrs: Vec<String>,
    }
    /// Addresses of services.
    KubernetesNetworkConfigRequest {
        service_ipv4_cidr: Option<String>,
        ip_family: Option<String>,
    }
    /// Reads a cluster.
    DescribeClusterRequest { name: String, }
    /// Reads the names of clusters.
    ListClustersRequest { max_results: Option<i32>, next_token: Option<String>, include: Vec<String>, }
    /// Ends a cluster that has no node groups and no Fargate profiles.
    DeleteClusterRequest { name: String, }
    /// Changes a cluster.
    UpdateClusterConfigRequest {
        name: String,
        resources_vpc_config: Option<VpcConfigRequest>,
        client_request_token: Option<String>,
        access_config: Option<AccessConfig>,
        upgrade_policy: Option<UpgradePolicy>,
        deletion_protection: Option<bool>,
    }
    /// Makes a node group and launches its nodes.
    CreateNodegroupRequest {
        cluster_name: String,
        nodegroup_name: String,
        scaling_config: Option<NodegroupScalingConfig>,
        disk_size: Option<i32>,
        subnets: Vec<String>,
        instance_types: Vec<String>,
        ami_type: Option<String>,
        node_role: String,
        labels: Texts,
        taints: Vec<Taint>,
        tags: Texts,
        client_request_token: Option<String>,
        launch_template: Option<LaunchTemplateSpecification>,
        update_config: Option<NodegroupUpdateConfig>,
        capacity_type: Option<String>,
        version: Option<String>,
        release_version: Option<String>,
    }
    /// Reads a node group.
    DescribeNodegroupRequest { cluster_name: String, nodegroup_name: String, }
    /// Reads the names of node groups.
    ListNodegroupsRequest { cluster_name: String, max_results: Option<i32>, next_token: Option<String>, }
    /// Ends a node group and its nodes.
    DeleteNodegroupRequest { cluster_name: String, nodegroup_name: String, }
    /// Changes the size, the labels and the taints of a node group.
    UpdateNodegroupConfigRequest {
        cluster_name: String,
        nodegroup_name: String,
        labels: Option<UpdateLabelsPayload>,
        taints: Option<UpdateTaintsPayload>,
        scaling_config: Option<NodegroupScalingConfig>,
        update_config: Option<NodegroupUpdateConfig>,
        client_request_token: Option<String>,
    }
    /// Labels that come and go.
    UpdateLabelsPayload { add_or_update_labels: Texts, remove_labels: Vec<String>, }
    /// Taints that come and go.
    UpdateTaintsPayload { add_or_update_taints: Vec<Taint>, remove_taints: Vec<Taint>, }
    /// Makes a Fargate profile.
    CreateFargateProfileRequest {
        fargate_profile_name: String,
        cluster_name: String,
        pod_execution_role_arn: String,
        subnets: Vec<String>,
        selectors: Vec<FargateProfileSelector>,
        client_request_token: Option<String>,
        tags: Texts,
    }
    /// Reads a Fargate profile.
    DescribeFargateProfileRequest { cluster_name: String, fargate_profile_name: String, }
    /// Reads the names of Fargate profiles.
    ListFargateProfilesRequest { cluster_name: String, max_results: Option<i32>, next_token: Option<String>, }
    /// Ends a Fargate profile.
    DeleteFargateProfileRequest { cluster_name: String, fargate_profile_name: String, }
    /// Installs an add-on.
    CreateAddonRequest {
        cluster_name: String,
        addon_name: String,
        addon_version: Option<String>,
        service_account_role_arn: Option<String>,
        resolve_conflicts: Option<String>,
        client_request_token: Option<String>,
        tags: Texts,
        configuration_values: Option<String>,
    }
    /// Reads an add-on.
    DescribeAddonRequest { cluster_name: String, addon_name: String, }
    /// Changes version or configuration of an add-on.
    UpdateAddonRequest {
        cluster_name: String,
        addon_name: String,
        addon_version: Option<String>,
        service_account_role_arn: Option<String>,
        resolve_conflicts: Option<String>,
        client_request_token: Option<String>,
        configuration_values: Option<String>,
    }
    /// Reads the names of add-ons.
    ListAddonsRequest { cluster_name: String, max_results: Option<i32>, next_token: Option<String>, }
    /// Removes an add-on; with `preserve` only EKS forgets it.
    DeleteAddonRequest { cluster_name: String, addon_name: String, preserve: Option<bool>, }
    /// Reads what can be configured.
    DescribeAddonConfigurationRequest { addon_name: String, addon_version: String, }
    /// Reads which add-ons there are.
    DescribeAddonVersionsRequest {
        kubernetes_version: Option<String>,
        max_results: Option<i32>,
        next_token: Option<String>,
        addon_name: Option<String>,
        types: Vec<String>,
        publishers: Vec<String>,
        owners: Vec<String>,
    }
    /// Reads an update.
    DescribeUpdateRequest {
        name: String,
        update_id: String,
        nodegroup_name: Option<String>,
        addon_name: Option<String>,
    }
    /// Reads the ids of updates.
    ListUpdatesRequest {
        name: String,
        nodegroup_name: Option<String>,
        addon_name: Option<String>,
        max_results: Option<i32>,
        next_token: Option<String>,
    }
    /// Lets a user or role in.
    CreateAccessEntryRequest {
        cluster_name: String,
        principal_arn: String,
        kubernetes_groups: Vec<String>,
        tags: Texts,
        client_request_token: Option<String>,
        username: Option<String>,
        #[serde(rename = "type")]
        type_: Option<String>,
    }
    /// Reads an access entry.
    DescribeAccessEntryRequest { cluster_name: String, principal_arn: String, }
    /// Reads the principals of access entries.
    ListAccessEntriesRequest {
        cluster_name: String,
        associated_policy_arn: Option<String>,
        max_results: Option<i32>,
        next_token: Option<String>,
    }
    /// Removes an access entry.
    DeleteAccessEntryRequest { cluster_name: String, principal_arn: String, }
    /// Gives an access entry a policy.
    AssociateAccessPolicyRequest {
        cluster_name: String,
        principal_arn: String,
        policy_arn: String,
        access_scope: Option<AccessScope>,
    }
    /// Takes a policy from an access entry.
    DisassociateAccessPolicyRequest { cluster_name: String, principal_arn: String, policy_arn: String, }
    /// Reads the policies of an access entry.
    ListAssociatedAccessPoliciesRequest {
        cluster_name: String,
        principal_arn: String,
        max_results: Option<i32>,
        next_token: Option<String>,
    }
    /// Reads the tags of a cluster or of a part of one.
    ListTagsForResourceRequest { resource_arn: String, }
    /// Adds tags.
    TagResourceRequest { resource_arn: String, tags: Texts, }
    /// Removes tags.
    UntagResourceRequest { resource_arn: String, tag_keys: Vec<String>, }
}

/// An output.
macro_rules! outputs {
    ($($name:ident { $($field:ident: $type:ty,)* })*) => {$(
        #[doc = concat!("The answer `", stringify!($name), "`.")]
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        #[allow(missing_docs, reason = "members are documented by AWS under the same names")]
        pub struct $name {
            $(pub $field: $type,)*
        }
    )*};
}

/// The token of the next page: `null` after the last one, as EKS writes it.
type Next = Option<String>;

outputs! {
    ClusterAnswer { cluster: Cluster, }
    ListClustersResponse { clusters: Vec<String>, next_token: Next, }
    NodegroupAnswer { nodegroup: Nodegroup, }
    ListNodegroupsResponse { nodegroups: Vec<String>, next_token: Next, }
    FargateProfileAnswer { fargate_profile: FargateProfile, }
    ListFargateProfilesResponse { fargate_profile_names: Vec<String>, next_token: Next, }
    AddonAnswer { addon: Addon, }
    ListAddonsResponse { addons: Vec<String>, next_token: Next, }
    DescribeAddonConfigurationResponse {
        addon_name: String,
        addon_version: String,
        configuration_schema: String,
    }
    DescribeAddonVersionsResponse { addons: Vec<AddonInfo>, next_token: Next, }
    UpdateAnswer { update: Update, }
    ListUpdatesResponse { update_ids: Vec<String>, next_token: Next, }
    AccessEntryAnswer { access_entry: AccessEntry, }
    ListAccessEntriesResponse { access_entries: Vec<String>, next_token: Next, }
    AssociateAccessPolicyResponse {
        cluster_name: String,
        principal_arn: String,
        associated_access_policy: AssociatedAccessPolicy,
    }
    ListAssociatedAccessPoliciesResponse {
        cluster_name: String,
        principal_arn: String,
        associated_access_policies: Vec<AssociatedAccessPolicy>,
        next_token: Next,
    }
    ListTagsForResourceResponse { tags: Texts, }
    Empty { }
}

/// Where the members of a request are: method, path, the query's members; the others are in the body.
#[derive(Debug)]
pub struct Route {
    /// `CreateCluster`
    pub action: &'static str,
    /// `eks:CreateCluster`
    pub iam: &'static str,
    /// `GET`, `POST` or `DELETE`.
    pub method: &'static str,
    /// `/clusters/{name}`, with the names of members.
    pub path: &'static str,
    /// Members of the query string.
    pub query: &'static [(&'static str, Kind)],
    /// Members that EKS requires; those of the path are required always.
    pub required: &'static [&'static str],
}

/// What a member of the query string is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Text.
    Text,
    /// A whole number.
    Number,
    /// `true` or `false`.
    Flag,
    /// Text, any number of times.
    List,
}

/// An action of EKS, implemented by its input.
pub trait Operation:
    Clone + Default + Serialize + serde::de::DeserializeOwned + Send + Sync
{
    /// What it answers.
    type Output: Clone + Default + Serialize + serde::de::DeserializeOwned + Send;
    /// Where its members are.
    const ROUTE: &'static Route;
    /// Fills in an idempotency token where the action takes one and the caller gave none.
    fn fill_token(&mut self, token: impl FnOnce() -> String);
}

macro_rules! operations {
    ($($action:ident($request:ident) -> $output:ident = $method:ident $path:literal
        [$($query:ident: $kind:ident),*] requires [$($required:ident),*] $($token:ident)?;)*) => {
        $(impl Operation for $request {
            type Output = $output;
            const ROUTE: &'static Route = &Route {
                action: stringify!($action),
                iam: concat!("eks:", stringify!($action)),
                method: stringify!($method),
                path: $path,
                query: &[$((stringify!($query), Kind::$kind)),*],
                required: &[$(stringify!($required)),*],
            };
            #[allow(unused_variables, reason = "not every action takes a token")]
            fn fill_token(&mut self, token: impl FnOnce() -> String) {
                $(self.$token.get_or_insert_with(token);)?
            }
        }

        impl From<$request> for AnyRequest {
            fn from(request: $request) -> Self {
                Self::$action(request)
            }
        })*

        /// A request of any action that is built.
        #[derive(Clone, Debug, PartialEq)]
        #[allow(missing_docs, reason = "a variant is the action of its name")]
        pub enum AnyRequest {
            $($action($request),)*
        }

        impl AnyRequest {
            /// Where the request's members are.
            pub fn route(&self) -> &'static Route {
                match self {
                    $(Self::$action(_) => <$request>::ROUTE,)*
                }
            }

            /// The request as JSON.
            pub(super) fn members(&self) -> Result<serde_json::Value, serde_json::Error> {
                match self {
                    $(Self::$action(request) => serde_json::to_value(request),)*
                }
            }

            /// The request of `route` that these members make.
            pub(super) fn of(
                route: &Route,
                members: serde_json::Value,
            ) -> Result<(Self, serde_json::Value), serde_json::Error> {
                Ok(match route.action {
                    $(stringify!($action) => {
                        let request: $request = serde_json::from_value(members)?;
                        let known = serde_json::to_value(&request)?;
                        (Self::$action(request), known)
                    })*
                    other => return Err(serde::de::Error::custom(format_args!("{other} has no type"))),
                })
            }
        }

        /// Every action that is built.
        pub const ROUTES: &[&Route] = &[$(<$request>::ROUTE),*];
    };
}

operations! {
    CreateCluster(CreateClusterRequest) -> ClusterAnswer = POST "/clusters"
        [] requires [name, roleArn, resourcesVpcConfig] client_request_token;
    DescribeCluster(DescribeClusterRequest) -> ClusterAnswer = GET "/clusters/{name}" [] requires [];
    ListClusters(ListClustersRequest) -> ListClustersResponse = GET "/clusters"
        [maxResults: Number, nextToken: Text, include: List] requires [];
    DeleteCluster(DeleteClusterRequest) -> ClusterAnswer = DELETE "/clusters/{name}" [] requires [];
    UpdateClusterConfig(UpdateClusterConfigRequest) -> UpdateAnswer = POST "/clusters/{name}/update-config"
        [] requires [] client_request_token;
    CreateNodegroup(CreateNodegroupRequest) -> NodegroupAnswer = POST "/clusters/{clusterName}/node-groups"
        [] requires [nodegroupName, subnets, nodeRole] client_request_token;
    DescribeNodegroup(DescribeNodegroupRequest) -> NodegroupAnswer
        = GET "/clusters/{clusterName}/node-groups/{nodegroupName}" [] requires [];
    ListNodegroups(ListNodegroupsRequest) -> ListNodegroupsResponse = GET "/clusters/{clusterName}/node-groups"
        [maxResults: Number, nextToken: Text] requires [];
    DeleteNodegroup(DeleteNodegroupRequest) -> NodegroupAnswer
        = DELETE "/clusters/{clusterName}/node-groups/{nodegroupName}" [] requires [];
    UpdateNodegroupConfig(UpdateNodegroupConfigRequest) -> UpdateAnswer
        = POST "/clusters/{clusterName}/node-groups/{nodegroupName}/update-config"
        [] requires [] client_request_token;
    CreateFargateProfile(CreateFargateProfileRequest) -> FargateProfileAnswer
        = POST "/clusters/{clusterName}/fargate-profiles"
        [] requires [fargateProfileName, podExecutionRoleArn] client_request_token;
    DescribeFargateProfile(DescribeFargateProfileRequest) -> FargateProfileAnswer
        = GET "/clusters/{clusterName}/fargate-profiles/{fargateProfileName}" [] requires [];
    ListFargateProfiles(ListFargateProfilesRequest) -> ListFargateProfilesResponse
        = GET "/clusters/{clusterName}/fargate-profiles" [maxResults: Number, nextToken: Text] requires [];
    DeleteFargateProfile(DeleteFargateProfileRequest) -> FargateProfileAnswer
        = DELETE "/clusters/{clusterName}/fargate-profiles/{fargateProfileName}" [] requires [];
    CreateAddon(CreateAddonRequest) -> AddonAnswer = POST "/clusters/{clusterName}/addons"
        [] requires [addonName] client_request_token;
    DescribeAddon(DescribeAddonRequest) -> AddonAnswer = GET "/clusters/{clusterName}/addons/{addonName}"
        [] requires [];
    UpdateAddon(UpdateAddonRequest) -> UpdateAnswer = POST "/clusters/{clusterName}/addons/{addonName}/update"
        [] requires [] client_request_token;
    ListAddons(ListAddonsRequest) -> ListAddonsResponse = GET "/clusters/{clusterName}/addons"
        [maxResults: Number, nextToken: Text] requires [];
    DeleteAddon(DeleteAddonRequest) -> AddonAnswer = DELETE "/clusters/{clusterName}/addons/{addonName}"
        [preserve: Flag] requires [];
    DescribeAddonConfiguration(DescribeAddonConfigurationRequest) -> DescribeAddonConfigurationResponse
        = GET "/addons/configuration-schemas" [addonName: Text, addonVersion: Text]
        requires [addonName, addonVersion];
    DescribeAddonVersions(DescribeAddonVersionsRequest) -> DescribeAddonVersionsResponse
        = GET "/addons/supported-versions" [kubernetesVersion: Text, maxResults: Number, nextToken: Text,
        addonName: Text, types: List, publishers: List, owners: List] requires [];
    DescribeUpdate(DescribeUpdateRequest) -> UpdateAnswer = GET "/clusters/{name}/updates/{updateId}"
        [nodegroupName: Text, addonName: Text] requires [];
    ListUpdates(ListUpdatesRequest) -> ListUpdatesResponse = GET "/clusters/{name}/updates"
        [nodegroupName: Text, addonName: Text, maxResults: Number, nextToken: Text] requires [];
    CreateAccessEntry(CreateAccessEntryRequest) -> AccessEntryAnswer = POST "/clusters/{clusterName}/access-entries"
        [] requires [principalArn] client_request_token;
    DescribeAccessEntry(DescribeAccessEntryRequest) -> AccessEntryAnswer
        = GET "/clusters/{clusterName}/access-entries/{principalArn}" [] requires [];
    ListAccessEntries(ListAccessEntriesRequest) -> ListAccessEntriesResponse
        = GET "/clusters/{clusterName}/access-entries"
        [associatedPolicyArn: Text, maxResults: Number, nextToken: Text] requires [];
    DeleteAccessEntry(DeleteAccessEntryRequest) -> Empty
        = DELETE "/clusters/{clusterName}/access-entries/{principalArn}" [] requires [];
    AssociateAccessPolicy(AssociateAccessPolicyRequest) -> AssociateAccessPolicyResponse
        = POST "/clusters/{clusterName}/access-entries/{principalArn}/access-policies"
        [] requires [policyArn, accessScope];
    DisassociateAccessPolicy(DisassociateAccessPolicyRequest) -> Empty
        = DELETE "/clusters/{clusterName}/access-entries/{principalArn}/access-policies/{policyArn}" [] requires [];
    ListAssociatedAccessPolicies(ListAssociatedAccessPoliciesRequest) -> ListAssociatedAccessPoliciesResponse
        = GET "/clusters/{clusterName}/access-entries/{principalArn}/access-policies"
        [maxResults: Number, nextToken: Text] requires [];
    ListTagsForResource(ListTagsForResourceRequest) -> ListTagsForResourceResponse = GET "/tags/{resourceArn}"
        [] requires [];
    TagResource(TagResourceRequest) -> Empty = POST "/tags/{resourceArn}" [] requires [tags];
    UntagResource(UntagResourceRequest) -> Empty = DELETE "/tags/{resourceArn}" [tagKeys: List] requires [tagKeys];
}
