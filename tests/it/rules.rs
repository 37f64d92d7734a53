//! The rules of the counters one by one: what events mean, in numbers written
//! by hand. Each row is derived in every order of arrival, with every event
//! delivered twice; and it is what the independent model must say, too, which
//! the property test takes for its measure.

use chat_counters::derive::LoadMode;
use chat_counters::event::Event;
use serde_json::{Value, json};

use crate::derive::{compare, decoded};
use crate::events::{
    TENANT, Wire, bulk_read, delete, join, leave, message, reaction, status, topic,
};
use crate::kit::model::Model;
use crate::memory::{Memory, Writer};

const D: &str = "dlg";

/// A counter of the dialog [`D`], or of a user over all dialogs.
#[derive(Debug, Clone, Copy)]
enum Of {
    Unread(&'static str),
    UnreadFrom(&'static str, &'static str),
    Member(&'static str),
    Messages,
    Members,
    Topics,
    Status(&'static str, &'static str),
    Reaction(&'static str, &'static str),
    ReadBy(&'static str),
    Sent(&'static str),
    Dialogs(&'static str),
    UnreadDialogs(&'static str),
    TotalUnread(&'static str),
}
use Of::*;

struct Row {
    rule: &'static str,
    events: Vec<Wire>,
    counters: Vec<(Of, i64)>,
}

fn row(
    rule: &'static str,
    events: impl Into<Vec<Wire>>,
    counters: impl Into<Vec<(Of, i64)>>,
) -> Row {
    Row {
        rule,
        events: events.into(),
        counters: counters.into(),
    }
}

/// Ann and Bob are in the dialog from 1 ms on.
fn both() -> [Wire; 2] {
    [join("a1", D, "ann", 1), join("b1", D, "bob", 1)]
}

fn with(events: impl IntoIterator<Item = Wire>) -> Vec<Wire> {
    both().into_iter().chain(events).collect()
}

/// An event with another value somewhere in its data.
fn changed(wire: Wire, pointer: &str, value: Value) -> Wire {
    edited(wire, |body| *body.pointer_mut(pointer).unwrap() = value)
}

fn edited(wire: Wire, edit: impl FnOnce(&mut Value)) -> Wire {
    let mut body: Value = serde_json::from_slice(&wire.body).unwrap();
    edit(&mut body);
    Wire {
        body: body.to_string().into_bytes(),
        ..wire
    }
}

/// A create whose message states its own time.
fn stating(wire: Wire, at: i64) -> Wire {
    let mut body: Value = serde_json::from_slice(&wire.body).unwrap();
    body["data"]["message"]["createdAt"] = json!(at);
    Wire {
        body: body.to_string().into_bytes(),
        ..wire
    }
}

/// Creates of one message that disagree, Bob having read up to 50 ms.
fn creates_that_disagree() -> Vec<Row> {
    let create = |event: &str, at| message(event, D, "m", "ann", at);
    let typed = |wire, kind: Value| changed(wire, "/data/message/senderInfo/type", kind);
    let read = || bulk_read("r", D, "bob", 50);
    let once = |unread| {
        [
            (Unread("bob"), unread),
            (Messages, 1),
            (Sent("ann"), 1),
            (Unread("ann"), 0),
        ]
    };
    vec![
        row(
            "a time that a message states is believed before that of an event",
            with([read(), create("e1", 60), stating(create("e2", 70), 40)]),
            once(0),
        ),
        row(
            "also when that makes the message later",
            with([read(), create("e1", 30), stating(create("e2", 70), 60)]),
            once(1),
        ),
        row(
            "of two stated times, that of the earlier event is believed",
            with([
                read(),
                stating(create("e2", 60), 55),
                stating(create("e1", 70), 40),
            ]),
            once(1),
        ),
        row(
            "of two events' own times, the earlier one is believed",
            with([read(), create("e2", 45), create("e1", 60)]),
            once(0),
        ),
        row(
            "of two events at one time, the one with the lower id is believed",
            with([
                read(),
                stating(create("e1", 60), 55),
                stating(create("e2", 60), 40),
            ]),
            once(1),
        ),
        row(
            "a stated type is believed before a presumed one",
            with([
                typed(create("e1", 60), Value::Null),
                typed(create("e2", 70), json!("bot")),
            ]),
            [
                (UnreadFrom("bob", "bot"), 1),
                (UnreadFrom("bob", "user"), 0),
                (Unread("bob"), 1),
            ],
        ),
        row(
            "of two stated types, that of the earlier event is believed",
            with([
                typed(create("e2", 60), json!("contact")),
                typed(create("e1", 70), json!("bot")),
            ]),
            [
                (UnreadFrom("bob", "contact"), 1),
                (UnreadFrom("bob", "bot"), 0),
            ],
        ),
        row(
            "time and type may come from different creates",
            with([
                read(),
                stating(typed(create("e1", 70), Value::Null), 60),
                typed(create("e2", 40), json!("bot")),
            ]),
            [(UnreadFrom("bob", "bot"), 1), (Unread("bob"), 1)],
        ),
        row(
            "what was read one by one stays read wherever the message moves",
            with([
                create("e1", 40),
                stating(create("e2", 70), 60),
                status("s", D, "m", "bob", "read", 80),
            ]),
            once(0),
        ),
        row(
            "a deleted message stays deleted whatever a better create says",
            with([
                create("e1", 40),
                stating(create("e2", 70), 60),
                delete("x", "m", 50),
            ]),
            [(Unread("bob"), 0), (Messages, 0), (Sent("ann"), 0)],
        ),
        row(
            "a message moves behind a join, and no longer concerns who joined",
            [
                join("a1", D, "ann", 1),
                join("b1", D, "bob", 50),
                create("e1", 60),
                stating(create("e2", 70), 40),
            ],
            once(0),
        ),
    ]
}

fn deleted_dialog(id: &str, at: i64) -> Wire {
    let body = json!({
        "eventId": id, "tenantId": TENANT, "eventType": "dialog.delete",
        "createdAt": at, "data": { "context": { "dialogId": D } },
    });
    Wire {
        event_type: "dialog.delete".into(),
        entity_type: "dialog".into(),
        body: body.to_string().into_bytes(),
    }
}

fn messages() -> Vec<Row> {
    let m = |id: &str, sender: &str, at| message(&format!("e_{id}"), D, id, sender, at);
    let typed = |wire, kind: &str| changed(wire, "/data/message/senderInfo/type", json!(kind));
    let system = |wire| changed(wire, "/data/message/type", json!("system.joined"));
    vec![
        row(
            "a message is unread for every member but its sender",
            with([m("m1", "ann", 5)]),
            [
                (Unread("bob"), 1),
                (Unread("ann"), 0),
                (Messages, 1),
                (Sent("ann"), 1),
            ],
        ),
        row(
            "someone who is no member has no unread",
            [join("b1", D, "bob", 1), m("m1", "ann", 5)],
            [
                (Unread("ann"), 0),
                (Unread("carl"), 0),
                (Sent("ann"), 1),
                (Members, 1),
            ],
        ),
        row(
            "unread is split by the sender's type",
            with([
                typed(m("m1", "ann", 5), "bot"),
                m("m2", "ann", 6),
                typed(m("m3", "ann", 7), "bot"),
            ]),
            [
                (Unread("bob"), 3),
                (UnreadFrom("bob", "bot"), 2),
                (UnreadFrom("bob", "user"), 1),
            ],
        ),
        row(
            "a system message is a message, and never unread",
            with([system(m("m1", "ann", 5))]),
            [(Unread("bob"), 0), (Messages, 1), (Sent("ann"), 1)],
        ),
        row(
            "the same message under two event ids counts once",
            with([m("m1", "ann", 5), message("e_again", D, "m1", "ann", 5)]),
            [(Unread("bob"), 1), (Messages, 1), (Sent("ann"), 1)],
        ),
        row(
            "a deleted message never counts, whenever its create comes",
            with([m("m1", "ann", 5), delete("x", "m1", 3), m("m2", "ann", 6)]),
            [(Unread("bob"), 1), (Messages, 1), (Sent("ann"), 1)],
        ),
        row(
            "a deleted message has no message counters",
            with([
                m("m1", "ann", 5),
                status("s", D, "m1", "bob", "read", 6),
                reaction("r", "m1", "bob", "+1", "set", 6),
                delete("x", "m1", 7),
            ]),
            [
                (Status("m1", "read"), 0),
                (Reaction("m1", "+1"), 0),
                (Unread("bob"), 0),
            ],
        ),
        row(
            "of a deleted dialog nothing is left, but what was sent there",
            with([
                m("m1", "ann", 5),
                topic("t", D, "t1", 2),
                deleted_dialog("x", 3),
            ]),
            [
                (Messages, 0),
                (Members, 0),
                (Topics, 0),
                (Unread("bob"), 0),
                (Member("bob"), 0),
                (Sent("ann"), 1),
                (Dialogs("bob"), 0),
            ],
        ),
        row(
            "in a deleted dialog messages go on being sent and deleted",
            [
                m("m1", "ann", 5),
                m("m2", "ann", 6),
                system(m("m3", "ann", 7)),
                deleted_dialog("x", 3),
                delete("y", "m2", 8),
            ],
            [(Sent("ann"), 2), (Messages, 0)],
        ),
    ]
}

fn memberships() -> Vec<Row> {
    let m = |id: &str, at| message(&format!("e_{id}"), D, id, "ann", at);
    vec![
        row(
            "a message at the time of the join is unread, one before it is not",
            [join("b1", D, "bob", 5), m("m1", 5), m("m2", 4)],
            [(Unread("bob"), 1), (Messages, 2)],
        ),
        row(
            "who left has nothing unread and is no member",
            with([m("m1", 5), leave("b2", D, "bob", 6)]),
            [
                (Unread("bob"), 0),
                (Member("bob"), 0),
                (Members, 1),
                (Dialogs("bob"), 0),
            ],
        ),
        row(
            "a second add while a member changes nothing",
            with([m("m1", 5), join("b2", D, "bob", 9)]),
            [(Unread("bob"), 1), (Members, 2)],
        ),
        row(
            "a re-add starts afresh",
            [
                join("b1", D, "bob", 1),
                m("m1", 5),
                leave("b2", D, "bob", 6),
                join("b3", D, "bob", 7),
                m("m2", 8),
            ],
            [(Unread("bob"), 1), (Members, 1)],
        ),
        row(
            "the earliest add after the latest remove tells the join",
            [
                leave("b1", D, "bob", 2),
                join("b2", D, "bob", 3),
                join("b3", D, "bob", 7),
                m("m1", 4),
            ],
            [(Unread("bob"), 1)],
        ),
        row(
            "a remove that is older than the add does not matter",
            [
                join("b1", D, "bob", 5),
                leave("b2", D, "bob", 4),
                m("m1", 6),
            ],
            [(Member("bob"), 1), (Unread("bob"), 1)],
        ),
        row(
            "of an add and a remove at once, the higher event id is the later: the remove",
            [join("b1", D, "bob", 5), leave("b2", D, "bob", 5)],
            [(Member("bob"), 0), (Members, 0)],
        ),
        row(
            "of an add and a remove at once, the higher event id is the later: the add",
            [
                join("b9", D, "bob", 5),
                leave("b2", D, "bob", 5),
                m("m1", 5),
            ],
            [(Member("bob"), 1), (Unread("bob"), 1)],
        ),
        row(
            "names that differ in case and white space are one user",
            [join("b1", D, " BoB ", 1), m("m1", 5)],
            [(Unread("bob"), 1), (Members, 1)],
        ),
        row(
            "topics are distinct",
            [
                topic("t1", D, "one", 1),
                topic("t2", D, "two", 2),
                topic("t3", D, "one", 3),
            ],
            [(Topics, 2)],
        ),
        row(
            "a user's numbers are the sums over the dialogs",
            with([
                join("b2", "other", "bob", 1),
                m("m1", 5),
                m("m2", 6),
                message("e3", "other", "m3", "ann", 7),
            ]),
            [
                (Dialogs("bob"), 2),
                (UnreadDialogs("bob"), 2),
                (TotalUnread("bob"), 3),
                (Sent("ann"), 3),
            ],
        ),
    ]
}

fn reads() -> Vec<Row> {
    let m = |id: &str, at| message(&format!("e_{id}"), D, id, "ann", at);
    let read = |id: &str, of: &str, at| status(id, D, of, "bob", "read", at);
    vec![
        row(
            "a message that was read is not unread",
            with([m("m1", 5), m("m2", 6), read("s1", "m1", 7)]),
            [(Unread("bob"), 1), (Status("m1", "read"), 1)],
        ),
        row(
            "read twice under two event ids is read once",
            with([
                m("m1", 5),
                m("m2", 6),
                read("s1", "m1", 7),
                read("s2", "m1", 8),
            ]),
            [(Unread("bob"), 1), (Status("m1", "read"), 1)],
        ),
        row(
            "read is final: what comes later does not bring the message back",
            with([
                m("m1", 5),
                read("s1", "m1", 7),
                status("s2", D, "m1", "bob", "unread", 9),
            ]),
            [
                (Unread("bob"), 0),
                (Status("m1", "unread"), 1),
                (Status("m1", "read"), 1),
            ],
        ),
        row(
            "delivered does not read",
            with([m("m1", 5), status("s1", D, "m1", "bob", "Delivered", 6)]),
            [(Unread("bob"), 1), (Status("m1", "delivered"), 1)],
        ),
        row(
            "a bulk read covers what is as old as it says, and nothing later",
            with([
                m("m1", 5),
                m("m2", 6),
                m("m3", 7),
                bulk_read("r", D, "bob", 6),
            ]),
            [(Unread("bob"), 1)],
        ),
        row(
            "a bulk read never goes backwards",
            with([
                m("m1", 5),
                bulk_read("r1", D, "bob", 5),
                bulk_read("r2", D, "bob", 4),
            ]),
            [(Unread("bob"), 0)],
        ),
        row(
            "a message read singly and in bulk is read once",
            with([
                m("m1", 5),
                m("m2", 9),
                read("s1", "m1", 6),
                bulk_read("r1", D, "bob", 7),
            ]),
            [(Unread("bob"), 1)],
        ),
        row(
            "a bulk read of someone who is no member holds when they join",
            [
                bulk_read("r", D, "bob", 8),
                join("b1", D, "bob", 1),
                m("m1", 5),
                m("m2", 9),
            ],
            [(Unread("bob"), 1)],
        ),
        row(
            "a bulk read from before a re-add still holds",
            [
                join("b1", D, "bob", 1),
                bulk_read("r", D, "bob", 8),
                leave("b2", D, "bob", 2),
                join("b3", D, "bob", 3),
                m("m1", 5),
            ],
            [(Unread("bob"), 0)],
        ),
        row(
            "what was read before a re-add is still read after it",
            [
                leave("b1", D, "bob", 2),
                join("b2", D, "bob", 3),
                m("m1", 5),
                read("s1", "m1", 1),
                m("m2", 6),
            ],
            [(Unread("bob"), 1)],
        ),
    ]
}

/// Who has seen a message.
fn readers() -> Vec<Row> {
    let m = |id: &str, at| message(&format!("e_{id}"), D, id, "ann", at);
    let read = |id: &str, of: &str, user: &str, at| status(id, D, of, user, "read", at);
    vec![
        row(
            "read one by one or in bulk, and by the same one in both ways: once",
            [
                join("b1", D, "bob", 1),
                join("c1", D, "carl", 1),
                m("m1", 5),
                read("s1", "m1", "bob", 6),
                bulk_read("r1", D, "bob", 5),
                bulk_read("r2", D, "carl", 5),
            ],
            [(ReadBy("m1"), 2), (Status("m1", "read"), 1)],
        ),
        row(
            "a bulk read covers what is as old as it says, and nothing later",
            with([
                m("m1", 5),
                m("m2", 6),
                m("m3", 7),
                bulk_read("r", D, "bob", 6),
            ]),
            [(ReadBy("m1"), 1), (ReadBy("m2"), 1), (ReadBy("m3"), 0)],
        ),
        row(
            "the sender is no reader, whatever they say",
            with([
                m("m1", 5),
                read("s", "m1", "ann", 6),
                bulk_read("r", D, "ann", 7),
            ]),
            [(ReadBy("m1"), 0), (Status("m1", "read"), 1)],
        ),
        row(
            "only members are readers: who left, or never came, is none",
            with([
                m("m1", 5),
                read("s1", "m1", "bob", 6),
                read("s2", "m1", "eve", 6),
                leave("b2", D, "bob", 7),
            ]),
            [(ReadBy("m1"), 0), (Status("m1", "read"), 2)],
        ),
        row(
            "who joined after a message is no reader of it, one by one or in bulk",
            [
                join("b1", D, "bob", 6),
                m("m1", 5),
                m("m2", 6),
                read("s1", "m1", "bob", 7),
                bulk_read("r1", D, "bob", 8),
            ],
            [(ReadBy("m1"), 0), (ReadBy("m2"), 1)],
        ),
        row(
            "a bulk read from before a re-add still holds for what was there to see",
            [
                join("b1", D, "bob", 1),
                bulk_read("r", D, "bob", 8),
                leave("b2", D, "bob", 2),
                join("b3", D, "bob", 5),
                m("m1", 4),
                m("m2", 5),
            ],
            [(ReadBy("m1"), 0), (ReadBy("m2"), 1)],
        ),
        row(
            "other words than read do not make a reader",
            with([m("m1", 5), status("s", D, "m1", "bob", "delivered", 6)]),
            [(ReadBy("m1"), 0), (Status("m1", "delivered"), 1)],
        ),
        row(
            "a system message has readers, too",
            with([
                changed(m("m1", 5), "/data/message/type", json!("system.joined")),
                bulk_read("r", D, "bob", 5),
            ]),
            [(ReadBy("m1"), 1), (Unread("bob"), 0)],
        ),
        row(
            "a deleted message has no readers",
            with([m("m1", 5), read("s", "m1", "bob", 6), delete("x", "m1", 7)]),
            [(ReadBy("m1"), 0)],
        ),
        row(
            "a message of a deleted dialog has no readers",
            with([
                m("m1", 5),
                read("s", "m1", "bob", 6),
                deleted_dialog("x", 7),
            ]),
            [(ReadBy("m1"), 0)],
        ),
        row(
            "a message whose create is not known has no readers",
            with([read("s", "m1", "bob", 6), bulk_read("r", D, "bob", 9)]),
            [(ReadBy("m1"), 0), (Status("m1", "read"), 1)],
        ),
    ]
}

fn reactions() -> Vec<Row> {
    let m1 = || message("e1", D, "m1", "ann", 5);
    vec![
        row(
            "a reaction counts users, not words",
            [
                m1(),
                reaction("r1", "m1", "bob", "+1", "set", 6),
                reaction("r2", "m1", "bob", "+1", "set", 7),
                reaction("r3", "m1", "ann", "+1", "set", 8),
            ],
            [(Reaction("m1", "+1"), 2)],
        ),
        row(
            "the latest word holds: unset",
            [
                m1(),
                reaction("r1", "m1", "bob", "+1", "set", 6),
                reaction("r2", "m1", "bob", "+1", "unset", 7),
            ],
            [(Reaction("m1", "+1"), 0)],
        ),
        row(
            "the latest word holds: set again",
            [
                m1(),
                reaction("r1", "m1", "bob", "+1", "unset", 6),
                reaction("r2", "m1", "bob", "+1", "set", 7),
            ],
            [(Reaction("m1", "+1"), 1)],
        ),
        row(
            "at the same time the higher event id has the latest word",
            [
                m1(),
                reaction("r1", "m1", "bob", "+1", "set", 6),
                reaction("r2", "m1", "bob", "+1", "unset", 6),
            ],
            [(Reaction("m1", "+1"), 0)],
        ),
        row(
            "a status and a reaction may be known before their message",
            [
                status("s1", D, "m2", "bob", "read", 1),
                reaction("r1", "m2", "bob", "a.$b|:🎉", "set", 2),
            ],
            [
                (Status("m2", "read"), 1),
                (Reaction("m2", "a.$b|:🎉"), 1),
                (Messages, 0),
            ],
        ),
    ]
}

/// What Chat3 sends and says in ways of its own.
fn as_chat3_says_it() -> Vec<Row> {
    let m = |id: &str, at| message(&format!("e_{id}"), D, id, "ann", at);
    let made = |wire, field: &'static str, at: i64| {
        edited(wire, |body| match field {
            "joinedAt" => body["data"]["member"]["joinedAt"] = json!(at),
            _ => body["data"]["member"]["state"] = json!({ "lastSeenAt": at }),
        })
    };
    let unset = |id: &str, at| {
        edited(reaction(id, "m1", "bob", "", "unset", at), |body| {
            body["data"]["message"]["reactionUpdate"] =
                json!({ "userId": "bob", "reaction": null, "oldReaction": "+1" });
        })
    };
    let read_ahead = |id: &str, until: i64, at: i64| {
        edited(bulk_read(id, D, "bob", until), |body| {
            body["createdAt"] = json!(at)
        })
    };
    let from = |wire, kind: &str| changed(wire, "/data/message/senderInfo/type", json!(kind));
    let by_entity = |wire, entity: &'static str| {
        edited(wire, |body| {
            body["entityId"] = json!(entity);
            body["data"]["member"] = json!({});
        })
    };
    vec![
        row(
            "a reaction is unset by naming none and the old one",
            [
                m("m1", 5),
                reaction("r1", "m1", "bob", "+1", "set", 6),
                unset("r2", 7),
            ],
            [(Reaction("m1", "+1"), 0)],
        ),
        row(
            "an unset that names the old reaction is older than a set that follows",
            [
                m("m1", 5),
                unset("r1", 6),
                reaction("r2", "m1", "bob", "+1", "set", 7),
            ],
            [(Reaction("m1", "+1"), 1)],
        ),
        row(
            "an add whose membership was made before the remove is before it",
            [
                made(join("b1", D, "bob", 8), "joinedAt", 5),
                leave("b2", D, "bob", 6),
                m("m1", 9),
            ],
            [(Member("bob"), 0), (Members, 0), (Unread("bob"), 0)],
        ),
        row(
            "an add is as old as its member was last seen, where no join is told",
            [
                made(join("b1", D, "bob", 8), "lastSeenAt", 5),
                leave("b2", D, "bob", 6),
            ],
            [(Member("bob"), 0), (Members, 0)],
        ),
        row(
            "an add whose membership was made just 10 s before it is as old as that",
            [
                made(join("b1", D, "bob", 10_005), "joinedAt", 5),
                leave("b2", D, "bob", 6),
            ],
            [(Member("bob"), 0)],
        ),
        row(
            "a join further back than 10 s shows history and orders nothing",
            [
                made(join("b1", D, "bob", 10_006), "joinedAt", 5),
                leave("b2", D, "bob", 6),
                m("m1", 5),
            ],
            [(Member("bob"), 1), (Unread("bob"), 1)],
        ),
        row(
            "a join later than its event orders nothing, and hides what is before it",
            [
                made(join("b1", D, "bob", 5), "joinedAt", 8),
                leave("b2", D, "bob", 6),
                leave("b3", D, "carl", 6),
                made(join("b4", D, "carl", 7), "joinedAt", 8),
                m("m1", 7),
                m("m2", 8),
            ],
            [(Member("bob"), 0), (Member("carl"), 1), (Unread("carl"), 1)],
        ),
        row(
            "who reads ahead of the event has read what was there",
            with([m("m1", 6), m("m2", 7), read_ahead("r", 100, 6)]),
            [(Unread("bob"), 1)],
        ),
        row(
            "a sender type that is not told apart is other",
            with([
                from(m("m1", 5), "alien"),
                from(m("m2", 6), "bot"),
                from(m("m3", 7), "Bot"),
            ]),
            [
                (Unread("bob"), 3),
                (UnreadFrom("bob", "other"), 2),
                (UnreadFrom("bob", "bot"), 1),
                (UnreadFrom("bob", "alien"), 0),
            ],
        ),
        row(
            "the user of a member's entity stands after the dialog that the data names",
            [
                by_entity(join("b1", D, "", 1), "dlg:@bob:srv"),
                by_entity(join("b2", "!x:srv", "", 1), "!x:srv:@bob:srv"),
                m("m1", 5),
            ],
            [
                (Unread("@bob:srv"), 1),
                (Members, 1),
                (Dialogs("@bob:srv"), 2),
            ],
        ),
        row(
            "a member of a dialog that is made stands in the data, its entity is the dialog",
            [
                edited(join("b1", D, "bob", 1), |body| {
                    body["entityId"] = json!(D);
                    body["data"]["context"]["userId"] = Value::Null;
                }),
                m("m1", 5),
            ],
            [(Unread("bob"), 1), (Members, 1)],
        ),
        row(
            "a byte order mark around a name is white space",
            [join("b1", D, "\u{feff}Bob\u{feff} ", 1), m("m1", 5)],
            [(Unread("bob"), 1), (Members, 1)],
        ),
    ]
}

fn found(model: &Model, of: Of) -> i64 {
    let named = |counts: &std::collections::BTreeMap<String, i64>, name: &str| {
        counts.get(name).copied().unwrap_or_default()
    };
    let in_dialog = |user| model.user_dialog(TENANT, user, D);
    match of {
        Unread(user) => in_dialog(user).unread_count,
        UnreadFrom(user, kind) => named(&in_dialog(user).unread_by_sender_type, kind),
        Member(user) => i64::from(in_dialog(user).member),
        Messages => model.dialog(TENANT, D).message_count,
        Members => model.dialog(TENANT, D).member_count,
        Topics => model.dialog(TENANT, D).topic_count,
        Status(message, status) => named(&model.message(TENANT, message).status_counts, status),
        Reaction(message, name) => named(&model.message(TENANT, message).reaction_counts, name),
        ReadBy(message) => model.message(TENANT, message).read_count,
        Sent(user) => model.user(TENANT, user).total_messages_count,
        Dialogs(user) => model.user(TENANT, user).dialog_count,
        UnreadDialogs(user) => model.user(TENANT, user).unread_dialogs_count,
        TotalUnread(user) => model.user(TENANT, user).total_unread_count,
    }
}

/// Calls with every order of the numbers below `count`.
fn orders(count: usize, mut with: impl FnMut(&[usize])) {
    fn go(order: &mut Vec<usize>, from: usize, with: &mut impl FnMut(&[usize])) {
        if from == order.len() {
            with(order);
        }
        for index in from..order.len() {
            order.swap(from, index);
            go(order, from + 1, with);
            order.swap(from, index);
        }
    }
    go(&mut (0..count).collect(), 0, &mut with);
}

#[test]
fn every_rule_holds_in_every_order() {
    let rows = [
        messages(),
        creates_that_disagree(),
        memberships(),
        reads(),
        readers(),
        reactions(),
        as_chat3_says_it(),
    ];
    for Row {
        rule,
        events,
        counters,
    } in rows.into_iter().flatten()
    {
        let bodies = crate::events::bodies(&events);
        let model = Model::of(&bodies);
        for (of, expected) in counters {
            assert_eq!(found(&model, of), expected, "{rule}: {of:?}");
        }
        let events: Vec<Event> = bodies.iter().map(decoded).collect();
        orders(events.len(), |order| {
            let (mut memory, mut writer) = (Memory::default(), Writer::default());
            for index in order {
                let twice = [events[*index].clone(), events[*index].clone()];
                writer.take(&mut memory, &twice, LoadMode::Optimistic);
            }
            let checked = std::panic::catch_unwind(|| compare(&memory, &model));
            assert!(checked.is_ok(), "{rule}: in the order {order:?}");
        });
    }
}
