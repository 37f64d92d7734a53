//! Summing changes of counters, and keeping the largest. Pure.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{CounterChange, CounterTotal, MAX_CHANGES, Subject};
use crate::counter::Counter;
use crate::derive::state::{ByType, Dialog, DialogKey, MembershipKey, MessageKey, UserKey};
use crate::store::{MessageCounters, ServedShare};

/// The changes of counters so far: their sums, and the largest.
#[derive(Debug, Default)]
pub(super) struct ForecastTally {
    /// For each counter the sum of its changes, and for how many it changes.
    totals: BTreeMap<Counter, (i64, i64)>,
    largest: BTreeSet<Ranked>,
    /// A user's messages come from many dialogs: they are summed first.
    sent: HashMap<UserKey, i64>,
}

/// A change in its order: by size, then by name, so that it is always the same.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Ranked {
    size: Reverse<u64>,
    subject: Subject,
    counter: Counter,
    delta: i64,
    subjects: i64,
}

impl ForecastTally {
    /// Adds the changes of a dialog's own counters.
    pub(super) fn dialog(&mut self, key: &DialogKey, before: &Dialog, after: &Dialog) {
        let served = |dialog: &Dialog| match dialog.deleted {
            true => [0; 3],
            false => [dialog.messages, dialog.members, dialog.topics].map(|count| count.max(0)),
        };
        let counters = [Counter::Messages, Counter::Members, Counter::Topics];
        let values = served(before).into_iter().zip(served(after));
        for (counter, (before, after)) in counters.into_iter().zip(values) {
            self.add(Subject::Dialog(key.clone()), counter, after - before, 1);
        }
    }

    /// Adds the change of a user's unread in a dialog, by the senders' types.
    pub(super) fn unread(&mut self, key: &MembershipKey, before: &ByType, after: &ByType) {
        let more = after.minus(before);
        self.unread_more(Subject::Member(key.clone()), &more, 1);
    }

    /// The unread of so many members who have nothing but the dialog's sequence
    /// changed.
    pub(super) fn unread_of_others(&mut self, key: &DialogKey, more: &ByType, members: i64) {
        if members > 0 {
            self.unread_more(Subject::Others(key.clone()), more, members);
        }
    }

    fn unread_more(&mut self, subject: Subject, more: &ByType, subjects: i64) {
        let all = more.iter().map(|(_, count)| count).sum();
        self.add(subject.clone(), Counter::Unread, all, subjects);
        for (sender_type, count) in more.iter() {
            let counter = Counter::UnreadFrom(sender_type.clone());
            self.add(subject.clone(), counter, count, subjects);
        }
    }

    /// Adds messages that a user sent in one of their dialogs.
    pub(super) fn sent(&mut self, key: &MembershipKey, more: i64) {
        if more != 0 {
            let user = UserKey {
                tenant: key.dialog.tenant.clone(),
                user: key.user.clone(),
            };
            *self.sent.entry(user).or_default() += more;
        }
    }

    /// Adds the changes of a message's counters, which are empty for one that
    /// does not count.
    pub(super) fn message(
        &mut self,
        key: &MessageKey,
        before: &MessageCounters,
        after: &MessageCounters,
    ) {
        let statuses = differences(&before.statuses, &after.statuses);
        let statuses = statuses.map(|(status, more)| (Counter::Status(status.clone()), more));
        let reactions = differences(&before.reactions, &after.reactions);
        let reactions =
            reactions.map(|(reaction, more)| (Counter::Reaction(reaction.clone()), more));
        for (counter, more) in statuses.chain(reactions) {
            self.add(Subject::Message(key.clone()), counter, more, 1);
        }
    }

    fn add(&mut self, subject: Subject, counter: Counter, delta: i64, subjects: i64) {
        if delta == 0 {
            return;
        }
        let total = self.totals.entry(counter.clone()).or_default();
        total.0 = total.0.saturating_add(delta.saturating_mul(subjects));
        total.1 = total.1.saturating_add(subjects);
        self.largest.insert(Ranked {
            size: Reverse(delta.unsigned_abs()),
            subject,
            counter,
            delta,
            subjects,
        });
        if self.largest.len() > MAX_CHANGES {
            self.largest.pop_last();
        }
    }

    /// Returns the sums, and the largest changes.
    pub(super) fn finish(mut self) -> (Vec<CounterTotal>, Vec<CounterChange>) {
        for (user, more) in std::mem::take(&mut self.sent) {
            self.add(Subject::User(user), Counter::Sent, more, 1);
        }
        let totals = self.totals.into_iter();
        let totals = totals.map(|(counter, (delta, subjects))| CounterTotal {
            counter,
            delta,
            subjects,
        });
        let changes = self.largest.into_iter().map(|ranked| CounterChange {
            subject: ranked.subject,
            counter: ranked.counter,
            delta: ranked.delta,
            subjects: ranked.subjects,
        });
        (totals.collect(), changes.collect())
    }
}

/// Returns what a user has unread of a dialog that was not deleted, as readers
/// see it.
pub(super) fn unread(dialog: &Dialog, share: &ServedShare) -> ByType {
    if !share.member {
        return ByType::default();
    }
    let unread = dialog.sequence.minus(&share.consumed);
    let unread = unread.iter();
    unread
        .map(|(sender_type, count)| (sender_type.clone(), count.max(0)))
        .collect()
}

