//! What a dead letter says of itself: the closed set of reasons, why an event
//! failed, and what can be told of a letter by looking at it.

mod cause;
mod filter;
mod letter;

use std::fmt;

use crate::derive::Refusal;
use crate::event::decode::DecodeError;
pub use cause::{GroupId, cause};
pub use filter::Filter;
pub use letter::{DeadLetter, Letter, LetterId, RawMessage, UNKNOWN};

/// The largest body of a letter that the database can keep whole, in bytes: larger ones do
/// not fit into a document.
pub const MAX_KEPT_BYTES: usize = 15 << 20;

/// Why an event was dead-lettered. A closed set, documented in docs/dead-letters.md.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The body is not UTF-8, not JSON, or not a JSON object.
    Undecodable,
    /// The body is over the size limit.
    TooLarge,
    /// The body is a counter event with a field missing, out of bounds or of a wrong type.
    InvalidEvent,
    /// The counter event is of another tenant than its routing key.
    WrongTenant,
    /// The store refuses this one event, and no retry can cure it.
    RejectedByStore,
    /// The event is one more reaction on a message that has as many different ones as it may.
    TooManyReactions,
    /// The event is one more status of a message that has as many different ones as it may.
    TooManyStatuses,
    /// The event is one more add of a user to a dialog who was added as often as may be.
    TooManyAdds,
    /// The broker gave up: the event was delivered too often without an end.
    DeliveryLimit,
    /// The broker gave up: the message waited in a queue for longer than its time to live.
    Expired,
    /// The broker gave up: a queue had become too long.
    MaxLen,
    /// A consumer of a queue refused it, and did not want it back.
    Rejected,
}

impl Reason {
    /// Every reason, in the order of the documentation.
    pub const ALL: [Reason; 12] = [
        Reason::Undecodable,
        Reason::TooLarge,
        Reason::InvalidEvent,
        Reason::WrongTenant,
        Reason::RejectedByStore,
        Reason::TooManyReactions,
        Reason::TooManyStatuses,
        Reason::TooManyAdds,
        Reason::DeliveryLimit,
        Reason::Expired,
        Reason::MaxLen,
        Reason::Rejected,
    ];

    /// The name in the header `x-cc-reason` or the broker's `x-death`, in metrics
    /// and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Undecodable => "undecodable",
            Reason::TooLarge => "too_large",
            Reason::InvalidEvent => "invalid_event",
            Reason::WrongTenant => "wrong_tenant",
            Reason::RejectedByStore => "rejected_by_store",
            Reason::TooManyReactions => "too_many_reactions",
            Reason::TooManyStatuses => "too_many_statuses",
            Reason::TooManyAdds => "too_many_adds",
            Reason::DeliveryLimit => "delivery_limit",
            Reason::Expired => "expired",
            Reason::MaxLen => "maxlen",
            Reason::Rejected => "rejected",
        }
    }

    /// Whether it is the broker that gives messages up for this reason, under
    /// the same name.
    pub fn is_of_broker(self) -> bool {
        matches!(
            self,
            Reason::DeliveryLimit | Reason::Expired | Reason::MaxLen | Reason::Rejected
        )
    }

    /// Finds the reason of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == name)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why one event failed for good. Its text is for the person who reads the
/// dead letter: what was expected, what was found and where; it never holds
/// message content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {error}")]
pub struct Failure {
    /// The class of the failure.
    pub reason: Reason,
    /// What was wrong, in words.
    pub error: String,
}

impl From<DecodeError> for Failure {
    fn from(error: DecodeError) -> Self {
        let (reason, error) = match error {
            DecodeError::Undecodable(error) => (Reason::Undecodable, error),
            DecodeError::Invalid(error) => (Reason::InvalidEvent, error),
        };
        Self { reason, error }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        let reason = match refusal {
            Refusal::Reactions(_) => Reason::TooManyReactions,
            Refusal::Statuses(_) => Reason::TooManyStatuses,
            Refusal::Adds(_) => Reason::TooManyAdds,
        };
        Self {
            reason,
            error: refusal.to_string(),
        }
    }
}

/// Cuts a text to at most so many bytes, between characters.
pub fn shortened(text: &str, bytes: usize) -> &str {
    let mut end = text.len().min(bytes);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let text = format!("{}é", "x".repeat(9));
        assert_eq!(shortened(&text, 10), "x".repeat(9));
        assert_eq!(shortened(&text, 11), text);
        assert_eq!(shortened("short", 10), "short");
    }
}
