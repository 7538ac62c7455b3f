//! Finds or computes the output of an edge of a build graph; each key is computed at most once at a time.
//!
//! Central types: [`Solver`] (one per daemon), [`Job`] (one per build), [`trait Op`](Op) (what a vertex does). The
//! crate does not know containers, files, LLB or sessions: what an op yields ([`Op::Output`]) and what it is given
//! ([`Op::Scope`]) are associated types, and nothing is ever downcast.
//!
//! How it works: a solve is *one future* that walks the demanded part of the graph. Synchronous state of a vertex
//! is an enum owned by that future alone (`engine`); the two async pieces of a vertex (find it by its definition;
//! make it from its inputs) are polled in the solve's own `FuturesUnordered`, a bounded number at a time. So a
//! vertex that waits costs an array slot and no task, depth costs no stack, and dropping the solve drops all of it.
//! Only [`Op::exec`] runs in a task, because it may be shared by builds and must be stopped, not dropped: the
//! task belongs to a *flight* (`flight`), which is found by the resolved key and counts those who wait for it.
//! A task per vertex was considered: it costs about 1 KiB for each waiting vertex and needs an owner, a hand-over
//! when the driving build goes, and a way to take back demand.
//!
//! Invariants: a key's `exec` runs at most once at a time; no lock is held across an await; once every job is
//! closed the solver's tables are empty ([`Solver::census`]); results equal a naive recursive evaluator's.
//! Failure: a [`SolveError`] names the vertex; other inputs are let go. Cancel: drop the future or [`Job::cancel`];
//! [`Job::close`] waits for the clean-up. The algorithm is told in docs/solver.md.
#![forbid(unsafe_code)]

mod cache;
mod engine;
mod event;
mod flight;
mod graph;
mod job;
mod key;
mod make;
mod op;
mod rt;
mod trace;

pub use cache::{
    CacheError, CacheStore, MemoryCache, NewRecord, Query, QueryInput, Record, RecordId, RecordInput,
};
pub use event::{CANCELLED, Event, EventSink, NoEvents};
pub use graph::{Edge, Graph, GraphError, Vertex, VertexId, VertexInfo};
pub use job::{Census, Job, SolveError, Solved, Solver, SolverOptions, Solving};
pub use key::Level;
pub use op::{Audience, CacheMap, InputKey, Op, OpContext, Waiter};
pub use trace::Traced;
