//! The store's part in derive, in memory: answers needs from documents, and
//! writes changes to them, refusing what the real store refuses. For property
//! tests that try thousands of schedules; the real store has tests of its own.

use std::collections::{BTreeMap, HashMap, HashSet};

use chat_counters::derive::changes::{Consumed, MessageBefore, MessageChange, Room};
use chat_counters::derive::state::{
    ByType, Created, Dialog, DialogKey, EventKey, Membership, MembershipKey, Message, MessageKey,
    Name, NameKey, Need, ReactionKey, ReactionState, ReceiptKey, State, TopicKey, UserKey,
    Watermark,
};
use chat_counters::derive::tail::{Tail, TailMessage};
use chat_counters::derive::{
    Batch, Changes, EventOutcome, FORESEEN_ROUNDS, Limits, LoadMode, Missing,
};
use chat_counters::event::{Event, Micros, SenderType, Stamp, UserId};

/// Messages in a tail: so few that the other way of counting is tried as well.
const MAX_TAIL: usize = 3;

/// A write was refused: someone else was faster.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Conflict;

/// A user's share of a dialog, as stored.
#[derive(Debug, Clone, Default)]
pub(crate) struct Share {
    pub facts: Membership,
    pub consumed: ByType,
    pub sent: i64,
}

/// A message's document, as stored.
#[derive(Debug, Clone, Default)]
pub(crate) struct StoredMessage {
    pub message: Message,
    pub statuses: BTreeMap<String, i64>,
    pub reactions: BTreeMap<String, i64>,
}

/// All documents.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    pub journal: HashSet<EventKey>,
    pub dialogs: HashMap<DialogKey, Dialog>,
    pub memberships: HashMap<MembershipKey, Share>,
    pub messages: HashMap<MessageKey, StoredMessage>,
    receipts: HashSet<ReceiptKey>,
    reactions: HashMap<ReactionKey, ReactionState>,
    topics: HashSet<TopicKey>,
    user_types: HashMap<UserKey, (Stamp, SenderType)>,
}

/// A writer, with the dialogs that it remembers: perhaps no longer as stored.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    remembered: HashMap<DialogKey, Dialog>,
    limits: Limits,
}

impl Writer {
    /// One that accepts what these limits allow.
    pub(crate) fn within(limits: Limits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }

    /// Takes events as a lane does, until all are committed. Returns what became
    /// of each.
    pub(crate) fn take(
        &mut self,
        memory: &mut Memory,
        events: &[Event],
        mut mode: LoadMode,
    ) -> Vec<EventOutcome> {
        loop {
            match self.attempt(memory, events, mode) {
                Ok(outcomes) => return outcomes,
                Err(Conflict) => {
                    mode = LoadMode::Checked;
                    self.remembered.clear();
                }
            }
        }
    }

    fn attempt(
        &mut self,
        memory: &mut Memory,
        events: &[Event],
        mode: LoadMode,
    ) -> Result<Vec<EventOutcome>, Conflict> {
        let (changes, outcomes) = self.derive(memory, events, mode);
        memory.commit(&changes)?;
        let now = changes.dialogs.into_iter();
        self.remembered
            .extend(now.map(|(key, change)| (key, change.now)));
        Ok(outcomes)
    }

    /// Derives without committing: what a process that is killed has done.
    pub(crate) fn derive(
        &self,
        memory: &Memory,
        events: &[Event],
        mode: LoadMode,
    ) -> (Changes, Vec<EventOutcome>) {
        let mut batch = Batch::within(self.limits);
        let mut outcomes = Vec::new();
        for event in events.iter().cycle().take(events.len() * FORESEEN_ROUNDS) {
            for need in batch.foreseen(event, mode) {
                self.answer(memory, need, batch.state_mut());
            }
        }
        for event in events {
            loop {
                match batch.apply(event) {
                    Ok(outcome) => {
                        outcomes.push(outcome);
                        break;
                    }
                    Err(Missing(needs)) => {
                        for need in needs {
                            self.answer(memory, need, batch.state_mut());
                        }
                    }
                }
            }
        }
        (batch.finish(), outcomes)
    }

