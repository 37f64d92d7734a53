//! `journal`: a record of every counter event that was taken. It is the ledger that makes
//! a second delivery collide, and has all facts that a replay and a history need. Repairs
//! have a record too, and so has the journal's beginning.
//!
//! [`JournalRecord`] is the only form of a record, for writing and for reading; [`event`]
//! makes one of a taken event, and the event of one again. Fields are added and never
//! change their meaning: records of every earlier version stay readable.

mod event;

use std::borrow::Cow;

use mongodb::bson::raw::{RawBsonRef, RawDocument};
use mongodb::bson::{Bson, DateTime, Document, RawDocumentBuf, doc, serialize_to_raw_document_buf};
use serde::Serialize;

use super::decode::{Malformed, boolean, integer, text, wrong};
use super::id::{self, ID, part};
use crate::event::record_type::{ORIGIN, PREFIX};

fields! {
    /// The canonical event type, or one of [`record_type`](crate::event::record_type).
    TYPE = "type";
    /// Micros of the event.
    AT = "at";
    /// The dialog, as far as it is known.
    DIALOG = "d";
    /// The message that is created.
    MESSAGE = "m";
    /// The message that is deleted, reached a status or was reacted to; all messages that
    /// a repair corrects. Apart from `m`, so that its index costs creates nothing.
    OF = "of";
    /// The user: the sender of a message created, or deleted while it counted, else whom
    /// the event is about.
    USER = "u";
    /// Who did it, where the producer said so.
    ACTOR = "actor";
    /// The version to which the event raised its dialog; absent when it did not.
    VERSION = "version";
    /// The sender's type as the create states it or as was presumed, or the type learnt.
    USER_TYPE = "user_type";
    /// Micros of the message.
    SENT_AT = "sent_at";
    /// `true` for `system.*`.
    SYSTEM = "system";
    /// What a create states itself: [`STATED_TIME`](super::message::STATED_TIME) and
    /// [`STATED_TYPE`](super::message::STATED_TYPE), added up.
    STATED = "stated";
    /// `{at, type, system}`: for a further create that changes what is known of its
    /// message, what was believed before it.
    WAS = "was";
    /// What is believed after such a create.
    IS = "is";
    /// The status reached.
    STATUS = "status";
    /// Array of `{r, set, by}`: each reaction, whether it is set, and by how much its
    /// count changed, which is `reaction_deltas` in derive's `Trace`.
    WORDS = "words";
    /// Micros up to which all is read.
    READ_UNTIL = "read_until";
    /// The user's mark before a change of their membership; absent for somebody who was
    /// not a member.
    MARK_BEFORE = "mark_before";
    /// The user's mark after it.
    MARK = "mark";
    /// `true` when the event changed nothing.
    UNCHANGED = "unchanged";
    /// `true` for a create when something was known of the message before:
    /// `had_placeholder` in derive's `Trace`.
    FORETOLD = "foretold";
    /// `true` for a create when the message was deleted before: `deleted_before_create`
    /// in derive's `Trace`.
    STILLBORN = "stillborn";
    /// Micros of the join.
    JOINED_AT = "joined_at";
    /// Micros of the making of a membership, where it is not the event's time.
    MADE_AT = "made_at";
    /// The topic created.
    TOPIC = "topic";
    /// Why a repair was made.
    REASON = "reason";
    /// What a repair corrected.
    REPAIRS = "repairs";
    /// Date of writing. The retention counts from here.
    APPLIED_AT = "applied_at";
}

/// The index of a dialog's records in the order in which they changed it.
pub(crate) fn by_version() -> Document {
    doc! { id::TENANT: 1, DIALOG: 1, VERSION: 1 }
}

/// As [`by_version`], with the latest record first.
pub(crate) fn latest_version_first() -> Document {
    doc! { id::TENANT: -1, DIALOG: -1, VERSION: -1 }
}

/// The index of what became of a message after its create.
pub(crate) fn by_message() -> Document {
    doc! { id::TENANT: 1, OF: 1 }
}

/// A document of `journal`, as it is written and as far as it was read. What a record does
/// not have is left out; the fields are described where they are named.
#[derive(Debug, Default, Serialize)]
pub(crate) struct JournalRecord<'r> {
    #[serde(rename = "_id")]
    pub(crate) id: RecordId<'r>,
    #[serde(rename = "type")]
    pub(crate) recorded_type: &'r str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) at: Option<i64>,
    #[serde(rename = "d", skip_serializing_if = "Option::is_none")]
    pub(crate) dialog: Option<&'r str>,
    #[serde(rename = "m", skip_serializing_if = "Option::is_none")]
    pub(crate) message: Option<&'r str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) of: Option<Messages<'r>>,
    #[serde(rename = "u", skip_serializing_if = "Option::is_none")]
    pub(crate) user: Option<&'r str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) actor: Option<&'r str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) version: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) user_type: Option<&'r str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sent_at: Option<i64>,
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) system: bool,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) stated: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) was: Option<BelievedFacts<'r>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) is: Option<BelievedFacts<'r>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) status: Option<&'r str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) words: Option<Vec<RecordedReaction<'r>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) read_until: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mark_before: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mark: Option<i64>,
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) unchanged: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) foretold: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) stillborn: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) joined_at: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) made_at: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) topic: Option<&'r str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<&'r str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) repairs: Option<Vec<RecordedRepair<'r>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) applied_at: Option<DateTime>,
}

