//! From bytes on the wire to an [`Event`]: the only place that knows JSON and
//! the names that producers use.
//!
//! A body is read once, borrowing from it; what is not looked up is skipped
//! without being stored. Only the fields that the event's type needs are
//! examined: a field that nobody asks for may hold anything.
//!
//! Errors name the JSON path, what was expected and what was found, but never
//! quote a string: that could be message content.

mod lookup;
mod outline;
mod wire;

use std::sync::Arc;

use crate::event::{
    DialogId, Event, EventId, EventType, Fact, InvalidId, MADE_BEFORE_MICROS, MessageId, Micros,
    NewMessage, Reaction, SenderType, Stamp, Status, TenantId, TopicId, UserId,
    stated::{StatedTime, StatedTimes},
};
use lookup::{Place, Value, first_hit, missing};
use serde_json::value::RawValue;
use wire::Body;

pub use outline::{Outline, outline};

/// What a body turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decoded {
    /// A counter event, and the times in it as they were stated.
    Event(Event, StatedTimes),
    /// Not a counter event: to be acknowledged and counted by its type.
    Ignored {
        /// The `eventType`, as the producer sent it.
        event_type: String,
    },
}

/// Why a body is no event. The text says what was expected, what was found and where,
/// and never holds message content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The body is not UTF-8, not JSON or not a JSON object.
    #[error("{0}")]
    Undecodable(String),
    /// The body is a counter event without a field that it needs, or with one that is
    /// out of bounds or of a wrong type.
    #[error("{0}")]
    Invalid(String),
}

/// Reads bodies. Cloning shares what it knows.
#[derive(Debug, Clone)]
pub struct Decoder {
    sender_types: Arc<[SenderType]>,
}

/// Sender types that are told apart unless the configuration says otherwise.
pub const DEFAULT_SENDER_TYPES: &str = "user,contact,bot";

impl Default for Decoder {
    /// Tells apart what `counters.sender_types` names by default.
    fn default() -> Self {
        Self::new(DEFAULT_SENDER_TYPES)
    }
}

impl Decoder {
    /// Tells these sender types apart, a list with commas between; any other is
    /// taken as [`SenderType::other`]. What is no type in the list is passed
    /// over.
    pub fn new(sender_types: &str) -> Self {
        let types = sender_types.split(',').map(str::trim);
        Self {
            sender_types: types
                .filter_map(|name| SenderType::new(name).ok())
                .collect(),
        }
    }

    /// Decodes one message body.
    ///
    /// # Errors
    /// [`DecodeError::Undecodable`] and [`DecodeError::Invalid`].
    pub fn decode(&self, body: &[u8]) -> Result<Decoded, DecodeError> {
        let text = std::str::from_utf8(body).map_err(|e| {
            DecodeError::Undecodable(format!(
                "expected UTF-8, found an invalid byte at offset {}",
                e.valid_up_to()
            ))
        })?;
        let decoded = self.decode_object(&object(text)?);
        decoded.map_err(DecodeError::Invalid)
    }
}

fn object(text: &str) -> Result<Body<'_>, DecodeError> {
    let no_json = |e: serde_json::Error| {
        DecodeError::Undecodable(format!(
            "expected JSON, found {} at line {} column {}",
            describe(&e),
            e.line(),
            e.column()
        ))
    };
    let start = text.trim_start_matches([' ', '\t', '\n', '\r']);
    if start.is_empty() || start.starts_with('{') {
        return wire::read(text).map_err(no_json);
    }
    let value: &RawValue = serde_json::from_str(text).map_err(no_json)?;
    Err(DecodeError::Undecodable(format!(
        "expected a JSON object, found {}",
        wire::kind(value.get())
    )))
}

/// serde_json's own text can quote the input (an unknown key, say): only the
/// class of the error is passed on.
fn describe(error: &serde_json::Error) -> &'static str {
    use serde_json::error::Category;
    match error.classify() {
        Category::Eof => "the end of the body",
        Category::Syntax | Category::Data => "a syntax error",
        Category::Io => "a read error",
    }
}

