use rbuild_tests::{TestSpace, binary, run_in};

#[test]
fn compiles_offline_to_one_object_a_line() {
    let space = TestSpace::new();
    space.write("Dockerfile", "FROM busybox\nRUN make\nCOPY a /a\nCMD [\"x\"]\n");
    let ctl = binary("rbuildctl").to_string_lossy().into_owned();
    let output = run_in(space.path(), &ctl, &["debug", "compile", "-f", "Dockerfile", "--json"]).success();
    let lines: Vec<serde_json::Value> =
        output.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines.iter().any(|line| line["Op"]["Op"]["exec"].is_object()), "{}", output.stdout);
    assert_eq!(lines.last().unwrap()["config"]["Cmd"][0], "x", "{}", output.stdout);
}
