//! Reading a cluster with the user's kubeconfig: lists only, all at once, in pages.

use std::path::PathBuf;
use std::time::Duration;

use http::header::{ACCEPT, HeaderValue, RANGE};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ListMeta;
use kube::Resource;
use kube::api::ListParams;
use kube::client::Client;
use kube::config::{ExecConfig, KubeConfigOptions, Kubeconfig, NamedCluster};
use kube::core::request::Request;
use kube_view::facts::{Cluster, Kind, Unread};
use kube_view::{Index, Indexed, objects};
use reach::facts::Evidence;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::Error;

/// Which cluster to read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KubeOptions {
    /// A kubeconfig; else `KUBECONFIG`, else `~/.kube/config`, else the pod's service account.
    pub kubeconfig: Option<PathBuf>,
    /// A context of it; else the current one.
    pub context: Option<String>,
    /// A cluster of it, by its name or the end of its ARN; decides the context.
    pub cluster: Option<String>,
    /// The AWS profile, for clusters that take tokens of `aws eks get-token`.
    pub profile: Option<String>,
}

impl KubeOptions {
    /// Whether somebody asked for a cluster, rather than there being a file in the home directory.
    pub fn is_explicit(&self) -> bool {
        let set = |v: std::ffi::OsString| !v.is_empty();
        self.kubeconfig.is_some()
            || self.context.is_some()
            || self.cluster.is_some()
            || std::env::var_os("KUBECONFIG").is_some_and(set)
    }
}

/// A cluster within reach.
#[derive(Clone)]
pub struct Kube {
    pub(crate) client: Client,
    /// What the kubeconfig calls the cluster.
    pub name: String,
    /// Its API server.
    pub server: String,
    /// The context that was used, for hints.
    pub context: Option<String>,
}

impl std::fmt::Debug for Kube {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Kube({} at {})", self.name, self.server)
    }
}

/// How long a connection may take, and an answer.
const CONNECT: Duration = Duration::from_secs(5);
const ANSWER: Duration = Duration::from_secs(20);
/// An answer that is not needed, as a log.
const PATIENCE: Duration = Duration::from_secs(8);
/// Objects per page: what kubectl asks for.
const PAGE: u32 = 500;

/// Finds the cluster that the options, the environment or the home directory name; `None` when
/// there is no kubeconfig anywhere. Nothing is sent yet.
///
/// # Errors
/// A kubeconfig that is named and cannot be used.
pub async fn connect(options: &KubeOptions) -> Result<Option<Kube>, Error> {
    let Some(mut kubeconfig) = kubeconfig(options)? else {
        return match std::env::var_os("KUBERNETES_SERVICE_HOST") {
            None => Ok(None),
            Some(_) => in_cluster().map(Some),
        };
    };
    let context = context(options, &kubeconfig)?;
    let named = kubeconfig.contexts.iter().find(|c| c.name == context);
    let inner = named.and_then(|c| c.context.as_ref());
    let name = inner.map_or_else(|| context.clone(), |c| c.cluster.clone());
    let user = inner.and_then(|c| c.user.clone());
    if let Some(token) = eks_token(options, &kubeconfig, user.as_deref()).await {
        for named in kubeconfig
            .auth_infos
            .iter_mut()
            .filter(|a| Some(&a.name) == user.as_ref())
        {
            let info = named.auth_info.get_or_insert_default();
            info.exec = None;
            info.token = Some(token.clone().into());
        }
    }
    let chosen = KubeConfigOptions {
        context: Some(context.clone()),
        ..KubeConfigOptions::default()
    };
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &chosen).await;
    let config = config.map_err(|source| Error::Kubeconfig {
        what: format!("context {context}"),
        source: Box::new(source),
    })?;
    client(config, name, Some(context)).map(Some)
}

/// The token that the user's `aws eks get-token …` would print, made here: starting the AWS CLI would
/// take longer than the whole answer. `None` for any other user, for options that are not known here,
/// and where there are no credentials: the command of the kubeconfig is then run and speaks for itself.
async fn eks_token(
    options: &KubeOptions,
    config: &Kubeconfig,
    user: Option<&str>,
) -> Option<String> {
    let named = config
        .auth_infos
        .iter()
        .find(|a| Some(a.name.as_str()) == user)?;
    let exec = named.auth_info.as_ref()?.exec.as_ref()?;
    let asked = GetToken::of(exec)?;
    let mut builder = ec2::Client::builder();
    if let Some(region) = asked.region {
        builder = builder.region(region);
    }
    if let Some(profile) = options.profile.clone().or(asked.profile) {
        builder = builder.profile(profile);
    }
    let client = builder.build_eks().ok()?;
    client.token(&asked.cluster, Timestamp::now()).await.ok()
}

