//! Reading a world: live EC2, the cluster by the user's kubeconfig, and the nodes' introspection.
//!
//! Only what operator rights allow is read: EC2's Describe calls, lists of Kubernetes objects and the
//! introspection documents of the nodes' agents. What is denied or does not answer becomes a named
//! gap in [`Inputs`], never an empty result.

mod agent;
pub mod bundle;
pub mod file;
mod introspect;
mod kubernetes;
mod nodes;
mod redact;
pub mod rights;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use ec2::Client;
use ec2::facts::{ReadError, Scope, read_world};
use ec2::types::{DescribeInstanceTypesRequest, InstanceTypeInfo};
use jiff::Timestamp;
use reach::Inputs;
use reach::facts::{Addon, Evidence, InstanceLimits, Node};
use reach::resolve::find_instance;
use tokio::task::JoinSet;
use vpc::facts::{InstanceId, Unread};

use crate::agent::Documents;

pub use introspect::Endpoint;
pub use kubernetes::{Kube, KubeOptions, connect};

/// Why nothing can be said at all, or a node's agent could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// EC2 cannot be read.
    #[error("EC2 cannot be read: {0}")]
    Ec2(#[from] ReadError),
    /// The limits of instance types were answered in a form that cannot be understood.
    #[error("DescribeInstanceTypes: {instance_type} comes without {what}")]
    Limits {
        /// The instance type.
        instance_type: String,
        /// What is missing.
        what: &'static str,
    },
    /// A kubeconfig cannot be used.
    #[error("the kubeconfig ({what}) cannot be used: {source}")]
    Kubeconfig {
        /// The file or the context.
        what: String,
        /// Why.
        #[source]
        source: Box<kube::config::KubeconfigError>,
    },
    /// A context that the kubeconfig does not have.
    #[error("{}; it has: {}", no_context(.name), known.join(", "))]
    NoContext {
        /// The name as given; empty when none was given and none is current.
        name: String,
        /// Those it has.
        known: Vec<String>,
    },
    /// A cluster that the kubeconfig does not have.
    #[error("the kubeconfig has no cluster {name:?}; it has: {} (aws eks update-kubeconfig --name {name} adds one)", known.join(", "))]
    NoCluster {
        /// The name as given.
        name: String,
        /// Those it has.
        known: Vec<String>,
    },
    /// A cluster with several contexts.
    #[error("several contexts lead to cluster {name:?}: name one with --context: {}", contexts.join(", "))]
    SeveralContexts {
        /// The cluster as given.
        name: String,
        /// The contexts.
        contexts: Vec<String>,
    },
    /// Nobody answers.
    #[error(
        "the API server {server} does not answer: {why}; is the endpoint private, the cluster gone, or a proxy or VPN missing? try: kubectl version"
    )]
    KubeUnreachable {
        /// Its address.
        server: String,
        /// What the connection says.
        why: String,
    },
    /// The credentials are refused.
    #[error(
        "the API server {server} refuses the credentials of context {context:?}: {why}; has the token expired, or the AWS identity no access entry? try: aws sts get-caller-identity, then aws eks update-kubeconfig"
    )]
    KubeRefused {
        /// Its address.
        server: String,
        /// What it says.
        why: String,
        /// The context.
        context: String,
    },
    /// A snapshot cannot be read or written.
    #[error("the snapshot {}: {source}", path.display())]
    SnapshotFile {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A support file cannot be written.
    #[error("the support file {}: {source}", path.display())]
    BundleFile {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file that is no snapshot.
    #[error("{} is not a snapshot: {why}; branchline snapshot -o FILE writes one", path.display())]
    NotASnapshot {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// An agent's address does not parse.
    #[error("{text:?} is not NODE=URL, as ip-10-0-1-11=http://127.0.0.1:61679")]
    BadEndpoint {
        /// The text as given.
        text: String,
    },
    /// An agent does not answer as it should.
    #[error("{node}: {url}: {why}")]
    Node {
        /// The node.
        node: String,
        /// What was asked for.
        url: String,
        /// What went wrong.
        why: String,
    },
}

fn no_context(name: &str) -> String {
    match name.is_empty() {
        true => "the kubeconfig has no current context: name one with --context".to_owned(),
        false => format!("the kubeconfig has no context {name:?}"),
    }
}

/// Reads everything that an answer may need: EC2 and the cluster at once, then the agents.
///
/// # Errors
/// Only when EC2 or the cluster cannot be asked at all or EC2 answers nonsense; denied calls and
/// silent agents are named in the result.
pub async fn read(
    client: &Client,
    kube: Option<&Kube>,
    endpoints: &[Endpoint],
) -> Result<Inputs, Error> {
    let ec2 = async {
        let world = read_world(client, &Scope::default()).await?;
        let mut inputs = Inputs {
            world,
            ..Inputs::default()
        };
        inputs.evidence.push(evidence("aws", "ec2:Describe*"));
        limits(client, &mut inputs).await?;
        Ok(inputs)
    };
    let cluster = async {
        match kube {
            Some(kube) => kube.read().await.map(Some),
            None => Ok(None),
        }
    };
    let (mut inputs, cluster) = tokio::try_join!(ec2, cluster)?;
    if let Some((cluster, evidence)) = cluster {
        inputs.kubernetes = Some(cluster);
        inputs.evidence.extend(evidence);
    }
    nodes::from_kubernetes(&mut inputs);
    ask_agents(endpoints, &mut inputs).await;
    Ok(inputs)
}

fn evidence(source: &str, call: &str) -> Evidence {
    Evidence {
        source: source.to_owned(),
        call: call.to_owned(),
        at: Timestamp::now().to_string(),
    }
}

async fn limits(client: &Client, inputs: &mut Inputs) -> Result<(), Error> {
    let running = inputs
        .world
        .instances
        .values()
        .filter(|i| i.state != "terminated");
    let types: BTreeSet<String> = running.map(|i| i.instance_type.clone()).collect();
    if types.is_empty() {
        return Ok(());
    }
    let request = DescribeInstanceTypesRequest {
        instance_types: types.into_iter().collect(),
        ..Default::default()
    };
    match client.call_all(request).await {
        Ok(answer) => {
            for info in &answer.instance_types {
                let (name, limits) = instance_limits(info)?;
                inputs.limits.insert(name, limits);
            }
            inputs
                .evidence
                .push(evidence("aws", "ec2:DescribeInstanceTypes"));
        }
        Err(error) => {
            let action = error
                .iam_action()
                .unwrap_or_else(|| "ec2:DescribeInstanceTypes".to_owned());
            inputs.unread_limits = Some(Unread {
                action,
                reason: error.to_string(),
            });
        }
    }
    Ok(())
}

fn instance_limits(info: &InstanceTypeInfo) -> Result<(String, InstanceLimits), Error> {
    let name = info.instance_type.clone().unwrap_or_default();
    let lacks = |what| Error::Limits {
        instance_type: name.clone(),
        what,
    };
    let network = info
        .network_info
        .as_ref()
        .ok_or_else(|| lacks("NetworkInfo"))?;
    let count = |value: Option<i32>, what| {
        value
            .and_then(|v| u32::try_from(v).ok())
            .ok_or_else(|| lacks(what))
    };
    let known = ec2::limits::of(&name);
    let default = network.default_network_card_index.unwrap_or(0);
    let card = network
        .network_cards
        .iter()
        .find(|c| c.network_card_index == Some(default));
    let told = card.and_then(|c| u32::try_from(c.maximum_network_interfaces?).ok());
    let limits = InstanceLimits {
        interfaces: count(
            network.maximum_network_interfaces,
            "MaximumNetworkInterfaces",
        )?,
        addresses: count(
            network.ipv4_addresses_per_interface,
            "Ipv4AddressesPerInterface",
        )?,
        on_card: told.or_else(|| known.and_then(|k| k.card(k.default_network_card))),
        // EC2 tells nobody which types can have a trunk.
        trunking: known.map(|k| k.trunking),
        branches: known.map(|k| k.branch_interfaces),
        prefixes: known.map(|k| k.hypervisor == "nitro" || k.bare_metal),
    };
    Ok((name, limits))
}

/// Asks EKS for the add-on that manages the agent's DaemonSet.
pub async fn read_addon(client: &ec2::eks::Client, cluster: &str, inputs: &mut Inputs) {
    let request = ec2::eks::DescribeAddonRequest {
        cluster_name: cluster.to_owned(),
        addon_name: "vpc-cni".to_owned(),
    };
    let addon = match client.call(request).await {
        Ok(answer) => {
            let values = answer.addon.configuration_values.as_deref();
            match env_of(values.unwrap_or_default()) {
                Ok(env) => Addon::Managed {
                    version: answer.addon.addon_version,
                    status: answer.addon.status,
                    env,
                },
                Err(why) => Addon::Unread(Unread {
                    action: "eks:DescribeAddon".to_owned(),
                    reason: format!("the configuration of vpc-cni is neither JSON nor YAML: {why}"),
                }),
            }
        }
        Err(error) if error.code() == Some("ResourceNotFoundException") => Addon::Absent,
        Err(error) => Addon::Unread(Unread {
            action: "eks:DescribeAddon".to_owned(),
            reason: error.to_string(),
        }),
    };
    let call = format!("eks:DescribeAddon {cluster} vpc-cni");
    inputs.evidence.push(evidence("aws", &call));
    inputs.addon = Some(addon);
}

/// The variables of `{"env": {…}}`, which may also be written as YAML.
fn env_of(values: &str) -> Result<BTreeMap<String, String>, serde_saphyr::Error> {
    if values.trim().is_empty() {
        return Ok(BTreeMap::new());
    }
    let document: serde_json::Value = serde_saphyr::from_str(values)?;
    let env = document.get("env").and_then(|e| e.as_object());
    let text = |value: &serde_json::Value| match value {
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    Ok(env
        .into_iter()
        .flatten()
        .map(|(name, value)| (name.clone(), text(value)))
        .collect())
}

/// Asks all agents at once.
async fn ask_agents(endpoints: &[Endpoint], inputs: &mut Inputs) {
    let mut asked = JoinSet::new();
    for endpoint in endpoints.iter().cloned() {
        match find_instance(inputs, &endpoint.node).map(|i| i.id.clone()) {
            Ok(instance) => {
                asked.spawn(ask(endpoint, instance));
            }
            Err(error) => {
                inputs
                    .unread_nodes
                    .insert(endpoint.node.clone(), error.to_string());
            }
        }
    }
    while let Some(answer) = asked.join_next().await {
        match answer {
            Ok((endpoint, Ok((node, documents)))) => {
                inputs.evidence.push(evidence(
                    "node",
                    &format!("{} {}v1/enis", node.name, endpoint.url),
                ));
                nodes::from_agent(inputs, node, documents);
            }
            Ok((endpoint, Err(error))) => {
                let known = inputs.nodes.values_mut();
                match known.into_iter().find(|n| n.answers_to(&endpoint.node)) {
                    // Kubernetes says enough of it; that its agent is silent is worth telling.
                    Some(node) => {
                        node.silent = Some(error.to_string());
                        inputs
                            .evidence
                            .push(evidence("node", &format!("not read: {error}")));
                    }
                    None => {
                        inputs.unread_nodes.insert(endpoint.node, error.to_string());
                    }
                }
            }
            Err(gone) => {
                inputs
                    .unread_nodes
                    .insert("a node".to_owned(), gone.to_string());
            }
        }
    }
}

async fn ask(
    endpoint: Endpoint,
    instance: InstanceId,
) -> (Endpoint, Result<(Node, Documents), Error>) {
    let node = introspect::read_node(&endpoint, instance).await;
    (endpoint, node)
}
