use std::collections::BTreeMap;

use rbuild_api::pb;

/// Facts about a vertex that its digest doesn't cover.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OpMetadata {
    /// Never take the result from the cache.
    pub ignore_cache: bool,
    /// Free texts; [`OpMetadata::CUSTOM_NAME`] is the name to show.
    pub description: BTreeMap<String, String>,
    /// Whether the result goes to cache exports: `None` as the build says.
    pub export_cache: Option<bool>,
    /// Capabilities that a daemon needs for this op.
    pub caps: BTreeMap<String, bool>,
    /// Shows several vertices as one.
    pub progress_group: Option<ProgressGroup>,
    /// Limits for a process.
    pub linux_resources: Option<LinuxResources>,
}

/// Several vertices shown as one step.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProgressGroup {
    /// Which group.
    pub id: String,
    /// Its shown name.
    pub name: String,
    /// Give way to another group that has the same vertex.
    pub weak: bool,
}

/// Limits of a process; 0 and empty mean none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinuxResources {
    /// Bytes.
    pub memory: i64,
    /// Bytes of memory and swap.
    pub memory_swap: i64,
    /// Relative weight.
    pub cpu_shares: u64,
    /// Period of the CFS in microseconds.
    pub cpu_period: u64,
    /// Quota of the CFS in microseconds.
    pub cpu_quota: i64,
    /// Processors, for instance `0-3`.
    pub cpuset_cpus: String,
    /// Memory nodes.
    pub cpuset_mems: String,
}

impl ProgressGroup {
    /// From the wire.
    pub fn from_wire(wire: pb::ProgressGroup) -> Self {
        Self { id: wire.id, name: wire.name, weak: wire.weak }
    }

    /// To the wire.
    pub fn to_wire(&self) -> pb::ProgressGroup {
        pb::ProgressGroup { id: self.id.clone(), name: self.name.clone(), weak: self.weak }
    }
}

impl OpMetadata {
    /// The description's key for the name to show.
    pub const CUSTOM_NAME: &str = "llb.customname";

    /// The name to show, if one is set.
    pub fn custom_name(&self) -> Option<&str> {
        self.description.get(Self::CUSTOM_NAME).map(String::as_str)
    }

    /// From the wire. Everything is legal here.
    pub fn from_wire(metadata: pb::OpMetadata) -> Self {
        Self {
            ignore_cache: metadata.ignore_cache,
            description: metadata.description,
            export_cache: metadata.export_cache.map(|e| e.value),
            caps: metadata.caps,
            progress_group: metadata.progress_group.map(ProgressGroup::from_wire),
            linux_resources: metadata.linux_resources.map(|r| LinuxResources {
                memory: r.memory,
                memory_swap: r.memory_swap,
                cpu_shares: r.cpu_shares,
                cpu_period: r.cpu_period,
                cpu_quota: r.cpu_quota,
                cpuset_cpus: r.cpuset_cpus,
                cpuset_mems: r.cpuset_mems,
            }),
        }
    }

    /// To the wire.
    pub fn to_wire(&self) -> pb::OpMetadata {
        pb::OpMetadata {
            ignore_cache: self.ignore_cache,
            description: self.description.clone(),
            export_cache: self.export_cache.map(|value| pb::ExportCache { value }),
            caps: self.caps.clone(),
            progress_group: self.progress_group.as_ref().map(ProgressGroup::to_wire),
            linux_resources: self.linux_resources.as_ref().map(|r| pb::LinuxResources {
                memory: r.memory,
                memory_swap: r.memory_swap,
                cpu_shares: r.cpu_shares,
                cpu_period: r.cpu_period,
                cpu_quota: r.cpu_quota,
                cpuset_cpus: r.cpuset_cpus.clone(),
                cpuset_mems: r.cpuset_mems.clone(),
            }),
        }
    }

    /// Adds what `other` says; where both say something, `other` wins.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.ignore_cache |= other.ignore_cache;
        self.description.extend(other.description.clone());
        if other.export_cache.is_some() {
            self.export_cache = other.export_cache;
        }
        self.caps.extend(other.caps.keys().map(|cap| (cap.clone(), true)));
        if other.progress_group.is_some() {
            self.progress_group.clone_from(&other.progress_group);
        }
        if other.linux_resources.is_some() {
            self.linux_resources.clone_from(&other.linux_resources);
        }
    }
}
