//! Reading a world: live EC2 and the nodes' introspection.
//!
//! Only what operator rights allow is read: EC2's Describe calls and the introspection documents of
//! the nodes' agents. What is denied or does not answer becomes a named gap in [`Inputs`], never an
//! empty result.

mod introspect;

use std::collections::BTreeSet;

use ec2::Client;
use ec2::facts::{ReadError, Scope, read_world};
use ec2::types::{DescribeInstanceTypesRequest, InstanceTypeInfo};
use jiff::Timestamp;
use reach::Inputs;
use reach::facts::{Evidence, InstanceLimits, Node};
use reach::resolve::find_instance;
use tokio::task::JoinSet;
use vpc::facts::{InstanceId, Unread};

pub use introspect::Endpoint;

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

/// Reads everything that an answer may need.
///
/// # Errors
/// Only when EC2 cannot be asked at all or answers nonsense; denied calls and silent agents are
/// named in the result.
pub async fn read(client: &Client, endpoints: &[Endpoint]) -> Result<Inputs, Error> {
    let world = read_world(client, &Scope::default()).await?;
    let mut inputs = Inputs {
        world,
        ..Inputs::default()
    };
    inputs.evidence.push(evidence("aws", "ec2:Describe*"));
    limits(client, &mut inputs).await?;
    nodes(endpoints, &mut inputs).await;
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
    let limits = InstanceLimits {
        interfaces: count(
            network.maximum_network_interfaces,
            "MaximumNetworkInterfaces",
        )?,
        addresses: count(
            network.ipv4_addresses_per_interface,
            "Ipv4AddressesPerInterface",
        )?,
        // EC2 tells nobody which types can have a trunk.
        trunking: ec2::limits::of(&name).map(|known| known.trunking),
    };
    Ok((name, limits))
}

/// Asks all agents at once.
async fn nodes(endpoints: &[Endpoint], inputs: &mut Inputs) {
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
            Ok((endpoint, Ok(node))) => {
                inputs.evidence.push(evidence(
                    "node",
                    &format!("{} {}v1/enis", node.name, endpoint.url),
                ));
                inputs.nodes.insert(node.name.clone(), node);
            }
            Ok((endpoint, Err(error))) => {
                inputs.unread_nodes.insert(endpoint.node, error.to_string());
            }
            Err(gone) => {
                inputs
                    .unread_nodes
                    .insert("a node".to_owned(), gone.to_string());
            }
        }
    }
}

async fn ask(endpoint: Endpoint, instance: InstanceId) -> (Endpoint, Result<Node, Error>) {
    let node = introspect::read_node(&endpoint, instance).await;
    (endpoint, node)
}
