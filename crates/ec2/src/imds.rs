//! Instance metadata, version 2: the one source that tells a node who it is.
//!
//! A session token is fetched with PUT and kept until shortly before its end. An absent key is 404 and `None`, never
//! an error: most keys of an interface are absent when they would be empty. The answer may lag behind EC2 by
//! seconds, so nothing destructive is decided on it.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::Full;
use ipnet::{Ipv4Net, Ipv6Net};
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};

use crate::client::SendError;
use crate::client::transport::Transport;

const ENDPOINT: &str = "http://169.254.169.254";
const VARIABLE: &str = "AWS_EC2_METADATA_SERVICE_ENDPOINT";
const TOKEN_TTL: Duration = Duration::from_secs(21_600);
/// A token is replaced this long before its end.
const EARLY: Duration = Duration::from_secs(120);
/// The service is a hop away: what has not come in a second was dropped.
const ATTEMPT: Duration = Duration::from_secs(1);
const ATTEMPTS: u32 = 3;
/// Longer than the agent's pause between two looks: a connection costs more than what is asked on it.
const IDLE: Duration = Duration::from_secs(60);

/// Instance metadata could not be read.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the members are named for what they are")]
pub enum ImdsError {
    /// The PUT for a token is answered with a TTL of 1 by default: it does not pass a further hop.
    #[error(
        "instance metadata at {endpoint}: no token within {waited:?}: in a pod, the instance's metadata hop limit \
         (HttpPutResponseHopLimit) must be 2, and no rule may drop TCP 80 to it"
    )]
    NoToken { endpoint: String, waited: Duration },
    /// Nothing came, or only a part of it.
    #[error(
        "instance metadata at {endpoint}: no whole answer to {path} within {waited:?}: did the interface reach the \
         limit of packets to it (ethtool -S: linklocal_allowance_exceeded), or does a proxy hold the connection?"
    )]
    Timeout {
        endpoint: String,
        path: String,
        waited: Duration,
    },
    #[error("instance metadata at {endpoint}: {path}: {source}: {}", source.likely_cause())]
    Unreachable {
        endpoint: String,
        path: String,
        #[source]
        source: SendError,
    },
    /// 403: switched off for the instance, or a proxy is in between.
    #[error(
        "instance metadata at {endpoint} refuses {path}: is it disabled for the instance (HttpEndpoint), \
         or is a proxy in between?"
    )]
    Disabled { endpoint: String, path: String },
    #[error("instance metadata at {endpoint} answers {status} to {path}")]
    Status {
        endpoint: String,
        path: String,
        status: u16,
    },
    /// A key that every instance (interface) has.
    #[error("instance metadata at {endpoint} has no {path}")]
    Absent { endpoint: String, path: String },
    #[error("instance metadata {path} is '{value}', not {expected}")]
    Malformed {
        path: String,
        value: String,
        expected: &'static str,
    },
    #[error("{origin} is '{value}', not a URL such as http://169.254.169.254")]
    Endpoint { origin: &'static str, value: String },
}

/// A reader of instance metadata. Clones share the session token.
#[derive(Clone)]
pub struct Imds {
    transport: Transport,
    endpoint: Arc<str>,
    token: Arc<Mutex<Option<Token>>>,
}

#[derive(Clone)]
struct Token {
    text: http::HeaderValue,
    until: Instant,
}

impl fmt::Debug for Imds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Imds")
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

/// `dynamic/instance-identity/document`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the members are AWS's")]
pub struct Identity {
    pub account_id: String,
    pub region: String,
    pub availability_zone: String,
    pub instance_id: String,
    pub instance_type: String,
    #[serde(default)]
    pub private_ip: Option<Ipv4Addr>,
}

/// An interface as metadata shows it. Branch interfaces are not shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// `02:00:00:00:00:01`
    pub mac: String,
    /// `eni-…`
    pub id: String,
    /// The device index; 0 is the primary interface.
    pub device_index: u32,
    /// The network card; 0 where the instance has but one.
    pub network_card: u32,
    /// `subnet-…`
    pub subnet_id: String,
    /// The subnet's addresses.
    pub subnet_cidr: Option<Ipv4Net>,
    /// The subnet's IPv6 addresses.
    pub subnet_cidrs6: Vec<Ipv6Net>,
    /// `vpc-…`
    pub vpc_id: String,
    /// `sg-…`
    pub groups: Vec<String>,
    /// Primary address first. Empty: only EFA, or the interface is new and metadata lags.
    pub addresses: Vec<Ipv4Addr>,
    /// IPv6 addresses.
    pub addresses6: Vec<Ipv6Addr>,
    /// Delegated /28 prefixes.
    pub prefixes: Vec<Ipv4Net>,
    /// Delegated /80 prefixes.
    pub prefixes6: Vec<Ipv6Net>,
    /// All IPv4 blocks of the VPC.
    pub vpc_cidrs: Vec<Ipv4Net>,
}

