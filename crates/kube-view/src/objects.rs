//! The objects as the API server sends them: only the fields that are used, everything optional that
//! the API may leave out. Unknown fields are ignored, as every client of Kubernetes must.

use std::collections::BTreeMap;

use k8s_openapi::api::{
    apps::v1 as apps, batch::v1 as batch, core::v1 as core, discovery::v1 as discovery,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Resource;
use serde::{Deserialize, Deserializer, Serialize};

/// The annotations that are kept; all others are dropped while they are read.
const ANNOTATIONS: [&str; 4] = [
    crate::convert::POD_ENI,
    crate::convert::HELM_RELEASE,
    crate::convert::LAST_APPLIED,
    crate::convert::RESTARTED_AT,
];

/// Metadata without what nobody reads. Managed fields alone are a third of a pod.
fn meta<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Lean {
        name: Option<String>,
        namespace: Option<String>,
        uid: Option<String>,
        resource_version: Option<String>,
        generation: Option<i64>,
        labels: Option<BTreeMap<String, String>>,
        annotations: Option<Kept>,
        #[serde(default)]
        owner_references: Vec<LeanOwner>,
        deletion_timestamp: Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct LeanOwner {
        #[serde(default)]
        api_version: String,
        kind: String,
        name: String,
        #[serde(default)]
        uid: String,
        controller: Option<bool>,
    }
    let lean = Lean::deserialize(deserializer)?;
    let owner = |o: LeanOwner| OwnerReference {
        api_version: o.api_version,
        kind: o.kind,
        name: o.name,
        uid: o.uid,
        controller: o.controller,
        block_owner_deletion: None,
    };
    let owners: Vec<_> = lean.owner_references.into_iter().map(owner).collect();
    Ok(ObjectMeta {
        name: lean.name,
        namespace: lean.namespace,
        uid: lean.uid,
        resource_version: lean.resource_version,
        generation: lean.generation,
        labels: lean.labels,
        annotations: lean.annotations.map(|kept| kept.0),
        owner_references: (!owners.is_empty()).then_some(owners),
        deletion_timestamp: lean.deletion_timestamp,
        ..ObjectMeta::default()
    })
}

/// Annotations of a known list.
struct Kept(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Kept {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Kept;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a map of annotations")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Kept, A::Error> {
                let mut kept = BTreeMap::new();
                while let Some(key) = map.next_key::<String>()? {
                    match ANNOTATIONS.contains(&key.as_str()) {
                        // What was applied is large and may hold secrets; that it was is enough.
                        true if key == crate::convert::LAST_APPLIED => {
                            map.next_value::<serde::de::IgnoredAny>()?;
                            kept.insert(key, String::new());
                        }
                        true => {
                            kept.insert(key, map.next_value()?);
                        }
                        false => {
                            map.next_value::<serde::de::IgnoredAny>()?;
                        }
                    }
                }
                Ok(Kept(kept))
            }
        }
        deserializer.deserialize_map(Visitor)
    }
}

/// Go writes an empty list as `null`.
fn list<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    Ok(Option::<Vec<T>>::deserialize(deserializer)?.unwrap_or_default())
}

