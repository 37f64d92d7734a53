//! How far back the journal reaches for a dialog: what is replayed has no gap.

use mongodb::bson::{Document, doc};

use super::super::ReadError;
use super::super::snapshot::Scan;
use super::Reading;
use super::effects::{self, Names};
use crate::event::DialogId;
use crate::history::DialogRecord;
use crate::store::documents::{collection, id, journal};
use crate::store::rebuild::generation::VERSIONS_PER_GENERATION;

/// Versions of a dialog from between two rebuilds.
struct Stretch {
    /// None of them is as low.
    start: i64,
    first: i64,
    last: i64,
    /// Records with them.
    count: i64,
}

/// Records of a dialog without a gap, up to its latest version.
pub(super) struct Records {
    /// Whether they reach back to the dialog's first event.
    pub(super) complete: bool,
    pub(super) records: Vec<DialogRecord>,
}

impl Reading<'_> {
    /// The records that lead to the dialog's version without a gap, as far as
    /// the filter takes them.
    pub(super) async fn records(
        &mut self,
        dialog: &DialogId,
        version: i64,
        mut filter: Document,
    ) -> Result<Records, ReadError> {
        let first = self.first(dialog, version).await?;
        filter.insert(id::TENANT, self.tenant.as_str());
        filter.insert(journal::DIALOG, dialog.as_str());
        filter.insert(journal::VERSION, doc! { "$gte": first });
        let scan = Scan {
            collection: collection::JOURNAL,
            filter,
            fields: effects::APPLIED,
            sort: Some(journal::by_version()),
        };
        let (mut names, mut records) = (Names::default(), Vec::new());
        self.snapshot
            .scan(scan, &mut self.budget, |record| {
                records.push(names.applied(record)?);
                Ok(())
            })
            .await?;
        Ok(Records {
            complete: first == 1,
            records,
        })
    }

    /// The lowest version from which on there are records without a gap: the
    /// retention takes them one by one, and by the clocks of several replicas.
    ///
    /// A rebuild begins a stretch of versions of its own, and has no records
    /// itself. Between two stretches nothing can be missing: what is older goes
    /// first.
    async fn first(&mut self, dialog: &DialogId, version: i64) -> Result<i64, ReadError> {
        let mut first = version + 1;
        let mut below = i64::MAX;
        while let Some(stretch) = self.stretch(dialog, below).await? {
            below = stretch.start;
            let is_latest =
                stretch.start == version / VERSIONS_PER_GENERATION * VERSIONS_PER_GENERATION;
            if is_latest && stretch.last != version {
                return Ok(first);
            }
            if stretch.last - stretch.first + 1 != stretch.count {
                return self.unbroken(dialog, &stretch).await;
            }
            first = stretch.first;
        }
        Ok(first)
    }

    /// The latest stretch of versions below one.
    async fn stretch(
        &mut self,
        dialog: &DialogId,
        below: i64,
    ) -> Result<Option<Stretch>, ReadError> {
        let latest = self.versioned_below(dialog, below).await?;
        let Some(last) = latest else {
            return Ok(None);
        };
        let start = last / VERSIONS_PER_GENERATION * VERSIONS_PER_GENERATION;
        let extent = doc! { "$group": {
            "_id": null,
            "first": { "$min": "$version" },
            "count": { "$sum": 1_i64 },
        } };
        let pipeline = vec![self.between(dialog, start, last), extent];
        let extent = self
            .snapshot
            .aggregate(collection::JOURNAL, pipeline)
            .await?;
        Ok(extent.map(|extent| {
            let number = |name: &str| extent.get_i64(name).unwrap_or_default();
            Stretch {
                start,
                first: number("first"),
                last,
                count: number("count"),
            }
        }))
    }

    /// The highest version below one that has a record.
    async fn versioned_below(
        &mut self,
        dialog: &DialogId,
        below: i64,
    ) -> Result<Option<i64>, ReadError> {
        let pipeline = vec![
            self.between(dialog, 0, below - 1),
            doc! { "$sort": journal::latest_version_first() },
            doc! { "$limit": 1 },
            doc! { "$project": { journal::VERSION: 1 } },
        ];
        let found = self
            .snapshot
            .aggregate(collection::JOURNAL, pipeline)
            .await?;
        Ok(found.and_then(|found| found.get_i64(journal::VERSION).ok()))
    }

    /// Records with versions above the one, up to the other.
    fn between(&self, dialog: &DialogId, above: i64, to: i64) -> Document {
        doc! { "$match": {
            id::TENANT: self.tenant.as_str(),
            journal::DIALOG: dialog.as_str(),
            journal::VERSION: { "$gt": above, "$lte": to },
        } }
    }

    /// From the last one of a stretch down, versions fall as fast as numbers
    /// rise, until the first gap.
    async fn unbroken(&mut self, dialog: &DialogId, of: &Stretch) -> Result<i64, ReadError> {
        let unbroken = doc! { "$eq": [{ "$add": ["$version", "$n"] }, of.last + 1] };
        let pipeline = vec![
            self.between(dialog, of.start, of.last),
            doc! { "$setWindowFields": {
                "sortBy": { journal::VERSION: -1 },
                "output": { "n": { "$documentNumber": {} } },
            } },
            doc! { "$match": { "$expr": unbroken } },
            doc! { "$group": { "_id": null, "first": { "$min": "$version" } } },
        ];
        let found = self
            .snapshot
            .aggregate(collection::JOURNAL, pipeline)
            .await?;
        let first = found.and_then(|found| found.get_i64("first").ok());
        Ok(first.unwrap_or(of.last + 1))
    }
}
