//! Frontends that are images: what they are told, what they may do, and what becomes of bad ones.
use std::path::Path;
use std::sync::OnceLock;

use rbuild_tests::{
    DaemonOptions, ImageSpec, Running, TestDaemon, TestGit, TestOutput, TestRepo, TestSpace, add_program,
    busybox_root, own_binary, processes, push_image, registry, wait_until,
};

const PROGRAM: &str = "/bin/test-frontend";

/// Tells the process of one image from those of the others.
const MARK: &str = "the-one-that-hangs";

struct Images {
    /// As it is.
    plain: String,
    /// Without network; says that it takes inputs and questions.
    able: String,
    /// Has a command line of its own.
    marked: String,
}

fn images() -> &'static Images {
    static IMAGES: OnceLock<Images> = OnceLock::new();
    IMAGES.get_or_init(|| {
        let root = busybox_root();
        add_program(root.path(), &own_binary("test-frontend"), PROGRAM);
        let host = &registry().host;
        let entrypoint = vec![PROGRAM.to_owned()];
        let plain = ImageSpec { entrypoint, cmd: vec!["not-used".into()], ..ImageSpec::default() };
        push_image(host, "test/frontend:plain", root.path(), &plain);
        let labels = [
            ("moby.buildkit.frontend.network.none", "true"),
            (
                "moby.buildkit.frontend.caps",
                "moby.buildkit.frontend.inputs,moby.buildkit.frontend.subrequests",
            ),
        ];
        let labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        push_image(host, "test/frontend:able", root.path(), &ImageSpec { labels, ..plain.clone() });
        let entrypoint = vec![PROGRAM.to_owned(), MARK.to_owned()];
        push_image(host, "test/frontend:marked", root.path(), &ImageSpec { entrypoint, ..plain });
        let name = |tag: &str| format!("{host}/test/frontend:{tag}");
        Images { plain: name("plain"), able: name("able"), marked: name("marked") }
    })
}

fn solve(daemon: &TestDaemon, dir: &Path, image: &str, args: &[&str]) -> TestOutput {
    let source = format!("--opt=source={image}");
    let mut all = vec!["solve", "--progress=plain", "--frontend=gateway.v0", &source];
    all.extend(args);
    daemon.ctl(dir, &all)
}

#[test]
fn root_an_image_is_a_frontend_and_is_told_what_the_contract_says() {
    let Images { plain, able, .. } = images();
    let daemon = TestDaemon::start();
    let space = TestSpace::new();
    let told = |image: &str| {
        solve(&daemon, space.path(), image, &["--opt=target=a=b", "--output=type=local,dest=out"]).success();
        space.read("out/hello")
    };
    let text = told(plain);
    assert!(text.contains("\ntarget=a=b\n"), "{text}");
    assert!(text.contains(&format!("source={plain}\n")), "{text}");
    assert!(
        !text.contains("BUILDKIT_SESSION_ID missing") && !text.contains("BUILDKIT_SESSION_ID \n"),
        "{text}"
    );
    assert!(text.contains("BUILDKIT_WORKERS [{\"id\":\""), "{text}");
    assert!(text.contains("\"architecture\":\"amd64\""), "{text}");
    assert!(text.contains("BUILDKIT_EXPORTEDPRODUCT buildkit\n"), "{text}");
    // Labelled so, it has no network.
    let text = told(able);
    assert!(text.contains("\nlinks lo\n"), "{text}");
}

#[test]
fn root_a_file_names_its_frontend_in_its_first_line() {
    let Images { plain, able, .. } = images();
    let daemon = TestDaemon::start();
    let space = TestSpace::new();
    space.write("Dockerfile", format!("# syntax={plain}\nanything at all\n"));
    let (_, out) = daemon.build_to_dir(space.path(), &["--build-arg=A=b"]);
    let text = out.read("hello");
    assert!(text.contains("build-arg:A=b\n") && text.contains(&format!("cmdline={plain}\n")), "{text}");
    // An error points at that line.
    space.write("Dockerfile", format!("# syntax={plain}-gone\n"));
    let output = daemon.build(space.path(), &[]).failure();
    assert!(output.all().contains("Dockerfile:1") && output.all().contains("-gone"), "{}", output.all());
    // A question is handed on, if the frontend says that it takes questions.
    space.write("Dockerfile", format!("# syntax={able}\n"));
    let output = daemon.build(space.path(), &["--call=outline"]).success();
    assert!(output.stdout.contains("asked for frontend.outline"), "{}", output.all());
    space.write("Dockerfile", format!("# syntax={plain}\n"));
    let output = daemon.build(space.path(), &["--call=outline"]).failure();
    assert!(output.all().contains("unsupported frontend capability"), "{}", output.all());
}

