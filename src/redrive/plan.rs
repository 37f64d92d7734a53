//! What a replay would do, without doing it.

use std::collections::BTreeMap;

use futures::{StreamExt as _, TryStreamExt as _, stream};

use super::{Redrive, RedriveError};
use crate::bus::dead_letters::republish::{self, RepublishError};
use crate::bus::dead_letters::scan;
use crate::deadletter::{Failure, Filter, Reason, cause};
use crate::event::Event;
use crate::event::decode::Decoded;
use crate::forecast::{Forecast, ForecastLimits, Forecaster, Prospect};
use crate::store::StoreError;
use crate::store::dead_letters::{FailedLetter, JobId, LetterEntry, StoredLetter};

/// The most letters that cannot be sent which are listed.
const MAX_UNSENDABLE_LISTED: usize = 100;
/// The number of events that are handed to the forecast together.
const FORECAST_BATCH: usize = 1_000;

/// What a replay would do if it were begun now.
#[derive(Debug, Default)]
pub struct ReplayPlan {
    /// The number of letters selected.
    pub selected: u64,
    /// The number of letters that are no counter events.
    pub ignored: u64,
    /// The letters that would come back, by cause, the most frequent first.
    pub failures: Vec<FailureGroup>,
    /// The number of letters that cannot be sent, and would stay in the queue.
    pub unsendable: u64,
    /// The first of the letters that cannot be sent, and why.
    pub unsendable_letters: Vec<FailedLetter>,
    /// The number of letters that were not examined: the body is too large for the index, or
    /// may be what ends the process.
    pub not_examined: u64,
    /// What the other letters would change.
    pub forecast: Forecast,
}

/// Letters that would fail again for the same cause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailureGroup {
    /// The class of the failure.
    pub reason: Reason,
    /// The error without what differs from letter to letter.
    pub cause: String,
    /// The number of letters.
    pub count: u64,
}

impl ReplayPlan {
    /// Notes a letter that cannot be sent.
    fn add_unsendable(&mut self, entry: &LetterEntry, why: &RepublishError) {
        self.unsendable += entry.copies.max(1);
        if self.unsendable_letters.len() < MAX_UNSENDABLE_LISTED {
            self.unsendable_letters.push(FailedLetter {
                letter: entry.id.clone(),
                cause: why.to_string(),
            });
        }
    }
}

/// The failures of a plan by reason and cause.
#[derive(Default)]
struct ByCause(BTreeMap<(&'static str, String), FailureGroup>);

impl ByCause {
    fn add(&mut self, failure: &Failure) {
        let reason = failure.reason;
        let cause = cause(&failure.error);
        let same = self.0.entry((reason.as_str(), cause.clone()));
        let same = same.or_insert(FailureGroup {
            reason,
            cause,
            count: 0,
        });
        same.count += 1;
    }

    fn add_refused(&mut self, prospects: &[Prospect]) {
        for prospect in prospects {
            if let Prospect::Refused(refusal) = prospect {
                self.add(&(*refusal).into());
            }
        }
    }
}

impl Redrive {
    /// What a replay of these letters would do now. Writes nothing, and touches
    /// no letter.
    ///
    /// # Errors
    /// [`RedriveError`].
    pub(crate) async fn plan(&self, filter: &Filter) -> Result<ReplayPlan, RedriveError> {
        let mut plan = ReplayPlan::default();
        let mut failures = ByCause::default();
        let mut forecaster = Forecaster::begin(&self.store, ForecastLimits::default()).await?;
        // Without an answer, as large as is asked for.
        let frame_max = match self.queue_depth.query().await {
            Ok(depth) => depth.frame_max,
            Err(_) => republish::requested_frame_max(&self.bus).await,
        };
        let job = JobId::unique();
        let together = (FORECAST_BATCH, scan::batch_bytes(&self.bus));
        let letters = self.store.read_letters(filter, together).await?;
        let letters = letters.map_ok(|some| stream::iter(some).map(Ok::<_, StoreError>));
        let mut letters = std::pin::pin!(letters.try_flatten());
        let mut events: Vec<Event> = Vec::with_capacity(FORECAST_BATCH);
        let mut copies = 0;
        while let Some(kept) = letters.try_next().await? {
            plan.selected += kept.entry.copies.max(1);
            let StoredLetter {
                entry, properties, ..
            } = &kept;
            let sendable =
                republish::check_replayable(&entry.details, properties, job.as_str(), frame_max);
            if let Err(unsent) = sendable {
                plan.add_unsendable(entry, &unsent);
                continue;
            }
            // Copies are sent once.
            copies += kept.entry.copies.saturating_sub(1);
            // What may be what ends the process is not opened here.
            let ends_processes = kept.entry.details.reason == Some(Reason::DeliveryLimit);
            let Some(body) = kept.body.filter(|_| !ends_processes) else {
                plan.not_examined += 1;
                continue;
            };
            match self.decoder.decode(&body) {
                Ok(Decoded::Event(event, _)) => events.push(event),
                Ok(Decoded::Ignored { .. }) => plan.ignored += 1,
                Err(error) => failures.add(&error.into()),
            }
            if events.len() == FORECAST_BATCH {
                failures.add_refused(&forecaster.add(&events).await?);
                events.clear();
            }
        }
        failures.add_refused(&forecaster.add(&events).await?);
        plan.forecast = forecaster.finish().await?;
        plan.forecast.duplicates += copies;
        plan.failures = failures.0.into_values().collect();
        plan.failures
            .sort_by_key(|failures| std::cmp::Reverse(failures.count));
        Ok(plan)
    }
}
