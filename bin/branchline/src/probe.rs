//! `branchline probe tcp ADDRESS PORT`: one real packet exchange, from where it is run.
//!
//! This is what `branchline ping` executes inside of a pod; it prints one line of JSON.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::read::{FAILS, HOLDS};

/// Open one connection, or send one datagram and wait for an answer, from here.
#[derive(Debug, Args)]
pub(crate) struct ProbeArgs {
    /// How.
    protocol: Protocol,
    /// Where to.
    address: Ipv4Addr,
    /// The port.
    port: u16,
    /// How long to wait for an answer, in seconds.
    #[arg(long, default_value_t = 1.0)]
    timeout: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Protocol {
    /// Connect; the connection is closed at once.
    Tcp,
    /// Send one datagram; something must come back.
    Udp,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Seen {
    /// Packets went there and back: connected, or answered.
    Connected,
    /// Packets went there and back, and nobody listens.
    Refused,
    /// Nothing came back.
    Timeout,
    /// A router said that it cannot be reached.
    Unreachable,
}

/// One line of output.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) seen: Seen,
    pub(crate) milliseconds: f64,
}

pub(crate) async fn run(args: ProbeArgs) -> anyhow::Result<u8> {
    let to = SocketAddr::from((args.address, args.port));
    let patience = Duration::try_from_secs_f64(args.timeout)?.max(Duration::from_millis(1));
    let began = Instant::now();
    let seen = match args.protocol {
        Protocol::Tcp => seen(TcpStream::connect_timeout(&to, patience).map(drop))?,
        Protocol::Udp => seen(datagram(to, patience))?,
    };
    let milliseconds = began.elapsed().as_secs_f64() * 1000.0;
    println!("{}", serde_json::to_string(&Report { seen, milliseconds })?);
    Ok(if seen == Seen::Connected {
        HOLDS
    } else {
        FAILS
    })
}

fn datagram(to: SocketAddr, patience: Duration) -> std::io::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(patience))?;
    socket.send(b"branchline")?;
    socket.recv(&mut [0; 64]).map(drop)
}

fn seen(result: std::io::Result<()>) -> std::io::Result<Seen> {
    match result {
        Ok(()) => Ok(Seen::Connected),
        Err(error) => match error.kind() {
            ErrorKind::ConnectionRefused => Ok(Seen::Refused),
            ErrorKind::TimedOut | ErrorKind::WouldBlock => Ok(Seen::Timeout),
            ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => Ok(Seen::Unreachable),
            _ => Err(error),
        },
    }
}
