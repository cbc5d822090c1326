//! The objects that every cluster has, as text for `kubectl apply`.

use std::net::Ipv4Addr;

use serde_json::json;

use super::plane::PlaneSpec;

const BOOT: &str = include_str!("manifests/boot.yaml");
const KUBE_PROXY: &str = include_str!("manifests/kube-proxy.yaml");
const COREDNS: &str = include_str!("manifests/coredns.yaml");

/// The image of kube-proxy for a version of Kubernetes such as `1.36.3`.
#[must_use]
pub fn kube_proxy_image(version: &str) -> String {
    format!("eks/kube-proxy:v{version}")
}

/// The image of CoreDNS that is built beside a version of Kubernetes such as `1.36.3`.
#[must_use]
pub fn coredns_image(version: &str) -> String {
    format!("eks/coredns:v{version}")
}

/// Replaces every `${NAME}`.
fn fill(text: &str, values: &[(&str, String)]) -> String {
    let filled = values.iter().fold(text.to_owned(), |text, (name, value)| {
        text.replace(&format!("${{{name}}}"), value)
    });
    debug_assert!(!filled.contains("${"), "a name is not filled in: {filled}");
    filled
}

/// What only the creator of a control plane may make.
pub(super) fn boot(spec: &PlaneSpec) -> String {
    let addresses = spec.addresses();
    let endpoints: Vec<_> = addresses.iter().map(|a| json!({"ip": a})).collect();
    // One endpoint each: whoever reads a slice takes the first address of an endpoint only.
    let slice: Vec<_> = addresses
        .iter()
        .map(|a| json!({"addresses": [a], "conditions": {"ready": true}}))
        .collect();
    let values = [
        ("ENDPOINTS", json!(endpoints).to_string()),
        ("SLICE", json!(slice).to_string()),
    ];
    fill(BOOT, &values)
}

/// kube-proxy; `mode` is `iptables` or `nftables`.
pub(super) fn kube_proxy(server: &str, mode: &str, version: &str) -> String {
    let values = [
        ("SERVER", server.to_owned()),
        ("MODE", mode.to_owned()),
        ("IMAGE", kube_proxy_image(version)),
    ];
    fill(KUBE_PROXY, &values)
}

/// CoreDNS at its address, on the nodes that `selector` (labels and their values) chooses.
pub(super) fn coredns(
    address: Ipv4Addr,
    replicas: u64,
    selector: &serde_json::Value,
    version: &str,
) -> String {
    // JSON is YAML.
    let selector = selector.as_object().cloned().unwrap_or_default();
    let values = [
        ("DNS", address.to_string()),
        (
            "NODE_SELECTOR",
            serde_json::Value::from(selector).to_string(),
        ),
        ("REPLICAS", replicas.to_string()),
        ("IMAGE", coredns_image(version)),
    ];
    fill(COREDNS, &values)
}
