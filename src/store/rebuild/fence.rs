//! Keeping writers out while a rebuild switches over.
//!
//! A writer **enrols** before it writes: it leaves a document in `writers` with
//! the epoch that it found, and each of its transactions changes that document
//! only if the epoch still stands there. So a **fence** needs no agreement with
//! anyone: it takes the epoch out of every such document. Once that is done no
//! transaction of an earlier enrolment is under way, and none will commit.
//!
//! Every step is one write that expects what it found. A fence has an end:
//! whoever set it may die, and a writer that finds it past its end lifts it.
//! Setting it, lifting it and enrolling all change the document `generations`,
//! so that each sees the one before it, whatever the clocks say.

use std::sync::Arc;
use std::time::Duration;

use mongodb::ClientSession;
use mongodb::bson::oid::ObjectId;
use mongodb::bson::{DateTime, Document, RawDocumentBuf, doc, rawdoc};
use mongodb::options::ReturnDocument;

use super::generation::{GENERATIONS, Generation, Generations, GenerationsDocument, RULES};
use crate::event::TenantId;
use crate::store::documents::collection;
use crate::store::transaction::Transaction;
use crate::store::{Store, StoreError};

/// The epoch in the documents of writers that must enrol anew. No other is below 0.
const FENCED_EPOCH: i64 = -1;
/// How long each attempt to fence off all writers may take: a little longer than a
/// transaction of a dead process is left alone, which is ended between attempts.
const FENCING_TIMEOUT: Duration = Duration::from_millis(3_500);
/// The number of attempts to fence off all writers; the fence has an end itself.
const FENCING_ATTEMPTS: u32 = 3;

/// The name of a writer, which is that of its enrolment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct WriterId(ObjectId);

impl WriterId {
    /// Makes a name that no other writer has.
    pub(crate) fn unique() -> Self {
        Self(ObjectId::new())
    }

    /// Returns the writer whose document has this `_id`.
    pub(in crate::store) fn of(id: ObjectId) -> Self {
        Self(id)
    }

    /// Returns the `_id` of the writer's document.
    pub(in crate::store) fn id(self) -> ObjectId {
        self.0
    }

    /// Returns the writer whose name is displayed like this; `None` if none is.
    pub(crate) fn parse(spelled: &str) -> Option<Self> {
        ObjectId::parse_str(spelled).ok().map(Self)
    }
}

impl std::fmt::Display for WriterId {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.0.to_hex())
    }
}

/// A writer's permission to write, until a rebuild switches over.
#[derive(Debug, Clone)]
pub(crate) struct Enrolment {
    writer: WriterId,
    generations: Arc<Generations>,
    /// The number of transactions that the writer has committed.
    commits: i64,
}

impl Enrolment {
    /// Returns the generations that the writer writes to.
    pub(crate) fn generations(&self) -> &Arc<Generations> {
        &self.generations
    }

    /// Returns the writer that is enrolled.
    pub(crate) fn writer(&self) -> WriterId {
        self.writer
    }

    /// Returns the number of the transaction that comes next.
    pub(in crate::store) fn next(&self) -> i64 {
        self.commits + 1
    }

    /// Records that the transaction that came next is committed.
    pub(in crate::store) fn count(&mut self) {
        self.commits += 1;
    }

    /// Returns the update statement on the writer's document that makes a transaction fail
    /// once the writer is fenced off, and that gives it its number. It must be the first:
    /// what the others were derived from may be of no use.
    pub(in crate::store) fn proof(&self) -> RawDocumentBuf {
        let filter = rawdoc! {
            "_id": self.writer.0,
            "epoch": self.generations.epoch,
            "commits": self.commits,
        };
        let change = rawdoc! { "$set": { "at": DateTime::now(), "commits": self.next() } };
        rawdoc! { "q": filter, "u": change }
    }
}

/// A fence that was set, behind which a rebuild switches over, or which is lifted.
#[derive(Debug)]
pub(crate) struct Fence {
    token: ObjectId,
}

impl Store {
    /// Enrols a writer, whose transactions must not overlap. To be done anew
    /// after it was fenced off, and after a commit whose outcome is not known:
    /// it is another writer then, so that numbers never begin again.
    ///
    /// # Errors
    /// [`StoreError::SwitchingOver`] behind a fence; any other of class
    /// conflict when others enrol as well.
    pub(crate) async fn enrol(&self) -> Result<Enrolment, StoreError> {
        self.run_transaction(&Enrolling).await
    }

