//! A dialog that the store does not take holds no other up: its events wait, or
//! go to the dead letters, by the cause.

use std::time::Duration;

use mongodb::IndexModel;
use mongodb::bson::{Document, doc};
use mongodb::options::IndexOptions;

use crate::events::{self, Wire};
use crate::kit::service::{Result, Service, until};
use crate::world::{World, dialog};

const BAD: &str = "bad";
/// Of a process that refuses hundreds of events, and goes on.
const LIMIT_MIB: f64 = 160.0;

/// One lane: others have nowhere else to go.
fn one_lane(name: &str) -> World {
    let mut world = World::new(name);
    world.config.lanes.count = 1;
    world
}

/// Messages of the dialog that is not taken among as many of ten others.
fn mixed(name: &str, count: usize) -> Vec<Wire> {
    let bad = events::messages(&format!("{name}_bad"), BAD, count, 1_000);
    let others: Vec<_> = (0..10)
        .map(|n| events::messages(&format!("{name}_{n}"), &good(n), count / 10, 1_000))
        .collect();
    let others = others.into_iter().flatten();
    bad.into_iter()
        .zip(others)
        .flat_map(|(bad, other)| [bad, other])
        .collect()
}

fn good(number: usize) -> String {
    format!("d{number}")
}

/// Waits until every message of the other dialogs is counted.
async fn others_count(service: &Service, each: i64) -> Result<()> {
    until("the others are counted", || async {
        for number in 0..10 {
            let (messages, _) = dialog(service, &good(number)).await.ok()?;
            if messages < each {
                return None;
            }
        }
        Some(())
    })
    .await
}

async fn letters(service: &Service) -> Result<u64> {
    service
        .counter("chat_counters_dead_letters_total", "")
        .await
}

#[tokio::test]
async fn a_dialog_that_is_refused_goes_to_the_dead_letters_and_others_go_on() -> Result<()> {
    let world = one_lane("set_aside");
    let service = world.service().await?;
    let refuse = doc! { "collMod": "dialogs", "validator": { "_id.d": { "$ne": BAD } } };
    world.database().await?.run_command(refuse).await?;
    world.publish(&mixed("a", 400)).await?;
    others_count(&service, 40).await?;
    let refused = letters(&service).await?;
    assert!(
        refused < 360,
        "others waited for {refused} that were refused"
    );
    // From now on they are not even in one batch.
    world.publish(&mixed("b", 100)).await?;
    others_count(&service, 50).await?;
    service.has_settled(1_000).await?;
    let last = world.letters(500).await?.pop().ok_or("no letter")?;
    assert_eq!(last.header("x-cc-reason"), "rejected_by_store");
    assert!(
        service.peak_rss_mib()? < LIMIT_MIB,
        "{}",
        service.peak_rss_mib()?
    );
    service.stop().await
}

#[tokio::test]
async fn a_dialog_that_somebody_holds_waits_and_others_go_on() -> Result<()> {
    let world = one_lane("held");
    let service = world.service().await?;
    world.publish(&events::messages("first", BAD, 1, 5)).await?;
    service.has_settled(1).await?;
    let database = world.database().await?;
    let mut session = database.client().start_session().await?;
    session.start_transaction().await?;
    let dialogs = database.collection::<Document>("dialogs");
    let hold = dialogs.update_one(doc! { "_id.d": BAD }, doc! { "$set": { "held": true } });
    hold.session(&mut session).await?;
    world.publish(&mixed("a", 50)).await?;
    others_count(&service, 5).await?;
    assert_eq!(dialog(&service, BAD).await?, (1, 0), "it is held");
    session.abort_transaction().await?;
    until("it is counted once nobody holds it", || async {
        (dialog(&service, BAD).await.ok()? == (51, 0)).then_some(())
    })
    .await?;
    assert_eq!(letters(&service).await?, 0);
    service.stop().await
}

/// By an error of which nobody can say that it will not go away: an index that
/// cannot take the documents.
#[tokio::test]
async fn a_dialog_that_fails_for_an_unknown_cause_waits_and_others_go_on() -> Result<()> {
    let world = one_lane("unknown");
    let service = world.service().await?;
    let journal = world.database().await?.collection::<Document>("journal");
    let of_bad = IndexOptions::builder()
        .name("places".to_owned())
        .partial_filter_expression(doc! { "d": BAD })
        .build();
    let places = IndexModel::builder().keys(doc! { "actor": "2dsphere" });
    journal.create_index(places.options(of_bad).build()).await?;
    world.publish(&mixed("a", 50)).await?;
    others_count(&service, 5).await?;
    assert_eq!(dialog(&service, BAD).await?, (0, 0));
    journal.drop_index("places").await?;
    until("it is counted once it can be", || async {
        (dialog(&service, BAD).await.ok()? == (50, 0)).then_some(())
    })
    .await?;
    assert_eq!(letters(&service).await?, 0);
    // What rests does not hold up a stop.
    tokio::time::timeout(Duration::from_secs(10), service.stop()).await?
}
