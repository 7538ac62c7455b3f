//! Definitions made by hand, for the tests of single ops and attributes.

use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rbuild_llb::{Attached, Constraints, ExecOptions, ImageOptions, MarshalOptions, MountOptions, State};

use crate::{TestDaemon, TestOutput, TestSpace, run_in};

impl TestDaemon {
    /// Solves a definition, with more arguments of `rbuildctl solve`; its files go nowhere.
    #[must_use]
    #[track_caller]
    pub fn solve(&self, state: &State, args: &[&str]) -> TestOutput {
        let space = TestSpace::new();
        let definition = state.marshal(&MarshalOptions::default()).unwrap();
        space.write("definition", definition.encode());
        let mut all = vec!["solve", "--progress=plain"];
        all.extend(args);
        self.ctl_with(space.path(), &all, File::open(space.at("definition")).unwrap())
    }

    /// Solves a definition and puts its files into a fresh folder, with their owners.
    #[track_caller]
    pub fn solve_to_dir(&self, state: &State, args: &[&str]) -> TestSpace {
        let out = TestSpace::new();
        let space = TestSpace::new();
        let archive = space.at("out.tar").display().to_string();
        let output = format!("--output=type=tar,dest={archive}");
        let mut all = args.to_vec();
        all.push(&output);
        self.solve(state, &all).success();
        run_in(out.path(), "tar", &["--numeric-owner", "-xpf", &archive]).success();
        out
    }
}

/// The base image of the tests.
pub fn busybox() -> State {
    State::image("busybox", ImageOptions::default()).unwrap()
}

/// A shell command, with what is mounted.
pub fn shell(command: &str, mounts: Vec<MountOptions>) -> ExecOptions {
    let args = ["/bin/sh", "-ec", command].map(str::to_owned).to_vec();
    ExecOptions { args, mounts, ..ExecOptions::default() }
}

/// What a shell command, run in busybox, makes of `base`, its working directory.
pub fn changed(base: &State, command: &str) -> State {
    let mount = MountOptions::bind("/out", base.clone());
    busybox().run(shell(&format!("cd /out; {command}"), vec![mount])).mount("/out").unwrap()
}

/// The files that a shell command makes in an empty directory.
pub fn made(command: &str) -> State {
    changed(&State::scratch(), command)
}

/// A mount that is only read.
pub fn readonly(target: &str, state: &State) -> MountOptions {
    MountOptions { readonly: true, ..MountOptions::new(target, Attached::Bind(state.clone())) }
}

/// A vertex that nothing is said about.
pub fn plain() -> Constraints {
    Constraints::default()
}

/// All that is below a folder, sorted, as `kind mode uid:gid path content`: a directory's line ends with `/`, a link's
/// with its target.
pub fn listing(root: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut todo = vec![root.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let meta = path.symlink_metadata().unwrap();
            let name = path.strip_prefix(root).unwrap().display().to_string();
            let what = if meta.is_dir() {
                todo.push(path);
                format!("{name}/")
            } else if meta.is_symlink() {
                format!("{name} -> {}", std::fs::read_link(&path).unwrap().display())
            } else if meta.is_file() {
                format!("{name} {}", String::from_utf8_lossy(&std::fs::read(&path).unwrap()).trim_end())
            } else {
                format!("{name} ?")
            };
            lines.push(format!("{:o} {}:{} {what}", meta.mode() & 0o7777, meta.uid(), meta.gid()));
        }
    }
    lines.sort_by(|a, b| a.splitn(3, ' ').nth(2).cmp(&b.splitn(3, ' ').nth(2)));
    lines
}
