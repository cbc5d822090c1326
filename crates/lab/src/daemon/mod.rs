//! The daemon of a lab: the embedded EC2, the fabric, the launcher of nodes.
//!
//! It only changes things. Packets are carried by the kernel and pods are looked after by their
//! nodes, so traffic goes on while the daemon is stopped.

mod agent_env;
mod forward;
mod inside;
mod launcher;
mod member;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::Child;
use std::time::{Duration, Instant};

use ec2::Credentials;
use rustix::fs::{FlockOperation, flock};
use tokio::sync::watch;
use vpc::facts::EniId;
use vpcsim::{Caller, Config, Sim};

use crate::build;
use crate::cgroup::Cgroups;
use crate::client;
use crate::cluster::{Binaries, Manager, Tell};
use crate::error::{Error, IoContext as _};
use crate::host;
use crate::node;
use crate::place::Place;
use crate::state::{ACCESS_KEY, HostState, Process, SECRET_KEY, State};
use crate::teardown;
use crate::topology::{HostKind, Topology};
use crate::up::{Interrupt, Progress, UpOptions, View, prepare, runtime, tail};
pub(crate) use agent_env::EC2_ENDPOINT;
pub(crate) use forward::{Forward, forward};
pub(crate) use launcher::blocking;
use launcher::{Launcher, Plan};

/// How long an agent may take until its node is ready for pods: a second, and more on a machine that
/// is busy.
const AGENT_PATIENCE: Duration = Duration::from_secs(90);

/// Runs a lab until it is told to end, then removes it. In the background it leaves the terminal's
/// session and reports its progress as JSON lines on standard output, once.
///
/// # Errors
/// When the lab is up already or cannot be built; nothing is left behind then.
pub fn serve(place: &Place, options: &UpOptions, background: bool) -> Result<(), Error> {
    let mut reporter = Reporter::new(place, background);
    if background {
        rustix::process::setsid().doing("leave the terminal's session")?;
    } else {
        prepare(place)?;
    }
    // Held until the process ends, however it ends.
    let lock = lock(place)?;
    let outcome = runtime()?.block_on(run(place, options, &mut reporter));
    let swept = teardown::sweep(place, &Cgroups::mounted()?);
    drop(lock);
    if let Err(error) = &outcome {
        reporter.failed(error);
    }
    outcome.and(swept)
}

fn lock(place: &Place) -> Result<File, Error> {
    let path = place.lock();
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .at(&path)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::AGAIN) => {
            let pid = State::read(place)?.map_or(0, |s| s.daemon.pid);
            Err(Error::AlreadyUp {
                name: place.name().to_string(),
                pid,
            })
        }
        Err(e) => Err(e).at(&path),
    }
}

/// Builds, reports, and stays until it is told to end.
async fn run(place: &Place, options: &UpOptions, reporter: &mut Reporter) -> Result<(), Error> {
    let mut interrupt = Interrupt::new()?;
    let building = Lab::build(place, options, reporter);
    let mut lab = tokio::select! {
        lab = building => lab?,
        () = interrupt.recv() => return Err(Error::Interrupted),
    };
    reporter.ready()?;
    tokio::select! {
        ended = &mut lab.work => ended?,
        () = interrupt.recv() => {}
    }
    Ok(())
}

/// Tells whoever started the lab how far it is.
struct Reporter {
    view: Option<View>,
    place: Place,
}

impl Reporter {
    fn new(place: &Place, background: bool) -> Self {
        let view = (!background).then(|| View::new(Instant::now()));
        Self {
            view,
            place: place.clone(),
        }
    }

    fn step(&mut self, text: String) -> Result<(), Error> {
        tracing::info!("{text}");
        match &self.view {
            Some(view) => view.step(text),
            None => say(&Progress::Step(text))?,
        }
        Ok(())
    }

    fn ready(&mut self) -> Result<(), Error> {
        match &self.view {
            Some(view) => view.ready(&self.place),
            None => {
                say(&Progress::Ready)?;
                let null = "/dev/null";
                let null = OpenOptions::new().write(true).open(null).at(null)?;
                rustix::stdio::dup2_stdout(null).doing("let go of standard output")?;
            }
        }
        Ok(())
    }

