//! Which ceiling is reached first: the table of S2-02 (a /28), a fragmented subnet with prefixes, the
//! documented example with a trunk, and pods to add.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use advice::Code;
use advice::capacity::{Capacity, Ceiling, Verdict, capacity, render};
use kube_view::facts::{AGENT, Container, EnvValue, ObjectName, Phase};
use reach::facts::{GroupSync, Inputs, InstanceLimits, Node, Pod};
use vpc::facts::{
    Attachment, Eni, EniAddress, EniKind, EniStatus, Instance, Mac, Subnet, SubnetId,
};

/// A cloud that is written down interface by interface.
#[derive(Default)]
struct Story {
    inputs: Inputs,
    env: BTreeMap<String, EnvValue>,
    enis: u32,
}

const ZONE: &str = "us-west-2a";

fn limits(interfaces: u32, addresses: u32, branches: Option<u32>) -> InstanceLimits {
    InstanceLimits {
        interfaces,
        addresses,
        on_card: None,
        trunking: Some(branches.is_some()),
        branches: branches.or(Some(0)),
        prefixes: Some(true),
    }
}

impl Story {
    fn new() -> Self {
        let mut story = Story::default();
        story.inputs.kubernetes = Some(kube_view::Cluster {
            name: "dev".to_owned(),
            ..Default::default()
        });
        let types = [
            ("t3.medium", limits(3, 6, None)),
            ("m5.large", limits(3, 10, Some(9))),
            ("c5.large", limits(3, 10, Some(9))),
        ];
        for (name, limits) in types {
            story.inputs.limits.insert(name.to_owned(), limits);
        }
        story
    }

    fn set(mut self, name: &str, value: &str) -> Self {
        self.env
            .insert(name.to_owned(), EnvValue::Is(value.to_owned()));
        self
    }

    fn subnet(&mut self, number: u32, cidr: &str, tags: &[(&str, &str)]) -> SubnetId {
        let id: SubnetId = format!("subnet-{number:08x}").parse().expect("an id");
        let subnet = Subnet {
            id: id.clone(),
            vpc: "vpc-00000001".parse().expect("an id"),
            cidr: cidr.parse().expect("a range"),
            cidrs6: Vec::new(),
            zone: ZONE.to_owned(),
            available: None,
            tags: tags
                .iter()
                .map(|(k, v)| (k.to_string(), v.to_string()))
                .collect(),
        };
        self.inputs.world.subnets.insert(id.clone(), subnet);
        id
    }

    /// An interface with these last bytes of its addresses, and these prefixes.
    fn eni(
        &mut self,
        subnet: &SubnetId,
        on: Option<(&str, u32, EniKind)>,
        last: &[u8],
        prefixes: &[&str],
    ) {
        self.enis += 1;
        let base = self.inputs.world.subnets[subnet].cidr.network().octets();
        let one = |(i, last): (usize, &u8)| EniAddress {
            address: Ipv4Addr::new(base[0], base[1], base[2], *last),
            primary: i == 0,
            public: None,
        };
        let kind = on.as_ref().map_or(EniKind::Interface, |o| o.2.clone());
        let eni = Eni {
            id: format!("eni-{:08x}", self.enis).parse().expect("an id"),
            subnet: subnet.clone(),
            vpc: "vpc-00000001".parse().expect("an id"),
            mac: Mac([2, 0, 0, 0, 0, u8::try_from(self.enis).expect("few")]),
            addresses: last.iter().enumerate().map(one).collect(),
            prefixes: prefixes
                .iter()
                .map(|p| p.parse().expect("a prefix"))
                .collect(),
            addresses6: Vec::new(),
            prefixes6: Vec::new(),
            groups: Default::default(),
            source_dest_check: true,
            kind,
            status: EniStatus::InUse,
            attachment: on.map(|(instance, device_index, _)| Attachment {
                id: "eni-attach-1".to_owned(),
                instance: Some(instance.parse().expect("an id")),
                owner: String::new(),
                device_index,
                network_card: 0,
                delete_on_termination: true,
            }),
            trunk: None,
            description: String::new(),
            tags: Default::default(),
        };
        self.inputs.world.enis.insert(eni.id.clone(), eni);
    }

