//! Requests to stop: Ctrl-C, `kill`, a terminal that was closed.

use tokio::signal::unix::{SignalKind, signal};

/// Returns at the next such request. A signal that cannot be listened for keeps its usual effect.
pub(crate) async fn stop() {
    tokio::select! {
        () = one(SignalKind::interrupt()) => {}
        () = one(SignalKind::terminate()) => {}
        () = one(SignalKind::hangup()) => {}
    }
}

async fn one(kind: SignalKind) {
    let received = match signal(kind) {
        Ok(mut signals) => signals.recv().await.is_some(),
        Err(error) => {
            tracing::debug!(%error, "listening for signals");
            false
        }
    };
    if !received {
        std::future::pending().await
    }
}
