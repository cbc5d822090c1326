//! The address agent: the shell around [`ipam`].
//!
//! One task owns the pool; everything else asks it. A request comes in over upstream's RPC
//! ([`rpc`]), becomes an event, and the effects of the step are carried out: EC2 calls by
//! [`cloud`] (as [`translate`] puts them), interfaces by [`links`], what must survive by [`store`]. Nothing decides here.
//!
//! One thread, no pool of threads: the agent's memory and its idle time are paid on every node.

mod admin;
mod boot;
mod cloud;
mod connections;
mod findings;
mod gc;
mod health;
mod init;
mod install;
mod kubernetes;
mod limits;
mod links;
mod log;
mod metadata;
mod metrics;
mod owner;
mod repair;
mod rpc;
mod run;
mod show;
mod store;
mod takeover;
#[cfg(test)]
mod test_ns;
pub mod translate;

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use settings::{Loaded, Settings};

/// The exit code for a configuration that cannot be used (EX_USAGE).
const BAD_CONFIG: u8 = 64;

const LOG_FILE: &str = "AWS_VPC_K8S_CNI_LOG_FILE";
const SOCKET: &str = "AWS_VPC_CNI_IPAMD_SOCKET";
/// What the init container reads.
const OF_INIT: [&str; 4] = [
    "HOST_CNI_BIN_PATH",
    "DISABLE_TCP_EARLY_DEMUX",
    "ENABLE_IPv6",
    "ENABLE_V6_EGRESS",
];

/// Variables, as the process has them.
type Environment<'a> = &'a mut dyn Iterator<Item = (OsString, OsString)>;

/// Runs the address agent until it is told to end.
pub fn addresses(environment: Environment<'_>) -> ExitCode {
    match configured(environment) {
        Ok(settings) => done(run::run(settings)),
        Err(code) => code,
    }
}

/// Prepares the node: plugins, and kernel settings that need a privileged container.
pub fn init(environment: Environment<'_>) -> ExitCode {
    // What happens here is in `kubectl logs`; the log's directory is not mounted.
    let to_stdout = (LOG_FILE.into(), "stdout".into());
    match configured(&mut only(environment, &OF_INIT).chain([to_stdout])) {
        Ok(settings) => done(init::run(&settings)),
        Err(code) => code,
    }
}

/// Asks the agent of this node whether it is alive, and with `ready` whether pods are served.
/// Exit codes: 0 yes, 2 nobody listens, 3 no answer `within` the time, 4 no; 64 bad variables.
pub fn health(environment: Environment<'_>, ready: bool, within: Duration) -> ExitCode {
    let settings = match load(&mut only(environment, &[SOCKET])) {
        Ok(loaded) => loaded.settings,
        Err(code) => return code,
    };
    match health::check(&settings.paths.socket, ready, within) {
        Ok(()) => ExitCode::SUCCESS,
        Err(unhealthy) => {
            eprintln!("branchline-agent: {unhealthy}");
            ExitCode::from(unhealthy.code())
        }
    }
}

/// The variables of these names. `kubectl set env` sets a variable in every container of the pod;
/// one that a container does not read must not stop it.
fn only<'a>(
    environment: Environment<'a>,
    names: &'a [&str],
) -> impl Iterator<Item = (OsString, OsString)> + 'a {
    environment.filter(|(name, _)| names.iter().any(|known| name == known))
}

fn load(environment: Environment<'_>) -> Result<Loaded, ExitCode> {
    let text = environment
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let variables: std::collections::BTreeMap<String, String> = text.collect();
    Settings::from_env(variables).map_err(|errors| {
        for error in &errors.0 {
            eprintln!("branchline-agent: {error}");
        }
        ExitCode::from(BAD_CONFIG)
    })
}

/// Settings, with logging started as they say.
fn configured(environment: Environment<'_>) -> Result<Settings, ExitCode> {
    let Loaded { settings, notices } = load(environment)?;
    log::start(&settings.logs);
    for notice in notices {
        tracing::warn!(variable = notice.variable, "{notice}");
    }
    Ok(settings)
}

fn done(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Prints the table of variables.
pub fn print_variables() -> ExitCode {
    for row in settings::VARIABLES {
        println!(
            "{} (default {:?}; {}): {}",
            row.name, row.default, row.rule, row.effect
        );
    }
    ExitCode::SUCCESS
}

/// Prints the metrics page of an agent that has just started.
pub fn print_metrics() -> ExitCode {
    print!("{}", metrics::at_start());
    ExitCode::SUCCESS
}
