//! A node of the tests in a namespace of its own: two ENIs and 15 pods, as in the article.

use std::net::Ipv4Addr;

use kernel::{LinkEnd, NetNs, Socket, sysctl};
use nodenet::{
    Addr, EniFacts, LinkName, Mac, NodeFacts, NodeSettings, PodFacts, PodName, Route, VethPrefix,
    layout,
};

use super::{name, namespace};

/// A namespace with its ENIs plugged into another one, which stands for the VPC.
pub(crate) struct Node {
    pub(crate) ns: NetNs,
    pub(crate) socket: Socket,
    pub(crate) facts: NodeFacts,
    /// Keeps the far ends of the ENIs and of the pods' veths alive.
    far: NetNs,
}

pub(crate) fn eni(device: u32, address: &str, subnet: &str) -> EniFacts {
    EniFacts {
        id: format!("eni-{device}"),
        card: 0,
        device,
        mac: Mac([2, 0, 0, 0, 0, device as u8]),
        link: name(&format!("eth{device}")),
        address: address.parse().unwrap(),
        subnet: subnet.parse().unwrap(),
        trunk: false,
    }
}

pub(crate) fn fifteen_pods() -> NodeFacts {
    let pod = |i: u8| PodFacts {
        pod: PodName::new("default", format!("web-{i}")),
        index: 0,
        address: Ipv4Addr::new(10, 0, u8::from(i >= 5), 100 + i),
        eni: format!("eni-{}", u32::from(i >= 5)),
    };
    NodeFacts {
        enis: vec![
            eni(0, "10.0.0.10", "10.0.0.0/24"),
            eni(1, "10.0.1.20", "10.0.1.0/24"),
        ],
        pods: (0..15).map(pod).collect(),
        settings: NodeSettings::default(),
    }
}

impl Node {
    /// The node as the machine image leaves it: the primary ENI up with its address and default
    /// route, the others plugged, down and without address.
    pub(crate) fn new(facts: NodeFacts) -> Self {
        let (ns, socket) = namespace();
        let (far, _) = namespace();
        let mut node = Self {
            ns,
            socket,
            facts,
            far,
        };
        for (key, value) in [("ipv4/ip_forward", "1"), ("ipv4/conf/all/rp_filter", "0")] {
            sysctl::write(&node.ns, key, value).unwrap();
        }
        for eni in node.facts.enis.clone() {
            node.plug(&eni.link, Some(eni.mac));
            if eni.is_primary() {
                node.socket.set_mtu(&eni.link, 9001).unwrap();
                node.socket.set_up(&eni.link, true).unwrap();
                let net = ipnet::Ipv4Net::new(eni.address, eni.subnet.prefix_len()).unwrap();
                node.socket
                    .add_addr(&Addr::new(eni.link.clone(), net))
                    .unwrap();
                let default =
                    Route::default_via(nodenet::TableId::MAIN, eni.gateway(), eni.link.clone());
                node.socket.add_route(&default).unwrap();
            }
        }
        node
    }

    /// A veth pair with the near end on the node and the far end away, up.
    pub(crate) fn plug(&mut self, link: &LinkName, mac: Option<Mac>) {
        let far_name = name(&format!(
            "f{}",
            &link.as_str()[link.as_str().len().min(3)..]
        ));
        let near = LinkEnd {
            mac,
            ..LinkEnd::new(link)
        };
        let far = LinkEnd::new(&far_name).in_ns(&self.far).mtu(9001);
        self.socket.add_veth(&near, &far).unwrap();
        Socket::open_in(&self.far)
            .unwrap()
            .set_up(&far_name, true)
            .unwrap();
        let key = format!("ipv4/conf/{link}/rp_filter");
        sysctl::write(&self.ns, &key, "0").unwrap();
    }

    /// The veths of all pods, without anything else of their wiring.
    pub(crate) fn plug_pods(&mut self) {
        for pod in self.facts.pods.clone() {
            self.plug(
                &layout::host_veth(&VethPrefix::default(), &pod.pod, pod.index),
                None,
            );
        }
    }
}
