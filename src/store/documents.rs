//! The documents of [`super::schema`] as Rust types, for reading and writing.

use std::collections::BTreeMap;

use mongodb::bson::error::Result as Encoded;
use mongodb::bson::raw::{CStr, CString};
use mongodb::bson::{Bson, Document, RawArrayBuf, RawDocumentBuf, cstr, doc, rawdoc};
use serde::{Deserialize, Serialize};

use super::StoreError;
use super::schema::{STATED_TIME, STATED_TYPE, escape, unescape};
use crate::derive::state::{
    Add, Authority, ByType, Created, Dialog, DialogKey, EventKey, Membership, MembershipKey,
    Message, MessageKey, ReactionKey, ReactionState, ReceiptKey, TopicKey, UserKey, Watermark,
};
use crate::event::{DialogId, EventId, InvalidId, Micros, SenderType, Stamp, TenantId, UserId};

/// A key as the `_id` of its document.
pub trait Id {
    /// The parts in their fixed order: the order is part of the key.
    fn id(&self) -> RawDocumentBuf;

    /// Whose document it is.
    fn tenant(&self) -> &TenantId;

    /// The parts for a filter.
    ///
    /// # Errors
    /// Never for a key of an event.
    fn document(&self) -> Result<Document, StoreError> {
        Document::try_from(self.id()).map_err(|e| StoreError::Driver(e.into()))
    }
}

/// A document of which only the key matters.
#[derive(Debug, Deserialize)]
pub struct Keyed<I> {
    pub _id: I,
}

/// The range of all longer keys that begin with this one.
pub fn below(key: Document) -> Document {
    let mut end = key.clone();
    // Documents compare field by field, names after types: whatever field
    // follows, its type comes before this.
    end.insert("~", Bson::MaxKey);
    doc! { "$gt": key, "$lt": end }
}

impl Id for EventKey {
    fn id(&self) -> RawDocumentBuf {
        rawdoc! { "t": self.tenant.as_str(), "e": self.event.as_str() }
    }

    fn tenant(&self) -> &TenantId {
        &self.tenant
    }
}

impl Id for DialogKey {
    fn id(&self) -> RawDocumentBuf {
        rawdoc! { "t": self.tenant.as_str(), "d": self.dialog.as_str() }
    }

    fn tenant(&self) -> &TenantId {
        &self.tenant
    }
}

impl Id for MembershipKey {
    fn id(&self) -> RawDocumentBuf {
        let mut id = self.dialog.id();
        id.append(cstr!("u"), self.user.as_str());
        id
    }

    fn tenant(&self) -> &TenantId {
        &self.dialog.tenant
    }
}

impl Id for MessageKey {
    fn id(&self) -> RawDocumentBuf {
        rawdoc! { "t": self.tenant.as_str(), "m": self.message.as_str() }
    }

    fn tenant(&self) -> &TenantId {
        &self.tenant
    }
}

impl Id for ReceiptKey {
    fn id(&self) -> RawDocumentBuf {
        let mut id = self.message.id();
        id.append(cstr!("s"), self.status.as_str());
        id.append(cstr!("u"), self.user.as_str());
        id
    }

    fn tenant(&self) -> &TenantId {
        &self.message.tenant
    }
}

impl Id for ReactionKey {
    fn id(&self) -> RawDocumentBuf {
        let mut id = self.message.id();
        id.append(cstr!("r"), self.reaction.as_str());
        id.append(cstr!("u"), self.user.as_str());
        id
    }

    fn tenant(&self) -> &TenantId {
        &self.message.tenant
    }
}

impl Id for TopicKey {
    fn id(&self) -> RawDocumentBuf {
        let mut id = self.dialog.id();
        id.append(cstr!("topic"), self.topic.as_str());
        id
    }

    fn tenant(&self) -> &TenantId {
        &self.dialog.tenant
    }
}

impl Id for UserKey {
    fn id(&self) -> RawDocumentBuf {
        rawdoc! { "t": self.tenant.as_str(), "u": self.user.as_str() }
    }

    fn tenant(&self) -> &TenantId {
        &self.tenant
    }
}

