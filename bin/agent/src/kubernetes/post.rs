//! Writes to the API server: events, the node's condition, pods' annotations.
//!
//! Nothing of the node waits for it. What can still be said later is repeated with growing pauses;
//! what the server refuses is dropped, and the refusal is known to the owner.

use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv4Addr;
use std::time::Duration;

use ipam::{Millis, Pod};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::access::{Access, Trouble};
use super::node::{Seen, Shown};
use super::notes::{About, Condition, Telling};
use super::{News, Right, TYPE};
use crate::owner::Message;

const WITHIN: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Between two writes of the condition.
const GAP: Duration = Duration::from_secs(5);
/// What an event says is news for this long only.
const STALE: Duration = Duration::from_secs(300);
/// How long the condition that the Node shows is waited for, so that it is not written for nothing.
const LOOK_FIRST: Duration = Duration::from_secs(5);
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const COMPONENT: &str = "aws-node";
const POD_IPS: &str = "vpc.amazonaws.com/pod-ips";

/// Something to write.
#[derive(Debug)]
pub(crate) enum Post {
    Event(Telling),
    /// The pod's address, or that it has none.
    PodIps(Pod, Option<Ipv4Addr>),
}

/// Who writes.
#[derive(Debug, Clone)]
pub(crate) struct Writer {
    pub(crate) access: Access,
    pub(crate) client: Client,
    pub(crate) to: mpsc::Sender<Message>,
}

/// A client without a useful `Debug` of its own.
#[derive(Clone)]
pub(crate) struct Client(pub(crate) kube::Client);

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Client")
    }
}

impl Writer {
    async fn send(
        &self,
        right: Right,
        request: http::request::Builder,
        body: &Value,
    ) -> Result<(), Trouble> {
        let request = request
            .body(body.to_string().into_bytes())
            .map_err(|_| Trouble::Url(self.access.url.clone()))?;
        let asked = self.client.0.request::<serde::de::IgnoredAny>(request);
        let result = match tokio::time::timeout(WITHIN, asked).await {
            Ok(result) => result.map(drop).map_err(|error| self.access.trouble(error)),
            Err(_) => Err(Trouble::Late {
                url: self.access.url.clone(),
                within: WITHIN,
            }),
        };
        let news = match &result {
            Ok(()) => News::Done(right),
            Err(trouble) => News::Failed(right, trouble.clone()),
        };
        // What does not exist (any more) needs no right, and is nobody's trouble.
        if !matches!(&result, Err(trouble) if is_over(trouble)) {
            // The owner is gone only when the agent ends.
            let _ = self.to.send(Message::Cluster(news)).await;
        }
        result
    }

    fn patch(&self, path: &str, kind: &str) -> http::request::Builder {
        http::Request::patch(format!("{path}?fieldManager={COMPONENT}"))
            .header(http::header::CONTENT_TYPE, kind)
    }

    /// Writes an event: counts it up when it is there already, else creates it.
    async fn event(&self, telling: &Telling) -> Result<(), Trouble> {
        let (namespace, object) = self.object(&telling.note.about);
        let name = event_name(object["name"].as_str().unwrap_or_default(), &telling.suffix);
        let path = format!("/api/v1/namespaces/{namespace}/events");
        if telling.count > 1 {
            let change = json!({
                "count": telling.count,
                "lastTimestamp": time(telling.last),
                "message": telling.note.message,
            });
            let request = self.patch(&format!("{path}/{name}"), MERGE);
            match self.send(Right::PatchEvents, request, &change).await {
                // It has not been created, or has expired.
                Err(trouble) if trouble.code() == Some(404) => {}
                other => return other,
            }
        }
        // As upstream writes it.
        let action = telling.note.action.map(|action| format!("ec2:{action}"));
        let event = json!({
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": namespace},
            "involvedObject": object,
            "type": if telling.note.warning { "Warning" } else { "Normal" },
            "reason": telling.note.reason,
            "action": action.unwrap_or_default(),
            "message": telling.note.message,
            "source": {"component": COMPONENT, "host": self.access.node},
            "reportingComponent": COMPONENT,
            "reportingInstance": self.access.instance,
            "firstTimestamp": time(telling.first),
            "lastTimestamp": time(telling.last),
            "count": telling.count,
        });
        let request =
            http::Request::post(path).header(http::header::CONTENT_TYPE, "application/json");
        self.send(Right::CreateEvents, request, &event).await
    }

    fn object(&self, about: &About) -> (String, Value) {
        match about {
            About::Pod(pod) => (
                pod.namespace.clone(),
                json!({"apiVersion": "v1", "kind": "Pod", "namespace": pod.namespace,
                       "name": pod.name, "uid": pod.uid}),
            ),
            // As the kubelet does: nodes have no namespace, and their name is their uid here.
            About::Node => (
                "default".to_owned(),
                json!({"apiVersion": "v1", "kind": "Node", "name": self.access.node,
                       "uid": self.access.node}),
            ),
        }
    }

    async fn pod_ips(&self, pod: &Pod, address: Option<Ipv4Addr>) -> Result<(), Trouble> {
        let mut metadata = json!({"annotations": {POD_IPS: address}});
        if !pod.uid.is_empty() {
            // Of another pod of this name nothing is changed.
            metadata["uid"] = json!(pod.uid);
        }
        let path = format!("/api/v1/namespaces/{}/pods/{}", pod.namespace, pod.name);
        let request = self.patch(&path, MERGE);
        self.send(Right::PatchPods, request, &json!({ "metadata": metadata }))
            .await
    }

