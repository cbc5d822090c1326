//! The signed client: `client.call(DescribeVpcsRequest::default()).await`.
//!
//! One call = token bucket, signature, send, decode, with retries inside of a budget of time. Everything that costs
//! memory or time (credential chain, TLS, region look-up) is set up when a call first needs it.

mod bucket;
mod credentials;
mod endpoint;
mod judge;
pub(crate) mod retry;
mod service;
pub(crate) mod transport;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4::SigningParams;
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use tokio::sync::OnceCell;
use tokio::time::{Instant, sleep, timeout};

pub use bucket::{Limits, Rate};
pub use retry::Retry;
pub use transport::SendError;

use crate::error::{DecodeError, Error};
use crate::types::{Operation, Paged};
use crate::wire::{NodeMut, NodeRef, Shape, form, xml};
use bucket::Buckets;
use credentials::Source;
use endpoint::Endpoint;
use judge::{Outcome, judge, start_of, status_of};
use retry::{Failure, repeat_harms};
use transport::Transport;

pub(crate) use service::Service;

pub(crate) const CONTENT_TYPE: &str = "application/x-www-form-urlencoded; charset=utf-8";
const USER_AGENT: &str = concat!("branchline/", env!("CARGO_PKG_VERSION"));

/// A client for EC2 in one region. Clones share connections, credentials and buckets.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

/// One service in one region: what signs, sends and repeats, whatever the protocol.
pub(crate) struct Inner {
    service: &'static Service,
    transport: Transport,
    credentials: Source,
    region: Option<String>,
    endpoint: Option<Endpoint>,
    place: OnceCell<Place>,
    buckets: Mutex<Buckets>,
    retry: Retry,
    observer: Option<Observer>,
}

/// Where requests go; known at the first call.
#[derive(Debug)]
struct Place {
    region: String,
    endpoint: Endpoint,
}

type Observer = Arc<dyn Fn(&Attempt) + Send + Sync>;

/// One attempt of one call, for metrics and logs.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// The action.
    pub action: &'static str,
    /// 1 for the first.
    pub number: u32,
    /// The HTTP status, if there was an answer.
    pub status: Option<u16>,
    /// EC2's error code, `Timeout` or `Unreachable`; None: it succeeded.
    pub code: Option<String>,
    /// How long it took.
    pub took: Duration,
}

/// What a client is made of. Whatever is not set comes from AWS's usual places.
#[derive(Default)]
pub struct Builder {
    region: Option<String>,
    endpoint: Option<String>,
    profile: Option<String>,
    provider: Option<SharedCredentialsProvider>,
    limits: Limits,
    retry: Retry,
    observer: Option<Observer>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("place", &self.inner.place.get())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("region", &self.region)
            .field("endpoint", &self.endpoint)
            .field("profile", &self.profile)
            .field("limits", &self.limits)
            .field("retry", &self.retry)
            .finish_non_exhaustive()
    }
}

impl Builder {
    /// The region; else AWS_REGION, AWS_DEFAULT_REGION, the profile, instance metadata.
    pub fn region(mut self, region: impl Into<String>) -> Self {
        self.region = Some(region.into());
        self
    }

    /// The endpoint's URL; else AWS_ENDPOINT_URL_EC2, AWS_ENDPOINT_URL, AWS_EC2_ENDPOINT, else the region's public one.
    /// Clients of other services read the variable of their own name in place of EC2's.
    pub fn endpoint(mut self, url: impl Into<String>) -> Self {
        self.endpoint = Some(url.into());
        self
    }

    /// The profile of `~/.aws/config`; else AWS_PROFILE, else `default`.
    pub fn profile(mut self, name: impl Into<String>) -> Self {
        self.profile = Some(name.into());
        self
    }

    /// Where credentials come from; else AWS's chain.
    pub fn credentials(mut self, provider: impl ProvideCredentials + 'static) -> Self {
        self.provider = Some(SharedCredentialsProvider::new(provider));
        self
    }

