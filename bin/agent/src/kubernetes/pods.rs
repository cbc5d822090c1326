//! The pods of this node that have not ended, asked for when a lease is in doubt. No watch: a list of
//! names costs the agent no memory between two questions.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::Deserialize;

use super::access::{Access, Trouble};
use super::post::Client;
use crate::gc::Alive;

const WITHIN: Duration = Duration::from_secs(10);
/// Pods in one answer; more come in further ones.
const PAGE: u32 = 100;
/// Names and annotations without what the pods consist of.
const NAMES_ONLY: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
/// On the API server's copy of a pod from a file of the node: the UID under which the kubelet runs it.
const UID_ON_NODE: &str = "kubernetes.io/config.hash";

/// Who lists.
#[derive(Debug, Clone)]
pub(crate) struct Lister {
    pub(super) access: Access,
    pub(super) client: Client,
}

#[derive(Debug, Deserialize)]
struct List {
    #[serde(default)]
    metadata: ListMetadata,
    /// The API server writes none as null.
    #[serde(default)]
    items: Option<Vec<Item>>,
}

#[derive(Debug, Default, Deserialize)]
struct ListMetadata {
    #[serde(default, rename = "continue")]
    more: String,
}

#[derive(Debug, Deserialize)]
struct Item {
    metadata: Metadata,
}

#[derive(Debug, Deserialize)]
struct Metadata {
    namespace: String,
    name: String,
    uid: String,
    #[serde(default)]
    annotations: std::collections::BTreeMap<String, String>,
}

impl Lister {
    /// All of them, or why they cannot be had.
    pub(crate) async fn alive(&self) -> Result<Alive, Trouble> {
        let mut alive = Alive::new();
        let mut more = String::new();
        loop {
            let list = self.page(&more).await?;
            alive.extend(list.items.into_iter().flatten().map(named));
            more = list.metadata.more;
            if more.is_empty() {
                return Ok(alive);
            }
        }
    }

    async fn page(&self, more: &str) -> Result<List, Trouble> {
        let mut path = format!(
            "/api/v1/pods?limit={PAGE}&fieldSelector=spec.nodeName%3D{},\
             status.phase!%3DSucceeded,status.phase!%3DFailed",
            self.access.node
        );
        if !more.is_empty() {
            path.push_str(&format!("&continue={more}"));
        }
        let request = http::Request::get(path)
            .header(http::header::ACCEPT, NAMES_ONLY)
            .body(Vec::new())
            .map_err(|_| Trouble::Url(self.access.url.clone()))?;
        let asked = self.client.0.request::<List>(request);
        match tokio::time::timeout(WITHIN, asked).await {
            Ok(answer) => answer.map_err(|error| self.access.trouble(error)),
            Err(_) => Err(Trouble::Late {
                url: self.access.url.clone(),
                within: WITHIN,
            }),
        }
    }
}

fn named(item: Item) -> ((String, String), BTreeSet<String>) {
    let Metadata {
        namespace,
        name,
        uid,
        mut annotations,
    } = item.metadata;
    let uids = annotations.remove(UID_ON_NODE).into_iter().chain([uid]);
    ((namespace, name), uids.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_for_names_and_uids() {
        let list = serde_json::json!({
            "kind": "PartialObjectMetadataList", "metadata": {"continue": "next", "resourceVersion": "7"},
            "items": [
                {"metadata": {"namespace": "a", "name": "p", "uid": "u1", "labels": {"x": "y"}}},
                {"metadata": {"namespace": "b", "name": "static-n1", "uid": "u2",
                              "annotations": {UID_ON_NODE: "f00"}}}]
        });
        let list: List = serde_json::from_value(list).unwrap();
        assert_eq!(list.metadata.more, "next");
        let alive: Alive = list.items.into_iter().flatten().map(named).collect();
        let uids = |namespace: &str, name: &str| {
            let uids = alive[&(namespace.to_owned(), name.to_owned())].iter();
            uids.cloned().collect::<Vec<_>>()
        };
        assert_eq!(uids("a", "p"), ["u1"]);
        assert_eq!(uids("b", "static-n1"), ["f00", "u2"]);
        let last: List = serde_json::from_str(r#"{"metadata":{},"items":null}"#).unwrap();
        assert!(last.metadata.more.is_empty() && last.items.is_none());
    }
}
