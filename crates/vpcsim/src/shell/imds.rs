//! Instance metadata, version 2, inside of a VPC at 169.254.169.254.
//!
//! The caller is known by its source address: interface, then instance. The answer to a token
//! request leaves with the instance's hop limit as its TTL, so a pod one hop behind the node does
//! not get it when the limit is 1; the kernel does the rest. Source: EC2 user guide, "Use IMDSv2".

use std::convert::Infallible;
use std::future::pending;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{Either, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use jiff::{SignedDuration, Timestamp};
use vpc::facts::VpcId;

use super::auth::Principal;
use super::imds_paths::{RoleCredentials, tree};
use super::knobs::ImdsHang;
use super::sim::{Core, ServeError, Sim, instance_at, serving};
use crate::actions::Caller;
use crate::ids::{self, InstanceId};
use crate::store::Instance;

const TOKEN: &str = "x-aws-ec2-metadata-token";
const TOKEN_TTL: &str = "x-aws-ec2-metadata-token-ttl-seconds";
const MAX_TTL: i64 = 21_600;
/// TTL of answers that the hop limit does not concern: Linux's default.
const USUAL_TTL: u32 = 64;
const CREDENTIALS_LAST: SignedDuration = SignedDuration::from_hours(6);
const RENEW_BEFORE: SignedDuration = SignedDuration::from_mins(30);

struct Reply {
    status: u16,
    body: String,
    /// Echoed lifetime of a token.
    ttl: Option<i64>,
    hop_limit: u32,
}

impl Reply {
    fn new(status: u16, body: impl Into<String>) -> Self {
        Self {
            status,
            body: body.into(),
            ttl: None,
            hop_limit: USUAL_TTL,
        }
    }

    fn error(status: u16) -> Self {
        let name = StatusCode::from_u16(status)
            .ok()
            .and_then(|s| s.canonical_reason());
        let name = name.unwrap_or("Error");
        Self::new(status, format!("{status} - {name}\n"))
    }
}

impl Sim {
    /// Serves instance metadata of `vpc` on `listener`, which the lab has opened inside of the
    /// VPC's router namespace, until the task that awaits this is dropped.
    ///
    /// # Errors
    /// The runtime cannot use the listener.
    pub async fn serve_imds(&self, listener: TcpListener, vpc: VpcId) -> Result<(), ServeError> {
        let (listener, _) = serving(listener)?;
        loop {
            let (stream, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    // One connection's trouble, or too many open files: the next one may do.
                    tracing::warn!(%error, %vpc, "imds: accept");
                    tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                    continue;
                }
            };
            let (sim, vpc) = (self.clone(), vpc.clone());
            tokio::spawn(async move {
                let Ok(socket) = stream.as_fd().try_clone_to_owned() else {
                    return;
                };
                let serve = service_fn(|request| answer(&sim, &vpc, peer.ip(), &socket, request));
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), serve);
                if let Err(error) = connection.await {
                    tracing::debug!(%error, %peer, "imds: connection");
                }
            });
        }
    }
}

/// A body of one byte, which never comes.
struct Never;

impl Body for Never {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Pending
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(1)
    }
}

async fn answer(
    sim: &Sim,
    vpc: &VpcId,
    peer: IpAddr,
    socket: &OwnedFd,
    request: Request<Incoming>,
) -> Result<Response<Either<Full<Bytes>, Never>>, http::Error> {
    let hang = sim.core().knobs.imds_hang;
    if hang == Some(ImdsHang::Silent) {
        // Ends when the client hangs up.
        pending::<()>().await;
    }
    let reply = match peer {
        IpAddr::V4(peer) => decide(
            sim,
            vpc,
            peer,
            request.method(),
            request.uri().path(),
            request.headers(),
        ),
        IpAddr::V6(_) => Reply::error(404),
    };
    tracing::debug!(status = reply.status, %peer, path = request.uri().path(), "imds");
    if let Err(error) = rustix::net::sockopt::set_ip_ttl(socket, reply.hop_limit) {
        tracing::warn!(%error, "imds: the hop limit cannot be set");
    }
    let response = Response::builder()
        .status(reply.status)
        .header("content-type", "text/plain")
        .header("server", "EC2ws");
    let response = match reply.ttl {
        Some(ttl) => response.header(TOKEN_TTL, ttl),
        None => response,
    };
    response.body(match hang {
        Some(_) => Either::Right(Never),
        None => Either::Left(Full::new(Bytes::from(reply.body))),
    })
}