    /// How fast each action may be called.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// How often and how long to try.
    pub fn retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// Called after every attempt.
    pub fn observer(mut self, observer: impl Fn(&Attempt) + Send + Sync + 'static) -> Self {
        self.observer = Some(Arc::new(observer));
        self
    }

    /// The client. Reads the environment for the endpoint; connects to nothing yet.
    pub fn build(self) -> Result<Client, Error> {
        let inner = self.connect(&service::EC2)?;
        Ok(Client { inner })
    }

    /// The part of a client that every service has.
    pub(crate) fn connect(self, service: &'static Service) -> Result<Arc<Inner>, Error> {
        let endpoint = match &self.endpoint {
            Some(url) => Some(Endpoint::parse("the endpoint", url)?),
            None => Endpoint::from_env(service.variables, |name| std::env::var(name).ok())?,
        };
        let transport = Transport::new();
        Ok(Arc::new(Inner {
            service,
            credentials: Source::new(transport.clone(), self.provider, self.profile),
            transport,
            region: self.region,
            endpoint,
            place: OnceCell::new(),
            buckets: Mutex::new(Buckets::new(self.limits)),
            retry: self.retry,
            observer: self.observer,
        }))
    }
}

/// A request ready to be sent any number of times.
pub(crate) struct Call {
    pub(crate) action: &'static str,
    pub(crate) read_only: bool,
    pub(crate) repeat_harms: bool,
    pub(crate) method: Method,
    /// Path and query below the endpoint's own path, percent-encoded; empty: the endpoint itself.
    pub(crate) path: String,
    pub(crate) content_type: &'static str,
    pub(crate) body: Bytes,
}

/// A successful answer.
pub(crate) struct Answer {
    pub(crate) body: Bytes,
    pub(crate) status: u16,
}

impl Client {
    /// A client with everything from AWS's usual places.
    pub fn from_env() -> Result<Self, Error> {
        Self::builder().build()
    }

    /// A client to be configured.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The region that calls go to.
    pub async fn region(&self) -> Result<&str, Error> {
        Ok(&self.inner.place().await?.region)
    }

    /// Calls EC2. An idempotency token that the caller left out is filled in and kept over all attempts.
    pub async fn call<O: Operation>(&self, mut request: O) -> Result<O::Output, Error> {
        fill_token(&mut request);
        let call = Call {
            action: O::NAME,
            read_only: O::READ_ONLY,
            repeat_harms: repeat_harms(&request),
            method: Method::POST,
            path: String::new(),
            content_type: CONTENT_TYPE,
            body: form::encode(O::NAME, &request).into(),
        };
        // On the heap: a caller that joins a dozen calls must not need a dozen of these (12 KiB) on its stack.
        let Answer { body, status } = Box::pin(self.inner.attempts(&call)).await?;
        match xml::decode::<O>(&body) {
            Ok((output, _)) => Ok(output),
            Err(source) => Err(self
                .inner
                .undecodable(O::NAME, status, &body, source.into())
                .await),
        }
    }

    /// Calls EC2 for one page after the other.
    pub fn pages<O: Paged>(&self, request: O) -> Pages<O> {
        Pages {
            client: self.clone(),
            next: Some(request),
            token: None,
        }
    }

    /// Calls EC2 for all pages and merges their lists.
    pub async fn call_all<O: Paged>(&self, request: O) -> Result<O::Output, Error> {
        let mut pages = self.pages(request);
        let mut all = O::Output::default();
        while let Some(page) = pages.next().await {
            O::merge(&mut all, page?);
        }
        Ok(all)
    }
}

/// The pages of one request, read as they are asked for.
#[derive(Debug)]
pub struct Pages<O> {
    client: Client,
    next: Option<O>,
    token: Option<String>,
}

