//! The kubelet's configuration.
//!
//! What differs from the EKS images has a reason: nodes share one machine's memory, disk and limits
//! (no eviction, no collection of images, no more open files than the machine allows), and there is
//! no cloud controller, so the kubelet itself says zone, instance type and provider id.

use std::fs;
use std::path::Path;

use rustix::process::{Resource, getrlimit};
use serde_json::{Value, json};

use super::{KUBELET, Member, SOCKET};
use crate::cluster::{Identity, write_file};
use crate::error::{Error, IoContext as _};
use crate::mounts::on_disk;
use crate::node::ServiceSpec;

const CONFIG: &str = "/etc/kubernetes/kubelet/config.json";
const CA: &str = "/etc/kubernetes/pki/ca.crt";
const KUBECONFIG: &str = "/var/lib/kubelet/kubeconfig";
const PKI: &str = "/var/lib/kubelet/pki";

/// What kubelet asks for by default; it cannot have more than the hard limit.
const OPEN_FILES: u64 = 1_000_000;

fn config(member: &Member) -> Value {
    let limit = getrlimit(Resource::Nofile).maximum;
    let never = json!({
        "memory.available": "0%",
        "nodefs.available": "0%",
        "nodefs.inodesFree": "0%",
        "imagefs.available": "0%",
        "imagefs.inodesFree": "0%",
    });
    json!({
        "kind": "KubeletConfiguration",
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "address": "0.0.0.0",
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true, "cacheTTL": "2m0s"},
            "x509": {"clientCAFile": CA},
        },
        "authorization": {
            "mode": "Webhook",
            "webhook": {"cacheAuthorizedTTL": "5m0s", "cacheUnauthorizedTTL": "30s"},
        },
        "tlsCertFile": format!("{PKI}/kubelet.crt"),
        "tlsPrivateKeyFile": format!("{PKI}/kubelet.key"),
        "cgroupDriver": "cgroupfs",
        // The node's cgroup namespace begins at its own group.
        "cgroupRoot": "/",
        "failCgroupV1": false,
        "failSwapOn": false,
        "oomScoreAdj": 0,
        "maxOpenFiles": limit.unwrap_or(OPEN_FILES).min(OPEN_FILES),
        "containerRuntimeEndpoint": format!("unix://{SOCKET}"),
        "clusterDNS": [member.cluster_dns],
        "clusterDomain": "cluster.local",
        "resolvConf": "/etc/resolv.conf",
        "hairpinMode": "hairpin-veth",
        "maxPods": member.max_pods,
        "providerID": member.provider_id,
        "registerWithTaints": member.taints,
        "serializeImagePulls": false,
        "evictionHard": never,
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "nodeStatusUpdateFrequency": "2s",
        "volumePluginDir": "/var/lib/kubelet/volumeplugins",
        "logging": {"verbosity": 2},
    })
}

fn kubeconfig(member: &Member) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{
            "name": "kubernetes",
            "cluster": {"certificate-authority": CA, "server": member.server},
        }],
        "users": [{
            "name": "kubelet",
            "user": {
                "client-certificate": format!("{PKI}/kubelet-client.crt"),
                "client-key": format!("{PKI}/kubelet-client.key"),
            },
        }],
        "contexts": [{
            "name": "kubelet",
            "context": {"cluster": "kubernetes", "user": "kubelet"},
        }],
        "current-context": "kubelet",
    })
}

/// Writes the kubelet's files to a node's disk.
pub(super) fn write(disk: &Path, member: &Member) -> Result<(), Error> {
    let kubernetes = on_disk(disk, "/etc/kubernetes");
    let state = on_disk(disk, "/var/lib/kubelet");
    let pki = state.join("pki");
    for dir in [&kubernetes.join("kubelet"), &kubernetes.join("pki"), &pki] {
        fs::create_dir_all(dir).at(dir)?;
    }
    let pretty = |value: &Value| format!("{value:#}\n");
    let below = |path: &str| kubernetes.join(path.trim_start_matches("/etc/kubernetes/"));
    write_file(&below(CA), &member.ca, 0o644)?;
    write_file(&below(CONFIG), &pretty(&config(member)), 0o644)?;
    let file = state.join("kubeconfig");
    write_file(&file, &pretty(&kubeconfig(member)), 0o600)?;
    identity(&pki, "kubelet", &member.identity.serving)?;
    identity(&pki, "kubelet-client", &member.identity.client)
}

