//! Hosts that are not instances: a namespace and a process that answers on some ports.
//!
//! `branchline lab host-init` is that process. On TCP it says who it is and whom it sees, then echoes;
//! on UDP it echoes. That is enough to see a connection, its translated source and its survival,
//! and needs no tool of the machine.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use kernel::{NetNs, Socket};
use rustix::thread::UnshareFlags;

use crate::cgroup::Cgroups;
use crate::error::{Error, IoContext as _};
use crate::node;
use crate::place::Place;
use crate::sys;
use crate::topology::Listener;

/// A host, as its process is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostSpec {
    /// Its name.
    pub name: String,
    /// Its pinned network namespace.
    pub netns: PathBuf,
    /// The address on which it answers; unspecified is every one it has.
    pub bind: Ipv4Addr,
    /// The ports on which it answers.
    pub listen: Vec<Listener>,
}

/// Starts a host's process in its namespace; returns when it listens. `program` is the
/// `branchline` binary.
///
/// # Errors
/// When it did not come up.
pub fn start(
    place: &Place,
    cgroups: &Cgroups,
    host: &HostSpec,
    program: &Path,
) -> Result<Child, Error> {
    let group = place.host_cgroup(&host.name);
    cgroups.create(&group)?;
    let log = place.dir().join(format!("host-{}.log", host.name));
    let mut command = Command::new(program);
    command.args([
        "lab",
        "host-init",
        &host.name,
        "--bind",
        &host.bind.to_string(),
    ]);
    command
        .arg(&host.netns)
        .arg(group)
        .args(host.listen.iter().map(ToString::to_string));
    let mut child = node::start_logged(&mut command, &log, false)?;
    node::await_ready(&mut child, &host.name, &log)?;
    Ok(child)
}

/// Becomes a host: the body of `branchline lab host-init`. The process must be single-threaded.
///
/// # Errors
/// When a port cannot be opened.
pub fn init(host: &HostSpec, group: &Path) -> Result<(), Error> {
    Cgroups::mounted()?.join(group)?;
    NetNs::open(&host.netns)?.enter_for_good()?;
    sys::unshare(UnshareFlags::NEWUTS | UnshareFlags::NEWNS)?;
    sys::own_mounts()?;
    rustix::system::sethostname(host.name.as_bytes()).doing("set the host's name")?;
    let lo = "lo".parse().expect("a valid link name");
    Socket::open()?.set_up(&lo, true)?;
    serve(&host.name, host.bind, &host.listen, node::say_ready)
}

/// Answers on ports until the process ends: the body of `branchline lab listen`.
///
/// # Errors
/// When a port cannot be opened, or `ready` fails.
pub fn serve(
    name: &str,
    address: Ipv4Addr,
    listen: &[Listener],
    ready: impl FnOnce() -> Result<(), Error>,
) -> Result<(), Error> {
    for port in listen {
        let at = SocketAddr::from((address, port.port));
        let failed = |source| Error::Listen {
            what: port.to_string(),
            source,
        };
        if port.udp {
            let socket = UdpSocket::bind(at).map_err(failed)?;
            std::thread::spawn(move || echo_udp(&socket));
        } else {
            let listener = TcpListener::bind(at).map_err(failed)?;
            let name = name.to_owned();
            std::thread::spawn(move || accept(&name, &listener));
        }
    }
    ready()?;
    loop {
        std::thread::park();
    }
}

fn accept(name: &str, listener: &TcpListener) {
    for stream in listener.incoming().filter_map(Result::ok) {
        let name = name.to_owned();
        std::thread::spawn(move || {
            // The peer went away: nobody is left to be told.
            let _ = echo_tcp(&name, stream);
        });
    }
}

fn echo_tcp(name: &str, mut stream: TcpStream) -> std::io::Result<()> {
    let (here, there) = (stream.local_addr()?, stream.peer_addr()?);
    writeln!(stream, "{name} {here} sees {there}")?;
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            n => stream.write_all(&buffer[..n])?,
        }
    }
}

fn echo_udp(socket: &UdpSocket) {
    let mut buffer = [0; 65536];
    loop {
        // An error here is an ICMP message about an answer of ours: not about the next datagram.
        if let Ok((n, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..n], from);
        }
    }
}
