//! The rebuild under way, as the database knows it: the document `rebuild` in
//! `meta`. It says into which generation, and from where to go on, so that
//! whoever drives it may die at any time.
//!
//! Only one process drives it: the one that holds the [lease](crate::store::lease) in the
//! same document. It must come back to it before that is over, else another may take
//! it.

use mongodb::bson::oid::ObjectId;
use mongodb::bson::{Bson, DateTime, Document, Timestamp, doc, serialize_to_bson};
use mongodb::change_stream::event::ResumeToken;
use mongodb::options::ReturnDocument;
use serde::{Deserialize, Serialize};

use super::generation::{GENERATIONS, Generation, Generations};
use super::replay::JournalMoment;
use crate::event::TenantId;
use crate::store::documents::{collection, id};
use crate::store::lease::REBUILD;
use crate::store::{Store, StoreError};

/// How far a rebuild is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RebuildPhase {
    /// It reads the journal as that was at the beginning.
    Replaying,
    /// It reads what was added to the journal since.
    Following,
    /// Readers see the new collections, and the old ones are to go.
    Cleaning,
}

/// A rebuild that this process drives, as it is stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RebuildState {
    token: ObjectId,
    /// The tenant whose counters are rebuilt; `None` for all.
    tenant: Option<String>,
    generation: Generation,
    /// The generation that was served before, from which the rebuild cleans up.
    before: Generation,
    phase: RebuildPhase,
    since: Timestamp,
    newest: DateTime,
    /// All records that were written before this time are replayed.
    read_to: Option<DateTime>,
    /// All changes before this position of the change stream are replayed.
    followed_to: Option<ResumeToken>,
    replayed: i64,
    by: String,
    started_at: DateTime,
}

/// What came of asking for the lease of the rebuild under way.
#[derive(Debug)]
pub(crate) enum RebuildClaim {
    /// This process drives the rebuild now.
    Ours(Box<RebuildState>),
    /// There is no rebuild under way.
    None,
    /// Another process drives the rebuild.
    Busy {
        /// Who drives it, as the audit names them.
        by: String,
        /// The number of seconds after which the rebuild may be taken over, should its
        /// driver be dead.
        seconds: i64,
    },
}

impl RebuildState {
    /// Returns the tenant whose counters are rebuilt; `None` for all.
    ///
    /// # Errors
    /// When what is stored names no tenant.
    pub(crate) fn tenant(&self) -> Result<Option<TenantId>, StoreError> {
        let tenant = self.tenant.as_deref().map(TenantId::new).transpose();
        tenant.map_err(|error| {
            StoreError::Answer(format!("`{}` has a tenant with {error}", REBUILD.id))
        })
    }

    /// Returns the generation that is written.
    pub(crate) fn generation(&self) -> Generation {
        self.generation
    }

    /// Returns how far the rebuild is.
    pub(crate) fn phase(&self) -> RebuildPhase {
        self.phase
    }

    /// Returns the moment of the journal at which the rebuild began.
    pub(crate) fn since(&self) -> JournalMoment {
        JournalMoment {
            time: self.since,
            newest: self.newest,
        }
    }

    /// Returns the time of the record from which to read on.
    pub(crate) fn read_to(&self) -> Option<DateTime> {
        self.read_to
    }

    /// Returns the position from which to follow the change stream on.
    pub(crate) fn followed_to(&self) -> Option<ResumeToken> {
        self.followed_to.clone()
    }

    /// Returns the number of records replayed so far; some count twice, after an
    /// interruption.
    pub(crate) fn replayed(&self) -> u64 {
        u64::try_from(self.replayed).unwrap_or(0)
    }

    /// Adds to the number of records replayed, whichever way they were read.
    pub(crate) fn note_replayed(&mut self, records: u64) {
        self.replayed += i64::try_from(records).unwrap_or(i64::MAX);
    }

    /// Records how far the journal was read.
    pub(crate) fn note_read(&mut self, to: DateTime) {
        self.read_to = Some(to);
    }

