//! What the schema says of each value and of each event type.

use super::*;
use crate::derive::Limits;

/// How the schema is to be read, and where it is not exact.
pub(super) fn description() -> String {
    let Limits {
        reactions,
        statuses,
        adds,
    } = Limits::default();
    format!(
        "One AMQP message of Chat3's exchange. A value that may stand in several places is read \
        from the first of them that says something. Null and the empty string say nothing. A \
        section on the way to a value is an object; null and the empty string in its place say \
        nothing, and anything else makes the event invalid. Only these places are examined: the \
        rest of an event may be anything, and an event of another type is acknowledged and \
        ignored. An event that the schema refuses goes to the dead-letter queue. \
        The service differs from the schema in this: \
        ids are limited to {MAX_ID_BYTES} bytes of UTF-8, user ids after they are trimmed and \
        lower-cased, where the schema counts characters; \
        times are rounded to the microsecond before they are held against the years 1970 and 9999, \
        and at these two ends the offset counts, so that 1969-12-31T23:30:00-01:00 is a time; \
        any character may stand in the place of the T of a time; \
        of leap seconds only those at the end of a month are taken; \
        where the dialog's id has a colon, the id of a dialogMember is divided after the dialog \
        that data names; \
        a key given twice, a number beyond the range of a double and half a surrogate pair make an \
        event invalid where the value is read, and nowhere else. \
        The service also refuses an event that would be one too many: a message has at most \
        {reactions} reactions and {statuses} statuses, a member at most {adds} adds since the last \
        remove."
    )
}

/// The definitions of what ids, names and times are.
pub(super) fn formats() -> Map<String, Json> {
    let formats = [
        (
            "id",
            json!({
                "description": "An id: 1 to 512 bytes of UTF-8 without control characters, taken as it is.",
                "type": "string", "minLength": 1, "maxLength": MAX_ID_BYTES,
                "pattern": format!("^[^{CONTROL}]*$"),
            }),
        ),
        (
            "userId",
            json!({
                "description": "A user's id: trimmed of white space and lower-cased, then an id.",
                "type": "string", "pattern": format!("^{}", user_pattern()),
            }),
        ),
        (
            "statusName",
            json!({
                "description": "The name of a status, lower-cased; read takes the message out of what the user has unread.",
                "type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$",
            }),
        ),
        (
            "time",
            json!({
                "description": "A time of the years 1970 to 9999: milliseconds since the epoch, with a fraction, or RFC 3339.",
                "anyOf": [
                    { "type": "number", "minimum": 0, "exclusiveMaximum": 253_402_300_800_000_i64 },
                    { "type": "string", "format": "date-time", "pattern": "^(?:19[7-9]|[2-9][0-9]{2})[0-9]-" },
                ],
            }),
        ),
    ];
    named(formats)
}

fn named<const N: usize>(definitions: [(&str, Json); N]) -> Map<String, Json> {
    let definitions = definitions.map(|(name, definition)| (name.to_owned(), definition));
    definitions.into_iter().collect()
}

/// The definitions of values, with all the places that each may stand in.
pub(super) fn values() -> Map<String, Json> {
    let mut values = subjects();
    values.extend(details());
    values
}

fn required(meaning: &str, places: &[At], leaf: Leaf) -> Json {
    described(meaning, first_of(places, leaf, true))
}

fn optional(meaning: &str, places: &[At], leaf: Leaf) -> Json {
    described(meaning, first_of(places, leaf, false))
}