fn decide(
    sim: &Sim,
    vpc: &VpcId,
    peer: Ipv4Addr,
    method: &Method,
    path: &str,
    headers: &HeaderMap,
) -> Reply {
    let now = Sim::now();
    sim.read(now, |core| {
        decide_locked(core, vpc, peer, method, path, headers, now)
    })
}

fn decide_locked(
    core: &mut Core,
    vpc: &VpcId,
    peer: Ipv4Addr,
    method: &Method,
    path: &str,
    headers: &HeaderMap,
    now: Timestamp,
) -> Reply {
    let vpc = core.state.vpcs.find(vpc.as_str()).map(|(id, _)| id);
    let id = vpc
        .ok()
        .and_then(|vpc: ids::VpcId| instance_at(&core.state, vpc, peer));
    let Some(instance) = id.and_then(|id| core.state.instances.get(&id)).cloned() else {
        return Reply::error(404);
    };
    let Some(id) = id else {
        return Reply::error(404);
    };
    if !instance.metadata.enabled {
        return Reply::error(403);
    }
    match *method {
        Method::PUT => token(core, id, &instance, path, headers, now),
        Method::GET | Method::HEAD => match authorized(core, id, &instance, headers, now) {
            Ok(()) => get(core, id, path, now),
            Err(reply) => reply,
        },
        _ => Reply::error(405),
    }
}

fn token(
    core: &mut Core,
    id: InstanceId,
    instance: &Instance,
    path: &str,
    headers: &HeaderMap,
    now: Timestamp,
) -> Reply {
    if headers.contains_key("x-forwarded-for") {
        return Reply::error(403);
    }
    if path != "/latest/api/token" {
        // Version-specific token paths are forbidden, other paths take no PUT.
        return Reply::error(if path.ends_with("/api/token") {
            403
        } else {
            405
        });
    }
    let ttl = headers
        .get(TOKEN_TTL)
        .and_then(|v| v.to_str().ok()?.trim().parse::<i64>().ok());
    let Some(ttl) = ttl.filter(|ttl| (1..=MAX_TTL).contains(ttl)) else {
        return Reply::error(400);
    };
    core.tokens.retain(|_, (_, expires)| *expires > now);
    let random = [(); 5].map(|()| core.rng.next_u64());
    let token = text(&random, 56) + "==";
    let expires = now
        .checked_add(SignedDuration::from_secs(ttl))
        .unwrap_or(Timestamp::MAX);
    core.tokens.insert(token.clone(), (id.to_string(), expires));
    let hop_limit = instance.metadata.hop_limit.into();
    Reply {
        status: 200,
        body: token,
        ttl: Some(ttl),
        hop_limit,
    }
}

fn authorized(
    core: &Core,
    id: InstanceId,
    instance: &Instance,
    headers: &HeaderMap,
    now: Timestamp,
) -> Result<(), Reply> {
    let Some(token) = headers.get(TOKEN) else {
        return match instance.metadata.tokens_required {
            true => Err(Reply::error(401)),
            false => Ok(()),
        };
    };
    let known = token.to_str().ok().and_then(|t| core.tokens.get(t));
    match known {
        Some((owner, expires)) if *owner == id.to_string() && *expires > now => Ok(()),
        _ => Err(Reply::error(401)),
    }
}