/// `aws --region R eks get-token --cluster-name C [--output json]`.
#[derive(Debug, Default, PartialEq, Eq)]
struct GetToken {
    cluster: String,
    region: Option<String>,
    profile: Option<String>,
}

impl GetToken {
    fn of(exec: &ExecConfig) -> Option<Self> {
        let program = std::path::Path::new(exec.command.as_deref()?).file_name()?;
        if program != "aws" {
            return None;
        }
        let mut asked = GetToken::default();
        let mut words = Vec::new();
        let mut args = exec.args.as_deref().unwrap_or_default().iter();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--region" => asked.region = Some(args.next()?.clone()),
                "--profile" => asked.profile = Some(args.next()?.clone()),
                "--cluster-name" => asked.cluster = args.next()?.clone(),
                "--output" => drop(args.next()?),
                // A role to assume, a cluster by id, …: the AWS CLI knows.
                other if other.starts_with('-') => return None,
                word => words.push(word),
            }
        }
        for set in exec.env.iter().flatten() {
            match (set.get("name").map(String::as_str), set.get("value")) {
                (Some("AWS_PROFILE"), Some(value)) => asked.profile = Some(value.clone()),
                (Some("AWS_STS_REGIONAL_ENDPOINTS"), _) => {}
                _ => return None,
            }
        }
        (words == ["eks", "get-token"] && !asked.cluster.is_empty()).then_some(asked)
    }
}

fn in_cluster() -> Result<Kube, Error> {
    let config = kube::Config::incluster().map_err(|e| Error::KubeUnreachable {
        server: "the cluster that this pod is in".to_owned(),
        why: e.to_string(),
    })?;
    client(config, "in-cluster".to_owned(), None)
}

fn client(mut config: kube::Config, name: String, context: Option<String>) -> Result<Kube, Error> {
    config.connect_timeout = Some(CONNECT);
    config.read_timeout = Some(ANSWER);
    let server = config.cluster_url.to_string();
    let server = server.trim_end_matches('/').to_owned();
    match Client::try_from(config) {
        Ok(client) => Ok(Kube {
            client,
            name,
            server,
            context,
        }),
        Err(error) => Err(fatal(&server, context.as_deref(), &error)),
    }
}

fn kubeconfig(options: &KubeOptions) -> Result<Option<Kubeconfig>, Error> {
    let read = |path: &PathBuf| {
        Kubeconfig::read_from(path).map_err(|source| Error::Kubeconfig {
            what: path.display().to_string(),
            source: Box::new(source),
        })
    };
    if let Some(path) = &options.kubeconfig {
        return read(path).map(Some);
    }
    let from_env = Kubeconfig::from_env().map_err(|source| Error::Kubeconfig {
        what: "KUBECONFIG".to_owned(),
        source: Box::new(source),
    })?;
    if from_env.is_some() {
        return Ok(from_env);
    }
    let home = std::env::home_dir().map(|home| home.join(".kube/config"));
    match home.filter(|path| path.exists()) {
        Some(path) => read(&path).map(Some),
        None => Ok(None),
    }
}

/// The context to use: the one that is named, the one of the named cluster, the current one.
fn context(options: &KubeOptions, config: &Kubeconfig) -> Result<String, Error> {
    let names = || config.contexts.iter().map(|c| c.name.clone()).collect();
    if let Some(context) = &options.context {
        return match config.contexts.iter().any(|c| c.name == *context) {
            true => Ok(context.clone()),
            false => Err(Error::NoContext {
                name: context.clone(),
                known: names(),
            }),
        };
    }
    let current = config.current_context.clone().filter(|c| !c.is_empty());
    let Some(wanted) = &options.cluster else {
        return current.ok_or_else(|| Error::NoContext {
            name: String::new(),
            known: names(),
        });
    };
    let is = |c: &&NamedCluster| c.name == *wanted || c.name.ends_with(&format!("/{wanted}"));
    let clusters: Vec<&str> = config
        .clusters
        .iter()
        .filter(is)
        .map(|c| c.name.as_str())
        .collect();
    let of_it = |name: &str| {
        let context = config.contexts.iter().find(|c| c.name == name);
        let cluster = context.and_then(|c| Some(c.context.as_ref()?.cluster.as_str()));
        cluster.is_some_and(|c| clusters.contains(&c))
    };
    if let Some(current) = current.filter(|c| of_it(c)) {
        return Ok(current);
    }
    let fit: Vec<String> = config
        .contexts
        .iter()
        .map(|c| c.name.clone())
        .filter(|c| of_it(c))
        .collect();
    match fit.as_slice() {
        [only] => Ok(only.clone()),
        [] => Err(Error::NoCluster {
            name: wanted.clone(),
            known: config.clusters.iter().map(|c| c.name.clone()).collect(),
        }),
        _ => Err(Error::SeveralContexts {
            name: wanted.clone(),
            contexts: fit,
        }),
    }
}