/// The `_id` of a record. That of the origin has no tenant, and that of a repair no
/// event's id, so neither is an event's.
#[derive(Debug, Default, Serialize)]
pub(crate) struct RecordId<'r> {
    #[serde(rename = "t")]
    pub(crate) tenant: &'r str,
    #[serde(rename = "e")]
    pub(crate) event: &'r str,
}

/// The messages that a record is about after their create.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Messages<'r> {
    /// The one of an event.
    One(&'r str),
    /// All of a repair.
    Several(Vec<&'r str>),
}

/// What the counters of a message hang on.
#[derive(Debug, Default, Serialize)]
pub(crate) struct BelievedFacts<'r> {
    /// Micros of the message.
    pub(crate) at: i64,
    /// The sender's type.
    #[serde(rename = "type")]
    pub(crate) sender_type: &'r str,
    /// `true` for `system.*`.
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) system: bool,
}

/// A reaction that an event sets or takes back.
#[derive(Debug, Default, Serialize)]
pub(crate) struct RecordedReaction<'r> {
    #[serde(rename = "r")]
    pub(crate) reaction: &'r str,
    /// Whether it is set.
    pub(crate) set: bool,
    /// By how much it changed the count; 0, and absent, when it did not.
    #[serde(rename = "by", skip_serializing_if = "is_zero_count")]
    pub(crate) delta: i64,
}

/// A value that a repair corrected.
#[derive(Debug, Default, Serialize)]
pub(crate) struct RecordedRepair<'r> {
    /// Whose value it is, for one of a user's share.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) user_id: Option<&'r str>,
    /// Whose value it is, for one of a message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) message_id: Option<&'r str>,
    /// The counter, by its name in answers.
    pub(crate) counter: Cow<'r, str>,
    /// What was stored.
    pub(crate) stored: Option<i64>,
    /// What was counted.
    pub(crate) counted: Option<i64>,
}

fn is_false(flag: &bool) -> bool {
    !flag
}

fn is_zero(bits: &i32) -> bool {
    *bits == 0
}

fn is_zero_count(count: &i64) -> bool {
    *count == 0
}

impl<'r> JournalRecord<'r> {
    /// Decodes a record, or as much of it as was projected.
    ///
    /// # Errors
    /// [`Malformed`] when a field is not as it is written here.
    pub(crate) fn parse(document: &'r RawDocument) -> Result<Self, Malformed> {
        let mut record = Self::default();
        for field in document {
            let (name, value) = field?;
            let name = name.as_str();
            match name {
                _ if value == RawBsonRef::Null => {}
                ID => record.id = RecordId::parse(value)?,
                TYPE => record.recorded_type = text(name, value)?,
                AT => record.at = Some(integer(name, value)?),
                DIALOG => record.dialog = Some(text(name, value)?),
                MESSAGE => record.message = Some(text(name, value)?),
                OF => record.of = Some(Messages::parse(value)?),
                USER => record.user = Some(text(name, value)?),
                ACTOR => record.actor = Some(text(name, value)?),
                VERSION => record.version = Some(integer(name, value)?),
                USER_TYPE => record.user_type = Some(text(name, value)?),
                SENT_AT => record.sent_at = Some(integer(name, value)?),
                SYSTEM => record.system = boolean(name, value)?,
                STATED => {
                    let bits = integer(name, value)?;
                    record.stated = i32::try_from(bits).map_err(|_| wrong(name))?;
                }
                WAS => record.was = Some(BelievedFacts::parse(subdocument(name, value)?)?),
                IS => record.is = Some(BelievedFacts::parse(subdocument(name, value)?)?),
                STATUS => record.status = Some(text(name, value)?),
                WORDS => record.words = Some(each(name, value, RecordedReaction::parse)?),
                READ_UNTIL => record.read_until = Some(integer(name, value)?),
                MARK_BEFORE => record.mark_before = Some(integer(name, value)?),
                MARK => record.mark = Some(integer(name, value)?),
                UNCHANGED => record.unchanged = boolean(name, value)?,
                FORETOLD => record.foretold = boolean(name, value)?,
                STILLBORN => record.stillborn = boolean(name, value)?,
                JOINED_AT => record.joined_at = Some(integer(name, value)?),
                MADE_AT => record.made_at = Some(integer(name, value)?),
                TOPIC => record.topic = Some(text(name, value)?),
                REASON => record.reason = Some(text(name, value)?),
                REPAIRS => record.repairs = Some(each(name, value, RecordedRepair::parse)?),
                APPLIED_AT => {
                    let date = value.as_datetime().ok_or_else(|| wrong(name))?;
                    record.applied_at = Some(date);
                }
                _ => {}
            }
        }
        Ok(record)
    }

