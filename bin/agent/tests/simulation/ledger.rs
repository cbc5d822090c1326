//! What a checkpoint would hold, what the runtime believes, and who waits: kept beside the pool, from its effects alone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ipam::{Allocation, Key, Millis, Record, Reply, Ticket};

use crate::broken::{Check, ensure};

#[derive(Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) allocations: BTreeMap<Key, Allocation>,
    pub(crate) released: BTreeMap<Ipv4Addr, Millis>,
    pub(crate) returned: BTreeMap<Ipv4Addr, Millis>,
    /// Who waits for an answer, and since when.
    pub(crate) open: BTreeMap<Ticket, Open>,
    answered: BTreeSet<Ticket>,
    /// Attachments that the runtime ever deleted.
    deleting: BTreeSet<Key>,
    /// Pods that run: their ADD was answered with an address, their DEL not yet.
    pub(crate) running: BTreeMap<Key, Ipv4Addr>,
    /// Attachments whose request was never answered: the runtime deletes them.
    pub(crate) orphans: Vec<Key>,
    next: u64,
}

#[derive(Debug, Clone)]
pub(crate) struct Open {
    pub(crate) key: Key,
    pub(crate) since: Millis,
    pub(crate) add: bool,
}

impl Ledger {
    pub(crate) fn fresh_key(&mut self) -> Key {
        self.next += 1;
        Key {
            network: "aws-cni".into(),
            container: format!("c{}", self.next),
            ifname: "eth0".into(),
        }
    }

    pub(crate) fn ask(&mut self, key: Key, add: bool, since: Millis) -> Ticket {
        self.next += 1;
        let ticket = Ticket(self.next);
        if !add {
            self.deleting.insert(key.clone());
        }
        self.open.insert(ticket, Open { key, since, add });
        ticket
    }

    /// Attachments that a request may be about.
    pub(crate) fn keys(&self, waiting: bool) -> Vec<Key> {
        let open = self.open.values().filter(|o| waiting && o.add);
        let held = self.allocations.keys().cloned();
        held.chain(open.map(|o| o.key.clone())).collect()
    }

    /// What a restart may need of it is on disk. `on_node`: the address is on an interface here.
    pub(crate) fn record(
        &mut self,
        record: Record,
        now: Millis,
        cooldown: std::time::Duration,
        on_node: impl FnOnce(Ipv4Addr) -> bool,
    ) -> Check {
        match record {
            Record::Leased(new) => {
                let address = new.address;
                if let Some(held) = self.allocations.get(&new.key) {
                    // Asked for again: recorded anew, with the same address.
                    ensure!(
                        held.address == address,
                        DoubleUse,
                        "{} has {} and gets {address}",
                        new.key,
                        held.address
                    );
                    self.allocations.insert(new.key.clone(), new);
                    return Ok(());
                }
                let mut others = self.allocations.values();
                let double = others.find(|other| other.address == address);
                ensure!(
                    double.is_none(),
                    DoubleUse,
                    "{address} given to {} and {double:?}",
                    new.key
                );
                let mut running = self.running.iter();
                let runs = running.find(|(key, a)| **a == address && **key != new.key);
                ensure!(
                    runs.is_none(),
                    DoubleUse,
                    "{address} given to {}, but {runs:?} runs with it",
                    new.key
                );
                if let Some(at) = self.released.get(&address) {
                    let rest = now.since(*at);
                    ensure!(
                        rest >= cooldown,
                        Cooldown,
                        "{address} rested only {rest:?} of {cooldown:?}"
                    );
                }
                ensure!(
                    on_node(address),
                    DoubleUse,
                    "{address} is on no interface of this node"
                );
                self.allocations.insert(new.key.clone(), new);
            }
            Record::Released { key, address, at } => {
                let was = self.allocations.remove(&key);
                ensure!(
                    was.as_ref().is_some_and(|was| was.address == address),
                    Recorded,
                    "{key} released {address}, but held {was:?}"
                );
                ensure!(
                    self.deleting.contains(&key),
                    UnderPod,
                    "{key} released {address}, but nobody deleted it"
                );
                self.running.remove(&key);
                self.released.insert(address, at);
            }
            Record::Returning { addresses, at } => {
                let going = addresses.into_iter().map(|address| (address, at));
                self.returned.extend(going);
            }
        }
        Ok(())
    }

    /// Somebody hears an answer; returns whose it was.
    pub(crate) fn reply(&mut self, ticket: Ticket, reply: &Reply) -> Result<Open, crate::Broken> {
        let open = self.open.remove(&ticket);
        let again = self.answered.contains(&ticket);
        let Some(open) = open else {
            ensure!(!again, Answered, "{ticket:?} answered twice");
            ensure!(false, Answered, "{ticket:?} answered, but nobody asked");
            unreachable!("the line above fails");
        };
        self.answered.insert(ticket);
        match reply {
            Reply::Leased(lease) => {
                let held = self.allocations.get(&open.key).map(|a| a.address);
                ensure!(
                    held == Some(lease.address),
                    Answered,
                    "{} is told {}, recorded is {held:?}",
                    open.key,
                    lease.address
                );
                let before = self.running.insert(open.key.clone(), lease.address);
                ensure!(
                    before.is_none_or(|before| before == lease.address),
                    Answered,
                    "{} had {before:?} and is now told {}",
                    open.key,
                    lease.address
                );
            }
            Reply::Released(_) => {
                self.running.remove(&open.key);
            }
            Reply::Refused(_) if !open.add => {
                self.running.remove(&open.key);
            }
            Reply::Refused(_) => {}
        }
        Ok(open)
    }

    /// The agent dies: whoever waited hears nothing.
    pub(crate) fn forget_waiting(&mut self) {
        for (_, open) in std::mem::take(&mut self.open) {
            self.orphans.push(open.key);
        }
    }

    /// Nobody waits for longer than an ADD may.
    pub(crate) fn patient(&self, now: Millis, patience: std::time::Duration) -> Check {
        for open in self.open.values() {
            let waited = now.since(open.since);
            ensure!(
                waited <= patience,
                Stuck,
                "{} waits since {waited:?}",
                open.key
            );
        }
        Ok(())
    }
}
