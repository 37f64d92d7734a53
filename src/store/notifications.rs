//! How far notifications have come, in a document of `meta` that only whoever has
//! the lease on it writes: so it never goes back, whoever wakes up late.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mongodb::bson::oid::ObjectId;
use mongodb::bson::{Bson, Document, deserialize_from_document, doc};
use serde::Deserialize;

use super::commit_log::{Cut, Position};
use super::documents::collection;
use super::lease::{Lease, NOTIFICATIONS};
use super::read::PlaceInShares;
use super::rebuild::fence::WriterId;
use super::rebuild::generation::{Generations, GenerationsDocument};
use super::{Store, StoreError};
use crate::event::{DialogId, InvalidId, TenantId, UserId};

/// What is published: every commit up to the cut and, of the tenants that are to be told
/// of anew, the shares up to a place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct NotificationCursor {
    /// The last commit of each writer.
    pub(crate) cut: Cut,
    /// The generation that each tenant's documents were in.
    pub(crate) generations: Generations,
    /// How far the writers were that do not number their commits, in milliseconds since
    /// the epoch.
    pub(crate) unnumbered: BTreeMap<WriterId, i64>,
    /// How often writers had been removed.
    pub(crate) removed: i64,
    /// The tenants of which some changes are not known: all that they have is told.
    pub(crate) anew: BTreeMap<TenantId, TenantWalk>,
}

/// A walk through all shares of a tenant, in a circle: whatever changes on the way
/// has it go on until it is where it was then, and not begin anew.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct TenantWalk {
    /// The last share that was told; `None` at the beginning.
    after: Option<PlaceInShares>,
    /// Where it ends; `None` at the end of all shares.
    until: Option<PlaceInShares>,
    /// From the end of all shares it goes on at the beginning, until here.
    again: Option<PlaceInShares>,
}

impl TenantWalk {
    /// Returns the share after which the next ones begin; `None` for the first.
    pub(crate) fn after(&self) -> Option<&PlaceInShares> {
        self.after.as_ref()
    }

    /// Has everything told once more from now on.
    pub(crate) fn renew(&mut self) {
        self.until = None;
        self.again.clone_from(&self.after);
    }

    /// Records what was told, up to the share `last`; there are no more shares behind it if
    /// `is_end`. Returns `false` when the walk has ended.
    #[must_use]
    pub(crate) fn told(&mut self, last: Option<&PlaceInShares>, is_end: bool) -> bool {
        if let (Some(until), Some(last)) = (&self.until, last)
            && last >= until
        {
            return false;
        }
        if !is_end {
            self.after = last.cloned();
            return true;
        }
        self.after = None;
        self.until = self.again.take();
        self.until.is_some()
    }
}

impl NotificationCursor {
    /// Makes a cursor that stands at a position: what was before it is not published.
    pub(crate) fn at(position: &Position) -> Self {
        Self {
            cut: Cut::from(position),
            generations: position.generations.clone(),
            unnumbered: position.unnumbered.clone(),
            removed: position.removed,
            anew: BTreeMap::new(),
        }
    }

    /// Has all that a tenant has told once more from now on.
    pub(crate) fn tell_anew(&mut self, tenant: TenantId) {
        self.anew.entry(tenant).or_default().renew();
    }
}

/// A cursor as it was found in the database.
#[derive(Debug)]
pub(crate) struct SavedNotificationCursor {
    /// The cursor itself.
    pub(crate) cursor: NotificationCursor,
    /// How long ago the cursor had everything that was committed, by the server's clock.
    pub(crate) age: Duration,
}

#[derive(Debug, Deserialize)]
struct LeaseDocument {
    cursor: Option<CursorDocument>,
    age: Option<f64>,
}

#[derive(Debug, Deserialize)]
struct CursorDocument {
    writers: Vec<WriterDocument>,
    unnumbered: Vec<WriterDocument>,
    generations: GenerationsDocument,
    removed: i64,
    anew: Vec<WalkDocument>,
}

#[derive(Debug, Deserialize)]
struct WriterDocument {
    w: ObjectId,
    n: i64,
}

