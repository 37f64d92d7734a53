//! The questions that can be asked, each answered from one snapshot.

use std::collections::{BTreeSet, HashMap};
use std::future::Future;

use crate::event::{DialogId, MessageId, TenantId, UserId};

use super::ReadError;
use super::orders::{DialogsInOrder, Foremost, PageInOrder};
use super::readers;
use super::rows::{DialogRow, MembershipRow};
use super::snapshot::{
    CHUNK_DOCUMENTS, DIALOG_COUNTS, DIALOG_OF_MESSAGE, DIALOG_SEQUENCE, ShareScan, TenantSnapshot,
};
use super::stats::{DialogStats, MessageStats, UserDialogStats, UserStats};

/// A question about one tenant.
pub trait Query: Send + Sync {
    /// What it is answered with.
    type Answer: Send;

    /// Whose counters are asked for.
    fn tenant(&self) -> &TenantId;

    /// Answers the question from one moment of the store.
    fn answer(
        &self,
        snapshot: &mut TenantSnapshot,
    ) -> impl Future<Output = Result<Self::Answer, ReadError>> + Send;
}

/// Users over all their dialogs; the answer has their order, duplicates too.
#[derive(Debug, Clone)]
pub struct Users {
    /// The tenant whose counters they are.
    pub tenant: TenantId,
    /// The users who are asked about.
    pub users: Vec<UserId>,
}

/// A user in a dialog.
#[derive(Debug, Clone)]
pub struct UserInDialog {
    /// The tenant whose counters they are.
    pub tenant: TenantId,
    /// The user who is asked about.
    pub user: UserId,
    /// The dialog that is asked about.
    pub dialog: DialogId,
}

/// A user in each dialog that they are a member of, by dialog id.
#[derive(Debug, Clone)]
pub struct DialogsOfUser {
    /// The tenant whose counters they are.
    pub tenant: TenantId,
    /// The user who is asked about.
    pub user: UserId,
    /// Only those with something unread.
    pub unread_only: bool,
    /// The last dialog of the page before.
    pub after: Option<DialogId>,
    /// The largest number of dialogs on the page.
    pub limit: usize,
}

/// A page of [`DialogsOfUser`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DialogsPage {
    /// At most as many as asked for, by dialog id.
    pub dialogs: Vec<UserDialogStats>,
    /// Whether anything comes after the last of `dialogs`.
    pub more: bool,
}

/// Dialogs; the answer has their order, duplicates too.
#[derive(Debug, Clone)]
pub struct Dialogs {
    /// The tenant whose counters they are.
    pub tenant: TenantId,
    /// The dialogs that are asked about.
    pub dialogs: Vec<DialogId>,
}

/// Messages; the answer has their order, duplicates too.
#[derive(Debug, Clone)]
pub struct Messages {
    /// The tenant whose counters they are.
    pub tenant: TenantId,
    /// The messages that are asked about.
    pub messages: Vec<MessageId>,
}

impl Query for Users {
    type Answer = Vec<UserStats>;

    fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    async fn answer(&self, snapshot: &mut TenantSnapshot) -> Result<Vec<UserStats>, ReadError> {
        let mut stats: HashMap<UserId, UserStats> = self
            .users
            .iter()
            .map(|user| (user.clone(), UserStats::nothing(&self.tenant, user)))
            .collect();
        let mut scan = ShareScan::new(self.users.iter().cloned());
        loop {
            let shares = scan.next(&self.tenant, snapshot).await?;
            if shares.is_empty() {
                break;
            }
            let dialogs = dialogs_of(&self.tenant, &shares, snapshot).await?;
            for share in &shares {
                if let Some(user) = stats.get_mut(&share.user) {
                    user.add(share, dialogs.get(&share.dialog));
                }
            }
        }
        Ok(in_order(&self.users, &stats))
    }
}

impl Query for UserInDialog {
    type Answer = UserDialogStats;

    fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    async fn answer(&self, snapshot: &mut TenantSnapshot) -> Result<UserDialogStats, ReadError> {
        let Self {
            tenant,
            user,
            dialog,
        } = self;
        let share = snapshot.share(tenant, dialog, user).await?;
        let dialogs = snapshot
            .dialogs(tenant, std::iter::once(dialog), DIALOG_SEQUENCE)
            .await?;
        let row = dialogs.get(dialog);
        Ok(UserDialogStats::of(
            tenant,
            user,
            dialog,
            share.as_ref(),
            row,
        ))
    }
}

impl Query for DialogsOfUser {
    type Answer = DialogsPage;

    fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    async fn answer(&self, snapshot: &mut TenantSnapshot) -> Result<DialogsPage, ReadError> {
        let Self { tenant, user, .. } = self;
        // Without a filter the first chunk is the page, and one to know of more.
        let chunk = match self.unread_only {
            true => CHUNK_DOCUMENTS,
            false => self.limit.saturating_add(1).min(CHUNK_DOCUMENTS),
        };
        let mut page = DialogsPage::default();
        let mut after = self.after.clone();
        loop {
            let shares = snapshot
                .shares_after(tenant, user, after.as_ref(), true, chunk)
                .await?;
            let dialogs = dialogs_of(tenant, &shares, snapshot).await?;
            for share in &shares {
                let row = dialogs.get(&share.dialog);
                let stats = UserDialogStats::of(tenant, user, &share.dialog, Some(share), row);
                if !stats.member || (self.unread_only && stats.unread == 0) {
                    continue;
                }
                if page.dialogs.len() == self.limit {
                    page.more = true;
                    return Ok(page);
                }
                page.dialogs.push(stats);
            }
            match shares.last().filter(|_| shares.len() == chunk) {
                Some(last) => after = Some(last.dialog.clone()),
                None => return Ok(page),
            }
        }
    }
}

impl Query for DialogsInOrder {
    type Answer = PageInOrder;

    fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    /// Each page looks at all of the user's dialogs: only the deadline bounds
    /// how many those may be.
    async fn answer(&self, snapshot: &mut TenantSnapshot) -> Result<PageInOrder, ReadError> {
        let Self { tenant, user, .. } = self;
        let mut foremost = Foremost::new(self);
        let mut after = None;
        loop {
            let shares = snapshot
                .shares_after(tenant, user, after.as_ref(), true, CHUNK_DOCUMENTS)
                .await?;
            let dialogs = dialogs_of(tenant, &shares, snapshot).await?;
            foremost.take(shares.iter().map(|share| {
                let row = dialogs.get(&share.dialog);
                UserDialogStats::of(tenant, user, &share.dialog, Some(share), row)
            }));
            match shares.last().filter(|_| shares.len() == CHUNK_DOCUMENTS) {
                Some(last) => after = Some(last.dialog.clone()),
                None => return Ok(foremost.page()),
            }
        }
    }
}

impl Query for Dialogs {
    type Answer = Vec<DialogStats>;

    fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    async fn answer(&self, snapshot: &mut TenantSnapshot) -> Result<Vec<DialogStats>, ReadError> {
        let unique: BTreeSet<&DialogId> = self.dialogs.iter().collect();
        let rows = snapshot
            .dialogs(&self.tenant, unique.into_iter(), DIALOG_COUNTS)
            .await?;
        let stats = |id| DialogStats::of(&self.tenant, id, rows.get(id));
        Ok(self.dialogs.iter().map(stats).collect())
    }
}

impl Query for Messages {
    type Answer = Vec<MessageStats>;

    fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    async fn answer(&self, snapshot: &mut TenantSnapshot) -> Result<Vec<MessageStats>, ReadError> {
        let unique: BTreeSet<&MessageId> = self.messages.iter().collect();
        let rows = snapshot.messages(&self.tenant, unique.into_iter()).await?;
        let dialogs: BTreeSet<&DialogId> = rows.values().flat_map(|m| &m.dialog).collect();
        let dialogs = snapshot
            .dialogs(&self.tenant, dialogs.into_iter(), DIALOG_OF_MESSAGE)
            .await?;
        let readers = readers::count(&self.tenant, &rows, &dialogs, snapshot).await?;
        let stats = |id| {
            let row = rows.get(id);
            let dialog = row.and_then(|m| dialogs.get(m.dialog.as_ref()?));
            let deleted = dialog.is_some_and(|d| d.deleted);
            MessageStats {
                readers: readers.get(id).copied().unwrap_or(0),
                ..MessageStats::of(&self.tenant, id, row, deleted)
            }
        };
        Ok(self.messages.iter().map(stats).collect())
    }
}

pub(super) async fn dialogs_of(
    tenant: &TenantId,
    shares: &[MembershipRow],
    snapshot: &mut TenantSnapshot,
) -> Result<HashMap<DialogId, DialogRow>, ReadError> {
    let unique: BTreeSet<&DialogId> = shares.iter().map(|s| &s.dialog).collect();
    snapshot
        .dialogs(tenant, unique.into_iter(), DIALOG_SEQUENCE)
        .await
}

fn in_order<K: Eq + std::hash::Hash, V: Clone>(keys: &[K], values: &HashMap<K, V>) -> Vec<V> {
    keys.iter().filter_map(|k| values.get(k).cloned()).collect()
}
