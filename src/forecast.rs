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

/// Changes that are told one by one.
pub const MAX_CHANGES: usize = 20;

/// What would become of one event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prospect {
    /// The event would change something.
    Applied,
    /// It is new, but what it says is known or has been overtaken.
    Unchanged,
    /// It was counted before, or came before in the selection.
    Duplicate,
    /// It would not be accepted.
    Refused(Refusal),
    /// It would change something, but what depends on others of the selection.
    Uncertain,
}

/// What a set of events would change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Forecast {
    /// Events that would change something, uncertain ones included.
    pub applied: u64,
    /// New events that would change nothing.
    pub unchanged: u64,
    /// Events that were counted before, or came twice.
    pub duplicates: u64,
    /// Events that would not be accepted.
    pub refused: u64,
    /// Of `applied`: events whose changes are in none of the following.
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
    /// For how many it changes: dialogs, messages, users, or for unread pairs of
    /// a user and a dialog.
    pub subjects: i64,
}

/// The change of one counter of one subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CounterChange {
    /// The dialog, user or message whose counter would change.
    pub subject: Subject,
    /// The counter that would change.
    pub counter: Counter,
    /// By how much, for each that the subject stands for.
    pub delta: i64,
    /// For how many: 1, or the members that [`Subject::Others`] stands for.
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
    /// Users' shares of dialogs that may change. Each takes some 500 bytes.
    pub shares: usize,
    /// People, and messages, of a dialog whose end can be foretold.
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
    /// It took longer than the server keeps the moment that it is made from.
    #[error(
        "the forecast took longer than MongoDB keeps the moment that it is made from \
         (minSnapshotHistoryWindowInSeconds, 5 minutes by default): select fewer events"
    )]
    TooSlow(#[source] StoreError),
    /// More would change than is kept in memory.
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
