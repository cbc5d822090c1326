//! Upstream's parsing rules (vpc-cni.md §1), one row each: what a text means, what is said about it.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of a test; a panic is its failure"
)]

use std::time::Duration;

use settings::{
    BindAddress, Error, GroupDrift, GroupSync, LogFile, OnInvalid, Settings, Unit, VARIABLES,
    WarmTargets,
};

fn load(pairs: &[(&str, &str)]) -> Settings {
    Settings::from_env(pairs.iter().copied()).unwrap().settings
}

fn errors(pairs: &[(&str, &str)]) -> Vec<Error> {
    Settings::from_env(pairs.iter().copied()).unwrap_err().0
}

fn notices(pairs: &[(&str, &str)]) -> Vec<String> {
    let loaded = Settings::from_env(pairs.iter().copied()).unwrap();
    loaded.notices.iter().map(ToString::to_string).collect()
}

#[test]
fn an_empty_environment_is_upstreams_manifest() {
    let s = Settings::default();
    assert_eq!(
        s.warm,
        WarmTargets {
            eni: 1,
            ip: 0,
            minimum: 0,
            prefix: 1
        }
    );
    assert_eq!(
        (s.prefix_delegation, s.subnet_discovery, s.provision),
        (false, true, true)
    );
    assert_eq!(s.group_drift, GroupDrift::Repair);
    assert_eq!(s.max_eni, None);
    assert_eq!(s.cooldown, Duration::from_secs(30));
    assert_eq!(s.group_sync, GroupSync::UntilConfirmed);
    assert_eq!((s.network.eni_mtu, s.network.pod_mtu), (9001, 9001));
    assert_eq!(s.network.veth_prefix, "eni");
    assert_eq!(s.network.connmark, 0x80);
    assert_eq!(
        s.paths.checkpoint.to_str(),
        Some("/var/run/aws-node/ipam.json")
    );
    assert_eq!(
        s.admin.introspection,
        Some(BindAddress::Tcp("127.0.0.1:61679".parse().unwrap()))
    );
    assert_eq!(s.policy_mode, None);
    assert!(
        Settings::from_env([("", ""); 0])
            .unwrap()
            .notices
            .is_empty()
    );
}

#[test]
fn targets_fall_back_as_upstreams_do() {
    for (text, eni, ip, max) in [
        ("3", 3, 3, Some(3)),
        ("+3", 3, 3, Some(3)),
        ("0", 0, 0, None),
        ("-1", 1, 0, None),
        ("", 1, 0, None),
        (" 3", 1, 0, None),
        ("three", 1, 0, None),
    ] {
        let s = load(&[
            ("WARM_ENI_TARGET", text),
            ("WARM_IP_TARGET", text),
            ("MAX_ENI", text),
        ]);
        assert_eq!(
            (s.warm.eni, s.warm.ip, s.max_eni),
            (eni, ip, max),
            "{text:?}"
        );
    }
    assert_eq!(
        notices(&[("WARM_IP_TARGET", " 3")]),
        [
            "WARM_IP_TARGET=\" 3\" is not accepted (a whole number; negative is 0; 0 is off); \
          \"0\" is used instead"
        ]
    );
}

#[test]
fn a_boolean_set_to_nothing_is_its_default_and_is_told() {
    let s = load(&[
        ("AWS_VPC_CNI_NODE_PORT_SUPPORT", ""),
        ("DISABLE_METRICS", "yes"),
    ]);
    assert!(s.network.node_port && s.admin.metrics);
    assert_eq!(
        notices(&[
            ("AWS_VPC_CNI_NODE_PORT_SUPPORT", ""),
            ("DISABLE_METRICS", "yes")
        ])
        .len(),
        2
    );
}

#[test]
fn an_empty_prefix_counts_as_set() {
    assert_eq!(
        load(&[("AWS_VPC_K8S_CNI_VETHPREFIX", "")])
            .network
            .veth_prefix,
        ""
    );
    for bad in ["eth", "lo", "vlan", "toolong", "a/b", "a b"] {
        assert_eq!(
            errors(&[("AWS_VPC_K8S_CNI_VETHPREFIX", bad)]).len(),
            1,
            "{bad}"
        );
    }
}

#[test]
fn what_upstream_refuses_is_refused_all_at_once() {
    let all = [
        ("IP_COOLDOWN_PERIOD", "-1"),
        ("AWS_VPC_ENI_MTU", "9002"),
        ("POD_MTU", "575"),
        ("AWS_VPC_K8S_PLUGIN_LOG_FILE", "stdout"),
        ("NETWORK_POLICY_ENFORCING_MODE", ""),
        ("INTROSPECTION_BIND_ADDRESS", "61679"),
        ("AWS_VPC_K8S_CNI_BACKING_STORE", ""),
        ("ENABLE_MULTI_NIC", "true"),
        ("ENABLE_IPv4", "false"),
    ];
    let said = errors(&all);
    for (name, _) in all {
        let named = said
            .iter()
            .filter(|e| e.to_string().starts_with(&format!("{name}=")))
            .count();
        assert_eq!(named, 1, "{name} in {said:#?}");
    }
    assert_eq!(said.len(), all.len());
    assert_eq!(
        errors(&[("ENABLE_POD_ENI", "1")])[0].to_string(),
        "ENABLE_POD_ENI=\"1\" asks for a feature that is not built yet: \
         security groups for pods on branch interfaces"
    );
}

