//! The schema and the decoder, side by side.

use std::cell::RefCell;
use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, TestRunner};
use serde_json::value::RawValue;

use super::*;
use crate::committed::assert_in_step;
use crate::event::decode::Decoder;

fn decoder_accepts(event: &Json) -> bool {
    Decoder::default()
        .decode(event.to_string().as_bytes())
        .is_ok()
}

fn agree(event: &Json) {
    assert_agrees(event, decoder_accepts(event));
}

#[test]
fn the_schema_in_the_repository_is_this_one() {
    let made = format!("{:#}\n", schema());
    assert_in_step(FILE, &made, "UPDATE_SCHEMA=1 cargo test --lib schema");
}

#[test]
fn each_example_is_accepted_by_both() {
    for event_type in EventType::ALL {
        for name in event_type.names() {
            let mut event = contract::example(event_type);
            event["eventType"] = (*name).into();
            assert!(decoder_accepts(&event), "{event:#}");
            assert_agrees(&event, true);
        }
    }
}

/// Events as Chat3 sends them are as the schema says.
#[test]
fn each_body_of_chat3_is_as_the_schema_says() {
    #[derive(serde::Deserialize)]
    struct Row {
        body: Box<RawValue>,
    }
    let rows = include_str!("../../../../tests/chat3/events.json");
    let rows: Vec<Row> = serde_json::from_str(rows).unwrap();
    let mut no_values = 0;
    for Row { body } in &rows {
        let decoded = Decoder::default().decode(body.get().as_bytes());
        assert!(decoded.is_ok(), "{body}: {decoded:?}");
        match serde_json::from_str(body.get()) {
            Ok(event) => assert_agrees(&event, true),
            // Half a surrogate pair, and a number beyond any: where nobody looks the
            // service passes over them, and most validators cannot read them.
            Err(_) => no_values += 1,
        }
    }
    assert_eq!((rows.len() > 30, no_values), (true, 2));
}

/// An event that says everything everywhere: mutations take it apart.
fn rich() -> Json {
    let update = json!({
        "userId": "cid", "status": "Read", "reaction": "+1", "oldReaction": "heart", "action": "set",
    });
    json!({
        "eventId": "e", "tenantId": "t", "eventType": "message.create",
        "entityType": "dialogMember", "entityId": "dlg:ann", "actorId": "ann", "createdAt": 7.5,
        "data": {
            "context": { "dialogId": "dlg", "messageId": "m", "userId": "bob" },
            "dialog": { "dialogId": "dlg" },
            "message": {
                "dialogId": "dlg", "messageId": "m", "senderId": "bob", "senderType": "bot",
                "senderInfo": { "type": "user" }, "type": "system.x", "createdAt": 5,
                "statusUpdate": update, "reactionUpdate": update,
            },
            "member": { "userId": "bob", "joinedAt": 3, "state": { "lastSeenAt": 4 } },
            "topic": { "topicId": "top" },
            "user": { "userId": "bob", "type": "bot" },
            "statusUpdate": update, "reactionUpdate": update,
            "readUntil": 6, "type": "contact",
        },
    })
}

/// Everything in an event that a pointer leads to, sections before what is in them.
fn pointers(event: &Json) -> Vec<String> {
    let Json::Object(fields) = event else {
        return Vec::new();
    };
    let below = |(key, value): (&String, &Json)| {
        let inner = pointers(value);
        let inner = inner.into_iter().map(|inner| format!("/{key}{inner}"));
        Vec::from_iter(std::iter::once(format!("/{key}")).chain(inner))
    };
    fields.iter().flat_map(below).collect()
}

/// Puts a value in a place, or takes away what is there.
fn put(event: &mut Json, pointer: &str, value: Option<Json>) {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let Some(Json::Object(fields)) = event.pointer_mut(parent) else {
        return;
    };
    match value {
        Some(value) => drop(fields.insert(key.to_owned(), value)),
        None => drop(fields.remove(key)),
    }
}

