//! What events would change, told without counting them: as counting them then
//! does.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chat_counters::counter::Counter;
use chat_counters::derive::state::{DialogKey, MembershipKey, MessageKey, UserKey};
use chat_counters::derive::{EventOutcome, LoadMode};
use chat_counters::event::{DialogId, Event, Fact, MessageId, TenantId, UserId};
use chat_counters::forecast::{
    CounterChange, CounterTotal, Forecast, ForecastError, ForecastLimits, Forecaster, Prospect,
    Subject,
};
use chat_counters::lane::{Fate, Shared, Writer};
use chat_counters::store::read::{Counts, Dialogs, Messages, Query, UserInDialog, Users};
use chat_counters::store::{Reader, Retention, Store};
use mongodb::bson::{Document, doc};
use serde_json::Value;
use tokio::runtime::Runtime;
use tokio::time::Instant;

use crate::commits::shared;
use crate::derive::decoded;
use crate::events::{
    Wire, bodies, bulk_read, delete, dialog_delete, join, leave, message, messages, reaction,
    status, topic,
};
use crate::kit::model::Model;
use crate::kit::random::Random;
use crate::kit::servers::Server;
use crate::kit::service::{Result, config};
use crate::strategy::{self, Schedule};
use crate::torture::Torture;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// All counters that are not zero, as readers see them, and who is a member.
#[derive(Debug, Default)]
struct Served {
    counters: BTreeMap<(Subject, Counter), i64>,
    members: BTreeSet<MembershipKey>,
}

impl Served {
    fn add(&mut self, subject: &Subject, counter: Counter, value: i64) {
        if value != 0 {
            self.counters.insert((subject.clone(), counter), value);
        }
    }

    fn add_all(&mut self, subject: &Subject, name: &str, counts: &Counts) {
        for (key, count) in counts {
            let counter = format!("{name}.{key}").parse().unwrap();
            self.add(subject, counter, *count);
        }
    }

    /// What changed, without zeros.
    fn changes(&self, after: &Served) -> BTreeMap<(Subject, Counter), i64> {
        let keys = self.counters.keys().chain(after.counters.keys());
        let keys: BTreeSet<_> = keys.collect();
        let value = |served: &Served, key| served.counters.get(key).copied().unwrap_or(0);
        let changes = keys.into_iter();
        changes
            .map(|key| (key.clone(), value(after, key) - value(self, key)))
            .filter(|(_, delta)| *delta != 0)
            .collect()
    }
}

/// A database for all cases, each with tenants of its own.
struct Stage {
    shared: Shared,
    reader: Reader,
    cases: AtomicU64,
    prospects: AtomicU64,
    uncertain: AtomicU64,
}

impl Stage {
    async fn new(name: &str) -> Result<Self> {
        // As the binary does: the driver speaks TLS, and needs a provider.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let config = config(name);
        let store = Store::connect(&config.store).await?;
        store.migrate(Retention::of(&Default::default())).await?;
        let shared = shared(config, store);
        Ok(Self {
            reader: Reader::new(shared.store.clone(), shared.feed.clone()),
            shared,
            cases: AtomicU64::new(0),
            prospects: AtomicU64::new(0),
            uncertain: AtomicU64::new(0),
        })
    }

    /// Gives events to tenants that no other case has.
    fn own(&self, events: &mut [&mut Value]) {
        let case = self.cases.fetch_add(1, Ordering::Relaxed);
        for event in events {
            let tenant = event["tenantId"].as_str().unwrap_or_default();
            event["tenantId"] = format!("{tenant}|{case}").into();
        }
    }

    /// Counts events, as a lane does; tells what became of each.
    async fn count(&self, writer: &mut Writer, events: &[&Event]) -> Result<Vec<EventOutcome>> {
        let mut outcomes = Vec::new();
        while outcomes.len() < events.len() {
            let rest = &events[outcomes.len()..];
            let fates = writer.attempt(rest, LoadMode::Checked).await?;
            outcomes.extend(fates.into_iter().filter_map(Fate::outcome));
        }
        Ok(outcomes)
    }

