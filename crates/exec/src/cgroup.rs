//! A cgroup for a step that asks for limits or a parent; others run in the daemon's and pay nothing.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::error::ExecError;
use crate::spec::{ProcessSpec, Resources, clean};

const BASE: &str = "/sys/fs/cgroup";
/// Below this, steps without a parent of their own.
const OWN_PARENT: &str = "/rbuild";
/// Controllers of version 1 that limits need, where mounted.
const V1: &[&str] = &["memory", "cpu", "cpuset", "pids"];

/// Has the host the unified hierarchy (version 2) and nothing else?
pub(crate) fn is_unified() -> bool {
    static UNIFIED: OnceLock<bool> = OnceLock::new();
    *UNIFIED.get_or_init(|| Path::new(BASE).join("cgroup.controllers").exists())
}

/// One cgroup (or one per controller); removed by [`Cgroup::remove`], or best effort when dropped.
#[derive(Debug)]
pub(crate) struct Cgroup {
    dirs: Vec<PathBuf>,
}

impl Cgroup {
    /// Makes the cgroup that `spec` asks for.
    pub(crate) fn create(spec: &ProcessSpec, id: &str) -> Result<Option<Cgroup>, ExecError> {
        if !spec.needs_cgroup() {
            return Ok(None);
        }
        let path = path(spec.cgroup_parent.as_deref().unwrap_or_default(), id);
        let cgroup = if is_unified() { Cgroup::v2(&path) } else { Cgroup::v1(&path) };
        let cgroup = cgroup.map_err(|(file, err)| setup(&file, &err))?;
        for (file, value) in settings(&spec.resources, is_unified()) {
            cgroup.set(file, &value)?;
        }
        Ok(Some(cgroup))
    }

    fn v2(path: &str) -> Result<Cgroup, (PathBuf, io::Error)> {
        let mut dir = PathBuf::from(BASE);
        for part in path.split('/').filter(|part| !part.is_empty()) {
            // What the parent does not hand down cannot be limited; the setting then says so.
            for controller in ["+memory", "+cpu", "+cpuset", "+pids"] {
                if let Err(err) = std::fs::write(dir.join("cgroup.subtree_control"), controller) {
                    tracing::debug!(dir = %dir.display(), controller, error = %err, "controller not handed down");
                }
            }
            dir.push(part);
            make(&dir)?;
        }
        Ok(Cgroup { dirs: vec![dir] })
    }

    fn v1(path: &str) -> Result<Cgroup, (PathBuf, io::Error)> {
        let mut cgroup = Cgroup { dirs: Vec::new() };
        for controller in V1 {
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
