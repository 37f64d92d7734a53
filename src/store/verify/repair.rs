//! Writing what a recount found to be different: exactly that, and only if the
//! dialog is still as it was looked at.

use std::collections::{BTreeMap, BTreeSet};

use mongodb::bson::raw::CString;
use mongodb::bson::{DateTime, RawDocumentBuf, cstr, rawdoc};

use super::recount::Recounted;
use crate::derive::state::{DialogKey, MembershipKey, MessageKey};
use crate::event::TenantId;
use crate::event::record_type::REPAIR;
use crate::store::commit::{Verb, Write, prove};
use crate::store::commit_log::{Record, written_at};
use crate::store::documents::journal::{JournalRecord, Messages, RecordId, RecordedRepair};
use crate::store::documents::{
    Key as _, collection, dialog, membership, message, path, unencodable,
};
use crate::store::rebuild::fence::Enrolment;
use crate::store::rebuild::generation::Generation;
use crate::store::{Store, StoreError};
use crate::verify::{Difference, Field, Subject};

/// Why a repair is made, for its record.
#[derive(Debug, Clone)]
pub struct RepairReason {
    /// The operator who has the repair made.
    pub actor: String,
    /// The reason that the operator gave.
    pub text: String,
}

/// What to set and to remove in one document.
#[derive(Default)]
struct Change {
    set: RawDocumentBuf,
    unset: RawDocumentBuf,
}

impl Store {
    /// Sets every differing value to the one counted, raises the dialog's
    /// version, and records all of it in the journal: one transaction.
    ///
    /// # Errors
    /// Of class conflict when the dialog has changed since; nothing is written
    /// then, and it is to be recounted.
    pub async fn repair(
        &self,
        key: &DialogKey,
        recounted: &Recounted,
        reason: &RepairReason,
    ) -> Result<(), StoreError> {
        let writes = |generation, now| dialog_writes(key, recounted, reason, generation, now);
        self.write_repair(&key.tenant, recounted, writes).await
    }

    /// As [`Store::repair`], of a message whose create is not known.
    ///
    /// # Errors
    /// Of class conflict when the message has changed since; nothing is written
    /// then, and it is to be recounted.
    pub async fn repair_placeholder(
        &self,
        key: &MessageKey,
        recounted: &Recounted,
        reason: &RepairReason,
    ) -> Result<(), StoreError> {
        let writes = |generation, now| placeholder_writes(key, recounted, reason, generation, now);
        self.write_repair(&key.tenant, recounted, writes).await
    }

    /// Writes what `writes` makes for a generation and a time, if what was recounted is
    /// still where documents are.
    async fn write_repair(
        &self,
        tenant: &TenantId,
        recounted: &Recounted,
        writes: impl FnOnce(Generation, DateTime) -> Result<Vec<Write>, StoreError>,
    ) -> Result<(), StoreError> {
        let enrolment = self.enrol_as_of(recounted).await?;
        let now = DateTime::now();
        let mut writes = writes(enrolment.generations().of(tenant), now)?;
        let record = Record::of_tenant(tenant, written_at(now));
        prove(&mut writes, record, &enrolment);
        self.write("repair", &writes).await
    }

    /// Enrols, if what was recounted is still where documents are.
    async fn enrol_as_of(&self, recounted: &Recounted) -> Result<Enrolment, StoreError> {
        let enrolment = self.enrol().await?;
        match enrolment.generations().epoch == recounted.epoch {
            true => Ok(enrolment),
            false => Err(StoreError::Moved {
                collection: collection::WRITERS,
                expected: 1,
                found: 0,
            }),
        }
    }
}

impl Change {
    fn add(&mut self, difference: &Difference) -> mongodb::bson::error::Result<()> {
        let name = path_of(&difference.field)?;
        match (&difference.field, difference.counted) {
            (Field::Member, counted) => self.set.append(name, counted == Some(1)),
            (_, Some(counted)) => self.set.append(name, counted),
            (_, None) => self.unset.append(name, ""),
        }
        Ok(())
    }
}

fn dialog_writes(
    key: &DialogKey,
    recounted: &Recounted,
    reason: &RepairReason,
    generation: Generation,
    now: DateTime,
) -> Result<Vec<Write>, StoreError> {
    let mut changes: BTreeMap<Subject, Change> = BTreeMap::new();
    // Always, for its version guards all else.
    changes.entry(Subject::Dialog).or_default();
    for difference in &recounted.differences {
        let change = changes.entry(difference.subject.clone()).or_default();
        change.add(difference).map_err(unencodable)?;
    }
    let mut dialogs = Vec::new();
    let (mut memberships, mut messages) = (Vec::new(), Vec::new());
    for (subject, mut change) in changes {
        match subject {
            Subject::Dialog => {
                change
                    .set
                    .append(dialog::raw::VERSION, recounted.version + 1);
                change.set.append(dialog::raw::UPDATED_AT, now);
                let filter = rawdoc! {
                    "_id": key.id().raw(),
                    dialog::raw::VERSION: recounted.version,
                };
                dialogs.push(statement(filter, change, RawDocumentBuf::new(), false));
            }
            Subject::User(user) => {
                let key = MembershipKey {
                    dialog: key.clone(),
                    user,
                };
                change.set.append(membership::raw::UPDATED_AT, now);
                let filter = rawdoc! { "_id": key.id().raw() };
                let increments = rawdoc! { membership::raw::VERSION: 1_i64 };
                memberships.push(statement(filter, change, increments, true));
            }
            Subject::Message(message) => {
                let key = MessageKey {
                    tenant: key.tenant.clone(),
                    message,
                };
                let filter = rawdoc! { "_id": key.id().raw() };
                messages.push(statement(filter, change, RawDocumentBuf::new(), false));
            }
        }
    }
    let version = recounted.version + 1;
    let event = format!("\u{1}repair:{}:{version}", key.dialog);
    let mut record = record(&key.tenant, &event, recounted, reason, now);
    record.dialog = Some(key.dialog.as_str());
    record.version = Some(version);
    let record = record.encode().map_err(unencodable)?;
    let write = |collection, verb, statements| Write {
        collection,
        generation,
        verb,
        statements,
    };
    Ok(vec![
        write(collection::DIALOGS, Verb::Update, dialogs),
        write(collection::JOURNAL, Verb::Insert, vec![record]),
        write(collection::MEMBERSHIPS, Verb::Update, memberships),
        write(collection::MESSAGES, Verb::Update, messages),
    ])
}