    /// A forecast of events given in parts; it must leave no trace.
    async fn forecast(&self, parts: &[Vec<Event>]) -> Result<(Forecast, Vec<Prospect>)> {
        let before = self.hash().await?;
        let mut forecaster =
            Forecaster::begin(&self.shared.store, ForecastLimits::default()).await?;
        let mut prospects = Vec::new();
        for part in parts {
            prospects.extend(forecaster.add(part).await?);
        }
        let forecast = forecaster.finish().await?;
        assert_eq!(self.hash().await?, before, "the forecast wrote something");
        assert_adds_up(&forecast, &prospects);
        Ok((forecast, prospects))
    }

    /// The hashes of all that is in the database.
    async fn hash(&self) -> Result<Document> {
        let database = self.shared.store.database();
        let hash = database.run_command(doc! { "dbHash": 1 });
        Ok(hash.await?.get_document("collections")?.clone())
    }

    async fn ask<Q: Query>(&self, query: &Q) -> Result<Q::Answer> {
        let deadline = Instant::now() + PATIENCE;
        Ok(self.reader.ask(query, None, deadline).await?)
    }

    /// All counters of what a model knows of.
    async fn served(&self, model: &Model) -> Result<Served> {
        let mut served = Served::default();
        for (tenant, user, dialog) in model.user_dialogs() {
            let query = UserInDialog {
                tenant: TenantId::new(&tenant)?,
                user: UserId::new(&user)?,
                dialog: DialogId::new(&dialog)?,
            };
            let stats = self.ask(&query).await?;
            let key = MembershipKey {
                dialog: dialog_key(&stats.tenant, &stats.dialog),
                user: stats.user,
            };
            if stats.member {
                served.members.insert(key.clone());
            }
            let subject = Subject::Member(key);
            served.add(&subject, Counter::Unread, stats.unread);
            served.add_all(
                &subject,
                "unread_by_sender_type",
                &stats.unread_by_sender_type,
            );
        }
        self.served_users(model, &mut served).await?;
        self.served_dialogs(model, &mut served).await?;
        self.served_messages(model, &mut served).await?;
        Ok(served)
    }

    async fn served_users(&self, model: &Model, served: &mut Served) -> Result<()> {
        for (tenant, user) in model.users() {
            let (tenant, user) = (TenantId::new(&tenant)?, UserId::new(&user)?);
            let users = vec![user.clone()];
            let query = Users {
                tenant: tenant.clone(),
                users,
            };
            let stats = self.ask(&query).await?.remove(0);
            let subject = Subject::User(UserKey { tenant, user });
            served.add(&subject, Counter::Sent, stats.messages);
        }
        Ok(())
    }

    async fn served_dialogs(&self, model: &Model, served: &mut Served) -> Result<()> {
        for (tenant, dialog) in model.dialogs() {
            let (tenant, dialog) = (TenantId::new(&tenant)?, DialogId::new(&dialog)?);
            let subject = Subject::Dialog(dialog_key(&tenant, &dialog));
            let dialogs = vec![dialog];
            let stats = self.ask(&Dialogs { tenant, dialogs }).await?.remove(0);
            served.add(&subject, Counter::Messages, stats.messages);
            served.add(&subject, Counter::Members, stats.members);
            served.add(&subject, Counter::Topics, stats.topics);
        }
        Ok(())
    }

    async fn served_messages(&self, model: &Model, served: &mut Served) -> Result<()> {
        for (tenant, message) in model.messages() {
            let (tenant, message) = (TenantId::new(&tenant)?, MessageId::new(&message)?);
            let messages = vec![message.clone()];
            let query = Messages {
                tenant: tenant.clone(),
                messages,
            };
            let stats = self.ask(&query).await?.remove(0);
            let subject = Subject::Message(MessageKey { tenant, message });
            served.add_all(&subject, "status_counts", &stats.statuses);
            served.add_all(&subject, "reaction_counts", &stats.reactions);
        }
        Ok(())
    }

