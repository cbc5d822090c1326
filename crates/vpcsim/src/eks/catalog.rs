//! The add-ons that there are, one version each: what the lab installs.

use ec2::eks::{AddonInfo, AddonVersionInfo, Compatibility};
use serde_json::{Map, Value, json};
use settings::{Unit, VARIABLES};

/// The version of Kubernetes that the lab's control planes and nodes are.
pub const KUBERNETES_VERSION: &str = "1.36";
/// The version of the nodes' image.
pub(super) const RELEASE_VERSION: &str = "1.36.3-20261101";

/// An add-on that can be installed. In name order, as List pages need it.
pub(super) const CATALOG: &[Known] = &[
    Known {
        name: "coredns",
        version: "v1.15.0-eksbuild.1",
        kind: "networking",
        schema: coredns,
    },
    Known {
        name: "kube-proxy",
        version: "v1.36.3-eksbuild.1",
        kind: "networking",
        schema: kube_proxy,
    },
    Known {
        name: "vpc-cni",
        version: "v1.23.1-eksbuild.1",
        kind: "networking",
        schema: vpc_cni,
    },
];

#[derive(Debug)]
pub(super) struct Known {
    pub(super) name: &'static str,
    pub(super) version: &'static str,
    kind: &'static str,
    schema: fn() -> Value,
}

pub(super) fn find(name: &str) -> Option<&'static Known> {
    CATALOG.iter().find(|k| k.name == name)
}

impl Known {
    /// What its configuration may be, as JSON schema.
    pub(super) fn schema(&self) -> Value {
        (self.schema)()
    }

    pub(super) fn info(&self) -> AddonInfo {
        let compatibility = Compatibility {
            cluster_version: KUBERNETES_VERSION.into(),
            platform_versions: vec!["*".into()],
            default_version: true,
        };
        AddonInfo {
            addon_name: self.name.into(),
            type_: self.kind.into(),
            addon_versions: vec![AddonVersionInfo {
                addon_version: self.version.into(),
                architecture: vec!["amd64".into(), "arm64".into()],
                compatibilities: vec![compatibility],
                requires_configuration: false,
                requires_iam_permissions: self.name == "vpc-cni",
            }],
            publisher: "eks".into(),
            owner: "aws".into(),
            default_namespace: "kube-system".into(),
        }
    }
}

/// Variables that the DaemonSet and the kubelet set: they are nobody's to configure.
const SET_BY_OTHERS: [&str; 4] = [
    "MY_NODE_NAME",
    "MY_POD_NAME",
    "KUBERNETES_SERVICE_HOST",
    "KUBERNETES_SERVICE_PORT",
];
/// Variables of the init container.
const INIT: [&str; 3] = ["DISABLE_TCP_EARLY_DEMUX", "ENABLE_IPv6", "ENABLE_V6_EGRESS"];

fn object(properties: Value) -> Value {
    json!({"type": "object", "additionalProperties": false, "properties": properties})
}

fn flag() -> Value {
    json!({"type": "string", "format": "boolean"})
}

/// `env`: the variables of the stack, from the one list of them.
fn env() -> Value {
    let variables = VARIABLES
        .iter()
        .filter(|v| !SET_BY_OTHERS.contains(&v.name));
    let property = |v: &settings::Variable| {
        let mut schema = json!({"type": "string", "default": v.default, "description": format!("{} ({})", v.effect, v.rule)});
        let format = match v.unit {
            Unit::Boolean => Some("boolean"),
            Unit::Count | Unit::Seconds | Unit::Bytes => Some("integer"),
            _ => None,
        };
        if let Some(format) = format {
            schema["format"] = format.into();
        }
        (v.name.to_owned(), schema)
    };
    Value::Object(variables.map(property).collect::<Map<_, _>>())
}

/// What pods of an add-on have in common.
fn pod() -> Map<String, Value> {
    let labels = json!({"type": "object", "additionalProperties": {"type": "string"}});
    let quantities =
        json!({"type": "object", "additionalProperties": {"type": ["string", "integer"]}});
    let members = json!({
        "affinity": {"type": "object"},
        "nodeSelector": labels,
        "podAnnotations": labels,
        "podLabels": labels,
        "resources": object(json!({"limits": quantities, "requests": quantities})),
        "tolerations": {"type": "array", "items": object(json!({
            "effect": {"type": "string", "enum": ["NoSchedule", "PreferNoSchedule", "NoExecute"]},
            "key": {"type": "string"},
            "operator": {"type": "string", "enum": ["Exists", "Equal"]},
            "tolerationSeconds": {"type": "integer"},
            "value": {"type": "string"},
        }))},
    });
    match members {
        Value::Object(members) => members,
        _ => Map::new(),
    }
}

fn schema(own: Value) -> Value {
    let mut properties = pod();
    if let Value::Object(own) = own {
        properties.extend(own);
    }
    let mut schema = object(Value::Object(properties));
    schema["$schema"] = "http://json-schema.org/draft-06/schema#".into();
    schema
}

fn vpc_cni() -> Value {
    let init = INIT
        .map(|name| (name.to_owned(), flag()))
        .into_iter()
        .collect::<Map<_, _>>();
    let subnet = json!({
        "type": "object",
        "additionalProperties": false,
        "required": ["id"],
        "properties": {"id": {"type": "string"}, "securityGroups": {"type": "array", "items": {"type": "string"}}},
    });
    schema(json!({
        "enableNetworkPolicy": flag(),
        "enableWindowsIpam": flag(),
        "enableWindowsPrefixDelegation": flag(),
        "env": object(env()),
        "eniConfig": {
            "type": "object",
            "additionalProperties": false,
            "required": ["create", "region", "subnets"],
            "properties": {
                "create": {"type": "boolean"},
                "region": {"type": "string"},
                "subnets": {"type": "object", "minProperties": 1, "additionalProperties": subnet},
            },
        },
        "init": object(json!({"env": object(Value::Object(init))})),
        "livenessProbeTimeoutSeconds": {"type": "integer"},
        "nodeAgent": object(json!({
            "conntrackCacheCleanupPeriod": {"type": "integer"},
            "enableCloudWatchLogs": flag(),
            "enableIpv6": flag(),
            "enablePolicyEventLogs": flag(),
            "enabled": {"type": "boolean"},
            "healthProbeBindAddr": {"type": "string"},
            "metricsBindAddr": {"type": "string"},
        })),
        "originalMatchLabels": {"type": "boolean"},
        "readinessProbeTimeoutSeconds": {"type": "integer"},
    }))
}

fn coredns() -> Value {
    schema(json!({
        "corefile": {"type": "string", "description": "the whole Corefile"},
        "podDisruptionBudget": object(json!({
            "enabled": {"type": "boolean"},
            "maxUnavailable": {"type": ["integer", "string"]},
            "minAvailable": {"type": ["integer", "string"]},
        })),
        "replicaCount": {"type": "integer"},
        "topologySpreadConstraints": {"type": "array", "items": {"type": "object"}},
    }))
}

fn kube_proxy() -> Value {
    schema(json!({
        "ipvs": object(json!({"scheduler": {"type": "string", "enum": ["rr", "lc", "dh", "sh", "sed", "nq"]}})),
        "mode": {"type": "string", "enum": ["iptables", "ipvs", "nftables"]},
    }))
}
