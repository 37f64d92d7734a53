//! The collections that hold letters: those in the queue, and those discarded.

use crate::store::documents::collection::{DEAD_LETTERS, DISCARDED_LETTERS};

/// A collection that letters are kept in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LetterCollection {
    /// The letters that are in the queue: the index.
    Queue,
    /// The letters that were discarded, and can be put back.
    Discarded,
}

impl LetterCollection {
    /// Returns the name of the collection in the database.
    pub(super) fn name(self) -> &'static str {
        match self {
            LetterCollection::Queue => DEAD_LETTERS,
            LetterCollection::Discarded => DISCARDED_LETTERS,
        }
    }
}