    /// A node with that many running pods, pods that wait, and kubelet's max-pods.
    fn node(&mut self, number: u32, kind: &str, pods: u32, waiting: u32, max_pods: u32) -> String {
        let id = format!("i-{number:08x}");
        let name = format!("node-{number}");
        let instance = Instance {
            id: id.parse().expect("an id"),
            instance_type: kind.to_owned(),
            private_dns_name: format!("{name}.us-west-2.compute.internal"),
            state: "running".to_owned(),
            subnet: None,
            vpc: None,
            tags: Default::default(),
        };
        self.inputs
            .world
            .instances
            .insert(instance.id.clone(), instance);
        let cluster = self.inputs.kubernetes.as_mut().expect("a cluster");
        let object = kube_view::facts::Node {
            ready: Some(true),
            max_pods: Some(max_pods),
            ..Default::default()
        };
        cluster.nodes.insert(ObjectName::new("", &name), object);
        let mut put = |namespace: &str, pod: String, what: kube_view::facts::Pod| {
            let what = kube_view::facts::Pod {
                node: Some(name.clone()),
                ..what
            };
            cluster.pods.insert(ObjectName::new(namespace, pod), what);
        };
        put(
            "kube-system",
            format!("aws-node-{number}"),
            kube_view::facts::Pod {
                host_network: true,
                phase: Phase::Running,
                containers: vec![Container {
                    name: AGENT.to_owned(),
                    env: self.env.clone(),
                    ..Default::default()
                }],
                ..Default::default()
            },
        );
        for i in 0..waiting {
            put("dev", format!("waits-{number}-{i}"), Default::default());
        }
        let pod = |i: u32| Pod {
            namespace: "dev".to_owned(),
            name: format!("api-{i}"),
            address: Ipv4Addr::from(i),
        };
        let node = Node {
            name: name.clone(),
            instance: id.parse().expect("an id"),
            kubernetes: Some(name.clone()),
            pods: (0..pods).map(pod).collect(),
            host_pods: (0..2).map(pod).collect(),
            settings: None,
            unclear: None,
            groups: GroupSync::Unknown,
            agent: "upstream".to_owned(),
            runs_otherwise: Vec::new(),
            packs: false,
            told: None,
            silent: None,
        };
        self.inputs.nodes.insert(name, node);
        id
    }

    fn ask(&self, wishes: &[&str]) -> Capacity {
        let wishes: Vec<_> = wishes.iter().map(|w| w.parse().expect("a wish")).collect();
        capacity(&self.inputs, &wishes)
    }
}

fn codes(capacity: &Capacity) -> Vec<Code> {
    capacity.findings.iter().map(|f| f.code).collect()
}

fn text(capacity: &Capacity) -> String {
    let coloured = render(capacity).expect("text");
    anstream::adapter::strip_str(&coloured).to_string()
}

/// S2-02: a t3.medium in a /28 of which the control plane has an address.
fn full_subnet() -> Story {
    let mut story = Story::new();
    let subnet = story.subnet(1, "10.0.1.0/28", &[]);
    story.eni(&subnet, None, &[4], &[]);
    let node = story.node(1, "t3.medium", 8, 7, 17);
    story.eni(
        &subnet,
        Some((&node, 0, EniKind::Interface)),
        &[5, 6, 7, 8, 9, 10],
        &[],
    );
    story.eni(
        &subnet,
        Some((&node, 1, EniKind::Interface)),
        &[11, 12, 13, 14],
        &[],
    );
    story
}

#[test]
fn a_full_subnet_binds_first() {
    let found = full_subnet().ask(&[]);
    assert_eq!(found.verdict, Verdict::Full);
    assert_eq!(found.binds, Some(Ceiling::Subnet));
    let node = &found.nodes[0];
    assert_eq!(
        (
            node.max_pods,
            node.interfaces,
            node.subnet,
            node.room,
            node.short
        ),
        (Some(15), 15, 8, 0, 7)
    );
    assert_eq!(node.binds, [Ceiling::Subnet]);
    assert_eq!((found.subnets[0].free, found.subnets[0].blocks), (0, 0));
    assert_eq!(codes(&found), [Code::Bl0501, Code::Bl0502]);
    insta::assert_snapshot!(text(&found));
}

