//! The tool is killed at every step of every job: no letter is lost, none is
//! both gone and not dealt with, and the same command goes on.

use std::time::{Duration, Instant};

use chat_counters::deadletter::{DeadLetter, Letter, RawMessage};
use chat_counters::event::decode::Outline;
use chat_counters::failpoint::{Point, VARIABLE};
use chat_counters::grpc::v1::*;
use chat_counters::store::Store;
use chat_counters::store::dead_letters::{JobKind, JobRequest};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use lapin::options::QueuePurgeOptions;
use mongodb::bson::{Document, doc};
use serde_json::{Value, json};

use crate::command_line::{command, stderr, stdout};
use crate::dlq::{accept, client, listed, refuse};
use crate::events::{self, Wire, join};
use crate::kit::service::{PATIENCE, Result, until};
use crate::world::{World, unread};

/// Runs side by side: most of the time is the lease of the one that was killed.
const TOGETHER: usize = 5;
/// Letters in each run.
const LETTERS: usize = 6;

/// A world with events that the store refused, and accepts by now.
async fn with_letters(name: &str) -> Result<World> {
    let world = World::new(name);
    let service = world.service().await?;
    refuse(&world, "m_").await?;
    let messages = events::messages("m", "d", LETTERS, 1_000);
    let joins = [join("j", "d", "bob", 1)];
    world.publish(joins.iter().chain(&messages)).await?;
    service.has_settled(LETTERS as u64 + 1).await?;
    listed(&client(&service).await?, LETTERS).await?;
    accept(&world).await?;
    service.stop().await?;
    Ok(world)
}

/// Runs a command of the tool without a service. `point`: it is killed there.
async fn dlq(world: &World, arguments: &[&str], point: Option<Point>) -> Result<Value> {
    let mut tool = command(world, &["dlq", "--direct", "--output", "json"]);
    tool.args(arguments);
    if let Some(point) = point {
        tool.env(VARIABLE, point.name());
    }
    let output = tokio::time::timeout(PATIENCE, tool.output()).await??;
    if point.is_some() {
        const SIGABRT: i32 = 6;
        let signal = std::os::unix::process::ExitStatusExt::signal(&output.status);
        assert_eq!(
            signal,
            Some(SIGABRT),
            "{arguments:?} {point:?}: it did not die: {}",
            stderr(&output)
        );
        return Ok(Value::Null);
    }
    assert!(
        output.status.success(),
        "{arguments:?}: {}",
        stderr(&output)
    );
    Ok(serde_json::from_str(&stdout(&output))?)
}

async fn replay_survives(point: Point) -> Result<()> {
    let world = with_letters(&format!("replay_{}", point.name())).await?;
    let replay = ["replay", "--why", "rejected_by_store"];
    dlq(&world, &replay, Some(point)).await?;
    let done = dlq(&world, &replay, None).await?;
    assert_eq!(done["resumed"], true, "{point:?}: {done}");
    assert_eq!(
        (&done["selected"], &done["done"], &done["missing"]),
        (&LETTERS.into(), &LETTERS.into(), &0.into())
    );
    assert_eq!(
        world.depth(&world.config.bus.dead_letter_queue).await?,
        0,
        "{point:?}"
    );
    let service = world.service().await?;
    until("all counted", || async {
        (unread(&service, "bob", "d").await.ok()? == LETTERS as i64).then_some(())
    })
    .await?;
    listed(&client(&service).await?, 0).await?;
    service.stop().await?;
    assert_eq!(
        world.depth(&world.config.bus.dead_letter_queue).await?,
        0,
        "{point:?}: it came back"
    );
    Ok(())
}

async fn discard_survives(point: Point) -> Result<()> {
    let world = with_letters(&format!("discard_{}", point.name())).await?;
    let discard = ["discard", "--all", "--reason", "a test", "--yes"];
    dlq(&world, &discard, Some(point)).await?;
    let done = dlq(&world, &discard, None).await?;
    assert_eq!(
        (&done["selected"], &done["done"], &done["resumed"]),
        (&LETTERS.into(), &LETTERS.into(), &true.into())
    );
    assert_eq!(
        world.depth(&world.config.bus.dead_letter_queue).await?,
        0,
        "{point:?}"
    );
    let discarded = dlq(&world, &["list", "--discarded"], None).await?;
    assert_eq!(discarded["total"], LETTERS, "{point:?}");
    Ok(())
}

