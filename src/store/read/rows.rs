//! Documents, as far as reads need them, out of raw BSON.

use std::collections::BTreeMap;

use mongodb::bson::raw::{RawBsonRef, RawDocument};

use crate::derive::state::Watermark;
use crate::event::{DialogId, Micros, UserId};
use crate::store::documents::decode::{boolean, date, integer, key, micros, text, wrong};
use crate::store::documents::id::part;
use crate::store::documents::{dialog, membership, message, unescape};

pub use crate::store::documents::decode::Malformed;

use super::readership::Attendance;

/// Counts by name: types of senders, statuses or reactions. No zeros.
pub type Counts = BTreeMap<String, i64>;

/// A document of `dialogs`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DialogRow {
    /// +1 for every event that changed anything in it.
    pub version: i64,
    /// Messages created and not deleted.
    pub messages: i64,
    /// The number of members.
    pub members: i64,
    /// The number of distinct topics.
    pub topics: i64,
    /// Messages that can be unread, by their senders' types.
    pub sequence: Counts,
    /// Time of the latest message.
    pub last_message_at: Option<Micros>,
    /// Whether it was deleted: readers then see zeros.
    pub deleted: bool,
    /// The time of the latest write.
    pub updated_at: Option<Micros>,
}

/// A document of `memberships`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MembershipRow {
    /// Of which dialog it is a share.
    pub dialog: DialogId,
    /// The user whose share it is.
    pub user: UserId,
    /// The number of changes of the document.
    pub version: i64,
    /// Whether the user is a member.
    pub member: bool,
    /// The time since which messages can be unread, for a member.
    pub joined_at: Option<Micros>,
    /// The time up to which the user has read in bulk.
    pub read_until: Option<Micros>,
    /// What of the dialog's sequence is not unread.
    pub consumed: Counts,
    /// Messages sent and not deleted.
    pub sent: i64,
    /// The time of the latest write.
    pub updated_at: Option<Micros>,
}

/// A document of `messages`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct MessageRow {
    pub dialog: Option<DialogId>,
    pub at: Option<Micros>,
    pub sender: Option<UserId>,
    pub deleted: bool,
    pub statuses: Counts,
    pub reactions: Counts,
}

impl DialogRow {
    /// Every field is optional: what is absent is zero.
    pub(super) fn parse(document: &RawDocument) -> Result<Self, Malformed> {
        let mut row = Self::default();
        for field in document {
            let (name, value) = field?;
            let name = name.as_str();
            match name {
                dialog::VERSION => row.version = integer(name, value)?,
                dialog::MESSAGES => row.messages = integer(name, value)?,
                dialog::MEMBERS => row.members = integer(name, value)?,
                dialog::TOPICS => row.topics = integer(name, value)?,
                dialog::SEQUENCE => row.sequence = counts(name, value)?,
                dialog::LAST_MESSAGE_AT => row.last_message_at = Some(micros(name, value)?),
                dialog::DELETED => row.deleted = boolean(name, value)?,
                dialog::UPDATED_AT => row.updated_at = Some(date(name, value)?),
                _ => {}
            }
        }
        Ok(row)
    }
}

impl MembershipRow {
    /// Every field but the key is optional: what is absent is zero.
    pub(super) fn parse(document: &RawDocument) -> Result<Self, Malformed> {
        let mut row = Self {
            dialog: DialogId::new(key(document, part::DIALOG)?)?,
            user: UserId::new(key(document, part::USER)?)?,
            version: 0,
            member: false,
            joined_at: None,
            read_until: None,
            consumed: Counts::new(),
            sent: 0,
            updated_at: None,
        };
        for field in document {
            let (name, value) = field?;
            let name = name.as_str();
            match name {
                membership::VERSION => row.version = integer(name, value)?,
                membership::MEMBER => row.member = boolean(name, value)?,
                membership::JOINED_AT => row.joined_at = Some(micros(name, value)?),
                membership::READ_UNTIL => row.read_until = Some(micros(name, value)?),
                membership::CONSUMED => row.consumed = counts(name, value)?,
                membership::SENT => row.sent = integer(name, value)?,
                membership::UPDATED_AT => row.updated_at = Some(date(name, value)?),
                _ => {}
            }
        }
        Ok(row)
    }
}

