//! The environment half of a request: which command, for which attachment of which pod.
//!
//! Everything is checked here and only here, by the syntax of the specification (§2, "Parameters"),
//! so that the plugin never sees a command without what it needs.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use nodenet::{LinkName, PodName};

use crate::{Error, SpecVersion};

/// One call of the plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Attach a container.
    Add(Attachment, PathBuf),
    /// Detach a container; its namespace may be gone or not told.
    Del(Attachment, Option<PathBuf>),
    /// Compare an attachment with what ADD made.
    Check(Attachment, PathBuf),
    /// Free what belongs to no attachment.
    Gc,
    /// Can an ADD be served?
    Status,
    /// Which versions are spoken?
    Version,
}

/// A container's interface and the pod that the runtime says it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// `CNI_CONTAINERID`.
    pub container_id: ContainerId,
    /// `CNI_IFNAME`.
    pub if_name: LinkName,
    /// From `CNI_ARGS`.
    pub pod: PodArgs,
}

/// A container id: a letter or digit, then letters, digits, `_`, `.`, `-`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerId(String);

impl ContainerId {
    /// Parses an id by the specification's syntax.
    pub fn new(id: impl Into<String>) -> Result<Self, Error> {
        let id = id.into();
        if is_identifier(&id) {
            Ok(Self(id))
        } else {
            Err(Error::ContainerId { id })
        }
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The specification's syntax of container ids and network names.
pub(crate) fn is_identifier(text: &str) -> bool {
    let first = text
        .bytes()
        .next()
        .is_some_and(|byte| byte.is_ascii_alphanumeric());
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    first && text.bytes().all(inner)
}

/// What Kubernetes' runtimes tell about the pod. All of it is empty under a runtime that is none of
/// Kubernetes'.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodArgs {
    /// `K8S_POD_NAME`.
    pub name: String,
    /// `K8S_POD_NAMESPACE`.
    pub namespace: String,
    /// `K8S_POD_INFRA_CONTAINER_ID`.
    pub infra_container_id: String,
    /// `K8S_POD_UID`.
    pub uid: String,
}

impl PodArgs {
    /// Parses `CNI_ARGS`, `KEY=VALUE;KEY=VALUE`, as upstream does: exactly one `=` per pair, keys
    /// as they are written here, others refused unless `IgnoreUnknown` is true.
    pub fn parse(args: &str) -> Result<Self, Error> {
        let mut pod = Self::default();
        let mut ignore_unknown = false;
        let mut unknown = Vec::new();
        for pair in args.split(';').filter(|_| !args.is_empty()) {
            let (key, value) = pair
                .split_once('=')
                .filter(|(_, value)| !value.contains('='))
                .ok_or_else(|| Error::ArgsPair {
                    pair: pair.to_owned(),
                })?;
            match key {
                "K8S_POD_NAME" => pod.name = value.to_owned(),
                "K8S_POD_NAMESPACE" => pod.namespace = value.to_owned(),
                "K8S_POD_INFRA_CONTAINER_ID" => pod.infra_container_id = value.to_owned(),
                "K8S_POD_UID" => pod.uid = value.to_owned(),
                "IgnoreUnknown" => ignore_unknown = go_bool(value)?,
                other => unknown.push(other.to_owned()),
            }
        }
        if unknown.is_empty() || ignore_unknown {
            Ok(pod)
        } else {
            Err(Error::ArgsUnknown { keys: unknown })
        }
    }

