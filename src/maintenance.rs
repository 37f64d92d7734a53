//! Looking after the counters: verifying them against the recorded facts,
//! repairing what differs, rebuilding all from the journal.

pub mod background;
pub mod rebuild;
pub mod sweep;

use std::time::Duration;

use crate::derive::state::DialogKey;
use crate::retry::Backoff;
use crate::store::repair::Reason;
use crate::store::{Class, Store, StoreError};
use crate::verify::Difference;

/// Attempts at one dialog: others may change it while it is being repaired, or
/// the primary may move.
const ATTEMPTS: u32 = 8;
/// The shortest and the longest wait between them.
const DELAY: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(2));

/// Verifies dialogs one by one, while the service goes on changing them.
#[derive(Debug, Clone)]
pub struct Verifier {
    store: Store,
    repair: Option<Reason>,
}

/// What came of one dialog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Messages looked at.
    pub messages: u64,
    /// What was not as counted.
    pub differences: Vec<Difference>,
    /// Whether it is now.
    pub repaired: bool,
}

impl Verifier {
    /// A verifier that repairs, if there is a reason to.
    pub fn new(store: Store, repair: Option<Reason>) -> Self {
        Self { store, repair }
    }

    /// The store that is verified.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Recounts a dialog; repairs what differs, if that is asked for.
    ///
    /// # Errors
    /// Any [`StoreError`] that did not go away.
    pub async fn dialog(&self, key: &DialogKey) -> Result<Verified, StoreError> {
        let mut backoff = Backoff::new(DELAY.0, DELAY.1);
        let mut attempt = 1;
        loop {
            match self.attempt(key).await {
                Err(error) if error.class() != Class::Permanent && attempt < ATTEMPTS => {
                    attempt += 1;
                    backoff.wait().await;
                }
                outcome => return outcome,
            }
        }
    }

    async fn attempt(&self, key: &DialogKey) -> Result<Verified, StoreError> {
        let recounted = self.store.recount(key).await?;
        let mut repaired = false;
        if let Some(reason) = &self.repair
            && !recounted.differences.is_empty()
        {
            self.store.repair(key, &recounted, reason).await?;
            repaired = true;
        }
        Ok(Verified {
            messages: recounted.messages,
            differences: recounted.differences,
            repaired,
        })
    }
}
