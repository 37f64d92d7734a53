//! Reading current counters. Everything in one answer comes from one snapshot,
//! so that no reader sees a message without its sender's share of it.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use futures::TryStreamExt as _;
use mongodb::ClientSession;
use mongodb::bson::{DateTime, Document, doc};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tracing::error;

use super::documents::Counts;
use super::schema::{collection, unescape};
use super::{CommitFeed, Store, StoreError};
use crate::event::{DialogId, EventId, MessageId, TenantId, UserId};

/// How long to wait for the first look at what another replica may have
/// committed, and how long at most between two looks.
const LOOK_AGAIN: (Duration, Duration) = (Duration::from_millis(25), Duration::from_millis(250));

/// Counts by name, zeros left out.
pub type ByName = BTreeMap<String, i64>;

/// A user over all dialogs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserStats {
    pub dialog_count: i64,
    pub unread_dialogs_count: i64,
    pub total_unread_count: i64,
    pub total_messages_count: i64,
    pub unread_by_sender_type: ByName,
    pub version: i64,
    pub updated_at: Option<DateTime>,
}

/// A user in one dialog. Times in micros.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserDialogStats {
    pub member: bool,
    pub unread_count: i64,
    pub unread_by_sender_type: ByName,
    pub joined_at: Option<i64>,
    pub read_until: Option<i64>,
    pub version: i64,
    pub updated_at: Option<DateTime>,
}

/// A dialog. Times in micros.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DialogStats {
    pub message_count: i64,
    pub member_count: i64,
    pub topic_count: i64,
    pub last_message_at: Option<i64>,
    pub version: i64,
    pub updated_at: Option<DateTime>,
}

/// A message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MessageStats {
    pub dialog_id: String,
    pub status_counts: ByName,
    pub reaction_counts: ByName,
}

/// Which of a user's dialogs to list.
#[derive(Debug, Clone)]
pub struct Listing {
    pub tenant: TenantId,
    pub user: UserId,
    pub unread_only: bool,
    /// Only dialogs whose id is above this one.
    pub after: Option<DialogId>,
    /// At most so many.
    pub limit: usize,
}

/// Reads counters.
#[derive(Debug, Clone)]
pub struct Reader {
    store: Store,
    feed: CommitFeed,
}

