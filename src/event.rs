//! Domain events: what happened, in our own words, independent of the wire.
//!
//! An [`Event`] is a validated statement of one fact, ready for
//! [`crate::derive`]. It holds identities, times and the fact itself, never
//! message content. [`decode`] is the only way in from the bus.
//!
//! Nothing in this module does I/O or knows of tokio, lapin, mongodb or tonic.

pub mod decode;
mod event_type;
pub(crate) mod record_type;
pub mod stated;

use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

pub use event_type::EventType;

/// Longest id in bytes of UTF-8: Chat3 allows 100 characters, which can be 400.
pub const MAX_ID_BYTES: usize = 512;

/// How long before its event a membership can have been made, at most. A join
/// time further back is a wish to show history, and orders nothing.
pub const MADE_BEFORE_MICROS: i64 = 10_000_000;

/// Latest representable time: 9999-12-31T23:59:59.999999Z, the end of what
/// RFC 3339 and `google.protobuf.Timestamp` can name.
pub const MAX_MICROS: i64 = 253_402_300_799_999_999;

/// Why a string is not an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidId {
    /// The string has no characters (after trimming, for a user id).
    #[error("an id of 1 to 512 bytes, found an empty one")]
    Empty,
    /// The string is longer than [`MAX_ID_BYTES`].
    #[error("an id of 1 to 512 bytes, found {0} bytes")]
    TooLong(usize),
    /// The string has a control character (Unicode category Cc).
    #[error("an id without control characters, found U+{0:04X}")]
    ControlCharacter(u32),
    /// A status name outside `[a-z0-9_-]{1,64}`.
    #[error("a status name of 1 to 64 of a-z, 0-9, _ and -, found something else")]
    NotAStatus,
}

fn check_id(id: &str) -> Result<(), InvalidId> {
    if id.is_empty() {
        return Err(InvalidId::Empty);
    }
    if id.len() > MAX_ID_BYTES {
        return Err(InvalidId::TooLong(id.len()));
    }
    match id.chars().find(|c| c.is_control()) {
        Some(c) => Err(InvalidId::ControlCharacter(c as u32)),
        None => Ok(()),
    }
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        ///
        /// Cheap to clone. Ordered by bytes.
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The id as it is stored and compared.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }
    };
}

