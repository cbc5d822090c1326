//! STATUS and VERSION: what the plugin can do, and whether it can do it now.

use cni::{NetConf, SpecVersion};
use serde_json::json;

use crate::daemon::AddressDaemon;
use crate::failure::Failure;
use crate::settings::Settings;

/// Succeeds only if an ADD could be served now.
pub(crate) fn run(settings: &Settings) -> Result<Vec<u8>, Failure> {
    let status = AddressDaemon::connect(settings).and_then(|mut daemon| daemon.status());
    let status = status.map_err(|call| Failure::NotReady {
        reason: call.to_string(),
        existing_pods_affected: false,
    })?;
    if status.ready {
        return Ok(Vec::new());
    }
    let reason = match status.reason.as_str() {
        "" => "the address daemon is not ready and gives no reason".to_owned(),
        reason => reason.to_owned(),
    };
    Err(Failure::NotReady {
        reason,
        existing_pods_affected: status.existing_pods_affected,
    })
}

/// The versions we speak, in an answer of the request's version. Nothing can be wrong with this
/// request: one without a (known) version gets the newest.
pub(crate) fn version(stdin: &[u8]) -> Vec<u8> {
    let version = NetConf::version_of(stdin).unwrap_or(SpecVersion::LATEST);
    let supported: Vec<_> = SpecVersion::ALL
        .iter()
        .map(|version| version.as_str())
        .collect();
    let answer = json!({ "cniVersion": version.as_str(), "supportedVersions": supported });
    answer.to_string().into_bytes()
}
