//! Why a session with the broker ends.

use super::error::BusError;

/// Why a session no longer forwards.
#[derive(Debug)]
pub(super) enum End {
    /// A shutdown was requested, or nobody receives deliveries any more.
    Stopped,
    /// Nothing was delivered for a while, and nothing waits.
    Quiet,
    /// The store has taken nothing for as long as deliveries may be held.
    Held,
    /// More bytes are on their way than may be in hand.
    Full,
    /// The session broke; `kind` is its label in the metrics.
    Broken { kind: &'static str, error: BusError },
}

/// The end of a session whose consumer the broker has cancelled.
pub(super) fn cancelled(queue: &str) -> End {
    End::Broken {
        kind: "cancelled",
        error: BusError::Cancelled {
            queue: queue.into(),
        },
    }
}