/// Values that some place takes and others do not, or that say nothing.
fn odd_values() -> Vec<Json> {
    let texts = [
        "",
        "x",
        " X\t",
        " ",
        "\u{feff}",
        "\u{85}a\u{85}",
        "a\u{7}b",
        "\u{9f}",
        "a\nb",
        "a\n",
        "\nb",
        "a:b",
        ":",
        "a:",
        ":b",
        "a: ",
        "a:b:c",
        "a:\u{1}",
        "dlg",
        "dlg:",
        "dlg:x",
        "dlg:x:y",
        "set",
        "unset",
        "SET",
        "read",
        "no status",
        "system.",
        "dialog",
        "dialogMember",
        "user",
        "message",
        "messageStatus",
        "messageReaction",
        "👍",
        "2025-11-19T11:22:49Z",
        "2025-11-19t11:22:49.397648z",
        "2025-02-29T11:22:49Z",
        "2025-11-19T11:22:49+25:00",
        "2025-11-19T24:00:00Z",
        "2025-11-19",
        "1968-01-01T00:00:00Z",
        "9999-12-31T23:59:59Z",
        "1970-01-01T00:00:00Z",
        "2025-11-19 11:22:49Z",
        "2016-12-31T23:59:60Z",
        "2025-11-19T11:22:49",
        "20251119T112249Z",
    ];
    let long = [
        "x".repeat(64),
        "x".repeat(65),
        "x".repeat(512),
        "x".repeat(513),
        "ü".repeat(256),
        "ü".repeat(257),
        "ü".repeat(513),
        "İ".repeat(256),
        format!("{:600}y", ""),
        format!("a:{}", "x".repeat(512)),
        format!("a:{}", "x".repeat(513)),
        format!("{}:a", "x".repeat(512)),
        format!("{}:a", "x".repeat(513)),
    ];
    let others = [
        json!(null),
        json!(true),
        json!([]),
        json!([1]),
        json!({}),
        json!({ "x": 1 }),
        json!(0),
        json!(-0.0),
        json!(-1),
        json!(-0.0004),
        json!(0.5),
        json!(1_763_551_369_397.648_2),
        json!(253_402_300_799_999_i64),
        json!(253_402_300_799_999.96),
        json!(253_402_300_800_000_i64),
        json!(1e300),
        json!(u64::MAX),
        json!(i64::MIN),
    ];
    let texts = texts
        .into_iter()
        .map(str::to_owned)
        .chain(long)
        .map(Json::from);
    texts.chain(others).collect()
}

fn all_names() -> impl Iterator<Item = &'static str> {
    EventType::ALL
        .into_iter()
        .flat_map(|event_type| event_type.names().iter().copied())
}

/// Each place of an example is taken away, and given each odd value.
#[test]
fn one_change_of_an_example_is_judged_alike_by_both() {
    for event_type in EventType::ALL {
        let example = contract::example(event_type);
        for pointer in pointers(&example) {
            for value in odd_values().into_iter().map(Some).chain([None]) {
                let mut event = example.clone();
                put(&mut event, &pointer, value);
                agree(&event);
            }
        }
    }
}

/// An event of any type that has some of all places, and some odd values in them.
fn mutated() -> impl Strategy<Value = Json> {
    let rich = rich();
    let pointers = pointers(&rich);
    let places = pointers.len();
    let kinds = [
        "dialogMember",
        "dialog",
        "message",
        "messageStatus",
        "user",
        "dialogMember",
        "other",
    ];
    (
        select(Vec::from_iter(all_names())),
        select(kinds.to_vec()),
        // Few places, and many: with all of them the first alone would be read.
        (0.05..0.95_f64).prop_flat_map(move |share| {
            proptest::collection::vec(proptest::bool::weighted(share), places)
        }),
        proptest::collection::vec((any::<Index>(), select(odd_values())), 0..4),
    )
        .prop_map(move |(event_type, entity_type, kept, odd)| {
            let mut event = rich.clone();
            event["eventType"] = event_type.into();
            event["entityType"] = entity_type.into();
            for (pointer, kept) in pointers.iter().zip(kept) {
                let is_envelope = ["/eventId", "/tenantId", "/eventType", "/createdAt", "/data"];
                if !kept
                    && !is_envelope.contains(&pointer.as_str())
                    && event.pointer(pointer).is_some_and(|at| !at.is_object())
                {
                    put(&mut event, pointer, None);
                }
            }
            for (place, value) in odd {
                put(
                    &mut event,
                    &pointers[place.index(pointers.len())],
                    Some(value),
                );
            }
            event
        })
}