    fn failed(&mut self, error: &Error) {
        match &self.view {
            Some(view) => view.close(),
            // Nobody listens any more: the log has it.
            None => drop(say(&Progress::Failed(error.to_string()))),
        }
    }
}

/// One line to whoever started the daemon. That it is gone is an error: then nobody wants the lab.
fn say(progress: &Progress) -> Result<(), Error> {
    let line = serde_json::to_string(progress).map_err(|source| Error::Message {
        what: "progress".to_owned(),
        source,
    })?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .doing("report progress")
}

/// A lab that stands. Its parts end with it.
struct Lab {
    /// Ends only when something failed for good.
    work: std::pin::Pin<Box<dyn Future<Output = Result<(), Error>>>>,
    /// Processes of hosts, reaped by nobody else.
    _hosts: Vec<Child>,
}

impl Lab {
    async fn build(
        place: &Place,
        options: &UpOptions,
        reporter: &mut Reporter,
    ) -> Result<Self, Error> {
        let topology = Topology::read(&options.file)?;
        if !topology.clusters.is_empty() {
            // Before anything is built.
            let (given, program) = (options.kubernetes.clone(), options.program.clone());
            blocking(move || Binaries::find(given.as_deref(), &program)).await?;
        }
        // A lab without nodes is one nevertheless.
        fs::create_dir_all(place.nodes_dir()).at(place.nodes_dir())?;
        let listener = listen(options.port)?;
        let port = listener
            .local_addr()
            .doing("read the port's number")?
            .port();
        let (state, mut seen) = watch::channel(first_state(&topology, options, port)?);
        seen.borrow_and_update().write(place)?;

        let config = Config {
            region: topology.region.clone(),
            ..Config::default()
        };
        let sim = Sim::new(config);
        // A key that is known can sign tokens for clusters.
        sim.add_access_key(operator(&sim.account()), SECRET_KEY);
        let api = sim.clone();
        let api = tokio::spawn(async move { api.serve_api(listener, true).await });
        let client = client_for(&topology, port)?;
        let eks = build::Eks {
            client: eks_for(&topology, port)?,
            account: sim.account(),
        };
        let cgroups = Cgroups::mounted()?;

        let mut steps = Vec::new();
        let network = build::Building::new(&client, &eks, &topology);
        let network = network.network(&mut |text| steps.push(text)).await?;
        for text in steps.drain(..) {
            reporter.step(text)?;
        }
        reporter.step(format!("hosts: {}", topology.hosts.len()))?;
        let (tell_hosts, hosts) = watch::channel(pin_hosts(place, &topology)?);
        let (tell_joinable, joinable) = watch::channel(BTreeMap::new());
        let plan = Plan {
            place: place.clone(),
            program: options.program.clone(),
            agents: topology
                .instances()
                .map(|(n, node)| (n, node.agent.clone()))
                .collect(),
            hosts,
            kubernetes: options.kubernetes.clone(),
            containerd: options.containerd.clone(),
            joinable: joinable.clone(),
            internet: internet(&topology),
        };
        let launcher = Launcher::new(plan, sim.clone(), cgroups.clone(), state.clone())?;
        let manager = Manager::new(
            place.clone(),
            cgroups.clone(),
            options.program.clone(),
            options.kubernetes.clone(),
            topology
                .clusters
                .iter()
                .map(|c| c.name.value.clone())
                .collect(),
            sim.clone(),
            Tell {
                hosts: tell_hosts,
                joinable: tell_joinable,
                state: state.clone(),
            },
        );
        let keeper = keep_state(place.clone(), seen.clone());
        let mut work: std::pin::Pin<Box<dyn Future<Output = Result<(), Error>>>> =
            Box::pin(async move {
                tokio::select! {
                    ended = launcher.run() => ended,
                    ended = manager.run() => ended,
                    ended = keeper => ended,
                    served = api => match served {
                        Ok(served) => Ok(served?),
                        Err(e) => Err(std::io::Error::other(e)).doing("serve the EC2 API"),
                    },
                }
            });
        let rest = async {
            let children = Self::hosts(place, options, &topology, &network, &sim, &cgroups, &state);
            let children = children.await?;
            let count = topology.instances().count();
            reporter.step(format!("instances: {count}"))?;
            network.instances().await?;
            for cluster in &topology.clusters {
                let name = &cluster.name.value;
                reporter.step(format!("cluster {name}: control plane"))?;
                reached(&mut seen, |s| s.clusters.contains_key(name)).await?;
                network.furnish(cluster).await?;
            }
            sim.set_knobs(topology.simulator.clone());
            let agents = topology.instances().filter(|(_, n)| n.has_agent()).count();
            reporter.step(format!("agents: {agents}"))?;
            ready(place, &topology, &mut seen).await?;
            for cluster in &topology.clusters {
                let (name, nodes) = (&cluster.name.value, topology.nodes_of(cluster));
                reporter.step(format!("cluster {name}: add-ons, nodes: {nodes}"))?;
                reached(&mut seen, |s| s.clusters.get(name).is_some_and(|c| c.ready)).await?;
                let joining = joinable.borrow().get(name).cloned();
                if let Some(joining) = joining {
                    // A node that cannot join its cluster is told, not waited for.
                    tokio::select! {
                        settled = blocking(move || joining.settle(nodes)) => settled?,
                        told = reached(&mut seen, |_| false) => told?,
                    }
                }
            }
            state.send_modify(|s| s.ready = true);
            state.borrow().write(place)?;
            Ok::<_, Error>(children)
        };
        let children = tokio::select! {
            built = rest => built?,
            ended = &mut work => return Err(ended.err().unwrap_or(Error::Interrupted)),
        };
        Ok(Self {
            work,
            _hosts: children,
        })
    }