#[test]
fn root_a_frontend_may_ask_the_daemons_own() {
    let Images { plain, able, .. } = images();
    let daemon = TestDaemon::start();
    let space = TestSpace::new();
    space.write("Dockerfile", "FROM busybox\nRUN echo nested >/nested\n");
    let args = [
        "--opt=mode=dockerfile",
        "--local=context=.",
        "--local=dockerfile=.",
        "--output=type=local,dest=out",
    ];
    solve(&daemon, space.path(), plain, &args).success();
    assert_eq!(space.read("out/nested"), "nested\n");
    // The image that the built-in frontend stands in for is not pulled.
    let args = ["--local=context=.", "--local=dockerfile=.", "--output=type=local,dest=own"];
    solve(&daemon, space.path(), "docker/dockerfile:1", &args).success();
    assert_eq!(space.read("own/nested"), "nested\n");
    let output = solve(&daemon, space.path(), able, &["--opt=frontend.caps=x"]).failure();
    assert!(output.all().contains("unsupported frontend capability x"), "{}", output.all());
}

#[test]
fn root_a_frontend_learns_of_a_ref_what_upstream_says() {
    let Images { plain, .. } = images();
    let daemon = TestDaemon::start();
    let server = TestGit::start();
    let repo = TestRepo::new();
    repo.space.write("f", "x");
    let commit = repo.commit("one");
    repo.git(&["tag", "-a", "-m", "t", "annotated"]);
    repo.git(&["tag", "plain"]);
    let tag = repo.git(&["rev-parse", "annotated"]);
    server.publish(&repo, "r.git");
    let url = format!("--opt=url={}", server.url("r.git"));
    let space = TestSpace::new();
    for (name, object, full) in [
        ("annotated", &tag, "refs/tags/annotated"),
        ("plain", &commit, "refs/tags/plain"),
        ("main", &commit, "refs/heads/main"),
    ] {
        let name = format!("--opt=ref={name}");
        let args = ["--opt=mode=meta", &url, &name, "--output=type=local,dest=out"];
        solve(&daemon, space.path(), plain, &args).success();
        assert_eq!(space.read("out/hello"), format!("{object}\n{commit}\n{full}\n"), "{name}");
    }
}

#[test]
fn root_bad_frontends_fail_their_build_and_say_how() {
    let Images { plain, .. } = images();
    let daemon = TestDaemon::start();
    let space = TestSpace::new();
    for (mode, said) in [
        ("crash", "did not complete successfully: exit code: 3"),
        ("crash", "something broke in here"),
        ("silent", "ended without a result"),
        ("garbage", "without a result"),
        ("error", "line 3 of the recipe is wrong"),
        ("lie", "no such reference `reference0of0another0build` in this build"),
        ("fail-after", "returned a result and then failed: exit code: 5"),
    ] {
        let mode_option = format!("--opt=mode={mode}");
        let output = solve(&daemon, space.path(), plain, &[&mode_option]).failure();
        assert!(output.all().contains(said), "{mode}: {}", output.all());
    }
    let long = format!("--opt=big={}", "x".repeat(131_050));
    // It fits into our own command line, but not under the longer name into the environment.
    let output = solve(&daemon, space.path(), plain, &[&long]).failure();
    assert!(output.all().contains("`big`"), "{}", output.all());
    let busybox = format!("{}/library/busybox:latest", registry().host);
    let output = solve(&daemon, space.path(), &busybox, &[]).failure();
    assert!(output.all().contains("/run"), "an image without entrypoint: {}", output.all());
    let output = daemon.ctl(space.path(), &["solve", "--frontend=gateway.v0"]).failure();
    assert!(output.all().contains("`source`"), "{}", output.all());
}

#[test]
fn root_a_frontend_that_hangs_ends_with_its_build() {
    let Images { marked, .. } = images();
    let daemon = TestDaemon::start();
    let space = TestSpace::new();
    let source = format!("--opt=source={marked}");
    let args = ["solve", "--progress=plain", "--frontend=gateway.v0", &source, "--opt=mode=hang"];
    let running = Running::start(daemon.client(space.path(), &args));
    running.wait_for("thinking about it");
    assert_ne!(processes(&[PROGRAM, MARK]), 0);
    running.kill();
    wait_until("the frontend is gone", || processes(&[PROGRAM, MARK]) == 0);
}

#[test]
fn root_the_operator_says_which_images_may_be_frontends() {
    let Images { plain, .. } = images();
    let space = TestSpace::new();
    let start = |config: &str| {
        TestDaemon::start_with(DaemonOptions { config: config.into(), ..DaemonOptions::default() })
    };
    let refused = |config: &str, said: &str| {
        let output = solve(&start(config), space.path(), plain, &[]).failure();
        assert!(output.all().contains(said), "{}", output.all());
    };
    refused("[frontend.\"gateway.v0\"]\nenabled = false\n", "switched off");
    refused("[frontend.\"gateway.v0\"]\nallowedRepositories = [\"a/b\"]\n", "not an allowed gateway source");
    let repository = plain.trim_end_matches(":plain");
    let allowed = format!("[frontend.\"gateway.v0\"]\nallowedRepositories = [\"{repository}\"]\n");
    solve(&start(&allowed), space.path(), plain, &[]).success();
    // Nothing is built in: the image itself is asked for, and this registry has none.
    let daemon = start("[frontend.\"dockerfile.v0\"]\nbuiltInFor = []\n");
    space.write("Dockerfile", "# syntax=docker/dockerfile:1\nFROM scratch\n");
    let output = daemon.build(space.path(), &[]).failure();
    assert!(output.all().contains("docker.io/docker/dockerfile:1"), "{}", output.all());
}
