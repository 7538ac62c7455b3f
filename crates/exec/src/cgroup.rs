//! A cgroup for a step that has limits or a parent, or whose use of the machine is measured; others run in the daemon's
//! and pay nothing.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::error::ExecError;
use crate::spec::{ProcessSpec, Resources, clean};

const BASE: &str = "/sys/fs/cgroup";
/// Below this, steps without a parent of their own.
const OWN_PARENT: &str = "/rbuild";
/// Controllers that limits need, where there are such.
const LIMITING: &[&str] = &["memory", "cpu", "cpuset", "pids"];
/// Controllers that count. Of version 1, where each costs a step some time.
const COUNTING_V1: &[&str] = &["memory", "cpuacct", "blkio", "pids"];
/// The same of version 2.
const COUNTING_V2: &[&str] = &["memory", "cpu", "io", "pids"];

/// The controllers of a step, each once.
fn controllers(limited: bool, measured: bool, unified: bool) -> Vec<&'static str> {
    let limiting = if limited { LIMITING } else { &[] };
    let counting = match (measured, unified) {
        (false, _) => &[],
        (true, true) => COUNTING_V2,
        (true, false) => COUNTING_V1,
    };
    let further = counting.iter().filter(|name| !limiting.contains(name));
    limiting.iter().chain(further).copied().collect()
}

/// Has the host the unified hierarchy (version 2) and nothing else?
pub(crate) fn is_unified() -> bool {
    static UNIFIED: OnceLock<bool> = OnceLock::new();
    *UNIFIED.get_or_init(|| Path::new(BASE).join("cgroup.controllers").exists())
}

/// The controller and the directory of a cgroup of version 1, by the file through which processes join it.
pub(crate) fn own_part(procs: &Path) -> Option<(&str, &Path)> {
    let dir = procs.parent()?;
    let controller = dir.strip_prefix(BASE).ok()?.iter().next()?.to_str()?;
    Some((controller, dir))
}

/// One cgroup (or one per controller); removed by [`Cgroup::remove`], or best effort when dropped.
#[derive(Debug)]
pub(crate) struct Cgroup {
    dirs: Vec<PathBuf>,
}

impl Cgroup {
    /// Makes the cgroup that `spec` asks for, or one in which its step is `measured`; where that is all, no step fails
    /// for want of it.
    pub(crate) fn create(spec: &ProcessSpec, id: &str, measured: bool) -> Result<Option<Cgroup>, ExecError> {
        let limited = spec.needs_cgroup();
        if !limited && !measured {
            return Ok(None);
        }
        let path = path(spec.cgroup_parent.as_deref().unwrap_or_default(), id);
        match Cgroup::make(&path, limited, measured) {
            Ok(cgroup) => {
                cgroup.limit(&spec.resources)?;
                Ok(Some(cgroup))
            }
            Err(err) if limited => Err(err),
            Err(err) => {
                tracing::debug!(error = %err, "the step is not measured");
                Ok(None)
            }
        }
    }

    fn make(path: &str, limited: bool, measured: bool) -> Result<Cgroup, ExecError> {
        let unified = is_unified();
        let controllers = controllers(limited, measured, unified);
        let made = if unified { Cgroup::v2(path, &controllers) } else { Cgroup::v1(path, &controllers) };
        made.map_err(|(file, err)| setup(&file, &err))
    }

    fn limit(&self, resources: &Resources) -> Result<(), ExecError> {
        for (file, value) in settings(resources, is_unified()) {
            self.set(file, &value)?;
        }
        Ok(())
    }

    fn v2(path: &str, controllers: &[&str]) -> Result<Cgroup, (PathBuf, io::Error)> {
        let mut dir = PathBuf::from(BASE);
        for part in path.split('/').filter(|part| !part.is_empty()) {
            // What the parent does not hand down cannot be limited; the setting then says so.
            for controller in controllers {
                let wanted = format!("+{controller}");
                if let Err(err) = std::fs::write(dir.join("cgroup.subtree_control"), wanted) {
                    tracing::debug!(dir = %dir.display(), controller, error = %err, "controller not handed down");
                }
            }
            dir.push(part);
            make(&dir)?;
        }
        Ok(Cgroup { dirs: vec![dir] })
    }

    fn v1(path: &str, controllers: &[&str]) -> Result<Cgroup, (PathBuf, io::Error)> {
        let mut cgroup = Cgroup { dirs: Vec::new() };
        for controller in controllers {
            let base = Path::new(BASE).join(controller);
            if !base.join("cgroup.procs").exists() {
                continue;
            }
            let mut dir = base;
            for part in path.split('/').filter(|part| !part.is_empty()) {
                let parent = dir.clone();
                dir.push(part);
                make(&dir)?;
                if *controller == "cpuset" {
                    inherit_cpuset(&parent, &dir)?;
                }
            }
            cgroup.dirs.push(dir);
        }
        Ok(cgroup)
    }

