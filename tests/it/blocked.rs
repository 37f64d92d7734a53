//! A broker short of memory takes no messages, and goes on delivering: dead letters
//! wait in the database, and events are counted all the while.

use std::collections::BTreeMap;
use std::process::Stdio;

use chat_counters::failpoint::{Point, VARIABLE};
use chat_counters::grpc::v1::*;
use tokio::process::Child;

use crate::command_line::command;
use crate::dlq::{Client, client};
use crate::events::{self, Wire, join, raw};
use crate::kit::servers::Server;
use crate::kit::service::{Result, Service, until};
use crate::world::{World, binary, unread};

/// Letters of a megabyte, small ones, and good events between them.
const LARGE: usize = 60;
const SMALL: usize = 2_200;
const GOOD: usize = 2_000;
/// Of the process, in all, where what is in flight is 16 MiB.
const LIMIT_MIB: f64 = 200.0;

fn poison(number: usize, bytes: usize) -> Wire {
    let mut body = format!("poison {number} ").into_bytes();
    body.resize(body.len().max(bytes), b'x');
    raw(&body)
}

pub(crate) async fn set_alarm(rabbit: &Server, raised: bool) -> Result<()> {
    let mark: &[&str] = match raised {
        true => &["0.00001"],
        false => &["absolute", "1GB"],
    };
    let set = [&["set_vm_memory_high_watermark"], mark].concat();
    rabbit.ctl(&set).await.map(drop)
}

/// How often each letter of the queue is listed, and what index and queue have.
async fn listed(client: &mut Client) -> Result<(BTreeMap<String, i64>, IndexState)> {
    let (mut letters, mut token) = (BTreeMap::new(), String::new());
    loop {
        let request = ListDeadLettersRequest {
            page_size: 1_000,
            page_token: token,
            ..Default::default()
        };
        let page = client.list_dead_letters(request).await?.into_inner();
        for letter in page.dead_letters {
            *letters.entry(letter.id).or_default() += 1;
        }
        token = page.next_page_token;
        if token.is_empty() {
            return Ok((letters, page.index.ok_or("no state of the index")?));
        }
    }
}

/// Waits until so many different letters are listed once each and in the queue, and
/// none waits.
async fn all_listed_once(world: &World, service: &Service, count: usize) -> Result<()> {
    let client = client(service).await?;
    let queue = &world.config.bus.dead_letter_queue;
    until(&format!("{count} letters are in the queue"), || async {
        let (letters, index) = listed(&mut client.clone()).await.ok()?;
        let depth = world.depth(queue).await.ok()? as usize;
        assert!(letters.values().all(|times| *times == 1), "{letters:?}");
        (letters.len() == count && depth >= count && index.unsent == 0).then_some(())
    })
    .await
}

pub(crate) async fn gauge(service: &Service, name: &str) -> Option<u64> {
    let name = format!("chat_counters_{name}");
    service.counter(&name, "").await.ok()
}