#[test]
fn reserved_tags_are_dropped_and_the_rest_kept() {
    let text = r#"{"team":"net","node.k8s.amazonaws.com/instance_id":"i-1"}"#;
    let s = load(&[("ADDITIONAL_ENI_TAGS", text), ("CLUSTER_NAME", "blue")]);
    assert_eq!(
        s.tags.additional.into_iter().collect::<Vec<_>>(),
        [("team".into(), "net".into())]
    );
    assert_eq!(s.tags.cluster.as_deref(), Some("blue"));
    assert!(
        load(&[("ADDITIONAL_ENI_TAGS", r#"{"n":1}"#)])
            .tags
            .additional
            .is_empty()
    );
}

#[test]
fn logs_and_sockets() {
    let s = load(&[
        ("AWS_VPC_K8S_CNI_LOG_FILE", "stdout"),
        ("INTROSPECTION_BIND_ADDRESS", "unix:/run/x.sock"),
    ]);
    assert_eq!(s.logs.agent_file, LogFile::Stdout);
    assert_eq!(
        s.admin.introspection,
        Some(BindAddress::Unix("/run/x.sock".into()))
    );
    assert_eq!(
        load(&[("DISABLE_INTROSPECTION", "true")])
            .admin
            .introspection,
        None
    );
    let mode = |m| {
        load(&[("NETWORK_POLICY_ENFORCING_MODE", m)])
            .policy_mode
            .unwrap()
            .as_str()
    };
    assert_eq!(
        (mode("Standard"), mode("STRICT"), mode("none")),
        ("standard", "strict", "none")
    );
}

/// The table is the truth: every row is read (a value outside its rule is noticed), is named once
/// and documented, and its default is inside its own rule.
#[test]
fn every_row_of_the_table_is_read() {
    for row in VARIABLES {
        assert_eq!(
            VARIABLES.iter().filter(|v| v.name == row.name).count(),
            1,
            "{}",
            row.name
        );
        assert!(
            !row.rule.is_empty() && !row.effect.is_empty(),
            "{}",
            row.name
        );
        if row.on_invalid == OnInvalid::NoEffect {
            let set = |value| Settings::from_env([(row.name, value)]).unwrap();
            assert_eq!(set("\u{1}").settings, Settings::default(), "{}", row.name);
            let told = set("\u{1}").notices;
            assert_eq!(told.len(), 1, "{} is not read: {told:?}", row.name);
            assert!(told[0].to_string().contains("changes nothing"), "{told:?}");
            assert!(set(row.default).notices.is_empty(), "{}", row.name);
            continue;
        }
        let outside = match row.unit {
            Unit::Text | Unit::Path => {
                let set = if row.unit == Unit::Path {
                    "/elsewhere"
                } else {
                    "[::1]:1"
                };
                let read = Settings::from_env([(row.name, set)]);
                assert_ne!(
                    read.map(|l| l.settings).ok(),
                    Some(Settings::default()),
                    "{}",
                    row.name
                );
                continue;
            }
            _ => "\u{1}",
        };
        match (row.on_invalid, Settings::from_env([(row.name, outside)])) {
            (OnInvalid::Abort, Err(errors)) => assert_eq!(errors.0.len(), 1),
            (OnInvalid::Fallback | OnInvalid::NotBuilt, Ok(loaded)) => {
                assert!(!loaded.notices.is_empty(), "{} is not read", row.name);
            }
            (rule, read) => panic!("{}: {rule:?} but {read:?}", row.name),
        }
    }
}

#[test]
fn the_clusters_address_is_an_https_url_or_a_host() {
    let endpoint = |text| {
        load(&[("CLUSTER_ENDPOINT", text)])
            .kubernetes
            .cluster_endpoint
    };
    assert_eq!(endpoint(""), None);
    for text in [
        "https://a.eks.amazonaws.com",
        "https://a.eks.amazonaws.com/",
        "a.eks.amazonaws.com",
    ] {
        assert_eq!(
            endpoint(text).as_deref(),
            Some("https://a.eks.amazonaws.com"),
            "{text}"
        );
    }
    assert_eq!(
        endpoint("10.0.1.5:443").as_deref(),
        Some("https://10.0.1.5:443")
    );
    for bad in ["http://a", "https://", "https://a/b", "a b", "u:p@a"] {
        let said = errors(&[("CLUSTER_ENDPOINT", bad)]);
        assert_eq!(said.len(), 1, "{bad}: {said:?}");
        assert!(
            said[0].to_string().starts_with("CLUSTER_ENDPOINT="),
            "{said:?}"
        );
    }
}

#[test]
fn two_nodes_that_run_alike_have_one_fingerprint() {
    let on = |node, pod| load(&[("MY_NODE_NAME", node), ("MY_POD_NAME", pod)]).fingerprint();
    assert_eq!(on("n1", "aws-node-a"), on("n2", "aws-node-b"));
}

#[test]
fn the_fingerprint_tells_settings_apart_and_never_changes() {
    let a = Settings::default().fingerprint();
    assert_eq!(a, Settings::default().fingerprint());
    assert_ne!(a, load(&[("WARM_IP_TARGET", "2")]).fingerprint());
    assert_eq!(a.len(), 16);
}

/// Every variable of vpc-cni.md §1 that upstream's address agent, its entry point or its init container
/// reads: one that nothing here names would be ignored in silence.
#[test]
fn no_variable_of_upstreams_is_ignored_in_silence() {
    let upstream = "
        DISABLE_TCP_EARLY_DEMUX ENABLE_IPv6 ENABLE_V6_EGRESS HOST_CNI_BIN_PATH HOST_CNI_CONFDIR_PATH
        AWS_VPC_K8S_CNI_VETHPREFIX AWS_VPC_ENI_MTU POD_MTU ENABLE_POD_ENI POD_SECURITY_GROUP_ENFORCING_MODE
        AWS_VPC_K8S_PLUGIN_LOG_FILE AWS_VPC_K8S_PLUGIN_LOG_LEVEL AWS_VPC_K8S_EGRESS_V4_PLUGIN_LOG_FILE
        AWS_VPC_K8S_EGRESS_V6_PLUGIN_LOG_FILE ENABLE_V4_EGRESS AWS_VPC_K8S_CNI_RANDOMIZESNAT
        ENABLE_BANDWIDTH_PLUGIN DISABLE_POD_V6 IP_COOLDOWN_PERIOD ENABLE_MULTI_NIC WARM_ENI_TARGET
        WARM_IP_TARGET MINIMUM_IP_TARGET WARM_PREFIX_TARGET MAX_ENI ENABLE_PREFIX_DELEGATION
        AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG ENI_CONFIG_ANNOTATION_DEF ENI_CONFIG_LABEL_DEF
        AWS_MANAGE_ENIS_NON_SCHEDULABLE ENABLE_SUBNET_DISCOVERY ENABLE_IPv4
        DISABLE_NETWORK_RESOURCE_PROVISIONING ENABLE_IMDS_ONLY_MODE DISABLE_LEAKED_ENI_CLEANUP
        AWS_VPC_K8S_CNI_BACKING_STORE MANAGE_UNTAGGED_ENI ANNOTATE_POD_IP NETWORK_POLICY_ENFORCING_MODE
        MY_NODE_NAME MY_POD_NAME CLUSTER_NAME CLUSTER_ENDPOINT ADDITIONAL_ENI_TAGS
        AWS_VPC_K8S_CNI_EXTERNALSNAT AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS AWS_EXTERNAL_SERVICE_CIDRS
        AWS_VPC_CNI_NODE_PORT_SUPPORT AWS_VPC_K8S_CNI_CONNMARK AWS_VPC_K8S_CNI_LOGLEVEL
        AWS_VPC_K8S_CNI_LOG_FILE INTROSPECTION_BIND_ADDRESS DISABLE_INTROSPECTION DISABLE_METRICS HTTP_TIMEOUT
        AWS_EC2_ENDPOINT VPC_CNI_VERSION AWS_VPC_K8S_CNI_CONFIGURE_RPFILTER ENABLE_NFTABLES";
    let ignored: Vec<_> = upstream
        .split_whitespace()
        .filter(|name| settings::variable(name).is_none())
        .collect();
    assert!(ignored.is_empty(), "{ignored:?}");
}

#[test]
fn what_is_not_built_is_refused_by_name() {
    for name in [
        "ENABLE_BANDWIDTH_PLUGIN",
        "DISABLE_POD_V6",
        "ENABLE_V6_EGRESS",
    ] {
        let said = errors(&[(name, "true")]);
        assert!(
            matches!(&said[..], [Error::NotBuilt { variable, .. }] if *variable == name),
            "{said:?}"
        );
        assert_eq!(load(&[(name, "false")]), Settings::default());
    }
}

#[test]
fn what_has_no_effect_is_told_unless_it_is_the_default() {
    let chart = [("WARM_PREFIX_TARGET", "1"), ("ENABLE_NFTABLES", "true")];
    assert_eq!(
        notices(&chart),
        [
            "ENABLE_NFTABLES=\"true\" changes nothing here: any value; upstream does not read it any more"
        ]
    );
}

#[test]
fn an_upper_bound_of_no_interface_is_the_instances_and_is_told() {
    for text in ["0", "-2", "many", ""] {
        assert_eq!(load(&[("MAX_ENI", text)]).max_eni, None);
        assert_eq!(
            notices(&[("MAX_ENI", text)]),
            [format!(
                "MAX_ENI={text:?} is not accepted (a whole number; below 1 is the instance's limit); \
                 \"-1\" is used instead"
            )]
        );
    }
    assert!(notices(&[("MAX_ENI", "-1")]).is_empty());
}

#[test]
fn targets_that_do_not_go_together_are_told() {
    type Case = (
        &'static [(&'static str, &'static str)],
        &'static [&'static str],
    );
    #[rustfmt::skip]
    let cases: &[Case] = &[
        // The chart's own values are no contradiction.
        (
            &[
                ("WARM_ENI_TARGET", "1"),
                ("WARM_PREFIX_TARGET", "1"),
                ("WARM_IP_TARGET", "5"),
            ],
            &[],
        ),
        (
            &[("WARM_ENI_TARGET", "2"), ("WARM_IP_TARGET", "5")],
            &["WARM_ENI_TARGET"],
        ),
        (
            &[("WARM_ENI_TARGET", "2"), ("MINIMUM_IP_TARGET", "5")],
            &["WARM_ENI_TARGET"],
        ),
        (
            &[("WARM_IP_TARGET", "5"), ("MINIMUM_IP_TARGET", "5")],
            &["MINIMUM_IP_TARGET"],
        ),
        (&[("WARM_IP_TARGET", "5"), ("MINIMUM_IP_TARGET", "6")], &[]),
        (&[("WARM_PREFIX_TARGET", "2")], &["WARM_PREFIX_TARGET"]),
        (
            &[
                ("WARM_PREFIX_TARGET", "2"),
                ("ENABLE_PREFIX_DELEGATION", "true"),
            ],
            &[],
        ),
        (
            &[
                ("WARM_PREFIX_TARGET", "2"),
                ("WARM_IP_TARGET", "1"),
                ("ENABLE_PREFIX_DELEGATION", "true"),
            ],
            &["WARM_PREFIX_TARGET"],
        ),
        (
            &[
                ("WARM_ENI_TARGET", "3"),
                ("ENABLE_PREFIX_DELEGATION", "true"),
            ],
            &["WARM_ENI_TARGET"],
        ),
        (
            &[
                ("MAX_ENI", "2"),
                ("DISABLE_NETWORK_RESOURCE_PROVISIONING", "true"),
            ],
            &["MAX_ENI"],
        ),
    ];
    for (set, named) in cases {
        let said = notices(set);
        let names: Vec<&str> = said.iter().filter_map(|n| n.split('=').next()).collect();
        assert_eq!(&names[..], *named, "{set:?}: {said:?}");
        assert!(
            said.iter().all(|n| n.contains("changes nothing here")),
            "{said:?}"
        );
    }
}

#[test]
fn prefixes_without_any_warm_target_are_refused_as_upstream_does() {
    for zero in ["0", "-1"] {
        let said = errors(&[
            ("ENABLE_PREFIX_DELEGATION", "true"),
            ("WARM_PREFIX_TARGET", zero),
        ]);
        assert!(
            matches!(
                &said[..],
                [Error::Invalid {
                    variable: "WARM_PREFIX_TARGET",
                    ..
                }]
            ),
            "{said:?}"
        );
    }
    for target in ["WARM_IP_TARGET", "MINIMUM_IP_TARGET"] {
        let s = load(&[
            ("ENABLE_PREFIX_DELEGATION", "true"),
            ("WARM_PREFIX_TARGET", "0"),
            (target, "1"),
        ]);
        assert!(s.prefix_delegation && s.warm.prefix == 0);
    }
    // Not even one value is: the manifest's 1. Upstream's own check takes an unset one for 0.
    assert_eq!(load(&[("ENABLE_PREFIX_DELEGATION", "true")]).warm.prefix, 1);
    assert_eq!(load(&[("WARM_PREFIX_TARGET", "x")]).warm.prefix, 1);
}

#[test]
fn groups_set_by_hand_are_repaired_or_reported() {
    let drift = |text| load(&[("BRANCHLINE_GROUP_DRIFT", text)]).group_drift;
    assert_eq!(drift("report"), GroupDrift::Report);
    assert_eq!(drift("repair"), GroupDrift::Repair);
    assert_eq!(drift("Report"), GroupDrift::Repair);
    assert_eq!(notices(&[("BRANCHLINE_GROUP_DRIFT", "Report")]).len(), 1);
}
