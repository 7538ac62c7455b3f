use proptest::prelude::*;
use prost_types::Timestamp;
use rbuild_api::moby::buildkit::v1::{Vertex, VertexLog, VertexStatus, VertexWarning};
use rbuild_api::pb;

use super::board::Board;
use super::log::Keep;
use super::plain::Plain;
use super::rows::{Line, Size, Style, frame, text_columns};
use super::*;

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

fn status(name: &str, id: &str, counts: (i64, i64), stamp: i64, completed: Option<i64>) -> StatusResponse {
    let status = VertexStatus {
        id: id.into(),
        vertex: format!("sha256:{name}"),
        name: "what the id says better".into(),
        current: counts.0,
        total: counts.1,
        timestamp: at(stamp),
        started: at(1_000),
        completed: completed.and_then(at),
    };
    StatusResponse { statuses: vec![status], ..Default::default() }
}

fn warning(name: &str) -> StatusResponse {
    let warning = VertexWarning {
        vertex: format!("sha256:{name}"),
        level: 1,
        short: "JSONArgsRecommended: use an array (line 2)".into(),
        detail: vec!["A shell would eat signals".into()],
        url: "https://example.com/rule".into(),
        info: Some(pb::SourceInfo {
            filename: "Dockerfile".into(),
            data: "FROM x\nCMD y\n".into(),
            ..Default::default()
        }),
        ranges: vec![pb::Range { start: Some(pb::Position { line: 2, character: 0 }), end: None }],
    };
    StatusResponse { warnings: vec![warning], ..Default::default() }
}

/// The plain text of batches of events that come at given seconds, each shown at once.
fn plain(batches: Vec<(u64, Vec<StatusResponse>)>) -> String {
    let (mut board, mut view, mut out) = (Board::new(Keep::default()), Plain::default(), String::new());
    for (seconds, events) in batches {
        for event in events {
            board.apply(event);
        }
        out.push_str(&view.lines(&mut board, Duration::from_secs(seconds)));
    }
    out + &view.finish(&mut board)
}

fn failed(name: &str, from: i64, to: i64, error: &str) -> StatusResponse {
    vertexes(vec![Vertex { error: error.into(), ..vertex(name, Some(from), Some(to)) }])
}

fn cached(name: &str) -> Vertex {
    Vertex { cached: true, ..vertex(name, Some(2_000), Some(2_000)) }
}

fn grouped(name: &str, times: (i64, i64), cached: bool) -> Vertex {
    let group =
        pb::ProgressGroup { id: "g".into(), name: "[2/2] COPY --link a b".into(), weak: name == "copy" };
    Vertex { cached, progress_group: Some(group), ..vertex(name, Some(times.0), Some(times.1)) }
}

#[test]
fn plain_output_reads_like_upstreams() {
    let out = plain(vec![
        (0, vec![vertexes(vec![vertex("[internal] load build context", Some(1_000), None)])]),
        (
            1,
            vec![
                status(
                    "[internal] load build context",
                    "transferring context:",
                    (13_160_000, 0),
                    3_200,
                    Some(3_200),
                ),
                vertexes(vec![vertex("[internal] load build context", Some(1_000), Some(3_200))]),
                warning("[internal] load build context"),
            ],
        ),
        (2, vec![vertexes(vec![cached("[2/3] COPY a b"), vertex("[3/3] RUN false", Some(3_000), None)])]),
        (2, vec![log("[3/3] RUN false", 3_123, "about to ")]),
        (2, vec![log("[3/3] RUN false", 3_200, "fail\npartial")]),
        (3, vec![failed("[3/3] RUN false", 3_000, 3_450, "process \"false\": exit code: 1")]),
    ]);
    assert_eq!(
        out,
        "#1 [internal] load build context\n#1 transferring context: 13.16MB 2.2s done\n\
         #1 WARN: JSONArgsRecommended: use an array (line 2)\n#1 DONE 2.2s\n\n\
         #2 [2/3] COPY a b\n#2 CACHED\n\n#3 [3/3] RUN false\n#3 0.123 about to fail\n#3 0.200 partial\n\
         #3 ERROR: process \"false\": exit code: 1\n\
         ------\n > [3/3] RUN false:\n0.123 about to fail\n0.200 partial\n------\n"
    );
}

