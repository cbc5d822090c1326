//! What a request may look like, what it may not, and which code says so.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::time::Duration;

use cni::{Code, Command, Error, NetConf, SpecVersion};
use proptest::prelude::*;

fn environment(pairs: &[(&str, &str)]) -> Result<Command, Error> {
    let map: BTreeMap<&str, &str> = pairs.iter().copied().collect();
    Command::from_environment(|name| map.get(name).map(OsString::from))
}

const ADD: [(&str, &str); 4] = [
    ("CNI_COMMAND", "ADD"),
    ("CNI_CONTAINERID", "c1"),
    ("CNI_NETNS", "/run/netns/x"),
    ("CNI_IFNAME", "eth0"),
];

fn with(key: &'static str, value: &'static str) -> Vec<(&'static str, &'static str)> {
    ADD.into_iter()
        .filter(|(name, _)| *name != key)
        .chain([(key, value)])
        .collect()
}

#[test]
fn environment_errors_have_code_4_and_name_the_fact() {
    let cases: [(&str, &str, &str); 10] = [
        ("CNI_COMMAND", "", "CNI_COMMAND"),
        ("CNI_COMMAND", "ADDED", "ADDED"),
        ("CNI_CONTAINERID", "", "CNI_CONTAINERID"),
        ("CNI_CONTAINERID", "-a", "-a"),
        ("CNI_CONTAINERID", "a/b", "a/b"),
        ("CNI_NETNS", "", "CNI_NETNS"),
        ("CNI_IFNAME", "", "CNI_IFNAME"),
        ("CNI_IFNAME", "a-name-of-16-byt", "a-name-of-16-byt"),
        ("CNI_ARGS", "K8S_POD_NAME", "K8S_POD_NAME"),
        ("CNI_ARGS", "FOO=bar", "FOO"),
    ];
    for (key, value, named) in cases {
        let error = environment(&with(key, value)).expect_err(key);
        assert_eq!(
            Code::from(&error),
            Code::INVALID_ENVIRONMENT,
            "{key}={value}"
        );
        assert!(error.to_string().contains(named), "{error}");
    }
}

#[test]
fn all_missing_variables_are_named_at_once() {
    let error = environment(&[("CNI_COMMAND", "ADD")]).expect_err("nothing is set");
    let text = error.to_string();
    for name in ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"] {
        assert!(text.contains(name), "{text}");
    }
}

#[test]
fn cni_args_are_read_as_upstream_reads_them() {
    let args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=sample-pod;\
                K8S_POD_INFRA_CONTAINER_ID=infra;K8S_POD_UID=uid;FOO=bar";
    let mut pairs = ADD.to_vec();
    pairs.push(("CNI_ARGS", args));
    let Ok(Command::Add(attachment, netns)) = environment(&pairs) else {
        panic!("an ADD");
    };
    assert_eq!(netns, std::path::Path::new("/run/netns/x"));
    assert_eq!(attachment.pod.name, "sample-pod");
    assert_eq!(attachment.pod.namespace, "default");
    assert_eq!(attachment.pod.infra_container_id, "infra");
    assert_eq!(attachment.pod.uid, "uid");
}

#[test]
fn del_needs_no_namespace_and_version_nothing_at_all() {
    let pairs = [
        ("CNI_COMMAND", "DEL"),
        ("CNI_CONTAINERID", "c1"),
        ("CNI_IFNAME", "eth0"),
    ];
    assert!(matches!(environment(&pairs), Ok(Command::Del(_, None))));
    assert!(matches!(
        environment(&[("CNI_COMMAND", "VERSION")]),
        Ok(Command::Version)
    ));
    assert!(matches!(
        environment(&[("CNI_COMMAND", "GC")]),
        Ok(Command::Gc)
    ));
    assert!(matches!(
        environment(&[("CNI_COMMAND", "STATUS")]),
        Ok(Command::Status)
    ));
}

#[test]
fn configuration_has_upstreams_defaults() {
    let conf = NetConf::parse(br#"{"name":"aws-cni"}"#).expect("minimal");
    assert_eq!(conf.version, SpecVersion::V0_1_0);
    assert_eq!(conf.veth_prefix.as_str(), "eni");
    assert_eq!(conf.mtu, 9001);
    assert!(!conf.standard_security_groups);
    assert!(!conf.multi_nic);
    assert_eq!(conf.daemon_wait, Duration::from_secs(10));
    assert!(conf.prev_result.is_none() && conf.valid_attachments.is_none());
}

#[test]
fn keys_are_matched_without_regard_to_case_and_the_last_wins() {
    let conf = NetConf::parse(
        br#"{"CNIVERSION":"0.4.0","Name":"n","VETHPREFIX":"abc","mtu":"1500","MTU":"1400",
            "vethprefix":null,"RuntimeConfig":{"io.kubernetes.cri.pod-annotations":
            {"k8s.amazonaws.com/nicConfig":"multi-nic-attachment"}},"unknown":{"a":[1]}}"#,
    )
    .expect("readable");
    assert_eq!(conf.version, SpecVersion::V0_4_0);
    assert_eq!(conf.veth_prefix.as_str(), "abc");
    assert_eq!(conf.mtu, 1400);
    assert!(conf.multi_nic);
}

