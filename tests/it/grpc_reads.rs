//! Every gRPC method and its errors, on documents put into a real MongoDB by
//! hand as `store::documents::schema` describes them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use chat_counters::auth::Authenticator;
use chat_counters::bus::Flow;
use chat_counters::grpc::v1::counter_service_client::CounterServiceClient;
use chat_counters::grpc::v1::*;
use chat_counters::grpc::{Backends, BoundServers, DeadLetters, Guard};
use chat_counters::redrive::Redrive;
use chat_counters::store::Store;
use chat_counters::store::read::{CommitFeed, Reader};
use chat_counters::telemetry::metrics::Metrics;
use chat_counters::{config, shutdown};
use mongodb::bson::{DateTime, Document, doc};
use prometheus_client::registry::Registry;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

struct Bench {
    store: Store,
    client: CounterServiceClient<Channel>,
    channel: Channel,
    trigger: shutdown::Trigger,
    server: tokio::task::JoinHandle<()>,
}

impl Bench {
    async fn new(name: &str) -> Self {
        Self::with(name, config::Grpc::default()).await
    }

    async fn with(name: &str, config: config::Grpc) -> Self {
        let url = crate::kit::service::config(name).store.url;
        let database = format!("grpc_{name}_{}", std::process::id());
        let store = Store::connect(&config::Store {
            url,
            database,
            ..config::Store::default()
        })
        .await
        .unwrap();
        store
            .database()
            .collection::<Document>("memberships")
            .create_index(
                mongodb::IndexModel::builder()
                    .keys(doc! { "_id.t": 1, "_id.u": 1, "_id.d": 1 })
                    .build(),
            )
            .await
            .unwrap();
        for name in ["dialogs", "messages", "journal"] {
            store.database().create_collection(name).await.unwrap();
        }
        let (trigger, stop) = shutdown::channel();
        let config = config::Config {
            grpc: config::Grpc {
                listen: "127.0.0.1:0".into(),
                ..config
            },
            admin: config::Admin {
                listen: String::new(),
                ..config::Admin::default()
            },
            ..config::Config::default()
        };
        let metrics = Metrics::new(&mut Registry::default());
        let bound = BoundServers::bind(&config, &metrics).await.unwrap();
        let address = format!("http://{}", bound.local_addr());
        let ready = tokio::sync::watch::Sender::new(false);
        let mut is_ready = ready.subscribe();
        let asked = Backends {
            reader: Reader::new(store.clone(), CommitFeed::new()),
            memory: None,
            store: store.clone(),
            letters: DeadLetters::new(Redrive::new(
                store.clone(),
                &config::Config::default(),
                Flow::default(),
            )),
            guard: Guard::new(Authenticator::open(), metrics),
        };
        let server = Box::pin(bound.serve(asked, ready, stop));
        let server = tokio::spawn(async move { server.await.unwrap() });
        is_ready.wait_for(|ready| *ready).await.unwrap();
        let channel = Channel::from_shared(address)
            .unwrap()
            .connect()
            .await
            .unwrap();
        Self {
            client: CounterServiceClient::new(channel.clone()),
            store,
            channel,
            trigger,
            server,
        }
    }

    async fn insert(&self, collection: &str, documents: impl IntoIterator<Item = Document>) {
        let collection = self.store.database().collection::<Document>(collection);
        collection.insert_many(documents).await.unwrap();
    }

    async fn end(self) {
        self.store.database().drop().await.unwrap();
        drop((self.client, self.channel));
        self.trigger.request();
        tokio::time::timeout(Duration::from_secs(2), self.server)
            .await
            .expect("the server stops at once without open calls")
            .unwrap();
    }
}

fn share(d: &str, u: &str, rest: Document) -> Document {
    let mut document = doc! {
        "_id": { "t": "t", "d": d, "u": u },
        "version": 1_i64,
        "updated_at": DateTime::from_millis(1_000),
    };
    document.extend(rest);
    document
}

