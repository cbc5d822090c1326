//! What can be wrong with a request, and how a failure is told to the container runtime.

use serde::Serialize;

use crate::SpecVersion;

/// An error code of the CNI specification. 1 to 99 belong to the specification, 100 and up to the
/// plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Code(pub u32);

impl Code {
    /// The configuration's version is not spoken, or does not know the command.
    pub const INCOMPATIBLE_VERSION: Self = Self(1);
    /// The configuration has a field that cannot be honoured; key and value are named.
    pub const UNSUPPORTED_FIELD: Self = Self(2);
    /// The container is not known or does not exist.
    pub const UNKNOWN_CONTAINER: Self = Self(3);
    /// A needed environment variable is missing or malformed.
    pub const INVALID_ENVIRONMENT: Self = Self(4);
    /// Reading stdin or writing stdout failed.
    pub const IO_FAILURE: Self = Self(5);
    /// The configuration is not JSON of the expected form.
    pub const DECODING_FAILURE: Self = Self(6);
    /// The configuration is well formed but its content is not acceptable.
    pub const INVALID_CONFIG: Self = Self(7);
    /// `CNI_NETNS` is not a usable network namespace.
    pub const INVALID_NETNS: Self = Self(8);
    /// A transient condition: the runtime should try again later.
    pub const TRY_AGAIN_LATER: Self = Self(11);
    /// STATUS: an ADD cannot be served.
    pub const NOT_AVAILABLE: Self = Self(50);
    /// STATUS: an ADD cannot be served and pods that run may have lost connectivity.
    pub const LIMITED_CONNECTIVITY: Self = Self(51);
    /// The kernel refused to set up, read or tear down the pod's network.
    pub const KERNEL: Self = Self(100);
    /// The policy daemon did not put the pod under its policies.
    pub const POLICY: Self = Self(101);
    /// The address daemon refused the request for good, or its answer cannot be used.
    pub const DAEMON: Self = Self(102);
    /// CHECK found that the pod's network is not what ADD made.
    pub const CHECK_FAILED: Self = Self(103);
    /// GC could not free everything.
    pub const GC_INCOMPLETE: Self = Self(104);
    /// The request needs a feature that this version does not have.
    pub const NOT_BUILT: Self = Self(105);
}

/// The object that a failing plugin prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ErrorObject {
    /// The request's version; the newest one we speak where the request did not tell.
    #[serde(rename = "cniVersion", serialize_with = "as_text")]
    pub version: SpecVersion,
    /// What sort of failure.
    pub code: Code,
    /// One line: the fact, the object, the likely cause.
    pub msg: String,
    /// The chain of causes, where there is one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub details: String,
}

fn as_text<S: serde::Serializer>(version: &SpecVersion, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(version.as_str())
}

impl ErrorObject {
    /// The object as it is printed, indented by four as libcni's plugins do.
    pub fn to_json(&self) -> Vec<u8> {
        crate::json::pretty(self)
    }
}

