//! kubeconfig files: of the control plane's own programs, of the lab, of its user.

use std::path::Path;

use aws_smithy_types::base64::encode as base64;
use serde_json::{Value, json};

use super::pki::{Identity, write};
use crate::error::Error;

/// One cluster as a client reaches it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Context {
    /// Name of context, cluster and user in the file.
    pub(super) name: String,
    /// The API server's URL.
    pub(super) server: String,
    /// Certificate of its authority; none for plain HTTP.
    pub(super) ca_pem: Option<String>,
    /// Who the client is.
    pub(super) identity: Option<Identity>,
}

/// Writes a file (mode 0600) with one context per cluster; the first one is the current one. JSON
/// is YAML.
pub(super) fn save(path: &Path, contexts: &[Context]) -> Result<(), Error> {
    let text = serde_json::to_string_pretty(&document(contexts));
    let text = text.map_err(|source| Error::Message {
        what: "a kubeconfig".to_owned(),
        source,
    })?;
    write(path, &text, 0o600)
}

fn document(contexts: &[Context]) -> Value {
    let each = |make: &dyn Fn(&Context) -> Value| contexts.iter().map(make).collect::<Vec<_>>();
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": contexts.first().map(|c| c.name.as_str()).unwrap_or_default(),
        "clusters": each(&|c| json!({"name": c.name, "cluster": cluster(c)})),
        "users": each(&|c| json!({"name": c.name, "user": user(c)})),
        "contexts": each(&|c| json!({
            "name": c.name,
            "context": {"cluster": c.name, "user": c.name},
        })),
    })
}

fn cluster(context: &Context) -> Value {
    let mut cluster = json!({"server": context.server});
    if let Some(pem) = &context.ca_pem {
        cluster["certificate-authority-data"] = base64(pem).into();
    }
    cluster
}

fn user(context: &Context) -> Value {
    match &context.identity {
        None => json!({}),
        Some(identity) => json!({
            "client-certificate-data": base64(&identity.cert_pem),
            "client-key-data": base64(&identity.key_pem),
        }),
    }
}
