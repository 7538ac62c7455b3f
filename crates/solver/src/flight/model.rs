//! Flights under a model checker: `cargo test -p rbuild-solver --features shuttle model`. It tries schedules of several
//! builds that board, wait and leave; a failure prints the schedule to replay. `RBUILD_SCHEDULES` tries more.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rbuild_digest::Digest;
use shuttle::future::{block_on, spawn, yield_now};
use shuttle::rand::Rng;

use super::{Flights, Lost, Seat};
use crate::graph::VertexInfo;
use crate::op::OpContext;

/// Schedules tried of each kind.
const SCHEDULES: usize = 1_000;
/// Changes of who goes on in one schedule of the second kind: bugs rarely need more.
const CHANGES: usize = 3;
/// Steps of the work, between which it looks whether it is still wanted.
const STEPS: usize = 3;

/// The work was told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stopped;

type Outcome = Result<usize, Stopped>;

/// What went on in one run.
#[derive(Debug, Default)]
struct Log {
    going_on: AtomicUsize,
    begun: AtomicUsize,
    ended: AtomicUsize,
}

async fn work(log: Arc<Log>, cx: OpContext<()>) -> Outcome {
    assert_eq!(log.going_on.fetch_add(1, Ordering::SeqCst), 0, "one key is worked on once at a time");
    let number = log.begun.fetch_add(1, Ordering::SeqCst);
    let mut outcome = Ok(number);
    for _ in 0..STEPS {
        if cx.cancel().is_cancelled() {
            outcome = Err(Stopped);
            break;
        }
        yield_now().await;
    }
    log.going_on.fetch_sub(1, Ordering::SeqCst);
    log.ended.fetch_add(1, Ordering::SeqCst);
    outcome
}

async fn board(flights: &Arc<Flights<(), Outcome>>, log: &Arc<Log>) -> Seat<(), Outcome> {
    let info =
        VertexInfo { digest: Digest::of("vertex"), name: "vertex".into(), inputs: Vec::new(), hidden: false };
    let log = log.clone();
    flights.board(Digest::of("key"), Arc::new(info), (), move |cx| work(log, cx)).await
}

/// A build that stays to the end.
async fn stays(flights: Arc<Flights<(), Outcome>>, log: Arc<Log>) {
    let landed: Result<Outcome, Lost> = board(&flights, &log).await.landed().await;
    assert!(matches!(landed, Ok(Ok(_))), "who stays gets the result, whoever leaves: {landed:?}");
}

/// A build that goes away at some moment, perhaps before it has a seat, and perhaps comes back.
async fn leaves(flights: Arc<Flights<(), Outcome>>, log: Arc<Log>) {
    let patience = shuttle::rand::thread_rng().gen_range(0..STEPS * 2);
    let comes_back = shuttle::rand::thread_rng().gen_bool(0.5);
    let seat = board(&flights, &log).await;
    for _ in 0..patience {
        yield_now().await;
    }
    let flight = seat.flight().clone();
    drop(seat);
    if comes_back {
        stays(flights, log).await;
    } else {
        // As the end of a job does: what it started is over when it returns, unless others go on with it.
        if flight.is_going_down() {
            flight.ended().await;
            assert!(flight.is_over());
        }
    }
}

fn run(stay: usize, leave: usize) {
    block_on(async move {
        let (flights, log) = (Flights::new(), Arc::new(Log::default()));
        let mut builds = Vec::new();
        for _ in 0..leave {
            builds.push(spawn(leaves(flights.clone(), log.clone())));
        }
        for _ in 0..stay {
            builds.push(spawn(stays(flights.clone(), log.clone())));
        }
        for build in builds {
            build.await.expect("no build panics");
        }
        // A flight that everybody left ends by itself.
        while flights.len() > 0 {
            yield_now().await;
        }
        let (begun, ended) = (log.begun.load(Ordering::SeqCst), log.ended.load(Ordering::SeqCst));
        assert_eq!((begun, log.going_on.load(Ordering::SeqCst)), (ended, 0), "what was begun has ended");
        assert!(stay == 0 || begun > 0);
    });
}

fn check(stay: usize, leave: usize) {
    let asked = std::env::var("RBUILD_SCHEDULES").ok().and_then(|text| text.parse().ok());
    let schedules = asked.unwrap_or(SCHEDULES);
    shuttle::check_random(move || run(stay, leave), schedules);
    shuttle::check_pct(move || run(stay, leave), schedules, CHANGES);
}

#[test]
fn builds_that_stay_share_one_run() {
    check(3, 0);
}

#[test]
fn a_build_that_stays_is_not_disturbed_by_one_that_leaves() {
    check(1, 1);
}

#[test]
fn builds_that_come_and_go_never_run_a_key_twice_at_a_time_and_leave_nothing() {
    check(2, 2);
    check(0, 3);
}
