//! `aws-cni`: the CNI plugin that a container runtime executes once per pod.
//!
//! It asks the node's address daemon for an address over upstream's RPC, wires the pod with a
//! handful of netlink messages and prints the result: no threads, no async runtime, no Kubernetes
//! client, nothing waited for but the daemon's answer. What the kernel gets is
//! [`nodenet::PodWiring`], byte for byte what upstream leaves behind.

mod add;
mod check;
mod daemon;
mod del;
mod failure;
mod gc;
mod log;
mod settings;
mod status;
mod wire;

use std::io::{IsTerminal as _, Read as _, Write as _};
use std::process::ExitCode;

use cni::{Command, ErrorObject, NetConf, SpecVersion};

use crate::failure::Failure;
use crate::log::Log;
use crate::settings::Settings;

fn main() -> ExitCode {
    let mut stdin = Vec::new();
    let (output, code) = match run(&mut stdin) {
        Ok(output) => (output, ExitCode::SUCCESS),
        Err(failure) => (describe(&failure, &stdin).to_json(), ExitCode::FAILURE),
    };
    match std::io::stdout().write_all(&output) {
        Ok(()) => code,
        // Nobody reads the result: the runtime sees the exit status and calls DEL.
        Err(_) => ExitCode::FAILURE,
    }
}

fn run(stdin: &mut Vec<u8>) -> Result<Vec<u8>, Failure> {
    let command = Command::from_environment(std::env::var_os);
    // Read before the environment is judged: an error object carries the request's version.
    if !std::io::stdin().is_terminal() {
        std::io::stdin()
            .read_to_end(stdin)
            .map_err(|source| Failure::Stdin { source })?;
    }
    let command = command?;
    if command == Command::Version {
        return Ok(status::version(stdin));
    }
    command.allowed_in(NetConf::version_of(stdin)?)?;
    let conf = NetConf::parse(stdin)?;
    let settings = Settings::from_environment(&conf, std::env::var_os)?;
    let mut log = Log::new(&conf.log);
    log.request(&command, stdin);
    let done = match &command {
        Command::Add(attachment, netns) => add::run(&conf, &settings, attachment, netns, &mut log),
        Command::Del(attachment, netns) => {
            del::run(&conf, &settings, attachment, netns.as_deref(), &mut log)
        }
        Command::Check(attachment, netns) => check::run(&conf, &settings, attachment, netns),
        Command::Gc => gc::run(&conf, &settings, &mut log),
        Command::Status => status::run(&settings),
        Command::Version => Ok(Vec::new()),
    };
    if let Err(failure) = &done {
        log.error(&format!(
            "{} failed: {}",
            command.name(),
            failure.with_causes()
        ));
    }
    done
}

fn describe(failure: &Failure, stdin: &[u8]) -> ErrorObject {
    ErrorObject {
        version: NetConf::version_of(stdin).unwrap_or(SpecVersion::LATEST),
        code: failure.into(),
        msg: failure.to_string(),
        details: failure.causes(),
    }
}
