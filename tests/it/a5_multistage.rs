use rbuild_tests::{TestDaemon, TestSpace};

const DOCKERFILE: &str = "FROM busybox AS build\nRUN mkdir /o && echo built > /o/app && echo junk > /junk\n\
    FROM busybox AS unused\nRUN exit 9\nFROM scratch AS final\nCOPY --from=build /o/app /app\nCOPY --from=0 /o/app /by-index\n\
    COPY --from=nginx:latest /etc/passwd /from-image\n";

#[test]
fn the_final_image_holds_nothing_of_the_builder_and_unused_stages_do_not_run() {
    let daemon = TestDaemon::start();
    let space = TestSpace::new();
    space.write("Dockerfile", DOCKERFILE);
    let (output, out) = daemon.build_to_dir(space.path(), &[]);
    let output = output.lacks("exit 9");
    assert!(!output.step("[build 2/2] RUN mkdir").is_empty(), "{}", output.all());
    let mut names: Vec<_> = std::fs::read_dir(out.path())
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["app", "by-index", "from-image"]);
    assert_eq!(out.read("app"), "built\n");
}

#[test]
fn target_stops_at_the_stage() {
    let daemon = TestDaemon::start();
    let space = TestSpace::new();
    space.write("Dockerfile", DOCKERFILE);
    let (_, out) = daemon.build_to_dir(space.path(), &["--target", "build"]);
    assert!(out.at("junk").exists() && out.at("bin/busybox").exists());
    let wrong = daemon.build(space.path(), &["--target", "buidl"]).failure();
    assert!(wrong.all().contains("buidl"), "{}", wrong.all());
}