#[test]
fn a_line_that_another_vertex_cuts_off_is_shown_again() {
    let out = plain(vec![
        (0, vec![vertexes(vec![vertex("a", Some(0), None)]), log("a", 10, "..")]),
        (1, vec![vertexes(vec![vertex("b", Some(0), Some(500))])]),
        (2, vec![log("a", 2_000, ".\n")]),
        (
            3,
            vec![vertexes(vec![Vertex {
                error: "x: context canceled".into(),
                ..vertex("a", Some(0), Some(3_000))
            }])],
        ),
    ]);
    assert_eq!(out, "#1 a\n#1 0.010 ..\n#1 ...\n\n#2 b\n#2 DONE 0.5s\n\n#1 a\n#1 0.010 ...\n#1 CANCELED\n");
}

#[test]
fn a_vertex_that_waits_is_shown_once_the_other_is_done() {
    let out = plain(vec![
        (0, vec![vertexes(vec![vertex("a", Some(0), None), vertex("b", Some(0), None)])]),
        (0, vec![log("b", 10, "from b\n")]),
        (1, vec![log("a", 20, "from a\n")]),
        (1, vec![vertexes(vec![vertex("a", Some(0), Some(1_000))])]),
        (2, vec![vertexes(vec![vertex("b", Some(0), Some(2_000))])]),
    ]);
    assert_eq!(out, "#1 a\n#1 0.020 from a\n#1 DONE 1.0s\n\n#2 b\n#2 0.010 from b\n#2 DONE 2.0s\n");
}

#[test]
fn the_floor_changes_by_how_busy_vertices_are() {
    let mut batches = vec![(0, vec![vertexes(vec![vertex("a", Some(0), None), vertex("b", Some(0), None)])])];
    for second in 1..30_u64 {
        batches.push((second, vec![log("a", 0, "a\n"), log("b", 0, "b\n")]));
    }
    let out = plain(batches);
    // Equally busy ones have twice the turn each, but nobody waits for more than ten seconds.
    let turns: Vec<usize> = out.split("\n\n").map(|turn| turn.matches("0.000").count()).collect();
    assert_eq!(turns, [11, 21, 18, 8], "{out}");
    let quiet = plain(vec![
        (0, vec![vertexes(vec![vertex("a", Some(0), None), vertex("b", Some(0), None)])]),
        (6, vec![log("b", 0, "b\n")]),
    ]);
    assert_eq!(quiet, "#1 a\n#1 ...\n\n#2 b\n#2 0.000 b\n");
}

#[test]
fn a_vertex_that_ends_and_goes_on_at_once_is_done_once() {
    let from = "[1/2] FROM x";
    let out = plain(vec![
        (
            0,
            vec![
                vertexes(vec![vertex(from, Some(0), None)]),
                status(from, "resolve x", (0, 0), 1_000, Some(1_000)),
                vertexes(vec![vertex(from, Some(0), Some(1_000))]),
                vertexes(vec![vertex(from, Some(5_000), None)]),
            ],
        ),
        (1, vec![status(from, "sha256:1", (0, 1_000), 1_100, None)]),
        (1, vec![status(from, "sha256:1", (30, 1_000), 1_200, None)]),
        (1, vec![status(from, "sha256:1", (100, 1_000), 1_300, None)]),
        (1, vec![status(from, "sha256:1", (1_000, 1_000), 1_400, Some(1_400))]),
        (2, vec![vertexes(vec![vertex(from, Some(5_000), Some(6_500))])]),
        (3, vec![vertexes(vec![vertex(from, Some(6_500), Some(6_501))])]),
        (4, vec![vertexes(vec![vertex(from, Some(7_000), Some(9_000))])]),
    ]);
    assert_eq!(
        out,
        "#1 [1/2] FROM x\n#1 resolve x done\n#1 sha256:1 0B / 1.00kB 0.1s\n#1 sha256:1 100B / 1.00kB 0.3s\n\
         #1 sha256:1 1.00kB / 1.00kB 0.4s done\n#1 DONE 2.5s\n\n#1 [1/2] FROM x\n#1 DONE 4.5s\n"
    );
}

