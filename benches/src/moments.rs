//! What is measured inside a node at bad moments: the agent killed and started with pods to adopt, a
//! flushed rule table, a burst of ADDs among pods that come and go.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use cni::rpc::node::{ListAllocationsReply, StatusReply};
use cni::rpc::unary::Channel;
use cni::rpc::{IPAMD_SOCKET, NODE_LIST_ALLOCATIONS, NODE_STATUS};
use kernel::Socket;
use nodenet::Rule;
use serde::{Deserialize, Serialize};

use crate::figure::{Goal, Samples, fact, row, time};
use crate::node::{end, fresh};
use crate::runtime::{Pod, Runtime};

/// Starts of the agent that are timed; the first is not counted.
const STARTS: u32 = 20;
/// Flushes in a row: more than five of one rule in a minute are a fight, which the agent leaves.
const FLUSHES: u32 = 5;
const OTHERS: u32 = 100;
const AT_ONCE: u32 = 30;
const BURSTS: u32 = 12;

/// How the agent of this node was started.
#[derive(Debug, Serialize, Deserialize)]
struct Agent {
    program: String,
    environment: Vec<(String, String)>,
}

/// Prints how the agent of this node was started.
pub(crate) fn agent_command() -> anyhow::Result<()> {
    for entry in std::fs::read_dir("/proc")? {
        let path = entry?.path();
        // Not a process, or one that ends just now.
        let Ok(arguments) = std::fs::read(path.join("cmdline")) else {
            continue;
        };
        let words: Vec<&[u8]> = arguments.split(|byte| *byte == 0).collect();
        if !words[0].ends_with(b"branchline-agent") || words.get(1) != Some(&&b"addresses"[..]) {
            continue;
        }
        let environment = String::from_utf8(std::fs::read(path.join("environ"))?)?;
        let pairs = environment.split('\0').filter_map(|v| v.split_once('='));
        let agent = Agent {
            program: String::from_utf8(words[0].to_vec())?,
            environment: pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
        };
        println!("{}", serde_json::to_string(&agent)?);
        return Ok(());
    }
    bail!("no agent runs on this node")
}

/// Kills and starts the agent: from its exec to the first answer that pods are served.
pub(crate) fn adopt(command: &str, pods: usize) -> anyhow::Result<()> {
    let agent: Agent = serde_json::from_str(command)?;
    let mut samples = Samples::default();
    for round in 0..=STARTS {
        let begun = Instant::now();
        let mut child = Command::new(&agent.program)
            .arg("addresses")
            .env_clear()
            .envs(agent.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("execute {}", agent.program))?;
        let took = ready(&mut child, begun);
        let adopted = took.and_then(|took| Ok((took, leases()?)));
        // As a crash ends it: the next start finds the journal, not a fresh checkpoint.
        child.kill()?;
        child.wait()?;
        let (took, leases) = adopted?;
        anyhow::ensure!(leases == pods, "{leases} of {pods} pods were adopted");
        if round > 0 {
            samples.0.push(took);
        }
    }
    let what = format!("exec to ready, {pods} pods to adopt");
    row(&what, &samples, Goal::AtMost(Duration::from_millis(50)));
    Ok(())
}

