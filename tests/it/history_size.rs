//! What the history costs the store: bytes of a journal record and of an index
//! entry. `cargo test --test it -- history_size --nocapture` prints them;
//! docs/history.md has the table.

use mongodb::bson::{Document, doc};

use crate::events::{Wire, bulk_read, delete, join, leave, message, reaction, status};
use crate::kit::service::Result;
use crate::world::World;

/// Ids as producers have them: a prefix and 32 digits.
fn id(prefix: &str, number: usize) -> String {
    let number = (number as u128 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
    format!("{prefix}_{number:032x}")
}

const DIALOGS: usize = 200;
const MEMBERS: usize = 5;

/// Half messages, a quarter reads one by one, the rest of every kind.
fn load(events: usize) -> Vec<Wire> {
    let user = |number: usize| id("usr", number % 1_000);
    let mut load = Vec::new();
    for number in 0..DIALOGS * MEMBERS {
        let dialog = id("dlg", number % DIALOGS);
        load.push(join(&id("evt", number), &dialog, &user(number), 1));
    }
    for number in load.len()..events {
        let (event, at) = (id("evt", number), 1_000 + number as i64);
        let dialog = id("dlg", number % DIALOGS);
        // Of the same dialog, a few rounds before.
        let sent = id("msg", number.saturating_sub(number % 3 * DIALOGS + DIALOGS));
        let user = user(number * 7);
        load.push(match number / DIALOGS % 20 {
            0..10 => message(&event, &dialog, &id("msg", number), &user, at),
            10..15 => status(&event, &dialog, &sent, &user, "read", at),
            15 => bulk_read(&event, &dialog, &user, at),
            16 => reaction(&event, &sent, &user, "👍", "set", at),
            17 => delete(&event, &sent, at),
            18 => join(&event, &dialog, &user, at),
            _ => leave(&event, &dialog, &user, at),
        });
    }
    load
}

#[tokio::test]
async fn a_history_costs_a_few_bytes_an_event() -> Result<()> {
    const EVENTS: usize = 20_000;
    let world = World::new("history_size");
    let service = world.service().await?;
    world.publish(&load(EVENTS)).await?;
    service.has_settled(EVENTS as u64).await?;
    service.stop().await?;

    let database = world.database().await?;
    let journal = database.collection::<Document>("journal");
    let mut by_type = journal
        .aggregate([
            doc! { "$group": {
                "_id": "$type",
                "events": { "$sum": 1 },
                "bytes": { "$avg": { "$bsonSize": "$$ROOT" } },
            } },
            doc! { "$sort": { "_id": 1 } },
        ])
        .await?;
    println!("{:<28} {:>7} {:>13}", "type", "events", "bytes a record");
    while by_type.advance().await? {
        let row = by_type.deserialize_current()?;
        let (kind, events) = (row.get_str("_id")?, row.get_i32("events")?);
        println!("{kind:<28} {events:>7} {:>13.0}", row.get_f64("bytes")?);
    }
    // A checkpoint, so that files are as large as what is in them.
    let admin = doc! { "fsync": 1 };
    let client = mongodb::Client::with_uri_str(world.config.store.url.expose()).await?;
    client.database("admin").run_command(admin).await?;
    let stats = database
        .run_command(doc! { "collStats": "journal" })
        .await?;
    println!("{:<28} {:>7} {:>13}", "index", "entries", "bytes an entry");
    for (name, size) in stats.get_document("indexSizes")? {
        let filter = match name.as_str() {
            "_id.t_1_d_1_version_1" => doc! { "version": { "$exists": true } },
            "_id.t_1_of_1" => doc! { "of": { "$exists": true } },
            _ => doc! {},
        };
        let entries = journal.count_documents(filter).await?;
        let size = size.as_i32().ok_or("no size")?;
        let bytes = f64::from(size) / entries as f64;
        println!("{name:<28} {entries:>7} {bytes:>13.0}");
        assert!(bytes < 150.0, "{name}");
    }
    let record = stats.get_i32("avgObjSize")?;
    println!("{EVENTS} events, {record} bytes a record on average, uncompressed");
    assert!(record < 400);
    Ok(())
}