#[test]
fn mtu_is_a_string_or_a_number_and_falls_back_to_9001() {
    for (mtu, expected) in [
        (r#""1500""#, 1500),
        ("1500", 1500),
        (r#""576""#, 576),
        (r#""575""#, 9001),
        (r#""9002""#, 9001),
        (r#""large""#, 9001),
        (r#""""#, 9001),
        ("-1", 9001),
    ] {
        let stdin = format!(r#"{{"name":"n","mtu":{mtu}}}"#);
        assert_eq!(
            NetConf::parse(stdin.as_bytes()).expect(mtu).mtu,
            expected,
            "{mtu}"
        );
    }
}

#[test]
fn configuration_errors_have_their_code_and_name_the_key() {
    let cases: [(&str, Code, &str); 16] = [
        ("", Code::DECODING_FAILURE, "JSON"),
        ("[]", Code::DECODING_FAILURE, "JSON"),
        ("{\"name\":", Code::DECODING_FAILURE, "JSON"),
        (r#"{"name":1}"#, Code::DECODING_FAILURE, "name"),
        (r#"{}"#, Code::INVALID_CONFIG, "name"),
        (r#"{"name":"a b"}"#, Code::INVALID_CONFIG, "a b"),
        (
            r#"{"name":"n","cniVersion":"9.9.9"}"#,
            Code::INCOMPATIBLE_VERSION,
            "9.9.9",
        ),
        (
            r#"{"name":"n","vethPrefix":"fiver"}"#,
            Code::INVALID_CONFIG,
            "fiver",
        ),
        (r#"{"name":"n","mtu":[]}"#, Code::DECODING_FAILURE, "mtu"),
        (
            r#"{"name":"n","daemonWait":"soon"}"#,
            Code::INVALID_CONFIG,
            "daemonWait",
        ),
        (
            r#"{"name":"n","daemonWait":0}"#,
            Code::INVALID_CONFIG,
            "daemonWait",
        ),
        (
            r#"{"name":"n","prevResult":7}"#,
            Code::DECODING_FAILURE,
            "prevResult",
        ),
        (
            r#"{"name":"n","prevResult":{"ips":[{"address":"10.0.0.1"}]}}"#,
            Code::INVALID_CONFIG,
            "prevResult.ips[0].address",
        ),
        (
            r#"{"name":"n","prevResult":{"cniVersion":"7","ips":[]}}"#,
            Code::INCOMPATIBLE_VERSION,
            "\"7\"",
        ),
        (
            r#"{"name":"n","cni.dev/valid-attachments":[{"ifname":"eth0"}]}"#,
            Code::INVALID_CONFIG,
            "valid-attachments[0].containerID",
        ),
        (
            r#"{"name":"n","cni.dev/valid-attachments":"none"}"#,
            Code::DECODING_FAILURE,
            "valid-attachments",
        ),
    ];
    for (stdin, code, named) in cases {
        let error = NetConf::parse(stdin.as_bytes()).expect_err(stdin);
        assert_eq!(Code::from(&error), code, "{stdin}: {error}");
        assert!(error.to_string().contains(named), "{stdin}: {error}");
    }
}

/// Fragments that reach deep into the parser, mixed with noise.
fn stdin_bytes() -> impl Strategy<Value = Vec<u8>> {
    let keys = prop::sample::select(vec![
        "name",
        "cniVersion",
        "mtu",
        "vethPrefix",
        "prevResult",
        "runtimeConfig",
        "daemonWait",
        "cni.dev/valid-attachments",
        "pluginLogFile",
        "ips",
        "interfaces",
        "address",
        "ip4",
    ]);
    let leaf = prop::sample::select(vec![
        "\"1.1.0\"",
        "\"0.2.0\"",
        "\"aws-cni\"",
        "1",
        "-1",
        "1e99",
        "null",
        "true",
        "\"\"",
        "\"\u{17f}\"",
        "[]",
        "{}",
        "\"10.0.0.1/32\"",
        "[[[{}]]]",
        "[{\"address\":\"::/0\",\"interface\":99999999999}]",
        "\"\\ud800\"",
        "18446744073709551616",
    ])
    .prop_map(str::to_owned);
    let value = leaf.prop_recursive(3, 24, 4, move |inner| {
        prop::collection::vec((keys.clone(), inner), 0..5).prop_map(|members| {
            let members: Vec<_> = members
                .iter()
                .map(|(key, value)| format!("\"{key}\":{value}"))
                .collect();
            format!("{{{}}}", members.join(","))
        })
    });
    prop_oneof![
        value.prop_map(String::into_bytes),
        prop::collection::vec(any::<u8>(), 0..200)
    ]
}

proptest! {
    #[test]
    fn any_bytes_are_a_configuration_or_an_error_with_a_code(stdin in stdin_bytes()) {
        if let Err(error) = NetConf::parse(&stdin) {
            prop_assert!((1..100).contains(&Code::from(&error).0));
            prop_assert!(!error.to_string().is_empty());
        }
    }

    #[test]
    fn a_result_survives_being_printed_and_read(
        addresses in prop::collection::vec((any::<[u8; 4]>(), 0u8..33, prop::option::of(0usize..9)), 0..4),
        newest in any::<bool>(),
    ) {
        let version = if newest { SpecVersion::V1_1_0 } else { SpecVersion::V0_4_0 };
        let ips: Vec<_> = addresses.iter().map(|(bytes, length, interface)| cni::IpConfig {
            interface: *interface,
            address: format!("{}/{length}", std::net::Ipv4Addr::from(*bytes)).parse().expect("CIDR"),
            gateway: None,
        }).collect();
        let result = cni::CniResult { ips, ..cni::CniResult::default() };
        let json = String::from_utf8(result.to_json(version)).expect("JSON is text");
        let stdin = format!(r#"{{"cniVersion":"{version}","name":"n","prevResult":{json}}}"#);
        let read = NetConf::parse(stdin.as_bytes()).expect("ours").prev_result.expect("given");
        prop_assert_eq!(read.parsed, result);
    }
}
