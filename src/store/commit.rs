//! Writing a batch: everything that its events change, in one transaction.
//!
//! The driver's `Client::bulk_write` needs a server of version 8. What is used
//! here, an `insert` or `update` command with many statements, is what the
//! older bulk writes send, and works on every version; [`Write`] is the only
//! type that would change.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use mongodb::bson::{DateTime, Document, RawArrayBuf, RawDocumentBuf, doc, rawdoc};
use mongodb::options::{Acknowledgment, ReadConcern, WriteConcern};
use mongodb::{ClientSession, Database};

use super::documents::{Id, by_type_document, created_fields, membership_facts};
use super::schema::{collection, escape};
use super::{Store, StoreError, journal};
use crate::derive::Changes;
use crate::derive::changes::{
    Consumed, DialogChange, MembershipChange, MessageBefore, MessageChange, WordChange,
};
use crate::derive::state::{DialogKey, MembershipKey, MessageKey, ReactionKey};

/// Statements in one command. The server allows 100,000.
const MAX_STATEMENTS: usize = 20_000;
/// Bytes in one command. The server allows a document of 16 MiB.
const MAX_BYTES: usize = 8 << 20;
/// How long a commit with an unknown outcome is repeated. Past that the caller
/// looks whether its events are in the journal.
const COMMIT_PATIENCE: Duration = Duration::from_secs(5);

/// What the statements of a command do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    /// New documents; one that exists is a conflict.
    Insert,
    /// Changes; each must find its document as expected.
    Update,
}

/// All statements of one kind for one collection.
#[derive(Debug)]
struct Write {
    collection: &'static str,
    verb: Verb,
    statements: Vec<RawDocumentBuf>,
}

impl Store {
    /// Writes a batch: all of it, or nothing.
    ///
    /// # Errors
    /// Any [`StoreError`]. Unless [`StoreError::is_unknown_commit`], nothing
    /// was written.
    pub async fn commit(&self, changes: &Changes) -> Result<(), StoreError> {
        let writes = writes(changes, DateTime::now())?;
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
        for write in &writes {
            if let Err(error) = write.run(self.database(), &mut session).await {
                // The server ends the transaction by itself where this fails.
                let _ = session.abort_transaction().await;
                return Err(error);
            }
        }
        commit(&mut session).await
    }
}

async fn commit(session: &mut ClientSession) -> Result<(), StoreError> {
    let started = Instant::now();
    loop {
        match session.commit_transaction().await.map_err(StoreError::from) {
            Err(error) if error.is_unknown_commit() && started.elapsed() < COMMIT_PATIENCE => {}
            outcome => return outcome,
        }
    }
}

impl Write {
    async fn run(
        &self,
        database: &Database,
        session: &mut ClientSession,
    ) -> Result<(), StoreError> {
        let mut rest = self.statements.as_slice();
        while !rest.is_empty() {
            let (chunk, later) = rest.split_at(chunk_len(rest));
            let reply = database
                .run_raw_command(self.command(chunk))
                .session(&mut *session)
                .await?;
            self.check(&reply, chunk.len())?;
            rest = later;
        }
        Ok(())
    }

    fn command(&self, statements: &[RawDocumentBuf]) -> RawDocumentBuf {
        let mut array = RawArrayBuf::new();
        for statement in statements {
            array.push(statement.clone());
        }
        match self.verb {
            Verb::Insert => rawdoc! { "insert": self.collection, "documents": array },
            Verb::Update => rawdoc! { "update": self.collection, "updates": array },
        }
    }

    /// `run_command` hands the reply over as it is: refusals are inside.
    fn check(&self, reply: &Document, statements: usize) -> Result<(), StoreError> {
        if let Ok(errors) = reply.get_array("writeErrors") {
            let first = errors.first().and_then(|error| error.as_document());
            let first = first.cloned().unwrap_or_default();
            return Err(StoreError::Write {
                collection: self.collection,
                code: first.get_i32("code").unwrap_or_default(),
                message: first.get_str("errmsg").unwrap_or_default().to_owned(),
            });
        }
        let found = i64::from(reply.get_i32("n").map_err(|e| {
            StoreError::Answer(format!("a write to `{}` without `n`: {e}", self.collection))
        })?);
        let expected = statements as i64;
        if found == expected {
            Ok(())
        } else {
            Err(StoreError::Moved {
                collection: self.collection,
                expected,
                found,
            })
        }
    }
}

