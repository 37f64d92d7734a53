//! Histories of random events in random orders: at every moment what was
//! served, in the end what is, whatever of the journal is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chat_counters::derive::LoadMode;
use chat_counters::event::{DialogId, MessageId, TenantId, UserId};
use chat_counters::history::PageRequest;
use chat_counters::lane::{Shared, Writer};
use chat_counters::store::read::{
    Dialogs, History, HistoryEntry, HistoryPage, HistoryScope, Messages, Query, UserInDialog, Users,
};
use chat_counters::store::{Reader, Retention, Store};
use mongodb::bson::{Document, doc};
use serde_json::Value;
use tokio::runtime::Runtime;
use tokio::time::Instant;

use crate::commits::shared;
use crate::derive::decoded;
use crate::kit::model::Model;
use crate::kit::random::Random;
use crate::kit::service::{Result, config};
use crate::strategy::{self, Schedule};
use crate::torture::Torture;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// More entries than any history of this test has.
const ALL: usize = 10_000;

type Values = BTreeMap<String, i64>;

/// A database for all cases, each with tenants of its own.
struct Stage {
    shared: Shared,
    reader: Reader,
    cases: AtomicU64,
    entries: AtomicU64,
}

impl Stage {
    async fn new() -> Result<Self> {
        // As the binary does: the driver speaks TLS, and needs a provider.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let config = config("history_property");
        let store = Store::connect(&config.store).await?;
        store.migrate(Retention::of(&Default::default())).await?;
        let shared = shared(config, store);
        Ok(Self {
            reader: Reader::new(shared.store.clone(), shared.feed.clone()),
            shared,
            cases: AtomicU64::new(0),
            entries: AtomicU64::new(0),
        })
    }

    async fn play(&self, mut events: Vec<Value>, schedule: &Schedule) -> Result<()> {
        let case = self.cases.fetch_add(1, Ordering::Relaxed);
        for event in &mut events {
            let tenant = event["tenantId"].as_str().unwrap_or_default();
            event["tenantId"] = format!("{tenant}|{case}").into();
        }
        let model = Model::of(&events);
        // The crowded one.
        let tenant = TenantId::new(&format!("a|{case}"))?;
        let scopes = scopes(&model, &tenant);
        let mut moments: Vec<(BTreeSet<String>, Vec<Values>)> = Vec::new();
        let mut writer = Writer::unbounded(&self.shared);
        for batch in schedule.batches(events.len()) {
            let batch: Vec<_> = batch.iter().map(|index| decoded(&events[*index])).collect();
            let mut rest: Vec<_> = batch.iter().collect();
            while !rest.is_empty() {
                let done = writer.attempt(&rest, LoadMode::Checked).await?;
                rest.drain(..done.len());
            }
            let ids = batch.iter().map(|event| event.stamp.event.to_string());
            let mut served = Vec::new();
            for scope in &scopes {
                served.push(self.served(&tenant, scope).await?);
            }
            moments.push((ids.collect(), served));
        }
        let mut histories = Vec::new();
        for (index, scope) in scopes.iter().enumerate() {
            let page = self.history(&tenant, scope).await?;
            let then = moments.iter().map(|(ids, served)| (ids, &served[index]));
            assert_moments(&page.entries, then, scope);
            histories.push((scope, page.entries));
        }
        let random = Random::new(schedule.seed());
        self.forget(&tenant, &histories, random).await
    }

    /// Takes records away, as the retention does and worse: the histories
    /// still come to what is served, and what is left of them is as it was.
    async fn forget(
        &self,
        tenant: &TenantId,
        histories: &[(&HistoryScope, Vec<HistoryEntry>)],
        mut random: Random,
    ) -> Result<()> {
        let database = self.shared.store.database();
        let journal = database.collection::<Document>("journal");
        for oldest in [true, false] {
            let all = doc! { "_id.t": tenant.as_str() };
            let mut ids = Vec::new();
            let mut found = journal
                .find(all)
                .sort(doc! { "applied_at": 1, "version": 1 })
                .await?;
            while found.advance().await? {
                ids.push(found.deserialize_current()?.get_document("_id")?.clone());
            }
            let count = ids.len() / 2;
            let gone: Vec<_> = match oldest {
                true => ids.into_iter().take(random.below(count + 1)).collect(),
                false => ids.into_iter().filter(|_| random.one_in(4)).collect(),
            };
            journal.delete_many(doc! { "_id": { "$in": gone } }).await?;
            for (scope, whole) in histories {
                let page = self.history(tenant, scope).await?;
                assert_is_rest(&page.entries, whole, scope);
            }
        }
        Ok(())
    }

