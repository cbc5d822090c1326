//! The lab as its user commands it: pods, logs, status. Talks to the nodes, not to the daemon.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use ec2::Credentials;

use crate::error::{Error, IoContext as _};
use crate::node::{
    AGENT, Answer, NodeStatus, PodName, PodStatus, Request, RunPod, ServiceAction, ask,
};
use crate::place::Place;
use crate::state::{ACCESS_KEY, SECRET_KEY, State};

/// A pod and the node it is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// The node's name.
    pub node: String,
    /// The pod.
    pub status: PodStatus,
}

/// The nodes that take orders, by name.
///
/// # Errors
/// When the lab's directory cannot be read.
pub fn node_names(place: &Place) -> Result<Vec<String>, Error> {
    let dir = place.nodes_dir();
    let entries = match fs::read_dir(&dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::NotUp {
                name: place.name().to_string(),
            });
        }
        other => other.at(&dir)?,
    };
    let names = entries
        .filter_map(Result::ok)
        .filter_map(|e| e.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|n| place.node_socket(n).exists()).collect();
    names.sort();
    Ok(names)
}

/// What a node says about itself.
///
/// # Errors
/// When it does not answer.
pub fn node_status(place: &Place, node: &str) -> Result<NodeStatus, Error> {
    match ask(&place.node_socket(node), &Request::Status)? {
        Answer::Node(status) => Ok(status),
        other => Err(unexpected(node, &other)),
    }
}