    fn answer(&self, memory: &Memory, need: Need, state: &mut State) {
        match need {
            Need::Dialog(key) if self.remembered.contains_key(&key) => {
                state.know_dialog(key.clone(), self.remembered[&key].clone());
            }
            need => memory.answer(need, state),
        }
    }
}

impl Memory {
    fn answer(&self, need: Need, state: &mut State) {
        match need {
            Need::Journal(key) => state.know_journal(key.clone(), self.journal.contains(&key)),
            Need::Dialog(key) => {
                state.know_dialog(
                    key.clone(),
                    self.dialogs.get(&key).cloned().unwrap_or_default(),
                );
            }
            Need::Membership(key) => {
                let share = self.memberships.get(&key).cloned().unwrap_or_default();
                state.know_membership(key, share.facts);
            }
            Need::Message(key) => {
                let stored = self.messages.get(&key).cloned().unwrap_or_default();
                state.know_message(key, stored.message);
            }
            Need::Receipt(key) => state.know_receipt(key.clone(), self.receipts.contains(&key)),
            Need::Reaction(key) => {
                state.know_reaction(key.clone(), self.reactions.get(&key).cloned());
            }
            Need::Name(key) => {
                let (users, names) = self.named(&key);
                state.know_name(key, users, names);
            }
            Need::Topic(key) => state.know_topic(key.clone(), self.topics.contains(&key)),
            Need::UserType(key) => {
                let learnt = self.user_types.get(&key).map(|(_, learnt)| learnt.clone());
                state.know_user_type(key, learnt);
            }
            Need::MembersPast(dialog, at) => {
                let members = self.members_past(&dialog, at);
                state.know_members_past(dialog, at, members);
            }
            Need::Readers(message) => {
                let reads = self
                    .receipts
                    .iter()
                    .filter(|r| r.message == message && r.status.is_read());
                let readers = reads.map(|r| r.user.clone()).collect();
                state.know_readers(message, readers);
            }
            Need::Unread(membership, watermark) => {
                let unread = self.unread(&membership, watermark);
                state.know_unread(membership, watermark, unread);
            }
            Need::Tail(dialog, watermark) => {
                let tail = self.tail(&dialog, watermark);
                state.know_tail(dialog, tail);
            }
            Need::ReadOf(membership, watermark) => {
                let read = self.receipts.iter().filter(|receipt| {
                    receipt.message.tenant == membership.dialog.tenant
                        && receipt.user == membership.user
                        && receipt.status.is_read()
                });
                let read = read.map(|r| r.message.message.clone()).collect();
                state.know_read_of(membership, watermark, read);
            }
            Need::Latest(dialog, most) => {
                let mut latest: Vec<_> = self
                    .messages_of(&dialog)
                    .map(|(key, _, created)| (created.at, key.message.clone()))
                    .collect();
                latest.sort_by(|a, b| b.cmp(a));
                latest.truncate(most);
                state.know_latest(dialog, most, latest);
            }
        }
    }

    /// Users under a name on a message, and names of its kind.
    fn named(&self, key: &NameKey) -> (i64, i64) {
        let stored = self.messages.get(&key.message).cloned().unwrap_or_default();
        let (counts, name) = match &key.name {
            Name::Status(status) => (stored.statuses, status.as_str()),
            Name::Reaction(reaction) => (stored.reactions, reaction.as_str()),
        };
        let users = counts.get(name).copied().unwrap_or_default();
        (users, names(&counts))
    }

    /// Messages of a dialog that are not deleted.
    fn messages_of(
        &self,
        dialog: &DialogKey,
    ) -> impl Iterator<Item = (&MessageKey, &StoredMessage, &Created)> {
        self.messages.iter().filter_map(|(key, stored)| {
            let created = stored.message.created.as_ref()?;
            let here = key.tenant == dialog.tenant && created.dialog == dialog.dialog;
            (here && !stored.message.deleted).then_some((key, stored, created))
        })
    }

