//! `branchline ping SRC DST`: really send, and put what was predicted beside what was seen.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use reach::Inputs;
use reach::ask::{Placement, ask};
use reach::noun::Service;
use reach::place::Over;
use reach::trace::Outcome;
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::probe::{Report, Seen};
use crate::read::{DISAGREES, FAILS, HOLDS, Output, Sources, UNKNOWN};
use crate::why::Asked;

/// Really send from each pod to DST, and compare with the prediction.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  branchline ping dev/deploy/api rds/orders:5432 -c 6        from six of its pods
  branchline ping node/ip-10-0-1-11 rds/orders:5432          from every pod of the node
  branchline ping pod/api-1 10.0.21.40:5432 -o json

One connection (or datagram) is opened from each pod by running `branchline probe` in it, by
`kubectl exec` where Kubernetes knows the pods; --exec names another way. The pod's image must have
the program (branchline/tools has it): --program says what it is called there.

Exit codes:
  0 all connected   1 some did not   2 wrong usage   3 a prediction is unknown
  4 a prediction and what was seen disagree   5 the tool failed")]
pub(crate) struct PingArgs {
    /// Who sends: a pod, or all pods of a node.
    source: String,
    /// Where to, with a port.
    destination: String,
    /// Ask this many pods only.
    #[arg(short, long, value_name = "N")]
    count: Option<usize>,
    /// How to run a command in a pod; {pod}, {namespace} and {name} are filled in. With a cluster:
    /// kubectl exec -n {namespace} {name} --
    #[arg(long, env = "BRANCHLINE_EXEC", value_name = "COMMAND")]
    exec: Option<String>,
    /// The program that sends, as it is called in the pod; else branchline from the image's PATH, or
    /// with --exec this one.
    #[arg(long, value_name = "PROGRAM")]
    program: Option<String>,
    /// How long to wait for an answer, in seconds.
    #[arg(long, default_value_t = 1.0)]
    timeout: f64,
    #[command(flatten)]
    sources: Sources,
}

/// Pods that are asked at once.
const AT_ONCE: usize = 16;

#[derive(Debug, Serialize)]
struct Attempt {
    pod: String,
    address: Option<std::net::Ipv4Addr>,
    node: Option<String>,
    eni: Option<String>,
    device: Option<u32>,
    seen: Seen,
    milliseconds: f64,
    predicted: Predicted,
    because: String,
    agrees: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Predicted {
    Works,
    Blocked,
    Unknown,
}

#[derive(Debug, Serialize)]
struct Document<'a> {
    schema: &'static str,
    source: String,
    destination: String,
    service: String,
    asked: usize,
    running: usize,
    connected: usize,
    as_predicted: usize,
    attempts: &'a [Attempt],
}

pub(crate) async fn run(args: PingArgs) -> anyhow::Result<u8> {
    let asked = Asked::parse(&args.source, &args.destination, [Over::Running].into())?;
    let inputs = args.sources.read().await?;
    let question = asked.question(&inputs)?;
    if question.service == Service::Icmp {
        bail!(
            "ping over icmp is not built; name a TCP or UDP port: {}:PORT[/udp]",
            question.destination
        );
    }
    let (exec, program) = how(&args, &inputs)?;
    let answer = ask(&inputs, &question)?;
    if answer.running.is_empty() {
        bail!(
            "{} has no running pod with an address: {}",
            question.source,
            answer.unknown.join("; ")
        );
    }
    let asked: Vec<&Placement> = answer
        .running
        .iter()
        .take(args.count.unwrap_or(usize::MAX))
        .collect();
    let to = answer.destination.address.to_string();
    let mut sending = JoinSet::new();
    let gate = Arc::new(Semaphore::new(AT_ONCE));
    for (index, place) in asked.iter().enumerate() {
        let command = command(&exec, place, &program, question.service, &to, args.timeout)?;
        let gate = Arc::clone(&gate);
        let patience = Duration::from_secs_f64(args.timeout.clamp(0.001, 3600.0) + 10.0);
        sending.spawn(async move {
            let _turn = gate.acquire_owned().await;
            (index, send(command, patience).await)
        });
    }
    let mut attempts: Vec<(usize, Attempt)> = Vec::new();
    while let Some(done) = sending.join_next().await {
        let (index, report) = done?;
        let place = asked[index];
        let report = report.with_context(|| format!("send from {}", place.label))?;
        attempts.push((index, attempt(&inputs, place, report)));
    }
    attempts.sort_by_key(|(index, _)| *index);
    let attempts: Vec<Attempt> = attempts.into_iter().map(|(_, a)| a).collect();
    report(&inputs, &args, &answer, &attempts)?;
    Ok(exit(&attempts))
}

