//! Follows the embedded EC2: every running instance becomes a node, every held interface a link.
//!
//! The rule is the simplest honest one: an instance that runs has a node, whoever asked EC2 for it,
//! and an instance that is gone has none. That holds for a node whose first process is killed, too:
//! it is booted again, as after a power cut. Nodes that the topology does not name run the agent with
//! default settings; an instance with the tag `kubernetes.io/cluster/NAME` becomes a node of that
//! cluster instead, see `member`. Order of a change: nodes that come, then the fabric, then the listeners
//! inside new VPCs and the agents of new nodes, last the nodes that go (their links are unplugged by
//! then). EC2 calls that change something are answered after that.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use tokio::sync::{mpsc, watch};
use vpc::facts::{Instance, VpcId};
use vpcsim::Sim;
use vpcsim::fabric::{self, Handle, HostId, Outcome, Plug};

use super::agent_env;
use super::forward::{Forward, INTROSPECTION, forward};
use super::inside::{Inside, listen};
use super::member::{self, Candidate, Task, Ways};
use crate::cgroup::Cgroups;
use crate::cluster::Joinable;
use crate::error::{Error, IoContext as _};
use crate::node::{Boot, Node};
use crate::place::Place;
use crate::state::{NodeState, State};
use crate::teardown;
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
    /// The directory with Kubernetes' programs, when one was given.
    pub(super) kubernetes: Option<PathBuf>,
    /// `--containerd`.
    pub(super) containerd: Option<PathBuf>,
    /// Clusters that instances can join.
    pub(super) joinable: Joinable,
    /// Addresses of hosts on the internet.
    pub(super) internet: BTreeSet<Ipv4Addr>,
}

struct Launched {
    node: Node,
    dns_name: String,
    /// The cluster that it is to join.
    cluster: Option<String>,
    /// The port that its introspection had before it was off.
    port: Option<u16>,
    /// What makes it a member of its cluster.
    joining: Option<Task>,
    /// Its links are there once the fabric has followed this version.
    since: u64,
    plugged: bool,
    forward: Option<Forward>,
    /// Unplugged since this version: ends when the fabric has followed.
    leaving: Option<u64>,
}

/// What a node that is off keeps, besides its disk.
struct Off {
    name: String,
    dns_name: String,
    cluster: Option<String>,
    /// The port behind which its introspection answers.
    port: Option<u16>,
}

/// The first process of a node has ended: its instance and its number.
type Exit = (String, u32);

