//! From an event to what it changes: the meaning of every counter lives here.
//!
//! A [`Batch`] takes events one after the other. What it must know first it
//! asks for as [`Need`]s; what results is a set of [`Changes`] for one
//! transaction. Nothing here does I/O, reads a clock or is random, so the
//! property tests drive exactly what production runs.
//!
//! # No fan-out
//!
//! `unread(u, d) = d.sequence − consumed(u, d)`, both by sender type. A message
//! raises `sequence` by one and the sender's `consumed` by one, whatever the
//! number of members. A member's [`state::Watermark`] says up to where all is
//! consumed; the dialog's `high_watermark` says that no member's watermark is above it,
//! so that a message after it concerns nobody else. Only events out of order
//! (and deletes) look at the members that they touch.
//!
//! # Why it is exact
//!
//! Every fact is kept in a form in which order does not matter: the adds after
//! the latest remove, the latest bulk read, the receipts, the latest state on a
//! reaction. Each counter is a function of those facts, and each event changes
//! it by exactly the difference that it makes to them. All changes to a dialog,
//! its memberships and its messages raise the dialog's version, and a commit is
//! refused unless every version is the one that it was derived from.

mod by_type;
pub mod changes;
mod keys;
mod limits;
mod membership;
mod message;
mod message_names;
mod names;
mod needs;
mod reaction;
pub mod state;
pub mod tail;
mod touched;
mod watermark;

use crate::event::{DialogId, Event, Fact, MessageId, SenderType, TopicId, UserId};
pub use changes::{Changes, EventOutcome};
use changes::{DialogChange, MembershipChange, MessageBefore, MessageChange, Taken, Trace};
pub use limits::{Limits, Refusal};
use state::{
    Dialog, DialogKey, EventKey, Membership, MembershipKey, Message, MessageKey, Need, State,
    TopicKey, UserKey,
};
use touched::Touched;

/// The needs that must be answered before an event can be derived. Trying has
/// changed nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing(pub Vec<Need>);

/// How much of the store is loaded before an event is derived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadMode {
    /// The event counts as new, and so does the message that it creates. When
    /// that is wrong the commit collides, and nothing is written.
    Optimistic,
    /// The journal and the message are loaded first: after a collision, and for
    /// what was delivered before.
    Checked,
}

/// Rounds of loading what is foreseen that are of use: messages first, then the
/// dialogs that they turn out to belong to, then what these say must be looked
/// at, the tails of dialogs say, then who has read what of it.
pub const FORESEEN_ROUNDS: usize = 4;

/// Events that are to be committed as one.
#[derive(Debug)]
pub struct Batch {
    state: State,
    changes: Changes,
    touched: Touched,
    /// The limits that may refuse an event; `None` for events that were
    /// accepted before.
    limits: Option<Limits>,
}

impl Default for Batch {
    /// Makes a batch of new events, within the default limits.
    fn default() -> Self {
        Self::within(Limits::default())
    }
}

/// What a part of deriving results in, or what must be loaded first.
type DeriveResult<T = ()> = Result<T, Missing>;

/// The effect of an event's fact on the state.
struct Effect {
    changed: bool,
    dialog: Option<DialogKey>,
    sender_type: Option<SenderType>,
    trace: Trace,
}

impl Effect {
    fn nothing() -> Self {
        Self {
            changed: false,
            dialog: None,
            sender_type: None,
            trace: Trace::default(),
        }
    }

    /// Returns the effect of a change that no dialog's version guards.
    fn unguarded() -> Self {
        Self {
            changed: true,
            ..Self::nothing()
        }
    }

    fn on(dialog: &DialogKey) -> Self {
        Self {
            dialog: Some(dialog.clone()),
            ..Self::unguarded()
        }
    }
}

impl Batch {
    /// Makes a batch of new events, some of which these limits may refuse.
    pub fn within(limits: Limits) -> Self {
        Self {
            state: State::default(),
            changes: Changes::default(),
            touched: Touched::default(),
            limits: Some(limits),
        }
    }

