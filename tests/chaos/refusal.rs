//! A database that refuses some good events for a while, by a validator: they
//! become dead letters, to be replayed once it accepts them.

use std::time::{Duration, Instant};

use mongodb::bson::{Document, doc};

use super::inject::Record;
use super::stage::{Stage, command};
use crate::kit::random::Random;
use crate::kit::service::{Result, until_for};

/// What the ids of refused events match: one in eight, or every second. Ids end
/// with a hexadecimal digit.
const REFUSED: [&str; 2] = ["[0-1]$", "[0-7]$"];
/// Milliseconds until the next refusal, and of one: at least, and less than.
const GAP_MS: (usize, usize) = (500, 2_500);
const LASTS_MS: (usize, usize) = (2_000, 8_000);
/// How long the database may try to change the validator, and then to tell the
/// other nodes: an open transaction is in the way.
const CHANGE_MS: i32 = 800;

/// Refuses events and accepts them again, over and over for so long. At the
/// end all are accepted.
///
/// # Errors
/// When the validator cannot be changed within the patience.
pub(crate) async fn keep_refusing(
    stage: &Stage,
    database: &str,
    random: &mut Random,
    (length, patience): (Duration, Duration),
    record: &Record,
) -> Result<()> {
    let end = Instant::now() + length;
    loop {
        tokio::time::sleep(random.millis(GAP_MS)).await;
        if Instant::now() >= end {
            return Ok(());
        }
        let pattern = *random.pick(&REFUSED);
        let refuse = doc! { "_id.e": { "$not": { "$regex": pattern } } };
        validate(stage, database, refuse, patience).await?;
        record.note(&format!("begin  events refused: {pattern}"));
        tokio::time::sleep(random.millis(LASTS_MS)).await;
        validate(stage, database, doc! {}, patience).await?;
        record.note("over   events refused");
    }
}

/// Has most nodes know the validator: no new primary will do without it.
async fn validate(
    stage: &Stage,
    database: &str,
    validator: Document,
    patience: Duration,
) -> Result<()> {
    let change = doc! {
        "collMod": "journal",
        "validator": validator,
        "maxTimeMS": CHANGE_MS,
        "writeConcern": { "w": "majority", "wtimeout": CHANGE_MS },
    };
    until_for(patience, "validator changed", || async {
        let primary = stage.primary().await.ok()?;
        let server = &stage.databases[primary];
        let answer = command(server, database, change.clone()).await.ok()?;
        (!answer.contains_key("writeConcernError")).then_some(())
    })
    .await
}
