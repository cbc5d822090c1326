//! The stdin half of a request: the network configuration, with upstream's keys and defaults.

use std::time::Duration;

use nodenet::VethPrefix;
use serde_json::Value;

use crate::json::Object;
use crate::request::is_identifier;
use crate::{CniResult, ContainerId, Error, SpecVersion};

/// How long the plugin waits for the address daemon where neither the configuration
/// (`daemonWait`) nor the environment says otherwise: longer than attaching an interface takes on
/// EC2, shorter than the runtime's patience.
pub const DEFAULT_DAEMON_WAIT: Duration = Duration::from_secs(10);

/// Pods get this MTU where the configuration has none or one that is not usable.
const DEFAULT_MTU: u32 = nodenet::layout::ENI_MTU;

/// The smallest MTU that upstream takes from `mtu`.
const MIN_MTU: u32 = 576;

/// The annotation, and its value, that ask for one interface per network card.
const MULTI_NIC_ANNOTATION: &str = "k8s.amazonaws.com/nicConfig";
const MULTI_NIC_VALUE: &str = "multi-nic-attachment";

/// The configuration of one network for one call.
#[derive(Clone, Debug)]
pub struct NetConf {
    /// `cniVersion`; 0.1.0 where it is absent.
    pub version: SpecVersion,
    /// `name` of the network.
    pub name: String,
    /// `vethPrefix`, default `eni`.
    pub veth_prefix: VethPrefix,
    /// `mtu`, bytes. Written as a string by upstream; a number is taken too. What is not a number
    /// of 576 to 9001 becomes 9001.
    pub mtu: u32,
    /// `podSGEnforcingMode` is `standard`; anything else is strict.
    pub standard_security_groups: bool,
    /// `pluginLogFile` and `pluginLogLevel`.
    pub log: LogConf,
    /// The pod's annotations (`runtimeConfig`) ask for one interface per network card.
    pub multi_nic: bool,
    /// `daemonWait` (ours): whole seconds, or a string such as `10s` or `500ms`.
    pub daemon_wait: Duration,
    /// `prevResult`.
    pub prev_result: Option<PrevResult>,
    /// `cni.dev/valid-attachments`; `None` where absent.
    pub valid_attachments: Option<Vec<ValidAttachment>>,
}

/// Where the plugin's log goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogConf {
    /// A path; empty or `stderr` is standard error. Upstream's entry point refuses `stdout`, which
    /// carries the result.
    pub file: String,
    /// `debug`, `info`, `warn`, `error`, `fatal`, in any case; anything else is debug.
    pub level: String,
}

/// The result of the plugins that ran before, in its parsed and in its original form.
#[derive(Clone, Debug)]
pub struct PrevResult {
    /// What it says.
    pub parsed: CniResult,
    /// As it came.
    pub raw: Value,
}

/// An attachment that GC must leave alone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ValidAttachment {
    /// `containerID`.
    pub container_id: String,
    /// `ifname`.
    pub if_name: String,
}

impl NetConf {
    /// Parses a configuration totally: every key that is known has the right type or the request
    /// fails with the key's name. Unknown keys are accepted (specification §1).
    pub fn parse(stdin: &[u8]) -> Result<Self, Error> {
        let root = Object::parse(stdin)?;
        let version = version_of(&root)?;
        let name = root.text("name")?.unwrap_or_default();
        if name.is_empty() {
            return Err(Error::NetworkNameMissing);
        }
        if !is_identifier(&name) {
            return Err(Error::NetworkName { name });
        }
        Ok(Self {
            version,
            name,
            veth_prefix: veth_prefix(&root)?,
            mtu: mtu(&root)?,
            standard_security_groups: root.text("podSGEnforcingMode")?.as_deref()
                == Some("standard"),
            log: LogConf {
                file: root.text("pluginLogFile")?.unwrap_or_default(),
                level: root.text("pluginLogLevel")?.unwrap_or_default(),
            },
            multi_nic: multi_nic(&root)?,
            daemon_wait: daemon_wait(&root)?,
            prev_result: prev_result(&root, version)?,
            valid_attachments: valid_attachments(&root)?,
        })
    }

    /// The version of a configuration that need not have anything else, for VERSION and for error
    /// objects.
    pub fn version_of(stdin: &[u8]) -> Result<SpecVersion, Error> {
        version_of(&Object::parse(stdin)?)
    }
}