    /// The newest messages after the watermark, and never more than so many: the rest
    /// is counted one member at a time.
    fn tail(&self, dialog: &DialogKey, watermark: Watermark) -> Tail {
        let messages = self
            .messages_of(dialog)
            .filter(|(_, _, created)| !created.system && !watermark.covers(created.at));
        let mut messages: Vec<_> = messages
            .map(|(key, stored, created)| TailMessage {
                id: key.message.clone(),
                at: created.at,
                sender: created.sender.clone(),
                sender_type: created.sender_type.clone(),
                reads: stored.statuses.get("read").copied().unwrap_or_default(),
            })
            .collect();
        messages.sort_by_key(|message| std::cmp::Reverse(message.at));
        let mut from = watermark;
        if let Some(first_left_out) = messages.get(MAX_TAIL) {
            from = Watermark(first_left_out.at.get());
            messages.retain(|message| !from.covers(message.at));
        }
        Tail::new(watermark, from, messages)
    }

    fn members_past(&self, dialog: &DialogKey, at: Micros) -> Vec<(UserId, Watermark)> {
        let here = self
            .memberships
            .iter()
            .filter(|(key, _)| key.dialog == *dialog);
        let watermarks =
            here.filter_map(|(key, share)| Some((key.user.clone(), share.facts.watermark()?)));
        watermarks
            .filter(|(_, watermark)| watermark.covers(at))
            .collect()
    }

    fn unread(&self, membership: &MembershipKey, watermark: Watermark) -> ByType {
        let mut unread = ByType::default();
        for (key, stored) in &self.messages {
            let Some(created) = &stored.message.created else {
                continue;
            };
            let read = self.receipts.iter().any(|receipt| {
                receipt.message == *key
                    && receipt.user == membership.user
                    && receipt.status.is_read()
            });
            let here = key.tenant == membership.dialog.tenant
                && created.dialog == membership.dialog.dialog;
            let countable = !stored.message.deleted && !created.system;
            if here
                && countable
                && !read
                && !watermark.covers(created.at)
                && created.sender != membership.user
            {
                unread.add(&created.sender_type, 1);
            }
        }
        unread
    }

    /// Members who have read a message, from the facts alone.
    pub(crate) fn readers(&self, message: &MessageKey) -> i64 {
        let stored = self.messages.get(message);
        let Some(created) = stored.and_then(|stored| stored.message.created.as_ref()) else {
            return 0;
        };
        let readers = self.memberships.iter().filter(|(key, share)| {
            let here = key.dialog.tenant == message.tenant && key.dialog.dialog == created.dialog;
            let joined = share.facts.joined_at().is_some_and(|at| at <= created.at);
            let in_bulk = share.facts.read_until.is_some_and(|at| at >= created.at);
            let singly = self.receipts.iter().any(|receipt| {
                receipt.message == *message && receipt.user == key.user && receipt.status.is_read()
            });
            here && joined && key.user != created.sender && (in_bulk || singly)
        });
        readers.count() as i64
    }

    /// Applies one event on top of a batch, whatever it must know.
    pub(crate) fn apply(&self, batch: &mut Batch, event: &Event) -> EventOutcome {
        loop {
            match batch.apply(event) {
                Ok(outcome) => return outcome,
                Err(Missing(needs)) => {
                    for need in needs {
                        self.answer(need, batch.state_mut());
                    }
                }
            }
        }
    }

