//! Which headers a dead letter keeps when they do not all fit into one frame.

use std::cmp::Reverse;

use lapin::types::{AMQPValue, FieldTable, ShortString};

use crate::bus::field_table::{collected, text};
use crate::bus::{filter, headers};
use crate::deadletter::shortened;

/// The longest text of the header [`headers::HEADERS_DROPPED`], in bytes.
const MAX_DROPPED_BYTES: usize = 1024;
/// The largest header that is worth keeping before others, in bytes: none of this
/// service's own is larger.
const MAX_NEEDED_BYTES: usize = 2048;

/// Keeps the headers that fit into so many bytes: the largest of the others are
/// dropped, and named in a header.
pub(super) fn fitting(table: FieldTable, room: usize) -> FieldTable {
    let mut bytes = encoded_bytes(&table);
    if bytes <= room {
        return table;
    }
    let mut entries: Vec<_> = table
        .into_iter()
        .map(|(name, value)| (entry_bytes(name, value), name, value))
        .collect();
    entries.sort_by_key(|(size, name, _)| (is_needed(name.as_str(), *size), Reverse(*size)));
    let mut entries = entries.into_iter();
    let mut dropped = Vec::new();
    while bytes > room
        && let Some((size, name, _)) = entries.next()
    {
        bytes -= size;
        dropped.push((name.as_str().to_owned(), size));
    }
    let mut kept = collected(entries.map(|(_, name, value)| (name.clone(), value.clone())));
    let mut told = filter::named(&dropped);
    if let Some(AMQPValue::LongString(before)) = kept.inner().get(headers::HEADERS_DROPPED) {
        told = format!("{}; {told}", String::from_utf8_lossy(before.as_bytes()));
    }
    kept.insert(
        headers::HEADERS_DROPPED.into(),
        text(shortened(&told, MAX_DROPPED_BYTES)),
    );
    kept
}

/// Whether a header says what became of an event, or which event it is: such headers
/// are dropped last. One that is larger than they ever are says something else.
fn is_needed(name: &str, bytes: usize) -> bool {
    let is_own = name.starts_with(headers::OWN_PREFIX) && name != headers::ORIGINAL_PROPERTIES;
    let identifying = [
        headers::EVENT_TYPE,
        headers::TENANT_ID,
        headers::ENTITY_TYPE,
    ];
    (is_own || identifying.contains(&name)) && bytes <= MAX_NEEDED_BYTES
}

/// The size of a table on the wire, in bytes; never less than it is.
pub(super) fn encoded_bytes(table: &FieldTable) -> usize {
    let entries = table.into_iter();
    let entries = entries.map(|(name, value)| entry_bytes(name, value));
    4 + entries.sum::<usize>()
}

fn entry_bytes(name: &ShortString, value: &AMQPValue) -> usize {
    1 + name.as_str().len() + value_bytes(value)
}

fn value_bytes(value: &AMQPValue) -> usize {
    1 + match value {
        AMQPValue::LongString(text) => 4 + text.len(),
        AMQPValue::ShortString(text) => 4 + text.as_str().len(),
        AMQPValue::ByteArray(bytes) => 4 + bytes.len(),
        AMQPValue::FieldTable(table) => encoded_bytes(table),
        AMQPValue::FieldArray(array) => 4 + array.as_slice().iter().map(value_bytes).sum::<usize>(),
        _ => 8,
    }
}
