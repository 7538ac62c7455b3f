//! C5: kill -9 of the daemon at random moments of a mixed load. `RBUILD_KILLS=1000` is the long form (`make kill`).

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use rbuild_tests::{DaemonOptions, Random, TestDaemon, TestSpace, run, wait_until};

/// Kills without `RBUILD_KILLS`.
const KILLS: u64 = 30;
/// A kill comes within this time of the load's start: builds here take some tenths of a second.
const MOMENT_MS: u64 = 400;
/// Everything but what the name of its step calls junk is kept, so that finished steps can be asked for.
const CONFIG: &str = "[worker.oci]\n[[worker.oci.gcpolicy]]\nall = true\nmaxUsedSpace = \"8MB\"\n\
                      filters = [\"description~=junk\"]\n";

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

#[test]
fn kills_at_random_moments_of_a_mixed_load_lose_nothing_that_was_finished_and_leave_nothing() {
    let kills = number("RBUILD_KILLS").unwrap_or(KILLS);
    let mut random = Random::seeded();
    let mut daemon =
        TestDaemon::start_with(DaemonOptions { config: CONFIG.to_owned(), ..Default::default() });
    let load = Load::new(&daemon);
    let mut slowest = Duration::ZERO;
    for round in 0..kills {
        let clients = load.start(&daemon, round, &mut random);
        std::thread::sleep(Duration::from_millis(random.below(MOMENT_MS)));
        daemon.kill();
        for mut client in clients {
            // It may have ended, with an error, by itself.
            client.kill().unwrap();
            client.wait().unwrap();
        }
        let start = Instant::now();
        daemon.restart();
        let _answer = daemon.ctl(Path::new("/"), &["du", "--format=json"]).success();
        slowest = slowest.max(start.elapsed());
        load.finished_steps_are_cached(&daemon, round);
        // Hashing all is what takes time: now and then, and at the end.
        if round % 10 == 9 || round + 1 == kills {
            every_blob_has_its_name(&daemon);
            nothing_is_left(&daemon);
        }
    }
    eprintln!("{kills} kills, the slowest restart answered after {slowest:?}");
}

/// What goes on when the daemon is killed.
struct Load {
    kept: TestSpace,
    junk: TestSpace,
}

impl Load {
    fn new(daemon: &TestDaemon) -> Self {
        let (kept, junk) = (TestSpace::new(), TestSpace::new());
        kept.write("f", "context");
        kept.write("Dockerfile", "FROM busybox\nCOPY f /f\nRUN echo finished > /finished\n");
        daemon.build(kept.path(), &["-t", "kept"]).success();
        junk.write("f", vec![b'x'; 300_000]);
        Self { kept, junk }
    }

    /// A build, an export, and now and then a prune.
    fn start(&self, daemon: &TestDaemon, round: u64, random: &mut Random) -> Vec<Child> {
        let steps: String = (0..6)
            .map(|i| {
                format!(
                    "RUN --mount=type=cache,target=/c echo junk {round}-{i} | tee /c/f > /s{i} && \
                     dd if=/dev/urandom of=/d{i} bs=64k count=8 2>/dev/null\n"
                )
            })
            .collect();
        self.junk.write("Dockerfile", format!("FROM busybox\nCOPY f /junk\n{steps}"));
        self.junk.write("g", format!("{round}"));
        self.junk.write("export/Dockerfile", format!("FROM busybox\nRUN echo junk {round} export > /e\n"));
        let spawn = |dir: &Path, args: &[&str]| daemon.client(dir, args).spawn().unwrap();
        let mut clients = vec![
            spawn(self.junk.path(), &["build", "--progress=plain", "-t", "r", "."]),
            spawn(
                &self.junk.at("export"),
                &["build", "--progress=plain", "-o", "type=oci,dest=../out.tar", "."],
            ),
        ];
        match random.below(4) {
            0 => clients.push(spawn(self.junk.path(), &["prune", "--filter", "description~=junk"])),
            1 => clients.push(spawn(self.junk.path(), &["du"])),
            _ => {}
        }
        clients
    }

    fn finished_steps_are_cached(&self, daemon: &TestDaemon, round: u64) {
        let again = daemon.build(self.kept.path(), &["-t", "kept"]).success();
        for step in ["COPY f /f", "RUN echo finished"] {
            assert!(again.cached(step), "round {round}: {}", again.all());
        }
    }
}

fn every_blob_has_its_name(daemon: &TestDaemon) {
    let blobs = daemon.root().join("content/blobs/sha256");
    let mut seen = 0;
    for entry in std::fs::read_dir(blobs).unwrap() {
        let path = entry.unwrap().path();
        // One that is removed meanwhile.
        let Ok(bytes) = std::fs::read(&path) else { continue };
        assert_eq!(
            rbuild_digest::Digest::of(bytes).hex(),
            path.file_name().unwrap().to_str().unwrap(),
            "a blob is what its name says"
        );
        seen += 1;
    }
    assert!(seen > 0);
}

/// No mount, cgroup, process, half-written blob, and no snapshot or blob that nothing names.
fn nothing_is_left(daemon: &TestDaemon) {
    let root = daemon.root().to_string_lossy().into_owned();
    let mounts = run("cat", &["/proc/self/mounts"]).success().stdout;
    assert!(!mounts.contains(&root), "{mounts}");
    for name in ["run/exec", "content/ingest"] {
        let Ok(entries) = std::fs::read_dir(daemon.root().join(name)) else { continue };
        // The runtime's own, made at its start.
        let fixed = daemon.root().join("run/exec/etc");
        let names = entries.map(|entry| entry.unwrap().path()).filter(|path| *path != fixed);
        let names: Vec<PathBuf> = names.collect();
        // Downloads that can be resumed have no dot in their names.
        let left: Vec<_> =
            names.iter().filter(|path| path.extension().is_some() || name == "run/exec").collect();
        assert!(left.is_empty(), "{left:?}");
    }
    wait_until("du agrees with the file system", || {
        let (told, found) = (told(daemon), held(daemon));
        told.abs_diff(found) * 100 <= found
    });
}

fn told(daemon: &TestDaemon) -> u64 {
    let out = daemon.ctl(Path::new("/"), &["du", "--format=json"]).success().stdout;
    let records = out.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    records.map(|record| record["Size"].as_u64().unwrap()).sum()
}

fn held(daemon: &TestDaemon) -> u64 {
    let names = ["content/blobs", "snapshots", "named"];
    let mut todo: Vec<PathBuf> = names.iter().map(|name| daemon.root().join(name)).collect();
    let (mut seen, mut total) = (HashSet::new(), 0);
    while let Some(path) = todo.pop() {
        let Ok(meta) = std::fs::symlink_metadata(&path) else { continue };
        if seen.insert(meta.ino()) {
            total += meta.blocks() * 512;
        }
        if meta.is_dir() {
            let entries = std::fs::read_dir(&path).into_iter().flatten();
            todo.extend(entries.flatten().map(|entry| entry.path()));
        }
    }
    total
}
