//! One moment of the store. Lanes load from it ([`Loader`](super::Loader)), readers are
//! answered from it ([`TenantSnapshot`](super::read::TenantSnapshot)), and a recount goes
//! through it.

use std::sync::Arc;
use std::time::Duration;

use mongodb::bson::doc;
use mongodb::options::FindOneOptions;
use mongodb::{ClientSession, Collection};

use super::documents::{collection, id};
use super::rebuild::generation::{GENERATIONS, Generation, Generations, GenerationsDocument};
use super::{Store, StoreError};
use crate::event::TenantId;

/// A moment of the store: everything that is read through one value of this type was true
/// at the time of its first read.
#[derive(Debug)]
pub(super) struct Snapshot {
    /// Pinned to the client that the session is of.
    pub(super) store: Store,
    /// The session that reads go through.
    pub(super) session: ClientSession,
    generations: Arc<Generations>,
}

impl Store {
    /// Begins a snapshot of what readers see at its moment: its first read is where each
    /// tenant's documents are, for which the server has `max_time`, or as long as it takes.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub(super) async fn snapshot(
        &self,
        max_time: Option<Duration>,
    ) -> Result<Snapshot, StoreError> {
        let mut snapshot = self.snapshot_of(Arc::default()).await?;
        let meta = snapshot.store.snapshots();
        let meta = meta.collection::<GenerationsDocument>(collection::META);
        let mut options = FindOneOptions::default();
        options.max_time = max_time;
        let found = meta
            .find_one(doc! { id::ID: GENERATIONS })
            .with_options(options)
            .session(&mut snapshot.session)
            .await?;
        let generations: Generations = found.unwrap_or_default().try_into()?;
        snapshot.generations = Arc::new(generations);
        Ok(snapshot)
    }

    /// Begins a snapshot of these generations, whether or not they are those that readers
    /// see.
    ///
    /// # Errors
    /// When no session is to be had.
    pub(super) async fn snapshot_of(
        &self,
        generations: Arc<Generations>,
    ) -> Result<Snapshot, StoreError> {
        let store = self.pinned();
        Ok(Snapshot {
            session: store.snapshot_session().await?,
            store,
            generations,
        })
    }
}

impl Snapshot {
    /// Returns where each tenant's documents are.
    pub(super) fn generations(&self) -> &Generations {
        &self.generations
    }

    /// Returns a tenant's collection, to be read in the session.
    pub(super) fn collection<T: Send + Sync>(
        &self,
        tenant: &TenantId,
        name: &'static str,
    ) -> Collection<T> {
        self.collection_in(self.generations.of(tenant), name)
    }

    /// Returns a generation's collection, to be read in the session.
    pub(super) fn collection_in<T: Send + Sync>(
        &self,
        generation: Generation,
        name: &'static str,
    ) -> Collection<T> {
        let name = generation.collection(name);
        self.store.snapshots().collection(&name)
    }
}