    /// Processes that answer, and interfaces plugged into their namespaces.
    async fn hosts(
        place: &Place,
        options: &UpOptions,
        topology: &Topology,
        network: &build::Network<'_>,
        sim: &Sim,
        cgroups: &Cgroups,
        state: &watch::Sender<State>,
    ) -> Result<Vec<Child>, Error> {
        let mut children = Vec::new();
        for host in &topology.hosts {
            let name = &host.name.value;
            let built = network.hosts().get(name);
            if let Some(built) = built {
                let eni: EniId = built.eni.parse()?;
                let owner = match host.kind {
                    HostKind::Rds => "amazon-rds",
                    _ => "branchline-lab",
                };
                sim.attach_managed(&eni, name, owner).await?;
            }
            let (netns, bind) = match (host.kind, &host.address) {
                (HostKind::Internet, Some(address)) => (place.netns("internet"), address.value),
                _ => (place.netns(name), Ipv4Addr::UNSPECIFIED),
            };
            let spec = host::HostSpec {
                name: name.clone(),
                netns,
                bind,
                listen: host.listen.clone(),
            };
            let (place, cgroups) = (place.clone(), cgroups.clone());
            let program = options.program.clone();
            let start = move || host::start(&place, &cgroups, &spec, &program);
            children.push(blocking(start).await?);
            let entry = HostState {
                eni: built.map(|b| b.eni.clone()),
                address: built
                    .map(|b| b.address)
                    .or(host.address.as_ref().map(|a| a.value)),
                listen: host.listen.iter().map(ToString::to_string).collect(),
            };
            state.send_modify(|s| drop(s.hosts.insert(name.clone(), entry)));
        }
        Ok(children)
    }
}

fn listen(port: Option<u16>) -> Result<TcpListener, Error> {
    let wanted = port.unwrap_or(0);
    TcpListener::bind((Ipv4Addr::LOCALHOST, wanted)).map_err(|source| match source.kind() {
        std::io::ErrorKind::AddrInUse => Error::PortInUse { port: wanted },
        _ => Error::Listen {
            what: format!("127.0.0.1:{wanted}"),
            source,
        },
    })
}