    /// Writes a setting where its controller lives.
    fn set(&self, file: &str, value: &str) -> Result<(), ExecError> {
        let target = self.dirs.iter().map(|dir| dir.join(file)).find(|path| path.exists());
        let Some(target) = target else {
            let controller = file.split('.').next().unwrap_or(file);
            return Err(ExecError::Invalid {
                field: "resources",
                message: format!(
                    "`{file}` cannot be limited here: the host offers no cgroup controller `{controller}`"
                ),
            });
        };
        std::fs::write(&target, value).map_err(|err| setup(&target, &err))
    }

    /// Files through which a process joins.
    pub(crate) fn procs(&self) -> Vec<PathBuf> {
        self.dirs.iter().map(|dir| dir.join("cgroup.procs")).collect()
    }

    /// Where its counters are.
    pub(crate) fn dirs(&self) -> &[PathBuf] {
        &self.dirs
    }

    /// Did the kernel kill something in it for lack of memory?
    pub(crate) fn oom_killed(&self) -> bool {
        let files = ["memory.events", "memory.oom_control"];
        let texts =
            self.dirs.iter().flat_map(|dir| files.map(|file| std::fs::read_to_string(dir.join(file))));
        texts.flatten().any(|text| {
            text.lines().filter_map(|line| line.strip_prefix("oom_kill ")).any(|n| n.trim() != "0")
        })
    }

    /// Removes it; nothing may run in it any more.
    pub(crate) fn remove(mut self) {
        self.remove_dirs();
    }

    fn remove_dirs(&mut self) {
        for dir in self.dirs.drain(..) {
            if let Err(err) = std::fs::remove_dir(&dir) {
                tracing::warn!(dir = %dir.display(), error = %err, "cgroup stays");
            }
        }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        self.remove_dirs();
    }
}

/// Removes what daemons that were killed have left. One that is in use is busy, and stays.
pub(crate) fn sweep() {
    let unified = [PathBuf::from(BASE)];
    let hierarchies: Vec<PathBuf> = match is_unified() {
        true => unified.to_vec(),
        false => {
            let all = LIMITING.iter().chain(COUNTING_V1);
            all.map(|name| Path::new(BASE).join(name)).collect()
        }
    };
    for hierarchy in hierarchies {
        let Ok(entries) = std::fs::read_dir(hierarchy.join(OWN_PARENT.trim_start_matches('/'))) else {
            continue;
        };
        for entry in entries.flatten().filter(|entry| is_left(&entry.file_name().to_string_lossy())) {
            if let Err(err) = std::fs::remove_dir(entry.path()) {
                tracing::debug!(dir = %entry.path().display(), error = %err, "an old cgroup stays");
            }
        }
    }
}

/// Is it named after a daemon that is gone?
fn is_left(name: &str) -> bool {
    let daemon = name.strip_prefix("rbuild-").unwrap_or(name).split_once('-').map(|(daemon, _)| daemon);
    daemon.is_some_and(|pid| pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists())
}

/// Can steps be limited so on this machine? Makes a cgroup and removes it. Blocking.
///
/// Errors: what the machine lacks.
pub(crate) fn check_limits(resources: &Resources) -> Result<(), ExecError> {
    Cgroup::make(&path("", &crate::native::step_id()), true, false)?.limit(resources)
}

fn make(dir: &Path) -> Result<(), (PathBuf, io::Error)> {
    match std::fs::create_dir(dir) {
        Err(err) if err.kind() != io::ErrorKind::AlreadyExists => Err((dir.to_path_buf(), err)),
        _ => Ok(()),
    }
}

/// A new cpuset of version 1 is empty and takes no process until it is filled.
fn inherit_cpuset(parent: &Path, dir: &Path) -> Result<(), (PathBuf, io::Error)> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let target = dir.join(file);
        let at = |err| (target.clone(), err);
        if std::fs::read_to_string(&target).map_err(at)?.trim().is_empty() {
            let value = std::fs::read_to_string(parent.join(file)).map_err(at)?;
            std::fs::write(&target, value.trim()).map_err(at)?;
        }
    }
    Ok(())
}

fn setup(file: &Path, err: &io::Error) -> ExecError {
    ExecError::Setup { stage: "set up cgroup".into(), message: format!("{}: {err}", file.display()) }
}