/// What ends the reading as a whole: without a connection or valid credentials nothing can be said.
fn fatal(server: &str, context: Option<&str>, error: &kube::Error) -> Error {
    let server = server.to_owned();
    match error {
        kube::Error::Api(status) if status.code == 401 => Error::KubeRefused {
            server,
            why: status.message.clone(),
            context: context.unwrap_or_default().to_owned(),
        },
        kube::Error::Auth(auth) => Error::KubeRefused {
            server,
            why: auth.to_string(),
            context: context.unwrap_or_default().to_owned(),
        },
        other => Error::KubeUnreachable {
            server,
            why: root(other),
        },
    }
}

/// The innermost cause: the others repeat it.
fn root(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// An answer, or why there is none: behind the API server a kubelet or a node may be silent.
async fn answer<T>(call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, String> {
    match tokio::time::timeout(PATIENCE, call).await {
        Ok(answer) => answer.map_err(|e| root(&e)),
        Err(_) => Err(format!(
            "no answer in {} s: does the control plane reach the node?",
            PATIENCE.as_secs()
        )),
    }
}

#[derive(Deserialize)]
struct Page<K> {
    #[serde(default)]
    metadata: ListMeta,
    // Go writes an empty list as null.
    items: Option<Vec<K>>,
}

/// What a list said.
enum Listed<K> {
    All(Vec<K>, String),
    Denied(Unread),
}

impl Kube {
    /// Reads all that is looked at.
    ///
    /// # Errors
    /// When the API server cannot be reached or refuses the credentials. A kind that may not be
    /// listed is named in the facts.
    pub async fn read(&self) -> Result<(Cluster, Vec<Evidence>), Error> {
        let whole = Parts::Whole;
        let metadata = Parts::Metadata;
        let (
            pods,
            nodes,
            namespaces,
            replica_sets,
            deployments,
            stateful_sets,
            daemon_sets,
            jobs,
            services,
            slices,
        ) = tokio::try_join!(
            self.list::<objects::Pod>(whole),
            self.list::<objects::Node>(whole),
            self.list::<objects::Namespace>(metadata),
            self.list::<objects::ReplicaSet>(metadata),
            self.list::<objects::Deployment>(metadata),
            self.list::<objects::StatefulSet>(metadata),
            self.list::<objects::DaemonSet>(whole),
            self.list::<objects::Job>(metadata),
            self.list::<objects::Service>(whole),
            self.list::<objects::EndpointSlice>(whole),
        )?;
        let mut into = Filling {
            index: Index::new(&self.name),
            evidence: Vec::new(),
            server: &self.server,
        };
        into.fill(namespaces);
        into.fill(nodes);
        into.fill(pods);
        into.fill(replica_sets);
        into.fill(deployments);
        into.fill(stateful_sets);
        into.fill(daemon_sets);
        into.fill(jobs);
        into.fill(services);
        into.fill(slices);
        Ok((into.index.into_facts(), into.evidence))
    }

    /// What ends the reading as a whole.
    pub(crate) fn fatal(&self, error: &kube::Error) -> Error {
        fatal(&self.server, self.context.as_deref(), error)
    }

    /// EKS's name of the cluster, if the kubeconfig has its ARN or eksctl's name of it.
    pub fn eks_name(&self) -> Option<&str> {
        match self.name.rsplit_once(":cluster/") {
            Some((arn, name)) if arn.starts_with("arn:") => Some(name),
            _ => Some(self.name.strip_suffix(".eksctl.io")?.split('.').next()?),
        }
    }

    /// One object or list, as it is; else what the API server says.
    pub(crate) async fn get(&self, path: &str) -> Result<serde_json::Value, String> {
        let request = http::Request::get(path).body(Vec::new());
        let request = request.map_err(|e| e.to_string())?;
        answer(self.client.request(request)).await
    }

    /// A text, as a log.
    pub(crate) async fn text(&self, path: &str) -> Result<String, String> {
        let request = http::Request::get(path).body(Vec::new());
        let request = request.map_err(|e| e.to_string())?;
        answer(self.client.request_text(request)).await
    }

    /// The last bytes of a text.
    pub(crate) async fn end(&self, path: &str, bytes: u32) -> Result<String, String> {
        let request = http::Request::get(path).header(RANGE, format!("bytes=-{bytes}"));
        let request = request.body(Vec::new());
        let request = request.map_err(|e| e.to_string())?;
        answer(self.client.request_text(request)).await
    }

    async fn list<K>(&self, parts: Parts) -> Result<Listed<K>, Error>
    where
        K: Indexed + Resource<DynamicType = ()> + DeserializeOwned,
    {
        // A list that takes longer than etcd keeps its history is begun again, once.
        match self.pages::<K>(parts).await {
            Err(kube::Error::Api(status)) if status.code == 410 => {
                self.classify(self.pages(parts).await)
            }
            other => self.classify(other),
        }
    }

    fn classify<K: Indexed>(
        &self,
        answer: Result<(Vec<K>, String), kube::Error>,
    ) -> Result<Listed<K>, Error> {
        let right = format!("list {}", K::KIND.resource());
        match answer {
            Ok((objects, version)) => Ok(Listed::All(objects, version)),
            Err(kube::Error::Api(status)) if status.code == 401 => Err(fatal(
                &self.server,
                self.context.as_deref(),
                &kube::Error::Api(status),
            )),
            Err(kube::Error::Api(status)) => Ok(Listed::Denied(Unread {
                right,
                reason: status.message.clone(),
            })),
            Err(kube::Error::SerdeError(error)) => Ok(Listed::Denied(Unread {
                right,
                reason: format!("the answer cannot be understood: {error}"),
            })),
            Err(error) => Err(self.fatal(&error)),
        }
    }

    async fn pages<K>(&self, parts: Parts) -> Result<(Vec<K>, String), kube::Error>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned,
    {
        let request = Request::new(K::url_path(&(), None));
        let mut params = ListParams::default().limit(PAGE);
        let mut all = Vec::new();
        loop {
            let mut page = request.list(&params).map_err(kube::Error::BuildRequest)?;
            if parts == Parts::Metadata {
                page.headers_mut()
                    .insert(ACCEPT, HeaderValue::from_static(METADATA));
            }
            let page: Page<K> = self.client.request(page).await?;
            all.extend(page.items.unwrap_or_default());
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => return Ok((all, page.metadata.resource_version.unwrap_or_default())),
            }
        }
    }
}

/// Whether an object's metadata is all that is needed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Parts {
    Whole,
    Metadata,
}

