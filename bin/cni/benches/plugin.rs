//! What one ADD and one DEL cost, executed as a runtime executes them, each against its floor in
//! the same run: starting the same binary for nothing (VERSION), and the kernel's part alone in
//! one process.
//!
//! `AWS_CNI=path/to/aws-cni cargo bench -p branchline-cni`: the statically linked binary that is
//! shipped; without the variable the dynamically linked one of this build.

use std::os::fd::AsFd as _;
use std::os::fd::AsRawFd as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use kernel::{NetNs, Socket};

#[path = "../tests/plugin/agent.rs"]
#[allow(dead_code, reason = "a bench needs less of the daemon than the tests")]
mod agent;

const ROUNDS: usize = 200;

struct Bench {
    binary: String,
    agent: agent::Agent,
    log: tempfile::TempDir,
}

impl Bench {
    fn command(&self, command: &str, container: &str, netns: &str) -> Command {
        let mut plugin = Command::new(&self.binary);
        plugin
            .env_clear()
            .env("AWS_VPC_CNI_IPAMD_SOCKET", self.agent.ipamd())
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", container)
            .env("CNI_NETNS", netns)
            .env("CNI_IFNAME", "eth0")
            .env(
                "CNI_ARGS",
                format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=d;K8S_POD_NAME={container}"),
            )
            .stdout(Stdio::null())
            .stdin(self.stdin());
        plugin
    }

    fn stdin(&self) -> std::fs::File {
        let path = self.log.path().join("conf.json");
        if !path.exists() {
            let log = self.log.path().join("plugin.log");
            let conf = serde_json::json!({
                "cniVersion": "0.4.0", "name": "aws-cni", "type": "aws-cni", "vethPrefix": "eni",
                "mtu": "9001", "pluginLogFile": log, "pluginLogLevel": "Debug",
            });
            std::fs::write(&path, conf.to_string()).expect("written");
        }
        std::fs::File::open(path).expect("opened")
    }
}

fn timed(times: &mut Vec<Duration>, command: &mut Command) {
    let started = Instant::now();
    let status = command.status().expect("executed");
    times.push(started.elapsed());
    assert!(status.success());
}

fn print(name: &str, times: &mut [Duration]) {
    times.sort();
    let at = |per_mille: usize| times[(times.len() - 1) * per_mille / 1000].as_micros();
    println!(
        "{name:<44} p50 {:>6} us   p99 {:>6} us   min {:>6} us",
        at(500),
        at(990),
        at(0)
    );
}

fn kernel_only(host: &mut Socket, ns: &NetNs, n: u8, times: &mut Vec<Duration>) {
    let wiring = nodenet::PodWiring::new(&nodenet::PodPort {
        pod: nodenet::PodName::new("floor", "pod"),
        index: 0,
        ifname: nodenet::LinkName::new("eth0").expect("a name"),
        address: std::net::Ipv4Addr::new(10, 8, 0, n),
        table: nodenet::TableId::MAIN,
        veth_prefix: nodenet::VethPrefix::default(),
        mtu: 9001,
    });
    let started = Instant::now();
    let macs = kernel::pod::Macs::random().expect("random");
    kernel::pod::add(host, ns, &wiring, macs).expect("wired");
    times.push(started.elapsed());
    kernel::pod::del(host, &wiring.host).expect("removed");
    host.del_link(&wiring.host.link).expect("removed");
}

fn main() {
    let node = NetNs::create().expect("this bench needs root");
    node.enter_for_good().expect("entered");
    let binary = std::env::var("AWS_CNI").unwrap_or(env!("CARGO_BIN_EXE_aws-cni").to_owned());
    let agent = agent::Agent::start();
    let log = tempfile::tempdir().expect("a directory");
    let bench = Bench { binary, agent, log };
    let mut host = Socket::open().expect("a socket");
    let [mut start, mut kernel, mut add, mut del, mut again] = [const { Vec::new() }; 5];
    for round in 0..ROUNDS {
        let ns = NetNs::create().expect("a namespace");
        let path = format!("/proc/{}/fd/{}", std::process::id(), ns.as_fd().as_raw_fd());
        let container = format!("pod-{round}");
        timed(&mut start, &mut bench.command("VERSION", &container, &path));
        timed(&mut add, &mut bench.command("ADD", &container, &path));
        timed(&mut del, &mut bench.command("DEL", &container, &path));
        timed(&mut again, &mut bench.command("DEL", &container, ""));
        let empty = NetNs::create().expect("a namespace");
        kernel_only(
            &mut host,
            &empty,
            u8::try_from(round % 250).expect("small"),
            &mut kernel,
        );
    }
    print("start of the binary (VERSION)", &mut start);
    print("kernel's part of an ADD, one process", &mut kernel);
    print("ADD", &mut add);
    print("DEL with the pod's namespace", &mut del);
    print("DEL of an unknown pod without namespace", &mut again);
}