#[test]
fn with_room_the_interfaces_bind_and_more_nodes_help() {
    let mut story = Story::new();
    let subnet = story.subnet(1, "10.0.1.0/24", &[]);
    let node = story.node(1, "t3.medium", 5, 0, 17);
    story.eni(
        &subnet,
        Some((&node, 0, EniKind::Interface)),
        &[5, 6, 7, 8, 9, 10],
        &[],
    );
    let found = story.ask(&[]);
    assert_eq!((found.verdict, found.room), (Verdict::Room, 10));
    assert_eq!(
        found.nodes[0].binds,
        [Ceiling::MaxPods, Ceiling::Interfaces]
    );
    assert!(found.findings.is_empty(), "{:?}", found.findings);

    assert_eq!(story.ask(&["deploy/web x10"]).verdict, Verdict::Fits);
    let found = story.ask(&["deploy/web x11", "deploy/api x20"]);
    assert_eq!(found.verdict, Verdict::DoesNotFit);
    let added = found.added.as_ref().expect("asked");
    let fit: Vec<u32> = added.wishes.iter().map(|w| w.fit).collect();
    assert_eq!((fit, added.binds), (vec![10, 0], Some(Ceiling::MaxPods)));
    assert_eq!(added.new_nodes[0].nodes, Some(2), "21 more, 15 on each");
    assert_eq!(codes(&found), [Code::Bl0501]);

    // In a small subnet no number of nodes helps.
    let mut small = full_subnet();
    small
        .inputs
        .nodes
        .values_mut()
        .for_each(|n| n.pods.truncate(8));
    let found = small.ask(&["deploy/web x1"]);
    let new = &found.added.as_ref().expect("asked").new_nodes[0];
    assert_eq!((new.nodes, new.binds), (None, Some(Ceiling::Subnet)));
}

#[test]
fn max_eni_bounds_the_interfaces() {
    let mut story = Story::new().set("MAX_ENI", "2");
    let subnet = story.subnet(1, "10.0.1.0/24", &[]);
    let node = story.node(1, "t3.medium", 0, 0, 17);
    story.eni(&subnet, Some((&node, 0, EniKind::Interface)), &[5], &[]);
    let found = story.ask(&[]);
    assert_eq!(found.nodes[0].interfaces, 10);
    assert_eq!(found.nodes[0].binds, [Ceiling::Interfaces]);
    assert_eq!(codes(&found), [Code::Bl0502]);
}

/// Article 002: a c5.large with custom networking and a trunk: 9 shared addresses, 9 branches, and
/// max-pods 29 by the formula.
#[test]
fn the_documented_example() {
    let mut story = Story::new()
        .set("ENABLE_POD_ENI", "true")
        .set("AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG", "true");
    let hosts = story.subnet(1, "10.0.3.0/24", &[]);
    let pods = story.subnet(3, "100.64.3.0/24", &[]);
    let node = story.node(1, "c5.large", 2, 0, 29);
    story.eni(&hosts, Some((&node, 0, EniKind::Interface)), &[21], &[]);
    story.eni(&pods, Some((&node, 1, EniKind::Trunk)), &[5], &[]);
    let shared = [10, 11, 12, 13, 14, 15, 16, 17, 18, 19];
    story.eni(&pods, Some((&node, 2, EniKind::Interface)), &shared, &[]);
    let found = story.ask(&["deploy/shop x20 sgp", "deploy/web x30"]);
    let row = &found.nodes[0];
    assert_eq!(
        (row.interfaces, row.branches, row.max_pods),
        (9, Some(9), Some(27))
    );
    assert_eq!(row.binds, [Ceiling::Interfaces]);
    let added = found.added.as_ref().expect("asked");
    let fit: Vec<u32> = added.wishes.iter().map(|w| w.fit).collect();
    assert_eq!(fit, [9, 7]);
    assert_eq!(codes(&found), [Code::Bl0501, Code::Bl0502]);
    insta::assert_snapshot!(text(&found));
}