impl MessageRow {
    /// Every field is optional: what is absent is zero.
    pub(super) fn parse(document: &RawDocument) -> Result<Self, Malformed> {
        let mut row = Self::default();
        for field in document {
            let (name, value) = field?;
            let name = name.as_str();
            match name {
                message::DIALOG => row.dialog = Some(DialogId::new(text(name, value)?)?),
                message::AT => row.at = Some(micros(name, value)?),
                message::SENDER => row.sender = Some(UserId::new(text(name, value)?)?),
                message::DELETED => row.deleted = boolean(name, value)?,
                message::STATUSES => row.statuses = counts(name, value)?,
                message::REACTIONS => row.reactions = counts(name, value)?,
                _ => {}
            }
        }
        Ok(row)
    }
}

impl Attendance {
    /// `None` for someone not a member.
    pub(super) fn parse(document: &RawDocument) -> Result<Option<Self>, Malformed> {
        let (mut joined_at, mut watermark) = (None, None);
        for field in document {
            let (name, value) = field?;
            let name = name.as_str();
            match name {
                membership::JOINED_AT => joined_at = Some(micros(name, value)?),
                membership::MARK => watermark = Some(Watermark(integer(name, value)?)),
                _ => {}
            }
        }
        let member = joined_at.zip(watermark);
        Ok(member.map(|(joined_at, watermark)| Self {
            joined_at,
            watermark,
        }))
    }
}

/// A document from escaped names to counts. Zeros are dropped.
fn counts(name: &str, value: RawBsonRef<'_>) -> Result<Counts, Malformed> {
    let document = value.as_document().ok_or_else(|| wrong(name))?;
    let mut counts = Counts::new();
    for field in document {
        let (key, value) = field?;
        let count = integer(name, value)?;
        if count != 0 {
            counts.insert(unescape(key.as_str()), count);
        }
    }
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mongodb::bson::{DateTime, doc};

    fn raw(document: mongodb::bson::Document) -> mongodb::bson::RawDocumentBuf {
        document.try_into().unwrap()
    }

    #[test]
    fn a_membership_is_read_with_its_escaped_types() {
        let document = raw(doc! {
            "_id": { "t": "t", "d": "d$.", "u": "u" },
            "version": 3_i64, "member": true, "joined_at": 5_i64, "sent": 2_i64,
            "consumed": { "a%2Eb": 1_i64, "bot": 0_i64 },
            "updated_at": DateTime::from_millis(7),
        });
        let row = MembershipRow::parse(&document).unwrap();
        assert_eq!((row.dialog.as_str(), row.user.as_str()), ("d$.", "u"));
        assert_eq!((row.version, row.member, row.sent), (3, true, 2));
        assert_eq!((row.joined_at, row.read_until), (Micros::new(5), None));
        assert_eq!(row.consumed, Counts::from([("a.b".into(), 1)]));
        assert_eq!(row.updated_at, Micros::new(7_000));
    }

    #[test]
    fn a_document_with_only_its_key_has_zeros() {
        let document = raw(doc! { "_id": { "t": "t", "d": "d", "u": "u" } });
        let row = MembershipRow::parse(&document).unwrap();
        assert_eq!((row.version, row.member, row.updated_at), (0, false, None));
        let row = DialogRow::parse(&document).unwrap();
        assert_eq!(row, DialogRow::default());
        assert_eq!(MessageRow::parse(&document).unwrap(), MessageRow::default());
    }

    #[test]
    fn what_does_not_fit_the_schema_is_named() {
        let wrong_type = raw(doc! { "_id": { "t": "t", "d": "d" }, "version": "3" });
        let error = DialogRow::parse(&wrong_type).unwrap_err().to_string();
        assert!(error.contains("version"), "{error}");
        let no_key = raw(doc! { "_id": 4 });
        let error = MembershipRow::parse(&no_key).unwrap_err().to_string();
        assert!(error.contains("_id.d"), "{error}");
    }
}