/// Declares an object of the API with metadata and the parts that are named.
macro_rules! object {
    ($(#[$doc:meta])* $name:ident of $inherit:literal { $($part:ident: $kind:ty),* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Default, Resource, Serialize, Deserialize)]
        #[resource(inherit = $inherit)]
        pub struct $name {
            /// Its name and what stands beside it.
            #[serde(deserialize_with = "meta")]
            pub metadata: ObjectMeta,
            $(
                #[doc = concat!("Its ", stringify!($part), ".")]
                #[serde(default)]
                pub $part: $kind,
            )*
        }
    };
}

/// Declares a part of an object: camelCase, unset where the API leaves it out.
macro_rules! part {
    ($(#[$doc:meta])* $name:ident { $($(#[$attribute:meta])* $field:ident: $kind:ty),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        #[expect(missing_docs, reason = "the fields of the API, by its own names")]
        pub struct $name { $($(#[$attribute])* pub $field: $kind),* }
    };
}

object!(
    /// A namespace.
    Namespace of "core::Namespace" {}
);
object!(
    /// A node.
    Node of "core::Node" { spec: NodeSpec, status: NodeStatus }
);
object!(
    /// A pod.
    Pod of "core::Pod" { spec: PodSpec, status: PodStatus }
);
object!(
    /// A ReplicaSet; its metadata is enough.
    ReplicaSet of "apps::ReplicaSet" {}
);
object!(
    /// A Deployment; its metadata is enough.
    Deployment of "apps::Deployment" {}
);
object!(
    /// A StatefulSet; its metadata is enough.
    StatefulSet of "apps::StatefulSet" {}
);
object!(
    /// A DaemonSet.
    DaemonSet of "apps::DaemonSet" { spec: DaemonSetSpec, status: DaemonSetStatus }
);
object!(
    /// A Job; its metadata is enough.
    Job of "batch::Job" {}
);
object!(
    /// A Service.
    Service of "core::Service" { spec: ServiceSpec }
);

part!(
    /// What is wished of a node.
    NodeSpec {
        #[serde(rename = "providerID")]
        provider_id: Option<String>,
        unschedulable: bool,
    }
);
part!(
    /// What a node says of itself.
    NodeStatus {
        #[serde(deserialize_with = "list")]
        addresses: Vec<NodeAddress>,
        #[serde(deserialize_with = "list")]
        conditions: Vec<Condition>,
        allocatable: BTreeMap<String, String>,
    }
);
part!(
    /// One address of a node.
    NodeAddress { #[serde(rename = "type")] kind: String, address: String }
);
part!(
    /// A condition.
    Condition { #[serde(rename = "type")] kind: String, status: String }
);
part!(
    /// What is wished of a pod.
    PodSpec {
        node_name: Option<String>,
        host_network: bool,
        #[serde(deserialize_with = "list")]
        containers: Vec<Container>,
        #[serde(deserialize_with = "list")]
        init_containers: Vec<Container>,
    }
);
part!(
    /// A container.
    Container {
        name: String,
        image: String,
        #[serde(deserialize_with = "list")]
        env: Vec<EnvVar>,
    }
);
part!(
    /// A variable.
    EnvVar { name: String, value: Option<String>, value_from: Option<serde_json::Value> }
);
part!(
    /// What a pod's kubelet says of it.
    PodStatus {
        phase: String,
        #[serde(rename = "podIP")]
        pod_ip: Option<String>,
        #[serde(rename = "podIPs", deserialize_with = "list")]
        pod_ips: Vec<PodIp>,
        #[serde(deserialize_with = "list")]
        conditions: Vec<Condition>,
        #[serde(deserialize_with = "list")]
        init_container_statuses: Vec<ContainerStatus>,
        #[serde(deserialize_with = "list")]
        container_statuses: Vec<ContainerStatus>,
    }
);
part!(
    /// How a container is.
    ContainerStatus {
        name: String,
        restart_count: u32,
        state: ContainerState,
        last_state: ContainerState,
    }
);
part!(
    /// One of the states of a container; running is none of these.
    ContainerState { waiting: Option<Waiting>, terminated: Option<Terminated> }
);
part!(
    /// Why a container does not run.
    Waiting { reason: String }
);
part!(
    /// How a container ended.
    Terminated { reason: String, exit_code: i64 }
);
part!(
    /// One address of a pod.
    PodIp { ip: String }
);
part!(
    /// What is wished of a DaemonSet.
    DaemonSetSpec { template: PodTemplate, update_strategy: UpdateStrategy }
);
part!(
    /// What pods are made from.
    PodTemplate { spec: PodSpec }
);
part!(
    /// How pods are replaced.
    UpdateStrategy { #[serde(rename = "type")] kind: String }
);
part!(
    /// How far a DaemonSet's controller is.
    DaemonSetStatus { observed_generation: i64 }
);
part!(
    /// What is wished of a Service.
    ServiceSpec {
        #[serde(rename = "type")]
        kind: String,
        #[serde(rename = "clusterIP")]
        cluster_ip: String,
        #[serde(rename = "clusterIPs", deserialize_with = "list")]
        cluster_ips: Vec<String>,
        #[serde(deserialize_with = "list")]
        ports: Vec<ServicePort>,
        selector: BTreeMap<String, String>,
        internal_traffic_policy: String,
    }
);
part!(
    /// A port of a Service.
    ServicePort { name: String, protocol: String, port: i64 }
);

/// A part of a Service's endpoints.
#[derive(Debug, Clone, Default, Resource, Serialize, Deserialize)]
#[resource(inherit = "discovery::EndpointSlice")]
#[serde(rename_all = "camelCase")]
pub struct EndpointSlice {
    /// Its name and what stands beside it.
    #[serde(deserialize_with = "meta")]
    pub metadata: ObjectMeta,
    /// `IPv4`, `IPv6` or `FQDN`.
    #[serde(default)]
    pub address_type: String,
    /// The endpoints.
    #[serde(default, deserialize_with = "list")]
    pub endpoints: Vec<Endpoint>,
    /// Their ports.
    #[serde(default, deserialize_with = "list")]
    pub ports: Vec<EndpointPort>,
}

part!(
    /// One endpoint.
    Endpoint {
        #[serde(deserialize_with = "list")]
        addresses: Vec<String>,
        conditions: EndpointConditions,
        node_name: Option<String>,
        target_ref: Option<TargetRef>,
        hints: Option<Hints>,
    }
);
part!(
    /// How an endpoint is; unset counts as ready.
    EndpointConditions { ready: Option<bool> }
);
part!(
    /// What an endpoint is.
    TargetRef { kind: String, name: String }
);
part!(
    /// Who shall use an endpoint.
    Hints {
        #[serde(deserialize_with = "list")]
        for_zones: Vec<Zone>,
    }
);
part!(
    /// A zone.
    Zone { name: String }
);
part!(
    /// A port of endpoints.
    EndpointPort { name: String, protocol: String, port: Option<i64> }
);
