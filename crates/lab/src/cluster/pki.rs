//! Certificates of a cluster: an authority of its own, made anew with every cluster.
//!
//! All keys are ECDSA P-256. Private files have mode 0600 and lie in the cluster's directory, so
//! they go with the lab. The only identity of the group `system:masters` is that of the bootstrap,
//! whose file is removed before anybody is told that the cluster is there.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
};

use crate::error::{Error, IoContext as _};

/// How long a certificate is valid: longer than any lab lives.
const VALID: Duration = Duration::from_secs(365 * 24 * 3600);
/// Clocks of clients may be a little behind.
const BEFORE: Duration = Duration::from_secs(3600);

/// A certificate authority with its key, in memory.
#[derive(Debug)]
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its private key, both as PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    /// The certificate.
    pub cert_pem: String,
    /// The private key, PKCS #8.
    pub key_pem: String,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity")
            .field("cert_pem", &self.cert_pem)
            .finish_non_exhaustive()
    }
}

fn failed(what: &str) -> impl FnOnce(rcgen::Error) -> Error {
    let what = what.to_owned();
    move |source| Error::Certificate { what, source }
}

fn params(
    common_name: &str,
    organizations: &[&str],
    names: Vec<String>,
) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(names)?;
    let mut subject = DistinguishedName::new();
    for organization in organizations {
        subject.push(DnType::OrganizationName, *organization);
    }
    subject.push(DnType::CommonName, common_name);
    params.distinguished_name = subject;
    let now = SystemTime::now();
    params.not_before = (now - BEFORE).into();
    params.not_after = (now + VALID).into();
    Ok(params)
}

impl Authority {
    /// A new authority.
    ///
    /// # Errors
    /// When the system gives no random numbers.
    pub fn new(common_name: &str) -> Result<Self, Error> {
        let make = || {
            let mut params = params(common_name, &[], Vec::new())?;
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![
                KeyUsagePurpose::KeyCertSign,
                KeyUsagePurpose::DigitalSignature,
                KeyUsagePurpose::KeyEncipherment,
            ];
            CertifiedIssuer::self_signed(params, KeyPair::generate()?)
        };
        make().map(Self).map_err(failed(common_name))
    }

    /// Its certificate.
    #[must_use]
    pub fn cert_pem(&self) -> String {
        self.0.pem()
    }

    /// Its private key.
    #[must_use]
    pub fn key_pem(&self) -> String {
        self.0.key().serialize_pem()
    }

    /// A certificate for a client: Kubernetes reads the user from the common name and the groups
    /// from the organizations.
    ///
    /// # Errors
    /// When the system gives no random numbers.
    pub fn client(&self, user: &str, groups: &[&str]) -> Result<Identity, Error> {
        let usage = ExtendedKeyUsagePurpose::ClientAuth;
        self.issue(user, groups, Vec::new(), usage)
    }

    /// A certificate for a server that answers under `names`: DNS names or addresses.
    ///
    /// # Errors
    /// When a name is none.
    pub fn server(
        &self,
        common_name: &str,
        groups: &[&str],
        names: Vec<String>,
    ) -> Result<Identity, Error> {
        let usage = ExtendedKeyUsagePurpose::ServerAuth;
        self.issue(common_name, groups, names, usage)
    }

    fn issue(
        &self,
        common_name: &str,
        organizations: &[&str],
        names: Vec<String>,
        usage: ExtendedKeyUsagePurpose,
    ) -> Result<Identity, Error> {
        let make = || {
            let mut params = params(common_name, organizations, names)?;
            params.use_authority_key_identifier_extension = true;
            params.key_usages = vec![
                KeyUsagePurpose::DigitalSignature,
                KeyUsagePurpose::KeyEncipherment,
            ];
            params.extended_key_usages = vec![usage];
            let key = KeyPair::generate()?;
            let cert = params.signed_by(&key, &self.0)?;
            Ok(Identity {
                cert_pem: cert.pem(),
                key_pem: key.serialize_pem(),
            })
        };
        make().map_err(failed(common_name))
    }
}

/// Everything that the programs of a control plane read, and the authority that signs kubelets.
#[derive(Debug)]
pub struct Pki {
    /// The cluster's authority: of servers and of clients.
    pub authority: Authority,
    front_proxy: Authority,
    server: Identity,
    kubelet_client: Identity,
    proxy_client: Identity,
    service_accounts: KeyPair,
}

