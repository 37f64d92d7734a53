//! MongoDB: the only module that names the driver.

pub mod error;
pub mod schema;

use mongodb::options::{
    Acknowledgment, ClientOptions, ReadConcern, ReadPreference, SelectionCriteria, WriteConcern,
};
use mongodb::{Client, Database};

pub use error::StoreError;

/// A handle on the service's database. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    client: Client,
    database: Database,
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
        let mut options = ClientOptions::parse(&config.url).await?;
        options.app_name = Some("chat-counters".into());
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
        Ok(Self { client, database })
    }

    /// The driver's client, for sessions.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The service's database.
    pub fn database(&self) -> &Database {
        &self.database
    }
}
