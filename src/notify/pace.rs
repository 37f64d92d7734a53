//! How fast notifications go: as fast as they can, unless events wait to be counted.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::lane::Backlog;

/// While events wait, notifications rest so many times as long as they have worked.
/// Their work is the broker's, the database's and the consumers' as well.
const RESTS: u32 = 15;
/// No rest is longer.
const LONGEST: Duration = Duration::from_secs(5);

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

    /// Begins after a pause.
    pub(super) fn begin(&self) {
        let works_since = self.works_since.lock();
        *works_since.unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Rests, if that is called for: to be called after each piece of work.
    pub(super) async fn rest(&self) {
        if self.backlog.is_large() {
            let since = *self
                .works_since
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            tokio::time::sleep((since.elapsed() * RESTS).min(LONGEST)).await;
        }
        self.begin();
    }
}
