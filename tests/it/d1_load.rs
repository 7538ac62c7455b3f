use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use rbuild_tests::{TestDaemon, TestOutput, TestSpace, run};

fn space() -> TestSpace {
    let space = TestSpace::new();
    space.write("Dockerfile", "FROM busybox\nCOPY f /f\nCMD [\"cat\", \"/f\"]\n");
    space.write("f", "data");
    std::fs::create_dir(space.at("bin")).unwrap();
    space
}

/// Puts a program into the folder that is the client's whole PATH.
fn program(space: &TestSpace, name: &str, script: &str) {
    space.write(&format!("bin/{name}"), format!("#!/bin/busybox sh\n{script}\n"));
    std::fs::set_permissions(space.at(&format!("bin/{name}")), std::fs::Permissions::from_mode(0o755))
        .unwrap();
}

fn load(daemon: &TestDaemon, space: &TestSpace, args: &[&str]) -> TestOutput {
    let all = [&["build", "--progress=plain", "-t", "loaded:1"], args, &["."]].concat();
    let output = daemon.client(space.path(), &all).env("PATH", space.at("bin")).output().unwrap();
    TestOutput::new(format!("rbuildctl {}", all.join(" ")), &output)
}

#[test]
fn load_hands_the_image_to_podman() {
    let daemon = TestDaemon::start();
    let space = space();
    let storage = format!(
        "[storage]\ndriver = \"vfs\"\ngraphroot = \"{}\"\nrunroot = \"{}\"\n",
        space.at("graph").display(),
        space.at("run").display()
    );
    let config = TestSpace::new();
    config.write("storage.conf", storage);
    let conf = config.at("storage.conf");
    // The graph below the context is no part of it.
    space.write(".dockerignore", "graph\nrun\nbin\n");
    let args = ["build", "--progress=plain", "-t", "loaded:1", "--load=podman", "."];
    let output = daemon.client(space.path(), &args).env("CONTAINERS_STORAGE_CONF", &conf).output().unwrap();
    TestOutput::new("rbuildctl build --load=podman".into(), &output).success().has("Loaded image: ");
    let mut podman = Command::new("podman");
    podman.args(["--runtime", "runc", "--cgroup-manager", "cgroupfs", "run", "--rm", "--network", "host"]);
    podman.args(["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024", "loaded:1"]);
    let output = podman.env("CONTAINERS_STORAGE_CONF", &conf).output().unwrap();
    assert_eq!(TestOutput::new("podman run".into(), &output).success().stdout, "data");
}

#[test]
fn load_takes_the_first_engine_that_answers() {
    let daemon = TestDaemon::start();
    let space = space();
    program(&space, "docker", "echo 'Cannot connect to the Docker daemon' >&2; exit 1");
    let take = r#"case "$*" in version) ;; "images import -") /bin/busybox cat > got.tar; echo taken;; *) exit 3;; esac"#;
    program(&space, "ctr", take);
    load(&daemon, &space, &["--load"]).success().has("taken");
    run("tar", &["tf", &space.at("got.tar").to_string_lossy()]).success().has("manifest.json");
    std::fs::remove_file(space.at("got.tar")).unwrap();

    let take = r#"case "$1" in version) echo 27;; load) /bin/busybox cat > docker.tar;; esac"#;
    program(&space, "docker", take);
    load(&daemon, &space, &["-o", "type=docker"]).success();
    assert!(!space.at("got.tar").exists());
    let archive = format!("docker-archive:{}", space.at("docker.tar").display());
    run("skopeo", &["inspect", "--format", "{{.Architecture}}", &archive]).success().has("amd64");
    // Beside other outputs, and not at all.
    std::fs::remove_file(space.at("docker.tar")).unwrap();
    load(&daemon, &space, &["--load=docker", "-o", "type=local,dest=out"]).success();
    assert!(space.at("docker.tar").exists() && space.at("out/f").exists());
    load(&daemon, &space, &["--load=false"]).success();
    daemon.ctl(space.path(), &["images"]).success().has("loaded:1");
}

#[test]
fn an_engine_that_fails_fails_the_build_in_its_own_words() {
    let daemon = TestDaemon::start();
    let space = space();
    load(&daemon, &space, &["--load"])
        .failure()
        .has("no container engine can be used here")
        .has("`docker` is not in PATH")
        .has("`ctr` is not in PATH")
        .has("-o type=docker,dest=FILE");
    load(&daemon, &space, &["--load=nosuch"]).failure().has("error[U001]").has("unknown engine");
    // Before the archive is through, and after it.
    for script in
        ["echo 'no space left' >&2; exit 1", "/bin/busybox cat > /dev/null; echo 'no space left' >&2; exit 1"]
    {
        program(&space, "podman", &format!("[ \"$1\" = --version ] || {{ {script}; }}"));
        load(&daemon, &space, &["--load=podman"]).failure().has("podman load: no space left");
    }
    // A build that fails starts nothing.
    space.write("Dockerfile", "FROM busybox\nRUN false\n");
    program(&space, "podman", "[ \"$1\" = --version ] || /bin/busybox touch started");
    load(&daemon, &space, &["--load"]).failure();
    assert!(!space.at("started").exists());
}
