//! Putting in what was read.

use std::collections::HashMap;

use crate::event::{DialogId, TenantId, UserId};
use crate::store::commit_log::Cut;
use crate::store::read::{DialogRow, MembershipRow};

use super::apply::AppliedTo;
use super::entries::Entries;
use super::loads::{LoadedRows, PendingLoad, PendingLoads};
use super::share::Share;

impl Entries {
    /// Puts in those of a load who are not held, brings them to where everybody
    /// else is, and counts them. Who is held stays as they are: what was read
    /// may be older.
    pub(super) fn put_in(
        &mut self,
        load: &PendingLoad,
        at: &Cut,
        loaded: LoadedRows,
        loads: &PendingLoads,
    ) {
        let tenant = &load.tenant;
        let mut read: HashMap<DialogId, DialogRow> = loaded.dialogs.into_iter().collect();
        for id in &load.wanted.dialogs {
            let dialog = self.dialog_as_read(tenant, id, &mut read);
            self.touch_dialog(dialog);
        }
        let mut new = Vec::new();
        for (user, shares) in loaded.users {
            if self.user(tenant, &user).is_none() {
                new.push(self.user_as_read(tenant, user, shares, &mut read));
            }
        }
        let after = loads.since(load);
        let after = after.filter(|kept| kept.number > at.of(kept.writer));
        let changes = self.pick(after.map(|kept| &*kept.record), AppliedTo::New);
        self.apply(changes, AppliedTo::New);
        for user in new {
            self.count_user(user);
        }
        for id in &load.wanted.dialogs {
            if let Some(dialog) = self.dialog(tenant, id) {
                self.settle_dialog(dialog);
            }
        }
    }

    /// The number of a dialog; as it was read, where it is not held yet.
    fn dialog_as_read(
        &mut self,
        tenant: &TenantId,
        id: &DialogId,
        read: &mut HashMap<DialogId, DialogRow>,
    ) -> u32 {
        if let Some(dialog) = self.dialog(tenant, id) {
            return dialog;
        }
        let row = read.remove(id).unwrap_or_default();
        let dialog = self.add_dialog(tenant, id.clone());
        self.change_dialog(dialog, |dialog, types| dialog.read(&row, types));
        dialog
    }

    fn user_as_read(
        &mut self,
        tenant: &TenantId,
        id: UserId,
        mut rows: Vec<MembershipRow>,
        read: &mut HashMap<DialogId, DialogRow>,
    ) -> u32 {
        rows.sort_by(|one, other| one.dialog.cmp(&other.dialog));
        rows.dedup_by(|later, row| later.dialog == row.dialog);
        let user = self.add_user(tenant, id);
        self.make_room(user, rows.len());
        for row in rows {
            let dialog = self.dialog_as_read(tenant, &row.dialog, read);
            let mut share = Share::new(dialog);
            self.change_dialog(dialog, |dialog, types| share.read(&row, dialog, types));
            self.join(user, dialog, |user| user.append(share));
        }
        user
    }
}
