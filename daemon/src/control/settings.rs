//! From the daemon's configuration to the builder's options.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rbuild_build::{BuilderOptions, DeviceOptions, ExportSettings, HistoryLimits, StepNetwork, Tracer};
use rbuild_exec::{BridgeOptions, DnsConfig};
use rbuild_frontend::Frontend;
use rbuild_gateway::{ImageFrontend, ImageFrontendOptions};
use rbuild_oci::ImageRef;
use rbuild_registry::{HostConfig, KeyPair, RegistryConfig};
use rbuild_store::{GcPolicy, SnapshotterKind};

use crate::config::{Config, GcPolicyFile, Network, RegistryFile, Snapshotter};

/// Everything that a builder needs to know.
///
/// `image_frontend`: runs frontends that are images, unless they are switched off.
pub(crate) fn builder_options(
    config: &Config,
    image_frontend: Option<Arc<ImageFrontend>>,
) -> anyhow::Result<BuilderOptions> {
    let mut registries = RegistryConfig::default();
    for (host, file) in &config.registries {
        registries.hosts.insert(host.clone(), host_config(file)?);
    }
    Ok(BuilderOptions {
        root: config.root.clone(),
        snapshotter: match config.snapshotter {
            Snapshotter::Auto => SnapshotterKind::Auto,
            Snapshotter::Overlay => SnapshotterKind::Overlay,
            Snapshotter::Native => SnapshotterKind::Native,
        },
        runtime_binary: config.runtime_binary.clone(),
        parallelism: config.parallelism,
        step_limits: config.limits.clone(),
        measure: config.measure,
        max_unpacked_bytes: config.max_unpacked_bytes,
        max_repository_bytes: config.max_repository_bytes,
        registries,
        entitlements: config.entitlements.clone(),
        devices: DeviceOptions { spec_dirs: config.cdi_spec_dirs.clone() },
        dns: DnsConfig {
            nameservers: config.dns.nameservers.clone(),
            options: config.dns.options.clone(),
            search: config.dns.search_domains.clone(),
        },
        network: step_network(&config.network)?,
        gc: config.gc.then(|| gc_policies(config)),
        tier: config.tier.as_ref().map(tier).transpose()?,
        history: history_limits(config),
        tracer: tracer()?,
        encode_error: rbuild_gateway::encode_error,
        built_in_frontends: built_in_frontends(config)?,
        image_frontend: image_frontend.map(|frontend| frontend as Arc<dyn Frontend>),
    })
}

fn step_network(network: &Network) -> anyhow::Result<StepNetwork> {
    let (name, subnet) = match network {
        Network::Host => return Ok(StepNetwork::Host),
        Network::None => return Ok(StepNetwork::None),
        Network::Bridge { name, subnet } => (name, subnet),
    };
    let mut options = BridgeOptions::default();
    if let Some(name) = name {
        options.name.clone_from(name);
    }
    if let Some(subnet) = subnet {
        options.subnet = subnet.parse().map_err(|message| anyhow::anyhow!("bridgeSubnet: {message}"))?;
    }
    Ok(StepNetwork::Bridge(options))
}

/// Sends traces where the usual variables say.
fn tracer() -> anyhow::Result<Tracer> {
    let settings = ExportSettings::from_env(&|name| std::env::var(name).ok(), "rbuildd")?;
    if let Some(settings) = &settings {
        tracing::info!(endpoint = settings.shown_endpoint(), "traces are sent");
    }
    Ok(Tracer::open(settings)?)
}

/// What runs frontends that are images; `None`: they are switched off.
pub(crate) fn image_frontend(config: &Config) -> anyhow::Result<Option<Arc<ImageFrontend>>> {
    let file = config.frontends.get("gateway.v0").cloned().unwrap_or_default();
    if file.enabled == Some(false) {
        return Ok(None);
    }
    let allowed = repositories(&file.allowed_repositories, "allowedRepositories")?;
    let options = ImageFrontendOptions { built_in: built_in_frontends(config)?, allowed };
    Ok(Some(Arc::new(ImageFrontend::new(options))))
}

