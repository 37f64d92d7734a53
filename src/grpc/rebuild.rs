//! `MaintenanceService.RebuildCounters`: a rebuild that lasts as long as its
//! caller listens.

use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tracing::info;

use super::failure;
use super::v1;
use crate::event::TenantId;
use crate::maintenance::rebuild::{RebuildError, RebuildOutcome, RebuildProgress, rebuild};
use crate::shutdown;
use crate::store::Store;
use crate::store::rebuild::RebuildPhase;

/// The time between two answers that tell of progress.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);
/// The most answers that wait for the caller to read them.
const ANSWER_BUFFER: usize = 4;

/// An answer of `RebuildCounters`.
pub(super) type Answer = Result<v1::RebuildCountersResponse, Status>;

/// Begins a rebuild, or goes on with one, and tells how far it is.
pub(super) fn begin(
    store: Store,
    tenant: Option<TenantId>,
    by: String,
    permit: OwnedSemaphorePermit,
) -> ReceiverStream<Answer> {
    let (answers, stream) = mpsc::channel(ANSWER_BUFFER);
    let of = tenant.as_ref().map_or("all", |tenant| tenant.as_str());
    info!(by, tenant = of, "a rebuild begins, or goes on");
    tokio::spawn(async move {
        if let Some(last) = run(&store, tenant.as_ref(), &by, &answers).await {
            let _ = answers.send(last).await;
        }
        drop(permit);
    });
    ReceiverStream::new(stream)
}

/// The last answer; `None` when nobody listens any more.
async fn run(
    store: &Store,
    tenant: Option<&TenantId>,
    by: &str,
    answers: &mpsc::Sender<Answer>,
) -> Option<Answer> {
    let (trigger, stop) = shutdown::channel();
    let (progress, seen) = watch::channel(RebuildProgress::default());
    let mut working = std::pin::pin!(rebuild(store, tenant, by, stop, progress));
    let mut tick = tokio::time::interval(PROGRESS_INTERVAL);
    let mut listening = true;
    let outcome = loop {
        tokio::select! {
            outcome = &mut working => break outcome,
            () = answers.closed(), if listening => {
                // It ends where it can be gone on with.
                listening = false;
                trigger.request();
            }
            _ = tick.tick() => {
                let now = *seen.borrow();
                // A caller who reads slowly misses some.
                let _ = answers.try_send(Ok(answer(now, false)));
            }
        }
    };
    match outcome {
        Ok(RebuildOutcome::SwitchedOver) => {
            info!(by, "a rebuild has ended: readers see the new counters");
            Some(Ok(answer(*seen.borrow(), true)))
        }
        Ok(RebuildOutcome::Interrupted) => {
            info!(by, "a rebuild was interrupted");
            None
        }
        Err(error) => Some(Err(refused(error))),
    }
}

fn answer(progress: RebuildProgress, done: bool) -> v1::RebuildCountersResponse {
    let phase = match progress.phase {
        RebuildPhase::Replaying => v1::RebuildPhase::Replaying,
        RebuildPhase::Following => v1::RebuildPhase::Following,
        RebuildPhase::Cleaning => v1::RebuildPhase::Cleaning,
    };
    v1::RebuildCountersResponse {
        phase: phase.into(),
        replayed: i64::try_from(progress.replayed).unwrap_or(i64::MAX),
        estimated_records: i64::try_from(progress.estimated).unwrap_or(i64::MAX),
        done,
    }
}

/// Returns what the caller is told when there is no rebuild.
pub(super) fn refused(error: RebuildError) -> Status {
    match error {
        RebuildError::Store(error) => {
            tracing::warn!(%error, "a rebuild ended before its end");
            failure::of_maintenance("not rebuilt to the end", &error)
        }
        refused => Status::failed_precondition(refused.to_string()),
    }
}
