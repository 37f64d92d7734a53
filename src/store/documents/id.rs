//! The `_id` of each document, made in one place, and the ranges and paths that
//! look documents up by it.
//!
//! An `_id` is a document of the parts of a key in a fixed order: the order is part
//! of the key, and documents with the same first parts stand together in the index.

use mongodb::bson::raw::CStr;
use mongodb::bson::{Bson, Document, RawDocumentBuf, cstr, doc};
use serde::Deserialize;

use super::invalid;
use crate::derive::state::{
    DialogKey, EventKey, MembershipKey, MessageKey, ReactionKey, ReceiptKey, TopicKey, UserKey,
};
use crate::event::{DialogId, EventId, MessageId, Status, TenantId, UserId};
use crate::store::StoreError;

/// The path of the whole key.
pub(crate) const ID: &str = "_id";
/// The path of the tenant in a key.
pub(crate) const TENANT: &str = "_id.t";
/// The path of the dialog in a key.
pub(crate) const DIALOG: &str = "_id.d";
/// The path of the message in a key.
pub(crate) const MESSAGE: &str = "_id.m";
/// The path of the user in a key.
pub(crate) const USER: &str = "_id.u";

/// The names of the parts inside a key.
pub(crate) mod part {
    /// The tenant; every key begins with it.
    pub(crate) const TENANT: &str = "t";
    /// The dialog.
    pub(crate) const DIALOG: &str = "d";
    /// The message.
    pub(crate) const MESSAGE: &str = "m";
    /// The user.
    pub(crate) const USER: &str = "u";
    /// The event of a journal record.
    pub(crate) const EVENT: &str = "e";
    /// The status of a receipt.
    pub(crate) const STATUS: &str = "s";
    /// The reaction of a user's word on it.
    pub(crate) const REACTION: &str = "r";
}

/// No key has more parts than this.
const MAX_PARTS: usize = 4;

/// An `_id`, or the first parts of some.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Id<'k> {
    parts: [(&'static CStr, &'k str); MAX_PARTS],
    len: usize,
}

impl<'k> Id<'k> {
    fn of(tenant: &'k TenantId) -> Self {
        let mut parts = [(cstr!(""), ""); MAX_PARTS];
        parts[0] = (cstr!("t"), tenant.as_str());
        Self { parts, len: 1 }
    }

    fn with(mut self, name: &'static CStr, value: &'k str) -> Self {
        self.parts[self.len] = (name, value);
        self.len += 1;
        self
    }

    fn parts(&self) -> &[(&'static CStr, &'k str)] {
        &self.parts[..self.len]
    }

    /// The `_id` as it is written.
    pub(crate) fn raw(&self) -> RawDocumentBuf {
        let mut id = RawDocumentBuf::new();
        for (name, value) in self.parts() {
            id.append(*name, *value);
        }
        id
    }

    /// The `_id` for a filter.
    pub(crate) fn document(&self) -> Document {
        let parts = self.parts().iter();
        parts
            .map(|(name, value)| (name.as_str().to_owned(), Bson::from(*value)))
            .collect()
    }

    /// The range of all longer keys that begin with these parts.
    pub(crate) fn below(&self) -> Document {
        let (start, mut end) = (self.document(), self.document());
        // Documents compare field by field, names after types: whatever field
        // follows, its type comes before this.
        end.insert("~", Bson::MaxKey);
        doc! { "$gt": start, "$lt": end }
    }
}

/// What the `_id`s of all documents of a tenant begin with.
pub(crate) fn tenant(tenant: &TenantId) -> Id<'_> {
    Id::of(tenant)
}

/// The `_id` of an event's record in `journal`.
pub(crate) fn event<'k>(tenant: &'k TenantId, event: &'k EventId) -> Id<'k> {
    Id::of(tenant).with(cstr!("e"), event.as_str())
}

/// The `_id` of a document of `dialogs`.
pub(crate) fn dialog<'k>(tenant: &'k TenantId, dialog: &'k DialogId) -> Id<'k> {
    Id::of(tenant).with(cstr!("d"), dialog.as_str())
}