    /// Encodes the record.
    ///
    /// # Errors
    /// When it is larger than a document may be.
    pub(crate) fn encode(&self) -> mongodb::bson::error::Result<RawDocumentBuf> {
        serialize_to_raw_document_buf(self)
    }

    /// Returns whether an event of the bus stands behind the record.
    pub(crate) fn is_of_event(&self) -> bool {
        !self.recorded_type.starts_with(PREFIX)
    }

    /// Returns when the record was written.
    ///
    /// # Errors
    /// [`Malformed`] when it does not say so, as every record does.
    pub(crate) fn applied_at(&self) -> Result<DateTime, Malformed> {
        self.applied_at.ok_or_else(|| wrong(APPLIED_AT))
    }
}

/// Returns the first record of a journal, written at `now`. Its id is no event's: a tenant
/// has a name.
pub(crate) fn origin(now: DateTime) -> Document {
    doc! { ID: origin_id(), TYPE: ORIGIN, APPLIED_AT: now }
}

/// Returns the `_id` of a journal's first record.
pub(crate) fn origin_id() -> Bson {
    Bson::Document(doc! { part::TENANT: "", part::EVENT: ORIGIN })
}

impl<'r> RecordId<'r> {
    fn parse(value: RawBsonRef<'r>) -> Result<Self, Malformed> {
        let id = subdocument(ID, value)?;
        let of = |part: &str| {
            let value = id.get(part)?.ok_or_else(|| wrong(ID))?;
            text(ID, value)
        };
        Ok(Self {
            tenant: of(part::TENANT)?,
            event: of(part::EVENT)?,
        })
    }
}

impl<'r> Messages<'r> {
    fn parse(value: RawBsonRef<'r>) -> Result<Self, Malformed> {
        let Some(several) = value.as_array() else {
            return Ok(Self::One(text(OF, value)?));
        };
        let several = several.into_iter().map(|message| text(OF, message?));
        Ok(Self::Several(several.collect::<Result<_, _>>()?))
    }
}

impl<'r> BelievedFacts<'r> {
    fn parse(document: &'r RawDocument) -> Result<Self, Malformed> {
        let mut facts = Self::default();
        for field in document {
            let (name, value) = field?;
            match name.as_str() {
                "at" => facts.at = integer("at", value)?,
                "type" => facts.sender_type = text("type", value)?,
                "system" => facts.system = boolean("system", value)?,
                _ => {}
            }
        }
        Ok(facts)
    }
}

impl<'r> RecordedReaction<'r> {
    fn parse(document: &'r RawDocument) -> Result<Self, Malformed> {
        let mut reaction = Self::default();
        for field in document {
            let (name, value) = field?;
            match name.as_str() {
                "r" => reaction.reaction = text("r", value)?,
                "set" => reaction.set = boolean("set", value)?,
                "by" => reaction.delta = integer("by", value)?,
                _ => {}
            }
        }
        Ok(reaction)
    }
}

impl<'r> RecordedRepair<'r> {
    fn parse(document: &'r RawDocument) -> Result<Self, Malformed> {
        let mut repair = Self::default();
        for field in document {
            let (name, value) = field?;
            match name.as_str() {
                _ if value == RawBsonRef::Null => {}
                "user_id" => repair.user_id = Some(text("user_id", value)?),
                "message_id" => repair.message_id = Some(text("message_id", value)?),
                "counter" => repair.counter = Cow::Borrowed(text("counter", value)?),
                "stored" => repair.stored = Some(integer("stored", value)?),
                "counted" => repair.counted = Some(integer("counted", value)?),
                _ => {}
            }
        }
        Ok(repair)
    }
}

fn subdocument<'r>(name: &str, value: RawBsonRef<'r>) -> Result<&'r RawDocument, Malformed> {
    value.as_document().ok_or_else(|| wrong(name))
}

/// Decodes the documents of an array.
fn each<'r, T>(
    name: &str,
    value: RawBsonRef<'r>,
    parse: impl Fn(&'r RawDocument) -> Result<T, Malformed>,
) -> Result<Vec<T>, Malformed> {
    let array = value.as_array().ok_or_else(|| wrong(name))?;
    let items = array.into_iter();
    items.map(|item| parse(subdocument(name, item?)?)).collect()
}
