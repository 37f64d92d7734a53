//! What a body says it is about, whether or not it can be counted.

use super::lookup::Place;
use super::{object, text};
use crate::event::MAX_ID_BYTES;

/// Which event a body is, as far as that can be read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outline {
    /// The event's type, as the producer wrote it.
    pub event_type: Option<String>,
    /// The id of the event's tenant.
    pub tenant: Option<String>,
    /// The event's own id.
    pub event: Option<String>,
    /// The id of the event's dialog.
    pub dialog: Option<String>,
}

/// Reads as much of a body as can be read: nothing, of one that is no JSON object.
pub fn outline(body: &[u8]) -> Outline {
    let json = std::str::from_utf8(body).ok();
    let Some(body) = json.and_then(|json| object(json).ok()) else {
        return Outline::default();
    };
    let id = |places: &[Place<'_>]| {
        let text = text(places).ok().flatten();
        // What is longer is none of these, whatever it is.
        let text = text.filter(|text| text.len() <= MAX_ID_BYTES);
        text.map(str::to_owned)
    };
    Outline {
        event_type: id(&body.event_type()),
        tenant: id(&body.tenant_id()),
        event: id(&body.event_id()),
        dialog: id(&body.dialog_id()),
    }
}
