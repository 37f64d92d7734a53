//! Why a counter is what it is: the journal's records of a dialog or a message,
//! replayed in the order in which they were applied, as changes of counters.
//!
//! Nothing is written for the many members of a dialog when a message arrives,
//! so their histories have to be derived: a `share::replay` goes through what
//! happened in a dialog as seen by one user. Facts from before the journal's
//! reach make the first entries, the balance; whatever the served value has
//! more or less than the replay makes the last one, the drift. So the changes
//! of every history sum to the value that is served.
//!
//! Nothing here does I/O; `store::read` finds the records and facts.

pub(crate) mod dialog;
pub(crate) mod message;
pub(crate) mod share;
mod timeline;

use crate::derive::state::{CountingFacts, Watermark};
use crate::event::{MessageId, Micros, SenderType, UserId};

pub use timeline::{Origin, PageRequest, Position};
pub(crate) use timeline::{Timeline, TimelineBuilder, TimelineEntry, Track};

/// A record of the journal that raised its dialog's version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DialogRecord {
    /// The version to which it raised the dialog.
    pub(crate) version: i64,
    /// When the record was written, in milliseconds since the epoch.
    pub(crate) at: i64,
    /// What the record did in the dialog.
    pub(crate) effect: DialogEffect,
}

/// The effect of a record in its dialog, as far as histories need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DialogEffect {
    /// A message was created for the first time.
    Created(Created),
    /// A further create of a message knew better.
    Corrected {
        /// The message that the record is about.
        message: MessageId,
        /// The user who had sent the message.
        sender: UserId,
        /// What was believed of the message before.
        was: CountingFacts,
        /// What is believed of the message since.
        is: CountingFacts,
    },
    /// A message that counted was deleted.
    Deleted {
        /// The message that the record is about.
        message: MessageId,
        /// The user who had sent the message.
        sender: Option<UserId>,
    },
    /// A user has read a message, one by one.
    Read {
        /// The message that the record is about.
        message: MessageId,
        /// The user who has read it.
        user: UserId,
    },
    /// A join, a leave or a bulk read moved a member's watermark.
    WatermarkMoved {
        /// The member, or who was or becomes one.
        user: UserId,
        /// The watermark before; `None` when the user was not a member.
        before: Option<Watermark>,
        /// The watermark after; `None` when the user is no longer a member.
        after: Option<Watermark>,
    },
    /// The dialog has one more topic.
    Topic,
    /// The end of the dialog.
    DialogDeleted,
    /// A repair set stored counters to what was counted.
    Repaired(Vec<Repair>),
    /// The record does none of these.
    Other,
}

/// A message as its create has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Created {
    /// The message's id.
    pub(crate) message: MessageId,
    /// The user who sent the message.
    pub(crate) sender: UserId,
    /// The sender's type, under which the message is counted.
    pub(crate) sender_type: SenderType,
    /// When the message was sent.
    pub(crate) at: Micros,
    /// Whether it is never unread.
    pub(crate) system: bool,
    /// Whether something was known of it before: that it was read, perhaps.
    pub(crate) had_placeholder: bool,
    /// Whether it was deleted before, and so never counted.
    pub(crate) deleted_before_create: bool,
}

/// A counter that a repair has set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Repair {
    /// The user whose counter it was, if it was a user's.
    pub(crate) user: Option<UserId>,
    /// The message whose counter it was, if it was a message's.
    pub(crate) message: Option<MessageId>,
    /// The name that `verify` has for the counter.
    pub(crate) counter: String,
    /// The value that was found.
    pub(crate) stored: Option<i64>,
    /// The value that it was set to.
    pub(crate) counted: Option<i64>,
}

impl Repair {
    /// By how much the stored value was too high.
    fn excess(&self) -> i64 {
        self.stored.unwrap_or(0) - self.counted.unwrap_or(0)
    }

    /// Whether it is a counter of the dialog itself.
    fn is_of_dialog(&self) -> bool {
        self.user.is_none() && self.message.is_none()
    }
}
