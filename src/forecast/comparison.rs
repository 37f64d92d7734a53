//! What a batch would change, compared with what readers see at the loader's
//! moment, a chunk at a time.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::Hash;

use super::tally::{ForecastTally, unread};
use super::{CounterChange, CounterTotal, ForecastError};
use crate::derive::Changes;
use crate::derive::changes::{
    Consumed, DialogChange, MembershipChange, MessageBefore, MessageChange,
};
use crate::derive::state::{Dialog, DialogKey, MembershipKey, MessageKey};
use crate::event::DialogId;
use crate::store::Loader;
use crate::store::{MessageCounters, ServedShare};

/// The number of documents that one round trip loads.
const CHUNK_DOCUMENTS: usize = 1_000;

/// What is known of a dialog's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DialogEnd {
    /// Everything that it takes to zero is in the tally, but for the dialog's
    /// own counters.
    Tallied,
    /// The dialog is too large: forecast as if it went on.
    TooLarge,
}

/// A comparison of stored and derived state, under way.
pub(super) struct Comparison {
    loader: Loader,
    ends: HashMap<DialogKey, DialogEnd>,
    tally: ForecastTally,
    /// The dialogs that change, and those of messages that do.
    dialogs: HashMap<DialogKey, DialogPair>,
}

/// A dialog now and then.
#[derive(Debug)]
struct DialogPair {
    before: Dialog,
    after: Dialog,
    /// How many members, after the events, have shares that change and are
    /// compared one by one.
    named: i64,
}

impl Comparison {
    /// Begins with what the ends of dialogs have put into the tally already.
    pub(super) fn new(
        loader: Loader,
        ends: HashMap<DialogKey, DialogEnd>,
        tally: ForecastTally,
    ) -> Self {
        Self {
            loader,
            ends,
            tally,
            dialogs: HashMap::new(),
        }
    }

    /// Puts all changes of a batch into the tally.
    ///
    /// # Errors
    /// Any [`ForecastError`].
    pub(super) async fn compare(&mut self, changes: Changes) -> Result<(), ForecastError> {
        let mut dialogs = changes.dialogs.into_iter();
        while let Some(chunk) = next_chunk(&mut dialogs) {
            self.compare_dialogs(chunk).await?;
        }
        let mut shares = changes.memberships.into_iter();
        while let Some(chunk) = next_chunk(&mut shares) {
            self.compare_shares(chunk).await?;
        }
        self.compare_others();
        let messages = changes.messages.into_iter();
        let mut messages = messages.filter(|(_, change)| may_count(change));
        while let Some(chunk) = next_chunk(&mut messages) {
            self.compare_messages(chunk).await?;
        }
        Ok(())
    }

    /// Returns the sums, and the largest changes.
    pub(super) fn finish(self) -> (Vec<CounterTotal>, Vec<CounterChange>) {
        self.tally.finish()
    }

    async fn compare_dialogs(
        &mut self,
        mut changes: HashMap<DialogKey, DialogChange>,
    ) -> Result<(), ForecastError> {
        let keys = changes.keys().cloned().collect();
        for (key, before) in self.loader.dialogs(keys).await? {
            let Some(change) = changes.remove(&key) else {
                continue;
            };
            let mut after = change.now;
            if self.ends.get(&key) == Some(&DialogEnd::TooLarge) {
                after.deleted = false;
            }
            self.tally.dialog(&key, &before, &after);
            let pair = DialogPair {
                before,
                after,
                named: 0,
            };
            self.dialogs.insert(key, pair);
        }
        Ok(())
    }

    async fn compare_shares(
        &mut self,
        changes: HashMap<MembershipKey, MembershipChange>,
    ) -> Result<(), ForecastError> {
        let keys = changes.keys().cloned().collect();
        for (key, before) in self.loader.shares(keys).await? {
            let (Some(change), Some(dialog)) =
                (changes.get(&key), self.dialogs.get_mut(&key.dialog))
            else {
                continue;
            };
            let after = changed_share(&before, change);
            self.tally
                .sent(&key, after.sent.max(0) - before.sent.max(0));
            // In a dialog that has ended nothing is unread; if it ends now, the
            // tally knows.
            if !dialog.goes_on() {
                continue;
            }
            dialog.named += i64::from(after.member);
            let unread = (
                unread(&dialog.before, &before),
                unread(&dialog.after, &after),
            );
            self.tally.unread(&key, &unread.0, &unread.1);
        }
        Ok(())
    }

    /// Compares the members whose shares do not change, for whom the dialog
    /// does.
    fn compare_others(&mut self) {
        for (key, dialog) in &self.dialogs {
            if dialog.goes_on() {
                let more = dialog.after.sequence.minus(&dialog.before.sequence);
                let others = dialog.after.members - dialog.named;
                self.tally.unread_of_others(key, &more, others);
            }
        }
    }

