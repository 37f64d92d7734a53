//! What a batch changes as the statements of write commands. Written straight
//! as BSON: a tree of values for each would cost more than deriving it.

use std::collections::HashMap;

use mongodb::bson::error::Result;
use mongodb::bson::raw::CString;
use mongodb::bson::{DateTime, RawBson, RawDocumentBuf, cstr, rawdoc};

use super::name_limits;
use crate::derive::Changes;
use crate::derive::changes::{
    Consumed, DialogChange, MembershipChange, MessageBefore, MessageChange, ReactionChange,
};
use crate::derive::state::{DialogKey, MembershipKey, MessageKey, ReactionKey};
use crate::store::StoreError;
use crate::store::documents::journal::JournalRecord;
use crate::store::documents::{
    Key, by_type_document, collection, dialog, field, membership, message, path, reaction, stamp,
    unencodable, user,
};
use crate::store::rebuild::generation::{Generation, Generations};

/// What the statements of a command do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    /// New documents; one that exists is a conflict.
    Insert,
    /// Changes; each must find its document as expected.
    Update,
}

/// Whether a batch's events are new, or come from the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Events {
    /// New: each is put into the journal, or the batch refused.
    Taken,
    /// From the journal, to be counted anew.
    Replayed,
}

/// All statements of one kind for one collection.
#[derive(Debug)]
pub(crate) struct Write {
    /// The collection that is written to.
    pub collection: &'static str,
    /// In which generation of it.
    pub generation: Generation,
    /// Whether documents are inserted or changed.
    pub verb: Verb,
    /// The documents or updates, in the order in which they are written.
    pub statements: Vec<RawDocumentBuf>,
}

/// The largest document. What is listed in one has limits (`derive::Limits`), so
/// this is met by what is stored since before those, if by anything.
const MAX_DOCUMENT_BYTES: usize = 8 << 20;
/// What a batch of several events may take in memory as statements, and on the
/// server in its transaction.
const MAX_BATCH_BYTES: usize = 64 << 20;

/// All writes of a batch. Dialogs come first: a version that moved is noticed
/// before anything else is sent.
///
/// # Errors
/// [`StoreError::TooLarge`] or [`StoreError::TooMuch`]; any other when something
/// cannot be encoded.
pub(super) fn writes(
    changes: &Changes,
    generations: &Generations,
    events: Events,
    now: DateTime,
) -> std::result::Result<Vec<Write>, StoreError> {
    let mut writes = Writes::new(generations);
    if changes.taken.len() > 1 {
        writes.most = MAX_BATCH_BYTES;
    }
    for (key, change) in &changes.dialogs {
        writes.add(
            key,
            dialog_statement(key, change, now).map_err(unencodable)?,
        )?;
    }
    if events == Events::Taken {
        for taken in &changes.taken {
            let record = JournalRecord::of_taken(taken, now);
            let record = record.encode().map_err(unencodable)?;
            let record = insert(collection::JOURNAL, record);
            writes.add_to(Generation::default(), record)?;
        }
    }
    for (key, change) in &changes.messages {
        if let Some(statement) = message_statement(key, change).map_err(unencodable)? {
            writes.add(key, statement)?;
            if let Some(statement) = without_zeros(key, change) {
                writes.add(key, statement)?;
            }
        }
    }
    for (key, change) in &changes.memberships {
        let membership = membership_statement(key, change, now).map_err(unencodable)?;
        writes.add(key, membership)?;
    }
    for key in &changes.receipts {
        writes.add(key, insert(collection::RECEIPTS, by_id(key)))?;
    }
    for (key, change) in &changes.reactions {
        writes.add(key, reaction_statement(key, change))?;
    }
    for key in &changes.topics {
        writes.add(key, insert(collection::TOPICS, by_id(key)))?;
    }
    for (key, (stamp, user_type)) in &changes.user_types {
        // Documents compare field by field: the latest stamp wins, whoever
        // writes first.
        let typed = user::typed(stamp, user_type);
        let change = rawdoc! { "$max": { user::raw::TYPED: typed } };
        writes.add(key, upsert(collection::USERS, by_id(key), change))?;
    }
    Ok(writes.gathered)
}

/// Statements, gathered by collection and verb in order of first use.
struct Writes<'g> {
    generations: &'g Generations,
    gathered: Vec<Write>,
    bytes: usize,
    most: usize,
}

