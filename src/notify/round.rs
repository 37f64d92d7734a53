//! A round: what was committed since the last one is told, and then the cursor
//! moves on.
//!
//! The cursor is saved after the broker has confirmed everything, so whoever dies in
//! a round leaves it to be done again: users are then told twice, of the same
//! version or a later one.

mod anew;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::stream::{self, StreamExt as _};
use tokio::time::Instant;
use tracing::warn;

use self::anew::DeferredTenant;
use super::NotifyError;
use super::gather::{GatheredChanges, MemberViews, Portion};
use super::publish::{NotificationPublisher, PublishContext, ReadSource};
use crate::bus::notifier::Notifier;
use crate::event::{DialogId, Micros, TenantId};
use crate::failpoint::{self, Point};
use crate::store::commit_log::{Cut, Position, Record, Span};
use crate::store::read::{Members, MembersOf};
use crate::store::rebuild::fence::WriterId;
use crate::store::{NotificationCursor, Renewed, Store, StoreError, detached};

/// Roughly how many messages a round comes to at most: what is more waits for
/// the next, and becomes less meanwhile where it is about the same users.
const MAX_ROUND_MESSAGES: usize = 20_000;
/// The most commits of one writer that are read together.
const COMMITS_PER_READ: i64 = 16;
/// A commit record that is missing for so long is gone: records are kept for a
/// time, and a server that has just become the primary may not show all at
/// once.
const MISSING_RECORD_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a cursor that has nothing new is saved, so that its age is not
/// taken for that of somebody who was away.
const CURSOR_SAVE_INTERVAL: Duration = Duration::from_secs(60);
/// The most dialogs whose members are asked for together.
const DIALOGS_PER_QUERY: usize = 500;
/// The most tenants that are told of at the same time.
const MAX_CONCURRENT_TENANTS: usize = 4;
/// The least time between two times that everybody is told anew for the sake of
/// writers without records.
const UNNUMBERED_INTERVAL: Duration = Duration::from_secs(10);

/// Rounds by whoever has the lease.
pub(super) struct Rounds<'l> {
    store: Store,
    publisher: NotificationPublisher,
    lease: &'l Renewed,
    cursor: NotificationCursor,
    /// Everything that was committed before this is told, or to be told anew.
    as_of: Instant,
    /// How long before `as_of` that was, for a cursor that was found.
    age: Duration,
    saved: Instant,
    /// How long commit records are kept.
    retention: Duration,
    views: MemberViews,
    /// Commits whose records are missing, and since when.
    missing: HashMap<WriterId, (i64, Instant)>,
    /// Tenants that cannot be told of for now.
    deferred: HashMap<TenantId, DeferredTenant>,
    /// The tenant that was last told of anew.
    last_anew: Option<TenantId>,
    unnumbered_at: Option<Instant>,
}

impl<'l> Rounds<'l> {
    /// Goes on from where notifications are; where there were none, from now on.
    pub(super) async fn begin(
        (store, publisher): (Store, NotificationPublisher),
        lease: &'l Renewed,
        retention: Duration,
    ) -> Result<Self, NotifyError> {
        let as_of = Instant::now();
        let saved = store.notification_cursor().await?;
        let is_first = saved.is_none();
        let (cursor, age) = match saved {
            Some(saved) => (saved.cursor, saved.age),
            None => (
                NotificationCursor::at(&store.position().await?),
                Duration::ZERO,
            ),
        };
        let fan_out_limit = publisher.config.fan_out_limit;
        let mut rounds = Self {
            store,
            publisher,
            lease,
            cursor,
            as_of,
            age,
            saved: as_of,
            retention,
            views: MemberViews::new(fan_out_limit),
            missing: HashMap::new(),
            deferred: HashMap::new(),
            last_anew: None,
            unnumbered_at: None,
        };
        if is_first {
            let first = rounds.cursor.clone();
            rounds.save(first).await?;
        }
        Ok(rounds)
    }

