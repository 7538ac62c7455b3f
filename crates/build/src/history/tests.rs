use futures::StreamExt as _;
use rbuild_frontend::ErrorCode;
use rbuild_llb::Definition;
use rbuild_progress::VertexInfo;
use rbuild_store::StoreOptions;

use super::*;
use crate::request::{BuildOutcome, What};
use crate::usage::Usages;

fn encode(error: &BuildError) -> Vec<u8> {
    error.message.clone().into_bytes()
}

struct Place {
    dir: tempfile::TempDir,
    history: History,
}

fn open(dir: &tempfile::TempDir, limits: HistoryLimits) -> History {
    let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
    History::open(store, limits, encode, Tracer::default()).unwrap()
}

impl Place {
    fn new(limits: HistoryLimits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let history = open(&dir, limits);
        Self { dir, history }
    }

    fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir.path().join("history")).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Waits until the files of what was forgotten are gone.
    async fn removed(&self) {
        self.history.inner.removals.close();
        self.history.inner.removals.wait().await;
        self.history.inner.removals.reopen();
    }

    fn ids(&self) -> Vec<String> {
        self.history.listen().0.iter().map(|record| record.id.clone()).collect()
    }
}

#[tokio::test]
async fn a_build_that_nobody_waits_for_leaves_no_log_and_no_id() {
    let place = Place::new(HistoryLimits::default());
    let asked = request("gone");
    {
        let mut begin = std::pin::pin!(place.history.begin(&asked));
        // Begun and given up before its log is open, or after.
        let begun = futures::poll!(&mut begin);
        let taken = place.history.begin(&asked).await;
        assert!(matches!(taken, Err(HistoryRefusal::Taken(_))));
        drop(begun);
    }
    while place.history.inner.state.lock().busy.contains("gone") {
        tokio::task::yield_now().await;
    }
    assert!(place.files().is_empty() && place.ids().is_empty());
}

fn request(id: &str) -> BuildRequest {
    BuildRequest {
        id: id.to_owned(),
        policy: None,
        policy_session: String::new(),
        internal: false,
        trace: None,
        session: String::new(),
        what: What::Definition(Definition::default()),
        exporters: Vec::new(),
        entitlements: Vec::new(),
        cache_exports: Vec::new(),
        cache_imports: Vec::new(),
    }
}

async fn run(history: &History, id: &str, outcome: Result<BuildOutcome, BuildError>) {
    let (recording, progress) = history.begin(&request(id)).await.unwrap();
    let step = progress.vertex(VertexInfo::synthetic("step"));
    step.started();
    step.log(1, b"hello");
    step.completed(None);
    recording.finish(&outcome, Vec::new(), Usages::default()).await;
}

/// As if the build had ended `seconds` ago.
fn age(history: &History, id: &str, seconds: i64) {
    let mut state = history.inner.state.lock();
    let record = state.ended.get_mut(id).unwrap();
    Arc::make_mut(record).completed_ms = Some(now_ms() - seconds * 1000);
}

#[tokio::test]
async fn a_build_is_kept_with_all_its_events_over_a_restart() {
    let place = Place::new(HistoryLimits::default());
    run(&place.history, "good", Ok(BuildOutcome::default())).await;
    run(&place.history, "bad", Err(BuildError::new(ErrorCode::Unknown, "no"))).await;
    assert_eq!(place.files(), ["bad.error", "bad.log", "good.log"]);
    let Place { dir, history } = place;
    drop(history);
    // As a build that ran when the daemon was killed leaves it.
    std::fs::write(dir.path().join("history/killed.log"), b"").unwrap();

    let history = open(&dir, HistoryLimits::default());
    let place = Place { dir, history };
    assert_eq!(place.files(), ["bad.error", "bad.log", "good.log"], "what was running is gone");
    let record = place.history.get("good").unwrap();
    assert_eq!((record.tally.total, record.tally.completed, record.is_active()), (1, 1, false));
    let events: Vec<_> = place.history.log("good").unwrap().unwrap().collect().await;
    assert!(events.iter().flat_map(|event| &event.logs).any(|log| log.msg == b"hello"));
    let error = place.history.get("bad").unwrap().error.clone().unwrap();
    assert_eq!((error.message.as_str(), error.status.size), ("no", 2));
    let (path, _) = place.history.blob(&error.status.digest).unwrap();
    assert_eq!(std::fs::read(path).unwrap(), b"no");
    assert!(matches!(place.history.begin(&request("good")).await, Err(HistoryRefusal::Taken(_))));
}

#[tokio::test]
async fn a_build_whose_log_was_cut_is_forgotten_at_the_start() {
    let place = Place::new(HistoryLimits::default());
    run(&place.history, "cut", Ok(BuildOutcome::default())).await;
    let Place { dir, history } = place;
    drop(history);
    std::fs::write(dir.path().join("history/cut.log"), b"x").unwrap();
    let history = open(&dir, HistoryLimits::default());
    let place = Place { dir, history };
    assert!(place.ids().is_empty() && place.files().is_empty());
}