    /// Counts some of the events, forecasts the others, and counts those that
    /// the forecast is certain of.
    async fn play(&self, mut events: Vec<Value>, schedule: &Schedule) -> Result<()> {
        self.own(&mut events.iter_mut().collect::<Vec<_>>());
        let model = Model::of(&events);
        let batches = schedule.batches(events.len()).into_iter();
        let batches = batches.map(|batch| {
            let batch = batch.iter().map(|index| decoded(&events[*index]));
            batch.collect::<Vec<_>>()
        });
        let mut counted: Vec<_> = batches.collect();
        let mut random = Random::new(schedule.seed());
        let selected = counted.split_off(random.below(counted.len() + 1));

        let mut writer = Writer::unbounded(&self.shared);
        for batch in &counted {
            let batch: Vec<_> = batch.iter().collect();
            self.count(&mut writer, &batch).await?;
        }
        let before = self.served(&model).await?;
        let (forecast, prospects) = self.forecast(&selected).await?;
        self.prospects
            .fetch_add(prospects.len() as u64, Ordering::Relaxed);
        self.uncertain
            .fetch_add(forecast.uncertain, Ordering::Relaxed);

        let certain = certain(selected.iter().flatten(), &prospects);
        let (certain, prospects): (Vec<&Event>, Vec<Prospect>) = certain.into_iter().unzip();
        let outcomes = self.count(&mut writer, &certain).await?;
        for ((event, prospect), outcome) in certain.iter().zip(prospects).zip(outcomes) {
            assert_came_true(event, prospect, outcome);
        }
        let after = self.served(&model).await?;
        assert_exact(&forecast, &before, &after);
        Ok(())
    }
}

fn dialog_key(tenant: &TenantId, dialog: &DialogId) -> DialogKey {
    DialogKey {
        tenant: tenant.clone(),
        dialog: dialog.clone(),
    }
}

/// The events that the changes are of: without those that are uncertain, and
/// copies of those.
fn certain<'e>(
    events: impl Iterator<Item = &'e Event> + Clone,
    prospects: &[Prospect],
) -> Vec<(&'e Event, Prospect)> {
    let key = |event: &Event| (event.tenant.clone(), event.stamp.event.clone());
    let with_prospects = events.zip(prospects.iter().copied());
    let uncertain = with_prospects.clone();
    let uncertain = uncertain.filter(|(_, prospect)| *prospect == Prospect::Uncertain);
    let uncertain: BTreeSet<_> = uncertain.map(|(event, _)| key(event)).collect();
    with_prospects
        .filter(|(event, _)| !uncertain.contains(&key(event)))
        .collect()
}

fn assert_adds_up(forecast: &Forecast, prospects: &[Prospect]) {
    let count = |sought| {
        let found = prospects.iter().filter(|prospect| **prospect == sought);
        found.count() as u64
    };
    assert_eq!(forecast.uncertain, count(Prospect::Uncertain));
    assert_eq!(
        forecast.applied,
        count(Prospect::Applied) + forecast.uncertain
    );
    assert_eq!(forecast.unchanged, count(Prospect::Unchanged));
    assert_eq!(forecast.duplicates, count(Prospect::Duplicate));
}

fn assert_came_true(event: &Event, prospect: Prospect, outcome: EventOutcome) {
    // The store keeps the latest word on a user's type by itself: an older one
    // counts as applied unless the same batch has the later.
    if matches!(event.fact, Fact::UserTyped { .. }) && outcome != EventOutcome::Duplicate {
        return;
    }
    let expected = match outcome {
        EventOutcome::Applied => Prospect::Applied,
        EventOutcome::Unchanged => Prospect::Unchanged,
        EventOutcome::Duplicate => Prospect::Duplicate,
        EventOutcome::Refused(refusal) => Prospect::Refused(refusal),
    };
    assert_eq!(prospect, expected, "{event:?}");
}

