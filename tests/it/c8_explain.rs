use rbuild_tests::{TestDaemon, TestSpace};

const FILE: &str = "FROM busybox AS build\nARG VERSION=1\nCOPY src /src\nRUN cat /src/main.c\n\
                    FROM busybox\nCOPY --from=build /src /out\n";

fn explain(daemon: &TestDaemon, space: &TestSpace, args: &[&str]) -> String {
    let output = daemon.ctl(space.path(), &[&["build", "-q", "--explain"], args, &["."]].concat()).success();
    output.stderr
}

#[test]
fn the_root_causes_of_what_ran_are_told_after_the_build() {
    let daemon = TestDaemon::start();
    let space = TestSpace::new();
    space.write("Dockerfile", FILE).write("src/main.c", "a").write("src/old.c", "b").write("other", "x");
    assert!(explain(&daemon, &space, &[]).contains("COPY src /src: no earlier run of it is known"));
    assert_eq!(explain(&daemon, &space, &[]), "every step was in the cache\n");

    space.write("src/main.c", "aa").write("src/new.c", "c").write("other", "y");
    std::fs::remove_file(space.at("src/old.c")).unwrap();
    let told = explain(&daemon, &space, &[]);
    let lines: Vec<&str> = told.lines().collect();
    let changed = "src/main.c changed, src/new.c added, src/old.c removed";
    assert!(
        lines[0].starts_with('#') && lines[0].ends_with(&format!("[build 2/3] COPY src /src: {changed}")),
        "{told}"
    );
    assert_eq!(lines.len(), 2, "only root causes are told: {told}");
    assert!(lines[1].contains("COPY --from=build"), "{told}");

    let told = explain(&daemon, &space, &["--build-arg", "VERSION=2"]);
    assert!(told.contains("[build 3/3] RUN cat /src/main.c: build arg VERSION was `1`, is `2`\n"), "{told}");

    space.write("Dockerfile", FILE.replace("cat /src/main.c", "cat /src/new.c"));
    let told = explain(&daemon, &space, &["--build-arg", "VERSION=2"]);
    assert!(told.contains("command was `cat /src/main.c`, is `cat /src/new.c`"), "{told}");

    let all = daemon.ctl(space.path(), &["history", "explain", "^2"]).success();
    assert!(all.stdout.contains("follows [build 2/3] COPY src /src"), "{}", all.stdout);
    let json = daemon.ctl(space.path(), &["history", "explain", "--json"]).success();
    let first: serde_json::Value = serde_json::from_str(json.stdout.lines().next().unwrap()).unwrap();
    assert_eq!(first["causes"][0]["kind"], "FIELD");

    let told = explain(&daemon, &space, &["--build-arg", "VERSION=2", "--no-cache"]);
    assert!(told.contains("the cache was skipped"), "{told}");
    daemon.ctl(space.path(), &["prune", "--all"]).success();
    let told = explain(&daemon, &space, &["--build-arg", "VERSION=2"]);
    assert!(told.contains("its result was not in the cache"), "{told}");
}

#[test]
fn failed_builds_are_explained_too() {
    let daemon = TestDaemon::start();
    let space = TestSpace::new();
    space.write("Dockerfile", "FROM busybox\nCOPY f /f\nRUN grep -q good /f\n").write("f", "good");
    assert!(explain(&daemon, &space, &[]).contains("COPY f /f: no earlier run"));
    space.write("f", "bad");
    let failed = daemon.ctl(space.path(), &["build", "-q", "--explain", "."]).failure();
    assert!(failed.stderr.contains("[2/3] COPY f /f: f changed\n"), "{}", failed.stderr);
    assert!(failed.stderr.contains("exit code: 1"), "{}", failed.stderr);
    let all = daemon.ctl(space.path(), &["history", "explain"]).success();
    assert!(all.stdout.contains("RUN grep -q good /f: follows [2/3] COPY f /f"), "{}", all.stdout);
}
