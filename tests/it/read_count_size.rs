//! What it takes to count the readers of many messages of a large dialog.
//! Small in the suite; docs/benchmarks.md has the figures of
//! `MEMBERS=10000 MESSAGES=1000 cargo test --release --test it -- read_count_size --nocapture`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use chat_counters::grpc::v1;
use chat_counters::store::{Retention, Store};
use futures::TryStreamExt as _;
use mongodb::IndexModel;
use mongodb::bson::{Document, doc};
use tonic::Code;

use crate::events::TENANT;
use crate::kit::random::Random;
use crate::kit::service::{Result, Service};
use crate::world::{World, client};

const DIALOG: &str = "dlg_large";
/// Micros of the first message; the others are a second apart.
const START: i64 = 1_763_551_369_397_648;
const SECOND: i64 = 1_000_000;
/// Those who send, members among others.
const SENDERS: usize = 50;
/// More receipts of one message than are held in memory at a time.
const CROWD: usize = 12_000;
/// Calls whose time is taken.
const CALLS: usize = 20;

/// Ids as producers have them: a prefix and 32 digits.
fn id(prefix: &str, number: usize) -> String {
    let number = (number as u128 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
    format!("{prefix}_{number:032x}")
}

fn size(variable: &str, every_day: usize) -> usize {
    let size = std::env::var(variable).ok();
    size.and_then(|size| size.parse().ok()).unwrap_or(every_day)
}

struct Member {
    joined_at: i64,
    read_until: Option<i64>,
}

/// One large dialog.
struct Scene {
    members: Vec<Member>,
    /// Time and sender.
    messages: Vec<(i64, usize)>,
    /// By message.
    receipts: Vec<BTreeSet<usize>>,
}

impl Scene {
    /// All have read up to some message or other, a tenth has joined on the
    /// way, and a tenth of the messages was read singly by twenty users, of
    /// whom some are no members.
    fn of(members: usize, messages: usize) -> Self {
        let mut random = Random::new(1);
        let moment = |random: &mut Random| START + random.below(messages) as i64 * SECOND;
        let people = (0..members).map(|_| {
            let late = random.one_in(10);
            let joined_at = if late {
                moment(&mut random)
            } else {
                START - SECOND
            };
            let reads = !random.one_in(20);
            let read_until = reads.then(|| moment(&mut random));
            Member {
                joined_at,
                read_until,
            }
        });
        let members: Vec<_> = people.collect();
        let users = members.len() + members.len() / 10;
        let mut said = Vec::new();
        let mut receipts = Vec::new();
        for number in 0..messages {
            said.push((START + number as i64 * SECOND, random.below(SENDERS)));
            let singly = if number % 10 == 0 { 20 } else { 0 };
            receipts.push((0..singly).map(|_| random.below(users)).collect());
        }
        Self {
            members,
            messages: said,
            receipts,
        }
    }

    /// The definition, word by word.
    fn readers(&self, message: usize) -> i64 {
        let (at, sender) = self.messages[message];
        let members = self.members.iter().enumerate();
        let readers = members.filter(|(user, member)| {
            let in_bulk = member.read_until.is_some_and(|until| until >= at);
            let singly = self.receipts[message].contains(user);
            *user != sender && member.joined_at <= at && (in_bulk || singly)
        });
        readers.count() as i64
    }

    async fn write(&self, store: &Store) -> Result<()> {
        let dialog = doc! {
            "_id": { "t": TENANT, "d": DIALOG },
            "version": 1_i64, "members": self.members.len() as i64,
            "messages": self.messages.len() as i64,
        };
        insert(store, "dialogs", [dialog]).await?;
        let members = self.members.iter().enumerate().map(|(user, member)| {
            let until = member.read_until.unwrap_or(-1);
            let mut share = doc! {
                "_id": { "t": TENANT, "d": DIALOG, "u": id("usr", user) },
                "version": 1_i64, "member": true, "joined_at": member.joined_at,
                "mark": until.max(member.joined_at - 1),
                "consumed": { "user": 500_i64, "bot": 7_i64 },
                "adds": [{ "at": member.joined_at, "event": id("evt", user), "joined_at": member.joined_at }],
            };
            if let Some(until) = member.read_until {
                share.insert("read_until", until);
            }
            share
        });
        insert(store, "memberships", members).await?;
        let messages = self.messages.iter().enumerate();
        let messages = messages.map(|(number, (at, sender))| {
            let mut message = doc! {
                "_id": { "t": TENANT, "m": id("msg", number) },
                "d": DIALOG, "at": *at, "sender": id("usr", *sender), "type": "user",
            };
            let read = self.receipts[number].len() as i64;
            if read > 0 {
                message.insert("statuses", doc! { "read": read });
            }
            message
        });
        insert(store, "messages", messages).await?;
        let receipts = self.receipts.iter().enumerate();
        let receipts = receipts.flat_map(|(number, users)| {
            let key = move |user: &usize| {
                doc! { "_id": {
                    "t": TENANT, "m": id("msg", number), "s": "read", "u": id("usr", *user),
                } }
            };
            users.iter().map(key)
        });
        insert(store, "receipts", receipts).await
    }
}

async fn insert(
    store: &Store,
    collection: &str,
    documents: impl IntoIterator<Item = Document>,
) -> Result<()> {
    let collection = store.database().collection::<Document>(collection);
    let documents: Vec<_> = documents.into_iter().collect();
    for chunk in documents.chunks(10_000) {
        collection.insert_many(chunk).await?;
    }
    Ok(())
}

async fn ask(service: &Service, messages: usize) -> Result<(Vec<i64>, Duration)> {
    let mut client = client(service).await?;
    let request = v1::BatchGetMessageStatsRequest {
        tenant_id: TENANT.into(),
        message_ids: (0..messages).map(|number| id("msg", number)).collect(),
    };
    let started = Instant::now();
    let answer = client.batch_get_message_stats(request).await?.into_inner();
    let took = started.elapsed();
    let counts = answer.message_stats.iter().map(|stats| stats.read_count);
    Ok((counts.collect(), took))
}

#[tokio::test]
async fn readers_of_many_messages_are_counted_at_once() -> Result<()> {
    let (members, messages) = (size("MEMBERS", 500), size("MESSAGES", 200));
    let world = World::new("read_count_size");
    let store = Store::connect(&world.config.store).await?;
    store.migrate(Retention::of(&Default::default())).await?;
    let scene = Scene::of(members, messages);
    scene.write(&store).await?;
    let service = world.service().await?;

    let database = store.database();
    // Nothing but finds of this service and of the test.
    database.run_command(doc! { "profile": 2 }).await?;
    let (counts, _) = ask(&service, messages).await?;
    database.run_command(doc! { "profile": 0 }).await?;
    for (number, count) in counts.iter().enumerate() {
        assert_eq!(*count, scene.readers(number), "message {number}");
    }
    assert!(counts.iter().any(|count| *count > 0), "{counts:?}");
    assert_answered_by_index(&store, messages).await?;

    let mut times = Vec::new();
    for _ in 0..CALLS {
        let (again, took) = ask(&service, messages).await?;
        assert_eq!(again, counts);
        times.push(took);
    }
    times.sort();
    let (median, longest) = (times[CALLS / 2], times[CALLS - 1]);
    println!(
        "read_count of {messages} messages, {members} members: median {median:?}, \
         longest {longest:?} of {CALLS} calls"
    );
    let mut alone = Vec::new();
    for _ in 0..CALLS {
        alone.push(ask(&service, 1).await?.1);
    }
    alone.sort();
    println!("of one message: median {:?}", alone[CALLS / 2]);
    // Far from any figure that a busy machine gives.
    assert!(median < Duration::from_secs(2), "{times:?}");
    service.stop().await
}

/// Members passed by without their documents: they may be large, and many.
async fn assert_answered_by_index(store: &Store, messages: usize) -> Result<()> {
    let database = store.database();
    let profile = database.collection::<Document>("system.profile");
    let of_members = doc! {
        "ns": format!("{}.memberships", database.name()),
        "op": "query",
        "planSummary": { "$regex": "mark" },
    };
    let finds: Vec<Document> = profile.find(of_members).await?.try_collect().await?;
    let passed = finds.iter().map(|find| find.get_i32("nreturned"));
    let passed: i32 = passed.sum::<std::result::Result<_, _>>()?;
    assert!(passed > messages as i32, "{finds:#?}");
    for find in &finds {
        assert_eq!(find.get_i32("docsExamined")?, 0, "{find:#?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_message_read_singly_by_a_crowd_is_counted_and_too_many_are_refused() -> Result<()> {
    let world = World::new("read_count_crowd");
    let store = Store::connect(&world.config.store).await?;
    store.migrate(Retention::of(&Default::default())).await?;
    // A few thousand of the crowd are members, and one of three has left the
    // reading to single receipts.
    let mut scene = Scene::of(3_000, 5);
    for member in scene.members.iter_mut().step_by(3) {
        member.read_until = None;
    }
    scene.receipts[1] = (0..CROWD).collect();
    scene.receipts[2] = (0..CROWD).step_by(2).collect();
    scene.receipts[3] = (0..CROWD).step_by(3).collect();
    scene.write(&store).await?;
    // An index of the version before, which this one's makes superfluous.
    let memberships = store.database().collection::<Document>("memberships");
    let outgrown = doc! { "_id.t": 1, "_id.d": 1, "mark": 1 };
    let outgrown = IndexModel::builder().keys(outgrown).build();
    let outgrown = memberships.create_index(outgrown).await?.index_name;
    let service = world.service().await?;
    let names = memberships.list_index_names().await?;
    assert!(!names.contains(&outgrown), "{names:?}");

    let (counts, _) = ask(&service, 5).await?;
    let expected: Vec<i64> = (0..5).map(|number| scene.readers(number)).collect();
    assert_eq!(counts, expected);
    assert!(counts[1] > 2_000, "{counts:?}");

    let message = doc! { "_id": { "t": TENANT, "m": id("msg", 4) } };
    let many = doc! { "$set": { "statuses.read": 500_001_i64 } };
    let messages = store.database().collection::<Document>("messages");
    messages.update_one(message, many).await?;
    let request = v1::BatchGetMessageStatsRequest {
        tenant_id: TENANT.into(),
        message_ids: vec![id("msg", 4)],
    };
    let mut client = client(&service).await?;
    let refused = client.batch_get_message_stats(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert!(refused.message().contains("fewer messages"), "{refused}");
    service.stop().await
}

#[tokio::test]
async fn messages_of_many_dialogs_are_asked_for_at_once() -> Result<()> {
    let world = World::new("read_count_dialogs");
    let store = Store::connect(&world.config.store).await?;
    store.migrate(Retention::of(&Default::default())).await?;
    let mut expected = BTreeMap::new();
    let (mut dialogs, mut shares, mut messages) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..100 {
        let (dialog, message) = (format!("d{number}"), id("msg", number));
        dialogs.push(doc! { "_id": { "t": TENANT, "d": &dialog }, "members": 4_i64 });
        messages.push(doc! {
            "_id": { "t": TENANT, "m": &message },
            "d": &dialog, "at": START, "sender": "u0", "type": "user",
        });
        // As many as the number's last digit modulo 4 have read it.
        let readers = number % 4;
        for user in 0..4 {
            let reads = user > 0 && user <= readers;
            let mark = if reads { START } else { START - 1 };
            shares.push(doc! {
                "_id": { "t": TENANT, "d": &dialog, "u": format!("u{user}") },
                "member": true, "joined_at": START - SECOND, "mark": mark,
            });
        }
        expected.insert(number, readers as i64);
    }
    for (collection, documents) in [
        ("dialogs", dialogs),
        ("memberships", shares),
        ("messages", messages),
    ] {
        insert(&store, collection, documents).await?;
    }
    let service = world.service().await?;
    let (counts, took) = ask(&service, 100).await?;
    println!("read_count of 100 messages of 100 dialogs: {took:?}");
    assert_eq!(counts, expected.into_values().collect::<Vec<_>>());
    service.stop().await
}