#[test]
fn vertices_are_shown_as_they_began_not_as_they_were_named() {
    let known = vertexes(vec![vertex("c", None, None), vertex("b", None, None), vertex("a", None, None)]);
    let out = plain(vec![(0, vec![known, vertexes(vec![cached("a"), cached("b"), cached("c")])])]);
    assert_eq!(out, "#1 a\n#1 CACHED\n\n#2 b\n#2 CACHED\n\n#3 c\n#3 CACHED\n");
}

#[test]
fn a_group_is_shown_as_one_vertex() {
    let out = plain(vec![(
        0,
        vec![
            vertexes(vec![grouped("copy", (0, 1_000), false), grouped("link", (2_000, 2_500), true)]),
            log("copy", 10, "hello\n"),
        ],
    )]);
    assert_eq!(out, "#1 [2/2] COPY --link a b\n#1 0.010 hello\n#1 DONE 1.5s\n");
    let mut board = Board::default();
    board.apply(vertexes(vec![grouped("copy", (0, 0), true), grouped("link", (0, 0), true)]));
    assert_eq!(board.summary(), Summary { vertices: 1, cached: 1, ..Summary::default() });
}

fn small(width: usize, height: usize) -> Size {
    Size { width, height, log_lines: 6 }
}

fn texts(lines: &[Line]) -> Vec<&str> {
    lines.iter().map(|line| line.text.as_str()).collect()
}

#[test]
fn a_frame_looks_like_upstreams() {
    let mut board = Board::new(Keep { pending: false, tail: 10 });
    let from = "[1/3] FROM docker.io/library/busybox:latest@sha256:c4d6e90c6a814c896fa5a617eb0fed28f218d";
    board.apply(vertexes(vec![cached(from), vertex("[2/3] RUN a", Some(0), Some(2_100))]));
    board.apply(status(from, "sha256:1f6b567fff69b718", (270, 1_000), 1_000, Some(1_500)));
    board.apply(warning("[2/3] RUN a"));
    board.apply(failed("[3/3] RUN b", 0, 1_000, "exit code: 1"));
    board.apply(vertexes(vec![vertex("[4/4] RUN c", Some(1_000), None)]));
    board.apply(log(
        "[4/4] RUN c",
        1_500,
        "one\n\ntwo, which is longer than what there is room for on a line\nthr",
    ));
    let lines = frame(&mut board, small(60, 24), 3.0, 3.12, false);
    assert_eq!(
        texts(&lines),
        [
            "[+] Building 3.1s (3/4)",
            " => CACHED [1/3] FROM docker.io/library/busybox:lates  0.0s",
            " => => sha256:1f6b567fff69b718 270B / 1.00kB           0.5s",
            " => [2/3] RUN a                                        2.1s",
            " => WARN: JSONArgsRecommended: use an array (line 2)   2.1s",
            " => ERROR [3/3] RUN b                                  1.0s",
            " => [4/4] RUN c                                        2.0s",
            " => => # one",
            " => => # two, which is longer than what there is room for o",
            " => => # n a line",
            " => => # thr",
        ]
    );
    let styles: Vec<_> = lines.iter().map(|line| line.style).take(8).collect();
    use Style::{Error, Faint, Normal, Run};
    assert_eq!(styles, [Normal, Run, Run, Run, Normal, Error, Normal, Faint]);
    board.apply(vertexes(vec![vertex("[4/4] RUN c", Some(1_000), Some(4_000))]));
    let last = frame(&mut board, small(60, 5), 9.0, 4.0, true);
    assert_eq!((last[0].text.as_str(), last.len()), ("[+] Building 4.0s (4/4) FINISHED", 7));
    assert_eq!(last[6].text, " => [4/4] RUN c                                        3.0s");
    let file = "[internal] load build definition from Dockerfile";
    let mut board = Board::default();
    board.apply(vertexes(vec![vertex(file, Some(1_000), Some(1_000))]));
    board.apply(status(file, "transferring dockerfile:", (520, 0), 1_000, Some(1_000)));
    let narrow = frame(&mut board, small(40, 24), 1.0, 1.0, false);
    assert_eq!(texts(&narrow)[1], " => [internal] load build definit  0.0s");
    assert_eq!(texts(&narrow)[2], " => => transferring dockerfi 520B  0.0s");
}

