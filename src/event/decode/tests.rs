use serde_json::{Value as Json, json};

use super::*;

fn decode(body: &[u8]) -> Result<Decoded, DecodeError> {
    Decoder::default().decode(body)
}

fn event(body: &Json) -> Event {
    match decode(body.to_string().as_bytes()) {
        Ok(Decoded::Event(event, _)) => {
            schema::assert_agrees(body, true);
            event
        }
        other => panic!("{body} gave {other:?}"),
    }
}

fn invalid(body: &Json) -> String {
    match decode(body.to_string().as_bytes()) {
        Err(DecodeError::Invalid(error)) => {
            schema::assert_agrees(body, false);
            error
        }
        other => panic!("{body} gave {other:?}"),
    }
}

fn message_create() -> Json {
    json!({
        "eventId": "e1", "tenantId": "t1", "eventType": "message.create",
        "entityType": "message", "entityId": "m1", "actorId": "Carl ",
        "createdAt": 1_763_551_369_397.648_2,
        "data": {
            "context": {"dialogId": "d1", "messageId": null, "extra": [1, {"x": 2}]},
            "message": {"senderId": " CARL", "content": {"deep": ["text"]}, "type": "internal.text"}
        }
    })
}

/// A copy with the value at a dotted path replaced.
fn with(mut body: Json, path: &str, value: Json) -> Json {
    let pointer = format!("/{}", path.replace('.', "/"));
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let parent = if parent.is_empty() {
        &mut body
    } else {
        body.pointer_mut(parent).unwrap()
    };
    parent[key] = value;
    body
}

#[test]
fn a_message_is_read_with_its_defaults() {
    let event = event(&message_create());
    assert_eq!(event.stamp.at.get(), 1_763_551_369_397_648);
    assert_eq!(event.actor.as_ref().map(UserId::as_str), Some("carl"));
    let Fact::MessageCreated(message) = event.fact else {
        panic!("{event:?}")
    };
    assert_eq!(message.dialog.as_str(), "d1");
    assert_eq!(message.message.as_str(), "m1", "a null messageId is a miss");
    assert_eq!(message.sender.as_str(), "carl");
    assert_eq!(message.sender_type, None);
    assert_eq!(message.sent_at, event.stamp.at);
    assert!(!message.system);
}

#[test]
fn a_field_has_the_value_of_its_first_hit() {
    let rows = [
        ("data.message.senderType", json!("bot"), "Some(\"bot\")"),
        ("data.message.senderType", json!(""), "Some(\"contact\")"),
        ("data.message.senderType", json!(null), "Some(\"contact\")"),
    ];
    for (path, value, expected) in rows {
        let body = with(
            message_create(),
            "data.message.senderInfo",
            json!({"type": "contact"}),
        );
        let Fact::MessageCreated(message) = event(&with(body, path, value)).fact else {
            panic!()
        };
        assert_eq!(format!("{:?}", message.sender_type), expected);
    }
}

#[test]
fn times_are_milliseconds_or_rfc_3339_rounded_to_microseconds() {
    let rows = [
        (json!(0), 0),
        (json!(1_000), 1_000_000),
        (json!(1_763_551_369_397.648_7), 1_763_551_369_397_649),
        (json!("1970-01-01T00:00:01.5Z"), 1_500_000),
        (json!("1970-01-01T02:00:00+01:00"), 3_600_000_000),
        (json!("1970-01-01T00:00:00.0000015Z"), 2),
        (
            json!("9999-12-31T23:59:59.999999Z"),
            crate::event::MAX_MICROS,
        ),
    ];
    for (value, expected) in rows {
        let event = event(&with(message_create(), "createdAt", value.clone()));
        assert_eq!(event.stamp.at.get(), expected, "{value}");
    }
}

