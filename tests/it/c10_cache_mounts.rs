//! Cache mounts that travel: a cold daemon begins with a warm package cache.

use rbuild_tests::{TestDaemon, TestOutput, TestRegistry, TestS3, TestSpace, registry};

/// A step that "downloads" three packages of 1 MiB, unless its cache has them.
const INSTALL: &str = "for p in a b c; do [ -f /pkg/$p ] && echo $p is here || { head -c 1048576 /dev/urandom > /pkg/$p; echo $p downloaded; }; done; sha256sum /pkg/* > /sums";

fn project(mount: &str) -> TestSpace {
    let space = TestSpace::new();
    space.write("Dockerfile", format!("FROM busybox\nRUN --mount={mount} {INSTALL}\nRUN echo two\n"));
    space
}

fn build(daemon: &TestDaemon, space: &TestSpace, args: &[&str]) -> (TestOutput, String) {
    // The steps run again: only the mounts can have come from elsewhere.
    let mut all = vec!["--no-cache"];
    all.extend(args);
    let (built, out) = daemon.build_to_dir(space.path(), &all);
    (built, out.read("sums"))
}

#[track_caller]
fn warm_start(built: &TestOutput) {
    assert!(built.all().contains("c is here") && !built.all().contains("downloaded\n"), "{}", built.all());
}

#[test]
fn a_cold_daemon_starts_with_a_warm_package_cache() {
    let (s3, dir) = (TestS3::start(), TestSpace::new());
    let reg = &registry().host;
    for (n, mount) in
        ["type=cache,target=/pkg", "type=cache,id=pk,target=/pkg,uid=7,gid=7,mode=0700"].iter().enumerate()
    {
        let id = if n == 0 { "/pkg" } else { "pk" };
        let at = dir.at(&format!("cache{n}")).display().to_string();
        for (to, from) in [
            (s3.cache(&format!("m{n}")), s3.cache(&format!("m{n}"))),
            (format!("type=registry,ref={reg}/c10/m:{n}"), format!("type=registry,ref={reg}/c10/m:{n}")),
            (format!("type=local,dest={at}"), format!("type=local,src={at}")),
        ] {
            let space = project(mount);
            let to = format!("{to},cache-mounts={id}");
            let (built, first) = build(&TestDaemon::start(), &space, &["--cache-to", &to]);
            assert!(built.all().contains("c downloaded"), "{}", built.all());
            let cold = TestDaemon::start();
            let (built, second) =
                build(&cold, &space, &["--cache-from", &format!("{from},cache-mounts={id}")]);
            warm_start(&built);
            assert!(built.all().contains(&format!("importing cache mount /{id}")), "{}", built.all());
            assert_eq!(first, second);
            // Not asked for, nothing comes.
            let (built, _) = build(&TestDaemon::start(), &space, &["--cache-from", &from]);
            assert!(built.all().contains("a downloaded"), "{}", built.all());
        }
    }
}

#[test]
fn an_unchanged_mount_is_not_sent_again_and_a_changed_one_sends_what_changed() {
    let s3 = TestS3::start();
    let space = project("type=cache,target=/pkg");
    let daemon = TestDaemon::start();
    let to = format!("{},cache-mounts=/pkg", s3.cache("inc"));
    let sent = || s3.asked().iter().filter(|line| line.starts_with("PUT /cache/blobs")).count();
    build(&daemon, &space, &["--cache-to", &to]);
    let blobs = || {
        std::fs::read_dir(s3.bucket().join("blobs")).unwrap().map(|e| e.unwrap().metadata().unwrap().len())
    };
    let before: u64 = blobs().sum();
    assert!(sent() > 1 && before > 3 << 20);
    // The same again, on the same daemon: the layers are new (no cache), the mount is not.
    daemon.build(space.path(), &["--cache-to", &to]).success();
    sent();
    space.write("Dockerfile", "FROM busybox\nRUN --mount=type=cache,target=/pkg echo new > /pkg/zz\n");
    daemon.build(space.path(), &["--cache-to", &to]).success();
    let grown = blobs().sum::<u64>() - before;
    assert!(grown < before / 2, "{grown} bytes of {before} were sent again");
    let (built, out) = TestDaemon::start().build_to_dir(
        space.path(),
        &["--no-cache", "--cache-from", &format!("{},cache-mounts=/pkg", s3.cache("inc"))],
    );
    drop((built, out));
}

#[test]
fn what_cannot_be_had_costs_a_warning_and_never_the_build() {
    let s3 = TestS3::start();
    let space = project("type=cache,target=/pkg");
    let to = format!("{},cache-mounts=/pkg;/nowhere", s3.cache("gone"));
    let built = TestDaemon::start().build(space.path(), &["--cache-to", &to]).success();
    assert!(built.all().contains("there is no cache mount `/nowhere`"), "{}", built.all());
    std::fs::remove_dir_all(s3.bucket().join("blobs")).unwrap();
    let from = format!("{},cache-mounts=/pkg", s3.cache("gone"));
    let daemon = TestDaemon::start();
    let built = daemon.build(space.path(), &["--no-cache", "--cache-from", &from]).success();
    assert!(
        built.all().contains("the mount begins empty") && built.all().contains("a downloaded"),
        "{}",
        built.all()
    );
    let refused = daemon.build(space.path(), &["--cache-to", "type=inline,cache-mounts=/pkg"]).failure();
    assert!(refused.all().contains("cache-mounts"), "{}", refused.all());
}

#[test]
fn a_daemon_that_ran_nothing_hands_the_mounts_on() {
    let registry = TestRegistry::start();
    let (first, second) = (format!("{}/c10/hand:1", registry.host), format!("{}/c10/hand:2", registry.host));
    let space = project("type=cache,target=/pkg");
    let to = format!("type=registry,ref={first},mode=max,cache-mounts=/pkg");
    TestDaemon::start().build(space.path(), &["--cache-to", &to]).success();
    let (from, to) =
        (format!("type=registry,ref={first}"), format!("type=registry,ref={second},cache-mounts=/pkg"));
    let built =
        TestDaemon::start().build(space.path(), &["--cache-from", &from, "--cache-to", &to]).success();
    assert!(built.cached("RUN echo two"), "{}", built.all());
    let from = format!("type=registry,ref={second},cache-mounts=/pkg");
    let (built, _) = build(&TestDaemon::start(), &space, &["--cache-from", &from]);
    warm_start(&built);
}