    async fn condition(&self, want: &Condition, shown: Option<&Shown>) -> Result<(), Trouble> {
        let now = Timestamp::now();
        let since = shown
            .filter(|shown| shown.status == status(want))
            .and_then(|shown| shown.last_transition_time.clone())
            .unwrap_or_else(|| format!("{now:.0}"));
        let change = json!({"status": {"conditions": [{
            "type": TYPE,
            "status": status(want),
            "reason": want.reason,
            "message": want.message,
            "lastHeartbeatTime": format!("{now:.0}"),
            "lastTransitionTime": since,
        }]}});
        let path = format!("/api/v1/nodes/{}/status", self.access.node);
        let request = self.patch(&path, STRATEGIC);
        self.send(Right::PatchNodeStatus, request, &change).await
    }
}

/// The object is not there any more, or is another one of the same name, or goes away with its
/// namespace.
fn is_over(trouble: &Trouble) -> bool {
    let terminating = matches!(
        trouble,
        Trouble::Refused {
            terminating: true,
            ..
        }
    );
    terminating || matches!(trouble.code(), Some(404 | 409))
}

fn status(condition: &Condition) -> &'static str {
    if condition.ready { "True" } else { "False" }
}

fn time(at: Millis) -> Option<String> {
    let at = i64::try_from(at.0).ok()?;
    let at = Timestamp::from_millisecond(at).ok()?;
    Some(format!("{at:.0}"))
}

/// An object's name may be as long as an event's.
fn event_name(object: &str, suffix: &str) -> String {
    let room = 252 - suffix.len();
    let object = object.get(..room).unwrap_or(object);
    format!("{}.{suffix}", object.trim_end_matches(['-', '.']))
}

/// Writes what is posted, in order, until nobody posts any more.
pub(crate) async fn posts(writer: Writer, mut posted: mpsc::Receiver<Post>) {
    let mut events: VecDeque<(Instant, Telling)> = VecDeque::new();
    // The last word about a pod is the only one that matters.
    let mut addresses: BTreeMap<(String, String), (Pod, Option<Ipv4Addr>)> = BTreeMap::new();
    let mut pause: Option<Duration> = None;
    loop {
        if events.is_empty() && addresses.is_empty() {
            match posted.recv().await {
                Some(post) => sort(post, &mut events, &mut addresses),
                None => return,
            }
        }
        while let Ok(post) = posted.try_recv() {
            sort(post, &mut events, &mut addresses);
        }
        events.retain(|(since, _)| since.elapsed() < STALE);
        let result = if let Some((key, (pod, address))) = addresses.pop_first() {
            let result = writer.pod_ips(&pod, address).await;
            if result.as_ref().is_err_and(Trouble::may_pass) {
                addresses.entry(key).or_insert((pod, address));
            }
            result
        } else if let Some((since, telling)) = events.pop_front() {
            let result = writer.event(&telling).await;
            if result.as_ref().is_err_and(Trouble::may_pass) {
                events.push_front((since, telling));
            }
            result
        } else {
            continue;
        };
        pause = match result {
            Err(trouble) if trouble.may_pass() => {
                let next = pause.map_or(FIRST_PAUSE, |pause| (pause * 2).min(LONGEST_PAUSE));
                tokio::time::sleep(next).await;
                Some(next)
            }
            _ => None,
        };
    }
}

fn sort(
    post: Post,
    events: &mut VecDeque<(Instant, Telling)>,
    addresses: &mut BTreeMap<(String, String), (Pod, Option<Ipv4Addr>)>,
) {
    match post {
        Post::Event(telling) => events.push_back((Instant::now(), telling)),
        Post::PodIps(pod, address) => {
            let key = (pod.namespace.clone(), pod.name.clone());
            addresses.insert(key, (pod, address));
        }
    }
}

/// Keeps the Node's condition as wanted: written when the Node shows another one, and only then.
pub(crate) async fn conditions(
    writer: Writer,
    mut wanted: watch::Receiver<Option<Condition>>,
    mut seen: watch::Receiver<Option<Seen>>,
) {
    let _ = tokio::time::timeout(LOOK_FIRST, seen.wait_for(Option::is_some)).await;
    // What was written, for as long as the Node cannot be seen.
    let mut written: Option<Condition> = None;
    let mut pause = FIRST_PAUSE;
    loop {
        let want = wanted.borrow_and_update().clone();
        let see = seen.borrow_and_update().clone();
        let due = want.filter(|want| match &see {
            Some(Seen::Nothing) => false,
            Some(Seen::Node(shown)) => !shown.as_ref().is_some_and(|shown| is_shown(want, shown)),
            None => written.as_ref() != Some(want),
        });
        if let Some(want) = due {
            let shown = match &see {
                Some(Seen::Node(shown)) => shown.as_ref(),
                _ => None,
            };
            match writer.condition(&want, shown).await {
                Ok(()) => {
                    written = Some(want);
                    pause = FIRST_PAUSE;
                    tokio::time::sleep(GAP).await;
                }
                Err(_) => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
            continue;
        }
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { return },
            changed = seen.changed() => if changed.is_err() { return },
        }
    }
}

fn is_shown(want: &Condition, shown: &Shown) -> bool {
    shown.status == status(want) && shown.reason == want.reason && shown.message == want.message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_events_are_names() {
        assert_eq!(event_name("api-1", "ff"), "api-1.ff");
        let long = "a".repeat(249) + "-bbb";
        let name = event_name(&long, "ff");
        assert_eq!(name.len(), 252);
        assert!(name.ends_with("a.ff"), "{name}");
    }
}
