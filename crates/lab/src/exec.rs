//! Entering a pod, a node or a host from outside: what `lab exec` does.
//!
//! Needs none of the lab's processes: whoever is to be entered is found by its cgroup, so this works
//! with the daemon stopped, and the command is part of that cgroup and ends with it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};

use crate::cgroup::Cgroups;
use crate::error::Error;
use crate::node::PodName;
use crate::place::Place;
use crate::state::State;

/// Something that can be entered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entrance {
    /// Its cgroup.
    group: PathBuf,
    /// Whether it has a PID namespace of its own.
    pids: bool,
}

/// Everything in a lab that can be entered, by the names under which it is known.
fn entrances(place: &Place, cgroups: &Cgroups) -> BTreeMap<String, Entrance> {
    let mut found = BTreeMap::new();
    for host in cgroups.children(&place.cgroup()) {
        let group = place.host_cgroup(&host);
        let children = cgroups.children(&group);
        for leaf in &children {
            if let Some(pod) = PodName::from_leaf(leaf) {
                found.insert(
                    pod.to_string(),
                    Entrance {
                        group: group.join(leaf),
                        pids: true,
                    },
                );
            }
        }
        let is_node = children.contains("init");
        let group = if is_node { group.join("init") } else { group };
        found.insert(
            host,
            Entrance {
                group,
                pids: is_node,
            },
        );
    }
    found
}

/// Finds a pod (`NAME`, `NAMESPACE/NAME`, `pod/NAME`), a node (`node/NAME`) or a host.
///
/// # Errors
/// When there is none of that name.
pub fn find(place: &Place, cgroups: &Cgroups, name: &str) -> Result<Entrance, Error> {
    let mut all = entrances(place, cgroups);
    let text = name
        .strip_prefix("pod/")
        .or(name.strip_prefix("node/"))
        .unwrap_or(name);
    // By its private DNS name too. A lab that has not got as far as a state has its names only.
    let state = State::read(place).ok().flatten();
    let text = &state.map_or_else(|| text.to_owned(), |s| s.node_name(text));
    let full = text
        .parse::<PodName>()
        .map(|p| p.to_string())
        .unwrap_or_default();
    let order = if name.starts_with("node/") {
        [text, text]
    } else {
        [&full, text]
    };
    for candidate in order {
        if let Some(entrance) = all.remove(candidate) {
            return Ok(entrance);
        }
    }
    let known = all.into_keys().collect();
    Err(Error::NotFound {
        what: "pod, node or host",
        name: name.to_owned(),
        known,
    })
}

/// Runs a command inside with this process's standard streams and waits for it. The calling
/// process must be single-threaded; it has moved inside afterwards.
///
/// # Errors
/// When the way in fails. A command that fails is no error: its status is returned.
pub fn run(cgroups: &Cgroups, into: &Entrance, command: &[String]) -> Result<ExitStatus, Error> {
    let (program, args) = command.split_first().ok_or(Error::NoCommand)?;
    let first = first_process(cgroups, into)?;
    let process = |what, source: rustix::io::Errno| Error::Process {
        what,
        pid: first.as_raw_nonzero().get(),
        source: source.into(),
    };
    let fd = pidfd_open(first, PidfdFlags::empty()).map_err(|e| process("open", e))?;
    cgroups.join(&into.group)?;
    let mut spaces = ThreadNameSpaceType::NETWORK
        | ThreadNameSpaceType::MOUNT
        | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME;
    if into.pids {
        spaces |= ThreadNameSpaceType::PROCESS_ID
            | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
            | ThreadNameSpaceType::CONTROL_GROUP;
    }
    use std::os::fd::AsFd as _;
    move_into_thread_name_spaces(fd.as_fd(), spaces).map_err(|e| process("enter", e))?;
    let mut command = Command::new(program);
    command.args(args);
    command.status().map_err(|source| Error::Spawn {
        program: program.into(),
        source,
    })
}

/// The exit code that a shell would report.
#[must_use]
pub fn exit_code(status: ExitStatus) -> u8 {
    let code = status
        .code()
        .or(status.signal().map(|s| 128 + s))
        .unwrap_or(255);
    u8::try_from(code).unwrap_or(255)
}

/// The first process of a node, as this process's PID namespace numbers it.
pub(crate) fn first_of(place: &Place, cgroups: &Cgroups, node: &str) -> Result<Pid, Error> {
    first_process(cgroups, &find(place, cgroups, &format!("node/{node}"))?)
}

/// The process whose namespaces are to be entered: number 1 inside, or the only one. A container on a
/// node has a number 1 as well, in a namespace further in.
fn first_process(cgroups: &Cgroups, into: &Entrance) -> Result<Pid, Error> {
    let members = cgroups.members(&into.group).into_iter();
    let first = if into.pids {
        let firsts = members.filter_map(|pid| Some((depth_of_first(pid)?, pid)));
        firsts.min().map(|(_, pid)| pid)
    } else {
        members.min()
    };
    first
        .and_then(Pid::from_raw)
        .ok_or_else(|| Error::NotFound {
            what: "running process in",
            name: into.group.display().to_string(),
            known: Vec::new(),
        })
}

/// How many PID namespaces a number 1 is in; `None` for any other process.
fn depth_of_first(pid: i32) -> Option<usize> {
    // A process that has just ended is not the one.
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("NSpid:"))?;
    let ids: Vec<&str> = line.split_whitespace().collect();
    (ids.last() == Some(&"1")).then_some(ids.len())
}
