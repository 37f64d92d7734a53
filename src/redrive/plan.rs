//! What a replay would do, without doing it.

use std::collections::BTreeMap;

use futures::TryStreamExt as _;

use super::{Redrive, RedriveError};
use crate::deadletter::{Failure, Filter, Reason, cause};
use crate::event::Event;
use crate::event::decode::Decoded;
use crate::forecast::{Forecast, Forecaster, Limits, Prospect};

/// Events handed to the forecast together.
const CHUNK: usize = 1_000;

/// What a replay would do now.
#[derive(Debug, Default)]
pub struct Plan {
    /// Letters selected.
    pub selected: u64,
    /// Letters that are no counter events.
    pub ignored: u64,
    /// Letters that would come back.
    pub failures: Vec<Failures>,
    /// Letters that were not looked at: the body is too large for the index, or
    /// may be what ends the process.
    pub not_examined: u64,
    /// What the others would change.
    pub forecast: Forecast,
}

/// Letters that would fail again for the same cause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failures {
    /// The reason.
    pub reason: Reason,
    /// The error without what differs from letter to letter.
    pub cause: String,
    /// How many.
    pub count: u64,
}

/// Failures by reason and cause.
#[derive(Default)]
struct ByCause(BTreeMap<(&'static str, String), Failures>);

impl ByCause {
    fn add(&mut self, failure: &Failure) {
        let reason = failure.reason;
        let cause = cause(&failure.error);
        let same = self.0.entry((reason.as_str(), cause.clone()));
        let same = same.or_insert(Failures {
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
    pub async fn plan(&self, filter: &Filter) -> Result<Plan, RedriveError> {
        let mut plan = Plan::default();
        let mut failures = ByCause::default();
        let mut forecaster = Forecaster::begin(&self.store, Limits::default()).await?;
        let mut letters = self.store.letters_whole(filter).await?;
        let mut events: Vec<Event> = Vec::with_capacity(CHUNK);
        let mut copies = 0;
        while let Some(kept) = letters.try_next().await? {
            plan.selected += kept.entry.copies.max(1);
            // Copies are sent once.
            copies += kept.entry.copies.saturating_sub(1);
            // What may be what ends the process is not opened here.
            let ends_processes = kept.entry.letter.reason == Some(Reason::DeliveryLimit);
            let Some(body) = kept.body.filter(|_| !ends_processes) else {
                plan.not_examined += 1;
                continue;
            };
            match self.decoder.decode(&body) {
                Ok(Decoded::Event(event, _)) => events.push(event),
                Ok(Decoded::Ignored { .. }) => plan.ignored += 1,
                Err(failure) => failures.add(&failure),
            }
            if events.len() == CHUNK {
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