impl Decoder {
    fn decode_object(&self, body: &Body<'_>) -> Result<Decoded, String> {
        let event_type = required(text, &body.event_type())?;
        let Some(event_type) = EventType::of_producer(event_type) else {
            return Ok(Decoded::Ignored {
                event_type: event_type.to_owned(),
            });
        };
        let created = required(stated, &body.created_at())?;
        let at = created.at;
        let tenant = id(&body.tenant_id(), TenantId::new)?;
        let stamp = Stamp {
            at,
            event: id(&body.event_id(), EventId::new)?,
        };
        let subject = subject_time(event_type, body)?;
        let event = Event {
            tenant,
            stamp,
            // Neither is needed for any counter: something odd there is no reason
            // to refuse the event.
            actor: optional_id(&body.actor_id(), UserId::new).unwrap_or(None),
            dialog_hint: optional_id(&body.dialog_id(), DialogId::new).unwrap_or(None),
            fact: self.fact(event_type, body, at, subject.map(|stated| stated.at))?,
        };
        let times = StatedTimes {
            event: created,
            subject,
        };
        Ok(Decoded::Event(event, times))
    }

    /// What the event says, which happened `at` a time; of its subject another
    /// one may be stated.
    fn fact(
        &self,
        event_type: EventType,
        body: &Body<'_>,
        at: Micros,
        stated: Option<Micros>,
    ) -> Result<Fact, String> {
        let dialog = || id(&body.dialog_id(), DialogId::new);
        let message = || id(&body.message_id(), MessageId::new);
        let user = || id(&body.user_id(), UserId::new);
        let acting_user = || id(&body.acting_user_id(), UserId::new);
        Ok(match event_type {
            EventType::MessageCreate => Fact::MessageCreated(self.new_message(body, at, stated)?),
            EventType::MessageDelete => Fact::MessageDeleted {
                message: message()?,
            },
            EventType::StatusChanged => Fact::StatusReached {
                message: message()?,
                user: acting_user()?,
                status: id(&body.status(), Status::new)?,
            },
            EventType::ReactionChanged => Fact::ReactionChanged {
                message: message()?,
                user: acting_user()?,
                reactions: reactions(body)?,
            },
            EventType::BulkRead => Fact::BulkRead {
                dialog: dialog()?,
                user: user()?,
                read_until: stated.map_or(at, |until| until.min(at)),
            },
            EventType::MemberAdd => Fact::MemberAdded {
                dialog: dialog()?,
                user: user()?,
                joined_at: time(&body.joined_at())?.unwrap_or(at),
                made_at: made_at(stated, at),
            },
            EventType::MemberRemove => Fact::MemberRemoved {
                dialog: dialog()?,
                user: user()?,
            },
            EventType::TopicCreate => Fact::TopicCreated {
                dialog: dialog()?,
                topic: id(&body.topic_id(), TopicId::new)?,
            },
            EventType::DialogDelete => Fact::DialogDeleted { dialog: dialog()? },
            EventType::UserChanged => Fact::UserTyped {
                user: id(&body.typed_user_id(), UserId::new)?,
                user_type: self.known(id(&body.user_type(), SenderType::new)?),
            },
        })
    }

    fn new_message(
        &self,
        body: &Body<'_>,
        at: Micros,
        stated: Option<Micros>,
    ) -> Result<NewMessage, String> {
        Ok(NewMessage {
            dialog: id(&body.dialog_id(), DialogId::new)?,
            message: id(&body.message_id(), MessageId::new)?,
            sender: id(&body.sender_id(), UserId::new)?,
            sender_type: optional_id(&body.sender_type(), SenderType::new)?
                .map(|stated| self.known(stated)),
            presumed_type: None,
            sent_at: stated.unwrap_or(at),
            time_is_stated: stated.is_some(),
            system: text(&body.message_type())?.is_some_and(|t| t.starts_with("system.")),
        })
    }

    /// A type that is told apart, or the one for all others.
    fn known(&self, stated: SenderType) -> SenderType {
        if self.sender_types.contains(&stated) {
            stated
        } else {
            SenderType::other()
        }
    }
}

/// The time of what an event is about, where one may be stated: of a message,
/// of a membership, up to which all is read.
fn subject_time(event_type: EventType, body: &Body<'_>) -> Result<Option<StatedTime>, String> {
    match event_type {
        EventType::MessageCreate => stated(&body.message_time()),
        EventType::MemberAdd => match stated(&body.joined_at())? {
            Some(joined) => Ok(Some(joined)),
            // It only orders the add: something odd there is no reason to refuse it.
            None => Ok(last_seen_at(body).unwrap_or(None)),
        },
        EventType::BulkRead => match stated(&body.read_until())? {
            Some(until) => Ok(Some(until)),
            None => last_seen_at(body),
        },
        _ => Ok(None),
    }
}