async fn undiscard_survives(point: Point) -> Result<()> {
    let world = with_letters(&format!("undiscard_{}", point.name())).await?;
    dlq(
        &world,
        &["discard", "--all", "--reason", "a test", "--yes"],
        None,
    )
    .await?;
    dlq(&world, &["undiscard", "--all"], Some(point)).await?;
    let done = dlq(&world, &["undiscard", "--all"], None).await?;
    assert_eq!(
        (&done["selected"], &done["done"], &done["resumed"]),
        (&LETTERS.into(), &LETTERS.into(), &true.into())
    );
    // Copies of a letter are one entry, and sent once.
    dlq(&world, &["sync"], None).await?;
    let copies = world.depth(&world.config.bus.dead_letter_queue).await?;
    let list = dlq(&world, &["list"], None).await?;
    assert_eq!(list["dead_letters"].as_array().map(Vec::len), Some(LETTERS));
    assert_eq!(list["total"], copies, "{point:?}");
    let done = dlq(&world, &["replay", "--all"], None).await?;
    assert_eq!(done["done"], copies, "{point:?}");
    assert_eq!(
        world.depth(&world.config.bus.dead_letter_queue).await?,
        0,
        "{point:?}"
    );
    assert_eq!(
        world.depth(&world.config.bus.queue).await?,
        LETTERS as u32,
        "{point:?}"
    );
    Ok(())
}

async fn edit_survives(point: Point) -> Result<()> {
    let world = World::new(&format!("edit_{}", point.name()));
    let service = world.service().await?;
    let good = events::message("e", "d", "m", "ann", 5);
    let bad = String::from_utf8(good.body.clone())?.replace("\"ann\"", "17");
    let bad = Wire {
        body: bad.into_bytes(),
        ..good
    };
    world.publish(&[join("j", "d", "bob", 1), bad]).await?;
    let letter = listed(&client(&service).await?, 1).await?.remove(0);
    service.stop().await?;
    let edit = [
        "edit",
        &letter.id,
        "--set",
        "data.message.senderId=ann",
        "--reason",
        "a test",
        "--yes",
    ];
    dlq(&world, &edit, Some(point)).await?;
    // Acted upon, it may be no longer to be seen; else the same command goes on.
    let left = dlq(&world, &["list"], None).await?;
    if left["total"] == 1 {
        dlq(&world, &edit, None).await?;
    }
    let service = world.service().await?;
    until("counted", || async {
        (unread(&service, "bob", "d").await.ok()? == 1).then_some(())
    })
    .await?;
    let mut client = client(&service).await?;
    client.sync_dead_letters(SyncDeadLettersRequest {}).await?;
    listed(&client, 0).await?;
    service.stop().await?;
    assert_eq!(
        world.depth(&world.config.bus.dead_letter_queue).await?,
        0,
        "{point:?}"
    );
    Ok(())
}

type Run = std::pin::Pin<Box<dyn Future<Output = Result<()>>>>;

#[tokio::test]
async fn a_tool_that_is_killed_at_any_step_loses_nothing() -> Result<()> {
    let mut runs: Vec<Run> = Vec::new();
    for point in Point::JOB {
        runs.push(Box::pin(replay_survives(point)));
        runs.push(Box::pin(discard_survives(point)));
        runs.push(Box::pin(undiscard_survives(point)));
        runs.push(Box::pin(edit_survives(point)));
    }
    stream::iter(runs)
        .buffer_unordered(TOGETHER)
        .try_collect::<()>()
        .await
}

/// Runs a command that ends; what it prints for a program, and its status.
async fn ended(world: &World, arguments: &[&str]) -> Result<(Value, Option<i32>)> {
    let mut tool = command(world, &["dlq", "--direct", "--output", "json"]);
    let output = tokio::time::timeout(PATIENCE, tool.args(arguments).output()).await??;
    let told = serde_json::from_str(&stdout(&output));
    let told = told.map_err(|_| format!("{arguments:?}: {}", stderr(&output)))?;
    Ok((told, output.status.code()))
}

