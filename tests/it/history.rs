//! Histories over gRPC and on the command line: what each event did to each
//! counter, in numbers written by hand; what was before; what is wrong.

use std::collections::BTreeMap;

use chat_counters::event::{TenantId, UserId};
use chat_counters::grpc::v1;
use chat_counters::history::PageRequest;
use chat_counters::store::read::{History, HistoryScope, ReadError};
use chat_counters::store::{CommitFeed, Reader, Store};
use mongodb::bson::{Document, doc};
use serde_json::Value;
use tokio::time::Instant;
use tonic::{Code, Status};

use crate::command_line::{command, stderr, stdout};
use crate::events::{
    self, TENANT, Wire, bulk_read, delete, dialog_delete, join, leave, message, reaction, status,
    topic,
};
use crate::kit::read_back;
use crate::kit::scenario::Scenario;
use crate::kit::service::{PATIENCE, Result, Service};
use crate::verify::{assert_clean, small_dialog, spoil, verify};
use crate::world::{World, client};

/// Whose history: user, dialog, message; empty where it is not of one.
type Of<'s> = (&'s str, &'s str, &'s str);
/// A counter, and the events that change it, with by how much.
type Row<'s> = (Of<'s>, &'s str, &'s [(&'s str, i64)]);

fn request((user, dialog, message): Of<'_>, counter: &str) -> v1::ListCounterHistoryRequest {
    v1::ListCounterHistoryRequest {
        tenant_id: TENANT.into(),
        user_id: user.into(),
        dialog_id: dialog.into(),
        message_id: message.into(),
        counter: counter.into(),
        page_size: 500,
        ..Default::default()
    }
}

async fn ask(
    service: &Service,
    request: v1::ListCounterHistoryRequest,
) -> std::result::Result<v1::ListCounterHistoryResponse, Status> {
    let mut client = client(service).await.unwrap();
    let answer = client.list_counter_history(request).await?;
    Ok(answer.into_inner())
}

/// A whole history, page by page, after a look at what must always hold.
async fn whole(
    service: &Service,
    mut request: v1::ListCounterHistoryRequest,
) -> Result<Vec<v1::CounterHistoryEntry>> {
    let mut entries = Vec::new();
    let values = loop {
        let page = ask(service, request.clone()).await?;
        entries.extend(page.entries);
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break page.current_values;
        }
    };
    let mut sums: BTreeMap<String, i64> = BTreeMap::new();
    let oldest_first: Vec<_> = match request.newest_first {
        true => entries.iter().rev().collect(),
        false => entries.iter().collect(),
    };
    for entry in oldest_first {
        let sum = sums.entry(entry.counter.clone()).or_default();
        assert_eq!(entry.old_value, *sum, "{entry:?}");
        assert_eq!(entry.new_value, entry.old_value + entry.delta);
        *sum = entry.new_value;
    }
    sums.retain(|_, sum| *sum != 0);
    assert_eq!(sums, values);
    Ok(entries)
}

/// Event, or type where there is none, and delta of each change of a counter.
async fn changes(service: &Service, of: Of<'_>, counter: &str) -> Result<Vec<(String, i64)>> {
    let entries = whole(service, request(of, counter)).await?;
    let named = entries.into_iter().map(|entry| {
        let name = match entry.source_event_id.is_empty() {
            true => entry.source_event_type,
            false => entry.source_event_id,
        };
        (name, entry.delta)
    });
    Ok(named.collect())
}

async fn assert_changes(
    service: &Service,
    of: Of<'_>,
    counter: &str,
    expected: &[(&str, i64)],
) -> Result<()> {
    let found = changes(service, of, counter).await?;
    let found: Vec<_> = found
        .iter()
        .map(|(name, delta)| (name.as_str(), *delta))
        .collect();
    assert_eq!(found, expected, "{counter} of {of:?}");
    Ok(())
}

/// Publishes events one after the other, each counted before the next.
async fn in_order(world: &World, service: &Service, events: &[Wire]) -> Result<()> {
    for event in events {
        let settled = service.settled().await?;
        world.publish([event]).await?;
        service.has_settled(settled + 1).await?;
    }
    Ok(())
}

/// Bob's unread rises with what others write; he reads, leaves, comes back.
fn story() -> Vec<Wire> {
    vec![
        join("e1", "d", "bob", 1),
        join("e2", "d", "ann", 1),
        message("e3", "d", "m1", "ann", 10),
        message("e4", "d", "m2", "ann", 20),
        bulk_read("e5", "d", "bob", 10),
        // Late: behind what Bob has read.
        message("e6", "d", "m3", "ann", 5),
        status("e7", "d", "m2", "bob", "read", 25),
        // The same under another id.
        status("e8", "d", "m2", "bob", "read", 26),
        message("e9", "d", "m4", "ann", 30),
        leave("e10", "d", "bob", 40),
        join("e11", "d", "bob", 50),
        message("e12", "d", "m5", "ann", 60),
        message("e13", "d", "m6", "ann", 61),
        delete("e14", "m5", 62),
        reaction("e15", "m6", "bob", "a.$b", "set", 63),
        reaction("e16", "m6", "ann", "a.$b", "set", 64),
        reaction("e17", "m6", "bob", "a.$b", "unset", 65),
        topic("e18", "d", "t", 66),
        join("e19", "c", "bob", 67),
        message("e20", "c", "n1", "ann", 68),
        message("e21", "c", "n2", "bob", 69),
        // Read after its deletion: of no consequence any more.
        status("e22", "d", "m5", "bob", "read", 70),
        dialog_delete("e23", "d", 71),
        message("e24", "d", "m7", "ann", 72),
    ]
}

#[tokio::test]
async fn each_event_is_shown_with_what_it_changed() -> Result<()> {
    let world = World::new("history_story");
    let service = world.service().await?;
    in_order(&world, &service, &story()).await?;
    let unread = [
        ("e3", 1),
        ("e4", 1),
        ("e5", -1),
        ("e7", -1),
        ("e9", 1),
        ("e10", -1),
        ("e12", 1),
        ("e13", 1),
        ("e14", -1),
        ("e23", -1),
    ];
    for counter in ["unread_count", "unread_by_sender_type.user"] {
        assert_changes(&service, ("bob", "d", ""), counter, &unread).await?;
    }
    let rows: [Row<'_>; 13] = [
        (("ann", "d", ""), "", &[]),
        (
            ("", "d", ""),
            "member_count",
            &[("e1", 1), ("e2", 1), ("e10", -1), ("e11", 1), ("e23", -2)],
        ),
        (
            ("", "d", ""),
            "message_count",
            &[
                ("e3", 1),
                ("e4", 1),
                ("e6", 1),
                ("e9", 1),
                ("e12", 1),
                ("e13", 1),
                ("e14", -1),
                ("e23", -5),
            ],
        ),
        (("", "d", ""), "topic_count", &[("e18", 1), ("e23", -1)]),
        (
            ("", "", "m2"),
            "status_counts.read",
            &[("e7", 1), ("e23", -1)],
        ),
        (
            ("", "", "m6"),
            "reaction_counts.a.$b",
            &[("e15", 1), ("e16", 1), ("e17", -1), ("e23", -1)],
        ),
        (("", "", "m5"), "", &[]),
        (
            ("bob", "", ""),
            "dialog_count",
            &[("e1", 1), ("e10", -1), ("e11", 1), ("e19", 1), ("e23", -1)],
        ),
        (("bob", "", ""), "total_messages_count", &[("e21", 1)]),
        (
            ("bob", "", ""),
            "unread_dialogs_count",
            &[
                ("e3", 1),
                ("e7", -1),
                ("e9", 1),
                ("e10", -1),
                ("e12", 1),
                ("e20", 1),
                ("e23", -1),
            ],
        ),
        (("bob", "c", ""), "unread_count", &[("e20", 1)]),
        (
            ("ann", "", ""),
            "total_messages_count",
            &[
                ("e3", 1),
                ("e4", 1),
                ("e6", 1),
                ("e9", 1),
                ("e12", 1),
                ("e13", 1),
                ("e14", -1),
                ("e20", 1),
                // Nothing for the end of the dialog, and one more after it.
                ("e24", 1),
            ],
        ),
        (("nobody", "", ""), "", &[]),
    ];
    for (of, counter, expected) in rows {
        assert_changes(&service, of, counter, expected).await?;
    }
    service.stop().await
}

#[tokio::test]
async fn an_entry_says_who_what_when_and_where() -> Result<()> {
    let world = World::new("history_entry");
    let service = world.service().await?;
    let events = [
        join("e1", "d", "bob", 1),
        message("e2", "d", "m", "ann", 10_001),
    ];
    in_order(&world, &service, &events).await?;
    let mut asked = request(("bob", "d", ""), "unread_count");
    asked.after_event_id = "e2".into();
    let page = ask(&service, asked).await?;
    let [entry] = page.entries.as_slice() else {
        panic!("one entry: {page:?}");
    };
    assert_eq!(entry.source_event_id, "e2");
    assert_eq!(entry.source_event_type, "message.create");
    assert_eq!((entry.counter.as_str(), entry.delta), ("unread_count", 1));
    assert_eq!((entry.old_value, entry.new_value), (0, 1));
    assert_eq!(
        (entry.actor_id.as_str(), entry.dialog_id.as_str()),
        ("actor", "d")
    );
    assert_eq!(entry.reason, "");
    let occurred = entry.occurred_at.ok_or("no time of the event")?;
    assert_eq!((occurred.seconds, occurred.nanos), (10, 1_000_000));
    let applied = entry.applied_at.ok_or("no time of the count")?;
    let now = std::time::UNIX_EPOCH.elapsed()?.as_secs() as i64;
    assert!((now - 600..=now).contains(&applied.seconds), "{applied:?}");
    assert_eq!(page.current_values, [("unread_count".into(), 1)].into());

    // From that moment on, and up to it.
    for (since, until, expected) in [
        (Some(applied), None, 1),
        (None, Some(applied), 0),
        (None, None, 1),
    ] {
        let mut asked = request(("bob", "d", ""), "unread_count");
        (asked.since, asked.until) = (since, until);
        let page = ask(&service, asked).await?;
        assert_eq!(page.entries.len(), expected, "{since:?} {until:?}");
    }
    service.stop().await
}

#[tokio::test]
async fn pages_join_up_while_events_arrive() -> Result<()> {
    let world = World::new("history_pages");
    let (service, _) = small_dialog(&world).await?;
    for of in [
        ("bob", "d", ""),
        ("bob", "", ""),
        ("", "d", ""),
        ("", "", "msg_m_0"),
    ] {
        let all = whole(&service, request(of, "")).await?;
        assert!(!all.is_empty());
        for newest_first in [false, true] {
            let mut asked = request(of, "");
            (asked.newest_first, asked.page_size) = (newest_first, 2);
            let mut paged = whole(&service, asked).await?;
            if newest_first {
                paged.reverse();
            }
            assert_eq!(paged, all, "{of:?}");
        }
    }
    // The newest first; then more events; the next page begins where it would.
    let of = ("bob", "d", "");
    let all = whole(&service, request(of, "unread_count")).await?;
    let mut asked = request(of, "unread_count");
    (asked.newest_first, asked.page_size) = (true, 4);
    let first = ask(&service, asked.clone()).await?;
    in_order(&world, &service, &events::messages("n", "d", 3, 600)).await?;
    asked.page_token = first.next_page_token;
    let second = ask(&service, asked.clone()).await?;
    let seen = [first.entries, second.entries].concat();
    let expected: Vec<_> = all.into_iter().rev().take(8).collect();
    assert_eq!(seen, expected);

    // A token opens the next page of its own query only.
    asked.newest_first = false;
    let refused = ask(&service, asked).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    service.stop().await
}

#[tokio::test]
async fn what_cannot_be_asked_is_told_by_field() -> Result<()> {
    let world = World::new("history_invalid");
    let service = world.service().await?;
    let rows = [
        (("", "", ""), "", "user_id"),
        (("bob", "", "m"), "", "message_id"),
        (("bob", "d", ""), "no_such_counter", "counter"),
        (("bob", "d", ""), "message_count", "counter"),
        (("", "", "m"), "status_counts.", "counter"),
        (("", "", "m"), "read_count", "counter"),
        (("bob\n", "d\n", ""), "", "dialog_id"),
    ];
    for (of, counter, field) in rows {
        let refused = ask(&service, request(of, counter)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        assert!(refused.message().contains(field), "{field}: {refused}");
    }
    service.stop().await
}

#[tokio::test]
async fn more_than_one_call_may_replay_is_refused() -> Result<()> {
    let world = World::new("history_limit");
    let (service, _) = small_dialog(&world).await?;
    let store = Store::connect(&world.config.store).await?;
    let reader = Reader::new(store, CommitFeed::new());
    let mut query = History {
        tenant: TenantId::new(TENANT)?,
        scope: HistoryScope::User(UserId::new("bob")?),
        counter: None,
        part: PageRequest {
            limit: 1,
            ..PageRequest::default()
        },
        most: 5,
    };
    let deadline = Instant::now() + PATIENCE;
    let refused = reader.ask(&query, None, deadline).await.unwrap_err();
    assert!(matches!(refused, ReadError::TooMuch(5)), "{refused}");
    query.most = 100;
    reader.ask(&query, None, deadline).await?;
    service.stop().await
}

/// Takes the oldest half of the journal away, as its retention does.
async fn forget_half(world: &World) -> Result<()> {
    let journal = world.database().await?.collection::<Document>("journal");
    let events = doc! { "_id.t": { "$ne": "" } };
    let count = journal.count_documents(events).await?;
    forget(world, count / 2).await
}

/// Takes so many of the oldest records away.
async fn forget(world: &World, count: u64) -> Result<()> {
    let journal = world.database().await?.collection::<Document>("journal");
    // The record before all others goes first.
    journal
        .delete_one(doc! { "type": "counters.origin" })
        .await?;
    let mut oldest = journal
        .find(doc! { "_id.t": { "$ne": "" } })
        .sort(doc! { "applied_at": 1, "version": 1 })
        .limit(i64::try_from(count)?)
        .await?;
    let mut ids = Vec::new();
    while oldest.advance().await? {
        ids.push(oldest.deserialize_current()?.get_document("_id")?.clone());
    }
    journal.delete_many(doc! { "_id": { "$in": ids } }).await?;
    Ok(())
}

#[tokio::test]
async fn past_the_retention_a_balance_stands_for_what_was() -> Result<()> {
    let world = World::new("history_balance");
    let service = world.service().await?;
    // Without the end of the dialog.
    in_order(&world, &service, &story()[..22]).await?;
    forget_half(&world).await?;
    let balance = "counters.balance";
    // Events up to e11 are gone.
    let rows: [Row<'_>; 5] = [
        (
            ("bob", "d", ""),
            "unread_count",
            &[("e12", 1), ("e13", 1), ("e14", -1)],
        ),
        (
            ("", "d", ""),
            "message_count",
            &[(balance, 4), ("e12", 1), ("e13", 1), ("e14", -1)],
        ),
        (("", "d", ""), "member_count", &[(balance, 2)]),
        (("", "", "m2"), "", &[(balance, 1)]),
        (("bob", "", ""), "dialog_count", &[(balance, 1), ("e19", 1)]),
    ];
    for (of, counter, expected) in rows {
        assert_changes(&service, of, counter, expected).await?;
    }
    // Without e12: what it created was unread then, though it is deleted now,
    // and read after that.
    forget(&world, 1).await?;
    let expected = [(balance, 1), ("e13", 1), ("e14", -1)];
    assert_changes(&service, ("bob", "d", ""), "unread_count", &expected).await?;
    // What Bob has unread now was there before all that is left.
    let gone = doc! { "d": "d" };
    let journal = world.database().await?.collection::<Document>("journal");
    journal.delete_many(gone).await?;
    let expected = [(balance, 1)];
    assert_changes(&service, ("bob", "d", ""), "unread_count", &expected).await?;
    service.stop().await
}

#[tokio::test]
async fn a_scenario_sums_to_what_is_served_with_half_its_journal_too() -> Result<()> {
    let scenario = Scenario::small(7);
    let world = World::new("history_scenario");
    let service = world.service().await?;
    let published = scenario.published.iter().map(|published| Wire {
        event_type: published.event_type.clone(),
        entity_type: published.entity_type.clone(),
        body: published.body.clone(),
    });
    let published: Vec<_> = published.collect();
    world.publish(&published).await?;
    service.has_settled(published.len() as u64).await?;
    let model = crate::kit::model::Model::of(&scenario.events);
    let comparison = read_back::compare(&mut client(&service).await?, &model).await?;
    assert!(comparison.differences.is_empty());
    let users = model.users().into_iter();
    let users = users.map(|(tenant, user)| (tenant, user, String::new(), String::new()));
    let pairs = model.user_dialogs().into_iter();
    let pairs = pairs.map(|(tenant, user, dialog)| (tenant, user, dialog, String::new()));
    let dialogs = model.dialogs().into_iter();
    let dialogs = dialogs.map(|(tenant, dialog)| (tenant, String::new(), dialog, String::new()));
    let messages = model.messages().into_iter();
    let messages = messages.map(|(tenant, id)| (tenant, String::new(), String::new(), id));
    let all: Vec<_> = users.chain(pairs).chain(dialogs).chain(messages).collect();
    for round in 0..2 {
        for (tenant, user, dialog, message) in &all {
            let mut asked = request((user, dialog, message), "");
            asked.tenant_id.clone_from(tenant);
            for entry in whole(&service, asked).await? {
                assert_ne!(entry.source_event_type, "counters.drift", "{entry:?}");
                assert!(round > 0 || entry.source_event_type != "counters.balance");
            }
        }
        forget_half(&world).await?;
    }
    service.stop().await
}

async fn explain(
    world: &World,
    service: &Service,
    of: &str,
    counter: &str,
) -> Result<(i32, Value)> {
    let address = service.grpc.to_string();
    let mut arguments = vec!["explain", "--tenant", TENANT, "--address", &address];
    arguments.extend(["--output", "json", "--counter", counter]);
    arguments.extend(of.split(' '));
    let output = command(world, &arguments).output().await?;
    let text = stdout(&output);
    let last = text.lines().last().ok_or_else(|| stderr(&output))?;
    let summary = serde_json::from_str::<Value>(last)?["summary"].take();
    Ok((output.status.code().ok_or("killed")?, summary))
}

#[tokio::test]
async fn a_spoiled_counter_shows_as_drift_and_its_repair_with_the_reason() -> Result<()> {
    let world = World::new("history_drift");
    let (service, _) = small_dialog(&world).await?;
    spoil(&world).await?;
    let rows: [(Of<'_>, &str, i64, &str); 5] = [
        (("", "d", ""), "message_count", 3, "--dialog d"),
        (("", "d", ""), "member_count", -1, "--dialog d"),
        (
            ("bob", "d", ""),
            "unread_count",
            -2,
            "--user bob --dialog d",
        ),
        (
            ("", "", "msg_m_0"),
            "status_counts.read",
            5,
            "--message msg_m_0",
        ),
        (("ann", "", ""), "total_messages_count", -10, "--user ann"),
    ];
    for (of, counter, drift, arguments) in rows {
        let found = changes(&service, of, counter).await?;
        assert_eq!(
            found.last(),
            Some(&("counters.drift".into(), drift)),
            "{counter}"
        );
        let (code, summary) = explain(&world, &service, arguments, counter).await?;
        assert_eq!((code, &summary["equal"]), (1, &false.into()), "{summary}");
    }
    let repair = [
        "--tenant", TENANT, "--dialog", "d", "--repair", "--reason", "a test",
    ];
    assert_clean(&verify(&world, &repair).await?);
    for (of, counter, drift, arguments) in rows {
        let entries = whole(&service, request(of, counter)).await?;
        let [.., before, repair] = entries.as_slice() else {
            panic!("{counter}: {entries:?}");
        };
        assert_eq!(before.source_event_type, "counters.drift", "{counter}");
        assert_eq!(repair.source_event_type, "counters.repair", "{counter}");
        assert_eq!((before.delta, repair.delta), (drift, -drift), "{counter}");
        assert_eq!(before.applied_at, repair.applied_at);
        assert!(repair.actor_id.starts_with("cli:"), "{repair:?}");
        assert_eq!(
            (repair.reason.as_str(), before.reason.as_str()),
            ("a test", "")
        );
        let (code, summary) = explain(&world, &service, arguments, counter).await?;
        assert_eq!((code, &summary["equal"]), (0, &true.into()), "{summary}");
        assert_eq!(summary["sum"], summary["served"]);
    }
    service.stop().await
}

#[tokio::test]
async fn a_person_reads_a_table_and_a_program_lines_of_json() -> Result<()> {
    let world = World::new("history_cli");
    let (service, _) = small_dialog(&world).await?;
    let address = service.grpc.to_string();
    let whose = [
        "--tenant",
        TENANT,
        "--user",
        "bob",
        "--dialog",
        "d",
        "--address",
        &address,
    ];
    let run = async |verb: &str, more: &[&str]| -> Result<(i32, String, String)> {
        let arguments: Vec<_> = [verb].iter().chain(&whose).chain(more).copied().collect();
        let output = command(&world, &arguments).output().await?;
        let code = output.status.code().ok_or("killed")?;
        Ok((code, stdout(&output), stderr(&output)))
    };
    let (code, table, _) = run("explain", &["--counter", "unread_count"]).await?;
    assert_eq!(code, 0);
    assert_eq!(table.lines().count(), 1 + 11 + 1, "{table}");
    let end = "unread_count: 11 changes sum to 9, 9 is served: equal\n";
    assert!(table.ends_with(end), "{table}");

    let newest = [
        "--newest-first",
        "--limit",
        "3",
        "--output",
        "json",
        "--since",
        "2h",
    ];
    let (code, lines, said) = run("history", &newest).await?;
    assert_eq!((code, lines.lines().count()), (0, 3), "{lines}");
    assert!(said.contains("there is more"), "{said}");
    let first: Value = serde_json::from_str(lines.lines().next().ok_or("no line")?)?;
    assert_eq!(first["source_event_id"], "s", "{first}");
    assert_eq!(
        (&first["delta"], &first["new_value"]),
        (&(-1).into(), &9.into())
    );

    let (code, lines, _) = run("history", &["--until", "1h"]).await?;
    assert_eq!((code, lines.as_str()), (0, ""));
    for wrong in [["--since", "yesterday"], ["--counter", "member_count"]] {
        let (code, _, said) = run("history", &wrong).await?;
        assert_eq!(code, 2, "{said}");
    }
    let none = command(&world, &["history", "--tenant", TENANT])
        .output()
        .await?;
    assert_eq!(none.status.code(), Some(2), "{}", stderr(&none));
    service.stop().await
}

#[tokio::test]
async fn a_rebuild_leaves_histories_as_they_were() -> Result<()> {
    let world = World::new("history_rebuild");
    let service = world.service().await?;
    let mut story = story();
    // The end, after which there would be little more to see.
    story.retain(|event| event.event_type != "dialog.delete");
    in_order(&world, &service, &story).await?;
    let scopes = [
        ("bob", "d", ""),
        ("bob", "", ""),
        ("", "d", ""),
        ("", "", "m6"),
    ];
    for (number, name) in ["one", "two"].into_iter().enumerate() {
        let mut before = Vec::new();
        for of in scopes {
            before.push(whole(&service, request(of, "")).await?);
        }
        assert_clean(&command(&world, &["rebuild"]).output().await?);
        for (of, before) in scopes.into_iter().zip(&before) {
            assert_eq!(&whole(&service, request(of, "")).await?, before, "{of:?}");
        }
        let at = 100 + number as i64;
        let more = message(name, "d", &format!("after_{name}"), "ann", at);
        in_order(&world, &service, &[more]).await?;
        let unread = changes(&service, scopes[0], "unread_count").await?;
        assert_eq!(unread.last(), Some(&(name.to_owned(), 1)));
    }
    // The retention takes the first stretch, and a part of the second.
    forget(&world, story.len() as u64 + 1).await?;
    let unread = changes(&service, scopes[0], "unread_count").await?;
    let names: Vec<_> = unread.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["counters.balance", "two"], "{unread:?}");
    service.stop().await
}
