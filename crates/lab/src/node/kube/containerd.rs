//! containerd's configuration, as the EKS images have it where that matters.

use std::fs;
use std::path::{Path, PathBuf};

use super::{CONTAINERD, REGISTRY, SOCKET, installed};
use crate::error::{Error, IoContext as _};
use crate::image::registry::PORT;
use crate::image::{self, PAUSE, Programs};
use crate::mounts::on_disk;
use crate::node::ServiceSpec;
use crate::place::Place;

/// `restrict_oom_score_adj`: without CAP_SYS_RESOURCE no process may lower its score, and runc fails
/// if it is told to. Snapshotters that this file system cannot have are left out, or each start
/// complains about them.
fn config() -> String {
    format!(
        r#"version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
  "io.containerd.tracing.processor.v1.otlp",
  "io.containerd.internal.v1.tracing",
]

[grpc]
  address = "{SOCKET}"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  restrict_oom_score_adj = true
  disable_hugetlb_controller = true
  tolerate_missing_hugetlb_controller = true

  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "/etc/containerd/certs.d"

  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/opt/cni/bin"
    conf_dir = "/etc/cni/net.d"

  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"

    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"

      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
"#
    )
}

/// The node's own registry stands for all: an image that it does not have is "not found" at once,
/// where asking the internet would take until a timeout.
fn registries() -> String {
    let own = format!("http://127.0.0.1:{PORT}");
    format!("server = \"{own}\"\n\n[host.\"{own}\"]\n  capabilities = [\"pull\", \"resolve\"]\n")
}

/// Writes the configuration to a node's disk.
pub(super) fn write(disk: &Path) -> Result<(), Error> {
    let dir = on_disk(disk, "/etc/containerd");
    fs::create_dir_all(&dir).at(&dir)?;
    let path = dir.join("config.toml");
    fs::write(&path, config()).at(&path)?;
    let all = dir.join("certs.d/_default");
    fs::create_dir_all(&all).at(&all)?;
    let path = all.join("hosts.toml");
    fs::write(&path, registries()).at(&path)
}

/// The registry as a service of a node.
pub(super) fn registry(place: &Place, programs: &Programs) -> ServiceSpec {
    let stores = [image::loaded(place), programs.store()];
    let stores = stores.map(|dir| dir.to_string_lossy().into_owned());
    let args = ["lab", "registry"].map(str::to_owned).into_iter();
    let args = args.chain(stores).collect();
    super::service(REGISTRY, programs.branchline.clone(), args)
}

/// containerd as a service of a node: the distribution's, or the one in `dir`.
pub(super) fn service(dir: Option<&Path>) -> Result<ServiceSpec, Error> {
    installed("runc")?;
    let program = match dir {
        None => installed("containerd")?,
        Some(dir) => given(dir)?,
    };
    let args = vec!["--config".into(), "/etc/containerd/config.toml".into()];
    let mut service = super::service(CONTAINERD, program, args);
    if let Some(dir) = dir {
        // It looks for its shim there.
        let path = format!("{}:{}", dir.display(), super::PATH);
        service.env.insert("PATH".to_owned(), path);
    }
    Ok(service)
}

/// The containerd in a directory that must have its shim too.
fn given(dir: &Path) -> Result<PathBuf, Error> {
    let programs = ["containerd", "containerd-shim-runc-v2"].into_iter();
    let missing: Vec<&str> = programs.filter(|p| !dir.join(p).is_file()).collect();
    if missing.is_empty() {
        return Ok(dir.join("containerd"));
    }
    Err(Error::NoContainerd {
        dir: dir.to_owned(),
        missing: missing.join(", "),
    })
}
