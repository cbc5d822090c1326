//! A container runtime's half of CNI: find the configuration, execute the plugins.
//!
//! What containerd's libcni does, no more: the first configuration in the directory by name, every
//! plugin of the list in order (DEL in reverse), each fed with the result before it; environment
//! and standard input as the specification says (CNI specification 1.1.0, "Protocol").

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Map, Value, json};

use crate::error::{Error, IoContext as _};
use crate::procs::Procs;

/// Where the runtime looks for configurations.
pub(super) const CONF_DIR: &str = "/etc/cni/net.d";
/// Where the runtime looks for plugins.
pub(super) const BIN_DIR: &str = "/opt/cni/bin";

/// Why the network of a pod could not be made, checked or removed.
#[derive(Debug, thiserror::Error)]
pub(super) enum CniError {
    #[error(
        "the node is not ready: there is no CNI configuration in {CONF_DIR} yet (is the agent up?)"
    )]
    NoConfig,
    #[error("{}: {why}", path.display())]
    Config { path: PathBuf, why: String },
    #[error("plugin '{plugin}' is not in {BIN_DIR}")]
    NoPlugin { plugin: String },
    #[error("{verb} by plugin '{plugin}' failed: {message} (code {code})")]
    Plugin {
        verb: &'static str,
        plugin: String,
        code: u64,
        message: String,
    },
    #[error("{verb} by plugin '{plugin}' failed without an error object: {text}")]
    Garbled {
        verb: &'static str,
        plugin: String,
        text: String,
    },
    #[error(transparent)]
    Lab(#[from] Error),
}

/// A network configuration list.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ConfList {
    name: String,
    version: String,
    disable_check: bool,
    plugins: Vec<Map<String, Value>>,
}

/// One attachment of a pod to the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Attachment {
    pub(super) container: String,
    /// Empty on a DEL after the namespace is gone.
    pub(super) netns: PathBuf,
    pub(super) args: String,
}

/// "Try again later" (CNI specification, "Error").
const TRY_AGAIN: u64 = 11;

impl CniError {
    /// Whether the plugin asked for another attempt.
    pub(super) fn asks_to_try_again(&self) -> bool {
        matches!(
            self,
            Self::Plugin {
                code: TRY_AGAIN,
                ..
            }
        )
    }
}

/// The interface that every pod gets.
const IFNAME: &str = "eth0";

impl ConfList {
    /// Reads the configuration that a runtime would use.
    pub(super) fn load() -> Result<Self, CniError> {
        let path = first_config(Path::new(CONF_DIR))?.ok_or(CniError::NoConfig)?;
        let text = std::fs::read_to_string(&path).at(&path)?;
        let wrong = |why: String| CniError::Config {
            path: path.clone(),
            why,
        };
        let value: Value = serde_json::from_str(&text).map_err(|e| wrong(e.to_string()))?;
        Self::parse(value).map_err(|why| wrong(why.to_owned()))
    }

