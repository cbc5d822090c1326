//! The images of a lab, and what each is made of.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Map, Value};

use super::error::{At as _, ImageError};
use super::layer::Tree;
use super::name::ImageName;
use super::store::{CONFIG, Descriptor, LAYER, MANIFEST, Manifest, Store, json};
use super::{AWS_NODE, NGINX, PAUSE, Programs, TOOLS};
use crate::cluster::{coredns_image, kube_proxy_image};

/// An image that can be made.
#[derive(Debug)]
pub(super) struct Definition {
    pub(super) names: Vec<ImageName>,
    files: Tree,
    config: Config,
}

/// How a container of the image runs.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Config {
    #[serde(skip_serializing_if = "str::is_empty")]
    user: &'static str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    entrypoint: &'static [&'static str],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    cmd: &'static [&'static str],
    env: [&'static str; 1],
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    exposed_ports: BTreeMap<&'static str, Map<String, Value>>,
}

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// All images. Nothing is read but the names of directories.
pub(super) fn all(programs: &Programs) -> Result<Vec<Definition>, ImageError> {
    let define = |names: &[&str], files: Tree, config: Config| {
        Ok::<_, ImageError>(Definition {
            names: names.iter().map(|n| n.parse()).collect::<Result<_, _>>()?,
            files,
            config: Config {
                env: [PATH],
                ..config
            },
        })
    };
    let pause = Config {
        user: "65535:65535",
        entrypoint: &["/pause"],
        ..Config::default()
    };
    let coredns = Config {
        entrypoint: &["/coredns"],
        ..Config::default()
    };
    let proxy = Config {
        cmd: &["kube-proxy"],
        ..Config::default()
    };
    let aws_node = Config {
        cmd: &["/app/branchline-agent", "addresses"],
        ..Config::default()
    };
    let tools = Config {
        // A command, not an entry point: a pod's `args` alone replace it.
        cmd: &["branchline", "lab", "listen", "http/80", "http/8080"],
        exposed_ports: ["80/tcp", "8080/tcp"].map(|p| (p, Map::new())).into(),
        ..Config::default()
    };
    let bin = &programs.kubernetes;
    let (dns_name, proxy_name) = (
        coredns_image(&programs.version),
        kube_proxy_image(&programs.version),
    );
    Ok(vec![
        define(
            &[PAUSE],
            Tree::default().program("/pause", &bin.join("pause")),
            pause,
        )?,
        define(
            &[&dns_name],
            base().program("/coredns", &bin.join("coredns")),
            coredns,
        )?,
        define(&[&proxy_name], kube_proxy(bin), proxy)?,
        define(&[AWS_NODE], agent(programs), aws_node)?,
        define(&[TOOLS, NGINX], shell(&programs.branchline), tools)?,
    ])
}

/// What every program may look for: users, the order of name look-ups, who is trusted.
fn base() -> Tree {
    Tree::default()
        .dir("/tmp", 0o1777)
        .dir("/root", 0o700)
        .dir("/proc", 0o555)
        .dir("/sys", 0o555)
        .dir("/run", 0o755)
        .link("/var/run", "/run")
        .text(
            "/etc/passwd",
            "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
        )
        .text("/etc/group", "root:x:0:\nnogroup:x:65534:\n")
        .text("/etc/nsswitch.conf", "hosts: files dns\n")
        .copy(
            "/etc/ssl/certs/ca-certificates.crt",
            Path::new("/etc/ssl/certs/ca-certificates.crt"),
        )
}

/// A shell, a client, and what an operator types in a container.
fn with_shell(tree: Tree) -> Tree {
    tree.busybox("/bin/busybox", Path::new("/bin/busybox"))
        .program("/bin/bash", Path::new("/bin/bash"))
        .program("/usr/bin/curl", Path::new("/usr/bin/curl"))
        .program("/usr/sbin/ip", Path::new("/bin/ip"))
        .program("/usr/bin/ss", Path::new("/bin/ss"))
        .link("/usr/bin/env", "/bin/busybox")
}

fn shell(branchline: &Path) -> Tree {
    with_shell(base()).our_program("/usr/local/bin/branchline", branchline)
}

fn agent(programs: &Programs) -> Tree {
    let mut tree = with_shell(base())
        .our_program(
            "/app/branchline-agent",
            &programs.beside("branchline-agent"),
        )
        .our_program("/app/aws-cni", &programs.beside("aws-cni"))
        .program("/usr/sbin/nft", Path::new("/usr/sbin/nft"));
    for plugin in REFERENCE_PLUGINS {
        let from = Path::new("/usr/lib/cni").join(plugin);
        tree = tree.program(&format!("/app/cni/{plugin}"), &from);
    }
    tree
}

/// The reference plugins that the agent's init container installs.
const REFERENCE_PLUGINS: [&str; 7] = [
    "bandwidth",
    "bridge",
    "host-local",
    "loopback",
    "portmap",
    "ptp",
    "tuning",
];

/// The names under which kube-proxy calls the one program of iptables.
const IPTABLES: [&str; 6] = [
    "iptables",
    "iptables-save",
    "iptables-restore",
    "ip6tables",
    "ip6tables-save",
    "ip6tables-restore",
];

fn kube_proxy(bin: &Path) -> Tree {
    let mut tree = base()
        .program("/usr/local/bin/kube-proxy", &bin.join("kube-proxy"))
        .program("/usr/sbin/nft", Path::new("/usr/sbin/nft"))
        .program(
            "/usr/sbin/xtables-nft-multi",
            Path::new("/usr/sbin/xtables-nft-multi"),
        )
        .program("/usr/sbin/conntrack", Path::new("/usr/sbin/conntrack"))
        .plugins(&extensions());
    for name in IPTABLES {
        tree = tree.link(&format!("/usr/sbin/{name}"), "xtables-nft-multi");
    }
    tree
}

/// Where iptables keeps its matches and targets: below a directory named after the machine's kind.
fn extensions() -> PathBuf {
    let dirs = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let mut found = dirs
        .map(|d| d.path().join("xtables"))
        .filter(|p| p.is_dir());
    // Without one, the path that Debian has is reported as missing.
    found
        .next()
        .unwrap_or_else(|| format!("/usr/lib/{}-linux-gnu/xtables", std::env::consts::ARCH).into())
}

#[derive(Serialize)]
struct ImageConfig<'a> {
    architecture: &'static str,
    os: &'static str,
    config: &'a Config,
    rootfs: RootFs,
}

#[derive(Serialize)]
struct RootFs {
    #[serde(rename = "type")]
    kind: &'static str,
    diff_ids: Vec<String>,
}

impl Definition {
    /// What the image is made of, or what of it is missing.
    pub(super) fn inputs(&self) -> Result<String, ImageError> {
        let image = self.names.first().map(ToString::to_string);
        if let Some((path, source)) = self.files.missing() {
            let system = ["/usr", "/bin", "/etc"];
            let packaged = system.iter().any(|dir| path.starts_with(dir));
            return Err(ImageError::Missing {
                image: image.unwrap_or_default(),
                path: path.to_owned(),
                source,
                next: if packaged {
                    "scripts/deps.sh installs it"
                } else {
                    "make build, or make debug, makes it"
                },
            });
        }
        // The configuration is part of it: a new command is a new image.
        Ok(format!("{} {:?}", self.files.inputs()?, self.config))
    }

    /// Makes the image and gives it its names.
    pub(super) fn make(&self, store: &Store, inputs: &str) -> Result<(), ImageError> {
        let layer = store.put(LAYER, |out| self.files.write(out))?;
        let config = ImageConfig {
            architecture: architecture(),
            os: "linux",
            config: &self.config,
            rootfs: RootFs {
                kind: "layers",
                diff_ids: vec![layer.digest.to_string()],
            },
        };
        let put = |media_type, bytes: Vec<u8>| -> Result<Descriptor, ImageError> {
            store.put(media_type, |out| out.write_all(&bytes).at(store.dir()))
        };
        let manifest = Manifest {
            schema_version: 2,
            media_type: MANIFEST.to_owned(),
            config: put(CONFIG, json(&config)?)?,
            layers: vec![layer],
        };
        let manifest = put(MANIFEST, json(&manifest)?)?;
        store.tag(&self.names, &manifest, Some(inputs))
    }
}

/// The processor's name as images have it.
pub(super) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