fn version_of(root: &Object) -> Result<SpecVersion, Error> {
    match root.text("cniVersion")?.as_deref() {
        None | Some("") => Ok(SpecVersion::V0_1_0),
        Some(version) => version.parse(),
    }
}

fn veth_prefix(root: &Object) -> Result<VethPrefix, Error> {
    match root.text("vethPrefix")? {
        None => Ok(VethPrefix::default()),
        Some(prefix) => VethPrefix::new(prefix.as_str()).map_err(|_| Error::VethPrefix { prefix }),
    }
}

fn mtu(root: &Object) -> Result<u32, Error> {
    let mtu = match root.get("mtu") {
        Some(Value::Number(number)) => number.as_u64().and_then(|mtu| u32::try_from(mtu).ok()),
        _ => root.text("mtu")?.and_then(|mtu| mtu.parse().ok()),
    };
    Ok(mtu
        .filter(|mtu| (MIN_MTU..=DEFAULT_MTU).contains(mtu))
        .unwrap_or(DEFAULT_MTU))
}

fn multi_nic(root: &Object) -> Result<bool, Error> {
    let Some(runtime) = root.object("runtimeConfig")? else {
        return Ok(false);
    };
    let Some(annotations) = runtime.get("io.kubernetes.cri.pod-annotations") else {
        return Ok(false);
    };
    Ok(annotations
        .get(MULTI_NIC_ANNOTATION)
        .and_then(Value::as_str)
        == Some(MULTI_NIC_VALUE))
}

fn daemon_wait(root: &Object) -> Result<Duration, Error> {
    match root.get("daemonWait") {
        None => Ok(DEFAULT_DAEMON_WAIT),
        Some(Value::String(text)) => {
            parse_wait(text).ok_or_else(|| root.value_error("daemonWait", text, WAIT_EXPECTED))
        }
        Some(value) => value
            .as_u64()
            .map(Duration::from_secs)
            .filter(is_wait)
            .ok_or_else(|| root.value_error("daemonWait", &value.to_string(), WAIT_EXPECTED)),
    }
}

const WAIT_EXPECTED: &str = "1ms to 600s, such as \"10s\" or \"500ms\"";

/// Parses a wait: `10s`, `500ms`, or whole seconds. `None` if it is neither, 0, or above 600 s.
pub fn parse_wait(text: &str) -> Option<Duration> {
    let wait = match (text.strip_suffix("ms"), text.strip_suffix('s')) {
        (Some(millis), _) => Duration::from_millis(millis.parse().ok()?),
        (None, Some(seconds)) => Duration::from_secs(seconds.parse().ok()?),
        (None, None) => Duration::from_secs(text.parse().ok()?),
    };
    Some(wait).filter(is_wait)
}

fn is_wait(wait: &Duration) -> bool {
    !wait.is_zero() && *wait <= Duration::from_secs(600)
}

fn prev_result(root: &Object, version: SpecVersion) -> Result<Option<PrevResult>, Error> {
    let Some(raw) = root.get("prevResult") else {
        return Ok(None);
    };
    let object = root.object("prevResult")?;
    let parsed = object
        .map(|object| CniResult::from_object(&object, version))
        .transpose()?;
    Ok(parsed.map(|parsed| PrevResult {
        parsed,
        raw: raw.clone(),
    }))
}

fn valid_attachments(root: &Object) -> Result<Option<Vec<ValidAttachment>>, Error> {
    const KEY: &str = "cni.dev/valid-attachments";
    if root.get(KEY).is_none() {
        return Ok(None);
    }
    let each = root.objects(KEY)?;
    let parse = |entry: &Object| -> Result<ValidAttachment, Error> {
        let container_id = entry.text("containerID")?.unwrap_or_default();
        // A malformed entry could be one that lives: refuse the whole list.
        let valid = ContainerId::new(container_id.as_str());
        valid.map_err(|_| entry.value_error("containerID", &container_id, "a container id"))?;
        Ok(ValidAttachment {
            container_id,
            if_name: entry.text("ifname")?.unwrap_or_default(),
        })
    };
    each.iter().map(parse).collect::<Result<_, _>>().map(Some)
}
