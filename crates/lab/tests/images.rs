//! The images of a lab: made, imported by a real containerd, and run from a copy of its directory.
#![allow(
    clippy::unwrap_used,
    reason = "a helper of a test may panic as the test may"
)]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use common::{program, require_root};
use lab::image::{self, Digest, ImageError, ImageName, Programs, Store};

/// Kubernetes as `make debug` built it, with a store of the test's own.
struct Kit {
    dir: tempfile::TempDir,
    programs: Programs,
}

impl Kit {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let branchline = program("branchline");
        let target = branchline.parent().and_then(Path::parent).unwrap();
        let built = target.join("kubernetes/bin");
        assert!(built.join("pause").exists(), "run `make debug` first");
        let kubernetes = dir.path().join("bin");
        fs::create_dir_all(dir.path().join("stamps")).unwrap();
        fs::create_dir_all(&kubernetes).unwrap();
        for name in ["pause", "coredns", "kube-proxy"] {
            symlink(built.join(name), kubernetes.join(name)).unwrap();
        }
        let programs = Programs {
            branchline,
            kubernetes,
            version: "1.36.3".into(),
        };
        Self { dir, programs }
    }

    /// Puts another file in the place of one of Kubernetes' programs.
    fn replace(&self, name: &str, text: Option<&[u8]>) -> PathBuf {
        let path = self.programs.kubernetes.join(name);
        fs::remove_file(&path).unwrap();
        if let Some(text) = text {
            fs::write(&path, text).unwrap();
        }
        path
    }
}

fn name(text: &str) -> ImageName {
    text.parse().unwrap()
}

/// runc keeps its state in /run, whatever containerd is told.
const OWN_RUN: &str = "mount -t tmpfs tmpfs /run && exec containerd --config \"$1\"";

/// containerd in namespaces of its own; ended when dropped.
struct Containerd {
    child: Child,
    dir: PathBuf,
}

impl Containerd {
    fn start(dir: &Path, root: &Path) -> Self {
        fs::create_dir_all(dir).unwrap();
        let config = dir.join("config.toml");
        let text = format!(
            "version = 2\nroot = {root:?}\nstate = {:?}\ndisabled_plugins = \
             [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = {:?}\n",
            dir.join("state"),
            dir.join("sock"),
        );
        fs::write(&config, text).unwrap();
        let log = fs::File::create(dir.join("log")).unwrap();
        let child = Command::new("unshare")
            .args(["--mount", "--pid", "--net", "--ipc", "--fork"])
            .args(["--mount-proc", "--kill-child", "sh", "-c", OWN_RUN, "sh"])
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let socket = dir.join("sock");
        for _ in 0..12_000 {
            if std::os::unix::net::UnixStream::connect(&socket).is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Self {
            child,
            dir: dir.to_owned(),
        }
    }

    /// A command inside: ctr and the shim meet in /run.
    fn inside(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.first(), "--mount", "--pid", "--net"]);
        command
    }

    fn try_ctr(&self, args: &[&str]) -> Output {
        let mut command = self.inside();
        command
            .args(["ctr", "--address"])
            .arg(self.dir.join("sock"));
        command.args(["-n", "k8s.io"]).args(args).output().unwrap()
    }

    fn ctr(&self, args: &[&str]) -> String {
        let done = self.try_ctr(args);
        let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
        let log = || fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        assert!(
            done.status.success(),
            "ctr {args:?}: {}\n{}\n{}",
            text(&done.stdout),
            text(&done.stderr),
            log()
        );
        text(&done.stdout)
    }

    /// The number of containerd on the machine.
    fn first(&self) -> String {
        let id = self.child.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
        children.trim().to_owned()
    }

    fn group(&self) -> String {
        format!("/branchline-test-{}", self.child.id())
    }

    /// Runs a shell command, or the image's own words, in a new container.
    fn run(&self, image: &str, args: &[&str]) -> String {
        let image = name(image).to_string();
        let group = format!("/branchline-test-{}", self.child.id());
        let fixed = [
            "run",
            "--rm",
            "--privileged",
            "--cgroup",
            &group,
            &image,
            "c",
        ];
        self.ctr(&[&fixed, args].concat())
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        // unshare(1) is our child; what it started dies with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
        // A container that a failed test left behind had a group on the machine.
        let group = self.group();
        if let Ok(cgroups) = lab::cgroup::Cgroups::mounted() {
            let _ = cgroups.kill(Path::new(&group[1..]));
            let _ = cgroups.remove(Path::new(&group[1..]));
        }
    }
}