    /// Records how far the journal was followed.
    pub(crate) fn note_followed(&mut self, to: Option<ResumeToken>) {
        self.phase = RebuildPhase::Following;
        self.followed_to = to.or(self.followed_to.take());
    }

    /// Records that readers see the new collections.
    pub(crate) fn note_switched(&mut self) {
        self.phase = RebuildPhase::Cleaning;
    }
}

impl Store {
    /// Takes over the rebuild that was begun and that nobody drives.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub(crate) async fn claim_rebuild(&self, by: &str) -> Result<RebuildClaim, StoreError> {
        let token = ObjectId::new();
        let said = doc! { "$set": { "by": { "$literal": by } } };
        let take = vec![REBUILD.hand_to(token), said, REBUILD.extend()];
        let claimed = self
            .meta::<RebuildState>()
            .find_one_and_update(REBUILD.free(), take)
            .return_document(ReturnDocument::After)
            .await?;
        if let Some(rebuilding) = claimed {
            return Ok(RebuildClaim::Ours(Box::new(rebuilding)));
        }
        let fields = doc! { "by": 1, "left": REBUILD.left_millis() };
        let found = self
            .meta::<Holder>()
            .find_one(doc! { "_id": REBUILD.id })
            .projection(fields)
            .await?;
        Ok(
            found.map_or(RebuildClaim::None, |theirs| RebuildClaim::Busy {
                seconds: theirs.left as i64 / 1_000 + 1,
                by: theirs.by,
            }),
        )
    }

    /// Begins a rebuild, with empty collections of a new generation.
    ///
    /// # Errors
    /// Any [`StoreError`]; of class conflict when another one was begun.
    pub(crate) async fn begin_rebuild(
        &self,
        tenant: Option<&TenantId>,
        by: &str,
    ) -> Result<RebuildState, StoreError> {
        let numbered = self
            .meta::<Numbered>()
            .find_one_and_update(
                doc! { "_id": GENERATIONS },
                doc! { "$inc": { "latest": 1_i64 } },
            )
            .return_document(ReturnDocument::After)
            .await?;
        let generation = numbered.map(|numbered| Generation::new(numbered.latest));
        let generation = generation.ok_or_else(|| {
            StoreError::Answer(format!(
                "`{}` has no `{GENERATIONS}`: has the service ever run on this database?",
                collection::META
            ))
        })?;
        self.create_generation(generation).await?;
        let JournalMoment { time, newest } = self.journal_now().await?;
        let rebuilding = RebuildState {
            token: ObjectId::new(),
            tenant: tenant.map(ToString::to_string),
            generation,
            before: generation,
            phase: RebuildPhase::Replaying,
            since: time,
            newest,
            read_to: None,
            followed_to: None,
            replayed: 0,
            by: by.to_owned(),
            started_at: DateTime::now(),
        };
        // An upsert and not an insert: only an update knows the server's clock.
        let begin = vec![stored(&rebuilding)?, REBUILD.extend()];
        let meta = self.meta::<Document>();
        let begun = meta.update_one(REBUILD.never_held(), begin);
        begun.upsert(true).await?;
        Ok(rebuilding)
    }

    /// Stores how far the rebuild is, and renews the lease. Returns `false` when another
    /// process drives it by now: then it is to be left alone.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub(crate) async fn save_rebuild(&self, rebuilding: &RebuildState) -> Result<bool, StoreError> {
        let ours = REBUILD.held_by(rebuilding.token);
        let change = vec![stored(rebuilding)?, REBUILD.extend()];
        let changed = self.meta::<Document>().update_one(ours, change).await?;
        Ok(changed.matched_count == 1)
    }

    /// Gives up the lease, so that another process can go on with the rebuild at once.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub(crate) async fn release_rebuild(
        &self,
        rebuilding: &RebuildState,
    ) -> Result<(), StoreError> {
        let ours = REBUILD.held_by(rebuilding.token);
        let meta = self.meta::<Document>();
        meta.update_one(ours, REBUILD.end()).await?;
        Ok(())
    }

    /// Notes which generation is served, so that it is known what must go after the
    /// switch. Returns whether the switch has happened already.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub(crate) async fn note_before_switch(
        &self,
        rebuilding: &mut RebuildState,
    ) -> Result<bool, StoreError> {
        let tenant = rebuilding.tenant()?;
        let serving = serving(&self.latest_generations().await?, tenant.as_ref());
        if serving == rebuilding.generation {
            return Ok(true);
        }
        rebuilding.before = serving;
        Ok(false)
    }

    /// Removes what is no longer served, once the rebuild has switched over, and the
    /// document of the rebuild with it.
    ///
    /// # Errors
    /// Any [`StoreError`]; running it again goes on where it stopped.
    pub(crate) async fn clean_up_rebuild(
        &self,
        rebuilding: &RebuildState,
    ) -> Result<(), StoreError> {
        if !self.save_rebuild(rebuilding).await? {
            return Ok(());
        }
        if let Some(tenant) = rebuilding.tenant()? {
            self.remove_tenant(&tenant, rebuilding.before).await?;
        }
        self.remove_rebuild(rebuilding).await
    }

    /// Removes the document of the rebuild, and the collections of all generations up to
    /// its own that nothing is read from. Before the switch, that gives the rebuild up.
    ///
    /// # Errors
    /// Any [`StoreError`]; running it again goes on where it stopped.
    pub(crate) async fn remove_rebuild(&self, rebuilding: &RebuildState) -> Result<(), StoreError> {
        let used = self.latest_generations().await?.in_use();
        for found in self.database().list_collection_names().await? {
            // Later ones may be of a rebuild that somebody else has begun.
            let unused = generation_of(&found).is_some_and(|generation| {
                generation <= rebuilding.generation && !used.contains(&generation)
            });
            if unused {
                let unused = self.database().collection::<Document>(&found);
                unused.drop().await?;
            }
        }
        let ours = REBUILD.held_by(rebuilding.token);
        self.meta::<Document>().delete_one(ours).await?;
        Ok(())
    }

    /// Removes a tenant's documents from a generation that others go on using.
    async fn remove_tenant(&self, tenant: &TenantId, from: Generation) -> Result<(), StoreError> {
        if !self.latest_generations().await?.in_use().contains(&from) {
            return Ok(());
        }
        let all = doc! { id::ID: id::tenant(tenant).below() };
        for name in collection::COUNTED {
            let name = from.collection(name);
            let documents = self.database().collection::<Document>(&name);
            documents.delete_many(all.clone()).await?;
        }
        Ok(())
    }
}

