//! What events would change if they were counted now: the dry run of a replay.
//!
//! A [`Forecaster`] derives events as a lane does, from what the store has at
//! one moment, and writes nothing. What its batch would change is then compared
//! with what readers see at that moment.
//!
//! # Who has an unread more
//!
//! A message is unread for everyone in its dialog, and nothing is written for
//! them. So whoever has a share that changes is compared one by one, and all
//! other members together ([`Subject::Others`]): for each of them unread changes
//! as the dialog's sequence does.
//!
//! The end of a dialog takes everything in it to zero, but what its people have
//! sent. That is only known after a look at all of its people and messages; of a
//! dialog of more than [`ForecastLimits::ended`] the end is [`Prospect::Uncertain`], and
//! its events are taken as if the dialog went on.
//!
//! How many members have read a message is no stored counter, and not foretold.

mod comparison;
mod forecaster;
mod tally;

use crate::counter::Counter;
use crate::derive::Refusal;
use crate::derive::state::{DialogKey, MembershipKey, MessageKey, UserKey};
use crate::store::StoreError;

pub use forecaster::Forecaster;

/// The most changes that a forecast lists one by one.
pub const MAX_CHANGES: usize = 20;

/// The prospect of one event, were it counted now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prospect {
    /// The event would change something.
    Applied,
    /// The event is new, but what it says is known or has been overtaken.
    Unchanged,
    /// The event was counted before, or came before in the selection.
    Duplicate,
    /// The event would not be accepted.
    Refused(Refusal),
    /// The event would change something, but what depends on others of the
    /// selection.
    Uncertain,
}

/// What a set of events would change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Forecast {
    /// The events that would change something, uncertain ones included.
    pub applied: u64,
    /// The new events that would change nothing.
    pub unchanged: u64,
    /// The events that were counted before, or came twice.
    pub duplicates: u64,
    /// The events that would not be accepted.
    pub refused: u64,
    /// The events among `applied` whose changes are in none of the following.
    pub uncertain: u64,
    /// The changes summed, by counter. Unread is there by user and dialog; what
    /// it is in all of a user's dialogs has no line of its own.
    pub totals: Vec<CounterTotal>,
    /// The largest changes, at most [`MAX_CHANGES`], the largest first.
    pub changes: Vec<CounterChange>,
}

/// The changes of one counter, over all that have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CounterTotal {
    /// The counter that would change.
    pub counter: Counter,
    /// The sum of its changes.
    pub delta: i64,
    /// How many dialogs, messages, users, or for unread pairs of a user and a
    /// dialog, have it changed.
    pub subjects: i64,
}

/// The change of one counter of one subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CounterChange {
    /// The dialog, user or message whose counter would change.
    pub subject: Subject,
    /// The counter that would change.
    pub counter: Counter,
    /// By how much it would change, for each that the subject stands for.
    pub delta: i64,
    /// How many the subject stands for: 1, or the members of
    /// [`Subject::Others`].
    pub subjects: i64,
}

/// The one, or the many alike, whose counter would change.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// A dialog, for its own counters.
    Dialog(DialogKey),
    /// A user in a dialog.
    Member(MembershipKey),
    /// Each member of a dialog whose share does not change by itself.
    Others(DialogKey),
    /// A user over all dialogs.
    User(UserKey),
    /// A message, for its own counters.
    Message(MessageKey),
}

/// How much a forecast may take.
#[derive(Debug, Clone, Copy)]
pub struct ForecastLimits {
    /// The most users' shares of dialogs that may change. Each takes some 500
    /// bytes.
    pub shares: usize,
    /// The most users, and the most messages, of a dialog whose end is
    /// forecast.
    pub ended: usize,
}

impl Default for ForecastLimits {
    fn default() -> Self {
        Self {
            shares: 200_000,
            ended: 10_000,
        }
    }
}

/// Why there is no forecast.
#[derive(Debug, thiserror::Error)]
pub enum ForecastError {
    /// The forecast took longer than the server keeps the snapshot that it is
    /// made from.
    #[error(
        "the forecast took longer than MongoDB keeps the moment that it is made from \
         (minSnapshotHistoryWindowInSeconds, 5 minutes by default): select fewer events"
    )]
    TooSlow(#[source] StoreError),
    /// More shares would change than [`ForecastLimits::shares`] allows.
    #[error("the events would change more than {0} users' shares of dialogs: select fewer events")]
    TooMuch(usize),
    /// The store could not be asked, or has what it should not have.
    #[error(transparent)]
    Store(StoreError),
}

impl From<StoreError> for ForecastError {
    fn from(error: StoreError) -> Self {
        match error.is_snapshot_too_old() {
            true => Self::TooSlow(error),
            false => Self::Store(error),
        }
    }
}
