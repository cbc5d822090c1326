//! The plugin and its network list on the node: put there when pods can be served, which is when
//! the runtime reports the node's network as ready.
//!
//! The list names only plugins that are really there. Upstream's also has `egress-cni` (the other
//! address family, switched off by default) and `portmap`; the first is not built, the second is
//! taken in when the runtime's directory has it. A list from an earlier start stays while the agent
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
    let list = serde_json::to_vec_pretty(&list(settings)).context("writing the network list")?;
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
}