    /// Removes the writers that have not written for so long: most are gone, the others
    /// enrol anew. `generations` counts it, in the same transaction: so
    /// whoever follows commits knows that one who is not there any more was
    /// removed, and is not just not shown by a primary that is behind.
    ///
    /// # Errors
    /// Any [`StoreError`]; of class conflict when others enrol meanwhile.
    pub(in crate::store) async fn remove_writers(
        &self,
        silent: Duration,
    ) -> Result<(), StoreError> {
        let millis = i64::try_from(silent.as_millis()).unwrap_or(i64::MAX);
        let latest = DateTime::now().timestamp_millis().saturating_sub(millis);
        let gone = doc! { "at": { "$lt": DateTime::from_millis(latest) } };
        let writers = self.database().collection::<Document>(collection::WRITERS);
        if writers.find_one(gone.clone()).await?.is_none() {
            return Ok(());
        }
        self.run_transaction(&RemovingWriters { gone }).await
    }

    /// Keeps all writers out for at most so long. When it returns, all that
    /// they have written is committed.
    ///
    /// # Errors
    /// Any [`StoreError`]; the fence may have been set then, and ends by itself.
    pub(crate) async fn fence(&self, length: Duration) -> Result<Fence, StoreError> {
        let token = ObjectId::new();
        let now = DateTime::now();
        let millis = i64::try_from(length.as_millis()).unwrap_or(i64::MAX);
        let until = DateTime::from_millis(now.timestamp_millis().saturating_add(millis));
        let free = doc! {
            "_id": GENERATIONS,
            "$or": [{ "fence": null }, { "fence.until": { "$lt": now } }],
        };
        let set = doc! { "$set": { "fence": { "token": token, "until": until } } };
        let found = self
            .meta::<GenerationsDocument>()
            .find_one_and_update(free, set)
            .await?;
        let epoch = match found {
            Some(found) => Generations::try_from(found)?.epoch,
            None => return Err(StoreError::SwitchingOver),
        };
        self.fence_off(epoch).await?;
        Ok(Fence { token })
    }

    /// Takes the epoch out of all writers' documents. Outside a transaction, so
    /// that each change waits for the transaction that has just proved itself.
    /// Only a reply without any error says that it reached all of them: a read
    /// might come from a new primary that does not show the latest yet.
    async fn fence_off(&self, epoch: i64) -> Result<(), StoreError> {
        let change = doc! {
            "update": collection::WRITERS,
            "updates": [{
                "q": { "epoch": { "$gt": FENCED_EPOCH, "$lte": epoch } },
                "u": { "$set": { "epoch": FENCED_EPOCH } },
                "multi": true,
            }],
            "writeConcern": { "w": "majority", "j": true },
            "maxTimeMS": i64::try_from(FENCING_TIMEOUT.as_millis()).unwrap_or(i64::MAX),
        };
        let mut attempt = 1;
        loop {
            let reply = self.database().run_command(change.clone()).await;
            let failed = |reply: &Document| {
                reply.contains_key("writeErrors") || reply.contains_key("writeConcernError")
            };
            if reply.as_ref().is_ok_and(|reply| !failed(reply)) {
                return Ok(());
            }
            if attempt == FENCING_ATTEMPTS {
                reply?;
                return Err(StoreError::SwitchingOver);
            }
            attempt += 1;
            // Somebody holds a document: not for long, unless they are dead.
            self.end_stale_transactions().await?;
        }
    }

    /// Has another generation served, for one tenant or for all, and ends the fence: the
    /// one moment at which readers go over to it. Returns `false` when the fence had ended
    /// before, and nothing was changed.
    ///
    /// # Errors
    /// Any [`StoreError`]; look at [`Store::generations`] whether it happened.
    pub(crate) async fn switch_over(
        &self,
        fence: &Fence,
        tenant: Option<&TenantId>,
        to: Generation,
    ) -> Result<bool, StoreError> {
        let number = i64::from(to.number());
        let mut set = Document::new();
        match tenant {
            // A pipeline, for a tenant may be there already.
            Some(tenant) => {
                let others = doc! { "$filter": {
                    "input": { "$ifNull": ["$tenants", []] },
                    "cond": { "$ne": ["$$this.t", { "$literal": tenant.as_str() }] },
                } };
                let this = doc! { "t": { "$literal": tenant.as_str() }, "g": number };
                set.insert("tenants", doc! { "$concatArrays": [others, [this]] });
            }
            None => {
                set.insert("everyone", number);
                set.insert("tenants", doc! { "$literal": [] });
                // All of the journal was counted by this program.
                set.insert("rules", RULES);
            }
        }
        set.insert("epoch", doc! { "$add": ["$epoch", 1_i64] });
        let change = vec![doc! { "$set": set }, doc! { "$unset": "fence" }];
        let standing = doc! {
            "_id": GENERATIONS,
            "fence.token": fence.token,
            "fence.until": { "$gt": DateTime::now() },
        };
        let changed = self.meta::<Document>().update_one(standing, change).await?;
        Ok(changed.matched_count == 1)
    }

