//! Real bodies: `tests/chat3/events.json` has events as Chat3 sends them, every
//! type, every alias and every place of a value, and beside each in words what
//! it does. Here the words are compared with what the decoder makes of the
//! bodies, and the counters that all of them give with numbers written by hand.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use chat_counters::bus::{EventHeaders, Publisher};
use chat_counters::deadletter::Failure;
use chat_counters::event::decode::{Decoded, Decoder};
use chat_counters::event::{Event, Fact, Micros, NewMessage};
use chat_counters::grpc::v1;
use chat_counters::grpc::v1::counter_service_client::CounterServiceClient;
use serde::Deserialize;
use serde_json::value::RawValue;
use tonic::transport::Channel;

use crate::kit::service::{PATIENCE, Result, Service};
use crate::world::{World, client};

/// One event of the file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    name: String,
    routing_key: String,
    headers: Headers,
    /// Byte for byte as in the file: it may hold what no JSON value can.
    body: Box<RawValue>,
    /// What the event does, in the words of [`told`].
    does: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Headers {
    event_type: String,
    entity_type: String,
    tenant_id: String,
}

impl Headers {
    fn as_sent(&self) -> EventHeaders<'_> {
        EventHeaders {
            event_type: &self.event_type,
            entity_type: &self.entity_type,
            tenant_id: &self.tenant_id,
        }
    }
}

fn rows() -> Vec<Row> {
    serde_json::from_str(include_str!("../chat3/events.json")).unwrap()
}

/// A time in milliseconds, as the file has them.
fn millis(at: Micros) -> String {
    let (millis, micros) = (at.get() / 1_000, at.get() % 1_000);
    let text = format!("{millis}.{micros:03}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// What an event does, in words.
fn told(event: &Event) -> String {
    let when = |at: Micros| {
        if at == event.stamp.at {
            "then".to_owned()
        } else {
            millis(at)
        }
    };
    let mut told = match &event.fact {
        Fact::MessageCreated(message) => told_message(message, &when(message.sent_at)),
        Fact::MessageDeleted { message } => format!("{message} is deleted"),
        Fact::StatusReached {
            message,
            user,
            status,
        } => format!("{user} reached {status} on {message}"),
        Fact::ReactionChanged {
            message,
            user,
            reactions,
        } => {
            let words = reactions.iter().map(|(reaction, set)| {
                let verb = if *set { "sets" } else { "unsets" };
                format!("{verb} {reaction}")
            });
            let words = words.collect::<Vec<_>>().join(" and ");
            format!("{user} {words} on {message}")
        }
        Fact::BulkRead {
            dialog,
            user,
            read_until,
        } => format!("{user} read {dialog} up to {}", when(*read_until)),
        Fact::MemberAdded {
            dialog,
            user,
            joined_at,
            made_at,
        } => {
            let (joined, made) = (when(*joined_at), when(*made_at));
            format!("{user} joins {dialog} from {joined} on, made {made}")
        }
        Fact::MemberRemoved { dialog, user } => format!("{user} leaves {dialog}"),
        Fact::TopicCreated { dialog, topic } => format!("topic {topic} in {dialog}"),
        Fact::DialogDeleted { dialog } => format!("dialog {dialog} is deleted"),
        Fact::UserTyped { user, user_type } => format!("{user} is of type {user_type}"),
    };
    let dialog = event.dialog_hint.as_ref();
    let dialog = dialog.map_or("no dialog".to_owned(), ToString::to_string);
    let actor = event.actor.as_ref();
    let actor = actor.map_or("nobody".to_owned(), ToString::to_string);
    let (tenant, at) = (&event.tenant, millis(event.stamp.at));
    let _ = write!(told, "; {tenant}, {dialog}, at {at} by {actor}");
    told
}

fn told_message(message: &NewMessage, sent: &str) -> String {
    let NewMessage {
        dialog,
        message: id,
        sender,
        sender_type,
        system,
        ..
    } = message;
    let kind = if *system { "system message" } else { "message" };
    let stated = sender_type.as_ref();
    let sender_type = stated.map_or("no stated type".to_owned(), |stated| {
        format!("type {stated}")
    });
    format!("{kind} {id} in {dialog} by {sender} of {sender_type}, sent {sent}")
}

#[test]
fn each_body_does_what_its_row_says() {
    let decoder = Decoder::default();
    for row in rows() {
        let found = match decoder.decode(row.body.get().as_bytes()) {
            Ok(Decoded::Event(event, _)) => told(&event),
            Ok(Decoded::Ignored { event_type }) => format!("ignored as {event_type}"),
            Err(error) => Failure::from(error).to_string(),
        };
        assert_eq!(found, row.does, "{}", row.name);
    }
}

/// Of a body, what stands around it as well.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    event_id: String,
    tenant_id: String,
    event_type: String,
    entity_type: String,
}

#[test]
fn rows_are_named_and_sent_as_chat3_sends_them() {
    let (mut names, mut ids) = (BTreeSet::new(), BTreeSet::new());
    for row in rows() {
        let body: Envelope = serde_json::from_str(row.body.get()).unwrap();
        let headers = row.headers.as_sent();
        assert_eq!(row.routing_key, headers.routing_key(), "{}", row.name);
        assert_eq!(
            (headers.event_type, headers.entity_type, headers.tenant_id),
            (
                body.event_type.as_str(),
                body.entity_type.as_str(),
                body.tenant_id.as_str()
            ),
            "{}",
            row.name
        );
        assert!(ids.insert(body.event_id), "{}: its event id", row.name);
        names.insert(row.name);
    }
    assert!(names.len() > 50, "{names:?}");
}

/// Every type and alias that counts; a new one needs a row.
#[test]
fn every_type_that_counts_has_a_row() {
    let rows = rows();
    let sent: BTreeSet<_> = rows
        .iter()
        .filter(|row| !row.does.starts_with("ignored"))
        .map(|row| row.headers.event_type.as_str())
        .collect();
    let known = [
        "dialog.delete",
        "dialog.member.add",
        "dialog.member.remove",
        "dialog.messages.bulk_read",
        "dialog.topic.create",
        "member.add",
        "member.remove",
        "message.create",
        "message.delete",
        "message.reaction.changed",
        "message.reaction.update",
        "message.status.changed",
        "message.status.update",
        "user.add",
        "user.changed",
        "user.update",
    ];
    assert_eq!(sent.into_iter().collect::<Vec<_>>(), known);
}

/// How the file is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sending {
    InOrder,
    InReverse,
    EachTwice,
}