    fn parse(value: Value) -> Result<Self, &'static str> {
        let Value::Object(mut object) = value else {
            return Err("not a JSON object");
        };
        let text = |o: &Map<String, Value>, key: &str| o.get(key)?.as_str().map(str::to_owned);
        let name = text(&object, "name")
            .filter(|n| !n.is_empty())
            .ok_or("no name")?;
        let version = text(&object, "cniVersion").unwrap_or_else(|| "0.1.0".to_owned());
        let disable_check = match object.get("disableCheck") {
            None => false,
            Some(Value::Bool(b)) => *b,
            Some(Value::String(s)) if s == "true" || s == "false" => s == "true",
            Some(_) => return Err("disableCheck is not a boolean"),
        };
        let plugins = match object.remove("plugins") {
            Some(Value::Array(list)) => list
                .into_iter()
                .map(|p| {
                    if let Value::Object(p) = p {
                        Ok(p)
                    } else {
                        Err("a plugin is no object")
                    }
                })
                .collect::<Result<Vec<_>, _>>()?,
            // A single plugin's configuration.
            None if object.contains_key("type") => vec![object],
            _ => return Err("no list of plugins"),
        };
        if plugins
            .iter()
            .any(|p| !p.get("type").is_some_and(Value::is_string))
        {
            return Err("a plugin without a type");
        }
        Ok(Self {
            name,
            version,
            disable_check,
            plugins,
        })
    }

    /// Makes a pod's network; returns the last plugin's result.
    pub(super) fn add(&self, procs: &Procs, at: &Attachment) -> Result<Value, CniError> {
        let mut result = Value::Null;
        for plugin in &self.plugins {
            let config = self.config(plugin, Some(&result));
            result = call(procs, "ADD", plugin, &config, Some(at))?;
        }
        Ok(result)
    }

    /// Removes a pod's network. Every plugin is asked; the first failure is returned.
    pub(super) fn del(
        &self,
        procs: &Procs,
        at: &Attachment,
        result: Option<&Value>,
    ) -> Result<(), CniError> {
        let mut outcome = Ok(());
        for plugin in self.plugins.iter().rev() {
            let config = self.config(plugin, result.filter(|_| self.speaks(0, 4)));
            let done = call(procs, "DEL", plugin, &config, Some(at)).map(drop);
            outcome = outcome.and(done);
        }
        outcome
    }

    /// Asks whether a pod's network is as it was made.
    pub(super) fn check(
        &self,
        procs: &Procs,
        at: &Attachment,
        result: &Value,
    ) -> Result<(), CniError> {
        if self.disable_check || !self.speaks(0, 4) {
            return Ok(());
        }
        self.plugins.iter().try_for_each(|plugin| {
            let config = self.config(plugin, Some(result));
            call(procs, "CHECK", plugin, &config, Some(at)).map(drop)
        })
    }

    /// Asks whether pods can be attached now. Configurations before 1.1.0 cannot say.
    pub(super) fn status(&self, procs: &Procs) -> Result<(), CniError> {
        if !self.speaks(1, 1) {
            return Ok(());
        }
        self.plugins.iter().try_for_each(|plugin| {
            call(procs, "STATUS", plugin, &self.config(plugin, None), None).map(drop)
        })
    }

    /// Frees what belongs to none of the valid attachments. Configurations before 1.1.0 cannot.
    pub(super) fn gc(&self, procs: &Procs, valid: &[Attachment]) -> Result<(), CniError> {
        if !self.speaks(1, 1) {
            return Ok(());
        }
        let valid: Vec<Value> = valid
            .iter()
            .map(|a| json!({ "containerID": a.container, "ifname": IFNAME }))
            .collect();
        self.plugins.iter().try_for_each(|plugin| {
            let mut config = self.config(plugin, None);
            config.insert(
                "cni.dev/valid-attachments".into(),
                Value::Array(valid.clone()),
            );
            call(procs, "GC", plugin, &config, None).map(drop)
        })
    }

    fn speaks(&self, major: u32, minor: u32) -> bool {
        let mut parts = self
            .version
            .split('.')
            .map(|p| p.parse::<u32>().unwrap_or(0));
        (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) >= (major, minor)
    }

    /// What one plugin reads: its object with the list's name and version and the result so far.
    fn config(&self, plugin: &Map<String, Value>, prev: Option<&Value>) -> Map<String, Value> {
        let mut config = plugin.clone();
        let annotations = "io.kubernetes.cri.pod-annotations";
        let capabilities = config.remove("capabilities");
        if capabilities.is_some_and(|c| c.get(annotations) == Some(&Value::Bool(true))) {
            config.insert("runtimeConfig".into(), json!({ annotations: {} }));
        }
        config.insert("name".into(), self.name.clone().into());
        config.insert("cniVersion".into(), self.version.clone().into());
        if let Some(prev) = prev.filter(|p| !p.is_null()) {
            config.insert("prevResult".into(), prev.clone());
        }
        config
    }
}

fn first_config(dir: &Path) -> Result<Option<PathBuf>, Error> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir)
        .at(dir)?
        .filter_map(Result::ok)
        .map(|e| e.path())
        .filter(|p| {
            p.extension()
                .is_some_and(|e| e == "conflist" || e == "conf" || e == "json")
        })
        .collect();
    files.sort();
    Ok(files.into_iter().next())
}

