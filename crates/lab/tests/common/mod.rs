//! What the tests on this machine share: programs, a lab's place, before and after.
#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(
    clippy::unwrap_used,
    reason = "a helper of a test may panic as the test may"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use lab::place::Place;

/// A program of ours, built beside the tests.
pub(crate) fn program(name: &str) -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let path = own.parent().and_then(Path::parent).unwrap().join(name);
    assert!(
        path.exists(),
        "{} is missing: run `make debug` first",
        path.display()
    );
    path
}

/// Skips a test loudly without root; fails in CI.
macro_rules! require_root {
    () => {
        if lab::require_root().is_err() {
            assert!(std::env::var_os("CI").is_none(), "this test needs root");
            eprintln!("SKIPPED: needs root");
            return;
        }
    };
}
pub(crate) use require_root;

/// A place for a lab that nobody else uses; swept when dropped.
pub(crate) struct Lab {
    pub(crate) place: Place,
    dir: tempfile::TempDir,
}

impl Lab {
    pub(crate) fn new(name: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("bl").tempdir().unwrap();
        Self {
            place: Place::new(name.parse().unwrap(), &dir.path().join("labs")),
            dir,
        }
    }

    /// `branchline lab …` for this lab.
    pub(crate) fn branchline(&self) -> Command {
        let mut command = Command::new(program("branchline"));
        command.args(["lab", "--lab", &self.place.name().to_string(), "--lab-dir"]);
        command.arg(self.place.parent());
        command
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if lab::require_root().is_ok() {
            let swept = lab::down(&self.place);
            if !std::thread::panicking() {
                swept.unwrap();
            }
        }
    }
}

/// What a lab must leave as it found it, one line per thing. Other tests run at the same time, so
/// only this machine's own network is compared, which no lab may ever touch, and the mounts and
/// cgroups of labs in `dir` are checked by the caller through the lab's own place.
pub(crate) fn machine() -> String {
    let mut text = String::new();
    for command in [
        "ip -o -d link",
        "ip rule",
        "ip route show table all",
        "ip netns",
        "nft list ruleset",
        "iptables-save",
    ] {
        let mut words = command.split(' ');
        let output = Command::new(words.next().unwrap())
            .args(words)
            .output()
            .unwrap();
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        let lines = stdout.lines().filter(|l| !l.starts_with('#'));
        text.push_str(&format!("$ {command}\n"));
        for line in lines {
            text.push_str(line.split(" qdisc").next().unwrap_or(line));
            text.push('\n');
        }
    }
    text.push_str(&sysctls(Path::new("/proc/sys/net")));
    text
}

fn sysctls(dir: &Path) -> String {
    let mut entries: Vec<PathBuf> = fs::read_dir(dir)
        .unwrap()
        .filter_map(Result::ok)
        .map(|e| e.path())
        .collect();
    entries.sort();
    let changing = [
        "netdev_rss_key",
        "tcp_fastopen_key",
        "nf_conntrack_count",
        "tcp_mem",
        "udp_mem",
    ];
    let mut text = String::new();
    for path in entries {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if path.is_dir() {
            text.push_str(&sysctls(&path));
        } else if !changing.contains(&name.as_str()) {
            let value = fs::read_to_string(&path).unwrap_or_default();
            text.push_str(&format!("{} = {}\n", path.display(), value.trim()));
        }
    }
    text
}

/// Compares two states of the machine and shows what differs.
pub(crate) fn same(before: &str, after: &str) {
    let gone: Vec<_> = before.lines().filter(|l| !after.contains(l)).collect();
    let new: Vec<_> = after.lines().filter(|l| !before.contains(l)).collect();
    assert!(
        gone.is_empty() && new.is_empty(),
        "gone: {gone:#?}\nnew: {new:#?}"
    );
}

/// Waits until something holds, a while at most.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(120), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
