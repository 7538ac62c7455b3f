//! A9: build checks and the other questions to the frontend.

use rbuild_tests::{TestDaemon, TestSpace};

const SMELLS: &str = "# syntax=docker/dockerfile:1\n\
    FROM scratch AS Foo\n\
    CMD run\n\
    COPY Dockerfile /$nosuch\n";

fn space(dockerfile: &str) -> TestSpace {
    let space = TestSpace::new();
    space.write("Dockerfile", dockerfile);
    space
}

#[test]
fn check_prints_what_it_found_and_fails() {
    let daemon = TestDaemon::start();
    let space = space(SMELLS);
    let output = daemon.build(space.path(), &["--check"]).failure();
    assert_eq!(output.code, Some(1));
    assert!(
        output.stdout.starts_with("Check complete, 3 warnings have been found!\n\n"),
        "{}",
        output.stdout
    );
    let excerpt = "WARNING: JSONArgsRecommended - https://docs.docker.com/go/dockerfile/rule/json-args-recommended/\n\
        JSON arguments recommended for CMD to prevent unintended behavior related to OS signals\n";
    assert!(output.stdout.contains(excerpt), "{}", output.stdout);
    assert!(output.stdout.contains("   3 | >>> CMD run\n"), "{}", output.stdout);
    assert!(output.stdout.contains("Usage of undefined variable '$nosuch'"), "{}", output.stdout);
    assert!(!output.stderr.contains("ERROR"), "{}", output.stderr);
    let ignored = daemon.build(space.path(), &["--call=check,ignorestatus=true"]).success();
    assert_eq!(ignored.stdout, output.stdout);
}

#[test]
fn check_of_a_clean_file_succeeds_and_builds_nothing() {
    let daemon = TestDaemon::start();
    let space = space("FROM scratch\nCOPY nosuch /\n");
    let output = daemon.build(space.path(), &["--check", "-t", "test:clean"]).success();
    assert_eq!(output.stdout, "Check complete, no warnings found.\n");
    daemon.ctl(space.path(), &["images"]).success().lacks("clean");
}

#[test]
fn check_of_a_broken_file_shows_the_line() {
    let daemon = TestDaemon::start();
    let space = space("FROM scratch\nFOO\n");
    let output = daemon.build(space.path(), &["--check"]).failure();
    assert_eq!(output.stdout, "");
    output.has("error: dockerfile parse error on line 2: unknown instruction: FOO").has("   2 | >>> FOO");
}

#[test]
fn check_as_json_is_the_answer_of_the_frontend() {
    let daemon = TestDaemon::start();
    let space = space(SMELLS);
    let output = daemon.build(space.path(), &["--call=check,format=json"]).failure();
    let json: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
    let rules: Vec<_> = json["warnings"].as_array().unwrap().iter().map(|w| &w["ruleName"]).collect();
    assert_eq!(rules, ["StageNameCasing", "JSONArgsRecommended", "UndefinedVar"]);
    assert_eq!(json["sources"][0]["filename"], "Dockerfile");
    assert!(json["sources"][0]["definition"]["def"].is_array(), "{json}");
}

#[test]
fn a_build_warns_and_says_how_many() {
    let daemon = TestDaemon::start();
    let space = space(SMELLS);
    let output = daemon.build(space.path(), &[]).success();
    let step = output.step("[internal] load build definition from Dockerfile");
    assert!(step.iter().any(|line| line.contains("WARN: StageNameCasing: ")), "{step:?}");
    let output = output.has("3 warnings found (use --debug to expand):");
    output.has(" - UndefinedVar: Usage of undefined variable '$nosuch' (line 4)").lacks("More info");
    let output = daemon.build(space.path(), &["--debug"]).success();
    output
        .has("3 warnings found:")
        .has("More info: https://docs.docker.com/go/dockerfile/rule/undefined-var/");
}

#[test]
fn the_directive_skips_rules_or_makes_them_errors() {
    let daemon = TestDaemon::start();
    let skipped = space("# check=skip=StageNameCasing,JSONArgsRecommended\nFROM scratch AS Foo\nCMD a\n");
    daemon.build(skipped.path(), &["--check"]).success().has("no warnings found");
    let strict = space("# check=error=true\nFROM scratch AS Foo\nCOPY Dockerfile /\n");
    let output = daemon.build(strict.path(), &["-t", "test:strict"]).failure();
    assert_eq!(output.code, Some(1));
    output.has("lint violation found for rules: StageNameCasing").has("1 warning found");
    daemon.ctl(strict.path(), &["images"]).success().lacks("strict");
    let argument = "BUILDKIT_DOCKERFILE_CHECK=skip=all";
    daemon.build(strict.path(), &["--build-arg", argument]).success().lacks("warning");
}

#[test]
fn outline_and_targets_are_printed_as_upstream_prints_them() {
    let daemon = TestDaemon::start();
    let space = space(
        "# V is the version\nARG V=1\n# base compiles\nFROM scratch AS base\nARG V\n\
         RUN --mount=type=secret,id=token,required --mount=type=ssh make\n# last packs\nFROM base AS last\nARG W\n",
    );
    let outline = daemon.build(space.path(), &["--call=outline"]).success();
    let expected = "TARGET:      last\nDESCRIPTION: packs\n\n\
        BUILD ARG   VALUE   DESCRIPTION\nV           1       is the version\nW                   \n\n\
        SECRET   REQUIRED\ntoken    true\n\n\
        SSH       REQUIRED\ndefault   \n\n";
    assert_eq!(outline.stdout, expected);
    let args = ["--call=outline,format=json", "--target=base", "--build-arg=V=2"];
    let json: serde_json::Value =
        serde_json::from_str(&daemon.build(space.path(), &args).success().stdout).unwrap();
    assert_eq!((&json["name"], &json["args"][0]["value"]), (&"base".into(), &"2".into()));
    let targets = daemon.build(space.path(), &["--call=targets"]).success();
    assert_eq!(targets.stdout, "TARGET         DESCRIPTION\nbase           compiles\nlast (default) packs\n");
    daemon.build(space.path(), &["--call=help"]).success().has("outline              1.0.0");
}

#[test]
fn what_nobody_can_answer_is_refused() {
    let daemon = TestDaemon::start();
    let space = space("FROM scratch\n");
    daemon.build(space.path(), &["--call=foo"]).failure().has("unsupported request frontend.foo");
    let output = daemon.build(space.path(), &["--call=check,format=xml"]).failure();
    assert_eq!(output.code, Some(2));
    let request =
        ["solve", "--frontend=dockerfile.v0", "--opt=requestid=frontend.bar", "--local=dockerfile=."];
    daemon.ctl(space.path(), &request).failure().has("unsupported request frontend.bar");
}

#[test]
fn the_answer_comes_with_the_response_of_a_raw_request() {
    let daemon = TestDaemon::start();
    let space = space(SMELLS);
    let request = [
        "solve",
        "--frontend=dockerfile.v0",
        "--opt=requestid=frontend.lint",
        "--local=dockerfile=.",
        "--local=context=.",
        "--metadata-file=answer.json",
    ];
    daemon.ctl(space.path(), &request).success();
    let answer: serde_json::Value = serde_json::from_str(&space.read("answer.json")).unwrap();
    assert_eq!(answer["result.statuscode"], "1");
    assert_eq!(answer["version"], "1.0.0");
    assert!(answer["result.txt"].as_str().unwrap().contains("WARNING: StageNameCasing"), "{answer}");
    assert_eq!(answer["result.json"]["warnings"].as_array().unwrap().len(), 3);
}
