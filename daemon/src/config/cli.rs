//! The command line, spelt as upstream's daemon spells it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use rbuild_exec::StepLimits;

use super::file::{ConfigFile, OciWorkerFile};
use super::size::{Size, Span};
use super::{Config, ConfigError, Network, Snapshotter, Tls};

/// Where things are when nobody says otherwise.
struct Places {
    root: &'static str,
    address: &'static str,
    config: &'static str,
}
const OURS: Places = Places {
    root: "/var/lib/rbuild",
    address: "unix:///run/rbuild/rbuildd.sock",
    config: "/etc/rbuild/rbuildd.toml",
};
/// For a binary that was put in place of upstream's under its name.
const UPSTREAM: Places = Places {
    root: "/var/lib/buildkit",
    address: "unix:///run/buildkit/buildkitd.sock",
    config: "/etc/buildkit/buildkitd.toml",
};

fn places() -> &'static Places {
    let name = std::env::args_os().next().map(PathBuf::from);
    match name.as_deref().and_then(std::path::Path::file_name) {
        Some(name) if name == "buildkitd" => &UPSTREAM,
        _ => &OURS,
    }
}

/// Long enough for an ordinary build to finish, shorter than service managers wait for a stop (90 s).
const DEFAULT_DRAIN_SECS: u64 = 60;

/// rbuildd: a BuildKit-compatible build daemon.
#[derive(Debug, Parser)]
#[command(name = "rbuildd", version, about, max_term_width = 100)]
pub(crate) struct Cli {
    /// Configuration file (TOML) [default: /etc/rbuild/rbuildd.toml]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// State directory [default: /var/lib/rbuild]
    #[arg(long, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,
    /// Listening address, repeatable: unix://, tcp:// or fd:// [default: unix:///run/rbuild/rbuildd.sock]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) addr: Vec<String>,
    /// Debug output in logs
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub(crate) debug: Option<bool>,
    /// Log level: trace, debug, info, warn, error
    #[arg(long, value_name = "LEVEL", env = "RBUILDD_LOG_LEVEL")]
    pub(crate) log_level: Option<String>,
    /// Log format: text or json
    #[arg(long, value_name = "FORMAT")]
    pub(crate) log_format: Option<String>,
    /// Group (name or gid) that owns the unix sockets
    #[arg(long)]
    pub(crate) group: Option<String>,
    /// Server certificate
    #[arg(long, value_name = "FILE")]
    pub(crate) tlscert: Option<PathBuf>,
    /// Key of the server certificate
    #[arg(long, value_name = "FILE")]
    pub(crate) tlskey: Option<PathBuf>,
    /// Authority that must have signed the clients' certificates
    #[arg(long, value_name = "FILE")]
    pub(crate) tlscacert: Option<PathBuf>,
    /// Listen on tcp:// without TLS: anyone who can connect can build as root
    #[arg(long)]
    pub(crate) insecure_tcp: bool,
    /// Allow builds to ask for: network.host, security.insecure, device, device=NAME
    #[arg(long, value_name = "NAME")]
    pub(crate) allow_insecure_entitlement: Vec<String>,
    /// Offer no devices
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub(crate) cdi_disabled: Option<bool>,
    /// Where specifications of devices are (repeatable) [default: /etc/cdi, /var/run/cdi, /etc/buildkit/cdi]
    #[arg(long, value_name = "DIR")]
    pub(crate) cdi_spec_dir: Vec<PathBuf>,
    /// Only `true` and `auto` are possible: it is the only worker
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub(crate) oci_worker: Option<String>,
    /// Worker label key=value, repeatable
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) oci_worker_labels: Vec<String>,
    /// Snapshotter: auto, overlayfs or native
    #[arg(long, value_name = "NAME")]
    pub(crate) oci_worker_snapshotter: Option<String>,
    /// Platforms offered beside the native one
    #[arg(long, value_name = "PLATFORM")]
    pub(crate) oci_worker_platform: Vec<String>,
    /// Default network of steps: auto or host
    #[arg(long, value_name = "MODE")]
    pub(crate) oci_worker_net: Option<String>,
    /// Run steps through this OCI runtime (runc, crun) instead of the built-in sandbox
    #[arg(long, value_name = "BINARY")]
    pub(crate) oci_worker_binary: Option<PathBuf>,
    /// Steps that may run at the same time; 0 is no limit
    #[arg(long, value_name = "N")]
    pub(crate) oci_max_parallelism: Option<usize>,
    /// Memory that each step may have: a size, or a percentage of the machine's
    #[arg(long, value_name = "SIZE")]
    pub(crate) oci_step_memory: Option<String>,
    /// Processors that each step may have, for instance 1.5
    #[arg(long, value_name = "N")]
    pub(crate) oci_step_cpus: Option<f64>,
    /// Size that an archive may have unpacked (8GiB); large archives may have up to 200 times their own size
    #[arg(long, value_name = "SIZE")]
    pub(crate) oci_max_unpacked_size: Option<String>,
    /// Size that a git repository, and what is checked out of it, may have (32GiB)
    #[arg(long, value_name = "SIZE")]
    pub(crate) oci_max_repository_size: Option<String>,
    /// Automatic garbage collection
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub(crate) oci_worker_gc: Option<bool>,
    /// Storage that collection keeps, MB or a percentage: `reserved[,free[,maximum]]`
    #[arg(long, value_name = "SIZES")]
    pub(crate) oci_worker_gc_keepstorage: Option<String>,
    /// Only `false` and `auto` are possible
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub(crate) containerd_worker: Option<String>,
    /// Mirror or registry setting `host=mirror[,mirror…]`, repeatable; `http://` before a mirror means plain http
    #[arg(long, value_name = "HOST=MIRROR")]
    pub(crate) registry_mirror: Vec<String>,
    /// Seconds that running builds may go on after SIGTERM
    #[arg(long, value_name = "SECONDS")]
    pub(crate) drain_timeout: Option<u64>,
    /// Unix socket on which spans of steps and clients are taken
    #[arg(long, value_name = "PATH")]
    pub(crate) otel_socket_path: Option<PathBuf>,
    /// Serve metrics for Prometheus at http://HOST:PORT/metrics, to anyone who can connect
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) metrics_addr: Option<String>,
    /// End, as after SIGTERM, when standard input (a pipe) is closed: for whoever starts a daemon of its own
    #[arg(long, hide = true)]
    pub(crate) until_stdin_closes: bool,
    #[command(flatten)]
    pub(crate) refused: Refused,
}

