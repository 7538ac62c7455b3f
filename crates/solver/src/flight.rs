//! Single flight: work that is going on, found by its resolved key and shared by all who need it.
//!
//! A [`Flight`] is one task that runs an op's `exec` and commits the result. Those who wait hold a [`Seat`] each.
//! When the last seat is given up before the end, the flight is *going down*: its token is cancelled, its task is
//! awaited (never aborted), and who comes meanwhile waits for its end and starts afresh. All of boarding,
//! leaving and landing happens under the table's lock, which is held for a few instructions and never across
//! an await. A task that panics lands too: its guard takes the entry out and the seats see [`Lost`].

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rbuild_digest::Digest;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::graph::VertexInfo;
use crate::op::{Audience, OpContext, Waiter};
use crate::rt::{Mutex, Tasks};

#[cfg(all(test, feature = "shuttle"))]
mod model;

/// The flight ended without an outcome: its task panicked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lost;

/// All that is going on in one solver. `S` is the scope, `R` the outcome.
pub(crate) struct Flights<S, R> {
    table: Mutex<HashMap<Digest, Arc<Flight<S, R>>>>,
    tasks: Tasks,
    tickets: AtomicU64,
}

pub(crate) struct Flight<S, R> {
    key: Digest,
    /// The ticket of who started it.
    starter: u64,
    cancel: CancellationToken,
    audience: Arc<Audience<S>>,
    outcome: watch::Receiver<Option<R>>,
}

impl<S, R> fmt::Debug for Flight<S, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Flight({})", self.key.short())
    }
}

impl<S, R> Flight<S, R> {
    /// Waits until the task is over, whatever came of it.
    pub(crate) async fn ended(&self) {
        let mut outcome = self.outcome.clone();
        while !self.is_over() {
            // An error means that the sender is gone, which is an end as well.
            if outcome.changed().await.is_err() {
                break;
            }
        }
    }

    /// Everybody has left: it is being stopped.
    pub(crate) fn is_going_down(&self) -> bool {
        self.cancel.is_cancelled()
    }

    /// The task is over, or at least its outcome is there.
    pub(crate) fn is_over(&self) -> bool {
        self.outcome.borrow().is_some() || self.outcome.has_changed().is_err()
    }
}

/// A place among those who wait for a flight. Dropping it gives it up.
pub(crate) struct Seat<S: Clone, R> {
    flights: Arc<Flights<S, R>>,
    flight: Arc<Flight<S, R>>,
    ticket: u64,
}

impl<S: Clone, R: Clone> Seat<S, R> {
    /// Waits for the outcome.
    pub(crate) async fn landed(&self) -> Result<R, Lost> {
        let mut outcome = self.flight.outcome.clone();
        let landed = outcome.wait_for(Option::is_some).await.map_err(|_| Lost)?;
        landed.clone().ok_or(Lost)
    }

    /// Whether we joined and who started the flight has left it since.
    pub(crate) fn orphaned(&self) -> bool {
        !self.flight.audience.has(self.flight.starter)
    }

    pub(crate) fn flight(&self) -> &Arc<Flight<S, R>> {
        &self.flight
    }
}

impl<S: Clone, R> Drop for Seat<S, R> {
    fn drop(&mut self) {
        let _table = self.flights.table.lock();
        if self.flight.audience.remove(self.ticket) == 0 && !self.flight.is_over() {
            self.flight.cancel.cancel();
        }
    }
}

impl<S, R> Flights<S, R>
where
    S: Clone + Send + Sync + 'static,
    R: Clone + Send + Sync + 'static,
{
    pub(crate) fn new() -> Arc<Self> {
        let table = Mutex::new(HashMap::new());
        Arc::new(Self { table, tasks: Tasks::default(), tickets: AtomicU64::new(0) })
    }

    pub(crate) fn len(&self) -> usize {
        self.table.lock().len()
    }

    /// Joins the flight of `key`, or starts it with `work`. Waits only while an earlier one is going down.
    pub(crate) async fn board<F, W>(
        self: &Arc<Self>,
        key: Digest,
        vertex: Arc<VertexInfo>,
        scope: S,
        work: F,
    ) -> Seat<S, R>
    where
        F: FnOnce(OpContext<S>) -> W,
        W: Future<Output = R> + Send + 'static,
    {
        let ticket = self.tickets.fetch_add(1, Ordering::Relaxed);
        loop {
            let going_down = {
                let mut table = self.table.lock();
                let waiter = Waiter { vertex: vertex.clone(), scope: scope.clone(), ticket };
                match table.get(&key) {
                    Some(flight) if flight.is_going_down() => flight.clone(),
                    Some(flight) => {
                        flight.audience.add(waiter);
                        return self.seat(flight, ticket);
                    }
                    None => {
                        let (flight, landing) = self.prepare(key, waiter);
                        let cx = OpContext::new(vertex, flight.cancel.clone(), flight.audience.clone());
                        table.insert(key, flight.clone());
                        self.tasks.spawn(landing.run(work(cx)));
                        return self.seat(&flight, ticket);
                    }
                }
            };
            going_down.ended().await;
        }
    }

    fn seat(self: &Arc<Self>, flight: &Arc<Flight<S, R>>, ticket: u64) -> Seat<S, R> {
        Seat { flights: self.clone(), flight: flight.clone(), ticket }
    }

    fn prepare(self: &Arc<Self>, key: Digest, waiter: Waiter<S>) -> (Arc<Flight<S, R>>, Landing<S, R>) {
        let (sender, outcome) = watch::channel(None);
        let audience = Arc::new(Audience::default());
        let starter = waiter.ticket;
        audience.add(waiter);
        let flight = Arc::new(Flight { key, starter, cancel: CancellationToken::new(), audience, outcome });
        (flight, Landing { flights: self.clone(), key, sender })
    }
}

/// Ends a flight: first out of the table, then the news. Also when the work panics.
struct Landing<S, R> {
    flights: Arc<Flights<S, R>>,
    key: Digest,
    sender: watch::Sender<Option<R>>,
}

impl<S, R> Landing<S, R> {
    async fn run<W: Future<Output = R>>(self, work: W) {
        let outcome = work.await;
        self.flights.table.lock().remove(&self.key);
        self.sender.send_replace(Some(outcome));
    }
}

impl<S, R> Drop for Landing<S, R> {
    fn drop(&mut self) {
        if self.sender.borrow().is_none() {
            self.flights.table.lock().remove(&self.key);
        }
    }
}
