use std::sync::Arc;
use std::time::Duration;

use crate::builds::Builds;

/// How long no build may have run before memory is given back: a client's next build should not wait for it.
const QUIET: Duration = Duration::from_secs(1);

/// Gives memory back to the system whenever the last build has ended. Never ends; to be dropped.
pub(crate) async fn give_back_memory(builds: Arc<Builds>) {
    loop {
        builds.idle().await;
        tokio::time::sleep(QUIET).await;
        if builds.is_empty()
            && let Err(error) = tokio::task::spawn_blocking(rbuild_sys::memory::trim).await
        {
            tracing::warn!(%error, "giving memory back");
        }
    }
}