/// What the schema accepts the decoder accepts, and the other way round; of each
/// type there are events that both accept, and events that both refuse.
#[test]
fn any_event_is_judged_alike_by_both() {
    let judged = RefCell::new(BTreeMap::<(String, bool), usize>::new());
    let mut runner = TestRunner::new(Config::with_cases(4_000));
    let run = runner.run(&mutated(), |event| {
        let accepted = decoder_accepts(&event);
        assert_agrees(&event, accepted);
        if exception(&event).is_none()
            && let Some(event_type) = event["eventType"].as_str()
        {
            let judged = &mut *judged.borrow_mut();
            *judged.entry((event_type.to_owned(), accepted)).or_default() += 1;
        }
        Ok(())
    });
    run.unwrap();
    let judged = judged.into_inner();
    for name in all_names() {
        for accepted in [true, false] {
            let count = judged.get(&(name.to_owned(), accepted)).copied();
            assert!(count > Some(5), "{name} {accepted}: {count:?}");
        }
    }
}

/// Each exception is one: were the two to agree, it would have to go.
#[test]
fn each_exception_is_needed() {
    let with = |pointer: &str, value: Json| {
        let mut event = contract::example(EventType::MemberAdd);
        put(&mut event, pointer, Some(value));
        event
    };
    let mut member = with("/entityId", "a:b".into());
    member["entityType"] = "dialogMember".into();
    member["data"]["context"] = json!({ "dialogId": "a:b" });
    let rows = [
        (with("/eventId", "ü".repeat(257).into()), false),
        (with("/createdAt", "1969-12-31T23:30:00-01:00".into()), true),
        (with("/createdAt", "2025-11-19 11:22:49Z".into()), true),
        (with("/createdAt", json!(-0.0004)), true),
        (member, false),
    ];
    for (event, accepted) in rows {
        let by_schema = COMPILED.with(|compiled| compiled.accepts(&event));
        assert!(exception(&event).is_some(), "{event:#}");
        assert_eq!(
            (decoder_accepts(&event), by_schema),
            (accepted, !accepted),
            "{event:#}"
        );
    }
}

/// A schema that is not the contract is found out: each keyword counts.
#[test]
fn a_schema_with_anything_else_in_it_is_found_out() {
    let events = || {
        let whole = EventType::ALL.into_iter().flat_map(|event_type| {
            let example = contract::example(event_type);
            let pointers = pointers(&example);
            pointers.into_iter().flat_map(move |pointer| {
                let example = example.clone();
                let values = odd_values().into_iter().map(Some).chain([None]);
                values.map(move |value| {
                    let mut event = example.clone();
                    put(&mut event, &pointer, value);
                    event
                })
            })
        });
        whole.filter(|event| exception(event).is_none())
    };
    let found_out = |change: &dyn Fn(&mut Json)| {
        let mut schema = schema();
        change(&mut schema);
        let compiled = Compiled::new(schema);
        events().any(|event| compiled.accepts(&event) != decoder_accepts(&event))
    };
    let changes: [&dyn Fn(&mut Json); 6] = [
        &|schema| {
            drop(
                schema["$defs"]["id"]
                    .as_object_mut()
                    .unwrap()
                    .remove("pattern"),
            )
        },
        &|schema| schema["$defs"]["id"]["maxLength"] = 511.into(),
        &|schema| schema["$defs"]["statusName"]["pattern"] = "^[a-z0-9_-]{1,64}$".into(),
        &|schema| schema["$defs"]["time"]["anyOf"][0]["minimum"] = 1.into(),
        &|schema| {
            drop(
                schema["$defs"]["message.create"]["allOf"]
                    .as_array_mut()
                    .unwrap()
                    .pop(),
            )
        },
        &|schema| drop(schema["allOf"].as_array_mut().unwrap().pop()),
    ];
    for (number, change) in changes.into_iter().enumerate() {
        assert!(found_out(change), "change {number} passes unseen");
    }
}
