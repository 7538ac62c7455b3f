use proptest::prelude::*;
use prost_types::Timestamp;
use rbuild_api::moby::buildkit::v1::{StatusResponse, Vertex, VertexLog, VertexStatus};

use super::board::Board;
use super::plain::Plain;
use super::tty::frame;

fn at(millis: i64) -> Option<Timestamp> {
    Some(Timestamp { seconds: millis / 1_000, nanos: ((millis % 1_000) * 1_000_000) as i32 })
}

fn vertex(name: &str, started: Option<i64>, completed: Option<i64>) -> Vertex {
    Vertex {
        digest: format!("sha256:{name}"),
        name: name.into(),
        started: started.and_then(at),
        completed: completed.and_then(at),
        ..Default::default()
    }
}

fn vertexes(list: Vec<Vertex>) -> StatusResponse {
    StatusResponse { vertexes: list, ..Default::default() }
}

fn log(name: &str, millis: i64, text: &str) -> StatusResponse {
    let log =
        VertexLog { vertex: format!("sha256:{name}"), timestamp: at(millis), stream: 1, msg: text.into() };
    StatusResponse { logs: vec![log], ..Default::default() }
}

fn status(name: &str, id: &str, current: i64, completed: Option<i64>) -> StatusResponse {
    let status = VertexStatus {
        id: id.into(),
        vertex: format!("sha256:{name}"),
        current,
        timestamp: at(1_000),
        started: at(1_000),
        completed: completed.and_then(at),
        ..Default::default()
    };
    StatusResponse { statuses: vec![status], ..Default::default() }
}

fn plain(events: Vec<StatusResponse>) -> String {
    let (mut board, mut view) = (Board::default(), Plain::default());
    let mut out = String::new();
    for event in events {
        board.apply(event, false);
        out.push_str(&view.lines(&mut board));
    }
    out.push_str(&view.finish(&mut board));
    out
}

#[test]
fn plain_output_reads_like_upstreams() {
    let mut cached = vertex("[2/3] COPY a b", Some(2_000), Some(2_000));
    cached.cached = true;
    let mut failed = vertex("[3/3] RUN false", Some(3_000), Some(3_450));
    failed.error = "process \"/bin/sh -c false\" did not complete successfully: exit code: 1".into();
    let out = plain(vec![
        vertexes(vec![vertex("[internal] load build context", Some(1_000), None)]),
        status("[internal] load build context", "transferring context:", 13_160_000, Some(3_200)),
        vertexes(vec![vertex("[internal] load build context", Some(1_000), Some(3_200))]),
        vertexes(vec![cached, vertex("[3/3] RUN false", Some(3_000), None)]),
        log("[3/3] RUN false", 3_123, "about to "),
        log("[3/3] RUN false", 3_200, "fail\npartial"),
        vertexes(vec![failed]),
    ]);
    assert_eq!(
        out,
        "#1 [internal] load build context\n#1 transferring context: 13.16MB 2.2s done\n#1 DONE 2.2s\n\n\
         #2 [2/3] COPY a b\n#2 CACHED\n\n#3 [3/3] RUN false\n#3 0.123 about to fail\n#3 0.200 partial\n\
         #3 ERROR: process \"/bin/sh -c false\" did not complete successfully: exit code: 1\n\
         ------\n > [3/3] RUN false:\n0.123 about to fail\n0.200 partial\n------\n"
    );
}

#[test]
fn a_vertex_that_waits_is_shown_once_the_other_is_done() {
    let out = plain(vec![
        vertexes(vec![vertex("a", Some(0), None), vertex("b", Some(0), None)]),
        log("b", 10, "from b\n"),
        log("a", 20, "from a\n"),
        vertexes(vec![vertex("a", Some(0), Some(1_000))]),
        vertexes(vec![vertex("b", Some(0), Some(2_000))]),
    ]);
    assert_eq!(out, "#1 a\n#1 0.020 from a\n#1 DONE 1.0s\n\n#2 b\n#2 0.010 from b\n#2 DONE 2.0s\n");
}

#[test]
fn a_frame_fits_the_terminal_and_keeps_what_runs() {
    let mut board = Board::default();
    for i in 0..20 {
        board.apply(vertexes(vec![vertex(&format!("step {i}"), Some(0), Some(100))]), false);
    }
    board.apply(vertexes(vec![vertex("running", Some(0), None)]), false);
    board.apply(log("running", 10, "line\n"), false);
    let lines = frame(&board, 30, 10, 1.5, false);
    assert!(lines.len() <= 10);
    assert_eq!(lines[0].text, "[+] Building 1.5s (20/21)");
    assert!(lines.iter().any(|line| line.text.starts_with(" => running")));
    assert!(lines.iter().any(|line| line.text == " => => # line"));
    let whole = frame(&board, 30, usize::MAX, 1.5, true);
    assert_eq!(whole[1].text, " => step 0                0.1s");
}

proptest! {
    #[test]
    fn any_events_at_any_width_are_shown_without_a_panic(
        names in prop::collection::vec(".{0,40}", 1..6), times in prop::collection::vec(any::<(i64, i64)>(), 1..6),
        text in prop::collection::vec(any::<u8>(), 0..300), width in 0_usize..500, height in 0_usize..60,
        amounts in any::<(i64, i64)>(),
    ) {
        let (mut board, mut view) = (Board::default(), Plain::default());
        for (name, (start, end)) in names.iter().zip(&times) {
            let mut event = vertexes(vec![vertex(name, None, None)]);
            event.vertexes[0].started = Some(Timestamp { seconds: *start, nanos: i32::MAX });
            event.vertexes[0].completed = Some(Timestamp { seconds: *end, nanos: i32::MIN });
            event.logs = vec![VertexLog { vertex: format!("sha256:{name}"), msg: text.clone(), ..Default::default() }];
            let mut counted = status(name, name, amounts.0, None);
            counted.statuses[0].total = amounts.1;
            event.statuses = counted.statuses;
            board.apply(event, false);
            view.lines(&mut board);
        }
        for line in frame(&board, width, height, 0.0, false) {
            prop_assert!(line.text.chars().count() <= width);
            let escapes = line.text.contains('\u{1b}');
            prop_assert!(!escapes);
        }
        view.finish(&mut board);
    }
}
