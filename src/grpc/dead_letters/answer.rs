//! From what is known of dead letters to messages.

use prost_types::Timestamp;
use time::OffsetDateTime;
use tonic::Status;

use crate::derive::state::DialogKey;
use crate::forecast::{CounterChange, Forecast, ForecastError, Subject};
use crate::grpc::{failure, v1};
use crate::redrive::{IndexState, JobProgress, RedriveError, ReplayPlan};
use crate::store::dead_letters::{FailedLetter, Job, LetterEntry, LetterGroup};

impl From<LetterEntry> for v1::DeadLetter {
    fn from(entry: LetterEntry) -> Self {
        let LetterEntry {
            id,
            details,
            group,
            body_bytes,
            copies,
            discarded_at,
        } = entry;
        Self {
            id: id.to_string(),
            reason: details.reason_name().to_owned(),
            group_id: group,
            event_type: details.about.event_type.unwrap_or_default(),
            tenant_id: details.about.tenant.unwrap_or_default(),
            event_id: details.about.event.unwrap_or_default(),
            dialog_id: details.about.dialog.unwrap_or_default(),
            first_failed_at: details.first_failed_at.map(timestamp),
            last_failed_at: details.last_failed_at.map(timestamp),
            attempts: int(details.attempts),
            source_exchange: details.exchange,
            source_routing_key: details.routing_key,
            host: details.host,
            service_version: details.version,
            error: details.error,
            body_bytes: int(body_bytes),
            copies: int(copies),
            discarded_at: discarded_at.map(timestamp),
        }
    }
}

impl From<LetterGroup> for v1::DeadLetterGroup {
    fn from(group: LetterGroup) -> Self {
        Self {
            group_id: group.id,
            reason: group.reason,
            cause: group.cause,
            count: int(group.count),
            first_seen_at: Some(timestamp(group.first_seen_at)),
            last_seen_at: Some(timestamp(group.last_seen_at)),
            tenant_ids: group.tenants,
            tenant_count: int(group.tenant_count),
            example_id: group.example.to_string(),
        }
    }
}

impl From<IndexState> for v1::IndexState {
    fn from(state: IndexState) -> Self {
        Self {
            indexed: int(state.indexed),
            queued: state.queued.map(int),
            busy: state.busy,
            unsent: int(state.unsent),
        }
    }
}

impl From<Job> for v1::DeadLetterJob {
    fn from(job: Job) -> Self {
        let (letter_id, body_before, body_after) = match job.edit {
            Some(edit) => (edit.letter.to_string(), edit.before, edit.after),
            None => Default::default(),
        };
        Self {
            job_id: job.id.to_string(),
            kind: job.kind.as_str().to_owned(),
            actor: job.actor,
            claimed_actor: job.claimed_actor,
            resumed_by: job.resumed_by,
            reason: job.reason,
            selection: job.selection,
            started_at: Some(timestamp(job.started_at)),
            finished_at: job.finished_at.map(timestamp),
            selected: int(job.tally.selected),
            done: int(job.tally.done),
            missing: int(job.tally.missing),
            failed_again: int(job.tally.failed_again),
            letter_id,
            body_before,
            body_after,
            taken: int(job.tally.taken),
            taken_by: job.taken_by.iter().map(ToString::to_string).collect(),
            failed: int(job.tally.failed),
            failures: job.failures.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<JobProgress> for v1::JobProgress {
    fn from(progress: JobProgress) -> Self {
        Self {
            job_id: progress.job.to_string(),
            selected: int(progress.tally.selected),
            done: int(progress.tally.done),
            missing: int(progress.tally.missing),
            failed_again: int(progress.tally.failed_again),
            examined: int(progress.examined),
            braking: progress.braking,
            resumed: progress.resumed,
            finished: progress.finished,
            taken: int(progress.tally.taken),
            failed: int(progress.tally.failed),
            failures: progress.failures.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<FailedLetter> for v1::DeadLetterFailure {
    fn from(failed: FailedLetter) -> Self {
        Self {
            letter_id: failed.letter.to_string(),
            cause: failed.cause,
        }
    }
}

impl From<ReplayPlan> for v1::ReplayPlan {
    fn from(plan: ReplayPlan) -> Self {
        let Forecast {
            applied,
            unchanged,
            duplicates,
            // They are among the failures.
            refused: _,
            uncertain,
            totals,
            changes,
        } = plan.forecast;
        let failures = plan.failures.into_iter().map(|same| v1::ReplayFailure {
            reason: same.reason.to_string(),
            cause: same.cause,
            count: int(same.count),
        });
        let totals = totals.into_iter().map(|total| v1::CounterTotal {
            counter: total.counter.to_string(),
            delta: total.delta,
            subjects: total.subjects,
        });
        Self {
            selected: int(plan.selected),
            applied: int(applied),
            unchanged: int(unchanged),
            duplicates: int(duplicates),
            ignored: int(plan.ignored),
            failures: failures.collect(),
            uncertain: int(uncertain),
            totals: totals.collect(),
            changes: changes.into_iter().map(Into::into).collect(),
            not_examined: int(plan.not_examined),
            unsendable: int(plan.unsendable),
            unsendable_letters: plan
                .unsendable_letters
                .into_iter()
                .map(Into::into)
                .collect(),
        }
    }
}

impl From<CounterChange> for v1::CounterChange {
    fn from(change: CounterChange) -> Self {
        let mut told = Self {
            counter: change.counter.to_string(),
            delta: change.delta,
            subjects: change.subjects,
            ..Default::default()
        };
        let (tenant, dialog, user) = match change.subject {
            Subject::Dialog(key) => (key.tenant, Some(key.dialog), String::new()),
            Subject::Others(key) => (key.tenant, Some(key.dialog), "*".to_owned()),
            Subject::Member(key) => {
                let DialogKey { tenant, dialog } = key.dialog;
                (tenant, Some(dialog), key.user.to_string())
            }
            Subject::User(key) => (key.tenant, None, key.user.to_string()),
            Subject::Message(key) => {
                told.message_id = key.message.to_string();
                (key.tenant, None, String::new())
            }
        };
        told.tenant_id = tenant.to_string();
        told.dialog_id = dialog.map_or_else(String::new, |dialog| dialog.to_string());
        told.user_id = user;
        told
    }
}

/// Returns what the caller is told when something cannot be done.
pub(super) fn refused(error: RedriveError) -> Status {
    let message = error.to_string();
    match error {
        RedriveError::Store(error) => failure::of_dead_letters(&error),
        RedriveError::Bus(_) | RedriveError::Republish(_) => Status::unavailable(message),
        RedriveError::Forecast(ForecastError::TooMuch(_) | ForecastError::TooSlow(_)) => {
            Status::resource_exhausted(message)
        }
        RedriveError::Forecast(ForecastError::Store(error)) => refused(error.into()),
        RedriveError::Busy(_) => Status::aborted(message),
        RedriveError::NoSuchLetter(_) => Status::not_found(message),
        RedriveError::Ambiguous(_) => Status::invalid_argument(message),
        RedriveError::TooLarge(_) | RedriveError::NotThisBody(_) => {
            Status::failed_precondition(message)
        }
    }
}

fn timestamp(at: OffsetDateTime) -> Timestamp {
    Timestamp {
        seconds: at.unix_timestamp(),
        // Below a billion.
        nanos: at.nanosecond().cast_signed(),
    }
}

/// Converts a count, which no counter of letters makes too large, to the type that
/// messages have.
pub(super) fn int(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
