//! Letters in AMQP's own encoding, so that the database can keep them and the broker
//! can have them back as they were.

use lapin::BasicProperties;
use lapin::protocol::basic::{gen_properties, parse_properties};

use crate::bus::filter;
use crate::deadletter::RawMessage;

/// Keeps a letter as it is on the wire. `None` for properties that AMQP cannot
/// encode; what came over the wire always can.
pub(super) fn raw_message(properties: &BasicProperties, body: Vec<u8>) -> Option<RawMessage> {
    let properties = encoded(properties)?;
    Some(RawMessage { properties, body })
}

/// Encodes properties as AMQP does. `None` for what it cannot encode.
pub(super) fn encoded(properties: &BasicProperties) -> Option<Vec<u8>> {
    cookie_factory::gen_simple(gen_properties(properties), Vec::new()).ok()
}

/// Decodes properties that were kept. `None` when they are damaged. They come from the
/// database and not through the filter of a connection, so tables that are too deep for
/// lapin's parser are left out here.
pub(super) fn decoded(encoded: &[u8]) -> Option<BasicProperties> {
    let encoded = filter::without_depths(encoded)?;
    let (rest, properties) = parse_properties(&*encoded).ok()?;
    rest.is_empty().then_some(properties)
}
