//! What needs a whole lab.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::figure::{Goal, Samples, fact, row, section};
use crate::lab::Lab;

/// What EC2 takes to attach an interface, by the knob.
const EC2: Duration = Duration::from_millis(700);
/// How much more the ADD that waits for it may take.
const SURPLUS: Duration = Duration::from_millis(50);
/// How long the idle agent is watched.
const IDLE: Duration = Duration::from_secs(120);
const STORY_NODE: &str = "ip-10-0-1-11";

/// Where things lie.
pub(crate) struct Paths {
    /// The release binaries.
    pub(crate) bin: PathBuf,
    /// The static program that does nothing.
    pub(crate) floor: PathBuf,
    /// The repository.
    pub(crate) root: PathBuf,
}

impl Paths {
    pub(crate) fn topology(&self, name: &str) -> PathBuf {
        self.root.join("benches/topologies").join(name)
    }

    fn story(&self) -> PathBuf {
        self.root.join("scenarios/rds/topology.yaml")
    }

    fn floor(&self) -> anyhow::Result<&str> {
        self.floor.to_str().context("a path that is text")
    }
}

pub(crate) fn cni(paths: &Paths) -> anyhow::Result<()> {
    section("CNI: the plugin executed as a runtime does, the agent on a node of a lab");
    let lab = Lab::up(&paths.bin, &paths.topology("warm.yaml"))?;
    lab.inside("warm", &["one-by-one", paths.floor()?])?;
    lab.inside("warm", &["at-once", paths.floor()?])?;
    lab.down().map(drop)
}

pub(crate) fn attach(paths: &Paths) -> anyhow::Result<()> {
    section("ADD that must attach an interface, EC2 takes 0.7 s for it");
    let lab = Lab::up(&paths.bin, &paths.topology("cold.yaml"))?;
    let knob = format!(
        r#"{{"latency_ms":{{"AttachNetworkInterface":{}}}}}"#,
        EC2.as_millis()
    );
    lab.run(["lab", "knob", "set", &knob])?;
    let mut samples = Samples::default();
    for node in 1..=5 {
        let ec2 = EC2.as_millis().to_string();
        let told = lab.inside_for(&format!("cold-{node}"), &["grow", "11", &ec2])?;
        for line in told.lines() {
            samples.0.push(Duration::from_micros(line.parse()?));
        }
    }
    anyhow::ensure!(
        samples.0.len() == 10,
        "10 ADDs must attach, not {}",
        samples.0.len()
    );
    row("ADD with attachment", &samples, Goal::AtMost(EC2 + SURPLUS));
    let more = Samples(samples.0.iter().map(|t| t.saturating_sub(EC2)).collect());
    row("  more than EC2's time", &more, Goal::AtMost(SURPLUS));
    lab.down().map(drop)
}

pub(crate) fn up(paths: &Paths) -> anyhow::Result<()> {
    section("a lab of the topology rds");
    let (mut up, mut down) = (Samples::default(), Samples::default());
    for _ in 0..7 {
        let lab = Lab::up(&paths.bin, &paths.story())?;
        up.0.push(lab.took);
        down.0.push(lab.down()?);
    }
    row("lab up", &up, Goal::AtMost(Duration::from_secs(3)));
    row("lab down", &down, Goal::None);
    Ok(())
}

/// The whole command, from EC2 and the agent to the printed answer.
pub(crate) fn command(paths: &Paths) -> anyhow::Result<()> {
    section("branchline why, the whole command: EC2 and the agent read, answered, printed");
    let lab = Lab::up(&paths.bin, &paths.story())?;
    lab.run([
        "lab", "pod", "run", "api", "--count", "15", "--", "sleep", "infinity",
    ])?;
    row("one node, 15 pods", &why(&lab)?, Goal::None);
    lab.down()?;
    let lab = Lab::up(&paths.bin, &paths.topology("large.yaml"))?;
    lab.inside(STORY_NODE, &["fill", "735"])?;
    let hundred = Goal::AtMost(Duration::from_millis(100));
    row("one node, 735 pods", &why(&lab)?, hundred);
    lab.down().map(drop)
}

