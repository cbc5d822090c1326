//! The pool as JSON: upstream's documents, and ours under `/state`.

use std::collections::BTreeMap;

use cni::introspect::{
    Address, Backoff, Ceiling, Checkpoint, Cidr, Denied, Enis, GroupSync, Interface, IpNet, Key,
    Metadata, NEVER, Numbers, Reason, State, Waiting,
};
use ipam::{Eni, GroupState, Millis, Pool, Refusal, Slot, SlotState, Standing};
use jiff::Timestamp;
use serde_json::{Value, json};
use settings::Settings;

use crate::findings::Findings;
use crate::kubernetes::Voice;

/// Paths that are served.
pub(crate) const PATHS: [&str; 5] = [
    "/v1/enis",
    "/v1/eni-configs",
    "/v1/networkutils-env-settings",
    "/v1/ipamd-env-settings",
    "/state",
];

/// What `/state` has from outside of the pool.
#[derive(Debug)]
pub(crate) struct Told<'a> {
    pub(crate) now: Millis,
    pub(crate) started: Millis,
    pub(crate) refused: &'a BTreeMap<&'static str, u64>,
    pub(crate) findings: &'a Findings,
    pub(crate) checkpoint: Checkpoint,
}

/// The document at a path; `None`: there is none.
pub(crate) fn page(
    path: &str,
    pool: &Pool,
    settings: &Settings,
    voice: &Voice,
    told: &Told<'_>,
) -> Option<Value> {
    Some(match path {
        "/" => json!({ "AvailableCommands": PATHS }),
        "/v1/enis" => document(&enis(pool)),
        // Custom networking is not built, so there is no configuration to show.
        "/v1/eni-configs" => json!({}),
        "/v1/networkutils-env-settings" => network(settings),
        "/v1/ipamd-env-settings" => targets(settings),
        "/state" => document(&state(pool, settings, voice, told)),
        _ => return None,
    })
}

fn document(content: &impl serde::Serialize) -> Value {
    serde_json::to_value(content).expect("introspection has text keys only")
}

fn enis(pool: &Pool) -> Enis {
    let attached = pool.enis().filter(|eni| eni.device.is_some());
    let enis: BTreeMap<String, cni::introspect::Eni> = attached
        .map(|eni| (eni.id.to_string(), interface(pool, eni)))
        .collect();
    let slots = || {
        pool.enis()
            .filter(|eni| eni.device.is_some())
            .flat_map(|e| e.slots.values())
    };
    let card = cni::introspect::Pool {
        total_ips: slots().count(),
        assigned_ips: slots()
            .filter(|s| matches!(s.state, SlotState::Assigned(_)))
            .count(),
        enis,
    };
    Enis([("0".to_owned(), card)].into())
}

fn interface(pool: &Pool, eni: &Eni) -> cni::introspect::Eni {
    let cidrs = eni.by_block().into_iter().map(|(block, slots)| {
        let used = slots.into_iter().filter(|(_, slot)| {
            slot.assigned_at.is_some() || !matches!(slot.state, SlotState::Free(None))
        });
        let addresses = used.map(|(address, slot)| {
            let text = address.to_string();
            let one = one(pool, &text, slot);
            (text, one)
        });
        let is_prefix = block.prefix_len() < 32;
        let cidr = Cidr {
            // As Go prints the mask: /28 or /32.
            cidr: IpNet {
                ip: block.network().to_string(),
                mask: if is_prefix { "////8A==" } else { "/////w==" }.to_owned(),
            },
            is_prefix,
            ip_addresses: addresses.collect(),
            ..Cidr::default()
        };
        (block.to_string(), cidr)
    });
    cni::introspect::Eni {
        id: eni.id.to_string(),
        is_primary: eni.is_primary(),
        device_number: eni.device.unwrap_or(0).into(),
        available_ipv4_cidrs: cidrs.collect(),
        ..Default::default()
    }
}