/// One moment of the store.
struct Moment<'r> {
    store: &'r Store,
    session: ClientSession,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct StoredDialog {
    version: i64,
    messages: i64,
    members: i64,
    topics: i64,
    sequence: Counts,
    last_message_at: Option<i64>,
    deleted: bool,
    updated_at: Option<DateTime>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct StoredMembership {
    version: i64,
    member: bool,
    joined_at: Option<i64>,
    read_until: Option<i64>,
    consumed: Counts,
    sent: i64,
    updated_at: Option<DateTime>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct StoredMessage {
    d: String,
    deleted: bool,
    statuses: Counts,
    reactions: Counts,
}

/// Parts of the `_id`s that are asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
struct DialogPart {
    d: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
struct MessagePart {
    m: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
struct MembershipPart {
    d: String,
    u: String,
}

/// A document with its key.
#[derive(Debug, Deserialize)]
struct Keyed<K, D> {
    _id: K,
    #[serde(flatten)]
    document: D,
}

impl Reader {
    /// A reader that is woken by the commits of this feed.
    pub fn new(store: Store, feed: CommitFeed) -> Self {
        Self { store, feed }
    }

    /// Whether there is a primary that takes writes: what readers and writers
    /// alike need.
    ///
    /// # Errors
    /// When there is none within the driver's server selection timeout.
    pub async fn probe(&self) -> Result<bool, StoreError> {
        let hello = doc! { "hello": 1 };
        let answer = self.store.database().run_command(hello).await?;
        Ok(answer.get_bool("isWritablePrimary").unwrap_or(false))
    }

    /// A moment at which the event is in the journal, for which it waits. The
    /// caller bounds the time.
    async fn moment(
        &self,
        tenant: &TenantId,
        after: Option<&EventId>,
    ) -> Result<Moment<'_>, StoreError> {
        let mut commits = self.feed.subscribe();
        let mut pause = LOOK_AGAIN.0;
        loop {
            let mut moment = Moment {
                store: &self.store,
                session: self.store.snapshot_session().await?,
            };
            match after {
                Some(event) if !moment.has_event(tenant, event).await? => {}
                _ => return Ok(moment),
            }
            // Either is a reason to look again: a commit here, or time for one
            // elsewhere. The feed lives as long as this reader.
            let _ = tokio::time::timeout(pause, commits.changed()).await;
            pause = (pause * 2).min(LOOK_AGAIN.1);
        }
    }

    /// Counters of users, in the order asked for.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub async fn users(
        &self,
        tenant: &TenantId,
        users: &[UserId],
        after: Option<&EventId>,
    ) -> Result<Vec<UserStats>, StoreError> {
        let mut moment = self.moment(tenant, after).await?;
        let ids: Vec<_> = users.iter().map(UserId::as_str).collect();
        let filter = doc! { "_id.t": tenant.as_str(), "_id.u": { "$in": ids } };
        let memberships = moment.memberships(filter).await?;
        let dialogs = moment
            .dialogs(tenant, memberships.iter().map(|m| m._id.d.as_str()))
            .await?;
        let mut stats: HashMap<String, UserStats> = HashMap::new();
        for Keyed { _id, document } in &memberships {
            let dialog = dialogs.get(&_id.d).cloned().unwrap_or_default();
            let known = in_dialog(tenant, _id, &dialog, document);
            let user = stats.entry(_id.u.clone()).or_default();
            user.include(known, &dialog, document);
        }
        let found = users.iter().map(|user| stats.get(user.as_str()));
        Ok(found
            .map(|stats| stats.cloned().unwrap_or_default())
            .collect())
    }

    /// Counters of a user in a dialog.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub async fn user_dialog(
        &self,
        tenant: &TenantId,
        user: &UserId,
        dialog: &DialogId,
        after: Option<&EventId>,
    ) -> Result<UserDialogStats, StoreError> {
        let mut moment = self.moment(tenant, after).await?;
        let id = doc! { "t": tenant.as_str(), "d": dialog.as_str(), "u": user.as_str() };
        let membership = moment.memberships(doc! { "_id": id }).await?.pop();
        let dialogs = moment.dialogs(tenant, [dialog.as_str()]).await?;
        let stored = dialogs.get(dialog.as_str()).cloned().unwrap_or_default();
        let id = MembershipPart {
            d: dialog.as_str().to_owned(),
            u: user.as_str().to_owned(),
        };
        let membership = membership.map(|found| found.document).unwrap_or_default();
        Ok(in_dialog(tenant, &id, &stored, &membership))
    }

    /// Dialogs that a user is a member of, in order of their ids. Fewer than
    /// the limit only when there are no more.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub async fn user_dialogs(
        &self,
        listing: &Listing,
    ) -> Result<Vec<(String, UserDialogStats)>, StoreError> {
        let tenant = &listing.tenant;
        let mut moment = self.moment(tenant, None).await?;
        let mut after = listing
            .after
            .as_ref()
            .map(|dialog| dialog.as_str().to_owned());
        let mut found = Vec::new();
        // What is read in one go may be filtered down to less than a page.
        loop {
            let memberships = moment.page(listing, after.as_deref()).await?;
            let dialogs = moment
                .dialogs(tenant, memberships.iter().map(|m| m._id.d.as_str()))
                .await?;
            for Keyed { _id, document } in &memberships {
                let dialog = dialogs.get(&_id.d).cloned().unwrap_or_default();
                let stats = in_dialog(tenant, _id, &dialog, document);
                if stats.member && (!listing.unread_only || stats.unread_count > 0) {
                    found.push((_id.d.clone(), stats));
                }
            }
            after = memberships.last().map(|last| last._id.d.clone());
            if memberships.len() < listing.limit || found.len() >= listing.limit {
                found.truncate(listing.limit);
                return Ok(found);
            }
        }
    }

    /// Counters of dialogs, in the order asked for.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub async fn dialogs(
        &self,
        tenant: &TenantId,
        dialogs: &[DialogId],
        after: Option<&EventId>,
    ) -> Result<Vec<DialogStats>, StoreError> {
        let mut moment = self.moment(tenant, after).await?;
        let stored = moment.dialogs(tenant, dialogs.iter().map(DialogId::as_str));
        let stored = stored.await?;
        let found = dialogs.iter().map(|dialog| stored.get(dialog.as_str()));
        Ok(found
            .map(|dialog| dialog.map(dialog_stats).unwrap_or_default())
            .collect())
    }

    /// Counters of messages, in the order asked for.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub async fn messages(
        &self,
        tenant: &TenantId,
        messages: &[MessageId],
        after: Option<&EventId>,
    ) -> Result<Vec<MessageStats>, StoreError> {
        let mut moment = self.moment(tenant, after).await?;
        let ids = messages.iter().map(|message| {
            doc! { "t": tenant.as_str(), "m": message.as_str() }
        });
        let filter = doc! { "_id": { "$in": ids.collect::<Vec<_>>() } };
        let fields = doc! { "_id.m": 1, "d": 1, "deleted": 1, "statuses": 1, "reactions": 1 };
        let stored = moment
            .find::<Keyed<MessagePart, StoredMessage>>(collection::MESSAGES, filter, fields)
            .await?;
        let dialogs = stored.iter().map(|found| found.document.d.as_str());
        let dialogs = moment
            .dialogs(tenant, dialogs.filter(|d| !d.is_empty()))
            .await?;
        let stored: HashMap<_, _> = stored
            .into_iter()
            .map(|found| (found._id.m, found.document))
            .collect();
        let found = messages.iter().map(|message| {
            let Some(stored) = stored.get(message.as_str()) else {
                return MessageStats::default();
            };
            let dialog_deleted = dialogs.get(&stored.d).is_some_and(|dialog| dialog.deleted);
            message_stats(stored, stored.deleted || dialog_deleted)
        });
        Ok(found.collect())
    }
}

