//! A node's agent, ours or upstream's, as a node of the model.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use bytes::Bytes;
use cni::introspect::{Enis, State};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use jiff::Timestamp;
use reach::facts::{GroupSync, Node, Pod, Told};
use serde::de::DeserializeOwned;
use vpc::facts::InstanceId;

use crate::Error;
use crate::agent::Documents;

/// Where a node's agent answers: `ip-10-0-1-11=http://127.0.0.1:61679`, as somebody forwarded it
/// (the agent itself listens on the node's loopback address only).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The node's short name.
    pub node: String,
    /// The address, without a path.
    pub url: Uri,
}

impl std::str::FromStr for Endpoint {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = || Error::BadEndpoint {
            text: text.to_owned(),
        };
        let (node, url) = text.split_once('=').ok_or_else(bad)?;
        let url: Uri = url.parse().map_err(|_| bad())?;
        if node.is_empty() || url.scheme_str() != Some("http") || url.authority().is_none() {
            return Err(bad());
        }
        Ok(Endpoint {
            node: node.to_owned(),
            url,
        })
    }
}

/// How long an agent may take to answer; it answers from memory.
const PATIENCE: Duration = Duration::from_secs(3);

/// Asks a node's agent which pods it has and what it does about groups. `instance` is the node's
/// instance by EC2's word.
pub(crate) async fn read_node(
    endpoint: &Endpoint,
    instance: InstanceId,
) -> Result<(Node, Documents), Error> {
    let enis: Enis = match get(endpoint, "/v1/enis").await? {
        Some(enis) => enis,
        None => return Err(endpoint.failed("/v1/enis", "the agent has no such document")),
    };
    let state: Option<State> = get(endpoint, "/state").await?;
    let pods = pods(endpoint, &enis)?;
    let mut documents = Documents::new();
    for path in ["/v1/ipamd-env-settings", "/v1/networkutils-env-settings"] {
        // Both are upstream's, and absent from agents that are older than they are.
        documents.extend(get::<Documents>(endpoint, path).await?.unwrap_or_default());
    }
    let node = Node {
        name: endpoint.node.clone(),
        instance,
        kubernetes: None,
        pods,
        host_pods: Vec::new(),
        settings: None,
        unclear: None,
        groups: group_sync(endpoint, state.as_ref())?,
        packs: state.is_some(),
        agent: state
            .as_ref()
            .map_or_else(|| "upstream".to_owned(), |s| s.agent.clone()),
        runs_otherwise: Vec::new(),
        told: Some(Box::new(Told {
            at: Timestamp::now().to_string(),
            enis,
            state,
        })),
        silent: None,
    };
    Ok((node, documents))
}

fn pods(endpoint: &Endpoint, enis: &Enis) -> Result<Vec<Pod>, Error> {
    let mut pods = Vec::new();
    let cidrs = enis
        .0
        .values()
        .flat_map(|pool| pool.enis.values())
        .flat_map(|eni| eni.available_ipv4_cidrs.values());
    for address in cidrs
        .flat_map(|c| c.ip_addresses.values())
        .filter(|a| a.assigned())
    {
        let parsed: Ipv4Addr = address.address.parse().map_err(|_| {
            let what = format!("{:?} is not an IPv4 address", address.address);
            endpoint.failed("/v1/enis", &what)
        })?;
        pods.push(Pod {
            namespace: address.ipam_metadata.k8s_pod_namespace.clone(),
            name: address.ipam_metadata.k8s_pod_name.clone(),
            address: parsed,
        });
    }
    pods.sort();
    Ok(pods)
}

fn group_sync(endpoint: &Endpoint, state: Option<&State>) -> Result<GroupSync, Error> {
    let Some(state) = state else {
        return Ok(GroupSync::Unknown);
    };
    if state.group_sync.enabled {
        let pending = state.group_sync.pending.keys().cloned().collect();
        return Ok(GroupSync::On { pending });
    }
    let at_start: Result<BTreeSet<_>, _> = state
        .group_sync
        .groups_at_start
        .iter()
        .map(|g| g.parse())
        .collect();
    let at_start = at_start.map_err(|bad| endpoint.failed("/state", &format!("{bad}")))?;
    Ok(GroupSync::Off {
        at_start: Some(at_start),
    })
}

/// One document; `None` when the agent does not have it (404).
async fn get<T: DeserializeOwned>(endpoint: &Endpoint, path: &str) -> Result<Option<T>, Error> {
    match tokio::time::timeout(PATIENCE, fetch(endpoint, path)).await {
        Ok(answer) => answer,
        Err(_) => Err(endpoint.failed(path, &format!("no answer in {} s", PATIENCE.as_secs()))),
    }
}

async fn fetch<T: DeserializeOwned>(endpoint: &Endpoint, path: &str) -> Result<Option<T>, Error> {
    let Some(body) = body(endpoint, path).await? else {
        return Ok(None);
    };
    serde_json::from_slice(&body)
        .map(Some)
        .map_err(|e| endpoint.failed(path, &format!("not the document it should be: {e}")))
}

/// One page as it is; `None` when the agent does not have it (404).
pub(crate) async fn page(endpoint: &Endpoint, path: &str) -> Result<Option<Bytes>, Error> {
    match tokio::time::timeout(PATIENCE, body(endpoint, path)).await {
        Ok(answer) => answer,
        Err(_) => Err(endpoint.failed(path, &format!("no answer in {} s", PATIENCE.as_secs()))),
    }
}

async fn body(endpoint: &Endpoint, path: &str) -> Result<Option<Bytes>, Error> {
    let base = endpoint.url.to_string();
    let uri = format!("{}{path}", base.trim_end_matches('/'));
    let request = Request::get(&uri)
        .body(Empty::<Bytes>::new())
        .map_err(|e| endpoint.failed(path, &e.to_string()))?;
    let client = Client::builder(TokioExecutor::new()).build_http();
    let response = client.request(request).await.map_err(|e| {
        let cause = std::error::Error::source(&e).map_or_else(|| e.to_string(), |c| c.to_string());
        endpoint.failed(
            path,
            &format!("{cause}; is the agent running and its port forwarded?"),
        )
    })?;
    if response.status() == StatusCode::NOT_FOUND {
        return Ok(None);
    }
    if !response.status().is_success() {
        return Err(endpoint.failed(path, &format!("it answered {}", response.status())));
    }
    let body = response.into_body().collect().await;
    let body = body.map_err(|e| endpoint.failed(path, &e.to_string()))?;
    Ok(Some(body.to_bytes()))
}

impl Endpoint {
    fn failed(&self, path: &str, why: &str) -> Error {
        Error::Node {
            node: self.node.clone(),
            url: format!("{}{path}", self.url),
            why: why.to_owned(),
        }
    }
}