/// Where the step's cgroup lies, never above the hierarchy's root.
pub(crate) fn path(parent: &str, id: &str) -> String {
    if let Some(slice) = parent.strip_suffix(':').filter(|slice| slice.contains(".slice")) {
        return clean(&format!("{slice}/{id}"));
    }
    if parent.is_empty() {
        return clean(&format!("{OWN_PARENT}/{id}"));
    }
    clean(&format!("{parent}/buildkit/{id}"))
}

/// Files and values for `resources`.
fn settings(resources: &Resources, unified: bool) -> Vec<(&'static str, String)> {
    let r = resources;
    let mut list = Vec::new();
    let mut add =
        |v2: &'static str, v1: &'static str, value: String| list.push((if unified { v2 } else { v1 }, value));
    if r.memory != 0 {
        add("memory.max", "memory.limit_in_bytes", limit(r.memory, unified));
    }
    if r.memory_swap != 0 {
        // Version 2 counts swap alone.
        let swap =
            if unified && r.memory_swap > 0 { (r.memory_swap - r.memory).max(0) } else { r.memory_swap };
        add("memory.swap.max", "memory.memsw.limit_in_bytes", limit(swap, unified));
    }
    if r.cpu_shares != 0 {
        let shares = r.cpu_shares.clamp(2, 262_144);
        let weight = 1 + ((shares - 2) * 9_999) / 262_142;
        add("cpu.weight", "cpu.shares", if unified { weight } else { shares }.to_string());
    }
    if r.cpu_quota != 0 || r.cpu_period != 0 {
        let period = if r.cpu_period == 0 { 100_000 } else { r.cpu_period };
        if unified {
            let quota = if r.cpu_quota <= 0 { "max".into() } else { r.cpu_quota.to_string() };
            add("cpu.max", "", format!("{quota} {period}"));
        } else {
            add("", "cpu.cfs_period_us", period.to_string());
            if r.cpu_quota != 0 {
                add("", "cpu.cfs_quota_us", r.cpu_quota.to_string());
            }
        }
    }
    for (file, value) in [("cpuset.cpus", &r.cpuset_cpus), ("cpuset.mems", &r.cpuset_mems)] {
        if !value.is_empty() {
            add(file, file, value.clone());
        }
    }
    list
}

fn limit(value: i64, unified: bool) -> String {
    if value < 0 && unified { "max".into() } else { value.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_parent_leads_out_of_the_hierarchy() {
        assert_eq!(path("/ci/../../..", "x"), "/buildkit/x");
        assert_eq!(path("ci", "x"), "/ci/buildkit/x");
        assert_eq!(path("", "x"), "/rbuild/x");
        assert_eq!(path("ci.slice:", "x"), "/ci.slice/x");
    }

    #[test]
    fn cgroups_of_daemons_that_are_gone_are_known_by_name() {
        let own = std::process::id();
        assert!(is_left("4194305-7") && is_left("rbuild-4194305-7"));
        for stays in [&format!("{own}-7"), "ci", "4194305", "x-7"] {
            assert!(!is_left(stays), "{stays}");
        }
    }

    #[test]
    fn a_step_joins_each_controller_once() {
        assert_eq!(controllers(false, true, false), ["memory", "cpuacct", "blkio", "pids"]);
        assert_eq!(controllers(true, true, false), ["memory", "cpu", "cpuset", "pids", "cpuacct", "blkio"]);
        assert_eq!(controllers(true, true, true), ["memory", "cpu", "cpuset", "pids", "io"]);
    }

    #[test]
    fn both_versions_get_their_own_files() {
        let resources = Resources {
            memory: 100,
            memory_swap: 150,
            cpu_shares: 1024,
            cpu_quota: 50_000,
            cpuset_cpus: "0".into(),
            ..Resources::default()
        };
        let v2 = settings(&resources, true);
        let want = [
            ("memory.max", "100"),
            ("memory.swap.max", "50"),
            ("cpu.weight", "39"),
            ("cpu.max", "50000 100000"),
            ("cpuset.cpus", "0"),
        ];
        assert_eq!(v2, want.map(|(file, value)| (file, value.to_owned())));
        let v1: Vec<_> = settings(&resources, false).into_iter().map(|(file, _)| file).collect();
        let want = [
            "memory.limit_in_bytes",
            "memory.memsw.limit_in_bytes",
            "cpu.shares",
            "cpu.cfs_period_us",
            "cpu.cfs_quota_us",
            "cpuset.cpus",
        ];
        assert_eq!(v1, want);
    }
}