    async fn ask<Q: Query>(&self, query: &Q) -> Result<Q::Answer> {
        let deadline = Instant::now() + PATIENCE;
        Ok(self.reader.ask(query, None, deadline).await?)
    }

    /// A whole history, after a look at its pages and at what must always hold.
    async fn history(&self, tenant: &TenantId, scope: &HistoryScope) -> Result<HistoryPage> {
        let query = |newest_first, limit| History {
            tenant: tenant.clone(),
            scope: scope.clone(),
            counter: None,
            part: PageRequest {
                newest_first,
                limit,
                ..PageRequest::default()
            },
            most: 1_000,
        };
        let whole = self.ask(&query(false, ALL)).await?;
        assert_eq!(whole.next, None);
        for newest_first in [false, true] {
            let mut query = query(newest_first, 3);
            let mut paged = Vec::new();
            loop {
                let page = self.ask(&query).await?;
                assert_eq!(page.values, whole.values);
                paged.extend(page.entries);
                match page.next {
                    Some(_) => query.part.after = page.next,
                    None => break,
                }
            }
            if newest_first {
                paged.reverse();
            }
            assert_eq!(paged, whole.entries, "{scope:?}");
        }
        let mut sums = Values::new();
        for entry in &whole.entries {
            assert_ne!(entry.kind, "counters.drift", "{scope:?}: {whole:#?}");
            assert_eq!(entry.event.is_none(), entry.kind == "counters.balance");
            let sum = sums.entry(entry.counter.to_string()).or_default();
            assert_eq!(entry.old, *sum, "{scope:?}: {entry:?}");
            *sum += entry.delta;
        }
        assert_eq!(
            positive(sums),
            self.served(tenant, scope).await?,
            "{scope:?}"
        );
        let entries = whole.entries.len() as u64;
        self.entries.fetch_add(entries, Ordering::Relaxed);
        Ok(whole)
    }

    /// The counters by name, as the other reads have them.
    async fn served(&self, tenant: &TenantId, scope: &HistoryScope) -> Result<Values> {
        let tenant = tenant.clone();
        let mut values = Values::new();
        let mut map = |name: &str, counts: &BTreeMap<String, i64>| {
            let counts = counts.iter();
            values.extend(counts.map(|(key, count)| (format!("{name}.{key}"), *count)));
        };
        let named: Vec<(&str, i64)> = match scope.clone() {
            HistoryScope::UserInDialog(user, dialog) => {
                let query = UserInDialog {
                    tenant,
                    user,
                    dialog,
                };
                let stats = self.ask(&query).await?;
                map("unread_by_sender_type", &stats.unread_by_sender_type);
                vec![("unread_count", stats.unread)]
            }
            HistoryScope::User(user) => {
                let users = vec![user];
                let stats = self.ask(&Users { tenant, users }).await?.remove(0);
                map("unread_by_sender_type", &stats.unread_by_sender_type);
                vec![
                    ("total_unread_count", stats.unread),
                    ("unread_dialogs_count", stats.unread_dialogs),
                    ("dialog_count", stats.dialogs),
                    ("total_messages_count", stats.messages),
                ]
            }
            HistoryScope::Dialog(dialog) => {
                let dialogs = vec![dialog];
                let stats = self.ask(&Dialogs { tenant, dialogs }).await?.remove(0);
                vec![
                    ("message_count", stats.messages),
                    ("member_count", stats.members),
                    ("topic_count", stats.topics),
                ]
            }
            HistoryScope::Message(message) => {
                let messages = vec![message];
                let stats = self.ask(&Messages { tenant, messages }).await?.remove(0);
                map("status_counts", &stats.statuses);
                map("reaction_counts", &stats.reactions);
                Vec::new()
            }
        };
        values.extend(named.iter().map(|(name, count)| (name.to_string(), *count)));
        Ok(positive(values))
    }
}