/// Flags of upstream's daemon that ask for what this one does not have; hidden, refused by name.
#[derive(Debug, clap::Args)]
pub(crate) struct Refused {
    #[arg(long, hide = true, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    rootless: Option<bool>,
    #[arg(long, hide = true)]
    debugaddr: Option<String>,
    #[arg(long, hide = true, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    proxy_network: Option<bool>,
    #[arg(long, hide = true, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    save_cache_debug: Option<bool>,
    #[arg(long, hide = true, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    oci_worker_rootless: Option<bool>,
    #[arg(long, hide = true, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    oci_worker_no_process_sandbox: Option<bool>,
    #[arg(long, hide = true, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    oci_worker_selinux: Option<bool>,
    #[arg(long, hide = true)]
    oci_worker_apparmor_profile: Option<String>,
    #[arg(long, hide = true)]
    oci_worker_proxy_snapshotter_path: Option<String>,
    #[arg(long, hide = true)]
    oci_cni_config_path: Option<String>,
    #[arg(long, hide = true)]
    oci_cni_binary_dir: Option<String>,
    #[arg(long, hide = true)]
    oci_cni_pool_size: Option<i64>,
}

impl Refused {
    fn check(&self) -> Result<(), ConfigError> {
        const NETWORK: &str = "steps have the host's network or none";
        // Switches are spelt `--x` or `--x=true`, as Go programs take them.
        let on = |switch: Option<bool>| switch == Some(true);
        let refused = [
            (on(self.rootless) || on(self.oci_worker_rootless), "--rootless", "run rbuildd as root"),
            (
                self.debugaddr.is_some(),
                "--debugaddr",
                "metrics are served at --metrics-addr, there are no profiles",
            ),
            (on(self.proxy_network), "--proxy-network", NETWORK),
            (on(self.save_cache_debug), "--save-cache-debug", "there is no such dump"),
            (
                on(self.oci_worker_no_process_sandbox),
                "--oci-worker-no-process-sandbox",
                "every step has its own process namespace",
            ),
            (on(self.oci_worker_selinux), "--oci-worker-selinux", "there is no SELinux support"),
            (
                self.oci_worker_apparmor_profile.is_some(),
                "--oci-worker-apparmor-profile",
                "there is no AppArmor support",
            ),
            (
                self.oci_worker_proxy_snapshotter_path.is_some(),
                "--oci-worker-proxy-snapshotter-path",
                "snapshotters are overlayfs and native",
            ),
            (self.oci_cni_config_path.is_some(), "--oci-cni-config-path", NETWORK),
            (self.oci_cni_binary_dir.is_some(), "--oci-cni-binary-dir", NETWORK),
            (self.oci_cni_pool_size.is_some_and(|n| n > 0), "--oci-cni-pool-size", NETWORK),
        ];
        match refused.into_iter().find(|(asked, ..)| *asked) {
            Some((_, setting, hint)) => Err(unsupported(setting, hint)),
            None => Ok(()),
        }
    }
}

