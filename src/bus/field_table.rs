//! Reading and making AMQP tables, such as the headers of a message.

use std::collections::BTreeMap;

use lapin::types::{AMQPValue, FieldTable, ShortString};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Makes a value of a text.
pub(super) fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

/// Formats a time for a header.
pub(super) fn rfc3339(at: OffsetDateTime) -> String {
    // Formatting fails only for years that no clock shows.
    at.format(&Rfc3339).unwrap_or_default()
}

/// Makes a table of named values.
pub(super) fn table<const N: usize>(entries: [(&'static str, AMQPValue); N]) -> FieldTable {
    let entries = entries.into_iter();
    collected(entries.map(|(name, value)| (name.into(), value)))
}

/// Makes a table of entries.
pub(super) fn collected(entries: impl Iterator<Item = (ShortString, AMQPValue)>) -> FieldTable {
    entries.collect::<BTreeMap<_, _>>().into()
}

/// Copies a table without the entries of these names.
pub(super) fn without(table: &FieldTable, names: &[&str]) -> FieldTable {
    let kept = table
        .into_iter()
        .filter(|(name, _)| !names.contains(&name.as_str()));
    collected(kept.map(|(name, value)| (name.clone(), value.clone())))
}

/// Copies a table with one entry, if it is there, under another name.
pub(super) fn renamed(table: &FieldTable, from: &str, to: &'static str) -> FieldTable {
    collected(table.into_iter().map(|(name, value)| {
        let name = if name.as_str() == from {
            to.into()
        } else {
            name.clone()
        };
        (name, value.clone())
    }))
}

/// Reads an entry as text, whether it is a text or a number.
pub(super) fn text_at(table: &FieldTable, name: &str) -> Option<String> {
    table.inner().get(name).and_then(as_text)
}

/// Reads an entry as a count.
pub(super) fn count_at(table: &FieldTable, name: &str) -> Option<u64> {
    table.inner().get(name).and_then(as_count)
}

/// Reads an entry as a time in RFC 3339.
pub(super) fn time_at(table: &FieldTable, name: &str) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(&text_at(table, name)?, &Rfc3339).ok()
}

/// Reads a text or a number as text.
pub(super) fn as_text(value: &AMQPValue) -> Option<String> {
    match value {
        AMQPValue::LongString(text) => Some(String::from_utf8_lossy(text.as_bytes()).into_owned()),
        AMQPValue::ShortString(text) => Some(text.as_str().to_owned()),
        AMQPValue::Boolean(flag) => Some(flag.to_string()),
        AMQPValue::Timestamp(seconds) => Some(seconds.to_string()),
        AMQPValue::LongLongInt(number) => Some(number.to_string()),
        number => as_count(number).map(|number| number.to_string()),
    }
}

/// Reads an integer as a count; `None` for anything but a non-negative integer.
pub(super) fn as_count(value: &AMQPValue) -> Option<u64> {
    match *value {
        AMQPValue::ShortShortInt(n) => n.try_into().ok(),
        AMQPValue::ShortShortUInt(n) => Some(n.into()),
        AMQPValue::ShortInt(n) => n.try_into().ok(),
        AMQPValue::ShortUInt(n) => Some(n.into()),
        AMQPValue::LongInt(n) => n.try_into().ok(),
        AMQPValue::LongUInt(n) => Some(n.into()),
        AMQPValue::LongLongInt(n) => n.try_into().ok(),
        _ => None,
    }
}
