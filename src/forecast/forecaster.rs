//! Deriving events for a forecast, a chunk at a time.

use std::collections::{HashMap, HashSet};

use super::comparison::{Comparison, DialogEnd};
use super::tally::{ForecastTally, unread};
use super::{Forecast, ForecastError, ForecastLimits, Prospect};
use crate::derive::state::{ByType, DialogKey, MembershipKey, MessageKey};
use crate::derive::{Batch, EventOutcome, FORESEEN_ROUNDS, LoadMode, Missing};
use crate::event::{DialogId, Event, Fact};
use crate::store::MessageCounters;
use crate::store::{Loader, Store};

/// The number of events for which what is needed is loaded together.
const CHUNK_EVENTS: usize = 1_000;

/// Takes events, and tells what counting them would change. Writes nothing.
///
/// Everything is as of the moment at which it begins, which the server keeps for
/// a few minutes only: take the events without a pause. Memory is taken for what
/// changes, and for the ids of the events and of what they are about: some 100
/// MB for 100,000 events.
#[derive(Debug)]
pub struct Forecaster {
    loader: Loader,
    batch: Batch,
    limits: ForecastLimits,
    /// The dialogs that an event ends.
    ends: HashMap<DialogKey, DialogEnd>,
    tally: ForecastTally,
    forecast: Forecast,
}

impl Forecaster {
    /// Begins at the present moment.
    ///
    /// # Errors
    /// [`ForecastError::Store`].
    pub async fn begin(store: &Store, limits: ForecastLimits) -> Result<Self, ForecastError> {
        Ok(Self {
            loader: store.loader_of_served().await?,
            batch: Batch::default(),
            limits,
            ends: HashMap::new(),
            tally: ForecastTally::default(),
            forecast: Forecast::default(),
        })
    }

    /// Takes more events, on top of those before; tells what would become of
    /// each.
    ///
    /// # Errors
    /// Any [`ForecastError`]. There is no forecast then: begin anew.
    pub async fn add(&mut self, events: &[Event]) -> Result<Vec<Prospect>, ForecastError> {
        let mut prospects = Vec::with_capacity(events.len());
        for chunk in events.chunks(CHUNK_EVENTS) {
            self.prepare(chunk).await?;
            for event in chunk {
                let prospect = self.take(event).await?;
                self.count(prospect);
                prospects.push(prospect);
            }
            self.batch.slim();
        }
        Ok(prospects)
    }

    /// Compares what would be with what is.
    ///
    /// # Errors
    /// Any [`ForecastError`].
    pub async fn finish(self) -> Result<Forecast, ForecastError> {
        let mut comparison = Comparison::new(self.loader, self.ends, self.tally);
        comparison.compare(self.batch.finish()).await?;
        let (totals, changes) = comparison.finish();
        Ok(Forecast {
            totals,
            changes,
            ..self.forecast
        })
    }

    /// Loads all that can be foreseen. What is still missing then is found while
    /// deriving.
    async fn prepare(&mut self, events: &[Event]) -> Result<(), ForecastError> {
        for _ in 0..FORESEEN_ROUNDS {
            let needs = events.iter();
            let needs = needs.flat_map(|event| self.batch.foreseen(event, LoadMode::Checked));
            let needs: HashSet<_> = needs.collect();
            if needs.is_empty() {
                break;
            }
            let needs = needs.into_iter().collect();
            self.loader.answer(needs, self.batch.state_mut()).await?;
        }
        Ok(())
    }

    async fn take(&mut self, event: &Event) -> Result<Prospect, ForecastError> {
        let outcome = loop {
            match self.batch.apply(event) {
                Ok(outcome) => break outcome,
                Err(Missing(needs)) => self.loader.answer(needs, self.batch.state_mut()).await?,
            }
        };
        if self.batch.changed_shares() > self.limits.shares {
            return Err(ForecastError::TooMuch(self.limits.shares));
        }
        match (outcome, &event.fact) {
            (EventOutcome::Applied, Fact::DialogDeleted { dialog }) => {
                self.end(event, dialog).await
            }
            (EventOutcome::Applied, _) => Ok(Prospect::Applied),
            (EventOutcome::Unchanged, _) => Ok(Prospect::Unchanged),
            (EventOutcome::Duplicate, _) => Ok(Prospect::Duplicate),
            (EventOutcome::Refused(refusal), _) => Ok(Prospect::Refused(refusal)),
        }
    }

    fn count(&mut self, prospect: Prospect) {
        let forecast = &mut self.forecast;
        match prospect {
            Prospect::Applied => forecast.applied += 1,
            Prospect::Unchanged => forecast.unchanged += 1,
            Prospect::Duplicate => forecast.duplicates += 1,
            Prospect::Refused(_) => forecast.refused += 1,
            Prospect::Uncertain => {
                forecast.applied += 1;
                forecast.uncertain += 1;
            }
        }
    }

    /// A dialog ends that had not: what is stored of its people and messages
    /// goes to zero, whatever else the selection says of them.
    async fn end(&mut self, event: &Event, dialog: &DialogId) -> Result<Prospect, ForecastError> {
        let key = DialogKey {
            tenant: event.tenant.clone(),
            dialog: dialog.clone(),
        };
        let tallied = self.tally_end(&key).await?;
        let (end, prospect) = match tallied {
            true => (DialogEnd::Tallied, Prospect::Applied),
            false => (DialogEnd::TooLarge, Prospect::Uncertain),
        };
        self.ends.insert(key, end);
        Ok(prospect)
    }

    /// Tallies the end of a dialog; returns `false`, with nothing tallied, when
    /// it is too large.
    async fn tally_end(&mut self, key: &DialogKey) -> Result<bool, ForecastError> {
        let most = self.limits.ended;
        let large = |count: i64| usize::try_from(count).is_ok_and(|count| count > most);
        let stored = self.loader.dialogs(vec![key.clone()]).await?;
        let Some((_, dialog)) = stored.into_iter().next() else {
            return Ok(true);
        };
        if large(dialog.messages) || large(dialog.members) {
            return Ok(false);
        }
        // Whoever left, or sent without ever being a member, has a share too.
        let Some(shares) = self.loader.shares_in(key, most).await? else {
            return Ok(false);
        };
        let Some(counters) = self.loader.message_counters_in(key, most).await? else {
            return Ok(false);
        };
        for (user, share) in shares {
            let membership = MembershipKey {
                dialog: key.clone(),
                user,
            };
            let before = unread(&dialog, &share);
            self.tally.unread(&membership, &before, &ByType::default());
        }
        for (message, before) in counters {
            let message = MessageKey {
                tenant: key.tenant.clone(),
                message,
            };
            self.tally
                .message(&message, &before, &MessageCounters::default());
        }
        Ok(true)
    }
}
