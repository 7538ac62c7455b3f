use rbuild_oci::Platform;

use crate::{LinuxResources, OpMetadata, ProgressGroup, SourceLocation};

/// What is said about one op beside what it does.
#[derive(Debug, Clone, Default)]
pub struct Constraints {
    /// Which platform it is for; `None` is the state's, then the default.
    pub platform: Option<Platform>,
    /// Filters that a worker must meet.
    pub worker_filters: Vec<String>,
    /// Metadata.
    pub metadata: OpMetadata,
    /// Distinguishes equal local sources; `None` is the marshal options' id.
    pub local_unique_id: Option<String>,
    /// Where it was written.
    pub locations: Vec<SourceLocation>,
}

impl Constraints {
    /// The name to show.
    #[must_use]
    pub fn custom_name(mut self, name: impl Into<String>) -> Self {
        self.metadata.description.insert(OpMetadata::CUSTOM_NAME.to_owned(), name.into());
        self
    }

    /// Adds a description.
    #[must_use]
    pub fn description(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.description.insert(key.into(), value.into());
        self
    }

    /// Never take the result from the cache.
    #[must_use]
    pub fn ignore_cache(mut self) -> Self {
        self.metadata.ignore_cache = true;
        self
    }

    /// Whether the result goes to cache exports.
    #[must_use]
    pub fn export_cache(mut self, value: bool) -> Self {
        self.metadata.export_cache = Some(value);
        self
    }

    /// Shows several vertices as one.
    #[must_use]
    pub fn progress_group(mut self, group: ProgressGroup) -> Self {
        self.metadata.progress_group = Some(group);
        self
    }

    /// Limits for a process.
    #[must_use]
    pub fn linux_resources(mut self, resources: LinuxResources) -> Self {
        self.metadata.linux_resources = Some(resources);
        self
    }

    /// Which platform it is for.
    #[must_use]
    pub fn platform(mut self, platform: Platform) -> Self {
        self.platform = Some(platform);
        self
    }

    /// Where it was written.
    #[must_use]
    pub fn location(mut self, location: SourceLocation) -> Self {
        self.locations.push(location);
        self
    }

    pub(super) fn add_cap(&mut self, cap: &str) {
        self.metadata.caps.insert(cap.to_owned(), true);
    }
}

/// What holds for a whole definition.
#[derive(Debug, Clone)]
pub struct MarshalOptions {
    /// Platform of ops that don't name one.
    pub platform: Platform,
    /// Distinguishes local sources of different builds that name no session.
    pub local_unique_id: String,
    /// Filters for every op.
    pub worker_filters: Vec<String>,
    /// Metadata for every op.
    pub metadata: OpMetadata,
    /// Who gives processes without a `PATH` one.
    pub default_path: DefaultPath,
}

/// Who gives processes without a `PATH` one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DefaultPath {
    /// The daemon; the op says that this is needed.
    #[default]
    Daemon,
    /// The builder, for daemons that don't.
    Builder,
    /// Nobody, as nothing is known about the daemon.
    Unknown,
}

impl Default for MarshalOptions {
    /// The host's platform and a random unique id, for a daemon that sets the path.
    fn default() -> Self {
        Self {
            platform: Platform::host().normalize(),
            local_unique_id: rbuild_digest::random_id(),
            worker_filters: Vec::new(),
            metadata: OpMetadata::default(),
            default_path: DefaultPath::default(),
        }
    }
}
