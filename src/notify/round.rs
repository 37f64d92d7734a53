//! A round: what was committed since the last one is told, and then the cursor
//! moves on.
//!
//! The cursor is saved after the broker has confirmed everything, so whoever dies in
//! a round leaves it to be done again: users are then told twice, of the same
//! version or a later one.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::stream::{self, StreamExt as _};
use tokio::time::Instant;
use tracing::{info, warn};

use super::NotifyError;
use super::gather::{Faces, Gathered, Portion};
use super::tell::{AskedOf, Errand, Teller};
use crate::bus::notifier::Notifier;
use crate::event::{DialogId, Micros, TenantId};
use crate::failpoint::{self, Point};
use crate::store::commit_log::{Cut, Position, Record, Span};
use crate::store::read::{MAX_SHARES_PER_ANSWER, Members, MembersOf, SharesAfter};
use crate::store::rebuild::fence::WriterId;
use crate::store::{NotificationCursor, Renewed, Store, StoreError, TenantWalk, detached};

/// Messages that a round comes to, roughly, and that are worked on together: what is
/// more waits for the next, and becomes less meanwhile where it is about the same
/// users.
const MOST_DUE: usize = 20_000;
/// Commits of one writer that are read together.
const READ_TOGETHER: i64 = 16;
/// A commit record that is missing for so long is gone: records are kept for a
/// time, and a server that has just become the primary may not show all at once.
const GONE: Duration = Duration::from_secs(10);
/// A cursor that has nothing new is saved so often, so that its age is not taken
/// for that of somebody who was away.
const TOUCHED: Duration = Duration::from_secs(60);
/// Dialogs whose members are asked for together.
const DIALOGS: usize = 500;
/// Tenants that are told of at the same time.
const TENANTS: usize = 4;
/// Everybody is told anew for the sake of writers without records so often at most.
const UNNUMBERED: Duration = Duration::from_secs(10);
/// A store that answers within so long is not slow by itself.
const PROMPT: Duration = Duration::from_secs(2);
/// A tenant that cannot be told of rests for so long at first, and at most.
const ASIDE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Rounds by whoever has the lease.
pub(super) struct Rounds<'l> {
    store: Store,
    teller: Teller,
    lease: &'l Renewed,
    cursor: NotificationCursor,
    /// Everything that was committed before this is told, or to be told anew.
    as_of: Instant,
    /// How long before `as_of` that was, for a cursor that was found.
    age: Duration,
    saved: Instant,
    /// How long commit records are kept.
    retention: Duration,
    faces: Faces,
    /// Commits whose records are missing, and since when.
    missing: HashMap<WriterId, (i64, Instant)>,
    /// Tenants that cannot be told of for now.
    aside: HashMap<TenantId, Aside>,
    /// The tenant that was last told of anew.
    last_anew: Option<TenantId>,
    unnumbered_at: Option<Instant>,
}

/// Of a tenant that could not be told of.
#[derive(Debug, Clone, Copy)]
struct Aside {
    until: Instant,
    pause: Duration,
    /// It can be told of, and not all queues take it: those that do get it at once.
    is_refused: bool,
}

