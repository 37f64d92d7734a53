//! The names of event types: the only place that spells them.

use std::fmt;

/// The type of an event that changes counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventType {
    /// A message exists in a dialog.
    MessageCreate,
    /// A message no longer exists.
    MessageDelete,
    /// A user reached a status for a message.
    StatusChanged,
    /// A user set or unset reactions on a message.
    ReactionChanged,
    /// A user has read a dialog up to a time.
    BulkRead,
    /// A user became a member of a dialog.
    MemberAdd,
    /// A user left a dialog.
    MemberRemove,
    /// A dialog has one more topic.
    TopicCreate,
    /// A dialog no longer exists.
    DialogDelete,
    /// A user is of a type.
    UserChanged,
}

impl EventType {
    /// Every type, in the order of the documentation.
    pub const ALL: [EventType; 10] = [
        EventType::MessageCreate,
        EventType::MessageDelete,
        EventType::StatusChanged,
        EventType::ReactionChanged,
        EventType::BulkRead,
        EventType::MemberAdd,
        EventType::MemberRemove,
        EventType::TopicCreate,
        EventType::DialogDelete,
        EventType::UserChanged,
    ];

    /// The canonical name, which the journal keeps and answers have.
    pub const fn as_str(self) -> &'static str {
        self.names()[0]
    }

    /// Every name that producers may use for the type, the canonical one first.
    pub const fn names(self) -> &'static [&'static str] {
        match self {
            EventType::MessageCreate => &["message.create"],
            EventType::MessageDelete => &["message.delete"],
            EventType::StatusChanged => &["message.status.changed", "message.status.update"],
            EventType::ReactionChanged => &["message.reaction.changed", "message.reaction.update"],
            EventType::BulkRead => &["dialog.messages.bulk_read"],
            EventType::MemberAdd => &["dialog.member.add", "member.add"],
            EventType::MemberRemove => &["dialog.member.remove", "member.remove"],
            EventType::TopicCreate => &["dialog.topic.create"],
            EventType::DialogDelete => &["dialog.delete"],
            EventType::UserChanged => &["user.changed", "user.add", "user.update"],
        }
    }

    /// The type that a producer names, by any of its names; `None` for an event
    /// that changes no counter.
    pub fn of_producer(name: &str) -> Option<Self> {
        let mut all = Self::ALL.into_iter();
        all.find(|event_type| event_type.names().contains(&name))
    }

    /// The type that a record of the journal has, by its canonical name.
    pub fn of_record(name: &str) -> Option<Self> {
        let mut all = Self::ALL.into_iter();
        all.find(|event_type| event_type.as_str() == name)
    }
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