fn positive(mut values: Values) -> Values {
    values.retain(|_, value| *value != 0);
    values
}

/// Everything of a tenant that has counters.
fn scopes(model: &Model, tenant: &TenantId) -> Vec<HistoryScope> {
    let own = |of: &str| of == tenant.as_str();
    let user = |user: &str| UserId::new(user).unwrap();
    let dialog = |dialog: &str| DialogId::new(dialog).unwrap();
    let users = model.users().into_iter().filter(|(of, _)| own(of));
    let pairs = model.user_dialogs().into_iter();
    let pairs = pairs.filter(|(of, ..)| own(of));
    let dialogs = model.dialogs().into_iter().filter(|(of, _)| own(of));
    let messages = model.messages().into_iter().filter(|(of, _)| own(of));
    users
        .map(|(_, u)| HistoryScope::User(user(&u)))
        .chain(pairs.map(|(_, u, d)| HistoryScope::UserInDialog(user(&u), dialog(&d))))
        .chain(dialogs.map(|(_, d)| HistoryScope::Dialog(dialog(&d))))
        .chain(messages.map(|(_, m)| HistoryScope::Message(MessageId::new(&m).unwrap())))
        .collect()
}

/// After the entries of each batch the values are those that were served then.
fn assert_moments<'m>(
    entries: &[HistoryEntry],
    moments: impl Iterator<Item = (&'m BTreeSet<String>, &'m Values)>,
    scope: &HistoryScope,
) {
    let mut rest = entries.iter().peekable();
    let mut values = Values::new();
    for (ids, served) in moments {
        while let Some(entry) = rest.next_if(|entry| {
            let event = entry.event.as_ref();
            event.is_some_and(|event| ids.contains(event))
        }) {
            *values.entry(entry.counter.to_string()).or_default() += entry.delta;
        }
        let then = positive(values.clone());
        assert_eq!(&then, served, "{scope:?} after {ids:?}: {entries:#?}");
    }
    assert_eq!(rest.next(), None, "{scope:?}: of no event");
}

/// What follows the balance is the end of the whole history. Of a user every
/// dialog has an end of its own; a message's records have no order to miss.
fn assert_is_rest(entries: &[HistoryEntry], whole: &[HistoryEntry], scope: &HistoryScope) {
    let left = entries.iter().filter(|entry| entry.event.is_some());
    let left: Vec<&HistoryEntry> = left.collect();
    match scope {
        HistoryScope::UserInDialog(..) | HistoryScope::Dialog(_) => {
            let end: Vec<&HistoryEntry> = whole.iter().skip(whole.len() - left.len()).collect();
            assert_eq!(left, end, "{scope:?}: {whole:#?}");
        }
        HistoryScope::User(_) => {
            let same = |a: &HistoryEntry, b: &HistoryEntry| {
                (&a.event, &a.counter, a.delta) == (&b.event, &b.counter, b.delta)
            };
            for entry in left {
                let known = whole.iter().any(|one| same(one, entry));
                assert!(known, "{scope:?}: {entry:?} of {whole:#?}");
            }
        }
        HistoryScope::Message(_) => {}
    }
}

#[test]
fn histories_have_what_was_served_at_every_moment() {
    let runtime = Runtime::new().unwrap();
    let stage = runtime.block_on(Stage::new()).unwrap();
    let torture = Torture {
        what: "histories",
        regressions: "tests/it/history.regressions",
        cases: 15,
    };
    torture.run(&strategy::events_and_schedule(), |(events, schedule)| {
        runtime.block_on(stage.play(events, &schedule)).unwrap();
    });
    let entries = stage.entries.into_inner();
    assert!(entries > 500, "only {entries} entries: is this test blind?");
}
