use clap::Subcommand;

/// The builds that ran on the daemon.
#[derive(Debug, Subcommand)]
pub(crate) enum HistoryCommand {
    /// List builds, the newest first
    #[command(visible_alias = "list")]
    Ls {
        /// Only what matches, for instance status==error or startedAt>24h; terms joined by commas must all hold
        /// (repeatable: alternatives)
        #[arg(short, long, value_name = "FILTER")]
        filter: Vec<String>,
        /// At most this many, the newest ones
        #[arg(short = 'n', long, value_name = "NUMBER", default_value_t = 0, hide_default_value = true)]
        limit: u16,
        /// References only
        #[arg(short, long)]
        quiet: bool,
        /// Output: table or json
        #[arg(long, default_value = "table", value_parser = ["table", "json"])]
        format: String,
    },
    /// Print the log of a build
    Logs {
        #[command(flatten)]
        build: BuildName,
        /// How it is shown: plain or rawjson
        #[arg(long, value_name = "MODE", default_value = "plain", value_parser = ["plain", "rawjson"])]
        progress: String,
        /// The output of the steps and nothing else, byte for byte
        #[arg(long, conflicts_with = "progress")]
        raw: bool,
        /// With --raw: only of this step, a number as `inspect` shows it
        #[arg(long, value_name = "NUMBER", requires = "raw")]
        step: Option<usize>,
    },
    /// Show what a build did: steps, times, cache hits, critical path
    Inspect {
        #[command(flatten)]
        build: BuildName,
        /// Output: text or json
        #[arg(long, default_value = "text", value_parser = ["text", "json"])]
        format: String,
    },
    /// Say why the steps of a build ran: what differs from the last time
    Explain {
        #[command(flatten)]
        build: BuildName,
        /// One JSON object per step
        #[arg(long)]
        json: bool,
    },
    /// Print the OpenTelemetry trace of a build: one JSON object per span, as BuildKit keeps them
    Trace {
        #[command(flatten)]
        build: BuildName,
    },
    /// Forget builds
    Rm {
        /// References, as `ls` shows them
        #[arg(required_unless_present = "all", value_name = "REF")]
        builds: Vec<String>,
        /// All that ended
        #[arg(long, conflicts_with = "builds")]
        all: bool,
    },
    /// Keep a build whatever the daemon's limits say
    Pin {
        #[command(flatten)]
        build: BuildName,
    },
    /// Let the daemon's limits apply to a build again
    Unpin {
        #[command(flatten)]
        build: BuildName,
    },
}

/// Which build.
#[derive(Debug, clap::Args)]
pub(crate) struct BuildName {
    /// A reference or its beginning, or ^N for the Nth before the newest [default: the newest]
    #[arg(value_name = "REF")]
    pub(crate) build: Option<String>,
}
