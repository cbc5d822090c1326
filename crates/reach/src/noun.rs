//! The nouns of a question: `dev/deploy/api`, `dev/svc/web:80`, `pod/default/api-1`,
//! `node/ip-10-0-1-11`, `rds/orders:5432`, `10.0.21.40:53/udp`, `eni/eni-0a1:icmp`, `apiserver`.
//!
//! Only syntax is decided here; [`crate::resolve`] looks the names up.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use kube_view::workload::WorkloadKind;
use serde::Serialize;

use crate::error::Error;

/// Something that sends or receives, by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Noun {
    /// One pod: `pod/NAME`, `pod/NAMESPACE/NAME` or `NAMESPACE/pod/NAME`.
    Pod {
        /// Its namespace, if given.
        namespace: Option<String>,
        /// Its name or the beginning of it.
        name: String,
    },
    /// The pods of a workload: `NAMESPACE/deploy/NAME`, also `sts`, `ds`, `job`; the namespace may be
    /// left out where the name is unique.
    Workload {
        /// Its kind.
        kind: WorkloadKind,
        /// Its namespace, if given.
        namespace: Option<String>,
        /// Its name or the beginning of it.
        name: String,
    },
    /// A Service: `NAMESPACE/svc/NAME`.
    Service {
        /// Its namespace, if given.
        namespace: Option<String>,
        /// Its name or the beginning of it.
        name: String,
    },
    /// The cluster's API server, as pods reach it.
    ApiServer,
    /// All pods of a node: `node/NAME`.
    Node(String),
    /// A database: `rds/NAME`.
    Rds(String),
    /// One network interface, by id or Name tag: `eni/ID`.
    Eni(String),
    /// One address.
    Address(Ipv4Addr),
}

/// What is sent to a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Service {
    /// A TCP port.
    Tcp(u16),
    /// A UDP port.
    Udp(u16),
    /// An ICMP echo request.
    Icmp,
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Service::Tcp(port) => write!(f, "tcp/{port}"),
            Service::Udp(port) => write!(f, "udp/{port}"),
            Service::Icmp => f.write_str("icmp/echo"),
        }
    }
}

impl fmt::Display for Noun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Noun::Pod {
                namespace: Some(ns),
                name,
            } => write!(f, "pod/{ns}/{name}"),
            Noun::Pod {
                namespace: None,
                name,
            } => write!(f, "pod/{name}"),
            Noun::Workload {
                kind,
                namespace,
                name,
            } => {
                let namespace = namespace.iter().map(|ns| format!("{ns}/"));
                write!(
                    f,
                    "{}{}/{name}",
                    namespace.collect::<String>(),
                    kind.short()
                )
            }
            Noun::Service { namespace, name } => {
                let namespace = namespace.iter().map(|ns| format!("{ns}/"));
                write!(f, "{}svc/{name}", namespace.collect::<String>())
            }
            Noun::ApiServer => f.write_str("apiserver"),
            Noun::Node(name) => write!(f, "node/{name}"),
            Noun::Rds(name) => write!(f, "rds/{name}"),
            Noun::Eni(name) => write!(f, "eni/{name}"),
            Noun::Address(address) => write!(f, "{address}"),
        }
    }
}

/// Splits `NOUN:SERVICE`; the service is optional.
pub fn parse_destination(text: &str) -> Result<(Noun, Option<Service>), Error> {
    match text.split_once(':') {
        None => Ok((text.parse()?, None)),
        Some((noun, service)) => Ok((noun.parse()?, Some(parse_service(text, service)?))),
    }
}

fn parse_service(text: &str, service: &str) -> Result<Service, Error> {
    let bad = |why| Error::BadNoun {
        text: text.to_owned(),
        why,
    };
    if service == "icmp" {
        return Ok(Service::Icmp);
    }
    let (port, protocol) = service.split_once('/').unwrap_or((service, "tcp"));
    let port: u16 = port
        .parse()
        .map_err(|_| bad("the port is not a number from 0 to 65535"))?;
    match protocol {
        "tcp" => Ok(Service::Tcp(port)),
        "udp" => Ok(Service::Udp(port)),
        _ => Err(bad("the protocol after the port is neither tcp nor udp")),
    }
}

