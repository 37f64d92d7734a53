//! What a user's shares come to, kept ready.

use crate::event::{TenantId, UserId};
use crate::store::read::UserStats;

use super::dialog::{Dialog, Moment};
use super::memory::room_for;
use super::share::{Share, unread};
use super::types::{TypeId, Types};

/// Whether a share is added to the totals or taken out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// The share is added to the totals.
    In,
    /// The share is taken out of the totals.
    Out,
}

/// What a list of the user's dialogs needs to know of a share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ListFlags {
    /// Whether the user is a member of the dialog.
    pub(super) member: bool,
    /// Whether something in the dialog is unread.
    pub(super) unread: bool,
}

/// The sums over all shares of a user.
#[derive(Debug)]
pub(super) struct Totals {
    dialogs: i64,
    unread_dialogs: i64,
    unread: i64,
    messages: i64,
    version: i64,
    /// The latest that there ever was: a share that leaves takes nothing back.
    updated_at: Moment,
    by_type: Vec<(TypeId, i64)>,
}

impl Default for Totals {
    fn default() -> Self {
        Self {
            dialogs: 0,
            unread_dialogs: 0,
            unread: 0,
            messages: 0,
            version: 0,
            updated_at: Moment::NONE,
            by_type: Vec::new(),
        }
    }
}

impl Totals {
    /// Counts a share in or out. What goes out must be what came in: neither the share
    /// nor its dialog may have changed between. Sums wrap, so that what went too far
    /// comes back.
    pub(super) fn count(&mut self, share: &Share, dialog: &Dialog, way: Direction) -> ListFlags {
        let sign = match way {
            Direction::In => 1,
            Direction::Out => -1,
        };
        let add = |sum: &mut i64, count: i64| *sum = sum.wrapping_add(count.wrapping_mul(sign));
        add(&mut self.version, dialog.version);
        add(&mut self.version, share.version);
        // What was sent stays sent when the dialog ends.
        add(&mut self.messages, share.sent.max(0));
        let mut in_dialog = 0;
        for (sender_type, count) in unread(share, dialog).filter(|(_, count)| *count > 0) {
            in_dialog += count;
            add(self.of_type(sender_type), count);
        }
        let seen = ListFlags {
            member: share.member && !dialog.deleted,
            unread: in_dialog > 0,
        };
        add(&mut self.dialogs, i64::from(seen.member));
        add(&mut self.unread_dialogs, i64::from(seen.unread));
        add(&mut self.unread, in_dialog);
        if way == Direction::In {
            let latest = share.updated_at.max(dialog.updated_at);
            self.updated_at = self.updated_at.max(latest);
        }
        seen
    }

    fn of_type(&mut self, sender_type: TypeId) -> &mut i64 {
        let mut known = self.by_type.iter();
        let place = known.position(|(known, _)| *known == sender_type);
        let place = place.unwrap_or_else(|| {
            self.by_type.reserve_exact(1);
            self.by_type.push((sender_type, 0));
            self.by_type.len() - 1
        });
        &mut self.by_type[place].1
    }

    /// Returns the version of the user: the sum of the versions of all shares and of
    /// their dialogs.
    pub(super) fn version(&self) -> i64 {
        self.version
    }

    /// Returns the counters of the user.
    pub(super) fn stats(&self, tenant: &TenantId, user: &UserId, types: &Types) -> UserStats {
        let by_type = self.by_type.iter().filter(|(_, count)| *count != 0);
        UserStats {
            tenant: tenant.clone(),
            user: user.clone(),
            dialogs: self.dialogs,
            unread_dialogs: self.unread_dialogs,
            unread: self.unread,
            messages: self.messages,
            unread_by_sender_type: by_type
                .map(|(id, count)| (types.name(*id).to_owned(), *count))
                .collect(),
            version: self.version,
            updated_at: self.updated_at.get(),
        }
    }

    /// Returns the bytes that the sums take beside the user.
    pub(super) fn bytes(&self) -> usize {
        room_for::<(TypeId, i64)>(self.by_type.capacity())
    }
}
