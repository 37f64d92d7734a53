//! Whether the store can be reached: probed in the background, told by
//! `grpc.health.v1`, and a reason not to keep callers waiting.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::shutdown::Shutdown;
use crate::store::read::{ReadError, Reader};

/// The time between the end of a probe and the next one.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// A probe unanswered for so long says that the store is not reachable.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// A probe unanswered for so long is given up, and another one sent.
const LATE_PROBE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long calls wait for a store that is not reachable: the time of an
/// election, so that callers see a delay rather than errors.
const OUTAGE_TOLERANCE: Duration = Duration::from_secs(3);

/// Tells whether the store can be reached, as the latest probe found.
#[derive(Debug, Clone)]
pub(super) struct StoreState(watch::Receiver<Reachability>);

/// Whether the store can be reached, and since when it cannot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reachability {
    Reachable,
    UnreachableSince(Instant),
}

impl StoreState {
    /// Tells whether the latest probe failed.
    pub(super) fn is_unreachable(&self) -> bool {
        *self.0.borrow() != Reachability::Reachable
    }

    /// Tells whether it has not been reachable for longer than callers are to wait.
    pub(super) fn is_lost(&self) -> bool {
        match *self.0.borrow() {
            Reachability::Reachable => false,
            Reachability::UnreachableSince(since) => since.elapsed() >= OUTAGE_TOLERANCE,
        }
    }

    /// Returns once [`StoreState::is_lost`].
    pub(super) async fn lost(&self) {
        let mut known = self.0.clone();
        loop {
            let give_up = match *known.borrow_and_update() {
                Reachability::UnreachableSince(since) => Some(since + OUTAGE_TOLERANCE),
                Reachability::Reachable => None,
            };
            tokio::select! {
                () = sleep_until_some(give_up) => return,
                changed = known.changed() => if changed.is_err() {
                    // Nobody probes any more: nothing is known.
                    return std::future::pending().await;
                },
            }
        }
    }
}

async fn sleep_until_some(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// A probe that is not answered yet.
type RunningProbe = JoinHandle<Result<bool, ReadError>>;

/// Probes the store and keeps the health service truthful.
pub(super) struct Probe {
    reader: Reader,
    reporter: HealthReporter,
    services: &'static [&'static str],
    known: watch::Sender<Reachability>,
    ready: watch::Sender<bool>,
    /// Whether a stop is near: nothing is said to be serving any more.
    leaving: AtomicBool,
}

impl Probe {
    /// Makes a probe, whose services are not serving before the first probe was
    /// answered.
    pub(super) async fn new(
        reader: Reader,
        reporter: HealthReporter,
        services: &'static [&'static str],
        ready: watch::Sender<bool>,
    ) -> (Self, StoreState) {
        let (known, state) = watch::channel(Reachability::UnreachableSince(Instant::now()));
        let probe = Self {
            reader,
            reporter,
            services,
            known,
            ready,
            leaving: AtomicBool::new(false),
        };
        probe.tell(ServingStatus::NotServing).await;
        (probe, StoreState(state))
    }

    /// Probes until the stop, then lets go of all watchers, who are told when it
    /// is near.
    pub(super) async fn run(mut self, shutdown: Shutdown) {
        let mut asking = None;
        tokio::select! {
            () = shutdown.requested() => {}
            () = self.probe_forever(&mut asking) => {}
            () = self.tell_of_leaving(&shutdown) => {}
        }
        if let Some(asking) = asking {
            // An end of the process in the middle of it would make the driver panic.
            let _ = tokio::time::timeout(PROBE_TIMEOUT, asking).await;
        }
        self.tell(ServingStatus::NotServing).await;
        self.ready.send_replace(false);
        // Ends the streams of watchers, which would keep the server open.
        for service in self.services {
            self.reporter.clear_service_status(service).await;
        }
    }

    /// Calls are answered on, and none is to be sent here any more.
    async fn tell_of_leaving(&self, shutdown: &Shutdown) {
        shutdown.leaving().await;
        self.leaving.store(true, Ordering::Release);
        self.tell(ServingStatus::NotServing).await;
        std::future::pending().await
    }

    /// `asking` is the probe under way, whenever this is dropped.
    async fn probe_forever(&self, asking: &mut Option<RunningProbe>) {
        loop {
            let reader = self.reader.clone();
            // Spawned: the driver's futures are not to be dropped half-way.
            let probe = asking.insert(tokio::spawn(async move { reader.probe().await }));
            match tokio::time::timeout(PROBE_TIMEOUT, &mut *probe).await {
                Ok(outcome) => self.learn(reason(outcome)).await,
                Err(_elapsed) => {
                    self.learn(Some("no answer".to_owned())).await;
                    self.await_late(probe).await;
                }
            }
            *asking = None;
            tokio::time::sleep(PROBE_INTERVAL).await;
        }
    }

    async fn await_late(&self, probe: &mut RunningProbe) {
        if let Ok(outcome) = tokio::time::timeout(LATE_PROBE_TIMEOUT, probe).await {
            self.learn(reason(outcome)).await;
        }
    }

    /// Takes note of a probe, given why it failed, if it did.
    async fn learn(&self, failure: Option<String>) {
        let now = Instant::now();
        let status = match &failure {
            None => ServingStatus::Serving,
            Some(_) => ServingStatus::NotServing,
        };
        let mut announce = false;
        self.known.send_if_modified(|known| {
            let next = match (*known, &failure) {
                (_, None) => Reachability::Reachable,
                (Reachability::Reachable, Some(_)) => Reachability::UnreachableSince(now),
                (since @ Reachability::UnreachableSince(_), Some(_)) => since,
            };
            announce = *known != next;
            *known = next;
            announce
        });
        if announce {
            match failure {
                None => tracing::info!("the store answers: serving"),
                Some(reason) => tracing::warn!(reason, "the store cannot be reached: not serving"),
            }
            self.ready.send_replace(status == ServingStatus::Serving);
            self.tell(status).await;
        }
    }

    async fn tell(&self, status: ServingStatus) {
        let status = match self.leaving.load(Ordering::Acquire) {
            true => ServingStatus::NotServing,
            false => status,
        };
        for service in self.services {
            self.reporter.set_service_status(service, status).await;
        }
    }
}

/// Why a probe failed, if it did.
fn reason(outcome: Result<Result<bool, ReadError>, tokio::task::JoinError>) -> Option<String> {
    match outcome {
        Ok(Ok(true)) => None,
        Ok(Ok(false)) => Some("the server is not a writable primary".to_owned()),
        Ok(Err(error)) => Some(error.to_string()),
        Err(panicked) => Some(panicked.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn is_lost(state: &StoreState) -> bool {
        let soon = Duration::from_millis(50);
        let lost = tokio::time::timeout(soon, state.lost()).await.is_ok();
        assert_eq!(lost, state.is_lost());
        lost
    }

    #[tokio::test]
    async fn a_store_is_lost_after_the_grace_and_found_again() {
        let long_ago = Instant::now().checked_sub(OUTAGE_TOLERANCE).unwrap();
        let (known, state) = watch::channel(Reachability::Reachable);
        let state = StoreState(state);
        assert!(!is_lost(&state).await);
        known.send_replace(Reachability::UnreachableSince(Instant::now()));
        assert!(!is_lost(&state).await);
        known.send_replace(Reachability::UnreachableSince(long_ago));
        assert!(is_lost(&state).await);
        known.send_replace(Reachability::Reachable);
        assert!(!is_lost(&state).await);
    }
}
