//! Leases: the right to be the only process that does something, for as long as
//! it is renewed. Each is kept in a document of `meta`, and all go by the server's
//! clock: whose clock is ahead must not take what another still has.
//!
//! A lease keeps two processes from doing the same work, not from doing harm: one
//! that was frozen goes on for a moment as if it still had it. What must not
//! happen then names the holder in the write itself ([`LeaseKind::held_by`]).

use std::time::Duration;

use mongodb::bson::oid::ObjectId;
use mongodb::bson::{DateTime, Document, doc};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::store::{Store, StoreError};

/// When a lease that is free ended.
const LONG_AGO: DateTime = DateTime::from_millis(0);

/// For so long after a [`Lease`] was renewed nobody else can have it: less than it
/// lasts.
const SAFE_AFTER_RENEWAL: Duration = Duration::from_secs(6);

/// What a lease is for: the document of `meta` that holds it, in which fields, and
/// how long it lasts. The names are persisted, and versions that run beside each
/// other must agree on them.
#[derive(Debug, Clone, Copy)]
pub(super) struct LeaseKind {
    /// The `_id` of the document, which may have other fields besides.
    pub(super) id: &'static str,
    /// The field that tells the holder from all before and after.
    holder: &'static str,
    /// The field with the time at which the lease ends.
    until: &'static str,
    /// How long the lease lasts after it was taken or renewed.
    length: Duration,
}

/// The lease of those who work on the dead-letter queue: two passes would each see a
/// part of it only.
pub(super) const DEAD_LETTERS: LeaseKind = LeaseKind::of_seconds("dead_letters");
/// The lease of whoever sends the letters that wait, lest they be sent twice.
pub(super) const UNSENT_LETTERS: LeaseKind = LeaseKind::of_seconds("unsent_letters");
/// The lease of whoever publishes notifications; the cursor is in the same document.
pub(super) const NOTIFICATIONS: LeaseKind = LeaseKind::of_seconds("notifications");
/// The lease of whoever drives the rebuild, which is renewed with each step and not
/// in the background.
pub(super) const REBUILD: LeaseKind = LeaseKind {
    id: "rebuild",
    holder: "token",
    until: "lease",
    length: Duration::from_secs(30),
};

impl LeaseKind {
    /// One that is renewed every [`Lease::RENEWAL`].
    const fn of_seconds(id: &'static str) -> Self {
        Self {
            id,
            holder: "holder",
            until: "until",
            length: Duration::from_secs(8),
        }
    }

    /// The filter that finds the document if nobody has the lease.
    pub(super) fn free(self) -> Document {
        doc! { "_id": self.id, "$expr": { "$lt": [self.ends(), "$$NOW"] } }
    }

    /// The filter that finds the document if somebody has the lease.
    fn taken(self) -> Document {
        doc! { "_id": self.id, "$expr": { "$gte": [self.ends(), "$$NOW"] } }
    }

    /// The filter that finds the document if this holder took the lease last.
    pub(super) fn held_by(self, holder: ObjectId) -> Document {
        doc! { "_id": self.id, self.holder: holder }
    }

    /// The filter that finds no document that has ever been held, so that an upsert
    /// collides with one that has.
    pub(super) fn never_held(self) -> Document {
        doc! { "_id": self.id, self.holder: { "$exists": false } }
    }

    /// The stage of an update that makes somebody the holder.
    pub(super) fn hand_to(self, holder: ObjectId) -> Document {
        doc! { "$set": { self.holder: holder } }
    }

    /// The stage of an update that has the lease last for its whole length from now on.
    pub(super) fn extend(self) -> Document {
        let millis = i64::try_from(self.length.as_millis()).unwrap_or(i64::MAX);
        doc! { "$set": { self.until: { "$add": ["$$NOW", millis] } } }
    }

    /// The update that lets the next one in.
    pub(super) fn end(self) -> Document {
        doc! { "$set": { self.until: LONG_AGO } }
    }

    /// The expression that says for how many milliseconds the lease lasts yet.
    pub(super) fn left_millis(self) -> Document {
        let until = doc! { "$max": [self.ends(), "$$NOW"] };
        doc! { "$toDouble": { "$subtract": [until, "$$NOW"] } }
    }

    fn ends(self) -> String {
        format!("${}", self.until)
    }
}

/// The right to be the only one, until it is lost or given up.
#[derive(Debug, Clone)]
pub(crate) struct Lease {
    store: Store,
    kind: LeaseKind,
    holder: ObjectId,
}

impl Lease {
    /// How often a lease is renewed: several times before it ends.
    pub(crate) const RENEWAL: Duration = Duration::from_secs(2);

    /// The filter that finds the document if the lease is still this one's.
    pub(super) fn still_held(&self) -> Document {
        self.kind.held_by(self.holder)
    }