/// The forecast says exactly what then changed.
fn assert_exact(forecast: &Forecast, before: &Served, after: &Served) {
    let real = before.changes(after);
    let mut sums: BTreeMap<Counter, (i64, i64)> = BTreeMap::new();
    for ((_, counter), delta) in &real {
        let sum = sums.entry(counter.clone()).or_default();
        *sum = (sum.0 + delta, sum.1 + 1);
    }
    let sums = sums
        .into_iter()
        .map(|(counter, (delta, subjects))| CounterTotal {
            counter,
            delta,
            subjects,
        });
    assert_eq!(forecast.totals, sums.collect::<Vec<_>>(), "{real:#?}");

    let largest = real.values().map(|delta| delta.abs()).max();
    let first = forecast.changes.first().map(|change| change.delta.abs());
    assert_eq!(first, largest);
    let sizes = forecast.changes.iter().map(|change| change.delta.abs());
    assert!(sizes.is_sorted_by(|a, b| a >= b), "{forecast:#?}");
    for change in &forecast.changes {
        assert_change(change, &real, after);
    }
}

fn assert_change(change: &CounterChange, real: &BTreeMap<(Subject, Counter), i64>, after: &Served) {
    let delta = |subject| real.get(&(subject, change.counter.clone())).copied();
    match &change.subject {
        Subject::Others(dialog) => {
            let members = after.members.iter().filter(|key| key.dialog == *dialog);
            let alike =
                members.filter(|key| delta(Subject::Member((*key).clone())) == Some(change.delta));
            let alike = i64::try_from(alike.count()).unwrap();
            assert!(alike >= change.subjects, "{change:?}: {alike} of {real:#?}");
        }
        named => {
            assert_eq!(delta(named.clone()), Some(change.delta), "{change:?}");
            assert_eq!(change.subjects, 1);
        }
    }
}

#[test]
fn counting_does_what_was_forecast() {
    let runtime = Runtime::new().unwrap();
    let stage = runtime.block_on(Stage::new("forecast_property")).unwrap();
    let torture = Torture {
        what: "forecasts",
        regressions: "tests/it/forecast.regressions",
        cases: 40,
    };
    torture.run(&strategy::events_and_schedule(), |(events, schedule)| {
        runtime.block_on(stage.play(events, &schedule)).unwrap();
    });
    let prospects = stage.prospects.into_inner();
    let uncertain = stage.uncertain.into_inner();
    println!("{prospects} events forecast, {uncertain} of them uncertain");
    assert!(prospects > 200, "only {prospects}: is this test blind?");
    assert_eq!(uncertain, 0, "only the end of a large dialog is uncertain");
}

/// Events that were counted, events that are forecast, and what is said of them.
struct Row {
    what: &'static str,
    counted: Vec<Wire>,
    selected: Vec<Wire>,
    /// Applied, unchanged, duplicates, uncertain.
    outcomes: [u64; 4],
    changes: &'static str,
}

/// Ann, Bob, Carl, Dora and Eve are in the dialog from 1 ms on.
fn five() -> Vec<Wire> {
    let users = ["ann", "bob", "carl", "dora", "eve"];
    let joins = users.map(|user| join(&format!("j_{user}"), "d", user, 1));
    joins.to_vec()
}

fn five_and(events: impl IntoIterator<Item = Wire>) -> Vec<Wire> {
    five().into_iter().chain(events).collect()
}

/// A message of Ann's.
fn said(id: &str, at: i64) -> Wire {
    message(&format!("e_{id}"), "d", id, "ann", at)
}

fn read(id: &str, user: &str, at: i64) -> Wire {
    status(&format!("r_{id}_{user}"), "d", id, user, "read", at)
}

