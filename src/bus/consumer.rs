//! The consumer that never gives up: sessions one after the other.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{info, warn};

use super::connect;
use super::dead_letters::{DeadLetterPublisher, UnsettledLetter};
use super::delivery::{Delivery, FailedMessage};
use super::error::BusError;
use super::failure_log::FailureLog;
use super::flow::Flow;
use super::intake::{Intake, Window};
use super::session::{Consuming, Session};
use super::session_end::End;
use crate::config;
use crate::outage::Outage;
use crate::retry::Backoff;
use crate::shutdown::Shutdown;
use crate::telemetry::metrics::{Label, Metrics};

/// Consumes the service's queue, for ever.
pub(crate) struct Consumer {
    bus: Arc<config::Bus>,
    retry: config::Retry,
    metrics: Metrics,
    health: watch::Sender<bool>,
    intake: Arc<Intake>,
    window: Window,
    outage: Outage,
    flow: Flow,
    backoff: Backoff,
    failures: FailureLog,
    /// A session that is open already.
    next: Option<Session>,
}

impl Consumer {
    /// Connects once and declares and checks exchange, queues and binding.
    ///
    /// A broker that cannot be reached is no error: [`run`](Consumer::run)
    /// goes on trying.
    ///
    /// # Errors
    /// Only one that [`BusError::is_for_operator`]: a wrong URL, host, user,
    /// password, virtual host or permission, or an exchange or queue that
    /// exists in a form under which events could be lost.
    pub(crate) async fn open(
        config: config::Bus,
        retry: config::Retry,
        metrics: Metrics,
        (outage, flow): (Outage, Flow),
    ) -> Result<Consumer, BusError> {
        let intake = Intake::new(config.prefetch_bytes);
        let mut failures = FailureLog::new("consuming nothing");
        let next = match Session::open(&config, &intake).await {
            Ok(session) => Some(session),
            Err(error) if error.is_for_operator() => return Err(error),
            Err(error) => {
                failures.failed(&error);
                None
            }
        };
        Ok(Consumer {
            window: Window::new(&config),
            bus: Arc::new(config),
            intake,
            outage,
            flow,
            backoff: Backoff::configured(&retry),
            retry,
            metrics,
            health: watch::Sender::new(false),
            failures,
            next,
        })
    }

    /// Whether the consumer is connected and consuming; false at first.
    pub(crate) fn health(&self) -> watch::Receiver<bool> {
        self.health.subscribe()
    }

    /// Forwards deliveries into `sink`, settles them, and reconnects after
    /// whatever goes wrong. Dead letters that are in their queue, or cannot get
    /// there now, come out of `unsettled`, for someone to settle.
    ///
    /// Returns once a shutdown was requested (or the receiver of `sink` is
    /// gone), `sink` was dropped, every delivery handed out is settled or
    /// dropped, and the connections are closed. A deadline for that is the
    /// caller's: dropping the future cuts everything off, and the broker
    /// delivers again what was not settled.
    pub(crate) async fn run(
        mut self,
        sink: mpsc::Sender<Delivery>,
        unsettled: mpsc::Sender<UnsettledLetter>,
        shutdown: Shutdown,
    ) {
        #[allow(clippy::disallowed_methods, reason = "the prefetch is its limit")]
        let (letters, incoming) = mpsc::unbounded_channel();
        let (bus, metrics) = (self.bus.clone(), self.metrics.clone());
        let flow = self.flow.clone();
        let framed = (bus, connect::requested_frame_max(&self.bus).await);
        let publishing = DeadLetterPublisher::new(
            framed,
            Backoff::configured(&self.retry),
            metrics,
            flow,
            unsettled,
        );
        let mut tasks = JoinSet::new();
        tasks.spawn(publishing.run(incoming, shutdown.clone()));
        self.sessions(sink, &shutdown, letters).await;
        self.health.send_replace(false);
        // Ends by itself: every sender of letters is gone.
        tasks.join_next().await;
    }

