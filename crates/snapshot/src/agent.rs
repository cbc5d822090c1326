//! What a node's address agent is and does, read from its DaemonSet and its pod: which engine, which
//! variables, and so how it treats groups and packets.

use std::collections::BTreeMap;

use kube_view::facts::{AGENT, Container, EnvValue};
use nodenet::NodeSettings;
use reach::facts::{GroupSync, RunsOtherwise};
use serde_json::{Value, json};
use settings::{Engine, Settings};

/// The agent of a node, as far as its image and variables tell.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Agent {
    /// As `branchline 0.1.0` or `vpc-cni@1.18.2`.
    pub(crate) name: String,
    /// How it treats groups.
    pub(crate) groups: GroupSync,
    /// Whether it gives addresses in the order of interfaces.
    pub(crate) packs: bool,
    /// What it does to packets, or why that cannot be said.
    pub(crate) settings: Result<NodeSettings, String>,
}

/// Reads an agent from the containers of its pod, or of its DaemonSet's template.
pub(crate) fn agent(containers: &[Container]) -> Agent {
    let Some(main) = containers.iter().find(|c| c.name == AGENT) else {
        return Agent {
            name: "unknown".to_owned(),
            groups: GroupSync::Unknown,
            packs: false,
            settings: Err(format!("its DaemonSet has no container {AGENT}")),
        };
    };
    let (name, engine) = engine(&main.image);
    let read = variables(main);
    let custom = is_true(main, "AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG");
    let sync = match (&read, engine) {
        (Ok(settings), Some(Engine::Branchline)) => Some(settings.group_sync),
        (_, Some(engine @ Engine::VpcCni { .. })) => Some(engine.group_sync()),
        _ => None,
    };
    let groups = match sync {
        // Groups come from the ENIConfig then, which is not read yet.
        _ if custom => GroupSync::Unknown,
        None => GroupSync::Unknown,
        Some(settings::GroupSync::AtStart) => GroupSync::Off { at_start: None },
        Some(_) => GroupSync::On {
            pending: Default::default(),
        },
    };
    Agent {
        name,
        groups,
        packs: engine == Some(Engine::Branchline),
        settings: read.and_then(|settings| {
            NodeSettings::try_from(&settings.network).map_err(|error| error.to_string())
        }),
    }
}

/// The engine of an image, by its repository and tag.
fn engine(image: &str) -> (String, Option<Engine>) {
    let (repository, tag) = match image.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, tag),
        _ => (image, ""),
    };
    let repository = repository.split('@').next().unwrap_or(repository);
    if repository.ends_with("branchline/aws-node") {
        return (
            format!("branchline {tag}").trim_end().to_owned(),
            Some(Engine::Branchline),
        );
    }
    if repository.ends_with("amazon-k8s-cni") {
        let version = tag.split('-').next().unwrap_or(tag);
        if let Ok(engine) = format!("vpc-cni@{version}").parse::<Engine>() {
            return (engine.to_string(), Some(engine));
        }
    }
    (image.to_owned(), None)
}

fn is_true(container: &Container, name: &str) -> bool {
    matches!(container.env.get(name), Some(EnvValue::Is(value)) if value.eq_ignore_ascii_case("true"))
}

/// The variables as the agent reads them. What asks for a feature that changes no packet of the pods
/// that are modelled (security groups for pods, prefixes, custom networking) is left out; the pods
/// that have such an interface are recognised by their addresses.
pub(crate) fn variables(container: &Container) -> Result<Settings, String> {
    const PASSES: [&str; 9] = [
        "ENABLE_PREFIX_DELEGATION",
        "AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG",
        "ENABLE_POD_ENI",
        "ENABLE_MULTI_NIC",
        "ANNOTATE_POD_IP",
        "ENABLE_IMDS_ONLY_MODE",
        "ENABLE_V6_EGRESS",
        "ENABLE_BANDWIDTH_PLUGIN",
        "DISABLE_POD_V6",
    ];
    let mut pairs = Vec::new();
    for (name, value) in &container.env {
        if settings::variable(name).is_none() || PASSES.contains(&name.as_str()) {
            continue;
        }
        match value {
            EnvValue::Is(value) => pairs.push((name.clone(), value.clone())),
            EnvValue::From(source) if source.starts_with("fieldRef") => {}
            EnvValue::From(source) => {
                return Err(format!(
                    "its variable {name} comes from {source}, which is not read"
                ));
            }
            EnvValue::Withheld => return Err(format!("its variable {name} was not kept")),
        }
    }
    let loaded = Settings::from_env(pairs);
    loaded
        .map(|loaded| loaded.settings)
        .map_err(|errors| format!("its variables: {errors}"))
}

/// What an agent tells of its variables: the documents of its introspection, as they are.
pub(crate) type Documents = BTreeMap<String, Value>;

