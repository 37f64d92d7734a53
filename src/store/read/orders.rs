//! A user's dialogs in an order that moves with every message. Nothing is kept
//! for it: a page looks at all dialogs that may be on it, and keeps few. Pure.

use std::cmp::{Ordering, Reverse};

use crate::event::{DialogId, Micros, TenantId, UserId};

use super::stats::UserDialogStats;

/// In which order dialogs come. Those that are alike come by their ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DialogOrder {
    /// The one with the latest message first; those without any last.
    LastMessage,
    /// Those with something unread first, and each half by the latest message.
    UnreadFirst,
}

/// Where a dialog stands in an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlaceInOrder {
    /// Whether the dialog had anything unread.
    pub unread: bool,
    /// The time of the latest message.
    pub last_message_at: Option<Micros>,
    /// The dialog that stands there.
    pub dialog: DialogId,
}

/// A user in each dialog that they are a member of, in an order.
#[derive(Debug, Clone)]
pub struct DialogsInOrder {
    /// The tenant whose counters they are.
    pub tenant: TenantId,
    /// The user whose dialogs are listed.
    pub user: UserId,
    /// The order in which dialogs come.
    pub order: DialogOrder,
    /// Only those with something unread.
    pub unread_only: bool,
    /// Where the last dialog of the page before stood then. A dialog that moved
    /// since may come again, or not at all.
    pub after: Option<PlaceInOrder>,
    /// At most so many, and at least one.
    pub limit: usize,
}

/// A page of [`DialogsInOrder`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PageInOrder {
    /// At most as many as asked for.
    pub dialogs: Vec<UserDialogStats>,
    /// Where the last of them stands, if anything comes after it.
    pub next: Option<PlaceInOrder>,
}

impl DialogOrder {
    /// What sorts, the smallest first. A time may be anything in which none is
    /// before all others, and a dialog anything in the order of ids.
    pub(crate) fn key<T: Ord, D: Ord>(
        self,
        unread: bool,
        last_message_at: T,
        dialog: D,
    ) -> (bool, Reverse<T>, D) {
        let read = self == Self::UnreadFirst && !unread;
        (read, Reverse(last_message_at), dialog)
    }

    fn compare(self, one: &UserDialogStats, other: &UserDialogStats) -> Ordering {
        self.key_of(one).cmp(&self.key_of(other))
    }

    fn key_of(self, stats: &UserDialogStats) -> (bool, Reverse<Option<Micros>>, &DialogId) {
        self.key(stats.unread > 0, stats.last_message_at, &stats.dialog)
    }
}

impl From<&UserDialogStats> for PlaceInOrder {
    fn from(stats: &UserDialogStats) -> Self {
        Self {
            unread: stats.unread > 0,
            last_message_at: stats.last_message_at,
            dialog: stats.dialog.clone(),
        }
    }
}

/// A page in the making, while all dialogs of its user pass by.
pub(super) struct Foremost<'q> {
    query: &'q DialogsInOrder,
    found: Vec<UserDialogStats>,
}

impl<'q> Foremost<'q> {
    pub(super) fn new(query: &'q DialogsInOrder) -> Self {
        Self {
            query,
            found: Vec::new(),
        }
    }

    /// Keeps what may be on the page, and one more to know that there is more.
    pub(super) fn take(&mut self, dialogs: impl Iterator<Item = UserDialogStats>) {
        let DialogsInOrder { order, limit, .. } = *self.query;
        let query = self.query;
        self.found
            .extend(dialogs.filter(|stats| is_ahead(query, stats)));
        let most = limit.max(1);
        if self.found.len() > most {
            self.found
                .select_nth_unstable_by(most, |one, other| order.compare(one, other));
            self.found.truncate(most.saturating_add(1));
        }
    }

    pub(super) fn page(self) -> PageInOrder {
        let DialogsInOrder { order, limit, .. } = *self.query;
        let mut dialogs = self.found;
        dialogs.sort_unstable_by(|one, other| order.compare(one, other));
        let more = dialogs.len() > limit.max(1);
        dialogs.truncate(limit.max(1));
        PageInOrder {
            next: dialogs.last().filter(|_| more).map(PlaceInOrder::from),
            dialogs,
        }
    }
}

