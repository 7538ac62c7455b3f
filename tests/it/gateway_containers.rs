//! Containers of a build that a client drives, and processes in them.

use std::time::Duration;

use prost::Message as _;
use rbuild_api::moby::buildkit::v1::DiskUsageRequest;
use rbuild_api::moby::buildkit::v1::control_client::ControlClient;
use rbuild_api::moby::buildkit::v1::frontend as wire;
use rbuild_api::moby::buildkit::v1::frontend::exec_message::Input;
use rbuild_api::pb;
use rbuild_digest::random_id;
use rbuild_tests::{TestDaemon, processes, wait_until};
use tonic::{Code, Status};

use crate::gateway::{Driven, busybox, collect, init, message, shell, until_ready};
use crate::wire::{block_on, channel};

/// The ids of what a failed step's mounts were left with.
fn left(status: &Status) -> Vec<String> {
    let rpc = rbuild_api::google::rpc::Status::decode(status.details()).unwrap();
    let detail = rpc.details.iter().find(|any| any.type_url.contains("errdefs.Solve")).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&detail.value).unwrap();
    assert!(json["op"]["exec"]["meta"]["args"].is_array(), "{json}");
    assert_eq!(json["inputIDs"].as_array().unwrap().len(), json["mountIDs"].as_array().unwrap().len());
    json["mountIDs"].as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_owned()).collect()
}