/// A stored document whose id or time is out of bounds: someone else wrote it.
pub fn foreign(what: InvalidId) -> StoreError {
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
///
/// # Errors
/// As [`field`].
pub fn by_type_document(by_type: &ByType) -> Encoded<RawDocumentBuf> {
    let mut document = RawDocumentBuf::new();
    for (name, count) in by_type.iter() {
        document.append(field("", name.as_str())?, count);
    }
    Ok(document)
}

/// The name of a field after a name from outside, or the path to it.
///
/// # Errors
/// Never for a name of an event: it has no control characters.
pub fn field(prefix: &str, name: &str) -> Encoded<CString> {
    let mut path = escape(name);
    path.insert_str(0, prefix);
    CString::try_from(path)
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
            high_watermark: stored.high_mark.map(Watermark),
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

/// Adds the two fields of a stamp. Their order is how stamps compare.
pub fn append_stamp(document: &mut RawDocumentBuf, stamp: &Stamp) {
    document.append(cstr!("at"), stamp.at.get());
    document.append(cstr!("event"), stamp.event.as_str());
}

impl TryFrom<StampDocument> for Stamp {
    type Error = StoreError;

    fn try_from(stored: StampDocument) -> Result<Self, StoreError> {
        stamp(stored.at, &stored.event)
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
pub fn membership_facts(membership: &Membership) -> (RawDocumentBuf, RawDocumentBuf) {
    let (mut set, mut unset) = (RawDocumentBuf::new(), RawDocumentBuf::new());
    for (field, value) in [
        (cstr!("joined_at"), membership.joined_at().map(Micros::get)),
        (cstr!("mark"), membership.watermark().map(|mark| mark.0)),
        (cstr!("read_until"), membership.read_until.map(Micros::get)),
    ] {
        match value {
            Some(value) => set.append(field, value),
            None => unset.append(field, ""),
        }
    }
    set.append(cstr!("member"), membership.joined_at().is_some());
    let mut adds = RawArrayBuf::new();
    for add in &membership.adds {
        let mut document = RawDocumentBuf::new();
        append_stamp(&mut document, &add.stamp);
        document.append(cstr!("joined_at"), add.joined_at.get());
        adds.push(document);
    }
    set.append(cstr!("adds"), adds);
    if let Some(removed) = &membership.removed {
        let mut document = RawDocumentBuf::new();
        append_stamp(&mut document, removed);
        set.append(cstr!("removed"), document);
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
                dialog: DialogId::new(&dialog).map_err(foreign)?,
                at: micros(at)?,
                sender: UserId::new(&sender).map_err(foreign)?,
                sender_type: SenderType::new(&sender_type).map_err(foreign)?,
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
pub fn append_created(fields: &mut RawDocumentBuf, created: &Created) {
    append_facts(fields, created);
    if created.system {
        fields.append(cstr!("system"), true);
    }
    let stated = stated(created);
    if stated != 0 {
        fields.append(cstr!("stated"), stated);
    }
    let [by, others @ ..] = authorities(created);
    append_authority(fields, by);
    // Mostly all is from one create.
    let others = others.into_iter().filter(|(_, stamp)| *stamp != by.1);
    others.for_each(|other| append_authority(fields, other));
}

/// Adds the fields of `messages` that a further create may change.
pub fn append_corrected(fields: &mut RawDocumentBuf, created: &Created) {
    append_facts(fields, created);
    fields.append(cstr!("system"), created.system);
    fields.append(cstr!("stated"), stated(created));
    for authority in authorities(created) {
        append_authority(fields, authority);
    }
}

fn append_facts(fields: &mut RawDocumentBuf, created: &Created) {
    fields.append(cstr!("d"), created.dialog.as_str());
    fields.append(cstr!("at"), created.at.get());
    fields.append(cstr!("sender"), created.sender.as_str());
    fields.append(cstr!("type"), created.sender_type.as_str());
}

fn stated(created: &Created) -> i32 {
    let flag = |by: &Authority, flag| if by.presumed { 0 } else { flag };
    flag(&created.at_by, STATED_TIME) | flag(&created.type_by, STATED_TYPE)
}

/// Which create each fact is from; the first is that of all others which are
/// not named.
fn authorities(created: &Created) -> [(&'static CStr, Option<&Stamp>); 3] {
    [
        (cstr!("by"), created.system_by.stamp.as_ref()),
        (cstr!("at_by"), created.at_by.stamp.as_ref()),
        (cstr!("type_by"), created.type_by.stamp.as_ref()),
    ]
}

fn append_authority(fields: &mut RawDocumentBuf, (name, stamp): (&CStr, Option<&Stamp>)) {
    if let Some(stamp) = stamp {
        let mut document = RawDocumentBuf::new();
        append_stamp(&mut document, stamp);
        fields.append(name, document);
    }
}

/// A document of `reactions`.
#[derive(Debug, Deserialize)]
pub struct WordDocument {
    at: i64,
    event: String,
    set: bool,
}

impl TryFrom<WordDocument> for ReactionState {
    type Error = StoreError;

    fn try_from(stored: WordDocument) -> Result<Self, StoreError> {
        Ok(ReactionState {
            stamp: stamp(stored.at, &stored.event)?,
            set: stored.set,
        })
    }
}
