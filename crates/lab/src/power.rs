//! Instances as their owner switches them: off and on by EC2's own calls, or the plug is pulled.
//!
//! Stopping an instance and pulling the plug are the same to what runs on it: everything ends at
//! once, its disk stays. Processes, namespaces and `/run` are gone; the next boot finds what was on
//! the disk, and the runtime takes down pods whose namespaces do not exist any more.

use std::time::{Duration, Instant};

use ec2::types::{StartInstancesRequest, StopInstancesRequest, TerminateInstancesRequest};
use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::cgroup::Cgroups;
use crate::client;
use crate::error::Error;
use crate::exec;
use crate::place::Place;
use crate::state::State;
use crate::up::runtime;

/// How long the lab may take to follow.
const PATIENCE: Duration = Duration::from_secs(60);
const STEP: Duration = Duration::from_millis(10);

/// What is done with an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Power {
    /// `StopInstances`: off, its disk stays.
    Stop,
    /// `StartInstances`.
    Start,
    /// `TerminateInstances`: off, its disk goes.
    Terminate,
    /// The plug is pulled and put back; EC2 does not see it.
    Cycle,
}

/// Does it, and returns when the node is as it is to be then.
///
/// # Errors
/// When there is no such node, EC2 refuses, or the lab does not follow within a minute.
pub fn switch(place: &Place, name: &str, power: Power) -> Result<(), Error> {
    let state = State::of_running(place)?;
    let name = &state.node_name(name);
    match power {
        Power::Cycle => return cycle(place, &state, name),
        Power::Start => {
            let node = known(&state.stopped, name, "stopped node")?;
            let ids = vec![node.instance.clone()];
            call(
                &state,
                "start",
                name,
                StartInstancesRequest {
                    instance_ids: ids,
                    ..Default::default()
                },
            )?;
        }
        Power::Stop => {
            let node = known(&state.nodes, name, "running node")?;
            let ids = vec![node.instance.clone()];
            call(
                &state,
                "stop",
                name,
                StopInstancesRequest {
                    instance_ids: ids,
                    ..Default::default()
                },
            )?;
        }
        Power::Terminate => {
            let both = || state.nodes.iter().chain(&state.stopped);
            let all = both().map(|(k, v)| (k.clone(), v.clone())).collect();
            let ids = vec![known(&all, name, "node")?.instance.clone()];
            call(
                &state,
                "terminate",
                name,
                TerminateInstancesRequest {
                    instance_ids: ids,
                    ..Default::default()
                },
            )?;
        }
    }
    await_state(place, name, |state| match power {
        Power::Start | Power::Cycle => state.nodes.contains_key(name),
        Power::Stop => state.stopped.contains_key(name),
        Power::Terminate => {
            let known = state.nodes.contains_key(name) || state.stopped.contains_key(name);
            !known && !place.node_socket(name).exists() && !place.node_disk(name).exists()
        }
    })
}

fn known<'a, T>(
    all: &'a std::collections::BTreeMap<String, T>,
    name: &str,
    what: &'static str,
) -> Result<&'a T, Error> {
    all.get(name).ok_or_else(|| Error::NotFound {
        what,
        name: name.to_owned(),
        known: all.keys().cloned().collect(),
    })
}

fn call<R: ec2::Operation>(
    state: &State,
    what: &'static str,
    node: &str,
    request: R,
) -> Result<(), Error> {
    let failed = |source| Error::Switch {
        what,
        node: node.to_owned(),
        source: Box::new(source),
    };
    let client = client::ec2(state).map_err(failed)?;
    runtime()?
        .block_on(client.call(request))
        .map(drop)
        .map_err(failed)
}

fn cycle(place: &Place, state: &State, name: &str) -> Result<(), Error> {
    known(&state.nodes, name, "running node")?;
    let cgroups = Cgroups::mounted()?;
    let pid = exec::first_of(place, &cgroups, name)?;
    let failed = |source: rustix::io::Errno| Error::Process {
        what: "kill",
        pid: pid.as_raw_nonzero().get(),
        source: source.into(),
    };
    let process = pidfd_open(pid, PidfdFlags::empty()).map_err(failed)?;
    // The descriptor is of the node's first process if it still was after the opening.
    if exec::first_of(place, &cgroups, name)? == pid {
        pidfd_send_signal(&process, Signal::KILL).map_err(failed)?;
    }
    await_state(place, name, |_| {
        let now = exec::first_of(place, &cgroups, name);
        now.is_ok_and(|now| now != pid) && client::node_status(place, name).is_ok()
    })?;
    await_state(place, name, |state| state.nodes.contains_key(name))
}

fn await_state(place: &Place, name: &str, holds: impl Fn(&State) -> bool) -> Result<(), Error> {
    let begun = Instant::now();
    while !holds(&State::of_running(place)?) {
        if begun.elapsed() > PATIENCE {
            return Err(Error::NotSwitched {
                node: name.to_owned(),
                log: place.log(),
            });
        }
        std::thread::sleep(STEP);
    }
    Ok(())
}