    /// Makes a batch of events from the journal: they were accepted before, and
    /// count in whatever order they come.
    pub fn of_accepted() -> Self {
        Self {
            limits: None,
            ..Self::default()
        }
    }

    /// Returns the state that answers to [`Need`]s are put into.
    pub fn state_mut(&mut self) -> &mut State {
        &mut self.state
    }

    /// Returns the number of a dialog's members, 0 while the dialog is not
    /// loaded.
    pub fn members(&self, dialog: &DialogKey) -> i64 {
        let known = self.state.dialogs.get(dialog);
        known.map_or(0, |slot| slot.now.members)
    }

    /// Applies one event on top of those before it.
    ///
    /// # Errors
    /// [`Missing`], with nothing changed, when more must be known first.
    pub fn apply(&mut self, event: &Event) -> DeriveResult<EventOutcome> {
        let key = event_key(event);
        if self.state.journal.get(&key) == Some(&true) {
            return Ok(EventOutcome::Duplicate);
        }
        self.require(self.needs_of(event))?;
        if let Some(refusal) = self.refusal(event) {
            return Ok(EventOutcome::Refused(refusal));
        }
        let effect = match &event.fact {
            Fact::MessageCreated(message) => self.message_created(event, message)?,
            Fact::MessageDeleted { message } => self.message_deleted(event, message)?,
            Fact::StatusReached { .. } => self.status_reached(event)?,
            Fact::ReactionChanged { .. } => self.reaction_changed(event),
            Fact::BulkRead { dialog, user, .. }
            | Fact::MemberAdded { dialog, user, .. }
            | Fact::MemberRemoved { dialog, user } => {
                self.membership_changed(event, &dialog_key(event, dialog), user)?
            }
            Fact::TopicCreated { dialog, topic } => self.topic_created(event, dialog, topic),
            Fact::DialogDeleted { dialog } => self.dialog_deleted(event, dialog),
            Fact::UserTyped { user, user_type } => self.user_typed(event, user, user_type),
        };
        self.state.journal.insert(key, true);
        Ok(self.take(event, effect))
    }

    /// Records the event, and raises its dialog's version when it changed it.
    fn take(&mut self, event: &Event, effect: Effect) -> EventOutcome {
        let dialog = effect.dialog.map(|key| {
            let dialog = self.dialog_mut(&key);
            dialog.version += 1;
            let version = dialog.version;
            (key, version)
        });
        self.changes.taken.push(Taken {
            event: event.clone(),
            dialog,
            sender_type: effect.sender_type,
            trace: Trace {
                unchanged: !effect.changed,
                ..effect.trace
            },
        });
        if effect.changed {
            EventOutcome::Applied
        } else {
            EventOutcome::Unchanged
        }
    }

    /// Returns how many users' shares of dialogs the batch changes so far.
    pub fn changed_shares(&self) -> usize {
        self.changes.memberships.len()
    }

    /// Forgets the events taken so far, which only a commit needs, and answers
    /// that can be asked for again. For a batch that is never committed, and
    /// grows large.
    pub fn slim(&mut self) {
        self.changes.taken.clear();
        self.state.members_past.clear();
        self.state.readers.clear();
        self.state.tails.clear();
        self.state.read_of.clear();
        self.state.unread.clear();
        self.state.latest.clear();
    }

    /// Ends the batch and returns what is to be written.
    pub fn finish(mut self) -> Changes {
        self.note_rooms();
        for (key, slot) in self.state.dialogs {
            if slot.now.version != slot.stored_version {
                let change = DialogChange {
                    expected_version: slot.stored_version,
                    now: slot.now,
                };
                self.changes.dialogs.insert(key, change);
            }
        }
        self.changes
    }