/// The `_id` of a document of `memberships`: one user's share of a dialog.
pub(crate) fn membership<'k>(tenant: &'k TenantId, of: &'k DialogId, user: &'k UserId) -> Id<'k> {
    dialog(tenant, of).with(cstr!("u"), user.as_str())
}

/// The `_id` of a document of `messages`.
pub(crate) fn message<'k>(tenant: &'k TenantId, message: &'k MessageId) -> Id<'k> {
    Id::of(tenant).with(cstr!("m"), message.as_str())
}

/// What the `_id`s of all receipts of a status for a message begin with.
pub(crate) fn receipts<'k>(tenant: &'k TenantId, of: &'k MessageId, status: &'k Status) -> Id<'k> {
    message(tenant, of).with(cstr!("s"), status.as_str())
}

/// The `_id` of a document of `receipts`: a user reached a status for a message.
pub(crate) fn receipt<'k>(
    tenant: &'k TenantId,
    message: &'k MessageId,
    status: &'k Status,
    user: &'k UserId,
) -> Id<'k> {
    receipts(tenant, message, status).with(cstr!("u"), user.as_str())
}

/// The `_id` of a document of `users`.
pub(crate) fn user<'k>(tenant: &'k TenantId, user: &'k UserId) -> Id<'k> {
    Id::of(tenant).with(cstr!("u"), user.as_str())
}

/// A key whose document has an `_id` made of it.
pub(crate) trait Key {
    /// Returns the document's `_id`.
    fn id(&self) -> Id<'_>;

    /// Returns the tenant to whom the document belongs.
    fn tenant(&self) -> &TenantId;
}

impl Key for EventKey {
    fn id(&self) -> Id<'_> {
        event(&self.tenant, &self.event)
    }

    fn tenant(&self) -> &TenantId {
        &self.tenant
    }
}

impl Key for DialogKey {
    fn id(&self) -> Id<'_> {
        dialog(&self.tenant, &self.dialog)
    }

    fn tenant(&self) -> &TenantId {
        &self.tenant
    }
}

impl Key for MembershipKey {
    fn id(&self) -> Id<'_> {
        membership(&self.dialog.tenant, &self.dialog.dialog, &self.user)
    }

    fn tenant(&self) -> &TenantId {
        &self.dialog.tenant
    }
}

impl Key for MessageKey {
    fn id(&self) -> Id<'_> {
        message(&self.tenant, &self.message)
    }

    fn tenant(&self) -> &TenantId {
        &self.tenant
    }
}

impl Key for ReceiptKey {
    fn id(&self) -> Id<'_> {
        let MessageKey { tenant, message } = &self.message;
        receipt(tenant, message, &self.status, &self.user)
    }

    fn tenant(&self) -> &TenantId {
        &self.message.tenant
    }
}

impl Key for ReactionKey {
    fn id(&self) -> Id<'_> {
        self.message
            .id()
            .with(cstr!("r"), self.reaction.as_str())
            .with(cstr!("u"), self.user.as_str())
    }

    fn tenant(&self) -> &TenantId {
        &self.message.tenant
    }
}

impl Key for TopicKey {
    fn id(&self) -> Id<'_> {
        self.dialog.id().with(cstr!("topic"), self.topic.as_str())
    }

    fn tenant(&self) -> &TenantId {
        &self.dialog.tenant
    }
}

impl Key for UserKey {
    fn id(&self) -> Id<'_> {
        user(&self.tenant, &self.user)
    }

    fn tenant(&self) -> &TenantId {
        &self.tenant
    }
}

/// A document of which only the key matters.
#[derive(Debug, Deserialize)]
pub(crate) struct Keyed<I> {
    /// The key, or as much of it as is read.
    pub(crate) _id: I,
}

/// The `_id` of a dialog, read back.
#[derive(Debug, Deserialize)]
pub(crate) struct StoredDialogId {
    t: String,
    d: String,
}

impl TryFrom<StoredDialogId> for DialogKey {
    type Error = StoreError;

