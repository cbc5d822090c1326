//! Follows the embedded EC2: every running instance becomes a node, every held interface a link.
//!
//! The rule is the simplest honest one: an instance that runs has a node, whoever asked EC2 for it,
//! and an instance that is gone has none. Nodes that the topology does not name run the agent with
//! default settings. Order of a change: nodes that come, then the fabric, then the listeners
//! inside new VPCs and the agents of new nodes, last the nodes that go (their links are unplugged by
//! then). EC2 calls that change something are answered after that.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use tokio::sync::{mpsc, watch};
use vpc::facts::{Instance, VpcId};
use vpcsim::Sim;
use vpcsim::fabric::{self, Handle, HostId, Outcome, Plug};

use super::agent_env;
use super::forward::{Forward, forward};
use super::inside::{Inside, listen};
use crate::cgroup::Cgroups;
use crate::cluster::Joinable;
use crate::error::{Error, IoContext as _};
use crate::node::Node;
use crate::place::Place;
use crate::state::{NodeState, State};
use crate::topology::Agent;

/// MTU of a link inside a VPC.
const MTU: u32 = 9001;

/// What the launcher is told once.
pub(super) struct Plan {
    pub(super) place: Place,
    pub(super) program: PathBuf,
    /// Agents by the node's name.
    pub(super) agents: BTreeMap<String, Agent>,
    /// Namespaces of hosts that are not instances: control planes come and go.
    pub(super) hosts: watch::Receiver<BTreeMap<String, PathBuf>>,
    /// Clusters that instances can join.
    pub(super) joinable: Joinable,
    /// Addresses of hosts on the internet.
    pub(super) internet: BTreeSet<Ipv4Addr>,
}

struct Launched {
    node: Node,
    /// Its links are there once the fabric has followed this version.
    since: u64,
    plugged: bool,
    forward: Option<Forward>,
    /// Unplugged since this version: ends when the fabric has followed.
    leaving: Option<u64>,
}

/// Runs until the task is dropped or something fails for good.
pub(super) struct Launcher {
    plan: Plan,
    sim: Sim,
    cgroups: Cgroups,
    fabric: Handle,
    outcomes: mpsc::UnboundedReceiver<Outcome>,
    nodes: BTreeMap<String, Launched>,
    /// Instances whose node failed to start, so that it is tried once.
    broken: BTreeSet<String>,
    inside: BTreeMap<VpcId, Inside>,
    state: watch::Sender<State>,
}

impl Launcher {
    pub(super) fn new(
        plan: Plan,
        sim: Sim,
        cgroups: Cgroups,
        state: watch::Sender<State>,
    ) -> Result<Self, Error> {
        let (tell, outcomes) = mpsc::unbounded_channel();
        // The receiver goes only with the whole daemon.
        let applied = move |outcome| drop(tell.send(outcome));
        let fabric = Handle::start(plan.place.dir(), applied)?;
        // From here on a call that changes something is answered when the packets follow.
        sim.applied(0);
        Ok(Self {
            plan,
            sim,
            cgroups,
            fabric,
            outcomes,
            nodes: BTreeMap::new(),
            broken: BTreeSet::new(),
            inside: BTreeMap::new(),
            state,
        })
    }

