//! The document that says what can be asked, in the words of OpenAPI 3.1. Made of
//! [`ROUTES`], as the router is, and of the messages' descriptors, comments
//! included.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use axum::response::IntoResponse;
use bytes::Bytes;
use hyper::header::CONTENT_TYPE;
use serde_json::{Map, Value, json};

use super::super::bounds::MAX_BATCH_IDS;
use super::super::schemas::MessageSchemas;
use super::route::{Parameter, Route};
use super::routes::ROUTES;

/// The document as it is served, made once.
static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| {
    let text = serde_json::to_vec_pretty(&document()).unwrap_or_default();
    Bytes::from(text)
});

/// Answers `GET /v1/openapi.json`.
pub(super) async fn serve() -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], DOCUMENT.clone())
}

fn document() -> Value {
    let described = MessageSchemas::all();
    let mut paths = Map::new();
    let mut used = BTreeSet::new();
    for route in ROUTES {
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        let verb = match route.body {
            Some(_) => "post",
            None => "get",
        };
        path[verb] = operation(route);
        described.reach(route.answer, &mut used);
    }
    let mut schemas = Map::new();
    for name in &used {
        schemas.insert(name.clone(), described.schema(name));
    }
    schemas.insert("Problem".into(), problem());
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "chat-counters",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Exact counters of a chat platform. Fields are those of chatcounters.v1; counters are below 2^53, versions of users who are in tens of thousands of dialogs may be more after many rebuilds; times are those of RFC 3339.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": { "bearer": { "type": "http", "scheme": "bearer" } },
        },
        "security": [{ "bearer": [] }, {}],
    })
}

fn operation(route: &Route) -> Value {
    let in_path = route.path.split('/').filter_map(|part| {
        let name = part.strip_prefix('{')?.strip_suffix('}')?;
        Some(
            json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }),
        )
    });
    let parameters: Vec<Value> = in_path.chain(route.query.iter().map(in_query)).collect();
    let schema = json!({ "$ref": format!("#/components/schemas/{}", route.answer) });
    let (kind, words) = match route.is_stream {
        true => (
            "text/event-stream",
            "Events named `update`, each with one of these as its data; its id goes back as `Last-Event-ID`",
        ),
        false => ("application/json", "As it stands"),
    };
    let mut operation = json!({
        "summary": route.summary,
        "parameters": parameters,
        "responses": {
            "200": { "description": words, "content": { kind: { "schema": schema } } },
            "default": {
                "description": "A problem, as of RFC 9457",
                "content": { "application/problem+json": { "schema": { "$ref": "#/components/schemas/Problem" } } },
            },
        },
    });
    if !route.is_stream && route.body.is_none() {
        operation["responses"]["304"] = json!({ "description": "As `If-None-Match` has it" });
    }
    if let Some(field) = route.body {
        operation["requestBody"] = json!({
            "required": true,
            "content": { "application/json": { "schema": {
                "type": "object",
                "required": [field],
                "additionalProperties": false,
                "properties": { field: {
                    "type": "array", "items": { "type": "string" }, "maxItems": MAX_BATCH_IDS,
                } },
            } } },
        });
    }
    operation
}

fn in_query(parameter: &Parameter) -> Value {
    let schema = match parameter.kind {
        "array" => json!({ "type": "array", "items": { "type": "string" } }),
        kind => json!({ "type": kind }),
    };
    json!({
        "name": parameter.name,
        "in": "query",
        "required": parameter.kind == "array",
        "description": parameter.meaning,
        "schema": schema,
    })
}

fn problem() -> Value {
    json!({
        "type": "object",
        "required": ["type", "title", "status", "detail", "code"],
        "properties": {
            "type": { "type": "string" },
            "title": { "type": "string" },
            "status": { "type": "integer" },
            "detail": { "type": "string" },
            "code": { "type": "string", "description": "gRPC's code" },
            "reason": { "type": "string", "description": "For programs: why somebody may not do this" },
            "violations": { "type": "array", "items": {
                "type": "object",
                "properties": {
                    "field": { "type": "string" },
                    "description": { "type": "string" },
                },
            } },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::committed::assert_in_step;

    /// Every schema that is named is there, and every field of an answer says
    /// what it means.
    #[test]
    fn the_document_is_whole() {
        let document = document();
        let text = document.to_string();
        let schemas = document["components"]["schemas"]
            .as_object()
            .expect("schemas");
        for named in text.split("#/components/schemas/").skip(1) {
            let name = named.split('"').next().expect("a name");
            assert!(schemas.contains_key(name), "{name}");
        }
        for (name, schema) in schemas.iter().filter(|(name, _)| *name != "Problem") {
            let properties = schema["properties"].as_object().expect(name);
            assert!(!properties.is_empty(), "{name}");
            for (field, schema) in properties {
                let words = schema["description"].as_str().unwrap_or_default();
                assert!(words.len() > 3, "what is {name}.{field}?");
            }
        }
        assert_eq!(
            schemas["UserStats"]["properties"]["unread_by_sender_type"]["additionalProperties"],
            json!({ "type": "integer" })
        );
    }

    /// What is committed is what is served: `UPDATE_OPENAPI=1` writes it.
    #[test]
    fn the_document_in_the_repository_is_this_one() {
        let made = format!("{}\n", String::from_utf8_lossy(&DOCUMENT));
        let command = "UPDATE_OPENAPI=1 cargo test --lib openapi";
        assert_in_step("proto/openapi.json", &made, command);
    }
}
