//! `/state`: what our agent says of itself beyond upstream's documents.
//!
//! One page answers the three questions about a node: why does the next pod (not) get an address,
//! what does the agent wait for, what did it find changed and put right. Fields that an older agent
//! does not send read as empty; fields that a newer one sends besides are ignored.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The document.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// `branchline VERSION`.
    pub agent: String,
    /// Its instance.
    pub instance: String,
    /// Whether it serves ADDs.
    pub ready: bool,
    /// Why not; empty when ready.
    pub reason: String,
    /// What it does about security groups.
    pub group_sync: GroupSync,
    /// The fingerprint of its settings: equal on nodes that run alike.
    #[serde(default)]
    pub settings: String,
    /// Since when it runs, RFC 3339.
    #[serde(default)]
    pub started: String,
    /// The addresses in numbers.
    #[serde(default)]
    pub pool: Numbers,
    /// Why the next pod would get no address; `None`: it gets one, or one is on its way.
    #[serde(default)]
    pub obstacle: Option<Reason>,
    /// What bounds the node's pods.
    #[serde(default)]
    pub ceilings: Vec<Ceiling>,
    /// Pods that wait for an address, longest first.
    #[serde(default)]
    pub waiting: Vec<Waiting>,
    /// What is not tried again for a while, and why.
    #[serde(default)]
    pub backoffs: Vec<Backoff>,
    /// Actions that EC2 denies to the node's role.
    #[serde(default)]
    pub denied: Vec<Denied>,
    /// Refused ADDs since the start, by the word of the reason.
    #[serde(default)]
    pub refused: BTreeMap<String, u64>,
    /// The node's own links, rules, routes: what was found changed and put right.
    #[serde(default)]
    pub repairs: Repairs,
    /// Leases against the pods that are really there.
    #[serde(default)]
    pub leases: Leases,
    /// What survives the process.
    #[serde(default)]
    pub checkpoint: Checkpoint,
    /// The interfaces, with what is wrong with them.
    #[serde(default)]
    pub interfaces: Vec<Interface>,
    /// The agent in its cluster.
    #[serde(default)]
    pub kubernetes: Cluster,
    /// What becomes of packets that leave the VPC.
    #[serde(default)]
    pub translation: Value,
}

/// What the agent does when the primary interface's groups change.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupSync {
    /// Copies them to its other interfaces.
    pub enabled: bool,
    /// The primary's groups when the agent started: what new interfaces get when sync is off.
    pub groups_at_start: Vec<String>,
    /// Interfaces that EC2 has not confirmed yet, by id, with the last failure or "".
    pub pending: BTreeMap<String, String>,
}

/// The addresses in numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Numbers {
    /// Interfaces in use, the coming and leaving ones included.
    pub interfaces: u32,
    /// Interfaces that it may use.
    pub interfaces_max: u32,
    /// Addresses for pods.
    pub total: u32,
    /// With pods.
    pub assigned: u32,
    /// At rest after their last pod (`IP_COOLDOWN_PERIOD`).
    pub resting: u32,
    /// Free and rested.
    pub available: u32,
    /// On their way.
    pub coming: u32,
    /// Pods that wait.
    pub waiting: u32,
    /// Delegated `/28` prefixes.
    pub prefixes: u32,
    /// Fewer than the warm targets ask for.
    pub short: u32,
    /// More than the warm targets ask for.
    pub over: u32,
}

/// A reason: the word that metrics and conditions use, and a sentence for people.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Reason {
    /// `subnet-full`, `limit`, `throttled`, `denied` …
    pub code: String,
    /// The fact, the object, the likely cause.
    pub message: String,
}

/// What bounds the node's pods.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ceiling {
    /// `interfaces`, `addresses`.
    pub name: String,
    /// How much is used.
    pub used: u32,
    /// How much there may be.
    pub limit: u32,
    /// Whose limit it is.
    pub by: String,
}

/// A pod without an address.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Waiting {
    /// `namespace/name`.
    pub pod: String,
    /// For how long, in seconds.
    pub seconds: u64,
    /// For what.
    pub reason: Reason,
}

