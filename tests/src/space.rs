use std::path::{Path, PathBuf};
use std::process::Command;

use crate::TestOutput;

/// A folder of the test's own, removed at the end.
#[derive(Debug)]
pub struct TestSpace {
    dir: tempfile::TempDir,
}

impl TestSpace {
    /// An empty folder.
    #[allow(clippy::new_without_default, reason = "it touches the disk")]
    pub fn new() -> Self {
        Self { dir: tempfile::Builder::new().prefix("rbuild-test-").tempdir().unwrap() }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A path below it.
    pub fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file and the folders above it.
    pub fn write(&self, name: &str, data: impl AsRef<[u8]>) -> &Self {
        let path = self.at(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, data).unwrap();
        self
    }

    /// Reads a file as text.
    #[track_caller]
    pub fn read(&self, name: &str) -> String {
        let path = self.at(name);
        String::from_utf8_lossy(
            &std::fs::read(&path).unwrap_or_else(|err| panic!("{}: {err}", path.display())),
        )
        .into_owned()
    }
}

/// One of our binaries: beside the test binary, or where the environment says.
pub fn binary(name: &str) -> PathBuf {
    let variable = match name {
        "rbuildd" => "RBUILD_TEST_DAEMON",
        _ => "RBUILD_TEST_CLIENT",
    };
    if let Some(path) = std::env::var_os(variable) {
        return path.into();
    }
    beside(name)
}

/// A binary of the tests' own.
pub fn own_binary(name: &str) -> PathBuf {
    beside(name)
}

fn beside(name: &str) -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    let path = exe.parent().and_then(Path::parent).unwrap().join(name);
    assert!(path.exists(), "{} is missing: build the workspace's binaries first", path.display());
    path
}

/// Runs a program to its end.
#[must_use]
#[track_caller]
pub fn run(program: &str, args: &[&str]) -> TestOutput {
    run_in(Path::new("/"), program, args)
}

/// Runs a program to its end in a folder.
#[must_use]
#[track_caller]
pub fn run_in(dir: &Path, program: &str, args: &[&str]) -> TestOutput {
    let output = Command::new(program).args(args).current_dir(dir).output();
    let output = output.unwrap_or_else(|err| panic!("{program}: {err} (is its package installed?)"));
    TestOutput::new(format!("{program} {}", args.join(" ")), &output)
}
