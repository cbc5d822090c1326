//! Real packets between hosts: what arrives and what is answered.
//!
//! All probes of a host are sent at once from one thread in its namespace and share one deadline, so a hundred
//! denials cost as much waiting as one. Every host answers TCP, UDP and ICMP on every port of [`PORTS`].

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use flowset::{ICMP, Packet, TCP, UDP};
use kernel::NetNs;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto, sockopt};

/// Ports that every host listens on.
pub const PORTS: [u16; 6] = [22, 80, 443, 5432, 8080, 8081];

/// How long to wait for an answer that need not come. Within one machine an answer takes less than a millisecond; the
/// rest is for a machine that is busy with other things.
pub const PATIENCE: Duration = Duration::from_millis(250);
/// How long to wait for one that must come, however busy the machine is.
pub const FAITH: Duration = Duration::from_secs(20);

/// A packet to send, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Probe {
    /// Its headers. TCP is a connection, UDP and ICMP a question that is answered. TCP to a port nobody has
    /// counts as answered when it is refused.
    pub packet: Packet,
    /// Sent with a source address that the host does not have: no answer can come back.
    pub spoofed: bool,
}

/// What was seen of a probe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The packet reached the other host (known for UDP only).
    pub arrived: bool,
    /// An answer came back.
    pub answered: bool,
}