fn placeholder_writes(
    key: &MessageKey,
    recounted: &Recounted,
    reason: &RepairReason,
    generation: Generation,
    now: DateTime,
) -> Result<Vec<Write>, StoreError> {
    let mut change = Change::default();
    for difference in &recounted.differences {
        change.add(difference).map_err(unencodable)?;
    }
    let version = recounted.version + 1;
    change.set.append(message::raw::VERSION, version);
    let filter = rawdoc! {
        "_id": key.id().raw(),
        message::raw::VERSION: recounted.version,
    };
    let message = statement(filter, change, RawDocumentBuf::new(), false);
    let event = format!("\u{1}repair:message:{}:{version}", key.message);
    let record = record(&key.tenant, &event, recounted, reason, now);
    let record = record.encode().map_err(unencodable)?;
    let write = |collection, verb, statement| Write {
        collection,
        generation,
        verb,
        statements: vec![statement],
    };
    Ok(vec![
        write(collection::MESSAGES, Verb::Update, message),
        write(collection::JOURNAL, Verb::Insert, record),
    ])
}

fn statement(
    filter: RawDocumentBuf,
    change: Change,
    increments: RawDocumentBuf,
    upsert: bool,
) -> RawDocumentBuf {
    let mut update = RawDocumentBuf::new();
    for (operator, fields) in [
        (cstr!("$set"), change.set),
        (cstr!("$unset"), change.unset),
        (cstr!("$inc"), increments),
    ] {
        if !fields.is_empty() {
            update.append(operator, fields);
        }
    }
    rawdoc! { "q": filter, "u": update, "upsert": upsert }
}

/// Where the value is kept.
fn path_of(of: &Field) -> mongodb::bson::error::Result<CString> {
    match of {
        Field::Messages => Ok(dialog::raw::MESSAGES.into()),
        Field::Members => Ok(dialog::raw::MEMBERS.into()),
        Field::Topics => Ok(dialog::raw::TOPICS.into()),
        Field::Sequence(sender_type) => path(dialog::SEQUENCE, sender_type.as_str()),
        Field::LastMessageAt => Ok(dialog::raw::LAST_MESSAGE_AT.into()),
        Field::HighWatermark => Ok(dialog::raw::HIGH_MARK.into()),
        Field::Member => Ok(membership::raw::MEMBER.into()),
        Field::JoinedAt => Ok(membership::raw::JOINED_AT.into()),
        Field::Watermark => Ok(membership::raw::MARK.into()),
        Field::Consumed(sender_type) => path(membership::CONSUMED, sender_type.as_str()),
        Field::Sent => Ok(membership::raw::SENT.into()),
        Field::Status(status) => path(message::STATUSES, status),
        Field::Reaction(reaction) => path(message::REACTIONS, reaction),
    }
}

/// The record of the repair. Its id cannot be that of an event: those of a
/// dialog's repairs are told apart by the version.
fn record<'r>(
    tenant: &'r TenantId,
    event: &'r str,
    recounted: &'r Recounted,
    reason: &'r RepairReason,
    now: DateTime,
) -> JournalRecord<'r> {
    // Found by the message as well, as whatever else happened to it.
    let messages = recounted.differences.iter();
    let messages = messages.filter_map(|difference| match &difference.subject {
        Subject::Message(message) => Some(message.as_str()),
        _ => None,
    });
    let messages: BTreeSet<&str> = messages.collect();
    let repairs = recounted.differences.iter().map(RecordedRepair::of);
    JournalRecord {
        id: RecordId {
            tenant: tenant.as_str(),
            event,
        },
        recorded_type: REPAIR,
        at: Some(now.timestamp_millis() * 1_000),
        of: (!messages.is_empty()).then(|| Messages::Several(Vec::from_iter(messages))),
        actor: Some(&reason.actor),
        reason: Some(&reason.text),
        repairs: Some(repairs.collect()),
        applied_at: Some(now),
        ..JournalRecord::default()
    }
}

impl<'r> RecordedRepair<'r> {
    fn of(difference: &'r Difference) -> Self {
        let (user_id, message_id) = match &difference.subject {
            Subject::Dialog => (None, None),
            Subject::User(user) => (Some(user.as_str()), None),
            Subject::Message(message) => (None, Some(message.as_str())),
        };
        Self {
            user_id,
            message_id,
            counter: difference.field.name().into(),
            stored: difference.stored,
            counted: difference.counted,
        }
    }
}