#[tokio::test]
async fn old_builds_go_and_pinned_ones_stay() {
    let place = Place::new(HistoryLimits { max_age: Duration::from_secs(1000), max_entries: 2 });
    for id in ["pinned", "old", "third", "second", "first"] {
        run(&place.history, id, Ok(BuildOutcome::default())).await;
    }
    place.history.pin("pinned", true).await.unwrap();
    for (id, seconds) in [("pinned", 9000), ("old", 2000), ("third", 300), ("second", 200), ("first", 100)] {
        age(&place.history, id, seconds);
    }
    place.history.collect().await;
    place.removed().await;
    let mut ids = place.ids();
    ids.sort();
    assert_eq!(ids, ["first", "pinned", "second"]);
    assert_eq!(place.files(), ["first.log", "pinned.log", "second.log"]);
}

#[tokio::test]
async fn quick_builds_are_kept_for_a_moment_but_not_without_end() {
    let place = Place::new(HistoryLimits { max_entries: 2, ..HistoryLimits::default() });
    for number in 0..KEPT_ANYWAY + 3 {
        run(&place.history, &format!("b{number}"), Ok(BuildOutcome::default())).await;
    }
    place.history.collect().await;
    assert_eq!(place.ids().len(), KEPT_ANYWAY);
}

#[tokio::test]
async fn listeners_hear_of_builds_in_order_and_running_ones_cannot_be_deleted() {
    let place = Place::new(HistoryLimits::default());
    let (known, mut events) = place.history.listen();
    assert!(known.is_empty());
    let (recording, _) = place.history.begin(&request("a")).await.unwrap();
    assert!(matches!(place.history.delete("a").await, Err(HistoryRefusal::Running(_))));
    recording.finish(&Ok(BuildOutcome::default()), Vec::new(), Usages::default()).await;
    place.history.delete("a").await.unwrap();
    assert!(matches!(place.history.delete("a").await, Err(HistoryRefusal::Unknown(_))));
    drop(place.history.begin(&request("b")).await.unwrap());
    let mut heard = Vec::new();
    while let Ok(event) = events.try_recv() {
        heard.push((event.record.id.clone(), event.kind));
    }
    use HistoryEventKind::{Complete, Deleted, Started};
    let expected = [("a", Started), ("a", Complete), ("a", Deleted), ("b", Started), ("b", Deleted)];
    assert_eq!(heard, expected.map(|(id, kind)| (id.to_owned(), kind)));
    place.removed().await;
    assert!(place.files().is_empty());
    drop(place.history.begin(&request("b")).await.expect("its id is free again"));
}

#[tokio::test]
async fn what_clients_ask_for_themselves_is_not_listed_and_soon_gone() {
    let place = Place::new(HistoryLimits::default());
    let (_, mut events) = place.history.listen();
    let asked = BuildRequest { internal: true, ..request("asked") };
    let (recording, _) = place.history.begin(&asked).await.unwrap();
    recording.finish(&Ok(BuildOutcome::default()), Vec::new(), Usages::default()).await;
    assert!(place.ids().is_empty() && events.try_recv().is_err());
    assert!(place.history.log("asked").is_some(), "its events may be asked for a moment later");
    age(&place.history, "asked", 61);
    place.history.collect().await;
    place.removed().await;
    assert!(place.files().is_empty());
}

#[tokio::test]
async fn the_trace_is_kept_when_it_is_wanted_and_goes_with_its_build() {
    let place = Place::new(HistoryLimits::default());
    run(&place.history, "a", Ok(BuildOutcome::default())).await;
    assert!(place.history.get("a").unwrap().trace.is_none(), "clients have time to send theirs");
    place.history.finalize("a").await.unwrap();
    place.history.finalize("a").await.unwrap();
    let blob = place.history.get("a").unwrap().trace.unwrap();
    let (path, _) = place.history.blob(&blob.digest).unwrap();
    assert!(std::fs::read_to_string(path).unwrap().contains("\"Name\":\"step\""));
    place.history.delete("a").await.unwrap();
    place.removed().await;
    assert!(place.files().is_empty());
}

#[tokio::test]
async fn no_trace_is_written_for_a_build_that_is_gone() {
    let place = Place::new(HistoryLimits::default());
    run(&place.history, "a", Ok(BuildOutcome::default())).await;
    place.history.delete("a").await.unwrap();
    place.removed().await;
    run(&place.history, "a", Ok(BuildOutcome::default())).await;
    place.history.close().await;
    assert_eq!(place.files(), ["a.log", "a.trace"]);
    place.history.delete("a").await.unwrap();
    place.removed().await;
    assert!(place.files().is_empty());
}

#[tokio::test]
async fn a_lost_trace_does_not_cost_the_build() {
    let place = Place::new(HistoryLimits::default());
    run(&place.history, "a", Ok(BuildOutcome::default())).await;
    place.history.close().await;
    let Place { dir, history } = place;
    drop(history);
    std::fs::write(dir.path().join("history/a.trace"), b"cut").unwrap();
    let history = open(&dir, HistoryLimits::default());
    assert!(history.get("a").unwrap().trace.is_none());
    let place = Place { dir, history };
    assert_eq!(place.files(), ["a.log"]);
}
