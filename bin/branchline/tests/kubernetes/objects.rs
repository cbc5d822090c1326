//! Objects as kubectl, the controllers and the kubelets would write them.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

use crate::cloud::Machine;

pub(crate) type Object = (String, Value);

pub(crate) fn namespace(name: &str) -> Object {
    (
        "/api/v1/namespaces".to_owned(),
        json!({"metadata": {"name": name}}),
    )
}

pub(crate) fn node(machine: &Machine) -> Object {
    let object = json!({
        "metadata": {"name": machine.name, "labels": {"topology.kubernetes.io/zone": "us-west-2a"}},
        "spec": {"providerID": format!("aws:///us-west-2a/{}", machine.instance)},
        "status": {
            "addresses": [{"type": "InternalIP", "address": machine.address.to_string()}],
            "allocatable": {"pods": "17", "cpu": "2", "memory": "4Gi"},
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
        },
    });
    ("/api/v1/nodes".to_owned(), object)
}

pub(crate) fn replica_set(namespace: &str, deployment: &str) -> Vec<Object> {
    let labels = json!({"app": deployment});
    let template = json!({"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "nginx"}]}});
    let spec = json!({"selector": {"matchLabels": labels}, "template": template});
    let owner = json!([{"apiVersion": "apps/v1", "kind": "Deployment", "name": deployment,
        "uid": "11111111-1111-1111-1111-111111111111", "controller": true}]);
    let at = |plural: &str| format!("/apis/apps/v1/namespaces/{namespace}/{plural}");
    vec![
        (
            at("deployments"),
            json!({"metadata": {"name": deployment}, "spec": spec}),
        ),
        (
            at("replicasets"),
            json!({"metadata": {"name": format!("{deployment}-7c9"), "ownerReferences": owner}, "spec": spec}),
        ),
    ]
}

/// A running pod of a Deployment.
pub(crate) fn pod(
    namespace: &str,
    deployment: &str,
    number: usize,
    machine: &Machine,
    address: Ipv4Addr,
) -> Object {
    let owner = owner("ReplicaSet", &format!("{deployment}-7c9"));
    let mut object = bare(
        &format!("{deployment}-7c9-{number}"),
        machine,
        address,
        owner,
    );
    object["metadata"]["labels"] = json!({"app": deployment});
    (format!("/api/v1/namespaces/{namespace}/pods"), object)
}

fn owner(kind: &str, name: &str) -> Value {
    json!([{"apiVersion": "apps/v1", "kind": kind, "name": name,
        "uid": "22222222-2222-2222-2222-222222222222", "controller": true}])
}

fn bare(name: &str, machine: &Machine, address: Ipv4Addr, owner: Value) -> Value {
    json!({
        "metadata": {"name": name, "ownerReferences": owner},
        "spec": {"nodeName": machine.name, "containers": [{"name": "c", "image": "nginx",
            "env": [{"name": "PASSWORD", "value": "do-not-keep"}]}]},
        "status": {"phase": "Running", "podIP": address.to_string(), "podIPs": [{"ip": address.to_string()}],
            "conditions": [{"type": "Ready", "status": "True"}]},
    })
}

/// The agent's variables.
pub(crate) fn agent_env(extra: &[(&str, &str)]) -> Value {
    let fixed = [
        json!({"name": "MY_NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}),
        json!({"name": "AWS_SECRET_ACCESS_KEY", "value": "do-not-keep"}),
    ];
    let more = extra.iter().map(|(k, v)| json!({"name": k, "value": v}));
    fixed.into_iter().chain(more).collect()
}

pub(crate) fn agent_daemon_set(image: &str, env: &Value) -> Object {
    let labels = json!({"k8s-app": "aws-node"});
    let object = json!({
        "metadata": {"name": "aws-node"},
        "spec": {"selector": {"matchLabels": labels}, "template": {
            "metadata": {"labels": labels},
            "spec": {"hostNetwork": true, "containers": [{"name": "aws-node", "image": image, "env": env}]},
        }},
    });
    (
        "/apis/apps/v1/namespaces/kube-system/daemonsets".to_owned(),
        object,
    )
}

/// The agent's pod on a node, on the host's network.
pub(crate) fn agent_pod(number: usize, machine: &Machine, image: &str, env: &Value) -> Object {
    let mut object = bare(
        &format!("aws-node-{number}"),
        machine,
        machine.address,
        owner("DaemonSet", "aws-node"),
    );
    object["metadata"]["labels"] = json!({"k8s-app": "aws-node", "pod-template-generation": "1"});
    object["spec"]["hostNetwork"] = json!(true);
    object["spec"]["containers"] = json!([{"name": "aws-node", "image": image, "env": env}]);
    ("/api/v1/namespaces/kube-system/pods".to_owned(), object)
}

/// A Service and its one EndpointSlice.
pub(crate) fn service(
    namespace: &str,
    name: &str,
    port: u16,
    to: u16,
    endpoints: &[(Ipv4Addr, Option<&str>, bool)],
) -> Vec<Object> {
    let service = json!({"metadata": {"name": name}, "spec": {"ports": [{"name": "p", "port": port, "targetPort": to}]}});
    let endpoints: Vec<Value> = endpoints
        .iter()
        .map(|(address, pod, ready)| {
            let mut one =
                json!({"addresses": [address.to_string()], "conditions": {"ready": ready}});
            if let Some(pod) = pod {
                one["targetRef"] = json!({"kind": "Pod", "name": pod, "namespace": namespace});
            }
            one
        })
        .collect();
    let slice = json!({
        "metadata": {"name": format!("{name}-1"), "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4", "ports": [{"name": "p", "port": to, "protocol": "TCP"}], "endpoints": endpoints,
    });
    vec![
        (format!("/api/v1/namespaces/{namespace}/services"), service),
        (
            format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"),
            slice,
        ),
    ]
}

/// What a user may do in the whole cluster: lists of these, as `replicasets.apps`.
pub(crate) fn may_list(user: &str, resources: &[&str]) -> Vec<Object> {
    let rule = |resource: &&str| {
        let (plural, group) = resource.split_once('.').unwrap_or((resource, ""));
        json!({"apiGroups": [group], "resources": [plural], "verbs": ["get", "list", "watch"]})
    };
    let rules: Vec<Value> = resources.iter().map(rule).collect();
    let role = json!({"metadata": {"name": user}, "rules": rules});
    let binding = json!({
        "metadata": {"name": user},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": user},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
    });
    let at = |plural: &str| format!("/apis/rbac.authorization.k8s.io/v1/{plural}");
    vec![
        (at("clusterroles"), role),
        (at("clusterrolebindings"), binding),
    ]
}