#[test]
fn errors_name_the_path_and_never_quote_content() {
    let long = "x".repeat(513);
    let time = "expected a time of the years 1970 to 9999 (milliseconds or RFC 3339)";
    let rows = [
        (
            "eventType",
            json!(null),
            "eventType: expected a value, found nothing".to_owned(),
        ),
        (
            "eventId",
            json!(7),
            "eventId: expected a string, found number 7".to_owned(),
        ),
        (
            "tenantId",
            json!(""),
            "tenantId: expected a value, found nothing".to_owned(),
        ),
        (
            "createdAt",
            json!(-1),
            format!("createdAt: {time}, found number -1"),
        ),
        (
            "createdAt",
            json!(1e300),
            format!("createdAt: {time}, found number 1e300"),
        ),
        (
            "createdAt",
            json!("yesterday"),
            format!("createdAt: {time}, found a string of 9 bytes"),
        ),
        (
            "createdAt",
            json!(true),
            format!("createdAt: {time}, found a boolean"),
        ),
        (
            "data.message.senderId",
            json!(17),
            "data.message.senderId: expected a string, found number 17".to_owned(),
        ),
        (
            "data.context",
            json!("d1"),
            "data.context: expected an object, found a string".to_owned(),
        ),
        (
            "data",
            json!([]),
            "data: expected an object, found an array".to_owned(),
        ),
        (
            "data.context.dialogId",
            json!(long),
            "data.context.dialogId: expected an id of 1 to 512 bytes, found 513 bytes".to_owned(),
        ),
        (
            "data.context.dialogId",
            json!("a\u{7}b"),
            "data.context.dialogId: expected an id without control characters, found U+0007"
                .to_owned(),
        ),
        (
            "data.message.senderId",
            json!("   "),
            "data.message.senderId: expected an id of 1 to 512 bytes, found an empty one"
                .to_owned(),
        ),
    ];
    for (path, value, expected) in rows {
        assert_eq!(
            invalid(&with(message_create(), path, value.clone())),
            expected,
            "{path} {value}"
        );
    }
}

#[test]
fn a_value_that_is_nowhere_names_all_its_places() {
    let body = with(message_create(), "data.context", json!({}));
    assert_eq!(
        invalid(&body),
        "data.context.dialogId: expected a value here or at data.dialog.dialogId, \
         data.message.dialogId, entityId, found nothing"
    );
}

#[test]
fn bodies_that_are_no_objects_are_undecodable() {
    let rows: [(&[u8], &str); 7] = [
        (
            b"\xff{}",
            "expected UTF-8, found an invalid byte at offset 0",
        ),
        (
            b"",
            "expected JSON, found the end of the body at line 1 column 0",
        ),
        (
            b"{\"a\":",
            "expected JSON, found the end of the body at line 1 column 5",
        ),
        (
            b"{} secret",
            "expected JSON, found a syntax error at line 1 column 4",
        ),
        (b"[1]", "expected a JSON object, found an array"),
        (b"null", "expected a JSON object, found null"),
        (b"\"secret\"", "expected a JSON object, found a string"),
    ];
    for (body, expected) in rows {
        let error = decode(body).unwrap_err();
        assert_eq!(error, DecodeError::Undecodable(expected.to_owned()));
    }
}

