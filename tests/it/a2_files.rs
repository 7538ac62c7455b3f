use rbuild_tests::{TestDaemon, TestSpace};

#[test]
fn default_other_and_missing_names() {
    let daemon = TestDaemon::start();
    let space = TestSpace::new();
    space.write("Dockerfile", "FROM scratch\nCOPY a /default\n");
    space.write("other.Dockerfile", "FROM scratch\nCOPY a /other\n").write("a", "1");
    let (_, out) = daemon.build_to_dir(space.path(), &[]);
    assert_eq!(out.read("default"), "1");
    let (_, out) = daemon.build_to_dir(space.path(), &["-f", "other.Dockerfile"]);
    assert_eq!(out.read("other"), "1");
    let missing = daemon.build(space.path(), &["-f", "nowhere/Dockerfile.x"]).failure();
    assert!(missing.all().contains("Dockerfile.x"), "{}", missing.all());
    assert!(missing.all().contains("no such file"), "{}", missing.all());
}

#[test]
fn the_ignore_file_of_a_dockerfile_wins() {
    let daemon = TestDaemon::start();
    let space = TestSpace::new();
    space.write("x.Dockerfile", "FROM scratch\nCOPY . /\n").write("a", "").write("b", "");
    space.write(".dockerignore", "a\n").write("x.Dockerfile.dockerignore", "b\n");
    let (_, out) = daemon.build_to_dir(space.path(), &["-f", "x.Dockerfile"]);
    assert!(out.at("a").exists() && !out.at("b").exists());
}