    /// Writes all changes or none, as a transaction does.
    pub(crate) fn commit(&mut self, changes: &Changes) -> Result<(), Conflict> {
        self.check(changes)?;
        for taken in &changes.taken {
            self.journal.insert(EventKey {
                tenant: taken.event.tenant.clone(),
                event: taken.event.stamp.event.clone(),
            });
        }
        for (key, change) in &changes.dialogs {
            self.dialogs.insert(key.clone(), change.now.clone());
        }
        self.write_messages(changes);
        for (key, change) in &changes.memberships {
            let share = self.memberships.entry(key.clone()).or_default();
            share.sent += change.sent;
            if let Some(facts) = &change.facts {
                share.facts = facts.clone();
            }
            match &change.consumed {
                Consumed::Add(more) => share.consumed.add_all(more),
                Consumed::Set(all) => share.consumed = all.clone(),
            }
        }
        self.receipts.extend(changes.receipts.iter().cloned());
        for (key, change) in &changes.reactions {
            self.reactions.insert(key.clone(), change.now.clone());
        }
        self.topics.extend(changes.topics.iter().cloned());
        for (key, latest) in &changes.user_types {
            let known = self
                .user_types
                .entry(key.clone())
                .or_insert_with(|| latest.clone());
            if latest.0 > known.0 {
                *known = latest.clone();
            }
        }
        Ok(())
    }

    fn write_messages(&mut self, changes: &Changes) {
        for (key, change) in &changes.messages {
            let stored = self.messages.entry(key.clone()).or_default();
            stored.message.version += change.version;
            stored.message.deleted |= change.deleted;
            if let Some(created) = &change.created {
                stored.message.created = Some(created.clone());
            }
            for (status, count) in &change.statuses {
                *stored.statuses.entry(status.to_string()).or_default() += count;
            }
            for (reaction, count) in &change.reactions {
                *stored.reactions.entry(reaction.to_string()).or_default() += count;
            }
        }
    }

    /// What unique keys and expected versions check in the real store.
    fn check(&self, changes: &Changes) -> Result<(), Conflict> {
        let taken = changes.taken.iter().any(|taken| {
            self.journal.contains(&EventKey {
                tenant: taken.event.tenant.clone(),
                event: taken.event.stamp.event.clone(),
            })
        });
        let dialogs = changes.dialogs.iter().any(|(key, change)| {
            self.dialogs.get(key).map_or(0, |dialog| dialog.version) != change.expected_version
        });
        let messages = changes.messages.iter().any(|(key, change)| {
            let stored = self.messages.get(key).map(|stored| &stored.message);
            match change.before {
                MessageBefore::Absent => stored.is_some(),
                MessageBefore::Placeholder(version) => {
                    stored.is_none_or(|message| message.version != version)
                }
                MessageBefore::Created => {
                    stored.is_none() || !has_room(&self.messages[key], change)
                }
            }
        });
        let receipts = changes
            .receipts
            .iter()
            .any(|key| self.receipts.contains(key));
        let topics = changes.topics.iter().any(|key| self.topics.contains(key));
        let words = changes.reactions.iter();
        let words = words.filter(|(key, change)| self.reactions.get(key) != change.before.as_ref());
        if taken || dialogs || messages || receipts || topics || words.count() > 0 {
            Err(Conflict)
        } else {
            Ok(())
        }
    }
}

/// Names under which somebody counts.
pub(crate) fn names(counts: &BTreeMap<String, i64>) -> i64 {
    counts.values().filter(|users| **users != 0).count() as i64
}

fn has_room(stored: &StoredMessage, change: &MessageChange) -> bool {
    has_room_for(&stored.statuses, &change.room_for_statuses)
        && has_room_for(&stored.reactions, &change.room_for_reactions)
}

fn has_room_for<N: ToString>(stored: &BTreeMap<String, i64>, room: &Room<N>) -> bool {
    let users = |name: &N| stored.get(&name.to_string()).copied().unwrap_or_default();
    match room {
        Room::Any => true,
        Room::AtMost(most) => names(stored) <= *most,
        Room::Exactly { names: all, counts } => {
            names(stored) == *all && counts.iter().all(|(name, count)| users(name) == *count)
        }
    }
}
