//! Noticing a consumer that has gone silent although there is work, or may be.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::connect::Link;
use super::error::BusError;
use super::session_end::{End, cancelled};
use super::topology;
use crate::config;

/// The time between the first suspicion and the second look.
const SECOND_LOOK_DELAY: Duration = Duration::from_secs(1);

/// Notices when there was no delivery for a while.
#[derive(Debug)]
pub(super) struct Watchdog {
    silence: Duration,
    due: Instant,
    had_delivery: bool,
    suspicious: bool,
}

impl Watchdog {
    pub(super) fn new(silence: Duration) -> Self {
        Self {
            silence,
            due: Instant::now() + silence,
            had_delivery: false,
            suspicious: false,
        }
    }

    /// Notes that there was a delivery.
    pub(super) fn note_delivery(&mut self) {
        self.had_delivery = true;
    }

    /// Returns once there was no delivery for the whole of the time, give
    /// or take once as long. Cancelling it loses nothing.
    pub(super) async fn silent(&mut self) {
        loop {
            if std::mem::take(&mut self.had_delivery) {
                self.suspicious = false;
                self.due = Instant::now() + self.silence;
            }
            sleep_until(self.due).await;
            if !self.had_delivery {
                return;
            }
        }
    }

    /// Looks at the queue on another channel. `idle` says that no delivery is
    /// being worked on: else silence is no reason to worry.
    ///
    /// An empty queue is none to rest at: when a quorum queue's leader dies,
    /// deliveries can be lost on the way to a consumer that the new leader
    /// believes to hold them (rabbitmq-server issue 15473), and neither side
    /// would ever speak of them again. Consuming anew brings them back.
    pub(super) async fn look(
        &mut self,
        idle: bool,
        link: &Link,
        bus: &config::Bus,
    ) -> Result<(), End> {
        if !idle {
            self.rest();
            return Ok(());
        }
        match topology::counts(link, "bus.queue", &bus.queue).await {
            Ok(None) => Err(cancelled(&bus.queue)),
            Ok(Some(counts)) if counts.ready == 0 => Err(End::Quiet),
            Ok(Some(_)) if !self.suspicious => {
                self.suspicious = true;
                self.due = Instant::now() + SECOND_LOOK_DELAY.min(self.silence);
                Ok(())
            }
            Ok(Some(counts)) => Err(self.restart(format!(
                "{} messages are ready, and none was delivered for {} s",
                counts.ready,
                self.silence.as_secs()
            ))),
            Err(error) => Err(self.restart(format!("the broker does not answer: {error}"))),
        }
    }

    fn rest(&mut self) {
        self.suspicious = false;
        self.due = Instant::now() + self.silence;
    }

    fn restart(&self, why: String) -> End {
        let doing = "consuming".into();
        let error = BusError::Lost { doing, why };
        End::Broken {
            kind: "watchdog",
            error,
        }
    }
}
