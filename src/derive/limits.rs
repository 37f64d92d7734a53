//! What is refused, so that nothing that is stored grows without a bound.
//!
//! A document has a bound only if what is listed in it has one. So an event
//! that would put one more into a full list is refused: alone, and as a whole.
//! Which events those are depends on the order in which they come; the counters
//! are a function of the set of those that were accepted, in whatever order they
//! are counted again.

use super::keys::Name;
use super::{Batch, dialog_key, membership_key, message_key};
use crate::event::{Event, Fact};

/// How many entries each list within one document may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The most different reactions that users may have set on a message.
    pub reactions: i64,
    /// The most different statuses that users may have reached for a message.
    pub statuses: i64,
    /// The most adds of a user to a dialog since their latest remove.
    pub adds: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            reactions: 1_000,
            statuses: 100,
            adds: 1_000,
        }
    }
}

/// Why an event is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The message has as many different reactions as it may.
    #[error(
        "expected one of the different reactions that the message has, found another: there are {0} already, and no room for more; replay it when one of them is set by nobody any more, or discard it"
    )]
    Reactions(i64),
    /// The message has as many different statuses as it may.
    #[error(
        "expected one of the different statuses that the message has, found another: there are {0} already, and no room for more; mend the producer and discard it"
    )]
    Statuses(i64),
    /// The member was added as often as may be.
    #[error(
        "expected no further add of a member, found one: there are {0} already since the user was last removed, and no room for more; mend the producer and discard it"
    )]
    Adds(usize),
}

impl Batch {
    /// Why the event is not accepted, if it is not. All that it needs must be
    /// known.
    pub(super) fn refusal(&self, event: &Event) -> Option<Refusal> {
        let limits = self.limits?;
        match &event.fact {
            Fact::ReactionChanged { message, .. } => {
                let (_, has) = self.distinct_names(&message_key(event, message));
                let more = self.more_reactions(event);
                (more > 0 && has + more > limits.reactions).then_some(Refusal::Reactions(has))
            }
            Fact::StatusReached { message, .. } => {
                let (has, _) = self.distinct_names(&message_key(event, message));
                (has >= limits.statuses && self.is_new_status(event))
                    .then_some(Refusal::Statuses(has))
            }
            Fact::MemberAdded { dialog, user, .. } => {
                let key = membership_key(&dialog_key(event, dialog), user);
                let known = self.membership(&key);
                let full = known.adds.len() >= limits.adds;
                let after = full.then(|| self.membership_after(event, known)).flatten();
                after.map(|_| Refusal::Adds(known.adds.len()))
            }
            _ => None,
        }
    }

    /// How many different reactions the message would have more, or less.
    fn more_reactions(&self, event: &Event) -> i64 {
        let more = self.reaction_states(event).map(|(key, now)| {
            let by = self.reaction_delta(&key, &now).unwrap_or(0);
            let users = self.users_under(&key.message, &Name::Reaction(key.reaction.clone()));
            i64::from(users + by != 0) - i64::from(users != 0)
        });
        more.sum()
    }

    /// Whether nobody has reached the event's status for its message yet.
    fn is_new_status(&self, event: &Event) -> bool {
        self.receipt(event).is_some_and(|receipt| {
            let users = self.users_under(&receipt.message, &Name::Status(receipt.status.clone()));
            users == 0 && !self.state.receipts[&receipt]
        })
    }
}
