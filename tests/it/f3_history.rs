use rbuild_api::containerd::services::content::v1::ReadContentRequest;
use rbuild_api::containerd::services::content::v1::content_client::ContentClient;
use rbuild_api::moby::buildkit::v1::control_client::ControlClient;
use rbuild_api::moby::buildkit::v1::{BuildHistoryEventType, BuildHistoryRequest, UpdateBuildHistoryRequest};
use rbuild_digest::Digest;
use rbuild_tests::{DaemonOptions, TestDaemon, TestSpace, wait_until};

use crate::wire::{block_on, channel};

fn history(daemon: &TestDaemon, args: &[&str]) -> rbuild_tests::TestOutput {
    daemon.ctl(TestSpace::new().path(), &[&["history"], args].concat())
}

fn space() -> TestSpace {
    let space = TestSpace::new();
    space.write("Dockerfile", "FROM busybox\nRUN echo first\nRUN sleep 0.3\n");
    space.write("bad.Dockerfile", "FROM busybox\nRUN echo broken; exit 7\n");
    space
}

#[test]
fn past_builds_are_listed_with_steps_times_and_logs() {
    let mut daemon = TestDaemon::start();
    let space = space();
    daemon.build(space.path(), &[]).success();
    daemon.build(space.path(), &["--build-arg", "url=https://me:hunter2@host/x.git"]).success();
    daemon.build(space.path(), &["-f", "bad.Dockerfile"]).failure();
    daemon.kill();
    daemon.restart();

    let list = history(&daemon, &["ls"]).success();
    let lines: Vec<&str> = list.stdout.lines().collect();
    assert_eq!(lines.len(), 4, "{}", list.stdout);
    assert!(lines[1].contains("error") && lines[2].contains("completed"), "{}", list.stdout);
    let failed = history(&daemon, &["ls", "-q", "--filter", "status==error"]).success();
    assert_eq!(failed.stdout.lines().count(), 1);
    history(&daemon, &["ls", "--filter", "colour==red"]).failure().has("unknown field `colour`");

    let newest = history(&daemon, &["inspect"]).success();
    newest.has("exit code: 7").has("failed").has("RUN echo broken");
    let oldest = history(&daemon, &["inspect", "^2"]).success();
    oldest.has("critical path").has("RUN sleep 0.3").has("(0 cached)").lacks("cached  ");
    let json = history(&daemon, &["inspect", "^1", "--format", "json"]).success();
    let record: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    let cached = record["steps"].as_array().unwrap().iter().filter(|step| step["state"] == "cached").count();
    assert!(cached >= 2, "{}", json.stdout);
    json.lacks("hunter2");

    history(&daemon, &["logs", "^2"]).success().has(" first\n").has("[3/3] RUN sleep 0.3");
    assert_eq!(history(&daemon, &["logs", "^2", "--raw"]).success().stdout, "first\n");
    history(&daemon, &["logs", "^2", "--raw", "--step", "99"]).failure().has("no step 99");
    history(&daemon, &["logs", "nothing"]).failure().has("no build `nothing`");
}

#[test]
fn builds_can_be_forgotten_and_kept() {
    let options = DaemonOptions { config: "[history]\nmaxAge = 0\n".into(), ..Default::default() };
    let daemon = TestDaemon::start_with(options);
    let space = space();
    daemon.build(space.path(), &[]).success();
    daemon.build(space.path(), &[]).success();
    history(&daemon, &["pin", "^1"]).success();
    history(&daemon, &["rm", "^0"]).success();
    let left = history(&daemon, &["ls"]).success();
    assert_eq!(left.stdout.lines().count(), 2, "{}", left.stdout);
    history(&daemon, &["rm", "--all"]).success();
    assert_eq!(history(&daemon, &["ls", "-q"]).success().stdout, "");
    // They go behind the answer's back.
    let files = || std::fs::read_dir(daemon.root().join("history")).unwrap().count();
    wait_until("no file of a forgotten build is left", || files() == 0);
}

#[test]
fn listeners_follow_builds_and_read_what_is_kept() {
    let daemon = TestDaemon::start();
    let space = space();
    block_on(async {
        let channel = channel(&daemon).await;
        let mut control = ControlClient::new(channel.clone());
        let mut events =
            control.listen_build_history(BuildHistoryRequest::default()).await.unwrap().into_inner();
        daemon.build(space.path(), &["-f", "bad.Dockerfile"]).failure();
        let started = events.message().await.unwrap().unwrap();
        assert_eq!(started.r#type(), BuildHistoryEventType::Started);
        let complete = events.message().await.unwrap().unwrap();
        assert_eq!(complete.r#type(), BuildHistoryEventType::Complete);
        let record = complete.record.unwrap();
        assert!(record.error.unwrap().message.contains("exit code: 7"));

        let mut content = ContentClient::new(channel);
        for blob in [record.logs.unwrap(), record.external_error.unwrap()] {
            let request = ReadContentRequest { digest: blob.digest.clone(), ..Default::default() };
            let mut pieces = content.read(request).await.unwrap().into_inner();
            let mut bytes = Vec::new();
            while let Some(piece) = pieces.message().await.unwrap() {
                assert_eq!(piece.offset as usize, bytes.len());
                bytes.extend(piece.data);
            }
            assert_eq!((Digest::of(&bytes).to_string(), bytes.len() as i64), (blob.digest, blob.size));
        }
        let unknown = ReadContentRequest { digest: Digest::of("nothing").to_string(), ..Default::default() };
        assert_eq!(content.read(unknown).await.unwrap_err().code(), tonic::Code::NotFound);
        let nobody = UpdateBuildHistoryRequest { r#ref: "../x".into(), delete: true, ..Default::default() };
        assert_eq!(control.update_build_history(nobody).await.unwrap_err().code(), tonic::Code::NotFound);
    });
}
