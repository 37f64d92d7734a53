//! The counters that stand in documents at a loader's moment: what a
//! [forecast](crate::forecast) compares with.

use std::collections::{BTreeMap, HashMap};

use futures::TryStreamExt as _;
use mongodb::bson::{Document, doc};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::documents::{Counts, DialogDocument, Id as _, below, by_type, foreign};
use super::schema::{collection, unescape};
use super::{Loader, StoreError};
use crate::derive::state::{ByType, Dialog, DialogKey, MembershipKey, MessageKey};
use crate::event::{DialogId, InvalidId, MessageId, Reaction, Status, TenantId, UserId};

/// A user's share of a dialog; all zero for one that is not stored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Share {
    /// A member now.
    pub member: bool,
    /// How much of the dialog's sequence is not unread.
    pub consumed: ByType,
    /// Messages sent and not deleted.
    pub sent: i64,
}

/// A message's counters; all zero for one that is not stored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Marks {
    /// Its dialog, once it was created.
    pub dialog: Option<DialogId>,
    /// Whether it was deleted.
    pub deleted: bool,
    /// Users who reached each status.
    pub statuses: BTreeMap<Status, i64>,
    /// Users who have set each reaction.
    pub reactions: BTreeMap<Reaction, i64>,
}

impl Loader {
    /// Dialogs; empty ones for those that are not stored.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub async fn dialogs(
        &mut self,
        keys: Vec<DialogKey>,
    ) -> Result<Vec<(DialogKey, Dialog)>, StoreError> {
        let found = self.find::<_, DialogDocument>(collection::DIALOGS, keys);
        let found = found.await?.into_iter().map(|(key, found)| {
            let dialog = found.map(Dialog::try_from).transpose()?;
            Ok((key, dialog.unwrap_or_default()))
        });
        found.collect()
    }

    /// Users' shares of dialogs.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub async fn shares(
        &mut self,
        keys: Vec<MembershipKey>,
    ) -> Result<Vec<(MembershipKey, Share)>, StoreError> {
        let found = self.find::<_, ShareDocument>(collection::MEMBERSHIPS, keys);
        let found = found.await?.into_iter().map(|(key, found)| {
            let share = found.map(Share::try_from).transpose()?;
            Ok((key, share.unwrap_or_default()))
        });
        found.collect()
    }

    /// Counters of messages.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub async fn marks(
        &mut self,
        keys: Vec<MessageKey>,
    ) -> Result<Vec<(MessageKey, Marks)>, StoreError> {
        let found = self.find::<_, MarksDocument>(collection::MESSAGES, keys);
        let found = found.await?.into_iter().map(|(key, found)| {
            let marks = found.map(Marks::try_from).transpose()?;
            Ok((key, marks.unwrap_or_default()))
        });
        found.collect()
    }

    /// All shares of a dialog; `None` when there are more than so many.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub async fn shares_of(
        &mut self,
        dialog: &DialogKey,
        most: usize,
    ) -> Result<Option<Vec<(UserId, Share)>>, StoreError> {
        let filter = doc! { "_id": below(dialog.document()?) };
        let found =
            self.all::<ShareDocument>(&dialog.tenant, collection::MEMBERSHIPS, filter, most);
        let Some(found) = found.await? else {
            return Ok(None);
        };
        let shares = found.into_iter().map(|share| {
            let user = UserId::new(&share._id.u).map_err(foreign)?;
            Ok((user, share.try_into()?))
        });
        shares.collect::<Result<_, StoreError>>().map(Some)
    }

    /// The counters of all messages of a dialog that are not deleted; `None`
    /// when there are more than so many.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub async fn marks_of(
        &mut self,
        dialog: &DialogKey,
        most: usize,
    ) -> Result<Option<Vec<(MessageId, Marks)>>, StoreError> {
        let filter = doc! {
            "_id.t": dialog.tenant.as_str(),
            "d": dialog.dialog.as_str(),
            "deleted": { "$ne": true },
        };
        let found = self.all::<MarksDocument>(&dialog.tenant, collection::MESSAGES, filter, most);
        let Some(found) = found.await? else {
            return Ok(None);
        };
        let marks = found.into_iter().map(|marks| {
            let message = MessageId::new(&marks._id.m).map_err(foreign)?;
            Ok((message, marks.try_into()?))
        });
        marks.collect::<Result<_, StoreError>>().map(Some)
    }

    /// All documents that are found; `None` when there are more than so many.
    async fn all<D: DeserializeOwned + Send + Sync>(
        &mut self,
        tenant: &TenantId,
        name: &'static str,
        filter: Document,
        most: usize,
    ) -> Result<Option<Vec<D>>, StoreError> {
        let limit = i64::try_from(most).unwrap_or(i64::MAX).saturating_add(1);
        let mut cursor = self
            .collection::<D>(tenant, name)
            .find(filter)
            .limit(limit)
            .session(&mut self.session)
            .await?;
        let mut found = Vec::new();
        while let Some(one) = cursor.stream(&mut self.session).try_next().await? {
            found.push(one);
        }
        Ok((found.len() <= most).then_some(found))
    }
}

#[derive(Deserialize)]
struct UserPart {
    u: String,
}

#[derive(Deserialize)]
struct MessagePart {
    m: String,
}

#[derive(Deserialize)]
struct ShareDocument {
    _id: UserPart,
    #[serde(default)]
    member: bool,
    #[serde(default)]
    consumed: Counts,
    #[serde(default)]
    sent: i64,
}

impl TryFrom<ShareDocument> for Share {
    type Error = StoreError;

    fn try_from(stored: ShareDocument) -> Result<Self, StoreError> {
        Ok(Share {
            member: stored.member,
            consumed: by_type(&stored.consumed)?,
            sent: stored.sent,
        })
    }
}

#[derive(Deserialize)]
struct MarksDocument {
    _id: MessagePart,
    d: Option<String>,
    #[serde(default)]
    deleted: bool,
    #[serde(default)]
    statuses: HashMap<String, i64>,
    #[serde(default)]
    reactions: HashMap<String, i64>,
}

impl TryFrom<MarksDocument> for Marks {
    type Error = StoreError;

    fn try_from(stored: MarksDocument) -> Result<Self, StoreError> {
        let dialog = stored.d.as_deref().map(DialogId::new);
        Ok(Marks {
            dialog: dialog.transpose().map_err(foreign)?,
            deleted: stored.deleted,
            statuses: named(&stored.statuses, Status::new)?,
            reactions: named(&stored.reactions, Reaction::new)?,
        })
    }
}

fn named<K: Ord>(
    counts: &HashMap<String, i64>,
    name: impl Fn(&str) -> Result<K, InvalidId>,
) -> Result<BTreeMap<K, i64>, StoreError> {
    let counts = counts.iter();
    let counts =
        counts.map(|(field, count)| Ok((name(&unescape(field)).map_err(foreign)?, *count)));
    counts.collect()
}