fn get(core: &mut Core, id: InstanceId, path: &str, now: Timestamp) -> Reply {
    let path = path.trim_start_matches('/');
    let (version, rest) = path.split_once('/').unwrap_or((path, ""));
    let dated = version.len() == 10 && version.bytes().all(|b| b.is_ascii_digit() || b == b'-');
    if version.is_empty() {
        return Reply::new(200, "1.0\n2021-07-15\nlatest");
    }
    if version != "latest" && !dated {
        return Reply::error(404);
    }
    let rest = rest.trim_matches('/');
    if rest.is_empty() {
        return Reply::new(200, "dynamic\nmeta-data\nuser-data");
    }
    if let Some(role) = rest.strip_prefix("meta-data/iam/") {
        return iam(core, id, role, now).map_or_else(|| Reply::error(404), |t| Reply::new(200, t));
    }
    let old = core.view(now, core.knobs.imds_lag_ms());
    let state = old.as_deref().unwrap_or(&core.state);
    let text = state.instances.get(&id).and_then(|instance| {
        let mut listing = tree(state, id, instance).get(rest)?;
        if rest == "meta-data" && instance.profile.is_some() {
            listing.push_str("\niam/");
        }
        Some(listing)
    });
    text.map_or_else(|| Reply::error(404), |text| Reply::new(200, text))
}

/// `meta-data/iam/…`: the role and its credentials.
fn iam(core: &mut Core, id: InstanceId, path: &str, now: Timestamp) -> Option<String> {
    let role = core.state.instances.get(&id)?.profile.clone()?;
    let account = core.state.config.account.clone();
    match path.trim_matches('/') {
        "" => Some("info\nsecurity-credentials/".into()),
        "info" => {
            let document = serde_json::json!({
                "Code": "Success",
                "LastUpdated": format!("{now:.0}"),
                "InstanceProfileArn": format!("arn:aws:iam::{account}:instance-profile/{role}"),
                "InstanceProfileId": "AIPAEXAMPLEEXAMPLEAAA",
            });
            Some(format!("{document:#}"))
        }
        "security-credentials" => Some(role),
        path if path == format!("security-credentials/{role}") => {
            Some(credentials(core, id, &role, &account, now))
        }
        _ => None,
    }
}

/// The role's credentials on this instance; made when there are none or they end soon.
fn credentials(
    core: &mut Core,
    id: InstanceId,
    role: &str,
    account: &str,
    now: Timestamp,
) -> String {
    let known = core.roles.get(&id.to_string());
    let lasting = known.filter(|(_, expires)| expires.duration_since(now) > RENEW_BEFORE);
    let (key, expires) = match lasting {
        Some(known) => known.clone(),
        None => {
            let random = [(); 10].map(|()| core.rng.next_u64());
            let key = format!("ASIA{}", text(&random[..2], 16).to_uppercase());
            let caller = Caller {
                account: account.to_owned(),
                arn: format!("arn:aws:sts::{account}:assumed-role/{role}/{id}"),
                access_key: key.clone(),
            };
            let expires = now.checked_add(CREDENTIALS_LAST).unwrap_or(Timestamp::MAX);
            let principal = Principal {
                caller,
                secret: text(&random[2..6], 40),
                session_token: Some(text(&random[6..], 40)),
                expires: Some(expires),
            };
            core.principals.insert(key.clone(), principal);
            core.roles.insert(id.to_string(), (key.clone(), expires));
            (key, expires)
        }
    };
    let principal = &core.principals[&key];
    RoleCredentials {
        access_key: &key,
        secret: &principal.secret,
        token: principal.session_token.as_deref().unwrap_or(""),
        updated: expires.checked_sub(CREDENTIALS_LAST).unwrap_or(now),
        expires,
    }
    .json()
}

/// Letters and digits from random bits, `length` of them.
fn text(random: &[u64], length: usize) -> String {
    const LETTERS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let digits = random
        .iter()
        .flat_map(|word| (0..12).map(move |at| LETTERS[(word >> (5 * at)) as usize & 31] as char));
    digits.take(length).collect()
}