impl Moment<'_> {
    async fn has_event(&mut self, tenant: &TenantId, event: &EventId) -> Result<bool, StoreError> {
        let id = doc! { "t": tenant.as_str(), "e": event.as_str() };
        let fields = doc! { "_id": 1 };
        let found: Vec<Document> = self
            .find(collection::JOURNAL, doc! { "_id": id }, fields)
            .await?;
        Ok(!found.is_empty())
    }

    async fn find<D: DeserializeOwned + Send + Sync>(
        &mut self,
        collection: &str,
        filter: Document,
        fields: Document,
    ) -> Result<Vec<D>, StoreError> {
        let documents = self.store.snapshots().collection::<D>(collection);
        let find = documents.find(filter).projection(fields);
        let mut cursor = find.session(&mut self.session).await?;
        Ok(cursor.stream(&mut self.session).try_collect().await?)
    }

    async fn memberships(
        &mut self,
        filter: Document,
    ) -> Result<Vec<Keyed<MembershipPart, StoredMembership>>, StoreError> {
        self.find(collection::MEMBERSHIPS, filter, membership_fields())
            .await
    }

    /// The next memberships of a user in order of the dialogs' ids.
    async fn page(
        &mut self,
        listing: &Listing,
        after: Option<&str>,
    ) -> Result<Vec<Keyed<MembershipPart, StoredMembership>>, StoreError> {
        let filter = doc! {
            "_id.t": listing.tenant.as_str(),
            "_id.u": listing.user.as_str(),
            "_id.d": { "$gt": after.unwrap_or_default() },
        };
        let memberships = self.store.snapshots().collection(collection::MEMBERSHIPS);
        let mut cursor = memberships
            .find(filter)
            .sort(doc! { "_id.d": 1 })
            .limit(i64::try_from(listing.limit).unwrap_or(i64::MAX))
            .projection(membership_fields())
            .session(&mut self.session)
            .await?;
        Ok(cursor.stream(&mut self.session).try_collect().await?)
    }

    async fn dialogs<'d>(
        &mut self,
        tenant: &TenantId,
        dialogs: impl IntoIterator<Item = &'d str>,
    ) -> Result<HashMap<String, StoredDialog>, StoreError> {
        let ids = dialogs.into_iter();
        let ids: Vec<_> = ids.map(|d| doc! { "t": tenant.as_str(), "d": d }).collect();
        if ids.is_empty() {
            return Ok(HashMap::new());
        }
        let filter = doc! { "_id": { "$in": ids } };
        let found = self
            .find::<Keyed<DialogPart, StoredDialog>>(collection::DIALOGS, filter, doc! {})
            .await?;
        Ok(found
            .into_iter()
            .map(|found| (found._id.d, found.document))
            .collect())
    }
}

