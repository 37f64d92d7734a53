//! A look at MongoDB that changes nothing.

use std::time::Duration;

use mongodb::bson::{Document, doc};
use mongodb::error::{Error, ErrorKind};
use mongodb::options::{ClientOptions, ReadPreference, SelectionCriteria, SessionOptions};
use mongodb::{Client, ClientSession};
use serde::Serialize;

use super::StoreError;
use crate::config;

/// How long a server is looked for.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The oldest MongoDB with snapshot reads outside transactions.
const OLDEST: i32 = 5;
/// Read by the trials: what is in it does not matter, nor whether it exists.
const COLLECTION: &str = "meta";

/// What was found at the database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Inspection {
    /// The servers, without user information.
    pub url: String,
    /// The database.
    pub database: String,
    /// MongoDB's version.
    pub version: Option<String>,
    /// The name of the replica set, if it is one.
    pub replica_set: Option<String>,
    /// The writable primary, if there is one.
    pub primary: Option<String>,
    /// Whether a transaction could be begun and read in.
    pub transactions: bool,
    /// Whether a snapshot could be read.
    pub snapshot_reads: bool,
    /// What keeps the service from working, and what to do about it.
    pub problems: Vec<String>,
}

/// Connects and reports. Writes nothing.
///
/// # Errors
/// When the URL cannot be used, or no server answers.
pub async fn inspect(store: &config::Store) -> Result<Inspection, StoreError> {
    let mut options = ClientOptions::parse(store.url.expose()).await?;
    options.app_name = Some("chat-counters check".into());
    options.server_selection_timeout = Some(TIMEOUT);
    options.connect_timeout = Some(TIMEOUT);
    // A set without a primary is to be reported, not waited for.
    options.selection_criteria = Some(SelectionCriteria::ReadPreference(
        ReadPreference::PrimaryPreferred { options: None },
    ));
    let client = Client::with_options(options)?;
    let hello = client
        .database("admin")
        .run_command(doc! { "hello": 1 })
        .await?;
    let mut report = Inspection {
        url: store.url.redacted(),
        database: store.database.clone(),
        version: None,
        replica_set: text(&hello, "setName"),
        primary: text(&hello, "primary"),
        transactions: false,
        snapshot_reads: false,
        problems: Vec::new(),
    };
    report.members(&hello);
    report.version(&client).await?;
    if report.primary.is_some() {
        report.trials(&client, &store.database).await;
    }
    client.shutdown().await;
    Ok(report)
}

fn text(document: &Document, key: &str) -> Option<String> {
    document.get_str(key).ok().map(Into::into)
}

impl Inspection {
    fn members(&mut self, hello: &Document) {
        if self.replica_set.is_none() {
            self.problems.push(
                "MongoDB is no replica set, and only a replica set has transactions. Start mongod with --replSet rs0, run rs.initiate() once, and add ?replicaSet=rs0 to store.url; one node is enough".into(),
            );
        } else if self.primary.is_none() {
            let state = hello.get_str("info").unwrap_or("rs.status() says more");
            self.problems.push(format!(
                "the replica set has no writable primary ({state}). Run rs.initiate() if that was never done; else bring a majority of its members up"
            ));
        }
    }

    async fn version(&mut self, client: &Client) -> Result<(), StoreError> {
        let build = client
            .database("admin")
            .run_command(doc! { "buildInfo": 1 })
            .await?;
        self.version = text(&build, "version");
        let version = self.version.as_deref().unwrap_or_default();
        let major = version
            .split('.')
            .next()
            .and_then(|major| major.parse::<i32>().ok());
        if major.is_some_and(|major| major < OLDEST) {
            self.problems.push(format!(
                "MongoDB {version} is too old: the service needs {OLDEST}.0 or later, which reads snapshots. Upgrade it"
            ));
        }
        Ok(())
    }

    /// Does what the service does, without writing.
    async fn trials(&mut self, client: &Client, database: &str) {
        match transaction(client, database).await {
            Ok(()) => self.transactions = true,
            Err(error) => self.problem("transactions", &error),
        }
        match snapshot(client, database).await {
            Ok(()) => self.snapshot_reads = true,
            Err(error) => self.problem("snapshot reads", &error),
        }
    }

    fn problem(&mut self, what: &str, error: &Error) {
        let cure = match error.kind.as_ref() {
            ErrorKind::Command(refused) if [13, 18].contains(&refused.code) => {
                "grant the user of store.url the role readWrite on this database"
            }
            ErrorKind::Authentication { .. } => {
                "correct user and password of store.url, or its authSource"
            }
            _ => {
                "the service needs a replica set of MongoDB 5.0 or later with the WiredTiger engine"
            }
        };
        let database = &self.database;
        self.problems.push(format!(
            "{what} do not work on {database}: {error}. To cure it: {cure}"
        ));
    }
}

async fn transaction(client: &Client, database: &str) -> Result<(), Error> {
    let mut session = client.start_session().await?;
    session.start_transaction().await?;
    read(client, database, &mut session).await?;
    session.abort_transaction().await
}

async fn snapshot(client: &Client, database: &str) -> Result<(), Error> {
    let options = SessionOptions::builder().snapshot(true).build();
    let mut session = client.start_session().with_options(options).await?;
    read(client, database, &mut session).await
}

async fn read(client: &Client, database: &str, session: &mut ClientSession) -> Result<(), Error> {
    let primary = SelectionCriteria::ReadPreference(ReadPreference::Primary);
    let collection = client.database(database).collection::<Document>(COLLECTION);
    let found = collection
        .find_one(doc! {})
        .selection_criteria(primary)
        .session(session);
    found.await.map(drop)
}
