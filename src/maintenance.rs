//! Looking after the counters: verifying them against the recorded facts,
//! repairing what differs, rebuilding all from the journal.

pub mod background;
pub mod rebuild;
pub mod sweep;

use std::time::Duration;

use crate::derive::state::{DialogKey, MessageKey};
use crate::retry::Backoff;
use crate::store::verify::Recounted;
use crate::store::verify::RepairReason;
use crate::store::{Class, Store, StoreError};
use crate::verify::Difference;

/// Attempts at one dialog: others may change it while it is being repaired, or
/// the primary may move.
const ATTEMPTS: u32 = 8;
/// The shortest and the longest wait between them.
const DELAY: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(2));

/// Verifies dialogs, and messages of none, one by one, while the service goes on changing them.
#[derive(Debug, Clone)]
pub struct Verifier {
    store: Store,
    repair: Option<RepairReason>,
}

/// What came of one of them.
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
    pub fn new(store: Store, repair: Option<RepairReason>) -> Self {
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
        persistently(move || async move {
            let recounted = self.store.recount(key).await?;
            let repair = self.repair_of(&recounted);
            if let Some(reason) = repair {
                self.store.repair(key, &recounted, reason).await?;
            }
            Ok(verified(recounted, repair.is_some()))
        })
        .await
    }

    /// Recounts a message whose create is not known; `None` if it is by now.
    ///
    /// # Errors
    /// Any [`StoreError`] that did not go away.
    pub async fn placeholder(&self, key: &MessageKey) -> Result<Option<Verified>, StoreError> {
        persistently(move || async move {
            let Some(recounted) = self.store.recount_placeholder(key).await? else {
                return Ok(None);
            };
            let repair = self.repair_of(&recounted);
            if let Some(reason) = repair {
                let repairing = self.store.repair_placeholder(key, &recounted, reason);
                repairing.await?;
            }
            Ok(Some(verified(recounted, repair.is_some())))
        })
        .await
    }

    fn repair_of(&self, recounted: &Recounted) -> Option<&RepairReason> {
        let differs = !recounted.differences.is_empty();
        self.repair.as_ref().filter(|_| differs)
    }
}

fn verified(recounted: Recounted, repaired: bool) -> Verified {
    Verified {
        messages: recounted.messages,
        differences: recounted.differences,
        repaired,
    }
}

/// Tries again what may succeed later.
async fn persistently<T, F>(attempt: impl Fn() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let mut backoff = Backoff::new(DELAY.0, DELAY.1);
    let mut tried = 1;
    loop {
        match attempt().await {
            Err(error) if error.class() != Class::Permanent && tried < ATTEMPTS => {
                tried += 1;
                backoff.wait().await;
            }
            outcome => return outcome,
        }
    }
}
