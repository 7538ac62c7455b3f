//! Builds that share work, and what happens when they go.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use rbuild_digest::Digest;
use rbuild_solver::{CANCELLED, Census, Job, NoEvents, SolveError};
use tokio::sync::Notify;

use crate::model::{Behaviour, Lines, Sketch, TestOp, World, edge, solver};

const EMPTY: Census = Census { vertices: 0, flights: 0 };

struct Gated {
    world: Arc<World>,
    gate: Arc<Notify>,
    sketch: Arc<Sketch>,
    root: u32,
}

fn gated(cleanup: u8) -> Gated {
    let world = Arc::<World>::default();
    let gate = Arc::new(Notify::new());
    let mut sketch = Sketch::new(&world);
    let base = sketch.add("base", &[], Behaviour::default());
    let slow = Behaviour { gate: Some(gate.clone()), cleanup, ..Behaviour::default() };
    let root = sketch.add("slow", &[base], slow);
    Gated { world, gate, sketch: Arc::new(sketch), root }
}

impl Gated {
    async fn solve(&self, job: &Job<TestOp>) -> Result<(), SolveError<crate::model::Failure>> {
        job.solve(&self.sketch.graph, edge(self.root)).await.map(|_| ())
    }

    async fn until_ran(&self, times: usize) {
        while self.world.ran("slow") < times {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn two_builds_share_one_exec_and_late_joiners_see_it_start() {
    let (solver, gated) = (solver(), gated(0));
    let (first, late) = (Arc::new(Lines::default()), Arc::new(Lines::default()));
    let a = solver.job(Digest::of("a"), first.clone());
    let b = solver.job(Digest::of("b"), late.clone());
    let (one, two, ()) = tokio::join!(gated.solve(&a), gated.solve(&b), async {
        gated.until_ran(1).await;
        while !late.all().contains(&"slow started".to_owned()) {
            tokio::task::yield_now().await;
        }
        gated.gate.notify_one();
    });
    one.unwrap();
    two.unwrap();
    assert_eq!(gated.world.ran("slow"), 1);
    assert_eq!(first.all().last().unwrap(), "slow done");
    assert_eq!(late.all().last().unwrap(), "slow done");
    a.close().await;
    b.close().await;
    assert_eq!(solver.census(), EMPTY);
}

#[tokio::test]
async fn cancelling_one_of_two_leaves_the_other_alive() {
    let (solver, gated) = (solver(), gated(0));
    let lines = Arc::new(Lines::default());
    let a = solver.job(Digest::of("a"), lines.clone());
    let b = solver.job(Digest::of("b"), Arc::new(NoEvents));
    let (one, two, ()) = tokio::join!(gated.solve(&a), gated.solve(&b), async {
        gated.until_ran(1).await;
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        a.close().await;
        gated.gate.notify_one();
    });
    assert!(matches!(one, Err(SolveError::Cancelled)));
    two.unwrap();
    assert_eq!(gated.world.ran("slow"), 1);
    assert_eq!(lines.all().last().unwrap(), &format!("slow error: {CANCELLED}"));
    b.close().await;
    assert_eq!(solver.census(), EMPTY);
}

#[tokio::test]
async fn close_waits_for_the_clean_up() {
    let (solver, gated) = (solver(), gated(50));
    let job = solver.job(Digest::of("a"), Arc::new(NoEvents));
    let (result, ()) = tokio::join!(gated.solve(&job), async {
        gated.until_ran(1).await;
        job.close().await;
        assert!(gated.world.running.lock().is_empty());
    });
    assert!(matches!(result, Err(SolveError::Cancelled)));
    assert_eq!(solver.census(), EMPTY);
    assert!(matches!(gated.solve(&job).await, Err(SolveError::Cancelled)));
}

#[tokio::test]
async fn newcomer_waits_for_the_clean_up_and_starts_afresh() {
    let (solver, gated) = (solver(), gated(50));
    let a = solver.job(Digest::of("a"), Arc::new(NoEvents));
    {
        let solve = gated.solve(&a);
        tokio::pin!(solve);
        tokio::select! {
            _ = &mut solve => unreachable!("the gate is closed"),
            () = gated.until_ran(1) => {}
        }
    }
    let b = solver.job(Digest::of("b"), Arc::new(NoEvents));
    let (result, ()) = tokio::join!(gated.solve(&b), async {
        gated.until_ran(2).await;
        gated.gate.notify_one();
    });
    result.unwrap();
    assert_eq!(gated.world.overlaps.load(Ordering::SeqCst), 0);
    a.close().await;
    b.close().await;
    assert_eq!(solver.census(), EMPTY);
}

#[tokio::test]
async fn failure_lets_the_siblings_go() {
    let (solver, world) = (solver(), Arc::<World>::default());
    let never = Arc::new(Notify::new());
    let mut sketch = Sketch::new(&world);
    let slow = sketch.add("slow", &[], Behaviour { gate: Some(never), ..Behaviour::default() });
    let bad = sketch.add("bad", &[], Behaviour { fails: true, delay: 9, ..Behaviour::default() });
    let top = sketch.add("top", &[slow, bad], Behaviour::default());
    let lines = Arc::new(Lines::default());
    let job = solver.job(Digest::of("a"), lines.clone());
    let error = job.solve(&sketch.graph, edge(top)).await.unwrap_err();
    assert_eq!(error.to_string(), "bad failed");
    job.close().await;
    assert_eq!(solver.census(), EMPTY);
    assert!(world.running.lock().is_empty());
    assert!(lines.all().contains(&format!("slow error: {CANCELLED}")));
    assert!(lines.all().contains(&"bad error: bad failed".to_owned()));
}

#[tokio::test]
async fn unshared_vertex_stays_in_its_job() {
    let (solver, world) = (solver(), Arc::<World>::default());
    let mut sketch = Sketch::new(&world);
    let own = Behaviour { volatile: true, unshared: true, ..Behaviour::default() };
    let local = sketch.add("local", &[], own);
    let a = solver.job(Digest::of("a"), Arc::new(NoEvents));
    let b = solver.job(Digest::of("b"), Arc::new(NoEvents));
    a.solve(&sketch.graph, edge(local)).await.unwrap();
    b.solve(&sketch.graph, edge(local)).await.unwrap();
    assert_eq!((world.ran("local"), solver.census().vertices), (2, 2));
    a.close().await;
    b.close().await;
}

#[tokio::test]
async fn dropping_the_last_handle_of_a_job_releases_it() {
    let (solver, gated) = (solver(), gated(0));
    let job = solver.job(Digest::of("a"), Arc::new(NoEvents));
    let other = job.clone();
    drop(job);
    gated.gate.notify_one();
    gated.solve(&other).await.unwrap();
    assert_eq!(solver.census().vertices, 2);
    drop(other);
    assert_eq!(solver.census(), EMPTY);
}
