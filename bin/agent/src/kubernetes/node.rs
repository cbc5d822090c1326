//! The agent's own Node object: is it cordoned, and which condition does it show?
//!
//! Only that is read, whatever else the object carries: it has every image of the node in it.

use std::pin::pin;
use std::time::Duration;

use kube::core::WatchEvent;
use serde::Deserialize;
use tokio::sync::{mpsc, watch};
use tokio_stream::StreamExt as _;

use super::access::{Access, Trouble};
use super::{News, Right, TYPE};
use crate::owner::Message;

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// The server ends a watch after this; then it is begun again where it ended.
const WATCH: u32 = 290;

/// What the Node object shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Seen {
    /// There is no such Node (any more).
    Nothing,
    /// A Node; with our condition, if it has one.
    Node(Option<Shown>),
}

/// Our condition as the Node shows it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Shown {
    #[serde(rename = "type")]
    kind: String,
    pub(crate) status: String,
    #[serde(default)]
    pub(crate) reason: String,
    #[serde(default)]
    pub(crate) message: String,
    #[serde(default)]
    pub(crate) last_transition_time: Option<String>,
}

#[derive(Clone, Deserialize)]
struct Node {
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    resource_version: String,
}

#[derive(Clone, Default, Deserialize)]
struct Spec {
    #[serde(default)]
    taints: Vec<Taint>,
}

#[derive(Clone, Deserialize)]
struct Taint {
    key: String,
    effect: String,
}

#[derive(Clone, Default, Deserialize)]
struct Status {
    #[serde(default)]
    conditions: Vec<Shown>,
}

impl Node {
    fn cordoned(&self) -> bool {
        let cordon = |taint: &Taint| {
            taint.key == "node.kubernetes.io/unschedulable" && taint.effect == "NoSchedule"
        };
        self.spec.taints.iter().any(cordon)
    }

    fn shown(self) -> Option<Shown> {
        self.status.conditions.into_iter().find(|c| c.kind == TYPE)
    }
}

/// Watches the Node until nobody listens any more.
pub(crate) async fn run(
    access: Access,
    client: kube::Client,
    to: mpsc::Sender<Message>,
    seen: watch::Sender<Option<Seen>>,
) {
    let mut version = None;
    let mut pause = FIRST_PAUSE;
    loop {
        match follow(&access, &client, &to, &seen, &mut version).await {
            Ok(Ended::Nobody) => return,
            // A server that ends a watch at once is not asked at once again.
            Ok(Ended::Stream) => pause = FIRST_PAUSE,
            Err(trouble) => {
                if trouble.code() == Some(410) {
                    version = None;
                }
                let news = News::Failed(Right::WatchNodes, trouble);
                if to.send(Message::Cluster(news)).await.is_err() {
                    return;
                }
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

enum Ended {
    /// The server's time was over.
    Stream,
    /// The agent ends.
    Nobody,
}

/// One watch, from the version that was seen last. Without one the server begins with the object
/// as it is.
async fn follow(
    access: &Access,
    client: &kube::Client,
    to: &mpsc::Sender<Message>,
    seen: &watch::Sender<Option<Seen>>,
    version: &mut Option<String>,
) -> Result<Ended, Trouble> {
    let mut path = format!(
        "/api/v1/nodes?watch=true&allowWatchBookmarks=true&timeoutSeconds={WATCH}\
         &fieldSelector=metadata.name%3D{}",
        access.node
    );
    if let Some(version) = version {
        path.push_str(&format!("&resourceVersion={version}"));
    }
    let request = http::Request::get(path)
        .body(Vec::new())
        .map_err(|_| Trouble::Url(access.node.clone()))?;
    let events = client.request_events::<Node>(request).await;
    let mut events = pin!(events.map_err(|error| access.trouble(error))?);
    if to
        .send(Message::Cluster(News::Done(Right::WatchNodes)))
        .await
        .is_err()
    {
        return Ok(Ended::Nobody);
    }
    while let Some(event) = events.next().await {
        let (node, gone) = match event.map_err(|error| access.trouble(error))? {
            WatchEvent::Added(node) | WatchEvent::Modified(node) => (node, false),
            WatchEvent::Deleted(node) => (node, true),
            WatchEvent::Bookmark(mark) => {
                *version = Some(mark.metadata.resource_version);
                continue;
            }
            WatchEvent::Error(status) => return Err(access.trouble(kube::Error::Api(status))),
        };
        *version = Some(node.metadata.resource_version.clone());
        let cordoned = !gone && node.cordoned();
        let now = match gone {
            true => Seen::Nothing,
            false => Seen::Node(node.shown()),
        };
        seen.send_if_modified(|last| {
            let changed = last.as_ref() != Some(&now);
            *last = Some(now);
            changed
        });
        if to
            .send(Message::Cluster(News::Cordoned(cordoned)))
            .await
            .is_err()
        {
            return Ok(Ended::Nobody);
        }
    }
    Ok(Ended::Stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_read_for_what_is_needed() {
        let node = serde_json::json!({
            "metadata": {"name": "n1", "resourceVersion": "7", "labels": {"a": "b"}},
            "spec": {"taints": [{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}]},
            "status": {"images": [{}], "conditions": [
                {"type": "Ready", "status": "True"},
                {"type": TYPE, "status": "False", "reason": "SubnetFull", "message": "m",
                 "lastTransitionTime": "2026-01-01T00:00:00Z"}]}
        });
        let node: Node = serde_json::from_value(node).unwrap();
        assert!(node.cordoned());
        assert_eq!(node.shown().unwrap().reason, "SubnetFull");
        let bare = serde_json::json!({"metadata": {"resourceVersion": "1"}});
        let bare: Node = serde_json::from_value(bare).unwrap();
        assert!(!bare.cordoned() && bare.shown().is_none());
    }
}