const METADATA: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";

struct Filling<'a> {
    index: Index,
    evidence: Vec<Evidence>,
    server: &'a str,
}

impl Filling<'_> {
    fn fill<K: Indexed>(&mut self, listed: Listed<K>) {
        let kind: Kind = K::KIND;
        match listed {
            Listed::All(objects, version) => {
                self.evidence.push(Evidence {
                    source: "k8s".to_owned(),
                    call: format!(
                        "list {} at {} ({} objects, resourceVersion {version})",
                        kind.resource(),
                        self.server,
                        objects.len()
                    ),
                    at: Timestamp::now().to_string(),
                });
                self.index.reset(objects);
            }
            Listed::Denied(unread) => self.index.unreadable(kind, unread),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exec(command: &str, args: &str) -> ExecConfig {
        ExecConfig {
            command: Some(command.to_owned()),
            args: Some(args.split_whitespace().map(str::to_owned).collect()),
            ..ExecConfig::default()
        }
    }

    #[test]
    fn tokens_are_made_here_only_for_the_plain_command() {
        let plain = exec(
            "aws",
            "--region us-west-2 eks get-token --cluster-name dev --output json",
        );
        let asked = GetToken::of(&plain).unwrap();
        assert_eq!(
            (asked.cluster.as_str(), asked.region.as_deref()),
            ("dev", Some("us-west-2"))
        );
        for (command, args) in [
            ("aws-iam-authenticator", "token -i dev"),
            ("aws", "eks get-token --cluster-name dev --role-arn arn:x"),
            ("aws", "eks get-token"),
            ("aws", "sts get-caller-identity --cluster-name dev"),
        ] {
            assert_eq!(GetToken::of(&exec(command, args)), None, "{command} {args}");
        }
    }
}
