//! A gateway that listens for notifications on the bus: keeps the latest of each
//! user, pair and dialog by version, whatever comes twice or late, and comes back
//! when the broker is lost.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chat_counters::config;
use futures::StreamExt as _;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicQosOptions, ExchangeDeclareOptions,
    ExchangeDeleteOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, ConnectionProperties, ExchangeKind};
use serde_json::Value;
use tokio::task::JoinSet;

use super::model::{Counts, Model};
use super::service::Result;

/// Before a broker that was lost is tried again.
const PAUSE: Duration = Duration::from_millis(50);
/// A broker that says nothing for so long is connected to anew.
const SILENT: Duration = Duration::from_secs(10);
/// Messages in hand.
const PREFETCH: u16 = 500;
/// Messages that are kept as they came: the first ones.
const KEPT: usize = 20_000;

/// Listens until it is dropped.
pub(crate) struct Subscriber {
    known: Arc<Mutex<Known>>,
    _listening: JoinSet<()>,
}

/// A notification as it came.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub routing_key: String,
    pub content_type: String,
    pub message_id: String,
    pub headers: BTreeMap<String, String>,
    pub body: Value,
    pub came: Instant,
}

/// What was told.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// The latest `data` of each (tenant, user).
    pub users: BTreeMap<(String, String), Value>,
    /// The latest of each (tenant, user, dialog).
    pub pairs: BTreeMap<(String, String, String), Value>,
    /// The latest of each (tenant, dialog).
    pub dialogs: BTreeMap<(String, String), Value>,
    /// The first messages, as they came.
    pub messages: Vec<Message>,
    /// How many there were.
    pub count: u64,
    /// What was told by each id: the same each time.
    ids: BTreeMap<String, Value>,
    pub faults: Vec<String>,
}

impl Subscriber {
    /// Declares exchange and queue, and listens: what is published from now on
    /// comes. `buses` are ways to one broker or cluster.
    ///
    /// # Errors
    /// When the broker cannot be reached.
    pub(crate) async fn begin(buses: Vec<config::Bus>, notify: &config::Notify) -> Result<Self> {
        let queue = queue_of(notify);
        let (connection, channel) = super::broker::channel(&buses[0]).await?;
        declare(&channel, &notify.exchange, &queue).await?;
        connection.close(200, "done".into()).await?;
        let known = Arc::<Mutex<Known>>::default();
        let mut listening = JoinSet::new();
        listening.spawn(keep_listening(buses, queue, Arc::clone(&known)));
        Ok(Self {
            known,
            _listening: listening,
        })
    }

    /// What was told so far.
    pub(crate) fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What users were not told last, though the model says it.
    pub(crate) fn unknown(&self, model: &Model) -> Vec<String> {
        let known = self.known();
        let mut unknown = Vec::new();
        for (tenant, user) in model.users() {
            let expected = model.user(&tenant, &user);
            let found = known.users.get(&(tenant.clone(), user.clone()));
            let number = |name: &str| found.map_or(0, |told| told[name].as_i64().unwrap_or(-1));
            let is_known = expected.dialog_count == number("dialog_count")
                && expected.unread_dialogs_count == number("unread_dialogs_count")
                && expected.total_unread_count == number("total_unread_count")
                && expected.total_messages_count == number("total_messages_count")
                && expected.unread_by_sender_type == counts(found);
            if !is_known {
                unknown.push(format!(
                    "{tenant} {user} is {expected:?}, told was {found:?}"
                ));
            }
        }
        for (tenant, user, dialog) in model.user_dialogs() {
            let expected = model.user_dialog(&tenant, &user, &dialog);
            let found = known
                .pairs
                .get(&(tenant.clone(), user.clone(), dialog.clone()));
            let unread = found.map_or(0, |told| told["unread_count"].as_i64().unwrap_or(-1));
            let member = found.is_some_and(|told| told["member"] == true);
            let is_known = (expected.member, expected.unread_count) == (member, unread)
                && expected.unread_by_sender_type == counts(found);
            if !is_known {
                let pair = format!("{tenant} {user} in {dialog}");
                unknown.push(format!("{pair} is {expected:?}, told was {found:?}"));
            }
        }
        unknown
    }
}

fn counts(told: Option<&Value>) -> Counts {
    let counts = told.and_then(|told| told["unread_by_sender_type"].as_object());
    let counts = counts.into_iter().flatten();
    counts
        .map(|(name, count)| (name.clone(), count.as_i64().unwrap_or(-1)))
        .collect()
}

/// Removes the exchange of notifications, and a subscriber's queue.
///
/// # Errors
/// When the broker refuses.
pub(crate) async fn delete(channel: &Channel, notify: &config::Notify) -> Result<()> {
    let queue = queue_of(notify);
    channel
        .queue_delete(queue.as_str().into(), QueueDeleteOptions::default())
        .await?;
    let exchange = notify.exchange.as_str().into();
    Ok(channel
        .exchange_delete(exchange, ExchangeDeleteOptions::default())
        .await?)
}

