//! The files as they are written: upstream's fields by upstream's names, ours beside them.
//!
//! Fields are only ever added: an older version ignores what it does not know, a newer one reads what
//! is missing as empty, so that a node goes up and down between versions with its leases.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipam::{Allocation, Key, Millis, Pod, Record};
use serde::{Deserialize, Serialize};

use super::Recovered;

pub(super) const VERSION: &str = "vpc-cni-ipam/1";
pub(super) const OUR_VERSION: &str = "branchline-ipam/1";
/// Who wrote a checkpoint: upstream ignores the field, and writes none.
pub(super) const WRITER: &str = "branchline";

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Checkpoint {
    pub(super) version: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) writer: Option<String>,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub(super) allocations: Vec<Entry>,
}

/// Go writes a nil slice as null.
fn null_is_empty<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Vec<Entry>, D::Error> {
    Ok(Option::<Vec<Entry>>::deserialize(d)?.unwrap_or_default())
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Entry {
    #[serde(rename = "networkName")]
    network: String,
    #[serde(rename = "containerID")]
    container: String,
    #[serde(rename = "ifName")]
    ifname: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ipv4: Option<Ipv4Addr>,
    /// Nanoseconds since the Unix epoch.
    #[serde(rename = "allocationTimestamp", default)]
    timestamp: u64,
    #[serde(default)]
    metadata: Metadata,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Metadata {
    #[serde(
        rename = "k8sPodNamespace",
        default,
        skip_serializing_if = "String::is_empty"
    )]
    namespace: String,
    #[serde(
        rename = "k8sPodName",
        default,
        skip_serializing_if = "String::is_empty"
    )]
    name: String,
    #[serde(rename = "interfacesCount", default, skip_serializing_if = "is_zero")]
    interfaces: u32,
    /// Ours; upstream ignores what it does not know.
    #[serde(
        rename = "k8sPodUID",
        default,
        skip_serializing_if = "String::is_empty"
    )]
    uid: String,
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

impl Entry {
    /// The lease, or whose it is when it has no IPv4 address.
    pub(super) fn lease(self) -> Result<Allocation, Key> {
        let key = Key {
            network: self.network,
            container: self.container,
            ifname: self.ifname,
        };
        let Some(address) = self.ipv4 else {
            return Err(key);
        };
        Ok(Allocation {
            key,
            pod: Pod {
                namespace: self.metadata.namespace,
                name: self.metadata.name,
                uid: self.metadata.uid,
            },
            address,
            since: Millis(self.timestamp / 1_000_000),
        })
    }
}

impl From<&Allocation> for Entry {
    fn from(allocation: &Allocation) -> Self {
        let Allocation {
            key,
            pod,
            address,
            since,
        } = allocation.clone();
        Self {
            network: key.network,
            container: key.container,
            ifname: key.ifname,
            ipv4: Some(address),
            timestamp: since.0.saturating_mul(1_000_000),
            metadata: Metadata {
                namespace: pod.namespace,
                name: pod.name,
                interfaces: 1,
                uid: pod.uid,
            },
        }
    }
}

/// What upstream's file has no place for.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Ours {
    pub(super) version: String,
    /// The instance whose addresses these are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) instance: Option<String>,
    pub(super) released: BTreeMap<Ipv4Addr, Millis>,
    pub(super) returned: BTreeMap<Ipv4Addr, Millis>,
}

/// One line of the journal.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Line {
    Leased(Entry),
    Released {
        key: Key,
        address: Ipv4Addr,
        at: Millis,
    },
    Returning {
        addresses: Vec<Ipv4Addr>,
        at: Millis,
    },
}

impl From<&Record> for Line {
    fn from(record: &Record) -> Self {
        match record {
            Record::Leased(allocation) => Self::Leased(allocation.into()),
            Record::Released { key, address, at } => Self::Released {
                key: key.clone(),
                address: *address,
                at: *at,
            },
            Record::Returning { addresses, at } => Self::Returning {
                addresses: addresses.clone(),
                at: *at,
            },
        }
    }
}

impl Line {
    pub(super) fn apply(self, found: &mut Recovered) {
        match self {
            Self::Leased(entry) => {
                // We write no other.
                let Ok(lease) = entry.lease() else { return };
                // The later line is right: the release before it could not be written.
                found
                    .allocations
                    .retain(|_, held| held.address != lease.address);
                found.allocations.insert(lease.key.clone(), lease);
            }
            Self::Released { key, address, at } => {
                found.allocations.remove(&key);
                found.released.insert(address, at);
            }
            Self::Returning { addresses, at } => {
                found
                    .returned
                    .extend(addresses.into_iter().map(|address| (address, at)));
            }
        }
    }
}
