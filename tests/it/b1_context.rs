use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use rbuild_tests::{TestDaemon, TestSpace};

#[test]
fn modes_links_and_odd_names_arrive_as_they_are() {
    let daemon = TestDaemon::start();
    let space = TestSpace::new();
    space.write("Dockerfile", "FROM scratch\nCOPY src /\n");
    space
        .write("src/plain", "data")
        .write("src/with space", "s")
        .write("src/new\nline", "n")
        .write("src/é", "u");
    std::fs::set_permissions(space.at("src/plain"), std::fs::Permissions::from_mode(0o751)).unwrap();
    symlink("plain", space.at("src/link")).unwrap();
    symlink("/etc/passwd", space.at("src/absolute")).unwrap();
    std::fs::hard_link(space.at("src/plain"), space.at("src/hard")).unwrap();
    std::fs::create_dir(space.at("src/empty")).unwrap();
    let (_, out) = daemon.build_to_dir(space.path(), &[]);
    assert_eq!(std::fs::metadata(out.at("plain")).unwrap().mode() & 0o7777, 0o751);
    assert_eq!(std::fs::read_link(out.at("link")).unwrap().to_str(), Some("plain"));
    assert_eq!(std::fs::read_link(out.at("absolute")).unwrap().to_str(), Some("/etc/passwd"));
    assert_eq!(out.read("hard"), "data");
    assert_eq!(out.read("with space"), "s");
    assert_eq!(out.read("new\nline"), "n");
    assert_eq!(out.read("é"), "u");
    assert!(out.at("empty").is_dir());
    let (ours, theirs) =
        (std::fs::metadata(space.at("src/plain")).unwrap(), std::fs::metadata(out.at("plain")).unwrap());
    assert_eq!((ours.mtime(), ours.mtime_nsec()), (theirs.mtime(), theirs.mtime_nsec()));
}

#[test]
fn dockerignore_with_exceptions() {
    let daemon = TestDaemon::start();
    let space = TestSpace::new();
    space.write("Dockerfile", "FROM scratch\nCOPY . /\n");
    space.write(".dockerignore", "**/*.log\n!keep.log\nnode_modules\n# a comment\n/top\n");
    for name in ["a.log", "keep.log", "d/b.log", "node_modules/x", "top", "d/top", "d/node_modules"] {
        space.write(name, "x");
    }
    let (_, out) = daemon.build_to_dir(space.path(), &[]);
    let seen = |name: &str| out.at(name).exists();
    assert!(!seen("a.log") && seen("keep.log") && !seen("d/b.log") && !seen("node_modules"));
    assert!(!seen("top") && seen("d/top") && seen("d/node_modules"));
}

#[test]
fn a_second_build_sends_only_what_changed() {
    let daemon = TestDaemon::start();
    let space = TestSpace::new();
    space.write("Dockerfile", "FROM scratch\nCOPY src /\n");
    for i in 0..20 {
        space.write(&format!("src/{i}"), vec![b'x'; 100_000]);
    }
    let first = daemon.build(space.path(), &["-o", "type=cacheonly"]).success();
    let sent = |output: &rbuild_tests::TestOutput| {
        let lines = output.step("[internal] load build context");
        lines.iter().rfind(|line| line.contains("transferring context:")).cloned().unwrap_or_default()
    };
    assert!(sent(&first).contains("MB"), "{}", first.all());
    space.write("src/3", "changed");
    let second = daemon.build(space.path(), &["-o", "type=cacheonly"]).success();
    assert!(!sent(&second).contains("MB"), "{}", second.all());
}

#[test]
fn a_copy_sees_a_symlinked_source_inside_the_context_only() {
    let daemon = TestDaemon::start();
    let space = TestSpace::new();
    space.write("real/file", "inside").write("Dockerfile", "FROM scratch\nCOPY via/file /f\n");
    symlink("real", space.at("via")).unwrap();
    let (_, out) = daemon.build_to_dir(space.path(), &[]);
    assert_eq!(out.read("f"), "inside");
    symlink("/etc", space.at("out")).unwrap();
    space.write("Dockerfile", "FROM scratch\nCOPY out/hostname /f\n");
    daemon.build(space.path(), &[]).failure();
    space.write("Dockerfile", "FROM scratch\nCOPY ../../../../etc/hostname /f\n");
    daemon.build(space.path(), &[]).failure();
}

#[test]
fn what_was_built_stays_as_it_was_when_the_context_changes() {
    let daemon = TestDaemon::start();
    let space = TestSpace::new();
    space.write("Dockerfile", "FROM busybox\nCOPY src /app\nCOPY src /etc\n");
    space.write("src/f", "first").write("src/group", "from the context").write("src/sub/g", "kept");
    daemon.build(space.path(), &["-t", "built:first"]).success();
    space.write("src/f", "second").write("src/group", "changed too");
    let (_, second) = daemon.build_to_dir(space.path(), &[]);
    space.write("Dockerfile", "FROM built:first\n");
    let (_, first) = daemon.build_to_dir(space.path(), &[]);
    for dir in ["app", "etc"] {
        assert_eq!(first.read(&format!("{dir}/f")), "first");
        assert_eq!(first.read(&format!("{dir}/group")), "from the context");
        assert_eq!(first.read(&format!("{dir}/sub/g")), "kept");
        assert_eq!(second.read(&format!("{dir}/f")), "second");
        assert_eq!(second.read(&format!("{dir}/group")), "changed too");
    }
    assert!(first.read("etc/passwd").contains("root"));
}

#[test]
fn a_single_file_stays_as_it_was_built_when_the_context_changes() {
    let daemon = TestDaemon::start();
    let space = TestSpace::new();
    space.write(
        "Dockerfile",
        "FROM busybox\nCOPY f /new/dir/f\nCOPY f /etc/group\nRUN echo more >> /new/dir/f\n",
    );
    space.write("f", "first\n");
    daemon.build(space.path(), &["-t", "single:first"]).success();
    space.write("f", "second\n");
    let (_, second) = daemon.build_to_dir(space.path(), &[]);
    space.write("Dockerfile", "FROM single:first\n");
    let (_, first) = daemon.build_to_dir(space.path(), &[]);
    for (out, text) in [(&first, "first\n"), (&second, "second\n")] {
        assert_eq!(out.read("new/dir/f"), format!("{text}more\n"));
        assert_eq!(out.read("etc/group"), text);
    }
}