#[test]
fn what_a_failed_step_left_can_be_mounted_by_its_build() {
    let daemon = TestDaemon::start();
    block_on(async {
        let (mut build, mut other) = (Driven::start(&daemon).await, Driven::start(&daemon).await);
        let failing = busybox().run(shell("echo left > /written; exit 7")).root();
        let error = build.solve(&failing).await.unwrap_err();
        assert!(error.message().ends_with("exit code: 7"), "{error}");
        let ids = left(&error);
        build.container("c", &ids[0]).await.unwrap();
        assert_eq!(build.run("c", "cat /written; echo more >> /written").await.1, "left\n");
        // It is no result, and it is nobody else's; another container begins anew.
        let stat =
            build.call(wire::StatFileRequest { r#ref: ids[0].clone(), path: "/".into(), mount_index: 0 });
        assert_eq!(build.bridge.stat_file(stat).await.unwrap_err().code(), Code::NotFound);
        assert_eq!(other.container("c", &ids[0]).await.unwrap_err().code(), Code::NotFound);
        build.container("d", &ids[0]).await.unwrap();
        assert_eq!(build.run("d", "cat /written").await.1, "left\n");
        build.finish().await.unwrap();
        other.finish().await.unwrap();
        let mut control = ControlClient::new(channel(&daemon).await);
        let usage = control.disk_usage(DiskUsageRequest::default()).await.unwrap().into_inner().record;
        assert!(!usage.is_empty());
        assert!(!usage.iter().any(|record| record.description.contains("/written")), "{usage:?}");
    });
}

#[test]
fn a_process_sees_what_its_container_says() {
    let daemon = TestDaemon::start();
    block_on(async {
        let mut build = Driven::start(&daemon).await;
        let root = build.solve(&busybox()).await.unwrap();
        build.container("c", &root).await.unwrap();
        let (code, out, err) = build
            .run("c", "echo $GREETING $(pwd) $(hostname); grep -c 10.1.2.3 /etc/hosts; echo no >&2; exit 5")
            .await;
        assert_eq!((code, out.as_str(), err.as_str()), (5, "hello /tmp here\n1\n", "no\n"));
        // Another process of the container sees what the first has written; the result does not change.
        build.run("c", "echo x > /written").await;
        assert_eq!(build.run("c", "cat /written").await.1, "x\n");
        let stat = build.call(wire::StatFileRequest { r#ref: root, path: "/written".into(), mount_index: 0 });
        assert_eq!(build.bridge.stat_file(stat).await.unwrap_err().code(), Code::NotFound);
        let release = build.call(wire::ReleaseContainerRequest { container_id: "c".into() });
        build.bridge.release_container(release).await.unwrap();
        let (to, mut replies) = build.exec().await;
        to.send(message("p", init("c", "true", false))).await.unwrap();
        assert_eq!(replies.message().await.unwrap_err().code(), Code::NotFound);
        build.finish().await.unwrap();
    });
}

#[test]
fn processes_of_a_container_run_side_by_side() {
    let daemon = TestDaemon::start();
    block_on(async {
        let mut build = Driven::start(&daemon).await;
        let root = build.solve(&busybox()).await.unwrap();
        build.container("c", &root).await.unwrap();
        // Both on one stream, told apart by their ids.
        let (to, mut replies) = build.exec().await;
        let first = "echo first > /f; while [ ! -e /end ]; do sleep 0.05; done; exit 8";
        to.send(message("one", init("c", first, false))).await.unwrap();
        loop {
            let reply = replies.message().await.unwrap().unwrap();
            if matches!(reply.input, Some(Input::Started(_))) {
                break;
            }
        }
        let second = "until [ -e /f ]; do sleep 0.05; done; cat /f; hostname; kill -0 1 && touch /end";
        to.send(message("two", init("c", second, false))).await.unwrap();
        drop(to);
        let (mut out, mut codes) = (Vec::new(), Vec::new());
        while let Some(reply) = replies.message().await.unwrap() {
            match reply.input.unwrap() {
                Input::File(file) if reply.process_id == "two" => out.extend(file.data),
                Input::Exit(exit) => codes.push((reply.process_id, exit.code)),
                _ => {}
            }
        }
        codes.sort();
        assert_eq!(String::from_utf8(out).unwrap(), "first\nhere\n");
        // The second may be taken along by the end of the first.
        assert_eq!(codes[0], ("one".to_owned(), 8));
        assert!(codes[1].1 == 0 || codes[1].1 == 137, "{codes:?}");
        build.finish().await.unwrap();
    });
}

#[test]
fn files_of_a_containers_mounts_are_read_while_its_processes_run() {
    let daemon = TestDaemon::start();
    block_on(async {
        let mut build = Driven::start(&daemon).await;
        let root = build.solve(&busybox()).await.unwrap();
        let bind = |dest: &str, readonly: bool| pb::Mount {
            dest: dest.into(),
            result_id: root.clone(),
            readonly,
            ..pb::Mount::default()
        };
        let kind = |dest: &str, kind: pb::MountType| pb::Mount {
            dest: dest.into(),
            mount_type: kind.into(),
            cache_opt: Some(pb::CacheOpt { id: random_id(), sharing: 0 }),
            ..pb::Mount::default()
        };
        let (tmpfs, cache) = (kind("/t", pb::MountType::Tmpfs), kind("/c", pb::MountType::Cache));
        let mounts = vec![bind("/", false), bind("/ro", true), tmpfs, cache];
        build.container_of("c", mounts, pb::NetMode::Unset).await.unwrap();
        let (to, mut replies) = build.exec().await;
        let command = "echo w > /written; rm -r /tmp; echo k > /c/k; echo t > /t/t; echo ready; read x";
        to.send(message("p", init("c", command, false))).await.unwrap();
        until_ready(&mut replies).await;
        let file = |container: &str, path: &str, mount_index| wire::ReadFileRequest {
            r#ref: container.into(),
            file_path: path.into(),
            mount_index,
            range: None,
        };
        for (path, mount, text) in [("/written", 0, "w\n"), ("/k", 3, "k\n")] {
            let ask = build.call(file("c", path, mount));
            let data = build.bridge.read_file_container(ask).await.unwrap().into_inner().data;
            assert_eq!(String::from_utf8(data).unwrap(), text);
        }
        let list =
            build.call(wire::ReadDirRequest { r#ref: "c".into(), mount_index: 1, ..Default::default() });
        let names = build.bridge.read_dir_container(list).await.unwrap().into_inner().entries;
        assert!(names.iter().any(|entry| entry.path == "tmp"), "the image itself is as it was");
        for (container, path, mount, code) in [
            ("c", "/t", 2, Code::NotFound),
            ("c", "/written", 1, Code::NotFound),
            ("c", "/c/k", 0, Code::NotFound),
            ("c", "/written", 4, Code::InvalidArgument),
            ("c", "/written", -1, Code::InvalidArgument),
            ("d", "/written", 0, Code::NotFound),
        ] {
            let ask = build.call(file(container, path, mount));
            let error = build.bridge.read_file_container(ask).await.unwrap_err();
            assert_eq!(error.code(), code, "{container} {path} {mount}: {error}");
        }
        let stat =
            |path: &str| wire::StatFileRequest { r#ref: "c".into(), path: path.into(), mount_index: 0 };
        let ask = build.call(stat("/written"));
        let found = build.bridge.stat_file_container(ask).await.unwrap().into_inner().stat.unwrap();
        assert_eq!(found.size, 2);
        let ask = build.call(stat("/tmp"));
        assert_eq!(build.bridge.stat_file_container(ask).await.unwrap_err().code(), Code::NotFound);
        drop((to, replies));
        build.finish().await.unwrap();
    });
}

#[test]
fn a_terminal_has_a_size_and_signals_arrive() {
    let daemon = TestDaemon::start();
    block_on(async {
        let mut build = Driven::start(&daemon).await;
        let root = build.solve(&busybox()).await.unwrap();
        build.container("c", &root).await.unwrap();
        let (to, replies) = build.exec().await;
        let command = "while [ \"$(stty size)\" != '33 77' ]; do sleep 0.1; done; read x; echo got $x; tty";
        to.send(message("p", init("c", command, true))).await.unwrap();
        to.send(message("p", Input::Resize(wire::ResizeMessage { rows: 33, cols: 77 }))).await.unwrap();
        let typed = wire::FdMessage { fd: 0, eof: false, data: b"typed\n".to_vec() };
        to.send(message("p", Input::File(typed))).await.unwrap();
        let (exit, out, _) = collect(replies).await;
        assert_eq!(exit.code, 0);
        assert!(out.contains("got typed\r\n/dev/"), "{out:?}");
        drop(to);
        let (to, mut replies) = build.exec().await;
        let trap = "trap 'echo caught; exit 9' TERM; echo ready; while true; do sleep 1; done";
        to.send(message("p", init("c", trap, false))).await.unwrap();
        until_ready(&mut replies).await;
        to.send(message("p", Input::Signal(wire::SignalMessage { name: "SIGTERM".into() }))).await.unwrap();
        let (exit, out, _) = collect(replies).await;
        assert_eq!((exit.code, out.as_str()), (9, "caught\n"));
        build.finish().await.unwrap();
    });
}

#[test]
fn processes_end_with_their_build_and_with_their_client() {
    let daemon = TestDaemon::start();
    block_on(async {
        for (seconds, ends_build) in [("86411", true), ("86412", false)] {
            let mut build = Driven::start(&daemon).await;
            let root = build.solve(&busybox()).await.unwrap();
            build.container("c", &root).await.unwrap();
            let (to, replies) = build.exec().await;
            to.send(message("p", init("c", &format!("exec sleep {seconds}"), false))).await.unwrap();
            wait_until("the process runs", || processes(&["sleep", seconds]) == 1);
            if ends_build {
                build.finish().await.unwrap();
                assert_eq!(processes(&["sleep", seconds]), 0, "a process outlived its build");
                drop((to, replies));
            } else {
                drop((to, replies));
                wait_until("the process is gone", || processes(&["sleep", seconds]) == 0);
                build.finish().await.unwrap();
            }
        }
    });
}

#[test]
fn a_process_ends_with_its_container_and_one_that_cannot_begin_is_told_of_in_order() {
    let daemon = TestDaemon::start();
    block_on(async {
        let mut build = Driven::start(&daemon).await;
        let root = build.solve(&busybox()).await.unwrap();
        build.container("c", &root).await.unwrap();
        // Clients of every kind take the start for the first message, whatever comes of it.
        let Input::Init(nothing) = init("c", "true", false) else { panic!() };
        let nothing = wire::InitMessage { meta: Some(pb::Meta::default()), ..nothing };
        let (to, mut replies) = build.exec().await;
        to.send(message("p", Input::Init(nothing))).await.unwrap();
        let first = replies.message().await.unwrap().unwrap();
        assert!(matches!(first.input, Some(Input::Started(_))), "{first:?}");
        let (exit, ..) = collect(replies).await;
        let error = exit.error.unwrap();
        assert!(exit.code != 0 && error.message.contains("arguments"), "{error:?}");
        let (to, replies) = build.exec().await;
        to.send(message("p", init("c", "exec sleep 86413", false))).await.unwrap();
        wait_until("the process runs", || processes(&["sleep", "86413"]) == 1);
        let release = build.call(wire::ReleaseContainerRequest { container_id: "c".into() });
        build.bridge.release_container(release).await.unwrap();
        let (exit, ..) = collect(replies).await;
        assert!(exit.error.unwrap().message.contains("released"));
        wait_until("the process is gone", || processes(&["sleep", "86413"]) == 0);
        build.finish().await.unwrap();
    });
}

#[test]
fn what_makes_no_sense_or_is_not_granted_is_refused() {
    let daemon = TestDaemon::start();
    block_on(async {
        let (mut build, mut other) = (Driven::start(&daemon).await, Driven::start(&daemon).await);
        let root = build.solve(&busybox()).await.unwrap();
        let theirs = other.solve(&busybox()).await.unwrap();
        // What belongs to another build does not exist.
        assert_eq!(build.container("c", &theirs).await.unwrap_err().code(), Code::NotFound);
        build.container("c", &root).await.unwrap();
        assert_eq!(build.container("c", &root).await.unwrap_err().code(), Code::AlreadyExists);
        assert_eq!(build.container("../c", &root).await.unwrap_err().code(), Code::InvalidArgument);
        let no_root = build.container_of("d", Vec::new(), pb::NetMode::Unset).await.unwrap_err();
        assert!(no_root.message().contains("root mount"), "{no_root}");
        let mount = pb::Mount { dest: "/".into(), result_id: root.clone(), ..pb::Mount::default() };
        let host = build.container_of("d", vec![mount], pb::NetMode::Host).await.unwrap_err();
        assert!(host.message().contains("network.host"), "{host}");
        let (to, mut replies) = other.exec().await;
        to.send(message("p", init("c", "true", false))).await.unwrap();
        assert_eq!(replies.message().await.unwrap_err().code(), Code::NotFound);
        let (to, replies) = build.exec().await;
        let Input::Init(mut insecure) = init("c", "true", false) else { panic!() };
        insecure.security = pb::SecurityMode::Insecure.into();
        to.send(message("p", Input::Init(insecure))).await.unwrap();
        drop(to);
        let (exit, ..) = collect(replies).await;
        assert!(exit.error.unwrap().message.contains("security.insecure"));
        let mut nobody = Driven { id: random_id(), ..Driven::start(&daemon).await };
        let unknown = tokio::time::timeout(Duration::from_secs(60), nobody.solve(&busybox())).await.unwrap();
        assert_eq!(unknown.unwrap_err().code(), Code::NotFound);
        build.finish().await.unwrap();
        other.finish().await.unwrap();
    });
}
