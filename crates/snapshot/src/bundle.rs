//! The support file: the snapshot, what the agents say, their logs, metrics and events, the DaemonSet,
//! versions; redacted, and with a list of what could not be read and why.
//!
//! Nothing that fails ends the collection: a support file is asked for when things fail.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::Timestamp;
use kube_view::facts::{Cluster, ObjectName};
use reach::Inputs;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::introspect::{self, Endpoint};
use crate::kubernetes::Kube;
use crate::redact::Redactor;
use crate::{Error, file};

/// The schema's name.
pub const SCHEMA: &str = "branchline/bundle/v1";

/// Upstream's pages and ours; a page that an agent has not got is no gap.
const PAGES: [&str; 6] = [
    "/state",
    "/metrics",
    "/v1/enis",
    "/v1/eni-configs",
    "/v1/ipamd-env-settings",
    "/v1/networkutils-env-settings",
];
/// Where agents serve metrics, on all of the node's addresses.
const METRICS: u16 = 61678;
/// The end of each log.
const LOG_LINES: u32 = 2000;
const LOG_BYTES: u32 = 1 << 20;
/// Pods that are asked about at once.
const AT_ONCE: usize = 16;
/// Events that are looked at.
const EVENTS: u32 = 5000;

/// Something that is not in the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Missing {
    /// What.
    pub what: String,
    /// Why.
    pub why: String,
    /// What would have to be granted or given, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grant: Option<String>,
}

/// One file of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Entry {
    name: String,
    bytes: usize,
    source: String,
}

/// What was collected, redacted.
#[derive(Debug, Default)]
pub struct Bundle {
    files: BTreeMap<String, (String, Vec<u8>)>,
    /// What is not in it.
    pub missing: Vec<Missing>,
    redactor: Redactor,
    /// What the cluster is called, for the file's name.
    cluster: Option<String>,
}

impl Bundle {
    /// Collects everything that can be read. What cannot is in [`Bundle::missing`].
    pub async fn collect(kube: Option<&Kube>, endpoints: &[Endpoint], inputs: &Inputs) -> Self {
        let snapshot = file::text(inputs);
        let public = snapshot
            .as_ref()
            .map_or_else(|_| String::new(), String::clone);
        let mut bundle = Self {
            redactor: Redactor::new(public),
            cluster: inputs.kubernetes.as_ref().map(|c| c.name.clone()),
            ..Self::default()
        };
        // Objects first: what is dropped from them is then taken out of logs too.
        match kube {
            Some(kube) => bundle.cluster(kube, inputs).await,
            None => bundle.miss(
                "the cluster: DaemonSet, events, logs, metrics",
                "no cluster was read",
                Some("set KUBECONFIG, or --kubeconfig and --context"),
            ),
        }
        bundle.snapshot(inputs, snapshot);
        bundle.agents(endpoints, inputs).await;
        bundle
    }

    /// Adds a document of ours, as an answer of the tool.
    pub fn add_document(&mut self, name: &str, source: &str, mut document: Value) {
        self.redactor.texts(&mut document);
        let entry = (source.to_owned(), format!("{document:#}\n").into_bytes());
        self.files.insert(name.to_owned(), entry);
    }

    /// Adds a text of somebody else's.
    fn add(&mut self, name: &str, source: &str, text: &str) {
        let text = self.redactor.text(text);
        let entry = (source.to_owned(), text.into_bytes());
        self.files.insert(name.to_owned(), entry);
    }

    /// Says what is missing.
    pub fn miss(&mut self, what: &str, why: &str, grant: Option<&str>) {
        self.missing.push(Missing {
            what: what.to_owned(),
            why: self.redactor.text(why),
            grant: grant.map(str::to_owned),
        });
    }

    fn snapshot(&mut self, inputs: &Inputs, text: Result<String, serde_json::Error>) {
        let document = text.and_then(|text| serde_json::from_str(&text));
        match document {
            Ok(document) => self.add_document("snapshot.json", "branchline snapshot", document),
            Err(error) => self.miss("snapshot.json", &error.to_string(), None),
        }
        let cluster = inputs.kubernetes.iter().flat_map(|c| c.unread.values());
        let cluster = cluster.map(|u| (u.right.clone(), u.reason.clone()));
        let aws = inputs.world.unread.values().chain(&inputs.unread_limits);
        let aws = aws.map(|u| (u.action.clone(), u.reason.clone()));
        for (right, reason) in cluster.chain(aws).collect::<Vec<_>>() {
            self.miss(
                &format!("a part of snapshot.json ({right})"),
                &reason,
                Some(&right),
            );
        }
        for (node, why) in &inputs.unread_nodes {
            self.miss(&format!("{node} in snapshot.json"), why, None);
        }
    }

