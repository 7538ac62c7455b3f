use rbuild_tests::{DaemonOptions, TestDaemon, TestSpace};

const DOCKERFILE: &str = "FROM busybox AS deps\nWORKDIR /app\nCOPY package.json .\n\
    RUN --mount=type=cache,target=/root/.npm echo run >> /root/.npm/runs && wc -l < /root/.npm/runs > /app/count\n\
    FROM busybox\nWORKDIR /app\nCOPY --from=deps /app/count .\nCOPY index.ts .\n";

#[test]
fn a_changed_source_runs_the_last_copy_only_and_the_cache_mount_stays() {
    let mut daemon = TestDaemon::start_with(DaemonOptions::default());
    let space = TestSpace::new();
    space.write("Dockerfile", DOCKERFILE).write("package.json", "{}").write("index.ts", "1");
    let (_, out) = daemon.build_to_dir(space.path(), &[]);
    assert_eq!(out.read("app/count").trim(), "1");
    space.write("index.ts", "2");
    let (second, out) = daemon.build_to_dir(space.path(), &[]);
    assert!(second.cached("RUN --mount=type=cache"));
    assert!(!second.cached("COPY index.ts"));
    assert_eq!(out.read("app/index.ts"), "2");
    // The mount's content outlives the daemon and serves the next run.
    daemon.kill();
    daemon.restart();
    space.write("package.json", "{\"changed\": true}");
    let (_, out) = daemon.build_to_dir(space.path(), &[]);
    assert_eq!(out.read("app/count").trim(), "2");
}

#[test]
fn a_locked_cache_is_used_by_one_step_at_a_time() {
    let daemon = TestDaemon::start();
    let space = TestSpace::new();
    let step = "RUN --mount=type=cache,id=l,sharing=locked,target=/c mkdir /c/lock && sleep 0.3 && rmdir /c/lock && touch";
    space.write(
        "Dockerfile",
        format!("FROM busybox AS a\n{step} /a\nFROM busybox AS b\n{step} /b\nFROM scratch\nCOPY --from=a /a /\nCOPY --from=b /b /\n"),
    );
    let (_, out) = daemon.build_to_dir(space.path(), &[]);
    assert!(out.at("a").exists() && out.at("b").exists());
}
