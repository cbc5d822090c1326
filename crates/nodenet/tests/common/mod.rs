//! The node that the tests speak of: a t3.medium with two ENIs and 15 pods, as in the article.

#![allow(dead_code, reason = "each test binary uses a part")]

use nodenet::{EniFacts, LinkName, Mac, NodeFacts, NodeSettings, PodFacts, PodName};

pub(crate) fn name(text: &str) -> LinkName {
    LinkName::new(text).unwrap()
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

/// Five pods on the primary ENI, ten on the second one.
pub(crate) fn fifteen_pods() -> NodeFacts {
    let pod = |i: u8| PodFacts {
        pod: PodName::new("default", format!("web-{i}")),
        index: 0,
        address: [10, 0, u8::from(i >= 5), 100 + i].into(),
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
