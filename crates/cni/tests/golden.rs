//! Bytes that must not change: upstream's results up to 0.4.0, upstream's protobuf messages.
//! Where they come from: `tests/golden/README.md`.

use cni::rpc::backend::*;
use cni::{CniResult, Interface, IpConfig, NetConf, SpecVersion};
use prost::Message;

fn container(name: &str, sandbox: &str, table: &str) -> Interface {
    Interface {
        name: name.to_owned(),
        mac: Some(table.to_owned()),
        sandbox: Some(sandbox.to_owned()),
        ..Interface::default()
    }
}

fn host(name: &str) -> Interface {
    Interface {
        name: name.to_owned(),
        ..Interface::default()
    }
}

fn address(interface: usize, address: &str) -> IpConfig {
    let address = address.parse().expect("a literal");
    IpConfig {
        interface: Some(interface),
        address,
        gateway: None,
    }
}

fn upstream_result() -> CniResult {
    CniResult {
        interfaces: vec![
            host("enicc21c2d7785"),
            container("eth0", "/var/run/netns/cni-1", "254"),
            container("dummycc21c2d7785", "0", "0"),
        ],
        ips: vec![address(1, "10.0.1.5/32")],
        ..CniResult::default()
    }
}

fn golden(name: &str) -> String {
    let path = format!(
        "{}/tests/golden/result/{name}.json",
        env!("CARGO_MANIFEST_DIR")
    );
    std::fs::read_to_string(path).expect("the golden file is in the repository")
}

#[test]
fn results_up_to_0_4_0_are_upstreams_byte_for_byte() {
    for version in SpecVersion::ALL
        .into_iter()
        .filter(|v| *v <= SpecVersion::V0_4_0)
    {
        let printed = String::from_utf8(upstream_result().to_json(version)).expect("JSON is text");
        assert_eq!(printed, golden(version.as_str()), "{version}");
    }
}

#[test]
fn several_interfaces_and_ipv6_are_upstreams_byte_for_byte() {
    let result = CniResult {
        interfaces: vec![
            host("enicc21c2d7785"),
            container("eth0", "/n", "254"),
            host("eni0123456789a"),
            container("mNicIf1", "/n", "10101"),
            container("dummycc21c2d7785", "0", "0"),
        ],
        ips: vec![
            address(1, "2001:db8::5/128"),
            address(3, "2001:db8:1::5/128"),
        ],
        ..CniResult::default()
    };
    let printed = String::from_utf8(result.to_json(SpecVersion::V0_4_0)).expect("JSON is text");
    assert_eq!(printed, golden("multi-v6-0.4.0"));
}

#[test]
fn prev_result_is_read_in_every_versions_form() {
    for version in SpecVersion::ALL {
        let json = String::from_utf8(upstream_result().to_json(version)).expect("JSON is text");
        // The runtime may have converted the result to another version than the configuration's.
        for config in SpecVersion::ALL {
            let stdin = format!(
                r#"{{"cniVersion":"{config}","name":"n","type":"aws-cni","prevResult":{json}}}"#
            );
            let conf = NetConf::parse(stdin.as_bytes()).expect("a result of ours is readable");
            let read = conf.prev_result.expect("there is one").parsed;
            let whole = version >= SpecVersion::V0_3_0;
            let expected = if whole {
                upstream_result()
            } else {
                let ip = IpConfig {
                    interface: None,
                    ..address(0, "10.0.1.5/32")
                };
                CniResult {
                    ips: vec![ip],
                    ..CniResult::default()
                }
            };
            assert_eq!(read, expected, "{version} under {config}");
        }
    }
}

fn metadata() -> Vec<IpAllocationMetadata> {
    vec![
        IpAllocationMetadata {
            ipv4_addr: "10.0.1.5".into(),
            ipv6_addr: String::new(),
            device_number: 1,
            route_table_id: 2,
        },
        IpAllocationMetadata {
            ipv4_addr: String::new(),
            ipv6_addr: "2001:db8::5".into(),
            device_number: -1,
            route_table_id: 254,
        },
    ]
}