fn one(pool: &Pool, address: &str, slot: &Slot) -> Address {
    let (key, pod) = match &slot.state {
        SlotState::Assigned(key) => (Some(key), pool.allocation(key).map(|a| &a.pod)),
        _ => (None, None),
    };
    let released = match slot.state {
        SlotState::Free(at) => at,
        _ => None,
    };
    Address {
        address: address.to_owned(),
        ipam_key: key.map_or_else(Key::default, |key| Key {
            network_name: key.network.clone(),
            container_id: key.container.clone(),
            if_name: key.ifname.clone(),
        }),
        ipam_metadata: pod.map_or_else(Metadata::default, |pod| Metadata {
            k8s_pod_namespace: pod.namespace.clone(),
            k8s_pod_name: pod.name.clone(),
        }),
        assigned_time: time(slot.assigned_at),
        unassigned_time: time(released),
    }
}

fn time(at: Option<Millis>) -> String {
    let at = at.and_then(|at| Timestamp::from_millisecond(i64::try_from(at.0).ok()?).ok());
    at.map_or_else(|| NEVER.to_owned(), |at| at.to_string())
}

fn network(settings: &Settings) -> Value {
    let net = &settings.network;
    json!({
        "AWS_VPC_K8S_CNI_EXTERNALSNAT": net.external_snat,
        "AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS": net.exclude_snat,
        "AWS_EXTERNAL_SERVICE_CIDRS": net.external_services,
        "AWS_VPC_CNI_NODE_PORT_SUPPORT": net.node_port,
        "AWS_VPC_K8S_CNI_CONNMARK": net.connmark,
        "AWS_VPC_K8S_CNI_RANDOMIZESNAT": net.randomize_snat,
        "AWS_VPC_ENI_MTU": net.eni_mtu,
        "AWS_VPC_K8S_CNI_VETHPREFIX": net.veth_prefix,
    })
}

fn targets(settings: &Settings) -> Value {
    json!({
        "WARM_ENI_TARGET": settings.warm.eni,
        "WARM_IP_TARGET": settings.warm.ip,
        "MINIMUM_IP_TARGET": settings.warm.minimum,
        "WARM_PREFIX_TARGET": settings.warm.prefix,
        "ENABLE_PREFIX_DELEGATION": settings.prefix_delegation,
        "ENABLE_SUBNET_DISCOVERY": settings.subnet_discovery,
        "MAX_ENI": settings.max_eni.map_or(-1, i64::from),
        "AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG": false,
    })
}

fn state(pool: &Pool, settings: &Settings, voice: &Voice, told: &Told) -> State {
    let denied = told.findings.denied.iter().map(|(action, denial)| Denied {
        action: format!("ec2:{action}"),
        at: time(Some(denial.at)),
        message: denial.message.clone(),
        without: without(action).to_owned(),
    });
    let refused = told
        .refused
        .iter()
        .map(|(word, n)| ((*word).to_owned(), *n));
    State {
        agent: format!("branchline {}", env!("CARGO_PKG_VERSION")),
        instance: pool
            .node()
            .map(|node| node.instance.to_string())
            .unwrap_or_default(),
        ready: pool.not_ready().is_none(),
        reason: pool.not_ready().unwrap_or_default().to_owned(),
        group_sync: group_sync(pool),
        settings: settings.fingerprint(),
        started: time(Some(told.started)),
        pool: numbers(pool),
        obstacle: pool.obstacle().as_ref().map(reason),
        ceilings: ceilings(pool),
        waiting: waiting(pool, told.now),
        backoffs: pool.standing().iter().map(backoff).collect(),
        denied: denied.collect(),
        refused: refused.collect(),
        repairs: told.findings.repairs(),
        leases: told.findings.leases(),
        checkpoint: told.checkpoint.clone(),
        interfaces: pool.enis().map(one_interface).collect(),
        kubernetes: voice.state(),
        translation: crate::takeover::translation(settings.network.external_snat),
    }
}

fn group_sync(pool: &Pool) -> GroupSync {
    let groups = pool.group_state();
    let pending = match &groups {
        GroupState::Applying { enis, trouble } => {
            let why = trouble
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default();
            enis.iter()
                .map(|eni| (eni.to_string(), why.clone()))
                .collect()
        }
        GroupState::SetByHand { enis } => {
            let said = |groups: &[vpc::facts::SgId]| {
                let groups = texts(groups).join(", ");
                format!("set by hand to {groups}; BRANCHLINE_GROUP_DRIFT=report leaves them")
            };
            enis.iter()
                .map(|(eni, groups)| (eni.to_string(), said(groups)))
                .collect()
        }
        GroupState::Off | GroupState::Equal => BTreeMap::new(),
    };
    GroupSync {
        enabled: groups != GroupState::Off,
        groups_at_start: texts(pool.groups_at_start()),
        pending,
    }
}

