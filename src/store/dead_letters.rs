//! The index of the dead-letter queue: what the queue holds, so that it can be
//! looked at without touching it; what was discarded; what waits until the broker
//! takes it; and who did what.
//!
//! The queue is the truth. A letter gets its entry after the broker has
//! confirmed it and before its original is acknowledged, and loses it after the
//! broker was told to remove it. So an entry may be missing, or be left over,
//! only after a crash or after another tool was at the queue; a pass through the
//! queue (`IndexSnapshot`) finds and mends that.

mod collection;
mod document;
mod index;
mod index_version;
mod job_counts;
mod job_records;
mod jobs;
mod listing;
mod unsent;

pub use collection::LetterCollection;
pub use document::{LetterEntry, StoredLetter};
pub(crate) use index::{IndexSnapshot, SelectionState};
pub use jobs::{FailedLetter, Job, JobId, JobKind, JobRequest, JobTally, LetterEdit};
pub use listing::{LetterGroup, LetterPage, LetterPosition};
pub(crate) use unsent::UnsentId;