#[test]
fn containers_run_from_a_copy_and_leave_other_copies_alone() {
    require_root!();
    let kit = Kit::new();
    let at = |name: &str| kit.dir.path().join(name);
    image::prepare(&kit.programs).unwrap();
    image::install(&kit.programs, &at("one")).unwrap();
    image::install(&kit.programs, &at("two")).unwrap();
    let one = Containerd::start(&at("run"), &at("one"));

    let told = one.run(image::NGINX, &["sh", "-c", TOOLS]);
    assert!(told.contains("bash: "), "{told}");
    assert!(told.contains("ss utility, iproute2"), "{told}");
    assert!(told.contains(" sees 127.0.0.1:"), "{told}");
    assert!(told.contains("GET /hello"), "{told}");
    assert!(told.contains(r#""seen":"connected""#), "{told}");
    assert!(told.contains("ended with 0"), "{told}");
    let told = one.run("eks/kube-proxy:v1.36.3", &["kube-proxy", "--version"]);
    assert_eq!(told.trim(), "Kubernetes v1.36.3");
    for tool in ["nft", "conntrack", "iptables-save", "ip6tables-restore"] {
        let told = one.run("eks/kube-proxy:v1.36.3", &[tool, "--version"]);
        assert!(told.contains(" v1."), "{tool}: {told}");
    }
    let chain = ["iptables", "-A", "INPUT", "-m", "comment", "--comment", "x"];
    one.run("eks/kube-proxy:v1.36.3", &chain);
    let told = one.run("eks/coredns:v1.36.3", &["/coredns", "-plugins"]);
    for plugin in ["kubernetes", "forward", "ready", "loop"] {
        assert!(told.lines().any(|l| l == plugin), "{plugin}: {told}");
    }
    let told = one.run(image::AWS_NODE, &["sh", "-c", AGENT]);
    assert!(told.contains("branchline-agent"), "{told}");
    assert!(told.contains("cniVersion"), "{told}");
    assert!(told.contains("nftables"), "{told}");
    let told = one.run(image::PAUSE, &["/pause", "-v"]);
    assert!(told.contains("v3.10"), "{told}");
    pulled(&one, &kit);
    drop(one);

    // What the first one wrote and removed is in the first one only.
    let two = Containerd::start(&at("run2"), &at("two"));
    two.run(image::NGINX, &["sh", "-c", "test ! -e /written"]);
    let checked = two.ctr(&["images", "check"]);
    let complete = checked.lines().filter(|l| l.contains("complete")).count();
    assert_eq!(complete, 6, "{checked}");
    let store = Store::open(&kit.programs.store()).unwrap();
    for digest in store.images().unwrap().values() {
        let bytes = fs::read(store.blob(digest)).unwrap();
        assert_eq!(&Digest::of(&bytes), digest);
    }
}

/// An image that is removed comes again from the node's registry, and none from anywhere else.
fn pulled(node: &Containerd, kit: &Kit) {
    let nginx = name(image::NGINX).to_string();
    let up = node
        .inside()
        .args(["ip", "link", "set", "lo", "up"])
        .status();
    assert!(up.unwrap().success());
    let mut registry = node.inside();
    registry
        .arg(&kit.programs.branchline)
        .args(["lab", "registry"]);
    let mut registry = registry.arg(kit.programs.store()).spawn().unwrap();
    let hosts = kit.dir.path().join("hosts/_default");
    fs::create_dir_all(&hosts).unwrap();
    let own = format!("http://127.0.0.1:{}", image::registry::PORT);
    let text =
        format!("server = {own:?}\n[host.{own:?}]\ncapabilities = [\"pull\", \"resolve\"]\n");
    fs::write(hosts.join("hosts.toml"), text).unwrap();
    let dir = hosts.parent().unwrap().to_string_lossy().into_owned();
    let pull = |name: &str| node.try_ctr(&["images", "pull", "--hosts-dir", &dir, name]);

    let before = node.ctr(&["images", "list", &format!("name=={nginx}")]);
    assert!(before.contains(&nginx), "{before}");
    node.ctr(&["images", "remove", "--sync", &nginx]);
    let mut done = pull(&nginx);
    for _ in 0..3000 {
        if done.status.success() {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
        done = pull(&nginx);
    }
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success(), "{said}");
    let digest = |text: &str| {
        let words = text.split_whitespace();
        words
            .filter(|w| w.starts_with("sha256:"))
            .map(str::to_owned)
            .next()
    };
    let after = node.ctr(&["images", "list", &format!("name=={nginx}")]);
    assert_eq!(digest(&after), digest(&before));
    let done = pull("docker.io/library/redis:7");
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(said.contains("redis:7: not found"), "{said}");
    node.ctr(&["images", "remove", "--sync", &nginx]);
    registry.kill().unwrap();
    registry.wait().unwrap();
}

/// In the tools image: shells, the server, its clients, and its end by SIGTERM.
const TOOLS: &str = "echo > /written
bash --version | sed -n 's/^GNU bash.*/bash: yes/p'
ip link set lo up
ss -V
branchline lab listen http/80 tcp/81 &
server=$!
n=0
until curl -fsS http://127.0.0.1/hello 2>/dev/null || [ $n -ge 2400 ]; do n=$((n+1)); sleep 0.05; done
branchline probe tcp 127.0.0.1 81
kill -TERM $server
wait $server
echo ended with $?";

/// In the agent's image: the programs that the chart calls start.
const AGENT: &str = "/app/branchline-agent --version
CNI_COMMAND=VERSION /app/cni/portmap </dev/null
nft --version";

#[test]
fn the_same_files_give_the_same_images_and_only_changes_are_made_anew() {
    let kit = Kit::new();
    let store = image::all(&kit.programs).unwrap();
    let first = store.images().unwrap();
    let names: BTreeSet<ImageName> = [
        image::PAUSE,
        image::AWS_NODE,
        image::TOOLS,
        image::NGINX,
        "eks/kube-proxy:v1.36.3",
        "eks/coredns:v1.36.3",
    ]
    .map(name)
    .into();
    assert_eq!(first.keys().cloned().collect::<BTreeSet<_>>(), names);
    let index = store.dir().join("index.json");
    let made = fs::metadata(&index).unwrap().modified().unwrap();
    image::all(&kit.programs).unwrap();
    assert_eq!(
        fs::metadata(&index).unwrap().modified().unwrap(),
        made,
        "made anew"
    );

    // Another file with the same bytes is made anew, to the same digest.
    let pause = kit.programs.kubernetes.join("pause");
    let bytes = fs::read(&pause).unwrap();
    kit.replace("pause", Some(&bytes));
    image::all(&kit.programs).unwrap();
    assert_ne!(
        fs::metadata(&index).unwrap().modified().unwrap(),
        made,
        "not made anew"
    );
    assert_eq!(store.images().unwrap(), first);

    // Other bytes are another image, and only that one.
    let mut other = bytes;
    other.push(0);
    kit.replace("pause", Some(&other));
    image::all(&kit.programs).unwrap();
    let second = store.images().unwrap();
    let changed: Vec<_> = names.iter().filter(|n| first[n] != second[n]).collect();
    assert_eq!(changed, [&name(image::PAUSE)]);
    assert!(!store.blob(&first[&name(image::PAUSE)]).exists(), "kept");
}

#[test]
fn a_program_that_is_missing_or_none_is_named() {
    let kit = Kit::new();
    let path = kit.replace("coredns", None);
    let error = image::all(&kit.programs).unwrap_err();
    assert!(matches!(&error, ImageError::Missing { path: p, .. } if *p == path));
    let text = error.to_string();
    assert!(
        text.contains("eks/coredns") && text.contains("make build"),
        "{text}"
    );

    kit.replace("pause", Some(b"#!/bin/sh\n"));
    symlink("/bin/true", path).unwrap();
    let error = image::all(&kit.programs).unwrap_err();
    assert!(matches!(&error, ImageError::NotElf { .. }), "{error}");
}

/// A tar archive of these files.
fn archive(path: &Path, files: &[(&str, &[u8])]) {
    let mut tar = tar::Builder::new(fs::File::create(path).unwrap());
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, *bytes).unwrap();
    }
    tar.finish().unwrap();
}

