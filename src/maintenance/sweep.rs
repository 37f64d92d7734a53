//! Verifying many dialogs, one after the other, in the order of their keys;
//! then the messages that are of none, because their create is not known.

use std::collections::VecDeque;
use std::hash::{BuildHasher as _, RandomState};

use futures::stream::{BoxStream, StreamExt as _, TryStreamExt as _};
use serde::{Deserialize, Serialize};

use super::{Verified, Verifier};
use crate::derive::state::{DialogKey, MessageKey};
use crate::event::{DialogId, TenantId};
use crate::rate_limit::RateLimit;
use crate::store::StoreError;

/// The number of dialogs that are listed at a time.
const DIALOGS_PER_PAGE: usize = 1_000;

/// Which dialogs a sweep verifies, and how fast.
#[derive(Debug, Clone, Default)]
pub(crate) struct SweepScope {
    /// The tenant whose dialogs are verified; `None` means all tenants.
    pub(crate) tenant: Option<TenantId>,
    /// The one dialog of the tenant that is verified; `None` means all.
    pub(crate) dialog: Option<DialogId>,
    /// The share of dialogs to verify in percent, drawn anew in each sweep;
    /// `None` means all.
    pub(crate) sample: Option<f64>,
    /// The most dialogs that are verified in a second.
    pub(crate) rate: Option<u32>,
    /// The dialog after which to begin, in the order of keys.
    pub(crate) after: Option<DialogKey>,
}

/// What a sweep has found so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SweepTally {
    /// The number of dialogs that were recounted.
    pub(crate) dialogs: u64,
    /// The number of messages that were recounted.
    pub(crate) messages: u64,
    /// The number of dialogs with a counter that differed.
    pub(crate) differing_dialogs: u64,
    /// The number of counters that differed.
    pub(crate) differences: u64,
    /// The number of counters that differed and were repaired.
    pub(crate) repaired: u64,
}

/// What is verified in one go, as of one moment.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum SweepUnit {
    /// A dialog with all that is in it.
    Dialog(DialogKey),
    /// A message whose create is not known, and so of no dialog.
    Placeholder(MessageKey),
}

impl SweepUnit {
    /// Returns the tenant of it.
    pub(crate) fn tenant(&self) -> &TenantId {
        match self {
            SweepUnit::Dialog(key) => &key.tenant,
            SweepUnit::Placeholder(key) => &key.tenant,
        }
    }

    /// Returns the dialog, if it is known.
    pub(crate) fn dialog(&self) -> Option<&DialogId> {
        match self {
            SweepUnit::Dialog(key) => Some(&key.dialog),
            SweepUnit::Placeholder(_) => None,
        }
    }
}

/// A verification of many dialogs, one after the other.
pub(crate) struct Sweep {
    verifier: Verifier,
    scope: SweepScope,
    /// Dialogs that are listed, and not verified yet.
    ahead: VecDeque<DialogKey>,
    listed_all: bool,
    placeholders: Option<BoxStream<'static, Result<MessageKey, StoreError>>>,
    limit: Option<RateLimit>,
    draw: RandomState,
    tally: SweepTally,
    /// Dialogs that were passed, those that were not drawn included.
    passed: u64,
}

impl std::fmt::Debug for Sweep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("Sweep");
        shown
            .field("scope", &self.scope)
            .field("tally", &self.tally);
        shown.finish_non_exhaustive()
    }
}

impl Sweep {
    /// Makes a sweep that has not begun.
    pub(crate) fn new(verifier: Verifier, scope: SweepScope) -> Self {
        let rate = scope.rate.map(|rate| f64::from(rate.max(1)));
        let mut ahead = VecDeque::new();
        if let (Some(tenant), Some(dialog)) = (&scope.tenant, &scope.dialog) {
            ahead.push_back(DialogKey {
                tenant: tenant.clone(),
                dialog: dialog.clone(),
            });
        }
        Self {
            listed_all: !ahead.is_empty(),
            ahead,
            placeholders: None,
            verifier,
            scope,
            limit: rate.map(RateLimit::per_second),
            draw: RandomState::new(),
            tally: SweepTally::default(),
            passed: 0,
        }
    }

    /// Goes on from what an earlier sweep has found.
    pub(crate) fn counting_from(mut self, tally: SweepTally) -> Self {
        self.tally = tally;
        self
    }

    /// Returns what was found so far.
    pub(crate) fn tally(&self) -> SweepTally {
        self.tally
    }

    /// Returns how many dialogs were passed, those that were not drawn
    /// included.
    pub(crate) fn passed(&self) -> u64 {
        self.passed
    }

    /// Verifies the next dialog or message; returns `None` at the end.
    ///
    /// # Errors
    /// Any [`StoreError`] that did not go away.
    pub(crate) async fn next(&mut self) -> Result<Option<(SweepUnit, Verified)>, StoreError> {
        loop {
            let Some(unit) = self.following().await? else {
                return Ok(None);
            };
            if !self.is_drawn(&unit) {
                continue;
            }
            if let Some(limit) = &mut self.limit {
                limit.wait_for(1).await;
            }
            let verified = match &unit {
                SweepUnit::Dialog(key) => Some(self.verifier.dialog(key).await?),
                SweepUnit::Placeholder(key) => self.verifier.placeholder(key).await?,
            };
            if let Some(verified) = verified {
                self.count(&unit, &verified);
                return Ok(Some((unit, verified)));
            }
        }
    }

    async fn following(&mut self) -> Result<Option<SweepUnit>, StoreError> {
        loop {
            if let Some(key) = self.ahead.pop_front() {
                self.passed += 1;
                return Ok(Some(SweepUnit::Dialog(key)));
            }
            if !self.listed_all {
                self.list().await?;
                continue;
            }
            if self.scope.dialog.is_some() {
                return Ok(None);
            }
            let placeholders = match &mut self.placeholders {
                Some(placeholders) => placeholders,
                None => {
                    let found = self.verifier.store();
                    let found = found.placeholders(self.scope.tenant.as_ref()).await?;
                    self.placeholders.insert(found.boxed())
                }
            };
            return Ok(placeholders.try_next().await?.map(SweepUnit::Placeholder));
        }
    }

    async fn list(&mut self) -> Result<(), StoreError> {
        let SweepScope { tenant, after, .. } = &self.scope;
        let store = self.verifier.store();
        let page = store
            .dialogs_after(tenant.as_ref(), after.as_ref(), DIALOGS_PER_PAGE)
            .await?;
        self.listed_all = page.is_empty();
        self.scope.after = page.last().cloned().or(self.scope.after.take());
        self.ahead.extend(page);
        Ok(())
    }

    fn is_drawn(&self, unit: &SweepUnit) -> bool {
        let chance = self.draw.hash_one(unit) as f64 / u64::MAX as f64;
        self.scope
            .sample
            .is_none_or(|percent| chance * 100.0 < percent)
    }

    fn count(&mut self, unit: &SweepUnit, verified: &Verified) {
        let differences = verified.differences.len() as u64;
        let dialog = u64::from(unit.dialog().is_some());
        let tally = &mut self.tally;
        tally.dialogs += dialog;
        tally.messages += verified.messages;
        tally.differing_dialogs += dialog * u64::from(differences > 0);
        tally.differences += differences;
        tally.repaired += if verified.repaired { differences } else { 0 };
    }
}
