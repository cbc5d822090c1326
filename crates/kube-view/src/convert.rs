//! From objects to facts: every object is either represented or refused with the field that does not
//! fit.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::facts::{self, EnvValue, Kind, Labels, ObjectName, Owner, Phase, Protocol, ServiceKind};
use crate::index::Indexed;
use crate::objects;

/// The branch interface of a pod with a security group of its own.
pub(crate) const POD_ENI: &str = "vpc.amazonaws.com/pod-eni";
/// Set by Helm on what it installs.
pub(crate) const HELM_RELEASE: &str = "meta.helm.sh/release-name";
/// Set by `kubectl apply`.
pub(crate) const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Set by `kubectl rollout restart`.
pub(crate) const RESTARTED_AT: &str = "kubectl.kubernetes.io/restartedAt";

/// Whether a DaemonSet's pods are address agents: by the name of their container, which upstream's
/// chart and ours share, whatever the DaemonSet is called (a canary has a name of its own).
fn is_agent(namespace: &str, spec: &objects::PodSpec) -> bool {
    namespace == "kube-system" && spec.containers.iter().any(|c| c.name == facts::AGENT)
}

/// Why an object cannot be represented.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A field that holds an address holds something else.
    #[error("{field} {text:?} is not an IP address")]
    Address {
        /// The field.
        field: &'static str,
        /// What it holds.
        text: String,
    },
    /// A word that the API has no meaning for.
    #[error("{field} {text:?} is not known")]
    Word {
        /// The field.
        field: &'static str,
        /// What it holds.
        text: String,
    },
    /// A number that is no port.
    #[error("port {0} is not a port")]
    Port(i64),
}

fn address(field: &'static str, text: &str) -> Result<IpAddr, Refusal> {
    text.parse().map_err(|_| Refusal::Address {
        field,
        text: text.to_owned(),
    })
}

fn unknown_word(field: &'static str, text: &str) -> Refusal {
    Refusal::Word {
        field,
        text: text.to_owned(),
    }
}

fn labels(meta: &mut ObjectMeta) -> Labels {
    Labels(std::sync::Arc::new(meta.labels.take().unwrap_or_default()))
}

fn version(meta: &ObjectMeta) -> String {
    meta.resource_version.clone().unwrap_or_default()
}

/// The owner that controls the object.
fn owner(meta: &ObjectMeta) -> Option<Owner> {
    let references = meta.owner_references.as_deref().unwrap_or_default();
    let controller = references.iter().find(|o| o.controller == Some(true))?;
    Some(Owner {
        kind: controller.kind.clone(),
        name: controller.name.clone(),
    })
}

fn condition(conditions: &[objects::Condition], kind: &str) -> Option<bool> {
    let found = conditions.iter().find(|c| c.kind == kind)?;
    match found.status.as_str() {
        "True" => Some(true),
        "False" => Some(false),
        _ => None,
    }
}

fn protocol(text: &str) -> Result<Protocol, Refusal> {
    match text {
        "" | "TCP" => Ok(Protocol::Tcp),
        "UDP" => Ok(Protocol::Udp),
        "SCTP" => Ok(Protocol::Sctp),
        _ => Err(unknown_word("protocol", text)),
    }
}

fn port(number: i64) -> Result<u16, Refusal> {
    u16::try_from(number).map_err(|_| Refusal::Port(number))
}

/// Containers that do not run, or did not until now. A container that is being made the first time
/// is no trouble.
fn trouble(status: &objects::PodStatus) -> Vec<String> {
    let all = status.init_container_statuses.iter();
    let all = all.chain(&status.container_statuses);
    let mut lines = Vec::new();
    for container in all {
        let waiting = container.state.waiting.as_ref().map(|w| w.reason.as_str());
        let waiting = waiting.filter(|r| !matches!(*r, "ContainerCreating" | "PodInitializing"));
        let ended = [&container.state, &container.last_state];
        let ended = ended.iter().find_map(|s| s.terminated.as_ref());
        let bad = ended.filter(|e| e.exit_code != 0);
        if waiting.is_none() && (bad.is_none() || container.restart_count == 0) {
            continue;
        }
        let mut line = format!("container {}", container.name);
        line += &waiting.map_or_else(String::new, |reason| format!(" waits: {reason}"));
        line += &format!(", restarted {} times", container.restart_count);
        line += &bad.map_or_else(String::new, |e| {
            format!(", last ended with exit code {} ({})", e.exit_code, e.reason)
        });
        lines.push(line);
    }
    lines
}

