use rbuild_tests::{Running, TestDaemon, TestSpace, processes, wait_until};

#[test]
fn independent_stages_run_at_once() {
    let daemon = TestDaemon::start();
    let space = TestSpace::new();
    // Each waits for the other through a shared cache mount: one after the other would never end.
    let step = |mine: &str, other: &str| {
        format!(
            "RUN --mount=type=cache,id=meet,target=/c touch /c/{mine} && for i in $(seq 200); do [ -e /c/{other} ] && exit 0; sleep 0.1; done; exit 1"
        )
    };
    space.write(
        "Dockerfile",
        format!("FROM busybox AS a\n{}\nFROM busybox AS b\n{}\nFROM scratch\nCOPY --from=a /etc/passwd /a\nCOPY --from=b /etc/passwd /b\n", step("a", "b"), step("b", "a")),
    );
    daemon.build(space.path(), &[]).success();
}

#[test]
fn a_shared_step_runs_once_and_outlives_one_of_its_two_builds() {
    let daemon = TestDaemon::start();
    let space = TestSpace::new();
    space.write("Dockerfile", "FROM busybox\nRUN date +%s%N > /stamp; sleep 5.14159\n");
    let build = || {
        let args = ["build", "--progress=plain", "-o", "type=cacheonly", "."];
        Running::start(daemon.client(space.path(), &args))
    };
    let sleepers = || processes(&["sleep", "5.14159"]);
    let first = build();
    wait_until("the step runs", || sleepers() == 1);
    let second = build();
    second.wait_for("RUN date");
    assert_eq!(sleepers(), 1, "the shared step runs twice");
    first.kill();
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(sleepers(), 1, "the step died with one of its builds");
    second.end().success().lacks("canceled");
}

#[test]
fn the_container_stops_with_its_last_build() {
    let daemon = TestDaemon::start();
    let space = TestSpace::new();
    space.write("Dockerfile", "FROM busybox\nRUN trap '' TERM; sleep 271.828\n");
    let build = || daemon.client(space.path(), &["build", "--progress=plain", "."]).spawn().unwrap();
    let (mut first, mut second) = (build(), build());
    wait_until("the step runs", || processes(&["sleep", "271.828"]) == 1);
    for child in [&mut first, &mut second] {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    wait_until("the container is gone", || processes(&["sleep", "271.828"]) == 0);
    space.write("Dockerfile", "FROM busybox\nRUN true\n");
    daemon.build(space.path(), &[]).success();
}

#[test]
fn two_clients_build_different_things_at_once() {
    let daemon = TestDaemon::start();
    let spaces: Vec<_> = (0..4)
        .map(|i| {
            let space = TestSpace::new();
            space
                .write("Dockerfile", format!("FROM busybox\nCOPY f /f\nRUN echo {i} >> /f\n"))
                .write("f", format!("{i}-"));
            space
        })
        .collect();
    std::thread::scope(|scope| {
        for (i, space) in spaces.iter().enumerate() {
            let daemon = &daemon;
            scope.spawn(move || {
                let (_, out) = daemon.build_to_dir(space.path(), &[]);
                assert_eq!(out.read("f"), format!("{i}-{i}\n"));
            });
        }
    });
}
