//! A look at MongoDB that changes nothing.

use std::time::Duration;

use mongodb::bson::{Document, doc};
use mongodb::error::{Error, ErrorKind};
use mongodb::options::{ClientOptions, ReadPreference, SelectionCriteria, SessionOptions};
use mongodb::{Client, ClientSession};
use serde::Serialize;

use super::generation::{GENERATIONS, RULES};
use crate::config::{self, Url};

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
    /// The members that hold data, as the set names them.
    pub members: Vec<String>,
    /// The writable primary, if there is one.
    pub primary: Option<String>,
    /// Whether a transaction could be begun and read in.
    pub transactions: bool,
    /// Whether a snapshot could be read.
    pub snapshot_reads: bool,
    /// What keeps the service from working, and what to do about it.
    pub problems: Vec<String>,
    /// What weakens its promises, and what to do about it.
    pub notes: Vec<String>,
}

/// Why nothing could be found out.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// The URL is none.
    #[error("store.url is not a MongoDB URL: {0}")]
    Url(Error),
    /// No server answers.
    #[error(
        "MongoDB at {url} cannot be reached: {why}. Start it, or correct store.url (CHAT_COUNTERS__STORE__URL)"
    )]
    Unreachable {
        /// The servers, without user information.
        url: String,
        /// Why not.
        why: String,
    },
    /// The server does not let this user in.
    #[error(
        "MongoDB at {url} refuses the user or password of store.url ({why}). Correct them, or its authSource"
    )]
    Credentials {
        /// The servers, without user information.
        url: String,
        /// What it said.
        why: String,
    },
}

impl InspectError {
    fn of(url: &Url, error: &Error) -> Self {
        let url = url.redacted();
        match error.kind.as_ref() {
            ErrorKind::Authentication { message, .. } => {
                let why = message.clone();
                InspectError::Credentials { url, why }
            }
            ErrorKind::ServerSelection { message, .. } => {
                let why = selection(message);
                InspectError::Unreachable { url, why }
            }
            kind => {
                let why = kind.to_string();
                InspectError::Unreachable { url, why }
            }
        }
    }
}

/// What the driver found wrong with the servers, out of its picture of the
/// topology: `.. Error: Kind: I/O error: Connection refused, labels: ..`.
fn selection(message: &str) -> String {
    let mut errors: Vec<&str> = message
        .split("Error: Kind: ")
        .skip(1)
        .filter_map(|part| part.split(", labels").next())
        .collect();
    errors.sort_unstable();
    errors.dedup();
    if errors.is_empty() {
        "no server of that replica set answers".into()
    } else {
        errors.join("; ")
    }
}

/// Connects and reports. Writes nothing.
///
/// # Errors
/// When the URL cannot be used, or no server answers.
pub async fn inspect(store: &config::Store) -> Result<Inspection, InspectError> {
    let options = ClientOptions::parse(store.url.expose()).await;
    let options = options.map_err(InspectError::Url)?;
    let found = look(store, options).await;
    found.map_err(|error| InspectError::of(&store.url, &error))
}

async fn look(store: &config::Store, mut options: ClientOptions) -> Result<Inspection, Error> {
    options.app_name = Some("chat-counters check".into());
    options.server_selection_timeout.get_or_insert(TIMEOUT);
    options.connect_timeout.get_or_insert(TIMEOUT);
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
        members: members(&hello),
        primary: text(&hello, "primary"),
        transactions: false,
        snapshot_reads: false,
        problems: Vec::new(),
        notes: Vec::new(),
    };
    report.topology(&hello);
    report.version(&client).await?;
    if report.primary.is_some() {
        report.trials(&client, &store.database).await;
        // A user who may not read has been told so.
        if report.snapshot_reads {
            report.rules(&client, &store.database).await?;
        }
    }
    client.shutdown().await;
    Ok(report)
}

fn text(document: &Document, key: &str) -> Option<String> {
    document.get_str(key).ok().map(Into::into)
}

fn members(hello: &Document) -> Vec<String> {
    let named = ["hosts", "passives"]
        .iter()
        .filter_map(|key| hello.get_array(key).ok());
    let named = named.flatten().filter_map(|member| member.as_str());
    named.map(Into::into).collect()
}

impl Inspection {
    fn topology(&mut self, hello: &Document) {
        if hello.get_str("msg").is_ok_and(|msg| msg == "isdbgrid") {
            self.problems.push(
                "this is the router of a sharded cluster (mongos), which the service was not made for: its keys are not chosen for sharding. Point store.url at a replica set".into(),
            );
        } else if self.replica_set.is_none() {
            self.problems.push(
                "MongoDB is no replica set, and only a replica set has transactions. Start mongod with --replSet rs0, run rs.initiate() once, and add ?replicaSet=rs0 to store.url; one node is enough".into(),
            );
        } else if self.primary.is_none() {
            let state = hello.get_str("info").unwrap_or("rs.status() says more");
            self.problems.push(format!(
                "the replica set has no writable primary ({state}). Run rs.initiate() if that was never done; else bring a majority of its members up"
            ));
        }
        if self.members.len() == 1 {
            self.notes.push(
                "the replica set has one member: while it is down nothing is counted, and its disk is all there is of the counters. Three members survive the loss of one".into(),
            );
        }
    }

    async fn version(&mut self, client: &Client) -> Result<(), Error> {
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

    /// Whether what is stored was counted by the rules of this program.
    async fn rules(&mut self, client: &Client, database: &str) -> Result<(), Error> {
        let meta = client.database(database).collection::<Document>(COLLECTION);
        let generations = meta.find_one(doc! { "_id": GENERATIONS }).await?;
        let by = generations.map(|found| found.get_i32("rules").unwrap_or(1));
        if let Some(by) = by.filter(|by| *by < RULES) {
            self.notes.push(format!(
                "what {database} holds was counted by the rules of an older version ({by}, now {RULES}): new events are counted by the new ones, what was counted stays as it is (adds and removes that overlapped, read-until times ahead of their events, several creates of one message that disagree). `chat-counters rebuild` counts the whole journal anew while the service runs; where store.journal_retention_days has taken its beginning, nothing can"
            ));
        }
        Ok(())
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

#[cfg(test)]
mod tests {
    use super::selection;

    #[test]
    fn the_reason_is_found_in_the_drivers_words() {
        let words = "Server selection timeout: No available servers. Topology: { Type: Unknown, Servers: [ { Address: 127.0.0.1:2, Type: Unknown, Error: Kind: I/O error: Connection refused (os error 111), labels: {}, source: None, server response: None } ] }";
        assert_eq!(
            selection(words),
            "I/O error: Connection refused (os error 111)"
        );
        assert_eq!(selection("else"), "no server of that replica set answers");
    }
}