/// How a command is run in a pod, and what the program is called there.
fn how(args: &PingArgs, inputs: &Inputs) -> anyhow::Result<(String, String)> {
    let own = || match &args.program {
        Some(program) => Ok(program.clone()),
        None => std::env::current_exe()
            .context("find this program")
            .map(|path| path.display().to_string()),
    };
    let named = args.exec.as_ref().filter(|exec| !exec.is_empty());
    match (named, &inputs.kubernetes) {
        (Some(exec), _) => Ok((exec.clone(), own()?)),
        (None, Some(_)) => {
            let program = args.program.clone();
            let program = program.unwrap_or_else(|| "branchline".to_owned());
            Ok((
                args.sources.live.kubectl("exec -n {namespace} {name} --"),
                program,
            ))
        }
        (None, None) => bail!(
            "how is a command run in a pod? set --exec or BRANCHLINE_EXEC, for example 'kubectl exec -n {{namespace}} {{name}} --' (for a lab without Kubernetes: eval \"$(branchline lab env)\")"
        ),
    }
}

/// The command line that sends from a pod.
fn command(
    exec: &str,
    place: &Placement,
    program: &str,
    service: Service,
    to: &str,
    timeout: f64,
) -> anyhow::Result<Vec<String>> {
    let (namespace, name) = place.label.split_once('/').unwrap_or(("", &place.label));
    let fill = |word: &str| {
        word.replace("{pod}", &place.label)
            .replace("{namespace}", namespace)
            .replace("{name}", name)
    };
    let mut words: Vec<String> = exec.split_whitespace().map(fill).collect();
    if words.is_empty() {
        bail!("--exec is empty");
    }
    let (protocol, port) = match service {
        Service::Udp(port) => ("udp", port),
        Service::Tcp(port) => ("tcp", port),
        Service::Icmp => bail!("ping over icmp is not built"),
    };
    let probe = [
        program,
        "probe",
        protocol,
        to,
        &port.to_string(),
        "--timeout",
        &timeout.to_string(),
    ];
    words.extend(probe.map(str::to_owned));
    Ok(words)
}

async fn send(words: Vec<String>, patience: Duration) -> anyhow::Result<Report> {
    let line = words.join(" ");
    let mut command = tokio::process::Command::new(&words[0]);
    command
        .args(&words[1..])
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let done = tokio::time::timeout(patience, command.output())
        .await
        .with_context(|| format!("{line}: no end after {} s", patience.as_secs()))?
        .with_context(|| format!("run {line}"))?;
    let told = String::from_utf8_lossy(&done.stdout);
    serde_json::from_str(told.trim()).with_context(|| {
        let errors = String::from_utf8_lossy(&done.stderr);
        let hint = match errors.contains("executable file not found") {
            true => "; the image has no such program: name one that it has with --program, or ask from a pod of branchline/tools",
            false => "",
        };
        format!("{line}: {} and no report: {}{hint}", done.status, errors.trim())
    })
}

