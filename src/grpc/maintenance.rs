//! `MaintenanceService`: verifying and rebuilding on request.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use tracing::info;

use super::guard::Caller;
use super::limits::try_again_after;
use super::v1::{self, maintenance_service_server::MaintenanceService};
use super::{failure, rebuild, validate};
use crate::maintenance::rebuild::abandon;
use crate::maintenance::sweep::{Sweep, SweepScope, SweepTally, SweepUnit};
use crate::maintenance::{Verified, Verifier};
use crate::store::verify::RepairReason;
use crate::store::{Store, StoreError};

/// The most answers that wait for the caller to read them.
const ANSWER_BUFFER: usize = 64;
/// The time between two answers that tell of progress.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// Answers `MaintenanceService`.
#[derive(Debug)]
pub(super) struct Maintenance {
    store: Store,
    /// One verification at a time.
    verifying: Arc<Semaphore>,
    /// One rebuild at a time.
    rebuilding: Arc<Semaphore>,
}

/// An answer of `VerifyCounters`.
type Answer = Result<v1::VerifyCountersResponse, Status>;

impl Maintenance {
    pub(super) fn new(store: Store) -> Self {
        Self {
            store,
            verifying: Arc::new(Semaphore::new(1)),
            rebuilding: Arc::new(Semaphore::new(1)),
        }
    }
}

#[tonic::async_trait]
impl MaintenanceService for Maintenance {
    type VerifyCountersStream = Pin<Box<dyn Stream<Item = Answer> + Send>>;

    async fn verify_counters(
        &self,
        request: Request<v1::VerifyCountersRequest>,
    ) -> Result<Response<Self::VerifyCountersStream>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let scope = validate::verification(&request, &caller.identity)?;
        let permit = only_one(&self.verifying, "verification")?;
        let repair = request.repair.then(|| RepairReason {
            actor: caller.described(),
            text: request.reason,
        });
        let one_tenant = scope.tenant.is_some();
        tell_begun(&caller, &scope, repair.as_ref());
        let sweep = Sweep::new(Verifier::new(self.store.clone(), repair), scope);
        let estimated_dialogs = match one_tenant {
            true => 0,
            false => self.store.estimated_dialogs().await.map_err(failed)?,
        };
        let (answers, stream) = mpsc::channel(ANSWER_BUFFER);
        let call = Verification {
            sweep,
            estimated_dialogs,
            answers,
            _permit: permit,
        };
        tokio::spawn(call.run());
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    type RebuildCountersStream = Pin<Box<dyn Stream<Item = rebuild::Answer> + Send>>;

    async fn rebuild_counters(
        &self,
        request: Request<v1::RebuildCountersRequest>,
    ) -> Result<Response<Self::RebuildCountersStream>, Status> {
        let caller = Caller::of(&request)?;
        let tenant = validate::rebuild(&request.into_inner(), &caller.identity)?;
        let by = caller.described();
        let permit = only_one(&self.rebuilding, "rebuild")?;
        let stream = rebuild::begin(self.store.clone(), tenant, by, permit);
        Ok(Response::new(Box::pin(stream)))
    }

    async fn abandon_rebuild(
        &self,
        request: Request<v1::AbandonRebuildRequest>,
    ) -> Result<Response<v1::AbandonRebuildResponse>, Status> {
        let caller = Caller::of(&request)?;
        validate::of_all_tenants(&caller.identity)?;
        let by = caller.described();
        info!(by, "a rebuild is given up");
        let abandoned = abandon(&self.store, &by).await.map_err(rebuild::refused)?;
        Ok(Response::new(v1::AbandonRebuildResponse { abandoned }))
    }
}

/// When to ask again while another job is under way: they take seconds to hours.
const RETRY_AFTER: Duration = Duration::from_secs(10);

fn only_one(free: &Arc<Semaphore>, what: &str) -> Result<OwnedSemaphorePermit, Status> {
    let permit = Arc::clone(free).try_acquire_owned();
    permit.map_err(|_| try_again_after(RETRY_AFTER, &format!("another {what} is under way")))
}

/// The line in the log for who has what verified.
fn tell_begun(caller: &Caller, scope: &SweepScope, repair: Option<&RepairReason>) {
    let tenant = scope.tenant.as_ref().map(ToString::to_string);
    info!(
        by = caller.described(),
        tenant = tenant.as_deref().unwrap_or("all"),
        repair = repair.is_some(),
        reason = repair.map(|repair| repair.text.as_str()),
        "a verification begins"
    );
}

/// A verification under way.
struct Verification {
    sweep: Sweep,
    estimated_dialogs: u64,
    answers: mpsc::Sender<Answer>,
    _permit: OwnedSemaphorePermit,
}

impl Verification {
    async fn run(mut self) {
        // An error of sending says that the caller is gone: so the work ends.
        if let Err(error) = self.verify().await {
            let _ = self.answers.send(Err(failed(error))).await;
        }
    }

    async fn verify(&mut self) -> Result<(), StoreError> {
        let mut told = Instant::now();
        while let Some((unit, verified)) = self.sweep.next().await? {
            for difference in counter_differences(&unit, verified) {
                let event = v1::verify_counters_response::Event::Difference(difference);
                let answer = v1::VerifyCountersResponse { event: Some(event) };
                if self.answers.send(Ok(answer)).await.is_err() {
                    return Ok(());
                }
            }
            if told.elapsed() >= PROGRESS_INTERVAL {
                told = Instant::now();
                if self.answers.send(Ok(self.progress(false))).await.is_err() {
                    return Ok(());
                }
            }
            if self.answers.is_closed() {
                return Ok(());
            }
        }
        let SweepTally {
            differences,
            repaired,
            ..
        } = self.sweep.tally();
        info!(differences, repaired, "a verification has ended");
        let _ = self.answers.send(Ok(self.progress(true))).await;
        Ok(())
    }

    fn progress(&self, done: bool) -> v1::VerifyCountersResponse {
        let SweepTally {
            dialogs,
            messages,
            differences,
            repaired,
            ..
        } = self.sweep.tally();
        let int = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let progress = v1::VerifyProgress {
            dialogs: int(dialogs),
            messages: int(messages),
            differences: int(differences),
            repaired: int(repaired),
            estimated_dialogs: int(self.estimated_dialogs),
            done,
        };
        let event = v1::verify_counters_response::Event::Progress(progress);
        v1::VerifyCountersResponse { event: Some(event) }
    }
}

/// Returns what differs in a dialog or a message, as clients are told.
pub(crate) fn counter_differences(
    unit: &SweepUnit,
    verified: Verified,
) -> impl Iterator<Item = v1::CounterDifference> {
    let repaired = verified.repaired;
    verified.differences.into_iter().map(move |difference| {
        let mut found = v1::CounterDifference {
            tenant_id: unit.tenant().to_string(),
            dialog_id: unit.dialog().map_or(String::new(), ToString::to_string),
            counter: difference.field.name(),
            stored: difference.stored,
            counted: difference.counted,
            repaired,
            ..Default::default()
        };
        match difference.subject {
            crate::verify::Subject::Dialog => {}
            crate::verify::Subject::User(user) => found.user_id = user.to_string(),
            crate::verify::Subject::Message(message) => found.message_id = message.to_string(),
        }
        found
    })
}

/// What the caller is told when the store does not go on.
fn failed(error: StoreError) -> Status {
    tracing::warn!(%error, "a verification ended before its end");
    failure::of_maintenance("not verified to the end", &error)
}