/// Whether a configuration is there, which is what makes a node ready.
pub(super) fn is_configured() -> bool {
    first_config(Path::new(CONF_DIR)).is_ok_and(|c| c.is_some())
}

fn call(
    procs: &Procs,
    verb: &'static str,
    plugin: &Map<String, Value>,
    config: &Map<String, Value>,
    at: Option<&Attachment>,
) -> Result<Value, CniError> {
    let plugin = plugin
        .get("type")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    let program = Path::new(BIN_DIR).join(&plugin);
    if plugin.is_empty() || plugin.contains('/') || !program.exists() {
        return Err(CniError::NoPlugin { plugin });
    }
    let mut command = Command::new(&program);
    command.env_clear().env(
        "PATH",
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    );
    command.env("CNI_COMMAND", verb).env("CNI_PATH", BIN_DIR);
    if let Some(at) = at {
        command
            .env("CNI_CONTAINERID", &at.container)
            .env("CNI_NETNS", &at.netns);
        command.env("CNI_IFNAME", IFNAME).env("CNI_ARGS", &at.args);
    }
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit());
    let mut started = procs.spawn(&mut command)?;
    let input = Value::Object(config.clone()).to_string();
    if let Some(mut stdin) = started.child.stdin.take() {
        // A plugin that does not read its input will tell why on its output.
        let _ = stdin.write_all(input.as_bytes());
    }
    let mut output = String::new();
    if let Some(mut stdout) = started.child.stdout.take() {
        stdout.read_to_string(&mut output).at(&program)?;
    }
    let status = started.wait();
    let answer = serde_json::from_str::<Value>(&output);
    if status.success() {
        return match answer {
            Ok(value) => Ok(value),
            Err(_) if output.trim().is_empty() && verb != "ADD" => Ok(Value::Null),
            Err(e) => Err(CniError::Garbled {
                verb,
                plugin,
                text: format!("{e}: {output:?}"),
            }),
        };
    }
    let text = format!("{status}; it said {output:?}");
    match answer {
        Ok(error) => match (error.get("code").and_then(Value::as_u64), error.get("msg")) {
            (Some(code), Some(Value::String(msg))) => {
                let details = error
                    .get("details")
                    .and_then(Value::as_str)
                    .unwrap_or_default();
                let gap = if details.is_empty() { "" } else { ": " };
                let message = format!("{msg}{gap}{details}");
                Err(CniError::Plugin {
                    verb,
                    plugin,
                    code,
                    message,
                })
            }
            _ => Err(CniError::Garbled { verb, plugin, text }),
        },
        Err(_) => Err(CniError::Garbled { verb, plugin, text }),
    }
}

/// The pod's address in a result of any version.
pub(super) fn address(result: &Value) -> Option<std::net::Ipv4Addr> {
    let text = result.get("ips")?.get(0)?.get("address")?.as_str()?;
    text.split('/').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> Result<ConfList, &'static str> {
        ConfList::parse(serde_json::from_str(text).unwrap())
    }

    #[test]
    fn a_plugin_reads_name_version_and_the_result_before_it() {
        let list = list(
            r#"{"cniVersion":"0.4.0","name":"aws-cni","disableCheck":true,"plugins":[
               {"type":"aws-cni","mtu":"9001","capabilities":{"io.kubernetes.cri.pod-annotations":true}}]}"#,
        )
        .unwrap();
        let prev = json!({"ips":[{"address":"10.0.1.20/32"}]});
        let config = list.config(&list.plugins[0], Some(&prev));
        assert_eq!(
            Value::Object(config),
            json!({"type":"aws-cni","mtu":"9001","name":"aws-cni","cniVersion":"0.4.0",
                   "runtimeConfig":{"io.kubernetes.cri.pod-annotations":{}},"prevResult":prev})
        );
        assert!(list.speaks(0, 4) && !list.speaks(1, 1));
        assert_eq!(address(&prev), Some([10, 0, 1, 20].into()));
    }

    #[test]
    fn what_is_no_configuration_is_refused() {
        for text in [
            r"[]",
            r"{}",
            r#"{"name":"x"}"#,
            r#"{"name":"x","plugins":[{}]}"#,
        ] {
            assert!(list(text).is_err(), "{text}");
        }
    }
}
