//! A round: what was committed since the last one is told, and then the cursor
//! moves on.
//!
//! The cursor is saved after the broker has confirmed everything, so whoever dies in
//! a round leaves it to be done again: users are then told twice, of the same
//! version or a later one.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;
use tracing::warn;

use super::NotifyError;
use super::gather::{Due, Faces, Gathered};
use super::tell::Teller;
use super::told::Told;
use crate::bus::notifier::Notifier;
use crate::event::TenantId;
use crate::failpoint::{self, Point};
use crate::store::commits::{Cut, Position, Record, Span};
use crate::store::fence::WriterId;
use crate::store::read::{Members, MembersOf, SharesAfter};
use crate::store::{Cursor, Renewed, Store, StoreError};

/// Messages that a round comes to, roughly: what is more waits for the next, and
/// becomes less meanwhile where it is about the same users.
const MOST_DUE: usize = 20_000;
/// Commits of one writer that are read together.
const READ_TOGETHER: i64 = 64;
/// A commit record that is missing for so long is gone: records are kept for a
/// time, and a server that has just become the primary may not show all at once.
const GONE: Duration = Duration::from_secs(10);
/// Shares that are told anew in one round.
const ANEW: usize = 1_000;
/// A cursor that has nothing new is saved so often, so that its age is not taken
/// for that of somebody who was away.
const TOUCHED: Duration = Duration::from_secs(60);
/// Dialogs whose members are asked for together.
const DIALOGS: usize = 500;

/// Rounds by whoever has the lease.
pub(super) struct Rounds {
    pub(super) store: Store,
    pub(super) teller: Teller,
    pub(super) lease: Renewed,
    pub(super) cursor: Cursor,
    /// When it was saved, or found.
    saved: Instant,
    /// How old it was then.
    age: Duration,
    /// How long commit records are kept.
    retention: Duration,
    faces: Faces,
    told: Told,
    missing_since: Option<Instant>,
}

impl Rounds {
    /// Goes on from where notifications are; where there were none, from now on.
    pub(super) async fn begin(
        (store, teller): (Store, Teller),
        lease: Renewed,
        retention: Duration,
    ) -> Result<Self, NotifyError> {
        let saved = store.notification_cursor().await?;
        let (cursor, age) = match saved {
            Some(saved) => (saved.cursor, saved.age),
            None => (Cursor::at(&store.position().await?), Duration::ZERO),
        };
        let mut rounds = Self {
            store,
            teller,
            lease,
            cursor,
            saved: Instant::now(),
            age,
            retention,
            faces: Faces::new(),
            told: Told::new(),
            missing_since: None,
        };
        if age.is_zero() {
            let first = rounds.cursor.clone();
            rounds.save(first).await?;
        }
        Ok(rounds)
    }

    /// One round; tells whether more is waiting already.
    pub(super) async fn next(&mut self, notifier: &Notifier) -> Result<bool, NotifyError> {
        let position = self.store.position().await?;
        let mut to = self.cursor.clone();
        self.note_what_is_untold(&position, &mut to).await?;
        let target = Cut::from(&position);
        let gathered = self.gather(&target, &mut to).await?;
        for tenant in &gathered.untold {
            to.anew.insert(tenant.clone(), None);
        }
        failpoint::pass(Point::NotifyTaken);
        let mut due = self.due(&gathered).await?;
        self.tell_anew(&mut to, &mut due).await?;
        let is_something = !due.is_empty();
        for of_tenant in due {
            let (tenant, due) = (&of_tenant.0, of_tenant.1);
            self.teller
                .tell(notifier, (tenant, due), &mut self.told)
                .await?;
        }
        if is_something {
            failpoint::pass(Point::NotifyConfirmed);
        }
        self.faces.told(&gathered);
        self.show(&gathered);
        let is_behind = to.cut.until(&target).next().is_some() || !to.anew.is_empty();
        if to != self.cursor || self.saved.elapsed() > TOUCHED {
            self.save(to).await?;
            failpoint::pass(Point::NotifySaved);
        }
        Ok(is_behind)
    }

    fn show(&self, gathered: &Gathered) {
        if let Some(oldest) = gathered.oldest {
            let now = crate::event::Micros::shown_by(SystemTime::now());
            let micros = now.get().saturating_sub(oldest.get()).max(0);
            self.teller
                .metrics
                .lag(Duration::from_micros(micros.unsigned_abs()));
        }
    }

    async fn save(&mut self, cursor: Cursor) -> Result<(), NotifyError> {
        let lease = self.lease.lease();
        if self.lease.is_lost() || !self.store.save_notification_cursor(lease, &cursor).await? {
            return Err(NotifyError::LeaseLost);
        }
        (self.cursor, self.saved, self.age) = (cursor, Instant::now(), Duration::ZERO);
        Ok(())
    }

