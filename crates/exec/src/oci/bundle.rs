//! A bundle on disk: mounts, files and `config.json` of one step, and taking all of it away again.
//!
//! ```text
//! state_dir/run/<id>/rootfs          the step's root file system, mounted
//!                    m0 m1 …         its mounts, for the runtime to bind
//!                    scratch         only while a part of a mount is taken, on old kernels
//!                    hosts resolv.conf config.json log.json
//! state_dir/state/                   the runtime's own
//! ```

use std::path::{Path, PathBuf};

use rbuild_sys::{MountTree, Root};
use rustix::mount::{UnmountFlags, unmount};

use super::config::{self, Prepared};
use crate::bridge::{self, Attachment};
use crate::error::ExecError;
use crate::init::{mounts, place, program, step};
use crate::spec::{ProcessSpec, TermSize, clean};
use crate::{etc, stubs, user};

/// What an error of the runtime's log is called.
const LEVEL_ERROR: [&str; 2] = ["error", "fatal"];

/// One step's bundle; [`Bundle::remove`] takes it away.
#[derive(Debug)]
pub(super) struct Bundle {
    dir: PathBuf,
    mounted: Vec<PathBuf>,
    stubs: Vec<PathBuf>,
    write_dir: Option<PathBuf>,
    tty: Option<TermSize>,
    network: Option<Attachment>,
}

/// Unmounts and removes what an earlier daemon left.
pub(super) fn sweep(state_dir: &Path) -> Result<(), ExecError> {
    let run = state_dir.join("run");
    for dir in [&run, &state_dir.join("state")] {
        std::fs::create_dir_all(dir).map_err(|err| io(dir, &err))?;
    }
    for entry in Root::open(&run)?.read_dir()? {
        let dir = run.join(&entry.name);
        for mounted in Root::open(&dir)?.read_dir()? {
            detach(&dir.join(mounted.name));
        }
    }
    Root::open(&run)?.clear()?;
    Ok(())
}

/// Unmounts everything stacked on `path`.
fn detach(path: &Path) {
    while unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).is_ok() {}
}

fn io(path: &Path, err: &std::io::Error) -> ExecError {
    ExecError::Setup { stage: "prepare the bundle".into(), message: format!("{}: {err}", path.display()) }
}

impl Bundle {
    pub(super) fn create(
        dir: PathBuf,
        spec: ProcessSpec,
        network: Option<Attachment>,
    ) -> Result<Bundle, ExecError> {
        std::fs::create_dir_all(&dir).map_err(|err| io(&dir, &err))?;
        let mut bundle = Bundle {
            mounted: Vec::new(),
            stubs: Vec::new(),
            write_dir: spec.rootfs.write_dir().map(PathBuf::from),
            tty: spec.tty,
            network,
            dir,
        };
        match bundle.fill(spec) {
            Ok(()) => Ok(bundle),
            Err(err) => {
                if let Err(cleanup) = bundle.remove() {
                    tracing::warn!(error = %cleanup, "bundle stays");
                }
                Err(err)
            }
        }
    }

    fn fill(&mut self, spec: ProcessSpec) -> Result<(), ExecError> {
        let rootfs = self.mount("rootfs", &MountTree::new(&spec.rootfs)?, true)?;
        let root = Root::open(&rootfs)?;
        let (user, passwd) = step::who(&root, &spec.user)?;
        let names = step::stub_names(spec.mounts.iter().map(|mount| mount.dest.as_str()));
        self.stubs = stubs::missing(&root, &names, spec.remove_stubs_recursive).paths;
        step::make_cwd(&root, &clean(&spec.cwd), &user)?;

        let env = program::environment(&spec.env, || user::home(user.uid, &passwd));
        let host =
            etc::host_resolv_conf(spec.network).map_err(|err| io(Path::new("/etc/resolv.conf"), &err))?;
        let hosts = self.write("hosts", etc::hosts(spec.hostname(), &spec.extra_hosts).as_bytes())?;
        let resolv_conf =
            self.write("resolv.conf", etc::resolv_conf(&host, &spec.dns, spec.network).as_bytes())?;
        let mounts = self.mount_all(&spec)?;
        let id = place::name(&self.dir).to_string_lossy().into_owned();
        let cgroup = spec
            .needs_cgroup()
            .then(|| crate::cgroup::path(spec.cgroup_parent.as_deref().unwrap_or_default(), &id));
        let prepared = Prepared {
            rootfs,
            hosts,
            resolv_conf,
            mounts,
            user,
            env,
            cgroup,
            network: self.network.as_ref().map(bridge::path_of),
            all_capabilities: crate::init::held_capabilities(),
        };
        let json = serde_json::to_vec_pretty(&config::config(&spec, &prepared))
            .map_err(|err| io(&self.dir.join("config.json"), &err.into()))?;
        self.write("config.json", &json)?;
        Ok(())
    }

    fn mount_all(&mut self, spec: &ProcessSpec) -> Result<Vec<PathBuf>, ExecError> {
        let scratch = self.dir.join("scratch");
        std::fs::create_dir(&scratch).map_err(|err| io(&scratch, &err))?;
        self.mounted.push(scratch.clone());
        let mut places = Vec::with_capacity(spec.mounts.len());
        for (i, mount) in spec.mounts.iter().enumerate() {
            let mut data = Vec::new();
            let job = crate::native::job_mount(mount.clone(), &mut data);
            let (tree, is_dir) = mounts::asked(&job, &data, &scratch)?;
            places.push(self.mount(&format!("m{i}"), &tree, is_dir)?);
        }
        Ok(places)
    }

    /// Attaches `tree` in the bundle.
    fn mount(&mut self, name: &str, tree: &MountTree, is_dir: bool) -> Result<PathBuf, ExecError> {
        let path = self.dir.join(name);
        let made = if is_dir { std::fs::create_dir(&path) } else { std::fs::write(&path, "") };
        made.map_err(|err| io(&path, &err))?;
        tree.attach(Root::open(&self.dir)?.open_path_nofollow(name)?)?;
        self.mounted.push(path.clone());
        Ok(path)
    }

    fn write(&self, name: &str, content: &[u8]) -> Result<PathBuf, ExecError> {
        let path = self.dir.join(name);
        std::fs::write(&path, content).map_err(|err| io(&path, &err))?;
        Ok(path)
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn log(&self) -> PathBuf {
        self.dir.join("log.json")
    }

    pub(super) fn tty(&self) -> Option<TermSize> {
        self.tty
    }

    /// The last error in the runtime's log of `run`, if it could not start the program.
    pub(super) fn failure(&self) -> Option<String> {
        let text = std::fs::read_to_string(self.log()).unwrap_or_default();
        let errors = text.lines().filter_map(|line| {
            let entry: serde_json::Value = serde_json::from_str(line).ok()?;
            let level = entry["level"].as_str()?;
            LEVEL_ERROR.contains(&level).then(|| entry["msg"].as_str().map(str::to_owned)).flatten()
        });
        // Later ones are about killing and deleting what never was.
        errors.into_iter().find(|message| !message.contains("container does not exist"))
    }

    /// Unmounts and removes everything.
    pub(super) fn remove(mut self) -> Result<(), ExecError> {
        for path in self.mounted.drain(..).rev() {
            detach(&path);
        }
        if let Some(dir) = &self.write_dir {
            stubs::remove(dir, &self.stubs)?;
        }
        let parent = self.dir.parent().unwrap_or(Path::new("/"));
        Root::open(parent)?.remove_all(place::name(&self.dir))?;
        Ok(())
    }
}