/// What an archive may have unpacked unless the operator says otherwise: larger than what anybody packs small.
const MAX_UNPACKED: u64 = 8 << 30;
/// What a repository may have unless the operator says otherwise: several times the largest that people build from.
const MAX_REPOSITORY: u64 = 32 << 30;

/// The command line wins over the file.
fn listen_on(flags: &[String], file: &[String]) -> Vec<String> {
    match (flags, file) {
        ([], []) => vec![places().address.into()],
        ([], file) => file.to_vec(),
        (flags, _) => flags.to_vec(),
    }
}

fn drain(flag: Option<u64>, file: Option<Span>) -> Duration {
    let flag = flag.map(Duration::from_secs);
    flag.or(file.map(|span| span.0)).unwrap_or(Duration::from_secs(DEFAULT_DRAIN_SECS))
}

fn max_size(setting: &str, flag: Option<&str>, file: Option<Size>, default: u64) -> Result<u64, ConfigError> {
    let wrong = |message| invalid(setting, message);
    match flag.map(Size::parse).transpose().map_err(wrong)?.or(file) {
        None => Ok(default),
        Some(Size::Bytes(bytes)) => Ok(u64::try_from(bytes).unwrap_or(0)),
        Some(Size::Percent(_)) => Err(wrong("expected a size such as 8GiB, not a percentage".to_owned())),
    }
}

fn unsupported(setting: &str, hint: &'static str) -> ConfigError {
    ConfigError::Unsupported { setting: format!("`{setting}`"), hint }
}

fn invalid(setting: &str, message: impl Into<String>) -> ConfigError {
    ConfigError::Invalid { setting: setting.into(), message: message.into() }
}

