//! What a batch of events changes, coalesced: at most one change per document.

use std::collections::HashMap;

use super::limits::Refusal;
pub use super::message_names::Room;
use super::state::{
    ByType, CountingFacts, Created, Dialog, DialogKey, Membership, MembershipKey, MessageKey,
    ReactionKey, ReactionState, ReceiptKey, TopicKey, UserKey, Watermark,
};
use crate::event::{Event, Reaction, SenderType, Stamp, Status, UserId};

/// The outcome of applying one event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventOutcome {
    /// The event changed something.
    Applied,
    /// The event is new, but what it says was known or has been overtaken.
    Unchanged,
    /// The event was taken before: nothing is to be written for it.
    Duplicate,
    /// The event is not accepted: nothing is to be written for it, and it may
    /// be accepted later.
    Refused(Refusal),
}

/// What two creates of one message disagree about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disagreement {
    /// The creates name different dialogs. The first one recorded is right.
    Dialog,
    /// The creates name different senders. The first one recorded is right.
    Sender,
    /// The creates state different times of the message.
    Time,
    /// The creates state different types of the sender.
    SenderType,
    /// Only one of the creates is of a system message.
    System,
}

impl Disagreement {
    /// Returns the label that the metrics have for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Disagreement::Dialog => "dialog",
            Disagreement::Sender => "sender",
            Disagreement::Time => "time",
            Disagreement::SenderType => "sender_type",
            Disagreement::System => "system",
        }
    }
}

/// An event that was taken, as the journal records it.
#[derive(Debug, Clone)]
pub struct Taken {
    /// The event as it was taken.
    pub event: Event,
    /// The dialog whose version it raised, and to what.
    pub dialog: Option<(DialogKey, i64)>,
    /// For a create: the sender's type as it was fixed.
    pub sender_type: Option<SenderType>,
    /// What the event found and left, which histories need besides the event.
    pub trace: Trace,
}

/// What an event found and left, kept in the journal so that a counter's
/// history can be told without the state of that time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trace {
    /// Whether the event changed nothing.
    pub unchanged: bool,
    /// For a create: something was known about the message before.
    pub had_placeholder: bool,
    /// For a create: the message was deleted before. It was never counted.
    pub deleted_before_create: bool,
    /// For a delete of a message that was counted: its sender.
    pub sender: Option<UserId>,
    /// For what changes a membership's facts: the user's watermark before and
    /// after; `None` inside for someone who is not a member.
    pub watermarks: Option<(Option<Watermark>, Option<Watermark>)>,
    /// For a change of reactions: by how much each changes its count.
    pub reaction_deltas: Vec<i64>,
    /// For a further create of a message that changes what is known of it:
    /// what was believed before, and what is after it.
    pub corrected: Option<(CountingFacts, CountingFacts)>,
}

/// A dialog's new counters, and the version that they were derived from.
#[derive(Debug, Clone)]
pub struct DialogChange {
    /// The version that the change was derived from; 0 when not stored yet.
    pub expected_version: i64,
    /// The dialog's whole state after the batch.
    pub now: Dialog,
}

/// How a member's share of the sequence changes.
#[derive(Debug, Clone)]
pub enum Consumed {
    /// The share grows by this much.
    Add(ByType),
    /// The share becomes this.
    Set(ByType),
}

/// What changes about a user in a dialog.
#[derive(Debug, Clone)]
pub struct MembershipChange {
    /// By how much the batch raises the document's version: 1 for each change.
    pub version: i64,
    /// By how much the number of messages that the user sent changes.
    pub sent: i64,
    /// How the member's share of the dialog's sequence changes.
    pub consumed: Consumed,
    /// The adds, the remove and the bulk read as they are now; `None` where
    /// they did not change.
    pub facts: Option<Membership>,
}

impl Default for MembershipChange {
    fn default() -> Self {
        Self {
            version: 0,
            sent: 0,
            consumed: Consumed::Add(ByType::default()),
            facts: None,
        }
    }
}

/// What a message's document was before the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageBefore {
    /// There was none: it is inserted, and a collision is a conflict.
    Absent,
    /// A placeholder of this version: it is changed only if it still has that
    /// version.
    Placeholder(i64),
    /// A created message: the version of its dialog guards what depends on its
    /// state.
    Created,
}

/// What changes about a message.
#[derive(Debug, Clone)]
pub struct MessageChange {
    /// What the message's document was before the batch.
    pub before: MessageBefore,
    /// The facts of the create, when it came in this batch or corrects one.
    pub created: Option<Created>,
    /// Whether the delete came in this batch.
    pub deleted: bool,
    /// By how much the batch raises the document's version: 1 for each change.
    pub version: i64,
    /// The users who read the message in this batch.
    pub readers: Vec<UserId>,
    /// How many more users have reached each status.
    pub statuses: HashMap<Status, i64>,
    /// By how much the number of users of each reaction changes.
    pub reactions: HashMap<Reaction, i64>,
    /// What must hold so that there is room for the statuses that are new on
    /// the message.
    pub room_for_statuses: Room<Status>,
    /// What must hold so that there is room for the reactions that are new on
    /// the message.
    pub room_for_reactions: Room<Reaction>,
}

/// A user's new state of a reaction.
#[derive(Debug, Clone)]
pub struct ReactionChange {
    /// The state that it was derived from.
    pub before: Option<ReactionState>,
    /// The state that it is changed to.
    pub now: ReactionState,
}

/// Everything that one transaction is to write.
#[derive(Debug, Default)]
pub struct Changes {
    /// The events that were taken, for the journal, in order.
    pub taken: Vec<Taken>,
    /// The dialogs that change, whole as they will be.
    pub dialogs: HashMap<DialogKey, DialogChange>,
    /// The users' shares of dialogs that change.
    pub memberships: HashMap<MembershipKey, MembershipChange>,
    /// The messages that change.
    pub messages: HashMap<MessageKey, MessageChange>,
    /// The receipts that are new.
    pub receipts: Vec<ReceiptKey>,
    /// The users' reactions that change.
    pub reactions: HashMap<ReactionKey, ReactionChange>,
    /// The topics that are new.
    pub topics: Vec<TopicKey>,
    /// The types that users are of, with the place in time of the event that
    /// says so.
    pub user_types: HashMap<UserKey, (Stamp, SenderType)>,
    /// The disagreements of creates with what was recorded before.
    pub disagreements: Vec<Disagreement>,
}

impl Changes {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.taken.is_empty()
    }

    /// Makes the versions of dialogs that are not stored yet begin after this
    /// one: for events whose journal records have their versions already.
    pub fn begin_versions_after(&mut self, version: i64) {
        let new = self.dialogs.values_mut();
        for dialog in new.filter(|dialog| dialog.expected_version == 0) {
            dialog.now.version += version;
        }
    }
}
