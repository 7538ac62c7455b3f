//! Scenario D2: several platforms in one build, foreign ones emulated.
use rbuild_tests::{ImageSpec, TestDaemon, TestSpace, busybox_root, debian_files, push_image, registry};

#[test]
fn root_steps_of_other_architectures_run_emulated() {
    let host = &registry().host;
    push_image(host, "library/d2-amd64:latest", busybox_root().path(), &ImageSpec::default());
    for (debian, architecture) in [("arm64", "arm64"), ("armhf", "arm")] {
        let files = debian_files(debian, &["base-files", "dash", "coreutils", "libc6"]);
        let spec = ImageSpec { architecture: architecture.into(), ..ImageSpec::default() };
        push_image(host, &format!("library/d2-{architecture}:latest"), &files.at("root"), &spec);
    }
    let daemon = TestDaemon::start();
    let space = TestSpace::new();
    space.write(
        "Dockerfile",
        "FROM d2-$TARGETARCH\nARG TARGETPLATFORM\nRUN uname -m >/machine && echo $TARGETPLATFORM >/platform\n",
    );
    let (_, out) = daemon.build_to_dir(space.path(), &["--platform=linux/amd64,linux/arm64,linux/arm/v7"]);
    for (dir, machine, platform) in [
        ("linux_amd64", "x86_64", "linux/amd64"),
        ("linux_arm64", "aarch64", "linux/arm64"),
        ("linux_arm_v7", "armv7l", "linux/arm/v7"),
    ] {
        assert_eq!(out.read(&format!("{dir}/machine")), format!("{machine}\n"));
        assert_eq!(out.read(&format!("{dir}/platform")), format!("{platform}\n"));
    }
    // What is emulated is offered.
    let workers = daemon.ctl(space.path(), &["debug", "workers"]).success();
    workers.has("linux/arm64");
}