impl Cli {
    /// Joins the command line, the file and the defaults.
    pub(crate) fn into_config(self) -> Result<Config, ConfigError> {
        self.refused.check()?;
        self.check_workers()?;
        let path = self.config.clone().unwrap_or_else(|| places().config.into());
        let file = ConfigFile::load(&path, self.config.is_some())?;
        let oci = &file.worker.oci;
        let snapshotter =
            parse_snapshotter(self.oci_worker_snapshotter.as_ref().or(oci.snapshotter.as_ref()))?;
        let network = parse_network(self.oci_worker_net.as_ref().or(oci.network_mode.as_ref()), oci)?;
        let entitlements =
            [self.allow_insecure_entitlement.clone(), file.insecure_entitlements.clone()].concat();
        check_entitlements(&entitlements)?;
        if !self.oci_worker_platform.is_empty() || !oci.platforms.is_empty() {
            check_platforms(self.oci_worker_platform.iter().chain(&oci.platforms))?;
        }
        let tls = self.tls(&file)?;
        let gc_policies = self.gc_policies(&file)?;
        let addresses = listen_on(&self.addr, &file.grpc.address);
        let (max_unpacked_bytes, max_repository_bytes) = self.limits(oci)?;
        let step_limits = self.step_limits(oci)?;
        let log_level = self.level(&file)?;
        let cdi_spec_dirs = self.spec_dirs(&file.cdi);
        let mut registries = file.registry;
        for entry in &self.registry_mirror {
            add_mirror(&mut registries, entry)?;
        }
        let mut labels = file.worker.oci.labels;
        labels.extend(parse_labels(&self.oci_worker_labels)?);
        Ok(Config {
            root: self.root.or(file.root).unwrap_or_else(|| places().root.into()),
            addresses,
            group: self.group,
            uid: file.grpc.uid,
            gid: file.grpc.gid,
            tls,
            insecure_tcp: self.insecure_tcp || file.grpc.insecure_tcp,
            log_level,
            log_json: parse_log_format(self.log_format.as_ref().or(file.log.format.as_ref()))?,
            entitlements,
            cdi_spec_dirs,
            labels,
            snapshotter,
            runtime_binary: self.oci_worker_binary.or(file.worker.oci.binary),
            parallelism: self.oci_max_parallelism.or(file.worker.oci.max_parallelism).unwrap_or(0),
            limits: step_limits,
            measure: file.worker.oci.step_usage.unwrap_or(true),
            max_unpacked_bytes,
            max_repository_bytes,
            gc: self.oci_worker_gc.or(file.worker.oci.gc).unwrap_or(true),
            gc_policies,
            registries,
            dns: file.dns,
            network,
            trace_socket: self.otel_socket_path.or(file.otel.socket_path),
            metrics_address: self.metrics_addr.or(file.metrics.address),
            history: file.history,
            tier: file.cache.tier,
            frontends: file.frontend,
            drain: drain(self.drain_timeout, file.drain_timeout),
            until_stdin_closes: self.until_stdin_closes,
        })
    }

    fn level(&self, file: &ConfigFile) -> Result<&'static str, ConfigError> {
        match (file.trace, self.debug.unwrap_or(file.debug)) {
            (true, _) => Ok("trace"),
            (_, true) => Ok("debug"),
            _ => parse_log_level(self.log_level.as_ref().or(file.log.level.as_ref())),
        }
    }

    fn spec_dirs(&self, file: &super::file::CdiFile) -> Vec<PathBuf> {
        match (self.cdi_disabled.or(file.disabled), &file.spec_dirs) {
            (Some(true), _) => Vec::new(),
            _ if !self.cdi_spec_dir.is_empty() => self.cdi_spec_dir.clone(),
            (_, Some(dirs)) => dirs.clone(),
            _ => rbuild_build::DeviceOptions::default().spec_dirs,
        }
    }

    /// What an archive and a repository may have, in bytes.
    fn limits(&self, oci: &OciWorkerFile) -> Result<(u64, u64), ConfigError> {
        let (unpacked, repository) = (&self.oci_max_unpacked_size, &self.oci_max_repository_size);
        Ok((
            max_size("max-unpacked-size", unpacked.as_deref(), oci.max_unpacked_size, MAX_UNPACKED)?,
            max_size("max-repository-size", repository.as_deref(), oci.max_repository_size, MAX_REPOSITORY)?,
        ))
    }

    fn step_limits(&self, oci: &OciWorkerFile) -> Result<StepLimits, ConfigError> {
        let memory = self.oci_step_memory.as_deref().map(Size::parse).transpose();
        let memory = memory.map_err(|message| invalid("--oci-step-memory", message))?;
        super::limits::parse(memory.or(oci.step_memory), self.oci_step_cpus.or(oci.step_cpus))
    }

    fn check_workers(&self) -> Result<(), ConfigError> {
        match self.containerd_worker.as_deref() {
            None | Some("false" | "auto") => {}
            Some(other) => {
                return Err(unsupported(
                    &format!("--containerd-worker={other}"),
                    "rbuildd has its own worker",
                ));
            }
        }
        match self.oci_worker.as_deref() {
            None | Some("true" | "auto") => Ok(()),
            Some(other) => Err(unsupported(&format!("--oci-worker={other}"), "it is the only worker")),
        }
    }

    fn tls(&self, file: &ConfigFile) -> Result<Option<Tls>, ConfigError> {
        let from_file = file.grpc.tls.as_ref();
        let cert = self.tlscert.clone().or(from_file.map(|t| t.cert.clone()));
        let key = self.tlskey.clone().or(from_file.map(|t| t.key.clone()));
        let client_ca = self.tlscacert.clone().or(from_file.and_then(|t| t.ca.clone()));
        match (cert, key) {
            (Some(cert), Some(key)) => Ok(Some(Tls { cert, key, client_ca })),
            (None, None) if client_ca.is_none() => Ok(None),
            _ => Err(invalid("TLS", "a certificate needs its key: give both --tlscert and --tlskey")),
        }
    }

    fn gc_policies(&self, file: &ConfigFile) -> Result<Vec<super::GcPolicyFile>, ConfigError> {
        use super::size::Size;
        let oci = &file.worker.oci;
        if !oci.gcpolicy.is_empty() {
            return Ok(oci.gcpolicy.clone());
        }
        let mut policy = super::GcPolicyFile {
            reserved_space: oci.reserved_space.or(oci.gckeepstorage),
            max_used_space: oci.max_used_space,
            min_free_space: oci.min_free_space,
            ..Default::default()
        };
        if let Some(text) = &self.oci_worker_gc_keepstorage {
            let mut sizes = Vec::new();
            for part in text.split(',') {
                // A bare number counts megabytes here, unlike in the file.
                let unit = if part.trim().parse::<f64>().is_ok() { "MB" } else { "" };
                let size = Size::parse(&format!("{part}{unit}"))
                    .map_err(|message| invalid("--oci-worker-gc-keepstorage", message))?;
                sizes.push(size);
            }
            policy.reserved_space = sizes.first().copied().or(policy.reserved_space);
            policy.min_free_space = sizes.get(1).copied().or(policy.min_free_space);
            policy.max_used_space = sizes.get(2).copied().or(policy.max_used_space);
        }
        if policy.reserved_space.is_none()
            && policy.max_used_space.is_none()
            && policy.min_free_space.is_none()
        {
            policy.reserved_space = Some(Size::Percent(10.0));
            policy.max_used_space = Some(Size::Percent(60.0));
            policy.min_free_space = Some(Size::Percent(20.0));
        }
        Ok(super::gc::default_policies(&policy))
    }
}