fn messages_come_and_go() -> Vec<Row> {
    vec![
        Row {
            what: "a message is unread for all but its sender",
            counted: five(),
            selected: vec![said("m", 5)],
            outcomes: [1, 0, 0, 0],
            changes: "d: message_count +1
                4 others in d: unread_count +1
                4 others in d: unread_by_sender_type.user +1
                ann: total_messages_count +1",
        },
        Row {
            what: "a message out of order is read already for some",
            counted: five_and([
                said("m", 8),
                bulk_read("b", "d", "bob", 10),
                bulk_read("c", "d", "carl", 9),
            ]),
            selected: vec![said("late", 7), said("later", 20)],
            outcomes: [2, 0, 0, 0],
            changes: "d: message_count +2
                2 others in d: unread_count +2
                2 others in d: unread_by_sender_type.user +2
                ann: total_messages_count +2
                bob in d: unread_count +1
                bob in d: unread_by_sender_type.user +1
                carl in d: unread_count +1
                carl in d: unread_by_sender_type.user +1",
        },
        Row {
            what: "a message that goes takes its marks with it",
            counted: five_and([said("m", 5), read("m", "bob", 6)]),
            selected: vec![delete("x", "m", 7)],
            outcomes: [1, 0, 0, 0],
            changes: "d: message_count -1
                3 others in d: unread_count -1
                3 others in d: unread_by_sender_type.user -1
                ann: total_messages_count -1
                m: status_counts.read -1",
        },
        Row {
            what: "messages known twice, or before, change nothing",
            counted: five_and([said("m", 5), delete("x", "m", 6)]),
            selected: vec![
                said("m", 5),
                message("again", "d", "m", "ann", 5),
                delete("y", "m", 7),
                topic("t", "d", "one", 8),
                topic("t", "d", "one", 8),
                topic("u", "d", "one", 9),
            ],
            outcomes: [1, 3, 2, 0],
            changes: "d: topic_count +1",
        },
    ]
}

fn people_come_and_read() -> Vec<Row> {
    vec![
        Row {
            what: "a read takes one from one",
            counted: five_and([said("m", 5)]),
            selected: vec![read("m", "bob", 6), read("m", "ann", 6)],
            outcomes: [2, 0, 0, 0],
            changes: "m: status_counts.read +2
                bob in d: unread_count -1
                bob in d: unread_by_sender_type.user -1",
        },
        Row {
            what: "a bulk read takes all from one, and no more from those who left",
            counted: five_and([said("m", 5), said("n", 6), leave("l", "d", "eve", 7)]),
            selected: vec![
                bulk_read("b", "d", "bob", 6),
                bulk_read("c", "d", "eve", 6),
                said("o", 9),
            ],
            outcomes: [3, 0, 0, 0],
            changes: "d: message_count +1
                2 others in d: unread_count +1
                2 others in d: unread_by_sender_type.user +1
                ann: total_messages_count +1
                bob in d: unread_count -1
                bob in d: unread_by_sender_type.user -1",
        },
        Row {
            what: "who joins has what came since, who leaves has nothing",
            counted: five_and([said("m", 5), said("n", 7)]),
            selected: vec![join("j_fred", "d", "fred", 6), leave("l", "d", "bob", 8)],
            outcomes: [2, 0, 0, 0],
            changes: "bob in d: unread_count -2
                bob in d: unread_by_sender_type.user -2
                fred in d: unread_count +1
                fred in d: unread_by_sender_type.user +1",
        },
        Row {
            what: "words on reactions count where they are the latest",
            counted: five_and([
                said("m", 5),
                reaction("r1", "m", "bob", "👍", "set", 6),
                reaction("r2", "m", "carl", "👍", "set", 9),
            ]),
            selected: vec![
                reaction("s1", "m", "bob", "👍", "unset", 7),
                reaction("s2", "m", "carl", "👍", "unset", 8),
                reaction("s3", "m", "ann", "a.$b", "set", 8),
                reaction("s4", "m", "eve", "a.$b", "set", 8),
            ],
            outcomes: [3, 1, 0, 0],
            changes: "m: reaction_counts.a.$b +2
                m: reaction_counts.👍 -1",
        },
        Row {
            what: "a mark in the past of a dialog that others change is derived on top of them",
            counted: five_and([said("m", 5), said("n", 7)]),
            selected: vec![
                said("o", 9),
                bulk_read("b", "d", "bob", 6),
                bulk_read("b", "d", "bob", 6),
            ],
            outcomes: [2, 0, 1, 0],
            changes: "d: message_count +1
                3 others in d: unread_count +1
                3 others in d: unread_by_sender_type.user +1
                ann: total_messages_count +1",
        },
    ]
}

