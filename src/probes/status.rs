//! The status of the process: what an orchestrator asks before it sends calls,
//! restarts, or goes on with a rollout.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

use crate::shutdown::Shutdown;
use crate::telemetry::metrics::Metrics;

/// Seconds after which a broker that has not answered counts as silent: it is
/// asked once a second.
const SILENT_AFTER_SECONDS: i64 = 5;

/// What is known of the parts of the service, each told by whoever knows it.
/// Clones are the same.
#[derive(Debug, Clone)]
pub struct Status {
    /// Whether the store answers.
    pub store: watch::Sender<bool>,
    /// Whether events are being consumed.
    pub consuming: watch::Sender<bool>,
    metrics: Metrics,
    shutdown: Shutdown,
}

impl Status {
    /// Of a service of which nothing is known yet.
    pub fn new(metrics: Metrics, shutdown: Shutdown) -> Self {
        Self {
            store: watch::Sender::new(false),
            consuming: watch::Sender::new(false),
            metrics,
            shutdown,
        }
    }

    /// Whether calls are to be sent here: reads are answered, and no stop is
    /// near. A broker that is down is none of it: reads go on without.
    pub fn is_ready(&self) -> bool {
        *self.store.borrow() && !self.shutdown.is_leaving()
    }

    /// Whether everything works, consuming too.
    pub fn is_whole(&self) -> bool {
        let silent = self
            .silence()
            .is_some_and(|seconds| seconds > SILENT_AFTER_SECONDS);
        self.is_ready() && *self.consuming.borrow() && !silent
    }

    /// Seconds since the broker last answered the question that it is asked once
    /// a second; `None` when it never did.
    fn silence(&self) -> Option<i64> {
        since(self.metrics.bus.answered_at.get())
    }

    /// Each part in a line of its own.
    pub fn verbose(&self) -> String {
        let ready = if self.is_ready() { "yes" } else { "no" };
        let store = match *self.store.borrow() {
            true => "answers".to_owned(),
            false => "does not answer".to_owned(),
        };
        let broker = match self.silence() {
            None => "has not answered yet".to_owned(),
            Some(seconds @ ..=SILENT_AFTER_SECONDS) => format!("answered {seconds} s ago"),
            Some(seconds) => format!("silent for {seconds} s"),
        };
        let consuming = match (
            *self.consuming.borrow(),
            self.metrics.bus.consumer_paused.get() == 1,
        ) {
            (true, _) => "yes",
            (false, true) => "paused, as the store takes nothing",
            (false, false) => "no",
        };
        let blocked = match self.metrics.bus.blocked.get() {
            0 => "no",
            _ => "the broker takes no messages: dead letters wait in the database",
        };
        let topology = match self.metrics.bus.topology_broken.get() {
            0 => "events find their way to the queue",
            _ => "not certain that events find their way to the queue",
        };
        let progress = match since(self.metrics.events.last_settled_at.get()) {
            None => "no event settled yet".to_owned(),
            Some(seconds) => format!("last event settled {seconds} s ago"),
        };
        let stopping = match self.shutdown.is_leaving() {
            true => "yes",
            false => "no",
        };
        let mut text = String::new();
        for (what, how) in [
            ("ready", ready),
            ("store", &store),
            ("broker", &broker),
            ("blocked", blocked),
            ("consuming", consuming),
            ("topology", topology),
            ("progress", &progress),
            ("stopping", stopping),
        ] {
            let _ = writeln!(text, "{what}: {how}");
        }
        text
    }
}

/// Seconds since a time in seconds since the epoch; `None` for 0, which is none.
fn since(at: i64) -> Option<i64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    let now = i64::try_from(now.as_secs()).ok()?;
    (at != 0).then(|| (now - at).max(0))
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;

    use super::*;
    use crate::shutdown;

    fn now() -> i64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        now.as_secs().try_into().unwrap()
    }

    #[test]
    fn reads_make_ready_and_all_of_it_makes_whole() {
        let (trigger, shutdown) = shutdown::channel();
        let metrics = Metrics::new(&mut Registry::default());
        let status = Status::new(metrics.clone(), shutdown);
        assert!(!status.is_ready());
        status.store.send_replace(true);
        assert!(status.is_ready() && !status.is_whole());
        status.consuming.send_replace(true);
        assert!(status.is_whole());
        metrics.bus.answered_at.set(now() - 60);
        assert!(status.is_ready() && !status.is_whole());
        assert!(status.verbose().contains("broker: silent for 6"));
        metrics.bus.answered_at.set(now());
        assert!(status.is_whole());
        trigger.leave();
        assert!(!status.is_ready() && !status.is_whole());
        assert!(status.verbose().contains("stopping: yes"));
    }
}
