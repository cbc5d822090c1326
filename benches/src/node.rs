//! What is measured inside a node of a lab: the real plugin against the real agent, beside the limit
//! that the kernel sets, in turns, so that both meet the same moments of the machine.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use kernel::Socket;
use kernel::pod::Macs;
use nodenet::{PodName, PodPort, PodWiring, VethPrefix};

use crate::figure::{Goal, Samples, fact, row, time};
use crate::runtime::{Pod, Runtime, nothing, nothing_at_once};

/// Pods at once on the node while ADD and DEL are timed, and how often over.
const PODS: u32 = 40;
const ROUNDS: u32 = 12;

/// ADD and DEL, one after the other.
pub(crate) fn one_by_one(floor: &Path) -> anyhow::Result<()> {
    let runtime = Runtime::load()?;
    let mut t = Times::default();
    // The first round warms caches and is forgotten.
    for round in 0..=ROUNDS {
        let now = a_round(&runtime, floor, round)?;
        if round > 0 {
            t.extend(now);
        }
    }
    let (least_add, least_del) = (t.exec.plus(&t.kernel_add), t.exec.plus(&t.kernel_del));
    row(
        "exec of a static program that does nothing",
        &t.exec,
        Goal::None,
    );
    row(
        "kernel's part of ADD, in one process",
        &t.kernel_add,
        Goal::None,
    );
    row(
        "kernel's part of DEL, in one process",
        &t.kernel_del,
        Goal::None,
    );
    row("floor of ADD: exec + kernel", &least_add, Goal::None);
    row("floor of DEL: exec + kernel", &least_del, Goal::None);
    row("ADD, warm address", &t.add, Goal::Times(&least_add, 1.5));
    row("DEL", &t.del, Goal::Times(&least_del, 1.5));
    let (pair, least) = (t.add.plus(&t.del), least_add.plus(&least_del));
    row("ADD and DEL together", &pair, Goal::Times(&least, 1.5));
    for (what, samples) in [("ADD", &t.add), ("DEL", &t.del)] {
        let tail = samples.p99().as_secs_f64() / samples.median().as_secs_f64();
        fact(
            &format!("{what}: p99 / p50"),
            &format!("{tail:.2}"),
            "≤ 3",
            tail <= 3.0,
        );
    }
    Ok(())
}

#[derive(Default)]
struct Times {
    exec: Samples,
    kernel_add: Samples,
    kernel_del: Samples,
    add: Samples,
    del: Samples,
}

impl Times {
    fn extend(&mut self, other: Self) {
        for (mine, new) in [
            (&mut self.exec, other.exec),
            (&mut self.kernel_add, other.kernel_add),
            (&mut self.kernel_del, other.kernel_del),
            (&mut self.add, other.add),
            (&mut self.del, other.del),
        ] {
            mine.0.extend(new.0);
        }
    }
}

fn a_round(runtime: &Runtime, floor: &Path, round: u32) -> anyhow::Result<Times> {
    let mut t = Times::default();
    let mut pods = fresh("one", round, PODS)?;
    let bare = fresh("bare", round, PODS)?;
    let mut wirings = Vec::new();
    for ((n, pod), bare) in (0..).zip(&mut pods).zip(&bare) {
        t.exec.0.push(nothing(floor)?);
        t.add.0.push(runtime.add(pod)?);
        let wiring = wiring(bare, n, pod.table());
        t.kernel_add.0.push(kernel_add(bare, &wiring)?);
        wirings.push(wiring);
    }
    for (pod, wiring) in pods.iter().zip(&wirings) {
        t.del.0.push(runtime.del(pod)?);
        let begun = Instant::now();
        kernel::pod::del(&mut Socket::open()?, &wiring.host)?;
        t.kernel_del.0.push(begun.elapsed());
    }
    end(pods)?;
    end(bare)?;
    Ok(t)
}

