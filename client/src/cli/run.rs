use std::path::PathBuf;

/// A process in an image.
#[derive(Debug, clap::Args)]
pub(crate) struct RunArgs {
    /// Extra line of /etc/hosts, HOST:IP (repeatable)
    #[arg(long, value_name = "HOST:IP")]
    pub(crate) add_host: Vec<String>,
    /// Allow an entitlement: network.host, security.insecure (repeatable)
    #[arg(long, value_name = "NAME")]
    pub(crate) allow: Vec<String>,
    /// Program in place of the image's entry point
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) entrypoint: Option<String>,
    /// Variable NAME=VALUE, or NAME to take it from the environment (repeatable)
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub(crate) env: Vec<String>,
    /// Host name inside
    #[arg(long, value_name = "NAME")]
    pub(crate) hostname: Option<String>,
    /// Pass standard input on
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Network: default, none or host
    #[arg(long, value_name = "MODE")]
    pub(crate) network: Option<String>,
    /// How progress of fetching the image is shown: quiet, auto, plain, tty, rawjson
    #[arg(long, value_name = "MODE", default_value = "quiet", env = "BUILDKIT_PROGRESS",
          value_parser = ["auto", "plain", "tty", "rawjson", "quiet", "none"])]
    pub(crate) progress: String,
    /// Reach a port of the process at one of this machine, [IP:]PORT:PORT (repeatable)
    #[arg(short, long, value_name = "[IP:]PORT:PORT")]
    pub(crate) publish: Vec<String>,
    /// Ask the registry for a newer image
    #[arg(long)]
    pub(crate) pull: bool,
    /// Refuse writes to the image's files
    #[arg(long)]
    pub(crate) read_only: bool,
    /// Give the process a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// User [:group] of the process
    #[arg(short, long, value_name = "USER")]
    pub(crate) user: Option<String>,
    /// NAME:PATH keeps what is written below PATH in the daemon; DIR:PATH:ro shows a copy of a local directory (repeatable)
    #[arg(short, long, value_name = "SPEC")]
    pub(crate) volume: Vec<String>,
    /// Working directory
    #[arg(short, long, value_name = "PATH")]
    pub(crate) workdir: Option<PathBuf>,
    /// Image, from the daemon's store or a registry
    pub(crate) image: String,
    /// Command in place of the image's
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) command: Vec<String>,
}