#[test]
fn archives_of_both_kinds_are_loaded() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("image.tar");
    let layer = dir.path().join("layer.tar");
    archive(&layer, &[("hello", b"world")]);
    let layer = fs::read(layer).unwrap();
    let saved = br#"[{"Config":"c.json","RepoTags":["web:1"],"Layers":["l/layer.tar"]}]"#;
    let files: &[(&str, &[u8])] = &[
        ("manifest.json", saved),
        ("c.json", b"{}"),
        ("l/layer.tar", &layer),
    ];
    archive(&file, files);
    let store = Store::open(&dir.path().join("a")).unwrap();
    assert_eq!(image::load(&store, &file).unwrap(), [name("web:1")]);
    assert_eq!(fs::read(store.blob(&Digest::of(&layer))).unwrap(), layer);

    let exported = dir.path().join("oci.tar");
    let out = fs::File::create(&exported).unwrap();
    store.export(&[name("web:1")].into(), out).unwrap();
    let other = Store::open(&dir.path().join("b")).unwrap();
    assert_eq!(image::load(&other, &exported).unwrap(), [name("web:1")]);
    assert_eq!(other.images().unwrap(), store.images().unwrap());
}

#[test]
fn what_is_no_image_archive_is_refused_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("image.tar");
    let store = Store::open(&dir.path().join("store")).unwrap();
    let refused = |files: &[(&str, &[u8])], why: &str| {
        archive(&file, files);
        let error = image::load(&store, &file).unwrap_err();
        assert!(matches!(error, ImageError::Archive { .. }), "{error}");
        assert!(error.to_string().contains(why), "{error}");
    };
    refused(
        &[("etc/passwd", b"")],
        "neither index.json nor manifest.json",
    );
    refused(&[("manifest.json", b"{")], "manifest.json: ");
    let saved = br#"[{"Config":"c","RepoTags":["a:1"],"Layers":["l"]}]"#;
    refused(&[("manifest.json", saved), ("c", b"{}")], "l is not in it");
    let nameless = br#"[{"Config":"c","RepoTags":null,"Layers":[]}]"#;
    refused(&[("manifest.json", nameless), ("c", b"{}")], "has a name");
    let config = Digest::of(b"{}");
    let manifest = format!(
        r#"{{"schemaVersion":2,"config":{{"mediaType":"c","digest":"{config}","size":2}},"layers":[]}}"#
    );
    let digest = Digest::of(manifest.as_bytes());
    let index = format!(
        r#"{{"manifests":[{{"mediaType":"m","digest":"{digest}","size":1,"annotations":{{"io.containerd.image.name":"a:1"}}}}]}}"#
    );
    let blob = |d: &Digest| format!("blobs/sha256/{}", d.hex());
    let (at_manifest, at_config) = (blob(&digest), blob(&config));
    let files: &[(&str, &[u8])] = &[
        ("index.json", index.as_bytes()),
        (&at_manifest, manifest.as_bytes()),
        (&at_config, b"{ }"),
    ];
    refused(files, "has digest");
    fs::write(&file, b"this is text").unwrap();
    let error = image::load(&store, &file).unwrap_err();
    assert!(error.to_string().contains("unpacked first"), "{error}");
    assert!(store.images().unwrap().is_empty());
}
