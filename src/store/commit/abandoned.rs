//! Ending transactions whose process is gone.
//!
//! A process that is killed, or frozen, in the middle of a transaction leaves
//! it open at the server, and with it the documents that it has written are
//! locked against everyone: until `transactionLifetimeLimitSeconds`, a minute
//! by default. The service's own transactions are never idle for more than the
//! moment between two commands. One that is idle for seconds belongs to nobody
//! who could still need it; at worst its owner wakes up, is told that it is
//! gone, and tries again.

use std::time::Duration;

use futures::TryStreamExt as _;
use mongodb::bson::{Bson, Document, doc};
use mongodb::options::ReadConcern;

use crate::store::{APP_NAME, Store, StoreError};

/// After how long without a command a transaction is given up.
const IDLE_LIMIT: Duration = Duration::from_secs(3);

impl Store {
    /// Ends idle transactions of this service, of whichever process; returns
    /// how many there were. Needs no privileges beyond those on one's own
    /// sessions.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub async fn end_stale_transactions(&self) -> Result<usize, StoreError> {
        let idle_micros = i64::try_from(IDLE_LIMIT.as_micros()).unwrap_or(i64::MAX);
        let pipeline = [
            doc! { "$currentOp": { "allUsers": false, "idleSessions": true } },
            doc! { "$match": {
                "type": "idleSession",
                "appName": APP_NAME,
                "transaction.timeInactiveMicros": { "$gt": idle_micros },
            } },
            doc! { "$project": { "lsid": 1 } },
        ];
        let admin = self.client().database("admin");
        // The handle's majority read concern makes no sense here, and is refused.
        let operations = admin.aggregate(pipeline).read_concern(ReadConcern::local());
        let found: Vec<Document> = operations.await?.try_collect().await?;
        let sessions = found.iter().filter_map(|found| {
            let id = found.get_document("lsid").ok()?.get("id")?.clone();
            Some(Bson::Document(doc! { "id": id }))
        });
        let sessions: Vec<_> = sessions.collect();
        let count = sessions.len();
        if count > 0 {
            admin.run_command(doc! { "killSessions": sessions }).await?;
        }
        Ok(count)
    }
}
