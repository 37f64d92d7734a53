//! `messages`: the facts of a message and its counters. A document without a dialog is
//! a placeholder: something was said about a message whose create is not known yet.

use std::collections::HashMap;

use mongodb::bson::raw::CStr;
use mongodb::bson::{Document, RawDocumentBuf, doc};
use serde::{Deserialize, Serialize};

use super::id::{self, MessagePart};
use super::stamp::{self, StampDocument};
use super::{invalid, micros};
use crate::derive::state::{Authority, Created, Message};
use crate::derive::tail::TailMessage;
use crate::event::{DialogId, SenderType, Stamp, UserId};
use crate::store::StoreError;

fields! {
    /// The dialog, once created.
    DIALOG = "d";
    /// Micros: message time.
    AT = "at";
    /// Sender's user id.
    SENDER = "sender";
    /// Sender's type.
    TYPE = "type";
    /// [`STATED_TIME`] and
    /// [`STATED_TYPE`], added up; absent for 0.
    STATED = "stated";
    /// `{at, event}` of the create that the facts are from. Absent where it was
    /// recorded under `rebuild::generation::RULES` 1.
    BY = "by";
    /// `{at, event}` of the create that `at` is from, where it is another one.
    AT_BY = "at_by";
    /// `{at, event}` of the create that `type` is from, where it is another one.
    TYPE_BY = "type_by";
    /// `true` for `system.*`; else absent.
    SYSTEM = "system";
    /// `true` once deleted; else absent.
    DELETED = "deleted";
    /// Document from status name to int64: users who reached it.
    STATUSES = "statuses";
    /// Document from escaped reaction to int64: users whose word is "set".
    /// Zeros are possible.
    REACTIONS = "reactions";
    /// int64, +1 for every change of a placeholder, its create included.
    VERSION = "version";
}

/// The path of how many users have read a message one by one.
pub(crate) const READ_COUNT: &str = "statuses.read";

/// The create states the message's time itself.
pub(crate) const STATED_TIME: i32 = 1;
/// The create states the sender's type itself.
pub(crate) const STATED_TYPE: i32 = 2;

/// The index of a dialog's messages in time, and the order that it gives.
pub(crate) fn by_time() -> Document {
    doc! { id::TENANT: 1, DIALOG: 1, AT: 1 }
}

/// As [`by_time`], with the latest message first.
pub(crate) fn latest_first() -> Document {
    doc! { id::TENANT: -1, DIALOG: -1, AT: -1 }
}

/// Part of `messages`: the facts.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct MessageDocument {
    d: Option<String>,
    at: Option<i64>,
    sender: Option<String>,
    r#type: Option<String>,
    #[serde(default)]
    stated: i32,
    by: Option<StampDocument>,
    at_by: Option<StampDocument>,
    type_by: Option<StampDocument>,
    #[serde(default)]
    system: bool,
    #[serde(default)]
    deleted: bool,
    #[serde(default)]
    version: i64,
}

impl TryFrom<MessageDocument> for Message {
    type Error = StoreError;

    fn try_from(stored: MessageDocument) -> Result<Self, StoreError> {
        let by = stored.by.map(Stamp::try_from).transpose()?;
        let authority = |flag, own: Option<StampDocument>| {
            let own = own.map(Stamp::try_from).transpose()?;
            Ok::<_, StoreError>(Authority {
                presumed: stored.stated & flag == 0,
                stamp: own.or_else(|| by.clone()),
            })
        };
        let at_by = authority(STATED_TIME, stored.at_by)?;
        let type_by = authority(STATED_TYPE, stored.type_by)?;
        let system_by = Authority {
            presumed: false,
            stamp: by,
        };
        let created = match (stored.d, stored.at, stored.sender, stored.r#type) {
            (Some(dialog), Some(at), Some(sender), Some(sender_type)) => Some(Created {
                dialog: DialogId::new(&dialog).map_err(invalid)?,
                at: micros(at)?,
                sender: UserId::new(&sender).map_err(invalid)?,
                sender_type: SenderType::new(&sender_type).map_err(invalid)?,
                system: stored.system,
                at_by,
                type_by,
                system_by,
            }),
            _ => None,
        };
        Ok(Message {
            version: stored.version,
            created,
            deleted: stored.deleted,
        })
    }
}