impl<'l> Rounds<'l> {
    /// Goes on from where notifications are; where there were none, from now on.
    pub(super) async fn begin(
        (store, teller): (Store, Teller),
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
        let fan_out_limit = teller.config.fan_out_limit;
        let mut rounds = Self {
            store,
            teller,
            lease,
            cursor,
            as_of,
            age,
            saved: as_of,
            retention,
            faces: Faces::new(fan_out_limit),
            missing: HashMap::new(),
            aside: HashMap::new(),
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
        self.teller.pace.begin();
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
        for portion in gathered.portions(MOST_DUE) {
            self.tell(notifier, &portion, (&floor, &mut to)).await?;
        }
        if gathered.weight() > 0 {
            failpoint::pass(Point::NotifyConfirmed);
        }
        self.tell_anew(notifier, (&floor, &mut to)).await?;
        self.faces.told(&gathered);
        self.show(&gathered);
        self.teller.metrics.tenants(to.anew.len(), self.aside.len());
        if to.cut.until(&target).next().is_none() {
            (self.as_of, self.age) = (began, Duration::ZERO);
            self.teller
                .metrics
                .is_at(SystemTime::now() - began.elapsed());
        }
        if to != self.cursor || self.saved.elapsed() > TOUCHED {
            self.save(to).await?;
            failpoint::pass(Point::NotifySaved);
        }
        Ok(gathered.weight() >= MOST_DUE)
    }

    /// How far all writers are.
    async fn position(&self) -> Result<Position, StoreError> {
        let store = self.store.clone();
        detached(async move { store.position().await }).await
    }

    fn show(&self, gathered: &Gathered) {
        if let Some(oldest) = gathered.oldest {
            let now = Micros::shown_by(SystemTime::now());
            let micros = now.get().saturating_sub(oldest.get()).max(0);
            self.teller
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
        let is_soon = |at: Instant| at.elapsed() < UNNUMBERED;
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
        self.teller.metrics.anew();
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
    ) -> Result<Gathered, NotifyError> {
        let mut gathered = Gathered::default();
        let mut without = Vec::new();
        loop {
            let spans = to.cut.until(target).filter(|(w, ..)| !without.contains(w));
            let spans: Vec<Span> = spans.map(span).collect();
            if spans.is_empty() {
                return Ok(gathered);
            }
            let records = self.records(spans.clone()).await?;
            self.teller.pace.rest().await;
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
                    gathered.take(record, &mut self.faces);
                    to.cut.raise(span.writer, number);
                    if gathered.weight() >= MOST_DUE {
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
        } else if now.duration_since(since) > GONE {
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
                Err(error) => self.put_aside(tenant, error, to).await?,
            }
        }
        let mut due = portion.due(&members);
        due.retain(|tenant, _| {
            let waits = self.aside.get(tenant).is_some_and(Aside::waits);
            if waits {
                to.tell_anew(tenant.clone());
            }
            !waits
        });
        let errand = Errand {
            notifier,
            lease: self.lease,
            floor,
            asked_of: AskedOf::Memory,
        };
        let teller = &self.teller;
        let told = stream::iter(due).map(|(tenant, due)| async move {
            let told = teller.tell(errand, (&tenant, due)).await;
            (tenant, told)
        });
        let told: Vec<_> = told.buffer_unordered(TENANTS).collect().await;
        for (tenant, told) in told {
            if let Err(error) = told {
                self.put_aside(tenant, error, to).await?;
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
        for dialogs in dialogs.chunks(DIALOGS) {
            let query = MembersOf {
                tenant: tenant.clone(),
                dialogs: dialogs.to_vec(),
            };
            members.extend(self.teller.read_in_time(query, floor).await?);
        }
        Ok(members)
    }

    /// Has a tenant told anew in a while, so that others do not wait for it, when it
    /// is this one alone that cannot be told of.
    async fn put_aside(
        &mut self,
        tenant: TenantId,
        error: NotifyError,
        to: &mut NotificationCursor,
    ) -> Result<(), NotifyError> {
        if !error.is_of_one_tenant() || !self.is_prompt().await {
            return Err(error);
        }
        let is_refused = matches!(error, NotifyError::Refused(_));
        let aside = self.aside.entry(tenant.clone()).or_insert_with(|| {
            warn!(%tenant, %error, "notifications of a tenant wait, and will all be published anew");
            Aside {
                until: Instant::now(),
                pause: ASIDE.0,
                is_refused,
            }
        });
        aside.is_refused = is_refused;
        if aside.until <= Instant::now() {
            aside.until = Instant::now() + aside.pause;
            aside.pause = (aside.pause * 2).min(ASIDE.1);
        }
        self.teller.metrics.failed();
        to.tell_anew(tenant);
        Ok(())
    }

    /// Whether the store answers as usual: then what was too slow is so by itself.
    async fn is_prompt(&self) -> bool {
        let asked = tokio::time::timeout(PROMPT, self.position());
        matches!(asked.await, Ok(Ok(_)))
    }

    /// Has some more told of those who are told anew: of the next tenant.
    async fn tell_anew(
        &mut self,
        notifier: &Notifier,
        (floor, to): (&NotificationCursor, &mut NotificationCursor),
    ) -> Result<(), NotifyError> {
        let Some(tenant) = self.next_anew(to) else {
            return Ok(());
        };
        self.last_anew = Some(tenant.clone());
        let walk = to.anew.remove(&tenant).unwrap_or_default();
        let (walk, told) = self.tell_page((notifier, floor), &tenant, walk).await;
        if let Some(walk) = walk {
            to.anew.insert(tenant.clone(), walk);
        }
        if let Err(error) = told {
            return self.put_aside(tenant, error, to).await;
        }
        if self.aside.remove(&tenant).is_some() {
            info!(%tenant, "notifications of a tenant go on");
        }
        Ok(())
    }

    /// Tells the next shares of a walk; what is left of the walk then. What a queue has
    /// refused comes once more when the walk is renewed.
    async fn tell_page(
        &self,
        (notifier, floor): (&Notifier, &NotificationCursor),
        tenant: &TenantId,
        mut walk: TenantWalk,
    ) -> (Option<TenantWalk>, Result<(), NotifyError>) {
        let query = SharesAfter {
            tenant: tenant.clone(),
            after: walk.after().cloned(),
            limit: MAX_SHARES_PER_ANSWER,
        };
        let shares = match self.teller.read_in_time(query, floor).await {
            Ok(shares) => shares,
            Err(error) => return (Some(walk), Err(error)),
        };
        let errand = Errand {
            notifier,
            lease: self.lease,
            floor,
            asked_of: AskedOf::Store,
        };
        let told = self.teller.tell_shares(errand, (tenant, &shares)).await;
        let is_told = matches!(told, Ok(()) | Err(NotifyError::Refused(_)));
        let goes_on = !is_told || walk.told(shares.last(), shares.len() < MAX_SHARES_PER_ANSWER);
        (goes_on.then_some(walk), told)
    }

    /// Whose turn it is of those who are told anew.
    fn next_anew(&self, to: &NotificationCursor) -> Option<TenantId> {
        let now = Instant::now();
        let rests = |tenant: &TenantId| self.aside.get(tenant).is_some_and(|of| of.until > now);
        let from = match &self.last_anew {
            Some(last) => Bound::Excluded(last.clone()),
            None => Bound::Unbounded,
        };
        let later = to.anew.range((from, Bound::Unbounded));
        let mut tenants = later.chain(&to.anew).map(|(tenant, _)| tenant);
        tenants.find(|tenant| !rests(tenant)).cloned()
    }
}

impl Aside {
    /// Whether it is not even tried for now.
    fn waits(&self) -> bool {
        !self.is_refused && self.until > Instant::now()
    }
}

fn span((writer, from, last): (WriterId, i64, i64)) -> Span {
    let to = last.min(from + READ_TOGETHER - 1);
    Span { writer, from, to }
}