fn first_state(topology: &Topology, options: &UpOptions, port: u16) -> Result<State, Error> {
    Ok(State {
        daemon: Process::own()?,
        topology: options.file.clone(),
        region: topology.region.clone(),
        port,
        ready: false,
        nodes: BTreeMap::new(),
        stopped: BTreeMap::new(),
        hosts: BTreeMap::new(),
        clusters: BTreeMap::new(),
        trouble: None,
    })
}

fn client_for(topology: &Topology, port: u16) -> Result<ec2::Client, Error> {
    built(topology, builder(topology, port).build())
}

/// Who `lab env` makes of its user.
fn operator(account: &str) -> Caller {
    Caller {
        account: account.to_owned(),
        arn: format!("arn:aws:iam::{account}:user/branchline"),
        access_key: ACCESS_KEY.to_owned(),
    }
}

fn eks_for(topology: &Topology, port: u16) -> Result<ec2::eks::Client, Error> {
    built(topology, builder(topology, port).build_eks())
}

fn builder(topology: &Topology, port: u16) -> ec2::client::Builder {
    let credentials = Credentials::new(ACCESS_KEY, SECRET_KEY, None, None, "branchline lab");
    ec2::Client::builder()
        .region(&topology.region)
        .endpoint(format!("http://127.0.0.1:{port}"))
        .credentials(credentials)
}

fn built<T>(topology: &Topology, built: Result<T, ec2::Error>) -> Result<T, Error> {
    built.map_err(|e| Error::Build {
        what: topology.name.clone(),
        source: Box::new(e),
    })
}

fn pin_hosts(place: &Place, topology: &Topology) -> Result<BTreeMap<String, PathBuf>, Error> {
    let inside = topology
        .hosts
        .iter()
        .filter(|h| h.kind != HostKind::Internet);
    let pin = |name: &String| Ok((name.clone(), node::pin(place, name)?));
    inside.map(|h| pin(&h.name.value)).collect()
}

fn internet(topology: &Topology) -> BTreeSet<Ipv4Addr> {
    let outside = topology
        .hosts
        .iter()
        .filter(|h| h.kind == HostKind::Internet);
    outside
        .filter_map(|h| h.address.as_ref().map(|a| a.value))
        .collect()
}

/// Writes the state whenever it changes.
async fn keep_state(place: Place, mut seen: watch::Receiver<State>) -> Result<(), Error> {
    while seen.changed().await.is_ok() {
        let state = seen.borrow_and_update().clone();
        state.write(&place)?;
    }
    std::future::pending().await
}

/// Waits until the lab is so far, or in trouble.
async fn reached(
    seen: &mut watch::Receiver<State>,
    is: impl Fn(&State) -> bool,
) -> Result<(), Error> {
    let so_far = seen.wait_for(|s| s.trouble.is_some() || is(s)).await;
    // The sender lives as long as the lab.
    let trouble = so_far.map_or(None, |s| s.trouble.clone());
    trouble.map_or(Ok(()), |message| Err(Error::Daemon { message }))
}

/// Waits until every node of the topology that has an agent is ready for pods.
async fn ready(
    place: &Place,
    topology: &Topology,
    seen: &mut watch::Receiver<State>,
) -> Result<(), Error> {
    let begun = Instant::now();
    for (name, node) in topology.instances() {
        loop {
            if let Some(trouble) = seen.borrow().trouble.clone() {
                return Err(Error::Daemon { message: trouble });
            }
            let known = seen.borrow().nodes.contains_key(&name);
            let (asked, at) = (name.clone(), place.clone());
            if known && !node.has_agent() {
                break;
            }
            if known
                && blocking(move || client::node_status(&at, &asked))
                    .await?
                    .ready
            {
                break;
            }
            if begun.elapsed() > AGENT_PATIENCE {
                let logs = [
                    place.node_dir(&name).join("agent.log"),
                    place.agent_log(&name),
                ];
                let log: String = logs
                    .iter()
                    .map(|l| fs::read_to_string(l).unwrap_or_default())
                    .collect();
                let said = tail(&log);
                return Err(Error::NodeNotReady { node: name, said });
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    Ok(())
}