/// Something that is not tried again for a while.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Backoff {
    /// What: an EC2 action, with its interface where it has one.
    pub what: String,
    /// The word of the reason.
    pub code: String,
    /// Failures in a row.
    pub failures: u32,
    /// Until it is tried again.
    pub seconds: u64,
    /// What failed.
    pub message: String,
}

/// An action that EC2 denies.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Denied {
    /// `ec2:AttachNetworkInterface`.
    pub action: String,
    /// When it was last denied, RFC 3339.
    pub at: String,
    /// EC2's words.
    pub message: String,
    /// What does not work without it.
    pub without: String,
}

/// Repairs of the node's own links, neighbours, rules, routes and sysctls.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Repairs {
    /// Since the start, by kind (`rule`, `route`, `link` …).
    pub counts: BTreeMap<String, u64>,
    /// The last ones, newest first.
    pub recent: Vec<Repair>,
    /// What differs and could not be put right: the object, and why.
    pub failing: BTreeMap<String, String>,
}

/// One repair.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Repair {
    /// When, RFC 3339.
    pub at: String,
    /// Its kind.
    pub kind: String,
    /// What was found and what is there now.
    pub what: String,
}

/// Leases against the pods that are really there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Leases {
    /// When they were last compared, RFC 3339; empty: not yet.
    pub compared: String,
    /// Addresses whose DEL was lost and that were taken back since the start.
    pub released: u64,
    /// The last ones, newest first.
    pub recent: Vec<Released>,
    /// Addresses that are kept although something is wrong with their pod, and what.
    pub doubtful: BTreeMap<String, String>,
    /// Why they cannot be compared; empty: they can.
    pub trouble: String,
}

/// An address that was taken back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Released {
    /// When, RFC 3339.
    pub at: String,
    /// The address.
    pub address: String,
    /// `namespace/name` of its last pod.
    pub pod: String,
    /// How it was known that the pod is gone.
    pub why: String,
}

/// What survives the process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Checkpoint {
    /// Upstream's file.
    pub path: String,
    /// When it was last written, RFC 3339; empty: not since the start.
    pub written: String,
    /// Changes that only the journal has.
    pub dirty: bool,
    /// What this start found: `checkpoint`, `nothing`, `rebuilt: …`.
    pub found: String,
    /// Writes that failed since the start.
    pub errors: u64,
    /// Why the last write failed; empty: it did not.
    pub trouble: String,
}

/// One interface.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Interface {
    /// `eni-…`
    pub id: String,
    /// Its device index, once attached.
    pub device: Option<u32>,
    /// Where it is in its life.
    pub stage: String,
    /// Its security groups as EC2 last said.
    pub groups: Vec<String>,
    /// Why its life does not go on.
    pub trouble: Option<String>,
    /// Addresses that EC2 shows no more although a pod has them.
    pub lost: Vec<String>,
}

/// The agent in its cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cluster {
    /// `connected`, `connecting`, `off`.
    pub state: String,
    /// Why it is off.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The node's name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub node: String,
    /// The API server.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub url: String,
    /// Whether the node is cordoned.
    pub cordoned: bool,
    /// Rights that are missing or requests that fail, with the answer.
    pub failures: BTreeMap<String, String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_agent_is_read() {
        let old = r#"{"agent":"branchline 0.1.0","instance":"i-1","ready":true,"reason":"",
          "group_sync":{"enabled":true,"groups_at_start":["sg-1"],"pending":{}},
          "pool":{"interfaces":1,"interfacesMax":3,"total":5,"assigned":1},"unknown":7}"#;
        let state: State = serde_json::from_str(old).unwrap();
        assert_eq!((state.pool.total, state.pool.interfaces_max), (5, 3));
        assert!(state.denied.is_empty() && state.obstacle.is_none());
        let again: State = serde_json::from_str(&serde_json::to_string(&state).unwrap()).unwrap();
        assert_eq!(again, state);
    }
}
