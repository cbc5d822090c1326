//! What the environment may change beside the specification's variables: where the daemons listen
//! and how long the plugin waits. Runtimes pass their own environment on, so a node can set these
//! for all pods, and tests and the lab can put daemons elsewhere.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use cni::NetConf;

use crate::failure::Failure;

/// `AWS_VPC_CNI_IPAMD_SOCKET`: the address daemon's socket.
const IPAMD_SOCKET: &str = "AWS_VPC_CNI_IPAMD_SOCKET";
/// `AWS_VPC_CNI_NPA_SOCKET`: the policy daemon's socket.
const NPA_SOCKET: &str = "AWS_VPC_CNI_NPA_SOCKET";
/// `AWS_VPC_CNI_DAEMON_WAIT`: wins over `daemonWait` of the configuration.
const DAEMON_WAIT: &str = "AWS_VPC_CNI_DAEMON_WAIT";

/// How long the policy daemon may take to accept a connection, as upstream.
const POLICY_DIAL: Duration = Duration::from_secs(2);

/// Where the daemons are and how long each of their answers may take.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) ipamd_socket: PathBuf,
    pub(crate) npa_socket: PathBuf,
    pub(crate) wait: Duration,
}

impl Settings {
    pub(crate) fn from_environment(
        conf: &NetConf,
        lookup: impl Fn(&'static str) -> Option<OsString>,
    ) -> Result<Self, Failure> {
        let set = |name| lookup(name).filter(|value| !value.is_empty());
        let wait = match set(DAEMON_WAIT) {
            None => conf.daemon_wait,
            Some(value) => {
                value
                    .to_str()
                    .and_then(cni::parse_wait)
                    .ok_or_else(|| Failure::Setting {
                        name: DAEMON_WAIT,
                        value: value.to_string_lossy().into_owned(),
                    })?
            }
        };
        let path = |name, default: &str| set(name).unwrap_or_else(|| default.into()).into();
        Ok(Self {
            ipamd_socket: path(IPAMD_SOCKET, cni::rpc::IPAMD_SOCKET),
            npa_socket: path(NPA_SOCKET, cni::rpc::NPA_SOCKET),
            wait,
        })
    }

    /// When an answer that is asked for now must be there.
    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.wait
    }

    /// When the policy daemon must have accepted a connection that is tried now.
    pub(crate) fn policy_dial_deadline(&self) -> Instant {
        Instant::now() + self.wait.min(POLICY_DIAL)
    }
}
