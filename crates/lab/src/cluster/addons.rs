//! The three add-ons of every cluster: what `aws eks create-addon` installs.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

use super::manifests;
use super::tools::Tools;
use crate::daemon::EC2_ENDPOINT;
use crate::error::Error;

/// Those that the lab installs, in the order in which they are needed.
pub(super) const NAMES: [&str; 3] = ["vpc-cni", "kube-proxy", "coredns"];

/// What an add-on's objects depend on beside its configuration.
#[derive(Debug, Clone)]
pub(super) struct Surroundings {
    /// URL of the API server inside of the VPC.
    pub(super) server: String,
    /// Address of the cluster's DNS.
    pub(super) dns: Ipv4Addr,
    pub(super) region: String,
    /// Version of Kubernetes.
    pub(super) version: String,
}

/// Installs an add-on, or brings it to another configuration. `configuration` is EKS's
/// `configurationValues`.
pub(super) fn install(
    tools: &Tools,
    around: &Surroundings,
    addon: &str,
    configuration: &Value,
) -> Result<(), Error> {
    match objects(around, addon, configuration)? {
        Some(objects) => tools.apply(&objects),
        None => {
            let own = json!({
                "env": {
                    "AWS_ENDPOINT_URL_EC2": EC2_ENDPOINT,
                    "AWS_REGION": around.region,
                },
                // Ready as soon as it is: the lab waits for it.
                "readinessProbe": {"periodSeconds": 1},
            });
            tools.install_chart(&own, configuration)
        }
    }
}

/// Removes an add-on with all its objects.
pub(super) fn remove(tools: &Tools, around: &Surroundings, addon: &str) -> Result<(), Error> {
    match objects(around, addon, &json!({}))? {
        Some(objects) => tools.delete(&objects),
        None => tools.remove_chart(),
    }
}

/// The objects of an add-on; none for the stack, which is a chart.
fn objects(
    around: &Surroundings,
    addon: &str,
    configuration: &Value,
) -> Result<Option<String>, Error> {
    match addon {
        "vpc-cni" => Ok(None),
        "kube-proxy" => {
            let mode = configuration["mode"].as_str().unwrap_or("iptables");
            let objects = manifests::kube_proxy(&around.server, mode, &around.version);
            Ok(Some(objects))
        }
        "coredns" => {
            let replicas = configuration["replicaCount"].as_u64().unwrap_or(2);
            let selector = &configuration["nodeSelector"];
            let objects = manifests::coredns(around.dns, replicas, selector, &around.version);
            Ok(Some(objects))
        }
        other => Err(Error::NotFound {
            what: "add-on",
            name: other.to_owned(),
            known: NAMES.map(str::to_owned).into(),
        }),
    }
}