/// By how much each count changes, as readers see it: none is below zero.
fn differences<'c, K: Ord>(
    before: &'c BTreeMap<K, i64>,
    after: &'c BTreeMap<K, i64>,
) -> impl Iterator<Item = (&'c K, i64)> {
    let served = |counts: &BTreeMap<K, i64>, key: &K| counts.get(key).map_or(0, |c| (*c).max(0));
    let gone = before.keys().filter(|key| !after.contains_key(key));
    let keys = after.keys().chain(gone);
    keys.map(move |key| (key, served(after, key) - served(before, key)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{DialogId, MessageId, SenderType, Status, TenantId, UserId};

    fn dialog(id: &str) -> DialogKey {
        DialogKey {
            tenant: TenantId::new("t").unwrap(),
            dialog: DialogId::new(id).unwrap(),
        }
    }

    fn member(dialog_id: &str, user: &str) -> MembershipKey {
        MembershipKey {
            dialog: dialog(dialog_id),
            user: UserId::new(user).unwrap(),
        }
    }

    fn by_type(counts: &[(&str, i64)]) -> ByType {
        let counts = counts.iter();
        counts
            .map(|(name, count)| (SenderType::new(name).unwrap(), *count))
            .collect()
    }

    fn total(counter: Counter, delta: i64, subjects: i64) -> CounterTotal {
        CounterTotal {
            counter,
            delta,
            subjects,
        }
    }

    #[test]
    fn what_others_have_more_is_summed_over_them() {
        let mut tally = ForecastTally::default();
        tally.unread_of_others(&dialog("d"), &by_type(&[("user", 2), ("bot", -2)]), 7);
        tally.unread_of_others(&dialog("e"), &by_type(&[("user", 9)]), 0);
        tally.unread(&member("d", "u"), &by_type(&[("bot", 3)]), &by_type(&[]));
        let from = |name| Counter::UnreadFrom(SenderType::new(name).unwrap());
        let (totals, changes) = tally.finish();
        let expected = [
            total(Counter::Unread, -3, 1),
            total(from("bot"), -17, 8),
            total(from("user"), 14, 7),
        ];
        assert_eq!(totals, expected);
        // Nothing is said of a sum of zero; its parts are.
        let named = changes.iter().filter(|change| change.subjects == 1);
        assert_eq!((changes.len(), named.count()), (4, 2));
    }

    #[test]
    fn a_users_messages_are_one_change_whatever_the_dialogs() {
        let mut tally = ForecastTally::default();
        for (dialog, more) in [("d", 3), ("e", -1), ("f", 0)] {
            tally.sent(&member(dialog, "u"), more);
        }
        for (dialog, more) in [("d", 2), ("e", -2)] {
            tally.sent(&member(dialog, "v"), more);
        }
        let (totals, changes) = tally.finish();
        assert_eq!(totals, [total(Counter::Sent, 2, 1)]);
        assert_eq!(changes.len(), 1);
    }

    #[test]
    fn the_largest_are_kept_in_an_order_of_their_own() {
        let mut forth = ForecastTally::default();
        let mut back = ForecastTally::default();
        let after = |number: i64| Dialog {
            messages: number / 2,
            ..Dialog::default()
        };
        let numbers: Vec<i64> = (0..100).collect();
        for number in &numbers {
            let key = dialog(&format!("d{number:02}"));
            forth.dialog(&key, &Dialog::default(), &after(*number));
        }
        for number in numbers.iter().rev() {
            let key = dialog(&format!("d{number:02}"));
            back.dialog(&key, &Dialog::default(), &after(*number));
        }
        let (forth, back) = (forth.finish(), back.finish());
        assert_eq!(forth, back);
        let (totals, changes) = forth;
        assert_eq!(totals, [total(Counter::Messages, 2_450, 98)]);
        let ids = changes.iter().map(|change| match &change.subject {
            Subject::Dialog(key) => key.dialog.to_string(),
            other => panic!("{other:?}"),
        });
        let ids: Vec<_> = ids.collect();
        assert_eq!((ids.len(), &*ids[0], &*ids[1]), (MAX_CHANGES, "d98", "d99"));
        assert_eq!(&*ids[MAX_CHANGES - 1], "d81");
    }

    #[test]
    fn what_is_below_zero_is_served_as_zero() {
        let mut tally = ForecastTally::default();
        let spoilt = Dialog {
            members: -4,
            sequence: by_type(&[("user", 1), ("bot", 5)]),
            ..Dialog::default()
        };
        tally.dialog(&dialog("d"), &spoilt, &Dialog::default());
        let counters = |count| MessageCounters {
            statuses: [(Status::new("read").unwrap(), count)].into(),
            ..MessageCounters::default()
        };
        let message = MessageKey {
            tenant: TenantId::new("t").unwrap(),
            message: MessageId::new("m").unwrap(),
        };
        tally.message(&message, &counters(-2), &counters(-1));
        assert_eq!(tally.finish(), (vec![], vec![]));
        let share = ServedShare {
            member: true,
            consumed: by_type(&[("user", 3), ("bot", 1)]),
            sent: 0,
        };
        assert_eq!(unread(&spoilt, &share), by_type(&[("bot", 4)]));
    }

    #[test]
    fn a_deleted_dialog_has_zeros() {
        let before = Dialog {
            messages: 5,
            members: 2,
            topics: 1,
            ..Dialog::default()
        };
        let after = Dialog {
            deleted: true,
            messages: 7,
            ..before.clone()
        };
        let mut tally = ForecastTally::default();
        tally.dialog(&dialog("d"), &before, &after);
        let expected = [
            total(Counter::Messages, -5, 1),
            total(Counter::Members, -2, 1),
            total(Counter::Topics, -1, 1),
        ];
        assert_eq!(tally.finish().0, expected);
    }
}
