//! What users were told last, so that a notification can say what is new. Of so
//! many users; of others it is not known, and everything is taken to be new.

use std::num::NonZeroUsize;

use lru::LruCache;

use crate::event::{DialogId, TenantId, UserId};
use crate::store::read::{UserDialogStats, UserStats};

/// Users, and users in dialogs, that are remembered, some 300 bytes each.
const REMEMBERED: usize = 20_000;

/// What was told last.
#[derive(Debug)]
pub(super) struct Told {
    users: LruCache<(TenantId, UserId), UserStats>,
    unread: LruCache<(TenantId, UserId, DialogId), i64>,
}

impl Told {
    pub(super) fn new() -> Self {
        let most = NonZeroUsize::new(REMEMBERED).unwrap_or(NonZeroUsize::MIN);
        Self {
            users: LruCache::new(most),
            unread: LruCache::new(most),
        }
    }

    /// What a user was told.
    pub(super) fn user(&self, stats: &UserStats) -> Option<&UserStats> {
        self.users.peek(&(stats.tenant.clone(), stats.user.clone()))
    }

    /// How much was unread in a dialog when the user was told.
    pub(super) fn unread(&self, stats: &UserDialogStats) -> Option<i64> {
        self.unread.peek(&pair(stats)).copied()
    }

    /// Takes note of what was told.
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