fn parse_snapshotter(name: Option<&String>) -> Result<Snapshotter, ConfigError> {
    match name.map(String::as_str) {
        None | Some("auto" | "") => Ok(Snapshotter::Auto),
        Some("overlayfs" | "overlay") => Ok(Snapshotter::Overlay),
        Some("native") => Ok(Snapshotter::Native),
        Some(other) => Err(unsupported(&format!("snapshotter {other}"), "use auto, overlayfs or native")),
    }
}

/// What `--network=default` means; `auto` is the host's network, as upstream has it without CNI.
fn parse_network(mode: Option<&String>, oci: &OciWorkerFile) -> Result<Network, ConfigError> {
    let network = match mode.map(String::as_str) {
        None | Some("auto" | "host" | "") => Network::Host,
        Some("none" | "null") => Network::None,
        Some("bridge") => {
            Network::Bridge { name: oci.bridge_name.clone(), subnet: oci.bridge_subnet.clone() }
        }
        Some(other) => {
            return Err(unsupported(&format!("network mode {other}"), "use auto, host, bridge or none"));
        }
    };
    let named = oci.bridge_name.is_some() || oci.bridge_subnet.is_some();
    if named && !matches!(network, Network::Bridge { .. }) {
        return Err(unsupported("bridgeName and bridgeSubnet", "they go with networkMode = \"bridge\""));
    }
    Ok(network)
}

/// The words are those of upstream's logger; the levels above `error` are one here.
fn parse_log_level(level: Option<&String>) -> Result<&'static str, ConfigError> {
    Ok(match level.map(String::as_str) {
        Some("trace") => "trace",
        Some("debug") => "debug",
        None | Some("info" | "") => "info",
        Some("warn" | "warning") => "warn",
        Some("error" | "fatal" | "panic") => "error",
        Some(other) => {
            let expected = "expected trace, debug, info, warn or error";
            return Err(invalid("--log-level", format!("`{other}`: {expected}")));
        }
    })
}

