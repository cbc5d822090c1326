//! One GET over TLS to a control plane's API server, from inside of its namespace.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kernel::NetNs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::flags::API_PORT;
use crate::error::Error;

/// How long one question may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Asks an API server for health, without credentials.
#[derive(Debug)]
pub(super) struct Probe {
    cluster: String,
    netns: NetNs,
    config: Arc<ClientConfig>,
}

impl Probe {
    /// A probe of the API server in `netns` that believes in the authority `ca_pem`.
    pub(super) fn new(cluster: &str, netns: &Path, ca_pem: &str) -> Result<Self, Error> {
        let failed = |source| Error::Tls {
            cluster: cluster.to_owned(),
            source,
        };
        let mut roots = RootCertStore::empty();
        let ca = CertificateDer::from_pem_slice(ca_pem.as_bytes())
            .map_err(|e| failed(rustls::Error::General(e.to_string())))?;
        roots.add(ca).map_err(failed)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(failed)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self {
            cluster: cluster.to_owned(),
            netns: NetNs::open(netns)?,
            config: Arc::new(config),
        })
    }

    /// `Ok` when the API server is ready, else what it answered or why it did not.
    pub(super) fn readyz(&self) -> Result<(), String> {
        let answer = self.get("/readyz?verbose").map_err(|e| e.to_string())?;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.lines().next().unwrap_or_default();
        if status.split(' ').nth(1) == Some("200") {
            return Ok(());
        }
        let failed: Vec<&str> = body
            .lines()
            .filter_map(|l| l.strip_prefix("[-]"))
            .map(|l| l.split(' ').next().unwrap_or(l))
            .collect();
        Err(format!("{status} ({})", failed.join(", ")))
    }

    fn get(&self, path: &str) -> std::io::Result<String> {
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
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: branchline-lab/{}\r\nConnection: close\r\n\r\n",
            self.cluster
        )?;
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            // A server that closes without TLS's goodbye has said everything all the same.
            Err(e) if e.kind() != std::io::ErrorKind::UnexpectedEof => Err(e),
            _ => Ok(String::from_utf8_lossy(&answer).into_owned()),
        }
    }
}
