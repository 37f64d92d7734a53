//! What grows with what producers send has a bound, and counters are exact for
//! what was accepted.

use std::cell::Cell;
use std::collections::HashSet;

use chat_counters::derive::{Batch, EventOutcome, Limits, LoadMode};
use mongodb::bson::{Document, doc};
use serde_json::Value;

use crate::command_line::{command, stderr, stdout};
use crate::derive::{compare, decoded};
use crate::dlq::{client as letters_client, listed};
use crate::events::{self, Wire, join, leave, message, reaction, status};
use crate::kit::model::Model;
use crate::kit::service::{Result, Service, until};
use crate::memory::{Conflict, Memory, Writer, names};
use crate::strategy::{self, Schedule};
use crate::torture::Torture;
use crate::world::{World, client, dialog};

/// So low that random events often reach them.
const LOW: Limits = Limits {
    reactions: 1,
    statuses: 2,
    adds: 2,
};
/// As the service has them.
const REACTIONS: usize = 1_000;
const STATUSES: usize = 100;
const ADDS: usize = 1_000;

fn assert_within(memory: &Memory) {
    for (key, stored) in &memory.messages {
        assert!(names(&stored.reactions) <= LOW.reactions, "{key:?}");
        assert!(names(&stored.statuses) <= LOW.statuses, "{key:?}");
    }
    for (key, share) in &memory.memberships {
        assert!(share.facts.adds.len() <= LOW.adds, "{key:?}");
    }
}

/// Two writers take turns, and one of them has always derived from what the
/// other then changed. Returns how many events were never accepted.
fn run(events: &[Value], schedule: &Schedule) -> usize {
    let mut memory = Memory::default();
    let mut writers = [Writer::within(LOW), Writer::within(LOW)];
    let mut accepted = HashSet::new();
    let batches = schedule.batches(events.len());
    for (turn, indexes) in batches.iter().enumerate() {
        let batch = |indexes: &[usize]| {
            let batch = indexes.iter().map(|index| decoded(&events[*index]));
            batch.collect::<Vec<_>>()
        };
        let late = batches.get(turn + 1).map(|next| batch(next));
        let late = late.map(|next| writers[1].derive(&memory, &next, LoadMode::Checked));
        let outcomes = writers[turn % 2].take(&mut memory, &batch(indexes), LoadMode::Optimistic);
        note(&mut accepted, indexes, &outcomes);
        if let Some((changes, outcomes)) = late
            && memory.commit(&changes) != Err(Conflict)
        {
            note(&mut accepted, &batches[turn + 1], &outcomes);
        }
        assert_within(&memory);
    }
    let counted = events.iter().enumerate();
    let counted = counted.filter(|(index, _)| accepted.contains(index));
    let counted: Vec<_> = counted.map(|(_, event)| event.clone()).collect();
    compare(&memory, &Model::of(&counted));
    // In another order they are accepted all the same: when they are rebuilt.
    let mut again = Memory::default();
    let mut batch = Batch::of_accepted();
    for event in counted.iter().rev().map(decoded) {
        again.apply(&mut batch, &event);
    }
    again.commit(&batch.finish()).expect("nobody else writes");
    compare(&again, &Model::of(&counted));
    events.len() - accepted.len()
}

fn note(accepted: &mut HashSet<usize>, indexes: &[usize], outcomes: &[EventOutcome]) {
    for (index, outcome) in indexes.iter().zip(outcomes) {
        if !matches!(outcome, EventOutcome::Refused(_)) {
            accepted.insert(*index);
        }
    }
}

#[test]
fn counters_are_those_of_the_events_that_were_accepted() {
    let refused = Cell::new(0);
    let torture = Torture {
        what: "schedules within low limits",
        regressions: "tests/it/limits.regressions",
        cases: 1_000,
    };
    torture.run(&strategy::events_and_schedule(), |(events, schedule)| {
        refused.set(refused.get() + run(&events, &schedule));
    });
    assert!(refused.get() > 100, "the limits were hardly reached");
}

fn set(number: usize, user: &str, name: &str) -> Wire {
    let at = 10_000 + number as i64;
    reaction(&format!("r_{number}"), "m", user, name, "set", at)
}

/// A message with as many different reactions as it may have, and `full` one
/// more.
async fn full(world: &World) -> Result<Service> {
    let service = world.service().await?;
    let mut events = vec![message("e", "d", "m", "ann", 5)];
    events.extend((0..REACTIONS).map(|n| set(n, "bob", &format!("r{n}.$"))));
    world.publish(&events).await?;
    service.has_settled(1 + REACTIONS as u64).await?;
    assert_eq!(world.depth(&world.config.bus.dead_letter_queue).await?, 0);
    Ok(service)
}

async fn stored(world: &World, generation: &str) -> Result<Document> {
    let messages = world.database().await?;
    let messages = messages.collection::<Document>(&format!("messages{generation}"));
    let found = messages.find_one(doc! { "_id.m": "m" }).await?;
    Ok(found.ok_or("no such message")?)
}

async fn run_tool(world: &World, arguments: &[&str]) -> Result<String> {
    let output = command(world, arguments).output().await?;
    assert!(
        output.status.success(),
        "{arguments:?}: {}",
        stderr(&output)
    );
    Ok(stdout(&output))
}

