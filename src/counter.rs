//! The counters that the service serves, and their names: those that the API,
//! `history`, `explain --counter`, `verify` and forecasts have for them.

use std::fmt;
use std::str::FromStr;

use crate::event::{Reaction, SenderType, Status};

/// A counter of a user, of a dialog, of a user in a dialog, or of a message.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Counter {
    /// The messages that a user has unread in one dialog.
    Unread,
    /// The messages that a user has unread in all dialogs.
    TotalUnread,
    /// Of a user's unread messages, those sent by users of one type.
    UnreadFrom(SenderType),
    /// The dialogs in which a user has something unread.
    UnreadDialogs,
    /// The dialogs that a user is a member of.
    Dialogs,
    /// The messages that a user sent, those in deleted dialogs included.
    Sent,
    /// The messages of a dialog.
    Messages,
    /// The members of a dialog.
    Members,
    /// The topics of a dialog.
    Topics,
    /// The users who reached a status for a message.
    Status(Status),
    /// The users who have set a reaction on a message.
    Reaction(Reaction),
}

/// The counters that are one field of the API each, with the field's name.
const FIELDS: [(&str, Counter); 8] = [
    ("unread_count", Counter::Unread),
    ("total_unread_count", Counter::TotalUnread),
    ("unread_dialogs_count", Counter::UnreadDialogs),
    ("dialog_count", Counter::Dialogs),
    ("total_messages_count", Counter::Sent),
    ("message_count", Counter::Messages),
    ("member_count", Counter::Members),
    ("topic_count", Counter::Topics),
];
/// The API's map of unread messages by the sender's type.
pub(crate) const UNREAD_BY_SENDER_TYPE: &str = "unread_by_sender_type";
/// The API's map of users by status.
pub(crate) const STATUS_COUNTS: &str = "status_counts";
/// The API's map of users by reaction.
pub(crate) const REACTION_COUNTS: &str = "reaction_counts";

impl Counter {
    /// Whether the end of a dialog leaves the counter as it is, and messages of
    /// the dialog go on changing it afterwards.
    pub(crate) fn outlives_dialog(&self) -> bool {
        *self == Counter::Sent
    }
}

/// Shows the name of the API's field, and for an entry of a map its key after a
/// dot.
impl fmt::Display for Counter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Counter::UnreadFrom(sender_type) => write!(f, "{UNREAD_BY_SENDER_TYPE}.{sender_type}"),
            Counter::Status(status) => write!(f, "{STATUS_COUNTS}.{status}"),
            Counter::Reaction(reaction) => write!(f, "{REACTION_COUNTS}.{reaction}"),
            field => {
                let name = FIELDS.iter().find(|(_, counter)| counter == field);
                f.write_str(name.map_or("", |(name, _)| name))
            }
        }
    }
}

/// The name belongs to no counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no such counter")]
pub struct UnknownCounter;

impl FromStr for Counter {
    type Err = UnknownCounter;

    fn from_str(name: &str) -> Result<Self, UnknownCounter> {
        if let Some((_, counter)) = FIELDS.iter().find(|(known, _)| *known == name) {
            return Ok(counter.clone());
        }
        let (map, key) = name.split_once('.').ok_or(UnknownCounter)?;
        let counter = match map {
            UNREAD_BY_SENDER_TYPE => SenderType::new(key).map(Counter::UnreadFrom),
            STATUS_COUNTS => Status::new(key).map(Counter::Status),
            REACTION_COUNTS => Reaction::new(key).map(Counter::Reaction),
            _ => return Err(UnknownCounter),
        };
        counter.map_err(|_| UnknownCounter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_has_a_name_that_leads_back_to_it() {
        let fields = FIELDS.iter().map(|(_, counter)| counter.clone());
        let others = [
            Counter::UnreadFrom(SenderType::new("a.$b").unwrap()),
            Counter::Status(Status::new("read").unwrap()),
            Counter::Reaction(Reaction::new("👍.x").unwrap()),
        ];
        for counter in fields.chain(others) {
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
