//! Cache in a bucket of an S3-compatible store that checks signatures.

use std::process::Command;

use rbuild_tests::{TestDaemon, TestOutput, TestS3, TestSpace};

const STEPS: [&str; 3] = ["COPY x.txt", "RUN cat /x.txt", "RUN echo last"];

fn project() -> TestSpace {
    let space = TestSpace::new();
    space.write("x.txt", "x");
    space.write(
        "Dockerfile",
        "FROM busybox AS build\nCOPY x.txt /\nRUN cat /x.txt > /y && echo $RANDOM > /random\n\
         FROM busybox\nCOPY --from=build /random /\nRUN echo last\n",
    );
    space
}

fn cold(space: &TestSpace, from: &str) -> (TestOutput, String) {
    let (built, out) = TestDaemon::start().build_to_dir(space.path(), &["--cache-from", from]);
    (built, out.read("random"))
}

fn warm(space: &TestSpace, to: &str) -> String {
    let (_, out) = TestDaemon::start().build_to_dir(space.path(), &["--cache-to", to]);
    out.read("random")
}

#[track_caller]
fn all_cached(built: &TestOutput) {
    for step in STEPS {
        assert!(built.cached(step), "{step} ran: {}", built.all());
    }
}

#[test]
fn a_cold_daemon_with_a_warm_bucket_runs_nothing() {
    let (space, s3) = (project(), TestS3::start());
    let random = warm(&space, &format!("{},mode=max,prefix=team/", s3.cache("a b;main")));
    for name in ["a b", "main", "no such;main"] {
        let (built, found) = cold(&space, &format!("{},prefix=team/", s3.cache(name)));
        all_cached(&built);
        assert_eq!(found, random);
        let step = format!("importing cache manifest from s3:cache/team/manifests/{name}");
        assert!(built.all().contains(&step), "{}", built.all());
    }
    assert!(s3.bucket().join("team/blobs").read_dir().unwrap().count() > 2);
}

#[test]
fn blobs_are_sent_once_and_made_new_when_they_are_old() {
    let (space, s3) = (project(), TestS3::start());
    let daemon = TestDaemon::start();
    let puts = |more: &str| -> Vec<String> {
        let to = format!("{},mode=max,{more}", s3.cache("one"));
        daemon.build(space.path(), &["--cache-to", &to]).success();
        s3.asked().into_iter().filter(|line| line.starts_with("PUT")).collect()
    };
    let first = puts("upload_parallelism=2");
    assert!(first.len() > 3, "{first:?}");
    assert_eq!(puts("touch_refresh=1h"), ["PUT /cache/manifests/one"]);
    // Copied onto themselves: as many requests as the first time, but no bytes.
    assert_eq!(puts("touch_refresh=0").len(), first.len());
    let (built, _) = cold(&space, &s3.cache("one"));
    all_cached(&built);
}

#[test]
fn a_large_layer_goes_in_parts() {
    let (space, s3) = (TestSpace::new(), TestS3::start());
    space.write(
        "Dockerfile",
        "FROM busybox\nRUN head -c 70000000 /dev/urandom > /large && sha256sum /large > /sum\n",
    );
    let to = format!("{},mode=max", s3.cache("large"));
    let (_, first) = TestDaemon::start().build_to_dir(space.path(), &["--cache-to", &to]);
    let asked = s3.asked();
    assert_eq!(asked.iter().filter(|line| line.contains("partNumber=")).count(), 2, "{asked:?}");
    let (built, second) =
        TestDaemon::start().build_to_dir(space.path(), &["--cache-from", &s3.cache("large")]);
    assert!(built.cached("RUN head"), "{}", built.all());
    assert_eq!(first.read("sum"), second.read("sum"));
}

#[test]
fn keys_come_from_the_client_or_the_daemon_and_are_shown_nowhere() {
    let (space, s3) = (project(), TestS3::start());
    let daemon = TestDaemon::start();
    let bare = format!("{},mode=max", s3.cache_without_keys("env"));
    let refused = daemon.build(space.path(), &["--cache-to", &bare]).failure();
    assert!(refused.all().contains("s3 cache/"), "{}", refused.all());
    let client = |args: &[&str]| -> TestOutput {
        let mut command: Command = daemon.client(space.path(), args);
        command.envs(s3.variables());
        TestOutput::new("rbuildctl build".into(), &command.output().unwrap())
    };
    client(&["build", "--cache-to", &bare, "."]).success();
    let built = client(&["build", "--progress=rawjson", "--cache-from", &bare, "."]).success();
    assert!(s3.bucket().join("manifests/env").exists());
    let wrong = s3.cache("env").replace("hush+", "hash+");
    let refused = daemon.build(space.path(), &["--cache-to", &wrong]).failure();
    assert!(refused.all().contains("SignatureDoesNotMatch"), "{}", refused.all());
    let history = daemon.ctl(space.path(), &["history", "ls"]).success();
    for (place, text) in [("output", built.all()), ("log", daemon.log()), ("history", history.all())] {
        assert!(!text.contains("hush/hush") && !text.contains("AKIATEST"), "{place}: {text}");
    }
    let files = rbuild_tests::run("grep", &["-rl", "--text", "hush/hush", daemon.root().to_str().unwrap()]);
    assert_eq!(files.all(), "", "the keys are on the daemon's disk");
}

#[test]
fn blobs_that_vanished_cost_a_step_and_a_missing_cache_is_a_warning() {
    let (space, s3) = (project(), TestS3::start());
    warm(&space, &format!("{},mode=max", s3.cache("gone")));
    std::fs::remove_dir_all(s3.bucket().join("blobs")).unwrap();
    let (built, _) = cold(&space, &s3.cache("gone"));
    assert!(!built.cached("RUN cat"), "{}", built.all());
    std::fs::write(s3.bucket().join("manifests/gone"), "{").unwrap();
    for name in ["gone", "never"] {
        let (built, _) = cold(&space, &s3.cache(name));
        assert!(built.all().contains("failed to import cache"), "{}", built.all());
    }
}
