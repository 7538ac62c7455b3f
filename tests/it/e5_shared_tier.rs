//! Daemons that share a cache at all times: what one built, the others do not build again.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rbuild_tests::{DaemonOptions, TestDaemon, TestOutput, TestRegistry, TestS3, TestSpace, wait_until};

const STEPS: [&str; 5] =
    ["COPY x.txt", "RUN cat /x.txt", "RUN echo one", "COPY --from=build", "RUN echo last"];

/// `u` with the password `hush/hush`.
const LOGIN: &str = "u:$2y$05$abcdefghijklmnopqrstuuGjHTn9Xe5DJMcEjGZVMi3bdJUs9ISxe\n";

/// Where a cache is shared.
enum Place {
    Bucket(TestS3),
    Repository(TestRegistry, TestSpace),
}

impl Place {
    fn all() -> [Self; 2] {
        let secrets = TestSpace::new();
        secrets.write("password", "hush/hush\n");
        [Self::Bucket(TestS3::start()), Self::Repository(TestRegistry::start_with_login(LOGIN), secrets)]
    }

    fn settings(&self) -> String {
        match self {
            Self::Bucket(s3) => s3.settings(),
            Self::Repository(registry, secrets) => format!(
                "type = \"registry\"\nref = \"{}/team/cache\"\nusername = \"u\"\npassword_file = \"{}\"\n",
                registry.host,
                secrets.at("password").display()
            ),
        }
    }

    /// One entry per record.
    fn records(&self) -> Vec<PathBuf> {
        match self {
            Self::Bucket(s3) => files(&s3.bucket().join("manifests/keys-v1")),
            Self::Repository(registry, _) => {
                files(&registry.data().join("docker/registry/v2/repositories/team/cache/_manifests/tags"))
            }
        }
    }

    /// Cuts a record off in its middle, as a store that lies about what it has written.
    fn tear(&self, record: &Path) {
        match self {
            Self::Bucket(_) => std::fs::write(record, "{\"record\":").unwrap(),
            Self::Repository(registry, _) => {
                let link = std::fs::read_to_string(record.join("current/link")).unwrap();
                let path = blob(registry, link.trim().strip_prefix("sha256:").unwrap());
                let manifest = std::fs::read_to_string(&path).unwrap();
                std::fs::write(&path, &manifest[..manifest.len() / 2]).unwrap();
            }
        }
    }

    /// Removes all layers.
    fn remove_blobs(&self) {
        match self {
            Self::Bucket(s3) => std::fs::remove_dir_all(s3.bucket().join("blobs")).unwrap(),
            Self::Repository(registry, _) => {
                let all = files(&registry.data().join("docker/registry/v2/blobs/sha256"));
                let blobs: Vec<_> = all.iter().flat_map(|folder| files(folder)).collect();
                let is_layer = |blob: &&PathBuf| std::fs::read(blob.join("data")).unwrap()[0] != b'{';
                let layers: Vec<_> = blobs.iter().filter(is_layer).collect();
                assert!(!layers.is_empty());
                for layer in layers {
                    std::fs::remove_dir_all(layer).unwrap();
                }
            }
        }
    }
}

fn blob(registry: &TestRegistry, hex: &str) -> PathBuf {
    registry.data().join("docker/registry/v2/blobs/sha256").join(&hex[..2]).join(hex).join("data")
}

fn project(text: &str) -> TestSpace {
    let space = TestSpace::new();
    space.write("x.txt", text);
    space.write(
        "Dockerfile",
        "FROM busybox AS build\nCOPY x.txt /\nRUN cat /x.txt > /y && echo $RANDOM > /random\n\
         FROM busybox\nRUN echo one\nCOPY --from=build /y /random /\nRUN echo last\n",
    );
    space
}

fn daemon(tier: &str) -> TestDaemon {
    TestDaemon::start_with(DaemonOptions { config: format!("[cache.tier]\n{tier}\n"), ..Default::default() })
}

/// Builds, and gives what step `random` wrote.
fn build(daemon: &TestDaemon, space: &TestSpace) -> (TestOutput, TestSpace) {
    daemon.build_to_dir(space.path(), &[])
}

/// Ends it in order, so that all is written.
fn drain(mut daemon: TestDaemon) {
    daemon.terminate();
    assert_eq!(daemon.wait(Duration::from_secs(120)), Some(0), "{}", daemon.log());
}

fn files(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir).into_iter().flatten().map(|entry| entry.unwrap().path()).collect()
}

#[track_caller]
fn all_cached(built: &TestOutput) {
    for step in STEPS {
        assert!(built.cached(step), "{step} ran: {}", built.all());
    }
}

#[test]
fn what_one_daemon_built_another_has_as_cached() {
    for place in Place::all() {
        another_has_as_cached(&place);
    }
}