/// When a membership was made, as far as the event plausibly says; else the
/// event's own time.
fn made_at(stated: Option<Micros>, at: Micros) -> Micros {
    let plausible = |made: &Micros| *made <= at && at.get() - made.get() <= MADE_BEFORE_MICROS;
    stated.filter(plausible).unwrap_or(at)
}

/// The reaction itself and, when it replaces another one, that one unset; or
/// the old one alone, which is how Chat3 unsets.
fn reactions(body: &Body<'_>) -> Result<Vec<(Reaction, bool)>, String> {
    let old = optional_id(&body.old_reaction(), Reaction::new)?;
    let Some(reaction) = optional_id(&body.reaction(), Reaction::new)? else {
        let old = old.ok_or_else(|| missing(&body.reactions()))?;
        return Ok(vec![(old, false)]);
    };
    let set = match first_hit(&body.reaction_action())? {
        None => true,
        Some(Place {
            value: Value::Text("set"),
            ..
        }) => true,
        Some(Place {
            value: Value::Text("unset"),
            ..
        }) => false,
        Some(Place { path, value }) => {
            return Err(format!(
                "{path}: expected \"set\" or \"unset\", found {value}"
            ));
        }
    };
    let replaced = old.filter(|old| *old != reaction).map(|old| (old, false));
    Ok(std::iter::once((reaction, set)).chain(replaced).collect())
}

fn last_seen_at(body: &Body<'_>) -> Result<Option<StatedTime>, String> {
    let last_seen = body.last_seen_at();
    match first_hit(&last_seen)? {
        // Zero or less means "never seen": not a time.
        Some(Place {
            value: Value::Number(millis),
            ..
        }) if millis <= 0.0 => Ok(None),
        _ => Ok(stated(&last_seen)?.filter(|stated| stated.at.get() > 0)),
    }
}

/// The string at the first hit; `None` where there is none.
fn text<'b>(places: &[Place<'b>]) -> Result<Option<&'b str>, String> {
    match first_hit(places)? {
        None => Ok(None),
        Some(Place {
            value: Value::Text(text),
            ..
        }) => Ok(Some(text)),
        Some(Place { path, value }) => Err(format!("{path}: expected a string, found {value}")),
    }
}

fn optional_id<T>(
    places: &[Place<'_>],
    parse: fn(&str) -> Result<T, InvalidId>,
) -> Result<Option<T>, String> {
    let Some(text) = text(places)? else {
        return Ok(None);
    };
    parse(text).map(Some).map_err(|e| {
        let path = match first_hit(places) {
            Ok(Some(place)) => place.path,
            _ => "",
        };
        format!("{path}: expected {e}")
    })
}

fn id<T>(places: &[Place<'_>], parse: fn(&str) -> Result<T, InvalidId>) -> Result<T, String> {
    optional_id(places, parse)?.ok_or_else(|| missing(places))
}

fn required<'b, T>(
    read: fn(&[Place<'b>]) -> Result<Option<T>, String>,
    places: &[Place<'b>],
) -> Result<T, String> {
    read(places)?.ok_or_else(|| missing(places))
}

/// A time: milliseconds since the epoch with a fraction, or RFC 3339. Both are
/// rounded to the nearest microsecond, so that the same instant reads the same
/// in either form.
fn time(places: &[Place<'_>]) -> Result<Option<Micros>, String> {
    Ok(stated(places)?.map(|stated| stated.at))
}

/// A time, and the place of it.
fn stated(places: &[Place<'_>]) -> Result<Option<StatedTime>, String> {
    let Some(Place { path, value }) = first_hit(places)? else {
        return Ok(None);
    };
    let micros = match value {
        Value::Number(millis) => Some((millis * 1000.0).round() as i64),
        Value::Text(text) => rfc3339_micros(text),
        _ => None,
    };
    let at = micros.and_then(Micros::new).ok_or_else(|| {
        format!(
            "{path}: expected a time of the years 1970 to 9999 \
             (milliseconds or RFC 3339), found {value}"
        )
    })?;
    Ok(Some(StatedTime { field: path, at }))
}

fn rfc3339_micros(text: &str) -> Option<i64> {
    use time::format_description::well_known::Rfc3339;
    let at = time::OffsetDateTime::parse(text, &Rfc3339).ok()?;
    i64::try_from((at.unix_timestamp_nanos() + 500).div_euclid(1000)).ok()
}

#[cfg(test)]
mod schema;
#[cfg(test)]
mod tests;
