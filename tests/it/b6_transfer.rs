use rbuild_tests::{TestDaemon, TestSpace};

#[test]
fn a_transfer_is_told_with_its_size_and_its_end() {
    let daemon = TestDaemon::start();
    let space = TestSpace::new();
    space.write("Dockerfile", "FROM scratch\nCOPY src /\n");
    for i in 0..300 {
        space.write(&format!("src/{i}"), vec![b'x'; 5_000]);
    }
    let built = daemon.build(space.path(), &["-o", "type=cacheonly"]).success();
    let lines = built.step("[internal] load build context");
    let last = lines.iter().rfind(|line| line.contains("transferring context:")).cloned().unwrap_or_default();
    let told = last.split("transferring context: ").nth(1).unwrap_or_default();
    let words: Vec<&str> = told.split(' ').collect();
    // The files and, on top, the list of their names.
    let size = words[0].strip_suffix("MB").and_then(|size| size.parse::<f64>().ok());
    assert!(size.is_some_and(|size| (1.5..1.6).contains(&size)), "{last}");
    // Upstream's form; files and rate may follow.
    let at = if words.get(1).is_some_and(|word| word.ends_with('s')) { 2 } else { 1 };
    assert_eq!(words.get(at), Some(&"done"), "{last}");
    let (files, _) = transferred(&daemon, &space);
    assert_eq!(files, 0, "all was sent before");
}

/// Builds, and tells how many files of the context were sent, and how many bytes with the list.
fn transferred(daemon: &TestDaemon, space: &TestSpace) -> (u64, u64) {
    let args = ["build", "--progress=rawjson", "-o", "type=cacheonly", "."];
    let built = daemon.ctl(space.path(), &args).success();
    let events = built.stderr.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let statuses: Vec<_> = events.flat_map(|event| event["statuses"].as_array().cloned()).flatten().collect();
    let last = statuses.iter().rfind(|status| status["id"] == "transferring context:").expect("a transfer");
    let name = last["name"].as_str().unwrap();
    let files = name.strip_prefix("transferring ").and_then(|rest| rest.strip_suffix(" files"));
    (files.unwrap().parse().unwrap(), last["current"].as_u64().unwrap())
}

#[test]
fn only_what_changed_is_sent_after_a_restart_and_after_a_kill() {
    let mut daemon = TestDaemon::start();
    let space = TestSpace::new();
    space.write("Dockerfile", "FROM scratch\nCOPY src /\n");
    for i in 0..200 {
        space.write(&format!("src/{i}"), vec![b'x'; 20_000]);
    }
    let (files, bytes) = transferred(&daemon, &space);
    assert!(files == 200 && bytes > 4_000_000, "{files} files, {bytes} bytes");
    daemon.terminate();
    daemon.wait(std::time::Duration::from_secs(30));
    daemon.restart();
    space.write("src/3", "changed");
    let (files, bytes) = transferred(&daemon, &space);
    assert!(files == 1 && bytes < 40_000, "{files} files, {bytes} bytes after a restart");
    daemon.kill();
    daemon.restart();
    space.write("src/4", "changed");
    let (files, bytes) = transferred(&daemon, &space);
    assert!(files == 1 && bytes < 40_000, "{files} files, {bytes} bytes after a kill");
    let (_, out) = daemon.build_to_dir(space.path(), &[]);
    assert_eq!(
        (out.read("3"), out.read("4"), out.read("5").len()),
        ("changed".into(), "changed".into(), 20_000)
    );
}