impl FromStr for Noun {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = |why| Error::BadNoun {
            text: text.to_owned(),
            why,
        };
        if let Ok(address) = text.parse() {
            return Ok(Noun::Address(address));
        }
        if text == "apiserver" {
            return Ok(Noun::ApiServer);
        }
        let parts: Vec<&str> = text.split('/').collect();
        if parts.iter().any(|p| p.is_empty()) {
            return Err(bad("a part between slashes is empty"));
        }
        let pod = |namespace: Option<&str>, name: &str| Noun::Pod {
            namespace: namespace.map(str::to_owned),
            name: name.to_owned(),
        };
        let unknown = || {
            bad(
                "expected [NAMESPACE/]deploy/NAME, also sts, ds, job, svc and pod, node/NAME, rds/NAME, eni/ID, apiserver or an IPv4 address",
            )
        };
        match parts.as_slice() {
            ["pod", name] => Ok(pod(None, name)),
            ["pod", namespace, name] | [namespace, "pod", name] => Ok(pod(Some(namespace), name)),
            ["node", name] => Ok(Noun::Node((*name).to_owned())),
            ["rds", name] => Ok(Noun::Rds((*name).to_owned())),
            ["eni", name] => Ok(Noun::Eni((*name).to_owned())),
            [kind, name] => of_kind(kind, None, name).ok_or_else(unknown),
            [first, second, name] => of_kind(second, Some(first), name)
                .or_else(|| of_kind(first, Some(second), name))
                .ok_or_else(unknown),
            _ => Err(unknown()),
        }
    }
}

/// A workload or a Service, if the word names such a kind.
fn of_kind(word: &str, namespace: Option<&str>, name: &str) -> Option<Noun> {
    let (namespace, name) = (namespace.map(str::to_owned), name.to_owned());
    match word {
        "svc" | "service" | "services" => Some(Noun::Service { namespace, name }),
        _ => word.parse().ok().map(|kind| Noun::Workload {
            kind,
            namespace,
            name,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nouns_and_services() {
        let pod = |ns: Option<&str>, name: &str| Noun::Pod {
            namespace: ns.map(str::to_owned),
            name: name.to_owned(),
        };
        let cases = [
            ("pod/api", pod(None, "api"), None),
            ("pod/dev/api", pod(Some("dev"), "api"), None),
            ("dev/pod/api", pod(Some("dev"), "api"), None),
            (
                "dev/deploy/api",
                Noun::Workload {
                    kind: WorkloadKind::Deployment,
                    namespace: Some("dev".into()),
                    name: "api".into(),
                },
                None,
            ),
            (
                "sts/db:5432",
                Noun::Workload {
                    kind: WorkloadKind::StatefulSet,
                    namespace: None,
                    name: "db".into(),
                },
                Some(Service::Tcp(5432)),
            ),
            (
                "dev/svc/web:80",
                Noun::Service {
                    namespace: Some("dev".into()),
                    name: "web".into(),
                },
                Some(Service::Tcp(80)),
            ),
            ("apiserver", Noun::ApiServer, None),
            (
                "node/ip-10-0-1-11:10250",
                Noun::Node("ip-10-0-1-11".into()),
                Some(Service::Tcp(10250)),
            ),
            (
                "rds/orders:5432",
                Noun::Rds("orders".into()),
                Some(Service::Tcp(5432)),
            ),
            (
                "10.0.0.2:53/udp",
                Noun::Address(Ipv4Addr::new(10, 0, 0, 2)),
                Some(Service::Udp(53)),
            ),
            (
                "eni/eni-0a1:icmp",
                Noun::Eni("eni-0a1".into()),
                Some(Service::Icmp),
            ),
        ];
        for (text, noun, service) in cases {
            assert_eq!(parse_destination(text), Ok((noun, service)), "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "",
            "pod/",
            "orders",
            "dev/thing/x",
            "rds/orders:http",
            "rds/orders:1/sctp",
            "a/b/c/d",
            "rds/o:70000",
        ] {
            assert!(parse_destination(text).is_err(), "{text}");
        }
    }
}
