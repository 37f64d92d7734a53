//! `dialogs`: a dialog's counters. No document is ever deleted, so that its version
//! never starts over.

use serde::Deserialize;

use super::{Counts, by_type, micros};
use crate::derive::state::{Dialog, Watermark};
use crate::store::StoreError;

fields! {
    /// int64, +1 for every event that changed anything about the dialog, its
    /// memberships or its messages. Each commit names the one it derived from.
    VERSION = "version";
    /// int64: messages created and not deleted, `system.*` included.
    MESSAGES = "messages";
    /// int64: members now.
    MEMBERS = "members";
    /// int64: distinct topics.
    TOPICS = "topics";
    /// By-type vector: countable messages; minus a member's `consumed` it is
    /// the member's unread.
    SEQUENCE = "sequence";
    /// Micros of the latest message counted in `messages`; absent without one.
    LAST_MESSAGE_AT = "last_message_at";
    /// Micros: no membership's `mark` was ever above it; absent before any.
    HIGH_MARK = "high_mark";
    /// `true` once the dialog was deleted: readers then see zeros throughout.
    /// The other fields go on being kept. Absent otherwise.
    DELETED = "deleted";
    /// Date of the last write.
    UPDATED_AT = "updated_at";
}

/// Part of `dialogs`: what derive knows.
#[derive(Debug, Deserialize)]
pub(crate) struct DialogDocument {
    version: i64,
    messages: i64,
    members: i64,
    topics: i64,
    #[serde(default)]
    sequence: Counts,
    last_message_at: Option<i64>,
    high_mark: Option<i64>,
    #[serde(default)]
    deleted: bool,
}

impl TryFrom<DialogDocument> for Dialog {
    type Error = StoreError;

    fn try_from(stored: DialogDocument) -> Result<Self, StoreError> {
        Ok(Dialog {
            version: stored.version,
            messages: stored.messages,
            members: stored.members,
            topics: stored.topics,
            sequence: by_type(&stored.sequence)?,
            last_message_at: stored.last_message_at.map(micros).transpose()?,
            high_watermark: stored.high_mark.map(Watermark),
            deleted: stored.deleted,
        })
    }
}
