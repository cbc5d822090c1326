use serde_json::{Value, json};

use super::*;
use crate::facts::{EnvValue, Phase};
use crate::objects;
use crate::workload::{Belongs, Workload, WorkloadKind};

fn read<K: serde::de::DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).expect("an object of the API")
}

fn pod(name: &str, address: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": "dev", "uid": format!("uid-{name}"), "resourceVersion": "7",
            "labels": {"app": "api", "pod-template-hash": "7c9"},
            "annotations": {"vpc.amazonaws.com/pod-eni": "[]", "other": "x"},
            "ownerReferences": [
                {"apiVersion": "v1", "kind": "Other", "name": "o", "uid": "u"},
                {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "api-7c9", "uid": "u", "controller": true}
            ],
            "managedFields": [{"manager": "kubelet", "fieldsV1": {"f:status": {}}}]
        },
        "spec": {"nodeName": "n1", "containers": [
            {"name": "c", "image": "i", "env": [{"name": "PASSWORD", "value": "secret"}]}
        ]},
        "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}, {"ip": "2001:db8::1"}],
            "conditions": [{"type": "Ready", "status": "True"}]}
    })
}

fn api() -> ObjectName {
    ObjectName::new("dev", "api-7c9-x")
}

fn index() -> Index {
    let mut index = Index::new("dev");
    index.reset::<objects::Pod>([
        read(pod("api-7c9-x", "10.0.1.5")),
        read(pod("api-7c9-y", "10.0.1.6")),
    ]);
    index.reset::<objects::ReplicaSet>([read(json!({
        "metadata": {"name": "api-7c9", "namespace": "dev",
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "Deployment", "name": "api", "uid": "u", "controller": true}]}
    }))]);
    index
}

#[test]
fn a_pod_and_its_workload() {
    let index = index();
    let pod = &index.facts().pods[&api()];
    assert_eq!(pod.ipv4().unwrap().to_string(), "10.0.1.5");
    assert_eq!(pod.addresses.len(), 2);
    assert_eq!(
        (pod.phase, pod.ready, pod.host_network),
        (Phase::Running, true, false)
    );
    assert_eq!(pod.pod_eni.as_deref(), Some("[]"));
    let deploy = Workload {
        kind: WorkloadKind::Deployment,
        name: ObjectName::new("dev", "api"),
    };
    assert_eq!(
        index.facts().workload_of(&api(), pod),
        Belongs::To(deploy.clone())
    );
    assert_eq!(index.facts().workloads(WorkloadKind::Deployment), [deploy]);
}

#[test]
fn without_the_replica_set_the_workload_is_unknown_and_not_guessed() {
    let mut index = index();
    index.delete::<objects::ReplicaSet>(&ObjectName::new("dev", "api-7c9"));
    let pod = &index.facts().pods[&api()];
    assert_eq!(
        index.facts().workload_of(&api(), pod),
        Belongs::Unknown(Kind::ReplicaSet)
    );
}

#[test]
fn what_cannot_be_represented_is_named_and_replaces_what_was_known() {
    let mut index = index();
    index.apply::<objects::Pod>(read(pod("api-7c9-x", "10.0.1.500")));
    assert!(!index.facts().pods.contains_key(&api()));
    let odd = index.facts().odd.first().unwrap();
    assert_eq!((odd.kind, &odd.name), (Kind::Pod, &api()));
    assert!(odd.why.contains("10.0.1.500"), "{}", odd.why);
    index.apply::<objects::Pod>(read(pod("api-7c9-x", "10.0.1.5")));
    assert!(index.facts().odd.is_empty() && index.facts().pods.contains_key(&api()));
}

#[test]
fn a_reset_forgets_what_is_gone_and_equals_a_rebuild() {
    let mut index = index();
    index.apply::<objects::Pod>(read(pod("api-7c9-z", "10.0.1.7")));
    index.delete::<objects::Pod>(&ObjectName::new("dev", "api-7c9-y"));
    let mut again = Index::new("dev");
    again.reset::<objects::Pod>([
        read(pod("api-7c9-x", "10.0.1.5")),
        read(pod("api-7c9-z", "10.0.1.7")),
    ]);
    assert_eq!(index.facts().pods, again.facts().pods);
    index.reset::<objects::Pod>([]);
    assert!(index.facts().pods.is_empty());
}

