//! The tool against a real API server and the embedded EC2: what it reads, what it answers, and what
//! it says when something is missing.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod agent;
mod cloud;
mod control_plane;
mod drift;
mod files;
mod objects;
mod operators;
mod questions;
mod rights;

use std::path::Path;
use std::process::Output;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use serde_json::Value;
use tokio::runtime::Handle;
use tokio::sync::Mutex;

use cloud::{Cloud, Machine};
use control_plane::ControlPlane;

/// Every resource that the tool reads.
pub(crate) const ALL: [&str; 10] = [
    "pods",
    "nodes",
    "namespaces",
    "services",
    "replicasets.apps",
    "deployments.apps",
    "statefulsets.apps",
    "daemonsets.apps",
    "jobs.batch",
    "endpointslices.discovery.k8s.io",
];

/// The image that the fixture's agents run.
pub(crate) const IMAGE: &str = "branchline/aws-node:0.1.0";

/// One cluster for all tests that run at a time.
pub(crate) struct World {
    pub(crate) plane: ControlPlane,
    pub(crate) cloud: Cloud,
    pub(crate) machines: Vec<Machine>,
}

/// The servers live on this runtime, whichever test began them: a thread of its own drives it.
pub(crate) fn runtime() -> &'static Handle {
    static RUNTIME: OnceLock<Handle> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_all().build().unwrap();
        let handle = runtime.handle().clone();
        std::thread::spawn(move || runtime.block_on(std::future::pending::<()>()));
        handle
    })
}

/// The cluster of the story: `dev/api` has 15 pods on one node, and `add_sg` is on that node's
/// primary interface alone.
pub(crate) fn world() -> Arc<World> {
    static SHARED: Mutex<Weak<World>> = Mutex::const_new(Weak::new());
    runtime().block_on(async {
        let mut shared = SHARED.lock().await;
        if let Some(world) = shared.upgrade() {
            return world;
        }
        let world = Arc::new(build().await);
        *shared = Arc::downgrade(&world);
        world
    })
}

pub(crate) async fn build() -> World {
    let cloud = Cloud::start().await;
    let first = cloud.machine("t3.medium", 3, 6).await;
    let second = cloud.machine("t3.medium", 3, 6).await;
    cloud.attach_by_hand(&first).await;
    let plane = ControlPlane::start(&cloud.control_plane.to_string()).await;
    let env = objects::agent_env(&[("WARM_IP_TARGET", "2")]);
    let mut all = vec![objects::namespace("dev"), objects::namespace("other")];
    all.extend(objects::may_list("operator", &ALL));
    let less: Vec<&str> = ALL
        .into_iter()
        .filter(|r| *r != "replicasets.apps")
        .collect();
    all.extend(objects::may_list("reader", &less));
    plane.create(all).await;
    let mut all = vec![objects::agent_daemon_set(IMAGE, &env)];
    for (number, machine) in [&first, &second].into_iter().enumerate() {
        all.push(objects::node(machine));
        all.push(objects::agent_pod(number, machine, IMAGE, &env));
    }
    all.extend(objects::replica_set("dev", "api"));
    all.extend(objects::replica_set("dev", "web"));
    all.extend(objects::replica_set("other", "api"));
    let addresses = first.enis.iter().flat_map(|(_, a)| a);
    for (number, address) in addresses.enumerate() {
        all.push(objects::pod("dev", "api", number, &first, *address));
    }
    let webs: Vec<_> = second.enis.iter().map(|(_, a)| a[0]).collect();
    for (number, address) in webs.iter().enumerate() {
        all.push(objects::pod("dev", "web", number, &second, *address));
    }
    all.extend(objects::service(
        "dev",
        "web",
        80,
        8080,
        &[
            (webs[0], Some("web-7c9-0"), true),
            (webs[1], Some("web-7c9-1"), true),
            (webs[2], Some("web-7c9-2"), false),
        ],
    ));
    all.extend(objects::service(
        "dev",
        "orders",
        5432,
        5432,
        &[(cloud.database, None, true)],
    ));
    all.extend(objects::service(
        "dev",
        "mixed",
        5432,
        5432,
        &[
            (cloud.database, None, true),
            (webs[0], Some("web-7c9-0"), true),
        ],
    ));
    all.extend(objects::service("dev", "empty", 80, 80, &[]));
    plane.create(all).await;
    let kubernetes = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes";
    for _ in 0..1200 {
        let list = kubernetes.rsplit_once('/').unwrap().0;
        let slices = plane.call("GET", list, None).await;
        if !slices["items"].as_array().unwrap().is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    World {
        plane,
        cloud,
        machines: vec![first, second],
    }
}

/// What the tool printed and how it ended.
pub(crate) struct Told {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Told {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out)
            .unwrap_or_else(|e| panic!("{e}: {}\n{}", self.out, self.err))
    }

    #[track_caller]
    pub(crate) fn says(&self, words: &[&str]) -> &Self {
        for word in words {
            let found = self.out.contains(word) || self.err.contains(word);
            assert!(found, "{word:?} is not in:\n{}\n{}", self.out, self.err);
        }
        self
    }

    #[track_caller]
    pub(crate) fn ends(&self, code: i32) -> &Self {
        assert_eq!(self.code, code, "{}\n{}", self.out, self.err);
        self
    }
}

impl World {
    /// Runs the tool as a user of the cluster.
    pub(crate) fn tool(&self, user: &str, args: &[&str]) -> Told {
        self.tool_with(&self.plane.of(user), args)
    }

    pub(crate) fn tool_with(&self, kubeconfig: &Path, args: &[&str]) -> Told {
        self.run(Some(kubeconfig), &self.cloud.url, args)
    }

    /// Runs the tool against another account.
    pub(crate) fn tool_at(&self, url: &str, user: &str, args: &[&str]) -> Told {
        self.run(Some(&self.plane.of(user)), url, args)
    }

    /// Runs the tool where neither the cluster nor AWS can be reached.
    pub(crate) fn tool_offline(&self, args: &[&str]) -> Told {
        self.run(None, "http://127.0.0.1:9", args)
    }

    fn run(&self, kubeconfig: Option<&Path>, url: &str, args: &[&str]) -> Told {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_branchline"));
        command
            .args(args)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.plane.dir.path())
            .env("AWS_ENDPOINT_URL", url)
            .env("AWS_REGION", "us-west-2")
            .env("AWS_ACCESS_KEY_ID", "branchline")
            .env("AWS_SECRET_ACCESS_KEY", "branchline");
        if let Some(kubeconfig) = kubeconfig {
            command.env("KUBECONFIG", kubeconfig);
        }
        let Output {
            status,
            stdout,
            stderr,
        } = command.output().unwrap();
        Told {
            code: status.code().unwrap(),
            out: String::from_utf8(stdout).unwrap(),
            err: String::from_utf8(stderr).unwrap(),
        }
    }
}
