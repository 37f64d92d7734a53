//! Looking after the counters: verifying them against the recorded facts,
//! repairing what differs, rebuilding all from the journal.

pub(crate) mod background;
pub mod rebuild;
pub(crate) mod sweep;

use std::time::Duration;

use crate::derive::state::{DialogKey, MessageKey};
use crate::retry::Backoff;
use crate::store::verify::Recounted;
use crate::store::verify::RepairReason;
use crate::store::{Class, Store, StoreError};
use crate::verify::Difference;

/// The most attempts at one dialog: others may change it while it is being
/// repaired, or the primary may move.
const MAX_ATTEMPTS: u32 = 8;
/// The shortest wait between two attempts.
const MIN_DELAY: Duration = Duration::from_millis(20);
/// The longest wait between two attempts.
const MAX_DELAY: Duration = Duration::from_secs(2);

/// Verifies dialogs, and messages of none, one by one, while the service goes on changing them.
#[derive(Debug, Clone)]
pub(crate) struct Verifier {
    store: Store,
    repair: Option<RepairReason>,
}

/// What came of verifying a dialog, or a message of none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verified {
    /// The number of messages that were recounted.
    pub(crate) messages: u64,
    /// The counters that were not stored as they are counted.
    pub(crate) differences: Vec<Difference>,
    /// Whether all of them are now stored as they are counted.
    pub(crate) repaired: bool,
}

impl Verifier {
    /// Makes a verifier that repairs, if there is a reason to.
    pub(crate) fn new(store: Store, repair: Option<RepairReason>) -> Self {
        Self { store, repair }
    }

    /// Returns the store that is verified.
    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// Recounts a dialog, and repairs what differs if that is asked for.
    ///
    /// # Errors
    /// Any [`StoreError`] that did not go away.
    pub(crate) async fn dialog(&self, key: &DialogKey) -> Result<Verified, StoreError> {
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
    pub(crate) async fn placeholder(
        &self,
        key: &MessageKey,
    ) -> Result<Option<Verified>, StoreError> {
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
    let mut backoff = Backoff::new(MIN_DELAY, MAX_DELAY);
    let mut tried = 1;
    loop {
        match attempt().await {
            Err(error) if error.class() != Class::Permanent && tried < MAX_ATTEMPTS => {
                tried += 1;
                backoff.wait().await;
            }
            outcome => return outcome,
        }
    }
}