/// Runs until the task is dropped or something fails for good.
pub(super) struct Launcher {
    plan: Plan,
    sim: Sim,
    cgroups: Cgroups,
    fabric: Handle,
    outcomes: mpsc::UnboundedReceiver<Outcome>,
    nodes: BTreeMap<String, Launched>,
    /// Nodes that are off and may come back, by their instance.
    off: BTreeMap<String, Off>,
    exits: (mpsc::UnboundedSender<Exit>, mpsc::UnboundedReceiver<Exit>),
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
            off: BTreeMap::new(),
            exits: mpsc::unbounded_channel(),
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
                Some((id, pid)) = self.exits.1.recv() => self.exited(&id, pid).await?,
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
            .filter(|(_, i)| runs(i))
            .map(|(id, i)| (id.to_string(), i))
            .collect();
        self.forget_terminated(&desired).await;
        for (id, instance) in &wanted {
            if !self.nodes.contains_key(id) && !self.broken.contains(id) {
                self.launch(id, instance, &desired).await;
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
                if self.end_nodes(version).await {
                    // Instances that were started again meanwhile.
                    self.follow().await?;
                }
            }
            Err(error) => {
                tracing::error!(version, %error, "the packets do not follow EC2");
                self.state
                    .send_modify(|s| s.trouble = Some(format!("fabric: {error}")));
            }
        }
        Ok(())
    }

    async fn launch(&mut self, id: &str, instance: &Instance, desired: &vpcsim::Desired) {
        let name = self.name_of(id, instance);
        let back = self.off.remove(id);
        let port = back.as_ref().and_then(|off| off.port);
        let hostname = match instance.private_dns_name.as_str() {
            "" => name.clone(),
            dns_name => dns_name.to_owned(),
        };
        let cluster = member::cluster_of(instance);
        let boot = Boot {
            name: name.clone(),
            hostname,
            program: self.plan.program.clone(),
            cluster: cluster
                .as_ref()
                .map(|_| member::resolv_conf(instance, &desired.world, &self.sim.region())),
        };
        let (place, cgroups) = (self.plan.place.clone(), self.cgroups.clone());
        let start = move || {
            if back.is_none() {
                teardown::remove_dir(&place.node_disk(&boot.name))?;
            }
            Node::boot(&place, &cgroups, &boot)
        };
        let started = match blocking(start).await {
            Ok(node) => self.watch(id, &node).map(|()| node),
            Err(error) => Err(error),
        };
        match started {
            Ok(node) => {
                tracing::info!(instance = id, node = name, ?cluster, "node started");
                let launched = Launched {
                    node,
                    dns_name: instance.private_dns_name.clone(),
                    cluster,
                    port,
                    joining: None,
                    since: desired.version,
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

    /// Tells this launcher when a node's first process ends.
    fn watch(&self, id: &str, node: &Node) -> Result<(), Error> {
        let process = node.watch()?;
        let (tell, exit) = (self.exits.0.clone(), (id.to_owned(), node.pid()));
        std::thread::spawn(move || {
            let mut ended = [PollFd::new(&process, PollFlags::IN)];
            while poll(&mut ended, None) == Err(Errno::INTR) {}
            // Without a launcher nobody is left to be told.
            let _ = tell.send(exit);
        });
        Ok(())
    }

    /// A node whose first process was killed lost its power: it is booted again with its disk, in a
    /// network namespace that the fabric plugs anew.
    async fn exited(&mut self, id: &str, pid: u32) -> Result<(), Error> {
        let known = |n: &Launched| n.node.pid() == pid && n.leaving.is_none();
        if !self.nodes.get(id).is_some_and(known) {
            return Ok(());
        }
        tracing::warn!(instance = id, "a node lost its power; booting it");
        self.end(id).await;
        self.follow().await
    }

    /// Ends a node; whether it comes back is seen later.
    async fn end(&mut self, id: &str) {
        let Some(launched) = self.nodes.remove(id) else {
            return;
        };
        let name = launched.node.name().to_owned();
        let off = Off {
            name: name.clone(),
            dns_name: launched.dns_name,
            cluster: launched.cluster,
            port: launched.forward.map(|f| f.port),
        };
        drop(launched.joining);
        let (place, cgroups) = (self.plan.place.clone(), self.cgroups.clone());
        let node = launched.node;
        match blocking(move || node.end(&place, &cgroups)).await {
            Ok(()) => tracing::info!(instance = id, node = name, "node ended"),
            Err(error) => tracing::error!(node = name, %error, "a node did not end cleanly"),
        }
        self.off.insert(id.to_owned(), off);
    }

    /// Instances that will not come back lose their disk, and their cluster its Node.
    async fn forget_terminated(&mut self, desired: &vpcsim::Desired) {
        let gone = |id: &String| !may_return(desired, id);
        let ids: Vec<String> = self.off.keys().filter(|id| gone(id)).cloned().collect();
        for id in ids {
            let Some(off) = self.off.remove(&id) else {
                continue;
            };
            let (disk, name) = (self.plan.place.node_disk(&off.name), off.name);
            if let Err(error) = blocking(move || teardown::remove_dir(&disk)).await {
                tracing::error!(node = name, %error, "cannot remove a node's disk");
            }
            let joining = |cluster| self.plan.joinable.borrow().get(&cluster).cloned();
            if let Some(joining) = off.cluster.and_then(joining) {
                tokio::spawn(member::forget(joining, off.dns_name));
            }
        }
    }

    /// The name that it had before it was off; else the `Name` tag where it can be a name and is
    /// free, else the private DNS name's first label, else the instance's id.
    fn name_of(&self, id: &str, instance: &Instance) -> String {
        if let Some(off) = self.off.get(id) {
            return off.name.clone();
        }
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
                && !self.off.values().any(|off| off.name == name)
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

    /// The agents of bare nodes whose links are there now, and the services of clusters' nodes.
    async fn start_agents(&mut self, version: u64) {
        let Ok(desired) = self.sim.desired() else {
            return;
        };
        let due = |n: &Launched| !n.plugged && n.since <= version;
        for (id, launched) in self.nodes.iter_mut().filter(|(_, n)| due(n)) {
            launched.plugged = true;
            let name = launched.node.name().to_owned();
            let started = match &launched.cluster {
                Some(cluster) => {
                    let candidate = Candidate {
                        instance: id.clone(),
                        node: name.clone(),
                        cluster: cluster.clone(),
                    };
                    let ways = Ways {
                        place: self.plan.place.clone(),
                        program: self.plan.program.clone(),
                        kubernetes: self.plan.kubernetes.clone(),
                        containerd: self.plan.containerd.clone(),
                        sim: self.sim.clone(),
                        joinable: self.plan.joinable.clone(),
                        state: self.state.clone(),
                    };
                    launched.joining = Some(Task(tokio::spawn(ways.join(candidate))));
                    introspect(launched).await
                }
                None => {
                    let wanted = self.plan.agents.get(&name).cloned().unwrap_or_default();
                    start_agent(launched, &wanted, &self.plan.program).await
                }
            };
            if let Err(error) = started {
                tracing::error!(node = name, %error, "cannot start the agent");
                self.state
                    .send_modify(|s| s.trouble = Some(format!("agent on {name}: {error}")));
            }
        }
        self.publish(&desired);
    }

    /// Ends the nodes whose links are unplugged by now. Returns whether there was one.
    async fn end_nodes(&mut self, version: u64) -> bool {
        let due = |n: &Launched| n.leaving.is_some_and(|since| since <= version);
        let ids: Vec<String> = self
            .nodes
            .iter()
            .filter(|(_, n)| due(n))
            .map(|(id, _)| id.clone())
            .collect();
        for id in &ids {
            self.end(id).await;
        }
        self.broken.clear();
        if let Ok(desired) = self.sim.desired() {
            self.forget_terminated(&desired).await;
            self.publish(&desired);
        }
        !ids.is_empty()
    }

    /// Tells the daemon which nodes there are: those whose links are there, and those that are off.
    fn publish(&self, desired: &vpcsim::Desired) {
        let there = |n: &Launched| n.plugged && n.leaving.is_none();
        let staying = self.nodes.iter().filter(|(_, n)| there(n));
        let running = staying.map(|(id, n)| {
            let state = NodeState {
                instance: id.clone(),
                dns_name: n.dns_name.clone(),
                cluster: n.cluster.clone(),
                address: member::address(desired, id),
                introspection: n.forward.as_ref().map(|f| f.port),
            };
            (n.node.name().to_owned(), state)
        });
        let nodes: BTreeMap<String, NodeState> = running.collect();
        let off = self.off.iter().map(|(id, off)| {
            let state = NodeState {
                instance: id.clone(),
                dns_name: off.dns_name.clone(),
                cluster: off.cluster.clone(),
                address: member::address(desired, id),
                introspection: None,
            };
            (off.name.clone(), state)
        });
        let stopped: BTreeMap<String, NodeState> = off.collect();
        self.state.send_if_modified(|s| {
            let differs = s.nodes != nodes || s.stopped != stopped;
            (s.nodes, s.stopped) = (nodes, stopped);
            differs
        });
    }
}

/// Whether an instance has a node.
fn runs(instance: &Instance) -> bool {
    matches!(instance.state.as_str(), "pending" | "running")
}

/// Whether an instance has one, or may be started again.
fn may_return(desired: &vpcsim::Desired, id: &str) -> bool {
    let mut all = desired.world.instances.values();
    let stopped = |i: &Instance| matches!(i.state.as_str(), "stopping" | "stopped");
    all.any(|i| i.id.as_str() == id && (runs(i) || stopped(i)))
}

async fn introspect(launched: &mut Launched) -> Result<(), Error> {
    launched.forward = Some(forward(launched.node.netns(), INTROSPECTION, launched.port).await?);
    Ok(())
}

async fn start_agent(launched: &mut Launched, wanted: &Agent, program: &Path) -> Result<(), Error> {
    let Some(agent) = agent_env::agent(wanted, launched.node.name(), program)? else {
        return Ok(());
    };
    introspect(launched).await?;
    launched.node.start_service(agent)
}

/// Runs blocking work beside the event loop.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(joined) => Err(std::io::Error::other(joined)).doing("run work beside the event loop"),
    }
}
