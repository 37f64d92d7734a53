//! Needs and changes of the names that a message counts users under. Producers
//! make the names up, and each is a field of the message's document, so there
//! is a limit to how many.

use super::Batch;
use super::changes::MessageBefore;
use super::keys::{MessageKey, Name, NameKey};
use super::state::Need;
use crate::event::{Reaction, Status};

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
        names.map_or((0, 0), |names| {
            (names.statuses.distinct(), names.reactions.distinct())
        })
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
