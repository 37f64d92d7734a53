//! Events as producers send them, for tests that need just a few.

use serde_json::{Value, json};

/// The tenant of all of them.
pub(crate) const TENANT: &str = "tnt_1";

/// An event on its way to the exchange.
#[derive(Debug, Clone)]
pub(crate) struct Wire {
    pub event_type: String,
    pub entity_type: String,
    pub body: Vec<u8>,
}

/// An event at a time in milliseconds.
fn event(id: &str, event_type: &str, entity_type: &str, at: i64, data: Value) -> Wire {
    let body = json!({
        "eventId": id,
        "tenantId": TENANT,
        "eventType": event_type,
        "entityType": entity_type,
        "entityId": "",
        "actorId": "actor",
        "actorType": "user",
        "createdAt": at,
        "data": data,
    });
    Wire {
        event_type: event_type.to_owned(),
        entity_type: entity_type.to_owned(),
        body: body.to_string().into_bytes(),
    }
}

pub(crate) fn join(id: &str, dialog: &str, user: &str, at: i64) -> Wire {
    let data = json!({ "context": { "dialogId": dialog }, "member": { "userId": user } });
    event(id, "dialog.member.add", "dialogMember", at, data)
}

pub(crate) fn leave(id: &str, dialog: &str, user: &str, at: i64) -> Wire {
    let data = json!({ "context": { "dialogId": dialog }, "member": { "userId": user } });
    event(id, "dialog.member.remove", "dialogMember", at, data)
}

pub(crate) fn message(id: &str, dialog: &str, message: &str, sender: &str, at: i64) -> Wire {
    let data = json!({
        "context": { "dialogId": dialog },
        "message": {
            "messageId": message,
            "senderId": sender,
            "senderInfo": { "type": "user" },
            "type": "internal.text",
            "content": "never to be seen in a log",
        },
    });
    event(id, "message.create", "message", at, data)
}

pub(crate) fn delete(id: &str, message: &str, at: i64) -> Wire {
    let data = json!({ "message": { "messageId": message } });
    event(id, "message.delete", "message", at, data)
}

pub(crate) fn status(
    id: &str,
    dialog: &str,
    message: &str,
    user: &str,
    status: &str,
    at: i64,
) -> Wire {
    let data = json!({
        "context": { "dialogId": dialog, "messageId": message },
        "message": { "statusUpdate": { "userId": user, "status": status } },
    });
    event(id, "message.status.changed", "messageStatus", at, data)
}

pub(crate) fn reaction(
    id: &str,
    message: &str,
    user: &str,
    reaction: &str,
    action: &str,
    at: i64,
) -> Wire {
    let data = json!({
        "context": { "messageId": message },
        "message": {
            "reactionUpdate": { "userId": user, "reaction": reaction, "action": action },
        },
    });
    event(id, "message.reaction.changed", "messageReaction", at, data)
}

pub(crate) fn bulk_read(id: &str, dialog: &str, user: &str, until: i64) -> Wire {
    let data = json!({
        "context": { "dialogId": dialog, "userId": user },
        "readUntil": until,
    });
    event(id, "dialog.messages.bulk_read", "dialog", until, data)
}

pub(crate) fn user_typed(id: &str, user: &str, user_type: &str, at: i64) -> Wire {
    let data = json!({ "user": { "userId": user, "type": user_type } });
    event(id, "user.add", "user", at, data)
}

pub(crate) fn topic(id: &str, dialog: &str, topic: &str, at: i64) -> Wire {
    let data = json!({ "context": { "dialogId": dialog }, "topic": { "topicId": topic } });
    event(id, "dialog.topic.create", "topic", at, data)
}

pub(crate) fn dialog_delete(id: &str, dialog: &str, at: i64) -> Wire {
    let data = json!({ "context": { "dialogId": dialog } });
    event(id, "dialog.delete", "dialog", at, data)
}

/// A body of any kind, sent as a `message.create`.
pub(crate) fn raw(body: &[u8]) -> Wire {
    Wire {
        event_type: "message.create".to_owned(),
        entity_type: "message".to_owned(),
        body: body.to_vec(),
    }
}

/// Many messages from `ann`, who is in the dialog with `bob`, a millisecond
/// apart; their ids begin with the name.
pub(crate) fn messages(name: &str, dialog: &str, count: usize, from: i64) -> Vec<Wire> {
    let messages = (0..count).map(|index| {
        let id = format!("{name}_{index}");
        let at = from + i64::try_from(index).unwrap();
        message(
            &format!("evt_{id}"),
            dialog,
            &format!("msg_{id}"),
            "ann",
            at,
        )
    });
    messages.collect()
}

/// What the events say, for the model.
pub(crate) fn bodies<'w>(events: impl IntoIterator<Item = &'w Wire>) -> Vec<Value> {
    let bodies = events.into_iter().map(|wire| wire.body.as_slice());
    bodies
        .map(|body| serde_json::from_slice(body).unwrap())
        .collect()
}
