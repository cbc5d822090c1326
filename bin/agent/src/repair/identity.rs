//! Which link is which, whatever somebody called it or whatever address it was given.
//!
//! Interfaces are found by their MAC, or by the number that they had; their name is the machine's
//! and is followed. Pods' veths are ours: name and MAC are put back, because rules of others and
//! the pod's permanent neighbour entry depend on them. What a veth was made with is remembered from
//! the moment it is first seen, which is the kernel's own message of its making when the agent runs.

use std::collections::BTreeMap;

use ipam::Millis;
use kernel::{LinkState, Socket};
use nodenet::{EniFacts, LinkKind, LinkName, Mac, VethPrefix};

use super::facts::{Facts, Leased, veth};

/// The links that are ours, by number.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// Numbers and names of interfaces' links, by the interface's id.
    enis: BTreeMap<String, (u32, LinkName)>,
    veths: BTreeMap<u32, Veth>,
}

/// A pod's veth as it was made.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Veth {
    name: LinkName,
    mac: Option<Mac>,
    mtu: u32,
}

/// A link that is not called or addressed as it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Amiss {
    Mac { link: LinkName, mac: Mac },
    Name { link: LinkName, name: LinkName },
}

/// The links as they are, sorted out.
#[derive(Debug, Default)]
pub(crate) struct Sorted {
    /// Interfaces by the names that their links have now.
    pub(crate) enis: Vec<EniFacts>,
    /// Interfaces whose link got another name: the interface, the old name, the new one.
    pub(crate) renamed: Vec<(String, LinkName, LinkName)>,
    /// Interfaces without a link.
    pub(crate) absent: Vec<EniFacts>,
    /// Settled pods that have their veth, with its MTU.
    pub(crate) pods: Vec<(Leased, u32)>,
    /// Settled pods without one.
    pub(crate) without: Vec<Leased>,
    pub(crate) amiss: Vec<Amiss>,
}

impl Known {
    /// A link was made or changed. The first time a veth is seen it is as its plugin made it.
    pub(crate) fn learn(&mut self, state: &LinkState, prefix: &VethPrefix) {
        if prefix.made(&state.link.name) && state.link.kind == LinkKind::Veth {
            self.veths.entry(state.index).or_insert_with(|| Veth {
                name: state.link.name.clone(),
                mac: state.link.mac,
                mtu: state.link.mtu,
            });
        }
    }

    /// A later plugin of the chain may change the MTU while the pod is being made.
    fn relearn_mtu(&mut self, state: &LinkState) {
        if let Some(veth) = self.veths.get_mut(&state.index) {
            veth.mtu = state.link.mtu;
        }
    }

    pub(crate) fn forget(&mut self, index: u32) {
        self.veths.remove(&index);
    }

    /// The interface whose link has this number.
    pub(crate) fn is_eni(&self, index: u32) -> bool {
        self.enis.values().any(|(known, _)| *known == index)
    }

    /// The number of an interface's link.
    pub(crate) fn index_of(&self, eni: &EniFacts) -> Option<u32> {
        self.enis.get(&eni.id).map(|(index, _)| *index)
    }

    /// The name that an interface's link last had.
    pub(crate) fn name_of(&self, eni: &EniFacts) -> LinkName {
        let known = self.enis.get(&eni.id);
        known.map_or_else(|| eni.link.clone(), |(_, name)| name.clone())
    }

    /// The name that a changed veth had; `None`: it is as it was made, or is no veth of ours.
    pub(crate) fn changed_veth(&self, state: &LinkState) -> Option<&LinkName> {
        let veth = self.veths.get(&state.index)?;
        let link = &state.link;
        let same = link.up && (&veth.name, veth.mac, veth.mtu) == (&link.name, link.mac, link.mtu);
        (!same).then_some(&veth.name)
    }