impl Sending {
    fn copies(self) -> u64 {
        match self {
            Sending::EachTwice => 2,
            _ => 1,
        }
    }

    fn arrange(self, rows: &[Row]) -> Vec<&Row> {
        match self {
            Sending::InOrder => rows.iter().collect(),
            Sending::InReverse => rows.iter().rev().collect(),
            Sending::EachTwice => rows.iter().flat_map(|row| [row, row]).collect(),
        }
    }
}

async fn publish(world: &World, rows: &[&Row]) -> Result<()> {
    let mut publisher = Publisher::connect(&world.config.bus).await?;
    for row in rows {
        let headers = row.headers.as_sent();
        let body = row.body.get().as_bytes();
        publisher
            .publish(&row.routing_key, Some(&headers), body)
            .await?;
    }
    let tally = tokio::time::timeout(PATIENCE, publisher.finish()).await??;
    assert_eq!(tally.confirmed, rows.len() as u64, "{tally:?}");
    Ok(())
}

type Client = CounterServiceClient<Channel>;
type Counts = &'static [(&'static str, i64)];

fn counts(counts: Counts) -> BTreeMap<String, i64> {
    let counts = counts.iter().map(|(name, count)| ((*name).into(), *count));
    counts.collect()
}

fn found(counts: impl IntoIterator<Item = (String, i64)>) -> BTreeMap<String, i64> {
    counts.into_iter().collect()
}

/// What is unread by the type of its sender. The only type in the file that has
/// to be learnt is that of the bot who sent `msg_6`: in another order it may be
/// presumed, which is `user`.
struct Split {
    learnt: Counts,
    presumed: Counts,
}

const fn stated(split: Counts) -> Split {
    Split {
        learnt: split,
        presumed: split,
    }
}

impl Split {
    fn check(&self, found: BTreeMap<String, i64>, sending: Sending, whose: &str) {
        let is_learnt = found == counts(self.learnt);
        let may_presume = sending == Sending::InReverse;
        let is_right = is_learnt || may_presume && found == counts(self.presumed);
        assert!(is_right, "{sending:?}: {whose}: by type: {found:?}");
    }
}

/// Tenant and user: dialogs, unread dialogs, unread, sent; by type.
const USERS: &[(&str, &str, [i64; 4], Split)] = &[
    ("tnt_1", "usr_1", [1, 1, 1, 3], stated(&[("user", 1)])),
    ("tnt_1", "usr_2", [1, 1, 4, 2], UNREAD_BY_USR_2),
    ("tnt_1", "usr_3", [1, 1, 4, 1], UNREAD_BY_USR_3),
    ("tnt_1", "usr_4", [1, 1, 1, 0], stated(&[("user", 1)])),
    ("tnt_1", "usr_5", [0, 0, 0, 0], stated(&[])),
    ("tnt_1", "usr_6", [0, 0, 0, 1], stated(&[])),
    ("tnt_1", "usr_8", [0, 0, 0, 0], stated(&[])),
    ("tnt_1", "bot_1", [0, 0, 0, 2], stated(&[])),
    ("tnt_1", "cnt_1", [0, 0, 0, 1], stated(&[])),
    ("tnt_1", "usr:7", [1, 0, 0, 0], stated(&[])),
    ("tnt_1", "@usr:srv.org", [1, 0, 0, 1], stated(&[])),
    ("tnt_2", "usr_1", [0, 0, 0, 1], stated(&[])),
    ("tnt_2", "usr_2", [1, 1, 1, 0], stated(&[("user", 1)])),
];