fn attempt(inputs: &Inputs, place: &Placement, report: Report) -> Attempt {
    let (predicted, because) = match &place.outcome {
        Outcome::Works { .. } => (Predicted::Works, String::new()),
        Outcome::Blocked { reason, at, .. } => {
            let at = advice::name::object(&inputs.world, at);
            (Predicted::Blocked, format!("{at}: {reason}"))
        }
        Outcome::Partly { why, .. } => (Predicted::Unknown, why.clone()),
        Outcome::NoEndpoint { why } => (Predicted::Blocked, why.clone()),
        Outcome::Unknown { need } => (Predicted::Unknown, need.clone()),
        Outcome::Impossible { why } => (Predicted::Unknown, why.clone()),
    };
    // A refusal came back from the destination's host: the network let both ways pass.
    let passed = matches!(report.seen, Seen::Connected | Seen::Refused);
    let agrees = match predicted {
        Predicted::Works => Some(passed),
        Predicted::Blocked => Some(!passed),
        Predicted::Unknown => None,
    };
    Attempt {
        pod: place.label.clone(),
        address: place.address,
        node: place.node.clone(),
        eni: place.eni.as_ref().map(ToString::to_string),
        device: place.device,
        seen: report.seen,
        milliseconds: report.milliseconds,
        predicted,
        because,
        agrees,
    }
}

fn report(
    inputs: &Inputs,
    args: &PingArgs,
    answer: &reach::Answer,
    attempts: &[Attempt],
) -> anyhow::Result<()> {
    let connected = attempts
        .iter()
        .filter(|a| a.seen == Seen::Connected)
        .count();
    let as_predicted = attempts.iter().filter(|a| a.agrees == Some(true)).count();
    if args.sources.output == Output::Json {
        let document = Document {
            schema: "branchline/ping/v1",
            source: answer.question.source.to_string(),
            destination: answer.destination.address.to_string(),
            service: answer.question.service.to_string(),
            asked: attempts.len(),
            running: answer.running.len(),
            connected,
            as_predicted,
            attempts,
        };
        println!("{}", serde_json::to_string_pretty(&document)?);
        return Ok(());
    }
    for a in attempts {
        let eni = a
            .eni
            .as_ref()
            .and_then(|id| id.parse().ok())
            .and_then(|id: vpc::facts::EniId| inputs.world.enis.get(&id));
        let device = eni.map(advice::name::device).unwrap_or_default();
        let seen = match a.seen {
            Seen::Connected => format!("connected {:.1} ms", a.milliseconds),
            Seen::Refused => format!("refused {:.1} ms", a.milliseconds),
            Seen::Timeout => format!("timeout {:.1} s", a.milliseconds / 1000.0),
            Seen::Unreachable => "unreachable".to_owned(),
        };
        let predicted = match a.predicted {
            Predicted::Works => "✔",
            Predicted::Blocked => "✘",
            Predicted::Unknown => "?",
        };
        let flag = if a.agrees == Some(false) {
            "   ← NOT AS PREDICTED"
        } else {
            ""
        };
        let address = a.address.map(|a| a.to_string()).unwrap_or_default();
        let via = a.eni.as_deref().unwrap_or("?");
        anstream::println!(
            "{:<20} {address:<15} via {via} {device:<9}  {seen:<18} predicted {predicted}  {}{flag}",
            a.pod,
            a.because
        );
    }
    let among = match attempts.len() == answer.running.len() {
        true => String::new(),
        false => format!(
            " (of the {} pods, {} asked)",
            answer.running.len(),
            attempts.len()
        ),
    };
    anstream::println!(
        "{connected} of {} connected{among}; {as_predicted} of {} as predicted",
        attempts.len(),
        attempts.len()
    );
    Ok(())
}

fn exit(attempts: &[Attempt]) -> u8 {
    if attempts.iter().any(|a| a.agrees == Some(false)) {
        return DISAGREES;
    }
    if attempts.iter().any(|a| a.agrees.is_none()) {
        return UNKNOWN;
    }
    match attempts.iter().all(|a| a.seen == Seen::Connected) {
        true => HOLDS,
        false => FAILS,
    }
}
