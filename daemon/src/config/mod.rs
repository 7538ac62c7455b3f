//! Settings of the daemon: command line over configuration file over defaults.
//!
//! Central type: [`Config`]. Names follow upstream's daemon, so a unit file or a test harness keeps working
//! when the binary is swapped; what this daemon does not have is refused by name in [`cli`] and [`file`].

mod cli;
mod file;
mod gc;
mod limits;
mod size;

use std::collections::BTreeMap;
use std::path::PathBuf;

use rbuild_exec::StepLimits;

pub(crate) use cli::Cli;
pub(crate) use file::{FrontendFile, GcPolicyFile, HistoryFile, RegistryFile};
pub(crate) use size::{Size, Span};

/// Everything the daemon needs to know before it starts.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) root: PathBuf,
    pub(crate) addresses: Vec<String>,
    pub(crate) group: Option<String>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) tls: Option<Tls>,
    pub(crate) insecure_tcp: bool,
    pub(crate) log_level: &'static str,
    pub(crate) log_json: bool,
    pub(crate) entitlements: Vec<String>,
    pub(crate) cdi_spec_dirs: Vec<PathBuf>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) snapshotter: Snapshotter,
    pub(crate) runtime_binary: Option<PathBuf>,
    pub(crate) parallelism: usize,
    pub(crate) limits: StepLimits,
    pub(crate) measure: bool,
    pub(crate) max_unpacked_bytes: u64,
    pub(crate) max_repository_bytes: u64,
    pub(crate) gc: bool,
    pub(crate) gc_policies: Vec<GcPolicyFile>,
    pub(crate) registries: BTreeMap<String, RegistryFile>,
    pub(crate) dns: file::DnsFile,
    pub(crate) network: Network,
    pub(crate) trace_socket: Option<PathBuf>,
    pub(crate) metrics_address: Option<String>,
    pub(crate) drain: std::time::Duration,
    pub(crate) history: HistoryFile,
    pub(crate) tier: Option<BTreeMap<String, toml::Value>>,
    pub(crate) frontends: BTreeMap<String, FrontendFile>,
    pub(crate) until_stdin_closes: bool,
}

/// Server certificate, its key, and the authority that signs clients.
#[derive(Debug, Clone)]
pub(crate) struct Tls {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) client_ca: Option<PathBuf>,
}

/// The network of steps that ask for none in particular.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Network {
    Host,
    None,
    Bridge { name: Option<String>, subnet: Option<String> },
}

/// How layers become directories.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Snapshotter {
    Auto,
    Overlay,
    Native,
}

/// A setting that cannot be honoured.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("reading the configuration file `{path}`: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("configuration file `{path}`: {message}")]
    Parse { path: PathBuf, message: String },
    #[error("{setting} is not supported by rbuildd: {hint}")]
    Unsupported { setting: String, hint: &'static str },
    #[error("{setting}: {message}")]
    Invalid { setting: String, message: String },
}
