use rbuild_tests::{TestDaemon, TestSpace, run};

/// The two-stage hello world; a shell script that copies a static binary stands in for the compiler, so the
/// test needs no toolchain.
#[test]
fn a_scratch_image_of_one_static_binary_runs() {
    let daemon = TestDaemon::start();
    let space = TestSpace::new();
    space.write(
        "Dockerfile",
        "# syntax=docker/dockerfile:1\nFROM alpine AS build\nWORKDIR /src\nCOPY <<EOF /src/main.sh\n#!/bin/sh\nmkdir -p /out && cp /bin/busybox /out/hello\nEOF\n\
         RUN sh ./main.sh\nFROM scratch\nCOPY --from=build /out/hello /bin/hello\nENTRYPOINT [\"/bin/hello\", \"echo\"]\nCMD [\"hello, world\"]\n",
    );
    daemon.build(space.path(), &["-t", "hello", "-o", "type=oci,dest=hello.tar"]).success();
    let text = space.at("hello.tar");
    run("skopeo", &["inspect", &format!("oci-archive:{}", text.display())]).success().has("linux");
    run(
        "skopeo",
        &[
            "copy",
            "-q",
            &format!("oci-archive:{}", text.display()),
            &format!("oci:{}:x", space.at("layout").display()),
        ],
    )
    .success();
    let layout = format!("{}:x", space.at("layout").display());
    run("umoci", &["unpack", "--image", &layout, &space.at("bundle").to_string_lossy()]).success();
    let hello = space.at("bundle/rootfs/bin/hello");
    let said = run(&hello.to_string_lossy(), &["echo", "hello, world"]);
    // A busybox under another name knows no applet of that name: what counts is that it runs.
    assert!(said.code.is_some(), "{said:?}");
    let config = space.read("bundle/config.json");
    assert!(config.contains("hello, world"), "{config}");
}
