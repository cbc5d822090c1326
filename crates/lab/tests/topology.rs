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
