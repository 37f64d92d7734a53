//! A crash at every step between delivery and ack: the same numbers, and the
//! same dead letters.

use chat_counters::failpoint::{Point, VARIABLE};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};

use crate::command_line::{command, stderr};
use crate::events::{self, Wire, join};
use crate::kit::model::Model;
use crate::kit::read_back;
use crate::kit::service::{PATIENCE, Result, until};
use crate::world::{World, client, unread};

/// Runs side by side: each starts the service twice.
const TOGETHER: usize = 3;

/// Joins, messages, a read, a duplicate of each, and a poison in between.
fn load() -> (Vec<Wire>, Wire) {
    let mut events = vec![join("a", "d", "ann", 1), join("b", "d", "bob", 1)];
    events.extend(events::messages("m", "d", 40, 100));
    events.push(events::status("s", "d", "msg_m_3", "bob", "read", 500));
    events.push(events::reaction("r", "msg_m_4", "bob", "+1", "set", 501));
    let twice = events.clone();
    events.splice(20..20, twice);
    let poison = events::raw(br#"{"eventId":"poison","tenantId":"tnt_1"#);
    (events, poison)
}

/// A service with more settings that dies at the point; `true` if it really did.
pub(crate) async fn dies_at(
    world: &World,
    point: Point,
    pass: u64,
    settings: &[(&str, &str)],
) -> Result<bool> {
    let died = command(world, &["serve"])
        .env(VARIABLE, format!("{}:{pass}", point.name()))
        .env("CHAT_COUNTERS__GRPC__LISTEN", "127.0.0.1:0")
        .env("CHAT_COUNTERS__METRICS__LISTEN", "127.0.0.1:0")
        .env("CHAT_COUNTERS__LANES__BATCH_EVENTS", "10")
        .envs(settings.iter().copied())
        .output();
    let output = tokio::time::timeout(PATIENCE, died).await??;
    const SIGABRT: i32 = 6;
    Ok(std::os::unix::process::ExitStatusExt::signal(&output.status) == Some(SIGABRT))
}

async fn survives(point: Point, pass: u64) -> Result<()> {
    let name = format!("{}_{pass}", point.name());
    let world = World::new(&name);
    let (events, poison) = load();
    // The queue, so that it keeps what is published.
    world.service().await?.stop().await?;
    let middle = events.len() / 2;
    let sent = events[..middle].iter().chain([&poison]);
    world.publish(sent.chain(&events[middle..])).await?;
    assert!(
        dies_at(&world, point, pass, &[]).await?,
        "{name}: it did not die"
    );

    let service = world.service().await?;
    until(&format!("{name}: an empty queue"), || async {
        let depth = world.depth(&world.config.bus.queue).await.ok()?;
        let letters = world
            .depth(&world.config.bus.dead_letter_queue)
            .await
            .ok()?;
        let distinct = events.len() as u64 / 2;
        let journaled = world.documents("journal").await.ok()?;
        (depth == 0 && letters > 0 && journaled == distinct).then_some(())
    })
    .await?;
    let bodies = events::bodies(&events);
    let model = Model::of(&bodies);
    let comparison = read_back::compare(&mut client(&service).await?, &model).await?;
    let differences = comparison.differences.iter().map(ToString::to_string);
    let differences: Vec<_> = differences.collect();
    assert!(differences.is_empty(), "{name}: {differences:#?}");
    world.stopped_with_nothing_left(service).await?;
    let letters = world.depth(&world.config.bus.dead_letter_queue).await?;
    // After a crash between its confirm and its ack a letter is written again;
    // the ack waits for those of the events before it.
    let fewest = match point {
        Point::AfterLetter | Point::AfterIndexed => 2,
        _ => 1,
    };
    assert!((fewest..=2).contains(&letters), "{name}: {letters} letters");
    for letter in world.letters(letters as usize).await? {
        assert_eq!(letter.body, poison.body);
    }
    Ok(())
}

#[tokio::test]
async fn a_crash_at_every_step_changes_nothing() -> Result<()> {
    let runs = Point::DELIVERY.into_iter().map(|point| {
        // In the middle of the load, where there is a middle.
        let pass = match point {
            Point::Delivered | Point::Decoded => 25,
            Point::BeforeLetter | Point::AfterLetter | Point::AfterIndexed => 1,
            _ => 2,
        };
        survives(point, pass)
    });
    stream::iter(runs)
        .buffer_unordered(TOGETHER)
        .try_collect::<()>()
        .await
}

#[tokio::test]
async fn a_point_that_does_not_exist_is_refused_at_the_start() -> Result<()> {
    let world = World::new("no_point");
    let output = command(&world, &["serve"])
        .env(VARIABLE, "nowhere")
        .output()
        .await?;
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("before_commit"),
        "{}",
        stderr(&output)
    );
    Ok(())
}

/// More than the default limit of deliveries, and one for what is left.
const STARTS: usize = 22;

#[tokio::test]
async fn an_event_that_ends_the_process_takes_no_other_with_it() -> Result<()> {
    let world = World::new("crasher");
    world.service().await?.stop().await?;
    let mut events = vec![join("a", "d", "ann", 1), join("b", "d", "bob", 1)];
    events.extend(events::messages("m", "d", 400, 100));
    world.publish(&events).await?;
    let mut starts = 0;
    while world.depth(&world.config.bus.dead_letter_queue).await? == 0 {
        assert!(starts < STARTS, "no dead letter after {starts} starts");
        starts += 1;
        let died = command(&world, &["serve"])
            .env(VARIABLE, "event:evt_m_200")
            .env("CHAT_COUNTERS__GRPC__LISTEN", "127.0.0.1:0")
            .env("CHAT_COUNTERS__METRICS__LISTEN", "")
            .spawn()?;
        dead_or_drained(&world, died).await?;
    }
    let service = world.service().await?;
    world.journaled(401).await?;
    assert_eq!(unread(&service, "bob", "d").await?, 399);
    let letters = world.letters(1).await?;
    assert_eq!(letters[0].body, events[202].body);
    world.stopped_with_nothing_left(service).await?;
    assert_eq!(world.depth(&world.config.bus.dead_letter_queue).await?, 0);
    Ok(())
}

/// Waits until the service has died of the event, or the broker has put the
/// event aside.
async fn dead_or_drained(world: &World, mut service: tokio::process::Child) -> Result<()> {
    until("a crash or a dead letter", || {
        let ended = service.try_wait();
        async move {
            let letters = world
                .depth(&world.config.bus.dead_letter_queue)
                .await
                .ok()?;
            (ended.ok()?.is_some() || letters > 0).then_some(())
        }
    })
    .await?;
    service.kill().await.or(Ok(()))
}
