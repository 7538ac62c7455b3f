//! The command line: `build` as in `docker buildx build`, low-level commands as in `buildctl`.

mod build;
mod history;
mod imagetools;
mod run;
mod solve;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

pub(crate) use build::BuildArgs;
pub(crate) use history::{BuildName, HistoryCommand};
pub(crate) use imagetools::{CreateArgs, ImagetoolsCommand, InspectArgs};
pub(crate) use run::RunArgs;
pub(crate) use solve::SolveArgs;

/// rbuildctl: builds images on rbuildd or any BuildKit-compatible daemon.
#[derive(Debug, Parser)]
#[command(name = "rbuildctl", version, about, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) connection: ConnectionArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl ConnectionArgs {
    /// The daemon that the command line or the environment names; scripts made for buildctl set `BUILDKIT_HOST`.
    pub(crate) fn address(&self) -> Option<String> {
        let of_buildctl = || std::env::var("BUILDKIT_HOST").ok().filter(|address| !address.is_empty());
        self.addr.clone().or_else(of_buildctl)
    }
}

/// How the daemon is reached.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct ConnectionArgs {
    /// Daemon address: unix://PATH, tcp://HOST:PORT or ssh://[USER@]HOST [default: BUILDKIT_HOST, else the local
    /// sockets]
    #[arg(long, global = true, value_name = "ADDRESS", env = "RBUILD_HOST")]
    pub(crate) addr: Option<String>,
    /// Authority that must have signed the daemon's certificate
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) tlscacert: Option<PathBuf>,
    /// Client certificate
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) tlscert: Option<PathBuf>,
    /// Key of the client certificate
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) tlskey: Option<PathBuf>,
    /// Directory with ca.pem, cert.pem and key.pem
    #[arg(long, global = true, value_name = "DIR", conflicts_with_all = ["tlscacert", "tlscert", "tlskey"])]
    pub(crate) tlsdir: Option<PathBuf>,
    /// Name that the daemon's certificate must carry [default: the host of the address]
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) tlsservername: Option<String>,
    /// Seconds to wait for a connection
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 5)]
    pub(crate) timeout: u64,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Build an image from a Dockerfile
    #[command(visible_alias = "b")]
    Build(Box<BuildArgs>),
    /// Solve a definition from standard input, or run a frontend (the flags of `buildctl build`)
    Solve(Box<SolveArgs>),
    /// Run a process in an image, with this terminal in front of it
    Run(Box<RunArgs>),
    /// List the images in the daemon's store
    Images(ImagesArgs),
    /// Remove images from the daemon's store
    Rmi {
        /// Names, as `images` shows them
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Show what the cache holds
    Du(DuArgs),
    /// Remove what the cache holds and nothing uses
    Prune(PruneArgs),
    /// Look at the builds that ran
    #[command(subcommand)]
    History(HistoryCommand),
    /// Look at images in registries and make new ones of them
    #[command(subcommand)]
    Imagetools(ImagetoolsCommand),
    /// Connect standard input and output to the local daemon (used over ssh)
    #[command(hide = true)]
    DialStdio,
    /// Look into the daemon and into definitions
    #[command(subcommand)]
    Debug(DebugCommand),
}

#[derive(Debug, clap::Args)]
pub(crate) struct ImagesArgs {
    /// Names only
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Output: table or json
    #[arg(long, default_value = "table", value_parser = ["table", "json"])]
    pub(crate) format: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct DuArgs {
    /// Only what matches, for instance type==regular (repeatable)
    #[arg(short, long, value_name = "FILTER")]
    pub(crate) filter: Vec<String>,
    /// All fields
    #[arg(short, long)]
    pub(crate) verbose: bool,
    /// Output: table or json
    #[arg(long, default_value = "table", value_parser = ["table", "json"])]
    pub(crate) format: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct PruneArgs {
    /// Include internal and frontend records
    #[arg(long)]
    pub(crate) all: bool,
    /// Keep what was used within this time, for instance 24h
    #[arg(long, value_name = "DURATION")]
    pub(crate) keep_duration: Option<String>,
    /// Keep this much, MB or with a unit
    #[arg(long, value_name = "SIZE", alias = "reserved-space")]
    pub(crate) keep_storage: Option<String>,
    /// Most that may be used
    #[arg(long, value_name = "SIZE")]
    pub(crate) max_used_space: Option<String>,
    /// Least that should be free on the disk
    #[arg(long, value_name = "SIZE")]
    pub(crate) min_free_space: Option<String>,
    /// Only what matches (repeatable)
    #[arg(short, long, value_name = "FILTER")]
    pub(crate) filter: Vec<String>,
    /// All fields
    #[arg(short, long)]
    pub(crate) verbose: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DebugCommand {
    /// Build, and enter the step that fails (build --invoke=on-error)
    Build(Box<BuildArgs>),
    /// List workers
    Workers {
        /// Only what matches
        #[arg(short, long, value_name = "FILTER")]
        filter: Vec<String>,
        /// All fields
        #[arg(short, long)]
        verbose: bool,
    },
    /// Version of the daemon
    Info,
    /// Print a definition from standard input, one JSON object a line
    DumpLlb {
        /// Print a Graphviz graph instead
        #[arg(long)]
        dot: bool,
        /// File to read instead of standard input
        file: Option<PathBuf>,
    },
    /// Compile Dockerfiles to LLB without a daemon; base images count as empty linux/amd64 images
    Compile {
        /// Dockerfile (repeatable)
        #[arg(short, long = "file", value_name = "FILE", default_value = "Dockerfile")]
        files: Vec<PathBuf>,
        /// One JSON object per op, the image config last (the default is a summary)
        #[arg(long)]
        json: bool,
        /// Stage to compile
        #[arg(long)]
        target: Option<String>,
        /// Build argument NAME=VALUE (repeatable)
        #[arg(long, value_name = "NAME=VALUE")]
        build_arg: Vec<String>,
    },
}
