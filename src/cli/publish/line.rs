//! What of a line its routing key and headers are made of.

use serde::Deserialize;
use serde_json::Value;

use crate::bus::{EventHeaders, routing_key};

/// Stands for what an event lacks, in its routing key.
const UNKNOWN: &str = "unknown";

/// The fields of an event that say where it goes. Whatever is no text, or an
/// empty one, counts as absent.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct EventLine {
    event_type: Value,
    entity_type: Value,
    tenant_id: Value,
}

impl EventLine {
    /// Reads a line; the error says why it is no JSON object.
    pub(super) fn parse(text: &[u8]) -> Result<Self, String> {
        if text.trim_ascii().first() != Some(&b'{') {
            return Err("it is no JSON object".into());
        }
        serde_json::from_slice(text).map_err(|error| format!("it is no JSON object: {error}"))
    }

    /// Returns the headers that Chat3 sets; `None` where one is not known.
    pub(super) fn headers(&self) -> Option<EventHeaders<'_>> {
        Some(EventHeaders {
            event_type: text(&self.event_type)?,
            entity_type: self.entity()?,
            tenant_id: text(&self.tenant_id)?,
        })
    }

    /// Returns the routing key, with `unknown` for what is not known.
    pub(super) fn routing_key(&self) -> String {
        routing_key(
            self.entity().unwrap_or(UNKNOWN),
            text(&self.event_type).unwrap_or(UNKNOWN),
            text(&self.tenant_id).unwrap_or(UNKNOWN),
        )
    }

    /// The first segment of the event's type stands in for the entity's.
    fn entity(&self) -> Option<&str> {
        let of_event = || text(&self.event_type)?.split('.').next();
        text(&self.entity_type).or_else(of_event)
    }
}

fn text(value: &Value) -> Option<&str> {
    value.as_str().filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routing_key_and_headers_come_from_the_line() {
        let rows = [
            (
                r#"{"eventType":"message.create","entityType":"message","tenantId":"t1"}"#,
                "message.create.t1",
                true,
            ),
            (
                r#" {"eventType":"dialog.member.add","tenantId":"t"}"#,
                "dialog.add.t",
                true,
            ),
            (
                r#"{"eventType":7,"tenantId":"t"}"#,
                "unknown.unknown.t",
                false,
            ),
            ("{}", "unknown.unknown.unknown", false),
        ];
        for (line, key, headers) in rows {
            let event = EventLine::parse(line.as_bytes()).unwrap();
            assert_eq!(event.routing_key(), key);
            assert_eq!(event.headers().is_some(), headers, "{line}");
        }
        for line in ["[]", "7", "{", "{} {}", "x", "[\"a\",\"b\",\"c\"]"] {
            assert!(EventLine::parse(line.as_bytes()).is_err(), "{line}");
        }
    }
}
