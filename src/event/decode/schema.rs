//! The JSON Schema of events, the contract for producers: kept in `proto/`, written
//! by `UPDATE_SCHEMA=1 cargo test --lib schema`, and held against the decoder.
//!
//! The schema says of each value what the decoder does: the first of its places
//! that says something counts, and only that one is examined. The paths are the
//! decoder's own. Where the two cannot agree, [`exception`] says why, and so does
//! the description in the schema.

use serde_json::{Map, Value as Json, json};

use super::lookup::Place;
use super::wire::Body;
use crate::event::{EventType, MAX_ID_BYTES};

mod contract;
mod tests;

/// The schema's file in the repository.
const FILE: &str = "proto/events.schema.json";

/// The characters that no id may have, for use in a class of a pattern.
const CONTROL: &str = r"\u0000-\u001f\u007f-\u009f";
/// The characters that are trimmed off user ids, for use in a class of a pattern.
const SPACE: &str = r"\t-\r \u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff";

/// Where a value may stand.
#[derive(Debug, Clone, Copy)]
enum At {
    /// At this path of sections, dots between them.
    Path(&'static str),
    /// In `entityId`, if `entityType` is one of these.
    EntityOf(&'static [&'static str]),
    /// In `entityId` of a `dialogMember`, before the first colon.
    MemberDialog,
    /// In `entityId` of a `dialogMember`, after the first colon.
    MemberUser,
}

/// What a value must be, by the name of its definition in the schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leaf {
    Id,
    UserId,
    Status,
    Time,
    NeverOrTime,
    Text,
    Action,
}

impl Leaf {
    fn schema(self) -> Json {
        let of = |name: &str| json!({ "$ref": format!("#/$defs/{name}") });
        match self {
            Leaf::Id => of("id"),
            Leaf::UserId => of("userId"),
            Leaf::Status => of("statusName"),
            Leaf::Time => of("time"),
            Leaf::NeverOrTime => {
                json!({ "anyOf": [{ "type": "number", "maximum": 0 }, of("time")] })
            }
            Leaf::Text => json!({ "type": "string" }),
            Leaf::Action => json!({ "enum": ["set", "unset"] }),
        }
    }
}

/// The pattern of a user id, to stand after what ends the text before it.
fn user_pattern() -> String {
    let inner = MAX_ID_BYTES - 2;
    format!(
        "[{SPACE}]*[^{SPACE}{CONTROL}](?:[^{CONTROL}]{{0,{inner}}}[^{SPACE}{CONTROL}])?[{SPACE}]*$"
    )
}

impl At {
    /// The schema of events that say something here, right or wrong.
    fn says(self) -> Json {
        match self {
            At::Path(path) => path_says(path),
            At::EntityOf(types) => json!({
                "required": ["entityType", "entityId"],
                "properties": { "entityType": { "enum": types }, "entityId": { "not": nothing() } },
            }),
            At::MemberDialog => member_entity(json!({ "pattern": "^[^:]" })),
            At::MemberUser => member_entity(json!({ "not": { "pattern": "^[^:]*:?$" } })),
        }
    }

    /// The schema of events that have such a value here, if they say something.
    fn has(self, leaf: Leaf) -> Json {
        match self {
            At::Path(path) => {
                let mut keys: Vec<&str> = path.split('.').collect();
                let last = keys.pop().unwrap_or_default();
                let innermost = json!({ "properties": { last: leaf.schema() } });
                keys.iter().rev().fold(innermost, |mut inner, key| {
                    inner["type"] = "object".into();
                    json!({ "properties": { *key: inner } })
                })
            }
            At::EntityOf(_) => json!({ "properties": { "entityId": leaf.schema() } }),
            At::MemberDialog => json!({ "properties": { "entityId": {
                "pattern": format!("^[^:{CONTROL}]{{1,{MAX_ID_BYTES}}}(?::|$)"),
            } } }),
            At::MemberUser => json!({ "properties": { "entityId": {
                "pattern": format!("^[^:]*:{}", user_pattern()),
            } } }),
        }
    }
}

/// The schema of values that say nothing.
fn nothing() -> Json {
    json!({ "enum": [null, ""] })
}

/// [`At::says`] of a path, as seen from the object that it begins in.
fn path_says(path: &str) -> Json {
    let (first, rest) = path.split_once('.').unwrap_or((path, ""));
    let mut inner = match rest {
        "" => json!({}),
        rest => path_says(rest),
    };
    inner["not"] = nothing();
    json!({ "required": [first], "properties": { first: inner } })
}

fn member_entity(of: Json) -> Json {
    let mut id = of;
    id["type"] = "string".into();
    json!({
        "required": ["entityType", "entityId"],
        "properties": { "entityType": { "const": "dialogMember" }, "entityId": id },
    })
}

