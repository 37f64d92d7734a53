//! The documents in MongoDB: which collections there are, what a key is made of, which
//! fields a document has, and the only types that encode and decode them. A module for
//! each kind of document has the names of its fields and what is read of it.
//!
//! Every `_id` is a document of the parts of the key in a fixed order, so that
//! no two keys collide whatever characters an id has, keys of one parent stand
//! together in the `_id` index, and a person can read them. Times of events are
//! int64 microseconds since the epoch; times of writing are BSON dates. Counts
//! are int64. A by-type vector is a document from the escaped type name
//! ([`escape()`]) to a count.
//!
//! | collection | `_id` | holds |
//! | --- | --- | --- |
//! | `dialogs` | `t, d` | the dialog's counters; its `version` guards all below it |
//! | `memberships` | `t, d, u` | one user's share of a dialog, member or not |
//! | `messages` | `t, m` | the facts of a message and its counters |
//! | `receipts` | `t, m, s, u` | user reached status (nothing but the key) |
//! | `reactions` | `t, m, r, u` | a user's latest word on a reaction |
//! | `topics` | `t, d, topic` | a topic exists (nothing but the key) |
//! | `users` | `t, u` | the type learnt of a user |
//! | `journal` | `t, e` | every counter event that was taken, once |
//! | `meta` | a name | which generation (`rebuild::generation`) counts, the rebuild under way, who is at the dead letters, who publishes notifications and how far they are, that writes are taken |
//! | `writers` | a random id | a writer, the epoch in which it may write (`rebuild::fence`), and how many commits it has made |
//! | `commits` | `w, n` | what a writer's nth commit changed ([`super::commit_log`]) |
//! | `dead_letters` | a digest | a letter of the dead-letter queue ([`super::dead_letters`]) |
//! | `discarded_letters` | a digest | a letter that was discarded |
//! | `unsent_letters` | time and a random id | a letter that waits until the broker takes it |
//! | `dead_letter_jobs` | time and a random id | who did what about which letters |
//!
//! After a rebuild, all before `journal` have the number of their generation
//! behind their names: `dialogs_1`.
//!
//! `t` tenant, `d` dialog, `u` user, `m` message, `s` status, `r` reaction,
//! `e` event.

/// Defines the fields of a document: as texts, for filters and projections, and in
/// `raw` as BSON has them, for what is encoded directly.
macro_rules! fields {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        $(
            $(#[$doc])*
            #[allow(dead_code, reason = "some fields are used in one form only")]
            pub(crate) const $name: &str = $text;
        )*

        #[allow(dead_code, reason = "some fields are used in one form only")]
        pub(crate) mod raw {
            $(pub(crate) const $name: &mongodb::bson::raw::CStr = mongodb::bson::cstr!($text);)*
        }
    };
}

pub(crate) mod collection;
pub(crate) mod decode;
pub(crate) mod dialog;
mod escape;
pub(crate) mod id;
pub(crate) mod journal;
pub(crate) mod membership;
pub(crate) mod message;
pub(crate) mod reaction;
pub(crate) mod receipt;
pub(crate) mod stamp;
pub(crate) mod user;

use std::collections::BTreeMap;

use mongodb::bson::RawDocumentBuf;
use mongodb::bson::error::Result as Encoded;

use super::StoreError;
use crate::derive::state::ByType;
use crate::event::{InvalidId, Micros, SenderType};

pub(crate) use escape::{escape, field, path, unescape};
pub(crate) use id::{Key, Keyed};

/// Makes an error of an id that no event can have: somebody else wrote the document.
pub(crate) fn invalid(what: InvalidId) -> StoreError {
    StoreError::Answer(format!("a stored document has {what}"))
}

/// Makes an error of a document that cannot be decoded.
pub(crate) fn unreadable(error: mongodb::bson::error::Error) -> StoreError {
    StoreError::Answer(format!("a stored document cannot be read: {error}"))
}

/// Makes an error of a statement that cannot be encoded.
pub(crate) fn unencodable(error: mongodb::bson::error::Error) -> StoreError {
    StoreError::Driver(error.into())
}

/// A stored time.
///
/// # Errors
/// When it is out of bounds.
pub(crate) fn micros(at: i64) -> Result<Micros, StoreError> {
    Micros::new(at).ok_or_else(|| StoreError::Answer(format!("a stored time is {at}")))
}

/// A by-type vector or another map from names to counts, names escaped.
pub(crate) type Counts = BTreeMap<String, i64>;

/// A by-type vector from its document.
///
/// # Errors
/// When a name in it is no sender type.
pub(crate) fn by_type(counts: &Counts) -> Result<ByType, StoreError> {
    counts
        .iter()
        .map(|(name, count)| Ok((SenderType::new(&unescape(name)).map_err(invalid)?, *count)))
        .collect()
}

/// A by-type vector as a document.
///
/// # Errors
/// As [`field`].
pub(crate) fn by_type_document(by_type: &ByType) -> Encoded<RawDocumentBuf> {
    let mut document = RawDocumentBuf::new();
    for (name, count) in by_type.iter() {
        document.append(field(name.as_str())?, count);
    }
    Ok(document)
}