/// Returns the generation that a collection belongs to, if it belongs to one.
fn generation_of(name: &str) -> Option<Generation> {
    collection::COUNTED.iter().find_map(|base| {
        let number = name.strip_prefix(base)?;
        match number.strip_prefix('_') {
            Some(number) => number.parse().ok().map(Generation::new),
            None => number.is_empty().then(Generation::default),
        }
    })
}

/// Returns the generation that a tenant, or all, are served from.
fn serving(generations: &Generations, tenant: Option<&TenantId>) -> Generation {
    match tenant {
        Some(tenant) => generations.of(tenant),
        None => generations.everyone(),
    }
}

#[derive(Deserialize)]
struct Numbered {
    latest: u32,
}

/// Who drives a rebuild, and for how many milliseconds they may yet be silent.
#[derive(Deserialize)]
struct Holder {
    by: String,
    left: f64,
}

/// The stage of an update that stores a rebuild as it is, but for the lease's end.
fn stored(rebuilding: &RebuildState) -> Result<Document, StoreError> {
    let document = match serialize_to_bson(rebuilding) {
        Ok(Bson::Document(document)) => document,
        Ok(other) => return Err(StoreError::Answer(format!("a rebuild encoded as {other}"))),
        Err(error) => return Err(StoreError::Driver(error.into())),
    };
    // No value of it is an expression, whatever a tenant is called.
    let fields = document.into_iter();
    let fields = fields.map(|(name, value)| (name, Bson::from(doc! { "$literal": value })));
    Ok(doc! { "$set": fields.collect::<Document>() })
}
