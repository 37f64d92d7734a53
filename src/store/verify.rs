//! Verification: which dialogs and messages there are to look at, recounting one from
//! its facts in one snapshot, and writing what was found to be different.

mod listing;
mod recount;
mod repair;

pub(crate) use recount::Recounted;
pub(crate) use repair::RepairReason;
