//! The programs of a control plane and what they are told.
//!
//! All paths are those inside of the control plane, where its directory in the lab is
//! [`crate::mounts::SELF`].

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;

use ipnet::Ipv4Net;

use super::binaries::Binaries;
use crate::mounts::SELF;
use crate::node::ServiceSpec;

/// Where the programs of a control plane find each other: nothing outside of its namespace can
/// reach it.
pub(super) const ETCD: &str = "http://127.0.0.1:2379";
/// The port of the token webhook, as aws-iam-authenticator's.
pub(super) const WEBHOOK_PORT: u16 = 21362;
/// The port of the API server, on every address.
pub(super) const API_PORT: u16 = 443;

/// The programs in the order in which they are started.
pub const COMPONENTS: [&str; 4] = [
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
];

/// What the flags depend on.
#[derive(Debug)]
pub(super) struct Settings<'a> {
    pub(super) cluster: &'a str,
    pub(super) binaries: &'a Binaries,
    /// The first of the control plane's addresses.
    pub(super) address: Ipv4Addr,
    pub(super) services: Ipv4Net,
    /// Issuer of the tokens of service accounts.
    pub(super) issuer: &'a str,
    /// Where etcd keeps its data, a path that is the same inside and outside.
    pub(super) data: &'a Path,
}

impl Settings<'_> {
    fn service(&self, name: &str, args: Vec<String>) -> ServiceSpec {
        let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        ServiceSpec {
            name: name.to_owned(),
            program: self.binaries.program(name),
            args,
            env: BTreeMap::from([("PATH".to_owned(), path.to_owned())]),
            after: None,
        }
    }

    /// No fsync: what etcd keeps ends with the lab.
    pub(super) fn etcd(&self) -> ServiceSpec {
        let peer = "http://127.0.0.1:2380";
        let args = [
            format!("--name={}", self.cluster),
            format!("--data-dir={}", self.data.display()),
            format!("--listen-client-urls={ETCD}"),
            format!("--advertise-client-urls={ETCD}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster={}={peer}", self.cluster),
            "--unsafe-no-fsync".to_owned(),
            "--log-level=warn".to_owned(),
        ];
        self.service("etcd", args.into())
    }

    pub(super) fn apiserver(&self) -> ServiceSpec {
        let pki = |name: &str| format!("{SELF}/pki/{name}");
        let args = [
            format!("--advertise-address={}", self.address),
            "--bind-address=0.0.0.0".to_owned(),
            format!("--secure-port={API_PORT}"),
            format!("--etcd-servers={ETCD}"),
            format!("--service-cluster-ip-range={}", self.services),
            "--allow-privileged=true".to_owned(),
            "--authorization-mode=Node,RBAC".to_owned(),
            "--enable-admission-plugins=NodeRestriction".to_owned(),
            // Webhooks and extension servers are reached at their pods' addresses, as on EKS: the
            // control plane has no kube-proxy.
            "--enable-aggregator-routing=true".to_owned(),
            // Both interfaces are written into the Service's endpoints by the lab.
            "--endpoint-reconciler-type=none".to_owned(),
            format!("--authentication-config={SELF}/authentication.yaml"),
            format!("--authentication-token-webhook-config-file={SELF}/token-webhook.kubeconfig"),
            "--authentication-token-webhook-version=v1".to_owned(),
            // Whoever loses an access entry is out at once.
            "--authentication-token-webhook-cache-ttl=5s".to_owned(),
            format!("--client-ca-file={}", pki("ca.crt")),
            format!("--tls-cert-file={}", pki("apiserver.crt")),
            format!("--tls-private-key-file={}", pki("apiserver.key")),
            format!(
                "--kubelet-client-certificate={}",
                pki("apiserver-kubelet-client.crt")
            ),
            format!(
                "--kubelet-client-key={}",
                pki("apiserver-kubelet-client.key")
            ),
            format!("--kubelet-certificate-authority={}", pki("ca.crt")),
            "--kubelet-preferred-address-types=InternalIP".to_owned(),
            format!("--service-account-issuer={}", self.issuer),
            format!("--service-account-key-file={}", pki("sa.pub")),
            format!("--service-account-signing-key-file={}", pki("sa.key")),
            format!(
                "--requestheader-client-ca-file={}",
                pki("front-proxy-ca.crt")
            ),
            "--requestheader-allowed-names=front-proxy-client".to_owned(),
            "--requestheader-username-headers=X-Remote-User".to_owned(),
            "--requestheader-group-headers=X-Remote-Group".to_owned(),
            "--requestheader-extra-headers-prefix=X-Remote-Extra-".to_owned(),
            format!("--proxy-client-cert-file={}", pki("front-proxy-client.crt")),
            format!("--proxy-client-key-file={}", pki("front-proxy-client.key")),
            "--profiling=false".to_owned(),
        ];
        self.service("kube-apiserver", args.into())
    }

    pub(super) fn controller_manager(&self) -> ServiceSpec {
        let kubeconfig = format!("{SELF}/controller-manager.kubeconfig");
        let args = [
            format!("--kubeconfig={kubeconfig}"),
            format!("--authentication-kubeconfig={kubeconfig}"),
            format!("--authorization-kubeconfig={kubeconfig}"),
            "--bind-address=127.0.0.1".to_owned(),
            format!("--cluster-name={}", self.cluster),
            format!("--service-cluster-ip-range={}", self.services),
            "--allocate-node-cidrs=false".to_owned(),
            "--use-service-account-credentials=true".to_owned(),
            format!("--root-ca-file={SELF}/pki/ca.crt"),
            format!("--service-account-private-key-file={SELF}/pki/sa.key"),
            format!("--cluster-signing-cert-file={SELF}/pki/ca.crt"),
            format!("--cluster-signing-key-file={SELF}/pki/ca.key"),
            "--leader-elect=false".to_owned(),
            // Without these the not-ready taint stays on a ready node for seconds.
            "--kube-api-qps=500".to_owned(),
            "--kube-api-burst=1000".to_owned(),
            "--node-monitor-period=1s".to_owned(),
            "--profiling=false".to_owned(),
        ];
        self.service("kube-controller-manager", args.into())
    }

    pub(super) fn scheduler(&self) -> ServiceSpec {
        let kubeconfig = format!("{SELF}/scheduler.kubeconfig");
        let args = [
            format!("--kubeconfig={kubeconfig}"),
            format!("--authentication-kubeconfig={kubeconfig}"),
            format!("--authorization-kubeconfig={kubeconfig}"),
            "--bind-address=127.0.0.1".to_owned(),
            "--leader-elect=false".to_owned(),
            "--kube-api-qps=500".to_owned(),
            "--kube-api-burst=1000".to_owned(),
            "--profiling=false".to_owned(),
        ];
        self.service("kube-scheduler", args.into())
    }
}

/// Who is let in without credentials: health checks, as on EKS.
pub(super) const AUTHENTICATION: &str = "\
apiVersion: apiserver.config.k8s.io/v1
kind: AuthenticationConfiguration
anonymous:
  enabled: true
  conditions:
    - path: /livez
    - path: /readyz
    - path: /healthz
";