#[derive(Debug, Deserialize)]
struct WalkDocument {
    t: String,
    after: Option<PlaceDocument>,
    until: Option<PlaceDocument>,
    again: Option<PlaceDocument>,
}

#[derive(Debug, Deserialize)]
struct PlaceDocument {
    u: String,
    d: String,
}

impl TryFrom<CursorDocument> for NotificationCursor {
    type Error = StoreError;

    fn try_from(stored: CursorDocument) -> Result<Self, StoreError> {
        let numbers = |writers: Vec<WriterDocument>| {
            let writers = writers.into_iter();
            writers.map(|writer| (WriterId::of(writer.w), writer.n))
        };
        let anew = stored.anew.into_iter().map(|of| {
            let place = |at: PlaceDocument| -> Result<PlaceInShares, InvalidId> {
                Ok(PlaceInShares {
                    user: UserId::new(&at.u)?,
                    dialog: DialogId::new(&at.d)?,
                })
            };
            let walk = TenantWalk {
                after: of.after.map(place).transpose()?,
                until: of.until.map(place).transpose()?,
                again: of.again.map(place).transpose()?,
            };
            Ok((TenantId::new(&of.t)?, walk))
        });
        let anew: Result<_, InvalidId> = anew.collect();
        let malformed = |error: InvalidId| {
            StoreError::Answer(format!("the cursor of notifications has {error}"))
        };
        Ok(Self {
            cut: numbers(stored.writers).collect(),
            generations: stored.generations.try_into()?,
            unnumbered: numbers(stored.unnumbered).collect(),
            removed: stored.removed,
            anew: anew.map_err(malformed)?,
        })
    }
}

impl From<&NotificationCursor> for Document {
    fn from(cursor: &NotificationCursor) -> Self {
        let number = |(writer, n): (WriterId, i64)| doc! { "w": writer.id(), "n": n };
        let of_tenant = |(tenant, g): (&TenantId, super::rebuild::generation::Generation)| {
            doc! { "t": tenant.as_str(), "g": i64::from(g.number()) }
        };
        let anew = cursor.anew.iter().map(|(tenant, walk)| {
            let place = |at: &Option<PlaceInShares>| {
                let at = at.as_ref();
                at.map(|at| doc! { "u": at.user.as_str(), "d": at.dialog.as_str() })
            };
            doc! {
                "t": tenant.as_str(),
                "after": place(&walk.after),
                "until": place(&walk.until),
                "again": place(&walk.again),
            }
        });
        let unnumbered = cursor.unnumbered.iter().map(|(writer, n)| (*writer, *n));
        let generations = &cursor.generations;
        let tenants = generations.by_themselves().map(of_tenant);
        doc! {
            "writers": cursor.cut.iter().map(number).collect::<Vec<_>>(),
            "unnumbered": unnumbered.map(number).collect::<Vec<_>>(),
            "generations": {
                "epoch": generations.epoch,
                "everyone": i64::from(generations.everyone().number()),
                "tenants": tenants.collect::<Vec<_>>(),
            },
            "removed": cursor.removed,
            "anew": anew.collect::<Vec<_>>(),
        }
    }
}