/// A host's listeners.
pub struct Responder {
    arrived: Arc<Mutex<BTreeSet<(Ipv4Addr, u32)>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Responder {
    /// Starts the listeners of a host at all its addresses.
    pub fn start(ns: &NetNs, addresses: &[Ipv4Addr]) -> Self {
        let (tcp, udp) = ns.run(|| listeners(addresses)).unwrap();
        let (arrived, stop) = (Arc::default(), Arc::new(AtomicBool::new(false)));
        let (log, end) = (Arc::clone(&arrived), Arc::clone(&stop));
        let thread = std::thread::spawn(move || echo(&tcp, &udp, &log, &end));
        Self {
            arrived,
            stop,
            thread: Some(thread),
        }
    }

    /// Forgets what arrived.
    pub fn clear(&self) {
        self.arrived.lock().unwrap().clear();
    }

    /// Whether the probe with this number came from this address.
    pub fn has(&self, from: Ipv4Addr, number: u32) -> bool {
        self.arrived.lock().unwrap().contains(&(from, number))
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

fn listeners(addresses: &[Ipv4Addr]) -> (Vec<TcpListener>, Vec<UdpSocket>) {
    let all = || {
        addresses
            .iter()
            .flat_map(|a| PORTS.map(|port| SocketAddrV4::new(*a, port)))
    };
    let tcp = all().map(|at| TcpListener::bind(at).unwrap()).collect();
    let udp = all().map(|at| UdpSocket::bind(at).unwrap()).collect();
    (tcp, udp)
}

/// Answers everything with the same bytes until told to stop.
fn echo(
    tcp: &[TcpListener],
    udp: &[UdpSocket],
    log: &Mutex<BTreeSet<(Ipv4Addr, u32)>>,
    stop: &AtomicBool,
) {
    let mut streams: Vec<TcpStream> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let sockets = tcp
            .iter()
            .map(AsFd::as_fd)
            .chain(udp.iter().map(AsFd::as_fd));
        let all = sockets.chain(streams.iter().map(AsFd::as_fd));
        let mut waiting: Vec<PollFd<'_>> = all
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        let tick = Duration::from_millis(20);
        if poll(&mut waiting, Some(&tick.try_into().unwrap())).unwrap_or(0) == 0 {
            continue;
        }
        let ready: Vec<bool> = waiting.iter().map(|w| !w.revents().is_empty()).collect();
        let (listeners, others) = ready.split_at(tcp.len());
        let (datagrams, established) = others.split_at(udp.len());
        let mut kept = Vec::new();
        for (mut stream, ready) in streams.drain(..).zip(established) {
            let mut bytes = [0; 16];
            // A stream that ended, or whose client is gone, is closed by dropping it.
            let alive = !ready
                || stream
                    .read(&mut bytes)
                    .and_then(|n| stream.write_all(&bytes[..n]).map(|()| n > 0))
                    .unwrap_or(false);
            kept.extend(alive.then_some(stream));
        }
        streams = kept;
        for (listener, _) in tcp.iter().zip(listeners).filter(|(_, ready)| **ready) {
            streams.extend(listener.accept().map(|(stream, _)| stream));
        }
        for (socket, _) in udp.iter().zip(datagrams).filter(|(_, ready)| **ready) {
            let mut bytes = [0; 16];
            // An ICMP error of an earlier answer is reported here; it is not a datagram.
            let Ok((4, std::net::SocketAddr::V4(from))) = socket.recv_from(&mut bytes) else {
                continue;
            };
            let number = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            log.lock().unwrap().insert((*from.ip(), number));
            // A denied answer fails as silently as the network drops it.
            let _ = socket.send_to(&bytes[..4], from);
        }
    }
}

/// A connection that stays open: questions can be asked again and again.
pub struct Flow {
    socket: FlowSocket,
}

enum FlowSocket {
    Tcp(TcpStream),
    Udp(UdpSocket),
}

impl Flow {
    /// Opens a TCP connection or a UDP exchange; panics when that is denied.
    pub fn open(ns: &NetNs, packet: &Packet) -> Self {
        let to = SocketAddrV4::new(packet.dst(), packet.dst_port().unwrap());
        let from = SocketAddrV4::new(packet.src(), packet.src_port().unwrap());
        let socket = ns
            .run(|| match packet.protocol() {
                TCP => FlowSocket::Tcp(TcpStream::connect_timeout(&to.into(), FAITH).unwrap()),
                _ => {
                    let socket = UdpSocket::bind(from).unwrap();
                    socket.connect(to).unwrap();
                    FlowSocket::Udp(socket)
                }
            })
            .unwrap();
        let mut flow = Self { socket };
        assert!(flow.lives(FAITH), "{packet} was to be opened");
        flow
    }

    /// Whether a question is answered within this time: [`FAITH`] where an answer must come.
    pub fn lives(&mut self, within: Duration) -> bool {
        let mut answer = [0; 4];
        match &mut self.socket {
            FlowSocket::Tcp(stream) => {
                stream.set_read_timeout(Some(within)).unwrap();
                stream.write_all(b"ping").is_ok() && stream.read(&mut answer).is_ok_and(|n| n > 0)
            }
            FlowSocket::Udp(socket) => {
                socket.set_read_timeout(Some(within)).unwrap();
                socket.send(b"ping").is_ok() && socket.recv(&mut answer).is_ok()
            }
        }
    }
}

/// Sends probes from one host; whether each was answered within this time. Numbers identify the probes in the
/// responders' logs.
pub fn send(ns: &NetNs, probes: &[(u32, Probe)], within: Duration) -> Vec<bool> {
    ns.run(|| {
        let mut open: Vec<_> = probes
            .iter()
            .map(|(number, probe)| start(*number, probe))
            .collect();
        let mut answered = vec![false; probes.len()];
        let deadline = Instant::now() + within;
        while let Some(left) = deadline.checked_duration_since(Instant::now()) {
            let mut waiting = Vec::new();
            let mut index = Vec::new();
            for (at, socket) in open.iter().enumerate() {
                if let Some((socket, want)) = socket {
                    waiting.push(PollFd::from_borrowed_fd(socket.as_fd(), *want));
                    index.push(at);
                }
            }
            if waiting.is_empty() {
                // Nothing answers a spoofed packet; it may still be on its way.
                if probes.iter().any(|(_, probe)| probe.spoofed) {
                    std::thread::sleep(left);
                }
                break;
            }
            if poll(&mut waiting, Some(&left.try_into().unwrap())).unwrap_or(0) == 0 {
                continue;
            }
            let ready: Vec<usize> = waiting
                .iter()
                .zip(&index)
                .filter(|(w, _)| !w.revents().is_empty())
                .map(|(_, at)| *at)
                .collect();
            for at in ready {
                let Some((socket, _)) = &open[at] else {
                    continue;
                };
                match finish(socket, &probes[at]) {
                    Some(reached) => {
                        answered[at] = reached;
                        open[at] = None;
                    }
                    None => continue,
                }
            }
        }
        answered
    })
    .unwrap()
}

/// Sends one probe; the socket to wait on, unless no answer can come.
fn start(number: u32, probe: &Probe) -> Option<(OwnedFd, PollFlags)> {
    let packet = probe.packet;
    if probe.spoofed {
        send_raw(number, &packet);
        return None;
    }
    let (kind, protocol) = match packet.protocol() {
        TCP => (SocketType::STREAM, None),
        UDP => (SocketType::DGRAM, None),
        ICMP => (SocketType::RAW, Some(ipproto::ICMP)),
        other => panic!("no probe for protocol {other}"),
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::INET, kind, flags, protocol).unwrap();
    sockopt::set_socket_reuseaddr(&socket, true).unwrap();
    let from = SocketAddrV4::new(packet.src(), packet.src_port().unwrap_or(0));
    rustix::net::bind(&socket, &from).unwrap();
    let to = SocketAddrV4::new(packet.dst(), packet.dst_port().unwrap_or(0));
    match rustix::net::connect(&socket, &to) {
        Ok(()) | Err(Errno::INPROGRESS) => {}
        // The host itself has no way there.
        Err(_) => return None,
    }
    let question = match packet.icmp_type_code() {
        None => number.to_be_bytes().to_vec(),
        Some((kind, code)) => icmp_question(number, kind, code),
    };
    if packet.protocol() == TCP {
        return Some((socket, PollFlags::OUT));
    }
    rustix::net::send(&socket, &question, SendFlags::empty()).ok()?;
    Some((socket, PollFlags::IN))
}

/// `Some` when the probe has ended: true when the other host answered.
fn finish(socket: &OwnedFd, (number, probe): &(u32, Probe)) -> Option<bool> {
    if probe.packet.protocol() == TCP {
        // A refusal is an answer of the other host's as well.
        let error = sockopt::socket_error(socket).unwrap();
        return Some(matches!(error, Ok(()) | Err(Errno::CONNREFUSED)));
    }
    let mut bytes = [0u8; 128];
    let length = match rustix::net::recv(socket, &mut bytes[..], RecvFlags::empty()) {
        Ok((length, _)) => length,
        Err(Errno::CONNREFUSED) => return Some(true),
        Err(Errno::AGAIN) => return None,
        Err(_) => return Some(false),
    };
    let Some((kind, _)) = probe.packet.icmp_type_code() else {
        return Some(true);
    };
    // A raw socket sees every ICMP packet from that address, questions of others included.
    let header = usize::from(bytes[0] & 0xf) * 4;
    let icmp = &bytes[header..length];
    let answer = if kind == 8 { 0 } else { kind + 1 };
    (icmp[0] == answer && icmp[4..8] == identity(*number)).then_some(true)
}

/// An ICMP query: identifier and sequence number together are the probe's number.
fn icmp_question(number: u32, kind: u8, code: u8) -> Vec<u8> {
    let mut bytes = vec![kind, code, 0, 0];
    bytes.extend(identity(number));
    // Three timestamps for type 13, payload for the others.
    bytes.extend([0; 12]);
    let sum = checksum(&bytes);
    bytes[2..4].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// Identifier and sequence number of a probe. Connection tracking tells queries apart by the identifier.
fn identity(number: u32) -> [u8; 4] {
    let [a, b, c, d] = number.to_be_bytes();
    [c, d, a, b]
}

/// A UDP datagram with a source address of our choice.
fn send_raw(number: u32, packet: &Packet) {
    assert_eq!(
        packet.protocol(),
        UDP,
        "spoofed probes are UDP: only arrivals of UDP are seen"
    );
    let mut bytes = vec![0x45, 0, 0, 32, 0, 0, 0, 0, 64, UDP, 0, 0];
    bytes.extend(packet.src().octets());
    bytes.extend(packet.dst().octets());
    bytes.extend(packet.src_port().unwrap_or(0).to_be_bytes());
    bytes.extend(packet.dst_port().unwrap_or(0).to_be_bytes());
    bytes.extend(12u16.to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(number.to_be_bytes());
    let raw =
        rustix::net::socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::RAW)).unwrap();
    let to = SocketAddrV4::new(packet.dst(), 0);
    rustix::net::sendto(&raw, &bytes, SendFlags::empty(), &to).unwrap();
}

fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes
        .chunks(2)
        .map(|w| u32::from(u16::from_be_bytes([w[0], *w.get(1).unwrap_or(&0)])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
