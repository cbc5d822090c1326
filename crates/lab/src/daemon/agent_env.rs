//! The agent of a node: its program and the environment that its DaemonSet would give it.

use std::collections::BTreeMap;
use std::path::Path;

use crate::error::Error;
use crate::node::{AGENT, ServiceSpec};
use crate::topology::Agent;

/// Where the EC2 API answers inside a VPC: the lab's interface endpoint.
pub(crate) const EC2_ENDPOINT: &str = "http://169.254.169.249";

/// The variables of upstream's manifest that differ from the binary's defaults, and where the
/// lab's nodes keep what a container finds under `/host`.
const MANIFEST: [(&str, &str); 8] = [
    (
        "PATH",
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    ),
    ("ENABLE_IPv4", "true"),
    ("HOST_CNI_BIN_PATH", "/opt/cni/bin"),
    ("HOST_CNI_CONFDIR_PATH", "/etc/cni/net.d"),
    (
        "AWS_VPC_K8S_CNI_LOG_FILE",
        "/var/log/aws-routed-eni/ipamd.log",
    ),
    (
        "AWS_VPC_K8S_PLUGIN_LOG_FILE",
        "/var/log/aws-routed-eni/plugin.log",
    ),
    ("WARM_ENI_TARGET", "1"),
    ("AWS_ENDPOINT_URL_EC2", EC2_ENDPOINT),
];

/// The agent for a node, or `None` for one that stays bare. The programs lie beside `program`.
pub(super) fn agent(
    wanted: &Agent,
    node: &str,
    program: &Path,
) -> Result<Option<ServiceSpec>, Error> {
    if !wanted.enabled {
        return Ok(None);
    }
    let agent = program.with_file_name("branchline-agent");
    if !agent.exists() {
        return Err(Error::NoProgram { program: agent });
    }
    let fixed = MANIFEST
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    let mut env: BTreeMap<String, String> = fixed.collect();
    env.insert("MY_NODE_NAME".to_owned(), node.to_owned());
    env.extend(wanted.env.clone());
    Ok(Some(ServiceSpec {
        name: AGENT.to_owned(),
        program: agent,
        args: vec!["addresses".to_owned()],
        env,
        after: None,
    }))
}
