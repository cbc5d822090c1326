//! Describe answers to facts: what is kept and what is refused.

use std::collections::BTreeMap;

use ec2::facts::{self, Answers, RuleIds};
use ec2::types::*;
use vpc::facts as f;
use vpc::facts::{Direction, Ports, Protocol, RulePeer};

pub(crate) fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

pub(crate) fn permission(protocol: &str, from: Option<i32>, to: Option<i32>) -> IpPermission {
    IpPermission {
        ip_protocol: some(protocol),
        from_port: from,
        to_port: to,
        ip_ranges: vec![IpRange {
            cidr_ip: some("10.0.0.7/16"),
            description: some("vpc"),
        }],
        ..Default::default()
    }
}

pub(crate) fn group(ingress: Vec<IpPermission>) -> SecurityGroup {
    SecurityGroup {
        group_id: some("sg-1"),
        vpc_id: some("vpc-1"),
        group_name: some("nodes"),
        ip_permissions: ingress,
        ..Default::default()
    }
}

fn rule(protocol: &str, from: Option<i32>, to: Option<i32>) -> Result<Protocol, String> {
    facts::security_group(
        &group(vec![permission(protocol, from, to)]),
        &RuleIds::default(),
    )
    .map(|group| group.rules[0].protocol)
    .map_err(|error| error.to_string())
}

#[test]
fn protocols_of_permissions() {
    let tcp = Protocol::Tcp(Ports { from: 80, to: 90 });
    assert_eq!(rule("tcp", Some(80), Some(90)), Ok(tcp));
    assert_eq!(rule("6", Some(80), Some(90)), Ok(tcp));
    assert_eq!(rule("-1", None, None), Ok(Protocol::All));
    assert_eq!(rule("-1", Some(80), Some(80)), Ok(Protocol::All));
    assert_eq!(
        rule("icmp", Some(-1), Some(-1)),
        Ok(Protocol::Icmp {
            kind: None,
            code: None
        })
    );
    assert_eq!(
        rule("1", Some(8), Some(-1)),
        Ok(Protocol::Icmp {
            kind: Some(8),
            code: None
        })
    );
    assert_eq!(
        rule("58", Some(1), Some(4)),
        Ok(Protocol::Icmp6 {
            kind: Some(1),
            code: Some(4)
        })
    );
    assert_eq!(rule("47", None, None), Ok(Protocol::Number(47)));
}

#[test]
fn rules_that_cannot_be_understood_are_errors_that_name_group_and_member() {
    for (protocol, from, to, error) in [
        (
            "tcp",
            None,
            Some(80),
            "sg-1 has no fromPort in EC2's answer",
        ),
        (
            "tcp",
            Some(90),
            Some(80),
            "sg-1: fromPort is '90': above toPort 80",
        ),
        (
            "udp",
            Some(-1),
            Some(80),
            "sg-1: fromPort is '-1': out of range",
        ),
        (
            "udp",
            Some(1),
            Some(65536),
            "sg-1: toPort is '65536': out of range",
        ),
        (
            "icmp",
            Some(-1),
            Some(0),
            "sg-1: ICMP code is '0': a code without a type",
        ),
        (
            "icmp",
            Some(256),
            Some(0),
            "sg-1: ICMP type is '256': out of range",
        ),
        (
            "sctp",
            None,
            None,
            "sg-1: protocol is 'sctp': invalid digit found in string",
        ),
    ] {
        assert_eq!(rule(protocol, from, to).unwrap_err(), error);
    }
    let mut bad = permission("-1", None, None);
    bad.ip_ranges[0].cidr_ip = some("10.0.0.0/33");
    let error = facts::security_group(&group(vec![bad]), &RuleIds::default()).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("sg-1: cidrIp is '10.0.0.0/33'"),
        "{error}"
    );
    let named = IpPermission {
        ip_protocol: some("-1"),
        user_id_group_pairs: vec![UserIdGroupPair {
            group_name: some("n"),
            ..Default::default()
        }],
        ..Default::default()
    };
    let error = facts::security_group(&group(vec![named]), &RuleIds::default()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "sg-1 has no groups.groupId in EC2's answer"
    );
}

