//! C7: what the cache holds is told exactly, kept to the configured size, and makes room when the disk is full.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rbuild_tests::{DaemonOptions, TestDaemon, TestSpace, run, wait_until};

/// Bytes below a directory, as the program `du` counts them.
fn on_disk(dir: &Path) -> u64 {
    let mut seen = HashSet::new();
    let mut todo = vec![dir.to_owned()];
    let mut total = 0;
    while let Some(path) = todo.pop() {
        let Ok(meta) = std::fs::symlink_metadata(&path) else { continue };
        if seen.insert(meta.ino()) {
            total += meta.blocks() * 512;
        }
        if meta.is_dir() {
            todo.extend(std::fs::read_dir(&path).into_iter().flatten().map(|entry| entry.unwrap().path()));
        }
    }
    total
}

fn held(daemon: &TestDaemon) -> u64 {
    ["content/blobs", "snapshots", "named"].iter().map(|name| on_disk(&daemon.root().join(name))).sum()
}

fn records(daemon: &TestDaemon, args: &[&str]) -> Vec<serde_json::Value> {
    let mut all = vec!["du", "--format=json"];
    all.extend(args);
    let out = daemon.ctl(Path::new("/"), &all).success();
    out.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn used(daemon: &TestDaemon) -> u64 {
    records(daemon, &[]).iter().map(|record| record["Size"].as_u64().unwrap()).sum()
}

/// Files of removed records go just after their rows: until then the two may differ.
fn agrees(daemon: &TestDaemon) {
    wait_until("du agrees with the file system", || {
        let (told, found) = (used(daemon), held(daemon));
        told.abs_diff(found) * 100 <= found
    });
}

fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ seed;
    let step = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..bytes).map(step).collect()
}

#[test]
fn du_agrees_with_the_file_system_also_for_files_that_several_results_have() {
    let daemon = TestDaemon::start();
    let space = TestSpace::new();
    for n in 0..20 {
        space.write(&format!("files/{n}"), noise(200_000, n));
    }
    space.write(
        "Dockerfile",
        "FROM busybox AS a\nCOPY files /files\nFROM busybox\nCOPY files /again\n\
         RUN --mount=type=cache,target=/cache,id=kept dd if=/dev/zero of=/cache/f bs=1M count=3\n\
         COPY --from=a /files /more\n",
    );
    daemon.build(space.path(), &["-t", "kept"]).success();
    agrees(&daemon);
    let cache = records(&daemon, &["--filter", "type==exec.cachemount"]);
    assert_eq!(cache.len(), 1);
    assert!(cache[0]["Size"].as_u64().unwrap() >= 3 << 20 && cache[0]["Reclaimable"] == true, "{cache:?}");
    let before = held(&daemon);
    daemon.ctl(space.path(), &["prune", "--filter", "type==exec.cachemount"]).success();
    assert!(records(&daemon, &["--filter", "type==exec.cachemount"]).is_empty());
    assert!(before - held(&daemon) >= 3 << 20);
    agrees(&daemon);
    // The received copy goes, the results that have its files stay.
    daemon.ctl(space.path(), &["prune", "--filter", "type==source.local"]).success();
    agrees(&daemon);
    daemon.ctl(space.path(), &["prune", "--all"]).success();
    let left = records(&daemon, &[]);
    assert!(left.iter().all(|record| record["ID"].as_str().unwrap().starts_with("image:")), "{left:?}");
}

#[test]
fn the_cache_is_kept_to_its_size_by_itself_and_running_builds_lose_nothing() {
    let config = "[worker.oci]\n[[worker.oci.gcpolicy]]\nall = true\nmaxUsedSpace = \"24MB\"\n".to_owned();
    let daemon = TestDaemon::start_with(DaemonOptions { config, ..Default::default() });
    let space = TestSpace::new();
    for n in 0..5 {
        space.write(
            "Dockerfile",
            format!(
                "FROM busybox\nRUN echo {n} && dd if=/dev/urandom of=/f bs=1M count=8\n\
                 RUN test $(wc -c < /f) = 8388608\n"
            ),
        );
        daemon.build(space.path(), &[]).success();
    }
    wait_until("the cache is within its limit", || used(&daemon) <= 24_000_000);
    agrees(&daemon);
    // The last build was used last.
    let again = daemon.build(space.path(), &[]).success();
    assert!(again.cached("RUN test"), "{}", again.all());
}

/// A small disk for a daemon's state, unmounted at the end.
struct Disk(TestSpace);

impl Disk {
    fn new(megabytes: u64) -> Self {
        let space = TestSpace::new();
        let size = format!("size={megabytes}m");
        run("mount", &["-t", "tmpfs", "-o", &size, "tmpfs", &space.path().to_string_lossy()]).success();
        Self(space)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let out = run("umount", &["-l", &self.0.path().to_string_lossy()]);
        if !std::thread::panicking() {
            let _unmounted = out.success();
        }
    }
}

fn daemon_on(disk: &Disk, args: &[&str]) -> TestDaemon {
    let args = args.iter().map(ToString::to_string).collect();
    let root: PathBuf = disk.0.at("root");
    TestDaemon::start_with(DaemonOptions { root: Some(root), args, ..Default::default() })
}

#[test]
fn a_full_disk_costs_what_nothing_uses_before_it_costs_a_build() {
    let disk = Disk::new(96);
    let daemon = daemon_on(&disk, &[]);
    let space = TestSpace::new();
    for n in 0..6 {
        space.write("big", noise(16 << 20, n)).write("n", n.to_string());
        space.write("Dockerfile", "FROM scratch\nCOPY n /n\nCOPY big /big\n");
        daemon.build(space.path(), &[]).success();
        std::fs::remove_file(space.at("big")).unwrap();
        space.write("Dockerfile", "FROM busybox\nRUN dd if=/dev/urandom of=/f bs=1M count=14\n");
        space.write("n", format!("again {n}"));
        daemon.build(space.path(), &["--no-cache"]).success();
    }
}

#[test]
fn a_build_that_does_not_fit_says_who_holds_the_space() {
    let disk = Disk::new(64);
    let mut daemon = daemon_on(&disk, &[]);
    let space = TestSpace::new();
    space.write("big", noise(80 << 20, 1)).write("Dockerfile", "FROM scratch\nCOPY big /big\n");
    daemon
        .build(space.path(), &[])
        .failure()
        .has("E001")
        .has("no space left on device")
        .has("of the disk under")
        .has(&daemon.root().to_string_lossy());
    assert!(daemon.alive());
    std::fs::remove_file(space.at("big")).unwrap();
    space.write("Dockerfile", "FROM busybox\nRUN dd if=/dev/zero of=/f bs=1M count=200\n");
    daemon.build(space.path(), &[]).failure().has("exit code: 1");
    space.write("Dockerfile", "FROM busybox\nRUN echo fits\n");
    daemon.build(space.path(), &[]).success();
    agrees(&daemon);
}
