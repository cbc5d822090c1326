//! The plugin and its network list on the node: put there when pods can be served, which is when
//! the runtime reports the node's network as ready.
//!
//! The list names only plugins that are really there. Upstream's also has `egress-cni` (the other
//! address family, switched off by default) and `portmap`; the first is not built, the second is
//! taken in when the runtime's directory has it. A list of the operator's own (the chart's
//! `cniConfig`) lies beside the agent and is installed instead, with upstream's placeholders filled
//! in. A list from an earlier start stays while the agent
//! starts again: ADDs then wait and are told why, instead of the node turning NotReady at each
//! restart. It is removed when the start is refused for good.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde_json::{Value, json};
use settings::Settings;

/// The plugin's name.
pub(crate) const PLUGIN: &str = "aws-cni";
const EGRESS: &str = "egress-cni";
const LIST: &str = "10-aws.conflist";

/// Puts plugin and list on the node.
pub(crate) fn install(settings: &Settings) -> anyhow::Result<()> {
    let bin = &settings.paths.cni_bin;
    let target = bin.join(PLUGIN);
    match beside_us(PLUGIN) {
        Some(source) => {
            let content = fs::read(&source).context("reading the plugin")?;
            put(&target, &content, 0o755)?;
        }
        None if target.exists() => tracing::warn!(
            plugin = %target.display(),
            "no plugin lies beside the agent; the one that is installed stays"
        ),
        None => anyhow::bail!(
            "no plugin: neither beside the agent nor at {}; the network list is not installed",
            target.display()
        ),
    }
    let list = match beside_us(LIST) {
        Some(own) => own_list(&own, settings)?,
        None => list(settings),
    };
    let list = serde_json::to_vec_pretty(&list).context("writing the network list")?;
    put(&settings.paths.cni_conf.join(LIST), &list, 0o644)?;
    Ok(())
}

/// Takes the list away, so that the runtime sends no pods here.
pub(crate) fn withdraw(settings: &Settings) {
    let path = settings.paths.cni_conf.join(LIST);
    match fs::remove_file(&path) {
        Ok(()) => {
            tracing::warn!(path = %path.display(), "network list removed: pods cannot be served")
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => tracing::error!(path = %path.display(), %error, "network list not removed"),
    }
}

fn beside_us(name: &str) -> Option<PathBuf> {
    let beside = std::env::current_exe().ok()?.with_file_name(name);
    beside.exists().then_some(beside)
}

/// The operator's list. `egress-cni`, which is in every list made from upstream's, is left out where
/// it is not on the node, as from ours. No other plugin is: it may be one that protects pods.
fn own_list(path: &Path, settings: &Settings) -> anyhow::Result<Value> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let (text, name) = (fill_in(text, settings), path.display());
    let mut list: Value = serde_json::from_str(&text)
        .with_context(|| format!("{name} (cniConfig.fileContents) is not JSON"))?;
    let plugins = list["plugins"]
        .as_array_mut()
        .with_context(|| format!("{name} (cniConfig.fileContents) has no array \"plugins\""))?;
    let bin = &settings.paths.cni_bin;
    plugins.retain(|plugin| plugin["type"] != EGRESS || bin.join(EGRESS).exists());
    for plugin in plugins.iter() {
        let Some(kind) = plugin["type"].as_str().filter(|kind| !kind.is_empty()) else {
            anyhow::bail!("{name} (cniConfig.fileContents): no \"type\" in the plugin {plugin}");
        };
        if !bin.join(kind).exists() {
            let bin = bin.display();
            anyhow::bail!("{name} (cniConfig.fileContents): the plugin {kind} is not in {bin}");
        }
    }
    if !plugins.iter().any(|plugin| plugin["type"] == PLUGIN) {
        anyhow::bail!("{name} (cniConfig.fileContents) has no plugin of type {PLUGIN}");
    }
    let filled = list.to_string();
    if let Some((_, rest)) = filled.split_once("\"__") {
        let placeholder = rest.split('"').next().unwrap_or_default();
        anyhow::bail!("{name} (cniConfig.fileContents): nothing is known for \"__{placeholder}\"");
    }
    Ok(list)
}

fn fill_in(text: String, settings: &Settings) -> String {
    let mtu = settings.network.pod_mtu.to_string();
    [
        ("__VETHPREFIX__", settings.network.veth_prefix.as_str()),
        ("__MTU__", &mtu),
        ("__PODSGENFORCINGMODE__", "strict"),
        ("__PLUGINLOGFILE__", &settings.logs.plugin_file),
        ("__PLUGINLOGLEVEL__", &settings.logs.plugin_level),
    ]
    .into_iter()
    .fold(text, |text, (placeholder, value)| {
        // Between quotes, as it stands in the file.
        let value = Value::from(value).to_string();
        text.replace(placeholder, value.trim_matches('"'))
    })
}

