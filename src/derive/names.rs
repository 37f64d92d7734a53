//! What a message counts by name: users by status and by reaction. Producers
//! make the names up, and each is a field of the message's document, so there
//! is a limit to how many.

use std::collections::HashMap;
use std::hash::Hash;

use super::Batch;
use super::changes::{MessageBefore, Room};
use super::state::{MessageKey, Name, NameKey, Need};
use crate::event::{Reaction, Status};

/// A message's names, as far as they are known.
#[derive(Debug, Default)]
pub(super) struct Names {
    pub(super) statuses: Named<Status>,
    pub(super) reactions: Named<Reaction>,
}

/// The names of one kind, statuses or reactions, that a message counts users
/// under.
#[derive(Debug)]
pub(super) struct Named<N> {
    /// Names that somebody counts under, as stored and after this batch.
    stored: i64,
    now: i64,
    /// Users by name, of those that were asked about.
    counts: HashMap<N, Count>,
}

/// Users under a name, as stored and after this batch.
#[derive(Debug, Default)]
struct Count {
    stored: i64,
    now: i64,
}

impl<N> Default for Named<N> {
    fn default() -> Self {
        Self {
            stored: 0,
            now: 0,
            counts: HashMap::new(),
        }
    }
}

impl<N: Clone + Eq + Hash> Named<N> {
    /// Takes an answer. Always the same number of names: all is of one moment.
    pub(super) fn know(&mut self, name: N, users: i64, names: i64) {
        self.now += names - self.stored;
        self.stored = names;
        self.counts.entry(name).or_insert(Count {
            stored: users,
            now: users,
        });
    }

    fn knows(&self, name: &N) -> bool {
        self.counts.contains_key(name)
    }

    fn users(&self, name: &N) -> i64 {
        self.counts.get(name).map_or(0, |count| count.now)
    }

    /// Counts users more or less under a name.
    fn add(&mut self, name: &N, by: i64) {
        let count = self.counts.entry(name.clone()).or_default();
        let was_there = count.now != 0;
        count.now += by;
        self.now += i64::from(count.now != 0) - i64::from(was_there);
    }

    /// What must be so of the stored document, lest other writers have taken the
    /// room meanwhile.
    fn room(&self, limit: i64) -> Room<N> {
        let counts = self.counts.values();
        let new = counts.filter(|count| count.stored == 0 && count.now != 0);
        match new.count() as i64 {
            0 => Room::Any,
            new if self.stored + new <= limit => Room::AtMost(limit - new),
            _ => {
                let changed = self.counts.iter();
                let changed = changed.filter(|(_, count)| count.stored != count.now);
                let counts = changed.map(|(name, count)| (name.clone(), count.stored));
                Room::Exactly {
                    names: self.stored,
                    counts: counts.collect(),
                }
            }
        }
    }
}

impl Names {
    pub(super) fn know(&mut self, name: Name, users: i64, names: i64) {
        match name {
            Name::Status(status) => self.statuses.know(status, users, names),
            Name::Reaction(reaction) => self.reactions.know(reaction, users, names),
        }
    }

    fn knows(&self, name: &Name) -> bool {
        match name {
            Name::Status(status) => self.statuses.knows(status),
            Name::Reaction(reaction) => self.reactions.knows(reaction),
        }
    }

    fn users(&self, name: &Name) -> i64 {
        match name {
            Name::Status(status) => self.statuses.users(status),
            Name::Reaction(reaction) => self.reactions.users(reaction),
        }
    }
}

impl Batch {
    /// What must be known before users are counted under a name; nothing, where
    /// there is no limit.
    pub(super) fn need_of_name(&self, message: &MessageKey, name: Name) -> Option<Need> {
        let message = message.clone();
        let need = Need::Name(NameKey { message, name });
        self.limits.map(|_| need)
    }

    pub(super) fn knows_name(&self, key: &NameKey) -> bool {
        let names = self.state.names.get(&key.message);
        let is_new =
            || self.state.messages.contains_key(&key.message) && !self.is_stored(&key.message);
        names.is_some_and(|names| names.knows(&key.name)) || is_new()
    }

    /// Users who count under a name.
    pub(super) fn users_under(&self, message: &MessageKey, name: &Name) -> i64 {
        let names = self.state.names.get(message);
        names.map_or(0, |names| names.users(name))
    }

    /// Different statuses, and different reactions, of a message.
    pub(super) fn distinct_names(&self, message: &MessageKey) -> (i64, i64) {
        let names = self.state.names.get(message);
        names.map_or((0, 0), |names| (names.statuses.now, names.reactions.now))
    }

    pub(super) fn count_status(&mut self, message: &MessageKey, status: &Status) {
        if self.limits.is_some() {
            let names = self.state.names.entry(message.clone()).or_default();
            names.statuses.add(status, 1);
        }
    }

    pub(super) fn count_reaction(&mut self, message: &MessageKey, reaction: &Reaction, by: i64) {
        if self.limits.is_some() {
            let names = self.state.names.entry(message.clone()).or_default();
            names.reactions.add(reaction, by);
        }
    }

    /// Notes with each change of a created message how much room it needs. A new
    /// one has all the room, and the version of a placeholder says that nobody
    /// else took any.
    pub(super) fn note_rooms(&mut self) {
        let Some(limits) = self.limits else {
            return;
        };
        for (key, change) in &mut self.changes.messages {
            let names = self.state.names.get(key);
            if let Some(names) = names.filter(|_| change.before == MessageBefore::Created) {
                change.room_for_statuses = names.statuses.room(limits.statuses);
                change.room_for_reactions = names.reactions.room(limits.reactions);
            }
        }
    }
}
