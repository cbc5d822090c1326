//! What can be wrong with a question.

use std::net::Ipv4Addr;

/// A question that cannot be asked as it stands. Evidence that is merely missing is not an error:
/// it makes the answer UNKNOWN.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The text names nothing in the grammar of nouns.
    #[error("{text:?} is not something to ask about: {why}")]
    BadNoun {
        /// The text as given.
        text: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Nothing of that name was read.
    #[error("there is no {kind} {name:?} in what was read{hint}")]
    NotFound {
        /// `pod`, `node`, …
        kind: &'static str,
        /// The name as given.
        name: String,
        /// Names that exist, or the likely cause; starts with a separator.
        hint: String,
    },
    /// Several objects match an abbreviated name.
    #[error("{kind} {name:?} is ambiguous: {}", candidates.join(", "))]
    Ambiguous {
        /// `pod`, `node`, …
        kind: &'static str,
        /// The name as given.
        name: String,
        /// What it may stand for.
        candidates: Vec<String>,
    },
    /// A destination without a port, for a protocol that has ports.
    #[error(
        "{destination} needs a port: write {destination}:PORT, {destination}:PORT/udp or {destination}:icmp"
    )]
    NoPort {
        /// The destination as given.
        destination: String,
    },
    /// A noun of Kubernetes', and no cluster was read.
    #[error(
        "{noun} is Kubernetes', and no cluster was read: set KUBECONFIG, or --kubeconfig and --context (on EKS: aws eks update-kubeconfig --name CLUSTER)"
    )]
    NoKubernetes {
        /// The noun as given.
        noun: String,
    },
    /// A Service that does not have the port that was asked for.
    #[error("{service} has no port {port}; it has {}", ports.join(", "))]
    NoSuchPort {
        /// The Service.
        service: String,
        /// The port as asked for.
        port: String,
        /// The ports it has.
        ports: Vec<String>,
    },
    /// A noun that cannot stand on this side of the question.
    #[error("{noun} cannot be {role}: {why}")]
    WrongSide {
        /// The noun as given.
        noun: String,
        /// `a source` or `a destination`.
        role: &'static str,
        /// Why not.
        why: &'static str,
    },
    /// An address that no interface owns.
    #[error(
        "{address} belongs to no interface that was read, so nothing can be said about what it may send"
    )]
    NobodysAddress {
        /// The address.
        address: Ipv4Addr,
    },
    /// A what-if edit that does not parse.
    #[error(
        "--if {text:?}: {why}\n  an edit reads: sg/NAME ingress|egress += tcp/PORT from|to sg/NAME|CIDR, the same with -=, or eni/ID groups += sg/NAME"
    )]
    BadEdit {
        /// The text as given.
        text: String,
        /// What is wrong with it.
        why: String,
    },
    /// The grammar of `--over`.
    #[error("--over {text:?}: expected running, next-eni, next-node or all, separated by commas")]
    BadOver {
        /// The text as given.
        text: String,
    },
}
