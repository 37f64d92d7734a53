//! A [`Stamp`] inside a document: `{at, event}`. The order of the two is how stamps
//! compare on the server.

use mongodb::bson::RawDocumentBuf;
use serde::{Deserialize, Serialize};

use super::{invalid, micros};
use crate::event::{EventId, Stamp};
use crate::store::StoreError;

fields! {
    /// Micros of the event.
    AT = "at";
    /// The event's id.
    EVENT = "event";
}

/// A [`Stamp`] as it is stored.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StampDocument {
    at: i64,
    event: String,
}

impl TryFrom<StampDocument> for Stamp {
    type Error = StoreError;

    fn try_from(stored: StampDocument) -> Result<Self, StoreError> {
        parse(stored.at, &stored.event)
    }
}

/// Makes a stamp of its two stored fields.
///
/// # Errors
/// [`StoreError::Answer`] when one of them is out of bounds.
pub(crate) fn parse(at: i64, event: &str) -> Result<Stamp, StoreError> {
    Ok(Stamp {
        at: micros(at)?,
        event: EventId::new(event).map_err(invalid)?,
    })
}

/// Adds the two fields of a stamp.
pub(crate) fn append(document: &mut RawDocumentBuf, stamp: &Stamp) {
    document.append(raw::AT, stamp.at.get());
    document.append(raw::EVENT, stamp.event.as_str());
}

/// Encodes a stamp as a document of its own.
pub(crate) fn document(stamp: &Stamp) -> RawDocumentBuf {
    let mut document = RawDocumentBuf::new();
    append(&mut document, stamp);
    document
}