#[test]
fn one_rule_per_peer_with_its_id() {
    let mut all = permission("tcp", Some(5432), Some(5432));
    all.ipv6_ranges = vec![Ipv6Range {
        cidr_ipv6: some("fd00::/8"),
        description: None,
    }];
    all.prefix_list_ids = vec![PrefixListId {
        prefix_list_id: some("pl-1"),
        description: None,
    }];
    all.user_id_group_pairs = vec![UserIdGroupPair {
        group_id: some("sg-2"),
        vpc_id: some("vpc-2"),
        vpc_peering_connection_id: some("pcx-1"),
        ..Default::default()
    }];
    let of_group = SecurityGroupRule {
        security_group_rule_id: some("sgr-1"),
        group_id: some("sg-1"),
        is_egress: Some(false),
        ip_protocol: some("tcp"),
        from_port: Some(5432),
        to_port: Some(5432),
        referenced_group_info: Some(ReferencedSecurityGroup {
            group_id: some("sg-2"),
            ..Default::default()
        }),
        ..Default::default()
    };
    let egress = SecurityGroupRule {
        security_group_rule_id: some("sgr-2"),
        is_egress: Some(true),
        referenced_group_info: None,
        cidr_ipv4: some("10.0.0.0/16"),
        ..of_group.clone()
    };
    let ids = RuleIds::read(&[of_group, egress]).unwrap();
    let group = facts::security_group(&group(vec![all]), &ids).unwrap();
    let peers: Vec<&RulePeer> = group.rules.iter().map(|rule| &rule.peer).collect();
    assert_eq!(
        *peers[0],
        RulePeer::Cidr4("10.0.0.0/16".parse().unwrap()),
        "host bits are dropped"
    );
    assert_eq!(*peers[1], RulePeer::Cidr6("fd00::/8".parse().unwrap()));
    assert_eq!(*peers[2], RulePeer::PrefixList("pl-1".parse().unwrap()));
    let RulePeer::Group { id, vpc, peering } = peers[3] else {
        panic!("{peers:?}")
    };
    assert_eq!(id.as_str(), "sg-2");
    assert_eq!((vpc.is_some(), peering.is_some()), (true, true));
    let ids: Vec<Option<&str>> = group
        .rules
        .iter()
        .map(|rule| rule.id.as_ref().map(f::SgRuleId::as_str))
        .collect();
    assert_eq!(
        ids,
        [None, None, None, Some("sgr-1")],
        "the egress rule has another direction"
    );
    assert!(
        group
            .rules
            .iter()
            .all(|rule| rule.direction == Direction::Ingress)
    );
}

fn acl(entry: NetworkAclEntry) -> Result<f::AclEntry, String> {
    let acl = NetworkAcl {
        network_acl_id: some("acl-1"),
        vpc_id: some("vpc-1"),
        is_default: Some(false),
        entries: vec![entry],
        ..Default::default()
    };
    facts::network_acl(&acl)
        .map(|mut acl| acl.entries.remove(0))
        .map_err(|error| error.to_string())
}