fn numbers(pool: &Pool) -> Numbers {
    let counts = pool.counts();
    let (short, over) = pool.against_targets();
    Numbers {
        interfaces: counts.interfaces,
        interfaces_max: counts.interfaces_max,
        total: counts.total,
        assigned: counts.assigned,
        resting: counts.resting,
        available: counts.available,
        coming: counts.coming,
        waiting: counts.waiting,
        prefixes: counts.prefixes,
        short,
        over,
    }
}

fn reason(refusal: &Refusal) -> Reason {
    Reason {
        code: refusal.word().to_owned(),
        message: refusal.to_string(),
    }
}

/// What bounds this node's pods, as far as the agent knows: the kubelet's own maximum and the
/// subnet's free addresses are not among it.
fn ceilings(pool: &Pool) -> Vec<Ceiling> {
    let Some(node) = pool.node() else {
        return Vec::new();
    };
    let counts = pool.counts();
    let by = pool.bounded_by().to_string();
    let slots = node.limits.slots();
    vec![
        Ceiling {
            name: "interfaces".to_owned(),
            used: counts.interfaces,
            limit: counts.interfaces_max,
            by: by.clone(),
        },
        Ceiling {
            name: "addresses".to_owned(),
            used: counts.assigned,
            limit: pool.most_addresses(),
            by: match pool.takes_prefixes() {
                true => format!("{slots} /28 prefixes on each interface that {by} allows"),
                false => format!("{slots} on each interface that {by} allows"),
            },
        },
    ]
}

fn waiting(pool: &Pool, now: Millis) -> Vec<Waiting> {
    let waiting = pool.waiting().map(|(pod, since)| Waiting {
        pod: format!("{}/{}", pod.namespace, pod.name),
        seconds: now.since(since).as_secs(),
        reason: reason(&pool.why_waiting(since)),
    });
    waiting.collect()
}

fn backoff(standing: &Standing) -> Backoff {
    let failure = &standing.failure;
    Backoff {
        what: match &standing.eni {
            Some(eni) => format!("{} of {eni}", failure.action),
            None => match &standing.subnet {
                Some(subnet) => format!("{} in {subnet}", failure.action),
                None => failure.action.to_owned(),
            },
        },
        code: failure.kind.word().to_owned(),
        failures: standing.failures,
        seconds: standing.left.as_secs(),
        message: failure.message.clone(),
    }
}

/// What does not work while EC2 denies an action; deploy/README.md has the same table.
fn without(action: &str) -> &'static str {
    match action {
        "DescribeNetworkInterfaces" => "the node's interfaces are not known: no pod is served",
        "CreateNetworkInterface" | "CreateTags" | "AttachNetworkInterface" => {
            "no further interface: pods wait when the present ones are full"
        }
        "AssignPrivateIpAddresses" => "no further addresses on the interfaces",
        "ModifyNetworkInterfaceAttribute" => {
            "security groups differ between interfaces, and interfaces outlive their instance"
        }
        "UnassignPrivateIpAddresses" | "DetachNetworkInterface" | "DeleteNetworkInterface" => {
            "what is not needed any more stays"
        }
        "DescribeSubnets" => {
            "new interfaces go to the node's own subnet; one that is elsewhere is not used"
        }
        "DescribeInstanceTypes" => "the limits of this instance type are not known",
        _ => "",
    }
}

fn one_interface(eni: &Eni) -> Interface {
    let lost = eni.slots.iter().filter(|(_, slot)| slot.lost);
    Interface {
        id: eni.id.to_string(),
        device: eni.device,
        stage: format!("{:?}", eni.stage),
        groups: texts(&eni.groups),
        trouble: eni.trouble.as_ref().map(ToString::to_string),
        lost: lost.map(|(address, _)| address.to_string()).collect(),
    }
}

fn texts(list: &[impl ToString]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
pub(crate) mod tests;
