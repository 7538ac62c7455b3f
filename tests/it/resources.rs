//! What steps use of the machine, and what they may use of it.

use rbuild_tests::{DaemonOptions, TestDaemon, TestSpace};
use serde_json::Value;

/// The newest build as `history inspect` tells it.
fn inspect(daemon: &TestDaemon) -> Value {
    let args = ["history", "inspect", "--format", "json"];
    let output = daemon.ctl(TestSpace::new().path(), &args).success();
    serde_json::from_str(&output.stdout).unwrap()
}

/// The last sample of the step whose name has `part`.
fn last_sample(build: &Value, part: &str) -> Value {
    let steps = build["steps"].as_array().unwrap();
    let step = steps.iter().find(|step| step["name"].as_str().unwrap().contains(part));
    let samples = step.expect("there is such a step")["resourceUsage"]["samples"].as_array();
    samples.expect("it was measured").last().expect("samples are never none").clone()
}

fn daemon(config: &str) -> TestDaemon {
    let config = format!("[worker.oci]\n{config}\n");
    TestDaemon::start_with(DaemonOptions { config, ..DaemonOptions::default() })
}

#[test]
fn root_it_is_kept_what_steps_used() {
    let daemon = TestDaemon::start();
    let space = TestSpace::new();
    space.write(
        "Dockerfile",
        "FROM busybox\nRUN head -c 50000000 /dev/zero | tail -c 40000000 | wc -c\n\
         FROM scratch\nCOPY --from=0 /etc/passwd /\n",
    );
    let told = |attest: &str| {
        let (_, out) = daemon.build_to_dir(space.path(), &["--no-cache", attest]);
        let predicate: Value = serde_json::from_str(&out.read("provenance.json")).unwrap();
        let steps =
            predicate["predicate"]["buildDefinition"]["internalParameters"]["buildConfig"]["llbDefinition"]
                .clone();
        let used = steps.as_array().unwrap().iter().filter(|step| !step["resourceUsage"].is_null()).cloned();
        used.collect::<Vec<_>>()
    };
    let used = told("--attest=type=provenance,mode=max,capture-usage=true");
    assert_eq!(used.len(), 1, "{used:?}");
    assert!(used[0]["op"]["Op"]["exec"].is_object(), "{used:?}");
    assert!(used[0]["resourceUsage"]["sysCPUStat"]["idle"].is_number(), "{used:?}");
    assert!(told("--attest=type=provenance,mode=max").is_empty());

    let sample = last_sample(&inspect(&daemon), "RUN head");
    assert!(sample["cpuStat"]["usageNanos"].as_u64().unwrap() > 0, "{sample}");
    assert!(sample["memoryStat"]["peak"].as_u64().unwrap() > 40_000_000, "{sample}");
    // A step that fails has used something, too.
    space.write("Dockerfile", "FROM busybox\nRUN echo broken; exit 3\n");
    daemon.build(space.path(), &[]).failure();
    assert!(last_sample(&inspect(&daemon), "exit 3")["cpuStat"].is_object());
    let args = ["history", "inspect"];
    daemon.ctl(space.path(), &args).success().has("CPU").has("MEMORY");
}

#[test]
fn root_nothing_is_measured_where_that_is_switched_off() {
    let daemon = daemon("step-usage = false");
    let space = TestSpace::new();
    space.write("Dockerfile", "FROM busybox\nRUN cat /proc/self/cgroup >/groups\n");
    let (_, out) = daemon.build_to_dir(space.path(), &[]);
    assert!(!out.read("groups").contains("/rbuild/"), "{}", out.read("groups"));
    let build = inspect(&daemon);
    assert!(build["steps"].as_array().unwrap().iter().all(|step| step["resourceUsage"].is_null()), "{build}");
}

#[test]
fn root_a_step_over_its_memory_is_told_its_limit() {
    let daemon = daemon("step-memory = \"48MiB\"");
    let space = TestSpace::new();
    space.write("Dockerfile", "FROM busybox\nRUN head -c 1000000 /dev/zero >/fits\n");
    daemon.build(space.path(), &[]).success();
    space
        .write("Dockerfile", "FROM busybox\nRUN x=$(head -c 200000000 /dev/zero | tr '\\0' a); echo ${#x}\n");
    let failed = daemon.build(space.path(), &[]).failure();
    failed.has("exit code: 137 (out of memory: the step's limit is 50331648 bytes)").has("step-memory");
    let sample = last_sample(&inspect(&daemon), "RUN x=");
    assert!(sample["memoryStat"]["oomKillEvents"].as_u64().unwrap() > 0, "{sample}");
}

#[test]
fn root_a_step_has_no_more_processors_than_it_may() {
    let daemon = daemon("step-cpus = 0.1");
    let space = TestSpace::new();
    let count = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done";
    space.write("Dockerfile", format!("FROM busybox\nRUN {count}\n"));
    daemon.build(space.path(), &[]).success();
    let sample = last_sample(&inspect(&daemon), "RUN i=0");
    assert!(sample["cpuStat"]["nrThrottled"].as_u64().unwrap() > 0, "{sample}");
}

#[test]
fn limits_that_make_no_sense_are_refused_by_name() {
    let program = rbuild_tests::binary("rbuildd").to_string_lossy().into_owned();
    for (args, part) in [
        (["--oci-step-memory", "12"], "step-memory"),
        (["--oci-step-memory", "lots"], "--oci-step-memory"),
        (["--oci-step-cpus", "0"], "step-cpus"),
    ] {
        let root = TestSpace::new();
        let root = root.path().to_string_lossy().into_owned();
        let refused = rbuild_tests::run(&program, &[&["--root", &root], &args[..]].concat()).failure();
        assert!(refused.all().contains(part), "{}", refused.all());
    }
}