impl Imds {
    /// Reads at AWS_EC2_METADATA_SERVICE_ENDPOINT, else at 169.254.169.254.
    pub fn from_env() -> Result<Self, ImdsError> {
        match std::env::var(VARIABLE)
            .ok()
            .filter(|url| !url.trim().is_empty())
        {
            Some(url) => Self::parse(VARIABLE, &url),
            None => Self::new(ENDPOINT),
        }
    }

    /// Reads at a URL.
    pub fn new(endpoint: &str) -> Result<Self, ImdsError> {
        Self::parse("the endpoint", endpoint)
    }

    fn parse(origin: &'static str, endpoint: &str) -> Result<Self, ImdsError> {
        let wrong = || ImdsError::Endpoint {
            origin,
            value: endpoint.to_owned(),
        };
        let uri: Uri = endpoint.trim().parse().map_err(|_| wrong())?;
        if uri.scheme_str() != Some("http") || uri.authority().is_none() {
            return Err(wrong());
        }
        let endpoint = endpoint.trim().trim_end_matches('/').into();
        Ok(Self {
            transport: Transport::keeping(IDLE),
            endpoint,
            token: Arc::default(),
        })
    }

    /// The value at `path` below `/latest/`, e.g. `meta-data/instance-id`; None: there is none such.
    pub async fn get(&self, path: &str) -> Result<Option<String>, ImdsError> {
        let mut renewed = false;
        loop {
            let token = self.token().await?;
            let url = format!("{}/latest/{}", self.endpoint, path.trim_start_matches('/'));
            let request = Request::get(&url)
                .header("x-aws-ec2-metadata-token", token.text.clone())
                .body(Full::default())
                .map_err(|_| self.malformed(path, path, "a path of instance metadata"))?;
            let answer = self.send(path, request).await?;
            match answer.status() {
                StatusCode::OK => return self.text(path, answer).map(Some),
                StatusCode::NOT_FOUND => return Ok(None),
                StatusCode::UNAUTHORIZED if !renewed => {
                    // The service was restarted or moved: tokens of the old one are void.
                    *self.token.lock().await = None;
                    renewed = true;
                }
                status => return Err(self.status(path, status)),
            }
        }
    }

    /// The value at `path`, which every instance has.
    pub async fn require(&self, path: &str) -> Result<String, ImdsError> {
        self.get(path).await?.ok_or_else(|| ImdsError::Absent {
            endpoint: self.endpoint.to_string(),
            path: path.to_owned(),
        })
    }

    /// The lines at `path`; none when it is absent.
    pub async fn lines<T: FromStr>(
        &self,
        path: &str,
        expected: &'static str,
    ) -> Result<Vec<T>, ImdsError> {
        let text = self.get(path).await?.unwrap_or_default();
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        lines
            .map(|line| {
                line.parse()
                    .map_err(|_| self.malformed(path, line, expected))
            })
            .collect()
    }

    /// `i-…`
    pub async fn instance_id(&self) -> Result<String, ImdsError> {
        self.require("meta-data/instance-id").await
    }

    /// `t3.medium`
    pub async fn instance_type(&self) -> Result<String, ImdsError> {
        self.require("meta-data/instance-type").await
    }

    /// `us-west-2a`
    pub async fn availability_zone(&self) -> Result<String, ImdsError> {
        self.require("meta-data/placement/availability-zone").await
    }

    /// The primary interface's MAC address.
    pub async fn primary_mac(&self) -> Result<String, ImdsError> {
        self.require("meta-data/mac").await
    }

    /// The primary interface's primary address; None on an instance with IPv6 only.
    pub async fn local_ipv4(&self) -> Result<Option<Ipv4Addr>, ImdsError> {
        Ok(self
            .lines("meta-data/local-ipv4", "an IPv4 address")
            .await?
            .into_iter()
            .next())
    }

    /// The primary interface's IPv6 address.
    pub async fn ipv6(&self) -> Result<Option<Ipv6Addr>, ImdsError> {
        Ok(self
            .lines("meta-data/ipv6", "an IPv6 address")
            .await?
            .into_iter()
            .next())
    }

    /// Account, region and instance.
    pub async fn identity(&self) -> Result<Identity, ImdsError> {
        let path = "dynamic/instance-identity/document";
        let text = self.require(path).await?;
        serde_json::from_str(&text)
            .map_err(|_| self.malformed(path, &text, "an identity document in JSON"))
    }

    /// The MAC addresses of the attached interfaces, trunks included, branches not.
    pub async fn macs(&self) -> Result<Vec<String>, ImdsError> {
        let lines: Vec<String> = self
            .lines("meta-data/network/interfaces/macs", "a MAC address")
            .await?;
        Ok(lines
            .into_iter()
            .map(|line| line.trim_end_matches('/').to_owned())
            .collect())
    }