/// How many statements fit into one command: at least one.
fn chunk_len(statements: &[RawDocumentBuf]) -> usize {
    let mut bytes = 0;
    let fitting = statements.iter().take(MAX_STATEMENTS).take_while(|s| {
        bytes += s.as_bytes().len() + 16;
        bytes <= MAX_BYTES
    });
    fitting.count().max(1)
}

/// All writes of a batch. Dialogs come first: a version that moved is noticed
/// before anything else is sent.
fn writes(changes: &Changes, now: DateTime) -> Result<Vec<Write>, StoreError> {
    let mut writes = Writes::default();
    for (key, change) in &changes.dialogs {
        writes.add(dialog(key, change, now))?;
    }
    for taken in &changes.taken {
        let record = journal::record(taken, now).map_err(unencodable)?;
        writes.add_raw(collection::JOURNAL, Verb::Insert, record);
    }
    for (key, change) in &changes.messages {
        if let Some(statement) = message(key, change) {
            writes.add(statement)?;
        }
    }
    for (key, change) in &changes.memberships {
        writes.add(membership(key, change, now))?;
    }
    for key in &changes.receipts {
        writes.add(insert(collection::RECEIPTS, doc! { "_id": key.id() }))?;
    }
    for (key, change) in &changes.reactions {
        writes.add(reaction(key, change))?;
    }
    for key in &changes.topics {
        writes.add(insert(collection::TOPICS, doc! { "_id": key.id() }))?;
    }
    for (key, (stamp, user_type)) in &changes.user_types {
        // Documents compare field by field: the latest stamp wins, whoever
        // writes first.
        let mut typed = Document::from(stamp);
        typed.insert("type", user_type.as_str());
        let change = doc! { "$max": { "typed": typed } };
        writes.add(upsert(collection::USERS, doc! { "_id": key.id() }, change))?;
    }
    Ok(writes.0)
}

/// Statements, gathered by collection and verb in order of first use.
#[derive(Default)]
struct Writes(Vec<Write>);

impl Writes {
    fn add(&mut self, statement: Statement) -> Result<(), StoreError> {
        let Statement(collection, verb, document) = statement;
        let raw = RawDocumentBuf::try_from(&document).map_err(unencodable)?;
        self.add_raw(collection, verb, raw);
        Ok(())
    }

    fn add_raw(&mut self, collection: &'static str, verb: Verb, statement: RawDocumentBuf) {
        let same = |write: &&mut Write| write.collection == collection && write.verb == verb;
        match self.0.iter_mut().find(same) {
            Some(write) => write.statements.push(statement),
            None => self.0.push(Write {
                collection,
                verb,
                statements: vec![statement],
            }),
        }
    }
}

fn unencodable(error: mongodb::bson::error::Error) -> StoreError {
    StoreError::Driver(error.into())
}

