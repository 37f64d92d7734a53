//! The floors: the same work with nothing of the service in between.

use std::time::Instant;

use chat_counters::config::Config;
use chat_counters::store::Store;
use futures::StreamExt as _;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicQosOptions, ExchangeDeleteOptions,
    QueueDeleteOptions,
};
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties};
use mongodb::bson::{DateTime, RawArrayBuf, RawDocumentBuf, rawdoc};

use super::load::{Load, START, TENANT, dialog, user};
use super::process::{Result, Service};
use super::report::Cpu;
use super::{Options, publish, seed, service};

/// Loops side by side, as the service's default number of lanes.
const LANES: usize = 2;
/// Members of a dialog.
const MEMBERS: usize = 100;

/// Events per second that are consumed from the same queue and acknowledged,
/// with nothing in between.
pub(crate) async fn bus(config: &Config, load: &[Load]) -> Result<f64> {
    Service::start(service::binary(), config)
        .await?
        .stop()
        .await?;
    publish(config, load).await?;
    let url = config.bus.url.expose();
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    let prefetch = config.bus.prefetch;
    channel
        .basic_qos(prefetch, BasicQosOptions::default())
        .await?;
    let mut consumer = channel
        .basic_consume(
            config.bus.queue.as_str().into(),
            "floor".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        )
        .await?;
    let mut first = None;
    let multiple = BasicAckOptions { multiple: true };
    for received in 1..=load.len() {
        let delivery = consumer.next().await.ok_or("cancelled")??;
        first.get_or_insert_with(Instant::now);
        if received % (usize::from(prefetch) / 4) == 0 || received == load.len() {
            delivery.ack(multiple).await?;
        }
    }
    let seconds = first.map_or(0.0, |first: Instant| first.elapsed().as_secs_f64());
    connection.close(200, "done".into()).await?;
    remove(config).await?;
    Ok(load.len() as f64 / seconds)
}

/// Deletes all that a run has made on the servers.
pub(crate) async fn remove(config: &Config) -> Result<()> {
    Store::connect(&config.store)
        .await?
        .database()
        .drop()
        .await?;
    let url = config.bus.url.expose();
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    for queue in [&config.bus.queue, &config.bus.dead_letter_queue] {
        let options = QueueDeleteOptions::default();
        channel.queue_delete(queue.as_str().into(), options).await?;
    }
    let options = ExchangeDeleteOptions::default();
    channel
        .exchange_delete(config.bus.exchange.as_str().into(), options)
        .await?;
    connection.close(200, "done".into()).await?;
    Ok(())
}

/// Events per second whose documents are encoded and written by a bare loop:
/// what the service writes for a message, in transactions of the size that the
/// service's had.
pub(crate) async fn store(config: &Config, options: &Options, batch: usize) -> Result<(f64, Cpu)> {
    seed::dialogs(config, options.dialogs, MEMBERS).await?;
    let store = Store::connect(&config.store).await?;
    let (per_lane, dialogs) = (options.events / LANES, options.dialogs);
    let before = Cpu::now(std::process::id());
    let started = Instant::now();
    let mut tasks = Vec::new();
    for lane in 0..LANES {
        let store = store.clone();
        tasks.push(tokio::spawn(async move {
            let indexes: Vec<_> = (0..per_lane).collect();
            for (number, events) in indexes.chunks(batch).enumerate() {
                transaction(&store, commands(lane, number, events, dialogs)).await?;
            }
            Ok::<_, mongodb::error::Error>(())
        }));
    }
    for task in tasks {
        task.await??;
    }
    let seconds = started.elapsed().as_secs_f64();
    let events = per_lane * LANES;
    let cpu = Cpu::now(std::process::id()).since(&before, events);
    store.database().drop().await?;
    Ok((events as f64 / seconds, cpu))
}

async fn transaction(store: &Store, commands: Vec<RawDocumentBuf>) -> mongodb::error::Result<()> {
    let mut session = store.client().start_session().await?;
    session.start_transaction().await?;
    for command in commands {
        let database = store.database();
        database
            .run_raw_command(command)
            .session(&mut session)
            .await?;
    }
    session.commit_transaction().await
}

fn commands(lane: usize, number: usize, batch: &[usize], dialogs: usize) -> Vec<RawDocumentBuf> {
    let own: Vec<_> = (0..dialogs)
        .filter(|dialog| dialog % LANES == lane)
        .collect();
    let (mut journal, mut messages) = (RawArrayBuf::new(), RawArrayBuf::new());
    let (mut counters, mut shares) = (RawArrayBuf::new(), RawArrayBuf::new());
    let now = DateTime::now();
    for dialog_index in &own {
        let per_dialog = (batch.len() / own.len()).max(1) as i64;
        counters.push(rawdoc! {
            "q": { "_id": { "t": TENANT, "d": dialog(*dialog_index) } },
            "u": { "$set": {
                "version": number as i64,
                "messages": number as i64,
                "members": MEMBERS as i64,
                "topics": 0_i64,
                "sequence": { "user": number as i64 },
                "updated_at": now,
                "high_mark": START,
                "last_message_at": START + number as i64,
            }, "$inc": { "floor": per_dialog } },
        });
    }
    for index in batch {
        let dialog = dialog(own[index % own.len()]);
        let sender = user((index * 7_919) % MEMBERS);
        let at = START + *index as i64;
        journal.push(rawdoc! {
            "_id": { "t": TENANT, "e": format!("evt_{lane}_{index:030}") },
            "type": "message.create",
            "at": at,
            "d": dialog.as_str(),
            "m": format!("msg_{lane}_{index:018}"),
            "u": sender.as_str(),
            "actor": sender.as_str(),
            "version": *index as i64,
            "user_type": "user",
            "sent_at": at,
            "applied_at": now,
        });
        messages.push(rawdoc! {
            "_id": { "t": TENANT, "m": format!("msg_{lane}_{index:018}") },
            "d": dialog.as_str(),
            "at": at,
            "sender": sender.as_str(),
            "type": "user",
        });
        shares.push(rawdoc! {
            "q": { "_id": { "t": TENANT, "d": dialog, "u": sender } },
            "u": {
                "$inc": { "version": 1_i64, "sent": 1_i64, "consumed.user": 1_i64 },
                "$set": { "updated_at": now },
            },
            "upsert": true,
        });
    }
    vec![
        rawdoc! { "update": "dialogs", "updates": counters },
        rawdoc! { "insert": "journal", "documents": journal },
        rawdoc! { "insert": "messages", "documents": messages },
        rawdoc! { "update": "memberships", "updates": shares },
    ]
}