impl Indexed for objects::Namespace {
    type Fact = facts::Namespace;
    const KIND: Kind = Kind::Namespace;

    fn fact(mut self, _: &ObjectName) -> Result<Self::Fact, Refusal> {
        let labels = labels(&mut self.metadata);
        Ok(facts::Namespace { labels })
    }

    fn table(cluster: &mut facts::Cluster) -> &mut BTreeMap<ObjectName, Self::Fact> {
        &mut cluster.namespaces
    }
}

impl Indexed for objects::Node {
    type Fact = facts::Node;
    const KIND: Kind = Kind::Node;

    fn fact(mut self, _: &ObjectName) -> Result<Self::Fact, Refusal> {
        let internal = self
            .status
            .addresses
            .iter()
            .filter(|a| a.kind == "InternalIP");
        let addresses = internal.map(|a| address("status.addresses", &a.address));
        let instance = self.spec.provider_id.as_deref().and_then(|id| {
            let last = id.strip_prefix("aws://")?.rsplit('/').next()?;
            last.starts_with("i-").then(|| last.to_owned())
        });
        let max_pods = self.status.allocatable.get("pods");
        Ok(facts::Node {
            instance,
            addresses: addresses.collect::<Result<_, _>>()?,
            labels: labels(&mut self.metadata),
            unschedulable: self.spec.unschedulable,
            ready: condition(&self.status.conditions, "Ready"),
            max_pods: max_pods.and_then(|n| n.parse().ok()),
            version: version(&self.metadata),
        })
    }

    fn table(cluster: &mut facts::Cluster) -> &mut BTreeMap<ObjectName, Self::Fact> {
        &mut cluster.nodes
    }
}

impl Indexed for objects::Pod {
    type Fact = facts::Pod;
    const KIND: Kind = Kind::Pod;

    fn fact(mut self, name: &ObjectName) -> Result<Self::Fact, Refusal> {
        let status = &self.status;
        let mut addresses = Vec::new();
        for text in status.pod_ips.iter().map(|p| &p.ip).chain(&status.pod_ip) {
            let parsed = address("status.podIPs", text)?;
            if !addresses.contains(&parsed) {
                addresses.push(parsed);
            }
        }
        let owner = owner(&self.metadata);
        let agent = owner.as_ref().is_some_and(|o| o.kind == "DaemonSet")
            && is_agent(&name.namespace, &self.spec);
        let mut annotations = self.metadata.annotations.take().unwrap_or_default();
        Ok(facts::Pod {
            uid: self.metadata.uid.take().unwrap_or_default(),
            node: self.spec.node_name.take(),
            addresses,
            host_network: self.spec.host_network,
            phase: match status.phase.as_str() {
                "" | "Pending" => Phase::Pending,
                "Running" => Phase::Running,
                "Succeeded" => Phase::Succeeded,
                "Failed" => Phase::Failed,
                "Unknown" => Phase::Unknown,
                other => return Err(unknown_word("status.phase", other)),
            },
            ready: condition(&status.conditions, "Ready") == Some(true),
            deleting: self.metadata.deletion_timestamp.is_some(),
            owner,
            labels: labels(&mut self.metadata),
            pod_eni: annotations.remove(POD_ENI),
            containers: match agent {
                true => containers(&self.spec),
                false => Vec::new(),
            },
            trouble: match agent {
                true => trouble(&self.status),
                false => Vec::new(),
            },
            version: version(&self.metadata),
        })
    }

    fn table(cluster: &mut facts::Cluster) -> &mut BTreeMap<ObjectName, Self::Fact> {
        &mut cluster.pods
    }
}

