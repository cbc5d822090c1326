//! Questions to a control plane's API server from beside it: one request over TLS each, which costs a
//! thousandth of a run of kubectl.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kernel::NetNs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::Value;

use super::flags::API_PORT;
use super::pki::Identity;
use crate::error::Error;

/// How long one question may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// An API server as one client sees it.
#[derive(Debug)]
pub(super) struct Api {
    netns: NetNs,
    config: Arc<ClientConfig>,
}

/// An answer.
struct Reply {
    status: u16,
    body: String,
}

impl Api {
    /// The API server in `netns` with a certificate of the authority `ca_pem`, asked by `identity` or
    /// without credentials.
    pub(super) fn new(
        cluster: &str,
        netns: &Path,
        ca_pem: &str,
        identity: Option<&Identity>,
    ) -> Result<Self, Error> {
        let config = config(ca_pem, identity).map_err(|source| Error::Tls {
            cluster: cluster.to_owned(),
            source,
        })?;
        Ok(Self {
            netns: NetNs::open(netns)?,
            config: Arc::new(config),
        })
    }

    /// `Ok` when the API server is ready, else what it answered or why it did not.
    pub(super) fn readyz(&self) -> Result<(), String> {
        let reply = self.ask("/readyz?verbose").map_err(|e| e.to_string())?;
        if reply.status == 200 {
            return Ok(());
        }
        let failed: Vec<&str> = reply
            .body
            .lines()
            .filter_map(|l| l.strip_prefix("[-]"))
            .map(|l| l.split(' ').next().unwrap_or(l))
            .collect();
        Err(format!("{} ({})", reply.status, failed.join(", ")))
    }

    /// Reads an object or a list, else what was answered or why nothing was.
    pub(super) fn get(&self, path: &str) -> Result<Value, String> {
        let reply = self.ask(path).map_err(|e| e.to_string())?;
        let value: Value = serde_json::from_str(&reply.body)
            .map_err(|e| format!("{} with a body that is no JSON: {e}", reply.status))?;
        if reply.status == 200 {
            return Ok(value);
        }
        let said = value["message"].as_str().unwrap_or_default();
        Err(format!("{}: {said}", reply.status))
    }

    /// Deletes an object; that it is not there is fine. Else what was answered or why nothing was.
    pub(super) fn delete(&self, path: &str) -> Result<(), String> {
        let reply = self.send("DELETE", path).map_err(|e| e.to_string())?;
        match reply.status {
            200 | 202 | 404 => Ok(()),
            status => Err(format!("{status}: {}", reply.body)),
        }
    }

    /// The last lines of a container's log, else why they cannot be read.
    pub(super) fn log(&self, namespace: &str, pod: &str, container: &str) -> String {
        let path = format!(
            "/api/v1/namespaces/{namespace}/pods/{pod}/log?container={container}&tailLines=5"
        );
        match self.ask(&path) {
            Ok(reply) => reply.body,
            Err(error) => error.to_string(),
        }
    }

    fn ask(&self, path: &str) -> std::io::Result<Reply> {
        self.send("GET", path)
    }

    fn send(&self, method: &str, path: &str) -> std::io::Result<Reply> {
        let at = SocketAddr::from((Ipv4Addr::LOCALHOST, API_PORT));
        // A socket belongs to the namespace it was made in.
        let connect = || TcpStream::connect_timeout(&at, PATIENCE);
        let socket = self.netns.run(connect).map_err(std::io::Error::other)??;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        let name = ServerName::try_from("localhost").expect("a valid name");
        let connection =
            ClientConnection::new(Arc::clone(&self.config), name).map_err(std::io::Error::other)?;
        let mut stream = StreamOwned::new(connection, socket);
        // Version 1.0: the body comes in one piece.
        write!(
            stream,
            "{method} {path} HTTP/1.0\r\nHost: localhost\r\nUser-Agent: branchline-lab\r\nAccept: application/json, */*\r\n\r\n",
        )?;
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            // A server that closes without TLS's goodbye has said everything all the same.
            Err(e) if e.kind() != std::io::ErrorKind::UnexpectedEof => return Err(e),
            _ => {}
        }
        let answer = String::from_utf8_lossy(&answer);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok());
        let status = status.ok_or_else(|| std::io::Error::other("the answer is no HTTP"))?;
        Ok(Reply {
            status,
            body: body.to_owned(),
        })
    }
}

fn config(ca_pem: &str, identity: Option<&Identity>) -> Result<ClientConfig, rustls::Error> {
    let unreadable = |e: rustls::pki_types::pem::Error| rustls::Error::General(e.to_string());
    let certificate =
        |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).map_err(unreadable);
    let mut roots = RootCertStore::empty();
    roots.add(certificate(ca_pem)?)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    match identity {
        None => Ok(config.with_no_client_auth()),
        Some(identity) => {
            let chain = vec![certificate(&identity.cert_pem)?];
            let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes());
            config.with_client_auth_cert(chain, key.map_err(unreadable)?)
        }
    }
}
