//! Dialogs with their members, written straight to the store: 500 dialogs of
//! 10,000 members are five million joins, which are not what is measured.

use chat_counters::config::Config;
use chat_counters::store::{Retention, Store};
use futures::TryStreamExt as _;
use mongodb::bson::{DateTime, Document, RawDocumentBuf, doc, rawdoc};
use mongodb::options::WriteConcern;

use super::load::{START, TENANT, dialog, user};
use super::process::Result;

/// Documents in one insert.
const CHUNK: usize = 10_000;
/// Micros at which everyone joined.
const JOINED: i64 = START - 1_000_000;

/// Puts dialogs and memberships into the state in which the joins of all
/// members would have left them.
pub(crate) async fn dialogs(config: &Config, dialogs: usize, members: usize) -> Result<()> {
    filled(config, dialogs, |_| 0..members, 0).await
}

/// The same of dialogs with these members, in each of which so many messages
/// are unread by all.
pub(crate) async fn filled<M: Iterator<Item = usize>>(
    config: &Config,
    dialogs: usize,
    members_of: impl Fn(usize) -> M,
    unread: i64,
) -> Result<()> {
    let store = Store::connect(&config.store).await?;
    let retention = Retention::of(&Default::default());
    store.migrate(retention).await?;
    let now = DateTime::now();
    let sequence = match unread {
        0 => rawdoc! {},
        unread => rawdoc! { "user": unread },
    };
    let documents = (0..dialogs).map(|index| {
        let members = members_of(index).count();
        rawdoc! {
            "_id": { "t": TENANT, "d": dialog(index) },
            "version": members as i64,
            "messages": unread,
            "members": members as i64,
            "topics": 0_i64,
            "sequence": sequence.clone(),
            "high_mark": JOINED - 1,
            "updated_at": now,
        }
    });
    insert(&store, "dialogs", documents).await?;
    let members_of = &members_of;
    let pairs = (0..dialogs).flat_map(|d| members_of(d).map(move |m| (dialog(d), user(m))));
    let documents = pairs.enumerate().map(|(index, (dialog, user))| {
        let mut adds = mongodb::bson::RawArrayBuf::new();
        adds.push(
            rawdoc! { "at": JOINED, "event": format!("evt_join_{index}"), "joined_at": JOINED },
        );
        rawdoc! {
            "_id": { "t": TENANT, "d": dialog, "u": user },
            "version": 1_i64,
            "member": true,
            "joined_at": JOINED,
            "mark": JOINED - 1,
            "consumed": {},
            "adds": adds,
            "updated_at": now,
        }
    });
    insert(&store, "memberships", documents).await?;
    // What is still to be written of the seed would be paid for by the load.
    let admin = store.client().database("admin");
    admin.run_command(doc! { "fsync": 1 }).await?;
    Ok(())
}

async fn insert(
    store: &Store,
    collection: &str,
    documents: impl Iterator<Item = RawDocumentBuf>,
) -> Result<()> {
    let collection = store.database().collection::<RawDocumentBuf>(collection);
    let mut documents = documents.peekable();
    while documents.peek().is_some() {
        let chunk: Vec<_> = documents.by_ref().take(CHUNK).collect();
        collection
            .insert_many(chunk)
            .ordered(false)
            .write_concern(
                WriteConcern::builder()
                    .w(mongodb::options::Acknowledgment::from(1))
                    .journal(false)
                    .build(),
            )
            .await?;
    }
    Ok(())
}

/// That every message was counted once: a fast service that loses events is
/// not fast.
pub(crate) async fn verify(config: &Config, messages: usize) -> Result<()> {
    let store = Store::connect(&config.store).await?;
    let dialogs = store.database().collection::<Document>("dialogs");
    let sum = doc! { "$group": { "_id": null, "messages": { "$sum": "$messages" } } };
    let sums: Vec<_> = dialogs.aggregate([sum]).await?.try_collect().await?;
    let counted = sums.first().map_or(Ok(0), |sum| sum.get_i64("messages"))?;
    if counted == messages as i64 {
        Ok(())
    } else {
        Err(format!("{messages} messages were sent, {counted} are counted").into())
    }
}
