use std::fs::File;
use std::path::Path;

use rbuild_tests::{TestDaemon, TestOutput, TestSpace, run_in};

/// A context of a Dockerfile, another one and a file.
fn context() -> TestSpace {
    let space = TestSpace::new();
    space.write("Dockerfile", "FROM scratch\nCOPY data /plain\n").write("data", "payload");
    space.write("test.Dockerfile", "FROM scratch\nCOPY data /test\n");
    space
}

fn archive(context: &TestSpace, flags: &str) -> TestSpace {
    let out = TestSpace::new();
    let file = out.at("archive").to_string_lossy().into_owned();
    run_in(context.path(), "tar", &[flags, &file, "Dockerfile", "test.Dockerfile", "data"]).success();
    out
}

fn build(daemon: &TestDaemon, args: &[&str], input: &Path) -> (TestOutput, TestSpace) {
    let (out, elsewhere) = (TestSpace::new(), TestSpace::new());
    let output = format!("type=local,dest={}", out.path().display());
    let mut all = vec!["build", "--progress=plain", "-o", &output];
    all.extend(args);
    (daemon.ctl_with(elsewhere.path(), &all, File::open(input).unwrap()), out)
}

#[test]
fn an_archive_from_standard_input_is_the_context_however_it_is_packed() {
    let daemon = TestDaemon::start();
    let context = context();
    for flags in ["-cf", "-czf", "-cjf", "-cJf"] {
        let packed = archive(&context, flags);
        let (output, out) = build(&daemon, &["-f", "test.Dockerfile", "-"], &packed.at("archive"));
        let output = output.success().has("[internal] load remote build context");
        assert_eq!(out.read("test"), "payload", "{flags}: {}", output.all());
    }
    let plain = archive(&context, "-cf");
    run_in(plain.path(), "zstd", &["-q", "archive", "-o", "zst"]).success();
    let (output, out) = build(&daemon, &["-"], &plain.at("zst"));
    let output = output.success();
    assert_eq!(out.read("plain"), "payload");
    let (second, _) = build(&daemon, &["-"], &plain.at("zst"));
    assert!(second.success().cached("COPY data /plain"), "{}", output.all());
}

#[test]
fn a_dockerfile_from_standard_input_has_an_empty_context_or_the_named_one() {
    let daemon = TestDaemon::start();
    let context = context();
    let (output, _) = build(&daemon, &["-"], &context.at("Dockerfile"));
    output.failure().has("\"/data\": not found");
    let here = context.path().to_string_lossy().into_owned();
    let (output, out) = build(&daemon, &["-f-", &here], &context.at("test.Dockerfile"));
    output.success();
    assert_eq!(out.read("test"), "payload");
}

#[test]
fn what_standard_input_cannot_be_is_said() {
    let daemon = TestDaemon::start();
    let context = context();
    let (output, _) = build(&daemon, &["-f-", "-"], &context.at("Dockerfile"));
    output.failure().has("both the build context and the Dockerfile");
    let (output, _) = build(&daemon, &["-"], Path::new("/dev/null"));
    output.failure().has("standard input is empty");
    let (output, _) = build(&daemon, &["-f", "other", "-"], &context.at("Dockerfile"));
    output.failure().has("names another");
    let (output, _) = build(&daemon, &["-f", "missing", "-"], &archive(&context, "-czf").at("archive"));
    output.failure().has("open missing: no such file or directory").has("remote build context");
}

#[test]
fn damaged_archives_are_no_contexts() {
    let daemon = TestDaemon::start();
    let context = context();
    // Large enough that the damage is behind the first block of every packer.
    context.write("data", (0..1_500_000_u32).flat_map(u32::to_le_bytes).collect::<Vec<u8>>());
    for flags in ["-cf", "-czf", "-cjf", "-cJf"] {
        let packed = archive(&context, flags);
        let whole = std::fs::read(packed.at("archive")).unwrap();
        packed.write("cut", &whole[..whole.len() / 2]);
        let (output, _) = build(&daemon, &["-"], &packed.at("cut"));
        output.failure().has("archive `/context`");
        if flags != "-cf" {
            let mut flipped = whole;
            let middle = flipped.len() / 2;
            flipped[middle] ^= 0x55;
            packed.write("flipped", flipped);
            let (output, _) = build(&daemon, &["-"], &packed.at("flipped"));
            output.failure().has("archive `/context`");
        }
    }
}
