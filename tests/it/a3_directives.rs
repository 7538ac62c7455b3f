use rbuild_tests::{TestDaemon, TestSpace};

#[test]
fn well_known_syntax_is_built_in_and_escape_works_at_the_top_only() {
    let daemon = TestDaemon::start();
    let space = TestSpace::new();
    space.write(
        "Dockerfile",
        "# syntax=docker/dockerfile:1\n# escape=`\nFROM busybox\nRUN echo one `\n  two > /out\n# escape=\\\nRUN echo 'c:\\x' >> /out\n",
    );
    let (_, out) = daemon.build_to_dir(space.path(), &[]);
    assert_eq!(out.read("out"), "one two\nc:\\x\n");
}

#[test]
fn another_syntax_image_is_not_taken_for_ours() {
    let daemon = TestDaemon::start();
    let space = TestSpace::new();
    space.write("Dockerfile", "# syntax=example.invalid/some/frontend:1\nFROM scratch\n");
    daemon.build(space.path(), &[]).failure().has("example.invalid/some/frontend:1");
}
