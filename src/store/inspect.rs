//! A look at MongoDB that changes nothing.

use std::time::Duration;

use mongodb::bson::{Document, doc};
use mongodb::error::{Error, ErrorKind};
use mongodb::options::{ReadPreference, SelectionCriteria, SessionOptions, Tls};
use mongodb::{Client, ClientSession};
use serde::Serialize;

use super::StoreError;
use super::access::{self, Access};
use super::rebuild::generation::{GENERATIONS, RULES};
use crate::config::{self, Url};
use crate::pki::Certificate;

/// How long a server is looked for.
const SERVER_SELECTION_TIMEOUT: Duration = Duration::from_secs(5);
/// The oldest MongoDB with snapshot reads outside transactions.
const OLDEST: i32 = 5;
/// Read by the trials: what is in it does not matter, nor whether it exists.
const COLLECTION: &str = "meta";

/// What was found at the database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Inspection {
    /// The servers, without user information.
    pub url: String,
    /// Whether the connection is secured by TLS.
    pub tls: bool,
    /// Of the files that the URL names.
    pub certificates: Vec<Certificate>,
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
    /// The URL is none, or what it or the configuration names is of no use.
    #[error("store.url: {0}")]
    Url(StoreError),
    /// Its certificate, or ours, is not accepted.
    #[error("the TLS handshake with MongoDB at {url} failed: {fault}")]
    Handshake {
        /// The servers, without user information.
        url: String,
        /// Whose fault it is, and what to do.
        fault: String,
    },
    /// The user may not do what the service must do.
    #[error(
        "MongoDB at {url} forbids the user {user:?} what the service does ({why}). Grant it the role readWrite on the database of store.database (db.grantRolesToUser)"
    )]
    Forbidden {
        /// The servers, without user information.
        url: String,
        /// Who asked.
        user: String,
        /// What it said.
        why: String,
    },
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
        "MongoDB at {url} refuses the user {user:?} or its password ({why}). Correct {key}, or its authSource; or create the user (db.createUser) or change its password (db.changeUserPassword)"
    )]
    Credentials {
        /// The servers, without user information.
        url: String,
        /// Who was refused.
        user: String,
        /// The key of the configuration that has the password.
        key: &'static str,
        /// What it said.
        why: String,
    },
}

/// Server error codes of a user who may not do what was asked.
const FORBIDDEN: [i32; 1] = [13];

impl InspectError {
    /// Whether it stays until a person acts; otherwise trying again later may
    /// succeed.
    pub fn is_for_operator(&self) -> bool {
        !matches!(self, InspectError::Unreachable { .. })
    }

    /// What an error of the store is to its operator; `None` for one that may
    /// go by itself.
    pub async fn of_store(store: &config::Store, error: &StoreError) -> Option<Self> {
        let StoreError::Driver(error) = error else {
            return None;
        };
        let found = match store.present_url().await {
            Ok(url) => Self::of(store, &url, error),
            Err(error) => InspectError::Url(error.into()),
        };
        Some(found).filter(Self::is_for_operator)
    }

    fn of(store: &config::Store, present: &Url, error: &Error) -> Self {
        let url = present.redacted();
        let user = present.user().unwrap_or_default().to_owned();
        match error.kind.as_ref() {
            ErrorKind::Authentication { message, .. } => InspectError::Credentials {
                url,
                user,
                key: store.password_key(),
                why: message.clone(),
            },
            ErrorKind::Command(refused) if FORBIDDEN.contains(&refused.code) => {
                let why = refused.message.clone();
                InspectError::Forbidden { url, user, why }
            }
            ErrorKind::ServerSelection { message, .. } => {
                let why = selection(message);
                match handshake(&why) {
                    Some(fault) => InspectError::Handshake { url, fault },
                    None => InspectError::Unreachable { url, why },
                }
            }
            kind => {
                let why = kind.to_string();
                InspectError::Unreachable { url, why }
            }
        }
    }
}

/// What a failed TLS handshake means, in the words of rustls, which is all that
/// the driver passes on. `None` for what has nothing to do with TLS.
fn handshake(why: &str) -> Option<String> {
    let cure = if why.contains("invalid peer certificate: UnknownIssuer") {
        "the certificate of MongoDB is signed by none of the authorities of tlsCAFile in store.url, or, without one, by no public authority"
    } else if why.contains("invalid peer certificate: certificate expired") {
        "the certificate of MongoDB has expired: renew it, and look at the clocks"
    } else if why.contains("not valid for name") {
        "the certificate of MongoDB is for another host than those of store.url and of the replica set's configuration"
    } else if why.contains("invalid peer certificate") {
        "the certificate of MongoDB cannot be accepted"
    } else if why.contains("received fatal alert") {
        "MongoDB does not accept the client's certificate (tlsCertificateKeyFile of store.url), or demands one"
    } else {
        return None;
    };
    Some(format!("{cure} ({why})"))
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
    let access = access::read(store).await.map_err(InspectError::Url)?;
    let url = access.url.clone();
    let found = look(store, access).await;
    found.map_err(|error| InspectError::of(store, &url, &error))
}

async fn look(store: &config::Store, access: Access) -> Result<Inspection, Error> {
    let Access {
        mut options,
        url,
        certificates,
        ..
    } = access;
    options.app_name = Some("chat-counters check".into());
    options
        .server_selection_timeout
        .get_or_insert(SERVER_SELECTION_TIMEOUT);
    options
        .connect_timeout
        .get_or_insert(SERVER_SELECTION_TIMEOUT);
    // A set without a primary is to be reported, not waited for.
    options.selection_criteria = Some(SelectionCriteria::ReadPreference(
        ReadPreference::PrimaryPreferred { options: None },
    ));
    let tls = options.tls.clone();
    let client = Client::with_options(options)?;
    let hello = client
        .database("admin")
        .run_command(doc! { "hello": 1 })
        .await?;
    let mut report = Inspection {
        url: url.redacted(),
        tls: matches!(tls, Some(Tls::Enabled(_))),
        certificates,
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
    let soon = report
        .certificates
        .iter()
        .filter_map(Certificate::ends_soon);
    report.notes.extend(soon);
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