struct Statement(&'static str, Verb, Document);

fn insert(collection: &'static str, document: Document) -> Statement {
    Statement(collection, Verb::Insert, document)
}

fn update(collection: &'static str, filter: Document, change: Document) -> Statement {
    Statement(collection, Verb::Update, doc! { "q": filter, "u": change })
}

fn upsert(collection: &'static str, filter: Document, change: Document) -> Statement {
    let statement = doc! { "q": filter, "u": change, "upsert": true };
    Statement(collection, Verb::Update, statement)
}

fn dialog(key: &DialogKey, change: &DialogChange, now: DateTime) -> Statement {
    let dialog = &change.now;
    let mut fields = doc! {
        "version": dialog.version,
        "messages": dialog.messages,
        "members": dialog.members,
        "topics": dialog.topics,
        "sequence": by_type_document(&dialog.sequence),
        "updated_at": now,
    };
    if let Some(mark) = dialog.high_mark {
        fields.insert("high_mark", mark.0);
    }
    if dialog.deleted {
        fields.insert("deleted", true);
    }
    if let Some(at) = dialog.last_message_at {
        fields.insert("last_message_at", at.get());
    }
    if change.expected_version == 0 {
        fields.insert("_id", key.id());
        return insert(collection::DIALOGS, fields);
    }
    let mut changes = doc! { "$set": fields };
    if dialog.last_message_at.is_none() {
        changes.insert("$unset", doc! { "last_message_at": "" });
    }
    let filter = doc! { "_id": key.id(), "version": change.expected_version };
    update(collection::DIALOGS, filter, changes)
}

fn membership(key: &MembershipKey, change: &MembershipChange, now: DateTime) -> Statement {
    let mut increments = doc! { "version": change.version };
    if change.sent != 0 {
        increments.insert("sent", change.sent);
    }
    let (mut set, unset) = match &change.facts {
        Some(facts) => membership_facts(facts),
        None => Default::default(),
    };
    match &change.consumed {
        Consumed::Set(share) => {
            set.insert("consumed", by_type_document(share));
        }
        Consumed::Add(share) => {
            for (sender_type, count) in share.iter().filter(|(_, count)| *count != 0) {
                increments.insert(format!("consumed.{}", escape(sender_type.as_str())), count);
            }
        }
    }
    set.insert("updated_at", now);
    let mut changes = doc! { "$inc": increments, "$set": set };
    if !unset.is_empty() {
        changes.insert("$unset", unset);
    }
    upsert(collection::MEMBERSHIPS, doc! { "_id": key.id() }, changes)
}

/// `None` when nothing about the document changes: a word on a reaction that
/// says the same again, say.
fn message(key: &MessageKey, change: &MessageChange) -> Option<Statement> {
    let mut fields = change
        .created
        .as_ref()
        .map(created_fields)
        .unwrap_or_default();
    if change.deleted {
        fields.insert("deleted", true);
    }
    let counts = [
        (
            "statuses",
            named(&change.statuses, |status| status.as_str().to_owned()),
        ),
        (
            "reactions",
            named(&change.reactions, |reaction| escape(reaction.as_str())),
        ),
    ];
    match change.before {
        MessageBefore::Absent => Some(new_message(key, change.version, fields, counts)),
        MessageBefore::Placeholder(expected) => {
            let filter = doc! { "_id": key.id(), "version": expected };
            changed_message(filter, change.version, fields, counts)
        }
        MessageBefore::Created => {
            changed_message(doc! { "_id": key.id() }, change.version, fields, counts)
        }
    }
}

fn new_message(
    key: &MessageKey,
    version: i64,
    mut fields: Document,
    counts: [(&str, Document); 2],
) -> Statement {
    fields.insert("_id", key.id());
    if version > 0 {
        fields.insert("version", version);
    }
    for (name, counts) in counts {
        if !counts.is_empty() {
            fields.insert(name, counts);
        }
    }
    insert(collection::MESSAGES, fields)
}

fn changed_message(
    filter: Document,
    version: i64,
    fields: Document,
    counts: [(&str, Document); 2],
) -> Option<Statement> {
    let mut increments = Document::new();
    if version > 0 {
        increments.insert("version", version);
    }
    for (name, counts) in counts {
        for (key, count) in counts {
            increments.insert(format!("{name}.{key}"), count);
        }
    }
    let mut changes = Document::new();
    if !increments.is_empty() {
        changes.insert("$inc", increments);
    }
    if !fields.is_empty() {
        changes.insert("$set", fields);
    }
    (!changes.is_empty()).then(|| update(collection::MESSAGES, filter, changes))
}

fn named<T>(counts: &HashMap<T, i64>, name: impl Fn(&T) -> String) -> Document {
    let counts = counts.iter().filter(|(_, count)| **count != 0);
    counts
        .map(|(key, count)| (name(key), (*count).into()))
        .collect()
}

fn reaction(key: &ReactionKey, change: &WordChange) -> Statement {
    let mut fields = Document::from(&change.now.stamp);
    fields.insert("set", change.now.set);
    match &change.before {
        None => {
            fields.insert("_id", key.id());
            insert(collection::REACTIONS, fields)
        }
        Some(before) => {
            let mut filter = Document::from(&before.stamp);
            filter.insert("_id", key.id());
            update(collection::REACTIONS, filter, doc! { "$set": fields })
        }
    }
}
