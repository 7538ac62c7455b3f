//! Cache in the cache service of GitHub Actions, in both of its interfaces.

use rbuild_tests::{TestDaemon, TestGha, TestOutput, TestSpace};

const STEPS: [&str; 2] = ["COPY x.txt", "RUN cat /x.txt"];
const MAIN: &str = "refs/heads/main";

fn project() -> TestSpace {
    let space = TestSpace::new();
    space.write("x.txt", "x");
    space.write("Dockerfile", "FROM busybox\nCOPY x.txt /\nRUN cat /x.txt > /y && echo $RANDOM > /random\n");
    space
}

fn cold(space: &TestSpace, from: &str) -> (TestOutput, String) {
    let (built, out) = TestDaemon::start().build_to_dir(space.path(), &["--cache-from", from]);
    (built, out.read("random"))
}

fn warm(space: &TestSpace, to: &str) -> String {
    let to = format!("{to},mode=max");
    let (_, out) = TestDaemon::start().build_to_dir(space.path(), &["--cache-to", &to]);
    out.read("random")
}

#[track_caller]
fn all_cached(built: &TestOutput) {
    for step in STEPS {
        assert!(built.cached(step), "{step} ran: {}", built.all());
    }
}

#[test]
fn a_later_run_finds_what_an_earlier_one_left() {
    for version in [1, 2] {
        let (space, gha) = (project(), TestGha::start());
        let random = warm(&space, &gha.cache(version, "app", MAIN));
        // A branch's run reads what the main branch has; it writes its own.
        let branch = gha.cache(version, "app", "refs/heads/other");
        let (built, found) = cold(&space, &branch);
        all_cached(&built);
        assert_eq!(found, random);
        assert!(gha.keys().iter().any(|key| key == "index-app-1-f921bd05#1"), "{:?}", gha.keys());
        let (built, _) = cold(&space, &gha.cache(version, "unknown", MAIN));
        assert!(built.all().contains("failed to import cache") && !built.cached(STEPS[1]), "{}", built.all());
    }
}

#[test]
fn a_second_export_sends_the_document_and_nothing_else() {
    for version in [1, 2] {
        let (space, gha) = (project(), TestGha::start());
        let daemon = TestDaemon::start();
        let to = format!("{},mode=max", gha.cache(version, "app", MAIN));
        daemon.build(space.path(), &["--cache-to", &to]).success();
        let before = gha.keys();
        gha.asked();
        daemon.build(space.path(), &["--cache-to", &to]).success();
        assert_eq!(gha.keys().len(), before.len() + 1);
        assert_eq!(gha.keys().last().unwrap(), "index-app-1-f921bd05#2");
        let sent = gha
            .asked()
            .into_iter()
            .filter(|line| line.starts_with("PUT") || line.starts_with("PATCH"))
            .count();
        assert_eq!(sent, 1);
    }
}

#[test]
fn a_large_layer_goes_in_pieces() {
    for version in [1, 2] {
        let (space, gha) = (TestSpace::new(), TestGha::start());
        space.write(
            "Dockerfile",
            "FROM busybox\nRUN head -c 70000000 /dev/urandom > /large && sha256sum /large > /random\n",
        );
        let random = warm(&space, &gha.cache(version, "large", MAIN));
        let (built, found) = cold(&space, &gha.cache(version, "large", MAIN));
        assert!(built.cached("RUN head"), "{}", built.all());
        assert_eq!(found, random);
    }
}

#[test]
fn evicted_blobs_cost_a_step_and_the_token_is_kept_nowhere() {
    let (space, gha) = (project(), TestGha::start());
    warm(&space, &gha.cache(2, "app", MAIN));
    gha.evict("buildkit-blob-");
    let daemon = TestDaemon::start();
    let from = gha.cache(2, "app", MAIN);
    let built = daemon.build(space.path(), &["--cache-from", &from]).success();
    assert!(!built.cached(STEPS[1]), "{}", built.all());
    let files = rbuild_tests::run("grep", &["-rl", "--text", "hushtoken", daemon.root().to_str().unwrap()]);
    assert_eq!(files.all(), "", "the token is on the daemon's disk");
    assert!(!daemon.log().contains("hushtoken"));
    let refused =
        daemon.build(space.path(), &["--cache-to", "type=gha,url=http://127.0.0.1:1/,token=hush"]).failure();
    assert!(refused.all().contains("`token=…`") && !refused.all().contains("hush"), "{}", refused.all());
}
