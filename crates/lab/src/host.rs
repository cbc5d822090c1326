//! Hosts that are not instances: a namespace and a process that answers on some ports.
//!
//! `branchline lab host-init` is that process. On TCP it says who it is and whom it sees, then echoes;
//! on UDP it echoes; over HTTP it says the same to every request. That is enough to see a connection,
//! its translated source and its survival, and needs no tool of the machine. In a container,
//! `branchline lab listen` is the same server.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use kernel::{NetNs, Socket};
use rustix::thread::UnshareFlags;

use crate::cgroup::Cgroups;
use crate::error::{Error, IoContext as _};
use crate::http;
use crate::node;
use crate::place::Place;
use crate::sys;
use crate::topology::{Answers, Listener};
use crate::up::{Interrupt, runtime};

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

/// Answers on ports until SIGTERM or SIGINT: the body of `branchline lab listen`.
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
        let answer = match port.answers {
            Answers::Udp => {
                let socket = UdpSocket::bind(at).map_err(failed)?;
                std::thread::spawn(move || echo_udp(&socket));
                continue;
            }
            Answers::Tcp => echo_tcp,
            Answers::Http => answer_http,
        };
        let listener = TcpListener::bind(at).map_err(failed)?;
        let name = name.to_owned();
        std::thread::spawn(move || accept(&name, &listener, answer));
    }
    // The first process of a container gets no signal that it does not ask for.
    runtime()?.block_on(async {
        let mut interrupt = Interrupt::new()?;
        ready()?;
        interrupt.recv().await;
        Ok(())
    })
}

fn accept(name: &str, listener: &TcpListener, answer: fn(&str, TcpStream) -> io::Result<()>) {
    for stream in listener.incoming().filter_map(Result::ok) {
        let name = name.to_owned();
        std::thread::spawn(move || {
            // The peer went away: nobody is left to be told.
            let _ = answer(&name, stream);
        });
    }
}

/// One request, one answer, and the connection ends.
fn answer_http(name: &str, stream: TcpStream) -> io::Result<()> {
    let (here, there) = (stream.local_addr()?, stream.peer_addr()?);
    http::serve_one(stream, |request| {
        let (status, body) = match request {
            Some(http::Request { method, target }) => {
                let body = format!("{name} {here} sees {there}\n{method} {target}\n");
                ("200 OK", body)
            }
            None => ("400 Bad Request", "this is no HTTP/1 request\n".to_owned()),
        };
        http::Answer {
            status,
            headers: vec!["content-type: text/plain".to_owned()],
            body: (body.len() as u64, io::Cursor::new(body)),
        }
    })
}

fn echo_tcp(name: &str, mut stream: TcpStream) -> io::Result<()> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn told(request: &str) -> String {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let to = listener.local_addr().unwrap();
        std::thread::spawn(move || accept("web-1", &listener, answer_http));
        let mut stream = TcpStream::connect(to).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn a_request_is_told_who_answers_and_whom_it_sees() {
        let answer = told("GET /healthz HTTP/1.1\r\nhost: web\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.contains("web-1 127.0.0.1:"), "{answer}");
        assert!(answer.contains(" sees 127.0.0.1:"), "{answer}");
        assert!(answer.ends_with("\nGET /healthz\n"), "{answer}");
        let posted = told("POST / HTTP/1.1\r\ncontent-length: 3\r\n\r\nabc");
        assert!(posted.ends_with("\nPOST /\n"), "{posted}");
        let head = told("HEAD / HTTP/1.1\r\n\r\n");
        assert!(head.ends_with("connection: close\r\n\r\n"), "{head}");
    }

    #[test]
    fn what_is_no_request_is_refused() {
        for request in ["", "hello\r\n\r\n", "GET /\r\n\r\n", "\r\n"] {
            let answer = told(request);
            assert!(answer.starts_with("HTTP/1.1 400 "), "{request:?}: {answer}");
        }
    }
}
