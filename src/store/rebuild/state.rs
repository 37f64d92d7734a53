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
use super::replay::Since;
use crate::event::TenantId;
use crate::store::documents::below;
use crate::store::lease::REBUILD;
use crate::store::schema::collection;
use crate::store::{Store, StoreError};

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Reading the journal as it was at the beginning.
    Replaying,
    /// Reading what was added since.
    Following,
    /// Readers see the new collections; the old ones are to go.
    Cleaning,
}

/// A rebuild that is ours to drive.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Rebuilding {
    token: ObjectId,
    /// Whose counters; `None`: everyone's.
    tenant: Option<String>,
    generation: Generation,
    /// What served before, while cleaning.
    before: Generation,
    phase: Phase,
    since: Timestamp,
    newest: DateTime,
    /// All that was written before it is replayed.
    read_to: Option<DateTime>,
    /// All before it is followed.
    followed_to: Option<ResumeToken>,
    replayed: i64,
    by: String,
    started_at: DateTime,
}

/// What came of asking for the rebuild.
#[derive(Debug)]
pub enum Claim {
    /// It is ours.
    Ours(Box<Rebuilding>),
    /// There is none.
    None,
    /// Somebody else drives it.
    Busy {
        /// Who.
        by: String,
        /// Seconds until it may be taken over, should they be dead.
        seconds: i64,
    },
}

impl Rebuilding {
    /// Whose counters; `None`: everyone's.
    ///
    /// # Errors
    /// When what is stored names no tenant.
    pub fn tenant(&self) -> Result<Option<TenantId>, StoreError> {
        let tenant = self.tenant.as_deref().map(TenantId::new).transpose();
        tenant.map_err(|error| {
            StoreError::Answer(format!("`{}` has a tenant with {error}", REBUILD.id))
        })
    }

    /// Into which generation.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// How far it is.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// When it began, in the life of the journal.
    pub fn since(&self) -> Since {
        Since {
            time: self.since,
            newest: self.newest,
        }
    }

    /// From where to read on.
    pub fn read_to(&self) -> Option<DateTime> {
        self.read_to
    }

    /// From where to follow on.
    pub fn followed_to(&self) -> Option<ResumeToken> {
        self.followed_to.clone()
    }

    /// Records replayed so far; some twice, after an interruption.
    pub fn replayed(&self) -> u64 {
        u64::try_from(self.replayed).unwrap_or(0)
    }

    /// Notes that records were replayed, by whichever way they were read.
    pub fn note_replayed(&mut self, records: u64) {
        self.replayed += i64::try_from(records).unwrap_or(i64::MAX);
    }

    /// Notes how far the journal was read.
    pub fn note_read(&mut self, to: DateTime) {
        self.read_to = Some(to);
    }

    /// Notes how far the journal was followed.
    pub fn note_followed(&mut self, to: Option<ResumeToken>) {
        self.phase = Phase::Following;
        self.followed_to = to.or(self.followed_to.take());
    }

    /// Notes that readers see it.
    pub fn note_switched(&mut self) {
        self.phase = Phase::Cleaning;
    }
}

impl Store {
    /// Takes over the rebuild that was begun and is nobody's.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub async fn claim_rebuild(&self, by: &str) -> Result<Claim, StoreError> {
        let token = ObjectId::new();
        let said = doc! { "$set": { "by": { "$literal": by } } };
        let take = vec![REBUILD.hand_to(token), said, REBUILD.extend()];
        let claimed = self
            .meta::<Rebuilding>()
            .find_one_and_update(REBUILD.free(), take)
            .return_document(ReturnDocument::After)
            .await?;
        if let Some(rebuilding) = claimed {
            return Ok(Claim::Ours(Box::new(rebuilding)));
        }
        let fields = doc! { "by": 1, "left": REBUILD.left_millis() };
        let found = self
            .meta::<Holder>()
            .find_one(doc! { "_id": REBUILD.id })
            .projection(fields)
            .await?;
        Ok(found.map_or(Claim::None, |theirs| Claim::Busy {
            seconds: theirs.left as i64 / 1_000 + 1,
            by: theirs.by,
        }))
    }

    /// Begins a rebuild: collections of a new generation, empty.
    ///
    /// # Errors
    /// Any [`StoreError`]; of class conflict when another one was begun.
    pub async fn begin_rebuild(
        &self,
        tenant: Option<&TenantId>,
        by: &str,
    ) -> Result<Rebuilding, StoreError> {
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
        let Since { time, newest } = self.journal_now().await?;
        let rebuilding = Rebuilding {
            token: ObjectId::new(),
            tenant: tenant.map(ToString::to_string),
            generation,
            before: generation,
            phase: Phase::Replaying,
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

    /// Notes how far it is, and renews the lease. `false` when it is no longer
    /// ours: then it is to be left alone.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub async fn save_rebuild(&self, rebuilding: &Rebuilding) -> Result<bool, StoreError> {
        let ours = REBUILD.held_by(rebuilding.token);
        let change = vec![stored(rebuilding)?, REBUILD.extend()];
        let changed = self.meta::<Document>().update_one(ours, change).await?;
        Ok(changed.matched_count == 1)
    }

    /// Lets somebody else go on with it at once.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub async fn release_rebuild(&self, rebuilding: &Rebuilding) -> Result<(), StoreError> {
        let ours = REBUILD.held_by(rebuilding.token);
        let meta = self.meta::<Document>();
        meta.update_one(ours, REBUILD.end()).await?;
        Ok(())
    }

    /// Notes what served before, so that it is known what must go after the
    /// switch. Tells whether the switch has happened already.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub async fn note_before_switch(
        &self,
        rebuilding: &mut Rebuilding,
    ) -> Result<bool, StoreError> {
        let tenant = rebuilding.tenant()?;
        let serving = serving(&self.latest_generations().await?, tenant.as_ref());
        if serving == rebuilding.generation {
            return Ok(true);
        }
        rebuilding.before = serving;
        Ok(false)
    }

    /// Removes what no longer serves, once it has switched over, and the
    /// document with it.
    ///
    /// # Errors
    /// Any [`StoreError`]; running it again goes on where it stopped.
    pub async fn clean_up_rebuild(&self, rebuilding: &Rebuilding) -> Result<(), StoreError> {
        if !self.save_rebuild(rebuilding).await? {
            return Ok(());
        }
        if let Some(tenant) = rebuilding.tenant()? {
            self.remove_tenant(&tenant, rebuilding.before).await?;
        }
        self.forget_rebuild(rebuilding).await
    }

    /// Removes its document, and the collections of all generations up to its
    /// own that nothing is read from. Before the switch that gives it up.
    ///
    /// # Errors
    /// Any [`StoreError`]; running it again goes on where it stopped.
    pub async fn forget_rebuild(&self, rebuilding: &Rebuilding) -> Result<(), StoreError> {
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
        let all = doc! { "_id": below(doc! { "t": tenant.as_str() }) };
        for name in collection::COUNTED {
            let name = from.collection(name);
            let documents = self.database().collection::<Document>(&name);
            documents.delete_many(all.clone()).await?;
        }
        Ok(())
    }
}

/// The generation that a collection is of, if it is of one.
fn generation_of(name: &str) -> Option<Generation> {
    collection::COUNTED.iter().find_map(|base| {
        let number = name.strip_prefix(base)?;
        match number.strip_prefix('_') {
            Some(number) => number.parse().ok().map(Generation::new),
            None => number.is_empty().then(Generation::default),
        }
    })
}

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
fn stored(rebuilding: &Rebuilding) -> Result<Document, StoreError> {
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
