//! After load and faults: until all is counted, and the verdict.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use chat_counters::config;
use chat_counters::grpc::v1::counter_service_client::CounterServiceClient;
use futures::TryStreamExt as _;
use mongodb::bson::{Document, doc};
use serde_json::Value;

use super::inject::Record;
use super::letters;
use super::listed::{self, Listing};
use super::load::Load;
use super::replay::Replayer;
use super::replica::Replica;
use super::run::{Outcome, PATIENCE, become_ready};
use super::stage::Stage;
use super::watchers::Watchers;
use crate::kit::broker;
use crate::kit::model::Model;
use crate::kit::read_back::{self, Comparison};
use crate::kit::read_http;
use crate::kit::scenario::Scenario;
use crate::kit::service::{POLL, Result, until_for};
use crate::kit::subscriber::Subscriber;

/// When nothing happens for so long, nothing will.
const STUCK: Duration = Duration::from_secs(75);

/// A run whose load is confirmed, and whose faults are over.
pub(crate) struct Played<'r> {
    pub stage: &'r Stage,
    pub replicas: Vec<Replica>,
    pub scenario: &'r Scenario,
    pub load: &'r Load,
    pub replayer: Option<Replayer<'r>>,
    pub watchers: Option<Watchers>,
    pub subscriber: Option<Subscriber>,
    pub record: &'r Record,
}

