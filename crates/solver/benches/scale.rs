//! Prints what a solve costs per vertex for chains, wide graphs and ladders of 1,000 to 100,000 vertices, and for 200
//! builds at once that share half of their vertices: `cargo bench -p rbuild-solver`. Linear cost shows as equal figures
//! down a column. With `-- --svg FILE` also as a picture.
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

/// Microseconds per vertex of a first solve and of one from the cache.
async fn measure(shape: &str, size: u32, inputs: impl Fn(u32) -> Vec<u32>) -> (f64, f64) {
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
    (per(cold), per(warm))
}

/// Many builds at once, half of the vertices of each in all of them.
async fn crowd(builds: u32, size: u32) {
    let solver = Solver::new(vec![Arc::new(MemoryCache::default())], SolverOptions::default());
    let start = Instant::now();
    let mut jobs = tokio::task::JoinSet::new();
    for build in 0..builds {
        let solver = solver.clone();
        jobs.spawn(async move {
            let (graph, edge) = mixed(build, size);
            let job = solver.job((), Arc::new(NoEvents));
            job.solve(&graph, edge).await.unwrap();
            job.close().await;
        });
    }
    while let Some(done) = jobs.join_next().await {
        done.unwrap();
    }
    let took = start.elapsed();
    let runs = u64::from(size / 2) + u64::from(builds) * u64::from(size - size / 2);
    println!(
        "{builds} builds of {size} vertices, half of them shared: {:.1} ms, {:.3} us for each of {runs} runs, peak {} MiB",
        took.as_secs_f64() * 1e3,
        took.as_secs_f64() * 1e6 / runs as f64,
        peak_mib()
    );
}

/// A chain, the lower half of which is the same for every build.
fn mixed(build: u32, size: u32) -> (Graph<Noop>, Edge) {
    let mut graph = Graph::new();
    let mut last = None;
    for index in 0..size {
        let owner = if index < size / 2 { u32::MAX } else { build };
        let vertex = Vertex {
            digest: Digest::of(format!("{owner} {index}")),
            name: format!("vertex {index}"),
            op: Arc::new(Noop(u64::from(owner) << 32 | u64::from(index))),
            inputs: last.into_iter().map(|vertex| Edge { vertex, output: 0 }).collect(),
            ignore_cache: false,
            hidden: false,
        };
        last = Some(graph.add(vertex).unwrap());
    }
    (graph, Edge { vertex: last.unwrap(), output: 0 })
}

/// One line of the picture.
struct Line {
    name: String,
    color: &'static str,
    /// Vertices and microseconds.
    points: Vec<(u32, f64)>,
}

/// A picture without a script: vertices to the right, in powers of ten, microseconds per vertex upwards.
fn svg(lines: &[Line]) -> String {
    let top = lines.iter().flat_map(|line| &line.points).map(|(_, us)| *us).fold(1.0, f64::max) * 1.1;
    let x = |size: u32| 60.0 + (f64::from(size).log10() - 3.0) * 220.0;
    let y = |us: f64| 280.0 - us / top * 250.0;
    let mut out = String::from(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 700 320\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"700\" height=\"320\" fill=\"white\"/>\n\
         <path d=\"M60 20V280H520\" fill=\"none\" stroke=\"black\"/>\n",
    );
    for size in [1_000, 10_000, 100_000] {
        out += &format!("<text x=\"{:.0}\" y=\"298\" text-anchor=\"middle\">{size}</text>\n", x(size));
    }
    for part in 0..=4 {
        let us = top * f64::from(part) / 4.0;
        out += &format!("<text x=\"54\" y=\"{:.0}\" text-anchor=\"end\">{us:.0}</text>\n", y(us) + 4.0);
    }
    out += "<text x=\"290\" y=\"315\" text-anchor=\"middle\">vertices</text>\n<text x=\"60\" y=\"14\">µs per vertex</text>\n";
    for (index, line) in lines.iter().enumerate() {
        let points: Vec<String> =
            line.points.iter().map(|(size, us)| format!("{:.1},{:.1}", x(*size), y(*us))).collect();
        let (color, points, at) = (line.color, points.join(" "), 40 + index * 18);
        out += &format!(
            "<polyline points=\"{points}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"2\"/>\n\
             <text x=\"540\" y=\"{at}\" fill=\"{color}\">{}</text>\n",
            line.name
        );
    }
    out + "</svg>\n"
}

fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

#[tokio::main]
async fn main() {
    let shapes = ["chain", "wide", "ladder"];
    let line = |name: String, color| Line { name, color, points: Vec::new() };
    let cold = ["#1f77b4", "#2ca02c", "#d62728"];
    let warm = ["#9ecae1", "#a1d99b", "#fc9272"];
    let mut lines: Vec<Line> =
        shapes.iter().zip(cold).map(|(shape, c)| line(format!("{shape}, first"), c)).collect();
    lines.extend(shapes.iter().zip(warm).map(|(shape, c)| line(format!("{shape}, cached"), c)));
    for size in [1_000, 3_000, 10_000, 30_000, 100_000] {
        let measured = [
            measure("chain", size, |index| index.checked_sub(1).into_iter().collect()).await,
            measure("wide", size, |index| if index + 1 == size { (0..index).collect() } else { Vec::new() })
                .await,
            measure("ladder", size, |index| (1..=3).filter_map(|back| index.checked_sub(back)).collect())
                .await,
        ];
        for (index, (cold, warm)) in measured.into_iter().enumerate() {
            lines[index].points.push((size, cold));
            lines[index + shapes.len()].points.push((size, warm));
        }
    }
    crowd(200, 50).await;
    let mut args = std::env::args().skip_while(|arg| arg != "--svg");
    if let Some(path) = args.nth(1) {
        std::fs::write(path, svg(&lines)).unwrap();
    }
}
