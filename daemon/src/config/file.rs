//! The configuration file: upstream's keys, read strictly.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::ConfigError;
use super::size::{Size, Span};

/// `rbuildd.toml` (or `buildkitd.toml`). Unknown keys are an error, so a typo never passes silently.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ConfigFile {
    pub(super) debug: bool,
    pub(super) trace: bool,
    pub(super) root: Option<PathBuf>,
    #[serde(rename = "insecure-entitlements")]
    pub(super) insecure_entitlements: Vec<String>,
    /// How long a drain may last after SIGTERM.
    #[serde(rename = "drainTimeout")]
    pub(super) drain_timeout: Option<Span>,
    pub(super) log: LogFile,
    pub(super) dns: DnsFile,
    pub(super) grpc: GrpcFile,
    pub(super) worker: WorkersFile,
    pub(super) registry: BTreeMap<String, RegistryFile>,
    pub(super) history: HistoryFile,
    pub(super) cache: CacheFile,
    pub(super) frontend: BTreeMap<String, FrontendFile>,
    pub(super) system: Option<toml::Value>,
    pub(super) otel: OtelFile,
    pub(super) metrics: MetricsFile,
    pub(super) cdi: CdiFile,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct LogFile {
    pub(super) format: Option<String>,
    pub(super) level: Option<String>,
}

/// Name servers for steps.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct DnsFile {
    pub(crate) nameservers: Vec<String>,
    pub(crate) options: Vec<String>,
    #[serde(rename = "searchDomains")]
    pub(crate) search_domains: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct GrpcFile {
    pub(super) address: Vec<String>,
    #[serde(rename = "debugAddress")]
    pub(super) debug_address: Option<String>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) tls: Option<TlsFile>,
    /// Listen on TCP without certificates.
    #[serde(rename = "insecureTCP")]
    pub(super) insecure_tcp: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct TlsFile {
    pub(super) cert: PathBuf,
    pub(super) key: PathBuf,
    pub(super) ca: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct WorkersFile {
    pub(super) oci: OciWorkerFile,
    pub(super) containerd: ContainerdFile,
}

/// Only `enabled = false` is possible; the other keys are not looked at then.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ContainerdFile {
    pub(super) enabled: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct OciWorkerFile {
    pub(super) enabled: Option<bool>,
    pub(super) platforms: Vec<String>,
    pub(super) snapshotter: Option<String>,
    pub(super) rootless: bool,
    #[serde(rename = "noProcessSandbox")]
    pub(super) no_process_sandbox: bool,
    pub(super) gc: Option<bool>,
    pub(super) gckeepstorage: Option<Size>,
    #[serde(rename = "reservedSpace")]
    pub(super) reserved_space: Option<Size>,
    #[serde(rename = "maxUsedSpace")]
    pub(super) max_used_space: Option<Size>,
    #[serde(rename = "minFreeSpace")]
    pub(super) min_free_space: Option<Size>,
    pub(super) binary: Option<PathBuf>,
    #[serde(rename = "networkMode")]
    pub(super) network_mode: Option<String>,
    #[serde(rename = "bridgeName")]
    pub(super) bridge_name: Option<String>,
    #[serde(rename = "bridgeSubnet")]
    pub(super) bridge_subnet: Option<String>,
    #[serde(rename = "cniConfigPath")]
    pub(super) cni_config_path: Option<String>,
    #[serde(rename = "cniBinaryPath")]
    pub(super) cni_binary_path: Option<String>,
    #[serde(rename = "cniPoolSize")]
    pub(super) cni_pool_size: Option<i64>,
    #[serde(rename = "apparmor-profile")]
    pub(super) apparmor_profile: Option<String>,
    pub(super) selinux: bool,
    #[serde(rename = "max-parallelism")]
    pub(super) max_parallelism: Option<usize>,
    /// Ours: the memory that each step may have.
    #[serde(rename = "step-memory")]
    pub(super) step_memory: Option<Size>,
    /// Ours: the processors that each step may have, in all; a half is 0.5.
    #[serde(rename = "step-cpus")]
    pub(super) step_cpus: Option<f64>,
    /// Ours: whether it is kept what steps use of the machine.
    #[serde(rename = "step-usage")]
    pub(super) step_usage: Option<bool>,
    /// Ours: what an archive may have unpacked.
    #[serde(rename = "max-unpacked-size")]
    pub(super) max_unpacked_size: Option<Size>,
    /// Ours: what a git repository may have.
    #[serde(rename = "max-repository-size")]
    pub(super) max_repository_size: Option<Size>,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) gcpolicy: Vec<GcPolicyFile>,
}