    async fn agents(&mut self, endpoints: &[Endpoint], inputs: &Inputs) {
        for endpoint in endpoints {
            let known = inputs.nodes.values().find(|n| n.answers_to(&endpoint.node));
            let node = known.map_or(&endpoint.node, |n| &n.name);
            for page in PAGES {
                let name = match page {
                    "/metrics" => format!("nodes/{node}/metrics.txt"),
                    page => format!("nodes/{node}{page}.json"),
                };
                match introspect::page(endpoint, page).await {
                    Ok(Some(body)) => {
                        let base = endpoint.url.to_string();
                        let source = format!("GET {}{page}", base.trim_end_matches('/'));
                        self.add(&name, &source, &String::from_utf8_lossy(&body));
                        // What one way did not bring, another did.
                        self.missing.retain(|missing| missing.what != name);
                    }
                    Ok(None) => {} // upstream's has no /state, and its metrics on another port
                    Err(error) => {
                        self.miss(&name, &error.to_string(), Some("--node NODE=URL"));
                        break; // the others would wait as long
                    }
                }
            }
        }
        let asked = |name: &str| {
            let node = inputs.nodes.get(name);
            endpoints
                .iter()
                .any(|e| node.is_some_and(|n| n.answers_to(&e.node)))
        };
        let silent: Vec<&str> = inputs
            .nodes
            .keys()
            .map(String::as_str)
            .filter(|n| !asked(n))
            .collect();
        if !silent.is_empty() {
            self.miss(
                &format!("introspection of {}", silent.join(", ")),
                "their agents were not asked: they answer on their nodes' loopback addresses",
                Some("--node NODE=URL, with port 61679 forwarded"),
            );
        }
    }

    async fn cluster(&mut self, kube: &Kube, inputs: &Inputs) {
        let none = Cluster::default();
        let cluster = inputs.kubernetes.as_ref().unwrap_or(&none);
        for name in cluster
            .daemon_sets
            .iter()
            .filter(|(_, s)| !s.containers.is_empty())
        {
            self.daemon_set(kube, name.0).await;
        }
        let mut asked = JoinSet::new();
        let turns = Arc::new(Semaphore::new(AT_ONCE));
        for (name, pod) in cluster
            .pods
            .iter()
            .filter(|(_, p)| !p.containers.is_empty())
        {
            let on = pod.node.as_deref().unwrap_or(&name.name);
            let known = inputs.nodes.values().find(|n| n.answers_to(on));
            let dir = format!("nodes/{}", known.map_or(on, |n| n.name.as_str()));
            let containers = pod.containers.iter().map(|c| c.name.clone()).collect();
            let (kube, name, turns) = (kube.clone(), name.clone(), turns.clone());
            let node = pod.node.clone();
            asked.spawn(async move {
                // Nobody closes the semaphore; without a turn it would only be asked sooner.
                let _turn = turns.acquire_owned().await;
                let mut parts = agent_pod(&kube, &name, containers, &dir).await;
                if let Some(node) = &node {
                    parts.extend(node_logs(&kube, node, &dir).await);
                }
                parts
            });
        }
        let mut parts: Vec<Part> = asked.join_all().await.into_iter().flatten().collect();
        // Objects before texts: what is dropped from them is then taken out of logs.
        parts.sort_by_key(|part| !matches!(part.content, Ok(Content::Object(_))));
        for part in parts {
            match part.content {
                Ok(Content::Object(object)) => self.add_object(&part.name, &part.source, object),
                Ok(Content::Text(text)) => self.add(&part.name, &part.source, &text),
                Err(why) => self.miss(&part.name, &why, Some(part.grant)),
            }
        }
        self.events(kube).await;
        self.versions(kube, inputs).await;
    }

    async fn daemon_set(&mut self, kube: &Kube, name: &ObjectName) {
        let path = format!(
            "/apis/apps/v1/namespaces/{}/daemonsets/{}",
            name.namespace, name.name
        );
        let file = format!("cluster/daemonset-{}.yaml", name.name);
        match kube.get(&path).await {
            Err(why) => self.miss(&file, &why, Some("get daemonsets.apps")),
            Ok(object) => self.add_object(&file, &format!("GET {path}"), object),
        }
    }

