//! `reactions`: a user's latest word on a reaction to a message.

use serde::Deserialize;

use super::stamp;
use crate::derive::state::ReactionState;
use crate::store::StoreError;

fields! {
    /// bool: whether the user has set the reaction.
    SET = "set";
}

/// A document of `reactions`.
#[derive(Debug, Deserialize)]
pub(crate) struct WordDocument {
    at: i64,
    event: String,
    set: bool,
}

impl TryFrom<WordDocument> for ReactionState {
    type Error = StoreError;

    fn try_from(stored: WordDocument) -> Result<Self, StoreError> {
        Ok(ReactionState {
            stamp: stamp::parse(stored.at, &stored.event)?,
            set: stored.set,
        })
    }
}

/// A word and the key that it is kept under.
#[derive(Debug, Deserialize)]
pub(crate) struct KeyedWord {
    /// The key, of which the message and the reaction are read.
    pub(crate) _id: ReactionPart,
    /// Whether the user has set the reaction.
    pub(crate) set: bool,
}

/// The message and the reaction in a key.
#[derive(Debug, Deserialize)]
pub(crate) struct ReactionPart {
    /// The message.
    pub(crate) m: String,
    /// The reaction.
    pub(crate) r: String,
}
