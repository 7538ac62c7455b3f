//! Random graphs with random hits, failures and cancels against the naive evaluator. A failure prints the input
//! that proptest shrank, which replays it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use proptest::prelude::*;
use rbuild_digest::Digest;
use rbuild_solver::{Census, NoEvents, SolveError};

use crate::model::{Behaviour, Sketch, World, edge, solver};

/// One random vertex: which earlier vertices it uses, and how it behaves.
#[derive(Debug, Clone)]
struct Plan {
    name: u8,
    inputs: Vec<prop::sample::Index>,
    delay: u8,
    cleanup: u8,
    fails: bool,
    volatile: bool,
    content: u32,
}

fn plan(failing: f64) -> impl Strategy<Value = Plan> {
    let inputs = prop::collection::vec(any::<prop::sample::Index>(), 0..4);
    let volatile = prop::bool::weighted(0.2);
    (0_u8..12, inputs, 0_u8..6, 0_u8..4, prop::bool::weighted(failing), volatile, any::<u32>()).prop_map(
        |(name, inputs, delay, cleanup, fails, volatile, content)| Plan {
            name,
            inputs,
            delay,
            cleanup,
            fails,
            volatile,
            content: content & (content >> 16),
        },
    )
}

type Described = Vec<(String, Vec<u32>, Behaviour)>;

/// The same plan gives each build the same graph, but its volatile sources are its own.
fn sketch(world: &Arc<World>, plans: &[Plan], build: u64) -> (Sketch, Described) {
    let mut sketch = Sketch::new(world);
    let mut described = Described::new();
    for (index, plan) in plans.iter().enumerate() {
        let inputs: Vec<u32> = match index {
            0 => Vec::new(),
            _ => plan.inputs.iter().map(|input| u32::try_from(input.index(index)).unwrap()).collect(),
        };
        let volatile = plan.volatile && inputs.is_empty();
        let behaviour = Behaviour {
            delay: plan.delay,
            cleanup: plan.cleanup,
            fails: plan.fails,
            volatile,
            salt: if volatile { build * 1_000 + index as u64 + 1 } else { 0 },
            content: plan.content,
            ..Behaviour::default()
        };
        // Equal names with equal traits are equal ops, so different vertices may meet in one key.
        let name = format!("{} {} {} {}", plan.name, plan.fails, volatile, plan.content & 15);
        sketch.add(&name, &inputs, behaviour.clone());
        described.push((name, inputs, behaviour));
    }
    (sketch, described)
}

fn on_two_threads(future: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(future);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    #[test]
    fn results_equal_the_naive_evaluator(
        plans in prop::collection::vec(plan(0.03), 1..24),
        roots in prop::collection::vec(any::<prop::sample::Index>(), 1..5),
    ) {
        on_two_threads(async move {
            let (solver, world) = (solver(), Arc::<World>::default());
            // Roots one after another (hits of what came before), then all builds at once.
            for (round, together) in [(0_u64, false), (10, true), (20, true)] {
                let mut builds = tokio::task::JoinSet::new();
                for (number, root) in roots.iter().enumerate() {
                    let root = u32::try_from(root.index(plans.len())).unwrap();
                    let (sketch, described) = sketch(&world, &plans, round + number as u64);
                    let solver = solver.clone();
                    builds.spawn(async move {
                        let job = solver.job(Digest::of("scope"), Arc::new(NoEvents));
                        let result = job.solve(&sketch.graph, edge(root)).await;
                        job.close().await;
                        match (result, sketch.naive(&described, root)) {
                            (Ok(solved), Ok(value)) => assert_eq!(solved.output.content, value.content),
                            (Err(SolveError::Op { .. }), Err(_)) => {}
                            (result, naive) => panic!("{result:?} is not {naive:?}"),
                        }
                    });
                    if !together {
                        builds.join_next().await.unwrap().unwrap();
                    }
                }
                while let Some(result) = builds.join_next().await {
                    result.unwrap();
                }
                assert_eq!(solver.census(), Census { vertices: 0, flights: 0 });
                assert!(world.running.lock().is_empty());
            }
            assert_eq!(world.overlaps.load(Ordering::SeqCst), 0);
        });
    }

    #[test]
    fn cancel_anywhere_leaves_nothing(
        plans in prop::collection::vec(plan(0.02), 1..24),
        cancels in prop::collection::vec(prop::option::of(0_usize..60), 2..5),
        by_drop in any::<bool>(),
    ) {
        on_two_threads(async move {
            let (solver, world) = (solver(), Arc::<World>::default());
            let root = u32::try_from(plans.len() - 1).unwrap();
            let mut builds = tokio::task::JoinSet::new();
            for (number, cancel) in cancels.into_iter().enumerate() {
                let (sketch, described) = sketch(&world, &plans, number as u64);
                let solver = solver.clone();
                builds.spawn(async move {
                    let job = solver.job(Digest::of("scope"), Arc::new(NoEvents));
                    let end = async {
                        for _ in 0..cancel.unwrap_or_default() {
                            tokio::task::yield_now().await;
                        }
                        if cancel.is_none() || by_drop {
                            return cancel.is_some();
                        }
                        job.cancel();
                        false
                    };
                    let result = {
                        let solve = std::pin::pin!(job.solve(&sketch.graph, edge(root)));
                        match futures::future::select(solve, std::pin::pin!(end)).await {
                            futures::future::Either::Left((result, _)) => Some(result),
                            futures::future::Either::Right((true, _)) => None,
                            futures::future::Either::Right((false, solve)) => Some(solve.await),
                        }
                    };
                    job.close().await;
                    match (result, sketch.naive(&described, root)) {
                        (None | Some(Err(SolveError::Cancelled)), _) => assert!(cancel.is_some()),
                        (Some(Ok(solved)), Ok(value)) => assert_eq!(solved.output.content, value.content),
                        (Some(Err(SolveError::Op { .. })), Err(_)) => {}
                        (result, naive) => panic!("{result:?} is not {naive:?}"),
                    }
                });
            }
            while let Some(result) = builds.join_next().await {
                result.unwrap();
            }
            assert_eq!(solver.census(), Census { vertices: 0, flights: 0 });
            assert!(world.running.lock().is_empty());
            assert_eq!(world.overlaps.load(Ordering::SeqCst), 0);
        });
    }
}