#[tokio::test]
async fn letters_that_the_broker_does_not_take_stop_no_event() -> Result<()> {
    let rabbit = Server::rabbit("alarm").await?;
    let mut world = World::new("alarm");
    world.config.bus.url = rabbit.url.clone().into();
    world.config.bus.prefetch_bytes = 16 << 20;
    // Declares the queue.
    world.service().await?.stop().await?;
    let mut waiting = vec![join("j", "d", "bob", 1)];
    let mut good = events::messages("m", "d", GOOD, 1_000).into_iter();
    for number in 0..LARGE + SMALL {
        let large = number % (SMALL / LARGE) == 0 && number / (SMALL / LARGE) < LARGE;
        waiting.push(poison(number, if large { 1_000_000 } else { 0 }));
        waiting.extend(good.next());
    }
    world.publish(&waiting).await?;
    set_alarm(&rabbit, true).await?;

    let log = std::env::temp_dir().join(format!("cc-alarm-{}.log", std::process::id()));
    let stderr = Stdio::from(std::fs::File::create(&log)?);
    let service = Service::spawn_logging(binary(), &world.config, "warn", stderr).await?;
    world.journaled(1 + GOOD as u64).await?;
    service.has_settled(waiting.len() as u64).await?;
    assert_eq!(gauge(&service, "bus_blocked").await, Some(1));
    until("letters wait in the database", || async {
        (gauge(&service, "dead_letters_unsent").await? > 1_000).then_some(())
    })
    .await?;
    assert_eq!(unread(&service, "bob", "d").await?, GOOD as i64);
    let (_, index) = listed(&mut client(&service).await?).await?;
    assert!(index.unsent > 1_000, "{index:?}");
    let told = std::fs::read_to_string(&log)?;
    assert!(
        told.contains("takes no messages") && told.contains("memory"),
        "{told}"
    );
    let peak = service.peak_rss_mib()?;
    println!("{LARGE} large letters, {SMALL} small ones: peak {peak:.0} MiB");
    assert!(peak < LIMIT_MIB, "{peak:.0} MiB");

    set_alarm(&rabbit, false).await?;
    all_listed_once(&world, &service, LARGE + SMALL).await?;
    until("taken again", || async {
        (gauge(&service, "bus_blocked").await? == 0).then_some(())
    })
    .await?;
    world.stopped_with_nothing_left(service).await?;
    std::fs::remove_file(&log)?;
    Ok(())
}

/// Letters in each run of a service that dies.
const LETTERS: usize = 6;

fn spawn(world: &World, point: Point) -> Result<Child> {
    let mut service = command(world, &["serve"]);
    service
        .env(VARIABLE, point.name())
        .env("CHAT_COUNTERS__GRPC__LISTEN", "127.0.0.1:0")
        .env("CHAT_COUNTERS__METRICS__LISTEN", "127.0.0.1:0");
    Ok(service.spawn()?)
}

async fn has_died(service: &mut Child) -> Result<()> {
    const SIGABRT: i32 = 6;
    let status = tokio::time::timeout(crate::kit::service::PATIENCE, service.wait()).await??;
    let signal = std::os::unix::process::ExitStatusExt::signal(&status);
    assert_eq!(signal, Some(SIGABRT), "it did not die: {status}");
    Ok(())
}

#[tokio::test]
async fn a_service_killed_while_letters_wait_loses_none_and_lists_each_once() -> Result<()> {
    let rabbit = Server::rabbit("alarm_crash").await?;
    let mut worlds = Vec::new();
    for point in Point::WAITING {
        let mut world = World::new(&format!("alarm_{}", point.name()));
        world.config.bus.url = rabbit.url.clone().into();
        world.service().await?.stop().await?;
        let letters: Vec<_> = (0..LETTERS).map(|number| poison(number, 0)).collect();
        world.publish(&letters).await?;
        worlds.push((point, world));
    }
    set_alarm(&rabbit, true).await?;
    let mut dying = Vec::new();
    for (point, world) in &worlds {
        dying.push(spawn(world, *point)?);
        until("letters wait in the database", || async {
            (world.documents("unsent_letters").await.ok()? > 0).then_some(())
        })
        .await?;
    }
    // The first of them dies while the broker takes nothing, and goes on then, too.
    has_died(&mut dying[0]).await?;
    let service = worlds[0].1.service().await?;
    set_alarm(&rabbit, false).await?;
    for service in &mut dying[1..] {
        has_died(service).await?;
    }
    all_listed_once(&worlds[0].1, &service, LETTERS).await?;
    service.stop().await?;
    for (point, world) in &worlds[1..] {
        let service = world.service().await?;
        all_listed_once(world, &service, LETTERS).await?;
        world.stopped_with_nothing_left(service).await?;
        assert_eq!(world.documents("unsent_letters").await?, 0, "{point:?}");
    }
    Ok(())
}