/// Why a request cannot be understood. Each variant names the offending object.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Needed environment variables are not set or empty.
    #[error("required environment variables are missing: {}", names.join(", "))]
    EnvironmentMissing {
        /// Their names.
        names: Vec<&'static str>,
    },
    /// An environment variable is not UTF-8.
    #[error("environment variable {name} is not UTF-8: {value:?}")]
    EnvironmentNotText {
        /// Its name.
        name: &'static str,
        /// Its value, lossily decoded.
        value: String,
    },
    /// `CNI_COMMAND` is none of the six.
    #[error("CNI_COMMAND is {command:?}; known are ADD, DEL, CHECK, GC, STATUS and VERSION")]
    UnknownCommand {
        /// What was asked.
        command: String,
    },
    /// `CNI_CONTAINERID` does not begin with a letter or digit or has other characters than
    /// letters, digits, `_`, `.` and `-`.
    #[error(
        "container id {id:?} is malformed: it must begin with a letter or digit and have only letters, digits, '_', '.', '-'"
    )]
    ContainerId {
        /// The id.
        id: String,
    },
    /// `CNI_IFNAME` is not a name the kernel takes.
    #[error(
        "interface name {name:?} cannot be used: 1 to 15 bytes without '/', ':' and white space, neither '.' nor '..'"
    )]
    InterfaceName {
        /// The name.
        name: String,
    },
    /// A pair of `CNI_ARGS` is not `KEY=VALUE`.
    #[error("CNI_ARGS: {pair:?} is not of the form KEY=VALUE")]
    ArgsPair {
        /// The pair.
        pair: String,
    },
    /// `CNI_ARGS` has keys that nobody here knows, without `IgnoreUnknown`.
    #[error("CNI_ARGS: unknown keys {} (and IgnoreUnknown is not set)", keys.join(", "))]
    ArgsUnknown {
        /// The keys.
        keys: Vec<String>,
    },
    /// `IgnoreUnknown` in `CNI_ARGS` is not a boolean.
    #[error("CNI_ARGS: IgnoreUnknown is {value:?}, neither 1/true nor 0/false")]
    ArgsIgnoreUnknown {
        /// What it is.
        value: String,
    },
    /// Standard input is not JSON.
    #[error("the network configuration on stdin is not valid JSON")]
    NotJson {
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// A key of the configuration has a value of another type than it must have.
    #[error("network configuration: {key} must be {expected}, not {found}")]
    WrongType {
        /// The key, with its path.
        key: String,
        /// The type it must have.
        expected: &'static str,
        /// What is there.
        found: String,
    },
    /// The configuration names a version of the specification that does not exist here.
    #[error(
        "CNI version {version:?} is not supported: known are 0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, 1.0.0 and 1.1.0"
    )]
    UnknownVersion {
        /// The version.
        version: String,
    },
    /// The command does not exist in the configuration's version.
    #[error("config version {version} does not allow {command}: it needs {needs}")]
    CommandNotInVersion {
        /// The command.
        command: &'static str,
        /// The configuration's version.
        version: SpecVersion,
        /// The first version that has the command.
        needs: SpecVersion,
    },
    /// The network has no name.
    #[error("network configuration: the network's name is missing")]
    NetworkNameMissing,
    /// The network's name has a form that the specification forbids.
    #[error(
        "network name {name:?} is malformed: it must begin with a letter or digit and have only letters, digits, '_', '.', '-'"
    )]
    NetworkName {
        /// The name.
        name: String,
    },
    /// `vethPrefix` is longer than what leaves room for the 11 digits of the hash.
    #[error(
        "network configuration: vethPrefix {prefix:?} is longer than 4 bytes or not usable in a link name"
    )]
    VethPrefix {
        /// The prefix.
        prefix: String,
    },
    /// A value of the configuration is of the right type but not acceptable.
    #[error("network configuration: {key} is {value:?}; expected {expected}")]
    Value {
        /// The key, with its path.
        key: String,
        /// What is there.
        value: String,
        /// What would be accepted.
        expected: &'static str,
    },
    /// CHECK without the result of the ADD.
    #[error("network configuration: prevResult is missing; CHECK compares against it")]
    PrevResultMissing,
}

impl From<&Error> for Code {
    fn from(error: &Error) -> Self {
        match error {
            Error::EnvironmentMissing { .. }
            | Error::EnvironmentNotText { .. }
            | Error::UnknownCommand { .. }
            | Error::ContainerId { .. }
            | Error::InterfaceName { .. }
            | Error::ArgsPair { .. }
            | Error::ArgsUnknown { .. }
            | Error::ArgsIgnoreUnknown { .. } => Self::INVALID_ENVIRONMENT,
            Error::NotJson { .. } | Error::WrongType { .. } => Self::DECODING_FAILURE,
            Error::UnknownVersion { .. } | Error::CommandNotInVersion { .. } => {
                Self::INCOMPATIBLE_VERSION
            }
            Error::NetworkNameMissing
            | Error::NetworkName { .. }
            | Error::VethPrefix { .. }
            | Error::Value { .. }
            | Error::PrevResultMissing => Self::INVALID_CONFIG,
        }
    }
}
