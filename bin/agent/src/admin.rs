//! Introspection and metrics over HTTP: small pages for people and scrapers, read only.

use std::convert::Infallible;

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use settings::{Admin, BindAddress};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{mpsc, oneshot};

use crate::owner::Message;

/// Where upstream's metrics are scraped; without metrics the kubelet alone asks there.
const METRICS: &str = "0.0.0.0:61678";
const PROBE: &str = "127.0.0.1:61678";

/// What is served at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pages {
    /// Introspection.
    Documents,
    /// Metrics, and whether pods are served.
    Metrics,
    /// Whether pods are served: the kubelet's readiness probe, without a process for each question.
    Readiness,
}

/// Binds what the settings ask for and serves it. A port that is taken is named and does not keep
/// pods from their addresses.
pub(crate) async fn start(settings: &Admin, owner: &mpsc::Sender<Message>) {
    if let Some(address) = &settings.introspection
        && let Err(error) = introspection(address, owner.clone()).await
    {
        tracing::error!("introspection is not served: {error:#}");
    }
    let (address, pages) = if settings.metrics {
        (METRICS, Pages::Metrics)
    } else {
        (PROBE, Pages::Readiness)
    };
    match TcpListener::bind(address).await {
        Ok(listener) => drop(tokio::spawn(serve_tcp(listener, owner.clone(), pages))),
        Err(error) => {
            tracing::error!(address, %error, "metrics and readiness are not served");
        }
    }
}

async fn introspection(address: &BindAddress, owner: mpsc::Sender<Message>) -> anyhow::Result<()> {
    match address {
        BindAddress::Tcp(address) => {
            let listener = TcpListener::bind(address)
                .await
                .with_context(|| format!("binding {address}"))?;
            tokio::spawn(serve_tcp(listener, owner, Pages::Documents));
        }
        BindAddress::Unix(path) => {
            // A socket that a killed predecessor left; the lock says that none lives.
            let _ = std::fs::remove_file(path);
            let listener = UnixListener::bind(path)
                .with_context(|| format!("binding unix:{}", path.display()))?;
            tokio::spawn(async move {
                loop {
                    match listener.accept().await {
                        Ok((stream, _)) => serve(stream, owner.clone(), Pages::Documents),
                        Err(error) => pause(&error).await,
                    }
                }
            });
        }
    }
    Ok(())
}

async fn serve_tcp(listener: TcpListener, owner: mpsc::Sender<Message>, pages: Pages) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => serve(stream, owner.clone(), pages),
            Err(error) => pause(&error).await,
        }
    }
}

/// Out of files, mostly: waiting is all that helps.
async fn pause(error: &std::io::Error) {
    tracing::warn!(%error, "a connection could not be taken");
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
}

fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    owner: mpsc::Sender<Message>,
    pages: Pages,
) {
    tokio::spawn(async move {
        let service = service_fn(move |request| answer(request, owner.clone(), pages));
        let served = hyper::server::conn::http1::Builder::new()
            .max_buf_size(16 * 1024)
            .serve_connection(TokioIo::new(stream), service)
            .await;
        if let Err(error) = served {
            tracing::debug!(%error, "a reader of the pages went away");
        }
    });
}

async fn answer(
    request: Request<Incoming>,
    owner: mpsc::Sender<Message>,
    pages: Pages,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    if request.method() != Method::GET {
        return Ok(page(
            StatusCode::METHOD_NOT_ALLOWED,
            "text/plain",
            "only GET is served\n",
        ));
    }
    if path == "/readyz" {
        return Ok(readiness(&owner).await);
    }
    // On the documents' port too: who forwards one port for a support file gets both.
    let metrics = path == "/metrics";
    if pages != Pages::Documents && !metrics {
        return Ok(page(
            StatusCode::NOT_FOUND,
            "text/plain",
            "only /metrics and /readyz are served here\n",
        ));
    }
    let (to, wait) = oneshot::channel();
    let asked = owner.send(Message::Page { path, to }).await.is_ok();
    let text = if asked {
        wait.await.ok().flatten()
    } else {
        None
    };
    Ok(match text {
        Some(text) if metrics => page(StatusCode::OK, "text/plain; version=0.0.4", text),
        Some(text) => page(StatusCode::OK, "application/json", text),
        None => page(
            StatusCode::NOT_FOUND,
            "text/plain",
            "no such page; / lists them\n",
        ),
    })
}

/// 200 when pods are served, 503 with the reason when not: what `health --ready` asks.
async fn readiness(owner: &mpsc::Sender<Message>) -> Response<Full<Bytes>> {
    let (to, wait) = oneshot::channel();
    let asked = owner.send(Message::Status(to)).await;
    let trouble = match (asked, wait.await) {
        (Ok(()), Ok(now)) => now.reason.or(now.installation),
        _ => Some("the agent ends".to_owned()),
    };
    match trouble {
        None => page(StatusCode::OK, "text/plain", "ok\n"),
        Some(reason) => page(
            StatusCode::SERVICE_UNAVAILABLE,
            "text/plain",
            format!("{reason}\n"),
        ),
    }
}

fn page(status: StatusCode, kind: &'static str, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    let kind = hyper::header::HeaderValue::from_static(kind);
    response
        .headers_mut()
        .insert(hyper::header::CONTENT_TYPE, kind);
    response
}
