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
use ipam::{Config, Pool};
use nodenet::VethPrefix;
use rustix::fs::{FlockOperation, flock};
use settings::{PolicyMode, Settings};
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::UnixListenerStream;

use crate::gc::Ledger;
use crate::metrics::Metrics;
use crate::owner::Owner;
use crate::rpc::Backend;
use crate::store::Store;
use crate::{admin, boot, install, takeover};

/// An ADD waits less than the plugin does (10 s), so that the reason reaches the kubelet.
const PATIENCE: Duration = Duration::from_secs(8);
/// How long open calls may take to end after the signal.
const DRAIN: Duration = Duration::from_millis(1500);

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
    takeover::refuse_while_served(&settings.paths.socket)?;
    let opened = Store::open(&settings.paths.checkpoint);
    let (mut store, mut found) = opened.inspect_err(|error| {
        // Without the list the node is NotReady and its pods are evicted: not for a full disk.
        if error.is_final() {
            install::withdraw(&settings);
        }
    })?;
    let listener = listen(&settings.paths.socket)?;
    let place = takeover::Place::of(&settings.paths.socket)?;
    let prefix = VethPrefix::new(settings.network.veth_prefix.as_str())?;
    takeover::look(&mut store, &mut found, &settings).await?;

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
    config.unwatched_until = found.unwatched_until;
    let mut owner = Owner::new(
        Pool::new(config),
        store,
        settings.clone(),
        metrics,
        Ledger::new(prefix),
        to_owner.clone(),
    );
    owner.recover(found);

    takeover::tell_translation(settings.network.external_snat);
    tokio::spawn(owner.compare_leases());
    admin::start(&settings.admin, &to_owner).await;
    tokio::spawn(boot::run(
        Imds::from_env()?,
        ec2,
        settings.clone(),
        to_owner.clone(),
    ));
    let (stop, stopped) = oneshot::channel();
    let served = tokio::spawn(serve_rpc(listener, backend(&settings, to_owner), stopped));
    tokio::select! {
        () = owner.run(messages, told_to_end()) => {}
        // Nothing is saved: the files are the other's now.
        error = place.lost() => return Err(error),
    }
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

/// A start value that differs from node to node and from start to start.
fn seed() -> u64 {
    let mut bytes = [0_u8; 8];
    match rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()) {
        Ok(_) => u64::from_ne_bytes(bytes),
        Err(_) => u64::from(std::process::id()),
    }
}

#[cfg(test)]
mod tests;