macro_rules! plain_id {
    ($(#[$doc:meta])* $name:ident) => {
        id!($(#[$doc])* $name);

        impl $name {
            /// Takes the string as it is.
            ///
            /// # Errors
            /// [`InvalidId`] when it is empty, longer than [`MAX_ID_BYTES`] or
            /// has a control character.
            pub fn new(id: &str) -> Result<Self, InvalidId> {
                check_id(id)?;
                Ok(Self(id.into()))
            }
        }
    };
}

plain_id!(
    /// The isolation boundary: nothing is ever counted across tenants.
    TenantId
);
plain_id!(
    /// A dialog within its tenant.
    DialogId
);
plain_id!(
    /// A message within its tenant.
    MessageId
);
plain_id!(
    /// A topic within its dialog.
    TopicId
);
plain_id!(
    /// The `sourceEventId`: the idempotency key, unique per tenant.
    EventId
);
plain_id!(
    /// The name of a reaction, mostly an emoji. Bounded like an id.
    Reaction
);
plain_id!(
    /// What kind of user sent a message: `user`, `contact`, `bot`, ... Bounded
    /// like an id.
    SenderType
);
id!(
    /// A user within a tenant: trimmed of white space and lower-cased, so that
    /// `Carl ` and `carl` are one user.
    UserId
);
id!(
    /// A message status, lower-cased: `[a-z0-9_-]{1,64}`.
    Status
);

impl UserId {
    /// Trims, lower-cases (Unicode) and checks the result.
    ///
    /// # Errors
    /// [`InvalidId`] when what is left is not an id.
    pub fn new(id: &str) -> Result<Self, InvalidId> {
        // As JavaScript trims, which does not know U+0085, and with it: that is
        // white space as well.
        let trimmed = id.trim_matches(|c: char| c.is_whitespace() || c == '\u{feff}');
        // Nearly every producer already sends lower-case ASCII: no copy then.
        let is_lower = trimmed
            .bytes()
            .all(|b| b.is_ascii() && !b.is_ascii_uppercase());
        if is_lower {
            check_id(trimmed)?;
            return Ok(Self(trimmed.into()));
        }
        let lower = trimmed.to_lowercase();
        check_id(&lower)?;
        Ok(Self(lower.into()))
    }
}

impl Status {
    /// Lower-cases and checks the name.
    ///
    /// # Errors
    /// [`InvalidId::NotAStatus`] when it is outside `[a-z0-9_-]{1,64}`.
    pub fn new(name: &str) -> Result<Self, InvalidId> {
        let lower = name.to_ascii_lowercase();
        let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
        if (1..=64).contains(&lower.len()) && lower.bytes().all(legal) {
            Ok(Self(lower.into()))
        } else {
            Err(InvalidId::NotAStatus)
        }
    }

    /// The status that takes a message out of the user's unread.
    pub fn read() -> Self {
        Self("read".into())
    }

    /// Whether this status takes a message out of the user's unread.
    pub fn is_read(&self) -> bool {
        self.as_str() == "read"
    }
}

impl SenderType {
    /// What stands for every type that is not told apart.
    pub fn other() -> Self {
        Self("other".into())
    }
}

impl Default for SenderType {
    /// The type of a sender of whom nothing is known.
    fn default() -> Self {
        Self("user".into())
    }
}

/// A point in time: microseconds since the Unix epoch, `0..=MAX_MICROS`.
///
/// Zero is a time like any other (1970), never "unset": absence is `Option`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Micros(i64);

impl Micros {
    /// Takes microseconds since the Unix epoch; `None` outside
    /// `0..=MAX_MICROS`.
    pub fn new(micros: i64) -> Option<Self> {
        (0..=MAX_MICROS).contains(&micros).then_some(Self(micros))
    }

    /// What a clock shows; the nearer end, where that is outside
    /// `0..=MAX_MICROS`.
    pub fn shown_by(clock: SystemTime) -> Self {
        let since = clock.duration_since(UNIX_EPOCH).unwrap_or_default();
        let micros = i64::try_from(since.as_micros()).unwrap_or(MAX_MICROS);
        Self(micros.min(MAX_MICROS))
    }

    /// Microseconds since the Unix epoch.
    pub fn get(self) -> i64 {
        self.0
    }
}

/// The place of an event in time: its time, ties broken by its id (byte
/// order), so that every replica orders any two events alike.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp {
    /// The event's time, its `createdAt`.
    pub at: Micros,
    /// The event's id, which breaks ties.
    pub event: EventId,
}

/// A validated event that changes counters, or could.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The tenant that the event belongs to.
    pub tenant: TenantId,
    /// When it happened, and its id.
    pub stamp: Stamp,
    /// Who did it, as far as the producer said. Kept for the history only.
    pub actor: Option<UserId>,
    /// The dialog that the producer named. Only a hint for events about a
    /// message: a message belongs to the dialog of its create.
    pub dialog_hint: Option<DialogId>,
    /// The fact that the event states.
    pub fact: Fact,
}

/// The fact that an event states.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// `message.create`: a message exists in a dialog.
    MessageCreated(NewMessage),
    /// `message.delete`: the message no longer exists. Final.
    MessageDeleted {
        /// The message that the event is about.
        message: MessageId,
    },
    /// `message.status.changed`: a user reached a status for a message.
    StatusReached {
        /// The message that the event is about.
        message: MessageId,
        /// The user who reached the status.
        user: UserId,
        /// The status that was reached.
        status: Status,
    },
    /// `message.reaction.changed`: a user sets or unsets one or two reactions.
    ReactionChanged {
        /// The message that the event is about.
        message: MessageId,
        /// The user whose reactions change.
        user: UserId,
        /// Reactions with their new state (`true` = set), at most two and
        /// never the same one twice.
        reactions: Vec<(Reaction, bool)>,
    },
    /// `dialog.messages.bulk_read`: everything up to and including a time is
    /// read.
    BulkRead {
        /// The dialog that the event is about.
        dialog: DialogId,
        /// The user who has read.
        user: UserId,
        /// The time up to and including which all is read; never later than the
        /// event.
        read_until: Micros,
    },
    /// `dialog.member.add`: a user is a member from a time on.
    MemberAdded {
        /// The dialog that the event is about.
        dialog: DialogId,
        /// The user who is a member.
        user: UserId,
        /// Messages from this time on can be unread for the member.
        joined_at: Micros,
        /// When the membership was made: the place of the add among other adds
        /// and removes. The event's own time, unless it states a better one.
        made_at: Micros,
    },
    /// `dialog.member.remove`: a user left at the event's time.
    MemberRemoved {
        /// The dialog that the event is about.
        dialog: DialogId,
        /// The user who left.
        user: UserId,
    },
    /// `dialog.topic.create`: a dialog has one more topic.
    TopicCreated {
        /// The dialog that the event is about.
        dialog: DialogId,
        /// The topic that was created.
        topic: TopicId,
    },
    /// `dialog.delete`: the dialog and all in it no longer counts. Final.
    DialogDeleted {
        /// The dialog that the event is about.
        dialog: DialogId,
    },
    /// `user.add`, `user.changed`: the type of a user.
    UserTyped {
        /// The user who is of the type.
        user: UserId,
        /// Their type from now on.
        user_type: SenderType,
    },
}

/// What a `message.create` says of its message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewMessage {
    /// The dialog that the message belongs to for good.
    pub dialog: DialogId,
    /// The message's id.
    pub message: MessageId,
    /// The user who sent the message.
    pub sender: UserId,
    /// The sender's type, where the producer put it into the message.
    pub sender_type: Option<SenderType>,
    /// The type that was presumed when the event was first taken, for one that
    /// comes from the journal.
    pub presumed_type: Option<SenderType>,
    /// When it was sent: its place relative to joins and reads.
    pub sent_at: Micros,
    /// Whether the message itself states `sent_at`; else it is the event's own
    /// time, and gives way to a create that states one.
    pub time_is_stated: bool,
    /// Whether its type starts with `system.`: counted as a message, never
    /// unread.
    pub system: bool,
}

impl Fact {
    /// The type of the events that state such a fact.
    pub fn event_type(&self) -> EventType {
        match self {
            Fact::MessageCreated(_) => EventType::MessageCreate,
            Fact::MessageDeleted { .. } => EventType::MessageDelete,
            Fact::StatusReached { .. } => EventType::StatusChanged,
            Fact::ReactionChanged { .. } => EventType::ReactionChanged,
            Fact::BulkRead { .. } => EventType::BulkRead,
            Fact::MemberAdded { .. } => EventType::MemberAdd,
            Fact::MemberRemoved { .. } => EventType::MemberRemove,
            Fact::TopicCreated { .. } => EventType::TopicCreate,
            Fact::DialogDeleted { .. } => EventType::DialogDelete,
            Fact::UserTyped { .. } => EventType::UserChanged,
        }
    }
}
