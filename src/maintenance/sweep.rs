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

/// Dialogs listed at a time.
const PAGE: usize = 1_000;

/// Which dialogs, and how fast.
#[derive(Debug, Clone, Default)]
pub struct SweepScope {
    /// Only this tenant.
    pub tenant: Option<TenantId>,
    /// Only this dialog of it.
    pub dialog: Option<DialogId>,
    /// So many percent of the dialogs, drawn anew.
    pub sample: Option<f64>,
    /// Dialogs a second at most.
    pub rate: Option<u32>,
    /// To go on after this one.
    pub after: Option<DialogKey>,
}

/// What came of a sweep so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SweepTally {
    /// Dialogs recounted.
    pub dialogs: u64,
    /// Messages recounted.
    pub messages: u64,
    /// Dialogs with a counter that differed.
    pub differing_dialogs: u64,
    /// Counters that differed.
    pub differences: u64,
    /// Those that no longer do.
    pub repaired: u64,
}

/// What is verified at once.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SweepUnit {
    /// A dialog with all that is in it.
    Dialog(DialogKey),
    /// A message whose create is not known.
    Placeholder(MessageKey),
}

impl SweepUnit {
    /// Whose it is.
    pub fn tenant(&self) -> &TenantId {
        match self {
            SweepUnit::Dialog(key) => &key.tenant,
            SweepUnit::Placeholder(key) => &key.tenant,
        }
    }

    /// The dialog, if it is known.
    pub fn dialog(&self) -> Option<&DialogId> {
        match self {
            SweepUnit::Dialog(key) => Some(&key.dialog),
            SweepUnit::Placeholder(_) => None,
        }
    }
}

/// A sweep under way.
pub struct Sweep {
    verifier: Verifier,
    scope: SweepScope,
    /// Listed, and not looked at yet.
    ahead: VecDeque<DialogKey>,
    listed_all: bool,
    placeholders: Option<BoxStream<'static, Result<MessageKey, StoreError>>>,
    limit: Option<RateLimit>,
    draw: RandomState,
    tally: SweepTally,
    /// Dialogs passed, those not drawn included.
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
    /// A sweep that has not begun.
    pub fn new(verifier: Verifier, scope: SweepScope) -> Self {
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

    /// Goes on from an earlier one.
    pub fn counting_from(mut self, tally: SweepTally) -> Self {
        self.tally = tally;
        self
    }

    /// What came of it so far.
    pub fn tally(&self) -> SweepTally {
        self.tally
    }

    /// Dialogs passed, those not drawn included.
    pub fn passed(&self) -> u64 {
        self.passed
    }

    /// Verifies the next one; `None` at the end.
    ///
    /// # Errors
    /// Any [`StoreError`] that did not go away.
    pub async fn next(&mut self) -> Result<Option<(SweepUnit, Verified)>, StoreError> {
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
            .dialogs_after(tenant.as_ref(), after.as_ref(), PAGE)
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