    fn try_from(stored: StoredDialogId) -> Result<Self, StoreError> {
        Ok(DialogKey {
            tenant: TenantId::new(&stored.t).map_err(invalid)?,
            dialog: DialogId::new(&stored.d).map_err(invalid)?,
        })
    }
}

/// The `_id` of a message, read back.
#[derive(Debug, Deserialize)]
pub(crate) struct StoredMessageId {
    t: String,
    m: String,
}

impl TryFrom<StoredMessageId> for MessageKey {
    type Error = StoreError;

    fn try_from(stored: StoredMessageId) -> Result<Self, StoreError> {
        Ok(MessageKey {
            tenant: TenantId::new(&stored.t).map_err(invalid)?,
            message: MessageId::new(&stored.m).map_err(invalid)?,
        })
    }
}

/// The message in a key that has one.
#[derive(Debug, Deserialize)]
pub(crate) struct MessagePart {
    m: String,
}

impl TryFrom<MessagePart> for MessageId {
    type Error = StoreError;

    fn try_from(part: MessagePart) -> Result<Self, StoreError> {
        MessageId::new(&part.m).map_err(invalid)
    }
}

/// The user in a key that has one.
#[derive(Debug, Deserialize)]
pub(crate) struct UserPart {
    u: String,
}

impl TryFrom<UserPart> for UserId {
    type Error = StoreError;

    fn try_from(part: UserPart) -> Result<Self, StoreError> {
        UserId::new(&part.u).map_err(invalid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is stored has these keys: neither their names nor their order may change.
    #[test]
    fn each_key_has_its_parts_in_their_order_in_both_forms() {
        let tenant = TenantId::new("T").unwrap();
        let dialog = DialogKey {
            tenant: tenant.clone(),
            dialog: DialogId::new("D").unwrap(),
        };
        let message = MessageKey {
            tenant: tenant.clone(),
            message: MessageId::new("M").unwrap(),
        };
        let user = UserId::new("u").unwrap();
        let of = |key: &dyn Key| {
            let id = key.id();
            assert_eq!(Document::try_from(id.raw()).unwrap(), id.document());
            assert_eq!(key.tenant().as_str(), "T");
            id.document()
        };
        let event = EventKey {
            tenant: tenant.clone(),
            event: EventId::new("E").unwrap(),
        };
        assert_eq!(of(&event), doc! { "t": "T", "e": "E" });
        assert_eq!(of(&dialog), doc! { "t": "T", "d": "D" });
        assert_eq!(of(&message), doc! { "t": "T", "m": "M" });
        let membership = MembershipKey {
            dialog: dialog.clone(),
            user: user.clone(),
        };
        assert_eq!(of(&membership), doc! { "t": "T", "d": "D", "u": "u" });
        let receipt = ReceiptKey {
            message: message.clone(),
            status: Status::new("s").unwrap(),
            user: user.clone(),
        };
        let parts = doc! { "t": "T", "m": "M", "s": "s", "u": "u" };
        assert_eq!(of(&receipt), parts);
        let reaction = ReactionKey {
            message,
            reaction: crate::event::Reaction::new("R").unwrap(),
            user: user.clone(),
        };
        let parts = doc! { "t": "T", "m": "M", "r": "R", "u": "u" };
        assert_eq!(of(&reaction), parts);
        let topic = TopicKey {
            dialog,
            topic: crate::event::TopicId::new("X").unwrap(),
        };
        assert_eq!(of(&topic), doc! { "t": "T", "d": "D", "topic": "X" });
        assert_eq!(of(&UserKey { tenant, user }), doc! { "t": "T", "u": "u" });
    }

    #[test]
    fn a_range_has_the_longer_keys_and_not_the_key_itself() {
        let (tenant, dialog) = (TenantId::new("T").unwrap(), DialogId::new("D").unwrap());
        let range = super::dialog(&tenant, &dialog).below();
        let key = doc! { "t": "T", "d": "D" };
        let end = doc! { "t": "T", "d": "D", "~": Bson::MaxKey };
        assert_eq!(range, doc! { "$gt": key, "$lt": end });
    }
}
