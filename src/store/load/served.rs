//! The counters that stand in documents at a loader's moment: what a
//! [forecast](crate::forecast) compares with.

use std::collections::{BTreeMap, HashMap};

use futures::TryStreamExt as _;
use mongodb::bson::{Document, doc};
use serde::de::DeserializeOwned;

use super::Loader;
use crate::derive::state::{ByType, Dialog, DialogKey, MembershipKey, MessageKey};
use crate::event::{DialogId, InvalidId, MessageId, Reaction, Status, TenantId, UserId};
use crate::store::StoreError;
use crate::store::documents::dialog::DialogDocument;
use crate::store::documents::membership::ShareDocument;
use crate::store::documents::message::{self, CountedMessage};
use crate::store::documents::{Key as _, by_type, collection, id, invalid, unescape};

/// A user's share of a dialog; all zero for one that is not stored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServedShare {
    /// A member now.
    pub member: bool,
    /// How much of the dialog's sequence is not unread.
    pub consumed: ByType,
    /// Messages sent and not deleted.
    pub sent: i64,
}

/// A message's counters; all zero for one that is not stored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MessageCounters {
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
    ) -> Result<Vec<(MembershipKey, ServedShare)>, StoreError> {
        let found = self.find::<_, ShareDocument>(collection::MEMBERSHIPS, keys);
        let found = found.await?.into_iter().map(|(key, found)| {
            let share = found.as_ref().map(ServedShare::of).transpose()?;
            Ok((key, share.unwrap_or_default()))
        });
        found.collect()
    }

    /// Counters of messages.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub async fn message_counters(
        &mut self,
        keys: Vec<MessageKey>,
    ) -> Result<Vec<(MessageKey, MessageCounters)>, StoreError> {
        let found = self.find::<_, CountedMessage>(collection::MESSAGES, keys);
        let found = found.await?.into_iter().map(|(key, found)| {
            let marks = found.as_ref().map(MessageCounters::of).transpose()?;
            Ok((key, marks.unwrap_or_default()))
        });
        found.collect()
    }

    /// All shares of a dialog; `None` when there are more than so many.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub async fn shares_in(
        &mut self,
        dialog: &DialogKey,
        most: usize,
    ) -> Result<Option<Vec<(UserId, ServedShare)>>, StoreError> {
        let filter = doc! { id::ID: dialog.id().below() };
        let found =
            self.all::<ShareDocument>(&dialog.tenant, collection::MEMBERSHIPS, filter, most);
        let Some(found) = found.await? else {
            return Ok(None);
        };
        let shares = found.into_iter().map(|share| {
            let served = ServedShare::of(&share)?;
            Ok((share._id.try_into()?, served))
        });
        shares.collect::<Result<_, StoreError>>().map(Some)
    }

    /// The counters of all messages of a dialog that are not deleted; `None`
    /// when there are more than so many.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub async fn message_counters_in(
        &mut self,
        dialog: &DialogKey,
        most: usize,
    ) -> Result<Option<Vec<(MessageId, MessageCounters)>>, StoreError> {
        let filter = doc! {
            id::TENANT: dialog.tenant.as_str(),
            message::DIALOG: dialog.dialog.as_str(),
            message::DELETED: { "$ne": true },
        };
        let found = self.all::<CountedMessage>(&dialog.tenant, collection::MESSAGES, filter, most);
        let Some(found) = found.await? else {
            return Ok(None);
        };
        let marks = found.into_iter().map(|marks| {
            let counters = MessageCounters::of(&marks)?;
            Ok((marks._id.try_into()?, counters))
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
            .snapshot
            .collection::<D>(tenant, name)
            .find(filter)
            .limit(limit)
            .session(&mut self.snapshot.session)
            .await?;
        let mut found = Vec::new();
        while let Some(one) = cursor.stream(&mut self.snapshot.session).try_next().await? {
            found.push(one);
        }
        Ok((found.len() <= most).then_some(found))
    }
}

impl ServedShare {
    fn of(stored: &ShareDocument) -> Result<Self, StoreError> {
        Ok(ServedShare {
            member: stored.member,
            consumed: by_type(&stored.consumed)?,
            sent: stored.sent,
        })
    }
}

impl MessageCounters {
    fn of(stored: &CountedMessage) -> Result<Self, StoreError> {
        let dialog = stored.d.as_deref().map(DialogId::new);
        Ok(MessageCounters {
            dialog: dialog.transpose().map_err(invalid)?,
            deleted: stored.deleted,
            statuses: named(&stored.counts.statuses, Status::new)?,
            reactions: named(&stored.counts.reactions, Reaction::new)?,
        })
    }
}

fn named<K: Ord>(
    counts: &HashMap<String, i64>,
    name: impl Fn(&str) -> Result<K, InvalidId>,
) -> Result<BTreeMap<K, i64>, StoreError> {
    let counts = counts.iter();
    let counts =
        counts.map(|(field, count)| Ok((name(&unescape(field)).map_err(invalid)?, *count)));
    counts.collect()
}
