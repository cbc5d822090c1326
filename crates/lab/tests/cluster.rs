//! A control plane in a VPC from the command line: who reaches it, who is let in, what happens when
//! a part of it fails, and what is left of it.
#![allow(
    clippy::unwrap_used,
    reason = "a helper of a test may panic as the test may"
)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::{Lab, machine, program, require_root};
use ec2::Credentials;
use ec2::eks::token;
use ec2::types::{
    AuthorizeSecurityGroupIngressRequest, DescribeSecurityGroupsRequest, IpPermission, IpRange,
};
use jiff::{SignedDuration, Timestamp};
use lab::cgroup::Cgroups;
use lab::cluster::Binaries;
use lab::state::State;
use lab::teardown;
use rustix::process::{Pid, Signal, kill_process};

/// Skips a test loudly where Kubernetes was not built; fails in CI.
macro_rules! require_kubernetes {
    () => {
        if let Err(error) = Binaries::find(None, &program("branchline")) {
            assert!(std::env::var_os("CI").is_none(), "{error}");
            eprintln!("SKIPPED: {error}");
            return;
        }
    };
}

/// How long something may take that has no sign of its own.
const PATIENCE: Duration = Duration::from_secs(180);

fn topology() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cluster.yaml")
}

fn run(command: &mut Command) -> (Output, String) {
    let output = command.output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, told)
}

fn up(lab: &Lab) -> (Output, String) {
    let command = &mut lab.branchline();
    run(command.args(["up", "--file"]).arg(topology()))
}

fn assert_nothing_left(lab: &Lab, before: &str) {
    let cgroups = Cgroups::mounted().unwrap();
    assert!(!teardown::is_left(&lab.place, &cgroups));
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let dir = lab.place.dir().to_str().unwrap();
    assert!(!mounts.contains(dir), "mounts below {dir} are left");
    common::same(before, &machine());
}

