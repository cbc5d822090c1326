//! The directory of a containerd that has imported every image.
//!
//! containerd runs for that in namespaces of its own, without its CRI plugin, and is ended; what it
//! wrote is copied for each node. Files are hard-linked: containerd replaces blobs and the files of
//! committed snapshots, it never writes into them. Its data bases it does write into, so they are
//! copied.
//!
//! Blobs are kept although the images are unpacked: with them containerd can tell that it has an
//! image, and `ctr images export` and `check` work as on any node.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::UnshareFlags;

use super::digest::Digest;
use super::error::{At as _, ImageError};
use super::name::ImageName;
use super::store::Store;
use crate::error::Error;
use crate::sys;

/// To be raised when the same images become another directory.
const FORMAT: u32 = 2;
/// The directory of a template that is not complete.
const PART: &str = "template.part";
/// The containerd namespace of Kubernetes' images.
const NAMESPACE: &str = "k8s.io";
/// How long containerd may take to start, or to end: a second, and more on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(90);

/// The template's path; made when it is not there. The caller holds the store's lock.
pub(super) fn ensure(store: &Store) -> Result<PathBuf, Error> {
    let images = store.images()?;
    let key = Digest::of(format!("{FORMAT} {images:?}").as_bytes());
    let name = format!("template-{}", &key.hex()[..16]);
    let path = store.dir().join(&name);
    if path.is_dir() {
        return Ok(path);
    }
    let part = store.dir().join(PART);
    begin(store, &part)?;
    // The thread lives as long as containerd, which dies with it.
    sys::on_thread(|| import(store, &part))?;
    // A directory under its final name is complete.
    fs::rename(part.join("root"), &path).at(&path)?;
    fs::remove_dir_all(&part).at(&part)?;
    Ok(path)
}

/// Makes the directory in which containerd works. It goes on from the last template: when one image
/// of several changed, the others are there already.
fn begin(store: &Store, part: &Path) -> Result<(), ImageError> {
    if part.exists() {
        fs::remove_dir_all(part).at(part)?;
    }
    fs::create_dir_all(part).at(part)?;
    for entry in fs::read_dir(store.dir()).at(store.dir())? {
        let entry = entry.at(store.dir())?;
        let name = entry.file_name();
        if name != PART && name.to_string_lossy().starts_with("template-") {
            let root = part.join("root");
            if root.exists() {
                fs::remove_dir_all(entry.path()).at(entry.path())?;
            } else {
                fs::rename(entry.path(), &root).at(&root)?;
            }
        }
    }
    Ok(())
}

/// Runs on a thread of its own, whose namespaces it changes.
fn import(store: &Store, dir: &Path) -> Result<(), Error> {
    sys::unshare(UnshareFlags::NEWNS | UnshareFlags::NEWNET | UnshareFlags::NEWIPC)?;
    sys::own_mounts()?;
    let mut daemon = start(dir)?;
    let done = await_socket(&mut daemon, dir).and_then(|()| bring(store, dir));
    let ended = stop(&mut daemon);
    Ok(done.and(ended)?)
}

/// A configuration with what importing needs and nothing else.
fn config(dir: &Path) -> String {
    let of = |name: &str| format!("{:?}", dir.join(name).to_string_lossy());
    let (root, state, socket) = (of("root"), of("state"), of("sock"));
    format!(
        "version = 2\nroot = {root}\nstate = {state}\noom_score = 0\n\
         disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.snapshotter.v1.aufs\", \
         \"io.containerd.snapshotter.v1.btrfs\", \"io.containerd.snapshotter.v1.devmapper\", \
         \"io.containerd.snapshotter.v1.native\", \"io.containerd.snapshotter.v1.zfs\", \
         \"io.containerd.internal.v1.opt\", \"io.containerd.internal.v1.tracing\"]\n\
         [grpc]\naddress = {socket}\n"
    )
}

fn start(dir: &Path) -> Result<Child, Error> {
    let file = dir.join("config.toml");
    fs::write(&file, config(dir)).at(&file)?;
    let log = dir.join("log");
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&log)
        .at(&log)?;
    let mut command = Command::new("setpriv");
    // It must not outlive this process, which has no other hold on it than being its parent.
    command.args(["--pdeathsig", "KILL", "containerd", "--config"]);
    command.arg(&file);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
    sys::spawn_as_pid_1(&mut command)
}