/// A context on its way, as our daemon tells of it.
fn transfer(files: u64, bytes: i64, stamp: i64, completed: Option<i64>) -> StatusResponse {
    let mut event =
        status("[internal] load build context", "transferring context:", (bytes, 0), stamp, completed);
    event.statuses[0].name = format!("transferring {files} files");
    event
}

#[test]
fn a_transfer_shows_bytes_files_and_rate() {
    let context = || vertexes(vec![vertex("[internal] load build context", Some(1_000), None)]);
    let end = transfer(10_000, 13_160_000, 3_200, Some(3_200));
    let out = plain(vec![(0, vec![context()]), (1, vec![end.clone()])]);
    let line = "#1 transferring context: 13.16MB 2.2s done (10000 files, 5.98MB/s)\n";
    assert!(out.contains(line), "{out}");
    // Too short for a rate: as everywhere.
    let out = plain(vec![(0, vec![context()]), (1, vec![transfer(1, 520, 1_100, Some(1_100))])]);
    assert!(out.contains("#1 transferring context: 520B 0.1s done\n"), "{out}");

    let mut board = Board::default();
    board.apply(context());
    board.apply(transfer(1, 2_000_000, 2_000, None));
    let row =
        |board: &mut Board, width| texts(&frame(board, small(width, 24), 2.0, 1.0, false))[2].to_owned();
    let wide = row(&mut board, 80);
    assert!(wide.starts_with(" => => transferring context: 2.00MB (1 file, 2.00MB/s)"), "{wide}");
    let narrow = row(&mut board, 50);
    assert!(narrow.starts_with(" => => transferring context: 2.00MB  "), "{narrow}");
}

#[test]
fn a_frame_fits_the_terminal_and_keeps_what_runs() {
    let mut board = Board::new(Keep { pending: false, tail: 10 });
    board.apply(vertexes(vec![vertex("running", Some(0), None)]));
    for i in 0..20 {
        board.apply(vertexes(vec![vertex(&format!("step {i}"), Some(0), Some(100))]));
    }
    let narrow = frame(&mut board, small(30, 10), 1.5, 1.5, false);
    assert_eq!(
        texts(&narrow)[..4],
        [
            "[+] Building 1.5s (20/21)",
            " => running              1.5s",
            " => step 13              0.1s",
            " => step 14              0.1s"
        ]
    );
    assert_eq!(narrow.len(), 9);
    assert_eq!(frame(&mut board, small(20, 10), 1.5, 1.5, false).len(), 1, "too narrow for rows");
    board.apply(log("running", 10, "line\n"));
    let short = frame(&mut board, small(30, 12), 1.5, 1.5, false);
    assert!(!short.iter().any(|line| line.text.contains('#')), "no room for logs");
    let tall = frame(&mut board, small(30, 20), 1.5, 1.5, false);
    assert_eq!(texts(&tall)[1..3], [" => running              1.5s", " => => # line"]);
    assert!(tall.len() < 20);
}

