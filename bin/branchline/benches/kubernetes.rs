//! `why NAMESPACE/deploy/NAME`, end to end from a kubeconfig: 1,000 pods on 18 nodes behind a real
//! API server, EC2 beside it. Prints what each run took; the goal is 300 ms.
//!
//! `cargo bench -p branchline --bench kubernetes`
#![expect(clippy::unwrap_used, reason = "a bench fails by panicking")]
#![allow(
    dead_code,
    reason = "the fixture is shared with the tests, which use all of it"
)]

#[path = "../tests/kubernetes/cloud.rs"]
mod cloud;
#[path = "../tests/kubernetes/control_plane.rs"]
mod control_plane;
#[path = "../tests/kubernetes/objects.rs"]
mod objects;

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use cloud::Cloud;
use control_plane::ControlPlane;

/// Pods, and what is asked how often.
const PODS: usize = 1000;
const RUNS: usize = 15;

fn main() {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().build().unwrap();
    let handle = runtime.handle().clone();
    std::thread::spawn(move || runtime.block_on(std::future::pending::<()>()));
    let (plane, cloud) = handle.block_on(build());
    for question in [
        &["why", "dev/deploy/api", "rds/orders:5432"][..],
        &["why", "dev/deploy/few", "rds/orders:5432"],
        &["why", "dev/deploy/few", "dev/svc/web:80"],
        &["who-is", "dev/pod/few-7c9-0"],
    ] {
        let mut times: Vec<Duration> = (0..RUNS).map(|_| run(&plane, &cloud, question)).collect();
        times.sort();
        println!(
            "{:<45} p50 {:>5} ms   p95 {:>5} ms   ({RUNS} runs, {PODS} pods)",
            question.join(" "),
            times[RUNS / 2].as_millis(),
            times[RUNS - 1].as_millis()
        );
    }
}

/// The program of `BRANCHLINE_BIN`, as the other figures are measured, else the one built for the bench.
fn program() -> PathBuf {
    match std::env::var_os("BRANCHLINE_BIN") {
        Some(dir) => PathBuf::from(dir).join("branchline"),
        None => env!("CARGO_BIN_EXE_branchline").into(),
    }
}

fn run(plane: &ControlPlane, cloud: &Cloud, args: &[&str]) -> Duration {
    let begun = Instant::now();
    let done = Command::new(program())
        .args(args)
        .env_clear()
        .env("KUBECONFIG", plane.of("admin"))
        .env("AWS_ENDPOINT_URL", &cloud.url)
        .env("AWS_REGION", "us-west-2")
        .env("AWS_ACCESS_KEY_ID", "branchline")
        .env("AWS_SECRET_ACCESS_KEY", "branchline")
        .output()
        .unwrap();
    let took = begun.elapsed();
    let told = String::from_utf8_lossy(&done.stdout);
    assert!(
        done.status.code() <= Some(1),
        "{told}{}",
        String::from_utf8_lossy(&done.stderr)
    );
    took
}

/// `dev/api` has all pods but 15, which are those of `dev/few`.
async fn build() -> (ControlPlane, Cloud) {
    let cloud = Cloud::start().await;
    let mut machines = Vec::new();
    for _ in 0..PODS.div_ceil(56) {
        machines.push(cloud.machine("m5.xlarge", 4, 15).await);
    }
    cloud.attach_by_hand(&machines[0]).await;
    let plane = ControlPlane::start(&cloud.control_plane.to_string()).await;
    let env = objects::agent_env(&[]);
    let image = "branchline/aws-node:0.1.0";
    plane.create(vec![objects::namespace("dev")]).await;
    let mut all = vec![objects::agent_daemon_set(image, &env)];
    all.extend(objects::replica_set("dev", "api"));
    all.extend(objects::replica_set("dev", "few"));
    let mut count = 0;
    let mut few = Vec::new();
    for (number, machine) in machines.iter().enumerate() {
        all.push(objects::node(machine));
        all.push(objects::agent_pod(number, machine, image, &env));
        for address in machine.enis.iter().flat_map(|(_, a)| a) {
            if count == PODS {
                break;
            }
            let of = if count < 15 { "few" } else { "api" };
            all.push(objects::pod("dev", of, count, machine, *address));
            few.push(*address);
            count += 1;
        }
    }
    assert_eq!(count, PODS);
    let endpoints: Vec<_> = few.iter().take(3).map(|a| (*a, None, true)).collect();
    all.extend(objects::service("dev", "web", 80, 8080, &endpoints));
    plane.create(all).await;
    (plane, cloud)
}
