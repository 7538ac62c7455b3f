use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::error::OpError;

/// How much real work runs at once. Held around running a process or changing files; never while waiting for an
/// input, a lock or a client, so there is nothing to deadlock on.
///
/// Who waits is served by fair share: the build with the least work going on is next; within a build the step
/// with the longest way to the end, as far as earlier runs tell; then who came first.
#[derive(Debug, Clone)]
pub struct Permits {
    shared: Arc<Shared>,
}

/// For whom a permit is asked.
#[derive(Debug, Clone)]
pub(crate) struct Claim {
    /// The build that pays for it: of several that wait for a step, the first.
    pub(crate) build: Arc<str>,
    /// Milliseconds from here to the end of the build.
    pub(crate) way_ms: u64,
}

/// Leave to work, until it is dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    shared: Arc<Shared>,
    build: Arc<str>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    free: usize,
    /// Permits in use, by build; those without any are left out.
    running: HashMap<Arc<str>, usize>,
    waiting: Vec<Waiting>,
    arrivals: u64,
}

#[derive(Debug)]
struct Waiting {
    claim: Claim,
    arrival: u64,
    served: oneshot::Sender<Permit>,
}

impl State {
    /// Takes out the one who is next.
    fn next(&mut self) -> Option<Waiting> {
        let rank = |waiting: &Waiting| {
            let running = self.running.get(&waiting.claim.build).copied().unwrap_or(0);
            (running, std::cmp::Reverse(waiting.claim.way_ms), waiting.arrival)
        };
        // One look at each: a waiting step stands for a process to run, and there are never many of those.
        let (index, _) = self.waiting.iter().enumerate().min_by_key(|(_, waiting)| rank(waiting))?;
        Some(self.waiting.swap_remove(index))
    }
}

impl Shared {
    /// Gives free permits to those who wait.
    fn serve(self: &Arc<Self>) {
        // Those who went away give theirs back, which takes the lock: dropped after it is let go.
        let mut refused = Vec::new();
        let mut state = self.state.lock();
        while state.free > 0 {
            let Some(waiting) = state.next() else { break };
            let permit = self.grant(&mut state, &waiting.claim);
            if let Err(permit) = waiting.served.send(permit) {
                refused.push(permit);
            }
        }
        drop(state);
        drop(refused);
    }

    fn grant(self: &Arc<Self>, state: &mut State, claim: &Claim) -> Permit {
        state.free -= 1;
        *state.running.entry(claim.build.clone()).or_default() += 1;
        Permit { shared: self.clone(), build: claim.build.clone() }
    }
}

impl Permits {
    /// `parallelism` at once; 0 is no limit.
    pub fn new(parallelism: usize) -> Self {
        let free = if parallelism == 0 { usize::MAX } else { parallelism };
        let state = State { free, running: HashMap::new(), waiting: Vec::new(), arrivals: 0 };
        Self { shared: Arc::new(Shared { state: Mutex::new(state) }) }
    }

    /// How many are in use.
    pub(crate) fn in_use(&self) -> usize {
        self.shared.state.lock().running.values().sum()
    }

    /// Waits for a permit, or for `cancel`.
    pub(crate) async fn take(&self, claim: Claim, cancel: &CancellationToken) -> Result<Permit, OpError> {
        let shared = &self.shared;
        let permit = {
            let mut state = shared.state.lock();
            let (served, permit) = oneshot::channel();
            state.arrivals += 1;
            let arrival = state.arrivals;
            state.waiting.push(Waiting { claim, arrival, served });
            permit
        };
        shared.serve();
        tokio::select! {
            biased;
            () = cancel.cancelled() => Err(OpError::Cancelled),
            permit = permit => {
                permit.map_err(|_| OpError::Internal { detail: "a permit was lost".into() })
            }
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        {
            let mut state = self.shared.state.lock();
            state.free += 1;
            if let Some(running) = state.running.get_mut(&self.build) {
                *running -= 1;
                if *running == 0 {
                    state.running.remove(&self.build);
                }
            }
        }
        self.shared.serve();
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn claim(build: &str, way_ms: u64) -> Claim {
        Claim { build: build.into(), way_ms }
    }

    /// Who is served, in order, when permits come free one by one and are kept.
    async fn order(permits: &Permits, held: Vec<Permit>, claims: &[(&str, u64)]) -> Vec<(String, u64)> {
        let cancel = CancellationToken::new();
        let served = Arc::new(Mutex::new(Vec::new()));
        let mut waiting = futures::stream::FuturesUnordered::new();
        for (build, way) in claims {
            let (cancel, served) = (&cancel, served.clone());
            let mut take = Box::pin(async move {
                let permit = permits.take(claim(build, *way), cancel).await.unwrap();
                served.lock().push((build.to_string(), *way));
                permit
            });
            // In line now, in this order.
            assert!((&mut take).now_or_never().is_none());
            waiting.push(take);
        }
        let mut kept = Vec::new();
        for permit in held {
            drop(permit);
            kept.push(futures::StreamExt::next(&mut waiting).await);
        }
        served.lock().clone()
    }

    async fn held(permits: &Permits, build: &str, count: usize) -> Vec<Permit> {
        let cancel = CancellationToken::new();
        let mut held = Vec::new();
        for _ in 0..count {
            held.push(permits.take(claim(build, 0), &cancel).await.unwrap());
        }
        held
    }

    #[tokio::test]
    async fn a_waiting_step_can_be_cancelled() {
        let permits = Permits::new(1);
        let cancel = CancellationToken::new();
        let held = permits.take(claim("a", 0), &cancel).await.unwrap();
        let (waited, ()) = tokio::join!(permits.take(claim("a", 0), &cancel), async { cancel.cancel() });
        assert!(matches!(waited, Err(OpError::Cancelled)));
        drop(held);
        // The place of the one who left is nobody's.
        let fresh = CancellationToken::new();
        drop(permits.take(claim("a", 0), &fresh).await.unwrap());
        assert_eq!(permits.in_use(), 0);
        let unlimited = Permits::new(0);
        let held = self::held(&unlimited, "a", 100).await;
        assert_eq!((held.len(), unlimited.in_use()), (100, 100));
    }

    #[tokio::test]
    async fn a_small_build_does_not_wait_for_all_of_a_large_one() {
        let permits = Permits::new(3);
        let held = held(&permits, "large", 3).await;
        let claims = [("large", 0), ("large", 0), ("large", 0), ("small", 0)];
        let served = order(&permits, held, &claims).await;
        assert_eq!(served[0].0, "small", "{served:?}");
        assert_eq!(served.len(), 3);
    }

    #[tokio::test]
    async fn within_a_build_the_longest_way_goes_first_then_who_came_first() {
        let permits = Permits::new(3);
        let held = held(&permits, "a", 3).await;
        let served = order(&permits, held, &[("a", 5), ("a", 70), ("a", 7), ("a", 70)]).await;
        let ways: Vec<u64> = served.iter().map(|(_, way)| *way).collect();
        assert_eq!(ways, [70, 70, 7]);
    }

    #[tokio::test]
    async fn all_permits_come_back() {
        let permits = Permits::new(2);
        for _ in 0..10 {
            drop(held(&permits, "a", 2).await);
        }
        let state = permits.shared.state.lock();
        assert_eq!((state.free, state.running.len(), state.waiting.len()), (2, 0, 0));
    }
}