impl<O: Paged> Pages<O> {
    /// The next page; None after the last one, and after an error.
    pub async fn next(&mut self) -> Option<Result<O::Output, Error>> {
        let request = self.next.take()?;
        let page = match self.client.call(request.clone()).await {
            Ok(page) => page,
            Err(error) => return Some(Err(error)),
        };
        if let Some(token) = O::next_token(&page).filter(|token| !token.is_empty()) {
            if self.token.as_deref() == Some(token) {
                return Some(Err(Error::EndlessPages { action: O::NAME }));
            }
            self.token = Some(token.to_owned());
            let mut request = request;
            request.set_next_token(token.to_owned());
            self.next = Some(request);
        }
        Some(Ok(page))
    }
}

impl Inner {
    /// The region that calls go to.
    pub(crate) async fn region(&self) -> Result<&str, Error> {
        Ok(&self.place().await?.region)
    }

    /// An answer of status 2xx that is not the service's.
    pub(crate) async fn undecodable(
        &self,
        action: &'static str,
        status: u16,
        body: &[u8],
        source: DecodeError,
    ) -> Error {
        match self.place().await {
            Ok(place) => Error::Decode {
                action,
                endpoint: place.endpoint.to_string(),
                status,
                start: start_of(body),
                source: Box::new(source),
            },
            Err(error) => error,
        }
    }

    /// Credentials, the region, and the URL of STS, which is a part of what tokens of clusters sign.
    pub(crate) async fn sts(&self) -> Result<(Credentials, String, String), Error> {
        const STS: [&str; 2] = ["AWS_ENDPOINT_URL_STS", "AWS_ENDPOINT_URL"];
        let region = self.place().await?.region.clone();
        let url = match Endpoint::from_env(&STS, |name| std::env::var(name).ok())? {
            Some(url) => url,
            None => Endpoint::public("sts", &region)?,
        };
        let credentials = self.credentials.get(&region).await?;
        Ok((credentials, region, url.to_string()))
    }

    async fn place(&self) -> Result<&Place, Error> {
        let place = async {
            let region = match &self.region {
                Some(region) => region.clone(),
                None => Box::pin(self.credentials.region()).await?,
            };
            let endpoint = match &self.endpoint {
                Some(endpoint) => endpoint.clone(),
                None => Endpoint::public(self.service.name, &region)?,
            };
            Ok(Place { region, endpoint })
        };
        self.place.get_or_try_init(|| place).await
    }