#[test]
fn warnings_are_listed_and_explained_on_demand() {
    let mut board = Board::default();
    board.apply(vertexes(vec![vertex("a", Some(0), Some(1))]));
    board.apply(warning("a"));
    let options = RenderOptions { details_hint: Some("ask for more"), ..RenderOptions::default() };
    let short = text::warnings(&board, &options, Some("33"));
    assert_eq!(
        short,
        "\n \x1b[33m1 warning found (ask for more):\x1b[0m\n - JSONArgsRecommended: use an array (line 2)\n"
    );
    let long = text::warnings(&board, &RenderOptions { details: true, ..options.clone() }, None);
    assert!(long.starts_with("\n 1 warning found:\n - JSON"), "{long}");
    assert!(long.ends_with(
        "A shell would eat signals\nMore info: https://example.com/rule\nDockerfile:2\n--------------------\n   \
         1 |     FROM x\n   2 | >>> CMD y\n   3 |     \n--------------------\n\n"
    ));
}

#[derive(Debug, Clone, Default)]
struct Sink(std::sync::Arc<parking_lot::Mutex<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn many_events_are_shown_whole() {
    let sink = Sink::default();
    let options = RenderOptions { colour: false, summary: true, details: false, details_hint: None };
    let renderer = Renderer::new(Mode::Plain, Box::new(sink.clone()), options);
    let begin = (0..20_000).map(|i| vertexes(vec![vertex(&format!("v{i}"), Some(0), Some(10))]));
    let logs = (0..20_000).map(|i| log("chatty", i, &format!("{i}\nsecond line of it\n").repeat(5)));
    let events = begin.chain([vertexes(vec![vertex("chatty", Some(0), None)])]).chain(logs);
    let summary = renderer.run(futures::stream::iter(events)).await;
    assert_eq!(summary.vertices, 20_001);
    let out = String::from_utf8(std::mem::take(&mut *sink.0.lock())).unwrap();
    assert_eq!(out.matches("second line of it\n").count(), 100_000);
    assert_eq!(out.matches("DONE 0.0s\n").count(), 20_000);
}

proptest! {
    #[test]
    fn any_events_at_any_width_are_shown_without_a_panic(
        names in prop::collection::vec(".{0,40}", 1..6), times in prop::collection::vec(any::<(i64, i64)>(), 1..6),
        text in prop::collection::vec(any::<u8>(), 0..300), width in 0_usize..300, height in 0_usize..60,
        amounts in any::<(i64, i64)>(), groups in prop::collection::vec(0_u8..3, 6), last in any::<bool>(),
    ) {
        let (mut board, mut view) = (Board::default(), Plain::default());
        let mut out = String::new();
        for (round, (name, (start, end))) in names.iter().zip(&times).enumerate() {
            let mut event = vertexes(vec![vertex(name, None, None)]);
            event.vertexes[0].started = Some(Timestamp { seconds: *start, nanos: i32::MAX });
            event.vertexes[0].completed =
                (start % 2 == 0).then_some(Timestamp { seconds: *end, nanos: i32::MIN });
            if groups[round] > 0 {
                let group = pb::ProgressGroup { id: groups[round].to_string(), name: name.clone(), weak: false };
                event.vertexes[0].progress_group = Some(group);
            }
            event.logs = vec![VertexLog { vertex: format!("sha256:{name}"), msg: text.clone(), ..Default::default() }];
            event.statuses = status(name, name, amounts, *end, None).statuses;
            event.warnings = warning(name).warnings;
            board.apply(event);
            out.push_str(&view.lines(&mut board, Duration::from_secs(round as u64 * 4)));
        }
        for line in frame(&mut board, small(width, height), 0.0, 0.0, last) {
            prop_assert!(text_columns(&line.text) <= width, "{line:?}");
            out.push_str(&line.text);
        }
        out.push_str(&view.finish(&mut board));
        let escapes = out.contains('\u{1b}');
        prop_assert!(!escapes);
    }
}
