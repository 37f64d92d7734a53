//! The path of a read: a place, the event that it waits for, memory, and the store.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::runtime::Handle;
use tonic::{Request, Response, Status};
use tracing::Instrument as _;

use super::admission::Sharer;
use super::failure;
use super::guard::{Caller, account};
use super::health::StoreState;
use super::limits::{CallPermit, Cost, Deadline, Limits};
use crate::auth::Identity;
use crate::event::{EventId, TenantId};
use crate::serving::{MemoryQuery, Serving};
use crate::store::read::{Query, ReadError, Reader};

/// Answers queries within the limits of calls.
#[derive(Debug)]
pub(super) struct ReadPath {
    pub(super) reader: Reader,
    /// Reads from memory; `None`: all reads are from the store.
    pub(super) serving: Option<Serving>,
    pub(super) limits: Limits,
    pub(super) store: StoreState,
}

/// A call apart from its message.
pub(super) struct Call {
    method: &'static str,
    pub(super) cost: Cost,
    pub(super) who: Arc<Identity>,
    deadline: Deadline,
    /// The account on which it takes a place.
    caller: String,
    /// How old the answer may be.
    pub(super) staleness: Duration,
    began: SystemTime,
}

impl Call {
    /// Returns the time before which everything committed is in an answer from the
    /// store; `None` where nobody asked.
    pub(super) fn as_of(&self) -> Option<SystemTime> {
        (!self.staleness.is_zero()).then_some(self.began)
    }

    /// On whose accounts it takes a place.
    fn sharers(&self, query: &impl Query) -> Vec<Sharer> {
        vec![
            Sharer::Caller(self.caller.clone()),
            Sharer::Tenant(query.tenant().to_string()),
        ]
    }
}

/// An answer, and what it keeps until the caller has it.
pub(super) struct Answered<A> {
    pub(super) answer: A,
    pub(super) kept: CallPermit,
    /// All that was committed before this is in it; `None` where nobody asked.
    pub(super) as_of: Option<SystemTime>,
}

impl<A> Answered<A> {
    pub(super) fn as_of(&self) -> Option<prost_types::Timestamp> {
        self.as_of.map(prost_types::Timestamp::from)
    }

    pub(super) fn with<M>(self, message: impl FnOnce(A) -> M) -> Response<M> {
        let mut response = Response::new(message(self.answer));
        response.extensions_mut().insert(self.kept);
        response
    }
}

impl ReadPath {
    /// Takes a call apart: what it is, and its message.
    ///
    /// # Errors
    /// When nobody has asked who calls.
    pub(super) fn open<T>(
        &self,
        method: &'static str,
        request: Request<T>,
    ) -> Result<(Call, T), Status> {
        let call = Call {
            method,
            cost: Cost::Read,
            deadline: self.limits.deadline(request.metadata().as_ref()),
            caller: account(request.extensions()),
            staleness: Duration::ZERO,
            began: SystemTime::now(),
            who: Caller::of(&request)?.identity,
        };
        Ok((call, request.into_inner()))
    }

    /// Answers from memory, if that is served.
    pub(super) async fn answer_from_memory<Q>(
        &self,
        call: Call,
        query: Q,
        after: Option<EventId>,
    ) -> Result<Answered<Q::Answer>, Status>
    where
        Q: MemoryQuery + 'static,
    {
        let Some(serving) = &self.serving else {
            return self.answer(call, query, after).await;
        };
        let sharers = call.sharers(&query);
        if after.is_none() && !call.staleness.is_zero() {
            let entered = self.limits.enter(call.cost, sharers.clone(), call.deadline);
            let kept = entered.await?;
            if let Some((answer, as_of)) = serving.recent(&query, call.staleness) {
                let as_of = Some(as_of);
                return Ok(Answered {
                    answer,
                    kept,
                    as_of,
                });
            }
        }
        if self.store.is_lost() {
            return Err(failure::unavailable());
        }
        if let Some(after) = &after {
            self.await_event(&call, query.tenant(), after, &sharers)
                .await?;
        }
        let entered = self.limits.enter(call.cost, sharers, call.deadline);
        let kept = entered.await.map_err(|busy| self.or_unavailable(busy))?;
        let answer = tokio::select! {
            answer = serving.answer(&query, call.deadline.soft) => answer,
            () = self.store.lost() => return Err(failure::unavailable()),
        };
        match answer {
            Some(answer) => Ok(Answered {
                answer,
                kept,
                as_of: call.as_of(),
            }),
            None => {
                let read = self.read(&call, Arc::new(query), None, kept);
                read.await?.ok_or_else(failure::internal)
            }
        }
    }

