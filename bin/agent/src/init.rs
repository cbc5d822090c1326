//! The init container: plugins on the node, and the settings that only a privileged container may
//! write.
//!
//! The agent's own container sees `/proc/sys` read-only, so whatever the node's kernel needs to be
//! told is told here, once per start of the pod. What is as it should be is not written again.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use ec2::imds::Imds;
use kernel::{NetNs, Socket, sysctl};
use nodenet::LinkName;
use settings::Settings;

use crate::install;
use crate::repair::loose_source_check;

/// The reference plugins lie in this directory beside the agent.
const REFERENCE: &str = "cni";
/// Instance metadata may answer late while a node boots; after this the pod's restart goes on.
const METADATA_WITHIN: Duration = Duration::from_secs(30);

/// Does all of it; stops at the first failure.
pub(crate) fn run(settings: &Settings) -> anyhow::Result<()> {
    let program = std::env::current_exe().context("where this program lies")?;
    let beside = program.parent().context("this program has no directory")?;
    copy_plugins(beside, &program, &settings.paths.cni_bin)?;
    let link = primary_link()?;
    let (key, value) = loose_source_check(&link);
    set(&key, &value)?;
    let early_demux = if settings.disable_tcp_early_demux {
        "0"
    } else {
        "1"
    };
    set(EARLY_DEMUX, early_demux)
}

const EARLY_DEMUX: &str = "ipv4/tcp_early_demux";

/// Copies every plugin beside `program`, and those in `cni/` beside it, to the node.
fn copy_plugins(beside: &Path, program: &Path, to: &Path) -> anyhow::Result<()> {
    let mut plugins = programs(beside, program)?;
    let reference = beside.join(REFERENCE);
    if reference.is_dir() {
        plugins.extend(programs(&reference, program)?);
    }
    if !plugins.iter().any(|path| path.ends_with(install::PLUGIN)) {
        bail!(
            "no {} beside {}: is this the agent's image?",
            install::PLUGIN,
            program.display()
        );
    }
    for plugin in plugins {
        let name = plugin.file_name().context("a plugin without a name")?;
        let content = fs::read(&plugin).with_context(|| format!("reading {}", plugin.display()))?;
        if install::put(&to.join(name), &content, 0o755)? {
            tracing::info!(plugin = %to.join(name).display(), "installed");
        }
    }
    Ok(())
}

/// The executable files of a directory, `program` itself left out, in a fixed order.
fn programs(dir: &Path, program: &Path) -> anyhow::Result<Vec<PathBuf>> {
    use std::os::unix::fs::PermissionsExt as _;
    let reading = || format!("listing {}", dir.display());
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).with_context(reading)? {
        let path = entry.with_context(reading)?.path();
        let facts = fs::metadata(&path).with_context(|| format!("{}", path.display()))?;
        if facts.is_file() && facts.permissions().mode() & 0o111 != 0 && path != program {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// The name of the link that has the primary interface's MAC.
fn primary_link() -> anyhow::Result<LinkName> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let mac = runtime.block_on(primary_mac())?;
    let mac: vpc::facts::Mac = mac.parse()?;
    let mac = nodenet::Mac(mac.0);
    let link = Socket::open()?.link_by_mac(mac)?.with_context(|| {
        format!(
            "no link has the primary interface's MAC {mac}: does this container run in the \
             node's own network namespace (hostNetwork)?"
        )
    })?;
    Ok(link.link.name)
}

async fn primary_mac() -> anyhow::Result<String> {
    let imds = Imds::from_env()?;
    let started = Instant::now();
    loop {
        match imds.primary_mac().await {
            Ok(mac) => return Ok(mac),
            Err(error) if started.elapsed() > METADATA_WITHIN => {
                return Err(error).context("the primary interface is not known");
            }
            Err(error) => tracing::warn!(%error, "instance metadata is asked again"),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Writes a setting of the node unless it is so already. A kernel without early demux needs none.
fn set(key: &str, value: &str) -> anyhow::Result<()> {
    let here = NetNs::current()?;
    match sysctl::read(&here, key) {
        Ok(now) if now == value => return Ok(()),
        Err(error) if key == EARLY_DEMUX && error.is_absent() => return Ok(()),
        _ => {}
    }
    sysctl::write(&here, key, value).with_context(|| {
        format!("net/{key} cannot be set to {value}: is this container privileged?")
    })?;
    tracing::info!(key, value, "set");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn program(path: &Path, content: &str) {
        fs::write(path, content).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn plugins_are_copied_and_nothing_else() {
        let image = tempfile::tempdir().unwrap();
        let node = tempfile::tempdir().unwrap();
        let (app, bin) = (image.path(), node.path().join("bin"));
        let agent = app.join("branchline-agent");
        fs::create_dir(app.join("cni")).unwrap();
        program(&agent, "agent");
        program(&app.join("cni/portmap"), "portmap");
        fs::write(app.join("10-aws.conflist"), "{}").unwrap();

        let error = copy_plugins(app, &agent, &bin).unwrap_err();
        assert!(
            error.to_string().starts_with("no aws-cni beside"),
            "{error}"
        );

        program(&app.join("aws-cni"), "plugin");
        copy_plugins(app, &agent, &bin).unwrap();
        let names = |dir: &Path| {
            let entries = fs::read_dir(dir).unwrap();
            let mut names: Vec<String> = entries
                .map(|e| e.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        };
        assert_eq!(names(&bin), ["aws-cni", "portmap"]);
        let mode = fs::metadata(bin.join("portmap"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o755);

        // The same content is not written again; another one is.
        let written = || {
            fs::metadata(bin.join("aws-cni"))
                .unwrap()
                .modified()
                .unwrap()
        };
        let before = written();
        copy_plugins(app, &agent, &bin).unwrap();
        assert_eq!(written(), before);
        program(&app.join("aws-cni"), "newer plugin");
        copy_plugins(app, &agent, &bin).unwrap();
        assert_eq!(
            fs::read_to_string(bin.join("aws-cni")).unwrap(),
            "newer plugin"
        );
    }

    #[test]
    fn a_place_that_cannot_be_written_is_named() {
        let image = tempfile::tempdir().unwrap();
        let agent = image.path().join("branchline-agent");
        program(&image.path().join("aws-cni"), "plugin");
        let file = image.path().join("file");
        fs::write(&file, "").unwrap();
        let error = copy_plugins(image.path(), &agent, &file.join("bin")).unwrap_err();
        assert!(error.to_string().contains("file/bin"), "{error:#}");
    }
}
