//! How fast notifications go: as fast as they can, unless events wait to be counted.
//!
//! No [rate limit](crate::rate_limit): how much one round costs the others is known
//! only by how long it took, so each round is followed by a rest in proportion.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::lane::Backlog;

/// While events wait, notifications rest so many times as long as they have
/// worked: their work is the broker's, the database's and the consumers' as
/// well.
const REST_PER_WORK: u32 = 15;
/// The longest rest.
const MAX_REST: Duration = Duration::from_secs(5);

/// Leaves the machine to counting, while that has more to do than it can.
#[derive(Debug)]
pub(super) struct Pace {
    backlog: Backlog,
    /// Since when work is done without a rest.
    works_since: Mutex<Instant>,
}

impl Pace {
    pub(super) fn new(backlog: Backlog) -> Self {
        Self {
            backlog,
            works_since: Mutex::new(Instant::now()),
        }
    }

    /// Begins to measure work, after a pause.
    pub(super) fn begin(&self) {
        let works_since = self.works_since.lock();
        *works_since.unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Rests, if events wait to be counted; called after each piece of work.
    pub(super) async fn rest(&self) {
        if self.backlog.is_large() {
            let since = *self
                .works_since
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            tokio::time::sleep((since.elapsed() * REST_PER_WORK).min(MAX_REST)).await;
        }
        self.begin();
    }
}
