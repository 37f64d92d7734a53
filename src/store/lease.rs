//! Leases: the right to be the only process that does something, for as long as
//! it is renewed. Each is a document in `meta`, and all go by the server's clock.
//!
//! A lease keeps two processes from doing the same work, not from doing harm: one
//! that was frozen goes on for a moment as if it still had it. What must not
//! happen then names the [holder](Lease::holder) in the write itself.

use std::time::Duration;

use mongodb::bson::oid::ObjectId;
use mongodb::bson::{DateTime, Document, doc};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::store::{Store, StoreError};

/// Of those who work on the dead-letter queue: two passes would each see a part
/// of it only.
pub(super) const DEAD_LETTERS: &str = "dead_letters";
/// Of whoever sends the letters that wait, lest they be sent twice.
pub(super) const UNSENT_LETTERS: &str = "unsent_letters";
/// How long a lease lasts after it was taken or renewed, by the server's clock.
const LENGTH: Duration = Duration::from_secs(8);

/// For so long after it was renewed nobody else can have it.
const SURE: Duration = Duration::from_secs(6);

/// When a lease that is free ended.
const LONG_AGO: DateTime = DateTime::from_millis(0);

/// The right to be the one.
#[derive(Debug, Clone)]
pub struct Lease {
    store: Store,
    name: &'static str,
    holder: ObjectId,
}

impl Lease {
    /// How often it must be renewed, amply.
    pub const RENEWAL: Duration = Duration::from_secs(2);

    /// Tells this lease from all before and after it under the same name.
    pub(super) fn holder(&self) -> ObjectId {
        self.holder
    }

    /// Goes on for as long again. `false` when somebody else has it by now.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub async fn renew(&self) -> Result<bool, StoreError> {
        let ours = doc! { "_id": self.name, "holder": self.holder };
        let meta = self.store.meta::<Document>();
        let changed = meta.update_one(ours, vec![extension()]).await?;
        Ok(changed.matched_count == 1)
    }

    /// Lets the next one in. One that is not given up ends by itself.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub async fn give_up(self) -> Result<(), StoreError> {
        let ours = doc! { "_id": self.name, "holder": self.holder };
        let free = doc! { "$set": { "until": LONG_AGO } };
        self.store.meta::<Document>().update_one(ours, free).await?;
        Ok(())
    }
}

/// A lease that is renewed for as long as this is kept.
#[derive(Debug)]
pub struct Renewed {
    lease: Lease,
    renewed: watch::Receiver<Instant>,
    renewing: JoinHandle<()>,
}

impl Renewed {
    /// Renews a lease from now on.
    pub fn new(lease: Lease) -> Self {
        let (renews, renewed) = watch::channel(Instant::now());
        let renewing = tokio::spawn(renew(lease.clone(), renews));
        Self {
            lease,
            renewed,
            renewing,
        }
    }

    /// What is renewed.
    pub fn lease(&self) -> &Lease {
        &self.lease
    }

    /// Whether somebody else may have it: it could not be renewed for so long. To be
    /// asked right before what only its holder is to do, since this process may have
    /// been frozen.
    pub fn is_lost(&self) -> bool {
        self.renewing.is_finished() || self.renewed.borrow().elapsed() >= SURE
    }

    /// Lets the next one in.
    pub async fn give_up(self) {
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
            Err(_) if renews.borrow().elapsed() < SURE => {}
            Err(_) => return,
        }
    }
}

fn extension() -> Document {
    let millis = i64::try_from(LENGTH.as_millis()).unwrap_or(i64::MAX);
    doc! { "$set": { "until": { "$add": ["$$NOW", millis] } } }
}

impl Store {
    /// Takes the lease, if it is free, for a purpose that others are told.
    /// `Err` inside: what it is taken for.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub async fn lease(&self, purpose: &str) -> Result<Result<Lease, String>, StoreError> {
        self.lease_named(DEAD_LETTERS, purpose).await
    }

    pub(super) async fn lease_named(
        &self,
        name: &'static str,
        purpose: &str,
    ) -> Result<Result<Lease, String>, StoreError> {
        // A condition on the server's clock is not allowed in an upsert.
        self.create_lease_named(name).await?;
        let meta = self.meta::<Document>();
        let holder = ObjectId::new();
        let free = doc! { "_id": name, "$expr": { "$lt": ["$until", "$$NOW"] } };
        let take = doc! { "$set": { "holder": holder, "purpose": { "$literal": purpose } } };
        let taken = meta.update_one(free, vec![take, extension()]).await?;
        if taken.matched_count == 0 {
            return Ok(Err(self.purpose(name).await?));
        }
        let store = self.clone();
        Ok(Ok(Lease {
            store,
            name,
            holder,
        }))
    }

    /// Makes sure of its document.
    pub(super) async fn create_lease(&self) -> Result<(), StoreError> {
        self.create_lease_named(DEAD_LETTERS).await
    }

    async fn create_lease_named(&self, name: &str) -> Result<(), StoreError> {
        let first = doc! { "$setOnInsert": { "until": LONG_AGO } };
        let meta = self.meta::<Document>();
        let created = meta.update_one(doc! { "_id": name }, first);
        created.upsert(true).await?;
        Ok(())
    }

    /// Whether somebody has the lease.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub async fn lease_taken(&self) -> Result<bool, StoreError> {
        let taken = doc! { "_id": DEAD_LETTERS, "$expr": { "$gte": ["$until", "$$NOW"] } };
        Ok(self.meta::<Document>().find_one(taken).await?.is_some())
    }

    async fn purpose(&self, name: &str) -> Result<String, StoreError> {
        let meta = self.meta::<Document>();
        let found = meta.find_one(doc! { "_id": name }).await?;
        let purpose = found.and_then(|lease| lease.get_str("purpose").map(str::to_owned).ok());
        Ok(purpose.unwrap_or_else(|| "something".into()))
    }
}
