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

/// Where upstream's metrics are scraped.
const METRICS: &str = "0.0.0.0:61678";

/// Binds what the settings ask for and serves it. A port that is taken is named and does not keep
/// pods from their addresses.
pub(crate) async fn start(settings: &Admin, owner: &mpsc::Sender<Message>) {
    if let Some(address) = &settings.introspection
        && let Err(error) = introspection(address, owner.clone()).await
    {
        tracing::error!("introspection is not served: {error:#}");
    }
    if settings.metrics {
        match TcpListener::bind(METRICS).await {
            Ok(listener) => drop(tokio::spawn(serve_tcp(listener, owner.clone(), false))),
            Err(error) => tracing::error!(address = METRICS, %error, "metrics are not served"),
        }
    }
}

async fn introspection(address: &BindAddress, owner: mpsc::Sender<Message>) -> anyhow::Result<()> {
    match address {
        BindAddress::Tcp(address) => {
            let listener = TcpListener::bind(address)
                .await
                .with_context(|| format!("binding {address}"))?;
            tokio::spawn(serve_tcp(listener, owner, true));
        }
        BindAddress::Unix(path) => {
            // A socket that a killed predecessor left; the lock says that none lives.
            let _ = std::fs::remove_file(path);
            let listener = UnixListener::bind(path)
                .with_context(|| format!("binding unix:{}", path.display()))?;
            tokio::spawn(async move {
                loop {
                    match listener.accept().await {
                        Ok((stream, _)) => serve(stream, owner.clone(), true),
                        Err(error) => pause(&error).await,
                    }
                }
            });
        }
    }
    Ok(())
}

async fn serve_tcp(listener: TcpListener, owner: mpsc::Sender<Message>, documents: bool) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => serve(stream, owner.clone(), documents),
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
    documents: bool,
) {
    tokio::spawn(async move {
        let service = service_fn(move |request| answer(request, owner.clone(), documents));
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
    documents: bool,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    if request.method() != Method::GET {
        return Ok(page(
            StatusCode::METHOD_NOT_ALLOWED,
            "text/plain",
            "only GET is served\n",
        ));
    }
    let metrics = path == "/metrics" && !documents;
    if !documents && !metrics {
        return Ok(page(
            StatusCode::NOT_FOUND,
            "text/plain",
            "only /metrics is served here\n",
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

fn page(status: StatusCode, kind: &'static str, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    let kind = hyper::header::HeaderValue::from_static(kind);
    response
        .headers_mut()
        .insert(hyper::header::CONTENT_TYPE, kind);
    response
}