/// Objects of which the owner is all that matters.
macro_rules! controller {
    ($object:ident, $table:ident) => {
        impl Indexed for objects::$object {
            type Fact = facts::Controller;
            const KIND: Kind = Kind::$object;

            fn fact(self, _: &ObjectName) -> Result<Self::Fact, Refusal> {
                Ok(facts::Controller {
                    owner: owner(&self.metadata),
                    version: version(&self.metadata),
                })
            }

            fn table(cluster: &mut facts::Cluster) -> &mut BTreeMap<ObjectName, Self::Fact> {
                &mut cluster.$table
            }
        }
    };
}

controller!(ReplicaSet, replica_sets);
controller!(Deployment, deployments);
controller!(StatefulSet, stateful_sets);
controller!(Job, jobs);

impl Indexed for objects::DaemonSet {
    type Fact = facts::DaemonSet;
    const KIND: Kind = Kind::DaemonSet;

    fn fact(mut self, name: &ObjectName) -> Result<Self::Fact, Refusal> {
        let agent = is_agent(&name.namespace, &self.spec.template.spec);
        let annotations = self.metadata.annotations.take().unwrap_or_default();
        let by = |key: &str, words: &str| {
            let value = annotations.get(key)?;
            Some(format!("{words} {value}").trim_end().to_owned())
        };
        let helm = by(HELM_RELEASE, "Helm release");
        let applied = by(LAST_APPLIED, "kubectl apply");
        Ok(facts::DaemonSet {
            generation: self.metadata.generation.unwrap_or_default(),
            observed: self.status.observed_generation,
            on_delete: self.spec.update_strategy.kind == "OnDelete",
            managed_by: match agent {
                true => helm.into_iter().chain(applied).collect(),
                false => Vec::new(),
            },
            containers: match agent {
                true => containers(&self.spec.template.spec),
                false => Vec::new(),
            },
            version: version(&self.metadata),
        })
    }

    fn table(cluster: &mut facts::Cluster) -> &mut BTreeMap<ObjectName, Self::Fact> {
        &mut cluster.daemon_sets
    }
}

fn containers(spec: &objects::PodSpec) -> Vec<facts::Container> {
    let one = |container: &objects::Container, init| facts::Container {
        name: container.name.clone(),
        image: container.image.clone(),
        init,
        env: container.env.iter().map(variable).collect(),
    };
    let init = spec.init_containers.iter().map(|c| one(c, true));
    init.chain(spec.containers.iter().map(|c| one(c, false)))
        .collect()
}

fn variable(variable: &objects::EnvVar) -> (String, EnvValue) {
    let value = match (&variable.value_from, is_ours(&variable.name)) {
        // Where a value comes from is no secret.
        (Some(from), _) => EnvValue::From(reference(from)),
        (None, false) => EnvValue::Withheld,
        (None, true) => EnvValue::Is(variable.value.clone().unwrap_or_default()),
    };
    (variable.name.clone(), value)
}

/// Whether a variable is one of the stack's, ours or upstream's. The value of any other is not kept.
fn is_ours(name: &str) -> bool {
    const STARTS: [&str; 17] = [
        "ADDITIONAL_ENI_TAGS",
        "ANNOTATE_POD_IP",
        "AWS_ENDPOINT_URL",
        "AWS_EXTERNAL_SERVICE_CIDRS",
        "AWS_REGION",
        "AWS_VPC_",
        "BRANCHLINE_",
        "CLUSTER_",
        "DISABLE_",
        "ENABLE_",
        "ENI_CONFIG_",
        "HOST_CNI_",
        "INTROSPECTION_BIND_ADDRESS",
        "IP_COOLDOWN_PERIOD",
        "M",
        "POD_",
        "VPC_",
    ];
    const M: [&str; 5] = [
        "MANAGE_UNTAGGED_ENI",
        "MAX_ENI",
        "MINIMUM_IP_TARGET",
        "MY_NODE_NAME",
        "MULTUS",
    ];
    let start = STARTS.iter().find(|start| name.starts_with(*start));
    match start {
        Some(&"M") => M.contains(&name),
        Some(_) => true,
        None => {
            name.starts_with("WARM_") || name.starts_with("NETWORK_POLICY_") || name == "NODE_NAME"
        }
    }
}

