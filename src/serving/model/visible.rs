//! What those who are pinned can see of a dialog: who is to be told when it
//! changes.

use crate::store::commit_log::DialogChanged;

use super::dialog::{Dialog, Moment};
use super::entries::Entries;
use super::types::TypeId;

/// What of a dialog those who are pinned can see.
#[derive(Debug)]
pub(super) struct VisibleState {
    counts: (i64, i64, i64),
    last_message_at: Moment,
    deleted: bool,
    sequence: Vec<(TypeId, i64)>,
}

impl VisibleState {
    fn of(dialog: &Dialog) -> Self {
        Self {
            counts: (dialog.messages, dialog.members, dialog.topics),
            last_message_at: dialog.last_message_at,
            deleted: dialog.deleted,
            sequence: dialog.sequence.clone(),
        }
    }

    /// Whether its members see something else now.
    fn differs_for_members(&self, dialog: &Dialog) -> bool {
        // Types are only ever appended.
        let (before, after) = dialog.sequence.split_at(self.sequence.len());
        self.last_message_at != dialog.last_message_at
            || self.deleted != dialog.deleted
            || self.sequence != before
            || after.iter().any(|(_, count)| *count != 0)
    }

    /// Whether the dialog's own counters are others now.
    fn differs(&self, dialog: &Dialog) -> bool {
        self.counts != (dialog.messages, dialog.members, dialog.topics)
            || self.last_message_at != dialog.last_message_at
            || self.deleted != dialog.deleted
    }
}

impl Entries {
    /// Returns what can be seen of a dialog before it changes; `None` when nothing
    /// is pinned.
    pub(super) fn visible_state(&self, dialog: u32) -> Option<VisibleState> {
        (!self.pins.is_empty()).then(|| VisibleState::of(&self.dialogs[dialog as usize]))
    }

    /// Notes for whom a dialog has changed since `before`, by these changes.
    pub(super) fn note_touched<'r>(
        &mut self,
        number: u32,
        before: &VisibleState,
        changes: impl Iterator<Item = &'r DialogChanged>,
    ) {
        let dialog = &self.dialogs[number as usize];
        let touched = &mut self.pins.touched;
        if dialog.pinned.is_some() && before.differs(dialog) {
            touched.dialogs.push(number);
        }
        let is_pinned = |user: u32| self.users[user as usize].pinned.is_some();
        if before.differs_for_members(dialog) {
            let sharers = dialog.sharers.iter().map(|sharer| sharer.user);
            let sharers = sharers.filter(|user| is_pinned(*user));
            touched.users.extend(sharers.map(|user| (user, number)));
            return;
        }
        let mut users = Vec::new();
        for changed in changes {
            let shares = changed.shares.iter();
            let of_users = shares.filter_map(|share| self.user_of(dialog.tenant, &share.user));
            users.extend(of_users.filter(|user| is_pinned(*user)));
        }
        let users = users.into_iter().map(|user| (user, number));
        self.pins.touched.users.extend(users);
    }
}
