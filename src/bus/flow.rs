//! Whether the broker takes what this process publishes.
//!
//! A broker that is short of memory or disk stops reading from connections that
//! publish, and tells them so. lapin then writes nothing more on such a connection:
//! neither publishing nor a good-bye gets an answer, however long one waits.

use futures::{Stream, StreamExt as _};
use lapin::{Connection, Event};
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{info, warn};

/// What the broker says to the connections of this process that publish: an alarm
/// anywhere in a cluster blocks all of them. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Flow {
    state: watch::Sender<State>,
    gauge: Gauge,
}

/// Waits for changes of what the broker says.
pub(super) struct FlowChanges(watch::Receiver<State>);

impl FlowChanges {
    /// Returns after the next change. Cancelling it loses nothing.
    pub(super) async fn next(&mut self) {
        if self.0.changed().await.is_err() {
            // Nobody can say any more.
            std::future::pending::<()>().await;
        }
    }
}

#[derive(Debug, Clone, Default)]
struct State {
    /// The number of connections that are blocked.
    blocked: usize,
    /// Why they are blocked, in the broker's words.
    reason: String,
}

impl Flow {
    /// Shows in a gauge whether any connection is blocked.
    pub fn shown_in(gauge: Gauge) -> Self {
        let state = watch::Sender::default();
        Self { state, gauge }
    }

    /// Why the broker takes nothing, if it does not.
    pub fn blocked(&self) -> Option<String> {
        let state = self.state.borrow();
        (state.blocked > 0).then(|| state.reason.clone())
    }

    /// Whether the broker takes nothing.
    pub fn is_blocked(&self) -> bool {
        self.state.borrow().blocked > 0
    }

    /// Follows what the broker says from now on.
    pub(super) fn changes(&self) -> FlowChanges {
        FlowChanges(self.state.subscribe())
    }

    /// Listens to what the broker says on a connection, for as long as the task is
    /// kept. Nobody else may: listeners would share the words.
    pub(super) fn listen(&self, connection: &Connection) -> JoinSet<()> {
        let events = connection.events_listener();
        let mut listener = Listener {
            flow: self.clone(),
            is_blocked: false,
        };
        // Said before there was anybody to hear it.
        if connection.status().blocked() {
            listener.blocked("unknown".into());
        }
        let mut listening = JoinSet::new();
        listening.spawn(listener.listen(events));
        listening
    }
}

/// Listens to what the broker says on one connection.
struct Listener {
    flow: Flow,
    is_blocked: bool,
}

impl Listener {
    async fn listen(mut self, events: impl Stream<Item = Event>) {
        let mut events = std::pin::pin!(events);
        while let Some(event) = events.next().await {
            match event {
                Event::ConnectionBlocked(reason) => self.blocked(reason),
                // What is lost is not blocked.
                Event::ConnectionUnblocked | Event::Error(_) => self.free(),
                _ => {}
            }
        }
    }

    fn blocked(&mut self, reason: String) {
        if std::mem::replace(&mut self.is_blocked, true) {
            return;
        }
        self.flow.state.send_modify(|state| {
            state.blocked += 1;
            if state.blocked == 1 {
                self.flow.gauge.set(1);
                warn!(
                    reason,
                    "RabbitMQ takes no messages from those who publish: dead letters wait in the database, and notifications wait"
                );
            }
            state.reason = reason;
        });
    }

    fn free(&mut self) {
        if !std::mem::replace(&mut self.is_blocked, false) {
            return;
        }
        self.flow.state.send_modify(|state| {
            state.blocked -= 1;
            if state.blocked == 0 {
                self.flow.gauge.set(0);
                info!("RabbitMQ is no longer known to refuse messages");
            }
        });
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.free();
    }
}
