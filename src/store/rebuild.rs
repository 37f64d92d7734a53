//! Counting anew from the journal, while the counters of before are served.
//!
//! A rebuild replays the journal (`replay`) into collections of a new generation
//! (`generation`), keeps writers out for the moment in which it switches over to
//! them (`fence`), and keeps in the database how far it is (`state`).

pub(crate) mod fence;
pub(crate) mod generation;
pub(crate) mod replay;
mod state;

pub use state::RebuildPhase;
pub(crate) use state::{RebuildClaim, RebuildState};