    /// Has the lease last for its whole length from now on. Returns `false` when
    /// somebody else has it by now.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub(crate) async fn renew(&self) -> Result<bool, StoreError> {
        let meta = self.store.meta::<Document>();
        let renewed = vec![self.kind.extend()];
        let changed = meta.update_one(self.still_held(), renewed).await?;
        Ok(changed.matched_count == 1)
    }

    /// Lets the next one in. A lease that is not given up ends by itself.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub(crate) async fn give_up(self) -> Result<(), StoreError> {
        let meta = self.store.meta::<Document>();
        meta.update_one(self.still_held(), self.kind.end()).await?;
        Ok(())
    }
}

/// A lease that a task renews for as long as this is kept.
#[derive(Debug)]
pub(crate) struct Renewed {
    lease: Lease,
    renewed: watch::Receiver<Instant>,
    renewing: JoinHandle<()>,
}

impl Renewed {
    /// Renews the lease from now on.
    pub(crate) fn new(lease: Lease) -> Self {
        let (renews, renewed) = watch::channel(Instant::now());
        let renewing = tokio::spawn(renew(lease.clone(), renews));
        Self {
            lease,
            renewed,
            renewing,
        }
    }

    /// Returns the lease that is renewed.
    pub(crate) fn lease(&self) -> &Lease {
        &self.lease
    }

    /// Tells whether somebody else may have the lease, since it could not be renewed
    /// for so long. To be asked right before what only its holder is to do: this
    /// process may have been frozen.
    pub(crate) fn is_lost(&self) -> bool {
        self.renewing.is_finished() || self.renewed.borrow().elapsed() >= SAFE_AFTER_RENEWAL
    }

    /// Stops renewing the lease, and lets the next one in.
    pub(crate) async fn give_up(self) {
        self.renewing.abort();
        // An error says that the store is away: the lease ends by itself.
        let _ = self.lease.clone().give_up().await;
    }
}

impl Drop for Renewed {
    fn drop(&mut self) {
        self.renewing.abort();
    }
}

/// Renews a lease until it is lost.
async fn renew(lease: Lease, renews: watch::Sender<Instant>) {
    loop {
        tokio::time::sleep(Lease::RENEWAL).await;
        let asked = Instant::now();
        match lease.renew().await {
            Ok(true) => drop(renews.send_replace(asked)),
            Ok(false) => return,
            // The store is away: the work will notice that by itself, and the
            // lease may still be ours when it is back.
            Err(_) if renews.borrow().elapsed() < SAFE_AFTER_RENEWAL => {}
            Err(_) => return,
        }
    }
}

impl Store {
    /// Takes the lease of those who work on the dead-letter queue, if it is free, for a
    /// purpose that others are told. The inner error is the purpose for which somebody
    /// else has it.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub(crate) async fn take_dead_letter_lease(
        &self,
        purpose: &str,
    ) -> Result<Result<Lease, String>, StoreError> {
        self.take_lease(DEAD_LETTERS, purpose).await
    }

    /// Takes a lease, if it is free, for a purpose that others are told. The inner
    /// error is the purpose for which somebody else has it.
    pub(super) async fn take_lease(
        &self,
        kind: LeaseKind,
        purpose: &str,
    ) -> Result<Result<Lease, String>, StoreError> {
        // A condition on the server's clock is not allowed in an upsert.
        self.create_lease(kind).await?;
        let meta = self.meta::<Document>();
        let holder = ObjectId::new();
        let said = doc! { "$set": { "purpose": { "$literal": purpose } } };
        let take = vec![kind.hand_to(holder), said, kind.extend()];
        let taken = meta.update_one(kind.free(), take).await?;
        if taken.matched_count == 0 {
            return Ok(Err(self.purpose(kind).await?));
        }
        let store = self.clone();
        Ok(Ok(Lease {
            store,
            kind,
            holder,
        }))
    }

    /// Makes sure that the document of a lease is there.
    pub(super) async fn create_lease(&self, kind: LeaseKind) -> Result<(), StoreError> {
        let first = doc! { "$setOnInsert": { kind.until: LONG_AGO } };
        let meta = self.meta::<Document>();
        let created = meta.update_one(doc! { "_id": kind.id }, first);
        created.upsert(true).await?;
        Ok(())
    }

    /// Tells whether somebody works on the dead-letter queue.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub(crate) async fn is_dead_letter_lease_taken(&self) -> Result<bool, StoreError> {
        let meta = self.meta::<Document>();
        Ok(meta.find_one(DEAD_LETTERS.taken()).await?.is_some())
    }

    async fn purpose(&self, kind: LeaseKind) -> Result<String, StoreError> {
        let meta = self.meta::<Document>();
        let found = meta.find_one(doc! { "_id": kind.id }).await?;
        let purpose = found.and_then(|lease| lease.get_str("purpose").map(str::to_owned).ok());
        Ok(purpose.unwrap_or_else(|| "something".into()))
    }
}
