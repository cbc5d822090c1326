//! A whole lab from the command line: up, play, down, and every way in which that goes wrong.
#![allow(
    clippy::unwrap_used,
    reason = "a helper of a test may panic as the test may"
)]

mod common;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use common::{Lab, machine, require_root};
use lab::cgroup::Cgroups;
use lab::state::State;
use lab::teardown;
use rustix::process::{Pid, Signal, kill_process};

fn bare() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bare.yaml")
}

fn run(command: &mut Command) -> (Output, String) {
    let output = command.output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, told)
}

fn up(lab: &Lab, file: &Path) -> (Output, String) {
    run(lab.branchline().args(["up", "--file"]).arg(file))
}

/// Connects from the node to the database and returns the greeting.
fn greeting(lab: &Lab) -> String {
    let script = "exec 3<>/dev/tcp/10.0.21.40/5432 && head -1 <&3";
    let (output, told) = run(lab
        .branchline()
        .args(["exec", "n1", "--", "bash", "-c", script]));
    assert!(output.status.success(), "{told}");
    String::from_utf8(output.stdout).unwrap()
}

fn signal(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

/// Kills a lab's daemon and waits until it is gone.
fn kill(state: &State) {
    signal(state.daemon.pid, Signal::KILL);
    while state.daemon.is_alive() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

fn assert_nothing_left(lab: &Lab, before: &str) {
    let cgroups = Cgroups::mounted().unwrap();
    assert!(!teardown::is_left(&lab.place, &cgroups));
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let dir = lab.place.dir().to_str().unwrap();
    assert!(!mounts.contains(dir), "mounts below {dir} are left");
    common::same(before, &machine());
}

#[test]
fn a_lab_comes_up_stays_and_goes() {
    require_root!();
    let before = machine();
    let lab = Lab::new("whole");
    let (output, told) = up(&lab, &bare());
    assert!(output.status.success(), "{told}");
    assert!(told.contains("is up after"), "{told}");
    // What the machine itself sees of a lab: nothing.
    common::same(&before, &machine());
    assert!(greeting(&lab).starts_with("orders 10.0.21.40:5432 sees 10.0.1.11:"));

    let (output, told) = up(&lab, &bare());
    assert_eq!(output.status.code(), Some(5));
    assert!(told.contains("is already up (process"), "{told}");

    let state = State::of_running(&lab.place).unwrap();
    let other = Lab::new("other");
    let port = state.port.to_string();
    let (output, told) = run(other
        .branchline()
        .args(["up", "--port", &port, "--file"])
        .arg(bare()));
    assert_eq!(output.status.code(), Some(5));
    assert!(
        told.contains(&format!("port {port} on 127.0.0.1 is in use")),
        "{told}"
    );
    assert_nothing_left(&other, &before);

    // Traffic needs none of the lab's processes but those in the namespaces.
    signal(state.daemon.pid, Signal::STOP);
    assert!(greeting(&lab).starts_with("orders "));
    let (output, told) = run(lab.branchline().arg("down"));
    assert!(
        output.status.success(),
        "a stopped daemon goes down too: {told}"
    );
    let (output, told) = run(lab.branchline().arg("down"));
    assert!(
        output.status.success() && told.contains("was not up"),
        "{told}"
    );
    assert_nothing_left(&lab, &before);
}

#[test]
fn a_killed_lab_goes_on_and_down_removes_it() {
    require_root!();
    let before = machine();
    let lab = Lab::new("killed");
    let (output, told) = up(&lab, &bare());
    assert!(output.status.success(), "{told}");
    let state = State::of_running(&lab.place).unwrap();
    kill(&state);
    assert!(
        greeting(&lab).starts_with("orders "),
        "packets do not need the daemon"
    );
    let (output, told) = run(lab.branchline().arg("status"));
    assert!(
        !output.status.success() && told.contains("no lab 'killed' is up"),
        "{told}"
    );
    let (output, told) = run(lab.branchline().arg("down"));
    assert!(output.status.success(), "{told}");
    assert_nothing_left(&lab, &before);

    // The same, with `up` as the one that finds the remains.
    up(&lab, &bare());
    kill(&State::of_running(&lab.place).unwrap());
    let (output, told) = up(&lab, &bare());
    assert!(output.status.success(), "{told}");
    assert!(told.contains("removing what is left"), "{told}");
    run(lab.branchline().arg("down"));
    assert_nothing_left(&lab, &before);
}

#[test]
fn interrupting_up_leaves_nothing() {
    require_root!();
    let before = machine();
    // Enough nodes that the interrupt comes in the middle.
    let text = std::fs::read_to_string(bare()).unwrap();
    let many = text.replace("    address: 10.0.1.11\n", "    count: 40\n");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("many.yaml");
    std::fs::write(&file, many).unwrap();
    for after in ["network", "hosts", "instances"] {
        let lab = Lab::new("interrupted");
        let mut command = lab.branchline();
        command
            .args(["up", "--file"])
            .arg(&file)
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut told = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains(after) {
            line.clear();
            assert_ne!(told.read_line(&mut line).unwrap(), 0, "{after} never came");
        }
        signal(child.id().try_into().unwrap(), Signal::INT);
        let mut rest = String::new();
        told.read_to_string(&mut rest).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(5), "{rest}");
        assert!(
            rest.contains("interrupted; everything that was started"),
            "{rest}"
        );
        assert_nothing_left(&lab, &before);
    }
}

#[test]
fn what_cannot_start_says_why_and_leaves_nothing() {
    require_root!();
    let before = machine();
    let lab = Lab::new("wrong");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("topology.yaml");
    let text = std::fs::read_to_string(bare()).unwrap();

    std::fs::write(
        &file,
        text.replace("kind: rds", "kind: rds\n    colour: blue"),
    )
    .unwrap();
    let (output, told) = up(&lab, &file);
    assert_eq!(output.status.code(), Some(2));
    let place = format!("{}:19:5: unknown field `colour`", file.display());
    assert!(told.contains(&place), "{told}");

    std::fs::write(
        &file,
        text.replace("subnet: nodes", "type: z9.huge\n    subnet: nodes"),
    )
    .unwrap();
    let (_, told) = up(&lab, &file);
    assert!(
        told.contains("RunInstances: InvalidParameterValue") && told.contains("z9.huge"),
        "{told}"
    );
    assert_nothing_left(&lab, &before);

    let (output, told) = run(lab.branchline().args(["exec", "nobody", "--", "true"]));
    assert_eq!(output.status.code(), Some(5));
    assert!(told.contains("no pod, node or host 'nobody'"), "{told}");
    let (_, told) = run(lab.branchline().args(["pod", "run", "x", "--", "true"]));
    assert!(told.contains("no lab 'wrong' is up"), "{told}");
    let mut nobody = lab.branchline();
    let (output, told) = run(nobody.arg("status").uid(65534).gid(65534));
    assert_eq!(output.status.code(), Some(5));
    assert!(told.contains("the lab needs root"), "{told}");
}

#[test]
fn an_instance_that_anybody_launches_is_a_node_until_it_is_terminated() {
    require_root!();
    let before = machine();
    let lab = Lab::new("launched");
    let (output, told) = up(&lab, &bare());
    assert!(output.status.success(), "{told}");
    let state = State::of_running(&lab.place).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        use ec2::types::{DescribeInstancesRequest, TerminateInstancesRequest};
        let client = ec2::Client::builder()
            .region("us-west-2")
            .endpoint(format!("http://127.0.0.1:{}", state.port))
            .credentials(ec2::Credentials::new(
                "AKIDTEST", "secret", None, None, "test",
            ))
            .build()
            .unwrap();
        let found = client
            .call(DescribeInstancesRequest::default())
            .await
            .unwrap();
        let id = found.reservations[0].instances[0]
            .instance_id
            .clone()
            .unwrap();
        assert_eq!(id, state.nodes["n1"].instance);
        let request = TerminateInstancesRequest {
            instance_ids: vec![id],
            ..Default::default()
        };
        client.call(request).await.unwrap();
    });
    let gone = || State::of_running(&lab.place).unwrap().nodes.is_empty();
    let begun = std::time::Instant::now();
    while !gone() {
        assert!(
            begun.elapsed().as_secs() < 120,
            "the node outlives its instance"
        );
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    while lab::exec::find(&lab.place, &Cgroups::mounted().unwrap(), "n1").is_ok() {
        assert!(
            begun.elapsed().as_secs() < 120,
            "the node's processes outlive its instance"
        );
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    run(lab.branchline().arg("down"));
    assert_nothing_left(&lab, &before);
}

#[test]
fn knobs_are_merged_and_unknown_ones_refused() {
    require_root!();
    let lab = Lab::new("knobs");
    let (output, told) = up(&lab, &bare());
    assert!(output.status.success(), "{told}");
    let set = |json: &str| run(lab.branchline().args(["knob", "set", json]));
    let (output, told) = set(r#"{"describe_lag_ms": 7}"#);
    assert!(output.status.success(), "{told}");
    let (output, _) = set(r#"{"imds_lag_ms": 9}"#);
    let all = String::from_utf8(output.stdout).unwrap();
    assert!(
        all.contains("\"describe_lag_ms\":7") && all.contains("\"imds_lag_ms\":9"),
        "{all}"
    );
    let (output, told) = set(r#"{"colour": "blue"}"#);
    assert!(
        !output.status.success() && told.contains("unknown field `colour`"),
        "{told}"
    );
}

/// Two labs at once do not know of each other, though their addresses are the same.
#[test]
fn two_labs_share_nothing() {
    require_root!();
    let (a, b) = (Lab::new("one"), Lab::new("two"));
    for lab in [&a, &b] {
        let (output, told) = up(lab, &bare());
        assert!(output.status.success(), "{told}");
    }
    assert!(greeting(&a).starts_with("orders "));
    run(a.branchline().arg("down"));
    assert!(greeting(&b).starts_with("orders "));
}

#[test]
fn the_environment_is_for_a_shell() {
    require_root!();
    let lab = Lab::new("shell");
    let (output, told) = up(&lab, &bare());
    assert!(output.status.success(), "{told}");
    let (env, told) = run(lab.branchline().arg("env"));
    assert!(env.status.success(), "{told}");
    let mut shell = Command::new("sh");
    shell.arg("-s").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut shell = shell.spawn().unwrap();
    let mut stdin = shell.stdin.take().unwrap();
    stdin.write_all(&env.stdout).unwrap();
    stdin
        .write_all(b"echo $AWS_ENDPOINT_URL; echo $BRANCHLINE_EXEC\n")
        .unwrap();
    drop(stdin);
    let output = shell.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let port = State::of_running(&lab.place).unwrap().port;
    assert!(
        text.starts_with(&format!("http://127.0.0.1:{port}\n")),
        "{text}"
    );
    assert!(text.trim_end().ends_with("{pod} --"), "{text}");
    assert!(
        TcpListener::bind(("127.0.0.1", port)).is_err(),
        "the API listens there"
    );
}
