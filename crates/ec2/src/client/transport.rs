//! HTTP/1.1 under the client, the metadata client and the credential providers: one small pool for all.
//!
//! TLS is set up by the first https request only: reading the machine's root certificates costs about a megabyte
//! that an agent behind a plain endpoint never needs.

use std::error::Error as StdError;
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector as SmithyConnector, HttpConnectorFuture, HttpConnectorSettings,
    SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// EC2 closes idle connections after about 20 s: ours go first, so that no request meets a closed one.
const IDLE_TIMEOUT: Duration = Duration::from_secs(15);
const IDLE_CONNECTIONS: usize = 2;
/// The largest answer, 1,000 interfaces with 50 addresses each, is below 20 MiB.
const LARGEST_ANSWER: usize = 64 << 20;

type Body = Full<Bytes>;

/// A request that got no answer.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// No connection: nothing was sent.
    #[error("no connection ({})", innermost(.0))]
    Connect(#[source] hyper_util::client::legacy::Error),
    /// The connection broke after the request was on its way.
    #[error("the connection broke ({})", innermost(.0.as_ref()))]
    Exchange(#[source] Box<dyn StdError + Send + Sync>),
    /// The machine's root certificates could not be read.
    #[error("no root certificates")]
    Roots(#[source] std::io::Error),
    /// More than 64 MiB.
    #[error("the answer is longer than {LARGEST_ANSWER} bytes")]
    TooLong,
}

impl SendError {
    /// Whether the request may have arrived.
    pub fn sent(&self) -> bool {
        matches!(self, Self::Exchange(_) | Self::TooLong)
    }

    /// What an operator should look at first.
    pub fn likely_cause(&self) -> &'static str {
        let Self::Connect(source) = self else {
            return match self {
                Self::Roots(_) => "are ca-certificates installed?",
                Self::TooLong => "is it another service?",
                _ => "did a proxy or the endpoint close it?",
            };
        };
        let text = chain(source);
        let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
        if has(&["refused"]) {
            "nothing listens there: is the endpoint's address right?"
        } else if has(&["dns error", "lookup"]) {
            "its name does not resolve: is the VPC's DNS reachable?"
        } else if has(&["certificate", "tls", "handshake"]) {
            "TLS failed: is a proxy in between, or the clock wrong?"
        } else if has(&["unreachable"]) {
            "there is no route: does the subnet have a NAT gateway or an EC2 interface endpoint?"
        } else if has(&["timed out", "deadline"]) {
            "packets are dropped: does the subnet have a NAT gateway or an EC2 interface endpoint, and does its group \
             allow TCP 443?"
        } else {
            "is the network up?"
        }
    }
}

/// Every message of an error and its sources, in lower case.
fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut at = error.source();
    while let Some(source) = at {
        text.extend([": ", &source.to_string()]);
        at = source.source();
    }
    text.to_ascii_lowercase()
}

fn innermost(error: &(dyn StdError + 'static)) -> String {
    let mut at = error;
    while let Some(source) = at.source() {
        at = source;
    }
    at.to_string()
}

/// Sends requests; clones share the connections.
#[derive(Clone)]
pub(crate) struct Transport {
    inner: Arc<Inner>,
}

struct Inner {
    idle: Duration,
    plain: Client<HttpConnector, Body>,
    tls: OnceLock<Client<HttpsConnector<HttpConnector>, Body>>,
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Transport")
    }
}

impl Transport {
    pub(crate) fn new() -> Self {
        Self::keeping(IDLE_TIMEOUT)
    }

    /// One that keeps idle connections for a while of its own: to a server whose closing costs a
    /// repeated request at most.
    pub(crate) fn keeping(idle: Duration) -> Self {
        let plain = pool(idle).build(connector());
        Self {
            inner: Arc::new(Inner {
                idle,
                plain,
                tls: OnceLock::new(),
            }),
        }
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Result<Response<Bytes>, SendError> {
        let answer = if request.uri().scheme() == Some(&http::uri::Scheme::HTTPS) {
            self.tls()?.request(request).await
        } else {
            self.inner.plain.request(request).await
        };
        let answer = answer.map_err(|error| {
            if error.is_connect() {
                SendError::Connect(error)
            } else {
                SendError::Exchange(error.into())
            }
        })?;
        let (parts, body) = answer.into_parts();
        match Limited::new(body, LARGEST_ANSWER).collect().await {
            Ok(body) => Ok(Response::from_parts(parts, body.to_bytes())),
            Err(error) if error.is::<LengthLimitError>() => Err(SendError::TooLong),
            Err(error) => Err(SendError::Exchange(error)),
        }
    }

    fn tls(&self) -> Result<&Client<HttpsConnector<HttpConnector>, Body>, SendError> {
        if let Some(client) = self.inner.tls.get() {
            return Ok(client);
        }
        let mut tcp = connector();
        tcp.enforce_http(false);
        let https = HttpsConnectorBuilder::new()
            .with_provider_and_native_roots(rustls::crypto::ring::default_provider())
            .map_err(SendError::Roots)?
            .https_only()
            .enable_http1()
            .wrap_connector(tcp);
        Ok(self
            .inner
            .tls
            .get_or_init(|| pool(self.inner.idle).build(https)))
    }
}

fn connector() -> HttpConnector {
    let mut connector = HttpConnector::new();
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    connector.set_nodelay(true);
    connector
}

fn pool(idle: Duration) -> hyper_util::client::legacy::Builder {
    let mut builder = Client::builder(TokioExecutor::new());
    builder
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(idle)
        .pool_max_idle_per_host(IDLE_CONNECTIONS);
    builder
}

// aws-config's providers send through the same pool: no second HTTP stack in the agent.

impl SmithyConnector for Transport {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let transport = self.clone();
        HttpConnectorFuture::new(async move {
            let request = request
                .try_into_http1x()
                .map_err(|e| ConnectorError::user(e.into()))?;
            let (parts, body) = request.into_parts();
            let body = body
                .collect()
                .await
                .map_err(ConnectorError::user)?
                .to_bytes();
            let request = Request::from_parts(parts, Full::new(body));
            let answer = transport
                .send(request)
                .await
                .map_err(|e| ConnectorError::io(e.into()))?;
            HttpResponse::try_from(answer.map(SdkBody::from))
                .map_err(|e| ConnectorError::other(e.into(), None))
        })
    }
}

impl HttpClient for Transport {
    fn http_connector(
        &self,
        _settings: &HttpConnectorSettings,
        _components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}