fn membership_fields() -> Document {
    doc! {
        "_id.d": 1, "_id.u": 1, "version": 1, "member": 1, "joined_at": 1,
        "read_until": 1, "consumed": 1, "sent": 1, "updated_at": 1,
    }
}

impl UserStats {
    /// Adds one dialog to the sums.
    fn include(
        &mut self,
        known: UserDialogStats,
        dialog: &StoredDialog,
        membership: &StoredMembership,
    ) {
        self.dialog_count += i64::from(known.member);
        self.unread_dialogs_count += i64::from(known.unread_count > 0);
        self.total_unread_count += known.unread_count;
        for (sender_type, count) in known.unread_by_sender_type {
            *self.unread_by_sender_type.entry(sender_type).or_default() += count;
        }
        if !dialog.deleted {
            self.total_messages_count += membership.sent;
        }
        self.version += known.version;
        self.updated_at = self.updated_at.max(known.updated_at);
    }
}

/// What is unread for a member is what the dialog has counted and the member
/// has not consumed.
fn in_dialog(
    tenant: &TenantId,
    key: &MembershipPart,
    dialog: &StoredDialog,
    membership: &StoredMembership,
) -> UserDialogStats {
    let mut stats = UserDialogStats {
        version: dialog.version + membership.version,
        updated_at: dialog.updated_at.max(membership.updated_at),
        ..UserDialogStats::default()
    };
    if dialog.deleted {
        return stats;
    }
    stats.read_until = membership.read_until;
    if !membership.member {
        return stats;
    }
    stats.member = true;
    stats.joined_at = membership.joined_at;
    for (sender_type, counted) in &dialog.sequence {
        let unread = counted - membership.consumed.get(sender_type).unwrap_or(&0);
        if unread < 0 {
            error!(%tenant, dialog = key.d, user = key.u, sender_type, unread,
                "a negative unread count: the stored shares are not consistent");
        } else if unread > 0 {
            stats.unread_count += unread;
            stats
                .unread_by_sender_type
                .insert(unescape(sender_type), unread);
        }
    }
    stats
}

fn dialog_stats(stored: &StoredDialog) -> DialogStats {
    let stats = DialogStats {
        version: stored.version,
        updated_at: stored.updated_at,
        ..DialogStats::default()
    };
    if stored.deleted {
        return stats;
    }
    DialogStats {
        message_count: stored.messages,
        member_count: stored.members,
        topic_count: stored.topics,
        last_message_at: stored.last_message_at,
        ..stats
    }
}

fn message_stats(stored: &StoredMessage, gone: bool) -> MessageStats {
    let shown = |counts: &Counts| -> ByName {
        let counts = counts.iter().filter(|(_, count)| !gone && **count != 0);
        counts
            .map(|(name, count)| (unescape(name), *count))
            .collect()
    };
    MessageStats {
        dialog_id: stored.d.clone(),
        status_counts: shown(&stored.statuses),
        reaction_counts: shown(&stored.reactions),
    }
}
