//! MongoDB: the only module that names the driver.

mod access;
mod commit;
pub mod commit_log;
mod credentials;
pub mod dead_letters;
mod documents;
pub mod error;
pub mod inspect;
mod lease;
mod load;
mod migrate;
mod notifications;
pub mod read;
pub mod rebuild;
mod snapshot;
mod transaction;
pub mod verify;

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use mongodb::bson::{DateTime, Document, doc};
use mongodb::options::{
    Acknowledgment, ClientOptions, DatabaseOptions, ReadConcern, ReadPreference, SelectionCriteria,
    SessionOptions, WriteConcern,
};
use mongodb::{Client, ClientSession, Collection, Database};
use tokio::sync::Notify;

use crate::telemetry::metrics::TransactionCounts;

pub(crate) use error::FailureKind;
pub use error::{Class, StoreError};
pub(crate) use lease::Renewed;
pub use load::{Loader, MAX_TAIL};
pub(crate) use load::{MessageCounters, ServedShare};
pub use migrate::Retention;
pub(crate) use notifications::{NotificationCursor, TenantWalk};
pub use read::{CommitFeed, Reader};

/// How long an operation looks for a server before it fails, unless the URL
/// says otherwise. The driver's 30 s would keep gRPC calls from being told.
const SERVER_SELECTION_TIMEOUT: Duration = Duration::from_secs(5);
/// How the service introduces itself to the server.
const APP_NAME: &str = "chat-counters";

/// Asks to the end, however long anybody waits: what uses the driver is not to be
/// dropped half-way.
///
/// # Errors
/// As the question; [`StoreError::Answer`] for a panic.
pub async fn detached<T, E>(
    asked: impl Future<Output = Result<T, E>> + Send + 'static,
) -> Result<T, E>
where
    T: Send + 'static,
    E: From<StoreError> + Send + 'static,
{
    let ended = tokio::spawn(asked).await;
    ended.unwrap_or_else(|panic| Err(StoreError::Answer(panic.to_string()).into()))
}

/// A handle on the service's database. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    /// Of all clones: who connects from now on is who its secret says now.
    present: Arc<RwLock<Handles>>,
    /// Of this one alone, and for good.
    pinned: Option<Handles>,
    /// What the handles of the start were made of.
    made_of: access::Fingerprint,
    /// Rung when a connection turns out to be logged out.
    logged_out: Arc<Notify>,
    /// Transactions that were run through any clone.
    transactions: TransactionCounts,
}

/// One client of the driver and what is asked through it.
#[derive(Debug, Clone)]
struct Handles {
    client: Client,
    database: Database,
    snapshots: Database,
}

impl Store {
    /// Parses the URL and starts the driver. Connecting happens in the
    /// background: an unreachable server shows at the first operation.
    ///
    /// Majority writes, journaled, majority reads from the primary, whatever
    /// the URL says: the counters' exactness rests on them.
    ///
    /// # Errors
    /// When the URL, or a file that it or the configuration names, cannot be used.
    pub async fn connect(config: &crate::config::Store) -> Result<Self, StoreError> {
        let access = access::read(config).await?;
        Ok(Self {
            present: Arc::new(RwLock::new(Handles::new(access.options, config)?)),
            pinned: None,
            made_of: access.fingerprint,
            logged_out: Arc::default(),
            transactions: TransactionCounts::default(),
        })
    }

    /// The same store, with its transactions counted in a metric of the service.
    #[must_use]
    pub fn counting_in(self, transactions: TransactionCounts) -> Self {
        Self {
            transactions,
            ..self
        }
    }

    /// The same store, but through one client of the driver for good: a session
    /// is of no use to another.
    pub(crate) fn pinned(&self) -> Self {
        Self {
            pinned: Some(self.handles()),
            ..self.clone()
        }
    }

    fn handles(&self) -> Handles {
        let present = || {
            let present = self.present.read().unwrap_or_else(PoisonError::into_inner);
            present.clone()
        };
        self.pinned.clone().unwrap_or_else(present)
    }

    /// Lets the driver end what it still does in the background, for a second
    /// at most: the end of the runtime in the middle of it makes it panic. The
    /// store is of no use afterwards.
    pub async fn close(self) {
        let closing = self.handles().client.shutdown();
        let _ = tokio::time::timeout(Duration::from_secs(1), closing).await;
    }

    /// Proves that it takes a write, by one.
    ///
    /// # Errors
    /// Any [`StoreError`]: it does not, as far as can be told.
    pub async fn takes_writes(&self) -> Result<(), StoreError> {
        let proof = doc! { "_id": "takes_writes" };
        let now = doc! { "$set": { "at": DateTime::now() } };
        let meta = self.meta::<Document>();
        meta.update_one(proof, now).upsert(true).await?;
        Ok(())
    }

    /// The driver's client, for sessions.
    pub fn client(&self) -> Client {
        self.handles().client
    }

    /// The service's database, to be read in a snapshot session.
    pub fn snapshots(&self) -> Database {
        self.handles().snapshots
    }

    /// Begins a snapshot session: all that is read in it is as of the time of
    /// its first read. It is of the client that a [`pinned`](Store::pinned)
    /// store has.
    ///
    /// # Errors
    /// When no session is to be had.
    pub async fn snapshot_session(&self) -> Result<ClientSession, mongodb::error::Error> {
        let options = SessionOptions::builder().snapshot(true).build();
        self.client().start_session().with_options(options).await
    }

    /// The service's database.
    pub fn database(&self) -> Database {
        self.handles().database
    }

    /// The collection of what the service notes of itself: leases, generations, the
    /// rebuild under way, how far notifications are.
    fn meta<T: Send + Sync>(&self) -> Collection<T> {
        self.database().collection(documents::collection::META)
    }
}

impl Handles {
    /// Starts the driver. Connecting happens in the background.
    fn new(
        mut options: ClientOptions,
        config: &crate::config::Store,
    ) -> Result<Self, mongodb::error::Error> {
        options.app_name = Some(APP_NAME.into());
        options
            .server_selection_timeout
            .get_or_insert(SERVER_SELECTION_TIMEOUT);
        options.write_concern = Some(
            WriteConcern::builder()
                .w(Acknowledgment::Majority)
                .journal(true)
                .build(),
        );
        options.read_concern = Some(ReadConcern::majority());
        options.selection_criteria =
            Some(SelectionCriteria::ReadPreference(ReadPreference::Primary));
        let client = Client::with_options(options)?;
        let database = client.database(&config.database);
        // In a snapshot session the driver keeps a read concern that it finds
        // and only adds the time: it must already say "snapshot".
        let snapshots = DatabaseOptions::builder()
            .read_concern(ReadConcern::snapshot())
            .build();
        let snapshots = client.database_with_options(&config.database, snapshots);
        Ok(Self {
            client,
            database,
            snapshots,
        })
    }
}