    async fn compare_messages(
        &mut self,
        changes: HashMap<MessageKey, MessageChange>,
    ) -> Result<(), ForecastError> {
        let (new, stored): (Vec<_>, Vec<_>) = changes
            .keys()
            .cloned()
            .partition(|key| changes[key].before == MessageBefore::Absent);
        let mut found = self.loader.message_counters(stored).await?;
        found.extend(new.into_iter().map(|key| (key, MessageCounters::default())));
        let pairs = found.into_iter().filter_map(|(key, before)| {
            let after = changed_counters(&before, changes.get(&key)?);
            Some((key, before, after))
        });
        let pairs: Vec<_> = pairs.collect();
        self.look_up_dialogs(
            pairs
                .iter()
                .filter_map(|(key, _, after)| dialog_of(key, after)),
        )
        .await?;
        for (key, before, after) in pairs {
            let ends = dialog_of(&key, &before).and_then(|dialog| self.ends.get(&dialog));
            if ends != Some(&DialogEnd::Tallied) {
                let before = self.served(&key, before, |dialog| dialog.before.deleted);
                let after = self.served(&key, after, |dialog| dialog.after.deleted);
                self.tally.message(&key, &before, &after);
            }
        }
        Ok(())
    }

    /// A message says nothing of its dialog, which may have ended.
    async fn look_up_dialogs(
        &mut self,
        keys: impl Iterator<Item = DialogKey>,
    ) -> Result<(), ForecastError> {
        let unknown: HashSet<_> = keys.filter(|key| !self.dialogs.contains_key(key)).collect();
        for (key, dialog) in self.loader.dialogs(unknown.into_iter().collect()).await? {
            let pair = DialogPair {
                before: dialog.clone(),
                after: dialog,
                named: 0,
            };
            self.dialogs.insert(key, pair);
        }
        Ok(())
    }

    /// Returns what readers see: nothing of what is gone.
    fn served(
        &self,
        key: &MessageKey,
        counters: MessageCounters,
        has_ended: fn(&DialogPair) -> bool,
    ) -> MessageCounters {
        let dialog = dialog_of(key, &counters).and_then(|dialog| self.dialogs.get(&dialog));
        match counters.deleted || dialog.is_some_and(has_ended) {
            true => MessageCounters::default(),
            false => counters,
        }
    }
}

impl DialogPair {
    /// Returns whether the dialog had not ended before, and does not end now.
    fn goes_on(&self) -> bool {
        !self.before.deleted && !self.after.deleted
    }
}

/// The next entries, as many as are loaded at once; `None` when there are none.
fn next_chunk<K: Eq + Hash, V>(
    entries: &mut impl Iterator<Item = (K, V)>,
) -> Option<HashMap<K, V>> {
    let chunk: HashMap<_, _> = entries.take(CHUNK_DOCUMENTS).collect();
    (!chunk.is_empty()).then_some(chunk)
}

/// Whether a change can concern the counters of its message: not a create of
/// which nothing else is known.
fn may_count(change: &MessageChange) -> bool {
    let counts = !change.statuses.is_empty() || !change.reactions.is_empty();
    counts || change.before != MessageBefore::Absent
}

fn changed_share(before: &ServedShare, change: &MembershipChange) -> ServedShare {
    let facts = change.facts.as_ref();
    ServedShare {
        member: facts.map_or(before.member, |facts| facts.joined_at().is_some()),
        consumed: match &change.consumed {
            Consumed::Set(consumed) => consumed.clone(),
            Consumed::Add(more) => {
                let mut consumed = before.consumed.clone();
                consumed.add_all(more);
                consumed
            }
        },
        sent: before.sent.saturating_add(change.sent),
    }
}

fn changed_counters(before: &MessageCounters, change: &MessageChange) -> MessageCounters {
    let created = change.created.as_ref().map(|created| &created.dialog);
    MessageCounters {
        dialog: before.dialog.as_ref().or(created).cloned(),
        deleted: before.deleted || change.deleted,
        statuses: changed_counts(&before.statuses, &change.statuses),
        reactions: changed_counts(&before.reactions, &change.reactions),
    }
}

fn changed_counts<K: Ord + Clone>(
    before: &BTreeMap<K, i64>,
    more: &HashMap<K, i64>,
) -> BTreeMap<K, i64> {
    let mut counts = before.clone();
    for (key, more) in more {
        let count = counts.entry(key.clone()).or_default();
        *count = count.saturating_add(*more);
    }
    counts
}

fn dialog_of(key: &MessageKey, counters: &MessageCounters) -> Option<DialogKey> {
    let dialog: &DialogId = counters.dialog.as_ref()?;
    Some(DialogKey {
        tenant: key.tenant.clone(),
        dialog: dialog.clone(),
    })
}