/// Whoever else empties the queue.
async fn purge(world: &World) -> Result<usize> {
    let queue = world.config.bus.dead_letter_queue.as_str();
    let (connection, channel) = world.channel().await?;
    let purged = channel.queue_purge(queue.into(), QueuePurgeOptions::default());
    let purged = purged.await? as usize;
    connection.close(200, "done".into()).await?;
    Ok(purged)
}

/// What is said of a job when it ends, or in its record.
fn tally(of: &Value) -> [i64; 4] {
    ["selected", "done", "missing", "taken"].map(|name| of[name].as_i64().unwrap_or(-1))
}

const REPLAY: [&str; 3] = ["replay", "--why", "rejected_by_store"];
const ALL: i64 = LETTERS as i64;

/// The record of a job, which has ended.
async fn recorded(world: &World, job: &Value) -> Result<Value> {
    let audit = dlq(world, &["audit"], None).await?;
    let jobs = audit.as_array().cloned().unwrap_or_default();
    let found = jobs.into_iter().find(|known| known["job_id"] == *job);
    let found = found.ok_or_else(|| format!("{job} is not in {audit}"))?;
    assert!(found["finished_at"].is_string(), "{found}");
    Ok(found)
}

/// An earlier version kept what a job had found gone until the job ended. One
/// that died before that must not leave an index with more letters than the
/// queue has.
#[tokio::test]
async fn what_a_killed_job_found_gone_is_nowhere_listed_or_counted() -> Result<()> {
    let world = with_letters("gone").await?;
    dlq(&world, &REPLAY, Some(Point::Selected)).await?;
    assert_eq!(purge(&world).await?, LETTERS);
    let index = world.database().await?;
    let index = index.collection::<Document>("dead_letters");
    let gone = doc! { "$set": { "state": "gone" } };
    index.update_many(doc! {}, gone).await?;

    let list = dlq(&world, &["list"], None).await?;
    assert_eq!(list["dead_letters"], json!([]));
    assert_eq!(
        (&list["total"], &list["index"]["indexed"]),
        (&0.into(), &list["index"]["queued"]),
        "{list}"
    );
    let by_reason = ["list", "--why", "rejected_by_store"];
    assert_eq!(dlq(&world, &by_reason, None).await?["total"], 0);
    assert_eq!(dlq(&world, &["groups"], None).await?["total"], 0);
    let synced = dlq(&world, &["sync"], None).await?;
    assert_eq!(synced, json!({ "examined": 0, "added": 0, "removed": 0 }));
    let (done, status) = ended(&world, &REPLAY).await?;
    assert_eq!((tally(&done), status), ([ALL, 0, ALL, 0], Some(1)));
    Ok(())
}

#[tokio::test]
async fn letters_that_another_hand_took_are_not_replayed_but_missing() -> Result<()> {
    let world = with_letters("purged").await?;
    // One letter at a time.
    let replay = [&REPLAY[..], &["--rate", "10"]].concat();
    dlq(&world, &replay, Some(Point::Removed)).await?;
    assert_eq!(purge(&world).await?, LETTERS - 1);
    // The watcher may be the first to notice.
    let synced = dlq(&world, &["sync"], None).await?;
    assert_eq!(synced["examined"], 0);

    let (done, status) = ended(&world, &replay).await?;
    assert_eq!(
        (tally(&done), status),
        ([ALL, 1, ALL - 1, 0], Some(1)),
        "{done}"
    );
    assert_eq!(done["finished"], true);
    let record = recorded(&world, &done["job_id"]).await?;
    assert_eq!(tally(&record), [ALL, 1, ALL - 1, 0]);
    assert_eq!(world.depth(&world.config.bus.queue).await?, 1);
    Ok(())
}

