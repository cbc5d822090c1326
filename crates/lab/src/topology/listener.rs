//! `tcp/5432`, `http/80`: a port on which a host or a pod answers.

use std::fmt;
use std::str::FromStr;

/// A port that answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Listener {
    /// How it answers.
    pub answers: Answers,
    /// The port; never 0.
    pub port: u16,
}

/// What is said on a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Answers {
    /// TCP: who answers and whom it sees, then everything comes back.
    Tcp,
    /// UDP: every datagram comes back.
    Udp,
    /// HTTP over TCP: to every request, who answers and whom it sees.
    Http,
}

/// Text that is no listener.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no listener: write tcp/PORT, udp/PORT or http/PORT, for example tcp/5432")]
pub struct ListenerError(String);

impl FromStr for Listener {
    type Err = ListenerError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || ListenerError(text.to_owned());
        let (proto, port) = text.split_once('/').ok_or_else(wrong)?;
        let answers = match proto {
            "tcp" => Answers::Tcp,
            "udp" => Answers::Udp,
            "http" => Answers::Http,
            _ => return Err(wrong()),
        };
        let port = port.parse().map_err(|_| wrong())?;
        if port == 0 {
            return Err(wrong());
        }
        Ok(Self { answers, port })
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = match self.answers {
            Answers::Tcp => "tcp",
            Answers::Udp => "udp",
            Answers::Http => "http",
        };
        write!(f, "{protocol}/{}", self.port)
    }
}

super::rule::deserialize_from_str!(Listener);
