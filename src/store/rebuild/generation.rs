//! Which collections hold a tenant's documents.
//!
//! A rebuild writes all counters and facts anew, into collections of a new
//! **generation** beside those that are served, and switches over by changing
//! one document, `generations` in `meta`. Readers read it in the snapshot that
//! they answer from; writers know it from their [enrolment](super::fence).
//! The journal has no generations: it is what each of them is made from.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use mongodb::bson::doc;
use serde::{Deserialize, Serialize};

use crate::event::TenantId;
use crate::store::documents::collection;
use crate::store::{Store, StoreError};

/// The `_id` of the document in `meta`.
pub(in crate::store) const GENERATIONS: &str = "generations";

/// The number of the rules that this program counts by. Facts that were recorded by lower ones
/// go on being kept as they are, until a rebuild of all tenants counts the
/// journal anew. 2 orders adds by when the membership was made, keeps read-until
/// times from being later than their events, and has the best of several creates
/// of a message count.
pub(crate) const RULES: i32 = 2;

/// The number of versions that a dialog can have between two rebuilds. It would need as
/// many events to reach those of the next generation.
pub(crate) const VERSIONS_PER_GENERATION: i64 = 1 << 32;

/// One set of the collections that hold counters and facts.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub(crate) struct Generation(u32);

impl Generation {
    /// Returns the generation with this number; 0 is the first.
    pub(crate) fn new(number: u32) -> Self {
        Self(number)
    }

    /// Returns the number of the generation.
    pub(crate) fn number(self) -> u32 {
        self.0
    }

    /// Returns the name of a collection in this generation. Those of the first have their
    /// plain names, and so have those that are not [`collection::COUNTED`].
    pub(crate) fn collection(self, name: &'static str) -> Cow<'static, str> {
        match self.0 {
            0 => Cow::Borrowed(name),
            _ if !collection::COUNTED.contains(&name) => Cow::Borrowed(name),
            number => Cow::Owned(format!("{name}_{number}")),
        }
    }

    /// Returns the version that its dialogs begin after, so that no version is lower than
    /// one that clients saw in an earlier generation.
    pub(crate) fn versions_after(self) -> i64 {
        i64::from(self.0) * VERSIONS_PER_GENERATION
    }
}

/// The generation of each tenant, as of one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Generations {
    /// A number that rises with every change that writers must not miss.
    pub(crate) epoch: i64,
    everyone: Generation,
    tenants: BTreeMap<TenantId, Generation>,
}

impl Generations {
    /// Has all tenants in one generation.
    pub(crate) fn only(generation: Generation) -> Self {
        Self {
            everyone: generation,
            ..Self::default()
        }
    }

    /// Returns the generation that a tenant's documents are in.
    pub(crate) fn of(&self, tenant: &TenantId) -> Generation {
        self.tenants.get(tenant).copied().unwrap_or(self.everyone)
    }

    /// Returns the generation of all tenants that were not rebuilt by themselves.
    pub(crate) fn everyone(&self) -> Generation {
        self.everyone
    }

    /// Returns the tenants that were rebuilt by themselves since all were last, each with
    /// its generation.
    pub(crate) fn by_themselves(&self) -> impl Iterator<Item = (&TenantId, Generation)> {
        self.tenants.iter().map(|(tenant, g)| (tenant, *g))
    }

    /// Returns all generations that anything is read from.
    pub(crate) fn in_use(&self) -> BTreeSet<Generation> {
        let tenants = self.tenants.values().copied();
        tenants.chain([self.everyone]).collect()
    }
}

/// The document, as far as it tells where things are. One that does not exist
/// says that nothing was ever rebuilt.
#[derive(Debug, Default, Deserialize)]
pub(in crate::store) struct GenerationsDocument {
    #[serde(default)]
    epoch: i64,
    #[serde(default)]
    everyone: Generation,
    #[serde(default)]
    tenants: Vec<TenantDocument>,
}

#[derive(Debug, Deserialize)]
struct TenantDocument {
    t: String,
    g: Generation,
}

impl TryFrom<GenerationsDocument> for Generations {
    type Error = StoreError;

    fn try_from(stored: GenerationsDocument) -> Result<Self, StoreError> {
        let tenants = stored.tenants.into_iter().map(|tenant| {
            let id = TenantId::new(&tenant.t).map_err(|error| {
                StoreError::Answer(format!("`{GENERATIONS}` has a tenant with {error}"))
            })?;
            Ok((id, tenant.g))
        });
        Ok(Self {
            epoch: stored.epoch,
            everyone: stored.everyone,
            tenants: tenants.collect::<Result<_, StoreError>>()?,
        })
    }
}

impl Store {
    /// Reads the generations as they are now.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub(crate) async fn generations(&self) -> Result<Generations, StoreError> {
        let meta = self
            .database()
            .collection::<GenerationsDocument>(collection::META);
        let found = meta.find_one(doc! { "_id": GENERATIONS }).await?;
        found.unwrap_or_default().try_into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generation_has_collections_and_versions_of_its_own() {
        let (first, second) = (Generation::new(0), Generation::new(2));
        assert_eq!(first.collection(collection::DIALOGS), "dialogs");
        assert_eq!(second.collection(collection::DIALOGS), "dialogs_2");
        assert_eq!(second.collection(collection::JOURNAL), "journal");
        assert_eq!(first.versions_after(), 0);
        assert!(Generation::new(1).versions_after() < second.versions_after());
    }

    #[test]
    fn a_tenant_is_where_it_was_rebuilt_last() {
        let tenant = |id| TenantId::new(id).unwrap();
        let generations = Generations {
            epoch: 3,
            everyone: Generation::new(1),
            tenants: [(tenant("a"), Generation::new(4))].into(),
        };
        assert_eq!(generations.of(&tenant("a")), Generation::new(4));
        assert_eq!(generations.of(&tenant("b")), Generation::new(1));
        let used: Vec<u32> = generations.in_use().iter().map(|g| g.number()).collect();
        assert_eq!(used, [1, 4]);
    }
}