    /// One interface; None: metadata does not show it (any more).
    pub async fn interface(&self, mac: &str) -> Result<Option<Interface>, ImdsError> {
        let at = |key: &str| format!("meta-data/network/interfaces/macs/{mac}/{key}");
        let Some(id) = self.get(&at("interface-id")).await? else {
            return Ok(None);
        };
        const NET4: &str = "an IPv4 network";
        const NET6: &str = "an IPv6 network";
        let subnet_cidrs = self.lines(&at("subnet-ipv4-cidr-block"), NET4).await?;
        Ok(Some(Interface {
            mac: mac.to_owned(),
            id,
            device_index: self.number(&at("device-number")).await?.unwrap_or(0),
            network_card: match self.number(&at("network-card")).await? {
                Some(card) => card,
                None => self.number(&at("network-card-index")).await?.unwrap_or(0),
            },
            subnet_id: self.require(&at("subnet-id")).await?,
            subnet_cidr: subnet_cidrs.into_iter().next(),
            subnet_cidrs6: self.lines(&at("subnet-ipv6-cidr-blocks"), NET6).await?,
            vpc_id: self.require(&at("vpc-id")).await?,
            groups: self
                .lines(&at("security-group-ids"), "a security group")
                .await?,
            addresses: self.lines(&at("local-ipv4s"), "an IPv4 address").await?,
            addresses6: self.lines(&at("ipv6s"), "an IPv6 address").await?,
            prefixes: self.lines(&at("ipv4-prefix"), NET4).await?,
            prefixes6: self.lines(&at("ipv6-prefix"), NET6).await?,
            vpc_cidrs: self.lines(&at("vpc-ipv4-cidr-blocks"), NET4).await?,
        }))
    }

    async fn number(&self, path: &str) -> Result<Option<u32>, ImdsError> {
        Ok(self.lines(path, "a number").await?.into_iter().next())
    }

    async fn token(&self) -> Result<Token, ImdsError> {
        let mut held = self.token.lock().await;
        if let Some(token) = held
            .as_ref()
            .filter(|token| Instant::now() + EARLY < token.until)
        {
            return Ok(token.clone());
        }
        let path = "api/token";
        let asked = Instant::now();
        let request = Request::builder()
            .method(Method::PUT)
            .uri(format!("{}/latest/{path}", self.endpoint))
            .header("x-aws-ec2-metadata-token-ttl-seconds", TOKEN_TTL.as_secs())
            .body(Full::default())
            .map_err(|_| self.malformed(path, &self.endpoint, "a URL"))?;
        let answer = self
            .send(path, request)
            .await
            .map_err(|error| match error {
                ImdsError::Timeout {
                    endpoint, waited, ..
                } => ImdsError::NoToken { endpoint, waited },
                other => other,
            })?;
        if answer.status() != StatusCode::OK {
            return Err(self.status(path, answer.status()));
        }
        let mut text = http::HeaderValue::from_bytes(answer.body())
            .map_err(|_| self.malformed(path, "…", "a token that fits a header"))?;
        text.set_sensitive(true);
        Ok(held
            .insert(Token {
                text,
                until: asked + TOKEN_TTL,
            })
            .clone())
    }

    /// Sends; repeats what failed for a moment: no answer, no connection, throttling, 5xx.
    async fn send(
        &self,
        path: &str,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Bytes>, ImdsError> {
        let (endpoint, path) = (self.endpoint.to_string(), path.to_owned());
        let began = Instant::now();
        let mut attempt = 1;
        loop {
            let outcome = timeout(ATTEMPT, self.transport.send(request.clone())).await;
            let last = attempt == ATTEMPTS;
            match outcome {
                Ok(Ok(answer)) => {
                    let status = answer.status();
                    let passing =
                        status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
                    if last || !passing {
                        return Ok(answer);
                    }
                }
                Ok(Err(source)) if last => {
                    return Err(ImdsError::Unreachable {
                        endpoint,
                        path,
                        source,
                    });
                }
                Err(_) if last => {
                    return Err(ImdsError::Timeout {
                        endpoint,
                        path,
                        waited: began.elapsed(),
                    });
                }
                _ => {}
            }
            sleep(Duration::from_millis(100 * u64::from(attempt))).await;
            attempt += 1;
        }
    }

    fn text(&self, path: &str, answer: Response<Bytes>) -> Result<String, ImdsError> {
        String::from_utf8(answer.into_body().into())
            .map_err(|_| self.malformed(path, "…", "text in UTF-8"))
    }

    fn status(&self, path: &str, status: StatusCode) -> ImdsError {
        let (endpoint, path) = (self.endpoint.to_string(), path.to_owned());
        match status {
            StatusCode::FORBIDDEN => ImdsError::Disabled { endpoint, path },
            status => ImdsError::Status {
                endpoint,
                path,
                status: status.as_u16(),
            },
        }
    }

    fn malformed(&self, path: &str, value: &str, expected: &'static str) -> ImdsError {
        ImdsError::Malformed {
            path: path.to_owned(),
            value: value.to_owned(),
            expected,
        }
    }
}