fn dialog(d: &str, rest: Document) -> Document {
    let mut document = doc! {
        "_id": { "t": "t", "d": d },
        "version": 10_i64,
        "updated_at": DateTime::from_millis(2_000),
    };
    document.extend(rest);
    document
}

fn ts(micros: i64) -> Option<prost_types::Timestamp> {
    Some(prost_types::Timestamp {
        seconds: micros / 1_000_000,
        nanos: (micros % 1_000_000 * 1_000) as i32,
    })
}

fn counts(counts: &[(&str, i64)]) -> BTreeMap<String, i64> {
    counts.iter().map(|(k, v)| (k.to_string(), *v)).collect()
}

async fn seed(bench: &Bench) {
    let at = 1_763_551_369_397_648_i64;
    bench
        .insert(
            "dialogs",
            [
                dialog(
                    "a",
                    doc! { "messages": 9_i64, "members": 2_i64, "topics": 1_i64,
                    "sequence": { "user": 7_i64, "b%2Eot": 2_i64 }, "last_message_at": at },
                ),
                dialog(
                    "b$.|:👍",
                    doc! { "sequence": { "user": 3_i64 }, "messages": 3_i64 },
                ),
                dialog(
                    "c",
                    doc! { "sequence": { "user": 5_i64 }, "messages": 5_i64 },
                ),
                dialog(
                    "z",
                    doc! { "sequence": { "user": 5_i64 }, "messages": 5_i64, "members": 1_i64,
                    "last_message_at": at, "deleted": true },
                ),
            ],
        )
        .await;
    bench
        .insert(
            "memberships",
            [
                share("a", "ann", doc! { "member": true, "joined_at": at, "mark": at - 1,
                    "consumed": { "user": 5_i64 }, "sent": 4_i64 }),
                share("b$.|:👍", "ann", doc! { "member": true, "joined_at": 0_i64, "mark": -1_i64,
                    "read_until": 7_i64, "consumed": { "user": 3_i64 } }),
                share("c", "ann", doc! { "sent": 2_i64, "read_until": at }),
                share("z", "ann", doc! { "member": true, "joined_at": 0_i64, "mark": -1_i64, "sent": 100_i64 }),
                share("a", "bob", doc! { "member": true, "joined_at": 0_i64, "mark": -1_i64,
                    "consumed": { "user": 8_i64, "b%2Eot": 2_i64 } }),
                doc! { "_id": { "t": "other", "d": "a", "u": "ann" }, "member": true, "version": 99_i64 },
            ],
        )
        .await;
    bench
        .insert(
            "messages",
            [
                doc! { "_id": { "t": "t", "m": "m1" }, "d": "a", "at": at, "sender": "bob",
                    "statuses": { "read": 2_i64, "sent": 0_i64 }, "reactions": { "👍%2E%24": 1_i64, "x": 0_i64 } },
                doc! { "_id": { "t": "t", "m": "gone" }, "d": "a", "at": at, "sender": "bob", "deleted": true, "statuses": { "read": 2_i64 } },
                doc! { "_id": { "t": "t", "m": "in-z" }, "d": "z", "at": at, "sender": "bob", "statuses": { "read": 2_i64 } },
                doc! { "_id": { "t": "t", "m": "early" }, "statuses": { "read": 1_i64 }, "version": 1_i64 },
            ],
        )
        .await;
    let read = |message: &str, user: &str| doc! { "_id": { "t": "t", "m": message, "s": "read", "u": user } };
    // Of m1 by Ann, a member, and by someone who is none.
    let receipts = [
        ("m1", "ann"),
        ("m1", "eve"),
        ("gone", "ann"),
        ("in-z", "ann"),
        ("early", "ann"),
    ];
    let receipts = receipts.map(|(message, user)| read(message, user));
    bench.insert("receipts", receipts).await;
}

