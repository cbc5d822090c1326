//! The address agent: the shell around [`ipam`].
//!
//! One task owns the pool; everything else asks it. A request comes in over upstream's RPC
//! ([`rpc`]), becomes an event, and the effects of the step are carried out: EC2 calls by
//! [`cloud`], interfaces by [`links`], what must survive by [`store`]. Nothing decides here.
//!
//! One thread, no pool of threads: the agent's memory and its idle time are paid on every node.

mod admin;
mod boot;
mod cloud;
mod install;
mod limits;
mod links;
mod log;
mod metrics;
mod owner;
mod rpc;
mod run;
mod show;
mod store;

use std::ffi::OsString;
use std::process::ExitCode;

use settings::Settings;

/// The exit code for a configuration that cannot be used (EX_USAGE).
const BAD_CONFIG: u8 = 64;

/// Runs the address agent until it is told to end.
pub fn addresses(environment: impl Iterator<Item = (OsString, OsString)>) -> ExitCode {
    let text = environment
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let variables: std::collections::BTreeMap<String, String> = text.collect();
    let loaded = match Settings::from_env(variables) {
        Ok(loaded) => loaded,
        Err(errors) => {
            for error in &errors.0 {
                eprintln!("branchline-agent: {error}");
            }
            return ExitCode::from(BAD_CONFIG);
        }
    };
    log::start(&loaded.settings.logs);
    for notice in &loaded.notices {
        tracing::warn!(variable = notice.variable, "{notice}");
    }
    match run::run(loaded.settings) {
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