/// Whether a dialog is on this page or a later one.
fn is_ahead(query: &DialogsInOrder, stats: &UserDialogStats) -> bool {
    let DialogsInOrder {
        order,
        unread_only,
        after,
        ..
    } = query;
    let listed = stats.member && (!unread_only || stats.unread > 0);
    let is_after = |after: &PlaceInOrder| {
        let last = order.key(after.unread, after.last_message_at, &after.dialog);
        order.key_of(stats) > last
    };
    listed && after.as_ref().is_none_or(is_after)
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    fn query(order: DialogOrder, unread_only: bool, limit: usize) -> DialogsInOrder {
        DialogsInOrder {
            tenant: TenantId::new("t").unwrap(),
            user: UserId::new("u").unwrap(),
            order,
            unread_only,
            after: None,
            limit,
        }
    }

    fn stats(dialog: usize, member: bool, unread: i64, at: Option<i64>) -> UserDialogStats {
        let dialog = DialogId::new(&format!("d{dialog:02}")).unwrap();
        let (tenant, user) = (TenantId::new("t").unwrap(), UserId::new("u").unwrap());
        UserDialogStats {
            member,
            unread,
            last_message_at: at.and_then(Micros::new),
            ..UserDialogStats::of(&tenant, &user, &dialog, None, None)
        }
    }

    fn page(query: &DialogsInOrder, all: &[UserDialogStats], chunk: usize) -> PageInOrder {
        let mut foremost = Foremost::new(query);
        for chunk in all.chunks(chunk) {
            foremost.take(chunk.iter().cloned());
            assert!(foremost.found.len() <= query.limit.max(1) + 1);
        }
        foremost.page()
    }

    fn ids(page: &PageInOrder) -> Vec<&str> {
        let ids = page.dialogs.iter().map(|stats| stats.dialog.as_str());
        ids.collect()
    }

    #[test]
    fn each_order_has_its_first_ones() {
        let all = [
            stats(1, true, 0, Some(9)),
            stats(2, true, 1, Some(3)),
            stats(3, true, 0, None),
            stats(4, true, 2, Some(3)),
            stats(5, false, 0, None),
        ];
        let by_last_message = query(DialogOrder::LastMessage, false, 9);
        let found = page(&by_last_message, &all, 2);
        assert_eq!(ids(&found), ["d01", "d02", "d04", "d03"]);
        let unread_first = query(DialogOrder::UnreadFirst, false, 9);
        let found = page(&unread_first, &all, 2);
        assert_eq!(ids(&found), ["d02", "d04", "d01", "d03"]);
        let unread = query(DialogOrder::LastMessage, true, 1);
        let found = page(&unread, &all, 2);
        assert_eq!(ids(&found), ["d02"]);
        assert_eq!(found.next, Some(PlaceInOrder::from(&all[1])));
    }

    #[test]
    fn what_moves_between_two_pages_comes_twice_or_not_at_all_and_the_rest_once() {
        let at = |dialog, at| stats(dialog, true, 0, Some(at));
        let mut query = query(DialogOrder::LastMessage, false, 2);
        let before = [at(1, 40), at(2, 30), at(3, 20), at(4, 10)];
        let first = page(&query, &before, 9);
        assert_eq!(ids(&first), ["d01", "d02"]);
        query.after = first.next;
        let up = [at(1, 40), at(2, 30), at(3, 20), at(4, 50)];
        assert_eq!(ids(&page(&query, &up, 9)), ["d03"]);
        let down = [at(1, 15), at(2, 30), at(3, 20), at(4, 10)];
        let again = page(&query, &down, 9);
        assert_eq!(ids(&again), ["d03", "d01"]);
        assert!(again.next.is_some());
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn pages_are_what_sorting_all_of_them_makes(
            all in prop::collection::vec((any::<bool>(), 0_i64..3, prop::option::of(0_i64..4)), 0..24),
            unread_first: bool,
            unread_only: bool,
            limit in 0_usize..6,
            chunk in 1_usize..7,
        ) {
            let all = all.into_iter().enumerate();
            let all: Vec<_> = all
                .map(|(dialog, (member, unread, at))| stats(dialog, member, unread, at))
                .collect();
            let order = match unread_first {
                true => DialogOrder::UnreadFirst,
                false => DialogOrder::LastMessage,
            };
            let mut query = query(order, unread_only, limit);
            let mut found = Vec::new();
            loop {
                let page = page(&query, &all, chunk);
                prop_assert!(page.dialogs.len() <= limit.max(1));
                found.extend(page.dialogs);
                match page.next {
                    Some(next) => query.after = Some(next),
                    None => break,
                }
            }
            let mut expected = all;
            expected.retain(|stats| stats.member && (stats.unread > 0 || !unread_only));
            // One key after the other, the least first: all sorts are stable.
            expected.sort_by_key(|stats| Reverse(stats.last_message_at));
            if unread_first {
                expected.sort_by_key(|stats| stats.unread == 0);
            }
            prop_assert_eq!(found, expected);
        }
    }
}
