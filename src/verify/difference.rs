//! A counter that is not what it must be.

use serde::Serialize;

use crate::counter::{Counter, REACTION_COUNTS, STATUS_COUNTS};
use crate::event::{MessageId, SenderType, UserId};

/// The name that [`Field::Member`] is reported by.
pub(crate) const MEMBER: &str = "member";
/// What stands before the sender's type in the name of [`Field::Sequence`].
pub(crate) const SEQUENCE: &str = "sequence";
/// What stands before the sender's type in the name of [`Field::Consumed`].
pub(crate) const CONSUMED: &str = "consumed";

/// The dialog, user or message that a counter belongs to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// The dialog itself.
    Dialog,
    /// A user in the dialog.
    User(UserId),
    /// A message of the dialog.
    Message(MessageId),
}

/// Which of its counters, or what counters are kept by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Field {
    /// The messages of a dialog that are not deleted.
    Messages,
    /// The users who are members of a dialog.
    Members,
    /// The topics of a dialog that were created.
    Topics,
    /// Countable messages of a dialog, of one sender's type.
    Sequence(SenderType),
    /// The time of the latest message, in microseconds.
    LastMessageAt,
    /// The time that no member's watermark was ever above, in microseconds.
    HighWatermark,
    /// Whether a user is a member: 0 or 1.
    Member,
    /// The time of a member's join, in microseconds.
    JoinedAt,
    /// The time up to which nothing is unread for a member, in microseconds.
    Watermark,
    /// Countable messages that are not unread, of one sender's type: one more
    /// of them is one unread less.
    Consumed(SenderType),
    /// Messages that a user sent.
    Sent,
    /// Users who reached a status.
    Status(String),
    /// Users who have set a reaction.
    Reaction(String),
}

/// A stored value that the recorded facts do not bear out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Whose counter differs.
    pub subject: Subject,
    /// Which of its counters differs, or what counters are kept by.
    pub field: Field,
    /// The value in the store; `None` when there is none.
    pub stored: Option<i64>,
    /// The value by the facts; `None` when there must be none.
    pub counted: Option<i64>,
}

impl Field {
    /// Returns the name of the counter: the API's where it has one.
    pub(crate) fn name(&self) -> String {
        match self {
            Field::Messages => Counter::Messages.to_string(),
            Field::Members => Counter::Members.to_string(),
            Field::Topics => Counter::Topics.to_string(),
            Field::Sequence(sender_type) => format!("{SEQUENCE}.{sender_type}"),
            Field::LastMessageAt => "last_message_at".into(),
            Field::HighWatermark => "high_mark".into(),
            Field::Member => MEMBER.into(),
            Field::JoinedAt => "joined_at".into(),
            Field::Watermark => "mark".into(),
            Field::Consumed(sender_type) => format!("{CONSUMED}.{sender_type}"),
            Field::Sent => Counter::Sent.to_string(),
            Field::Status(status) => format!("{STATUS_COUNTS}.{status}"),
            Field::Reaction(reaction) => format!("{REACTION_COUNTS}.{reaction}"),
        }
    }
}

/// As the record of a repair keeps it: flat, without what does not apply.
impl Serialize for Difference {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Shown<'d> {
            #[serde(skip_serializing_if = "Option::is_none")]
            user_id: Option<&'d str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            message_id: Option<&'d str>,
            counter: String,
            stored: Option<i64>,
            counted: Option<i64>,
        }
        let (user_id, message_id) = match &self.subject {
            Subject::Dialog => (None, None),
            Subject::User(user) => (Some(user.as_str()), None),
            Subject::Message(message) => (None, Some(message.as_str())),
        };
        Shown {
            user_id,
            message_id,
            counter: self.field.name(),
            stored: self.stored,
            counted: self.counted,
        }
        .serialize(serializer)
    }
}

/// In one line, for the log.
impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let value = |value: Option<i64>| value.map_or("nothing".into(), |value| value.to_string());
        write!(
            f,
            "{}{}: {} stored, {} counted",
            self.subject,
            self.field.name(),
            value(self.stored),
            value(self.counted)
        )
    }
}

/// What stands before the name of the counter.
impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Subject::Dialog => Ok(()),
            Subject::User(user) => write!(f, "user {user} "),
            Subject::Message(message) => write!(f, "message {message} "),
        }
    }
}