    fn add_object(&mut self, name: &str, source: &str, mut object: Value) {
        self.redactor.object(&mut object);
        match serde_saphyr::to_string(&object) {
            Ok(text) => self.add(name, source, &text),
            Err(error) => self.miss(name, &error.to_string(), None),
        }
    }

    async fn events(&mut self, kube: &Kube) {
        let path = format!("/api/v1/events?limit={EVENTS}");
        let list = match kube.get(&path).await {
            Ok(list) => list,
            Err(why) => return self.miss("cluster/events.jsonl", &why, Some("list events")),
        };
        let mut lines = String::new();
        for event in list["items"].as_array().into_iter().flatten() {
            if !about_the_network(event) {
                continue;
            }
            let of = &event["involvedObject"];
            let first = |keys: [&str; 3]| {
                let told = keys.into_iter().map(|k| &event[k]);
                told.into_iter().find(|v| !v.is_null()).cloned()
            };
            let line = json!({
                "at": first(["lastTimestamp", "eventTime", "firstTimestamp"]),
                "type": event["type"],
                "reason": event["reason"],
                "object": format!("{}/{}/{}", of["kind"].as_str().unwrap_or_default(),
                    of["namespace"].as_str().unwrap_or_default(), of["name"].as_str().unwrap_or_default()),
                "count": event["count"],
                "by": first(["reportingComponent", "reportingInstance", "source"]),
                "message": event["message"],
            });
            lines.push_str(&format!("{line}\n"));
        }
        self.add("cluster/events.jsonl", &format!("GET {path}"), &lines);
    }

    async fn versions(&mut self, kube: &Kube, inputs: &Inputs) {
        let server = match kube.get("/version").await {
            Ok(version) => version["gitVersion"].clone(),
            Err(why) => {
                self.miss("the API server's version", &why, None);
                Value::Null
            }
        };
        let nodes: BTreeMap<&String, &String> = inputs
            .nodes
            .iter()
            .map(|(name, n)| (name, &n.agent))
            .collect();
        let cluster = inputs.kubernetes.iter();
        let sets: BTreeMap<String, Vec<&String>> = cluster
            .flat_map(|c| &c.daemon_sets)
            .filter(|(_, set)| !set.containers.is_empty())
            .map(|(name, set)| {
                (
                    name.to_string(),
                    set.containers.iter().map(|c| &c.image).collect(),
                )
            })
            .collect();
        let versions = json!({
            "branchline": env!("CARGO_PKG_VERSION"),
            "kubernetes": server,
            "server": kube.server,
            "region": inputs.world.region,
            "agents": nodes,
            "images": sets,
            "addon": inputs.addon,
        });
        self.add_document("versions.json", "GET /version and what was read", versions);
    }

    /// A name for the file.
    pub fn default_name(&self) -> PathBuf {
        let cluster = self.cluster.as_deref().unwrap_or("nodes");
        let cluster = cluster.rsplit('/').next().unwrap_or(cluster);
        let clean = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
        let cluster: String = cluster.chars().map(clean).collect();
        let at = Timestamp::now().strftime("%Y%m%d-%H%M%S");
        format!("branchline-{cluster}-{at}.tar.gz").into()
    }

