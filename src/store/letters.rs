//! The index of the dead-letter queue: what the queue holds, so that it can be
//! looked at without touching it; what was discarded; what waits until the broker
//! takes it; and who did what.
//!
//! The queue is the truth. A letter gets its entry after the broker has
//! confirmed it and before its original is acknowledged, and loses it after the
//! broker was told to remove it. So an entry may be missing, or be left over,
//! only after a crash or after another tool was at the queue; a pass through the
//! queue ([`Census`]) finds and mends that.

mod accounts;
mod documents;
mod jobs;
mod listing;
mod reading;
mod shelf;
mod unsent;

pub use documents::{Entry, Kept};
pub use jobs::{Edit, Failed, Job, JobId, JobKind, Order, Tally};
pub use listing::{Group, Page, Place};
pub use shelf::{Census, Shelf, Standing};
pub use unsent::{Unsent, UnsentId};
