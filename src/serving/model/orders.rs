//! A user's dialogs in an order that changes with every message. Nothing is kept
//! for it: each page looks at all dialogs that may be on it, and sorts few.

use std::cmp::Reverse;

use crate::event::{DialogId, Micros, TenantId, UserId};
use crate::store::read::UserDialogStats;

use super::Model;
use super::dialog::Moment;

/// In which order dialogs come. Those that are alike come by their ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The one with the latest message first; those without any last.
    LastMessage,
    /// Those with something unread first, and each half by the latest message.
    UnreadFirst,
}

/// Where a dialog stands in an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// Whether something was unread.
    pub unread: bool,
    /// The time of the latest message.
    pub last_message_at: Option<Micros>,
    /// The dialog.
    pub dialog: DialogId,
}

/// A user in each dialog that they are a member of, in an order.
#[derive(Debug, Clone)]
pub struct DialogsInOrder {
    /// Whose counters.
    pub tenant: TenantId,
    /// The user.
    pub user: UserId,
    /// In which order.
    pub order: Order,
    /// Only those with something unread.
    pub unread_only: bool,
    /// Where the last dialog of the page before stood then. A dialog that moved
    /// since may come again, or not at all.
    pub after: Option<Position>,
    /// At most so many, and at least one.
    pub limit: usize,
}

/// A page of [`DialogsInOrder`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PageInOrder {
    /// At most as many as asked for.
    pub dialogs: Vec<UserDialogStats>,
    /// Where the last of them stands, if anything comes after it.
    pub next: Option<Position>,
}

/// What sorts: as small as it can be. Ranks are in the order of ids.
type Key = (bool, Reverse<Moment>, usize);

impl Order {
    fn key(self, unread: bool, last_message_at: Moment, rank: usize) -> Key {
        let read = self == Self::UnreadFirst && !unread;
        (read, Reverse(last_message_at), rank)
    }
}

impl Model {
    /// A user in each dialog that they are a member of, in an order.
    pub fn dialogs_in_order(&mut self, query: &DialogsInOrder) -> Option<PageInOrder> {
        let number = self.entries.user(&query.tenant, &query.user)?;
        self.entries.touch_user(number);
        let mut keys = self.keys(number, query);
        let limit = query.limit.max(1);
        let more = keys.len() > limit;
        if more {
            keys.select_nth_unstable(limit);
            keys.truncate(limit);
        }
        keys.sort_unstable();
        let user = &self.entries.users[number as usize];
        let mut page = PageInOrder::default();
        for (_, Reverse(last_message_at), rank) in keys {
            let share = user.order[rank];
            let dialog = user.shares[share as usize].dialog;
            let stats = self
                .entries
                .in_dialog(&query.tenant, number, Some(share), dialog);
            page.next = more.then(|| Position {
                unread: stats.unread > 0,
                last_message_at: last_message_at.get(),
                dialog: stats.dialog.clone(),
            });
            page.dialogs.push(stats);
        }
        Some(page)
    }

    /// Of all dialogs that come after the page before.
    fn keys(&self, user: u32, query: &DialogsInOrder) -> Vec<Key> {
        let user = &self.entries.users[user as usize];
        let dialog_at = |rank: usize| {
            let share = &user.shares[user.order[rank] as usize];
            &self.entries.dialogs[share.dialog as usize]
        };
        let after = query.after.as_ref().map(|after| {
            let rank = self.entries.rank_after(user, &after.dialog);
            let last_message_at = after.last_message_at.into();
            query.order.key(after.unread, last_message_at, rank)
        });
        let mut unread = user.unread.from(0).peekable();
        let listed = match query.unread_only {
            true => &user.unread,
            false => &user.member,
        };
        let keys = listed.from(0).map(|rank| {
            // What is unread is among what is listed.
            let is_unread = unread.next_if_eq(&rank).is_some();
            query
                .order
                .key(is_unread, dialog_at(rank).last_message_at, rank)
        });
        keys.filter(|key| after.as_ref().is_none_or(|after| key >= after))
            .collect()
    }
}