/// So many ADDs at once.
pub(crate) fn at_once(floor: &Path) -> anyhow::Result<()> {
    let runtime = Runtime::load()?;
    for (count, goal) in [(15, None), (30, Some(Duration::from_millis(40)))] {
        let (mut all, mut least) = (Samples::default(), Samples::default());
        let mut failed = Vec::new();
        for round in 0..=ROUNDS {
            let mut pods = fresh("all", round, count)?;
            let bare = fresh("bare", round, count)?;
            let (took, failures) = runtime.add_all(&mut pods)?;
            failed.extend(failures);
            let mut limit = nothing_at_once(floor, pods.len())?;
            for ((n, bare), pod) in (0..).zip(&bare).zip(&pods) {
                let wiring = wiring(bare, n, pod.table());
                limit += kernel_add(bare, &wiring)?;
                kernel::pod::del(&mut Socket::open()?, &wiring.host)?;
            }
            if round > 0 {
                all.0.push(took);
                least.0.push(limit);
            }
            pods.iter().try_for_each(|pod| runtime.del(pod).map(drop))?;
            end(pods)?;
            end(bare)?;
        }
        row(
            &format!("floor of {count} at once: exec at once + kernel"),
            &least,
            Goal::None,
        );
        let what = format!("{count} ADDs at once, all done");
        row(&what, &all, goal.map_or(Goal::None, Goal::AtMost));
        let ratio = all.median().as_secs_f64() / least.median().as_secs_f64();
        fact(
            "  as a multiple of the floor",
            &format!("{ratio:.2}"),
            "",
            true,
        );
        let of = count * (ROUNDS + 1);
        fact(
            "  failed",
            &format!("{} of {of}", failed.len()),
            "0",
            failed.is_empty(),
        );
        if let Some(first) = failed.first() {
            println!("  the first failure: {first}");
        }
    }
    Ok(())
}

/// ADDs until the instance is full; those that take EC2's time are those that must attach.
pub(crate) fn grow(count: u32, ec2: Duration) -> anyhow::Result<()> {
    let runtime = Runtime::load()?;
    let mut pods = fresh("grow", 0, count)?;
    for pod in &mut pods {
        let took = runtime.add(pod)?;
        if took > ec2 / 2 {
            println!("{}", took.as_micros());
        }
    }
    pods.iter().try_for_each(|pod| runtime.del(pod).map(drop))
}

/// Fills the node with pods that stay until the node ends.
pub(crate) fn fill(count: u32) -> anyhow::Result<()> {
    let runtime = Runtime::load()?;
    for mut pod in fresh("stay", 0, count)? {
        runtime.add(&mut pod)?;
        // Its namespace stays pinned in the node's own mounts.
        std::mem::forget(pod);
    }
    Ok(())
}

pub(crate) fn fresh(what: &str, round: u32, count: u32) -> anyhow::Result<Vec<Pod>> {
    (0..count)
        .map(|n| Pod::new(&format!("{what}-{round}-{n}")))
        .collect()
}

/// Ends pods and waits until the kernel has taken their links away, which it does in the
/// background: the next round must not meet it.
pub(crate) fn end(pods: Vec<Pod>) -> anyhow::Result<()> {
    let links: Vec<_> = pods.iter().map(|pod| host_link(&pod.name)).collect();
    drop(pods);
    let begun = Instant::now();
    let mut socket = Socket::open()?;
    for link in links {
        while socket.link(&link)?.is_some() {
            if begun.elapsed() > Duration::from_secs(20) {
                bail!(
                    "{link} is still there {} after its pod",
                    time(begun.elapsed())
                );
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    Ok(())
}

fn host_link(pod: &str) -> nodenet::LinkName {
    nodenet::layout::host_veth(&VethPrefix::default(), &PodName::new("default", pod), 0)
}

/// The wiring of a pod without the plugin: an address of its own, the table that the pod beside it
/// was given.
fn wiring(pod: &Pod, n: u32, table: Option<u32>) -> PodWiring {
    PodWiring::new(&PodPort {
        pod: PodName::new("default", &pod.name),
        index: 0,
        ifname: "eth0".parse().expect("a link's name"),
        address: Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 99, 0, 0)) + n),
        table: nodenet::layout::reply_table(table.unwrap_or(0)),
        veth_prefix: VethPrefix::default(),
        mtu: 9001,
    })
}

fn kernel_add(pod: &Pod, wiring: &PodWiring) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    let mut host = Socket::open()?;
    let macs = Macs::random()?;
    kernel::pod::add(&mut host, &pod.ns, wiring, macs).context("the kernel's part of ADD")?;
    Ok(begun.elapsed())
}