impl Pki {
    /// Makes all of it. `fronts` are the addresses of the control plane's interfaces, `service` is
    /// that of the Service `kubernetes`.
    ///
    /// # Errors
    /// When the system gives no random numbers.
    pub fn new(cluster: &str, fronts: &[Ipv4Addr], service: Ipv4Addr) -> Result<Self, Error> {
        let authority = Authority::new("kubernetes")?;
        let front_proxy = Authority::new("front-proxy")?;
        let mut names: Vec<String> = [
            "localhost",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
        ]
        .map(str::to_owned)
        .into();
        let own = [Ipv4Addr::LOCALHOST, service];
        names.extend(own.iter().chain(fronts).map(Ipv4Addr::to_string));
        Ok(Self {
            server: authority.server("kube-apiserver", &[], names)?,
            // Its rights over kubelets come from a binding, see `boot.yaml`.
            kubelet_client: authority.client("kube-apiserver-kubelet-client", &[])?,
            proxy_client: front_proxy.client("front-proxy-client", &[])?,
            service_accounts: KeyPair::generate().map_err(failed(cluster))?,
            authority,
            front_proxy,
        })
    }

    /// Writes the files under the names that [`super::flags`] gives to the programs.
    ///
    /// # Errors
    /// When one cannot be written.
    pub fn write(&self, dir: &Path) -> Result<(), Error> {
        fs::create_dir_all(dir).at(dir)?;
        let public = |name: &str, text: &str| write(&dir.join(name), text, 0o644);
        let private = |name: &str, text: &str| write(&dir.join(name), text, 0o600);
        public("ca.crt", &self.authority.cert_pem())?;
        private("ca.key", &self.authority.key_pem())?;
        public("front-proxy-ca.crt", &self.front_proxy.cert_pem())?;
        let identities = [
            ("apiserver", &self.server),
            ("apiserver-kubelet-client", &self.kubelet_client),
            ("front-proxy-client", &self.proxy_client),
        ];
        for (name, identity) in identities {
            public(&format!("{name}.crt"), &identity.cert_pem)?;
            private(&format!("{name}.key"), &identity.key_pem)?;
        }
        public("sa.pub", &self.service_accounts.public_key_pem())?;
        private("sa.key", &self.service_accounts.serialize_pem())
    }

    /// Certificates of a node's kubelet: as a client of the API server and as a server on 10250.
    ///
    /// # Errors
    /// When the node's name is no DNS name.
    pub fn kubelet(&self, node: &str, address: Ipv4Addr) -> Result<KubeletIdentity, Error> {
        let user = format!("system:node:{node}");
        let names = vec![node.to_owned(), IpAddr::from(address).to_string()];
        Ok(KubeletIdentity {
            client: self.authority.client(&user, &["system:nodes"])?,
            serving: self.authority.server(&user, &["system:nodes"], names)?,
        })
    }
}

/// What a kubelet is known by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KubeletIdentity {
    /// User `system:node:NAME` of the group `system:nodes`.
    pub client: Identity,
    /// For its port 10250, with the node's name and address.
    pub serving: Identity,
}

/// Writes a file with a mode, which holds even if the file was there before.
pub(crate) fn write(path: &Path, text: &str, mode: u32) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e).at(path),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .at(path)?;
    file.write_all(text.as_bytes()).at(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn keys_are_for_their_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let front = [Ipv4Addr::new(10, 0, 1, 4), Ipv4Addr::new(10, 0, 2, 4)];
        let pki = Pki::new("dev", &front, Ipv4Addr::new(172, 20, 0, 1)).unwrap();
        pki.write(dir.path()).unwrap();
        let mut keys = 0;
        for entry in fs::read_dir(dir.path()).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let text = fs::read_to_string(entry.path()).unwrap();
            let secret = text.contains("PRIVATE KEY");
            let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, if secret { 0o600 } else { 0o644 }, "{name}");
            assert_eq!(secret, name.ends_with(".key"), "{name}");
            keys += usize::from(secret);
        }
        assert_eq!(keys, 5);
    }

    #[test]
    fn a_printed_identity_has_no_key() {
        let authority = Authority::new("kubernetes").unwrap();
        let identity = authority.client("someone", &["some"]).unwrap();
        assert!(identity.key_pem.contains("PRIVATE KEY"));
        assert!(!format!("{identity:?}").contains("PRIVATE"));
    }
}
