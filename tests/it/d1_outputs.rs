use rbuild_tests::{Relay, TestDaemon, TestRegistry, TestSpace, registry, run};

fn space() -> TestSpace {
    let space = TestSpace::new();
    space.write("f", "data");
    space.write(
        "Dockerfile",
        "FROM busybox\nRUN echo one > /one && rm /etc/group && mkdir /deep && chmod 700 /deep\nCOPY f /deep/f\nLABEL a=b\nENV E=1\nCMD [\"cat\", \"/deep/f\"]\n",
    );
    space
}

#[test]
fn tagged_images_are_listed_and_usable_as_base() {
    let daemon = TestDaemon::start();
    let space = space();
    daemon.build(space.path(), &["-t", "mine:1", "-t", "mine:2"]).success();
    daemon.ctl(space.path(), &["images"]).success().has("mine").has("1").has("2");
    space.write("Dockerfile", "FROM mine:1\nRUN cat /deep/f > /again\n");
    let (_, out) = daemon.build_to_dir(space.path(), &[]);
    assert_eq!(out.read("again"), "data");
}

#[test]
fn archives_are_accepted_by_foreign_tools() {
    let daemon = TestDaemon::start();
    let space = space();
    for compression in ["gzip", "zstd", "uncompressed"] {
        let output =
            format!("type=oci,dest={compression}.tar,compression={compression},force-compression=true");
        daemon.build(space.path(), &["-t", "x:y", "-o", &output]).success();
        let archive = format!("oci-archive:{}", space.at(&format!("{compression}.tar")).display());
        run("skopeo", &["inspect", &archive]).success().has("\"a\": \"b\"");
        let layout = space.at(compression);
        run("skopeo", &["copy", "-q", &archive, &format!("oci:{}:x", layout.display())]).success();
        if compression != "zstd" {
            let bundle = space.at(&format!("{compression}-bundle"));
            run(
                "umoci",
                &["unpack", "--image", &format!("{}:x", layout.display()), &bundle.to_string_lossy()],
            )
            .success();
            assert!(!bundle.join("rootfs/etc/group").exists(), "the whiteout is lost");
            assert_eq!(std::fs::read_to_string(bundle.join("rootfs/deep/f")).unwrap(), "data");
        }
    }
    daemon.build(space.path(), &["-t", "x:y", "-o", "type=docker,dest=docker.tar"]).success();
    let archive = format!("docker-archive:{}", space.at("docker.tar").display());
    run("skopeo", &["inspect", &archive]).success().has("linux");
    run("tar", &["tf", &space.at("docker.tar").to_string_lossy()]).success().has("manifest.json");
}