fn built_in_frontends(config: &Config) -> anyhow::Result<Vec<String>> {
    match config.frontends.get("dockerfile.v0").and_then(|file| file.built_in_for.as_ref()) {
        Some(names) => repositories(names, "builtInFor"),
        None => Ok(rbuild_build::BUILT_IN.map(str::to_owned).to_vec()),
    }
}

/// Full names of repositories, however short they are written.
fn repositories(names: &[String], setting: &str) -> anyhow::Result<Vec<String>> {
    use anyhow::Context as _;
    let full = |name: &String| {
        let parsed = ImageRef::parse(name).with_context(|| format!("{setting}: `{name}`"))?;
        Ok(parsed.repository())
    };
    names.iter().map(full).collect()
}

/// The cache that this daemon shares with others.
fn tier(file: &BTreeMap<String, toml::Value>) -> anyhow::Result<rbuild_build::TierOptions> {
    use anyhow::Context as _;
    let text = |(name, value): (&String, &toml::Value)| {
        let value = match value {
            toml::Value::String(text) => text.clone(),
            toml::Value::Integer(number) => number.to_string(),
            toml::Value::Boolean(flag) => flag.to_string(),
            _ => anyhow::bail!("[cache.tier] {name}: expected a text, a number or a switch"),
        };
        Ok((name.clone(), value))
    };
    let attrs = file.iter().map(text).collect::<anyhow::Result<_>>()?;
    rbuild_build::TierOptions::parse(&attrs).context("[cache.tier]")
}

fn history_limits(config: &Config) -> HistoryLimits {
    let default = HistoryLimits::default();
    HistoryLimits {
        max_age: config.history.max_age.map_or(default.max_age, |span| span.0),
        max_entries: config.history.max_entries.unwrap_or(default.max_entries),
    }
}

fn host_config(file: &RegistryFile) -> anyhow::Result<HostConfig> {
    let mut config = HostConfig {
        mirrors: file.mirrors.clone(),
        http: file.http,
        insecure: file.insecure.unwrap_or(false),
        ca: file.ca.clone(),
        keypairs: file
            .keypairs
            .iter()
            .map(|pair| KeyPair { key: pair.key.clone(), cert: pair.cert.clone() })
            .collect(),
    };
    for dir in &file.tls_config_dirs {
        add_tls_dir(&mut config, dir)?;
    }
    Ok(config)
}

/// A directory as Docker lays it out: `*.crt` are authorities, `NAME.cert` and `NAME.key` a client certificate.
fn add_tls_dir(config: &mut HostConfig, dir: &std::path::Path) -> anyhow::Result<()> {
    use anyhow::Context as _;
    let entries =
        std::fs::read_dir(dir).with_context(|| format!("reading tlsconfigdir {}", dir.display()))?;
    let mut paths = Vec::new();
    for entry in entries {
        paths.push(entry?.path());
    }
    paths.sort();
    for path in paths {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => config.ca.push(path),
            Some("cert") => {
                let key = path.with_extension("key");
                config.keypairs.push(KeyPair { key, cert: path });
            }
            _ => {}
        }
    }
    Ok(())
}

/// The rules of garbage collection, shares of the disk turned into bytes.
pub(crate) fn gc_policies(config: &Config) -> Vec<GcPolicy> {
    // Before the first start the directory may be missing: its parent is on the same disk.
    let existing = config.root.ancestors().find(|path| path.exists());
    let disk = existing.and_then(|path| rbuild_store::disk_size(path).ok()).unwrap_or(0);
    config.gc_policies.iter().map(|file| gc_policy(file, disk)).collect()
}

fn gc_policy(file: &GcPolicyFile, disk: u64) -> GcPolicy {
    let bytes = |size: Option<crate::config::Size>| {
        size.map_or(0, |size| u64::try_from(size.bytes(disk)).unwrap_or(0))
    };
    GcPolicy {
        filters: file.filters.clone(),
        all: file.all,
        keep_duration: file.keep_duration.map_or(Duration::ZERO, |span| span.0),
        reserved_space: bytes(file.reserved_space),
        max_used_space: bytes(file.max_used_space),
        min_free_space: bytes(file.min_free_space),
    }
}
