//! Records of the journal as histories need them, out of raw BSON.

use std::collections::HashSet;
use std::hash::Hash;

use mongodb::bson::RawDocument;
use mongodb::bson::raw::RawBsonRef;

use crate::counter::Counter;
use crate::derive::state::{CountingFacts, Watermark};
use crate::event::record_type::REPAIR;
use crate::event::{EventType, MessageId, Micros, Reaction, SenderType, Status, UserId};
use crate::history::message::{MessageEffect, MessageRecord};
use crate::history::{Created, DialogEffect, DialogRecord, Repair};

use super::rows::{Malformed, boolean, date, integer, key, micros, text, wrong};

/// Fields of a record for [`Names::applied`].
pub(super) const APPLIED: &[&str] = &[
    "type",
    "version",
    "applied_at",
    "m",
    "of",
    "u",
    "user_type",
    "sent_at",
    "system",
    "foretold",
    "stillborn",
    "was",
    "is",
    "mark_before",
    "mark",
    "repairs",
];

/// Fields of a record for [`happened`].
pub(super) const HAPPENED: &[&str] = &[
    "type",
    "applied_at",
    "status",
    "words",
    "unchanged",
    "repairs",
];

/// Fields of a record for [`Source::parse`].
pub(super) const SOURCE: &[&str] = &["type", "version", "applied_at", "at", "actor", "reason"];

/// The event that an entry comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Source {
    pub event: String,
    pub kind: String,
    pub version: i64,
    pub actor: Option<String>,
    pub occurred_at: Micros,
    pub applied_at: Micros,
    pub reason: Option<String>,
}

impl Source {
    pub(super) fn parse(record: &RawDocument) -> Result<Self, Malformed> {
        let owned = |name| Ok::<_, Malformed>(optional(record, name, text)?.map(str::to_owned));
        Ok(Self {
            event: key(record, "e")?.to_owned(),
            kind: field(record, "type", text)?.to_owned(),
            version: optional(record, "version", integer)?.unwrap_or(0),
            actor: owned("actor")?,
            occurred_at: field(record, "at", micros)?,
            applied_at: field(record, "applied_at", date)?,
            reason: owned("reason")?,
        })
    }

    /// Whether it is a repair, which has no event on the bus.
    pub(super) fn is_repair(&self) -> bool {
        self.kind == REPAIR
    }
}

/// Names that many records have in common, kept once.
#[derive(Default)]
pub(super) struct Names {
    users: HashSet<UserId>,
    types: HashSet<SenderType>,
}

impl Names {
    /// A record with a version, in little memory.
    pub(super) fn applied(&mut self, record: &RawDocument) -> Result<DialogRecord, Malformed> {
        let mut applied = applied(record)?;
        match &mut applied.effect {
            DialogEffect::Created(created) => {
                shared(&mut self.users, &mut created.sender);
                shared(&mut self.types, &mut created.sender_type);
            }
            DialogEffect::Corrected {
                sender, was, is, ..
            } => {
                shared(&mut self.users, sender);
                shared(&mut self.types, &mut was.sender_type);
                shared(&mut self.types, &mut is.sender_type);
            }
            DialogEffect::Read { user, .. } | DialogEffect::WatermarkMoved { user, .. } => {
                shared(&mut self.users, user)
            }
            DialogEffect::Deleted {
                sender: Some(user), ..
            } => shared(&mut self.users, user),
            _ => {}
        }
        Ok(applied)
    }
}

/// Puts the name that is known in the place of its like.
fn shared<T: Clone + Eq + Hash>(known: &mut HashSet<T>, name: &mut T) {
    match known.get(name) {
        Some(known) => *name = known.clone(),
        None => drop(known.insert(name.clone())),
    }
}

fn applied(record: &RawDocument) -> Result<DialogRecord, Malformed> {
    let user = || UserId::new(field(record, "u", text)?).map_err(Malformed::from);
    let message = |name| MessageId::new(field(record, name, text)?).map_err(Malformed::from);
    let mark = |name| Ok::<_, Malformed>(optional(record, name, integer)?.map(Watermark));
    let recorded = field(record, "type", text)?;
    let effect = match EventType::of_record(recorded) {
        Some(EventType::MessageCreate) => match optional(record, "was", document)? {
            Some(was) => DialogEffect::Corrected {
                message: message("m")?,
                sender: user()?,
                was: standing(was)?,
                is: standing(field(record, "is", document)?)?,
            },
            None => DialogEffect::Created(created(record)?),
        },
        Some(EventType::MessageDelete) => DialogEffect::Deleted {
            message: message("of")?,
            sender: optional(record, "u", text)?.map(UserId::new).transpose()?,
        },
        Some(EventType::StatusChanged) => DialogEffect::Read {
            message: message("of")?,
            user: user()?,
        },
        Some(EventType::BulkRead | EventType::MemberAdd | EventType::MemberRemove) => {
            DialogEffect::WatermarkMoved {
                user: user()?,
                before: mark("mark_before")?,
                after: mark("mark")?,
            }
        }
        Some(EventType::TopicCreate) => DialogEffect::Topic,
        Some(EventType::DialogDelete) => DialogEffect::DialogDeleted,
        None if recorded == REPAIR => DialogEffect::Repaired(repairs(record)?),
        _ => DialogEffect::Other,
    };
    Ok(DialogRecord {
        version: field(record, "version", integer)?,
        at: millis(record)?,
        effect,
    })
}

