//! Transactions by name: each is begun, committed, given up, tried again and counted
//! in this one way.

use std::time::{Duration, Instant};

use mongodb::ClientSession;
use mongodb::options::{Acknowledgment, ReadConcern, WriteConcern};

use super::{Class, Store, StoreError};
use crate::telemetry::metrics::TransactionLabel;

/// How long a commit whose outcome is unknown is repeated. Past that the caller looks
/// whether what it wrote is there.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(5);
/// After so many conflicts in a row the other transaction may be that of a process that
/// was killed, and is ended if it is idle.
const CONFLICTS_BEFORE_ENDING_STALE: u32 = 10;

/// Something that is written whole or not at all.
pub(super) trait Transaction: Sync {
    /// What the body returns.
    type Output: Send;

    /// Returns the name in the metric `store_transactions_total`: one of a closed set.
    fn name(&self) -> &'static str;

    /// Returns what is done about conflicts.
    fn on_conflict(&self) -> OnConflict {
        OnConflict::Fail
    }

    /// Reads and writes in the session, through this [`pinned`](Store::pinned) store
    /// and no other. It may run more than once.
    fn run(
        &self,
        store: &Store,
        session: &mut ClientSession,
    ) -> impl Future<Output = Result<Self::Output, StoreError>> + Send;
}

/// What is done about a transaction that meets another one at the same documents.
#[derive(Debug, Clone, Copy)]
pub(super) enum OnConflict {
    /// The caller is told: what it writes was derived from what has changed.
    Fail,
    /// The transaction is tried again, so often at most, with a pause before each time.
    Retry {
        /// How often it is tried again.
        retries: u32,
        /// How long each pause is.
        pause: Duration,
    },
}

impl Store {
    /// Runs a transaction, and again as its [`OnConflict`] says.
    ///
    /// # Errors
    /// Any [`StoreError`]. Nothing was written then, unless the error
    /// [is an unknown commit](StoreError::is_unknown_commit).
    pub(super) async fn run_transaction<T: Transaction>(
        &self,
        transaction: &T,
    ) -> Result<T::Output, StoreError> {
        let mut conflicts = 0;
        loop {
            let result = self.run_once(transaction).await;
            self.count(transaction.name(), &result);
            let pause = match (&result, transaction.on_conflict()) {
                (Err(error), OnConflict::Retry { retries, pause })
                    if error.class() == Class::Conflict && conflicts < retries =>
                {
                    pause
                }
                _ => return result,
            };
            conflicts += 1;
            if conflicts % CONFLICTS_BEFORE_ENDING_STALE == 0 {
                self.end_stale_transactions().await?;
            }
            tokio::time::sleep(pause).await;
        }
    }

    async fn run_once<T: Transaction>(&self, transaction: &T) -> Result<T::Output, StoreError> {
        let store = self.pinned();
        let mut session = store.begin().await?;
        match transaction.run(&store, &mut session).await {
            Ok(output) => {
                commit(&mut session).await?;
                Ok(output)
            }
            Err(error) => {
                // The server ends the transaction by itself where this fails.
                let _ = session.abort_transaction().await;
                Err(error)
            }
        }
    }

    /// Begins a transaction whose commit outlives any failover.
    async fn begin(&self) -> Result<ClientSession, StoreError> {
        let mut session = self.client().start_session().await?;
        session
            .start_transaction()
            .read_concern(ReadConcern::snapshot())
            .write_concern(
                WriteConcern::builder()
                    .w(Acknowledgment::Majority)
                    .journal(true)
                    .build(),
            )
            .await?;
        Ok(session)
    }

    fn count<T>(&self, name: &'static str, result: &Result<T, StoreError>) {
        let outcome = match result {
            Ok(_) => "committed",
            Err(error) if error.is_unknown_commit() => "unknown",
            Err(error) => error.class().as_str(),
        };
        let label = TransactionLabel { name, outcome };
        self.transactions.get_or_create(&label).inc();
    }
}

async fn commit(session: &mut ClientSession) -> Result<(), StoreError> {
    let started = Instant::now();
    loop {
        match session.commit_transaction().await.map_err(StoreError::from) {
            Err(error) if error.is_unknown_commit() && started.elapsed() < COMMIT_TIMEOUT => {}
            result => return result,
        }
    }
}
