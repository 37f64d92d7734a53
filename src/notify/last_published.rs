//! What users were told last, so that a notification can say what is new. Of so
//! many users; of others it is not known, and everything is taken to be new.

use std::num::NonZeroUsize;

use lru::LruCache;

use crate::event::{DialogId, TenantId, UserId};
use crate::store::read::{UserDialogStats, UserStats};

/// The most users, and users in dialogs, that are remembered, some 300 bytes
/// each.
const MAX_REMEMBERED: usize = 20_000;

/// What users were last told, so that a notification can say what is new.
#[derive(Debug)]
pub(super) struct LastPublished {
    users: LruCache<(TenantId, UserId), UserStats>,
    unread: LruCache<(TenantId, UserId, DialogId), i64>,
}

impl LastPublished {
    pub(super) fn new() -> Self {
        let most = NonZeroUsize::new(MAX_REMEMBERED).unwrap_or(NonZeroUsize::MIN);
        Self {
            users: LruCache::new(most),
            unread: LruCache::new(most),
        }
    }

    /// Returns what a user was last told.
    pub(super) fn user(&self, stats: &UserStats) -> Option<&UserStats> {
        self.users.peek(&(stats.tenant.clone(), stats.user.clone()))
    }

    /// Returns how much was unread in a dialog when the user was last told.
    pub(super) fn unread(&self, stats: &UserDialogStats) -> Option<i64> {
        self.unread.peek(&pair(stats)).copied()
    }

    /// Remembers what a user was told.
    pub(super) fn note(&mut self, user: UserStats, dialogs: &[UserDialogStats]) {
        for stats in dialogs {
            self.unread.put(pair(stats), stats.unread);
        }
        let key = (user.tenant.clone(), user.user.clone());
        self.users.put(key, user);
    }
}

fn pair(stats: &UserDialogStats) -> (TenantId, UserId, DialogId) {
    let UserDialogStats {
        tenant,
        user,
        dialog,
        ..
    } = stats;
    (tenant.clone(), user.clone(), dialog.clone())
}
