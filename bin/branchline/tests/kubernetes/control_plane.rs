//! A real etcd and a real API server on loopback, without kubelets: objects are what a test writes.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpSocket;

/// Ends a process that this test started.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Users by their tokens; what each may do is up to the test.
pub(crate) const USERS: [&str; 5] = ["admin", "operator", "reader", "nobody", "agent"];

/// The cluster.
pub(crate) struct ControlPlane {
    // In the order in which they end.
    _apiserver: Process,
    _etcd: Process,
    _ports: [Port; 3],
    /// The API server's own address.
    pub(crate) server: String,
    pub(crate) dir: TempDir,
    certificate: PathBuf,
}

/// Where `make build` puts the programs.
fn programs() -> PathBuf {
    if let Some(given) = std::env::var_os("KUBEBUILDER_ASSETS") {
        return given.into();
    }
    let own = Path::new(env!("CARGO_BIN_EXE_branchline"));
    let target = own
        .parent()
        .and_then(Path::parent)
        .expect("target/debug/branchline");
    target.join("kubernetes/bin")
}

/// A port of loopback that nobody else gets while this lives. It does not listen, so every
/// connection is for the program that shares the port (SO_REUSEPORT).
struct Port {
    _held: TcpSocket,
    number: u16,
}

impl Port {
    fn new() -> Self {
        let held = TcpSocket::new_v4().expect("a socket");
        held.set_reuseport(true).expect("a port to share");
        let any = "127.0.0.1:0".parse().expect("an address");
        held.bind(any).expect("a free port");
        let number = held.local_addr().expect("its address").port();
        Self {
            _held: held,
            number,
        }
    }
}