/// One garbage-collection rule.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct GcPolicyFile {
    pub(crate) all: bool,
    #[serde(rename = "keepDuration")]
    pub(crate) keep_duration: Option<Span>,
    #[serde(rename = "keepBytes", alias = "reservedSpace")]
    pub(crate) reserved_space: Option<Size>,
    #[serde(rename = "maxUsedSpace")]
    pub(crate) max_used_space: Option<Size>,
    #[serde(rename = "minFreeSpace")]
    pub(crate) min_free_space: Option<Size>,
    pub(crate) filters: Vec<String>,
}

/// The socket on which spans are taken. Where traces go is said by the environment, as everywhere.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct OtelFile {
    #[serde(rename = "socketPath")]
    pub(super) socket_path: Option<PathBuf>,
}

/// Where metrics are served.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct MetricsFile {
    pub(super) address: Option<String>,
}

/// How many ended builds are kept.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct HistoryFile {
    #[serde(rename = "maxAge")]
    pub(crate) max_age: Option<Span>,
    #[serde(rename = "maxEntries")]
    pub(crate) max_entries: Option<usize>,
}

/// Ours: caches of the daemon.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct CacheFile {
    /// A cache that daemons share at all times: `type` and attributes as of `--cache-to`.
    pub(crate) tier: Option<BTreeMap<String, toml::Value>>,
}

/// How one registry host is reached.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RegistryFile {
    pub(crate) mirrors: Vec<String>,
    pub(crate) http: Option<bool>,
    pub(crate) insecure: Option<bool>,
    pub(crate) ca: Vec<PathBuf>,
    #[serde(rename = "keypair")]
    pub(crate) keypairs: Vec<KeyPairFile>,
    #[serde(rename = "tlsconfigdir")]
    pub(crate) tls_config_dirs: Vec<PathBuf>,
}

/// A client certificate for a registry.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct KeyPairFile {
    pub(crate) key: PathBuf,
    pub(crate) cert: PathBuf,
}

/// One frontend: `dockerfile.v0` or `gateway.v0`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct FrontendFile {
    pub(crate) enabled: Option<bool>,
    /// Images that may be frontends, as repositories; empty is all.
    #[serde(rename = "allowedRepositories")]
    pub(crate) allowed_repositories: Vec<String>,
    /// Ours: repositories of images that the Dockerfile frontend in here stands in for.
    #[serde(rename = "builtInFor")]
    pub(crate) built_in_for: Option<Vec<String>>,
}

/// Where devices are looked for.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct CdiFile {
    pub(super) disabled: Option<bool>,
    #[serde(rename = "specDirs")]
    pub(super) spec_dirs: Option<Vec<PathBuf>>,
    #[serde(rename = "autoAllowed")]
    pub(super) auto_allowed: Vec<String>,
}

