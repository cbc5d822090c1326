//! The way to the API server: where it is, and who we are there.

use std::error::Error as _;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kube::config::AuthInfo;
use settings::Kubernetes;

/// Where the kubelet puts the token and the authority of a pod's service account.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const CONNECT: Duration = Duration::from_secs(5);
/// A watch hears a bookmark about once a minute; after twice that the server is gone.
const SILENCE: Duration = Duration::from_secs(120);

/// Why there is no cluster.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Missing {
    /// A node without Kubernetes.
    #[error("no service account at {}", .0.display())]
    ServiceAccount(PathBuf),
    /// The downward API is not used.
    #[error("MY_NODE_NAME is not set")]
    NodeName,
    /// Neither the kubelet nor the operator says where the API server is.
    #[error("neither KUBERNETES_SERVICE_HOST nor CLUSTER_ENDPOINT is set")]
    Address,
}

/// The way to the API server.
#[derive(Debug, Clone)]
pub(crate) struct Access {
    /// This node.
    pub(crate) node: String,
    /// This pod, or the node where that is not known; the source of events.
    pub(crate) instance: String,
    /// `https://host[:port]`.
    pub(crate) url: String,
    /// It is the cluster's service address, which kube-proxy makes work.
    pub(crate) by_service: bool,
    account: PathBuf,
}

impl Access {
    /// The way that the settings and the node's files show.
    pub(crate) fn find(settings: &Kubernetes) -> Result<Self, Missing> {
        Self::find_at(settings, Path::new(SERVICE_ACCOUNT))
    }

    fn find_at(settings: &Kubernetes, account: &Path) -> Result<Self, Missing> {
        if !account.join("token").exists() {
            return Err(Missing::ServiceAccount(account.to_owned()));
        }
        let node = settings.node_name.clone().ok_or(Missing::NodeName)?;
        let (url, by_service) = match (&settings.cluster_endpoint, &settings.service_host) {
            (Some(endpoint), _) => (endpoint.clone(), false),
            (None, Some(host)) => (service(host, settings.service_port), true),
            (None, None) => return Err(Missing::Address),
        };
        Ok(Self {
            instance: settings.pod_name.clone().unwrap_or_else(|| node.clone()),
            node,
            url,
            by_service,
            account: account.to_owned(),
        })
    }

    /// A client; connects with its first request. The token is read again as the kubelet renews it.
    pub(crate) fn client(&self) -> Result<kube::Client, Trouble> {
        let url = self
            .url
            .parse()
            .map_err(|_| Trouble::Url(self.url.clone()))?;
        let mut config = kube::Config::new(url);
        config.root_cert_file = Some(self.account.join("ca.crt"));
        config.auth_info = AuthInfo {
            token_file: Some(self.account.join("token").display().to_string()),
            ..Default::default()
        };
        config.connect_timeout = Some(CONNECT);
        config.read_timeout = Some(SILENCE);
        config.write_timeout = Some(CONNECT);
        kube::Client::try_from(config).map_err(|error| self.trouble(error))
    }

    /// What went wrong, with the likely cause.
    pub(crate) fn trouble(&self, error: kube::Error) -> Trouble {
        match error {
            kube::Error::Api(status) => Trouble::Refused {
                code: status.code,
                terminating: status.details.as_ref().is_some_and(|details| {
                    details
                        .causes
                        .iter()
                        .any(|cause| cause.reason == "NamespaceTerminating")
                }),
                message: status.message.clone(),
            },
            other => Trouble::Unreachable {
                url: self.url.clone(),
                why: chain(&other),
                hint: self.by_service,
            },
        }
    }
}

fn service(host: &str, port: u16) -> String {
    match host.parse() {
        Ok(std::net::IpAddr::V6(address)) => format!("https://[{address}]:{port}"),
        _ => format!("https://{host}:{port}"),
    }
}

/// An error and its sources, each once: clients wrap theirs several times over.
fn chain(error: &kube::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let words = error.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        source = error.source();
    }
    text
}

/// Why a request to the API server was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Trouble {
    /// `CLUSTER_ENDPOINT` or the service's host is no host.
    #[error("{0} is no URL: is CLUSTER_ENDPOINT right?")]
    Url(String),
    /// No connection, no TLS, no answer.
    #[error("the API server at {url} is not reached: {why}{}", Hint(*.hint))]
    Unreachable {
        url: String,
        why: String,
        hint: bool,
    },
    /// The API server answered with an error.
    #[error("{message}{}", advice(*.code))]
    Refused {
        code: u16,
        message: String,
        /// The namespace is being deleted: nothing can be created in it.
        terminating: bool,
    },
    /// No answer in time.
    #[error("the API server at {url} has not answered within {}s", within.as_secs())]
    Late { url: String, within: Duration },
}

impl Trouble {
    /// The HTTP status of a refusal.
    pub(crate) fn code(&self) -> Option<u16> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// The same request may succeed later.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Self::Url(_) => false,
            Self::Unreachable { .. } | Self::Late { .. } => true,
            Self::Refused { code, .. } => *code == 401 || *code == 429 || *code >= 500,
        }
    }
}

struct Hint(bool);

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 {
            f.write_str("; does kube-proxy run on this node? CLUSTER_ENDPOINT does without it")?;
        }
        Ok(())
    }
}

fn advice(code: u16) -> &'static str {
    match code {
        401 => ": is the service account's token of this cluster?",
        403 => ": does the chart's ClusterRole belong to this service account?",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_service_account_there_is_no_cluster() {
        let dir = tempfile::tempdir().unwrap();
        let mut settings = settings::Settings::default().kubernetes;
        let off = |settings: &Kubernetes| Access::find_at(settings, dir.path()).unwrap_err();
        assert!(matches!(off(&settings), Missing::ServiceAccount(_)));
        std::fs::write(dir.path().join("token"), "t").unwrap();
        assert_eq!(off(&settings), Missing::NodeName);
        settings.node_name = Some("n1".to_owned());
        assert_eq!(off(&settings), Missing::Address);
        settings.service_host = Some("172.20.0.1".to_owned());
        let access = Access::find_at(&settings, dir.path()).unwrap();
        assert_eq!(
            (
                access.url.as_str(),
                access.by_service,
                access.instance.as_str()
            ),
            ("https://172.20.0.1:443", true, "n1")
        );
        settings.cluster_endpoint = Some("https://10.0.1.5".to_owned());
        let access = Access::find_at(&settings, dir.path()).unwrap();
        assert_eq!(
            (access.url.as_str(), access.by_service),
            ("https://10.0.1.5", false)
        );
        assert_eq!(service("fd00::1", 443), "https://[fd00::1]:443");
    }
}
