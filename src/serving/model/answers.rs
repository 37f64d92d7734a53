//! Answers, as `store::read` gives them. None where something is not held.

use crate::event::{DialogId, TenantId, UserId};
use crate::store::read::{DialogStats, DialogsOfUser, DialogsPage, UserDialogStats, UserStats};

use super::Model;
use super::entries::Entries;
use super::user::user_in_dialog;

impl Model {
    /// Returns the counters of a user over all their dialogs.
    pub fn user(&mut self, tenant: &TenantId, user: &UserId) -> Option<UserStats> {
        let number = self.entries.user(tenant, user)?;
        self.entries.touch_user(number);
        let found = &self.entries.users[number as usize];
        Some(found.totals.stats(tenant, user, &self.entries.types))
    }

    /// Returns the counters of a user in a dialog. Of one that the user has no share
    /// of, the dialog must be held as well.
    pub fn user_in_dialog(
        &mut self,
        tenant: &TenantId,
        user: &UserId,
        dialog: &DialogId,
    ) -> Option<UserDialogStats> {
        let number = self.entries.user(tenant, user)?;
        let dialog = self.entries.dialog(tenant, dialog)?;
        self.entries.touch_user(number);
        let share = self.entries.share(number, dialog);
        if share.is_none() {
            self.entries.touch_dialog(dialog);
        }
        Some(self.entries.in_dialog(tenant, number, share, dialog))
    }

    /// Returns the counters of a dialog.
    pub fn dialog(&mut self, tenant: &TenantId, dialog: &DialogId) -> Option<DialogStats> {
        let number = self.entries.dialog(tenant, dialog)?;
        self.entries.touch_dialog(number);
        Some(self.entries.dialogs[number as usize].stats(tenant))
    }

    /// Returns a user's counters in each dialog that they are a member of, by dialog
    /// id.
    pub fn dialogs_of_user(&mut self, query: &DialogsOfUser) -> Option<DialogsPage> {
        let tenant = &query.tenant;
        let number = self.entries.user(tenant, &query.user)?;
        self.entries.touch_user(number);
        let user = &self.entries.users[number as usize];
        let after = query.after.as_ref();
        let first = after.map_or(0, |after| self.entries.rank_after(user, after));
        let listed = match query.unread_only {
            true => &user.unread,
            false => &user.member,
        };
        let mut page = DialogsPage::default();
        for rank in listed.from(first) {
            if page.dialogs.len() == query.limit {
                page.more = true;
                break;
            }
            let share = user.order[rank];
            let dialog = user.shares[share as usize].dialog;
            let stats = self.entries.in_dialog(tenant, number, Some(share), dialog);
            page.dialogs.push(stats);
        }
        Some(page)
    }
}

impl Entries {
    /// Returns the counters of a user in a dialog, of which they may have no share.
    pub(super) fn in_dialog(
        &self,
        tenant: &TenantId,
        user: u32,
        share: Option<u32>,
        dialog: u32,
    ) -> UserDialogStats {
        let user = &self.users[user as usize];
        let share = share.map(|share| &user.shares[share as usize]);
        let dialog = &self.dialogs[dialog as usize];
        user_in_dialog(tenant, &user.id, share, dialog, &self.types)
    }
}
