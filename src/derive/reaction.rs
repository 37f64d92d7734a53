//! Reactions: each user's latest word on each.

use super::changes::WordChange;
use super::state::{ReactionKey, Word};
use super::{Batch, Effect, message_key};
use crate::event::{Event, MessageId, Reaction, UserId};

impl Batch {
    pub(super) fn reaction_changed(
        &mut self,
        event: &Event,
        message: &MessageId,
        user: &UserId,
        words: &[(Reaction, bool)],
    ) -> Effect {
        let message = message_key(event, message);
        let mut effect = Effect::nothing();
        for (reaction, set) in words {
            let key = ReactionKey {
                message: message.clone(),
                reaction: reaction.clone(),
                user: user.clone(),
            };
            let now = Word {
                stamp: event.stamp.clone(),
                set: *set,
            };
            let said = self.say(key, now);
            effect.changed |= said.is_some();
            effect.trace.words.push(said.unwrap_or(0));
        }
        effect
    }

    /// Records a word unless a later one is known; tells by how much the count
    /// changes when it did.
    fn say(&mut self, key: ReactionKey, now: Word) -> Option<i64> {
        let before = self.state.reactions[&key].clone();
        if before.as_ref().is_some_and(|word| word.stamp >= now.stamp) {
            return None;
        }
        let was_set = before.as_ref().is_some_and(|word| word.set);
        let more = i64::from(now.set) - i64::from(was_set);
        self.note_on(&key.message, |change| {
            *change.reactions.entry(key.reaction.clone()).or_default() += more;
        });
        self.state.reactions.insert(key.clone(), Some(now.clone()));
        let change = self.changes.reactions.entry(key);
        change
            .and_modify(|change| change.now = now.clone())
            .or_insert(WordChange { before, now });
        Some(more)
    }
}