/// What an event is about, and what every event has.
fn subjects() -> Map<String, Json> {
    let body = Body::default();
    let dialog = [At::MemberDialog, At::EntityOf(&["dialog"])];
    let dialog = places(&body.dialog_id(), &dialog);
    let message = At::EntityOf(&["message", "messageStatus", "messageReaction"]);
    let message = places(&body.message_id(), &[message]);
    let member = places(&body.user_id(), &[At::MemberUser]);
    let acting_user = places(&body.acting_user_id(), &[At::MemberUser]);
    let typed_user = places(&body.typed_user_id(), &[At::EntityOf(&["user"])]);
    let sender = places(&body.sender_id(), &[]);
    let topic = places(&body.topic_id(), &[At::Path("entityId")]);
    let whose = "The user whose membership or reading it is.";
    let who = "The user who reached the status or reacted.";
    let sent = "The user who sent the message.";
    named([
        ("envelope", envelope(&body)),
        ("dialog", required("The dialog.", &dialog, Leaf::Id)),
        ("message", required("The message.", &message, Leaf::Id)),
        ("member", required(whose, &member, Leaf::UserId)),
        ("actingUser", required(who, &acting_user, Leaf::UserId)),
        (
            "typedUser",
            required("The user who is of the type.", &typed_user, Leaf::UserId),
        ),
        ("sender", required(sent, &sender, Leaf::UserId)),
        ("topic", required("The topic.", &topic, Leaf::Id)),
    ])
}

/// What an event says of what it is about.
fn details() -> Map<String, Json> {
    let body = Body::default();
    let user_type = places(&body.user_type(), &[]);
    let sender_type = places(&body.sender_type(), &[]);
    let message_type = places(&body.message_type(), &[]);
    let message_time = places(&body.message_time(), &[]);
    let joined_at = places(&body.joined_at(), &[]);
    let status = places(&body.status(), &[]);
    let of_sender = "The sender's type; else the one that a user.* event has stated, else user.";
    let of_message = "The message's type: one that starts with system. is never unread.";
    let when_sent = "When the message was sent; else the event's time.";
    let when_joined = "From when on messages can be unread for the member; else the event's time.";
    named([
        (
            "userType",
            required(
                "The user's type, as user, contact or bot.",
                &user_type,
                Leaf::Id,
            ),
        ),
        ("senderType", optional(of_sender, &sender_type, Leaf::Id)),
        (
            "messageType",
            optional(of_message, &message_type, Leaf::Text),
        ),
        (
            "messageTime",
            optional(when_sent, &message_time, Leaf::Time),
        ),
        ("joinedAt", optional(when_joined, &joined_at, Leaf::Time)),
        (
            "status",
            required("The status that was reached.", &status, Leaf::Status),
        ),
        ("readUntil", read_until(&body)),
        ("reaction", reaction(&body)),
    ])
}

fn envelope(body: &Body<'_>) -> Json {
    let parts = [
        first_of(&places(&body.event_id(), &[]), Leaf::Id, true),
        first_of(&places(&body.tenant_id(), &[]), Leaf::Id, true),
        first_of(&places(&body.created_at(), &[]), Leaf::Time, true),
    ];
    described(
        "What every event has: its id, which is unique in its tenant and makes a second delivery \
         a duplicate, its tenant, and when it happened.",
        json!({ "allOf": parts }),
    )
}

fn described(meaning: &str, mut schema: Json) -> Json {
    schema["description"] = meaning.into();
    schema
}

fn read_until(body: &Body<'_>) -> Json {
    let until = places(&body.read_until(), &[]);
    let schema = json!({
        "if": any_says(&until),
        "then": first_of(&until, Leaf::Time, true),
        "else": first_of(&places(&body.last_seen_at(), &[]), Leaf::NeverOrTime, false),
    });
    described(
        "Up to when all is read, and no later than the event; else the event's time. \
         A lastSeenAt of zero or less is no time.",
        schema,
    )
}

fn reaction(body: &Body<'_>) -> Json {
    let reaction = places(&body.reaction(), &[]);
    let old = places(&body.old_reaction(), &[]);
    let action = places(&body.reaction_action(), &[]);
    let schema = json!({
        "allOf": [first_of(&old, Leaf::Id, false)],
        "if": any_says(&reaction),
        "then": { "allOf": [
            first_of(&reaction, Leaf::Id, true),
            first_of(&action, Leaf::Action, false),
        ] },
        "else": any_says(&old),
    });
    described(
        "The reaction that is set, or with the action unset is unset, and the old one that it \
         replaces; or the old one alone, which is unset.",
        schema,
    )
}