/// Of `msg_2`, `msg_3`, `msg_5` and `msg_6`.
const UNREAD_BY_USR_2: Split = Split {
    learnt: &[("bot", 2), ("contact", 1), ("other", 1)],
    presumed: &[("bot", 1), ("contact", 1), ("other", 1), ("user", 1)],
};

/// Of `msg_5`, `msg_6`, `msg_9` and `msg_10`.
const UNREAD_BY_USR_3: Split = Split {
    learnt: &[("bot", 1), ("other", 1), ("user", 2)],
    presumed: &[("other", 1), ("user", 3)],
};

/// Tenant, user and dialog: a member, unread; by type.
const SHARES: &[(&str, &str, &str, bool, i64, Split)] = &[
    ("tnt_1", "usr_1", "dlg_1", true, 1, stated(&[("user", 1)])),
    ("tnt_1", "usr_2", "dlg_1", true, 4, UNREAD_BY_USR_2),
    ("tnt_1", "usr_3", "dlg_1", true, 4, UNREAD_BY_USR_3),
    ("tnt_1", "usr_4", "dlg_1", true, 1, stated(&[("user", 1)])),
    ("tnt_1", "usr_5", "dlg_1", false, 0, stated(&[])),
    ("tnt_1", "usr_8", "dlg_1", false, 0, stated(&[])),
    ("tnt_1", "usr_1", "dlg_3", false, 0, stated(&[])),
    ("tnt_1", "usr:7", "dlg_2", true, 0, stated(&[])),
    (
        "tnt_1",
        "@usr:srv.org",
        "!dlg:srv.org",
        true,
        0,
        stated(&[]),
    ),
    ("tnt_1", "usr_1", "!dlg:srv.org", false, 0, stated(&[])),
    ("tnt_2", "usr_2", "dlg_1", true, 1, stated(&[("user", 1)])),
];

/// Tenant and dialog: messages, members, topics.
const DIALOGS: &[(&str, &str, [i64; 3])] = &[
    ("tnt_1", "dlg_1", [8, 4, 2]),
    ("tnt_1", "dlg_2", [0, 1, 0]),
    ("tnt_1", "dlg_3", [0, 0, 0]),
    ("tnt_1", "dlg_4", [0, 0, 0]),
    ("tnt_1", "!dlg:srv.org", [2, 1, 0]),
    ("tnt_2", "dlg_1", [1, 1, 0]),
];

/// Tenant and message: by status, by reaction, members who have read it.
const MESSAGES: &[(&str, &str, Counts, Counts, i64)] = &[
    (
        "tnt_1",
        "msg_1",
        &[("read", 1), ("delivered", 1), ("unread", 1)],
        &[("👍", 1), ("🔥", 1)],
        2,
    ),
    ("tnt_1", "msg_2", &[("read", 2)], &[], 2),
    ("tnt_1", "msg_3", &[("delivered", 1)], &[], 2),
    ("tnt_1", "msg_4", &[], &[], 1),
    ("tnt_1", "msg_5", &[], &[], 1),
    ("tnt_1", "msg_6", &[], &[], 1),
    ("tnt_1", "msg_7", &[], &[], 0),
    ("tnt_1", "msg_8", &[], &[], 1),
    ("tnt_1", "msg_9", &[("read", 1)], &[], 1),
    ("tnt_1", "msg_10", &[], &[], 0),
    ("tnt_1", "msg_11", &[], &[], 0),
    ("tnt_1", "msg_12", &[], &[], 0),
    ("tnt_1", "msg_13", &[], &[], 0),
    ("tnt_2", "msg_1", &[], &[], 0),
];

/// Types that change no counter: one event each.
const IGNORED: &[&str] = &[
    "dialog.changed",
    "dialog.create",
    "dialog.member.changed",
    "dialog.member.update",
    "dialog.topic.changed",
    "dialog.typing",
    "dialog.update",
    "message.changed",
    "message.update",
    "pack.changed",
    "pack.create",
    "pack.delete",
    "pack.dialog.add",
    "pack.dialog.remove",
    "tenant.create",
    "tenant.delete",
    "tenant.update",
    "user.presence",
    "user.remove",
];