impl ConfigFile {
    /// Reads the file; a missing default file is no error.
    pub(super) fn load(path: &Path, required: bool) -> Result<Self, ConfigError> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !required => {
                return Ok(Self::default());
            }
            Err(source) => return Err(ConfigError::Read { path: path.to_owned(), source }),
        };
        Self::parse(path, &text)
    }

    fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let file: Self = toml::from_str(text)
            .map_err(|error| ConfigError::Parse { path: path.to_owned(), message: error.to_string() })?;
        file.refuse_unsupported()?;
        Ok(file)
    }

    fn refuse_unsupported(&self) -> Result<(), ConfigError> {
        const NO_CNI: &str = "network modes are host, bridge and none; a bridge is made by rbuildd itself";
        let oci = &self.worker.oci;
        let refused = [
            (
                self.worker.containerd.enabled == Some(true),
                "`[worker.containerd] enabled`",
                "set it to false; rbuildd has its own worker",
            ),
            (oci.enabled == Some(false), "`[worker.oci] enabled = false`", "it is the only worker"),
            (oci.rootless, "`[worker.oci] rootless`", "run rbuildd as root"),
            (
                oci.no_process_sandbox,
                "`[worker.oci] noProcessSandbox`",
                "every step has its own process namespace",
            ),
            (oci.selinux, "`[worker.oci] selinux`", "remove it"),
            (
                oci.apparmor_profile.as_deref().is_some_and(|p| !p.is_empty()),
                "`[worker.oci] apparmor-profile`",
                "remove it",
            ),
            (oci.cni_pool_size.is_some_and(|n| n > 0), "`[worker.oci] cniPoolSize`", NO_CNI),
            (
                oci.cni_config_path.is_some() || oci.cni_binary_path.is_some(),
                "`[worker.oci] cniConfigPath` and `cniBinaryPath`",
                NO_CNI,
            ),
            (self.system.is_some(), "`[system]`", "platforms are looked up once, at start"),
            (
                self.grpc.debug_address.is_some(),
                "`[grpc] debugAddress`",
                "metrics are served at `[metrics] address`, there are no profiles",
            ),
            (!self.cdi.auto_allowed.is_empty(), "`[cdi] autoAllowed`", "builds ask with --allow device=NAME"),
            (
                self.frontend.get("dockerfile.v0").is_some_and(|f| f.enabled == Some(false)),
                "`[frontend.\"dockerfile.v0\"] enabled = false`",
                "the Dockerfile frontend is always on",
            ),
            (
                self.frontend.keys().any(|name| name != "dockerfile.v0" && name != "gateway.v0"),
                "a frontend besides `dockerfile.v0` and `gateway.v0`",
                "there are these two",
            ),
            (
                self.frontend.get("gateway.v0").is_some_and(|f| f.built_in_for.is_some()),
                "`[frontend.\"gateway.v0\"] builtInFor`",
                "it belongs to `[frontend.\"dockerfile.v0\"]`",
            ),
            (
                self.frontend.get("dockerfile.v0").is_some_and(|f| !f.allowed_repositories.is_empty()),
                "`[frontend.\"dockerfile.v0\"] allowedRepositories`",
                "it belongs to `[frontend.\"gateway.v0\"]`",
            ),
        ];
        match refused.into_iter().find(|(asked, ..)| *asked) {
            Some((_, setting, hint)) => Err(ConfigError::Unsupported { setting: setting.into(), hint }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ConfigFile, ConfigError> {
        ConfigFile::parse(Path::new("test.toml"), text)
    }

    #[test]
    fn upstream_keys_are_read() {
        let file = parse(
            r#"
            debug = true
            root = "/tmp/x"
            insecure-entitlements = ["network.host"]
            [grpc]
              address = ["unix:///tmp/a.sock", "tcp://127.0.0.1:1"]
            [worker.oci]
              gc = true
              max-parallelism = 4
              max-unpacked-size = "1GiB"
              step-memory = "2GiB"
              step-cpus = 1.5
              step-usage = false
              max-repository-size = "2GiB"
              [[worker.oci.gcpolicy]]
                keepBytes = "512MB"
                keepDuration = "48h"
                filters = ["type==source.local"]
            [worker.containerd]
              enabled = false
              namespace = "x"
            [history]
              maxAge = 172800
              maxEntries = 7
            [registry."docker.io"]
              mirrors = ["localhost:5000"]
              http = true
            "#,
        )
        .unwrap();
        assert_eq!(file.worker.oci.max_parallelism, Some(4));
        assert_eq!(file.worker.oci.max_unpacked_size, Some(Size::Bytes(1 << 30)));
        assert_eq!(file.worker.oci.step_memory, Some(Size::Bytes(2 << 30)));
        assert_eq!((file.worker.oci.step_cpus, file.worker.oci.step_usage), (Some(1.5), Some(false)));
        assert_eq!(file.worker.oci.max_repository_size, Some(Size::Bytes(2 << 30)));
        assert_eq!((file.history.max_age.unwrap().0.as_secs(), file.history.max_entries), (172_800, Some(7)));
        assert_eq!(file.registry["docker.io"].mirrors, ["localhost:5000"]);
        assert_eq!(file.worker.oci.gcpolicy[0].reserved_space, Some(Size::Bytes(512_000_000)));
    }

    #[test]
    fn a_typo_is_an_error_that_names_the_key() {
        let error = parse("[grpc]\nadress = []").unwrap_err().to_string();
        assert!(error.contains("adress"), "{error}");
    }

    #[test]
    fn what_is_missing_is_refused_by_name() {
        let error = parse("[worker.containerd]\nenabled = true").unwrap_err().to_string();
        assert!(error.contains("worker.containerd"), "{error}");
    }
}
