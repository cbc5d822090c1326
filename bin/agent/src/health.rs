//! Probes: is the agent alive, and can it serve pods?
//!
//! `grpc.health.v1` proves only that the process answers. The question whether pods are served goes
//! through the task that owns the pool, so its answer, whatever it says, proves that this task goes
//! on: that is being alive. Being ready is the answer yes. Upstream's daemon does not know the
//! question; there, its health is all that can be told.

use std::path::Path;
use std::time::{Duration, Instant};

use cni::rpc::health::health_check_response::ServingStatus;
use cni::rpc::health::{HealthCheckRequest, HealthCheckResponse};
use cni::rpc::node::StatusReply;
use cni::rpc::unary::{CallError, Channel, GrpcCode};
use cni::rpc::{HEALTH_CHECK, NODE_STATUS};

/// Why a probe fails.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unhealthy {
    /// Nobody listens.
    #[error(transparent)]
    Connect(CallError),
    /// No answer, or an error.
    #[error(transparent)]
    Call(CallError),
    /// The daemon says that it does not serve.
    #[error("the agent does not serve")]
    NotServing,
    /// Pods are not served; the agent's reason.
    #[error("pods are not served: {0}")]
    NotReady(String),
    /// What this agent was to put on the node is not there; the agent's reason.
    #[error("plugin and network list are not installed: {0}")]
    NotInstalled(String),
}

impl Unhealthy {
    /// The exit code; grpc-health-probe's numbers.
    pub(crate) fn code(&self) -> u8 {
        match self {
            Self::Connect(_) => 2,
            Self::Call(_) => 3,
            Self::NotServing | Self::NotReady(_) | Self::NotInstalled(_) => 4,
        }
    }
}

/// Asks the daemon at a socket; `ready`: pods must be served, too.
///
/// # Errors
/// Why the probe fails, by `within` at the latest.
pub(crate) fn check(socket: &Path, ready: bool, within: Duration) -> Result<(), Unhealthy> {
    let deadline = Instant::now() + within;
    let mut channel = Channel::connect(socket, deadline).map_err(Unhealthy::Connect)?;
    let health: HealthCheckResponse = channel
        .call(HEALTH_CHECK, &HealthCheckRequest::default(), deadline)
        .map_err(Unhealthy::Call)?;
    if health.status() != ServingStatus::Serving {
        return Err(Unhealthy::NotServing);
    }
    let status: StatusReply = match channel.call(NODE_STATUS, &(), deadline) {
        Ok(status) => status,
        Err(CallError::Status { code, .. }) if code == GrpcCode::UNIMPLEMENTED => return Ok(()),
        Err(error) => return Err(Unhealthy::Call(error)),
    };
    if ready && !status.ready {
        return Err(Unhealthy::NotReady(status.reason));
    }
    if ready && !status.installation.is_empty() {
        return Err(Unhealthy::NotInstalled(status.installation));
    }
    Ok(())
}