#[test]
fn a_fragmented_subnet_has_no_room_for_prefixes() {
    let mut story = Story::new().set("ENABLE_PREFIX_DELEGATION", "true");
    let subnet = story.subnet(1, "10.0.1.0/25", &[]);
    let node = story.node(1, "m5.large", 16, 4, 110);
    story.eni(
        &subnet,
        Some((&node, 0, EniKind::Interface)),
        &[5],
        &["10.0.1.16/28"],
    );
    let whole = story.ask(&[]);
    assert_eq!(
        codes(&whole),
        [Code::Bl0502],
        "110 pods do not fit into 6 x 16"
    );
    assert_eq!(
        (whole.nodes[0].interfaces, whole.nodes[0].subnet),
        (27 * 16, 16 + 5 * 16)
    );
    // Something stands in every /28 that was whole.
    for block in 2..7 {
        story.eni(&subnet, None, &[block * 16 + 3], &[]);
    }
    let found = story.ask(&[]);
    assert_eq!((found.subnets[0].free, found.subnets[0].blocks), (101, 0));
    assert_eq!(found.verdict, Verdict::Full);
    assert_eq!(
        (found.nodes[0].binds.as_slice(), found.nodes[0].short),
        ([Ceiling::Subnet].as_slice(), 4)
    );
    assert_eq!(codes(&found), [Code::Bl0501, Code::Bl0502, Code::Bl0503]);
    insta::assert_snapshot!(text(&found));
    // Ours takes single addresses then.
    story.inputs.nodes.values_mut().for_each(|n| n.packs = true);
    let ours = story.ask(&[]);
    assert_eq!((ours.nodes[0].short, ours.nodes[0].subnet), (0, 16 + 26));
    assert_eq!(codes(&ours), [Code::Bl0502, Code::Bl0503]);
}

#[test]
fn a_tagged_subnet_gives_new_interfaces_room() {
    let mut story = full_subnet();
    assert_eq!(story.ask(&[]).nodes[0].short, 7);
    story.subnet(2, "10.0.2.0/24", &[("kubernetes.io/role/cni", "1")]);
    let found = story.ask(&[]);
    assert_eq!(
        (found.nodes[0].short, found.nodes[0].subnet),
        (2, 13),
        "the second ENI stays as it is"
    );
    story.subnet(2, "10.0.2.0/24", &[("kubernetes.io/role/cni", "0")]);
    assert_eq!(story.ask(&[]).nodes[0].short, 7);
}

#[test]
fn what_is_not_read_is_unknown() {
    let mut story = full_subnet();
    story.inputs.limits.clear();
    let found = story.ask(&[]);
    assert_eq!(found.verdict, Verdict::Unknown);
    assert!(
        found.unknown[0].contains("t3.medium"),
        "{:?}",
        found.unknown
    );
    let empty = capacity(&Inputs::default(), &[]);
    assert_eq!(empty.verdict, Verdict::Unknown);
    assert!(text(&empty).starts_with("UNKNOWN"));
}

#[test]
fn the_document_has_its_schema() {
    let document = serde_json::to_value(full_subnet().ask(&["deploy/web x1"])).expect("JSON");
    let schema: serde_json::Value =
        serde_json::from_str(include_str!("../../../docs/schema/capacity.v1.json"))
            .expect("a schema");
    for (what, schema) in [
        (&document, &schema),
        (
            &document["nodes"][0],
            &schema["properties"]["nodes"]["items"],
        ),
        (
            &document["subnets"][0],
            &schema["properties"]["subnets"]["items"],
        ),
    ] {
        let required = schema["required"].as_array().expect("a list");
        let keys = what.as_object().expect("an object");
        assert_eq!(keys.len(), required.len(), "{keys:?}");
        for key in required {
            assert!(keys.contains_key(key.as_str().expect("a key")), "{key}");
        }
    }
}