impl ControlPlane {
    /// Starts it; `advertise` is the address that `kubernetes.default` leads to.
    pub(crate) async fn start(advertise: &str) -> Self {
        let programs = programs();
        let apiserver = programs.join("kube-apiserver");
        assert!(
            apiserver.exists(),
            "{} is missing: run scripts/kubernetes.sh, or set KUBEBUILDER_ASSETS",
            apiserver.display()
        );
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name).display().to_string();
        let tokens: String = USERS
            .iter()
            .map(|user| match *user {
                "admin" => format!("{user},{user},{user},system:masters\n"),
                _ => format!("{user},{user},{user}\n"),
            })
            .collect();
        std::fs::write(at("tokens.csv"), tokens).expect("write tokens");
        let key = rcgen::KeyPair::generate().expect("a key");
        std::fs::write(at("sa.key"), key.serialize_pem()).expect("write the key");
        std::fs::write(at("sa.pub"), key.public_key_pem()).expect("write the key");
        let ports = [Port::new(), Port::new(), Port::new()];
        let [client, peer, port] = ports.each_ref().map(|port| port.number);
        let (client, peer) = (
            format!("http://127.0.0.1:{client}"),
            format!("http://127.0.0.1:{peer}"),
        );
        let etcd = run(
            &programs.join("etcd"),
            &[
                format!("--data-dir={}", at("etcd")),
                format!("--listen-client-urls={client}"),
                format!("--advertise-client-urls={client}"),
                format!("--listen-peer-urls={peer}"),
                format!("--initial-advertise-peer-urls={peer}"),
                format!("--initial-cluster=default={peer}"),
                "--unsafe-no-fsync".to_owned(),
                "--socket-reuse-port".to_owned(),
            ],
            &dir.path().join("etcd.log"),
        );
        let apiserver = run(
            &apiserver,
            &[
                format!("--etcd-servers={client}"),
                "--bind-address=127.0.0.1".to_owned(),
                format!("--secure-port={port}"),
                "--permit-port-sharing".to_owned(),
                format!("--advertise-address={advertise}"),
                format!("--cert-dir={}", at("certs")),
                format!("--service-account-key-file={}", at("sa.pub")),
                format!("--service-account-signing-key-file={}", at("sa.key")),
                "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
                "--authorization-mode=RBAC".to_owned(),
                format!("--token-auth-file={}", at("tokens.csv")),
                "--disable-admission-plugins=ServiceAccount".to_owned(),
                "--service-cluster-ip-range=172.20.0.0/16".to_owned(),
            ],
            &dir.path().join("apiserver.log"),
        );
        let plane = Self {
            _apiserver: apiserver,
            _etcd: etcd,
            _ports: ports,
            server: format!("https://127.0.0.1:{port}"),
            certificate: dir.path().join("certs/apiserver.crt"),
            dir,
        };
        plane.ready().await;
        plane
    }

    async fn ready(&self) {
        let until = Instant::now() + Duration::from_secs(180);
        let mut last = "no certificate yet".to_owned();
        while Instant::now() < until {
            if self.certificate.exists() {
                let path = "/api/v1/namespaces/kube-system";
                match self.try_call("GET", path, None).await {
                    Ok(_) => return,
                    Err(error) => last = error.to_string(),
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let log =
            std::fs::read_to_string(self.dir.path().join("apiserver.log")).unwrap_or_default();
        let end: Vec<&str> = log.lines().rev().take(10).collect();
        panic!(
            "the API server is not ready: {last}; its log ends (newest first):\n{}",
            end.join("\n")
        );
    }

    /// A kubeconfig for a user; `server` in place of the real one.
    pub(crate) fn kubeconfig(&self, user: &str, token: &str, server: &str) -> PathBuf {
        let document = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "dev",
            "clusters": [{"name": "arn:aws:eks:us-west-2:000000000000:cluster/dev", "cluster": {
                "server": server, "certificate-authority": self.certificate}}],
            "users": [{"name": user, "user": {"token": token}}],
            "contexts": [{"name": "dev", "context": {
                "cluster": "arn:aws:eks:us-west-2:000000000000:cluster/dev", "user": user}}],
        });
        let path = self.dir.path().join(format!("{user}-{token}.kubeconfig"));
        // Tests that run at once write the same files: each is whole at any time.
        let mut part = tempfile::NamedTempFile::new_in(self.dir.path()).expect("a file");
        write!(part, "{document}").expect("write a kubeconfig");
        part.persist(&path).expect("put it in place");
        path
    }

    /// The kubeconfig of one of the [`USERS`].
    pub(crate) fn of(&self, user: &str) -> PathBuf {
        self.kubeconfig(user, user, &self.server)
    }

    async fn client(&self) -> kube::Client {
        let config = kube::config::Kubeconfig::read_from(self.of("admin")).expect("a kubeconfig");
        let options = kube::config::KubeConfigOptions::default();
        let config = kube::Config::from_custom_kubeconfig(config, &options).await;
        kube::Client::try_from(config.expect("a configuration")).expect("a client")
    }

    async fn try_call(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, kube::Error> {
        call(&self.client().await, method, path, body).await
    }

    /// Writes objects: each with its path, and its status if it has one. Several at once.
    pub(crate) async fn create(&self, objects: Vec<(String, Value)>) {
        let client = self.client().await;
        let mut writing = tokio::task::JoinSet::new();
        for (path, object) in objects {
            if writing.len() >= 32 {
                writing
                    .join_next()
                    .await
                    .expect("one is under way")
                    .expect("it was written");
            }
            let client = client.clone();
            writing.spawn(async move {
                let made = call(&client, "POST", &path, Some(&object)).await;
                made.unwrap_or_else(|e| panic!("{path}: {e}\n{object:#}"));
                if !object["status"].is_null() {
                    let name = object["metadata"]["name"].as_str().expect("a name");
                    let path = format!("{path}/{name}/status");
                    let patch = json!({"status": object["status"]});
                    let made = call(&client, "PATCH", &path, Some(&patch)).await;
                    made.unwrap_or_else(|e| panic!("{path}: {e}"));
                }
            });
        }
        while let Some(done) = writing.join_next().await {
            done.expect("it was written");
        }
    }

    /// One call as administrator.
    pub(crate) async fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        self.try_call(method, path, body)
            .await
            .unwrap_or_else(|e| panic!("{method} {path}: {e}"))
    }
}

async fn call(
    client: &kube::Client,
    method: &str,
    path: &str,
    body: Option<&Value>,
) -> Result<Value, kube::Error> {
    let kind = match method {
        "PATCH" => "application/merge-patch+json",
        _ => "application/json",
    };
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", kind)
        .body(body.map(|b| b.to_string().into_bytes()).unwrap_or_default());
    client.request(request.expect("a request")).await
}

fn run(program: &Path, args: &[String], log: &Path) -> Process {
    let log = File::create(log).expect("a log");
    let child = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("the same log"))
        .stderr(log)
        .spawn();
    Process(child.unwrap_or_else(|e| panic!("start {}: {e}", program.display())))
}
