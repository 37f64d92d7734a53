//! `memberships`: one user's share of a dialog. There is one also for somebody who only
//! sent or read.

use mongodb::bson::{Document, RawArrayBuf, RawDocumentBuf, doc};
use serde::Deserialize;

use super::id::{self, UserPart};
use super::stamp::{self, StampDocument};
use super::{Counts, micros};
use crate::derive::state::{Add, Membership};
use crate::event::{Micros, Stamp};
use crate::store::StoreError;

fields! {
    /// int64, +1 for every change of this document's meaning.
    VERSION = "version";
    /// bool: a member now. Absent means `false`.
    MEMBER = "member";
    /// Micros: join time of the earliest add after the latest remove; present
    /// exactly for members.
    JOINED_AT = "joined_at";
    /// Micros: the latest bulk read; absent before any.
    READ_UNTIL = "read_until";
    /// Micros: max(`read_until`, `joined_at` - 1); messages at or before it are
    /// not unread. Present exactly for members. Can be -1.
    MARK = "mark";
    /// By-type vector: how much of the dialog's `sequence` is not unread.
    /// Meaningful for members only.
    CONSUMED = "consumed";
    /// int64: messages sent and not deleted, `system.*` included.
    SENT = "sent";
    /// Array of `{at, event, joined_at}`: every add after the latest remove.
    ADDS = "adds";
    /// `{at, event}` of the latest remove.
    REMOVED = "removed";
    /// Date of the last write.
    UPDATED_AT = "updated_at";
}

/// The index of a user's dialogs, and the order that it gives.
pub(crate) fn by_user() -> Document {
    doc! { id::TENANT: 1, id::USER: 1, id::DIALOG: 1 }
}

/// The index of a dialog's members by their marks: who has a late message behind
/// them, or is among its readers, is read from it alone.
pub(crate) fn by_mark() -> Document {
    doc! { id::TENANT: 1, id::DIALOG: 1, MARK: 1, JOINED_AT: 1, id::USER: 1 }
}

#[derive(Debug, Deserialize)]
struct AddDocument {
    at: i64,
    event: String,
    joined_at: i64,
}

/// Part of `memberships`: the facts.
#[derive(Debug, Deserialize)]
pub(crate) struct MembershipDocument {
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
                stamp: stamp::parse(add.at, &add.event)?,
                joined_at: micros(add.joined_at)?,
            })
        });
        let removed = stored.removed.map(Stamp::try_from);
        Ok(Membership {
            adds: adds.collect::<Result<_, StoreError>>()?,
            removed: removed.transpose()?,
            read_until: stored.read_until.map(micros).transpose()?,
        })
    }
}

/// The fields of `memberships` that state its facts, and those that follow:
/// what to set and what to remove.
pub(crate) fn facts(membership: &Membership) -> (RawDocumentBuf, RawDocumentBuf) {
    let (mut set, mut unset) = (RawDocumentBuf::new(), RawDocumentBuf::new());
    for (field, value) in [
        (raw::JOINED_AT, membership.joined_at().map(Micros::get)),
        (raw::MARK, membership.watermark().map(|mark| mark.0)),
        (raw::READ_UNTIL, membership.read_until.map(Micros::get)),
    ] {
        match value {
            Some(value) => set.append(field, value),
            None => unset.append(field, ""),
        }
    }
    set.append(raw::MEMBER, membership.joined_at().is_some());
    let mut adds = RawArrayBuf::new();
    for add in &membership.adds {
        let mut document = stamp::document(&add.stamp);
        document.append(raw::JOINED_AT, add.joined_at.get());
        adds.push(document);
    }
    set.append(raw::ADDS, adds);
    if let Some(removed) = &membership.removed {
        set.append(raw::REMOVED, stamp::document(removed));
    }
    (set, unset)
}

/// The counters of a share.
#[derive(Debug, Deserialize)]
pub(crate) struct ShareDocument {
    /// The key, of which the user is read.
    pub(crate) _id: UserPart,
    /// Whether the user is a member.
    #[serde(default)]
    pub(crate) member: bool,
    /// How much of the dialog's sequence is not unread.
    #[serde(default)]
    pub(crate) consumed: Counts,
    /// Messages sent and not deleted.
    #[serde(default)]
    pub(crate) sent: i64,
}

/// A whole document: the counters, the facts, and what follows from the facts.
#[derive(Debug, Deserialize)]
pub(crate) struct WholeMembership {
    /// The counters.
    #[serde(flatten)]
    pub(crate) share: ShareDocument,
    /// The join time, present for members.
    pub(crate) joined_at: Option<i64>,
    /// The mark, present for members.
    pub(crate) mark: Option<i64>,
    /// The facts.
    #[serde(flatten)]
    pub(crate) facts: MembershipDocument,
}

/// A member and their mark.
#[derive(Debug, Deserialize)]
pub(crate) struct MarkDocument {
    /// The key, of which the user is read.
    pub(crate) _id: UserPart,
    /// The mark.
    pub(crate) mark: i64,
}
