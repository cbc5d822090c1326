//! The agent of a full node: what 110 pods cost in EC2 calls, memory and idle time, how fast it is
//! back, how fast it repairs, and 30 pods at once while 100 others come and go.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use crate::figure::{fact, section, time};
use crate::lab::Lab;
use crate::labs::{Paths, cpu, number, read, stat};

const PODS: u32 = 110;
/// How long EC2 is not called before the agent counts as settled.
const QUIET: Duration = Duration::from_secs(5);
/// How long a full node is watched when nothing happens.
const IDLE: Duration = Duration::from_secs(300);
/// Pods of a month: five an hour come and go.
const MONTH: u32 = 3600;

/// Everything about a full node.
pub(crate) fn full(paths: &Paths) -> anyhow::Result<()> {
    section(
        "EC2 calls of a scale-up from 0 to 110 pods (m5.4xlarge; Assign takes 0.3 s, Attach 0.7 s)",
    );
    let lab = Lab::up(&paths.bin, &paths.topology("full.yaml"))?;
    // As EC2 takes its time: calls that are answered at once leave nothing to be asked for together.
    let knob = r#"{"latency_ms":{"AssignPrivateIpAddresses":300,"CreateNetworkInterface":400,
        "AttachNetworkInterface":700,"ModifyNetworkInterfaceAttribute":150}}"#;
    lab.run(["lab", "knob", "set", knob])?;
    // Upstream's source: for each interface DescribeSubnets (twice), CreateNetworkInterface,
    // DescribeInstances, AttachNetworkInterface, ModifyNetworkInterfaceAttribute; and with a warm
    // target of one address one AssignPrivateIpAddresses for each pod, since waiting pods are not
    // counted.
    let interfaces = PODS.div_ceil(29);
    scale_up(&lab, "full", &["fill", "110"], interfaces * 6)?;
    let bound = PODS + (interfaces - 1) * 6;
    scale_up(&lab, "lean", &["fill-by", "110", "10"], bound)?;

    section("the agent of a node with 110 pods");
    let group = lab.agent_group("memory", "full");
    memory(&group)?;
    idle(&lab, &group)?;
    lab.inside("full", &["repair"])?;
    let command = lab.inside_for("full", &["agent-command"])?;
    lab.run(["lab", "node", "service", "full", "agent", "stop"])?;
    lab.inside("full", &["adopt", command.trim(), &PODS.to_string()])?;
    lab.run(["lab", "node", "service", "full", "agent", "start"])?;
    lab.down().map(drop)
}

/// 30 pods at once while others churn, and the agent's memory over a month of pods.
pub(crate) fn churn(paths: &Paths) -> anyhow::Result<()> {
    section("30 ADDs at once while 100 other pods come and go");
    let lab = Lab::up(&paths.bin, &paths.topology("churn.yaml"))?;
    lab.inside("churn", &["churn"])?;
    section("memory over a month of pods (five an hour come and go)");
    let group = lab.agent_group("memory", "churn");
    // What is allocated once is allocated by then.
    lab.inside("churn", &["pass", "400"])?;
    let before = anonymous(&group)?;
    lab.inside("churn", &["pass", &MONTH.to_string()])?;
    let after = anonymous(&group)?;
    fact("anonymous memory before", &mib(before), "", true);
    let flat = after <= before + before / 20;
    let what = format!("  after {MONTH} more pods");
    fact(&what, &mib(after), "flat: ≤ +5 %", flat);
    lab.down().map(drop)
}

