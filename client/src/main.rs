//! `rbuildctl`: commands, context streaming, rendering. It knows wire types, sessions and terminals; what a build
//! does is the daemon's matter (`debug compile` alone runs the Dockerfile compiler here, without a daemon).
#![forbid(unsafe_code)]

mod attest;
mod build;
mod cache;
mod call;
mod cli;
mod connect;
mod container;
mod context;
mod daemonless;
mod debug;
mod disk;
mod errors;
mod gateway;
mod history;
mod imagetools;
mod load;
mod log_file;
mod named;
mod policy;
mod run;
mod signals;
mod solve;
mod spec;
mod template;
mod ui;

use std::process::ExitCode;

use clap::Parser as _;

use crate::cli::{Cli, Command};
use crate::errors::CommandError;

/// Upstream's limit for one message. Source: protocol notes, "Connections".
pub(crate) const MAX_MESSAGE: usize = 16 << 20;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let directives = std::env::var("RBUILDCTL_LOG").unwrap_or_else(|_| "warn".into());
    let logs = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new(directives))
        .with_writer(std::io::stderr)
        .without_time()
        .with_target(false);
    if let Err(error) = logs.try_init() {
        ui::note(&format!("logs: {error}"));
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            ui::note(&format!("starting the runtime: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(dispatch(cli));
    // A read of standard input cannot be cancelled; it must not hold up the end.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            ui::complain(&error.render());
            ExitCode::from(error.exit_code())
        }
    }
}

async fn dispatch(cli: Cli) -> Result<(), CommandError> {
    let Cli { connection, command } = cli;
    match command {
        Command::Build(args) => build::build(&connection, *args).await,
        Command::Solve(args) => solve::solve(&connection, *args).await,
        Command::Run(args) => container::run(&connection, *args).await,
        Command::DialStdio => connect::dial_stdio(&connection).await,
        Command::Debug(command) => debug::debug(&connection, command).await,
        Command::Imagetools(command) => imagetools::imagetools(command).await,
        command => {
            let connected = connect::connect(&connection, false).await?;
            let channel = connected.channel.clone();
            let outcome = match command {
                Command::Images(args) => disk::images(channel, &args).await,
                Command::Rmi { names } => disk::remove_images(channel, &names).await,
                Command::Du(args) => disk::du(channel, &args).await,
                Command::Prune(args) => disk::prune(channel, &args).await,
                Command::History(command) => history::history(channel, command).await,
                Command::Build(_)
                | Command::Solve(_)
                | Command::Run(_)
                | Command::Debug(_)
                | Command::Imagetools(_)
                | Command::DialStdio => Ok(()),
            };
            connected.close().await;
            outcome
        }
    }
}