    /// One round; tells whether there is enough for another one already.
    pub(super) async fn next(&mut self, notifier: &Notifier) -> Result<bool, NotifyError> {
        let began = Instant::now();
        self.publisher.pace.begin();
        let position = self.position().await?;
        let mut to = self.cursor.clone();
        self.note_unrecorded(&position, &mut to).await?;
        let target = Cut::from(&position);
        let gathered = self.gather(&target, &mut to).await?;
        for tenant in &gathered.unrecorded {
            to.tell_anew(tenant.clone());
        }
        failpoint::pass(Point::NotifyTaken);
        let floor = to.clone();
        for portion in gathered.portions(MAX_ROUND_MESSAGES) {
            self.tell(notifier, &portion, (&floor, &mut to)).await?;
        }
        if gathered.weight() > 0 {
            failpoint::pass(Point::NotifyConfirmed);
        }
        self.tell_anew(notifier, (&floor, &mut to)).await?;
        self.views.told(&gathered);
        self.show(&gathered);
        self.publisher
            .metrics
            .tenants(to.anew.len(), self.deferred.len());
        if to.cut.until(&target).next().is_none() {
            (self.as_of, self.age) = (began, Duration::ZERO);
            self.publisher
                .metrics
                .is_at(SystemTime::now() - began.elapsed());
        }
        if to != self.cursor || self.saved.elapsed() > CURSOR_SAVE_INTERVAL {
            self.save(to).await?;
            failpoint::pass(Point::NotifySaved);
        }
        Ok(gathered.weight() >= MAX_ROUND_MESSAGES)
    }

    /// Asks how far all writers are.
    async fn position(&self) -> Result<Position, StoreError> {
        let store = self.store.clone();
        detached(async move { store.position().await }).await
    }

    fn show(&self, gathered: &GatheredChanges) {
        if let Some(oldest) = gathered.oldest {
            let now = Micros::shown_by(SystemTime::now());
            let micros = now.get().saturating_sub(oldest.get()).max(0);
            self.publisher
                .metrics
                .lag(Duration::from_micros(micros.unsigned_abs()));
        }
    }

    async fn save(&mut self, cursor: NotificationCursor) -> Result<(), NotifyError> {
        let (store, lease) = (self.store.clone(), self.lease.lease().clone());
        let (saves, age) = (cursor.clone(), self.age + self.as_of.elapsed());
        let saved =
            detached(async move { store.save_notification_cursor(&lease, &saves, age).await });
        if self.lease.is_lost() || !saved.await? {
            return Err(NotifyError::LeaseLost);
        }
        (self.cursor, self.saved) = (cursor, Instant::now());
        Ok(())
    }

    /// Finds out of whom something has changed that no commit record tells: of
    /// tenants whose documents were made anew, and of everybody, if a writer without
    /// records has written, or records may be gone.
    async fn note_unrecorded(
        &mut self,
        position: &Position,
        to: &mut NotificationCursor,
    ) -> Result<(), NotifyError> {
        let (before, now) = (&self.cursor.generations, &position.generations);
        let age = self.age + self.as_of.elapsed();
        let may_lack_records = position.removed != self.cursor.removed && age > self.retention;
        let is_soon = |at: Instant| at.elapsed() < UNNUMBERED_INTERVAL;
        let is_unnumbered = position.unnumbered != self.cursor.unnumbered
            && !self.unnumbered_at.is_some_and(is_soon);
        to.generations.clone_from(now);
        if before.everyone() != now.everyone() || is_unnumbered || may_lack_records {
            self.tell_all_anew(to).await?;
        } else {
            let tenants = before.by_themselves().chain(now.by_themselves());
            for (tenant, _) in tenants.filter(|(tenant, _)| before.of(tenant) != now.of(tenant)) {
                to.tell_anew(tenant.clone());
            }
        }
        if is_unnumbered {
            self.unnumbered_at = Some(Instant::now());
            to.unnumbered.clone_from(&position.unnumbered);
        }
        if position.removed > self.cursor.removed {
            // Their records are as old as records become: what they have committed
            // was told, or everybody is told anew.
            let is_there = |(writer, _): &(WriterId, i64)| position.commits.contains_key(writer);
            to.cut = to.cut.iter().filter(is_there).collect();
        }
        to.removed = position.removed;
        Ok(())
    }

    async fn tell_all_anew(&self, to: &mut NotificationCursor) -> Result<(), NotifyError> {
        let (store, generations) = (self.store.clone(), to.generations.clone());
        let tenants = detached(async move { store.tenants(&generations).await }).await?;
        warn!(
            tenants = tenants.len(),
            "everybody is notified of all that they have: all was made anew, or not all changes are known"
        );
        self.publisher.metrics.anew();
        for tenant in tenants {
            to.tell_anew(tenant);
        }
        Ok(())
    }

