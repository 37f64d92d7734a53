//! The tool is killed at every step of every job: no letter is lost, none is
//! both gone and not dealt with, and the same command goes on.

use chat_counters::failpoint::{Point, VARIABLE};
use chat_counters::grpc::v1::*;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use lapin::options::QueuePurgeOptions;
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
    // Copies of a letter are one letter, in the index and to a replay.
    dlq(&world, &["sync"], None).await?;
    assert_eq!(
        dlq(&world, &["list"], None).await?["total"],
        LETTERS,
        "{point:?}"
    );
    let done = dlq(&world, &["replay", "--all"], None).await?;
    assert_eq!(done["done"], LETTERS, "{point:?}");
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

/// A job counts what it found gone when it ends. One that dies before that must
/// not leave an index with more letters than the queue has.
#[tokio::test]
async fn what_a_killed_job_found_gone_is_nowhere_listed_or_counted() -> Result<()> {
    let world = with_letters("gone").await?;
    let replay = ["replay", "--why", "rejected_by_store"];
    dlq(&world, &replay, Some(Point::Selected)).await?;
    let queue = world.config.bus.dead_letter_queue.as_str();
    let (connection, channel) = world.channel().await?;
    let purged = channel.queue_purge(queue.into(), QueuePurgeOptions::default());
    assert_eq!(purged.await? as usize, LETTERS);
    connection.close(200, "done".into()).await?;
    dlq(&world, &replay, Some(Point::AllDone)).await?;

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
    Ok(())
}