    /// Follows every version of the network.
    pub(super) async fn run(mut self) -> Result<(), Error> {
        let mut versions = self.sim.versions();
        versions.mark_changed();
        let mut hosts = self.plan.hosts.clone();
        loop {
            tokio::select! {
                changed = versions.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    versions.borrow_and_update();
                    self.follow().await?;
                }
                Ok(()) = hosts.changed() => self.follow().await?,
                Some(outcome) = self.outcomes.recv() => self.applied(outcome).await?,
            }
        }
    }

    /// One version: nodes that come, then the fabric.
    async fn follow(&mut self) -> Result<(), Error> {
        let desired = self.sim.desired()?;
        let wanted: BTreeMap<String, &Instance> = desired
            .world
            .instances
            .iter()
            .filter(|(_, i)| matches!(i.state.as_str(), "pending" | "running"))
            .map(|(id, i)| (id.to_string(), i))
            .collect();
        for (id, instance) in &wanted {
            if !self.nodes.contains_key(id) && !self.broken.contains(id) {
                self.launch(id, instance, desired.version).await;
            }
        }
        for (id, launched) in &mut self.nodes {
            if !wanted.contains_key(id) {
                launched.leaving.get_or_insert(desired.version);
            }
        }
        self.fabric
            .request(desired.version, self.fabric_for(&desired))?;
        self.publish(&desired);
        Ok(())
    }

    fn fabric_for(&self, desired: &vpcsim::Desired) -> fabric::Desired {
        let staying = self.nodes.iter().filter(|(_, n)| n.leaving.is_none());
        let nodes = staying.map(|(id, n)| (HostId(id.clone()), n.node.netns().to_owned()));
        let hosts = self.plan.hosts.borrow();
        let hosts = hosts
            .iter()
            .map(|(n, path)| (HostId(n.clone()), path.clone()));
        let hosts: BTreeMap<HostId, PathBuf> = nodes.chain(hosts).collect();
        let plugs = desired.attachments.iter().filter_map(|(eni, at)| {
            let host = HostId(at.host.clone());
            let mac = desired.world.enis.get(eni)?.mac;
            let plug = Plug {
                link: format!("eth{}", at.device)
                    .parse()
                    .expect("a valid link name"),
                configure: at.device == 0,
                mtu: MTU,
                mac,
                host,
            };
            hosts.contains_key(&plug.host).then(|| (eni.clone(), plug))
        });
        fabric::Desired {
            plugs: plugs.collect(),
            world: desired.world.clone(),
            internet: self.plan.internet.clone(),
            hosts: hosts.clone(),
        }
    }

    /// The fabric has followed a version, or could not.
    async fn applied(&mut self, outcome: Outcome) -> Result<(), Error> {
        let version = outcome.version;
        match outcome.result {
            Ok(report) => {
                for (eni, why) in &report.not_plugged {
                    tracing::warn!(%eni, "{why}");
                }
                self.open_inside()?;
                self.start_agents(version).await;
                self.sim.applied(version);
                self.end_nodes(version).await;
            }
            Err(error) => {
                tracing::error!(version, %error, "the packets do not follow EC2");
                self.state
                    .send_modify(|s| s.trouble = Some(format!("fabric: {error}")));
            }
        }
        Ok(())
    }

    async fn launch(&mut self, id: &str, instance: &Instance, since: u64) {
        let name = self.name_of(id, instance);
        let hostname = instance.private_dns_name.clone();
        let (place, cgroups) = (self.plan.place.clone(), self.cgroups.clone());
        let program = self.plan.program.clone();
        let hostname = if hostname.is_empty() {
            name.clone()
        } else {
            hostname
        };
        let start = {
            let name = name.clone();
            move || Node::start(&place, &cgroups, &name, &hostname, &program)
        };
        match blocking(start).await {
            Ok(node) => {
                tracing::info!(instance = id, node = name, "node started");
                let launched = Launched {
                    node,
                    since,
                    plugged: false,
                    forward: None,
                    leaving: None,
                };
                self.nodes.insert(id.to_owned(), launched);
            }
            Err(error) => {
                tracing::error!(instance = id, node = name, %error, "cannot start a node");
                self.broken.insert(id.to_owned());
                self.state
                    .send_modify(|s| s.trouble = Some(format!("node {name}: {error}")));
            }
        }
    }

    /// The `Name` tag where it can be a name and is free, else the private DNS name's first label,
    /// else the instance's id.
    fn name_of(&self, id: &str, instance: &Instance) -> String {
        let tag = instance
            .tags
            .get("Name")
            .map(String::as_str)
            .unwrap_or_default();
        let label = instance
            .private_dns_name
            .split('.')
            .next()
            .unwrap_or_default();
        let free = |name: &str| {
            crate::topology::is_host_name(name)
                && !self.plan.hosts.borrow().contains_key(name)
                && !self.nodes.values().any(|n| n.node.name() == name)
        };
        [tag, label]
            .into_iter()
            .find(|n| free(n))
            .unwrap_or(id)
            .to_owned()
    }

    /// Instance metadata and the EC2 endpoint, in every VPC that has its router.
    fn open_inside(&mut self) -> Result<(), Error> {
        let desired = self.sim.desired()?;
        self.inside
            .retain(|vpc, _| desired.world.vpcs.contains_key(vpc));
        for vpc in desired.world.vpcs.keys() {
            let router = self.plan.place.netns(vpc.as_str());
            if !self.inside.contains_key(vpc) && router.exists() {
                self.inside
                    .insert(vpc.clone(), listen(&self.sim, vpc, &router)?);
            }
        }
        Ok(())
    }

    async fn start_agents(&mut self, version: u64) {
        let due = |n: &Launched| !n.plugged && n.since <= version;
        for launched in self.nodes.values_mut().filter(|n| due(n)) {
            launched.plugged = true;
            let name = launched.node.name().to_owned();
            let wanted = self.plan.agents.get(&name).cloned().unwrap_or_default();
            if let Err(error) = start_agent(launched, &wanted, &self.plan.program).await {
                tracing::error!(node = name, %error, "cannot start the agent");
                self.state
                    .send_modify(|s| s.trouble = Some(format!("agent on {name}: {error}")));
            }
        }
        if let Ok(desired) = self.sim.desired() {
            self.publish(&desired);
        }
    }

    async fn end_nodes(&mut self, version: u64) {
        let due = |n: &Launched| n.leaving.is_some_and(|since| since <= version);
        let ids: Vec<String> = self
            .nodes
            .iter()
            .filter(|(_, n)| due(n))
            .map(|(id, _)| id.clone())
            .collect();
        for id in ids {
            let Some(launched) = self.nodes.remove(&id) else {
                continue;
            };
            let name = launched.node.name().to_owned();
            let (place, cgroups) = (self.plan.place.clone(), self.cgroups.clone());
            match blocking(move || launched.node.end(&place, &cgroups)).await {
                Ok(()) => tracing::info!(instance = id, node = name, "node ended"),
                Err(error) => tracing::error!(node = name, %error, "a node did not end cleanly"),
            }
        }
        self.broken.clear();
        if let Ok(desired) = self.sim.desired() {
            self.publish(&desired);
        }
    }

    /// Tells the daemon which nodes there are: those whose links are there.
    fn publish(&self, desired: &vpcsim::Desired) {
        let address = |id: &str| {
            let at = desired
                .attachments
                .iter()
                .find(|(_, at)| at.host == id && at.device == 0)?;
            Some(desired.world.enis.get(at.0)?.addresses.first()?.address)
        };
        let there = |n: &Launched| n.plugged && n.leaving.is_none();
        let staying = self.nodes.iter().filter(|(_, n)| there(n));
        let nodes: BTreeMap<String, NodeState> = staying
            .map(|(id, n)| {
                let state = NodeState {
                    instance: id.clone(),
                    address: address(id),
                    introspection: n.forward.as_ref().map(|f| f.port),
                };
                (n.node.name().to_owned(), state)
            })
            .collect();
        self.state.send_if_modified(|s| {
            let differs = s.nodes != nodes;
            s.nodes = nodes;
            differs
        });
    }
}

async fn start_agent(launched: &mut Launched, wanted: &Agent, program: &Path) -> Result<(), Error> {
    let Some(agent) = agent_env::agent(wanted, launched.node.name(), program)? else {
        return Ok(());
    };
    launched.forward = Some(forward(launched.node.netns()).await?);
    launched.node.start_service(agent)
}

/// Runs blocking work beside the event loop.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(joined) => Err(std::io::Error::other(joined)).doing("run work beside the event loop"),
    }
}