fn list(settings: &Settings) -> Value {
    let mut plugins = vec![json!({
        "name": "aws-cni",
        "type": PLUGIN,
        "vethPrefix": settings.network.veth_prefix,
        "mtu": settings.network.pod_mtu.to_string(),
        "podSGEnforcingMode": "strict",
        "pluginLogFile": settings.logs.plugin_file,
        "pluginLogLevel": settings.logs.plugin_level,
        "capabilities": {"io.kubernetes.cri.pod-annotations": true},
    })];
    if settings.paths.cni_bin.join("portmap").exists() {
        plugins.push(json!({
            "type": "portmap",
            "capabilities": {"portMappings": true},
            "snat": true,
        }));
    }
    json!({
        "cniVersion": "0.4.0",
        "name": "aws-cni",
        "disableCheck": true,
        "plugins": plugins,
    })
}

/// Writes a file beside its place and renames it: nobody ever sees half of it. What is the same
/// already is left alone, so that the runtime does not reload for nothing; returns whether it was
/// not.
pub(crate) fn put(path: &Path, content: &[u8], mode: u32) -> anyhow::Result<bool> {
    let same_mode = |path| {
        let mode_of = |facts: fs::Metadata| facts.permissions().mode() & 0o777;
        fs::metadata(path).is_ok_and(|facts| mode_of(facts) == mode)
    };
    if same_mode(path) && fs::read(path).is_ok_and(|there| there == content) {
        return Ok(false);
    }
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).with_context(|| format!("{}", dir.display()))?;
    }
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let temporary = PathBuf::from(temporary);
    let write = || -> std::io::Result<()> {
        let mut file = fs::File::create(&temporary)?;
        file.write_all(content)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().with_context(|| format!("{} cannot be installed", path.display()))?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_names_only_plugins_that_are_there() {
        let dir = tempfile::tempdir().unwrap();
        let mut settings = Settings::default();
        settings.paths.cni_bin = dir.path().to_owned();
        let types = |list: Value| -> Vec<String> {
            let plugins = list["plugins"].as_array().unwrap().clone();
            plugins
                .iter()
                .map(|p| p["type"].as_str().unwrap().to_owned())
                .collect()
        };
        assert_eq!(types(list(&settings)), ["aws-cni"]);
        fs::write(dir.path().join("portmap"), "").unwrap();
        assert_eq!(types(list(&settings)), ["aws-cni", "portmap"]);
        let list = list(&settings);
        assert_eq!(
            (&list["cniVersion"], &list["name"]),
            (&json!("0.4.0"), &json!("aws-cni"))
        );
        assert_eq!(list["plugins"][0]["mtu"], json!("9001"));
    }

    #[test]
    fn a_list_of_ones_own_is_filled_in() {
        let dir = tempfile::tempdir().unwrap();
        let mut settings = Settings::default();
        settings.paths.cni_bin = dir.path().to_owned();
        settings.network.pod_mtu = 1400;
        let own = dir.path().join(LIST);
        let read = |content: &str| {
            fs::write(&own, content).unwrap();
            own_list(&own, &settings).map_err(|error| format!("{error:#}"))
        };
        let upstreams = r#"{"cniVersion":"1.0.0","name":"aws-cni","mine":{"kept":true},"plugins":[
            {"type":"aws-cni","vethPrefix":"__VETHPREFIX__","mtu":"__MTU__","pluginLogFile":"__PLUGINLOGFILE__"},
            {"type":"egress-cni","enabled":"__EGRESSPLUGINENABLED__"},{"type":"bandwidth"}]}"#;
        assert!(
            read(upstreams)
                .unwrap_err()
                .contains("the plugin aws-cni is not in")
        );
        fs::write(dir.path().join(PLUGIN), "").unwrap();
        assert!(
            read(upstreams)
                .unwrap_err()
                .contains("the plugin bandwidth is not in")
        );
        fs::write(dir.path().join("bandwidth"), "").unwrap();
        let list = read(upstreams).unwrap();
        assert_eq!(
            (&list["mine"]["kept"], &list["cniVersion"]),
            (&json!(true), &json!("1.0.0"))
        );
        assert_eq!(
            list["plugins"],
            json!([
                {"type": "aws-cni", "vethPrefix": "eni", "mtu": "1400",
                 "pluginLogFile": "/var/log/aws-routed-eni/plugin.log"},
                {"type": "bandwidth"}
            ])
        );
        fs::write(dir.path().join("egress-cni"), "").unwrap();
        assert!(
            read(upstreams)
                .unwrap_err()
                .contains("\"__EGRESSPLUGINENABLED__\"")
        );
        assert!(read("{").unwrap_err().contains("is not JSON"));
        assert!(read("{}").unwrap_err().contains("no array"));
        let unnamed = r#"{"plugins":[{"type":"aws-cni"},{"name":"guard"}]}"#;
        assert!(read(unnamed).unwrap_err().contains("no \"type\""));
        let others = r#"{"plugins":[{"type":"bandwidth"}]}"#;
        assert!(
            read(others)
                .unwrap_err()
                .contains("no plugin of type aws-cni")
        );
    }
}
