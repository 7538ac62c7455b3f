use std::io::{Read, Write};
use std::net::TcpListener;

use rbuild_tests::{DaemonOptions, TestDaemon, TestRegistry, TestSpace, run};

/// The daemon still builds.
fn still_builds(daemon: &mut TestDaemon) {
    assert!(daemon.alive(), "the daemon is dead:\n{}", daemon.log());
    let space = TestSpace::new();
    space.write("Dockerfile", "FROM busybox\nRUN echo fine > /fine\n");
    let (_, out) = daemon.build_to_dir(space.path(), &[]);
    assert_eq!(out.read("fine"), "fine\n");
}

#[test]
fn ten_megabytes_of_backslashes() {
    let mut daemon = TestDaemon::start();
    let space = TestSpace::new();
    space.write("Dockerfile", vec![b'\\'; 10 << 20]);
    daemon.build(space.path(), &[]).failure().has("Dockerfile");
    space.write("Dockerfile", "\\\n".repeat(5 << 20));
    daemon.build(space.path(), &[]).failure();
    still_builds(&mut daemon);
}

#[test]
fn a_context_that_vanishes() {
    let mut daemon = TestDaemon::start();
    let space = TestSpace::new();
    space.write("Dockerfile", "FROM scratch\nCOPY src /\n").write("src/pipe-stays", "x");
    for i in 0..2_000 {
        space.write(&format!("src/{i}"), vec![b'x'; 20_000]);
    }
    let child = daemon.client(space.path(), &["build", "--progress=plain", "."]).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(60));
    // The client may be reading in it: what counts is that something vanishes.
    if let Err(error) = std::fs::remove_dir_all(space.at("src")) {
        eprintln!("removing: {error}");
    }
    let output = child.wait_with_output().unwrap();
    // It may have been quick enough; what counts is an orderly end.
    assert!(output.status.code().is_some());
    still_builds(&mut daemon);
}

/// A registry that answers everything with one response.
fn rude_registry(response: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    #[allow(clippy::disallowed_methods, reason = "it lives as long as the test process")]
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut buffer = [0; 4096];
            // A client that hangs up early is none of its business.
            let _answered = stream.read(&mut buffer).is_ok() && stream.write_all(response.as_bytes()).is_ok();
        }
    });
    host
}

#[test]
fn a_registry_that_answers_500() {
    let mut daemon = TestDaemon::start();
    let host =
        rude_registry("HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    let space = TestSpace::new();
    space.write("Dockerfile", format!("FROM {host}/x/y:1\n"));
    daemon.build(space.path(), &[]).failure().has("500").has(&host);
    still_builds(&mut daemon);
}

#[test]
fn a_registry_that_lies_about_a_layer() {
    let mut daemon = TestDaemon::start();
    let registry = TestRegistry::start();
    let root = rbuild_tests::busybox_root();
    rbuild_tests::push_image(&registry.host, "lie:1", root.path(), &rbuild_tests::ImageSpec::default());
    let blobs =
        run("find", &[&registry.data().to_string_lossy(), "-name", "data", "-size", "+100k"]).success();
    for path in blobs.stdout.lines() {
        let mut data = std::fs::read(path).unwrap();
        let middle = data.len() / 2;
        data[middle] ^= 0xff;
        std::fs::write(path, data).unwrap();
    }
    let space = TestSpace::new();
    space.write("Dockerfile", format!("FROM {}/lie:1\nRUN true\n", registry.host));
    let output = daemon.build(space.path(), &[]).failure();
    output.has("error[R008]").has("content of sha256:").has("digest is sha256:").has("expected sha256:");
    still_builds(&mut daemon);
}

#[test]
fn a_full_disk() {
    let space = TestSpace::new();
    let root = space.at("small");
    std::fs::create_dir(&root).unwrap();
    let text = root.to_string_lossy().into_owned();
    run("mount", &["-t", "tmpfs", "-o", "size=24m", "none", &text]).success();
    let result = std::panic::catch_unwind(|| {
        let options = DaemonOptions { root: Some(root.clone()), ..Default::default() };
        let mut daemon = TestDaemon::start_with(options);
        let context = TestSpace::new();
        context.write("Dockerfile", "FROM busybox\nRUN dd if=/dev/zero of=/big bs=1M count=64\n");
        daemon.build(context.path(), &[]).failure().has("No space left");
        context.write("Dockerfile", "FROM scratch\nCOPY big /\n").write("big", vec![1; 40 << 20]);
        daemon.build(context.path(), &[]).failure().has("space");
        context.write("Dockerfile", "FROM busybox\nRUN echo fits > /f\n");
        context.write("big", "");
        let (_, out) = daemon.build_to_dir(context.path(), &[]);
        assert_eq!(out.read("f"), "fits\n");
        assert!(daemon.alive());
    });
    run("umount", &["-l", &text]).success();
    result.unwrap();
}