    /// The names of its files.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// Writes it; the file is there whole or not at all, and nobody else may read it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        let mut beside = path.as_os_str().to_owned();
        beside.push(".part");
        let beside = PathBuf::from(beside);
        let done = self
            .write_beside(&beside)
            .and_then(|()| fs::rename(&beside, path));
        done.map_err(|source| {
            // What is left of it helps nobody; that it cannot be removed matters less than why.
            drop(fs::remove_file(&beside));
            Error::BundleFile {
                path: path.to_owned(),
                source,
            }
        })
    }

    fn write_beside(&self, beside: &Path) -> io::Result<()> {
        match fs::remove_file(beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(beside)?;
        let mut archive = tar::Builder::new(GzEncoder::new(file, Compression::default()));
        let now = u64::try_from(Timestamp::now().as_second()).unwrap_or_default();
        let manifest = self.manifest()?;
        let first = ("manifest.json", manifest.as_slice());
        let rest = self
            .files
            .iter()
            .map(|(name, (_, body))| (name.as_str(), body.as_slice()));
        for (name, body) in std::iter::once(first).chain(rest) {
            let mut header = tar::Header::new_gnu();
            header.set_size(body.len() as u64);
            header.set_mode(0o600);
            header.set_mtime(now);
            header.set_cksum();
            archive.append_data(&mut header, format!("branchline-bundle/{name}"), body)?;
        }
        let mut file = archive.into_inner()?.finish()?;
        file.flush()?;
        file.sync_all()
    }

    fn manifest(&self) -> io::Result<Vec<u8>> {
        let entry = |(name, (source, body)): (&String, &(String, Vec<u8>))| Entry {
            name: name.clone(),
            bytes: body.len(),
            source: source.clone(),
        };
        let manifest = json!({
            "schema": SCHEMA,
            "written_by": format!("branchline {}", env!("CARGO_PKG_VERSION")),
            "taken": Timestamp::now().to_string(),
            "files": self.files.iter().map(entry).collect::<Vec<_>>(),
            "missing": self.missing,
            "redacted": "annotations, managed fields, variables that are not the stack's, and texts that look like credentials",
        });
        Ok(serde_json::to_vec_pretty(&manifest)?)
    }
}

/// One answer on its way into the file.
struct Part {
    name: String,
    source: String,
    content: Result<Content, String>,
    grant: &'static str,
}

enum Content {
    Object(Value),
    Text(String),
}

/// The ends of the log files on a node, by way of its kubelet: what agent and plugin write there is
/// more than the agent's container says.
async fn node_logs(kube: &Kube, node: &str, dir: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    for file in ["ipamd.log", "plugin.log"] {
        let path = format!("/api/v1/nodes/{node}/proxy/logs/aws-routed-eni/{file}");
        let content = kube.end(&path, LOG_BYTES).await.map(Content::Text);
        let failed = content.is_err();
        parts.push(Part {
            name: format!("{dir}/{file}"),
            source: format!("GET {path}"),
            content,
            grant: "get nodes/proxy (nodes/log), and a kubelet with enableSystemLogHandler",
        });
        if failed {
            break;
        }
    }
    parts
}

/// An agent's pod, the ends of its containers' logs, and its metrics by way of the API server.
async fn agent_pod(
    kube: &Kube,
    name: &ObjectName,
    containers: Vec<String>,
    dir: &str,
) -> Vec<Part> {
    let base = format!("/api/v1/namespaces/{}/pods/{}", name.namespace, name.name);
    let mut parts = vec![Part {
        name: format!("{dir}/pod.yaml"),
        source: format!("GET {base}"),
        content: kube.get(&base).await.map(Content::Object),
        grant: "get pods",
    }];
    'containers: for container in &containers {
        for previous in [false, true] {
            let path = format!(
                "{base}/log?container={container}&tailLines={LOG_LINES}&limitBytes={LOG_BYTES}&timestamps=true&previous={previous}"
            );
            let kind = if previous { ".previous" } else { "" };
            let content = kube.text(&path).await.map(Content::Text);
            let failed = content.is_err();
            // Most containers were never restarted: without a log of before there is no gap.
            if !(failed && previous) {
                parts.push(Part {
                    name: format!("{dir}/{container}{kind}.log"),
                    source: format!("GET {path}"),
                    content,
                    grant: "get pods/log",
                });
            }
            if failed && !previous {
                break 'containers; // the same kubelet would say the same again
            }
        }
    }
    let path = format!(
        "/api/v1/namespaces/{}/pods/{}:{METRICS}/proxy/metrics",
        name.namespace, name.name
    );
    parts.push(Part {
        name: format!("{dir}/metrics.txt"),
        source: format!("GET {path}"),
        content: kube.text(&path).await.map(Content::Text),
        grant: "get pods/proxy, and port 61678 of the nodes open to the control plane",
    });
    parts
}

/// Whether an event may tell why a pod has no address, or what became of an agent or a node.
fn about_the_network(event: &Value) -> bool {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_ascii_lowercase();
    let of = &event["involvedObject"];
    let by = [
        text(&event["reportingComponent"]),
        text(&event["source"]["component"]),
    ];
    text(&of["kind"]) == "node"
        || text(&event["reason"]).contains("sandbox")
        || (text(&of["namespace"]) == "kube-system" && text(&of["name"]).starts_with("aws-node"))
        || by
            .iter()
            .any(|b| b.contains("branchline") || b.contains("aws-node"))
}
