//! Reactions: each user's latest word on each.

use super::changes::WordChange;
use super::state::{ReactionKey, Word};
use super::{Batch, Effect, message_key};
use crate::event::{Event, Fact};

impl Batch {
    /// The words of an event on reactions; none, if it is about anything else.
    pub(super) fn words<'e>(
        &self,
        event: &'e Event,
    ) -> impl Iterator<Item = (ReactionKey, Word)> + use<'e> {
        let about = match &event.fact {
            Fact::ReactionChanged {
                message,
                user,
                words,
            } => Some((message_key(event, message), user, words)),
            _ => None,
        };
        about.into_iter().flat_map(move |(message, user, words)| {
            words.iter().map(move |(reaction, set)| {
                let key = ReactionKey {
                    message: message.clone(),
                    reaction: reaction.clone(),
                    user: user.clone(),
                };
                let word = Word {
                    stamp: event.stamp.clone(),
                    set: *set,
                };
                (key, word)
            })
        })
    }

    pub(super) fn reaction_changed(&mut self, event: &Event) -> Effect {
        let mut effect = Effect::nothing();
        for (key, now) in self.words(event) {
            let said = self.said_more(&key, &now);
            if let Some(more) = said {
                self.say(key, now, more);
            }
            effect.changed |= said.is_some();
            effect.trace.words.push(said.unwrap_or(0));
        }
        effect
    }

    /// By how much a word changes the count of its reaction; `None` when a later
    /// one is known.
    pub(super) fn said_more(&self, key: &ReactionKey, now: &Word) -> Option<i64> {
        let before = self.state.reactions[key].as_ref();
        if before.is_some_and(|word| word.stamp >= now.stamp) {
            return None;
        }
        let was_set = before.is_some_and(|word| word.set);
        Some(i64::from(now.set) - i64::from(was_set))
    }

    /// Records a word that changes the count by so much.
    fn say(&mut self, key: ReactionKey, now: Word, more: i64) {
        self.note_on(&key.message, |change| {
            *change.reactions.entry(key.reaction.clone()).or_default() += more;
        });
        self.count_reaction(&key.message, &key.reaction, more);
        let before = self.state.reactions.insert(key.clone(), Some(now.clone()));
        let change = self.changes.reactions.entry(key);
        change
            .and_modify(|change| change.now = now.clone())
            .or_insert(WordChange {
                before: before.flatten(),
                now,
            });
    }
}
