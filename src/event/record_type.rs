//! The types of what this service itself records or sends: they stand where an event's
//! type would, and no producer sends them.

/// What each of the names begins with, and no event type does.
pub(crate) const PREFIX: &str = "counters.";
/// The journal's first record.
pub(crate) const ORIGIN: &str = "counters.origin";
/// A repair of counters, in the journal.
pub(crate) const REPAIR: &str = "counters.repair";
/// The counters at the beginning of a history whose older records are gone.
pub(crate) const BALANCE: &str = "counters.balance";
/// A difference between a history and the counters that are served.
pub(crate) const DRIFT: &str = "counters.drift";
/// A notification about counters that changed for no one event.
pub(crate) const CHANGED: &str = "counters.changed";