impl<'g> Writes<'g> {
    fn new(generations: &'g Generations) -> Self {
        Self {
            generations,
            gathered: Vec::new(),
            bytes: 0,
            most: usize::MAX,
        }
    }

    fn add(&mut self, key: &impl Key, statement: Statement) -> Added {
        self.add_to(self.generations.of(key.tenant()), statement)
    }

    fn add_to(&mut self, generation: Generation, statement: Statement) -> Added {
        let Statement(collection, verb, document) = statement;
        let (bytes, most) = (document.as_bytes().len(), MAX_DOCUMENT_BYTES);
        if bytes > most {
            return Err(StoreError::TooLarge {
                collection,
                bytes,
                most,
            });
        }
        self.bytes += bytes;
        if self.bytes > self.most {
            return Err(StoreError::TooMuch { most: self.most });
        }
        let same = |write: &&mut Write| {
            write.collection == collection && write.verb == verb && write.generation == generation
        };
        match self.gathered.iter_mut().find(same) {
            Some(write) => write.statements.push(document),
            None => self.gathered.push(Write {
                collection,
                generation,
                verb,
                statements: vec![document],
            }),
        }
        Ok(())
    }
}

type Added = std::result::Result<(), StoreError>;

struct Statement(&'static str, Verb, RawDocumentBuf);

fn insert(collection: &'static str, document: RawDocumentBuf) -> Statement {
    Statement(collection, Verb::Insert, document)
}

fn update(
    collection: &'static str,
    filter: RawDocumentBuf,
    change: impl Into<RawBson>,
) -> Statement {
    let change = change.into();
    let statement = rawdoc! { "q": filter, "u": change };
    Statement(collection, Verb::Update, statement)
}

fn upsert(collection: &'static str, filter: RawDocumentBuf, change: RawDocumentBuf) -> Statement {
    let statement = rawdoc! { "q": filter, "u": change, "upsert": true };
    Statement(collection, Verb::Update, statement)
}

fn by_id(key: &impl Key) -> RawDocumentBuf {
    rawdoc! { "_id": key.id().raw() }
}

fn dialog_statement(key: &DialogKey, change: &DialogChange, now: DateTime) -> Result<Statement> {
    let dialog = &change.now;
    let new = change.expected_version == 0;
    let mut fields = if new {
        by_id(key)
    } else {
        RawDocumentBuf::new()
    };
    fields.append(dialog::raw::VERSION, dialog.version);
    fields.append(dialog::raw::MESSAGES, dialog.messages);
    fields.append(dialog::raw::MEMBERS, dialog.members);
    fields.append(dialog::raw::TOPICS, dialog.topics);
    fields.append(dialog::raw::SEQUENCE, by_type_document(&dialog.sequence)?);
    fields.append(dialog::raw::UPDATED_AT, now);
    if let Some(mark) = dialog.high_watermark {
        fields.append(dialog::raw::HIGH_MARK, mark.0);
    }
    if dialog.deleted {
        fields.append(dialog::raw::DELETED, true);
    }
    if let Some(at) = dialog.last_message_at {
        fields.append(dialog::raw::LAST_MESSAGE_AT, at.get());
    }
    if new {
        return Ok(insert(collection::DIALOGS, fields));
    }
    let mut changes = rawdoc! { "$set": fields };
    if dialog.last_message_at.is_none() {
        changes.append(
            cstr!("$unset"),
            rawdoc! { dialog::raw::LAST_MESSAGE_AT: "" },
        );
    }
    let mut filter = by_id(key);
    filter.append(dialog::raw::VERSION, change.expected_version);
    Ok(update(collection::DIALOGS, filter, changes))
}

fn membership_statement(
    key: &MembershipKey,
    change: &MembershipChange,
    now: DateTime,
) -> Result<Statement> {
    let mut increments = rawdoc! { membership::raw::VERSION: change.version };
    if change.sent != 0 {
        increments.append(membership::raw::SENT, change.sent);
    }
    let (mut set, unset) = match &change.facts {
        Some(facts) => membership::facts(facts),
        None => Default::default(),
    };
    match &change.consumed {
        Consumed::Set(share) => set.append(membership::raw::CONSUMED, by_type_document(share)?),
        Consumed::Add(share) => {
            for (sender_type, count) in share.iter().filter(|(_, count)| *count != 0) {
                increments.append(path(membership::CONSUMED, sender_type.as_str())?, count);
            }
        }
    }
    set.append(membership::raw::UPDATED_AT, now);
    let mut changes = rawdoc! { "$inc": increments, "$set": set };
    if !unset.is_empty() {
        changes.append(cstr!("$unset"), unset);
    }
    Ok(upsert(collection::MEMBERSHIPS, by_id(key), changes))
}

/// `None` when nothing about the document changes: a word on a reaction that
/// says the same again, say.
fn message_statement(key: &MessageKey, change: &MessageChange) -> Result<Option<Statement>> {
    Ok(match change.before {
        MessageBefore::Absent => Some(new_message(key, change)?),
        MessageBefore::Placeholder(expected) => {
            let mut filter = by_id(key);
            filter.append(message::raw::VERSION, expected);
            changed_message(filter, change)?
        }
        MessageBefore::Created => {
            let mut filter = by_id(key);
            name_limits::require_room(&mut filter, change)?;
            changed_message(filter, change)?
        }
    })
}

/// Takes reactions out that nobody has set any more, after counts went down:
/// what is left of each would be a field for good.
fn without_zeros(key: &MessageKey, change: &MessageChange) -> Option<Statement> {
    let less = change.reactions.values().any(|more| *more < 0);
    let stored = change.before != MessageBefore::Absent;
    (less && stored).then(|| {
        update(
            collection::MESSAGES,
            by_id(key),
            name_limits::without_zeros(),
        )
    })
}

fn new_message(key: &MessageKey, change: &MessageChange) -> Result<Statement> {
    let mut fields = by_id(key);
    append_message(&mut fields, change);
    if change.version > 0 {
        fields.append(message::raw::VERSION, change.version);
    }
    let (mut statuses, mut reactions) = (RawDocumentBuf::new(), RawDocumentBuf::new());
    append_counts(&mut statuses, &change.statuses, |s| field(s.as_str()))?;
    append_counts(&mut reactions, &change.reactions, |r| field(r.as_str()))?;
    if !statuses.is_empty() {
        fields.append(message::raw::STATUSES, statuses);
    }
    if !reactions.is_empty() {
        fields.append(message::raw::REACTIONS, reactions);
    }
    Ok(insert(collection::MESSAGES, fields))
}

fn changed_message(filter: RawDocumentBuf, change: &MessageChange) -> Result<Option<Statement>> {
    let mut increments = RawDocumentBuf::new();
    if change.version > 0 {
        increments.append(message::raw::VERSION, change.version);
    }
    append_counts(&mut increments, &change.statuses, |s| {
        path(message::STATUSES, s.as_str())
    })?;
    append_counts(&mut increments, &change.reactions, |r| {
        path(message::REACTIONS, r.as_str())
    })?;
    let mut fields = RawDocumentBuf::new();
    append_message(&mut fields, change);
    let mut changes = RawDocumentBuf::new();
    if !increments.is_empty() {
        changes.append(cstr!("$inc"), increments);
    }
    if !fields.is_empty() {
        changes.append(cstr!("$set"), fields);
    }
    Ok((!changes.is_empty()).then(|| update(collection::MESSAGES, filter, changes)))
}

/// The fields that a create or a delete sets.
fn append_message(fields: &mut RawDocumentBuf, change: &MessageChange) {
    match &change.created {
        Some(created) if change.before == MessageBefore::Created => {
            message::append_corrected(fields, created);
        }
        Some(created) => message::append_created(fields, created),
        None => {}
    }
    if change.deleted {
        fields.append(message::raw::DELETED, true);
    }
}

fn append_counts<T>(
    fields: &mut RawDocumentBuf,
    counts: &HashMap<T, i64>,
    name: impl Fn(&T) -> Result<CString>,
) -> Result<()> {
    for (key, count) in counts.iter().filter(|(_, count)| **count != 0) {
        fields.append(name(key)?, *count);
    }
    Ok(())
}

fn reaction_statement(key: &ReactionKey, change: &ReactionChange) -> Statement {
    let mut fields = RawDocumentBuf::new();
    stamp::append(&mut fields, &change.now.stamp);
    fields.append(reaction::raw::SET, change.now.set);
    match &change.before {
        None => {
            fields.append(cstr!("_id"), key.id().raw());
            insert(collection::REACTIONS, fields)
        }
        Some(before) => {
            let mut filter = by_id(key);
            stamp::append(&mut filter, &before.stamp);
            update(collection::REACTIONS, filter, rawdoc! { "$set": fields })
        }
    }
}
