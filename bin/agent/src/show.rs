//! The pool as JSON: upstream's documents, and ours under `/state`.

use std::collections::BTreeMap;

use cni::introspect::{Address, Cidr, Enis, GroupSync, IpNet, Key, Metadata, NEVER, State};
use ipam::{Eni, GroupState, Millis, Pool, Slot, SlotState};
use jiff::Timestamp;
use serde_json::{Value, json};
use settings::Settings;

use crate::kubernetes::Voice;

/// Paths that are served.
pub(crate) const PATHS: [&str; 5] = [
    "/v1/enis",
    "/v1/eni-configs",
    "/v1/networkutils-env-settings",
    "/v1/ipamd-env-settings",
    "/state",
];

/// The document at a path; `None`: there is none.
pub(crate) fn page(path: &str, pool: &Pool, settings: &Settings, voice: &Voice) -> Option<Value> {
    Some(match path {
        "/" => json!({ "AvailableCommands": PATHS }),
        "/v1/enis" => document(&enis(pool)),
        // Custom networking is not built, so there is no configuration to show.
        "/v1/eni-configs" => json!({}),
        "/v1/networkutils-env-settings" => network(settings),
        "/v1/ipamd-env-settings" => targets(settings),
        "/state" => state(pool, settings, voice),
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
    let cidrs = eni.slots.iter().map(|(address, slot)| {
        let text = address.to_string();
        let used = slot.assigned_at.is_some() || !matches!(slot.state, SlotState::Free(None));
        let addresses: BTreeMap<String, Address> = used
            .then(|| (text.clone(), one(pool, &text, slot)))
            .into_iter()
            .collect();
        let cidr = Cidr {
            // /32, as Go prints the mask.
            cidr: IpNet {
                ip: text.clone(),
                mask: "/////w==".to_owned(),
            },
            ip_addresses: addresses,
            ..Cidr::default()
        };
        (format!("{text}/32"), cidr)
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
        "MAX_ENI": settings.max_eni.map_or(-1, i64::from),
        "AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG": false,
    })
}

fn state(pool: &Pool, settings: &Settings, voice: &Voice) -> Value {
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
        GroupState::Off | GroupState::Equal => BTreeMap::new(),
    };
    let state = State {
        agent: format!("branchline {}", env!("CARGO_PKG_VERSION")),
        instance: pool
            .node()
            .map(|node| node.instance.to_string())
            .unwrap_or_default(),
        ready: pool.not_ready().is_none(),
        reason: pool.not_ready().unwrap_or_default().to_owned(),
        group_sync: GroupSync {
            enabled: groups != GroupState::Off,
            groups_at_start: pool
                .groups_at_start()
                .iter()
                .map(ToString::to_string)
                .collect(),
            pending,
        },
    };
    let mut document = document(&state);
    let counts = pool.counts();
    document["kubernetes"] = voice.state();
    document["settings"] = json!(settings.fingerprint());
    document["pool"] = json!({
        "interfaces": counts.interfaces,
        "interfacesMax": counts.interfaces_max,
        "total": counts.total,
        "assigned": counts.assigned,
        "resting": counts.resting,
        "available": counts.available,
        "coming": counts.coming,
        "waiting": counts.waiting,
    });
    document["translation"] = crate::takeover::translation(settings.network.external_snat);
    document["interfaces"] = pool.enis().map(trouble).collect();
    document
}

fn trouble(eni: &Eni) -> Value {
    json!({
        "id": eni.id.to_string(),
        "device": eni.device,
        "stage": format!("{:?}", eni.stage),
        "groups": eni.groups.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "trouble": eni.trouble.as_ref().map(ToString::to_string),
        "lost": eni.slots.iter().filter(|(_, s)| s.lost).map(|(a, _)| a.to_string())
            .collect::<Vec<_>>(),
    })
}