fn parse_log_format(format: Option<&String>) -> Result<bool, ConfigError> {
    match format.map(String::as_str) {
        None | Some("text" | "") => Ok(false),
        Some("json") => Ok(true),
        Some(other) => Err(invalid("--log-format", format!("`{other}`: expected text or json"))),
    }
}

fn check_entitlements(names: &[String]) -> Result<(), ConfigError> {
    let known = |name: &str| {
        matches!(name, "network.host" | "security.insecure" | "device")
            || name.strip_prefix("device=").is_some_and(|device| !device.is_empty() && !device.contains(','))
    };
    match names.iter().find(|name| !known(name)) {
        None => Ok(()),
        Some(name) => Err(invalid(
            "--allow-insecure-entitlement",
            format!(
                "unknown entitlement `{name}`: expected network.host, security.insecure, device or device=NAME"
            ),
        )),
    }
}

/// Steps run on the machine's own architecture, so only that may be named.
fn check_platforms<'a>(platforms: impl Iterator<Item = &'a String>) -> Result<(), ConfigError> {
    let native = rbuild_oci::Platform::host();
    for text in platforms {
        let platform = rbuild_oci::Platform::parse(text)
            .map_err(|error| invalid("--oci-worker-platform", format!("`{text}`: {error}")))?;
        if platform.architecture != native.architecture {
            return Err(unsupported(
                &format!("--oci-worker-platform={text}"),
                "foreign platforms need emulation",
            ));
        }
    }
    Ok(())
}

fn parse_labels(entries: &[String]) -> Result<BTreeMap<String, String>, ConfigError> {
    entries
        .iter()
        .map(|entry| match entry.split_once('=') {
            Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
            None => Err(invalid("--oci-worker-labels", format!("`{entry}`: expected key=value"))),
        })
        .collect()
}

fn add_mirror(
    registries: &mut BTreeMap<String, super::RegistryFile>,
    entry: &str,
) -> Result<(), ConfigError> {
    let (host, mirrors) = entry
        .split_once('=')
        .ok_or_else(|| invalid("--registry-mirror", format!("`{entry}`: expected host=mirror")))?;
    for mirror in mirrors.split(',') {
        let name = match mirror.strip_prefix("http://") {
            Some(name) => {
                registries.entry(name.to_owned()).or_default().http = Some(true);
                name
            }
            None => mirror.strip_prefix("https://").unwrap_or(mirror),
        };
        registries.entry(host.to_owned()).or_default().mirrors.push(name.to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(args: &[&str]) -> Result<Config, ConfigError> {
        let args = std::iter::once("rbuildd").chain(args.iter().copied());
        Cli::try_parse_from(args).expect("flags parse").into_config()
    }

    #[test]
    fn upstream_command_lines_are_taken() {
        let config = config(&[
            "--root",
            "/tmp/r",
            "--addr",
            "unix:///tmp/a",
            "--debug",
            "--oci-worker=true",
            "--containerd-worker=false",
            "--oci-worker-gc=false",
            "--oci-worker-labels=a=b",
            "--allow-insecure-entitlement=security.insecure",
            "--group",
            "docker",
        ])
        .unwrap();
        assert!(!config.gc && config.log_level == "debug" && config.labels["a"] == "b");
    }

    #[test]
    fn log_levels_are_upstreams_words() {
        for (word, level) in [("warning", "warn"), ("fatal", "error"), ("info", "info")] {
            assert_eq!(config(&["--log-level", word]).unwrap().log_level, level);
        }
    }

    #[test]
    fn flags_for_what_is_missing_are_refused_by_name() {
        for (args, name) in [
            (&["--rootless"][..], "--rootless"),
            (&["--containerd-worker=true"], "--containerd-worker=true"),
            (&["--oci-worker=false"], "--oci-worker=false"),
            (&["--oci-worker-net=cni"], "cni"),
            (&["--oci-worker-snapshotter=zfs"], "zfs"),
            (&["--allow-insecure-entitlement=root"], "root"),
            (&["--log-level=loud"], "loud"),
        ] {
            let error = config(args).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }
}
