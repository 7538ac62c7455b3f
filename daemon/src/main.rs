//! `rbuildd`: sockets, configuration, the Control service, drain. What a build does is `rbuild_build`'s matter.
#![forbid(unsafe_code)]

mod app;
mod config;
mod control;
mod listen;
mod metrics;
mod telemetry;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    // A step's sandbox is this very binary, started again under another name.
    rbuild_exec::init::maybe_run();
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            telemetry::complain(&error);
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<()> {
    rbuild_sys::memory::tune();
    let config = config::Cli::parse().into_config()?;
    telemetry::init(&config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(async { app::App::start(config).await?.run().await });
    // Blocking work that was cancelled (a hash, a copy) must not hold up the end of the process.
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    outcome
}