/// All nodes that run, and what they say. One that ends or begins just now does not answer, and is
/// left out.
///
/// # Errors
/// When what one answers cannot be read.
pub fn nodes(place: &Place) -> Result<BTreeMap<String, NodeStatus>, Error> {
    use std::io::ErrorKind::{ConnectionRefused, NotFound};
    let away = |e: &std::io::Error| matches!(e.kind(), ConnectionRefused | NotFound);
    let mut all = BTreeMap::new();
    for name in node_names(place)? {
        match node_status(place, &name) {
            Ok(status) => drop(all.insert(name, status)),
            Err(Error::File { source, .. }) if away(&source) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

/// A node by the lab's name for it, its private DNS name, or the first label of that.
fn named(place: &Place, node: &str) -> Result<String, Error> {
    let name = State::of_running(place)?.node_name(node);
    let known = node_names(place)?;
    if known.contains(&name) {
        return Ok(name);
    }
    Err(Error::NotFound {
        what: "node",
        name: node.to_owned(),
        known,
    })
}

/// All pods of the lab.
///
/// # Errors
/// When a node does not answer.
pub fn pods(place: &Place) -> Result<Vec<Placed>, Error> {
    let placed = |(node, status): (String, NodeStatus)| {
        status.pods.into_iter().map(move |status| Placed {
            node: node.clone(),
            status,
        })
    };
    Ok(nodes(place)?.into_iter().flat_map(placed).collect())
}

/// Starts pods at once: on `node`, or each on the node that has the fewest. Every pod has its own
/// outcome, in the order of `names`.
///
/// # Errors
/// When there is no node to start them on.
pub fn run_pods(
    place: &Place,
    names: &[PodName],
    node: Option<&str>,
    command: &[String],
    retry: Duration,
) -> Result<Vec<Result<Placed, Error>>, Error> {
    let nodes = spread(place, names.len(), node)?;
    let one = |name: &PodName, node: &str| {
        let order = RunPod {
            pod: name.clone(),
            command: command.to_vec(),
            retry_ms: millis(retry),
        };
        match ask(&place.node_socket(node), &Request::RunPod(order))? {
            Answer::Pod(status) => Ok(Placed {
                node: node.to_owned(),
                status,
            }),
            other => Err(unexpected(node, &other)),
        }
    };
    Ok(std::thread::scope(|scope| {
        let started: Vec<_> = names
            .iter()
            .zip(&nodes)
            .map(|(name, node)| scope.spawn(move || one(name, node)))
            .collect();
        let done = started.into_iter().map(|t| t.join());
        done.map(|r| r.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    }))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// On which node each of `count` pods goes.
fn spread(place: &Place, count: usize, node: Option<&str>) -> Result<Vec<String>, Error> {
    if let Some(node) = node {
        return Ok(vec![named(place, node)?; count]);
    }
    let nodes = nodes(place)?;
    let mut load: Vec<(usize, String)> = nodes
        .into_iter()
        .filter(|(_, status)| status.agent().is_some())
        .map(|(name, status)| (status.pods.len(), name))
        .collect();
    let mut chosen = Vec::new();
    for _ in 0..count {
        let least = load.iter_mut().min().ok_or_else(|| Error::NotFound {
            what: "node with an agent",
            name: "any".to_owned(),
            known: Vec::new(),
        })?;
        least.0 += 1;
        chosen.push(least.1.clone());
    }
    Ok(chosen)
}

/// The node of a pod.
///
/// # Errors
/// When no node has it.
pub fn node_of(place: &Place, pod: &PodName) -> Result<String, Error> {
    let pods = pods(place)?;
    let known = || pods.iter().map(|p| p.status.pod.to_string()).collect();
    let found = pods
        .iter()
        .find(|p| p.status.pod == *pod)
        .map(|p| p.node.clone());
    found.ok_or_else(|| Error::NotFound {
        what: "pod",
        name: pod.to_string(),
        known: known(),
    })
}

/// Ends a pod and removes its network.
///
/// # Errors
/// When there is no such pod or its network cannot be removed.
pub fn delete_pod(place: &Place, pod: &PodName, grace: Duration) -> Result<(), Error> {
    let node = node_of(place, pod)?;
    let order = Request::DeletePod {
        pod: pod.clone(),
        grace_ms: millis(grace),
    };
    ask(&place.node_socket(&node), &order).map(drop)
}

/// Asks the plugins whether a pod's network is as they made it.
///
/// # Errors
/// When it is not.
pub fn check_pod(place: &Place, pod: &PodName) -> Result<(), Error> {
    let node = node_of(place, pod)?;
    ask(
        &place.node_socket(&node),
        &Request::CheckPod { pod: pod.clone() },
    )
    .map(drop)
}

/// Tells a node's plugins which pods exist, so that they free what belongs to others.
///
/// # Errors
/// When a plugin fails.
pub fn collect_garbage(place: &Place, node: &str) -> Result<(), Error> {
    ask(&place.node_socket(&named(place, node)?), &Request::Gc).map(drop)
}

/// Changes the environment of a node's agent and starts it anew, as a rollout of its DaemonSet does.
///
/// # Errors
/// When the node has no agent.
pub fn set_agent_env(
    place: &Place,
    node: &str,
    changes: BTreeMap<String, Option<String>>,
) -> Result<(), Error> {
    let order = Request::SetEnv {
        service: AGENT.to_owned(),
        changes,
    };
    ask(&place.node_socket(&named(place, node)?), &order).map(drop)
}

/// Stops, starts, restarts or kills a service of a node.
///
/// # Errors
/// When the node has no such service, or it does not come up again.
pub fn service(
    place: &Place,
    node: &str,
    service: &str,
    action: ServiceAction,
) -> Result<(), Error> {
    let order = Request::Service {
        service: service.to_owned(),
        action,
    };
    ask(&place.node_socket(&named(place, node)?), &order).map(drop)
}

/// Where the output of a pod is, which outlives the pod; or of a node's agent, or of a host.
///
/// # Errors
/// When nothing of that name ever wrote.
pub fn log_of(place: &Place, name: &str) -> Result<PathBuf, Error> {
    let state = State::read(place)?;
    let node = &state.map_or_else(|| name.to_owned(), |s| s.node_name(name));
    let mut found = vec![
        place.agent_log(node),
        place.node_dir(node).join("agent.log"),
        place.node_dir(node).join("kubelet.log"),
        place.dir().join(format!("host-{name}.log")),
    ];
    if let Ok(pod) = name.strip_prefix("pod/").unwrap_or(name).parse::<PodName>() {
        let file = format!("{}.log", pod.leaf());
        for node in node_names(place)? {
            found.insert(0, place.node_dir(&node).join("logs").join(&file));
        }
    }
    let missing = || Error::NotFound {
        what: "log of",
        name: name.to_owned(),
        known: Vec::new(),
    };
    found.into_iter().find(|p| p.exists()).ok_or_else(missing)
}

/// A client of the lab's EC2 API.
pub(crate) fn ec2(state: &State) -> Result<ec2::Client, ec2::Error> {
    let credentials = Credentials::new(ACCESS_KEY, SECRET_KEY, None, None, "branchline lab");
    ec2::Client::builder()
        .region(&state.region)
        .endpoint(format!("http://127.0.0.1:{}", state.port))
        .credentials(credentials)
        .build()
}

fn unexpected(node: &str, answer: &Answer) -> Error {
    Error::Refused {
        what: format!("node {node}"),
        message: format!("answered {answer:?}"),
    }
}