#[test]
fn every_event_type_and_alias_is_known_and_others_are_ignored() {
    let base = json!({
        "eventId": "e", "tenantId": "t", "createdAt": 5,
        "entityType": "dialogMember", "entityId": "d:u:v", "actorId": "A",
        "data": {
            "message": {
                "messageId": "m", "senderId": "s",
                "statusUpdate": {"userId": "U2", "status": "READ"},
                "reactionUpdate": {"reaction": "👍", "oldReaction": "$.x"}
            },
            "topic": {"topicId": "tp"}, "user": {"userId": "U3", "type": "bot"}
        }
    });
    let rows = [
        ("message.create", "message.create"),
        ("message.delete", "message.delete"),
        ("message.status.changed", "message.status.changed"),
        ("message.status.update", "message.status.changed"),
        ("message.reaction.changed", "message.reaction.changed"),
        ("message.reaction.update", "message.reaction.changed"),
        ("dialog.messages.bulk_read", "dialog.messages.bulk_read"),
        ("dialog.member.add", "dialog.member.add"),
        ("member.add", "dialog.member.add"),
        ("dialog.member.remove", "dialog.member.remove"),
        ("member.remove", "dialog.member.remove"),
        ("dialog.topic.create", "dialog.topic.create"),
        ("dialog.delete", "dialog.delete"),
        ("user.add", "user.changed"),
        ("user.changed", "user.changed"),
        ("user.update", "user.changed"),
    ];
    for (event_type, canonical) in rows {
        let event = event(&with(base.clone(), "eventType", json!(event_type)));
        assert_eq!(event.fact.event_type().as_str(), canonical);
        match event.fact {
            Fact::MemberAdded {
                dialog,
                user,
                joined_at,
                ..
            } => {
                assert_eq!(
                    (dialog.as_str(), user.as_str(), joined_at.get()),
                    ("d", "u:v", 5_000)
                );
            }
            Fact::StatusReached { user, status, .. } => {
                assert_eq!((user.as_str(), status.as_str()), ("u2", "read"));
            }
            Fact::ReactionChanged { reactions, .. } => {
                assert_eq!(
                    format!("{reactions:?}"),
                    "[(\"👍\", true), (\"$.x\", false)]"
                );
            }
            Fact::UserTyped { user, user_type } => {
                assert_eq!((user.as_str(), user_type.as_str()), ("u3", "bot"));
            }
            _ => {}
        }
    }
    let other = with(
        json!({"createdAt": "no time"}),
        "eventType",
        json!("dialog.typing"),
    );
    assert_eq!(
        decode(other.to_string().as_bytes()).unwrap(),
        Decoded::Ignored {
            event_type: "dialog.typing".into()
        }
    );
}

#[test]
fn read_until_is_given_or_last_seen_or_the_event_time() {
    let base = json!({
        "eventId": "e", "tenantId": "t", "eventType": "dialog.messages.bulk_read", "createdAt": 9,
        "data": {"context": {"dialogId": "d", "userId": "u"}, "member": {"state": {}}}
    });
    let rows = [
        (json!(7), json!(8), 7_000),
        (json!(9), json!(null), 9_000),
        (json!(9.001), json!(null), 9_000),
        (json!("2100-01-01T00:00:00Z"), json!(1), 9_000),
        (json!(null), json!(10), 9_000),
        (json!(null), json!(8), 8_000),
        (json!(null), json!(0), 9_000),
        (json!(null), json!(0.000_1), 9_000),
        (json!(null), json!("1970-01-01T00:00:00Z"), 9_000),
        (json!(null), json!(null), 9_000),
        (json!(0), json!(8), 0),
    ];
    for (read_until, last_seen, expected) in rows {
        let body = with(base.clone(), "data.readUntil", read_until);
        let body = with(body, "data.member.state.lastSeenAt", last_seen);
        let Fact::BulkRead { read_until, .. } = event(&body).fact else {
            panic!()
        };
        assert_eq!(read_until.get(), expected, "{body}");
    }
}

/// What a body says, with a word for each kind of answer.
fn said(body: &str) -> String {
    match decode(body.as_bytes()) {
        Ok(Decoded::Event(event, _)) => format!("event {}", event.fact.event_type()),
        Ok(Decoded::Ignored { event_type }) => format!("ignored {event_type}"),
        Err(DecodeError::Undecodable(error)) => format!("undecodable {error}"),
        Err(DecodeError::Invalid(error)) => format!("invalid_event {error}"),
    }
}

