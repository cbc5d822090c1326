//! `tcp/5432`: a port on which a host or a pod answers.

use std::fmt;
use std::str::FromStr;

/// A port that answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Listener {
    /// UDP instead of TCP.
    pub udp: bool,
    /// The port; never 0.
    pub port: u16,
}

/// Text that is no listener.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no listener: write tcp/PORT or udp/PORT, for example tcp/5432")]
pub struct ListenerError(String);

impl FromStr for Listener {
    type Err = ListenerError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || ListenerError(text.to_owned());
        let (proto, port) = text.split_once('/').ok_or_else(wrong)?;
        let udp = match proto {
            "tcp" => false,
            "udp" => true,
            _ => return Err(wrong()),
        };
        let port = port.parse().map_err(|_| wrong())?;
        if port == 0 {
            return Err(wrong());
        }
        Ok(Self { udp, port })
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", if self.udp { "udp" } else { "tcp" }, self.port)
    }
}

super::rule::deserialize_from_str!(Listener);