    fn topic_created(&mut self, event: &Event, dialog: &DialogId, topic: &TopicId) -> Effect {
        let dialog = dialog_key(event, dialog);
        let key = TopicKey {
            dialog: dialog.clone(),
            topic: topic.clone(),
        };
        if self.state.topics.insert(key.clone(), true) == Some(true) {
            return Effect::nothing();
        }
        self.changes.topics.push(key);
        self.dialog_mut(&dialog).topics += 1;
        Effect::on(&dialog)
    }

    fn dialog_deleted(&mut self, event: &Event, dialog: &DialogId) -> Effect {
        let key = dialog_key(event, dialog);
        if std::mem::replace(&mut self.dialog_mut(&key).deleted, true) {
            return Effect::nothing();
        }
        Effect::on(&key)
    }

    /// Applies a user's type, which goes for messages recorded from now on. No
    /// dialog's version guards it: the store keeps the latest type by itself.
    fn user_typed(&mut self, event: &Event, user: &UserId, user_type: &SenderType) -> Effect {
        let key = user_key(event, user);
        let latest = self.changes.user_types.get(&key);
        if latest.is_some_and(|(stamp, _)| *stamp > event.stamp) {
            return Effect::nothing();
        }
        self.state
            .know_user_type(key.clone(), Some(user_type.clone()));
        let latest = (event.stamp.clone(), user_type.clone());
        self.changes.user_types.insert(key, latest);
        Effect::unguarded()
    }

    fn dialog(&self, key: &DialogKey) -> &Dialog {
        &self.state.dialogs[key].now
    }

    fn dialog_mut(&mut self, key: &DialogKey) -> &mut Dialog {
        let slot = self.state.dialogs.entry(key.clone()).or_default();
        &mut slot.now
    }

    fn membership(&self, key: &MembershipKey) -> &Membership {
        &self.state.memberships[&key.dialog][&key.user]
    }

    /// Returns what is known of a message; nothing, when it counts as new.
    fn message(&self, key: &MessageKey) -> Message {
        self.state.messages.get(key).cloned().unwrap_or_default()
    }

    fn share_mut(&mut self, key: MembershipKey) -> &mut MembershipChange {
        let share = self.changes.memberships.entry(key).or_default();
        share.version += 1;
        share
    }

    /// Returns the change of a message, begun from what the message is now.
    fn message_mut(&mut self, key: &MessageKey) -> &mut MessageChange {
        let state = &self.state;
        self.changes
            .messages
            .entry(key.clone())
            .or_insert_with(|| MessageChange {
                before: match state.messages.get(key) {
                    Some(Message {
                        created: Some(_), ..
                    }) => MessageBefore::Created,
                    Some(message) if message.version > 0 => {
                        MessageBefore::Placeholder(message.version)
                    }
                    _ => MessageBefore::Absent,
                },
                created: None,
                deleted: false,
                version: 0,
                readers: Vec::new(),
                statuses: Default::default(),
                reactions: Default::default(),
                room_for_statuses: Default::default(),
                room_for_reactions: Default::default(),
            })
    }
}

fn event_key(event: &Event) -> EventKey {
    EventKey {
        tenant: event.tenant.clone(),
        event: event.stamp.event.clone(),
    }
}

fn dialog_key(event: &Event, dialog: &DialogId) -> DialogKey {
    DialogKey {
        tenant: event.tenant.clone(),
        dialog: dialog.clone(),
    }
}

fn message_key(event: &Event, message: &MessageId) -> MessageKey {
    MessageKey {
        tenant: event.tenant.clone(),
        message: message.clone(),
    }
}

fn user_key(event: &Event, user: &UserId) -> UserKey {
    UserKey {
        tenant: event.tenant.clone(),
        user: user.clone(),
    }
}

fn membership_key(dialog: &DialogKey, user: &UserId) -> MembershipKey {
    MembershipKey {
        dialog: dialog.clone(),
        user: user.clone(),
    }
}