#[test]
fn equal_labels_are_kept_once() {
    let index = index();
    let of = |name: &str| &index.facts().pods[&ObjectName::new("dev", name)].labels.0;
    assert!(Arc::ptr_eq(of("api-7c9-x"), of("api-7c9-y")));
}

#[test]
fn no_secret_is_kept() {
    let mut index = index();
    let mut agent = pod("aws-node-1", "10.0.1.1");
    agent["metadata"]["namespace"] = json!("kube-system");
    agent["metadata"]["ownerReferences"] =
        json!([{"kind": "DaemonSet", "name": "aws-node", "controller": true}]);
    agent["spec"]["containers"][0]["name"] = json!("aws-node");
    agent["spec"]["containers"][0]["env"] = json!([
        {"name": "AWS_SECRET_ACCESS_KEY", "value": "secret"},
        {"name": "WARM_IP_TARGET", "value": "2"},
        {"name": "MY_NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}
    ]);
    index.apply::<objects::Pod>(read(agent));
    let agent = &index.facts().pods[&ObjectName::new("kube-system", "aws-node-1")];
    let env = &agent.containers[0].env;
    assert_eq!(env["AWS_SECRET_ACCESS_KEY"], EnvValue::Withheld);
    assert_eq!(env["WARM_IP_TARGET"], EnvValue::Is("2".to_owned()));
    assert_eq!(
        env["MY_NODE_NAME"],
        EnvValue::From("fieldRef spec.nodeName".to_owned())
    );
    let text = serde_json::to_string(index.facts()).unwrap();
    assert!(!text.contains("secret"), "{text}");
    assert_eq!(
        &serde_json::from_str::<Cluster>(&text).unwrap(),
        index.facts()
    );
}

#[test]
fn nodes_services_and_endpoints() {
    let mut index = Index::new("dev");
    index.apply::<objects::Node>(read(json!({
        "metadata": {"name": "ip-10-0-1-11.us-west-2.compute.internal"},
        "spec": {"providerID": "aws:///us-west-2a/i-0abc"},
        "status": {"addresses": [{"type": "InternalIP", "address": "10.0.1.11"}, {"type": "Hostname", "address": "ip"}],
            "conditions": [{"type": "Ready", "status": "Unknown"}], "allocatable": {"pods": "17"}}
    })));
    index.apply::<objects::Service>(read(json!({
        "metadata": {"name": "web", "namespace": "dev"},
        "spec": {"type": "ClusterIP", "clusterIP": "172.20.0.9", "clusterIPs": ["172.20.0.9"], "ports": [{"port": 80, "targetPort": "http"}]}
    })));
    index.apply::<objects::EndpointSlice>(read(json!({
        "metadata": {"name": "web-1", "namespace": "dev", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
        "endpoints": [{"addresses": ["10.0.1.5"], "conditions": {}, "targetRef": {"kind": "Pod", "name": "api-7c9-x"}},
            {"addresses": ["10.0.1.6"], "conditions": {"ready": false}}]
    })));
    let facts = index.facts();
    let node = facts.nodes.values().next().unwrap();
    assert_eq!(
        (node.instance.as_deref(), node.ready, node.max_pods),
        (Some("i-0abc"), None, Some(17))
    );
    let slice = facts.endpoint_slices.values().next().unwrap();
    assert_eq!(slice.service.as_deref(), Some("web"));
    assert_eq!(
        slice.endpoints.iter().map(|e| e.ready).collect::<Vec<_>>(),
        [true, false]
    );
    assert_eq!(slice.ports[0].port, Some(8080));
    assert_eq!(
        facts
            .services
            .values()
            .next()
            .unwrap()
            .cluster_ip
            .unwrap()
            .to_string(),
        "172.20.0.9"
    );
}
