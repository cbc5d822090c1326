//! `why` over a thousand pods: what is computed, without what is read.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use reach::noun::parse_destination;
use reach::place::Over;
use reach::{Inputs, Question};
use serde_json::{Value, json};

use crate::figure::{Goal, Samples, row, section};

const STORY: &str = include_str!("../../crates/reach/tests/rds.json");
/// Addresses for pods on each interface: 50, as the largest instances have, less the primary.
const PER_ENI: usize = 49;

/// How long one number of pods may take.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn run() -> anyhow::Result<()> {
    section("why, computed: asked, advised with every fix tried on the model, rendered");
    for pods in [15, 100, 1000] {
        let inputs: Inputs = serde_json::from_value(grown(pods)?).context("a grown story")?;
        let goal = match pods {
            1000 => Goal::AtMost(Duration::from_millis(100)),
            _ => Goal::None,
        };
        let (mut ask, mut all) = (Samples::default(), Samples::default());
        let begun = Instant::now();
        while all.0.len() < 100 && (all.0.len() < 3 || begun.elapsed() < PATIENCE) {
            let (asked, answered) = answer(&inputs, pods)?;
            ask.0.push(asked);
            all.0.push(answered);
        }
        row(&format!("one node, {pods} pods"), &all, goal);
        row("  asked only", &ask, Goal::None);
    }
    Ok(())
}

/// How long the question took, and how long it took until the text was there.
fn answer(inputs: &Inputs, pods: usize) -> anyhow::Result<(Duration, Duration)> {
    let (destination, service) = parse_destination("rds/orders:5432")?;
    let question = Question {
        source: "node/ip-10-0-1-11".parse()?,
        destination,
        service: service.context("the port is in the text")?,
        over: Over::ALL.into_iter().collect(),
    };
    let begun = Instant::now();
    let answer = reach::ask(inputs, &question)?;
    let asked = begun.elapsed();
    anyhow::ensure!(
        answer.running.len() == pods,
        "{} pods",
        answer.running.len()
    );
    let advice = advice::advise(inputs, &answer, None)?;
    std::hint::black_box(advice::text::render(inputs, &answer, &advice)?);
    Ok((asked, begun.elapsed()))
}

/// The story of the article with so many pods, on as many interfaces as they need: 1,000 pods are
/// about a third of what the largest instances take (p5.48xlarge: 64 interfaces).
fn grown(pods: usize) -> anyhow::Result<Value> {
    let mut story: Value = serde_json::from_str(STORY)?;
    let enis = pods.div_ceil(PER_ENI).max(3);
    let world = &mut story["world"];
    world["subnets"]["subnet-a"]["cidr"] = json!("10.0.0.0/20");
    let (first, other) = (
        world["enis"]["eni-0a1"].clone(),
        world["enis"]["eni-0a2"].clone(),
    );
    for stale in ["eni-0a1", "eni-0a2", "eni-0a3"] {
        world["enis"]
            .as_object_mut()
            .context("a map")?
            .remove(stale);
    }
    for device in 0..enis {
        let mut eni = if device == 0 {
            first.clone()
        } else {
            other.clone()
        };
        let id = format!("eni-{device:04}");
        let address = |n| json!({ "address": address(device, n), "primary": n == 0 });
        eni["id"] = json!(id);
        eni["mac"] = json!(format!("02:00:00:00:01:{device:02x}"));
        eni["addresses"] = (0..=PER_ENI).map(address).collect();
        eni["attachment"]["id"] = json!(format!("eni-attach-{device:04}"));
        eni["attachment"]["device_index"] = json!(device);
        world["enis"][&id] = eni;
    }
    let share = pods.div_ceil(enis);
    let pod = |n: usize| {
        let address = address(n / share, 1 + n % share);
        json!({ "namespace": "default", "name": format!("api-{n}"), "address": address })
    };
    story["nodes"]["ip-10-0-1-11"]["pods"] = (0..pods).map(pod).collect();
    story["limits"]["t3.medium"] =
        json!({ "interfaces": enis, "addresses": PER_ENI + 1, "trunking": false });
    Ok(story)
}

/// Address `n` of an interface, in 10.0.0.0/20.
fn address(device: usize, n: usize) -> String {
    let number = 256 + device * 64 + n;
    format!("10.0.{}.{}", number / 256, number % 256)
}
