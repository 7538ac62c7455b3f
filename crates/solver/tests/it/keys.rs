//! When a result is found, and by which key.

use std::sync::Arc;

use rbuild_digest::Digest;
use rbuild_solver::{Census, MemoryCache, NoEvents, SolveError, Solved, Solver, SolverOptions};

use crate::model::{Behaviour, Lines, Sketch, TestOp, Value, World, edge, solver};

async fn build(
    solver: &Solver<TestOp>,
    sketch: &Sketch,
    root: u32,
) -> Result<Solved<Value>, SolveError<crate::model::Failure>> {
    let job = solver.job(Digest::of("scope"), Arc::new(NoEvents));
    let result = job.solve(&sketch.graph, edge(root)).await;
    job.close().await;
    assert_eq!(solver.census(), Census { vertices: 0, flights: 0 });
    result
}

#[tokio::test]
async fn definition_hit_runs_nothing_and_marks_all_as_cached() {
    let (solver, world) = (solver(), Arc::<World>::default());
    let mut sketch = Sketch::new(&world);
    let base = sketch.add("base", &[], Behaviour::default());
    let run = sketch.add("run", &[base], Behaviour { content: 1, ..Behaviour::default() });
    let first = build(&solver, &sketch, run).await.unwrap();
    assert_eq!(world.execs(), 2);

    let lines = Arc::new(Lines::default());
    let job = solver.job(Digest::of("scope"), lines.clone());
    let second = job.solve(&sketch.graph, edge(run)).await.unwrap();
    job.close().await;
    assert_eq!((world.execs(), second.record), (2, first.record));
    assert_eq!(world.contents.load(std::sync::atomic::Ordering::SeqCst), 1);
    assert_eq!(lines.all(), ["base known", "run known", "run cached", "base cached"]);
}

#[tokio::test]
async fn a_resolved_vertex_that_was_not_needed_is_cached() {
    let (solver, world) = (solver(), Arc::<World>::default());
    let mut sketch = Sketch::new(&world);
    let base = sketch.add("base", &[], Behaviour { resolves: true, ..Behaviour::default() });
    let run = sketch.add("run", &[base], Behaviour::default());
    for want in [
        &[
            "base known",
            "run known",
            "base started",
            "base done",
            "base started",
            "base done",
            "run started",
            "run done",
        ][..],
        &["base known", "run known", "base started", "base done", "run cached", "base cached"],
    ] {
        let lines = Arc::new(Lines::default());
        let job = solver.job(Digest::of("scope"), lines.clone());
        job.solve(&sketch.graph, edge(run)).await.unwrap();
        job.close().await;
        assert_eq!(lines.all(), want);
    }
}

#[tokio::test]
async fn volatile_input_is_made_anew_and_found_by_content() {
    let (solver, world) = (solver(), Arc::<World>::default());
    let mut records = Vec::new();
    for salt in 0..2 {
        let mut sketch = Sketch::new(&world);
        let local = sketch.add("local", &[], Behaviour { volatile: true, salt, ..Behaviour::default() });
        let copy = sketch.add("copy", &[local], Behaviour { content: 1, ..Behaviour::default() });
        let run = sketch.add("run", &[copy], Behaviour::default());
        records.push(build(&solver, &sketch, run).await.unwrap().record);
    }
    assert!(records[0].is_some());
    assert_eq!(records[0], records[1]);
    assert_eq!((world.ran("local"), world.ran("copy"), world.ran("run")), (2, 1, 1));
}

#[tokio::test]
async fn two_roads_to_one_record_continue_as_one() {
    let (solver, world) = (solver(), Arc::<World>::default());
    let mut sketch = Sketch::new(&world);
    let a = sketch.add("a", &[], Behaviour { volatile: true, salt: 1, ..Behaviour::default() });
    let copy = sketch.add("copy", &[a], Behaviour { content: 1, ..Behaviour::default() });
    let next = sketch.add("next", &[copy], Behaviour::default());
    let b = sketch.add("a", &[], Behaviour { volatile: true, salt: 2, ..Behaviour::default() });
    let copy2 = sketch.add("copy", &[b], Behaviour { content: 1, ..Behaviour::default() });
    let next2 = sketch.add("next", &[copy2], Behaviour::default());
    let top = sketch.add("top", &[next, next2], Behaviour::default());
    build(&solver, &sketch, top).await.unwrap();
    assert_eq!((world.ran("a"), world.ran("copy"), world.ran("next")), (2, 1, 1));
}

#[tokio::test]
async fn ignored_vertex_and_what_stands_on_it_run_again_and_are_found_later() {
    let (solver, world) = (solver(), Arc::<World>::default());
    let graph = |ignore| {
        let mut sketch = Sketch::new(&world);
        let base = sketch.add("base", &[], Behaviour::default());
        let run = sketch.add_with("run", &[base], Behaviour::default(), ignore);
        let top = sketch.add("top", &[run], Behaviour::default());
        (sketch, top)
    };
    let (plain, top) = graph(false);
    let first = build(&solver, &plain, top).await.unwrap();
    let (ignoring, top) = graph(true);
    let second = build(&solver, &ignoring, top).await.unwrap();
    assert_eq!((world.ran("base"), world.ran("run"), world.ran("top")), (1, 2, 2));
    assert_ne!(first.record, second.record);
    let third = build(&solver, &plain, top).await.unwrap();
    assert_eq!(world.execs(), 5);
    assert_eq!(third.record, second.record);
}

