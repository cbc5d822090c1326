//! Why the plugin fails, and which CNI code says so.

use std::error::Error as _;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use cni::Code;
use cni::rpc::backend::FailureKind;
use cni::rpc::unary::CallError;
use nodenet::LinkName;

/// Every failure of the plugin.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Request(#[from] cni::Error),
    #[error("cannot read the network configuration from stdin")]
    Stdin {
        #[source]
        source: io::Error,
    },
    #[error("environment variable {name} is {value:?}; expected a wait such as 10s or 500ms")]
    Setting { name: &'static str, value: String },
    #[error("CNI_NETNS {}: not a usable network namespace", path.display())]
    Namespace {
        path: PathBuf,
        #[source]
        source: kernel::Error,
    },
    #[error("CNI_NETNS {} is the plugin's own network namespace", path.display())]
    OwnNamespace { path: PathBuf },
    #[error("interface {name} already exists in {}: was this container attached before?", netns.display())]
    InterfaceExists { name: LinkName, netns: PathBuf },
    #[error("address daemon: {0}")]
    Daemon(#[source] Box<CallError>),
    /// Begins with upstream's words, which people's alerts look for.
    #[error("failed to assign an IP address to container: {reason}")]
    NoAddress {
        kind: FailureKind,
        code: Code,
        reason: String,
    },
    #[error("the address daemon could not release the pod's address: {reason}")]
    NotReleased { code: Code, reason: String },
    #[error("the address daemon's answer cannot be used: {reason}")]
    Answer { reason: String },
    #[error("{what} is not built yet")]
    NotBuilt { what: String },
    #[error("cannot {step}")]
    Kernel {
        step: String,
        #[source]
        source: kernel::Error,
    },
    #[error("{failure} (and not everything could be taken back: {})", join(errors))]
    Unwind {
        failure: Box<Failure>,
        errors: Vec<kernel::Error>,
    },
    #[error("policy daemon: {0}")]
    Policy(#[source] Box<CallError>),
    #[error(
        "the policy daemon did not put the pod under its policies (mode {mode}); its log says why"
    )]
    PolicyRefused { mode: String },
    #[error("the pod's network is not as ADD made it: {}", problems.join("; "))]
    Check { problems: Vec<String> },
    #[error("prevResult has no interface {name} with an address of this pod")]
    CheckResult { name: LinkName },
    #[error("the address daemon knows no address of this attachment, prevResult has {address}")]
    CheckAllocation { address: IpAddr },
    #[error("cni.dev/valid-attachments is missing: GC without it would free everything")]
    GcWithoutList,
    #[error("not everything could be freed: {}", errors.join("; "))]
    Gc { errors: Vec<String> },
    #[error("an ADD cannot be served: {reason}")]
    NotReady {
        reason: String,
        existing_pods_affected: bool,
    },
}

impl Failure {
    /// A failure of the kernel, and what was being done.
    pub(crate) fn kernel(step: impl Into<String>) -> impl FnOnce(kernel::Error) -> Self {
        let step = step.into();
        move |source| Self::Kernel { step, source }
    }

    /// This failure after everything before it was taken back, but for these errors.
    pub(crate) fn with_undone(self, errors: Vec<kernel::Error>) -> Self {
        if errors.is_empty() {
            return self;
        }
        Self::Unwind {
            failure: Box::new(self),
            errors,
        }
    }

    /// What lies beneath the message, outermost first; empty when the message says all.
    pub(crate) fn causes(&self) -> String {
        let mut causes = Vec::new();
        let mut next = match self {
            // Its message is part of ours already.
            Self::Daemon(call) | Self::Policy(call) => call.source(),
            Self::Unwind { failure, .. } => return failure.causes(),
            _ => self.source(),
        };
        while let Some(cause) = next {
            causes.push(cause.to_string());
            next = cause.source();
        }
        causes.join(": ")
    }

    /// Message and causes in one line.
    pub(crate) fn with_causes(&self) -> String {
        match self.causes() {
            causes if causes.is_empty() => self.to_string(),
            causes => format!("{self}: {causes}"),
        }
    }
}

fn join(errors: &[kernel::Error]) -> String {
    let each: Vec<_> = errors.iter().map(ToString::to_string).collect();
    each.join("; ")
}

fn of_call(call: &CallError) -> Code {
    if call.is_transient() {
        Code::TRY_AGAIN_LATER
    } else {
        Code::DAEMON
    }
}

/// The code for a daemon's refusal: the one it suggests, else by kind. What may pass by itself, a
/// reached limit included (a pod may end), is worth another try.
pub(crate) fn of_refusal(kind: FailureKind, suggested: u32) -> Code {
    match (suggested, kind) {
        (0, FailureKind::InvalidRequest | FailureKind::Internal) => Code::DAEMON,
        (0, _) => Code::TRY_AGAIN_LATER,
        (code, _) => Code(code),
    }
}

impl From<&Failure> for Code {
    fn from(failure: &Failure) -> Self {
        match failure {
            Failure::Request(error) => error.into(),
            Failure::Stdin { .. } => Self::IO_FAILURE,
            Failure::Setting { .. } => Self::INVALID_ENVIRONMENT,
            Failure::Namespace { .. } | Failure::OwnNamespace { .. } => Self::INVALID_NETNS,
            Failure::Daemon(call) => of_call(call),
            Failure::Policy(call) if call.is_transient() => Self::TRY_AGAIN_LATER,
            Failure::Policy(_) | Failure::PolicyRefused { .. } => Self::POLICY,
            Failure::NoAddress { code, .. } | Failure::NotReleased { code, .. } => *code,
            Failure::Answer { .. } => Self::DAEMON,
            Failure::NotBuilt { .. } => Self::NOT_BUILT,
            Failure::InterfaceExists { .. } | Failure::Kernel { .. } => Self::KERNEL,
            Failure::Unwind { failure, .. } => (&**failure).into(),
            Failure::Check { .. }
            | Failure::CheckResult { .. }
            | Failure::CheckAllocation { .. } => Self::CHECK_FAILED,
            Failure::GcWithoutList => Self::INVALID_CONFIG,
            Failure::Gc { .. } => Self::GC_INCOMPLETE,
            Failure::NotReady {
                existing_pods_affected: true,
                ..
            } => Self::LIMITED_CONNECTIVITY,
            Failure::NotReady { .. } => Self::NOT_AVAILABLE,
        }
    }
}