/// The decoder's places of a value, with what `entityId` is among them, in order.
fn places(of: &[Place<'_>], entities: &[At]) -> Vec<At> {
    let mut entities = entities.iter().copied();
    let place = |place: &Place<'_>| match place.path {
        "entityId" => entities
            .next()
            .expect("it is said of each entityId what it is"),
        path => At::Path(path),
    };
    let found = of.iter().map(place).collect();
    assert!(
        entities.next().is_none(),
        "each of them is among the places"
    );
    found
}

/// The schema of events whose first place that says something has such a value.
fn first_of(places: &[At], leaf: Leaf, is_required: bool) -> Json {
    let beyond = is_required.then_some(json!(false));
    let chain = places.iter().rev().fold(beyond, |beyond, place| {
        let mut chain = json!({ "if": place.says(), "then": place.has(leaf) });
        if let Some(beyond) = beyond {
            chain["else"] = beyond;
        }
        Some(chain)
    });
    chain.unwrap_or(json!(true))
}

/// The schema of events that say something in one of these places.
fn any_says(places: &[At]) -> Json {
    json!({ "anyOf": Vec::from_iter(places.iter().map(|place| place.says())) })
}

/// Makes the whole schema.
fn schema() -> Json {
    let types = EventType::ALL.into_iter().map(|event_type| {
        json!({
            "if": { "properties": { "eventType": { "enum": event_type.names() } } },
            "then": { "$ref": format!("#/$defs/{event_type}") },
        })
    });
    let mut defs: Map<String, Json> = contract::formats();
    defs.extend(contract::values());
    for event_type in EventType::ALL {
        defs.insert(event_type.to_string(), contract::of_type(event_type));
    }
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Events that chat-counters takes",
        "description": contract::description(),
        "type": "object",
        "required": ["eventType"],
        "properties": { "eventType": { "type": "string", "minLength": 1 } },
        "allOf": Vec::from_iter(types),
        "$defs": defs,
    })
}

/// Why the decoder and the schema may disagree about an event, for one of the
/// reasons that the schema's description has.
fn exception(event: &Json) -> Option<&'static str> {
    let long = |text: &str| {
        let longest = text.len().max(text.to_lowercase().len());
        !text.is_ascii() && longest > MAX_ID_BYTES
    };
    let time = |text: &str| {
        let bytes = text.as_bytes();
        let looks_like_one = bytes.len() >= 20 && bytes[4] == b'-' && bytes[7] == b'-';
        let at_an_end = ["1969", "1970", "9999"]
            .iter()
            .any(|end| text.starts_with(end));
        let parts_oddly = !matches!(bytes.get(10), Some(b'T' | b't'));
        looks_like_one && (at_an_end || parts_oddly || text.contains(":60"))
    };
    let strings = leaves(event).into_iter().filter_map(Json::as_str);
    for text in strings {
        if long(text) {
            return Some("ids are limited in bytes");
        }
        if time(text) {
            return Some("ends of time, separators and leap seconds");
        }
    }
    let numbers = leaves(event).into_iter().filter_map(Json::as_f64);
    for number in numbers {
        if number < 0.0 && number > -0.000_5 {
            return Some("times are rounded to the microsecond");
        }
    }
    let data = &event["data"];
    let named = [&data["context"], &data["dialog"], &data["message"]];
    let has_colon = |section: &&Json| {
        section["dialogId"]
            .as_str()
            .is_some_and(|id| id.contains(':'))
    };
    if event["entityType"] == "dialogMember" && named.iter().any(has_colon) {
        return Some("entityId of a member in a dialog with a colon");
    }
    None
}

/// All values in an event that are no objects.
fn leaves(event: &Json) -> Vec<&Json> {
    match event {
        Json::Object(fields) => fields.values().flat_map(leaves).collect(),
        leaf => vec![leaf],
    }
}

/// A schema, compiled to validate events.
struct Compiled {
    schemas: boon::Schemas,
    root: boon::SchemaIndex,
}

impl Compiled {
    fn new(schema: Json) -> Self {
        let mut schemas = boon::Schemas::new();
        let mut compiler = boon::Compiler::new();
        compiler.enable_format_assertions();
        compiler.add_resource("events", schema).unwrap();
        let root = compiler.compile("events", &mut schemas).unwrap();
        Self { schemas, root }
    }

    fn accepts(&self, event: &Json) -> bool {
        self.schemas.validate(event, self.root).is_ok()
    }
}

thread_local! {
    static COMPILED: Compiled = Compiled::new(schema());
}

/// Fails unless schema and decoder agree about the event, but for an exception.
pub(super) fn assert_agrees(event: &Json, decoder_accepts: bool) {
    let schema_accepts = COMPILED.with(|compiled| compiled.accepts(event));
    if schema_accepts != decoder_accepts {
        assert!(
            exception(event).is_some(),
            "accepted by the schema: {schema_accepts}, by the decoder: {decoder_accepts}: {event:#}"
        );
    }
}
