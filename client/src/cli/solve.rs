use std::path::PathBuf;

/// The flags of `buildctl build`.
#[derive(Debug, clap::Args)]
pub(crate) struct SolveArgs {
    /// Frontend, for instance dockerfile.v0; without one a definition is read from standard input
    #[arg(long, value_name = "NAME", default_value = "")]
    pub(crate) frontend: String,
    /// Option of the frontend, NAME=VALUE (repeatable)
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) opt: Vec<String>,
    /// Local directory NAME=PATH (repeatable)
    #[arg(long, value_name = "NAME=PATH")]
    pub(crate) local: Vec<String>,
    /// Output type=…,dest=… (repeatable)
    #[arg(short, long, value_name = "SPEC")]
    pub(crate) output: Vec<String>,
    /// How progress is shown: auto, plain, tty, rawjson, quiet
    #[arg(long, value_name = "MODE", default_value = "auto",
          value_parser = ["auto", "plain", "tty", "rawjson", "quiet", "none"])]
    pub(crate) progress: String,
    /// Run every step again
    #[arg(long)]
    pub(crate) no_cache: bool,
    /// Cache to import from, for instance type=registry,ref=NAME (repeatable)
    #[arg(long, value_name = "SPEC")]
    pub(crate) import_cache: Vec<String>,
    /// Cache to export to, for instance type=local,dest=DIR,mode=max (repeatable)
    #[arg(long, value_name = "SPEC")]
    pub(crate) export_cache: Vec<String>,
    /// Secret id=NAME[,src=PATH|env=VARIABLE] (repeatable)
    #[arg(long, value_name = "SPEC")]
    pub(crate) secret: Vec<String>,
    /// Rules on what sources may be used and what replaces them (JSON, as buildctl takes it)
    #[arg(long, value_name = "FILE", env = "EXPERIMENTAL_BUILDKIT_SOURCE_POLICY")]
    pub(crate) source_policy_file: Option<PathBuf>,
    /// Ssh agent default or ID=SOCKET (repeatable)
    #[arg(long, value_name = "SPEC")]
    pub(crate) ssh: Vec<String>,
    /// Allow an entitlement: network.host, security.insecure (repeatable)
    #[arg(long, value_name = "NAME")]
    pub(crate) allow: Vec<String>,
    /// Write the result's metadata to a file (JSON)
    #[arg(long, value_name = "FILE")]
    pub(crate) metadata_file: Option<PathBuf>,
}
