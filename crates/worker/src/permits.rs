use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::error::OpError;

/// How much real work runs at once. Held around running a process or changing files; never while waiting for an
/// input, a lock or a client, so there is nothing to deadlock on.
#[derive(Debug, Clone)]
pub struct Permits {
    semaphore: Option<Arc<Semaphore>>,
}

impl Permits {
    /// `parallelism` at once; 0 is no limit.
    pub fn new(parallelism: usize) -> Self {
        let semaphore =
            (parallelism > 0).then(|| Arc::new(Semaphore::new(parallelism.min(Semaphore::MAX_PERMITS))));
        Self { semaphore }
    }

    /// Waits for a permit, or for `cancel`.
    pub(crate) async fn take(
        &self,
        cancel: &CancellationToken,
    ) -> Result<Option<OwnedSemaphorePermit>, OpError> {
        let Some(semaphore) = &self.semaphore else { return Ok(None) };
        tokio::select! {
            biased;
            () = cancel.cancelled() => Err(OpError::Cancelled),
            permit = semaphore.clone().acquire_owned() => {
                permit.map(Some).map_err(|_| OpError::Internal { detail: "permits were closed".into() })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_waiting_step_can_be_cancelled() {
        let permits = Permits::new(1);
        let cancel = CancellationToken::new();
        let held = permits.take(&cancel).await.unwrap();
        let (waited, ()) = tokio::join!(permits.take(&cancel), async { cancel.cancel() });
        assert!(matches!(waited, Err(OpError::Cancelled)));
        drop(held);
        assert!(permits.take(&CancellationToken::new()).await.unwrap().is_some());
        assert!(Permits::new(0).take(&cancel).await.unwrap().is_none());
    }
}
