//! Everything that connects one pod: one value, computed once, that the plugin installs, CHECK
//! compares, the agent repairs and a trace reads.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::layout::{self, PodName, VethPrefix, priority};
use crate::model::{Addr, Link, LinkKind, Neighbour, NodeNet, Route, Rule, host};
use crate::name::{LinkName, Mac, TableId};

/// What has to be known to wire one interface of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodPort {
    /// The pod.
    pub pod: PodName,
    /// Which of its interfaces; 0 is the one with the default route in `main`.
    pub index: u8,
    /// Name that the runtime wants in the pod (CNI_IFNAME).
    pub ifname: LinkName,
    /// The pod's address.
    pub address: Ipv4Addr,
    /// Table of the ENI that owns the address ([`layout::eni_table`], [`layout::reply_table`]).
    pub table: TableId,
    /// First part of the host link's name.
    pub veth_prefix: VethPrefix,
    /// MTU of both ends, bytes.
    pub mtu: u32,
}

/// One interface of a pod, wired: objects of the node's namespace and of the pod's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodWiring {
    /// In the node's namespace.
    pub host: HostSide,
    /// In the pod's namespace.
    pub pod: PodSide,
    /// MTU of both ends, bytes.
    pub mtu: u32,
}

/// The veth pair of one interface of a pod: all of its wiring that can be made before the pod's
/// address is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodPair {
    /// The end in the node's namespace.
    pub host: LinkName,
    /// The end in the pod's namespace.
    pub pod: LinkName,
    /// MTU of both ends, bytes.
    pub mtu: u32,
    /// See [`HostSide::sysctls`].
    pub sysctls: Vec<(String, String)>,
}

impl PodPair {
    /// The pair of interface `index` of a pod, whose runtime wants the name `ifname`.
    pub fn new(
        veth_prefix: &VethPrefix,
        pod: &PodName,
        ifname: &LinkName,
        index: u8,
        mtu: u32,
    ) -> Self {
        let host = layout::host_veth(veth_prefix, pod, index);
        Self {
            sysctls: host_sysctls(&host),
            host,
            pod: layout::pod_link(ifname, index),
            mtu,
        }
    }
}

/// What the node has for one interface of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostSide {
    /// Host end of the veth pair.
    pub link: LinkName,
    /// `<pod>/32 dev <link> scope link`, in `main`.
    pub route: Route,
    /// `512: to <pod> lookup main`.
    pub to_pod: Rule,
    /// `1536: from <pod> lookup <table>`; none on the primary ENI.
    pub from_pod: Option<Rule>,
    /// Written before the host end goes up, under `/proc/sys/net/`; a missing file (IPv6 is not
    /// built in) is fine.
    pub sysctls: Vec<(String, String)>,
}

impl HostSide {
    /// Its rules, in order of priority.
    pub fn rules(&self) -> impl Iterator<Item = &Rule> {
        std::iter::once(&self.to_pod).chain(&self.from_pod)
    }
}

/// What the pod has for one interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodSide {
    /// The pod's end of the veth pair.
    pub link: LinkName,
    /// The pod's address, /32.
    pub addr: Addr,
    /// The gateway that nobody has.
    pub gateway: Ipv4Addr,
    /// Route to the gateway, then the default route through it: to be made in this order, both
    /// before the address exists (upstream's order; works because the first has scope link).
    pub routes: [Route; 2],
    /// `1: from <pod> lookup <index>` for the second and further interfaces.
    pub rule: Option<Rule>,
}

impl PodSide {
    /// The permanent entry that makes the gateway resolve to the host end of the veth.
    pub fn neighbour(&self, host_mac: Mac) -> Neighbour {
        Neighbour {
            link: self.link.clone(),
            addr: self.gateway,
            mac: host_mac,
        }
    }
}

/// The table of a pod's own namespace that holds the routes of interface `index`.
fn pod_table(index: u8) -> TableId {
    if index == 0 {
        TableId::MAIN
    } else {
        TableId(index.into())
    }
}

impl PodWiring {
    /// The wiring of one interface (upstream driver.go, "normal pod").
    pub fn new(port: &PodPort) -> Self {
        let link = layout::host_veth(&port.veth_prefix, &port.pod, port.index);
        Self {
            host: host_side(port, link),
            pod: pod_side(port),
            mtu: port.mtu,
        }
    }

    /// The part that needs no address.
    pub fn pair(&self) -> PodPair {
        PodPair {
            host: self.host.link.clone(),
            pod: self.pod.link.clone(),
            mtu: self.mtu,
            sysctls: self.host.sysctls.clone(),
        }
    }

    /// The pod's namespace as it must look, `lo` and the kernel's own tables left aside.
    pub fn pod_net(&self, host_mac: Mac) -> NodeNet {
        let pod = &self.pod;
        NodeNet {
            links: [self.end(&pod.link)].into(),
            addrs: [pod.addr.clone()].into(),
            neighbours: [pod.neighbour(host_mac)].into(),
            routes: pod.routes.iter().cloned().collect(),
            rules: pod.rule.iter().cloned().collect(),
        }
    }

    /// What the node's namespace must contain for this interface.
    pub fn host_net(&self) -> NodeNet {
        NodeNet {
            links: [self.end(&self.host.link)].into(),
            routes: [self.host.route.clone()].into(),
            rules: self.host.rules().cloned().collect(),
            ..NodeNet::default()
        }
    }

    fn end(&self, name: &LinkName) -> Link {
        Link {
            name: name.clone(),
            kind: LinkKind::Veth,
            mac: None,
            mtu: self.mtu,
            up: true,
        }
    }
}

fn host_side(port: &PodPort, link: LinkName) -> HostSide {
    let pod = host(port.address);
    let from_pod = (port.table != TableId::MAIN)
        .then(|| Rule::lookup(priority::FROM_POD, port.table).from(pod));
    HostSide {
        route: Route::direct(TableId::MAIN, pod, link.clone()),
        to_pod: Rule::lookup(priority::TO_POD, TableId::MAIN).to(pod),
        from_pod,
        sysctls: host_sysctls(&link),
        link,
    }
}

fn host_sysctls(link: &LinkName) -> Vec<(String, String)> {
    let sysctl = |name: &str, value: &str| (format!("ipv6/conf/{link}/{name}"), value.to_owned());
    vec![
        sysctl("accept_ra", "0"),
        sysctl("accept_redirects", "1"),
        sysctl("forwarding", "0"),
    ]
}

/// The pod's own namespace for one interface.
pub fn pod_side(port: &PodPort) -> PodSide {
    let link = layout::pod_link(&port.ifname, port.index);
    let gateway = layout::pod_gateway(port.index);
    let table = pod_table(port.index);
    PodSide {
        addr: Addr::new(link.clone(), host(port.address)),
        routes: [
            Route::direct(table, host(gateway), link.clone()),
            Route::via(table, Ipv4Net::default(), gateway, link.clone()),
        ],
        rule: (port.index > 0).then(|| Rule::lookup(1, table).from(host(port.address))),
        gateway,
        link,
    }
}
