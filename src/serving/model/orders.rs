//! A user's dialogs in an order that moves with every message. Nothing is kept
//! for it: each page looks at all dialogs that may be on it, and sorts few.

use std::cmp::Reverse;

use crate::store::read::{DialogsInOrder, PageInOrder, PlaceInOrder};

use super::Model;
use super::dialog::Moment;

/// What sorts: as small as it can be. Ranks are in the order of ids.
type Key = (bool, Reverse<Moment>, usize);

impl Model {
    /// Returns a user's counters in each dialog that they are a member of, in an order.
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
        let stats = |(_, _, rank): Key| {
            let share = user.order[rank];
            let dialog = user.shares[share as usize].dialog;
            self.entries
                .in_dialog(&query.tenant, number, Some(share), dialog)
        };
        let dialogs: Vec<_> = keys.into_iter().map(stats).collect();
        Some(PageInOrder {
            next: dialogs.last().filter(|_| more).map(PlaceInOrder::from),
            dialogs,
        })
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
            let last_message_at = Moment::from(after.last_message_at);
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
