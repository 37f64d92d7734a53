//! The documents of [`super::schema`] as Rust types, for reading and writing.

use std::collections::BTreeMap;

use mongodb::bson::{Document, doc};
use serde::{Deserialize, Serialize};

use super::StoreError;
use super::schema::{escape, unescape};
use crate::derive::state::{
    Add, ByType, Created, Dialog, DialogKey, EventKey, Mark, Membership, MembershipKey, Message,
    MessageKey, ReactionKey, ReceiptKey, TopicKey, UserKey, Word,
};
use crate::event::{DialogId, EventId, InvalidId, Micros, SenderType, Stamp, UserId};

/// A key as the `_id` of its document.
pub trait Id {
    /// The parts in their fixed order: the order is part of the key.
    fn id(&self) -> Document;
}

impl Id for EventKey {
    fn id(&self) -> Document {
        doc! { "t": self.tenant.as_str(), "e": self.event.as_str() }
    }
}

impl Id for DialogKey {
    fn id(&self) -> Document {
        doc! { "t": self.tenant.as_str(), "d": self.dialog.as_str() }
    }
}

impl Id for MembershipKey {
    fn id(&self) -> Document {
        let mut id = self.dialog.id();
        id.insert("u", self.user.as_str());
        id
    }
}

impl Id for MessageKey {
    fn id(&self) -> Document {
        doc! { "t": self.tenant.as_str(), "m": self.message.as_str() }
    }
}

impl Id for ReceiptKey {
    fn id(&self) -> Document {
        let mut id = self.message.id();
        id.insert("s", self.status.as_str());
        id.insert("u", self.user.as_str());
        id
    }
}

impl Id for ReactionKey {
    fn id(&self) -> Document {
        let mut id = self.message.id();
        id.insert("r", self.reaction.as_str());
        id.insert("u", self.user.as_str());
        id
    }
}

impl Id for TopicKey {
    fn id(&self) -> Document {
        let mut id = self.dialog.id();
        id.insert("topic", self.topic.as_str());
        id
    }
}

impl Id for UserKey {
    fn id(&self) -> Document {
        doc! { "t": self.tenant.as_str(), "u": self.user.as_str() }
    }
}

/// A stored document whose id or time is out of bounds: someone else wrote it.
fn foreign(what: InvalidId) -> StoreError {
    StoreError::Answer(format!("a stored document has {what}"))
}

/// A stored time.
///
/// # Errors
/// When it is out of bounds.
pub fn micros(at: i64) -> Result<Micros, StoreError> {
    Micros::new(at).ok_or_else(|| StoreError::Answer(format!("a stored time is {at}")))
}

/// A by-type vector or another map from names to counts, names escaped.
pub type Counts = BTreeMap<String, i64>;

/// A by-type vector from its document.
///
/// # Errors
/// When a name in it is no sender type.
pub fn by_type(counts: &Counts) -> Result<ByType, StoreError> {
    counts
        .iter()
        .map(|(name, count)| Ok((SenderType::new(&unescape(name)).map_err(foreign)?, *count)))
        .collect()
}

/// A by-type vector as a document.
pub fn by_type_document(by_type: &ByType) -> Document {
    by_type
        .iter()
        .map(|(name, count)| (escape(name.as_str()), count.into()))
        .collect()
}

/// Part of `dialogs`: what derive knows.
#[derive(Debug, Deserialize)]
pub struct DialogDocument {
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
            high_mark: stored.high_mark.map(Mark),
            deleted: stored.deleted,
        })
    }
}

/// A [`Stamp`] as stored.
#[derive(Debug, Serialize, Deserialize)]
pub struct StampDocument {
    at: i64,
    event: String,
}

impl From<&Stamp> for Document {
    fn from(stamp: &Stamp) -> Self {
        doc! { "at": stamp.at.get(), "event": stamp.event.as_str() }
    }
}

fn stamp(at: i64, event: &str) -> Result<Stamp, StoreError> {
    Ok(Stamp {
        at: micros(at)?,
        event: EventId::new(event).map_err(foreign)?,
    })
}

#[derive(Debug, Deserialize)]
struct AddDocument {
    at: i64,
    event: String,
    joined_at: i64,
}

/// Part of `memberships`: the facts.
#[derive(Debug, Deserialize)]
pub struct MembershipDocument {
    #[serde(default)]
    adds: Vec<AddDocument>,
    removed: Option<StampDocument>,
    read_until: Option<i64>,
}

impl TryFrom<MembershipDocument> for Membership {
    type Error = StoreError;

    fn try_from(stored: MembershipDocument) -> Result<Self, StoreError> {
        let adds = stored.adds.iter().map(|add| {
            Ok(Add {
                stamp: stamp(add.at, &add.event)?,
                joined_at: micros(add.joined_at)?,
            })
        });
        let removed = stored
            .removed
            .map(|removed| stamp(removed.at, &removed.event));
        Ok(Membership {
            adds: adds.collect::<Result<_, StoreError>>()?,
            removed: removed.transpose()?,
            read_until: stored.read_until.map(micros).transpose()?,
        })
    }
}

/// The fields of `memberships` that state its facts, and those that follow:
/// what to set and what to remove.
pub fn membership_facts(membership: &Membership) -> (Document, Document) {
    let (mut set, mut unset) = (Document::new(), Document::new());
    let mut put = |field: &str, value: Option<i64>| match value {
        Some(value) => set.insert(field, value),
        None => unset.insert(field, ""),
    };
    put("joined_at", membership.joined_at().map(Micros::get));
    put("mark", membership.mark().map(|mark| mark.0));
    put("read_until", membership.read_until.map(Micros::get));
    set.insert("member", membership.joined_at().is_some());
    let adds = membership.adds.iter().map(|add| {
        let mut document = Document::from(&add.stamp);
        document.insert("joined_at", add.joined_at.get());
        document
    });
    set.insert("adds", adds.collect::<Vec<_>>());
    if let Some(removed) = &membership.removed {
        set.insert("removed", Document::from(removed));
    }
    (set, unset)
}

/// Part of `messages`: the facts.
#[derive(Debug, Serialize, Deserialize)]
pub struct MessageDocument {
    d: Option<String>,
    at: Option<i64>,
    sender: Option<String>,
    r#type: Option<String>,
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
        let created = match (stored.d, stored.at, stored.sender, stored.r#type) {
            (Some(dialog), Some(at), Some(sender), Some(sender_type)) => Some(Created {
                dialog: DialogId::new(&dialog).map_err(foreign)?,
                at: micros(at)?,
                sender: UserId::new(&sender).map_err(foreign)?,
                sender_type: SenderType::new(&sender_type).map_err(foreign)?,
                system: stored.system,
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

/// The fields of `messages` that a create sets.
pub fn created_fields(created: &Created) -> Document {
    let mut fields = doc! {
        "d": created.dialog.as_str(),
        "at": created.at.get(),
        "sender": created.sender.as_str(),
        "type": created.sender_type.as_str(),
    };
    if created.system {
        fields.insert("system", true);
    }
    fields
}

/// A document of `reactions`.
#[derive(Debug, Deserialize)]
pub struct WordDocument {
    at: i64,
    event: String,
    set: bool,
}

impl TryFrom<WordDocument> for Word {
    type Error = StoreError;

    fn try_from(stored: WordDocument) -> Result<Self, StoreError> {
        Ok(Word {
            stamp: stamp(stored.at, &stored.event)?,
            set: stored.set,
        })
    }
}