#[test]
fn acl_entries() {
    let entry = NetworkAclEntry {
        rule_number: Some(100),
        egress: Some(false),
        protocol: some("6"),
        port_range: Some(PortRange {
            from: Some(1024),
            to: Some(65535),
        }),
        cidr_block: some("0.0.0.0/0"),
        rule_action: some("deny"),
        ..Default::default()
    };
    let fact = acl(entry.clone()).unwrap();
    assert_eq!(
        (fact.number, fact.allow, fact.direction),
        (100, false, Direction::Ingress)
    );
    assert_eq!(
        fact.protocol,
        Protocol::Tcp(Ports {
            from: 1024,
            to: 65535
        })
    );
    let without = NetworkAclEntry {
        port_range: None,
        ..entry.clone()
    };
    assert_eq!(
        acl(without).unwrap_err(),
        "acl-1 entry 100 has no portRange in EC2's answer"
    );
    let other = NetworkAclEntry {
        rule_action: some("Deny"),
        ..entry.clone()
    };
    let error = "acl-1 entry 100: ruleAction is 'Deny': neither allow nor deny";
    assert_eq!(acl(other).unwrap_err(), error);
    let nowhere = NetworkAclEntry {
        cidr_block: None,
        ..entry.clone()
    };
    assert_eq!(
        acl(nowhere).unwrap_err(),
        "acl-1 entry 100 has no cidrBlock in EC2's answer"
    );
    let icmp_type_code = Some(IcmpTypeCode {
        type_: Some(-1),
        code: Some(-1),
    });
    let icmp = NetworkAclEntry {
        protocol: some("1"),
        icmp_type_code,
        ..entry
    };
    assert_eq!(
        acl(icmp).unwrap().protocol,
        Protocol::Icmp {
            kind: None,
            code: None
        }
    );
}

fn interface() -> NetworkInterface {
    NetworkInterface {
        network_interface_id: some("eni-1"),
        subnet_id: some("subnet-1"),
        vpc_id: some("vpc-1"),
        mac_address: some("02:00:00:00:00:01"),
        interface_type: some("interface"),
        status: some("in-use"),
        source_dest_check: Some(true),
        groups: vec![GroupIdentifier {
            group_id: some("sg-1"),
            group_name: None,
        }],
        private_ip_addresses: vec![
            NetworkInterfacePrivateIpAddress {
                private_ip_address: some("10.0.0.9"),
                primary: Some(false),
                ..Default::default()
            },
            NetworkInterfacePrivateIpAddress {
                private_ip_address: some("10.0.0.4"),
                primary: Some(true),
                association: Some(NetworkInterfaceAssociation {
                    public_ip: some("203.0.113.4"),
                    ..Default::default()
                }),
                ..Default::default()
            },
        ],
        attachment: Some(NetworkInterfaceAttachment {
            attachment_id: some("eni-attach-1"),
            instance_id: some("i-1"),
            device_index: Some(1),
            status: some("attached"),
            ..Default::default()
        }),
        ..Default::default()
    }
}

#[test]
fn interfaces() {
    let fact = facts::eni(&interface(), &BTreeMap::new()).unwrap();
    assert_eq!(
        fact.primary(),
        Some([10, 0, 0, 4].into()),
        "the primary address is first"
    );
    assert!(fact.addresses[0].public.is_some() && fact.addresses[1].public.is_none());
    assert_eq!(fact.attachment.unwrap().device_index, 1);
    let refused = |change: &dyn Fn(&mut NetworkInterface)| {
        let mut interface = interface();
        change(&mut interface);
        facts::eni(&interface, &BTreeMap::new())
            .unwrap_err()
            .to_string()
    };
    let check = refused(&|e| e.source_dest_check = None);
    assert_eq!(check, "eni-1 has no sourceDestCheck in EC2's answer");
    let status = refused(&|e| e.status = some("odd"));
    assert_eq!(status, "eni-1: status is 'odd': not known");
    let group = refused(&|e| e.groups[0].group_id = some("g 1"));
    assert!(
        group.starts_with("eni-1: groupSet.groupId is 'g 1'"),
        "{group}"
    );
    let mut detached = interface();
    detached.attachment.as_mut().unwrap().status = some("detached");
    assert_eq!(
        facts::eni(&detached, &BTreeMap::new()).unwrap().attachment,
        None
    );
}