    /// Waits for an event without keeping others from reading.
    async fn await_event(
        &self,
        call: &Call,
        tenant: &TenantId,
        event: &EventId,
        sharers: &[Sharer],
    ) -> Result<(), Status> {
        let waiting = self.limits.wait(sharers.to_vec())?;
        let taken = self.reader.taken(tenant, event, call.deadline.soft);
        tokio::select! {
            taken = taken => taken.map_err(|error| failure::of_read(&error))?,
            () = self.store.lost() => return Err(failure::unavailable()),
        }
        drop(waiting);
        Ok(())
    }

    /// Answers; when the event `after` is not there yet, waits for it meanwhile
    /// without keeping others from reading.
    pub(super) async fn answer<Q: Query<Answer: 'static> + 'static>(
        &self,
        call: Call,
        query: Q,
        after: Option<EventId>,
    ) -> Result<Answered<Q::Answer>, Status> {
        if self.store.is_lost() {
            return Err(failure::unavailable());
        }
        let query = Arc::new(query);
        let sharers = call.sharers(&*query);
        let entered = self.limits.enter(call.cost, sharers.clone(), call.deadline);
        // Calls that wait for the store may be what takes all the places.
        let mut kept = entered.await.map_err(|busy| self.or_unavailable(busy))?;
        loop {
            let read = self.read(&call, Arc::clone(&query), after.clone(), kept);
            match (read.await?, &after) {
                (Some(answered), _) => return Ok(answered),
                (None, None) => return Err(failure::internal()),
                (None, Some(after)) => {
                    self.await_event(&call, query.tenant(), after, &sharers)
                        .await?;
                    let resumed = self
                        .limits
                        .resume(call.cost, sharers.clone(), call.deadline);
                    kept = resumed.await?;
                }
            }
        }
    }

    /// Reads in a task of its own, which outlives a caller that is gone or out
    /// of patience and keeps the call's place: the driver's futures are not to
    /// be dropped half-way, and a slow store must not pile reads up. `None` when
    /// the event `after` is not there yet.
    async fn read<Q: Query<Answer: 'static> + 'static>(
        &self,
        call: &Call,
        query: Arc<Q>,
        after: Option<EventId>,
        kept: CallPermit,
    ) -> Result<Option<Answered<Q::Answer>>, Status> {
        let Deadline { soft, hard } = call.deadline;
        let method = call.method;
        let span = tracing::info_span!("grpc", method, tenant = %query.tenant());
        let reader = self.reader.clone();
        let as_of = call.as_of();
        let read = async move {
            match reader.ask(&*query, after.as_ref(), soft).await {
                Ok(answer) => Ok(Some(Answered {
                    answer,
                    kept,
                    as_of,
                })),
                Err(ReadError::EventNotSeen) => Ok(None),
                Err(error) => Err(failure::of_read(&error)),
            }
        };
        let read = read.instrument(span);
        let read = match call.cost {
            // Replaying takes a while without a pause: not on a thread that
            // answers others.
            Cost::History => {
                let runtime = Handle::current();
                tokio::task::spawn_blocking(move || runtime.block_on(read))
            }
            _ => tokio::spawn(read),
        };
        tokio::select! {
            answer = read => answer.unwrap_or_else(|_panicked| Err(failure::internal())),
            () = self.store.lost() => Err(failure::unavailable()),
            () = tokio::time::sleep_until(hard) => {
                Err(self.or_unavailable(failure::of_read(&ReadError::TooSlow)))
            }
        }
    }

    /// What a caller is told while the store cannot be reached, whatever it
    /// shows in.
    fn or_unavailable(&self, status: Status) -> Status {
        match self.store.is_unreachable() {
            true => failure::unavailable(),
            false => status,
        }
    }
}
