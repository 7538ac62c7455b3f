//! Rules on sources: allowed, denied, replaced.

use rbuild_tests::{Page, TestDaemon, TestHttp, TestOutput, TestSpace};

fn build(daemon: &TestDaemon, space: &TestSpace, rules: &str) -> TestOutput {
    space.write("policy.json", format!("{{\"version\": 1, \"rules\": [{rules}]}}"));
    daemon.build(space.path(), &["--source-policy-file=policy.json", "-o", "type=local,dest=out"])
}

fn space(dockerfile: &str) -> TestSpace {
    let space = TestSpace::new();
    space.write("Dockerfile", dockerfile).write(".dockerignore", "out\npolicy.json\n");
    space
}

#[test]
fn a_denied_source_stops_the_build_and_the_rule_is_named() {
    let daemon = TestDaemon::start();
    let space = space("FROM busybox AS base\nFROM scratch\nCOPY --from=base /etc/passwd /\n");
    // What an earlier build has fetched is no way around it.
    daemon.build(space.path(), &[]).success();
    let deny = r#"{"action": "DENY", "selector": {"identifier": "docker-image://*"}}"#;
    let text = "source \"docker-image://docker.io/library/busybox:latest\" denied by policy: \
                rule 1 (DENY docker-image://*)";
    build(&daemon, &space, deny).failure().has(text).has(">>> FROM busybox");
    let allow = r#"{"action": "ALLOW", "selector": {"identifier": "^docker-image://docker.io/library/", "match_type": "REGEX"}}"#;
    build(&daemon, &space, &format!("{deny}, {allow}")).success();
    build(&daemon, &space, &format!("{allow}, {deny}")).failure().has("rule 2 (DENY docker-image://*)");
}

#[test]
fn the_environment_names_a_policy_too() {
    let daemon = TestDaemon::start();
    let space = space("FROM busybox\n");
    let rule = r#"{"action": "DENY", "selector": {"identifier": "docker-image://docker.io/library/busybox:latest", "match_type": "EXACT"}}"#;
    space.write("policy.json", format!("{{\"rules\": [{rule}]}}"));
    let mut command = daemon.client(space.path(), &["build", "--progress=plain", "."]);
    let output = command.env("EXPERIMENTAL_BUILDKIT_SOURCE_POLICY", "policy.json").output().unwrap();
    TestOutput::new("rbuildctl build".into(), &output).failure().has("denied by policy: rule 1");
    daemon
        .ctl(space.path(), &["build", "--source-policy-file=nosuch.json", "."])
        .failure()
        .has("nosuch.json");
}

#[test]
fn images_and_files_are_replaced_by_others() {
    let (daemon, web) = (TestDaemon::start(), TestHttp::new());
    let page = web.put("new/file", Page::Plain(b"the other".to_vec()));
    let base = page.trim_end_matches("/new/file").to_owned();
    let space = space(&format!(
        "FROM example.com/nosuch:1 AS base\nRUN cp /etc/passwd /ran\n\
         FROM scratch\nCOPY --from=base /ran /\nADD {base}/old/file /added\n"
    ));
    let rules = format!(
        r#"{{"action": "CONVERT", "selector": {{"identifier": "docker-image://example.com/*:*"}},
            "updates": {{"identifier": "docker-image://example.com/other:${{2}}"}}}},
           {{"action": "CONVERT", "selector": {{"identifier": "docker-image://example.com/other:1", "match_type": "EXACT"}},
            "updates": {{"identifier": "docker-image://docker.io/library/busybox:latest"}}}},
           {{"action": "CONVERT", "selector": {{"identifier": "^({base})/old/(.*)$", "match_type": "REGEX"}},
            "updates": {{"identifier": "$1/new/$2"}}}}"#
    );
    // The first rule finds what it has made itself: nothing changes, so the second has its turn.
    build(&daemon, &space, &rules).success();
    assert!(space.read("out/ran").contains("root:"));
    assert_eq!(space.read("out/added"), "the other");
    assert!(web.asked().iter().all(|path| !path.contains("old")), "{:?}", web.asked());
}

#[test]
fn attributes_are_replaced_and_are_conditions() {
    let (daemon, web) = (TestDaemon::start(), TestHttp::new());
    let url = web.put("file", Page::Plain(b"content".to_vec()));
    let space = space(&format!("FROM scratch\nADD {url} /added\n"));
    let wrong = format!("sha256:{}", "0".repeat(64));
    let rule = |filename: &str| {
        format!(
            r#"{{"action": "CONVERT", "selector": {{"identifier": "http://*", "constraints":
                [{{"key": "http.filename", "value": "{filename}", "condition": "EQUAL"}}]}},
                "updates": {{"attrs": {{"http.checksum": "{wrong}"}}}}}}"#
        )
    };
    build(&daemon, &space, &rule("another")).success();
    build(&daemon, &space, &rule("file")).failure().has(&wrong);
}

#[test]
fn replacements_that_never_end_are_refused() {
    let daemon = TestDaemon::start();
    let space = space("FROM a\n");
    let convert = |from: &str, to: &str| {
        format!(
            r#"{{"action": "CONVERT", "selector": {{"identifier": "docker-image://docker.io/library/{from}:latest"}},
                "updates": {{"identifier": "docker-image://docker.io/library/{to}:latest"}}}}"#
        )
    };
    let rules = format!("{}, {}", convert("a", "b"), convert("b", "a"));
    build(&daemon, &space, &rules).failure().has("was replaced 20 times by the policy");
}
