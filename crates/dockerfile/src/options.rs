use std::collections::{BTreeMap, BTreeSet};

use rbuild_frontend::ResolveMode;
use rbuild_llb::{HostIp, LinuxResources, NetMode, Ulimit};
use rbuild_oci::Platform;

/// What a client may ask of a compilation, beside the file itself.
#[derive(Debug, Clone)]
pub struct CompileOptions {
    /// Values for ARG.
    pub build_args: BTreeMap<String, String>,
    /// Labels that win over those of the file.
    pub labels: BTreeMap<String, String>,
    /// Which stage; empty is the last.
    pub target: String,
    /// What the result should run on.
    pub target_platform: Platform,
    /// The platform was asked for: the image is for it, whatever its base says.
    pub platform_given: bool,
    /// What steps run on unless the file says otherwise.
    pub build_platform: Platform,
    /// Names of steps begin with their platform.
    pub show_platforms: bool,
    /// Prefix of the ids of cache mounts.
    pub cache_namespace: String,
    /// Parent control group of processes.
    pub cgroup_parent: String,
    /// Lines of `/etc/hosts`.
    pub extra_hosts: Vec<HostIp>,
    /// Host name of processes.
    pub hostname: String,
    /// Where images are looked for.
    pub resolve_mode: ResolveMode,
    /// Network of processes that don't ask for one.
    pub network: NetMode,
    /// Size of `/dev/shm`; 0 is the default.
    pub shm_size: i64,
    /// Limits of processes.
    pub ulimits: Vec<Ulimit>,
    /// Resources of processes.
    pub linux_resources: Option<LinuxResources>,
    /// Stages whose steps are always executed.
    pub no_cache: NoCache,
    /// When all that is made shall seem to be made, in seconds since 1970.
    pub source_date_epoch: Option<i64>,
    /// Lists of packages are wanted: stages and the context may ask to be in them.
    pub scans: bool,
}

/// Which stages take nothing from the cache.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum NoCache {
    /// None.
    #[default]
    Never,
    /// All.
    Always,
    /// These, in lower case.
    Stages(BTreeSet<String>),
}

impl Default for CompileOptions {
    fn default() -> Self {
        Self {
            build_args: BTreeMap::new(),
            labels: BTreeMap::new(),
            target: String::new(),
            target_platform: Platform::new("linux", "amd64"),
            platform_given: false,
            build_platform: Platform::new("linux", "amd64"),
            show_platforms: false,
            cache_namespace: String::new(),
            cgroup_parent: String::new(),
            extra_hosts: Vec::new(),
            hostname: String::new(),
            resolve_mode: ResolveMode::Default,
            network: NetMode::Sandbox,
            shm_size: 0,
            ulimits: Vec::new(),
            linux_resources: None,
            no_cache: NoCache::Never,
            source_date_epoch: None,
            scans: false,
        }
    }
}

impl CompileOptions {
    /// Whether steps of this stage take nothing from the cache.
    pub(crate) fn ignores_cache(&self, stage: &str) -> bool {
        match &self.no_cache {
            NoCache::Never => false,
            NoCache::Always => true,
            NoCache::Stages(names) => names.contains(&stage.to_lowercase()),
        }
    }
}