impl Played<'_> {
    /// Waits until all is counted, stops the replicas, and compares all there is.
    ///
    /// # Errors
    /// When something does not come back.
    pub(crate) async fn settle(mut self, outcome: &mut Outcome) -> Result<()> {
        let model = Model::of(&self.scenario.events);
        let bus = self.stage.direct(&self.replicas[0].config().bus).remove(0);
        let began = Instant::now();
        if !self.count_all(&bus, &model, STUCK).await? {
            outcome.held = self.held(&bus.queue).await?;
            if outcome.held > 0 {
                self.restart_brokers().await?;
            }
            if !self.count_all(&bus, &model, PATIENCE).await? {
                let said = "what was published was never counted and settled in full";
                outcome.differences.push(said.to_owned());
            }
        }
        outcome.drained = began.elapsed();
        if let Some(watchers) = self.watchers.take() {
            let watched = watchers.end(&model, PATIENCE).await;
            outcome.updates = watched.updates;
            outcome.differences.extend(watched.faults);
        }
        if let Some(subscriber) = self.subscriber.take() {
            notified(&subscriber, &model, outcome).await;
        }
        for replica in &mut self.replicas {
            replica.stop().await?;
        }
        let (_connection, channel) = broker::channel(&bus).await?;
        let left = broker::ready(&channel, &bus.queue).await?;
        if left > 0 {
            let said = format!("{left} messages were held by replicas that had nothing more to do");
            outcome.differences.push(said);
        }
        let listing = self.ask_afresh(&model, outcome).await?;
        let uncounted = self.uncounted().await?;
        outcome.differences.extend(uncounted);
        let depth = broker::ready(&channel, &bus.dead_letter_queue).await?;
        let published = &self.scenario.published;
        let listed = listed::judge(&bus.exchange, published, &listing, depth);
        if !listed.is_empty() {
            self.look_through_each_broker(&bus, depth as usize).await;
        }
        let found = broker::letters(&bus, depth as usize).await?;
        let interruptions = outcome.faults.values().sum();
        outcome.letters = letters::judge(published, &self.load.sent, &found, interruptions);
        outcome.differences.append(&mut outcome.letters.differences);
        outcome.differences.extend(listed);
        Ok(())
    }

    /// Waits until every counter is as it should be and nothing is left of the
    /// load, copies of what is counted included; `false` when that takes too
    /// long.
    async fn count_all(
        &mut self,
        bus: &config::Bus,
        model: &Model,
        patience: Duration,
    ) -> Result<bool> {
        let (_connection, channel) = broker::channel(bus).await?;
        let drained = until_for(PATIENCE, "an empty queue", || async {
            let ready = broker::ready(&channel, &bus.queue).await.ok()?;
            (ready == 0).then_some(())
        });
        drained.await?;
        self.record.note("nothing is ready in the queue");
        // What is in flight still is not seen from outside: its effect is. When
        // it never shows, the comparison at the end says what is different.
        let began = Instant::now();
        let mut counted = equal(&self.replicas[0], model).await;
        while !counted && began.elapsed() < patience {
            match &mut self.replayer {
                Some(replayer) => replayer.once(PATIENCE).await?,
                None => tokio::time::sleep(POLL).await,
            }
            counted = equal(&self.replicas[0], model).await;
        }
        if !counted {
            return Ok(false);
        }
        self.record.note("counted");
        let done = until_for(patience, "a queue that holds nothing", || async {
            (self.held(&bus.queue).await.ok()? == 0).then_some(())
        });
        Ok(done.await.is_ok())
    }

    /// How many messages the broker takes to be with consumers. When replicas
    /// have had the time to settle theirs, it takes them to be with one that is
    /// gone (see rabbitmq/rabbitmq-server#15473).
    async fn held(&self, queue: &str) -> Result<u32> {
        let columns = ["name", "messages_unacknowledged", "consumers", "leader"];
        let listed = [&["--silent", "list_queues"][..], &columns].concat();
        let listed = self.stage.brokers[0].ctl(&listed).await?;
        self.record.note(listed.trim_end());
        let line = listed
            .lines()
            .find_map(|line| line.strip_prefix(queue)?.strip_prefix('\t'));
        let held = line.and_then(|line| line.split('\t').next()?.parse().ok());
        Ok(held.unwrap_or_default())
    }

    /// What an operator can do about that: another leader looks anew for those
    /// who are gone.
    async fn restart_brokers(&self) -> Result<()> {
        for broker in &self.stage.brokers {
            broker.run("stop").await?;
            broker.start().await?;
        }
        self.record.note("brokers restarted");
        Ok(())
    }

    /// Asks a process that has seen nothing of it all for counters and letters.
    async fn ask_afresh(&mut self, model: &Model, outcome: &mut Outcome) -> Result<Listing> {
        self.replicas.truncate(1);
        self.replicas[0].start().await?;
        become_ready(&mut self.replicas).await?;
        let replica = &mut self.replicas[0];
        if let Some(replayer) = &mut self.replayer {
            // Copies of events that are counted may have been refused, too, by
            // replicas that never heard the confirm of the letter.
            listed::sync(replica.admin_url(), PATIENCE).await?;
            replayer.until_none(&replica.admin_url(), PATIENCE).await?;
            outcome.replays = replayer.replays;
        }
        let listing = listed::list(replica.admin_url(), PATIENCE).await?;
        let comparison = compare(replica, model).await?;
        outcome.compared = comparison.compared;
        let differences = comparison.differences.iter().map(ToString::to_string);
        outcome.differences.extend(differences);
        let over_http = read_http::compare(replica.http(), model).await?;
        outcome.compared += over_http.compared;
        let differences = over_http.differences.iter().map(ToString::to_string);
        outcome.differences.extend(differences);
        replica.stop().await?;
        if !replica.verifies().await? {
            let said = "`chat-counters verify` finds counters that the facts do not bear out";
            outcome.differences.push(said.to_owned());
        }
        Ok(listing)
    }

    /// Notes which letters each broker shows: where the service lists others than
    /// are taken out in the end, one of them may show what another does not have.
    async fn look_through_each_broker(&self, bus: &config::Bus, count: usize) {
        for (node, direct) in self.stage.direct(bus).iter().enumerate() {
            let looked = tokio::time::timeout(PATIENCE, broker::look_at_letters(direct, count));
            let Ok(Ok(found)) = looked.await else {
                self.record.note(&format!("broker {node} shows no letters"));
                continue;
            };
            for letter in found {
                let (reason, body) = (letter.header("x-cc-reason"), &letter.body);
                let start = String::from_utf8_lossy(&body[..body.len().min(80)]);
                self.record
                    .note(&format!("broker {node} shows {reason}: {start}"));
            }
        }
    }

    /// Names the events that the journal does not have: where to begin looking.
    async fn uncounted(&self) -> Result<Vec<String>> {
        let store = &self.replicas[0].config().store;
        let client = mongodb::Client::with_uri_str(store.url.expose()).await?;
        let journal = client
            .database(&store.database)
            .collection::<Document>("journal");
        let ids = journal.find(doc! {}).projection(doc! { "_id": 1 }).await?;
        let id = |record: Document| {
            let id = record.get_document("_id").ok()?;
            Some((
                id.get_str("t").ok()?.to_owned(),
                id.get_str("e").ok()?.to_owned(),
            ))
        };
        let taken: HashSet<_> = ids.map_ok(id).try_collect().await?;
        let missing = self.scenario.events.iter().filter_map(|event| {
            let text = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
            let (tenant, id) = (text("tenantId"), text("eventId"));
            let said = format!("not in the journal: {tenant} {id}");
            let is_missing = !taken.contains(&Some((tenant, id)));
            is_missing.then(|| format!("{said}, published {}", self.place(event)))
        });
        Ok(missing.collect())
    }

    /// When an event was published, and how often it may have been: lost
    /// together, events were neighbours somewhere.
    fn place(&self, event: &Value) -> String {
        let body = event.to_string().into_bytes();
        let published = self.scenario.published.iter().zip(&self.load.sent);
        let places = published.enumerate().filter(|(_, (p, _))| p.body == body);
        let places = places.map(|(place, (_, sent))| format!("as number {place}, {sent} times"));
        places.collect::<Vec<_>>().join("; ")
    }
}

/// Waits until the last notification of everybody is what the model says.
async fn notified(subscriber: &Subscriber, model: &Model, outcome: &mut Outcome) {
    let all_told = until_for(PATIENCE, "everybody is notified", || async {
        subscriber.unknown(model).is_empty().then_some(())
    });
    let _ = all_told.await;
    let unknown = subscriber.unknown(model);
    let unknown = unknown.iter().map(|unknown| format!("notified: {unknown}"));
    outcome.differences.extend(unknown);
    let known = subscriber.known();
    outcome.notifications = known.count;
    let faults = known
        .faults
        .iter()
        .map(|fault| format!("notified: {fault}"));
    outcome.differences.extend(faults);
}

async fn equal(replica: &Replica, model: &Model) -> bool {
    let comparison = compare(replica, model).await;
    comparison.is_ok_and(|comparison| comparison.differences.is_empty())
}

async fn compare(replica: &Replica, model: &Model) -> Result<Comparison> {
    let mut client = CounterServiceClient::connect(replica.url()).await?;
    read_back::compare(&mut client, model).await
}