fn queue_of(notify: &config::Notify) -> String {
    format!("{}_told", notify.exchange)
}

async fn declare(channel: &Channel, exchange: &str, queue: &str) -> Result<()> {
    let durable = ExchangeDeclareOptions {
        durable: true,
        ..Default::default()
    };
    let nothing = FieldTable::default;
    channel
        .exchange_declare(exchange.into(), ExchangeKind::Topic, durable, nothing())
        .await?;
    let mut quorum = FieldTable::default();
    quorum.insert(
        "x-queue-type".into(),
        AMQPValue::LongString("quorum".into()),
    );
    channel
        .queue_declare(queue.into(), QueueDeclareOptions::durable(), quorum)
        .await?;
    let options = QueueBindOptions::default();
    let bound = channel.queue_bind(
        queue.into(),
        exchange.into(),
        "#".into(),
        options,
        nothing(),
    );
    Ok(bound.await?)
}

async fn keep_listening(buses: Vec<config::Bus>, queue: String, known: Arc<Mutex<Known>>) {
    for bus in buses.iter().cycle() {
        // That brokers are lost is what faults do.
        let _ = listen(bus, &queue, &known).await;
        tokio::time::sleep(PAUSE).await;
    }
}

async fn listen(bus: &config::Bus, queue: &str, known: &Mutex<Known>) -> Result<()> {
    let connecting = Connection::connect(bus.url.expose(), ConnectionProperties::default());
    let connection = tokio::time::timeout(SILENT, connecting).await??;
    let channel = tokio::time::timeout(SILENT, connection.create_channel()).await??;
    let options = BasicQosOptions::default();
    tokio::time::timeout(SILENT, channel.basic_qos(PREFETCH, options)).await??;
    let options = BasicConsumeOptions::default();
    let consuming = channel.basic_consume(queue.into(), "".into(), options, FieldTable::default());
    let mut consumer = tokio::time::timeout(SILENT, consuming).await??;
    while let Some(delivery) = consumer.next().await {
        let delivery = delivery?;
        known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take(&delivery);
        delivery.ack(BasicAckOptions::default()).await?;
    }
    Ok(())
}

impl Known {
    fn take(&mut self, delivery: &Delivery) {
        let body: Value = match serde_json::from_slice(&delivery.data) {
            Ok(body) => body,
            Err(error) => return self.faults.push(format!("not JSON: {error}")),
        };
        self.count += 1;
        let message = message(delivery, body);
        if message.body["specversion"] == "1.0" {
            self.take_event(&message);
        }
        if self.messages.len() < KEPT {
            self.messages.push(message);
        }
    }

    fn take_event(&mut self, message: &Message) {
        let body = &message.body;
        let data = &body["data"];
        let text = |name: &str| data[name].as_str().unwrap_or_default().to_owned();
        let id = body["id"].as_str().unwrap_or_default().to_owned();
        let before = self.ids.entry(id).or_insert_with(|| data.clone());
        if before != data {
            let fault = format!("one id for two states: {before} and {data}");
            self.faults.push(fault);
        }
        let (tenant, user, dialog) = (text("tenant_id"), text("user_id"), text("dialog_id"));
        match body["type"].as_str().unwrap_or_default() {
            "chatcounters.user_stats.changed" => keep(&mut self.users, (tenant, user), data),
            "chatcounters.user_dialog_stats.changed" => {
                keep(&mut self.pairs, (tenant, user, dialog), data);
            }
            "chatcounters.dialog_stats.changed" => keep(&mut self.dialogs, (tenant, dialog), data),
            other => self.faults.push(format!("an event of type {other:?}")),
        }
    }
}

/// The latest wins, whenever it comes.
fn keep<K: Ord>(known: &mut BTreeMap<K, Value>, key: K, data: &Value) {
    let version = |data: &Value| data["version"].as_i64().unwrap_or(-1);
    let kept = known.entry(key).or_insert_with(|| data.clone());
    if version(data) > version(kept) {
        *kept = data.clone();
    }
}

fn message(delivery: &Delivery, body: Value) -> Message {
    let properties = &delivery.properties;
    let text = |text: &Option<lapin::types::ShortString>| {
        text.as_ref().map(ToString::to_string).unwrap_or_default()
    };
    let headers = properties
        .headers()
        .iter()
        .flat_map(|headers| headers.inner());
    let headers = headers.map(|(name, value)| {
        let value = match value {
            AMQPValue::LongString(text) => text.to_string(),
            other => format!("{other:?}"),
        };
        (name.to_string(), value)
    });
    Message {
        routing_key: delivery.routing_key.to_string(),
        content_type: text(properties.content_type()),
        message_id: text(properties.message_id()),
        headers: headers.collect(),
        body,
        came: Instant::now(),
    }
}
