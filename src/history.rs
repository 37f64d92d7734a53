//! Why a counter is what it is: the journal's records of a dialog or a message,
//! replayed in the order in which they were applied, as changes of counters.
//!
//! Nothing is written for the many members of a dialog when a message arrives,
//! so their histories have to be derived: a [`share::replay`] goes through what
//! happened in a dialog as seen by one user. Facts from before the journal's
//! reach make the first entries, the balance; whatever the served value has
//! more or less than the replay makes the last one, the drift. So the changes
//! of every history sum to the value that is served.
//!
//! Nothing here does I/O; `store::read` finds the records and facts.

pub mod dialog;
pub mod message;
pub mod share;
mod timeline;

use std::fmt;
use std::str::FromStr;

use crate::derive::state::{CountingFacts, Watermark};
use crate::event::{MessageId, Micros, Reaction, SenderType, Status, UserId};

pub use timeline::{
    Change, Origin, PageRequest, Position, Timeline, TimelineBuilder, TimelineEntry, Track,
};

/// A counter, within the scope of a history.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Counter {
    /// Unread of a user in a dialog.
    Unread,
    /// Unread of a user in all dialogs.
    TotalUnread,
    /// A user's unread, by the type of the sender.
    UnreadFrom(SenderType),
    /// Dialogs with something unread.
    UnreadDialogs,
    /// Dialogs that a user is a member of.
    Dialogs,
    /// Messages that a user sent. Those of a deleted dialog stay in it.
    Sent,
    /// Messages of a dialog.
    Messages,
    /// Members of a dialog.
    Members,
    /// Topics of a dialog.
    Topics,
    /// Users who reached a status.
    Status(Status),
    /// Users who have set a reaction.
    Reaction(Reaction),
}

impl Counter {
    /// Whether the end of a dialog leaves it as it is, and messages of the
    /// dialog go on changing it afterwards.
    fn outlives_dialog(&self) -> bool {
        *self == Counter::Sent
    }
}

/// Names of the counters that have one of their own.
const NAMED: [(&str, Counter); 8] = [
    ("unread_count", Counter::Unread),
    ("total_unread_count", Counter::TotalUnread),
    ("unread_dialogs_count", Counter::UnreadDialogs),
    ("dialog_count", Counter::Dialogs),
    ("total_messages_count", Counter::Sent),
    ("message_count", Counter::Messages),
    ("member_count", Counter::Members),
    ("topic_count", Counter::Topics),
];
const UNREAD_FROM: &str = "unread_by_sender_type.";
const STATUS: &str = "status_counts.";
const REACTION: &str = "reaction_counts.";

/// As the field of the API, entries of maps after a dot.
impl fmt::Display for Counter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Counter::UnreadFrom(sender_type) => write!(f, "{UNREAD_FROM}{sender_type}"),
            Counter::Status(status) => write!(f, "{STATUS}{status}"),
            Counter::Reaction(reaction) => write!(f, "{REACTION}{reaction}"),
            named => {
                let name = NAMED.iter().find(|(_, counter)| counter == named);
                f.write_str(name.map_or("", |(name, _)| name))
            }
        }
    }
}

/// A name that is no counter's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no such counter")]
pub struct UnknownCounter;

impl FromStr for Counter {
    type Err = UnknownCounter;

    fn from_str(name: &str) -> Result<Self, UnknownCounter> {
        if let Some((_, counter)) = NAMED.iter().find(|(known, _)| *known == name) {
            return Ok(counter.clone());
        }
        if let Some(sender_type) = name.strip_prefix(UNREAD_FROM) {
            let sender_type = SenderType::new(sender_type).map_err(|_| UnknownCounter)?;
            return Ok(Counter::UnreadFrom(sender_type));
        }
        if let Some(status) = name.strip_prefix(STATUS) {
            return Ok(Counter::Status(
                Status::new(status).map_err(|_| UnknownCounter)?,
            ));
        }
        let reaction = name.strip_prefix(REACTION).ok_or(UnknownCounter)?;
        Ok(Counter::Reaction(
            Reaction::new(reaction).map_err(|_| UnknownCounter)?,
        ))
    }
}

/// A record of the journal that raised its dialog's version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DialogRecord {
    /// The version to which it did.
    pub version: i64,
    /// When it was written, in milliseconds.
    pub at: i64,
    /// What it did.
    pub effect: DialogEffect,
}

/// What a record says, as far as histories need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DialogEffect {
    /// A message was created.
    Created(Created),
    /// A further create of a message knew better.
    Corrected {
        /// The message.
        message: MessageId,
        /// Who had sent it.
        sender: UserId,
        /// What was believed of it before.
        was: CountingFacts,
        /// What is believed of it since.
        is: CountingFacts,
    },
    /// A message that counted was deleted.
    Deleted {
        /// The message.
        message: MessageId,
        /// Who had sent it.
        sender: Option<UserId>,
    },
    /// A message was read.
    Read {
        /// The message.
        message: MessageId,
        /// By whom.
        user: UserId,
    },
    /// A membership changed.
    WatermarkMoved {
        /// Whose.
        user: UserId,
        /// The watermark before; `None`: was not a member.
        before: Option<Watermark>,
        /// The watermark after; `None`: is not a member.
        after: Option<Watermark>,
    },
    /// One more topic.
    Topic,
    /// The end of the dialog.
    DialogDeleted,
    /// Stored counters were set to what was counted.
    Repaired(Vec<Repair>),
    /// None of these.
    Other,
}

/// A message as its create has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Created {
    /// The message.
    pub message: MessageId,
    /// Who sent it.
    pub sender: UserId,
    /// The sender's type.
    pub sender_type: SenderType,
    /// Its place in time.
    pub at: Micros,
    /// Whether it is never unread.
    pub system: bool,
    /// Whether something was known of it before: that it was read, perhaps.
    pub had_placeholder: bool,
    /// Whether it was deleted before, and so never counted.
    pub deleted_before_create: bool,
}

/// One counter that was repaired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repair {
    /// Whose, if it was a user's.
    pub user: Option<UserId>,
    /// Whose, if it was a message's.
    pub message: Option<MessageId>,
    /// Which, by the name that `verify` has for it.
    pub counter: String,
    /// The value that was found.
    pub stored: Option<i64>,
    /// The value that it was set to.
    pub counted: Option<i64>,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_has_a_name_that_leads_back_to_it() {
        let named = NAMED.iter().map(|(_, counter)| counter.clone());
        let others = [
            Counter::UnreadFrom(SenderType::new("a.$b").unwrap()),
            Counter::Status(Status::new("read").unwrap()),
            Counter::Reaction(Reaction::new("👍.x").unwrap()),
        ];
        for counter in named.chain(others) {
            assert_eq!(counter.to_string().parse(), Ok(counter.clone()));
        }
        for bad in [
            "",
            "unread",
            "status_counts.",
            "status_counts.a b",
            "sequence.user",
        ] {
            assert_eq!(bad.parse::<Counter>(), Err(UnknownCounter), "{bad}");
        }
    }
}