async fn users_are_right(client: &mut Client, sending: Sending) -> Result<()> {
    for (tenant, user, [dialogs, unread_dialogs, unread, sent], split) in USERS {
        let request = v1::GetUserStatsRequest {
            tenant_id: (*tenant).into(),
            user_id: (*user).into(),
            after_event_id: String::new(),
            ..Default::default()
        };
        let stats = client.get_user_stats(request).await?.into_inner();
        assert_eq!(
            (
                stats.dialog_count,
                stats.unread_dialogs_count,
                stats.total_unread_count,
                stats.total_messages_count
            ),
            (*dialogs, *unread_dialogs, *unread, *sent),
            "{sending:?}: {tenant} {user}"
        );
        split.check(found(stats.unread_by_sender_type), sending, user);
    }
    Ok(())
}

async fn shares_are_right(client: &mut Client, sending: Sending) -> Result<()> {
    for (tenant, user, dialog, member, unread, split) in SHARES {
        let request = v1::GetUserDialogStatsRequest {
            tenant_id: (*tenant).into(),
            user_id: (*user).into(),
            dialog_id: (*dialog).into(),
            after_event_id: String::new(),
            ..Default::default()
        };
        let stats = client.get_user_dialog_stats(request).await?.into_inner();
        let whose = format!("{tenant} {user} in {dialog}");
        assert_eq!(
            (stats.member, stats.unread_count),
            (*member, *unread),
            "{sending:?}: {whose}"
        );
        split.check(found(stats.unread_by_sender_type), sending, &whose);
    }
    Ok(())
}

async fn dialogs_are_right(client: &mut Client, sending: Sending) -> Result<()> {
    for (tenant, dialog, expected) in DIALOGS {
        let request = v1::GetDialogStatsRequest {
            tenant_id: (*tenant).into(),
            dialog_id: (*dialog).into(),
            after_event_id: String::new(),
            ..Default::default()
        };
        let stats = client.get_dialog_stats(request).await?.into_inner();
        assert_eq!(
            [stats.message_count, stats.member_count, stats.topic_count],
            *expected,
            "{sending:?}: {tenant} {dialog}"
        );
    }
    Ok(())
}

async fn messages_are_right(client: &mut Client, sending: Sending) -> Result<()> {
    for (tenant, message, statuses, reactions, read) in MESSAGES {
        let request = v1::GetMessageStatsRequest {
            tenant_id: (*tenant).into(),
            message_id: (*message).into(),
            after_event_id: String::new(),
        };
        let stats = client.get_message_stats(request).await?.into_inner();
        assert_eq!(
            (
                found(stats.status_counts),
                found(stats.reaction_counts),
                stats.read_count
            ),
            (counts(statuses), counts(reactions), *read),
            "{sending:?}: {tenant} {message}"
        );
    }
    Ok(())
}

async fn what_is_ignored_is_told(service: &Service, sending: Sending) -> Result<()> {
    let metric = "chat_counters_ignored_events_total";
    for event_type in IGNORED {
        let label = format!("event_type=\"{event_type}\"");
        let told = service.counter(metric, &label).await?;
        assert_eq!(told, sending.copies(), "{sending:?}: {event_type}");
    }
    let all = IGNORED.len() as u64 * sending.copies();
    assert_eq!(service.counter(metric, "").await?, all, "{sending:?}");
    Ok(())
}

#[tokio::test]
async fn what_chat3_sends_counts_as_written_in_any_order() -> Result<()> {
    let rows = rows();
    for sending in [Sending::InOrder, Sending::InReverse, Sending::EachTwice] {
        let world = World::new("chat3");
        let service = world.service().await?;
        let sent = sending.arrange(&rows);
        publish(&world, &sent).await?;
        service.has_settled(sent.len() as u64).await?;
        let mut client = client(&service).await?;
        users_are_right(&mut client, sending).await?;
        shares_are_right(&mut client, sending).await?;
        dialogs_are_right(&mut client, sending).await?;
        messages_are_right(&mut client, sending).await?;
        what_is_ignored_is_told(&service, sending).await?;
        let letters = &world.config.bus.dead_letter_queue;
        assert_eq!(world.depth(letters).await?, 0, "{sending:?}: dead letters");
        let dead = service
            .counter("chat_counters_dead_letters_total", "")
            .await?;
        assert_eq!(dead, 0, "{sending:?}: dead letters");
        let implausible = "chat_counters_implausible_times_total";
        assert_eq!(service.counter(implausible, "").await?, 0, "{sending:?}");
        service.stop().await?;
    }
    Ok(())
}
