use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use rbuild_exec::{DnsConfig, Runtime, StepLimits};
use rbuild_llb::{NetMode, SourceOp};
use rbuild_oci::Platform;
use rbuild_session::SessionManager;
use rbuild_source::Source;
use rbuild_store::{GcPolicy, Store};

use crate::devices::DeviceOptions;
use crate::durations::Durations;
use crate::entitlements::Entitlements;
use crate::error::OpError;
use crate::permits::Permits;

/// What a worker is made of.
#[derive(Debug, Clone)]
pub struct WorkerOptions {
    /// Where results are kept.
    pub store: Store,
    /// Clients that can be asked for secrets and agents.
    pub sessions: Arc<SessionManager>,
    /// Where things come from; the first that takes a scheme is asked.
    pub sources: Vec<Arc<dyn Source>>,
    /// What runs processes.
    pub runtime: Arc<dyn Runtime>,
    /// Steps that run at once; 0 is no limit.
    pub parallelism: usize,
    /// What no step may exceed.
    pub step_limits: StepLimits,
    /// Whether builds are told what their steps use.
    pub measure: bool,
    /// Bytes that an archive may have unpacked; large archives may have more, in proportion.
    pub max_unpacked_bytes: u64,
    /// What the daemon's operator allows.
    pub entitlements: Entitlements,
    /// Resolver configuration of steps.
    pub dns: DnsConfig,
    /// The network of steps that ask for none in particular.
    pub network: rbuild_exec::NetMode,
    /// What is removed first when the disk is full; `None`: nothing is removed by itself.
    pub gc: Option<Vec<GcPolicy>>,
    /// Where devices are looked for.
    pub devices: DeviceOptions,
    /// A private directory for sockets of running steps.
    pub run_dir: PathBuf,
}

/// Performs the ops of all builds of a daemon.
pub struct Worker {
    pub(crate) options: WorkerOptions,
    pub(crate) permits: Permits,
    pub(crate) durations: Durations,
    /// As it was when the daemon started.
    platforms: Vec<Platform>,
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("runtime", &self.options.runtime.name()).finish_non_exhaustive()
    }
}

impl Worker {
    /// A worker; the daemon has one.
    pub fn new(options: WorkerOptions) -> Arc<Self> {
        let permits = Permits::new(options.parallelism);
        let durations = Durations::load(&options.store);
        let host = Platform::host();
        let emulated = rbuild_exec::emulated(&host.architecture).into_iter();
        let emulated = emulated.map(|architecture| Platform::new("linux", architecture).normalize());
        let mut platforms = vec![host];
        platforms.extend(Platform::host_variants());
        platforms.extend(emulated);
        Arc::new(Self { options, permits, durations, platforms })
    }

    /// The platforms whose steps can run here, the host's first, then those that are emulated.
    pub fn platforms(&self) -> Vec<Platform> {
        self.platforms.clone()
    }

    /// The network that a step's mode means here.
    pub(crate) fn net_mode(&self, mode: NetMode) -> rbuild_exec::NetMode {
        match mode {
            NetMode::None => rbuild_exec::NetMode::None,
            NetMode::Host => rbuild_exec::NetMode::Host,
            NetMode::Sandbox => self.options.network,
        }
    }

    /// Steps that run a process or change files now.
    pub fn working(&self) -> usize {
        self.permits.in_use()
    }

    /// Keeps what it has learnt of steps for the next daemon.
    pub async fn save(&self) {
        if let Err(error) = self.durations.save(&self.options.store).await {
            tracing::debug!(%error, "keeping durations of steps");
        }
    }

    /// Makes room on a full disk, if the daemon may remove things by itself; more with each `attempt` (from 0).
    /// Whether it is worth trying again.
    pub async fn make_room(&self, attempt: u32) -> bool {
        let Some(policies) = &self.options.gc else { return false };
        match self.options.store.make_room(policies, attempt).await {
            Ok(freed) => freed > 0,
            Err(error) => {
                tracing::warn!(error = %error, "making room on a full disk");
                false
            }
        }
    }

    /// Where results are kept.
    pub fn store(&self) -> &Store {
        &self.options.store
    }

    /// What the daemon's operator allows.
    pub fn allowed(&self) -> &Entitlements {
        &self.options.entitlements
    }

    /// The source that takes an op's scheme.
    pub(crate) fn source(&self, op: &SourceOp) -> Result<&Arc<dyn Source>, OpError> {
        let scheme = op.scheme();
        let found = self.options.sources.iter().find(|source| source.schemes().contains(&scheme));
        found.ok_or_else(|| OpError::unsupported(format!("source scheme `{scheme}://`")))
    }
}