/// Adds the fields of `messages` that a create sets.
pub(crate) fn append_created(fields: &mut RawDocumentBuf, created: &Created) {
    append_facts(fields, created);
    if created.system {
        fields.append(raw::SYSTEM, true);
    }
    let stated = stated(created);
    if stated != 0 {
        fields.append(raw::STATED, stated);
    }
    let [by, others @ ..] = authorities(created);
    append_authority(fields, by);
    // Mostly all is from one create.
    let others = others.into_iter().filter(|(_, stamp)| *stamp != by.1);
    others.for_each(|other| append_authority(fields, other));
}

/// Adds the fields of `messages` that a further create may change.
pub(crate) fn append_corrected(fields: &mut RawDocumentBuf, created: &Created) {
    append_facts(fields, created);
    fields.append(raw::SYSTEM, created.system);
    fields.append(raw::STATED, stated(created));
    for authority in authorities(created) {
        append_authority(fields, authority);
    }
}

fn append_facts(fields: &mut RawDocumentBuf, created: &Created) {
    fields.append(raw::DIALOG, created.dialog.as_str());
    fields.append(raw::AT, created.at.get());
    fields.append(raw::SENDER, created.sender.as_str());
    fields.append(raw::TYPE, created.sender_type.as_str());
}

fn stated(created: &Created) -> i32 {
    let flag = |by: &Authority, flag| if by.presumed { 0 } else { flag };
    flag(&created.at_by, STATED_TIME) | flag(&created.type_by, STATED_TYPE)
}

/// Which create each fact is from; the first is that of all others which are
/// not named.
fn authorities(created: &Created) -> [(&'static CStr, Option<&Stamp>); 3] {
    [
        (raw::BY, created.system_by.stamp.as_ref()),
        (raw::AT_BY, created.at_by.stamp.as_ref()),
        (raw::TYPE_BY, created.type_by.stamp.as_ref()),
    ]
}

fn append_authority(fields: &mut RawDocumentBuf, (name, stamp): (&CStr, Option<&Stamp>)) {
    if let Some(stamp) = stamp {
        fields.append(name, stamp::document(stamp));
    }
}

/// The counters of a message by escaped names.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct MessageCounts {
    /// Users who reached each status.
    #[serde(default)]
    pub(crate) statuses: HashMap<String, i64>,
    /// Users who have set each reaction.
    #[serde(default)]
    pub(crate) reactions: HashMap<String, i64>,
}

/// A placeholder.
#[derive(Debug, Deserialize)]
pub(crate) struct PlaceholderDocument {
    /// Changes of it.
    pub(crate) version: i64,
    /// Its counters.
    #[serde(flatten)]
    pub(crate) counts: MessageCounts,
}

/// A whole document: the facts and the counters.
#[derive(Debug, Deserialize)]
pub(crate) struct WholeMessage {
    /// The key, of which the message is read.
    pub(crate) _id: MessagePart,
    /// The counters.
    #[serde(flatten)]
    pub(crate) counts: MessageCounts,
    /// The facts.
    #[serde(flatten)]
    pub(crate) facts: MessageDocument,
}

/// The counters of a message, and whether they count.
#[derive(Debug, Deserialize)]
pub(crate) struct CountedMessage {
    /// The key, of which the message is read.
    pub(crate) _id: MessagePart,
    /// The dialog, once the create is known.
    pub(crate) d: Option<String>,
    /// Whether it was deleted.
    #[serde(default)]
    pub(crate) deleted: bool,
    /// The counters.
    #[serde(flatten)]
    pub(crate) counts: MessageCounts,
}

/// When a message was sent.
#[derive(Debug, Deserialize)]
pub(crate) struct MessageTime {
    /// The key, of which the message is read.
    pub(crate) _id: MessagePart,
    /// The message's time.
    pub(crate) at: i64,
}

/// What a dialog's tail has of a message.
#[derive(Debug, Deserialize)]
pub(crate) struct TailDocument {
    _id: MessagePart,
    at: i64,
    sender: String,
    r#type: String,
    #[serde(default)]
    statuses: ReadCount,
}

/// How many users have read a message one by one.
#[derive(Debug, Default, Deserialize)]
struct ReadCount {
    #[serde(default)]
    read: i64,
}

impl TryFrom<TailDocument> for TailMessage {
    type Error = StoreError;

    fn try_from(stored: TailDocument) -> Result<Self, StoreError> {
        Ok(TailMessage {
            id: stored._id.try_into()?,
            at: micros(stored.at)?,
            sender: UserId::new(&stored.sender).map_err(invalid)?,
            sender_type: SenderType::new(&stored.r#type).map_err(invalid)?,
            reads: stored.statuses.read,
        })
    }
}
