//! Journal records: one for every counter event that was taken. The ledger
//! that makes a second delivery collide, and all facts that a replay needs.

use mongodb::bson::{DateTime, Document, RawDocumentBuf, doc, serialize_to_raw_document_buf};
use serde::Serialize;

use super::message::{STATED_TIME, STATED_TYPE};
use crate::derive::changes::{Taken, Trace};
use crate::derive::state::CountingFacts;
use crate::event::record_type::ORIGIN;
use crate::event::{Event, Fact};

#[derive(Serialize)]
struct RecordId<'a> {
    t: &'a str,
    e: &'a str,
}

#[derive(Serialize)]
struct WordRecord<'a> {
    r: &'a str,
    set: bool,
    /// By how much it changed the count; absent when it did not.
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<i64>,
}

/// What the counters of a message hang on.
#[derive(Serialize)]
struct StandingRecord<'a> {
    at: i64,
    r#type: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    system: Option<bool>,
}

impl<'a> StandingRecord<'a> {
    fn of(standing: &'a CountingFacts) -> Self {
        Self {
            at: standing.at.get(),
            r#type: standing.sender_type.as_str(),
            system: standing.system.then_some(true),
        }
    }
}

/// A document of `journal`. What an event does not have is left out.
#[derive(Serialize)]
struct Record<'a> {
    _id: RecordId<'a>,
    /// Canonical event type.
    r#type: &'a str,
    /// Micros of the event.
    at: i64,
    /// Dialog, as far as known.
    #[serde(skip_serializing_if = "Option::is_none")]
    d: Option<&'a str>,
    /// The message that is created.
    #[serde(skip_serializing_if = "Option::is_none")]
    m: Option<&'a str>,
    /// The message that is deleted, reached a status or was reacted to. Apart
    /// from `m`, so that its index costs creates nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    of: Option<&'a str>,
    /// User: the sender of a message created, or deleted while it counted, else
    /// whom the event is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    u: Option<&'a str>,
    /// Who did it, where the producer said so.
    #[serde(skip_serializing_if = "Option::is_none")]
    actor: Option<&'a str>,
    /// The version to which the event raised its dialog. Absent when it did not.
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<i64>,
    /// Sender's type as the create states it or as was presumed, or the type
    /// learnt.
    #[serde(skip_serializing_if = "Option::is_none")]
    user_type: Option<&'a str>,
    /// Micros of the message.
    #[serde(skip_serializing_if = "Option::is_none")]
    sent_at: Option<i64>,
    /// `true` for `system.*`.
    #[serde(skip_serializing_if = "Option::is_none")]
    system: Option<bool>,
    /// What a create states itself, in bits: 1 the time, 2 the sender's type.
    #[serde(skip_serializing_if = "Option::is_none")]
    stated: Option<i32>,
    /// For a further create that changes what is known of its message: what was
    /// believed before it, and what is after it.
    #[serde(skip_serializing_if = "Option::is_none")]
    was: Option<StandingRecord<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    is: Option<StandingRecord<'a>>,
    /// Status reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'a str>,
    /// Words on reactions.
    #[serde(skip_serializing_if = "Option::is_none")]
    words: Option<Vec<WordRecord<'a>>>,
    /// Micros up to which all is read.
    #[serde(skip_serializing_if = "Option::is_none")]
    read_until: Option<i64>,
    /// The user's mark before and after, for what changes a membership: absent
    /// for someone who is not a member.
    #[serde(skip_serializing_if = "Option::is_none")]
    mark_before: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mark: Option<i64>,
    /// `true` when the event changed nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    unchanged: Option<bool>,
    /// `true` for a create when something was known of the message before.
    #[serde(skip_serializing_if = "Option::is_none")]
    foretold: Option<bool>,
    /// `true` for a create when the message was deleted before.
    #[serde(skip_serializing_if = "Option::is_none")]
    stillborn: Option<bool>,
    /// Micros of the join.
    #[serde(skip_serializing_if = "Option::is_none")]
    joined_at: Option<i64>,
    /// Micros of the making of a membership, where it is not the event's time.
    #[serde(skip_serializing_if = "Option::is_none")]
    made_at: Option<i64>,
    /// Topic created.
    #[serde(skip_serializing_if = "Option::is_none")]
    topic: Option<&'a str>,
    /// When it was written. The retention counts from here.
    applied_at: DateTime,
}