fn await_socket(daemon: &mut Child, dir: &Path) -> Result<(), ImageError> {
    let begun = Instant::now();
    let failed = |why: &str| {
        let said = fs::read_to_string(dir.join("log")).unwrap_or_default();
        ImageError::Containerd {
            said: format!("{why}; it said last: {}", crate::up::tail(&said)),
        }
    };
    while UnixStream::connect(dir.join("sock")).is_err() {
        if let Some(status) = daemon.try_wait().at("containerd")? {
            return Err(failed(&status.to_string()));
        }
        if begun.elapsed() > PATIENCE {
            return Err(failed("it does not answer"));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Makes containerd hold the store's images and no others.
fn bring(store: &Store, dir: &Path) -> Result<(), ImageError> {
    let wanted = store.images()?;
    let there = listed(dir)?;
    for name in there.keys().filter(|n| !wanted.contains_key(n)) {
        let name = name.to_string();
        told(&mut ctr(dir, &["images", "remove", "--sync", &name]))?;
    }
    let differs = |name: &&ImageName| there.get(name) != wanted.get(name);
    let missing: BTreeSet<ImageName> = wanted.keys().filter(differs).cloned().collect();
    if !missing.is_empty() {
        import_images(store, dir, &missing)?;
    }
    let now = listed(dir)?;
    match wanted
        .iter()
        .find(|(name, digest)| now.get(name) != Some(digest))
    {
        Some((lost, _)) => Err(ImageError::Import {
            said: format!("it does not list {lost} afterwards"),
        }),
        None => Ok(()),
    }
}

/// Hands images over as an archive, through a pipe.
fn import_images(store: &Store, dir: &Path, names: &BTreeSet<ImageName>) -> Result<(), ImageError> {
    let refused = |said: String| ImageError::Import { said };
    let mut ctr = ctr(
        dir,
        &["images", "import", "--snapshotter", "overlayfs", "-"],
    )
    .stdin(Stdio::piped())
    .stdout(Stdio::null())
    .stderr(Stdio::piped())
    .spawn()
    .map_err(|e| refused(format!("ctr: {e}")))?;
    let written = match ctr.stdin.take() {
        Some(pipe) => store.export(names, io::BufWriter::with_capacity(1 << 18, pipe)),
        None => Ok(()),
    };
    // When it ends early, its words say more than the broken pipe.
    let done = ctr.wait_with_output().at("ctr")?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        return Err(refused(said.trim().to_owned()));
    }
    written
}

/// The images that containerd holds: lines of name, type, digest, …, after a heading.
fn listed(dir: &Path) -> Result<BTreeMap<ImageName, Digest>, ImageError> {
    let text = told(&mut ctr(dir, &["images", "list"]))?;
    let read = |line: &str| {
        let mut words = line.split_whitespace();
        Ok((
            words.next().unwrap_or_default().parse()?,
            words.nth(1).unwrap_or_default().parse()?,
        ))
    };
    text.lines().skip(1).map(read).collect()
}

fn ctr(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new("ctr");
    command.arg("--address").arg(dir.join("sock"));
    command.args(["--namespace", NAMESPACE]).args(args);
    command
}

fn told(ctr: &mut Command) -> Result<String, ImageError> {
    let done = ctr.output().at("ctr")?;
    if done.status.success() {
        Ok(String::from_utf8_lossy(&done.stdout).into_owned())
    } else {
        let said = String::from_utf8_lossy(&done.stderr).trim().to_owned();
        Err(ImageError::Import { said })
    }
}

/// Asks containerd to end, so that its data bases are closed.
fn stop(daemon: &mut Child) -> Result<(), ImageError> {
    if let Some(pid) = i32::try_from(daemon.id()).ok().and_then(Pid::from_raw) {
        // Our own child, not yet waited for: the number is still its own.
        kill_process(pid, Signal::TERM).at("containerd")?;
    }
    let begun = Instant::now();
    while daemon.try_wait().at("containerd")?.is_none() {
        if begun.elapsed() > PATIENCE {
            daemon.kill().at("containerd")?;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Copies a template; files are linked where the file system allows it.
pub(super) fn copy(from: &Path, to: &Path) -> Result<(), ImageError> {
    fs::create_dir_all(to).at(to)?;
    let mode = fs::metadata(from).at(from)?.permissions();
    for entry in fs::read_dir(from).at(from)? {
        let entry = entry.at(from)?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type().at(&source)?;
        if kind.is_dir() {
            copy(&source, &target)?;
        } else if kind.is_symlink() {
            let link = fs::read_link(&source).at(&source)?;
            symlink(link, &target).at(&target)?;
        } else if source.extension().is_some_and(|e| e == "db") {
            copy_file(&source, &target)?;
        } else {
            link_file(&source, &target)?;
        }
    }
    fs::set_permissions(to, mode).at(to)
}

fn link_file(source: &Path, target: &Path) -> Result<(), ImageError> {
    match fs::hard_link(source, target) {
        Err(e) if e.kind() == io::ErrorKind::CrossesDevices => copy_file(source, target),
        linked => linked.at(target),
    }
}

fn copy_file(source: &Path, target: &Path) -> Result<(), ImageError> {
    let mut from = File::open(source).at(source)?;
    let mut into = File::create_new(target).at(target)?;
    io::copy(&mut from, &mut into).at(target)?;
    let mode = from.metadata().at(source)?.permissions();
    into.set_permissions(mode).at(target)
}