    /// One session after the other until the shutdown.
    async fn sessions(
        &mut self,
        sink: mpsc::Sender<Delivery>,
        shutdown: &Shutdown,
        letters: mpsc::UnboundedSender<FailedMessage>,
    ) {
        while let Some(session) = self.connected(shutdown).await {
            if self.outage.has_lasted(self.held_for()) {
                self.rest(shutdown).await;
            }
            let (metrics, began) = (self.metrics.clone(), Instant::now());
            let consuming = session.consume(&self.bus, &self.window, letters.clone(), metrics);
            let mut consuming = match consuming.await {
                Ok(consuming) => consuming,
                Err(error) => {
                    self.broken("connection", &error, began, shutdown).await;
                    continue;
                }
            };
            self.failures.succeeded("consuming");
            self.health.send_replace(true);
            let heeded = (&self.outage, shutdown);
            let end = consuming.forward(&self.bus, &mut self.window, &sink, heeded);
            match end.await {
                End::Stopped => {
                    drop(sink);
                    self.health.send_replace(false);
                    return consuming.drain().await;
                }
                End::Quiet => {
                    self.count_restart("quiet");
                    self.next = consuming.renew(&self.bus).await.ok();
                    self.health.send_replace(self.next.is_some());
                }
                End::Held => self.hold(consuming, shutdown).await,
                End::Full => self.ease(consuming).await,
                End::Broken { kind, error } => {
                    consuming.abandon().await;
                    self.broken(kind, &error, began, shutdown).await;
                }
            }
        }
    }

    /// Hands back what is held for a store that takes nothing, and consumes
    /// nothing until it does. A broker loses patience with whoever holds messages
    /// for long, and each time counts as a failed delivery; so does handing back,
    /// but it is once an outage.
    async fn hold(&mut self, consuming: Consuming, shutdown: &Shutdown) {
        self.count_restart("held");
        self.health.send_replace(false);
        warn!(
            seconds = self.bus.hold_seconds,
            "the store has taken nothing for bus.hold_seconds: all deliveries are handed back, and nothing is consumed until it does"
        );
        consuming.abandon().await;
        self.window.restart();
        self.rest(shutdown).await;
    }

    /// Until the store takes events.
    async fn rest(&self, shutdown: &Shutdown) {
        self.metrics.bus.consumer_paused.set(1);
        tokio::select! {
            () = self.outage.ended() => info!("the store takes events again: consuming"),
            () = shutdown.requested() => {}
        }
        self.metrics.bus.consumer_paused.set(0);
    }

    fn held_for(&self) -> Duration {
        Duration::from_secs(self.bus.hold_seconds)
    }

    /// Begins anew with a smaller window, once less is in hand.
    async fn ease(&mut self, consuming: Consuming) {
        self.count_restart("full");
        self.health.send_replace(false);
        self.window.narrow(consuming.heaviest());
        info!(
            limit = self.bus.prefetch_bytes,
            prefetch = self.window.wide(),
            "deliveries are larger than bus.prefetch_bytes allows for so many at once: consuming fewer"
        );
        consuming.cut().await;
    }

    /// A session broke, or did not begin; the next one may wait.
    async fn broken(
        &mut self,
        kind: &'static str,
        error: &BusError,
        began: Instant,
        shutdown: &Shutdown,
    ) {
        self.health.send_replace(false);
        self.window.restart();
        self.count_restart(kind);
        self.failures.failed(error);
        self.pause(began, shutdown).await;
    }

    fn count_restart(&self, kind: &'static str) {
        let restarts = &self.metrics.bus.consumer_restarts;
        restarts.get_or_create(&Label { kind }).inc();
    }

    /// A session, as soon as there can be one; `None` on a shutdown.
    async fn connected(&mut self, shutdown: &Shutdown) -> Option<Session> {
        if let Some(next) = self.next.take() {
            return Some(next);
        }
        loop {
            // What sessions before this one had is in hand still: of a new one not
            // even the first words could be read.
            tokio::select! {
                biased;
                () = shutdown.requested() => return None,
                () = self.intake.eased() => {}
            }
            let opened = tokio::select! {
                biased;
                () = shutdown.requested() => return None,
                opened = Session::open(&self.bus, &self.intake) => opened,
            };
            match opened {
                Ok(session) => return Some(session),
                Err(error) => self.failures.failed(&error),
            }
            tokio::select! {
                biased;
                () = shutdown.requested() => return None,
                () = self.backoff.wait() => {}
            }
        }
    }

    /// Waits before the next session, longer and longer while they are short.
    async fn pause(&mut self, began: Instant, shutdown: &Shutdown) {
        if began.elapsed() > Duration::from_millis(self.retry.max_ms) {
            self.backoff.reset();
        }
        tokio::select! {
            biased;
            () = shutdown.requested() => {}
            () = self.backoff.wait() => {}
        }
    }
}