/// The record of a taken event, written at `now`.
///
/// # Errors
/// When it cannot be encoded.
pub(crate) fn record(taken: &Taken, now: DateTime) -> mongodb::bson::error::Result<RawDocumentBuf> {
    let event = &taken.event;
    let mut record = Record {
        _id: RecordId {
            t: event.tenant.as_str(),
            e: event.stamp.event.as_str(),
        },
        r#type: event.fact.event_type().as_str(),
        at: event.stamp.at.get(),
        d: None,
        m: None,
        of: None,
        u: None,
        actor: event.actor.as_ref().map(|actor| actor.as_str()),
        version: taken.dialog.as_ref().map(|(_, version)| *version),
        user_type: taken.sender_type.as_ref().map(|known| known.as_str()),
        sent_at: None,
        system: None,
        stated: None,
        was: None,
        is: None,
        status: None,
        words: None,
        read_until: None,
        mark_before: None,
        mark: None,
        unchanged: None,
        foretold: None,
        stillborn: None,
        joined_at: None,
        made_at: None,
        topic: None,
        applied_at: now,
    };
    state(event, &mut record);
    trace(&taken.trace, &mut record);
    // A message's dialog is that of its create, whatever this event said.
    if let Some((dialog, _)) = &taken.dialog {
        record.d = Some(dialog.dialog.as_str());
    }
    serialize_to_raw_document_buf(&record)
}

/// The first record of a journal. Its id is no event's: a tenant has a name.
pub(crate) fn origin(now: DateTime) -> Document {
    doc! {
        "_id": { "t": "", "e": ORIGIN },
        "type": ORIGIN,
        "applied_at": now,
    }
}

/// Fills in what the event found and left.
fn trace<'a>(trace: &'a Trace, record: &mut Record<'a>) {
    let flag = |yes: bool| yes.then_some(true);
    record.unchanged = flag(trace.unchanged);
    record.foretold = flag(trace.had_placeholder);
    record.stillborn = flag(trace.deleted_before_create);
    if let Some((before, after)) = trace.watermarks {
        record.mark_before = before.map(|mark| mark.0);
        record.mark = after.map(|mark| mark.0);
    }
    if let Some(sender) = &trace.sender {
        record.u = Some(sender.as_str());
    }
    if let Some((was, is)) = &trace.corrected {
        record.was = Some(StandingRecord::of(was));
        record.is = Some(StandingRecord::of(is));
    }
    for (word, by) in record
        .words
        .iter_mut()
        .flatten()
        .zip(&trace.reaction_deltas)
    {
        word.by = (*by != 0).then_some(*by);
    }
}

/// Fills in what the event's fact states.
fn state<'a>(event: &'a Event, record: &mut Record<'a>) {
    record.d = event.dialog_hint.as_ref().map(|dialog| dialog.as_str());
    match &event.fact {
        Fact::MessageCreated(new) => {
            record.d = Some(new.dialog.as_str());
            record.m = Some(new.message.as_str());
            record.u = Some(new.sender.as_str());
            record.sent_at = Some(new.sent_at.get());
            record.system = new.system.then_some(true);
            let stated_type = new.sender_type.as_ref();
            record.user_type = record.user_type.or(stated_type.map(|known| known.as_str()));
            let stated = i32::from(new.time_is_stated) * STATED_TIME
                + i32::from(stated_type.is_some()) * STATED_TYPE;
            record.stated = (stated != 0).then_some(stated);
        }
        Fact::MessageDeleted { message } => record.of = Some(message.as_str()),
        Fact::StatusReached {
            message,
            user,
            status,
        } => {
            record.of = Some(message.as_str());
            record.u = Some(user.as_str());
            record.status = Some(status.as_str());
        }
        Fact::ReactionChanged {
            message,
            user,
            reactions,
        } => {
            record.of = Some(message.as_str());
            record.u = Some(user.as_str());
            let words = reactions.iter().map(|(reaction, set)| WordRecord {
                r: reaction.as_str(),
                set: *set,
                by: None,
            });
            record.words = Some(words.collect());
        }
        Fact::BulkRead {
            dialog,
            user,
            read_until,
        } => {
            record.d = Some(dialog.as_str());
            record.u = Some(user.as_str());
            record.read_until = Some(read_until.get());
        }
        Fact::MemberAdded {
            dialog,
            user,
            joined_at,
            made_at,
        } => {
            record.d = Some(dialog.as_str());
            record.u = Some(user.as_str());
            record.joined_at = Some(joined_at.get());
            record.made_at = Some(made_at.get()).filter(|made_at| *made_at != event.stamp.at.get());
        }
        Fact::MemberRemoved { dialog, user } => {
            record.d = Some(dialog.as_str());
            record.u = Some(user.as_str());
        }
        Fact::TopicCreated { dialog, topic } => {
            record.d = Some(dialog.as_str());
            record.topic = Some(topic.as_str());
        }
        Fact::DialogDeleted { dialog } => record.d = Some(dialog.as_str()),
        Fact::UserTyped { user, user_type } => {
            record.u = Some(user.as_str());
            record.user_type = Some(user_type.as_str());
        }
    }
}