    fn buckets<T>(&self, with: impl FnOnce(&mut Buckets) -> T) -> T {
        // A panic while it was held leaves at worst a count that is off by one.
        with(&mut self.buckets.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Sends a call until it has a final answer.
    pub(crate) async fn attempts(&self, call: &Call) -> Result<Answer, Error> {
        let start = Instant::now();
        let deadline = start + self.retry.budget;
        let place = self.place().await?;
        let mut number = 1;
        loop {
            self.wait_for_token(call, deadline, number).await?;
            let began = Instant::now();
            let outcome = self.attempt(call, place, deadline).await;
            let (failure, error) = match judge(self.service, call, place, outcome, number, start) {
                Ok(answer) => {
                    self.observe(call, number, Some(answer.status), None, began);
                    return Ok(answer);
                }
                Err(failed) => failed,
            };
            self.observe(call, number, status_of(&error), Some(&error), began);
            match failure {
                Failure::Throttled => {
                    self.buckets(|b| b.drain(call.action, call.read_only, Instant::now()));
                }
                Failure::Expired if number == 1 => self.credentials.forget().await,
                Failure::Unknown if call.repeat_harms => return Err(error),
                Failure::NotDone | Failure::Unknown => {}
                Failure::Expired | Failure::Final => return Err(error),
            }
            let pause = self.retry.pause(number, dice());
            if number >= self.retry.attempts || Instant::now() + pause >= deadline {
                return Err(error);
            }
            sleep(pause).await;
            number += 1;
        }
    }

    async fn wait_for_token(
        &self,
        call: &Call,
        deadline: Instant,
        number: u32,
    ) -> Result<(), Error> {
        let now = Instant::now();
        let most = deadline.saturating_duration_since(now);
        match self.buckets(|b| b.take(call.action, call.read_only, now, most)) {
            Some(wait) if wait.is_zero() => Ok(()),
            Some(wait) => {
                sleep(wait).await;
                Ok(())
            }
            None => Err(Error::Throttled {
                action: call.action,
                code: "the client's own bucket is empty for longer than the call may take".into(),
                attempts: number - 1,
            }),
        }
    }

    async fn attempt(&self, call: &Call, place: &Place, deadline: Instant) -> Outcome {
        let left = deadline.saturating_duration_since(Instant::now());
        let credentials = match timeout(left, self.credentials.get(&place.region)).await {
            Ok(Ok(credentials)) => credentials,
            Ok(Err(error)) => return Outcome::Never(error),
            Err(_) => {
                let source = CredentialsError::provider_timed_out(left);
                return Outcome::Never(Error::Credentials { source });
            }
        };
        let request = match signed(self.service, call, place, credentials) {
            Ok(request) => request,
            Err(source) => {
                return Outcome::Never(Error::Signing {
                    action: call.action,
                    source,
                });
            }
        };
        let left = deadline
            .saturating_duration_since(Instant::now())
            .min(self.retry.attempt_timeout);
        match timeout(left, self.transport.send(request)).await {
            Ok(Ok(answer)) => Outcome::Answer(answer),
            Ok(Err(error)) => Outcome::Lost(error),
            Err(_) => Outcome::Silent,
        }
    }

    fn observe(
        &self,
        call: &Call,
        number: u32,
        status: Option<u16>,
        error: Option<&Error>,
        began: Instant,
    ) {
        let Some(observer) = &self.observer else {
            return;
        };
        let code = error.map(|error| match error {
            Error::Timeout { .. } => "Timeout".to_owned(),
            Error::Unreachable { .. } => "Unreachable".to_owned(),
            Error::Credentials { .. } => "Credentials".to_owned(),
            other => other.code().unwrap_or("Malformed").to_owned(),
        });
        observer(&Attempt {
            action: call.action,
            number,
            status,
            code,
            took: began.elapsed(),
        });
    }
}

type SigningResult = Result<Request<Full<Bytes>>, Box<dyn std::error::Error + Send + Sync>>;

fn signed(
    service: &Service,
    call: &Call,
    place: &Place,
    credentials: Credentials,
) -> SigningResult {
    let url = place.endpoint.join(&call.path);
    let mut request = Request::builder()
        .method(&call.method)
        .uri(&url)
        .header(http::header::CONTENT_TYPE, call.content_type)
        .header(http::header::USER_AGENT, USER_AGENT)
        .body(Full::new(call.body.clone()))?;
    let identity = credentials.into();
    let params = SigningParams::builder()
        .identity(&identity)
        .region(&place.region)
        .name(service.name)
        .time(SystemTime::now())
        .settings(SigningSettings::default())
        .build()?
        .into();
    let headers = [("content-type", call.content_type)].into_iter();
    let body = SignableBody::Bytes(&call.body);
    let signable = SignableRequest::new(call.method.as_str(), url, headers, body)?;
    let (instructions, _) = sign(signable, &params)?.into_parts();
    instructions.apply_to_request_http1x(&mut request);
    Ok(request)
}

fn fill_token(request: &mut dyn Shape) {
    for (index, field) in request.info().fields.iter().enumerate() {
        let absent = matches!(request.field(index).get(), NodeRef::Absent);
        if field.token
            && absent
            && let NodeMut::Text(place) = request.field_mut(index).slot()
        {
            *place = token();
        }
    }
}

/// 128 random bits in hexadecimal.
pub(crate) fn token() -> String {
    format!("{:016x}{:016x}", dice(), dice())
}

fn dice() -> u64 {
    let mut bytes = [0; 8];
    let filled = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    // Linux fills up to 256 bytes at once or waits for its pool at boot; it does not fail with valid arguments.
    assert_eq!(filled, Ok(bytes.len()), "the kernel has no random numbers");
    u64::from_ne_bytes(bytes)
}