fn another_has_as_cached(s3: &Place) {
    let space = project("x");
    let first = daemon(&s3.settings());
    let random = build(&first, &space).1.read("random");
    drain(first);
    let second = daemon(&s3.settings());
    let (built, out) = build(&second, &space);
    all_cached(&built);
    assert_eq!(out.read("random"), random);
    // What the second adds, a third finds, and what changed runs.
    space.write("Dockerfile", format!("{}RUN echo new\n", space.read("Dockerfile")));
    let (built, _) = build(&second, &space);
    assert!(!built.cached("RUN echo new"));
    drain(second);
    let third = daemon(&s3.settings());
    let (built, _) = build(&third, &space);
    all_cached(&built);
    assert!(built.cached("RUN echo new"), "{}", built.all());
    space.write("x.txt", "changed");
    let (built, out) = build(&third, &space);
    assert!(!built.cached("RUN cat /x.txt") && built.cached("RUN echo one"), "{}", built.all());
    assert_eq!(out.read("y"), "changed");
    assert!(!third.log().contains("hush/hush"), "keys are in the log");
}

#[test]
fn daemons_that_met_a_base_at_the_same_time_share_what_stands_on_it() {
    let s3 = TestS3::start();
    let (first, second) = (daemon(&s3.settings()), daemon(&s3.settings()));
    // Neither sees what the other has of it.
    s3.hold(true);
    for daemon in [&first, &second] {
        let space = TestSpace::new();
        space.write("Dockerfile", "FROM busybox\nRUN true\n");
        build(daemon, &space);
    }
    s3.hold(false);
    let space = project("later");
    build(&first, &space);
    drain(first);
    let (built, out) = build(&second, &space);
    all_cached(&built);
    assert_eq!(out.read("y"), "later");
}

#[test]
fn a_daemon_that_is_killed_at_any_moment_leaves_nothing_that_misleads() {
    for place in Place::all() {
        killed_at_any_moment(&place);
    }
}

fn killed_at_any_moment(s3: &Place) {
    for round in 0..4 {
        let space = project(&format!("round {round}"));
        let mut first = daemon(&s3.settings());
        let before = s3.records().len();
        build(&first, &space);
        // After so many records, in the middle of writing the next.
        wait_until("records are written", || s3.records().len() > before + round);
        first.kill();
        let second = daemon(&s3.settings());
        let (_, out) = build(&second, &space);
        assert_eq!(out.read("y"), format!("round {round}"));
        drain(second);
        let (built, out) = build(&daemon(&s3.settings()), &space);
        all_cached(&built);
        assert_eq!(out.read("y"), format!("round {round}"));
    }
}

#[test]
fn torn_records_and_missing_blobs_are_misses() {
    for place in Place::all() {
        torn_and_missing(&place);
    }
}

fn torn_and_missing(s3: &Place) {
    let space = project("x");
    let first = daemon(&s3.settings());
    build(&first, &space);
    drain(first);
    let records = s3.records();
    assert!(records.len() > STEPS.len());
    for record in records.iter().step_by(2) {
        s3.tear(record);
    }
    let (_, out) = build(&daemon(&s3.settings()), &space);
    assert_eq!(out.read("y"), "x");
    s3.remove_blobs();
    let (built, out) = build(&daemon(&s3.settings()), &space);
    assert_eq!(out.read("y"), "x");
    assert!(!built.cached("RUN cat /x.txt"), "{}", built.all());
}

#[test]
fn a_dead_tier_is_waited_for_once() {
    let space = project("x");
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = silent.local_addr().unwrap();
    for tier in [
        format!("type = \"s3\"\nbucket = \"b\"\nregion = \"r\"\nendpoint_url = \"http://{host}\""),
        format!("type = \"registry\"\nref = \"{host}/team/cache\""),
    ] {
        let daemon = daemon(&tier);
        build(&daemon, &space);
        build(&daemon, &project("other"));
        assert_eq!(daemon.log().matches("the shared cache fails").count(), 1, "{}", daemon.log());
    }
}

#[test]
fn settings_that_make_no_sense_end_the_daemon_with_their_name() {
    let space = TestSpace::new();
    for (tier, word) in [
        ("type = \"ftp\"", "ftp"),
        ("bucket = \"b\"", "type"),
        ("type = \"s3\"\nregion = \"r\"", "bucket"),
        ("type = \"s3\"\nbucket = \"b\"\nregion = \"r\"\nwhat = 1", "what"),
        ("type = \"registry\"", "ref"),
        ("type = \"registry\"\nref = \"r.test/a:tag\"", "ref"),
        ("type = \"registry\"\nref = \"r.test/a\"\nusername = \"u\"", "password"),
        ("type = \"registry\"\nref = \"r.test/a\"\nbucket = \"b\"", "bucket"),
    ] {
        space.write("c.toml", format!("[cache.tier]\n{tier}\n"));
        let (root, config) = (space.at("root"), space.at("c.toml"));
        let addr = format!("unix://{}", space.at("s").display());
        let args = ["--root", root.to_str().unwrap(), "--config", config.to_str().unwrap(), "--addr", &addr];
        let program = rbuild_tests::binary("rbuildd");
        let ended = rbuild_tests::run(program.to_str().unwrap(), &args).failure();
        assert!(ended.all().contains(word) && ended.all().contains("[cache.tier]"), "{}", ended.all());
    }
}
