//! A letter of the dead-letter queue: its id, what it says, and the message itself.

use std::fmt;

use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;

use super::Reason;
use super::cause::{GroupId, cause};
use crate::event::decode::Outline;

/// Bytes of the digest that name a letter.
const ID_BYTES: usize = 10;

/// Names a letter by its body, where it came from, why and how often it failed.
///
/// The service may die between publishing a letter and acknowledging its
/// original, and then publishes it again: copies have the same id. A letter
/// that was replayed and failed again has another one, since it failed once
/// more.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LetterId(String);

impl LetterId {
    /// Characters in an id.
    pub const CHARACTERS: usize = 2 * ID_BYTES;

    /// An id as it was stored, or the beginning of one as somebody typed it.
    /// `None` for what no id begins with.
    pub fn parse(text: &str) -> Option<Self> {
        let fits = (1..=Self::CHARACTERS).contains(&text.len());
        let text = text.to_ascii_lowercase();
        let digits = text.bytes().all(|byte| byte.is_ascii_hexdigit());
        (fits && digits).then_some(Self(text))
    }

    /// An id out of the index, which holds no other texts.
    pub fn stored(id: String) -> Self {
        Self(id)
    }

    /// The id as it is shown and stored.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it names one letter, not all that begin with it.
    pub fn is_whole(&self) -> bool {
        self.0.len() == Self::CHARACTERS
    }
}

impl fmt::Display for LetterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A letter as it goes over the wire, so that it can be put back as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawMessage {
    /// The AMQP properties in AMQP's own encoding.
    pub properties: Vec<u8>,
    /// The body of the message.
    pub body: Vec<u8>,
}

/// What can be told of a letter by looking at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Why the event failed, by class; `None` for a letter that somebody else put in.
    pub reason: Option<Reason>,
    /// Why the event failed, in words.
    pub error: String,
    /// Which event it is, as far as that can be read.
    pub about: Outline,
    /// When the event first failed, where the letter says so.
    pub first_failed_at: Option<OffsetDateTime>,
    /// When the event last failed, where the letter says so.
    pub last_failed_at: Option<OffsetDateTime>,
    /// How often the event has failed.
    pub attempts: u64,
    /// The exchange to which the event was published.
    pub exchange: String,
    /// The routing key with which the event was published.
    pub routing_key: String,
    /// The machine that gave the event up.
    pub host: String,
    /// The version of the service that gave the event up.
    pub version: String,
    /// The job that has replayed the letter, if one has.
    pub replayed_by: Option<String>,
}

impl DeadLetter {
    /// The name of the reason; `unknown` for a letter that somebody else put in.
    pub fn reason_name(&self) -> &'static str {
        self.reason.map_or(UNKNOWN, Reason::as_str)
    }

    /// The error without what differs from letter to letter.
    pub fn cause(&self) -> String {
        cause(&self.error)
    }

    /// The group of the letters with the same reason and cause.
    pub fn group(&self) -> GroupId {
        GroupId::of(self.reason_name(), &self.cause())
    }

    /// Makes the id of the letter, given its body.
    pub fn id(&self, body: &[u8]) -> LetterId {
        let mut digest = Sha256::new();
        for part in [
            self.reason_name().as_bytes(),
            &self.attempts.to_be_bytes(),
            self.exchange.as_bytes(),
            self.routing_key.as_bytes(),
            body,
        ] {
            // With its length, so that no two lists of parts are one text.
            digest.update((part.len() as u64).to_be_bytes());
            digest.update(part);
        }
        LetterId(hex::encode(&digest.finalize()[..ID_BYTES]))
    }
}

/// A dead letter whole: its name, what it says of itself and its message. Where it is
/// (in hand of a scan, on its way into the queue, in the database) is told by the type
/// that holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    /// The name of the letter, which follows from the rest.
    pub id: LetterId,
    /// What the letter says of itself.
    pub details: DeadLetter,
    /// The letter as it goes over the wire.
    pub raw: RawMessage,
}

impl Letter {
    /// Names a letter.
    pub fn new(details: DeadLetter, raw: RawMessage) -> Self {
        let id = details.id(&raw.body);
        Self { id, details, raw }
    }
}

/// The reason of letters that somebody else put into the queue.
pub const UNKNOWN: &str = "unknown";

#[cfg(test)]
mod tests {
    use super::*;

    fn letter() -> DeadLetter {
        DeadLetter {
            reason: Some(Reason::InvalidEvent),
            error: "createdAt: expected a time, found number 7".into(),
            about: Outline::default(),
            first_failed_at: None,
            last_failed_at: None,
            attempts: 1,
            exchange: "events".into(),
            routing_key: "a.b".into(),
            host: "h".into(),
            version: "1".into(),
            replayed_by: None,
        }
    }

    #[test]
    fn copies_are_one_letter_and_a_further_failure_is_another() {
        let id = letter().id(b"{}");
        assert!(id.is_whole());
        let copy = DeadLetter {
            host: "another".into(),
            last_failed_at: Some(OffsetDateTime::UNIX_EPOCH),
            ..letter()
        };
        assert_eq!(copy.id(b"{}"), id);
        let again = DeadLetter {
            attempts: 2,
            ..letter()
        };
        assert_ne!(again.id(b"{}"), id);
        assert_ne!(letter().id(b"[]"), id);
    }

    #[test]
    fn beginnings_of_ids_are_taken_and_nothing_else() {
        let id = letter().id(b"{}");
        assert_eq!(LetterId::parse(id.as_str()), Some(id.clone()));
        assert_eq!(
            LetterId::parse("ABC").map(|id| id.to_string()),
            Some("abc".into())
        );
        for wrong in ["", "xyz", &format!("{id}0"), "a b", "é"] {
            assert_eq!(LetterId::parse(wrong), None, "{wrong}");
        }
    }
}
