//! Messages as JSON Schema, made of their descriptors, comments included.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message as _;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet};
use serde_json::{Map, Value, json};

use super::DESCRIPTORS;

/// Begins the names of messages of ours in descriptors.
const PACKAGE_PREFIX: &str = ".chatcounters.v1.";
/// The name of a point in time in descriptors.
const TIMESTAMP: &str = ".google.protobuf.Timestamp";
/// Numbers of fields in descriptors, by which comments name their places.
const FILE_MESSAGES_TAG: i32 = 4;
const MESSAGE_FIELDS_TAG: i32 = 2;

/// The JSON Schemas of the messages of `chatcounters.v1`.
pub(crate) struct MessageSchemas {
    messages: BTreeMap<String, (DescriptorProto, Vec<i32>)>,
    comments: BTreeMap<Vec<i32>, String>,
}

impl MessageSchemas {
    /// Reads the descriptors that are compiled in.
    pub(crate) fn all() -> Self {
        let files = FileDescriptorSet::decode(DESCRIPTORS).unwrap_or_default();
        let mut all = Self {
            messages: BTreeMap::new(),
            comments: BTreeMap::new(),
        };
        let ours = files.file.into_iter().enumerate();
        for (number, file) in
            ours.filter(|(_, file)| file.package() == PACKAGE_PREFIX.trim_matches('.'))
        {
            all.add(i32::try_from(number).unwrap_or(i32::MAX), file);
        }
        all
    }

    /// Adds a file; its number begins the places in it.
    fn add(&mut self, number: i32, file: FileDescriptorProto) {
        let placed = |path: &[i32]| [&[number], path].concat();
        for at in file.source_code_info.unwrap_or_default().location {
            if let Some(words) = at.leading_comments {
                self.comments.insert(placed(&at.path), plain(&words));
            }
        }
        for (at, message) in file.message_type.into_iter().enumerate() {
            let place = placed(&[FILE_MESSAGES_TAG, i32::try_from(at).unwrap_or(i32::MAX)]);
            self.messages
                .insert(message.name().to_owned(), (message, place));
        }
    }

    /// Notes a message, and all that are in it.
    pub(super) fn reach(&self, name: &str, used: &mut BTreeSet<String>) {
        if !used.insert(name.to_owned()) {
            return;
        }
        let Some((message, _)) = self.messages.get(name) else {
            return;
        };
        for field in &message.field {
            let inner = field.type_name().strip_prefix(PACKAGE_PREFIX);
            if let Some(inner) = inner.filter(|inner| self.messages.contains_key(*inner)) {
                self.reach(inner, used);
            }
        }
    }

    /// Returns the JSON Schema of a message.
    pub(crate) fn schema(&self, name: &str) -> Value {
        let Some((message, place)) = self.messages.get(name) else {
            return json!({});
        };
        let mut properties = Map::new();
        for (number, field) in message.field.iter().enumerate() {
            let mut schema = field_schema(message, field);
            let mut place = place.clone();
            place.extend([
                MESSAGE_FIELDS_TAG,
                i32::try_from(number).unwrap_or(i32::MAX),
            ]);
            if let Some(words) = self.comments.get(&place) {
                schema["description"] = words.as_str().into();
            }
            properties.insert(field.name().to_owned(), schema);
        }
        let mut schema = json!({ "type": "object", "properties": properties });
        if let Some(words) = self.comments.get(place) {
            schema["description"] = words.as_str().into();
        }
        schema
    }
}

/// A comment in one line.
fn plain(comment: &str) -> String {
    comment.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn field_schema(message: &DescriptorProto, field: &FieldDescriptorProto) -> Value {
    let entry = message.nested_type.iter().find(|nested| {
        let is_map = nested
            .options
            .as_ref()
            .is_some_and(|options| options.map_entry());
        is_map && field.type_name().ends_with(&format!(".{}", nested.name()))
    });
    if let Some(value) = entry.and_then(|entry| entry.field.get(1)) {
        return json!({ "type": "object", "additionalProperties": single(value) });
    }
    match field.label() {
        Label::Repeated => json!({ "type": "array", "items": single(field) }),
        _ => single(field),
    }
}

fn single(field: &FieldDescriptorProto) -> Value {
    match field.r#type() {
        Type::String => json!({ "type": "string" }),
        Type::Bool => json!({ "type": "boolean" }),
        Type::Message if field.type_name() == TIMESTAMP => {
            json!({ "type": "string", "format": "date-time" })
        }
        Type::Message => {
            let name = field.type_name().trim_start_matches(PACKAGE_PREFIX);
            json!({ "$ref": format!("#/components/schemas/{name}") })
        }
        _ => json!({ "type": "integer" }),
    }
}
