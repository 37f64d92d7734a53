//! Records of the journal as histories need them.

use std::collections::HashSet;
use std::hash::Hash;

use mongodb::bson::RawDocument;

use crate::counter::Counter;
use crate::derive::state::{CountingFacts, Watermark};
use crate::event::record_type::REPAIR;
use crate::event::{EventType, MessageId, Micros, Reaction, SenderType, Status, UserId};
use crate::history::message::{MessageEffect, MessageRecord};
use crate::history::{Created, DialogEffect, DialogRecord, Repair};
use crate::store::documents::decode::{Malformed, wrong};
use crate::store::documents::journal::{self, BelievedFacts, JournalRecord, Messages};

/// Fields of a record for [`Names::applied`].
pub(super) const APPLIED: &[&str] = &[
    journal::TYPE,
    journal::VERSION,
    journal::APPLIED_AT,
    journal::MESSAGE,
    journal::OF,
    journal::USER,
    journal::USER_TYPE,
    journal::SENT_AT,
    journal::SYSTEM,
    journal::FORETOLD,
    journal::STILLBORN,
    journal::WAS,
    journal::IS,
    journal::MARK_BEFORE,
    journal::MARK,
    journal::REPAIRS,
];

/// Fields of a record for [`happened`].
pub(super) const HAPPENED: &[&str] = &[
    journal::TYPE,
    journal::APPLIED_AT,
    journal::STATUS,
    journal::WORDS,
    journal::UNCHANGED,
    journal::REPAIRS,
];

/// Fields of a record for [`ended`].
pub(super) const ENDED: &[&str] = &[journal::VERSION, journal::APPLIED_AT];

/// Fields of a record for [`Source::parse`].
pub(super) const SOURCE: &[&str] = &[
    journal::TYPE,
    journal::VERSION,
    journal::APPLIED_AT,
    journal::AT,
    journal::ACTOR,
    journal::REASON,
];

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
        let record = JournalRecord::parse(record)?;
        let applied_at = record.applied_at()?.timestamp_millis().checked_mul(1_000);
        Ok(Self {
            event: record.id.event.to_owned(),
            kind: record.recorded_type.to_owned(),
            version: record.version.unwrap_or(0),
            actor: record.actor.map(str::to_owned),
            occurred_at: time(journal::AT, record.at)?,
            applied_at: time(journal::APPLIED_AT, applied_at)?,
            reason: record.reason.map(str::to_owned),
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
    let record = JournalRecord::parse(record)?;
    let effect = match EventType::of_record(record.recorded_type) {
        Some(EventType::MessageCreate) => match &record.was {
            Some(was) => DialogEffect::Corrected {
                message: MessageId::new(there(journal::MESSAGE, record.message)?)?,
                sender: user(&record)?,
                was: counting(was)?,
                is: counting(record.is.as_ref().ok_or_else(|| wrong(journal::IS))?)?,
            },
            None => DialogEffect::Created(created(&record)?),
        },
        Some(EventType::MessageDelete) => DialogEffect::Deleted {
            message: message_of(&record)?,
            sender: record.user.map(UserId::new).transpose()?,
        },
        Some(EventType::StatusChanged) => DialogEffect::Read {
            message: message_of(&record)?,
            user: user(&record)?,
        },
        Some(EventType::BulkRead | EventType::MemberAdd | EventType::MemberRemove) => {
            DialogEffect::WatermarkMoved {
                user: user(&record)?,
                before: record.mark_before.map(Watermark),
                after: record.mark.map(Watermark),
            }
        }
        Some(EventType::TopicCreate) => DialogEffect::Topic,
        Some(EventType::DialogDelete) => DialogEffect::DialogDeleted,
        None if record.recorded_type == REPAIR => DialogEffect::Repaired(repairs(&record)?),
        _ => DialogEffect::Other,
    };
    Ok(DialogRecord {
        version: there(journal::VERSION, record.version)?,
        at: record.applied_at()?.timestamp_millis(),
        effect,
    })
}

fn counting(facts: &BelievedFacts<'_>) -> Result<CountingFacts, Malformed> {
    Ok(CountingFacts {
        at: time("at", Some(facts.at))?,
        sender_type: SenderType::new(facts.sender_type)?,
        system: facts.system,
    })
}

fn created(record: &JournalRecord<'_>) -> Result<Created, Malformed> {
    Ok(Created {
        message: MessageId::new(there(journal::MESSAGE, record.message)?)?,
        sender: user(record)?,
        sender_type: SenderType::new(there(journal::USER_TYPE, record.user_type)?)?,
        at: time(journal::SENT_AT, record.sent_at)?,
        system: record.system,
        had_placeholder: record.foretold,
        deleted_before_create: record.stillborn,
    })
}

/// A record about a message, which changed something; `None` when it did not.
pub(super) fn happened(record: &RawDocument) -> Result<Option<MessageRecord>, Malformed> {
    let record = JournalRecord::parse(record)?;
    if record.unchanged {
        return Ok(None);
    }
    let effect = match EventType::of_record(record.recorded_type) {
        Some(EventType::StatusChanged) => {
            let status = Status::new(there(journal::STATUS, record.status)?)?;
            MessageEffect::Changed(vec![(Counter::Status(status), 1)])
        }
        Some(EventType::ReactionChanged) => MessageEffect::Changed(reactions(&record)?),
        Some(EventType::MessageDelete) => MessageEffect::Ended,
        None if record.recorded_type == REPAIR => MessageEffect::Repaired(repairs(&record)?),
        _ => return Ok(None),
    };
    Ok(Some(MessageRecord {
        at: record.applied_at()?.timestamp_millis(),
        event: record.id.event.to_owned(),
        effect,
    }))
}

/// The record that ended a message by ending its dialog.
pub(super) fn ended(record: &RawDocument) -> Result<(i64, MessageRecord), Malformed> {
    let record = JournalRecord::parse(record)?;
    let happened = MessageRecord {
        at: record.applied_at()?.timestamp_millis(),
        event: record.id.event.to_owned(),
        effect: MessageEffect::Ended,
    };
    Ok((there(journal::VERSION, record.version)?, happened))
}

fn reactions(record: &JournalRecord<'_>) -> Result<Vec<(Counter, i64)>, Malformed> {
    let reactions = record.words.iter().flatten();
    reactions
        .map(|word| Ok((Counter::Reaction(Reaction::new(word.reaction)?), word.delta)))
        .collect()
}

fn repairs(record: &JournalRecord<'_>) -> Result<Vec<Repair>, Malformed> {
    let repairs = record.repairs.iter().flatten().map(|repair| {
        Ok(Repair {
            user: repair.user_id.map(UserId::new).transpose()?,
            message: repair.message_id.map(MessageId::new).transpose()?,
            counter: repair.counter.clone().into_owned(),
            stored: repair.stored,
            counted: repair.counted,
        })
    });
    repairs.collect()
}

fn user(record: &JournalRecord<'_>) -> Result<UserId, Malformed> {
    Ok(UserId::new(there(journal::USER, record.user)?)?)
}

fn message_of(record: &JournalRecord<'_>) -> Result<MessageId, Malformed> {
    match record.of {
        Some(Messages::One(message)) => Ok(MessageId::new(message)?),
        _ => Err(wrong(journal::OF)),
    }
}

fn time(field: &str, at: Option<i64>) -> Result<Micros, Malformed> {
    at.and_then(Micros::new).ok_or_else(|| wrong(field))
}

fn there<T>(field: &str, found: Option<T>) -> Result<T, Malformed> {
    found.ok_or_else(|| wrong(field))
}
