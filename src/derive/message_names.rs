//! What a message counts by name: users by status and by reaction.

use std::collections::HashMap;
use std::hash::Hash;

use super::keys::Name;
use crate::event::{Reaction, Status};

/// A message's names, as far as they are known.
#[derive(Debug, Default)]
pub(super) struct MessageNames {
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
    /// Returns under how many names somebody counts after this batch.
    pub(super) fn distinct(&self) -> i64 {
        self.now
    }

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
    pub(super) fn add(&mut self, name: &N, by: i64) {
        let count = self.counts.entry(name.clone()).or_default();
        let was_there = count.now != 0;
        count.now += by;
        self.now += i64::from(count.now != 0) - i64::from(was_there);
    }

    /// What must be so of the stored document, lest other writers have taken the
    /// room meanwhile.
    pub(super) fn room(&self, limit: i64) -> Room<N> {
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

impl MessageNames {
    pub(super) fn know(&mut self, name: Name, users: i64, names: i64) {
        match name {
            Name::Status(status) => self.statuses.know(status, users, names),
            Name::Reaction(reaction) => self.reactions.know(reaction, users, names),
        }
    }

    pub(super) fn knows(&self, name: &Name) -> bool {
        match name {
            Name::Status(status) => self.statuses.knows(status),
            Name::Reaction(reaction) => self.reactions.knows(reaction),
        }
    }

    pub(super) fn users(&self, name: &Name) -> i64 {
        match name {
            Name::Status(status) => self.statuses.users(status),
            Name::Reaction(reaction) => self.reactions.users(reaction),
        }
    }
}

/// What must hold of a created message's names when a change is written, since
/// nothing else keeps other writers from changing them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Room<N> {
    /// Nothing must hold: no name is new.
    #[default]
    Any,
    /// There are at most so many names under which somebody counts.
    AtMost(i64),
    /// There is room only as everything was when the change was derived.
    Exactly {
        /// The number of names under which somebody counts.
        names: i64,
        /// The number of users under each name that changes.
        counts: Vec<(N, i64)>,
    },
}