fn why(lab: &Lab) -> anyhow::Result<Samples> {
    let env = lab.env()?;
    let mut samples = Samples::default();
    for _ in 0..20 {
        let mut why = lab.command(["why", &format!("node/{STORY_NODE}"), "rds/orders:5432"]);
        let begun = Instant::now();
        let output = why.envs(env.iter().cloned()).output()?;
        samples.0.push(begun.elapsed());
        let code = output.status.code();
        let said = String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(
            matches!(code, Some(0 | 1)),
            "why: {}: {said}",
            output.status
        );
    }
    Ok(samples)
}

pub(crate) fn idle(paths: &Paths) -> anyhow::Result<()> {
    let seconds = IDLE.as_secs();
    section(&format!(
        "the agent with 15 pods, idle, watched for {seconds} s"
    ));
    let lab = Lab::up(&paths.bin, &paths.story())?;
    lab.run([
        "lab", "pod", "run", "api", "--count", "15", "--", "sleep", "infinity",
    ])?;
    // What the pods caused is over by then.
    std::thread::sleep(Duration::from_secs(10));
    let group = lab.agent_group("memory", STORY_NODE);
    let before = (cpu(&group)?, calls(&lab)?);
    anyhow::ensure!(
        before.1 > 0,
        "the agent's calls at its start must be counted"
    );
    std::thread::sleep(IDLE);
    let (cpu, calls) = (cpu(&group)? - before.0, calls(&lab)? - before.1);
    let usage = number(&group.join("memory.usage_in_bytes"))?;
    let rss = stat(&group.join("memory.stat"), "total_rss")?;
    let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / 1_048_576.0);
    fact(
        "memory of its cgroup (memory.usage_in_bytes)",
        &mib(usage),
        "",
        true,
    );
    fact(
        "  of it anonymous (memory.stat total_rss)",
        &mib(rss),
        "",
        true,
    );
    let share = cpu.as_secs_f64() / IDLE.as_secs_f64() * 100.0;
    fact(
        "processor time, share of one core",
        &format!("{share:.3} %"),
        "≤ 0.1 %",
        share <= 0.1,
    );
    fact("EC2 calls", &calls.to_string(), "0", calls == 0);
    lab.down().map(drop)
}

/// Processor time of all threads in a group, by the scheduler's own account.
pub(crate) fn cpu(group: &Path) -> anyhow::Result<Duration> {
    let mut nanos = 0;
    for pid in read(&group.join("cgroup.procs"))?.lines() {
        for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
            let text = read(&thread?.path().join("schedstat"))?;
            let run = text.split(' ').next().context("schedstat")?;
            nanos += run.parse::<u64>()?;
        }
    }
    Ok(Duration::from_nanos(nanos))
}

pub(crate) fn read(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| path.display().to_string())
}

pub(crate) fn number(path: &Path) -> anyhow::Result<u64> {
    Ok(read(path)?.trim().parse()?)
}

pub(crate) fn stat(path: &Path, name: &str) -> anyhow::Result<u64> {
    let text = read(path)?;
    let line = text.lines().find_map(|l| l.strip_prefix(name));
    Ok(line.context("a line of memory.stat")?.trim().parse()?)
}

/// Calls that the server has answered to agents, all actions.
fn calls(lab: &Lab) -> anyhow::Result<u64> {
    let counts: serde_json::Value = serde_json::from_str(&lab.surface("/_lab/calls")?)?;
    let by_caller = counts.as_object().context("an object")?;
    let of_roles = by_caller
        .iter()
        .filter(|(caller, _)| caller.contains(":assumed-role/"));
    let actions = of_roles.filter_map(|(_, actions)| actions.as_object());
    Ok(actions
        .flat_map(|a| a.values())
        .filter_map(serde_json::Value::as_u64)
        .sum())
}