    /// Finds every interface and pod among the links.
    pub(crate) fn sort(&mut self, links: &[LinkState], facts: &Facts, now: Millis) -> Sorted {
        let by_index: BTreeMap<u32, &LinkState> = links.iter().map(|l| (l.index, l)).collect();
        let by_name: BTreeMap<&LinkName, &LinkState> =
            links.iter().map(|l| (&l.link.name, l)).collect();
        self.veths.retain(|index, _| by_index.contains_key(index));
        for state in links {
            self.learn(state, &facts.settings.veth_prefix);
        }
        let mut sorted = Sorted::default();
        for eni in &facts.enis {
            let number = self.index_of(eni);
            let by_number = || by_index.get(&number?).copied();
            match kernel::netlink::with_mac(links, eni.mac).or_else(by_number) {
                Some(state) => self.found(eni, state, &mut sorted),
                None => sorted.absent.push(eni.clone()),
            }
        }
        for leased in &facts.pods {
            let name = veth(&facts.settings, &leased.pod);
            let renamed = || {
                let (index, _) = self.veths.iter().find(|(_, veth)| veth.name == name)?;
                by_index.get(index).copied()
            };
            let state = by_name.get(&name).copied().or_else(renamed);
            match state {
                Some(state) if leased.settled_at() > now => self.relearn_mtu(state),
                None if leased.settled_at() > now => {}
                Some(state) => self.found_pod(leased, &name, state, &mut sorted),
                None => sorted.without.push(leased.clone()),
            }
        }
        sorted
    }

    fn found(&mut self, eni: &EniFacts, state: &LinkState, sorted: &mut Sorted) {
        let (before, link) = (self.name_of(eni), state.link.name.clone());
        let known = (state.index, link.clone());
        self.enis.insert(eni.id.clone(), known);
        if link != before {
            let renamed = (eni.id.clone(), before, link.clone());
            sorted.renamed.push(renamed);
        }
        if state.link.mac != Some(eni.mac) {
            let (link, mac) = (link.clone(), eni.mac);
            sorted.amiss.push(Amiss::Mac { link, mac });
        }
        sorted.enis.push(EniFacts {
            link,
            ..eni.clone()
        });
    }

    fn found_pod(&self, leased: &Leased, name: &LinkName, state: &LinkState, sorted: &mut Sorted) {
        let made = self.veths.get(&state.index);
        let mac = made.and_then(|made| made.mac);
        if let Some(mac) = mac.filter(|mac| state.link.mac != Some(*mac)) {
            let link = state.link.name.clone();
            sorted.amiss.push(Amiss::Mac { link, mac });
        }
        if state.link.name != *name {
            let (link, name) = (state.link.name.clone(), name.clone());
            sorted.amiss.push(Amiss::Name { link, name });
        }
        let mtu = made.map_or(state.link.mtu, |made| made.mtu);
        sorted.pods.push((leased.clone(), mtu));
    }
}

impl std::fmt::Display for Amiss {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Mac { link, mac } => write!(f, "link set {link} address {mac}"),
            Self::Name { link, name } => write!(f, "link set {link} name {name}"),
        }
    }
}

impl Amiss {
    pub(crate) fn put_right(&self, socket: &mut Socket) -> kernel::Result<()> {
        match self.set(socket) {
            // Drivers that change their address only while down; names before Linux 6.2. What goes
            // with the link when it is down is put back after it.
            Err(error) if error.errno() == Some(kernel::Errno::BUSY) => {
                let (before, after) = match self {
                    Self::Mac { link, .. } => (link, link),
                    Self::Name { link, name } => (link, name),
                };
                socket.set_up(before, false)?;
                self.set(socket)?;
                socket.set_up(after, true)
            }
            done => done,
        }
    }

    fn set(&self, socket: &mut Socket) -> kernel::Result<()> {
        match self {
            Self::Mac { link, mac } => socket.set_mac(link, *mac),
            Self::Name { link, name } => socket.rename(link, name),
        }
    }
}
