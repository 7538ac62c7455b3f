//! Is the client still there? Asked every few seconds; a session whose client is silent is closed.

use std::time::Duration;

use rbuild_api::grpc::health::v1::HealthCheckRequest;
use rbuild_api::grpc::health::v1::health_client::HealthClient;
use tokio::time::{Instant, MissedTickBehavior};

use crate::Session;

const INTERVAL: Duration = Duration::from_secs(5);
const TIMEOUT: Duration = Duration::from_secs(15);
/// Failures in a row that end a session: one may be a saturated network.
const MAX_FAILURES: u32 = 2;
/// Shorter wishes of a client are raised to this.
const SHORTEST: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Settings {
    interval: Duration,
    timeout: Duration,
    max_failures: u32,
}

impl Settings {
    pub(crate) fn new(custom: Option<Duration>) -> Self {
        match custom {
            Some(custom) => {
                let wanted = custom.max(SHORTEST);
                Self { interval: wanted, timeout: wanted, max_failures: 1 }
            }
            None => Self { interval: INTERVAL, timeout: TIMEOUT, max_failures: MAX_FAILURES },
        }
    }
}

/// Returns when the session is closed or its client must be taken for dead.
pub(crate) async fn watch(session: &Session, settings: Settings) {
    let mut client = HealthClient::new(session.channel());
    // Not at once: a client that opens a session for a moment only would be asked while it is closing, which Go's
    // HTTP/2 server reports to its user as a connection error.
    let mut ticks = tokio::time::interval_at(Instant::now() + settings.interval, settings.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut failures, mut last) = (0, Duration::ZERO);
    loop {
        tokio::select! {
            () = session.closed() => return,
            _ = ticks.tick() => {}
        }
        let start = Instant::now();
        // A busy client that answered late before is given more time.
        let timeout = settings.timeout.max(last.mul_f64(1.5));
        let answer = tokio::select! {
            () = session.closed() => return,
            answer = tokio::time::timeout(timeout, client.check(HealthCheckRequest::default())) => answer,
        };
        last = start.elapsed().min(settings.timeout * 4);
        let error = match answer {
            Ok(Ok(_)) => {
                failures = 0;
                continue;
            }
            Ok(Err(status)) => status.message().to_owned(),
            Err(_) => format!("no answer within {} ms", timeout.as_millis()),
        };
        failures += 1;
        tracing::debug!(session = session.id(), failures, error, "health check failed");
        if failures >= settings.max_failures {
            tracing::warn!(session = session.id(), error, "session lost: its client does not answer");
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clients_wish_is_raised_to_a_second_and_allows_no_failure() {
        let one = Duration::from_secs(1);
        let expected = Settings { interval: one, timeout: one, max_failures: 1 };
        assert_eq!(Settings::new(Some(Duration::from_millis(10))), expected);
        assert_eq!(Settings::new(None).max_failures, 2);
    }
}