/// Upstream's bytes decode to the value and the value encodes to upstream's bytes.
fn same<M: Message + Default + PartialEq + std::fmt::Debug>(name: &str, value: &M) {
    let lines = include_str!("golden/rpc.txt").lines();
    let line = lines
        .filter_map(|line| line.split_once(' '))
        .find(|(of, _)| *of == name);
    let (_, hex) = line.expect("the message is in rpc.txt");
    let digits = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex digits");
    let bytes: Vec<u8> = (0..hex.len()).step_by(2).map(digits).collect();
    assert_eq!(
        &M::decode(bytes.as_slice()).expect("decodes"),
        value,
        "{name}"
    );
    assert_eq!(value.encode_to_vec(), bytes, "{name}");
}

#[test]
fn messages_are_upstreams_on_the_wire() {
    same(
        "AddNetworkRequest",
        &AddNetworkRequest {
            k8s_pod_name: "sample-pod".into(),
            k8s_pod_namespace: "default".into(),
            k8s_pod_infra_container_id: "infra".into(),
            netns: "/var/run/netns/x".into(),
            if_name: "eth0".into(),
            network_name: "aws-cni".into(),
            container_id: "cid".into(),
            client_version: String::new(),
            requires_multi_nic_attachment: true,
            k8s_pod_uid: String::new(),
        },
    );
    same(
        "AddNetworkReply",
        &AddNetworkReply {
            success: true,
            ip_allocation_metadata: metadata(),
            use_external_snat: true,
            vpc_v4_cidrs: vec!["10.0.0.0/16".into(), "10.1.0.0/16".into()],
            pod_vlan_id: 7,
            pod_eni_mac: "02:00:00:00:00:01".into(),
            pod_eni_subnet_gw: "10.0.1.1".into(),
            parent_if_index: 3,
            vpc_v6_cidrs: vec!["2001:db8::/56".into()],
            network_policy_mode: "standard".into(),
            failure: None,
        },
    );
    same(
        "DelNetworkRequest",
        &DelNetworkRequest {
            k8s_pod_name: "sample-pod".into(),
            k8s_pod_namespace: "default".into(),
            k8s_pod_infra_container_id: "infra".into(),
            reason: cni::rpc::REASON_POD_DELETED.into(),
            if_name: "eth0".into(),
            network_name: "aws-cni".into(),
            container_id: "cid".into(),
            client_version: "v".into(),
            k8s_pod_uid: "uid".into(),
        },
    );
    same(
        "DelNetworkReply",
        &DelNetworkReply {
            success: true,
            ip_allocation_metadata: metadata()[..1].to_vec(),
            pod_vlan_id: 7,
            network_policy_mode: "strict".into(),
            failure: None,
        },
    );
}

#[test]
fn the_policy_daemons_messages_are_upstreams_on_the_wire() {
    same(
        "EnforceNpRequest",
        &EnforceNpRequest {
            k8s_pod_name: "sample-pod".into(),
            k8s_pod_namespace: "default".into(),
            network_policy_mode: "strict".into(),
            interface_count: 2,
        },
    );
    same("EnforceNpReply", &EnforceNpReply { success: true });
    same(
        "DeleteNpRequest",
        &DeleteNpRequest {
            k8s_pod_name: "sample-pod".into(),
            k8s_pod_namespace: "default".into(),
        },
    );
    same("DeleteNpReply", &DeleteNpReply { success: true });
    same(
        "NetworkPolicyAgentConfigReply",
        &NetworkPolicyAgentConfigReply {
            network_policy_mode: "standard".into(),
            multi_nic_enabled: true,
            node_ipv4: "10.0.1.4".into(),
            node_ipv6: "2001:db8::4".into(),
            instance_id: "i-0abc".into(),
            region: "us-west-2".into(),
        },
    );
}

#[test]
fn our_additions_do_not_disturb_a_reader_that_lacks_them() {
    /// What upstream's plugin knows of the reply, as far as this test needs it.
    #[derive(Clone, PartialEq, Message)]
    struct UpstreamReply {
        #[prost(bool, tag = "1")]
        success: bool,
        #[prost(string, tag = "13")]
        network_policy_mode: String,
    }
    let ours = AddNetworkReply {
        network_policy_mode: "strict".into(),
        failure: Some(Failure {
            kind: FailureKind::LimitReached.into(),
            reason: "subnet subnet-1 has no free address".into(),
            cni_code: 11,
        }),
        ..AddNetworkReply::default()
    };
    let theirs = UpstreamReply::decode(ours.encode_to_vec().as_slice()).expect("decodes");
    let expected = UpstreamReply {
        success: false,
        network_policy_mode: "strict".into(),
    };
    assert_eq!(theirs, expected);
}