    /// Finds out of whom something has changed that no commit record tells: of
    /// tenants whose documents were made anew, and of everybody, if a writer without
    /// records has written, or records may be gone.
    async fn note_what_is_untold(
        &mut self,
        position: &Position,
        to: &mut Cursor,
    ) -> Result<(), NotifyError> {
        let (before, now) = (&self.cursor.generations, &position.generations);
        let age = self.age + self.saved.elapsed();
        let may_lack_records = position.removed != self.cursor.removed && age > self.retention;
        if before.everyone() != now.everyone()
            || position.unnumbered != self.cursor.unnumbered
            || may_lack_records
        {
            self.tell_all_anew(position, to).await?;
        } else {
            let tenants = before.by_themselves().chain(now.by_themselves());
            let moved = tenants.filter(|(tenant, _)| before.of(tenant) != now.of(tenant));
            to.anew
                .extend(moved.map(|(tenant, _)| (tenant.clone(), None)));
        }
        if position.removed > self.cursor.removed {
            // All that they have committed was told long ago, or is told anew.
            let is_there = |(writer, _): &(WriterId, i64)| position.commits.contains_key(writer);
            to.cut = to.cut.iter().filter(is_there).collect();
        }
        to.generations.clone_from(now);
        to.unnumbered.clone_from(&position.unnumbered);
        to.removed = position.removed;
        Ok(())
    }

    async fn tell_all_anew(&self, position: &Position, to: &mut Cursor) -> Result<(), NotifyError> {
        let tenants = self.store.tenants(&position.generations).await?;
        warn!(
            tenants = tenants.len(),
            "not all changes are known: everybody is notified of all that they have"
        );
        self.teller.metrics.anew();
        to.anew
            .extend(tenants.into_iter().map(|tenant| (tenant, None)));
        Ok(())
    }

    /// Reads commit records on the way to a cut, as many as one round may have, and
    /// moves the cursor past them.
    async fn gather(&mut self, target: &Cut, to: &mut Cursor) -> Result<Gathered, NotifyError> {
        let limit = i64::from(self.teller.config.fan_out_limit);
        let mut gathered = Gathered::default();
        while gathered.weight() < MOST_DUE {
            let spans: Vec<Span> = to.cut.until(target).map(span).collect();
            if spans.is_empty() {
                break;
            }
            let records = self.records(&spans).await?;
            let mut moved = false;
            for span in spans {
                for number in span.from..=span.to {
                    let Some(record) = records.get(&(span.writer, number)) else {
                        break;
                    };
                    gathered.take(record, &mut self.faces, limit);
                    to.cut.raise(span.writer, number);
                    moved = true;
                }
            }
            if moved {
                self.missing_since = None;
                continue;
            }
            let since = *self.missing_since.get_or_insert_with(Instant::now);
            if since.elapsed() > GONE {
                self.missing_since = None;
                let position = self.store.position().await?;
                self.tell_all_anew(&position, to).await?;
                to.cut.join(target);
            }
            break;
        }
        Ok(gathered)
    }

    async fn records(
        &self,
        spans: &[Span],
    ) -> Result<HashMap<(WriterId, i64), Arc<Record>>, NotifyError> {
        match self.store.commit_records(spans).await {
            Ok(found) => {
                let found = found.into_iter();
                Ok(found
                    .map(|of| ((of.writer, of.number), of.record))
                    .collect())
            }
            // Of a later version, or damaged: as good as missing.
            Err(StoreError::Answer(why)) => {
                warn!(why, "a commit record cannot be read");
                Ok(HashMap::new())
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn due(&self, gathered: &Gathered) -> Result<BTreeMap<TenantId, Due>, NotifyError> {
        let limit = i64::from(self.teller.config.fan_out_limit);
        let mut members = BTreeMap::new();
        for (tenant, dialogs) in gathered.to_all(limit) {
            let mut of_tenant = Members::new();
            for dialogs in dialogs.chunks(DIALOGS) {
                let query = MembersOf {
                    tenant: tenant.clone(),
                    dialogs: dialogs.to_vec(),
                };
                of_tenant.extend(self.teller.read(query).await?);
            }
            members.insert(tenant, of_tenant);
        }
        Ok(gathered.due(&members, limit))
    }

    /// Has some more told of those who are told anew.
    async fn tell_anew(
        &self,
        to: &mut Cursor,
        due: &mut BTreeMap<TenantId, Due>,
    ) -> Result<(), NotifyError> {
        let Some((tenant, after)) = to.anew.pop_first() else {
            return Ok(());
        };
        let query = SharesAfter {
            tenant: tenant.clone(),
            after,
            limit: ANEW,
        };
        let shares = self.teller.read(query).await?;
        due.entry(tenant.clone()).or_default().tell_anew(&shares);
        if shares.len() == ANEW {
            to.anew.insert(tenant, shares.last().cloned());
        }
        Ok(())
    }
}

fn span((writer, from, last): (WriterId, i64, i64)) -> Span {
    let to = last.min(from + READ_TOGETHER - 1);
    Span { writer, from, to }
}