fn scale_up(lab: &Lab, node: &str, part: &[&str], upstream: u32) -> anyhow::Result<()> {
    settle(lab)?;
    let before = calls(lab)?;
    let begun = Instant::now();
    lab.inside_for(node, part)?;
    let took = begun.elapsed();
    settle(lab)?;
    let mut made = calls(lab)?;
    for (action, n) in &before {
        *made.entry(action.clone()).or_default() -= n;
    }
    made.retain(|_, n| *n > 0);
    let total: u64 = made.values().sum();
    let (per_pod, bound) = (
        total as f64 / f64::from(PODS),
        f64::from(upstream) / f64::from(PODS),
    );
    let what = match node {
        "full" => "calls per pod, default targets",
        _ => "calls per pod, WARM_IP_TARGET=1, ten at once",
    };
    fact(
        what,
        &format!("{per_pod:.2}"),
        &format!("≤ {:.2}", bound / 4.0),
        per_pod <= bound / 4.0,
    );
    let list: Vec<String> = made
        .iter()
        .map(|(action, n)| format!("{n} {action}"))
        .collect();
    println!("  {total} calls in {}: {}", time(took), list.join(", "));
    println!("  upstream, by its source, at least {upstream}: {bound:.2} per pod");
    Ok(())
}

/// Waits until EC2 has not been called for a while.
fn settle(lab: &Lab) -> anyhow::Result<()> {
    let begun = Instant::now();
    let (mut last, mut since) = (calls(lab)?, Instant::now());
    while since.elapsed() < QUIET {
        if begun.elapsed() > Duration::from_secs(120) {
            bail!("EC2 is still called two minutes later: {last:?}");
        }
        std::thread::sleep(Duration::from_millis(200));
        let now = calls(lab)?;
        if now != last {
            (last, since) = (now, Instant::now());
        }
    }
    Ok(())
}

/// Calls that the server has answered to agents, by action.
fn calls(lab: &Lab) -> anyhow::Result<BTreeMap<String, u64>> {
    let counts: serde_json::Value = serde_json::from_str(&lab.surface("/_lab/calls")?)?;
    let mut found = BTreeMap::new();
    for (caller, actions) in counts.as_object().context("an object")? {
        if caller.contains(":assumed-role/") {
            for (action, n) in actions.as_object().context("actions")? {
                *found.entry(action.clone()).or_default() += n.as_u64().context("a count")?;
            }
        }
    }
    Ok(found)
}

fn memory(group: &Path) -> anyhow::Result<()> {
    let usage = number(&group.join("memory.usage_in_bytes"))?;
    let most = 16 << 20;
    fact(
        "memory of its cgroup (memory.usage_in_bytes)",
        &mib(usage),
        "≤ 16 MiB",
        usage <= most,
    );
    fact(
        "  of it anonymous (memory.stat total_rss)",
        &mib(anonymous(group)?),
        "",
        true,
    );
    let resident = resident(group)?;
    fact("resident (VmRSS)", &mib(resident), "", true);
    Ok(())
}

/// What upstream's figure is: pages of the program and its libraries included.
fn resident(group: &Path) -> anyhow::Result<u64> {
    let mut kib = 0;
    for pid in read(&group.join("cgroup.procs"))?.lines() {
        let status = read(Path::new(&format!("/proc/{pid}/status")))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line.and_then(|line| line.split_whitespace().next());
        kib += number.context("VmRSS")?.parse::<u64>()?;
    }
    Ok(kib * 1024)
}

fn idle(lab: &Lab, group: &Path) -> anyhow::Result<()> {
    settle(lab)?;
    let before = (cpu(group)?, calls(lab)?);
    std::thread::sleep(IDLE);
    let (spent, after) = (cpu(group)? - before.0, calls(lab)?);
    let minutes = IDLE.as_secs_f64() / 60.0;
    let minute = spent.div_f64(minutes);
    let goal = Duration::from_millis(2);
    fact(
        &format!("processor time in an idle minute, of {minutes:.0}"),
        &time(minute),
        "≤ 2 ms",
        minute <= goal,
    );
    let made: u64 = after.values().sum::<u64>() - before.1.values().sum::<u64>();
    fact(
        &format!("EC2 calls in {minutes:.0} idle minutes"),
        &made.to_string(),
        "0",
        made == 0,
    );
    println!(
        "  once an hour the sweep asks for the node's interfaces and for leftovers: two calls"
    );
    Ok(())
}

fn anonymous(group: &Path) -> anyhow::Result<u64> {
    stat(&group.join("memory.stat"), "total_rss")
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / 1_048_576.0)
}