impl Store {
    /// Takes the lease of whoever publishes notifications, if it is free.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub(crate) async fn notifier_lease(&self) -> Result<Option<Lease>, StoreError> {
        let lease = self.take_lease(NOTIFICATIONS, "publishing notifications");
        Ok(lease.await?.ok())
    }

    /// Returns how far notifications have come; `None` where none were ever published.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub(crate) async fn notification_cursor(
        &self,
    ) -> Result<Option<SavedNotificationCursor>, StoreError> {
        let age = doc! { "$subtract": ["$$NOW", "$as_of"] };
        let fields = doc! { "cursor": 1, "age": { "$toDouble": age } };
        let meta = self.meta::<Document>();
        let found = meta
            .find_one(doc! { "_id": NOTIFICATIONS.id })
            .projection(fields);
        let Some(found) = found.await? else {
            return Ok(None);
        };
        let found: LeaseDocument = deserialize_from_document(found)
            .map_err(|error| StoreError::Answer(format!("the cursor of notifications: {error}")))?;
        let Some(cursor) = found.cursor else {
            return Ok(None);
        };
        let millis = found.age.unwrap_or(f64::MAX).clamp(0.0, 1e15);
        Ok(Some(SavedNotificationCursor {
            cursor: cursor.try_into()?,
            age: Duration::from_millis(millis as u64),
        }))
    }

    /// Saves how far notifications have come, and how long ago that was everything that
    /// was committed. Returns `false`, and saves nothing, when somebody else has the lease
    /// by now.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub(crate) async fn save_notification_cursor(
        &self,
        lease: &Lease,
        cursor: &NotificationCursor,
        age: Duration,
    ) -> Result<bool, StoreError> {
        let literal = Bson::Document(doc! { "$literal": Document::from(cursor) });
        let age = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
        let as_of = doc! { "$subtract": ["$$NOW", age] };
        let save = doc! { "$set": { "cursor": literal, "as_of": as_of } };
        let meta = self.meta::<Document>();
        let saved = meta.update_one(lease.still_held(), vec![save]).await?;
        Ok(saved.matched_count == 1)
    }

    /// Returns all tenants that have memberships.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub(crate) async fn tenants(
        &self,
        generations: &Generations,
    ) -> Result<BTreeSet<TenantId>, StoreError> {
        let mut tenants = BTreeSet::new();
        for generation in generations.in_use() {
            let name = generation.collection(collection::MEMBERSHIPS);
            let shares = self.database().collection::<Document>(&name);
            let found = shares.distinct("_id.t", doc! {}).await?;
            let ids = found.iter().filter_map(Bson::as_str);
            let ids = ids.filter_map(|id| TenantId::new(id).ok());
            tenants.extend(ids.filter(|tenant| generations.of(tenant) == generation));
        }
        Ok(tenants)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_comes_back_as_it_was_saved() {
        let tenant = |id: &str| TenantId::new(id).unwrap();
        let place = PlaceInShares {
            user: UserId::new("$user.a").unwrap(),
            dialog: DialogId::new("d").unwrap(),
        };
        let generations =
            doc! { "epoch": 7_i64, "everyone": 2_i64, "tenants": [{ "t": "$t", "g": 3_i64 }] };
        let generations: GenerationsDocument = deserialize_from_document(generations).unwrap();
        let cursor = NotificationCursor {
            cut: Cut::from_iter([(WriterId::unique(), 3), (WriterId::unique(), 1)]),
            generations: generations.try_into().unwrap(),
            unnumbered: BTreeMap::from([(WriterId::unique(), 5)]),
            removed: 4,
            anew: BTreeMap::from([
                (
                    tenant("$t"),
                    TenantWalk {
                        after: Some(place.clone()),
                        until: None,
                        again: Some(place),
                    },
                ),
                (tenant("other"), TenantWalk::default()),
            ]),
        };
        let stored: CursorDocument = deserialize_from_document(Document::from(&cursor)).unwrap();
        assert_eq!(NotificationCursor::try_from(stored).unwrap(), cursor);
    }
    /// Whatever renews a walk, and however often, each share is told after the last
    /// time that it was.
    #[test]
    fn a_walk_ends_after_all_was_told_since_it_was_renewed() {
        let place = |n: usize| PlaceInShares {
            user: UserId::new(&format!("u{n:02}")).unwrap(),
            dialog: DialogId::new("d").unwrap(),
        };
        let shares: Vec<_> = (0..10).map(place).collect();
        for renewals in [&[][..], &[1], &[3], &[1, 2], &[2, 5, 6], &[4, 4, 7, 9]] {
            let (mut walk, mut untold) = (TenantWalk::default(), shares.clone());
            for page in 1.. {
                let from =
                    shares.partition_point(|at| walk.after().is_some_and(|after| at <= after));
                let told = &shares[from..shares.len().min(from + 3)];
                let is_end = told.len() < 3;
                untold.retain(|at| !told.contains(at));
                let goes_on = walk.told(told.last(), is_end);
                if renewals.contains(&page) && goes_on {
                    walk.renew();
                    untold.clone_from(&shares);
                }
                if !goes_on {
                    break;
                }
                assert!(page < 40, "{walk:?}");
            }
            assert_eq!(untold, [], "{renewals:?}");
        }
    }
}