#[tokio::test]
async fn letters_that_another_job_took_are_not_replayed_but_taken() -> Result<()> {
    let world = with_letters("taken").await?;
    dlq(&world, &REPLAY, Some(Point::Selected)).await?;
    let discard = ["discard", "--all", "--reason", "a test", "--yes"];
    dlq(&world, &discard, Some(Point::Selected)).await?;

    // All that is left to the first job is to say so.
    let (done, status) = ended(&world, &REPLAY).await?;
    assert_eq!(
        (tally(&done), status),
        ([ALL, 0, 0, ALL], Some(1)),
        "{done}"
    );
    assert_eq!(
        (&done["resumed"], &done["finished"]),
        (&true.into(), &true.into())
    );
    assert_eq!(dlq(&world, &["list"], None).await?["total"], LETTERS);
    let (discarded, status) = ended(&world, &discard).await?;
    assert_eq!((tally(&discarded), status), ([ALL, ALL, 0, 0], Some(0)));
    let record = recorded(&world, &done["job_id"]).await?;
    assert_eq!(tally(&record), [ALL, 0, 0, ALL]);
    assert_eq!(record["taken_by"], json!([discarded["job_id"]]));
    assert_eq!(world.depth(&world.config.bus.queue).await?, 0);

    // Those that were discarded may be taken away as well.
    dlq(&world, &["undiscard", "--all"], Some(Point::Selected)).await?;
    let shelf = world.database().await?;
    let shelf = shelf.collection::<Document>("discarded_letters");
    shelf.delete_one(doc! {}).await?;
    let (back, status) = ended(&world, &["undiscard", "--all"]).await?;
    assert_eq!((tally(&back), status), ([ALL, ALL - 1, 1, 0], Some(1)));
    Ok(())
}

/// Discarded, and not yet removed from the queue: whoever finds it there would
/// remove it, if it were not known to have been put back.
#[tokio::test]
async fn letters_put_back_while_their_discard_is_interrupted_stay() -> Result<()> {
    let world = with_letters("revived").await?;
    let discard = ["discard", "--all", "--reason", "a test", "--yes"];
    dlq(&world, &discard, Some(Point::Marked)).await?;
    let back = dlq(&world, &["undiscard", "--all"], None).await?;
    assert_eq!(tally(&back), [ALL, ALL, 0, 0]);
    let (done, status) = ended(&world, &discard).await?;
    assert_eq!((tally(&done), status), ([ALL, ALL, 0, 0], Some(0)));
    dlq(&world, &["sync"], None).await?;
    let list = dlq(&world, &["list"], None).await?;
    assert_eq!(list["dead_letters"].as_array().map(Vec::len), Some(LETTERS));
    assert_eq!(
        world.depth(&world.config.bus.dead_letter_queue).await?,
        2 * LETTERS as u32
    );
    Ok(())
}

fn letter_replayed_by(job: &str) -> DeadLetter {
    DeadLetter {
        reason: None,
        error: "a test".into(),
        about: Outline::default(),
        first_failed_at: None,
        last_failed_at: None,
        attempts: 2,
        exchange: String::new(),
        routing_key: String::new(),
        host: String::new(),
        version: String::new(),
        replayed_by: Some(job.into()),
    }
}

/// A tool that dies in the middle of a transaction leaves the record of its job
/// locked for a minute, by the server's own rules.
#[tokio::test]
async fn a_letter_that_failed_again_does_not_wait_for_a_dead_job() -> Result<()> {
    let world = World::new("locked");
    world.service().await?.stop().await?;
    let store = Store::connect(&world.config.store).await?;
    let order = JobRequest {
        claimed_actor: String::new(),
        tenants: None,
        kind: JobKind::Replay,
        actor: "tester".into(),
        reason: String::new(),
        selection: "all".into(),
        key: "all".into(),
        edit: None,
    };
    let job = store.begin_job(&order).await?.id;
    let mut dead = store.client().start_session().await?;
    dead.start_transaction().await?;
    let jobs = store.database().collection::<Document>("dead_letter_jobs");
    let change = doc! { "$inc": { "done": 1 } };
    let this = doc! { "_id": job.as_str() };
    jobs.update_one(this, change).session(&mut dead).await?;

    let letter = letter_replayed_by(job.as_str());
    let sealed = RawMessage {
        properties: Vec::new(),
        body: b"{}".to_vec(),
    };
    let letter = Letter::new(letter, sealed);
    let id = letter.id.clone();
    store.index_letters([&letter]).await?;
    let began = Instant::now();
    // Twice, as after an error of the store in between.
    for _ in 0..2 {
        store.count_failed_again(std::slice::from_ref(&id)).await?;
    }
    assert!(
        began.elapsed() < Duration::from_secs(30),
        "{:?}",
        began.elapsed()
    );
    let record = store.job(&job).await?.ok_or("no record")?;
    assert_eq!((record.tally.done, record.tally.failed_again), (0, 1));
    Ok(())
}