fn standing(standing: &RawDocument) -> Result<CountingFacts, Malformed> {
    Ok(CountingFacts {
        at: field(standing, "at", micros)?,
        sender_type: SenderType::new(field(standing, "type", text)?)?,
        system: optional(standing, "system", boolean)?.unwrap_or(false),
    })
}

fn document<'r>(name: &str, value: RawBsonRef<'r>) -> Result<&'r RawDocument, Malformed> {
    value.as_document().ok_or_else(|| wrong(name))
}

fn created(record: &RawDocument) -> Result<Created, Malformed> {
    let flag = |name| Ok::<_, Malformed>(optional(record, name, boolean)?.unwrap_or(false));
    Ok(Created {
        message: MessageId::new(field(record, "m", text)?)?,
        sender: UserId::new(field(record, "u", text)?)?,
        sender_type: SenderType::new(field(record, "user_type", text)?)?,
        at: field(record, "sent_at", micros)?,
        system: flag("system")?,
        had_placeholder: flag("foretold")?,
        deleted_before_create: flag("stillborn")?,
    })
}

/// A record about a message, which changed something; `None` when it did not.
pub(super) fn happened(record: &RawDocument) -> Result<Option<MessageRecord>, Malformed> {
    if optional(record, "unchanged", boolean)? == Some(true) {
        return Ok(None);
    }
    let recorded = field(record, "type", text)?;
    let effect = match EventType::of_record(recorded) {
        Some(EventType::StatusChanged) => {
            let status = Status::new(field(record, "status", text)?)?;
            MessageEffect::Changed(vec![(Counter::Status(status), 1)])
        }
        Some(EventType::ReactionChanged) => MessageEffect::Changed(words(record)?),
        Some(EventType::MessageDelete) => MessageEffect::Ended,
        None if recorded == REPAIR => MessageEffect::Repaired(repairs(record)?),
        _ => return Ok(None),
    };
    Ok(Some(MessageRecord {
        at: millis(record)?,
        event: key(record, "e")?.to_owned(),
        effect,
    }))
}

/// The record that ended a message by ending its dialog.
pub(super) fn ended(record: &RawDocument) -> Result<(i64, MessageRecord), Malformed> {
    let happened = MessageRecord {
        at: millis(record)?,
        event: key(record, "e")?.to_owned(),
        effect: MessageEffect::Ended,
    };
    Ok((field(record, "version", integer)?, happened))
}

fn words(record: &RawDocument) -> Result<Vec<(Counter, i64)>, Malformed> {
    let mut words = Vec::new();
    for word in documents(record, "words")? {
        let reaction = Reaction::new(field(word, "r", text)?)?;
        let by = optional(word, "by", integer)?.unwrap_or(0);
        words.push((Counter::Reaction(reaction), by));
    }
    Ok(words)
}

fn repairs(record: &RawDocument) -> Result<Vec<Repair>, Malformed> {
    let mut repairs = Vec::new();
    for repair in documents(record, "repairs")? {
        let id = |name| optional(repair, name, text);
        repairs.push(Repair {
            user: id("user_id")?.map(UserId::new).transpose()?,
            message: id("message_id")?.map(MessageId::new).transpose()?,
            counter: field(repair, "counter", text)?.to_owned(),
            stored: optional(repair, "stored", integer)?,
            counted: optional(repair, "counted", integer)?,
        });
    }
    Ok(repairs)
}

fn millis(record: &RawDocument) -> Result<i64, Malformed> {
    let at = record.get("applied_at")?.and_then(RawBsonRef::as_datetime);
    Ok(at.ok_or_else(|| wrong("applied_at"))?.timestamp_millis())
}

fn documents<'r>(record: &'r RawDocument, name: &str) -> Result<Vec<&'r RawDocument>, Malformed> {
    let Some(array) = record.get(name)?.and_then(RawBsonRef::as_array) else {
        return Ok(Vec::new());
    };
    array
        .into_iter()
        .map(|item| item?.as_document().ok_or_else(|| wrong(name)))
        .collect()
}

/// A field that may be absent, or null.
fn optional<'r, T>(
    record: &'r RawDocument,
    name: &str,
    of: impl Fn(&str, RawBsonRef<'r>) -> Result<T, Malformed>,
) -> Result<Option<T>, Malformed> {
    match record.get(name)? {
        None | Some(RawBsonRef::Null) => Ok(None),
        Some(value) => of(name, value).map(Some),
    }
}

fn field<'r, T>(
    record: &'r RawDocument,
    name: &str,
    of: impl Fn(&str, RawBsonRef<'r>) -> Result<T, Malformed>,
) -> Result<T, Malformed> {
    optional(record, name, of)?.ok_or_else(|| wrong(name))
}
