//! Facts travel through JSON unchanged, and other directions of relations are found.

mod common;

use common::*;
use vpc::facts::*;

#[test]
fn a_world_survives_json() {
    let mut w = world();
    unread(&mut w, Kind::Acls);
    add_prefix_list(&mut w, "pl-1", &["10.0.0.0/8"]);
    let text = serde_json::to_string(&w).unwrap();
    assert_eq!(serde_json::from_str::<World>(&text).unwrap(), w);
}

#[test]
fn an_id_of_another_kind_does_not_come_in_by_json() {
    let text = serde_json::to_string(&world())
        .unwrap()
        .replace("subnet-a1", "vpc-a1");
    let error = serde_json::from_str::<World>(&text)
        .unwrap_err()
        .to_string();
    assert!(error.contains("is not the id of a subnet"), "{error}");
}

#[test]
fn relations_are_found_both_ways() {
    let mut w = world();
    let attach = |device_index| Attachment {
        id: format!("eni-attach-{device_index}"),
        instance: Some(id("i-1")),
        owner: w.account.clone(),
        device_index,
        network_card: 0,
        delete_on_termination: true,
    };
    let (first, second) = (attach(0), attach(1));
    eni(&mut w, "eni-a2").attachment = Some(first);
    eni(&mut w, "eni-a1").attachment = Some(second);
    eni(&mut w, "eni-a1b").trunk = Some(TrunkAssociation {
        id: None,
        trunk: id("eni-a1"),
        vlan: 1,
    });
    let names = |enis: Vec<&Eni>| enis.iter().map(|e| e.id.to_string()).collect::<Vec<_>>();
    assert_eq!(
        names(w.enis_of(&id("i-1"))),
        ["eni-a2", "eni-a1"],
        "by device index"
    );
    assert_eq!(names(w.branches_of(&id("eni-a1")).collect()), ["eni-a1b"]);
    let at = |address: &str| {
        w.eni_at(&id("vpc-a"), id(address))
            .map(|e| e.id.to_string())
    };
    assert_eq!(at("10.0.1.12").as_deref(), Some("eni-a1"), "secondary");
    assert_eq!(at("10.0.1.47").as_deref(), Some("eni-a1"), "prefix");
    assert_eq!(at("10.0.1.48"), None);
    let subnet = w.subnet_at(&id("vpc-a"), id("10.0.2.200")).unwrap();
    assert_eq!(subnet.id, id("subnet-a2"));
    assert_eq!(w.route_table_of(subnet).unwrap().id, id("rtb-a"), "its own");
    let subnet = w.subnet_at(&id("vpc-b"), id("10.1.1.1")).unwrap();
    assert_eq!(
        w.route_table_of(subnet).unwrap().id,
        id("rtb-b"),
        "the main one"
    );
    assert_eq!(w.acl_of(&id("subnet-a1")).unwrap().id, id("acl-a1"));
}

#[test]
fn the_launch_template_of_an_instance_is_in_its_tags() {
    let tag = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let mut instance = Instance {
        id: id("i-1"),
        instance_type: "t3.medium".into(),
        private_dns_name: "ip-10-0-1-11.us-west-2.compute.internal".into(),
        state: "running".into(),
        subnet: None,
        vpc: None,
        tags: [
            tag("aws:ec2launchtemplate:id", "lt-1"),
            tag("aws:ec2launchtemplate:version", "3"),
        ]
        .into(),
    };
    assert_eq!(instance.launch_template(), Some((id("lt-1"), 3)));
    instance.tags.remove("aws:ec2launchtemplate:version");
    assert_eq!(instance.launch_template(), None);
}