    /// The pod's name as the layout knows it.
    pub fn pod_name(&self) -> PodName {
        PodName::new(&self.namespace, &self.name)
    }
}

fn go_bool(value: &str) -> Result<bool, Error> {
    match value.to_ascii_lowercase().as_str() {
        "1" | "true" => Ok(true),
        "0" | "false" => Ok(false),
        _ => Err(Error::ArgsIgnoreUnknown {
            value: value.to_owned(),
        }),
    }
}

impl Command {
    /// Parses the environment, given as a lookup so that tests need not change the process's.
    pub fn from_environment(
        lookup: impl Fn(&'static str) -> Option<OsString>,
    ) -> Result<Self, Error> {
        let environment = Environment { lookup };
        let command = environment.text("CNI_COMMAND")?;
        match command.as_deref() {
            Some("VERSION") => Ok(Self::Version),
            Some("STATUS") => Ok(Self::Status),
            Some("GC") => Ok(Self::Gc),
            Some("ADD") => environment
                .in_namespace()
                .map(|(at, netns)| Self::Add(at, netns)),
            Some("CHECK") => environment
                .in_namespace()
                .map(|(at, netns)| Self::Check(at, netns)),
            Some("DEL") => {
                environment.require(&["CNI_CONTAINERID", "CNI_IFNAME"])?;
                Ok(Self::Del(
                    environment.attachment()?,
                    environment.path("CNI_NETNS"),
                ))
            }
            Some(other) => Err(Error::UnknownCommand {
                command: other.to_owned(),
            }),
            None => Err(Error::EnvironmentMissing {
                names: vec!["CNI_COMMAND"],
            }),
        }
    }

    /// The command as the environment writes it.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Add(..) => "ADD",
            Self::Del(..) => "DEL",
            Self::Check(..) => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }

    /// The first version of the specification that has the command.
    const fn since(&self) -> SpecVersion {
        match self {
            Self::Add(..) | Self::Del(..) | Self::Version => SpecVersion::V0_1_0,
            Self::Check(..) => SpecVersion::V0_4_0,
            Self::Gc | Self::Status => SpecVersion::V1_1_0,
        }
    }

    /// Fails if a configuration of `version` does not know the command.
    pub fn allowed_in(&self, version: SpecVersion) -> Result<(), Error> {
        let needs = self.since();
        if version >= needs {
            Ok(())
        } else {
            Err(Error::CommandNotInVersion {
                command: self.name(),
                version,
                needs,
            })
        }
    }
}

struct Environment<L> {
    lookup: L,
}

impl<L: Fn(&'static str) -> Option<OsString>> Environment<L> {
    /// An empty variable counts as missing, as in the CNI library.
    fn value(&self, name: &'static str) -> Option<OsString> {
        (self.lookup)(name).filter(|value| !value.is_empty())
    }

    fn text(&self, name: &'static str) -> Result<Option<String>, Error> {
        let text = self.value(name).map(OsString::into_string).transpose();
        text.map_err(|value| Error::EnvironmentNotText {
            name,
            value: value.to_string_lossy().into_owned(),
        })
    }

    fn path(&self, name: &'static str) -> Option<PathBuf> {
        self.value(name).map(PathBuf::from)
    }

    fn require(&self, names: &[&'static str]) -> Result<(), Error> {
        let missing = |name: &&'static str| self.value(name).is_none();
        let names: Vec<_> = names.iter().copied().filter(|name| missing(name)).collect();
        if names.is_empty() {
            Ok(())
        } else {
            Err(Error::EnvironmentMissing { names })
        }
    }

    fn in_namespace(&self) -> Result<(Attachment, PathBuf), Error> {
        self.require(&["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"])?;
        let netns = self.path("CNI_NETNS").unwrap_or_default();
        Ok((self.attachment()?, netns))
    }

    fn attachment(&self) -> Result<Attachment, Error> {
        let container_id = self.text("CNI_CONTAINERID")?.unwrap_or_default();
        let name = self.text("CNI_IFNAME")?.unwrap_or_default();
        Ok(Attachment {
            container_id: ContainerId::new(container_id)?,
            if_name: LinkName::new(name.as_str()).map_err(|_| Error::InterfaceName { name })?,
            pod: PodArgs::parse(&self.text("CNI_ARGS")?.unwrap_or_default())?,
        })
    }
}