    /// Reads commit records on the way to a cut, as many as one round may have, and
    /// moves the cursor past them.
    async fn gather(
        &mut self,
        target: &Cut,
        to: &mut NotificationCursor,
    ) -> Result<GatheredChanges, NotifyError> {
        let mut gathered = GatheredChanges::default();
        let mut without = Vec::new();
        loop {
            let spans = to.cut.until(target).filter(|(w, ..)| !without.contains(w));
            let spans: Vec<Span> = spans.map(span).collect();
            if spans.is_empty() {
                return Ok(gathered);
            }
            let records = self.records(spans.clone()).await?;
            self.publisher.pace.rest().await;
            for span in spans {
                if !records.contains_key(&(span.writer, span.from)) {
                    without.push(span.writer);
                    self.note_missing(span, target, to).await?;
                    continue;
                }
                self.missing.remove(&span.writer);
                for number in span.from..=span.to {
                    let Some(record) = records.get(&(span.writer, number)) else {
                        break;
                    };
                    gathered.take(record, &mut self.views);
                    to.cut.raise(span.writer, number);
                    if gathered.weight() >= MAX_ROUND_MESSAGES {
                        return Ok(gathered);
                    }
                }
            }
        }
    }

    /// A record did not come: there were too many others, or it is missing. One that
    /// is gone for good is passed over, and everybody told anew.
    async fn note_missing(
        &mut self,
        Span { writer, from, .. }: Span,
        target: &Cut,
        to: &mut NotificationCursor,
    ) -> Result<(), NotifyError> {
        let alone = Span {
            writer,
            from,
            to: from,
        };
        if !self.records(vec![alone]).await?.is_empty() {
            return Ok(());
        }
        let now = Instant::now();
        let (number, since) = *self.missing.entry(writer).or_insert((from, now));
        if number != from {
            self.missing.insert(writer, (from, now));
        } else if now.duration_since(since) > MISSING_RECORD_TIMEOUT {
            self.missing.remove(&writer);
            self.tell_all_anew(to).await?;
            to.cut.raise(writer, target.of(writer));
        }
        Ok(())
    }

    async fn records(
        &self,
        spans: Vec<Span>,
    ) -> Result<HashMap<(WriterId, i64), Arc<Record>>, NotifyError> {
        let store = self.store.clone();
        match detached(async move { store.commit_records(&spans).await }).await {
            Ok(found) => {
                let found = found.into_iter();
                Ok(found
                    .map(|of| ((of.writer, of.number), of.record))
                    .collect())
            }
            // Of a later version, or damaged: as good as missing.
            Err(StoreError::Answer(_)) => Ok(HashMap::new()),
            Err(error) => Err(error.into()),
        }
    }

    /// Tells a portion of what was gathered.
    async fn tell(
        &mut self,
        notifier: &Notifier,
        portion: &Portion<'_>,
        (floor, to): (&NotificationCursor, &mut NotificationCursor),
    ) -> Result<(), NotifyError> {
        let mut members = BTreeMap::new();
        for (tenant, dialogs) in portion.to_all() {
            let found = self.members(&tenant, &dialogs, floor).await;
            match found {
                Ok(found) => drop(members.insert(tenant, found)),
                Err(error) => self.defer(tenant, error, to).await?,
            }
        }
        let mut due = portion.due(&members);
        due.retain(|tenant, _| {
            let waits = self.deferred.get(tenant).is_some_and(DeferredTenant::waits);
            if waits {
                to.tell_anew(tenant.clone());
            }
            !waits
        });
        let context = PublishContext {
            notifier,
            lease: self.lease,
            floor,
            source: ReadSource::Memory,
        };
        let publisher = &self.publisher;
        let told = stream::iter(due).map(|(tenant, due)| async move {
            let told = publisher.tell(context, (&tenant, due)).await;
            (tenant, told)
        });
        let told: Vec<_> = told
            .buffer_unordered(MAX_CONCURRENT_TENANTS)
            .collect()
            .await;
        for (tenant, told) in told {
            if let Err(error) = told {
                self.defer(tenant, error, to).await?;
            }
        }
        Ok(())
    }

    async fn members(
        &self,
        tenant: &TenantId,
        dialogs: &[DialogId],
        floor: &NotificationCursor,
    ) -> Result<Members, NotifyError> {
        let mut members = Members::new();
        for dialogs in dialogs.chunks(DIALOGS_PER_QUERY) {
            let query = MembersOf {
                tenant: tenant.clone(),
                dialogs: dialogs.to_vec(),
            };
            members.extend(self.publisher.read_in_time(query, floor).await?);
        }
        Ok(members)
    }
}

fn span((writer, from, last): (WriterId, i64, i64)) -> Span {
    let to = last.min(from + COMMITS_PER_READ - 1);
    Span { writer, from, to }
}
