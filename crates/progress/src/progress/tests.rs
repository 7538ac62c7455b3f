use futures::StreamExt as _;

use super::*;
use crate::replay;

fn info(name: &str) -> VertexInfo {
    VertexInfo { digest: Digest::of(name), name: name.into(), inputs: vec![], group: None }
}

fn logged(events: &[StatusResponse]) -> usize {
    events.iter().flat_map(|event| &event.logs).map(|log| log.msg.len()).sum()
}

#[tokio::test]
async fn late_early_and_replaying_readers_see_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let progress = Progress::create(&path).unwrap();
    let early = progress.subscribe();
    let reporter = progress.vertex(info("a"));
    reporter.known();
    reporter.started();
    for i in 0..2_000_u32 {
        reporter.log(1, format!("{i:>1000}").as_bytes());
    }
    reporter.completed(None);
    let late = progress.subscribe();
    progress.close();
    let (early, late) = tokio::join!(early.collect::<Vec<_>>(), late.collect::<Vec<_>>());
    let replayed = replay(&path).unwrap().collect::<Vec<_>>().await;
    for events in [&early, &late, &replayed] {
        let logs: Vec<u8> = events.iter().flat_map(|e| &e.logs).flat_map(|log| log.msg.clone()).collect();
        let expected: String = (0..2_000).map(|i| format!("{i:>1000}")).collect();
        assert!(logs == expected.as_bytes());
        assert!(events.last().unwrap().vertexes.last().unwrap().completed.is_some());
    }
}

#[tokio::test]
async fn a_subscriber_waits_for_what_comes() {
    let progress = Progress::memory();
    let mut events = progress.subscribe();
    assert!(futures::poll!(events.next()).is_pending());
    progress.vertex(info("a")).known();
    assert_eq!(events.next().await.unwrap().vertexes[0].name, "a");
    progress.close();
    assert!(events.next().await.is_none());
}

#[tokio::test]
async fn a_log_whose_writers_are_gone_ends() {
    let progress = Progress::memory();
    let events = progress.subscribe();
    progress.vertex(info("a")).known();
    drop(progress);
    assert_eq!(events.collect::<Vec<_>>().await.len(), 1);
}

#[tokio::test]
async fn output_beyond_the_quota_is_clipped_and_said_so() {
    let dir = tempfile::tempdir().unwrap();
    let options = ProgressOptions { max_log_bytes: 1 << 20 };
    let progress = Progress::create_with(&dir.path().join("log"), options).unwrap();
    let reporter = progress.vertex(info("a"));
    for _ in 0..40 {
        reporter.log(1, &[b'x'; 65_537]);
    }
    progress.close();
    let events: Vec<_> = progress.subscribe().collect().await;
    let text: Vec<u8> = events.iter().flat_map(|e| &e.logs).flat_map(|log| log.msg.clone()).collect();
    let text = String::from_utf8(text).unwrap();
    assert_eq!(text.matches("output clipped, log limit 1 MiB").count(), 1);
    assert_eq!(text.matches('x').count(), 1 << 20);
}

#[tokio::test]
async fn statuses_end_when_dropped_and_vertices_keep_their_times() {
    let progress = Progress::memory();
    let reporter = progress.vertex(info("a"));
    reporter.started();
    let status = reporter.status("transferring", "x");
    status.transferred(5, 3);
    drop(status);
    reporter.cached();
    reporter.completed(Some("failed".into()));
    progress.close();
    let events: Vec<_> = progress.subscribe().collect().await;
    let statuses: Vec<_> = events.iter().flat_map(|e| &e.statuses).collect();
    let last = statuses.last().unwrap();
    assert!(last.completed.is_some());
    assert_eq!((last.current, crate::reporter::files_in_name(&last.name)), (5, Some(3)));
    let vertices: Vec<_> = events.iter().flat_map(|e| &e.vertexes).collect();
    assert!(vertices.iter().all(|v| v.started == vertices[0].started));
    assert_eq!(vertices.last().unwrap().error, "failed");
    assert_eq!(logged(&events), 0);
}

#[test]
fn events_without_a_runtime_are_written_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let progress = Progress::create(&path).unwrap();
    progress.vertex(info("a")).known();
    assert!(std::fs::metadata(&path).unwrap().len() > 0);
}
