//! The JSON Schema of notifications as CloudEvents, kept in `proto/` for those who
//! take them: `UPDATE_SCHEMA=1` writes it. What is published is held against it.

use serde_json::{Value, json};

use super::cloudevents::{self, DIALOG, USER, USER_DIALOG};
use crate::bus::notifier::Notification;
use crate::committed::assert_in_step;
use crate::event::{DialogId, Micros, TenantId, UserId};
use crate::grpc::schemas::MessageSchemas;
use crate::store::read::{Counts, DialogStats, UserDialogStats, UserStats};

/// The schema's file in the repository.
const FILE: &str = "proto/notifications.schema.json";

/// An event of a type, with a message as its data.
fn of_type(event_type: &str, message: &str, needed: &[&str]) -> Value {
    json!({
        "properties": { "type": { "const": event_type }, "data": {
            "$ref": format!("#/$defs/{message}"),
            "required": needed,
        } },
    })
}

fn schema() -> Value {
    let described = MessageSchemas::all();
    let of_message = |name: &str| {
        let mut schema = described.schema(name);
        // For answers that may be of before the question.
        if let Some(properties) = schema["properties"].as_object_mut() {
            properties.remove("as_of");
        }
        schema
    };
    let text = json!({ "type": "string", "minLength": 1 });
    let say = |meaning: &str| json!({ "type": "string", "minLength": 1, "description": meaning });
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Notifications of chat-counters (notify.format = \"cloudevents\")",
        "description": "CloudEvents 1.0 in structured JSON mode. Of two events with one type, tenantid, data.user_id and data.dialog_id the one with the larger data.version is right, whichever comes last.",
        "type": "object",
        "required": ["specversion", "id", "source", "type", "subject", "datacontenttype", "tenantid", "data"],
        "properties": {
            "specversion": { "const": "1.0" },
            "id": say("The same for each time that one state is told of, and for no other of the same source"),
            "source": say("notify.source of the configuration"),
            "type": text,
            "subject": say("The user, or the dialog where it is about no user"),
            "time": { "type": "string", "format": "date-time", "description": "When what the counters come from was last written" },
            "datacontenttype": { "const": "application/json" },
            "tenantid": say("Whose user or dialog it is"),
            "data": { "type": "object" },
        },
        "oneOf": [
            of_type(USER, "UserStats", &["tenant_id", "user_id", "total_unread_count", "version"]),
            of_type(USER_DIALOG, "UserDialogStats", &["tenant_id", "user_id", "dialog_id", "unread_count", "version"]),
            of_type(DIALOG, "DialogStats", &["tenant_id", "dialog_id", "message_count", "version"]),
        ],
        "$defs": {
            "UserStats": of_message("UserStats"),
            "UserDialogStats": of_message("UserDialogStats"),
            "DialogStats": of_message("DialogStats"),
        },
    })
}

#[test]
fn the_schema_in_the_repository_is_this_one() {
    let made = format!("{:#}\n", schema());
    assert_in_step(FILE, &made, "UPDATE_SCHEMA=1 cargo test --lib schema");
}

fn published() -> [Notification; 3] {
    let tenant = TenantId::new("t").unwrap();
    let user = UserId::new("ü/$.").unwrap();
    let dialog = DialogId::new("d:1").unwrap();
    let at = Micros::new(1_763_551_369_397_648);
    let unread = Counts::from([("a.b".to_owned(), 2)]);
    let of_user = UserStats {
        unread: 2,
        unread_by_sender_type: unread.clone(),
        version: 9,
        updated_at: at,
        ..UserStats::nothing(&tenant, &user)
    };
    let of_pair = UserDialogStats {
        member: true,
        unread: 2,
        unread_by_sender_type: unread,
        joined_at: at,
        version: 4,
        updated_at: at,
        ..UserDialogStats::of(&tenant, &user, &dialog, None, None)
    };
    let of_dialog = DialogStats::of(&tenant, &dialog, None);
    [
        cloudevents::user("/s", 1, &of_user),
        cloudevents::user_in_dialog("/s", 1, &of_pair),
        cloudevents::dialog("/s", 1, &of_dialog),
    ]
}

#[test]
fn what_is_published_is_as_the_schema_says() {
    let mut schemas = boon::Schemas::new();
    let mut compiler = boon::Compiler::new();
    compiler.enable_format_assertions();
    compiler.add_resource("notifications", schema()).unwrap();
    let schema = compiler.compile("notifications", &mut schemas).unwrap();
    for notification in published() {
        let event: Value = serde_json::from_slice(&notification.body).unwrap();
        if let Err(error) = schemas.validate(&event, schema) {
            panic!("{error}: {event:#}");
        }
        let mut wrong = event.clone();
        wrong["data"]["version"] = "9".into();
        assert!(schemas.validate(&wrong, schema).is_err(), "{wrong:#}");
        wrong = event.clone();
        wrong["type"] = "other".into();
        assert!(schemas.validate(&wrong, schema).is_err(), "{wrong:#}");
    }
}

#[test]
fn an_id_names_one_state_and_no_other() {
    let mut ids: Vec<_> = published().map(|of| of.message_id.unwrap()).into();
    let again: Vec<_> = published().map(|of| of.message_id.unwrap()).into();
    assert_eq!(ids, again);
    let tenant = |id: &str| TenantId::new(id).unwrap();
    let user = |id: &str| UserId::new(id).unwrap();
    for (tenant, user, version) in [
        (tenant("a"), user("bc"), 1),
        (tenant("ab"), user("c"), 1),
        (tenant("ab"), user("c"), 2),
    ] {
        let stats = UserStats {
            version,
            ..UserStats::nothing(&tenant, &user)
        };
        ids.push(cloudevents::user("/s", 1, &stats).message_id.unwrap());
    }
    let all = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), all);
}
