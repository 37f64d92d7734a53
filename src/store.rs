//! MongoDB: the only module that names the driver.

mod commit;
mod documents;
pub mod error;
pub mod fence;
pub mod generation;
pub mod inspect;
mod journal;
pub mod letters;
mod listing;
mod load;
mod migrate;
mod names;
pub mod read;
pub mod rebuild;
pub mod recount;
pub mod repair;
pub mod replay;
pub mod schema;
mod stale;
pub mod standing;
mod statements;

use std::time::Duration;

use mongodb::bson::{DateTime, Document, doc};
use mongodb::options::{
    Acknowledgment, ClientOptions, DatabaseOptions, ReadConcern, ReadPreference, SelectionCriteria,
    SessionOptions, WriteConcern,
};
use mongodb::{Client, ClientSession, Database};

pub use error::{Class, StoreError};
pub use load::{Loader, MAX_TAIL};
pub use read::{CommitFeed, Reader};

/// How long an operation looks for a server before it fails, unless the URL
/// says otherwise. The driver's 30 s would keep gRPC calls from being told.
const SERVER_SELECTION_TIMEOUT: Duration = Duration::from_secs(5);
/// How the service introduces itself to the server.
const APP_NAME: &str = "chat-counters";

/// A handle on the service's database. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
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
    /// When the URL cannot be used.
    pub async fn connect(config: &crate::config::Store) -> Result<Self, StoreError> {
        let mut options = ClientOptions::parse(config.url.expose()).await?;
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

    /// Lets the driver end what it still does in the background, for a second
    /// at most: the end of the runtime in the middle of it makes it panic. The
    /// store is of no use afterwards.
    pub async fn close(self) {
        let closing = self.client.shutdown();
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
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The service's database, to be read in a snapshot session.
    pub fn snapshots(&self) -> &Database {
        &self.snapshots
    }

    /// Begins a snapshot session: all that is read in it is as of the time of
    /// its first read.
    ///
    /// # Errors
    /// When no session is to be had.
    pub async fn snapshot_session(&self) -> Result<ClientSession, mongodb::error::Error> {
        let options = SessionOptions::builder().snapshot(true).build();
        self.client.start_session().with_options(options).await
    }

    /// The service's database.
    pub fn database(&self) -> &Database {
        &self.database
    }
}
