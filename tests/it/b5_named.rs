use rbuild_tests::{Page, TestDaemon, TestHttp, TestSpace};

#[test]
fn names_stand_for_directories_images_and_files_behind_urls() {
    let (daemon, web) = (TestDaemon::start(), TestHttp::new());
    let space = TestSpace::new();
    space.write(
        "Dockerfile",
        "FROM base AS b\nRUN --mount=from=dir,target=/m cp /m/a /from-mount\n\
         FROM scratch\nCOPY --from=b /from-mount /\nCOPY --from=dir a /from-dir\nCOPY --from=url context /from-url\n",
    );
    space.write("extra/a", "extra").write("extra/ignored", "x").write("extra/.dockerignore", "ignored\n");
    let url = web.put("file", Page::Plain(b"remote".to_vec()));
    let (_, out) = daemon.build_to_dir(
        space.path(),
        &[
            "--build-context=base=docker-image://busybox",
            "--build-context=dir=extra",
            &format!("--build-context=url={url}"),
        ],
    );
    assert_eq!(out.read("from-mount"), "extra");
    assert_eq!(out.read("from-dir"), "extra");
    assert_eq!(out.read("from-url"), "remote");
}

#[test]
fn a_directory_in_oci_layout_is_a_base_and_a_source_of_files() {
    let daemon = TestDaemon::start();
    let (made, space) = (TestSpace::new(), TestSpace::new());
    made.write("Dockerfile", "FROM busybox\nENV GREETING=hello\nRUN echo inside > /inside\n");
    let archive = made.at("image.tar").to_string_lossy().into_owned();
    daemon.build(made.path(), &["-t", "layout:v1", "-o", &format!("type=oci,dest={archive}")]).success();
    std::fs::create_dir(space.at("layout")).unwrap();
    let layout = space.at("layout").to_string_lossy().into_owned();
    rbuild_tests::run("tar", &["-xf", &archive, "-C", &layout]).success();
    space.write(
        "Dockerfile",
        "FROM base AS b\nRUN echo $GREETING > /greeting\nFROM scratch\nCOPY --from=b /greeting /\n\
         COPY --from=base /inside /\n",
    );
    // A daemon that has never seen the image.
    let other = TestDaemon::start();
    let digest = std::fs::read_to_string(space.at("layout/index.json")).unwrap();
    let at = digest.find("sha256:").unwrap();
    let digest = digest[at..at + 71].to_owned();
    for name in ["layout", "layout:v1", &format!("layout@{digest}"), &format!("layout:v1@{digest}")] {
        let (output, out) =
            other.build_to_dir(space.path(), &[&format!("--build-context=base=oci-layout://{name}")]);
        output.has("[context base] OCI load from client");
        assert_eq!((out.read("greeting"), out.read("inside")), ("hello\n".into(), "inside\n".into()));
    }
    let refused = |name: &str, text: &str| {
        let named = format!("--build-context=base=oci-layout://{name}");
        other.build(space.path(), &[&named]).failure().has(text);
    };
    refused("layout:v2", "no image has the tag `v2`");
    refused("missing", "index.json");
    refused("layout@sha256:12", "sha256:12");
    refused(&format!("layout@sha256:{}", "0".repeat(64)), "not found");
}

#[test]
fn damaged_layouts_are_refused() {
    let daemon = TestDaemon::start();
    let space = TestSpace::new();
    space
        .write("made/Dockerfile", "FROM busybox\nRUN echo x > /x\n")
        .write("Dockerfile", "FROM base\nRUN true\n");
    let archive = space.at("image.tar").to_string_lossy().into_owned();
    daemon.build(&space.at("made"), &["-o", &format!("type=oci,dest={archive}")]).success();
    std::fs::create_dir(space.at("layout")).unwrap();
    rbuild_tests::run("tar", &["-xf", &archive, "-C", &space.at("layout").to_string_lossy()]).success();
    for blob in std::fs::read_dir(space.at("layout/blobs/sha256")).unwrap() {
        let path = blob.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        // White space within JSON: only the digest tells.
        bytes.push(b' ');
        std::fs::write(path, bytes).unwrap();
    }
    let other = TestDaemon::start();
    let output = other.build(space.path(), &["--build-context=base=oci-layout://layout"]);
    output.failure().has("digest mismatch");
}

#[test]
fn names_that_mean_nothing_are_refused_here() {
    let daemon = TestDaemon::start();
    let space = TestSpace::new();
    space.write("Dockerfile", "FROM scratch\nCOPY --from=x a /\n").write("file", "x");
    for (value, text) in [
        ("x=nowhere", "nowhere is not a directory"),
        ("x=file", "file is not a directory"),
        ("x=bogus://y", "unknown kind `bogus://`"),
        ("context=.", "the name `context` is taken"),
        ("=.", "expected NAME=VALUE"),
    ] {
        daemon.build(space.path(), &["--build-context", value]).failure().has(text);
    }
}
