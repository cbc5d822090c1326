//! What can fail in a lab, named after what failed.

use std::io;
use std::path::{Path, PathBuf};

/// Why something in a lab did not work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The machine's administrator has to run this.
    #[error("the lab needs root: it makes network namespaces, mounts and cgroups (try sudo)")]
    NotRoot,
    /// A file or directory.
    #[error("{}: {source}", path.display())]
    File {
        /// Its path.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A system call about namespaces.
    #[error("cannot {what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A program could not be started.
    #[error("cannot start {}: {source}", program.display())]
    Spawn {
        /// The program.
        program: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A process could not be reached.
    #[error("cannot {what} process {pid}: {source}")]
    Process {
        /// What was tried.
        what: &'static str,
        /// Its number.
        pid: i32,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Neither version of cgroups is mounted.
    #[error("no cgroup hierarchy is mounted (of version 1: memory, cpu, pids or freezer)")]
    NoCgroups,
    /// Processes that outlived SIGKILL.
    #[error(
        "processes {pids:?} in cgroup {} do not end: are they stuck in a system call?",
        group.display()
    )]
    CannotKill {
        /// Their cgroup.
        group: PathBuf,
        /// Their numbers.
        pids: Vec<i32>,
    },
    /// A message between the lab's processes could not be read.
    #[error("{what} said something unexpected: {source}")]
    Message {
        /// Who said it.
        what: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// A process of the lab went away before it was ready.
    #[error("{what} ended before it was ready; it said last:\n{said}")]
    EndedEarly {
        /// Which.
        what: String,
        /// The end of its log.
        said: String,
    },
    /// A process of the lab reported that it failed.
    #[error("{what}: {message}")]
    Refused {
        /// Which.
        what: String,
        /// Its own words.
        message: String,
    },
    /// No lab of this name runs.
    #[error("no lab '{name}' is up; start one with: branchline lab up -f FILE")]
    NotUp {
        /// The lab's name.
        name: String,
    },
    /// A lab of this name runs already.
    #[error(
        "lab '{name}' is already up (process {pid}); end it with: branchline lab down{}",
        flag(name)
    )]
    AlreadyUp {
        /// The lab's name.
        name: String,
        /// Its daemon.
        pid: i32,
    },
    /// The port for the EC2 API is taken.
    #[error("port {port} on 127.0.0.1 is in use; choose another with --port, or leave --port out")]
    PortInUse {
        /// The port.
        port: u16,
    },
    /// Nothing of this name to enter or act on.
    #[error("no {what} '{name}' in this lab{}", among(known))]
    NotFound {
        /// What was looked for.
        what: &'static str,
        /// Its name.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
    /// `/proc` is not what it should be.
    #[error("cannot read this process's start time from /proc/self/stat: is /proc mounted?")]
    NoStartTime,
    /// EC2 refused a part of the topology.
    #[error("cannot build '{what}': {source}")]
    Build {
        /// Which part, by its name in the file.
        what: String,
        /// What EC2 said.
        #[source]
        source: Box<ec2::Error>,
    },
    /// EC2 answered without something it always says.
    #[error("EC2's answer about '{what}' has no {field}")]
    LeftOut {
        /// Which part of the topology.
        what: String,
        /// The element.
        field: &'static str,
    },
    /// The daemon said why it ended.
    #[error("{message}")]
    Daemon {
        /// Its own words.
        message: String,
    },
    /// The daemon ended without a word.
    #[error("the lab's daemon ended before the lab was ready; it said last:\n{said}")]
    DaemonEnded {
        /// The end of its log.
        said: String,
    },
    /// A program of ours is not where it should be.
    #[error("{} is missing: build it beside branchline (make build)", program.display())]
    NoProgram {
        /// Where it was looked for.
        program: PathBuf,
    },
    /// A program that the distribution has to provide is missing.
    #[error("{program} is not installed, and a cluster's nodes need it: apt-get install {program}")]
    NotInstalled {
        /// Its name, and that of its package.
        program: &'static str,
    },
    /// An agent that does not get its node ready.
    #[error("node {node} is not ready for pods: its agent said last:\n{said}")]
    NodeNotReady {
        /// The node.
        node: String,
        /// The end of the agent's log.
        said: String,
    },
    /// EC2 refused to switch an instance.
    #[error("cannot {what} node {node}: {source}")]
    Switch {
        /// What was asked for.
        what: &'static str,
        /// The node.
        node: String,
        /// What EC2 said.
        #[source]
        source: Box<ec2::Error>,
    },
    /// A Node could not be deleted.
    #[error("cluster {cluster} did not delete Node {node}: {said}")]
    NodeStays {
        /// The Kubernetes node.
        node: String,
        /// Its cluster.
        cluster: String,
        /// What the API server answered, or why it did not.
        said: String,
    },
    /// The lab did not follow a node that was switched.
    #[error(
        "node {node} was switched, and the lab did not follow within a minute; see {}",
        log.display()
    )]
    NotSwitched {
        /// The node.
        node: String,
        /// The daemon's log.
        log: PathBuf,
    },
    /// The embedded EC2 refused a call of the lab's own.
    #[error("the embedded EC2: {0}")]
    Sim(#[from] vpcsim::error::ApiError),
    /// The embedded EC2 cannot be served.
    #[error(transparent)]
    Serve(#[from] vpcsim::ServeError),
    /// The embedded EC2 said something that is no fact.
    #[error("the embedded EC2 contradicts itself: {0}")]
    Facts(#[from] ec2::facts::FactError),
    /// An id that is none.
    #[error(transparent)]
    Id(#[from] vpc::facts::BadId),
    /// The packets do not follow.
    #[error("fabric: {0}")]
    Fabric(#[from] vpcsim::fabric::FabricError),
    /// A port that could not be opened.
    #[error("cannot listen on {what}: {source}")]
    Listen {
        /// Which.
        what: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Programs of Kubernetes are not where they should be.
    #[error(
        "no Kubernetes in {}, missing: {missing}; build it with scripts/kubernetes.sh (make build does), or name a directory with its programs by --kubernetes or KUBEBUILDER_ASSETS",
        dir.display()
    )]
    NoKubernetes {
        /// The directory.
        dir: PathBuf,
        /// The programs that are not there.
        missing: String,
    },
    /// A directory given for containerd that has not got it.
    #[error(
        "no containerd in {}, missing: {missing}; name a directory with them by --containerd or BRANCHLINE_CONTAINERD, or leave it out for the distribution's",
        dir.display()
    )]
    NoContainerd {
        /// The directory.
        dir: PathBuf,
        /// The programs that are not there.
        missing: String,
    },
    /// A program that is not Kubernetes, or too old.
    #[error(
        "{} said '{said}' to --version: the lab's clusters are Kubernetes {wanted}; build it with scripts/kubernetes.sh, or see --kubernetes and KUBEBUILDER_ASSETS",
        program.display()
    )]
    WrongKubernetes {
        /// The program.
        program: PathBuf,
        /// The minor version that is needed.
        wanted: &'static str,
        /// What it said.
        said: String,
    },
    /// Programs of several versions.
    #[error(
        "{} holds several versions of Kubernetes: {first}, {second}; build them together with scripts/kubernetes.sh",
        dir.display()
    )]
    MixedKubernetes {
        /// The directory.
        dir: PathBuf,
        /// One program and its version.
        first: String,
        /// Another one.
        second: String,
    },
    /// A program of a control plane ended while it was started.
    #[error("{component} of cluster {cluster} ended ({how}); it said last:\n{said}")]
    ComponentEnded {
        /// The cluster.
        cluster: String,
        /// The program.
        component: String,
        /// Its exit status.
        how: String,
        /// The end of its log.
        said: String,
    },
    /// A control plane that does not get ready.
    #[error(
        "the API server of cluster {cluster} is not ready after {seconds} s: {answer}; see {}",
        log.display()
    )]
    NotReady {
        /// The cluster.
        cluster: String,
        /// How long it was given.
        seconds: u64,
        /// What it answered last.
        answer: String,
        /// Its log.
        log: PathBuf,
    },
    /// kubectl or helm failed.
    #[error("{what} on cluster {cluster} failed: {said}")]
    Kubectl {
        /// The cluster.
        cluster: String,
        /// The program and what it was to do.
        what: String,
        /// Its own words.
        said: String,
    },
    /// Something in a cluster does not get ready.
    #[error("cluster {cluster}: {what} after {seconds} s\n{said}")]
    ClusterNotReady {
        /// The cluster.
        cluster: String,
        /// What, and how far it is.
        what: String,
        /// How long it was given.
        seconds: u64,
        /// Events and logs that tell why.
        said: String,
    },
    /// TLS of a client of the lab's own.
    #[error("cannot set up TLS for cluster {cluster}: {source}")]
    Tls {
        /// The cluster.
        cluster: String,
        /// What is wrong.
        #[source]
        source: rustls::Error,
    },
    /// EKS refused something.
    #[error("cannot build cluster '{cluster}': {source}")]
    Eks {
        /// The cluster.
        cluster: String,
        /// What EKS said.
        #[source]
        source: Box<ec2::Error>,
    },
    /// A certificate could not be made.
    #[error("cannot make a certificate for {what}: {source}")]
    Certificate {
        /// For whom.
        what: String,
        /// What is wrong.
        #[source]
        source: rcgen::Error,
    },
    /// Nothing to run.
    #[error("no command given: write it after --")]
    NoCommand,
    /// Network namespaces and links.
    #[error(transparent)]
    Kernel(#[from] kernel::Error),
    /// The topology.
    #[error(transparent)]
    Topology(#[from] crate::topology::TopologyError),
    /// The containers' images.
    #[error(transparent)]
    Image(#[from] crate::image::ImageError),
    /// Interrupted by the user.
    #[error("interrupted; everything that was started has been removed")]
    Interrupted,
}

fn flag(name: &str) -> String {
    if name == "default" {
        String::new()
    } else {
        format!(" --lab {name}")
    }
}

pub(crate) fn among(known: &[String]) -> String {
    match known {
        [] => " (there is none)".to_owned(),
        some => format!(" (there is {})", some.join(", ")),
    }
}

/// Adds the path to an I/O error.
pub(crate) trait IoContext<T> {
    /// Names the file that the operation was about.
    fn at(self, path: impl AsRef<Path>) -> Result<T, Error>;
    /// Names the operation.
    fn doing(self, what: &'static str) -> Result<T, Error>;
}

impl<T, E: Into<io::Error>> IoContext<T> for Result<T, E> {
    fn at(self, path: impl AsRef<Path>) -> Result<T, Error> {
        self.map_err(|e| Error::File {
            path: path.as_ref().to_owned(),
            source: e.into(),
        })
    }

    fn doing(self, what: &'static str) -> Result<T, Error> {
        self.map_err(|e| Error::System {
            what,
            source: e.into(),
        })
    }
}