fn dialogs_end() -> Vec<Row> {
    let early = status("s", "d", "early", "bob", "delivered", 3);
    vec![
        Row {
            what: "the end of a dialog takes all to zero, but what was sent",
            counted: five_and([
                said("m", 5),
                said("n", 6),
                read("n", "bob", 7),
                leave("l", "d", "eve", 8),
                message("f", "d", "guest", "fred", 9),
                early.clone(),
            ]),
            selected: vec![
                message("g", "d", "early", "ann", 3),
                read("n", "carl", 10),
                dialog_delete("x", "d", 11),
                dialog_delete("y", "d", 12),
                said("p", 13),
            ],
            outcomes: [4, 1, 0, 0],
            changes: "d: member_count -4
                d: message_count -3
                carl in d: unread_count -3
                carl in d: unread_by_sender_type.user -3
                dora in d: unread_count -3
                dora in d: unread_by_sender_type.user -3
                bob in d: unread_count -2
                bob in d: unread_by_sender_type.user -2
                ann: total_messages_count +2
                ann in d: unread_count -1
                ann in d: unread_by_sender_type.user -1
                early: status_counts.delivered -1
                n: status_counts.read -1",
        },
        Row {
            what: "in a dialog that has ended nothing counts any more, but what is sent",
            counted: five_and([said("m", 5), dialog_delete("x", "d", 6), early]),
            selected: vec![
                said("n", 7),
                read("m", "bob", 8),
                status("t", "d", "m", "bob", "delivered", 8),
                message("g", "d", "early", "ann", 3),
                leave("l", "d", "eve", 8),
            ],
            outcomes: [5, 0, 0, 0],
            changes: "early: status_counts.delivered -1
                ann: total_messages_count +2",
        },
    ]
}

/// A change as a line: who or what, the counter, by how much.
fn line(change: &CounterChange) -> String {
    let CounterChange {
        subject,
        counter,
        delta,
        subjects,
    } = change;
    let mut line = match subject {
        Subject::Dialog(key) => key.dialog.to_string(),
        Subject::Member(key) => format!("{} in {}", key.user, key.dialog.dialog),
        Subject::Others(key) => format!("{subjects} others in {}", key.dialog),
        Subject::User(key) => key.user.to_string(),
        Subject::Message(key) => key.message.to_string(),
    };
    write!(line, ": {counter} {delta:+}").unwrap();
    line
}

async fn assert_row(stage: &Stage, row: Row) -> Result<()> {
    let (mut counted, mut selected) = (bodies(&row.counted), bodies(&row.selected));
    let all = counted.iter_mut().chain(&mut selected);
    stage.own(&mut all.collect::<Vec<_>>());
    let model = Model::of(counted.iter().chain(&selected));
    let mut writer = Writer::unbounded(&stage.shared);
    let counted: Vec<_> = counted.iter().map(decoded).collect();
    let counted: Vec<_> = counted.iter().collect();
    stage.count(&mut writer, &counted).await?;

    let before = stage.served(&model).await?;
    let selected: Vec<_> = selected.iter().map(decoded).collect();
    let (forecast, prospects) = stage.forecast(std::slice::from_ref(&selected)).await?;
    let what = row.what;
    let found = [
        forecast.applied,
        forecast.unchanged,
        forecast.duplicates,
        forecast.uncertain,
    ];
    assert_eq!(found, row.outcomes, "{what}: {prospects:?}");
    let lines: BTreeSet<_> = forecast.changes.iter().map(line).collect();
    let expected: BTreeSet<_> = row.changes.lines().map(|l| l.trim().to_owned()).collect();
    assert_eq!(lines, expected, "{what}");

    let certain = certain(selected.iter(), &prospects).into_iter();
    let certain: Vec<_> = certain.map(|(event, _)| event).collect();
    stage.count(&mut writer, &certain).await?;
    assert_exact(&forecast, &before, &stage.served(&model).await?);
    Ok(())
}

