//! `branchline lab …`: a VPC on this machine.
//!
//! Dispatched before any thread exists: some of these commands become the first process of a node
//! or a pod, or step into one, and namespaces belong to threads.

mod image;
mod node;

use std::io::{IsTerminal as _, Write as _};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand, ValueEnum};
use lab::cgroup::Cgroups;
use lab::node::PodName;
use lab::place::{DEFAULT_PARENT, LabName, Place};
use lab::state::State;
use lab::topology::{Listener, Topology};
use lab::{client, exec};

/// Run a VPC with instances and pods on this machine.
#[derive(Debug, Args)]
pub(crate) struct LabArgs {
    /// The lab's name; several can be up at once.
    #[arg(
        long,
        global = true,
        env = "BRANCHLINE_LAB",
        default_value = "default",
        value_name = "NAME"
    )]
    lab: LabName,
    /// Where labs keep what they have.
    #[arg(long, global = true, hide = true, env = "BRANCHLINE_LAB_DIR", default_value = DEFAULT_PARENT)]
    lab_dir: PathBuf,
    #[command(subcommand)]
    command: LabCommand,
}

#[derive(Debug, Subcommand)]
enum LabCommand {
    /// Build a topology and keep it running in the background.
    Up(UpArgs),
    /// Remove the lab and everything it made.
    Down,
    /// What is up: nodes, agents, hosts, pods.
    Status {
        /// One line per thing, or JSON.
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// Print the environment in which `aws` and `branchline` find the lab.
    Env {
        /// For which shell.
        #[arg(long, value_enum, default_value_t)]
        shell: Shell,
    },
    /// Run a command in a pod, a node or a host.
    Exec {
        /// A pod (NAME or NAMESPACE/NAME), a node or a host.
        name: String,
        /// The command.
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Print what a pod, a node's agent or a host wrote.
    Logs {
        /// A pod (NAME or NAMESPACE/NAME), a node or a host.
        name: String,
    },
    /// Start, end and list pods.
    #[command(subcommand)]
    Pod(PodCommand),
    /// List, enter, stop and start nodes.
    #[command(subcommand)]
    Node(node::NodeCommand),
    /// Control planes: stop and start one of their programs.
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// Container images: which there are, and more of them.
    #[command(subcommand)]
    Image(image::ImageCommand),
    /// Latencies, faults and lags of the embedded EC2.
    #[command(subcommand)]
    Knob(KnobCommand),
    /// The daemon of a lab.
    #[command(hide = true)]
    Serve(UpArgs),
    /// The first process of a node.
    #[command(hide = true)]
    NodeInit { spec: PathBuf },
    /// The first process of a pod.
    #[command(hide = true)]
    PodInit,
    /// A step into a cgroup.
    #[command(hide = true)]
    EnterCgroup {
        group: String,
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// The process of a host.
    #[command(hide = true)]
    HostInit {
        name: String,
        netns: PathBuf,
        group: PathBuf,
        #[arg(long)]
        bind: Ipv4Addr,
        listen: Vec<Listener>,
    },
    /// Answer on ports: TCP says who it is and echoes, UDP echoes, HTTP says who it is.
    #[command(hide = true)]
    Listen { ports: Vec<Listener> },
    /// The registry of a node.
    #[command(hide = true)]
    Registry { stores: Vec<PathBuf> },
}

#[derive(Debug, Args)]
struct UpArgs {
    /// The topology.
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
    /// Port of the EC2 API on 127.0.0.1; any free one when left out.
    #[arg(long)]
    port: Option<u16>,
    /// Stay in the foreground; Ctrl-C removes the lab.
    #[arg(long)]
    foreground: bool,
    /// The directory with Kubernetes' programs, if not the one that was built beside branchline.
    #[arg(long, value_name = "DIR", env = "KUBEBUILDER_ASSETS")]
    kubernetes: Option<PathBuf>,
    /// The directory with another containerd for the nodes than the distribution's, and its shim.
    #[arg(long, value_name = "DIR", env = "BRANCHLINE_CONTAINERD")]
    containerd: Option<PathBuf>,
}

impl UpArgs {
    fn options(&self) -> anyhow::Result<lab::UpOptions> {
        // The daemon has another working directory.
        let whole = |p: &PathBuf| std::fs::canonicalize(p).context(p.display().to_string());
        Ok(lab::UpOptions {
            file: whole(&self.file)?,
            port: self.port,
            program: program()?,
            kubernetes: self.kubernetes.as_ref().map(whole).transpose()?,
            containerd: self.containerd.as_ref().map(whole).transpose()?,
        })
    }
}

#[derive(Debug, Subcommand)]
enum PodCommand {
    /// Start a pod: its network by the node's CNI plugins, then the command in it.
    Run {
        /// NAME or NAMESPACE/NAME; with --count, NAME-1, NAME-2, …
        name: String,
        /// On which node; otherwise on the one with the fewest pods.
        #[arg(long)]
        node: Option<String>,
        /// The Kubernetes namespace.
        #[arg(long)]
        namespace: Option<String>,
        /// How many, all at once.
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
        count: Option<u32>,
        /// Seconds for which the network is tried again when a plugin asks for that, as kubelet does.
        #[arg(long, default_value_t = 5)]
        retry: u64,
        /// The command.
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// End pods and remove their networks.
    Delete {
        /// NAME or NAMESPACE/NAME.
        #[arg(required_unless_present = "all")]
        names: Vec<PodName>,
        /// Every pod of the lab.
        #[arg(long)]
        all: bool,
        /// Seconds between SIGTERM and SIGKILL; 0 kills at once.
        #[arg(long, default_value_t = 0)]
        grace: u64,
    },
    /// List pods.
    List {
        /// One line per pod, or JSON.
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// Ask the plugins whether a pod's network is as they made it (CNI CHECK).
    Check {
        /// NAME or NAMESPACE/NAME.
        name: PodName,
    },
}

#[derive(Debug, Subcommand)]
enum ClusterCommand {
    /// Stop or start a program of a control plane, as if it had failed.
    Component {
        /// The cluster.
        name: String,
        /// etcd, kube-apiserver, kube-controller-manager or kube-scheduler.
        component: String,
        /// What to do with it; `kill` ends it as a crash does, and it is started again.
        action: ComponentAction,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ComponentAction {
    Stop,
    Start,
    Kill,
}

#[derive(Debug, Subcommand)]
enum KnobCommand {
    /// Print all knobs.
    Get,
    /// Set knobs from JSON, as `get` prints them; what is left out stays.
    Set {
        /// A JSON object.
        json: String,
    },
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum Output {
    #[default]
    Text,
    Json,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum Shell {
    /// sh, bash, zsh
    #[default]
    Sh,
    Fish,
    /// A JSON object.
    Json,
}

/// Runs a `lab` command. Call it before any thread is started.
pub(crate) fn run(args: LabArgs) -> anyhow::Result<ExitCode> {
    let place = Place::new(args.lab, &args.lab_dir);
    match args.command {
        LabCommand::NodeInit { spec } => {
            telemetry();
            lab::node::init(&spec)?;
        }
        LabCommand::PodInit => lab::node::pod_init()?,
        LabCommand::EnterCgroup { group, command } => lab::node::enter_cgroup(&group, &command)?,
        LabCommand::HostInit {
            name,
            netns,
            group,
            bind,
            listen,
        } => {
            let host = lab::host::HostSpec {
                name,
                netns,
                bind,
                listen,
            };
            lab::host::init(&host, &group)?;
        }
        LabCommand::Listen { ports } => {
            lab::host::serve(&hostname(), Ipv4Addr::UNSPECIFIED, &ports, || Ok(()))?;
        }
        LabCommand::Registry { stores } => lab::image::registry::serve(&stores)?,
        command => {
            lab::require_root()?;
            return command_of_user(&place, command);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn command_of_user(place: &Place, command: LabCommand) -> anyhow::Result<ExitCode> {
    match command {
        LabCommand::Up(args) => up(place, &args)?,
        LabCommand::Serve(args) => serve(place, &args, true)?,
        LabCommand::Down => {
            if lab::down(place)? {
                eprintln!("lab '{}' is down", place.name());
            } else {
                eprintln!("lab '{}' was not up", place.name());
            }
        }
        LabCommand::Exec { name, command } => return enter(place, &name, &command),
        LabCommand::Node(command) => return node::run(place, command),
        LabCommand::Image(command) => image::run(place, command)?,
        LabCommand::Pod(command) => return pod(place, command),
        LabCommand::Logs { name } => {
            let path = client::log_of(place, &name)?;
            let mut file = std::fs::File::open(&path).context(path.display().to_string())?;
            std::io::copy(&mut file, &mut std::io::stdout().lock())?;
        }
        LabCommand::Cluster(ClusterCommand::Component {
            name,
            component,
            action,
        }) => {
            let action = match action {
                ComponentAction::Stop => lab::node::ServiceAction::Stop,
                ComponentAction::Start => lab::node::ServiceAction::Start,
                ComponentAction::Kill => lab::node::ServiceAction::Kill,
            };
            lab::cluster::act(place, &name, &component, action)?;
        }
        LabCommand::Status { output } => status(place, output)?,
        LabCommand::Env { shell } => env(place, shell)?,
        LabCommand::Knob(KnobCommand::Get) => {
            println!("{}", lab::knob::get(&State::of_running(place)?)?);
        }
        LabCommand::Knob(KnobCommand::Set { json }) => {
            println!("{}", lab::knob::set(&State::of_running(place)?, &json)?);
        }
        other => bail!("{other:?} is dispatched elsewhere"),
    }
    Ok(ExitCode::SUCCESS)
}

fn up(place: &Place, args: &UpArgs) -> anyhow::Result<()> {
    // A file with a mistake never gets as far as a daemon.
    Topology::read(&args.file)?;
    if args.foreground {
        return serve(place, args, false);
    }
    lab::up(place, &args.options()?)?;
    let flag = match place.name().to_string() {
        name if name == "default" => String::new(),
        name => format!(" --lab {name}"),
    };
    eprintln!("try: eval \"$(branchline lab{flag} env)\"   end: branchline lab{flag} down");
    Ok(())
}

fn serve(place: &Place, args: &UpArgs, background: bool) -> anyhow::Result<()> {
    telemetry();
    Ok(lab::serve(place, &args.options()?, background)?)
}

/// This program, which is also the first process of nodes and pods.
fn program() -> anyhow::Result<PathBuf> {
    std::env::current_exe().context("cannot find out where this program is")
}

fn telemetry() {
    // A second initialisation could only come from a caller that logs already.
    let _ = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .try_init();
}

fn hostname() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

fn enter(place: &Place, name: &str, command: &[String]) -> anyhow::Result<ExitCode> {
    let cgroups = Cgroups::mounted()?;
    let into = exec::find(place, &cgroups, name)?;
    Ok(ExitCode::from(exec::exit_code(exec::run(
        &cgroups, &into, command,
    )?)))
}

fn pod(place: &Place, command: PodCommand) -> anyhow::Result<ExitCode> {
    let mut failed = 0;
    match command {
        PodCommand::Run {
            name,
            node,
            namespace,
            count,
            retry,
            command,
        } => {
            let names = pod_names(&name, namespace.as_deref(), count)?;
            let retry = Duration::from_secs(retry);
            for outcome in client::run_pods(place, &names, node.as_deref(), &command, retry)? {
                match outcome {
                    Ok(p) => {
                        let address = p.status.address.map_or("-".to_owned(), |a| a.to_string());
                        println!("{:24} {:16} {}", p.status.pod, address, p.node);
                    }
                    Err(e) => {
                        failed += 1;
                        eprintln!("error: {e}");
                    }
                }
            }
        }
        PodCommand::Delete { names, all, grace } => {
            let names = if all {
                client::pods(place)?
                    .into_iter()
                    .map(|p| p.status.pod)
                    .collect()
            } else {
                names
            };
            for name in names {
                if let Err(e) = client::delete_pod(place, &name, Duration::from_secs(grace)) {
                    failed += 1;
                    eprintln!("error: {e}");
                }
            }
        }
        PodCommand::List { output } => print_pods(&client::pods(place)?, output)?,
        PodCommand::Check { name } => client::check_pod(place, &name)?,
    }
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn pod_names(
    name: &str,
    namespace: Option<&str>,
    count: Option<u32>,
) -> anyhow::Result<Vec<PodName>> {
    let first: PodName = match namespace {
        Some(namespace) => PodName::new(namespace, name)?,
        None => name.parse()?,
    };
    let Some(count) = count else {
        return Ok(vec![first]);
    };
    let numbered = |i| PodName::new(&first.namespace, &format!("{}-{i}", first.name));
    Ok((1..=count).map(numbered).collect::<Result<_, _>>()?)
}

fn print_pods(pods: &[client::Placed], output: Output) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    if let Output::Json = output {
        let list: Vec<_> = pods
            .iter()
            .map(|p| serde_json::json!({ "node": p.node, "pod": p.status }))
            .collect();
        writeln!(out, "{}", serde_json::to_string_pretty(&list)?)?;
        return Ok(());
    }
    if out.is_terminal() || !pods.is_empty() {
        writeln!(
            out,
            "{:32} {:16} {:16} {:12} COMMAND",
            "POD", "ADDRESS", "NODE", "PHASE"
        )?;
    }
    for p in pods {
        let address = p.status.address.map_or("-".to_owned(), |a| a.to_string());
        let command = p.status.command.join(" ");
        let (pod, phase) = (&p.status.pod, &p.status.phase);
        writeln!(
            out,
            "{pod:32} {address:16} {:16} {phase:12} {command}",
            p.node
        )?;
    }
    Ok(())
}

fn status(place: &Place, output: Output) -> anyhow::Result<()> {
    let state = State::of_running(place)?;
    let nodes = client::nodes(place)?;
    let mut out = std::io::stdout().lock();
    if let Output::Json = output {
        let all = serde_json::json!({ "lab": state, "nodes": nodes });
        writeln!(out, "{}", serde_json::to_string_pretty(&all)?)?;
        return Ok(());
    }
    let ready = if state.ready { "ready" } else { "starting" };
    writeln!(
        out,
        "lab      {} ({ready}), daemon {}",
        place.name(),
        state.daemon.pid
    )?;
    writeln!(out, "topology {}", state.topology.display())?;
    writeln!(
        out,
        "EC2 API  http://127.0.0.1:{} ({})",
        state.port, state.region
    )?;
    writeln!(out, "log      {}\n", place.log().display())?;
    drop(out);
    node::print(&state, &nodes)?;
    let mut out = std::io::stdout().lock();
    print_clusters(&mut out, &state)?;
    if !state.hosts.is_empty() {
        writeln!(out, "\n{:20} {:21} {:16} LISTENS", "HOST", "ENI", "ADDRESS")?;
    }
    for (name, host) in &state.hosts {
        let address = host.address.map_or("-".to_owned(), |a| a.to_string());
        let eni = host.eni.as_deref().unwrap_or("-");
        writeln!(
            out,
            "{name:20} {eni:21} {address:16} {}",
            host.listen.join(" ")
        )?;
    }
    Ok(())
}

fn print_clusters(out: &mut impl std::io::Write, state: &State) -> std::io::Result<()> {
    if !state.clusters.is_empty() {
        writeln!(
            out,
            "\n{:20} {:10} {:10} ENDPOINT",
            "CLUSTER", "VERSION", "STATE"
        )?;
    }
    for (name, cluster) in &state.clusters {
        let ready = if cluster.ready { "ready" } else { "starting" };
        let private = if cluster.port.is_none() {
            " (private: reached from inside of the VPC only)"
        } else {
            ""
        };
        let (version, endpoint) = (&cluster.version, &cluster.endpoint);
        writeln!(out, "{name:20} {version:10} {ready:10} {endpoint}{private}")?;
    }
    Ok(())
}

fn env(place: &Place, shell: Shell) -> anyhow::Result<()> {
    let program = program()?;
    let path = std::env::var("PATH").unwrap_or_default();
    let state = State::of_running(place)?;
    let variables = state.environment(place, &program.to_string_lossy(), &path);
    let mut out = std::io::stdout().lock();
    if let Shell::Json = shell {
        let object: std::collections::BTreeMap<_, _> = variables.into_iter().collect();
        writeln!(out, "{}", serde_json::to_string_pretty(&object)?)?;
        return Ok(());
    }
    for (name, value) in variables {
        let quoted = value.replace('\'', r"'\''");
        match shell {
            Shell::Fish => writeln!(out, "set -gx {name} '{quoted}';")?,
            _ => writeln!(out, "export {name}='{quoted}'")?,
        }
    }
    Ok(())
}