fn identity(dir: &Path, name: &str, identity: &Identity) -> Result<(), Error> {
    write_file(&dir.join(format!("{name}.crt")), &identity.cert_pem, 0o644)?;
    write_file(&dir.join(format!("{name}.key")), &identity.key_pem, 0o600)
}

/// The kubelet as a service of a node.
pub(super) fn service(member: &Member) -> Result<ServiceSpec, Error> {
    let program = member.bin_dir.join("kubelet");
    if !program.exists() {
        return Err(Error::NoKubernetes {
            dir: member.bin_dir.clone(),
            missing: "kubelet".to_owned(),
        });
    }
    let labels: Vec<String> = member
        .labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let args = vec![
        format!("--config={CONFIG}"),
        format!("--kubeconfig={KUBECONFIG}"),
        format!("--hostname-override={}", member.name),
        format!("--node-ip={}", member.address),
        format!("--node-labels={}", labels.join(",")),
    ];
    let mut service = super::service(KUBELET, program, args);
    service.after = Some(SOCKET.into());
    Ok(service)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{Authority, KubeletIdentity};

    fn member() -> Member {
        let authority = Authority::new("kubernetes").unwrap();
        let identity = authority
            .client("system:node:n", &["system:nodes"])
            .unwrap();
        Member {
            name: "ip-10-0-1-11.us-west-2.compute.internal".to_owned(),
            address: [10, 0, 1, 11].into(),
            provider_id: "aws:///us-west-2a/i-1".to_owned(),
            labels: [
                ("a/b".to_owned(), "c".to_owned()),
                ("d".to_owned(), String::new()),
            ]
            .into(),
            taints: Vec::new(),
            max_pods: 17,
            server: "https://10.0.0.4:443".to_owned(),
            ca: authority.cert_pem(),
            identity: KubeletIdentity {
                client: identity.clone(),
                serving: identity,
            },
            cluster_dns: [172, 20, 0, 10].into(),
            bin_dir: "/nowhere".into(),
        }
    }

    #[test]
    fn files_lie_where_the_arguments_say_and_keys_are_for_root_only() {
        use std::os::unix::fs::PermissionsExt as _;
        let disk = tempfile::tempdir().unwrap();
        let mut member = member();
        member.bin_dir = disk.path().to_owned();
        let missing = service(&member).unwrap_err().to_string();
        assert!(missing.contains("missing: kubelet"), "{missing}");
        fs::write(disk.path().join("kubelet"), "").unwrap();
        write(disk.path(), &member).unwrap();
        write(disk.path(), &member).unwrap();
        let args = service(&member).unwrap().args;
        assert!(
            args.contains(&"--node-labels=a/b=c,d=".to_owned()),
            "{args:?}"
        );
        let paths = args
            .iter()
            .filter_map(|a| a.split_once('='))
            .map(|(_, v)| v);
        let config = config(&member).to_string();
        let quoted = config
            .split('"')
            .filter(|t| t.ends_with(".crt") || t.ends_with(".key"));
        let mut seen = 0;
        for path in paths.filter(|p| p.starts_with('/')).chain(quoted) {
            let (dir, rest) = ["/etc/kubernetes/", "/var/lib/kubelet/"]
                .iter()
                .find_map(|d| Some((d, path.strip_prefix(d)?)))
                .unwrap();
            let file = on_disk(disk.path(), dir.trim_end_matches('/')).join(rest);
            let mode = fs::metadata(&file).unwrap().permissions().mode() & 0o777;
            let private = path.ends_with(".key") || path == KUBECONFIG;
            assert_eq!(mode, if private { 0o600 } else { 0o644 }, "{path}");
            seen += 1;
        }
        assert_eq!(seen, 5);
    }
}