#[tokio::test]
async fn failure_is_remembered_in_its_job_only() {
    let (solver, world) = (solver(), Arc::<World>::default());
    let mut sketch = Sketch::new(&world);
    let bad = sketch.add("bad", &[], Behaviour { fails: true, ..Behaviour::default() });
    let job = solver.job(Digest::of("scope"), Arc::new(NoEvents));
    for _ in 0..2 {
        let error = job.solve(&sketch.graph, edge(bad)).await.unwrap_err();
        assert_eq!(error.to_string(), "bad failed");
        assert_eq!(error.vertex().unwrap().name, "bad");
    }
    job.close().await;
    assert_eq!(world.execs(), 1);
    build(&solver, &sketch, bad).await.unwrap_err();
    assert_eq!(world.execs(), 2);
}

#[tokio::test]
async fn panic_of_an_op_is_an_error_and_leaves_nothing() {
    let (solver, world) = (solver(), Arc::<World>::default());
    let mut sketch = Sketch::new(&world);
    let bad = sketch.add("bad", &[], Behaviour { panics: true, ..Behaviour::default() });
    let error = build(&solver, &sketch, bad).await.unwrap_err();
    assert_eq!(error.to_string(), "internal error: step `bad` panicked");
}

#[tokio::test]
async fn hit_in_a_further_store_is_adopted_under_its_id() {
    let remote = Arc::new(MemoryCache::default());
    let world = Arc::<World>::default();
    let mut sketch = Sketch::new(&world);
    let base = sketch.add("base", &[], Behaviour::default());
    let run = sketch.add("run", &[base], Behaviour::default());
    let top = sketch.add("top", &[run], Behaviour::default());
    let there = Solver::new(vec![remote.clone()], SolverOptions::default());
    let first = build(&there, &sketch, run).await.unwrap();

    let local = Arc::new(MemoryCache::default());
    let here = Solver::new(vec![local.clone()], SolverOptions::default());
    let job = here.job_with(Digest::of("scope"), Arc::new(NoEvents), vec![remote]);
    let second = job.solve(&sketch.graph, edge(run)).await.unwrap();
    job.solve(&sketch.graph, edge(top)).await.unwrap();
    job.close().await;
    assert_eq!((first.record, world.execs()), (second.record, 3));
    assert_eq!(local.len(), 2);
    build(&here, &sketch, run).await.unwrap();
    assert_eq!(world.execs(), 3);
}

#[tokio::test]
async fn second_solve_of_a_grown_graph_keeps_the_first_results() {
    let (solver, world) = (solver(), Arc::<World>::default());
    let mut sketch = Sketch::new(&world);
    let job = solver.job(Digest::of("scope"), Arc::new(NoEvents));
    let local = sketch.add("local", &[], Behaviour { volatile: true, ..Behaviour::default() });
    job.solve(&sketch.graph, edge(local)).await.unwrap();
    let run = sketch.add("run", &[local], Behaviour::default());
    let solved = job.solve(&sketch.graph, edge(run)).await.unwrap();
    assert_eq!(solved.record, None);
    job.close().await;
    assert_eq!((world.execs(), world.maps.load(std::sync::atomic::Ordering::SeqCst)), (2, 2));
}

#[tokio::test]
async fn missing_output_is_an_error() {
    let (solver, world) = (solver(), Arc::<World>::default());
    let mut sketch = Sketch::new(&world);
    let base = sketch.add("base", &[], Behaviour::default());
    let job = solver.job(Digest::of("scope"), Arc::new(NoEvents));
    let mut wrong = edge(base);
    wrong.output = 3;
    let error = job.solve(&sketch.graph, wrong).await.unwrap_err();
    assert_eq!(error.to_string(), "step `base` has 1 outputs, asked for output 3");
    assert!(job.solve(&sketch.graph, edge(7)).await.is_err());
    job.close().await;
}

#[tokio::test]
async fn deep_and_wide_graphs_need_no_stack() {
    let (solver, world) = (solver(), Arc::<World>::default());
    let mut sketch = Sketch::new(&world);
    let mut last = sketch.add("0", &[], Behaviour::default());
    for index in 1..20_000 {
        last = sketch.add(&index.to_string(), &[last], Behaviour::default());
    }
    let wide: Vec<u32> =
        (0..5_000).map(|index| sketch.add(&format!("w{index}"), &[last], Behaviour::default())).collect();
    let top = sketch.add("top", &wide, Behaviour::default());
    build(&solver, &sketch, top).await.unwrap();
    assert_eq!(world.execs(), 25_001);
    build(&solver, &sketch, top).await.unwrap();
    assert_eq!(world.execs(), 25_001);
}