#[test]
fn trunks_are_known_by_association_or_else_by_tags() {
    let mut branch = interface();
    let tag = |key: &str, value: &str| Tag {
        key: some(key),
        value: some(value),
    };
    branch.tag_set = vec![
        tag("vpcresources.k8s.aws/trunk-eni-id", "eni-9"),
        tag("vpcresources.k8s.aws/vlan-id", "7"),
    ];
    let by_tags = facts::eni(&branch, &BTreeMap::new())
        .unwrap()
        .trunk
        .unwrap();
    assert_eq!(
        (by_tags.trunk.as_str(), by_tags.vlan, by_tags.id),
        ("eni-9", 7, None)
    );
    let association = TrunkInterfaceAssociation {
        association_id: some("trunk-assoc-1"),
        branch_interface_id: some("eni-1"),
        trunk_interface_id: some("eni-8"),
        vlan_id: Some(3),
        ..Default::default()
    };
    let trunks = facts::trunk_associations(&[association]).unwrap();
    let associated = facts::eni(&branch, &trunks).unwrap().trunk.unwrap();
    assert_eq!((associated.trunk.as_str(), associated.vlan), ("eni-8", 3));
}

fn route(change: impl Fn(&mut Route)) -> Result<f::Target, String> {
    let mut route = Route {
        destination_cidr_block: some("0.0.0.0/0"),
        state: some("active"),
        origin: some("CreateRoute"),
        ..Default::default()
    };
    change(&mut route);
    let table = RouteTable {
        route_table_id: some("rtb-1"),
        vpc_id: some("vpc-1"),
        routes: vec![route],
        ..Default::default()
    };
    facts::route_table(&table)
        .map(|mut table| table.routes.remove(0).target)
        .map_err(|error| error.to_string())
}

#[test]
fn routes_and_their_targets() {
    let local = route(|r| r.gateway_id = some("local"));
    assert_eq!(local, Ok(f::Target::Local));
    assert!(matches!(
        route(|r| r.gateway_id = some("igw-1")),
        Ok(f::Target::Igw(_))
    ));
    let instance = route(|r| {
        r.instance_id = some("i-1");
        r.network_interface_id = some("eni-1");
    });
    assert!(matches!(instance, Ok(f::Target::Eni(_))), "{instance:?}");
    for (kind, target) in [
        (
            "transit gateway",
            route(|r| r.transit_gateway_id = some("tgw-1")),
        ),
        ("VPC endpoint", route(|r| r.gateway_id = some("vpce-1"))),
        ("deleted target", route(|r| r.state = some("blackhole"))),
    ] {
        let Ok(f::Target::Unmodelled { kind: found, .. }) = target else {
            panic!("{target:?}")
        };
        assert_eq!(found, kind);
    }
    let nowhere = route(|_| {}).unwrap_err();
    assert_eq!(
        nowhere,
        "rtb-1 route to 0.0.0.0/0 has no target (of a known kind) in EC2's answer"
    );
    let state = route(|r| r.state = some("filtered")).unwrap_err();
    assert_eq!(
        state,
        "rtb-1 route to 0.0.0.0/0: state is 'filtered': not known"
    );
}

#[test]
fn an_object_without_an_id_and_an_unread_list_are_not_lost() {
    let nameless = Answers {
        vpcs: vec![Vpc::default()],
        ..Default::default()
    };
    let error = facts::world(&nameless).unwrap_err();
    assert_eq!(
        error.to_string(),
        "an object of DescribeVpcs has no id in EC2's answer"
    );
    let list = ManagedPrefixList {
        prefix_list_id: some("pl-1"),
        ..Default::default()
    };
    let answers = Answers {
        prefix_lists: vec![list],
        ..Default::default()
    };
    let world = facts::world(&answers).unwrap();
    let list = &world.prefix_lists[&"pl-1".parse().unwrap()];
    assert_eq!(
        list.unread.as_ref().unwrap().action,
        "ec2:GetManagedPrefixListEntries"
    );
}
