//! What a lane does about an attempt that failed.

use std::time::{Duration, Instant};

use tracing::{error, info, warn};

use super::batch_progress::BatchProgress;
use super::store_probe::store_takes_writes;
use super::{Lane, LaneKind};
use crate::deadletter::{Failure, Reason};
use crate::derive::LoadMode;
use crate::store::{Class, StoreError};
use crate::telemetry::metrics::Label;

/// The number of conflicts in a row from which on they are no longer taken for
/// chance.
const MAX_CHANCE_CONFLICTS: u32 = 5;

/// Conflicts in a row, of fewer and fewer events, after which a lane puts the last
/// one off: whoever holds its documents does so for longer than others should
/// wait. The patient lane, where all wait already, does so when it is stubborn.
const MAX_CONFLICTS: u32 = 20;

/// The shortest and the longest delay before an event that fails by itself, and
/// not for good, is tried again.
const RETRY_DELAY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

impl Lane {
    /// Decides what to do about a failed attempt; `false` to give up for now,
    /// because the service stops.
    pub(super) async fn failed(
        &mut self,
        progress: &mut BatchProgress,
        taken: usize,
        failed: StoreError,
    ) -> bool {
        let class = failed.class();
        self.shared.store.heed(failed.driver());
        progress.mode = LoadMode::Checked;
        if class == Class::Permanent {
            match taken {
                1 => self.refused(progress, &failed).await,
                _ => progress.narrow(taken),
            }
            return true;
        }
        let label = Label {
            kind: class.as_str(),
        };
        let retries = &self.shared.metrics.commits.retries;
        retries.get_or_create(&label).inc();
        let (stubborn, for_itself) = match class {
            Class::Conflict => {
                let conflicts = progress.conflicted();
                let hopeless = match self.is_patient() {
                    true => MAX_CHANCE_CONFLICTS,
                    false => MAX_CONFLICTS,
                };
                (conflicts >= MAX_CHANCE_CONFLICTS, conflicts >= hopeless)
            }
            _ => (failed.may_be_of_these_events(), true),
        };
        if class == Class::Conflict && stubborn {
            self.end_stale_transactions().await;
        }
        if class == Class::Retryable && progress.failures.is_first() {
            warn!(error = %failed, events = progress.queue.len(),
                "the store does not take events; retrying until it does");
        }
        // It may be but one of them, for which the others need not wait.
        if stubborn && taken > 1 {
            progress.narrow(taken);
        } else if stubborn && for_itself && store_takes_writes(&self.shared.store).await {
            self.put_off(progress, &failed).await;
            return true;
        }
        let backoff = match class {
            Class::Conflict => &mut progress.conflict,
            _ => &mut progress.outage,
        };
        tokio::select! {
            () = backoff.wait() => true,
            () = self.shared.shutdown.requested(), if class == Class::Retryable => {
                warn!(events = progress.queue.len(),
                    "stopping while the store does not take events; they stay in the queue");
                false
            }
        }
    }

    /// Dead-letters the first event, which the store refuses, now and always, and
    /// has no other wait for more of its kind.
    async fn refused(&mut self, progress: &mut BatchProgress, failed: &StoreError) {
        let Some(work) = progress.take_first() else {
            return;
        };
        if let Some(since_last_line) = self.failure_log.pass(Instant::now()) {
            error!(tenant = %work.event.tenant, event = %work.event.stamp.event,
                error = %failed, since_last_line,
                "the store refuses an event; it is dead-lettered");
        }
        self.aside.failed(&work.event);
        let failure = Failure {
            reason: Reason::RejectedByStore,
            error: failed.to_string(),
        };
        self.dead_letter(work, failure);
        self.set_aside_rest(progress).await;
    }

    /// Puts the first event off, which the store does not take while it takes
    /// others: to the patient lane, and there for longer and longer.
    async fn put_off(&mut self, progress: &mut BatchProgress, failed: &StoreError) {
        let Some(mut work) = progress.take_first() else {
            return;
        };
        self.aside.failed(&work.event);
        let LaneKind::Patient { back, .. } = &self.kind else {
            self.set_aside(work).await;
            return self.set_aside_rest(progress).await;
        };
        let rest = RETRY_DELAY.0 * 2_u32.saturating_pow(work.failures.min(10));
        let rest = rest.min(RETRY_DELAY.1);
        if let Some(since_last_line) = self.failure_log.pass(Instant::now()) {
            warn!(tenant = %work.event.tenant, event = %work.event.stamp.event,
                error = %failed, since_last_line,
                "the store does not take an event, but others; it is tried again in {rest:?}");
        }
        work.failures += 1;
        let (back, shutdown) = (back.clone(), self.shared.shutdown.clone());
        tokio::spawn(async move {
            // One that is dropped is delivered again by the broker.
            tokio::select! {
                () = tokio::time::sleep(rest) => {}
                () = shutdown.requested() => return,
            }
            if let Some(back) = back.upgrade() {
                let _ = back.send(work).await;
            }
        });
    }

    /// Sends on the events of a batch that are set aside by now.
    async fn set_aside_rest(&mut self, progress: &mut BatchProgress) {
        let mut rest = Vec::from(std::mem::take(&mut progress.queue));
        self.set_aside_known(&mut rest).await;
        progress.queue = rest.into();
    }

    /// Ends the transactions of dead processes, with which a conflict does not
    /// go away.
    async fn end_stale_transactions(&self) {
        match self.shared.store.end_stale_transactions().await {
            Ok(0) => {}
            Ok(count) => info!(count, "ended transactions that a process left open"),
            Err(error) => warn!(%error, "cannot look for transactions that were left open"),
        }
    }
}
