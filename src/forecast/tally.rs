//! Summing changes of counters, and keeping the largest. Pure.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{Change, LARGEST, Subject, Total};
use crate::derive::state::{ByType, Dialog, DialogKey, MembershipKey, MessageKey, UserKey};
use crate::history::Counter;
use crate::store::standing::{Marks, Share};

/// Changes so far.
#[derive(Debug, Default)]
pub struct Tally {
    /// By counter: the sum, and for how many it changes.
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

impl Tally {
    /// A dialog's own counters.
    pub fn dialog(&mut self, key: &DialogKey, before: &Dialog, after: &Dialog) {
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

    /// A user's unread in a dialog, by the senders' types.
    pub fn unread(&mut self, key: &MembershipKey, before: &ByType, after: &ByType) {
        let more = after.minus(before);
        self.unread_more(Subject::Member(key.clone()), &more, 1);
    }

    /// The unread of so many members who have nothing but the dialog's sequence
    /// changed.
    pub fn unread_of_others(&mut self, key: &DialogKey, more: &ByType, members: i64) {
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

    /// Messages that a user sent in one of their dialogs.
    pub fn sent(&mut self, key: &MembershipKey, more: i64) {
        if more != 0 {
            let user = UserKey {
                tenant: key.dialog.tenant.clone(),
                user: key.user.clone(),
            };
            *self.sent.entry(user).or_default() += more;
        }
    }

    /// A message's counters; empty for one that does not count.
    pub fn marks(&mut self, key: &MessageKey, before: &Marks, after: &Marks) {
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
        if self.largest.len() > LARGEST {
            self.largest.pop_last();
        }
    }

    /// The sums, and the largest changes.
    pub fn finish(mut self) -> (Vec<Total>, Vec<Change>) {
        for (user, more) in std::mem::take(&mut self.sent) {
            self.add(Subject::User(user), Counter::Sent, more, 1);
        }
        let totals = self.totals.into_iter();
        let totals = totals.map(|(counter, (delta, subjects))| Total {
            counter,
            delta,
            subjects,
        });
        let changes = self.largest.into_iter().map(|ranked| Change {
            subject: ranked.subject,
            counter: ranked.counter,
            delta: ranked.delta,
            subjects: ranked.subjects,
        });
        (totals.collect(), changes.collect())
    }
}

/// What a user has unread of a dialog that was not deleted, as readers see it.
pub fn unread(dialog: &Dialog, share: &Share) -> ByType {
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