#[test]
fn nothing_in_an_event_that_is_none_of_ours_can_refuse_it() {
    let deep = format!("{}{}", "[".repeat(5_000), "]".repeat(5_000));
    let oddities = [
        r#""\ud800": 1"#,
        r#""x": "\udfff""#,
        r#""createdAt": 1e400"#,
        r#""createdAt": -1e400"#,
        r#""eventId": "\ud800""#,
        r#""tenantId": 1, "tenantId": 2"#,
        r#""data": 1e400"#,
        r#""data": "\ud800""#,
        r#""data": {"message": "\ud800", "user": 1e400}"#,
        r#""data": {"\udc00": {}, "message": {"senderId": "\ud800", "\ud800": 1}}"#,
        r#""data": {"context": {"dialogId": 1, "dialogId": 2}}, "data": {}"#,
        &format!(r#""deep": {deep}"#),
        &format!(r#""data": {deep}"#),
        &format!(r#""data": {{"message": {{"senderId": {deep}}}}}"#),
    ];
    for oddity in oddities {
        for body in [
            format!(r#"{{"eventType": "message.typing", {oddity}}}"#),
            format!(r#"{{{oddity}, "eventType": "message.typing"}}"#),
        ] {
            assert_eq!(said(&body), "ignored message.typing", "{oddity:.80}");
        }
    }
}

#[test]
fn what_is_not_used_of_an_event_may_be_odd_and_what_is_used_may_not() {
    let with = |head: &str, context: &str, rest: &str| {
        format!(
            r#"{{"eventType": "dialog.member.remove", "eventId": "e", {head},
            "data": {{"context": {{"userId": "u", {context}}}, {rest}}}}}"#
        )
    };
    let (head, context, rest) = (
        r#""tenantId": "t", "createdAt": 5"#,
        r#""dialogId": "d""#,
        r#""x": 1"#,
    );
    let time = "expected a time of the years 1970 to 9999 (milliseconds or RFC 3339)";
    let good = "event dialog.member.remove";
    let rows = [
        (with(head, context, rest), good.to_owned()),
        (with(head, context, r#""\ud800": "\ud800""#), good.into()),
        (with(head, context, r#""a": 1, "a": 2"#), good.into()),
        (with(head, context, r#""readUntil": 1e400"#), good.into()),
        (with(head, context, r#""topic": "\ud800""#), good.into()),
        (
            with(
                head,
                context,
                r#""message": {"senderId": 1, "senderId": 2}"#,
            ),
            good.into(),
        ),
        // A body may escape what it need not, keys and values alike.
        (
            with(head, r#""dialog\u0049d": "\u0064""#, rest),
            good.into(),
        ),
        (
            with(r#""tenantId": "t", "createdAt": 1e400"#, context, rest),
            format!("invalid_event createdAt: {time}, found a number out of all range"),
        ),
        (
            with(r#""tenantId": "t\ud800", "createdAt": 5"#, context, rest),
            "invalid_event tenantId: expected a string, found a string with half a surrogate pair"
                .into(),
        ),
        (
            with(
                r#""tenantId": "t", "tenantId": "t", "createdAt": 5"#,
                context,
                rest,
            ),
            "invalid_event tenantId: expected a string, found a key given twice".into(),
        ),
        (
            with(head, context, r#""context": {}"#),
            "invalid_event data.context: expected an object, found a key given twice".into(),
        ),
        (
            r#"{"eventType": "message.create", "eventType": "message.typing"}"#.into(),
            "invalid_event eventType: expected a string, found a key given twice".into(),
        ),
    ];
    for (body, expected) in rows {
        assert_eq!(said(&body), expected, "{body}");
    }
}

#[test]
fn a_reaction_is_set_unset_or_replaced() {
    let base = json!({
        "eventId": "e", "tenantId": "t", "eventType": "message.reaction.changed", "createdAt": 9,
        "entityType": "messageReaction", "entityId": "m", "actorId": "u",
        "data": {"message": {"reactionUpdate": {}}}
    });
    let rows = [
        (json!({"reaction": "+"}), "[(\"+\", true)]"),
        (
            json!({"reaction": "+", "action": "unset"}),
            "[(\"+\", false)]",
        ),
        (
            json!({"reaction": "+", "oldReaction": null}),
            "[(\"+\", true)]",
        ),
        (
            json!({"reaction": "+", "oldReaction": "+"}),
            "[(\"+\", true)]",
        ),
        (
            json!({"reaction": "+", "oldReaction": "-"}),
            "[(\"+\", true), (\"-\", false)]",
        ),
        (
            json!({"reaction": null, "oldReaction": "-"}),
            "[(\"-\", false)]",
        ),
        (
            json!({"reaction": "", "oldReaction": "-", "action": "unset"}),
            "[(\"-\", false)]",
        ),
        (json!({"oldReaction": "-"}), "[(\"-\", false)]"),
    ];
    for (update, expected) in rows {
        let body = with(base.clone(), "data.message.reactionUpdate", update);
        let Fact::ReactionChanged { reactions, .. } = event(&body).fact else {
            panic!()
        };
        assert_eq!(format!("{reactions:?}"), expected, "{body}");
    }
    assert_eq!(
        invalid(&base),
        "data.message.reactionUpdate.reaction: expected a value here or at \
         data.reactionUpdate.reaction, data.message.reactionUpdate.oldReaction, \
         data.reactionUpdate.oldReaction, found nothing"
    );
}

#[test]
fn an_add_is_made_at_most_ten_seconds_before_its_event() {
    let base = json!({
        "eventId": "e", "tenantId": "t", "eventType": "dialog.member.add", "createdAt": 20_000,
        "data": {"context": {"dialogId": "d", "userId": "u"}, "member": {"state": {}}}
    });
    let rows = [
        (json!(null), json!(null), 20_000_000),
        (json!(20_000), json!(null), 20_000_000),
        (json!(10_000), json!(null), 10_000_000),
        (json!(9_999.999), json!(null), 20_000_000),
        (json!(20_000.001), json!(null), 20_000_000),
        (json!(null), json!(15_000), 15_000_000),
        (json!(null), json!(0), 20_000_000),
        (json!(null), json!(9_999), 20_000_000),
        (json!(null), json!(true), 20_000_000),
        (json!(1), json!(15_000), 20_000_000),
    ];
    for (joined_at, last_seen, expected) in rows {
        let body = with(base.clone(), "data.member.joinedAt", joined_at);
        let body = with(body, "data.member.state.lastSeenAt", last_seen);
        let Fact::MemberAdded { made_at, .. } = event(&body).fact else {
            panic!()
        };
        assert_eq!(made_at.get(), expected, "{body}");
    }
}

#[test]
fn a_member_entity_is_read_with_the_dialog_that_data_names() {
    let rows = [
        (json!(null), "d:u", json!(null), "d u"),
        (json!(null), "!a:srv:@b:srv", json!(null), "!a srv:@b:srv"),
        (
            json!("!a:srv"),
            "!a:srv:@b:srv",
            json!(null),
            "!a:srv @b:srv",
        ),
        (json!("d"), "d:u:v", json!(null), "d u:v"),
        (json!("other"), "d:u:v", json!(null), "other u:v"),
        // It begins with the dialog's name, but not with the dialog.
        (json!("d"), "dd:u", json!(null), "d u"),
        // As Chat3 sends the members of a new dialog.
        (json!("d"), "d", json!("u"), "d u"),
        (json!(null), "d", json!("u"), "d u"),
        (json!("!a:srv"), "!a:srv", json!("@b:srv"), "!a:srv @b:srv"),
    ];
    for (dialog, entity, user, expected) in rows {
        let body = json!({
            "eventId": "e", "tenantId": "t", "eventType": "dialog.member.remove", "createdAt": 9,
            "entityType": "dialogMember", "entityId": entity,
            "data": {"context": {"dialogId": dialog, "userId": null}, "member": {"userId": user}}
        });
        let Fact::MemberRemoved { dialog, user } = event(&body).fact else {
            panic!()
        };
        assert_eq!(format!("{dialog} {user}"), expected, "{body}");
    }
    let without = json!({
        "eventId": "e", "tenantId": "t", "eventType": "member.remove", "createdAt": 9,
        "entityType": "dialogMember", "entityId": "!a:srv",
        "data": {"context": {"dialogId": "!a:srv"}}
    });
    assert!(invalid(&without).ends_with("found nothing"), "{without}");
}

#[test]
fn a_sender_type_that_is_not_configured_counts_as_other() {
    let typed = |decoder: &Decoder, body: Json| match decoder.decode(body.to_string().as_bytes()) {
        Ok(Decoded::Event(event, _)) => match event.fact {
            Fact::MessageCreated(message) => message.sender_type.unwrap().as_str().to_owned(),
            Fact::UserTyped { user_type, .. } => user_type.as_str().to_owned(),
            fact => panic!("{fact:?}"),
        },
        other => panic!("{other:?}"),
    };
    let (default, own) = (Decoder::default(), Decoder::new(" agent ,user"));
    let rows = [
        ("user", "user", "user"),
        ("contact", "contact", "other"),
        ("bot", "bot", "other"),
        ("agent", "other", "agent"),
        ("User", "other", "other"),
        ("other", "other", "other"),
    ];
    for (stated, expected, by_own) in rows {
        let create = with(message_create(), "data.message.senderType", json!(stated));
        let learnt = json!({
            "eventId": "e", "tenantId": "t", "eventType": "user.add", "createdAt": 9,
            "data": {"user": {"userId": "u", "type": stated}}
        });
        for body in [create, learnt] {
            assert_eq!(typed(&default, body.clone()), expected);
            assert_eq!(typed(&own, body), by_own);
        }
    }
}

#[test]
fn user_ids_are_trimmed_as_javascript_trims() {
    // Of White_Space, JavaScript leaves U+0085 alone; trimmed all the same.
    let white = "\t\u{b}\u{c} \u{a0}\u{feff}\n\r\u{2028}\u{2029}\u{1680}\u{2000}\u{200a}\u{202f}\u{205f}\u{3000}";
    for c in white.chars().chain(['\u{85}']) {
        let id = UserId::new(&format!("{c}Carl{c}")).unwrap();
        assert_eq!(id.as_str(), "carl", "U+{:04X}", c as u32);
    }
    let inside = UserId::new("a\u{feff}b\u{200b}").unwrap();
    assert_eq!(inside.as_str(), "a\u{feff}b\u{200b}");
}

#[test]
fn times_are_told_as_they_were_stated() {
    let base = |event_type: &str| {
        json!({
            "eventId": "e", "tenantId": "t", "eventType": event_type, "createdAt": 20_000,
            "data": {
                "context": {"dialogId": "d", "userId": "u", "messageId": "m"},
                "message": {"senderId": "u"}, "member": {"state": {}}
            }
        })
    };
    let (create, add, read) = (
        "message.create",
        "dialog.member.add",
        "dialog.messages.bulk_read",
    );
    let (sent, joined) = ("data.message.createdAt", "data.member.joinedAt");
    let (until, seen) = ("data.readUntil", "data.member.state.lastSeenAt");
    type Row<'r> = (&'r str, &'r [(&'r str, Json)], &'r str);
    let rows: [Row<'_>; 13] = [
        (create, &[], ""),
        (create, &[(sent, json!(7))], "data.message.createdAt 7000"),
        (create, &[(joined, json!(7)), (until, json!(7))], ""),
        (add, &[], ""),
        (add, &[(joined, json!(7))], "data.member.joinedAt 7000"),
        (add, &[(joined, json!(0))], "data.member.joinedAt 0"),
        (
            add,
            &[(joined, json!(7)), (seen, json!(8))],
            "data.member.joinedAt 7000",
        ),
        (
            add,
            &[(seen, json!(8))],
            "data.member.state.lastSeenAt 8000",
        ),
        (add, &[(seen, json!(0))], ""),
        (add, &[(seen, json!(true))], ""),
        // Before it is held to the event's own time.
        (
            read,
            &[(until, json!("2100-01-01T00:00:00Z")), (seen, json!(8))],
            "data.readUntil 4102444800000000",
        ),
        (
            read,
            &[(seen, json!(30_000))],
            "data.member.state.lastSeenAt 30000000",
        ),
        ("dialog.member.remove", &[(joined, json!(7))], ""),
    ];
    for (event_type, fields, expected) in rows {
        let body = fields.iter().fold(base(event_type), |body, (path, value)| {
            with(body, path, value.clone())
        });
        let Ok(Decoded::Event(_, times)) = decode(body.to_string().as_bytes()) else {
            panic!("{body}")
        };
        let said = times.subject.map_or(String::new(), |stated| {
            format!("{} {}", stated.field, stated.at.get())
        });
        assert_eq!(said, expected, "{body}");
        assert_eq!(times.event.field, "createdAt");
        assert_eq!(times.event.at.get(), 20_000_000);
    }
}