#[test]
fn podman_runs_the_image() {
    let daemon = TestDaemon::start();
    let space = space();
    daemon.build(space.path(), &["-t", "run:me", "-o", "type=oci,dest=i.tar"]).success();
    let root = space.at("podman");
    let root_text = root.to_string_lossy();
    let archive = format!("oci-archive:{}", space.at("i.tar").display());
    let run_root = space.at("podman-run");
    let podman = [
        "--root",
        &root_text,
        "--runroot",
        &run_root.to_string_lossy(),
        "--runtime",
        "runc",
        "--storage-driver",
        "vfs",
        "--cgroup-manager",
        "cgroupfs",
    ];
    let limits =
        ["run", "--rm", "--network", "host", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"];
    let output = run("podman", &[&podman[..], &limits[..], &[&archive]].concat()).success();
    assert_eq!(output.stdout, "data");
}

#[test]
fn tar_and_several_outputs_at_once() {
    let daemon = TestDaemon::start();
    let space = space();
    daemon
        .build(
            space.path(),
            &[
                "-o",
                "type=tar,dest=t.tar",
                "-o",
                "type=local,dest=dir",
                "-o",
                "type=image",
                "--metadata-file",
                "md.json",
                "--iidfile",
                "iid",
                "-t",
                "both",
            ],
        )
        .success();
    run("tar", &["tf", &space.at("t.tar").to_string_lossy()]).success().has("deep/f").lacks("etc/group");
    assert_eq!(space.read("dir/deep/f"), "data");
    assert!(space.read("iid").starts_with("sha256:"), "{}", space.read("iid"));
    let metadata: serde_json::Value = serde_json::from_str(&space.read("md.json")).unwrap();
    assert!(metadata["containerimage.digest"].as_str().unwrap().starts_with("sha256:"), "{metadata}");
    let stdout = daemon.client(space.path(), &["build", "-q", "-o", "-", "."]).output().unwrap();
    assert!(stdout.status.success());
    space.write("stdout.tar", &stdout.stdout);
    run("tar", &["tf", &space.at("stdout.tar").to_string_lossy()]).success().has("deep/f");
}

#[test]
fn push_puts_the_image_into_a_registry() {
    let daemon = TestDaemon::start();
    let registry = TestRegistry::start();
    let space = space();
    let name = format!("{}/team/app:v1", registry.host);
    daemon.build(space.path(), &["-t", &name, "--push"]).success();
    let inspected = run("skopeo", &["inspect", "--tls-verify=false", &format!("docker://{name}")]).success();
    inspected.has("\"E=1\"");
    let copy = format!("oci:{}:x", space.at("pulled").display());
    run("skopeo", &["copy", "-q", "--src-tls-verify=false", &format!("docker://{name}"), &copy]).success();
    let bundle = space.at("bundle");
    run(
        "umoci",
        &["unpack", "--image", &format!("{}:x", space.at("pulled").display()), &bundle.to_string_lossy()],
    )
    .success();
    assert_eq!(std::fs::read_to_string(bundle.join("rootfs/deep/f")).unwrap(), "data");
    space.write("Dockerfile", format!("FROM {name}\nRUN cat /deep/f > /x\n"));
    let fresh = TestDaemon::start();
    let (_, out) = fresh.build_to_dir(space.path(), &[]);
    assert_eq!(out.read("x"), "data");
}

#[test]
fn outputs_and_flags_that_do_not_exist_are_refused_by_name() {
    let daemon = TestDaemon::start();
    let space = space();
    daemon.build(space.path(), &["-o", "type=nosuch,dest=x"]).failure().has("nosuch");
    daemon.build(space.path(), &["--resource=cpu=1", "-t", "x"]).failure().has("--resource");
    daemon.build(space.path(), &["-o", "type=oci,dest=x.tar,compresion=zstd"]).failure().has("compresion");
}

#[test]
fn annotations_reach_the_manifest() {
    let daemon = TestDaemon::start();
    let space = space();
    daemon.build(space.path(), &["--annotation", "who=me", "-o", "type=oci,dest=a.tar"]).success();
    let archive = format!("oci-archive:{}", space.at("a.tar").display());
    let manifest = run("skopeo", &["inspect", "--raw", &archive]).success().stdout;
    let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    assert_eq!(manifest["annotations"]["who"], "me", "{manifest}");
    daemon.build(space.path(), &["--annotation", "nosuch:who=me"]).failure().has("nosuch");
}

#[test]
fn layers_that_a_registry_has_are_not_sent_to_it() {
    let (_, port) = registry().host.rsplit_once(':').unwrap();
    let relay = Relay::to(port.parse().unwrap());
    let host = format!("127.0.0.1:{}", relay.port);
    let (daemon, space) = (TestDaemon::start(), TestSpace::new());
    space.write("Dockerfile", format!("FROM {host}/library/busybox\nRUN echo new > /new\n"));
    let push = |tag: &str| {
        relay.sent();
        daemon.build(space.path(), &["--push", "-t", &format!("{host}/mounted/{tag}")]).success();
        relay.sent()
    };
    // The layer of busybox, of more than a million bytes, is in another repository of the same registry.
    let sent = push("x:1");
    assert!(sent < 300_000, "{sent} bytes were sent");
    let sent = push("x:2");
    assert!(sent < 100_000, "{sent} bytes were sent, though all layers are there");
    let from = format!("docker://{host}/mounted/x:1");
    run("skopeo", &["inspect", "--tls-verify=false", &from]).success();
}