#[tokio::test]
async fn forecasts_in_numbers() -> Result<()> {
    let stage = Stage::new("forecast_rows").await?;
    let rows = messages_come_and_go().into_iter();
    for row in rows.chain(people_come_and_read()).chain(dialogs_end()) {
        assert_row(&stage, row).await?;
    }
    Ok(())
}

#[tokio::test]
async fn what_is_too_much_is_said() -> Result<()> {
    let stage = Stage::new("forecast_limits").await?;
    let counted = bodies(&five_and(messages("m", "d", 3, 5)));
    let counted: Vec<_> = counted.iter().map(decoded).collect();
    let counted: Vec<_> = counted.iter().collect();
    stage
        .count(&mut Writer::unbounded(&stage.shared), &counted)
        .await?;
    let selected = bodies(&[dialog_delete("x", "d", 20), said("n", 21)]);
    let selected: Vec<_> = selected.iter().map(decoded).collect();

    // Five people and three messages.
    for (ended, end) in [
        (2, Prospect::Uncertain),
        (4, Prospect::Uncertain),
        (5, Prospect::Applied),
    ] {
        let limits = ForecastLimits {
            ended,
            ..ForecastLimits::default()
        };
        let mut forecaster = Forecaster::begin(&stage.shared.store, limits).await?;
        let prospects = forecaster.add(&selected).await?;
        assert_eq!(prospects, [end, Prospect::Applied], "at most {ended}");
        let forecast = forecaster.finish().await?;
        let of_messages = forecast
            .totals
            .iter()
            .find_map(|total| match total.counter {
                Counter::Messages => Some(total.delta),
                _ => None,
            });
        let expected = if end == Prospect::Applied { -3 } else { 1 };
        assert_eq!(of_messages, Some(expected), "at most {ended}: {forecast:?}");
    }

    let limits = ForecastLimits {
        shares: 0,
        ..ForecastLimits::default()
    };
    let mut forecaster = Forecaster::begin(&stage.shared.store, limits).await?;
    let refused = forecaster.add(&selected).await.unwrap_err();
    assert!(matches!(refused, ForecastError::TooMuch(0)), "{refused}");
    Ok(())
}

#[tokio::test]
async fn a_moment_that_is_gone_is_an_error_with_a_cure() -> Result<()> {
    let mongo = Server::mongod("forecast").await?;
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut config = config("forecast_old");
    config.store.url = mongo.url.clone().into();
    let store = Store::connect(&config.store).await?;
    store.migrate(Retention::of(&Default::default())).await?;
    let admin = store.client().database("admin");
    let forget = doc! { "setParameter": 1, "minSnapshotHistoryWindowInSeconds": 0 };
    admin.run_command(forget).await?;

    let mut forecaster = Forecaster::begin(&store, ForecastLimits::default()).await?;
    let writes = store.database().collection::<Document>("writes");
    let mut refused = None;
    for number in 0.. {
        let event = decoded(&bodies(&[said(&format!("m{number}"), 5)])[0]);
        if let Err(error) = forecaster.add(&[event]).await {
            refused = Some(error);
            break;
        }
        // What is written moves the server's history on.
        writes.insert_one(doc! { "n": number }).await?;
        assert!(number < 20_000, "the moment is still there");
    }
    let refused = refused.ok_or("no error")?;
    assert!(matches!(refused, ForecastError::TooSlow(_)), "{refused}");
    assert!(refused.to_string().contains("select fewer"), "{refused}");
    Ok(())
}
