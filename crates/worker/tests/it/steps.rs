//! What steps see, write and say.

use std::time::{Duration, Instant};

use bytes::Bytes;
use rbuild_llb::{
    Attached, CacheSharing, Chown, CopyAction, FileActions, MkdirAction, MkfileAction, MountOptions,
    RmAction, SecretOptions, SecurityMode, State, SymlinkAction, UserRef,
};
use rbuild_solver::SolveError;
use rbuild_worker::{OpError, OpErrorKind, Worker};

use crate::fixture::{Build, Fixture, busybox, read, sh};

fn mkfile(path: &str, data: &'static str) -> MkfileAction {
    MkfileAction {
        path: path.into(),
        mode: 0o644,
        data: Bytes::from_static(data.as_bytes()),
        ..Default::default()
    }
}

fn files(actions: FileActions) -> State {
    State::scratch().file(actions, Default::default())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_step_writes_logs_and_builds_on_the_one_before() {
    let fixture = Fixture::new();
    let one = busybox().run(sh("echo one > /f; echo to-out; echo to-err >&2")).root();
    let two = one.run(sh("cat /f > /g; echo two >> /g")).root();
    let build = fixture.build();
    let done = build.solve(&two).await.unwrap();
    assert_eq!(read(&done, "g").await, "one\ntwo\n");
    let logs = build.end().await;
    assert!(logs.contains("to-out\n") && logs.contains("to-err\n"), "{logs}");
}

/// Waits until the build has been shown output.
async fn first_output(build: &Build) {
    let mut events = build.progress.subscribe();
    while let Some(event) = futures::StreamExt::next(&mut events).await {
        if !event.logs.is_empty() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn root_who_joins_a_running_step_sees_what_it_wrote_before() {
    let fixture = Fixture::new();
    let state = busybox().run(sh("echo early; sleep 1; echo late >&2")).root();
    let (first, second) = (fixture.build(), fixture.build());
    let joined = async {
        first_output(&first).await;
        let (done, ()) = tokio::join!(second.solve(&state), first_output(&second));
        done.unwrap();
    };
    let (done, ()) = tokio::join!(first.solve(&state), joined);
    done.unwrap();
    assert_eq!(first.end().await, "early\nlate\n");
    assert_eq!(second.end().await, "early\nlate\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_failing_step_says_so_with_its_code_and_leaves_nothing() {
    let fixture = Fixture::new();
    let build = fixture.build();
    let error = build.solve(&busybox().run(sh("echo before; exit 3")).root()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        r#"process "/bin/sh -c echo before; exit 3" did not complete successfully: exit code: 3"#
    );
    let SolveError::Op { error, .. } = error else { panic!("{error}") };
    assert_eq!((error.exit_code(), error.kind()), (Some(3), OpErrorKind::User));
    assert_eq!(build.end().await, "before\n");
    let census = fixture.solver.census();
    assert_eq!((census.vertices, census.flights), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn root_cancel_stops_a_step_that_ignores_signals() {
    let fixture = Fixture::new();
    let build = fixture.build();
    let state = busybox().run(sh("trap '' TERM; echo up; sleep 60; true")).root();
    let (result, took) = tokio::join!(build.solve(&state), async {
        first_output(&build).await;
        let start = Instant::now();
        build.job.close().await;
        start.elapsed()
    });
    assert!(matches!(result, Err(SolveError::Cancelled)), "{result:?}");
    // Far below the sleep; the promise of one second is measured, not asserted.
    assert!(took < Duration::from_secs(20), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn root_mounts_show_what_they_should_and_outputs_come_back() {
    let fixture = Fixture::new();
    let tree = files(
        FileActions::new()
            .mkdir(MkdirAction { path: "/d/e".into(), mode: 0o755, make_parents: true, ..Default::default() })
            .mkfile(mkfile("/d/e/f", "seen\n")),
    );
    let mut exec = sh(
        "cat /in/f /sub/e/f; ! touch /in/x; touch /scratch/y; echo out > /out/o; /bin/busybox df -k /mem >/out/m",
    );
    let bind = |target: &str, selector: &str| MountOptions {
        selector: selector.into(),
        readonly: true,
        ..MountOptions::bind(target, tree.clone())
    };
    exec.mounts = vec![
        bind("/in", "/d/e"),
        bind("/sub", "d"),
        MountOptions { no_output: true, ..MountOptions::bind("/scratch", tree.clone()) },
        MountOptions::bind("/out", State::scratch()),
        MountOptions::new("/mem", Attached::Tmpfs { size_bytes: 1 << 20 }),
    ];
    let out = busybox().run(exec).mount("/out").unwrap();
    let build = fixture.build();
    let done = build.solve(&out).await;
    let logs = build.end().await;
    let done = done.unwrap_or_else(|error| panic!("{error}: {logs}"));
    assert_eq!(read(&done, "o").await, "out\n");
    assert!(read(&done, "m").await.contains("1024"));
    // Two pipes have no order between them: the complaint may come first.
    assert!(logs.contains("seen\nseen\n") && logs.contains("/in/x: Read-only file system"), "{logs}");
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_mounts_selector_stays_inside_its_input() {
    let fixture = Fixture::new();
    let link = |target: &str, path: &str| SymlinkAction {
        old_path: target.into(),
        new_path: path.into(),
        ..Default::default()
    };
    let actions = FileActions::new()
        .mkdir(MkdirAction { path: "/d".into(), mode: 0o755, ..Default::default() })
        .symlink(link("/", "/absolute"))
        .symlink(link("../../../../..", "/d/up"))
        .symlink(link("/proc/1/root", "/magic"));
    let tree = files(actions);
    let show = |selector: &str, readonly: bool| {
        let mut exec = sh("ls /m > /seen");
        let no_output = !readonly;
        let selector = selector.to_owned();
        exec.mounts =
            vec![MountOptions { selector, readonly, no_output, ..MountOptions::bind("/m", tree.clone()) }];
        busybox().run(exec).root()
    };
    for readonly in [true, false] {
        for inside in ["absolute", "d/up", "../../.."] {
            let seen = fixture.read(&show(inside, readonly), "seen").await;
            assert_eq!(seen, "absolute\nd\nmagic\n", "{inside}");
        }
        let build = fixture.build();
        build.solve(&show("magic", readonly)).await.unwrap_err();
        build.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn root_cache_mounts_outlive_the_step() {
    let fixture = Fixture::new();
    for (sharing, id) in [(CacheSharing::Shared, "s"), (CacheSharing::Locked, "l")] {
        let cached = |script: &str| {
            let mut exec = sh(script);
            let attached = Attached::Cache { from: State::scratch(), id: id.into(), sharing };
            exec.mounts = vec![MountOptions::new("/cache", attached)];
            busybox().run(exec).root()
        };
        fixture.read(&cached("echo kept > /cache/k; touch /done"), "done").await;
        assert_eq!(fixture.read(&cached("cat /cache/k > /seen"), "seen").await, "kept\n");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn root_what_is_not_granted_or_not_there_is_named() {
    let fixture = Fixture::new();
    let insecure = busybox().security(SecurityMode::Insecure).run(sh("true")).root();
    let build = fixture.build();
    let error = build.solve(&insecure).await.unwrap_err();
    assert!(error.to_string().starts_with("security.insecure is not allowed"), "{error}");
    let mut exec = sh("true");
    exec.secrets =
        vec![SecretOptions { id: "token".into(), target: Some("/t".into()), ..Default::default() }];
    let error = build.solve(&busybox().run(exec.clone()).root()).await.unwrap_err();
    assert_eq!(error.to_string(), "secret token: not found");
    exec.secrets[0].optional = true;
    build.solve(&busybox().run(exec).root()).await.unwrap();
    build.end().await;
    let granted = rbuild_worker::Entitlements::parse(["security.insecure"]).unwrap();
    let build = fixture.build_with(granted);
    build.solve(&insecure).await.unwrap();
    build.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_graph_is_checked_for_grants_as_a_whole() {
    let insecure = busybox().security(SecurityMode::Insecure).run(sh("true")).root();
    let definition = insecure
        .marshal(&rbuild_llb::MarshalOptions {
            platform: rbuild_oci::Platform::host(),
            local_unique_id: String::new(),
            worker_filters: Vec::new(),
            metadata: Default::default(),
            default_path: Default::default(),
        })
        .unwrap();
    let graph = rbuild_llb::Graph::from_definition(&definition).unwrap();
    let denied = Worker::check(&graph, &rbuild_worker::Entitlements::none());
    assert!(denied.is_err_and(|lacking| matches!(lacking.1, OpError::Denied { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn root_files_are_made_copied_and_removed() {
    let fixture = Fixture::new();
    let named = Chown { user: Some(UserRef::Name { name: "app".into(), input: None }), group: None };
    let tree = files(
        FileActions::new()
            .mkdir(MkdirAction { path: "/a/b".into(), mode: 0o750, make_parents: true, ..Default::default() })
            .mkfile(mkfile("/a/b/f", "data"))
            .mkfile(mkfile("/a/gone", "x"))
            .symlink(SymlinkAction { old_path: "b/f".into(), new_path: "/a/l".into(), ..Default::default() })
            .rm(RmAction { path: "/a/g*".into(), allow_wildcard: true, ..Default::default() }),
    );
    let copy = CopyAction {
        src: "/a".into(),
        dest: "/copied/".into(),
        owner: Some(named),
        dir_copy_contents: true,
        create_dest_path: true,
        ..Default::default()
    };
    let copied = busybox().file(FileActions::new().copy(&tree, copy), Default::default());
    let shown = copied.run(sh("cd /copied; ls -ln | cut -c1-10; stat -c %u:%g b/f; cat l")).root();
    let shown = shown.run(sh("cd /copied; (stat -c '%u:%g %a' b b/f; cat l; ls) > /r")).root();
    let text = fixture.read(&shown, "r").await;
    assert_eq!(text, "1000:100 750\n1000:100 644\ndatab\nl\n");
}