#[tokio::test]
async fn one_reaction_too_many_is_a_letter_until_there_is_room() -> Result<()> {
    let world = World::new("reactions");
    let service = full(&world).await?;
    let more = [
        // Known names go on, and what replaces one takes its place.
        set(2_000, "eve", "r5.$"),
        set(2_001, "eve", "one more"),
        message("e2", "d", "m2", "ann", 6),
        set(2_002, "eve", "r6.$"),
    ];
    world.publish(&more).await?;
    service.has_settled(1 + REACTIONS as u64 + 4).await?;
    assert_eq!(dialog(&service, "d").await?, (2, 0), "neighbours count");
    let letters = letters_client(&service).await?;
    listed(&letters, 1).await?;
    let direct = ["dlq", "--direct", "replay", "--all", "--dry-run"];
    let planned = run_tool(&world, &direct).await?;
    assert!(planned.contains("too_many_reactions"), "{planned}");

    let unset = reaction("u", "m", "bob", "r7.$", "unset", 20_000);
    world.publish(&[unset]).await?;
    service.has_settled(1 + REACTIONS as u64 + 5).await?;
    let reactions = stored(&world, "").await?;
    let reactions = reactions.get_document("reactions")?;
    assert_eq!(reactions.len(), REACTIONS - 1, "nothing is left of it");
    let planned = run_tool(&world, &direct).await?;
    assert!(planned.contains("1  would be counted"), "{planned}");
    let replay = ["dlq", "--direct", "replay", "--all", "--reason", "room"];
    run_tool(&world, &replay).await?;
    until("the letter is counted", || async {
        let stored = stored(&world, "").await.ok()?;
        let reactions = stored.get_document("reactions").ok()?;
        (reactions.get_i64("one more").ok()? == 1).then_some(())
    })
    .await?;
    run_tool(&world, &["verify"]).await?;
    let before = stored(&world, "").await?;
    run_tool(&world, &["rebuild"]).await?;
    let rebuilt = stored(&world, "_1").await?;
    assert_eq!(sorted(&rebuilt)?, sorted(&before)?);
    run_tool(&world, &["verify"]).await?;
    service.stop().await
}

fn sorted(message: &Document) -> Result<Vec<(String, i64)>> {
    let reactions = message.get_document("reactions")?.iter();
    let counts = reactions.filter_map(|(name, count)| Some((name.clone(), count.as_i64()?)));
    let mut counts: Vec<_> = counts.filter(|(_, count)| *count != 0).collect();
    counts.sort();
    Ok(counts)
}

/// Both derive from what the other is about to change.
#[tokio::test]
async fn replicas_that_race_for_the_last_room_take_no_more_than_there_is() -> Result<()> {
    let mut world = World::new("room");
    world.config.lanes.batch_events = 20;
    let replicas = [world.service().await?, world.service().await?];
    world.publish(&[message("e", "d", "m", "ann", 5)]).await?;
    world.journaled(1).await?;
    let all = REACTIONS + 400;
    let events: Vec<_> = (0..all)
        .map(|n| set(n, &format!("u{n}"), &format!("r{n}")))
        .collect();
    world.publish(&events).await?;
    until("all settled", || async {
        let settled = [
            replicas[0].settled().await.ok()?,
            replicas[1].settled().await.ok()?,
        ];
        (settled[0] + settled[1] > all as u64).then_some(())
    })
    .await?;
    let message = stored(&world, "").await?;
    assert_eq!(message.get_document("reactions")?.len(), REACTIONS);
    world.letters(400).await?;
    for replica in replicas {
        replica.stop().await?;
    }
    run_tool(&world, &["verify"]).await.map(drop)
}

#[tokio::test]
async fn statuses_and_adds_have_their_limits_too() -> Result<()> {
    let world = World::new("limits");
    let service = world.service().await?;
    let mut events = vec![message("e", "d", "m", "ann", 5)];
    let statuses = (0..=STATUSES).map(|n| {
        let id = format!("s_{n}");
        status(&id, "d", "m", "bob", &format!("status_{n}"), 10 + n as i64)
    });
    events.extend(statuses);
    events.push(status("again", "d", "m", "eve", "status_3", 500));
    let adds = (0..=ADDS).map(|n| join(&format!("a_{n}"), "d", "bob", 20_000 + n as i64));
    events.extend(adds);
    world.publish(&events).await?;
    service.has_settled(events.len() as u64).await?;
    let letters = world.letters(2).await?;
    let mut reasons: Vec<_> = letters.iter().map(|l| l.header("x-cc-reason")).collect();
    reasons.sort();
    assert_eq!(reasons, ["too_many_adds", "too_many_statuses"]);
    assert_eq!(dialog(&service, "d").await?, (1, 1));
    // Once they have left there is room.
    let back = [
        leave("l", "d", "bob", 900_000),
        join("b", "d", "bob", 900_001),
        message("e3", "d", "m3", "ann", 900_002),
    ];
    world.publish(&back).await?;
    service.has_settled(events.len() as u64 + 3).await?;
    let request = chat_counters::grpc::v1::GetMessageStatsRequest {
        tenant_id: events::TENANT.into(),
        message_id: "m".into(),
        ..Default::default()
    };
    let stats = client(&service).await?.get_message_stats(request).await?;
    let stats = stats.into_inner().status_counts;
    assert_eq!(stats.len(), STATUSES);
    assert_eq!(stats.get("status_3"), Some(&2));
    assert_eq!(dialog(&service, "d").await?, (2, 1));
    run_tool(&world, &["verify"]).await?;
    service.stop().await
}
