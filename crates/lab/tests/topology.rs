//! Topology files: what is accepted, and what each mistake is told.

use lab::topology::Topology;

const RDS: &str = include_str!("../../../scenarios/rds/topology.yaml");

#[test]
fn the_rds_topology_is_what_the_article_describes() {
    let topology = Topology::parse(RDS, "topology.yaml").unwrap();
    assert_eq!(
        topology
            .instances()
            .map(|(name, _)| name)
            .collect::<Vec<_>>(),
        ["ip-10-0-1-11"]
    );
    assert_eq!(topology.hosts[0].listen[0].to_string(), "tcp/5432");
    let add_sg = topology.vpcs[0]
        .groups
        .iter()
        .find(|g| g.name.value == "add_sg")
        .unwrap();
    assert_eq!(add_sg.ingress[0].value.to_string(), "tcp/5432 from self");
    assert!(add_sg.egress.is_none());
}

/// Each case: the text to find in the good file, what stands there instead.
#[test]
fn every_mistake_is_named_with_its_place() {
    let cases = [
        ("name: rds\nregion", "name: rds\ncolour: blue\nregion"),
        (
            "zone: a, cidr: 10.0.1.0/24",
            "zone: a, cidr: 10.0.1.0/24, mtu: 9001",
        ),
        ("branchline/v1", "branchline/v2"),
        ("kind: Topology", "kind: Deployment"),
        ("tcp/5432 from self", "tcp/5432 from sg/nobody"),
        ("tcp/5432 from self", "tcp/5432 to self"),
        ("tcp/5432 from self", "tcp/many from self"),
        ("groups: [add_sg]", "groups: [add_sgg]"),
        ("subnet: data", "subnet: date"),
        ("address: 10.0.21.40", "address: 10.0.1.40"),
        ("address: 10.0.21.40", "address: 10.0.21"),
        ("cidr: 10.0.21.0/24", "cidr: 10.0.21.9/24"),
        ("cidr: 10.0.21.0/24", "cidr: 10.1.21.0/24"),
        ("listen: [tcp/5432]", "listen: [5432]"),
        ("kind: rds", "kind: oracle"),
        ("name: ip-10-0-1-11", "name: Node_1"),
        ("name: ip-10-0-1-11", "name: orders"),
        ("launchTemplate: rds-nodes", "count: 2"),
        ("name: data,", "name: nodes,"),
        ("hosts:", "hosts: ["),
    ];
    let mut told = String::new();
    for (good, bad) in cases {
        let text = RDS.replacen(good, bad, 1);
        assert_ne!(text, RDS, "{good} does not stand in the file");
        let error = Topology::parse(&text, "topology.yaml").unwrap_err();
        told.push_str(&format!(
            "{:40} {error}\n",
            bad.lines().nth(1).unwrap_or(bad)
        ));
    }
    insta::assert_snapshot!(told);
}

const CLUSTER: &str = include_str!("cluster.yaml");

#[test]
fn a_cluster_has_eks_defaults() {
    let topology = Topology::parse(CLUSTER, "cluster.yaml").unwrap();
    let cluster = &topology.clusters[0];
    assert_eq!(cluster.service_cidr.value.to_string(), "172.20.0.0/16");
    assert_eq!(cluster.proxy_mode.as_str(), "iptables");
    assert!(cluster.endpoint_public_access);
}

#[test]
fn every_mistake_about_a_cluster_is_named_with_its_place() {
    let node =
        |more: &str| format!("nodes:\n  - {{ name: n1, subnet: private-a, {more} }}\nhosts:");
    let cluster = |more: &str| format!("securityGroups: [to-api]\n    {more}");
    let other = "vpcs:\n  - { name: other, cidrs: [10.9.0.0/16], subnets: [{ name: far, cidr: 10.9.1.0/24 }], groups: [{ name: their }] }";
    let cases: Vec<(&str, String)> = vec![
        ("[private-a, private-b]", "[private-a]".to_owned()),
        ("[private-a, private-b]", "[private-a, nowhere]".to_owned()),
        ("zone: b", "zone: us-west-2a".to_owned()),
        ("[to-api]", "[to-apy]".to_owned()),
        ("name: dev", "name: dev!".to_owned()),
        (
            "clusters:",
            "clusters:\n  - { name: dev, subnets: [private-a, private-b] }".to_owned(),
        ),
        (
            "securityGroups",
            "vpc: elsewhere\n    securityGroups".to_owned(),
        ),
        (
            "securityGroups: [to-api]",
            cluster("serviceCidr: 10.0.0.0/12"),
        ),
        (
            "securityGroups: [to-api]",
            cluster("serviceCidr: 172.20.0.0/28"),
        ),
        (
            "securityGroups: [to-api]",
            cluster("serviceCidr: 172.20.1.0/16"),
        ),
        (
            "securityGroups: [to-api]",
            cluster("serviceCidr: 8.8.0.0/16"),
        ),
        ("securityGroups: [to-api]", cluster("proxyMode: ipvs")),
        (
            "securityGroups: [to-api]",
            cluster("addons: { vpc-cny: {} }"),
        ),
        (
            "securityGroups: [to-api]",
            cluster("addons: { vpc-cni: 3 }"),
        ),
        (
            "securityGroups: [to-api]",
            cluster("nodegroups: [{ name: a, subnets: [nowhere] }]"),
        ),
        (
            "securityGroups: [to-api]",
            cluster("nodegroups: [{ name: a }, { name: a }]"),
        ),
        (
            "securityGroups: [to-api]",
            cluster("nodegroups: [{ name: a, groups: [nobody] }]"),
        ),
        ("hosts:", node("cluster: prod")),
        ("hosts:", node("cluster: dev, agent: { enabled: false }")),
        ("name: bastion", "name: cluster-dev".to_owned()),
    ];
    let mut told = String::new();
    let mut hear = |text: &str, bad: &str| {
        let error = Topology::parse(text, "cluster.yaml").unwrap_err();
        let line = bad.lines().nth(1).unwrap_or(bad).trim();
        told.push_str(&format!("{line:60} {error}\n"));
    };
    for (good, bad) in &cases {
        let text = CLUSTER.replacen(good, bad, 1);
        assert_ne!(text, CLUSTER, "{good} does not stand in the file");
        hear(&text, bad);
    }
    // Two VPCs: nothing of the other one can be used.
    let two = CLUSTER.replacen("vpcs:", other, 1);
    Topology::parse(&two, "cluster.yaml").unwrap();
    for (good, bad) in [
        ("[private-a, private-b]", "[private-a, far]".to_owned()),
        ("[to-api]", "[their]".to_owned()),
        (
            "securityGroups",
            "vpc: other\n    securityGroups".to_owned(),
        ),
        (
            "hosts:",
            "nodes:\n  - { name: n1, subnet: far, cluster: dev }\nhosts:".to_owned(),
        ),
    ] {
        hear(&two.replacen(good, &bad, 1), &bad);
    }
    insta::assert_snapshot!(told);
}