/// The definition of one event type.
pub(super) fn of_type(event_type: EventType) -> Json {
    use EventType::*;
    let (meaning, needed, optional): (_, &[&str], &[&str]) = match event_type {
        MessageCreate => (
            "A message exists.",
            &["dialog", "message", "sender"],
            &["senderType", "messageType", "messageTime"],
        ),
        MessageDelete => ("A message no longer exists, for good.", &["message"], &[]),
        StatusChanged => (
            "A user reached a status for a message.",
            &["message", "actingUser", "status"],
            &[],
        ),
        ReactionChanged => (
            "A user set, unset or replaced a reaction on a message.",
            &["message", "actingUser", "reaction"],
            &[],
        ),
        BulkRead => (
            "A user has read everything in a dialog up to a time.",
            &["dialog", "member"],
            &["readUntil"],
        ),
        MemberAdd => (
            "A user is a member of a dialog.",
            &["dialog", "member"],
            &["joinedAt"],
        ),
        MemberRemove => (
            "A user is no longer a member of a dialog.",
            &["dialog", "member"],
            &[],
        ),
        TopicCreate => ("A dialog has one more topic.", &["dialog", "topic"], &[]),
        DialogDelete => (
            "A dialog and all in it no longer counts, for good.",
            &["dialog"],
            &[],
        ),
        UserChanged => ("A user is of a type.", &["typedUser", "userType"], &[]),
    };
    let names = event_type.names();
    let also = match &names[1..] {
        [] => String::new(),
        others => format!(" Also: {}.", others.join(", ")),
    };
    let list = |names: &[&str]| {
        if names.is_empty() {
            "nothing".to_owned()
        } else {
            names.join(", ")
        }
    };
    let parts = std::iter::once(&"envelope").chain(needed).chain(optional);
    let parts = parts.map(|name| json!({ "$ref": format!("#/$defs/{name}") }));
    json!({
        "description": format!("{meaning}{also} Required: envelope, {}. Optional: {}.", list(needed), list(optional)),
        "allOf": Vec::from_iter(parts),
        "examples": [example(event_type)],
    })
}

/// An event of the type with all that it may say, in the places to be preferred.
pub(super) fn example(event_type: EventType) -> Json {
    use EventType::*;
    let data = match event_type {
        MessageCreate => json!({
            "context": { "dialogId": "dlg_1", "messageId": "msg_1" },
            "message": {
                "senderId": "ann", "senderType": "user", "type": "internal.text",
                "createdAt": 1_763_551_369_397.5,
            },
        }),
        MessageDelete => json!({ "context": { "messageId": "msg_1" } }),
        StatusChanged => json!({
            "context": { "messageId": "msg_1", "userId": "bob" },
            "message": { "statusUpdate": { "status": "read" } },
        }),
        ReactionChanged => json!({
            "context": { "messageId": "msg_1", "userId": "bob" },
            "message": { "reactionUpdate": { "reaction": "+1", "oldReaction": "heart", "action": "set" } },
        }),
        BulkRead => json!({
            "context": { "dialogId": "dlg_1", "userId": "bob" },
            "readUntil": "2025-11-19T11:22:49.397Z",
        }),
        MemberAdd => json!({
            "context": { "dialogId": "dlg_1", "userId": "bob" },
            "member": { "joinedAt": 1_763_551_369_397_i64 },
        }),
        MemberRemove => json!({ "context": { "dialogId": "dlg_1", "userId": "bob" } }),
        TopicCreate => json!({
            "context": { "dialogId": "dlg_1" }, "topic": { "topicId": "top_1" },
        }),
        DialogDelete => json!({ "context": { "dialogId": "dlg_1" } }),
        UserChanged => json!({ "user": { "userId": "bob", "type": "bot" } }),
    };
    json!({
        "eventId": "evt_1", "tenantId": "tnt_1", "eventType": event_type.as_str(),
        "createdAt": 1_763_551_369_397.5, "data": data,
    })
}
