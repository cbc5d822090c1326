//! Puts the parts together: lock, files, sockets, then the owner until a signal.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use cni::rpc::backend::cni_backend_server::CniBackendServer;
use cni::rpc::backend::config_server_backend_server::ConfigServerBackendServer;
use cni::rpc::health::AlwaysServing;
use cni::rpc::health::health_server::HealthServer;
use cni::rpc::node::node_server::NodeServer;
use ec2::client::Retry;
use ec2::imds::Imds;
use ipam::{Config, Millis, Pool, Record};
use nodenet::LinkName;
use rustix::fs::{FlockOperation, flock};
use settings::{PolicyMode, Settings};
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::UnixListenerStream;

use crate::metrics::Metrics;
use crate::owner::Owner;
use crate::rpc::Backend;
use crate::store::{Recovered, Store};
use crate::{admin, boot, install, links};

/// An ADD waits less than the plugin does (10 s), so that the reason reaches the kubelet.
const PATIENCE: Duration = Duration::from_secs(8);
/// How long open calls may take to end after the signal.
const DRAIN: Duration = Duration::from_millis(1500);
/// A pod this young may not have its link yet: its plugin was at work when the agent was killed.
const YOUNG: Duration = Duration::from_secs(120);

/// Runs the agent; returns when it was told to end.
pub(crate) fn run(settings: Settings) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    runtime.block_on(serve(settings))
}

async fn serve(settings: Settings) -> anyhow::Result<()> {
    let _lock = lock(&settings.paths.socket)?;
    let opened = Store::open(&settings.paths.checkpoint);
    let (mut store, mut found) = opened.inspect_err(|_| install::withdraw(&settings))?;
    let listener = listen(&settings.paths.socket)?;
    prune(&mut store, &mut found);

    let metrics = Metrics::default();
    let api = metrics.api.clone();
    let ec2 = ec2::Client::builder()
        .retry(Retry {
            attempts: 3,
            base: Duration::from_millis(100),
            cap: Duration::from_secs(1),
            attempt_timeout: Duration::from_secs(10),
            budget: Duration::from_secs(20),
        })
        .observer(move |attempt| api.saw(attempt))
        .build()?;

    let (to_owner, messages) = mpsc::channel(256);
    let mut config = Config::new(&settings, seed());
    config.patience = PATIENCE;
    let mut owner = Owner::new(
        Pool::new(config),
        store,
        settings.clone(),
        metrics,
        to_owner.clone(),
    );
    owner.recover(found);

    if !settings.network.external_snat {
        tracing::warn!(
            "AWS_VPC_K8S_CNI_EXTERNALSNAT is false, but translation on the node is not built yet: \
             pods reach the VPC; what leaves it needs a NAT gateway"
        );
    }
    admin::start(&settings.admin, &to_owner).await;
    tokio::spawn(boot::run(
        Imds::from_env()?,
        ec2,
        settings.clone(),
        to_owner.clone(),
    ));
    let (stop, stopped) = oneshot::channel();
    let served = tokio::spawn(serve_rpc(listener, backend(&settings, to_owner), stopped));
    owner.run(messages, told_to_end()).await;
    drop(stop);
    // Open calls have been answered; a peer that does not hang up is not waited for.
    let _ = tokio::time::timeout(DRAIN, served).await;
    let _ = fs::remove_file(&settings.paths.socket);
    tracing::info!("ended");
    Ok(())
}

fn backend(settings: &Settings, owner: mpsc::Sender<crate::owner::Message>) -> Backend {
    Backend {
        owner,
        policy_mode: settings.policy_mode.map_or("", PolicyMode::as_str),
        external_snat: settings.network.external_snat,
    }
}

async fn serve_rpc(listener: UnixListener, backend: Backend, stopped: oneshot::Receiver<()>) {
    let served = tonic::transport::Server::builder()
        .add_service(CniBackendServer::new(backend.clone()))
        .add_service(ConfigServerBackendServer::new(backend.clone()))
        .add_service(NodeServer::new(backend))
        .add_service(HealthServer::new(AlwaysServing))
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), async {
            let _ = stopped.await;
        });
    if let Err(error) = served.await {
        tracing::error!(%error, "the socket is served no more");
    }
}

async fn told_to_end() {
    let (Ok(mut term), Ok(mut int)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) else {
        tracing::error!("signals cannot be received; only SIGKILL ends this agent");
        return std::future::pending().await;
    };
    // As upstream: a hang-up changes nothing, settings are read at the start only.
    let hang_up = signal(SignalKind::hangup());
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    drop(hang_up);
    tracing::info!("told to end");
}

/// One agent per node: two would give the same addresses away.
fn lock(socket: &Path) -> anyhow::Result<File> {
    if let Some(dir) = socket.parent() {
        fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    }
    let path = socket.with_extension("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("opening {}", path.display()))?;
    flock(&file, FlockOperation::NonBlockingLockExclusive).with_context(|| {
        format!(
            "{} is locked: does another agent run on this node?",
            path.display()
        )
    })?;
    Ok(file)
}

/// The socket, in the place of one that a killed predecessor left (the lock says that it is dead).
fn listen(path: &Path) -> anyhow::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("removing {}", path.display()));
        }
        _ => {}
    }
    let listener =
        UnixListener::bind(path).with_context(|| format!("listening on {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o660))
        .with_context(|| format!("mode of {}", path.display()))?;
    Ok(listener)
}

/// Recovered pods whose link is gone were deleted while no agent ran: their addresses are free.
/// Whoever has no name, or is young, is kept.
fn prune(store: &mut Store, found: &mut Recovered) {
    let names = match links::names() {
        Ok(names) => names,
        Err(error) => {
            tracing::warn!("links cannot be listed, so every recovered pod is kept: {error:#}");
            return;
        }
    };
    let now = Millis(0).after(
        std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default(),
    );
    let gone: Vec<ipam::Allocation> = found
        .allocations
        .values()
        .filter(|held| now.since(held.since) > YOUNG && !has_link(held, &names))
        .cloned()
        .collect();
    for held in gone {
        tracing::info!(key = %held.key, address = %held.address, "pod is gone, address released");
        links::forget(held.address);
        let (key, address) = (held.key, held.address);
        found.allocations.remove(&key);
        found.released.insert(address, now);
        if let Err(error) = store.append(&Record::Released {
            key,
            address,
            at: now,
        }) {
            tracing::error!("{error:#}");
        }
    }
}

fn has_link(held: &ipam::Allocation, names: &[LinkName]) -> bool {
    if held.pod.namespace.is_empty() || held.pod.name.is_empty() {
        return true;
    }
    let pod = nodenet::PodName::new(held.pod.namespace.as_str(), held.pod.name.as_str());
    let hash = nodenet::layout::pod_hash(&pod, 0);
    names.iter().any(|name| name.as_str().ends_with(&hash))
}

/// A start value that differs from node to node and from start to start.
fn seed() -> u64 {
    let mut bytes = [0_u8; 8];
    match rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()) {
        Ok(_) => u64::from_ne_bytes(bytes),
        Err(_) => u64::from(std::process::id()),
    }
}
