//! `branchline lab node …`: nodes, their services, their power.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::ExitCode;

use clap::{Subcommand, ValueEnum};
use lab::client;
use lab::node::{NodeStatus, ServiceAction, ServiceStatus};
use lab::place::Place;
use lab::power::{self, Power};
use lab::state::State;

/// Nodes go by their name in the lab or by the name that Kubernetes has for them.
#[derive(Debug, Subcommand)]
pub(super) enum NodeCommand {
    /// List nodes.
    List,
    /// Run a command on a node.
    Exec {
        /// The node.
        name: String,
        /// The command.
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Tell the plugins which pods exist, so that they free everything else (CNI GC).
    Gc {
        /// The node.
        name: String,
    },
    /// Change the agent's environment and start it anew, as `kubectl set env daemonset/aws-node`.
    SetEnv {
        /// The node, one without Kubernetes.
        name: String,
        /// NAME=VALUE sets a variable, NAME- removes it.
        #[arg(required = true, value_parser = change)]
        variables: Vec<(String, Option<String>)>,
    },
    /// Stop, start, restart or kill a service of a node: containerd, kubelet, agent.
    Service {
        /// The node.
        name: String,
        /// The service.
        service: String,
        /// What to do with it; `kill` ends it as a crash does, and it is started again.
        action: Action,
    },
    /// Stop a node's instance (ec2 stop-instances): everything on it ends at once, its disk stays.
    Stop {
        /// The node.
        name: String,
    },
    /// Start a stopped instance (ec2 start-instances).
    Start {
        /// The node.
        name: String,
    },
    /// Terminate a node's instance (ec2 terminate-instances): its disk goes too.
    Terminate {
        /// The node.
        name: String,
    },
    /// Pull a node's plug and put it back; EC2 does not see it.
    PowerCycle {
        /// The node.
        name: String,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Action {
    Stop,
    Start,
    Restart,
    Kill,
}

impl From<Action> for ServiceAction {
    fn from(action: Action) -> Self {
        match action {
            Action::Stop => Self::Stop,
            Action::Start => Self::Start,
            Action::Restart => Self::Restart,
            Action::Kill => Self::Kill,
        }
    }
}

pub(super) fn run(place: &Place, command: NodeCommand) -> anyhow::Result<ExitCode> {
    match command {
        NodeCommand::Exec { name, command } => {
            return super::enter(place, &format!("node/{name}"), &command);
        }
        NodeCommand::List => {
            let state = State::of_running(place)?;
            print(&state, &client::nodes(place)?)?;
        }
        NodeCommand::Gc { name } => client::collect_garbage(place, &name)?,
        NodeCommand::SetEnv { name, variables } => {
            client::set_agent_env(place, &name, variables.into_iter().collect())?;
        }
        NodeCommand::Service {
            name,
            service,
            action,
        } => client::service(place, &name, &service, action.into())?,
        NodeCommand::Stop { name } => power::switch(place, &name, Power::Stop)?,
        NodeCommand::Start { name } => power::switch(place, &name, Power::Start)?,
        NodeCommand::Terminate { name } => power::switch(place, &name, Power::Terminate)?,
        NodeCommand::PowerCycle { name } => power::switch(place, &name, Power::Cycle)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn change(text: &str) -> Result<(String, Option<String>), String> {
    match (text.split_once('='), text.strip_suffix('-')) {
        (Some((name, value)), _) if !name.is_empty() => {
            Ok((name.to_owned(), Some(value.to_owned())))
        }
        (None, Some(name)) if !name.is_empty() => Ok((name.to_owned(), None)),
        _ => Err("write NAME=VALUE, or NAME- to remove a variable".to_owned()),
    }
}

/// One line per node: those that answer, and those that are stopped.
pub(super) fn print(state: &State, nodes: &BTreeMap<String, NodeStatus>) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{:20} {:21} {:16} {:9} {:24} PODS",
        "NODE", "INSTANCE", "ADDRESS", "READY", "SERVICES"
    )?;
    let stopped = state.stopped.keys().map(|name| (name, None));
    let running = nodes.iter().map(|(name, status)| (name, Some(status)));
    let all: BTreeMap<_, _> = stopped.chain(running).collect();
    for (name, status) in all {
        let facts = state.nodes.get(name).or(state.stopped.get(name));
        let instance = facts.map_or("-", |f| f.instance.as_str());
        let address = facts
            .and_then(|f| f.address)
            .map_or("-".to_owned(), |a| a.to_string());
        let in_cluster = facts.is_some_and(|f| f.cluster.is_some());
        let (ready, services, pods) = match status {
            None => ("stopped", "-".to_owned(), "-".to_owned()),
            Some(status) => {
                let ready = if status.ready { "Ready" } else { "NotReady" };
                // The pods of a cluster's node are Kubernetes' to list.
                let count = (!in_cluster).then(|| status.pods.len().to_string());
                (ready, services(status), count.unwrap_or("-".to_owned()))
            }
        };
        writeln!(
            out,
            "{name:20} {instance:21} {address:16} {ready:9} {services:24} {pods}"
        )?;
    }
    Ok(())
}

fn services(status: &NodeStatus) -> String {
    let one = |(name, service): (&String, &ServiceStatus)| {
        let how = match service {
            s if s.stopped => " (stopped)".to_owned(),
            s if s.pid.is_none() => format!(" (down, {} restarts)", s.restarts),
            s if s.restarts > 0 => format!(" ({} restarts)", s.restarts),
            _ => String::new(),
        };
        format!("{name}{how}")
    };
    let all: Vec<String> = status.services.iter().map(one).collect();
    if all.is_empty() {
        "none".to_owned()
    } else {
        all.join(", ")
    }
}
