//! The document of a dead letter: the only place that knows its fields.

use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{Binary, DateTime};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::jobs::JobId;
use crate::deadletter::{
    DeadLetter, Letter, LetterId, MAX_KEPT_BYTES, RawMessage, Reason, UNKNOWN, shortened,
};
use crate::event::decode::Outline;

/// The largest body that the index keeps, in bytes. Larger ones stay in the queue alone.
const MAX_BODY_BYTES: usize = 1 << 20;
/// The longest error that the index keeps, in bytes: another tool's may be of any length.
const MAX_ERROR_BYTES: usize = 4 << 10;

/// What the index says of a letter, without its message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LetterEntry {
    /// The name of the letter.
    pub id: LetterId,
    /// What the letter says of itself. Both of its times are there.
    pub details: DeadLetter,
    /// The name of the group of letters with the same cause.
    pub group: String,
    /// The length of the body, in bytes.
    pub body_bytes: u64,
    /// The number of copies in the queue; 0 for a letter that is not there.
    pub copies: u64,
    /// When the letter was discarded, if it was.
    pub discarded_at: Option<OffsetDateTime>,
}

/// A letter with its message, as the database keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredLetter {
    /// What the index says of the letter.
    pub entry: LetterEntry,
    /// The AMQP properties in AMQP's encoding.
    pub properties: Vec<u8>,
    /// The body; `None` when it is too large for the index, and in the queue alone.
    pub body: Option<Vec<u8>>,
}

impl StoredLetter {
    /// Returns the letter whole.
    ///
    /// # Errors
    /// Its name, when the body is in the queue alone.
    pub fn into_whole(self) -> Result<Letter, LetterId> {
        let Some(body) = self.body else {
            return Err(self.entry.id);
        };
        let properties = self.properties;
        Ok(Letter {
            id: self.entry.id,
            details: self.entry.details,
            raw: RawMessage { properties, body },
        })
    }
}

/// The document of a letter: one in the queue, discarded or, inside another document,
/// unsent.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct LetterDocument {
    #[serde(rename = "_id")]
    pub id: String,
    reason: String,
    error: String,
    cause: String,
    group: String,
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    event_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tenant: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    event: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    dialog: Option<String>,
    first_failed_at: DateTime,
    last_failed_at: DateTime,
    attempts: i64,
    exchange: String,
    routing_key: String,
    host: String,
    version: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    replayed_by: Option<String>,
    bytes: i64,
    /// The number of copies in the queue, by the latest pass.
    pub copies: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    properties: Option<Binary>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    body: Option<Binary>,
    /// The job that has selected the letter, or discarded it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// What the job has come to with the letter: see [`super::index`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub discarded_at: Option<DateTime>,
}

impl LetterDocument {
    /// Makes the document of a letter that is in the queue.
    pub(super) fn in_queue(letter: &Letter) -> Self {
        Self::of(letter, MAX_BODY_BYTES)
    }

    /// Makes the document of a letter that a job discards.
    pub(super) fn discarded(letter: &Letter, job: &JobId) -> Self {
        Self {
            copies: 0,
            job: Some(job.to_string()),
            discarded_at: Some(DateTime::now()),
            ..Self::whole(letter)
        }
    }

    /// Makes the document of a letter with its body, of any size that fits into one.
    pub(super) fn whole(letter: &Letter) -> Self {
        Self::of(letter, MAX_KEPT_BYTES)
    }

    fn of(letter: &Letter, largest_body: usize) -> Self {
        let (details, raw) = (&letter.details, &letter.raw);
        let now = DateTime::now();
        let date = |at: Option<OffsetDateTime>| at.map_or(now, millis);
        let cause = shortened(&details.cause(), MAX_ERROR_BYTES).to_owned();
        let binary = |bytes: &[u8]| Binary {
            subtype: BinarySubtype::Generic,
            bytes: bytes.to_vec(),
        };
        let body = (raw.body.len() <= largest_body).then(|| binary(&raw.body));
        let about = &details.about;
        Self {
            id: letter.id.to_string(),
            reason: details.reason_name().to_owned(),
            error: shortened(&details.error, MAX_ERROR_BYTES).to_owned(),
            cause,
            group: details.group().to_string(),
            event_type: about.event_type.clone(),
            tenant: about.tenant.clone(),
            event: about.event.clone(),
            dialog: about.dialog.clone(),
            first_failed_at: date(details.first_failed_at),
            last_failed_at: date(details.last_failed_at),
            attempts: i64::try_from(details.attempts).unwrap_or(i64::MAX),
            exchange: details.exchange.clone(),
            routing_key: details.routing_key.clone(),
            host: details.host.clone(),
            version: details.version.clone(),
            replayed_by: details.replayed_by.clone(),
            bytes: i64::try_from(raw.body.len()).unwrap_or(i64::MAX),
            copies: 1,
            properties: Some(binary(&raw.properties)),
            body,
            job: None,
            state: None,
            discarded_at: None,
        }
    }

    /// Returns the letter whole. One that is stored without its body has an empty one.
    pub(super) fn into_whole(self) -> Letter {
        let StoredLetter {
            entry,
            properties,
            body,
        } = self.into_stored();
        Letter {
            id: entry.id,
            details: entry.details,
            raw: RawMessage {
                properties,
                body: body.unwrap_or_default(),
            },
        }
    }

    pub(super) fn into_entry(self) -> LetterEntry {
        self.into_stored().entry
    }

    pub(super) fn into_stored(self) -> StoredLetter {
        let count = |count: i64| u64::try_from(count).unwrap_or(0);
        let details = DeadLetter {
            reason: Some(self.reason.as_str())
                .filter(|name| *name != UNKNOWN)
                .and_then(Reason::named),
            error: self.error,
            about: Outline {
                event_type: self.event_type,
                tenant: self.tenant,
                event: self.event,
                dialog: self.dialog,
            },
            first_failed_at: Some(moment(self.first_failed_at)),
            last_failed_at: Some(moment(self.last_failed_at)),
            attempts: count(self.attempts),
            exchange: self.exchange,
            routing_key: self.routing_key,
            host: self.host,
            version: self.version,
            replayed_by: self.replayed_by,
        };
        StoredLetter {
            entry: LetterEntry {
                id: LetterId::stored(self.id),
                details,
                group: self.group,
                body_bytes: count(self.bytes),
                copies: count(self.copies),
                discarded_at: self.discarded_at.map(moment),
            },
            properties: self.properties.map(|b| b.bytes).unwrap_or_default(),
            body: self.body.map(|b| b.bytes),
        }
    }
}

/// Converts a time into a date of MongoDB, which is exact to the millisecond.
pub(super) fn millis(at: OffsetDateTime) -> DateTime {
    let millis = at.unix_timestamp_nanos().div_euclid(1_000_000);
    // No time that can be written is out of the range of 64 bits.
    DateTime::from_millis(i64::try_from(millis).unwrap_or(i64::MAX))
}

pub(super) fn moment(date: DateTime) -> OffsetDateTime {
    let nanos = i128::from(date.timestamp_millis()) * 1_000_000;
    OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}