fn ready(child: &mut Child, begun: Instant) -> anyhow::Result<Duration> {
    let mut last = "nobody listens".to_owned();
    while begun.elapsed() < Duration::from_secs(20) {
        match status() {
            Ok(status) if status.ready => return Ok(begun.elapsed()),
            Ok(status) => last = status.reason,
            Err(error) => last = error.to_string(),
        }
        if let Some(code) = child.try_wait()? {
            bail!("the agent ended: {code}");
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    bail!("not ready after {}: {last}", time(begun.elapsed()))
}

fn status() -> anyhow::Result<StatusReply> {
    let deadline = Instant::now() + Duration::from_secs(1);
    let mut channel = Channel::connect(Path::new(IPAMD_SOCKET), deadline)?;
    Ok(channel.call(NODE_STATUS, &(), deadline)?)
}

fn leases() -> anyhow::Result<usize> {
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut channel = Channel::connect(Path::new(IPAMD_SOCKET), deadline)?;
    let reply: ListAllocationsReply = channel.call(NODE_LIST_ALLOCATIONS, &(), deadline)?;
    Ok(reply.allocations.len())
}

/// Takes all of the agent's rules away, as `ip rule flush` and a NetworkManager do; until all are
/// back.
pub(crate) fn repair() -> anyhow::Result<()> {
    let mut socket = Socket::open()?;
    let whole = rules(&mut socket)?;
    // The kernel's own three stay: without the table `main` nothing works, and they are nobody's.
    let ours: Vec<Rule> = whole
        .iter()
        .filter(|rule| !matches!(rule.priority, 0 | 32766 | 32767))
        .cloned()
        .collect();
    let mut samples = Samples::default();
    for _ in 0..FLUSHES {
        for rule in &ours {
            // It may be back already.
            if let Err(error) = socket.del_rule(rule)
                && rules(&mut socket)?.contains(rule)
            {
                return Err(error).with_context(|| format!("taking {rule} away"));
            }
        }
        let begun = Instant::now();
        while rules(&mut socket)? != whole {
            if begun.elapsed() > Duration::from_secs(10) {
                let there = rules(&mut socket)?;
                let missing = whole.iter().filter(|rule| !there.contains(rule)).count();
                bail!("{missing} of {} rules are not back after 10 s", ours.len());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        samples.0.push(begun.elapsed());
        std::thread::sleep(Duration::from_secs(1));
    }
    let what = format!("{} flushed rules, until all are back", ours.len());
    row(&what, &samples, Goal::AtMost(Duration::from_secs(1)));
    Ok(())
}

fn rules(socket: &mut Socket) -> anyhow::Result<Vec<Rule>> {
    let mut rules = socket.rules()?;
    // Of equal priority, the order is that of their making.
    rules.sort_by_key(|rule| (rule.priority, rule.to_string()));
    Ok(rules)
}

/// So many ADDs at once, while the pods of another set come and go one after the other.
pub(crate) fn churn() -> anyhow::Result<()> {
    let runtime = Runtime::load()?;
    let mut others = fresh("other", 0, OTHERS)?;
    for pod in &mut others {
        runtime.add(pod)?;
    }
    let (mut samples, mut failed, mut passed) = (Samples::default(), Vec::new(), 0);
    for round in 0..=BURSTS {
        let mut pods = fresh("burst", round, AT_ONCE)?;
        let (stop, changes) = (AtomicBool::new(false), AtomicU32::new(0));
        let (took, failures) = std::thread::scope(|scope| {
            let churning = scope.spawn(|| -> anyhow::Result<()> {
                for at in (0..others.len()).cycle() {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    // Another pod in a namespace of its own, as a runtime makes it: the kernel takes
                    // the link of the old one away with its namespace, in the background.
                    let number = changes.fetch_add(1, Ordering::Relaxed);
                    let new = Pod::new(&format!("other-{round}-{at}-{number}"))?;
                    let old = std::mem::replace(&mut others[at], new);
                    runtime.del(&old)?;
                    drop(old);
                    runtime.add(&mut others[at])?;
                }
                Ok(())
            });
            // The others are in full swing by then.
            while changes.load(Ordering::Relaxed) < 5 && !churning.is_finished() {
                std::thread::sleep(Duration::from_millis(1));
            }
            let burst = runtime.add_all(&mut pods);
            stop.store(true, Ordering::Relaxed);
            match churning.join() {
                Ok(churned) => churned.context("a pod that comes and goes").and(burst),
                Err(_) => bail!("the thread of the churn panicked"),
            }
        })?;
        failed.extend(failures);
        passed += changes.into_inner();
        if round > 0 {
            samples.0.push(took);
        }
        pods.iter().try_for_each(|pod| runtime.del(pod).map(drop))?;
        end(pods)?;
    }
    let what = format!("{AT_ONCE} ADDs at once, {OTHERS} others churn");
    let goal = Goal::AtMost(Duration::from_millis(60));
    row(&what, &samples, goal);
    let of = AT_ONCE * (BURSTS + 1);
    fact(
        "  failed",
        &format!("{} of {of}", failed.len()),
        "0",
        failed.is_empty(),
    );
    fact("  others that came and went", &passed.to_string(), "", true);
    if let Some(first) = failed.first() {
        println!("  the first failure: {first}");
    }
    others
        .iter()
        .try_for_each(|pod| runtime.del(pod).map(drop))?;
    end(others)
}

/// So many pods come and go, ten at a time.
pub(crate) fn pass(count: u32) -> anyhow::Result<()> {
    let runtime = Runtime::load()?;
    for round in 0..count.div_ceil(10) {
        let mut pods = fresh("pass", round, 10)?;
        for pod in &mut pods {
            runtime.add(pod)?;
        }
        pods.iter().try_for_each(|pod| runtime.del(pod).map(drop))?;
        end(pods)?;
    }
    Ok(())
}

/// Fills the node so many pods at a time; they stay until the node ends.
pub(crate) fn fill_by(count: u32, at_once: u32) -> anyhow::Result<()> {
    let runtime = Runtime::load()?;
    for round in 0..count.div_ceil(at_once) {
        let mut pods = fresh("stay", round, at_once.min(count - round * at_once))?;
        let (_, failed) = runtime.add_all(&mut pods)?;
        // Their namespaces stay pinned in the node's own mounts.
        pods.into_iter().for_each(std::mem::forget);
        if let Some(first) = failed.first() {
            bail!(
                "{} of {at_once} ADDs failed, the first: {first}",
                failed.len()
            );
        }
    }
    Ok(())
}