/// `{"fieldRef": {"fieldPath": "spec.nodeName"}}` in one line.
fn reference(from: &serde_json::Value) -> String {
    let Some((kind, what)) = from.as_object().and_then(|o| o.iter().next()) else {
        return "an unknown source".to_owned();
    };
    let text = |key: &str| what.get(key).and_then(serde_json::Value::as_str);
    match (
        text("fieldPath"),
        text("name"),
        text("key"),
        text("resource"),
    ) {
        (Some(path), ..) => format!("{kind} {path}"),
        (None, Some(name), Some(key), _) => format!("{kind} {name}/{key}"),
        (None, _, _, Some(resource)) => format!("{kind} {resource}"),
        _ => kind.clone(),
    }
}

impl Indexed for objects::Service {
    type Fact = facts::Service;
    const KIND: Kind = Kind::Service;

    fn fact(self, _: &ObjectName) -> Result<Self::Fact, Refusal> {
        let spec = self.spec;
        let mut cluster_ip: Option<Ipv4Addr> = None;
        for text in spec.cluster_ips.iter().chain([&spec.cluster_ip]) {
            if text.is_empty() || text == "None" {
                continue;
            }
            if let IpAddr::V4(v4) = address("spec.clusterIP", text)? {
                cluster_ip.get_or_insert(v4);
            }
        }
        let one = |p: &objects::ServicePort| {
            Ok(facts::ServicePort {
                name: p.name.clone(),
                protocol: protocol(&p.protocol)?,
                port: port(p.port)?,
            })
        };
        Ok(facts::Service {
            kind: match spec.kind.as_str() {
                "" | "ClusterIP" => ServiceKind::ClusterIP,
                "NodePort" => ServiceKind::NodePort,
                "LoadBalancer" => ServiceKind::LoadBalancer,
                "ExternalName" => ServiceKind::ExternalName,
                other => return Err(unknown_word("spec.type", other)),
            },
            cluster_ip,
            ports: spec.ports.iter().map(one).collect::<Result<_, Refusal>>()?,
            selector: spec.selector,
            local: spec.internal_traffic_policy == "Local",
            version: version(&self.metadata),
        })
    }

    fn table(cluster: &mut facts::Cluster) -> &mut BTreeMap<ObjectName, Self::Fact> {
        &mut cluster.services
    }
}

/// The label that names an EndpointSlice's Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

impl Indexed for objects::EndpointSlice {
    type Fact = facts::EndpointSlice;
    const KIND: Kind = Kind::EndpointSlice;

    fn fact(self, _: &ObjectName) -> Result<Self::Fact, Refusal> {
        // Names instead of addresses: kube-proxy passes them over, so they are no endpoints here.
        let names = self.address_type == "FQDN";
        let endpoints = self.endpoints.into_iter().filter(|_| !names).map(|e| {
            let addresses = e
                .addresses
                .iter()
                .map(|a| address("endpoints.addresses", a));
            Ok(facts::Endpoint {
                addresses: addresses.collect::<Result<_, Refusal>>()?,
                ready: e.conditions.ready.unwrap_or(true),
                node: e.node_name,
                pod: e.target_ref.filter(|t| t.kind == "Pod").map(|t| t.name),
                zones: e.hints.map_or_else(Vec::new, |h| {
                    h.for_zones.into_iter().map(|z| z.name).collect()
                }),
            })
        });
        let ports = self.ports.iter().map(|p| {
            Ok(facts::EndpointPort {
                name: p.name.clone(),
                protocol: protocol(&p.protocol)?,
                port: p.port.map(port).transpose()?,
            })
        });
        let labels = self.metadata.labels.as_ref();
        Ok(facts::EndpointSlice {
            service: labels.and_then(|l| l.get(SERVICE_NAME).cloned()),
            ports: ports.collect::<Result<_, Refusal>>()?,
            endpoints: endpoints.collect::<Result<_, Refusal>>()?,
            version: version(&self.metadata),
        })
    }

    fn table(cluster: &mut facts::Cluster) -> &mut BTreeMap<ObjectName, Self::Fact> {
        &mut cluster.endpoint_slices
    }
}
