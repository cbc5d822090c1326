//! What the node's network must be, out of the pool: interfaces in service and pods with leases.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use ipam::{Allocation, Millis, Pool, SlotState, Stage};
use nodenet::{EniFacts, LinkName, NodeFacts, NodeSettings, PodFacts, PodName, layout};

/// A lease this young may still be on its way to a wired pod: its plugin is at work. To help it
/// would do no harm, but to look after every ADD costs time on every node.
pub(crate) const SETTLED: Duration = Duration::from_secs(3);

/// What must be, and since when.
#[derive(Debug, Clone, Default)]
pub(crate) struct Facts {
    pub(crate) settings: NodeSettings,
    /// Interfaces in service, the primary among them, by the names that their links last had.
    pub(crate) enis: Vec<EniFacts>,
    /// Pods with a lease, one per veth.
    pub(crate) pods: Vec<Leased>,
    /// Addresses that no pod has and that have rested: what leads to them is left over. Sorted.
    pub(crate) idle: Vec<Ipv4Addr>,
}

/// A pod and when it got its address.
#[derive(Debug, Clone)]
pub(crate) struct Leased {
    pub(crate) pod: PodFacts,
    pub(crate) since: Millis,
}

impl Leased {
    /// From when on its wiring is looked after.
    pub(crate) fn settled_at(&self) -> Millis {
        self.since.after(SETTLED)
    }
}

impl Facts {
    /// Of a pool. `laid`: the interfaces that were set up in the kernel, by id.
    pub(crate) fn of(
        pool: &Pool,
        laid: &BTreeMap<String, EniFacts>,
        settings: &NodeSettings,
    ) -> Self {
        let served = |stage| matches!(stage, Stage::Grouping | Stage::Ready | Stage::Confirming);
        let in_service = pool.enis().filter(|eni| served(eni.stage));
        let enis: Vec<EniFacts> = in_service
            .filter_map(|eni| {
                let laid = laid.get(eni.id.as_str())?;
                (eni.device == Some(laid.device)).then(|| laid.clone())
            })
            .collect();
        let mut pods: BTreeMap<LinkName, Leased> = BTreeMap::new();
        for allocation in pool.allocations() {
            let Some(leased) = leased(pool, &enis, allocation) else {
                continue;
            };
            let veth = veth(settings, &leased.pod);
            // Two leases of one name: the newer one has the veth, the other waits for its DEL.
            let newer = pods.get(&veth).is_none_or(|old| old.since < leased.since);
            if newer {
                pods.insert(veth, leased);
            }
        }
        Self {
            settings: settings.clone(),
            enis,
            pods: pods.into_values().collect(),
            idle: idle(pool),
        }
    }

    /// The interface that the instance was launched with.
    pub(crate) fn primary(&self) -> Option<&EniFacts> {
        self.enis.iter().find(|eni| eni.is_primary())
    }

    /// The pod with this address.
    pub(crate) fn pod_at(&self, address: Ipv4Addr) -> Option<&Leased> {
        self.pods
            .iter()
            .find(|leased| leased.pod.address == address)
    }

    pub(crate) fn is_idle(&self, address: Ipv4Addr) -> bool {
        self.idle.binary_search(&address).is_ok()
    }

    /// Everything, the youngest pods included.
    pub(crate) fn node(&self) -> NodeFacts {
        NodeFacts {
            enis: self.enis.clone(),
            pods: self.pods.iter().map(|leased| leased.pod.clone()).collect(),
            settings: self.settings.clone(),
        }
    }
}

/// The host end of a pod's veth.
pub(crate) fn veth(settings: &NodeSettings, pod: &PodFacts) -> LinkName {
    layout::host_veth(&settings.veth_prefix, &pod.pod, pod.index)
}

/// A pod whose wiring is known: it has a name, which gives its veth, and its interface is in
/// service. Who is in no checkpoint, or was recovered without a name, is left as it is.
fn leased(pool: &Pool, enis: &[EniFacts], allocation: &Allocation) -> Option<Leased> {
    let pod = &allocation.pod;
    if pod.namespace.is_empty() || pod.name.is_empty() {
        return None;
    }
    let eni = pool.eni_of(allocation.address)?.id.as_str();
    let known = enis.iter().any(|facts| facts.id == eni);
    known.then(|| Leased {
        pod: PodFacts {
            pod: PodName::new(pod.namespace.as_str(), pod.name.as_str()),
            index: 0,
            address: allocation.address,
            eni: eni.to_owned(),
        },
        since: allocation.since,
    })
}

fn idle(pool: &Pool) -> Vec<Ipv4Addr> {
    let resting = pool.released();
    let slots = pool.enis().flat_map(|eni| &eni.slots);
    let free = slots.filter(|(address, slot)| {
        matches!(slot.state, SlotState::Free(_)) && !resting.contains_key(address)
    });
    let mut idle: Vec<Ipv4Addr> = free.map(|(address, _)| *address).collect();
    idle.sort_unstable();
    idle
}