#[tokio::test]
async fn every_method_answers_from_the_documents() {
    let mut bench = Bench::new("methods").await;
    seed(&bench).await;
    let at = 1_763_551_369_397_648_i64;
    let t = || "t".to_owned();

    let request = GetUserStatsRequest {
        tenant_id: t(),
        user_id: " ANN ".into(),
        after_event_id: String::new(),
        ..Default::default()
    };
    let ann = bench
        .client
        .get_user_stats(request)
        .await
        .unwrap()
        .into_inner();
    let expected = UserStats {
        tenant_id: t(),
        user_id: "ann".into(),
        dialog_count: 2,
        unread_dialogs_count: 1,
        total_unread_count: 4,
        // Those of the deleted dialog, too.
        total_messages_count: 106,
        unread_by_sender_type: counts(&[("b.ot", 2), ("user", 2)]),
        version: 44,
        updated_at: ts(2_000_000),
        ..Default::default()
    };
    assert_eq!(ann, expected);

    let ids = ["bob", "nobody", "Ann", "bob"].map(String::from).to_vec();
    let request = BatchGetUserStatsRequest {
        tenant_id: t(),
        user_ids: ids,
    };
    let batch = bench
        .client
        .batch_get_user_stats(request)
        .await
        .unwrap()
        .into_inner()
        .user_stats;
    let names: Vec<_> = batch.iter().map(|u| u.user_id.as_str()).collect();
    assert_eq!(names, ["bob", "nobody", "ann", "bob"]);
    assert_eq!(batch[2], expected);
    // bob's consumed is above the sequence: never shown below zero.
    assert_eq!((batch[0].dialog_count, batch[0].total_unread_count), (1, 0));
    assert_eq!((batch[1].version, batch[1].updated_at), (0, None));

    let of = |user: &str, dialog: &str| GetUserDialogStatsRequest {
        tenant_id: t(),
        user_id: user.into(),
        dialog_id: dialog.into(),
        after_event_id: String::new(),
        ..Default::default()
    };
    let a = bench
        .client
        .get_user_dialog_stats(of("ann", "a"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!((a.member, a.unread_count, a.version), (true, 4, 11));
    assert_eq!(
        (a.joined_at, a.read_until, a.updated_at),
        (ts(at), None, ts(2_000_000))
    );
    assert_eq!(a.last_message_at, ts(at));
    let c = bench
        .client
        .get_user_dialog_stats(of("ann", "c"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (c.member, c.unread_count, c.joined_at, c.read_until),
        (false, 0, None, ts(at))
    );
    let z = bench
        .client
        .get_user_dialog_stats(of("ann", "z"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!((z.member, z.unread_count, z.version), (false, 0, 11));
    assert_eq!(z.last_message_at, None);
    let none = bench
        .client
        .get_user_dialog_stats(of("ann", "never"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (none.dialog_id.as_str(), none.version, none.updated_at),
        ("never", 0, None)
    );

    let request = GetDialogStatsRequest {
        tenant_id: t(),
        dialog_id: "a".into(),
        after_event_id: String::new(),
        ..Default::default()
    };
    let a = bench
        .client
        .get_dialog_stats(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!((a.message_count, a.member_count, a.topic_count), (9, 2, 1));
    assert_eq!((a.last_message_at, a.version), (ts(at), 10));
    let ids = ["z", "never", "a", "z"].map(String::from).to_vec();
    let request = BatchGetDialogStatsRequest {
        tenant_id: t(),
        dialog_ids: ids,
    };
    let batch = bench
        .client
        .batch_get_dialog_stats(request)
        .await
        .unwrap()
        .into_inner()
        .dialog_stats;
    assert_eq!(
        (
            batch[0].message_count,
            batch[0].member_count,
            batch[0].last_message_at
        ),
        (0, 0, None)
    );
    assert_eq!(
        (batch[0].version, batch[1].version, &batch[2], &batch[3]),
        (10, 0, &a, &batch[0])
    );

    let request = GetMessageStatsRequest {
        tenant_id: t(),
        message_id: "m1".into(),
        after_event_id: String::new(),
    };
    let m1 = bench
        .client
        .get_message_stats(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(m1.dialog_id, "a");
    assert_eq!(m1.status_counts, counts(&[("read", 2)]));
    assert_eq!(m1.reaction_counts, counts(&[("👍.$", 1)]));
    assert_eq!(m1.read_count, 1);
    let ids = ["early", "gone", "in-z", "never", "m1"]
        .map(String::from)
        .to_vec();
    let request = BatchGetMessageStatsRequest {
        tenant_id: t(),
        message_ids: ids,
    };
    let batch = bench
        .client
        .batch_get_message_stats(request)
        .await
        .unwrap()
        .into_inner()
        .message_stats;
    assert_eq!(
        (batch[0].dialog_id.as_str(), &batch[0].status_counts),
        ("", &counts(&[("read", 1)]))
    );
    for (i, d) in [(1, "a"), (2, "z"), (3, "")] {
        assert_eq!(
            (batch[i].dialog_id.as_str(), &batch[i].status_counts),
            (d, &counts(&[]))
        );
        assert_eq!(batch[i].read_count, 0);
    }
    assert_eq!(batch[4], m1);
    bench.end().await;
}

#[tokio::test]
async fn thousands_of_dialogs_are_summed_and_paged_in_order() {
    let mut bench = Bench::new("many").await;
    let total = 10_000_i64;
    // No two are alike: the total and the factor have no divisor in common.
    let last_message_at = |i: i64| i * 7_919 % total;
    // Every third dialog has unread, every tenth is deleted.
    let dialogs = (0..total).map(|i| {
        let at = last_message_at(i);
        let rest = doc! { "sequence": { "user": 1_i64 }, "last_message_at": at };
        let mut document = dialog(&format!("d{i:05}"), rest);
        if i % 10 == 0 {
            document.insert("deleted", true);
        }
        document
    });
    bench.insert("dialogs", dialogs).await;
    let shares = (0..total).map(|i| {
        let consumed = i64::from(i % 3 != 0);
        share(&format!("d{i:05}"), "ann",
            doc! { "member": true, "joined_at": 0_i64, "mark": -1_i64, "consumed": { "user": consumed } })
    });
    bench.insert("memberships", shares).await;
    let live = (0..total).filter(|i| i % 10 != 0);
    let unread: Vec<String> = live
        .clone()
        .filter(|i| i % 3 == 0)
        .map(|i| format!("d{i:05}"))
        .collect();

    let started = Instant::now();
    let request = GetUserStatsRequest {
        tenant_id: "t".into(),
        user_id: "ann".into(),
        after_event_id: String::new(),
        ..Default::default()
    };
    let ann = bench
        .client
        .get_user_stats(request)
        .await
        .unwrap()
        .into_inner();
    eprintln!("a user with 10,000 dialogs: {:?}", started.elapsed());
    assert_eq!(ann.dialog_count, live.clone().count() as i64);
    assert_eq!(ann.total_unread_count, unread.len() as i64);
    assert_eq!(ann.version, total * 11);

    // Users whose shares meet the chunks' borders in every way.
    let shares = (0..2_500).flat_map(|i| {
        let d = format!("d{i:05}");
        let one = |u: &str| {
            share(
                &d,
                u,
                doc! { "member": true, "joined_at": 0_i64, "mark": -1_i64 },
            )
        };
        let mut shares = vec![one("carl")];
        shares.extend((i < 1_000).then(|| one("bob")));
        shares.extend((i < 1).then(|| one("dora")));
        shares
    });
    bench.insert("memberships", shares).await;
    let user_ids: Vec<String> = ["dora", "carl", "bob", "carl", "nobody", "aaa"]
        .map(String::from)
        .into();
    for user_ids in [
        user_ids.clone(),
        user_ids[2..3].to_vec(),
        user_ids[1..3].to_vec(),
    ] {
        let request = BatchGetUserStatsRequest {
            tenant_id: "t".into(),
            user_ids: user_ids.clone(),
        };
        let batch = bench
            .client
            .batch_get_user_stats(request)
            .await
            .unwrap()
            .into_inner()
            .user_stats;
        for (user, id) in batch.iter().zip(&user_ids) {
            let known = BTreeMap::from([("carl", 2_500), ("bob", 1_000), ("dora", 1)]);
            let version = 11 * known.get(id.as_str()).copied().unwrap_or(0);
            assert_eq!((&user.user_id, user.version), (id, version));
        }
    }

    for (unread_only, page_size) in [(true, 100), (false, 500), (true, 0)] {
        let mut seen = Vec::new();
        let mut page_token = String::new();
        let mut slowest = Duration::ZERO;
        loop {
            let started = Instant::now();
            let request = ListUserDialogStatsRequest {
                tenant_id: "t".into(),
                user_id: "ann".into(),
                unread_only,
                page_size,
                page_token,
                ..Default::default()
            };
            let page = bench
                .client
                .list_user_dialog_stats(request)
                .await
                .unwrap()
                .into_inner();
            slowest = slowest.max(started.elapsed());
            let full = if page_size == 0 {
                50
            } else {
                page_size as usize
            };
            let last = page.next_page_token.is_empty();
            assert!(page.user_dialog_stats.len() == full || last);
            seen.extend(page.user_dialog_stats.into_iter().map(|d| d.dialog_id));
            page_token = page.next_page_token;
            if last {
                break;
            }
        }
        eprintln!("pages of {page_size}, unread only {unread_only}: slowest {slowest:?}");
        let all: Vec<String> = live.clone().map(|i| format!("d{i:05}")).collect();
        assert_eq!(seen, if unread_only { unread.clone() } else { all });
    }

    // The first pages in the other orders, each out of ten chunks.
    for order in [UserDialogOrder::LastMessage, UserDialogOrder::UnreadFirst] {
        let mut expected: Vec<i64> = live.clone().collect();
        expected.sort_by_key(|i| {
            let is_read = order == UserDialogOrder::UnreadFirst && i % 3 != 0;
            (is_read, -last_message_at(*i))
        });
        let expected = expected.into_iter().map(|i| format!("d{i:05}"));
        let expected: Vec<String> = expected.take(1_000).collect();
        let (mut seen, mut page_token) = (Vec::new(), String::new());
        for _ in 0..2 {
            let started = Instant::now();
            let request = ListUserDialogStatsRequest {
                tenant_id: "t".into(),
                user_id: "ann".into(),
                page_size: 500,
                page_token,
                order_by: order.into(),
                ..Default::default()
            };
            let page = bench.client.list_user_dialog_stats(request).await.unwrap();
            let page = page.into_inner();
            eprintln!("a page by {order:?}: {:?}", started.elapsed());
            seen.extend(page.user_dialog_stats.into_iter().map(|d| d.dialog_id));
            page_token = page.next_page_token;
        }
        assert_eq!(seen, expected, "{order:?}");
        assert!(!page_token.is_empty(), "there are 9,000");
    }
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_read_sees_a_message_without_its_senders_share() {
    let bench = Bench::new("snapshot").await;
    let names: Vec<String> = (0..20).map(|i| format!("d{i}")).collect();
    bench
        .insert(
            "dialogs",
            names
                .iter()
                .map(|d| dialog(d, doc! { "sequence": { "user": 0_i64 } })),
        )
        .await;
    bench
        .insert("memberships", names.iter().map(|d| {
            share(d, "ann", doc! { "member": true, "joined_at": 0_i64, "mark": -1_i64, "consumed": { "user": 0_i64 } })
        }))
        .await;
    let store = bench.store.clone();
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stopped = stop.clone();
    // ann writes in every dialog at once, again and again.
    let writer = tokio::spawn(async move {
        let mut rounds = 0_i64;
        let mut session = store.client().start_session().await.unwrap();
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
            session.start_transaction().await.unwrap();
            for (collection, field) in [
                ("dialogs", "sequence.user"),
                ("memberships", "consumed.user"),
            ] {
                store
                    .database()
                    .collection::<Document>(collection)
                    .update_many(doc! {}, doc! { "$inc": { field: 1_i64, "version": 1_i64 } })
                    .session(&mut session)
                    .await
                    .unwrap();
            }
            session.commit_transaction().await.unwrap();
            rounds += 1;
        }
        rounds
    });
    let mut version = 0;
    let mut changes = 0;
    for _ in 0..300 {
        let request = GetUserStatsRequest {
            tenant_id: "t".into(),
            user_id: "ann".into(),
            after_event_id: String::new(),
            ..Default::default()
        };
        let ann = bench
            .client
            .clone()
            .get_user_stats(request)
            .await
            .unwrap()
            .into_inner();
        assert_eq!((ann.total_unread_count, ann.dialog_count), (0, 20));
        assert_eq!(
            (ann.version - 20 * 11) % 40,
            0,
            "all of a commit or nothing"
        );
        assert!(ann.version >= version);
        changes += i32::from(ann.version > version);
        version = ann.version;
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    eprintln!(
        "{} rounds written, {changes} seen in 300 reads",
        writer.await.unwrap()
    );
    assert!(changes > 10);
    bench.end().await;
}

#[tokio::test]
async fn finds_ask_for_a_snapshot_at_one_time() {
    let mut bench = Bench::new("profile").await;
    seed(&bench).await;
    let database = bench.store.database();
    database.run_command(doc! { "profile": 2 }).await.unwrap();
    let request = GetUserStatsRequest {
        tenant_id: "t".into(),
        user_id: "ann".into(),
        after_event_id: String::new(),
        ..Default::default()
    };
    bench.client.get_user_stats(request).await.unwrap();
    database.run_command(doc! { "profile": 0 }).await.unwrap();
    use futures::TryStreamExt as _;
    let profile: Vec<Document> = database
        .collection::<Document>("system.profile")
        .find(doc! { "command.find": { "$in": ["memberships", "dialogs"] } })
        .await
        .unwrap()
        .try_collect()
        .await
        .unwrap();
    eprintln!(
        "{:?}",
        profile
            .iter()
            .map(|p| (
                p.get_document("command").unwrap().get("readConcern"),
                p.get("planSummary"),
                p.get("docsExamined"),
            ))
            .collect::<Vec<_>>()
    );
    let mut finds = 0;
    for entry in &profile {
        let concern = entry
            .get_document("command")
            .unwrap()
            .get_document("readConcern")
            .unwrap();
        assert_eq!(concern.get_str("level").unwrap(), "snapshot");
        finds += 1;
    }
    assert_eq!(finds, 2);
    assert!(
        profile[1]
            .get_document("command")
            .unwrap()
            .get_document("readConcern")
            .unwrap()
            .contains_key("atClusterTime")
    );
    bench.end().await;
}

#[tokio::test]
async fn an_answer_waits_for_the_event_it_is_to_include() {
    let mut bench = Bench::new("after").await;
    seed(&bench).await;
    let ask = |event: &str, limit_ms: u64| {
        let mut request = Request::new(GetDialogStatsRequest {
            tenant_id: "t".into(),
            dialog_id: "c".into(),
            after_event_id: event.into(),
            ..Default::default()
        });
        request.set_timeout(Duration::from_millis(limit_ms));
        request
    };
    let started = Instant::now();
    let status = bench
        .client
        .get_dialog_stats(ask("e1", 400))
        .await
        .unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (
            Code::DeadlineExceeded,
            "the event was not seen before the deadline"
        )
    );
    assert!(started.elapsed() >= Duration::from_millis(300));

    // By another replica: nobody here is told.
    for (event, messages) in [("e1", 6), ("e2", 7)] {
        let store = bench.store.clone();
        let committed = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let mut session = store.client().start_session().await.unwrap();
            session.start_transaction().await.unwrap();
            store
                .database()
                .collection::<Document>("dialogs")
                .update_one(
                    doc! { "_id": { "t": "t", "d": "c" } },
                    doc! { "$inc": { "messages": 1_i64 } },
                )
                .session(&mut session)
                .await
                .unwrap();
            store
                .database()
                .collection::<Document>("journal")
                .insert_one(doc! { "_id": { "t": "t", "e": event } })
                .session(&mut session)
                .await
                .unwrap();
            session.commit_transaction().await.unwrap();
            Instant::now()
        });
        let answer = bench
            .client
            .get_dialog_stats(ask(event, 5_000))
            .await
            .unwrap()
            .into_inner();
        eprintln!(
            "seen {:?} after the commit",
            committed.await.unwrap().elapsed()
        );
        assert_eq!(answer.message_count, messages);
    }
    let started = Instant::now();
    bench
        .client
        .get_dialog_stats(ask("e1", 5_000))
        .await
        .unwrap();
    assert!(
        started.elapsed() < Duration::from_millis(300),
        "an event of the past needs no waiting"
    );
    bench.end().await;
}

#[tokio::test]
async fn a_bad_request_is_told_by_field() {
    let mut bench = Bench::new("invalid").await;
    let request = BatchGetUserStatsRequest {
        tenant_id: String::new(),
        user_ids: vec!["a".into(), "\n".into()],
    };
    let status: Status = bench
        .client
        .batch_get_user_stats(request)
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let fields: Vec<_> = status
        .get_details_bad_request()
        .unwrap()
        .field_violations
        .into_iter()
        .map(|v| v.field)
        .collect();
    assert_eq!(fields, ["tenant_id", "user_ids[1]"]);

    let request = BatchGetUserStatsRequest {
        tenant_id: "t".into(),
        user_ids: vec!["x".repeat(2_000); 1_000],
    };
    let status = bench
        .client
        .batch_get_user_stats(request)
        .await
        .unwrap_err();
    eprintln!("an oversized message: {status:?}");
    assert_eq!(status.code(), Code::OutOfRange);
    bench.end().await;
}

#[tokio::test]
async fn whoever_waits_keeps_nobody_from_reading() {
    const WAITING: usize = 60;
    let config = config::Grpc {
        max_concurrent_requests: 8,
        ..config::Grpc::default()
    };
    let bench = Bench::with("waiting", config).await;
    let request = |event: &str| {
        let mut request = Request::new(GetDialogStatsRequest {
            tenant_id: "t".into(),
            dialog_id: "c".into(),
            after_event_id: event.into(),
            ..Default::default()
        });
        request.set_timeout(Duration::from_secs(3));
        request
    };
    // Each that begins to wait had to read first, and may have been shed.
    let waiting = [(); WAITING].map(|()| {
        let mut client = bench.client.clone();
        let request = request("never");
        tokio::spawn(async move {
            let began = Instant::now();
            let status = client.get_dialog_stats(request).await.unwrap_err();
            (status.code(), began.elapsed())
        })
    });
    let began = Instant::now();
    let mut reads = 0;
    while began.elapsed() < Duration::from_secs(2) {
        let mut client = bench.client.clone();
        let read = client.get_dialog_stats(request("")).await;
        match read.map_err(|status| status.code()) {
            Ok(_) => reads += 1,
            Err(Code::ResourceExhausted) => {}
            Err(other) => panic!("{other:?}"),
        }
    }
    assert!(reads > 20, "{reads} reads while others wait");
    let mut waited = 0;
    for call in waiting {
        match call.await.unwrap() {
            // The service's word on the deadline, or the client's own, a moment later.
            (Code::DeadlineExceeded | Code::Cancelled, time) if time > Duration::from_secs(2) => {
                waited += 1;
            }
            (Code::ResourceExhausted, _) => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(waited > 0, "all were shed");
    bench.end().await;
}

#[tokio::test]
async fn health_is_told_of_the_server_and_of_its_service() {
    use tonic_health::pb::health_client::HealthClient;
    use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};
    let bench = Bench::new("health").await;
    for service in ["", "chatcounters.v1.CounterService"] {
        let request = HealthCheckRequest {
            service: service.into(),
        };
        let mut watch = HealthClient::new(bench.channel.clone())
            .watch(request)
            .await
            .unwrap()
            .into_inner();
        let serving = async {
            while watch.message().await.unwrap().unwrap().status() != ServingStatus::Serving {}
        };
        tokio::time::timeout(Duration::from_secs(5), serving)
            .await
            .expect("serving");
    }
    bench.end().await;
}