fn environment(lab: &Lab) -> BTreeMap<String, String> {
    let (output, told) = run(lab.branchline().args(["env", "--shell", "json"]));
    assert!(output.status.success(), "{told}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// `kubectl` as the lab's user has it.
fn kubectl(env: &BTreeMap<String, String>, args: &[&str]) -> (Output, String) {
    run(Command::new("kubectl").envs(env).args(args))
}

/// Whether a host can connect to an address of the control plane within so many seconds: what need not come is waited
/// for a moment only.
fn reaches(lab: &Lab, host: &str, address: &str, within: &str) -> bool {
    let script = format!("exec 3<>/dev/tcp/{address}/443");
    let command = &mut lab.branchline();
    let command = command.args(["exec", host, "--", "timeout", within, "bash", "-c", &script]);
    run(command).0.status.success()
}

fn until(what: &str, is: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is() {
        assert!(begun.elapsed() < PATIENCE, "{what}: not in time");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_control_plane_stands_in_the_vpc() {
    require_root!();
    require_kubernetes!();
    let before = machine();
    let lab = Lab::new("plane");
    let (output, told) = up(&lab);
    assert!(output.status.success(), "{told}");
    assert!(told.contains("cluster dev: control plane"), "{told}");
    // What the machine itself sees of it: nothing.
    common::same(&before, &machine());

    let env = environment(&lab);
    let (output, told) = kubectl(&env, &["version"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("Server Version: v1.36."), "{said} {told}");
    let path = "jsonpath={.subsets[0].addresses[*].ip}";
    let (output, told) = kubectl(&env, &["get", "endpoints", "kubernetes", "-o", path]);
    let fronts = String::from_utf8(output.stdout).unwrap();
    let fronts: Vec<&str> = fronts.split(' ').collect();
    assert_eq!(fronts.len(), 2, "{told}");

    // The groups decide, on both interfaces.
    for front in &fronts {
        assert!(reaches(&lab, "bastion", front, "60"), "{front}");
        assert!(!reaches(&lab, "stranger", front, "1"), "{front}");
    }
    admit(&env, "10.0.2.20/32");
    for front in &fronts {
        assert!(reaches(&lab, "stranger", front, "60"), "{front}");
    }

    tokens(&lab, &env);
    aws_cli(&lab, &env);
    nobody_is_master(&lab, &env);
    a_part_fails(&lab, &env);

    let (output, told) = run(lab.branchline().arg("down"));
    assert!(output.status.success(), "{told}");
    assert_nothing_left(&lab, &before);
}

/// Lets a block reach port 443 of the members of `to-api`.
fn admit(env: &BTreeMap<String, String>, block: &str) {
    let client = ec2::Client::builder()
        .region(&env["AWS_REGION"])
        .endpoint(env["AWS_ENDPOINT_URL"].clone())
        .credentials(credentials(env))
        .build()
        .unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let groups = client.call(DescribeSecurityGroupsRequest::default()).await;
        let groups = groups.unwrap().security_groups;
        let named = |g: &&ec2::types::SecurityGroup| g.group_name.as_deref() == Some("to-api");
        let group = groups.iter().find(named).unwrap();
        let request = AuthorizeSecurityGroupIngressRequest {
            group_id: group.group_id.clone(),
            ip_permissions: vec![IpPermission {
                ip_protocol: Some("tcp".into()),
                from_port: Some(443),
                to_port: Some(443),
                ip_ranges: vec![IpRange {
                    cidr_ip: Some(block.into()),
                    ..Default::default()
                }],
                ..Default::default()
            }],
            ..Default::default()
        };
        client.call(request).await.unwrap();
    });
}

fn credentials(env: &BTreeMap<String, String>) -> Credentials {
    let (key, secret) = (&env["AWS_ACCESS_KEY_ID"], &env["AWS_SECRET_ACCESS_KEY"]);
    Credentials::new(key, secret, None, None, "test")
}

/// Tokens as `aws eks get-token` makes them: of the right user, expired, signed with another secret,
/// for another cluster.
fn tokens(lab: &Lab, env: &BTreeMap<String, String>) {
    let state = State::of_running(&lab.place).unwrap();
    let cluster = &state.clusters["dev"];
    let sts = "https://sts.us-west-2.amazonaws.com";
    let own = credentials(env);
    let other = Credentials::new(&env["AWS_ACCESS_KEY_ID"], "wrong", None, None, "test");
    let token = |of: &Credentials, cluster: &str, ago: SignedDuration| {
        let at = Timestamp::now().checked_sub(ago).unwrap();
        token::make(of, "us-west-2", sts, cluster, at).unwrap()
    };
    let whoami = |token: &str| {
        let mut kubectl = Command::new(cluster.programs.join("kubectl"));
        kubectl.env("KUBECONFIG", "/dev/null");
        kubectl.args(["--server", &cluster.endpoint, "--token", token]);
        kubectl.arg("--certificate-authority").arg(&cluster.ca);
        run(kubectl.args(["auth", "whoami"]))
    };
    let now = SignedDuration::ZERO;
    let (output, told) = whoami(&token(&own, "dev", now));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("branchline:cluster-admins"), "{said} {told}");
    assert!(said.contains(":user/branchline"), "{said}");
    let refused = [
        ("expired", token(&own, "dev", SignedDuration::from_mins(16))),
        ("another secret", token(&other, "dev", now)),
        ("another cluster", token(&own, "prod", now)),
        ("no token", "k8s-aws-v1.xyz".to_owned()),
    ];
    for (what, token) in refused {
        let (output, told) = whoami(&token);
        assert!(!output.status.success(), "{what}");
        assert!(told.contains("Unauthorized"), "{what}: {told}");
    }
    let log = fs::read_to_string(lab.place.log()).unwrap();
    assert!(log.contains("expired at"), "the lab's log says why");
}

/// `aws eks update-kubeconfig` and, called by kubectl, `aws eks get-token`.
fn aws_cli(lab: &Lab, env: &BTreeMap<String, String>) {
    if Command::new("aws").arg("--version").output().is_err() {
        assert!(
            std::env::var_os("CI").is_none(),
            "this test needs the AWS CLI"
        );
        eprintln!("SKIPPED: needs the AWS CLI");
        return;
    }
    let mut env = env.clone();
    let kubeconfig = lab.place.parent().join("aws.kubeconfig");
    env.insert("KUBECONFIG".into(), kubeconfig.display().to_string());
    let mut aws = Command::new("aws");
    aws.envs(&env)
        .args(["eks", "update-kubeconfig", "--name", "dev"]);
    let (output, told) = run(&mut aws);
    assert!(output.status.success(), "{told}");
    let (output, told) = kubectl(&env, &["auth", "can-i", "delete", "nodes"]);
    assert!(output.status.success(), "{told}");
    fs::remove_file(kubeconfig).unwrap();
}

/// After the bootstrap nobody has a key of the group `system:masters`.
fn nobody_is_master(lab: &Lab, env: &BTreeMap<String, String>) {
    let mut open = vec![lab.place.clusters_dir()];
    let mut seen = 0;
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            assert!(!path.ends_with("boot.kubeconfig"), "{}", path.display());
            if path.is_dir() {
                open.push(path);
                continue;
            }
            if !path.is_file() {
                continue;
            }
            seen += 1;
            let mode = fs::metadata(&path).unwrap().permissions().mode();
            let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
            let secret = text.contains("PRIVATE KEY---") || text.contains("client-key-data\":");
            assert!(!secret || mode & 0o077 == 0, "{}", path.display());
        }
    }
    assert!(seen > 10);
    let (output, told) = kubectl(env, &["auth", "whoami"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        said.contains("cluster-admins") && !said.contains("masters"),
        "{said} {told}"
    );
    // Health is for everybody, nothing else is.
    let state = State::of_running(&lab.place).unwrap();
    let cluster = &state.clusters["dev"];
    // kubectl does not ask as nobody.
    let ask = "import ssl, sys, urllib.request\n\
               tls = ssl.create_default_context(cafile=sys.argv[1])\n\
               urllib.request.urlopen(sys.argv[2], context=tls, timeout=10)";
    let answers = |path: &str| {
        let url = format!("{}{path}", cluster.endpoint);
        let mut python = Command::new("python3");
        let (output, told) = run(python.args(["-c", ask]).arg(&cluster.ca).arg(url));
        assert!(
            output.status.success() || told.contains("HTTP Error 401"),
            "{told}"
        );
        output.status.success()
    };
    assert!(answers("/readyz"));
    assert!(!answers("/api"));
}

fn component(lab: &Lab, name: &str, action: &str) -> (Output, String) {
    run(lab
        .branchline()
        .args(["cluster", "component", "dev", name, action]))
}

fn a_part_fails(lab: &Lab, env: &BTreeMap<String, String>) {
    let ready = || {
        let args = ["--request-timeout=2s", "get", "--raw", "/readyz"];
        kubectl(env, &args).0.status.success()
    };
    // A crash: it is started again.
    let (output, told) = component(lab, "kube-apiserver", "kill");
    assert!(output.status.success(), "{told}");
    until("the API server after a crash", ready);
    // Stopped, it stays away until it is started.
    component(lab, "kube-apiserver", "stop");
    assert!(!ready());
    component(lab, "kube-apiserver", "start");
    until("the API server after a stop", ready);
    let (output, told) = component(lab, "kube-apiservr", "stop");
    assert_eq!(output.status.code(), Some(5));
    assert!(told.contains("no component 'kube-apiservr'"), "{told}");
}

/// Programs by name, each as a script.
type Scripts<'a> = &'a [(&'a str, &'a str)];

/// A directory with links to the programs of Kubernetes, some of them replaced by scripts.
fn programs(lab: &Lab, scripts: Scripts<'_>) -> PathBuf {
    let real = Binaries::find(None, &program("branchline")).unwrap();
    let dir = lab.place.parent().parent().unwrap().join("bin");
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).unwrap();
    for entry in fs::read_dir(real.dir()).unwrap() {
        let entry = entry.unwrap();
        symlink(entry.path(), dir.join(entry.file_name())).unwrap();
    }
    for (name, script) in scripts {
        let path = dir.join(name);
        fs::remove_file(&path).unwrap();
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    dir
}

#[test]
fn programs_that_are_wrong_are_named_and_nothing_is_left() {
    require_root!();
    require_kubernetes!();
    let before = machine();
    let lab = Lab::new("wrong");
    let real = Binaries::find(None, &program("branchline")).unwrap();
    let version = format!("echo Kubernetes v{}", real.version());
    let dies = format!(
        "[ \"$1\" = --version ] && {version} && exit\n\
         echo 'E1121 15:00:00.000000 run.go:72] \"command failed\" err=\"no luck\"' >&2\nexit 3"
    );
    let cases: [(Scripts<'_>, &[&str]); 3] = [
        (
            &[("kubelet", "echo Kubernetes v1.35.9")],
            &["kubelet", "v1.35.9"],
        ),
        (
            &[("kube-scheduler", "echo hello")],
            &["kube-scheduler", "'hello'"],
        ),
        (
            &[("kube-apiserver", &dies)],
            &[
                "kube-apiserver of cluster dev ended",
                "exit status: 3",
                "no luck",
            ],
        ),
    ];
    for (scripts, words) in cases {
        let dir = programs(&lab, scripts);
        let mut command = lab.branchline();
        command.args(["up", "--file"]).arg(topology());
        let (output, told) = run(command.arg("--kubernetes").arg(dir));
        assert_eq!(output.status.code(), Some(5), "{told}");
        for word in words {
            assert!(told.contains(word), "{word} is not in: {told}");
        }
        assert_nothing_left(&lab, &before);
    }
    let empty = tempfile::tempdir().unwrap();
    let mut command = lab.branchline();
    command.args(["up", "--file"]).arg(topology());
    let (output, told) = run(command.arg("--kubernetes").arg(empty.path()));
    assert_eq!(output.status.code(), Some(5), "{told}");
    assert!(told.contains("scripts/kubernetes.sh"), "{told}");
    assert_nothing_left(&lab, &before);
}

#[test]
fn interrupting_a_control_plane_on_its_way_leaves_nothing() {
    require_root!();
    require_kubernetes!();
    let before = machine();
    let lab = Lab::new("midway");
    let mut command = lab.branchline();
    command.args(["up", "--file"]).arg(topology());
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let begun = lines.by_ref().map(Result::unwrap);
    let mut seen = begun.take_while(|l| !l.contains("control plane"));
    assert!(seen.by_ref().count() > 0);
    // Its programs run by now, or are about to.
    let log = lab.place.clusters_dir().join("dev/kube-apiserver.log");
    until("the API server's start", || log.exists());
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    child.wait().unwrap();
    assert_nothing_left(&lab, &before);
}
