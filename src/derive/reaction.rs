//! Reactions: each user's latest state on each.

use super::changes::ReactionChange;
use super::state::{ReactionKey, ReactionState};
use super::{Batch, Effect, message_key};
use crate::event::{Event, Fact};

impl Batch {
    /// The states of an event on reactions; none, if it is about anything else.
    pub(super) fn reaction_states<'e>(
        &self,
        event: &'e Event,
    ) -> impl Iterator<Item = (ReactionKey, ReactionState)> + use<'e> {
        let about = match &event.fact {
            Fact::ReactionChanged {
                message,
                user,
                reactions,
            } => Some((message_key(event, message), user, reactions)),
            _ => None,
        };
        about
            .into_iter()
            .flat_map(move |(message, user, reactions)| {
                reactions.iter().map(move |(reaction, set)| {
                    let key = ReactionKey {
                        message: message.clone(),
                        reaction: reaction.clone(),
                        user: user.clone(),
                    };
                    let state = ReactionState {
                        stamp: event.stamp.clone(),
                        set: *set,
                    };
                    (key, state)
                })
            })
    }

    pub(super) fn reaction_changed(&mut self, event: &Event) -> Effect {
        let mut effect = Effect::nothing();
        for (key, now) in self.reaction_states(event) {
            let delta = self.reaction_delta(&key, &now);
            if let Some(more) = delta {
                self.set_reaction(key, now, more);
            }
            effect.changed |= delta.is_some();
            effect.trace.reaction_deltas.push(delta.unwrap_or(0));
        }
        effect
    }

    /// By how much a state changes the count of its reaction; `None` when a later
    /// one is known.
    pub(super) fn reaction_delta(&self, key: &ReactionKey, now: &ReactionState) -> Option<i64> {
        let before = self.state.reactions[key].as_ref();
        if before.is_some_and(|state| state.stamp >= now.stamp) {
            return None;
        }
        let was_set = before.is_some_and(|state| state.set);
        Some(i64::from(now.set) - i64::from(was_set))
    }

    /// Records a state that changes the count by so much.
    fn set_reaction(&mut self, key: ReactionKey, now: ReactionState, more: i64) {
        self.note_on(&key.message, |change| {
            *change.reactions.entry(key.reaction.clone()).or_default() += more;
        });
        self.count_reaction(&key.message, &key.reaction, more);
        let before = self.state.reactions.insert(key.clone(), Some(now.clone()));
        let change = self.changes.reactions.entry(key);
        change
            .and_modify(|change| change.now = now.clone())
            .or_insert(ReactionChange {
                before: before.flatten(),
                now,
            });
    }
}
