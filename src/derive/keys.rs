//! The keys of everything that deriving knows.

use crate::event::{DialogId, EventId, MessageId, Reaction, Status, TenantId, TopicId, UserId};

/// The key of a dialog.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DialogKey {
    /// The tenant that the dialog belongs to.
    pub tenant: TenantId,
    /// The dialog's id, unique in its tenant.
    pub dialog: DialogId,
}

/// The key of a user's share of a dialog.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MembershipKey {
    /// The dialog that the share is of.
    pub dialog: DialogKey,
    /// The user whose share it is.
    pub user: UserId,
}

/// The key of a message.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageKey {
    /// The tenant that the message belongs to.
    pub tenant: TenantId,
    /// The message's id, unique in its tenant.
    pub message: MessageId,
}

/// The key of a receipt: this user reached this status for this message.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReceiptKey {
    /// The message that the receipt is for.
    pub message: MessageKey,
    /// The status that was reached.
    pub status: Status,
    /// The user who reached it.
    pub user: UserId,
}

/// The key of a user's reaction to a message.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReactionKey {
    /// The message that was reacted to.
    pub message: MessageKey,
    /// The reaction that was set or unset.
    pub reaction: Reaction,
    /// The user who reacted.
    pub user: UserId,
}

/// What users are counted under on a message: the name of a status or of a
/// reaction.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Name {
    /// The users who reached this status.
    Status(Status),
    /// The users who have set this reaction.
    Reaction(Reaction),
}

/// The key of a name on a message.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NameKey {
    /// The message that counts users under the name.
    pub message: MessageKey,
    /// The status or reaction that they are counted under.
    pub name: Name,
}

/// The key of a topic.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicKey {
    /// The dialog that the topic is in.
    pub dialog: DialogKey,
    /// The topic's id, unique in its dialog.
    pub topic: TopicId,
}

/// The key of a user.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserKey {
    /// The tenant that the user belongs to.
    pub tenant: TenantId,
    /// The user's id, unique in its tenant.
    pub user: UserId,
}

/// The key of an event in the journal.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventKey {
    /// The tenant that the event belongs to.
    pub tenant: TenantId,
    /// The event's id, unique in its tenant.
    pub event: EventId,
}
