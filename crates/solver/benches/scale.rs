//! Prints what a solve costs per vertex for chains, wide graphs and ladders of 1,000, 10,000 and 100,000 vertices:
//! `cargo bench -p rbuild-solver`. Linear cost shows as equal figures down a column.
#![allow(missing_docs, clippy::print_stdout, clippy::unwrap_used)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rbuild_digest::Digest;
use rbuild_solver::{
    CacheMap, Edge, Graph, Job, MemoryCache, NoEvents, Op, OpContext, Solver, SolverOptions, Vertex, VertexId,
};

#[derive(Debug)]
struct Noop(u64);

#[derive(Debug, Clone, thiserror::Error)]
#[error("never")]
struct Never;

#[async_trait]
impl Op for Noop {
    type Output = u64;
    type Scope = ();
    type Error = Never;

    async fn cache_map(&self, _cx: &OpContext<()>) -> Result<CacheMap, Never> {
        Ok(CacheMap::new(Digest::of(self.0.to_le_bytes())))
    }

    async fn content_key(
        &self,
        _cx: &OpContext<()>,
        _input: usize,
        _output: &u64,
    ) -> Result<Option<Digest>, Never> {
        Ok(None)
    }

    async fn exec(&self, _cx: &OpContext<()>, inputs: Vec<u64>) -> Result<Vec<u64>, Never> {
        Ok(vec![inputs.into_iter().fold(self.0, u64::wrapping_add)])
    }
}

fn graph(size: u32, inputs: impl Fn(u32) -> Vec<u32>) -> (Graph<Noop>, Edge) {
    let mut graph = Graph::new();
    let mut last = VertexId(0);
    for index in 0..size {
        let edges =
            inputs(index).into_iter().map(|input| Edge { vertex: VertexId(input), output: 0 }).collect();
        let vertex = Vertex {
            digest: Digest::of(format!("{size} {index}")),
            name: format!("vertex {index}"),
            op: Arc::new(Noop(u64::from(index))),
            inputs: edges,
            ignore_cache: false,
            hidden: false,
        };
        last = graph.add(vertex).unwrap();
    }
    (graph, Edge { vertex: last, output: 0 })
}

async fn timed(job: &Job<Noop>, graph: &Graph<Noop>, edge: Edge) -> Duration {
    let start = Instant::now();
    job.solve(graph, edge).await.unwrap();
    start.elapsed()
}

async fn measure(shape: &str, size: u32, inputs: impl Fn(u32) -> Vec<u32>) {
    let (graph, edge) = graph(size, inputs);
    let solver = Solver::new(vec![Arc::new(MemoryCache::default())], SolverOptions::default());
    let job = solver.job((), Arc::new(NoEvents));
    let cold = timed(&job, &graph, edge).await;
    let again = timed(&job, &graph, edge).await;
    let start = Instant::now();
    job.close().await;
    let close = start.elapsed();
    let job = solver.job((), Arc::new(NoEvents));
    let warm = timed(&job, &graph, edge).await;
    job.close().await;
    let per = |time: Duration| time.as_secs_f64() * 1e6 / f64::from(size);
    println!(
        "{shape:7} {size:7}  cold {:8.3} us/vertex  warm {:8.3}  again {:8.3}  close {:8.3}  peak {:5} MiB",
        per(cold),
        per(warm),
        per(again),
        per(close),
        peak_mib()
    );
}

fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

#[tokio::main]
async fn main() {
    for size in [1_000, 10_000, 100_000] {
        measure("chain", size, |index| index.checked_sub(1).into_iter().collect()).await;
        measure("wide", size, |index| if index + 1 == size { (0..index).collect() } else { Vec::new() })
            .await;
        measure("ladder", size, |index| (1..=3).filter_map(|back| index.checked_sub(back)).collect()).await;
    }
}