/// Variables that an agent runs with otherwise than its pod declares. What the agent does not tell, or
/// the pod does not declare by value, is passed over.
pub(crate) fn runs_otherwise(containers: &[Container], told: &Documents) -> Vec<RunsOtherwise> {
    let Some(main) = containers.iter().find(|c| c.name == AGENT) else {
        return Vec::new();
    };
    let Ok(declared) = variables(main) else {
        return Vec::new();
    };
    let (net, warm) = (&declared.network, &declared.warm);
    let networks =
        |list: &[ipnet::Ipv4Net]| json!(list.iter().map(ToString::to_string).collect::<Vec<_>>());
    let expected = [
        ("WARM_ENI_TARGET", json!(warm.eni)),
        ("WARM_IP_TARGET", json!(warm.ip)),
        ("MINIMUM_IP_TARGET", json!(warm.minimum)),
        ("MAX_ENI", json!(declared.max_eni.map_or(-1, i64::from))),
        ("AWS_VPC_K8S_CNI_EXTERNALSNAT", json!(net.external_snat)),
        (
            "AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS",
            networks(&net.exclude_snat),
        ),
        (
            "AWS_EXTERNAL_SERVICE_CIDRS",
            networks(&net.external_services),
        ),
        ("AWS_VPC_CNI_NODE_PORT_SUPPORT", json!(net.node_port)),
        ("AWS_VPC_K8S_CNI_CONNMARK", json!(net.connmark)),
        ("AWS_VPC_ENI_MTU", json!(net.eni_mtu)),
        ("AWS_VPC_K8S_CNI_VETHPREFIX", json!(net.veth_prefix)),
    ];
    let differs = |(variable, declared): (&str, Value)| {
        let runs = told.get(variable)?;
        (!same(&declared, runs)).then(|| RunsOtherwise {
            variable: variable.to_owned(),
            declared: text(&declared),
            runs: text(runs),
        })
    };
    expected.into_iter().filter_map(differs).collect()
}

/// Upstream writes some numbers and lists as text, and an empty list as null.
fn same(a: &Value, b: &Value) -> bool {
    a == b || text(a) == text(b)
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(text).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(image: &str, env: &[(&str, &str)]) -> Container {
        let one =
            |(name, value): &(&str, &str)| ((*name).to_owned(), EnvValue::Is((*value).to_owned()));
        Container {
            name: AGENT.to_owned(),
            image: image.to_owned(),
            init: false,
            env: env.iter().map(one).collect(),
        }
    }

    #[test]
    fn engines_by_image() {
        let upstream =
            "602401143452.dkr.ecr.us-west-2.amazonaws.com/amazon-k8s-cni:v1.7.1-eksbuild.1";
        let old = agent(&[container(upstream, &[])]);
        assert_eq!((old.name.as_str(), old.packs), ("vpc-cni@1.7.1", false));
        assert_eq!(old.groups, GroupSync::Off { at_start: None });
        let ours = agent(&[container("branchline/aws-node:0.1.0", &[])]);
        assert_eq!((ours.name.as_str(), ours.packs), ("branchline 0.1.0", true));
        assert!(matches!(ours.groups, GroupSync::On { .. }));
        let off = [("BRANCHLINE_GROUP_SYNC", "false")];
        let off = agent(&[container("branchline/aws-node:0.1.0", &off)]);
        assert_eq!(off.groups, GroupSync::Off { at_start: None });
        assert_eq!(
            agent(&[container("other/cni:v1", &[])]).groups,
            GroupSync::Unknown
        );
        assert!(agent(&[]).settings.is_err());
    }

    #[test]
    fn variables_become_settings() {
        let env = [
            ("AWS_VPC_K8S_CNI_VETHPREFIX", "pod"),
            ("ENABLE_POD_ENI", "true"),
            ("SOMETHING_ELSE", "x"),
        ];
        let read = agent(&[container("branchline/aws-node:1", &env)]);
        assert_eq!(
            read.settings.unwrap().veth_prefix,
            nodenet::VethPrefix::new("pod").unwrap()
        );
        let bad = [("AWS_VPC_ENI_MTU", "banana")];
        let why = agent(&[container("branchline/aws-node:1", &bad)])
            .settings
            .unwrap_err();
        assert!(why.contains("AWS_VPC_ENI_MTU"), "{why}");
    }

    #[test]
    fn what_an_agent_tells_is_compared_with_what_is_declared() {
        let declared = [container(
            "branchline/aws-node:1",
            &[("WARM_IP_TARGET", "2")],
        )];
        let told = [
            ("WARM_IP_TARGET", json!(5)),
            ("WARM_ENI_TARGET", json!("1")),
            ("AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS", Value::Null),
        ];
        let told = told.map(|(k, v)| (k.to_owned(), v)).into();
        let differs = runs_otherwise(&declared, &told);
        assert_eq!(differs.len(), 1, "{differs:?}");
        assert_eq!(
            (differs[0].declared.as_str(), differs[0].runs.as_str()),
            ("2", "5")
        );
    }

    #[test]
    fn custom_networking_takes_groups_from_elsewhere() {
        let env = [("AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG", "true")];
        let read = agent(&[container("branchline/aws-node:1", &env)]);
        assert_eq!(read.groups, GroupSync::Unknown);
    }
}