    /// Lets writers in again, and changes nothing else.
    ///
    /// # Errors
    /// Any [`StoreError`]; the fence ends by itself.
    pub(crate) async fn lift(&self, fence: Fence) -> Result<(), StoreError> {
        let standing = doc! { "_id": GENERATIONS, "fence.token": fence.token };
        let change = doc! { "$unset": { "fence": "" }, "$inc": { "epoch": 1_i64 } };
        self.meta::<Document>().update_one(standing, change).await?;
        Ok(())
    }

    /// Returns the generations as they are, by a write: a read from a new primary may not
    /// show the latest yet.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub(in crate::store) async fn latest_generations(&self) -> Result<Generations, StoreError> {
        let found = self
            .meta::<GenerationsDocument>()
            .find_one_and_update(
                doc! { "_id": GENERATIONS },
                doc! { "$inc": { "enrolled": 1_i64 } },
            )
            .return_document(ReturnDocument::After)
            .await?;
        found.unwrap_or_default().try_into()
    }
}

/// The transaction that enrols a writer.
struct Enrolling;

impl Transaction for Enrolling {
    type Output = Enrolment;

    fn name(&self) -> &'static str {
        "enrol"
    }

    async fn run(
        &self,
        store: &Store,
        session: &mut ClientSession,
    ) -> Result<Enrolment, StoreError> {
        let generations = Generations::try_from(enter(store, session).await?)?;
        let writer = WriterId::unique();
        let writers = store.database().collection(collection::WRITERS);
        writers
            .insert_one(doc! {
                "_id": writer.0,
                "epoch": generations.epoch,
                "commits": 0_i64,
                "at": DateTime::now(),
            })
            .session(session)
            .await?;
        Ok(Enrolment {
            writer,
            generations: Arc::new(generations),
            commits: 0,
        })
    }
}

/// Notes in `generations` that a writer enrols, and lifts a fence that is past its
/// end.
async fn enter(
    store: &Store,
    session: &mut ClientSession,
) -> Result<GenerationsDocument, StoreError> {
    let open = doc! { "_id": GENERATIONS, "fence": null };
    let enter = doc! { "$inc": { "enrolled": 1_i64 } };
    let over = doc! { "_id": GENERATIONS, "fence.until": { "$lt": DateTime::now() } };
    let lift = doc! { "$inc": { "enrolled": 1_i64, "epoch": 1_i64 }, "$unset": { "fence": "" } };
    for (filter, change) in [(open, enter), (over, lift)] {
        let changed = store
            .meta::<GenerationsDocument>()
            .find_one_and_update(filter, change)
            .return_document(ReturnDocument::After)
            .session(&mut *session)
            .await?;
        if let Some(found) = changed {
            return Ok(found);
        }
    }
    Err(StoreError::SwitchingOver)
}

/// The transaction that removes silent writers, and counts that it did.
struct RemovingWriters {
    /// The filter that finds them.
    gone: Document,
}

impl Transaction for RemovingWriters {
    type Output = ();

    fn name(&self) -> &'static str {
        "remove_writers"
    }

    async fn run(&self, store: &Store, session: &mut ClientSession) -> Result<(), StoreError> {
        let writers = store.database().collection::<Document>(collection::WRITERS);
        let gone = writers.delete_many(self.gone.clone());
        gone.session(&mut *session).await?;
        let counted = doc! { "$inc": { "removed": 1_i64 } };
        let meta = store.meta::<Document>();
        let counted = meta.update_one(doc! { "_id": GENERATIONS }, counted);
        counted.session(session).await?;
        Ok(())
    }
}
