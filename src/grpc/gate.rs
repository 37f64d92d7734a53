//! The gate before methods that have no places of their own, which are those of
//! operators: one place a call, an end to each, and large answers a few at a
//! time.

use std::convert::Infallible;
use std::sync::{Arc, PoisonError};

use futures::future::BoxFuture;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{Service, http};

use super::admission::Sharer;
use super::body::AdmittedBody;
use super::failure;
use super::guard::account;
use super::health::StoreState;
use super::limits::{CallPermit, Cost, Deadline, Limits};

/// Methods whose answers hold letters, of which each may have megabytes.
const LARGE_ANSWER_METHODS: &[&str] = &[
    "/chatcounters.v1.DeadLetterService/GetDeadLetter",
    "/chatcounters.v1.DeadLetterService/ListDeadLetters",
    "/chatcounters.v1.DeadLetterService/ListDeadLetterAudit",
];

/// The answer of a service that cannot fail.
type Answer = Result<http::Response<Body>, Infallible>;

/// Lets calls in. Clones have the same places.
#[derive(Debug, Clone)]
pub(super) struct Gate {
    limits: Arc<Limits>,
    store: StoreState,
}

impl Gate {
    /// Makes a gate that takes places from these limits.
    pub(super) fn new(limits: Limits, store: StoreState) -> Self {
        let limits = Arc::new(limits);
        Self { limits, store }
    }

    /// Has the call answered, in a task that goes on when the caller is gone or
    /// out of patience: work on the servers is not to be dropped half-way.
    pub(super) fn call<S>(
        &self,
        services: &mut S,
        call: http::Request<Body>,
    ) -> BoxFuture<'static, Answer>
    where
        S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
        S::Future: Send + 'static,
    {
        if self.store.is_lost() {
            // Else each call would wait for the driver to give the server up.
            return Box::pin(async { Ok(failure::unavailable().into_http()) });
        }
        let deadline = self.limits.deadline(call.headers());
        let entering = self.entering(&call, deadline);
        let (parts, body) = call.into_parts();
        let (body, entered) = AdmittedBody::new(body, entering);
        let answer = services.call(http::Request::from_parts(parts, Body::new(body)));
        let kept = Arc::clone(&entered);
        let answer = tokio::spawn(async move {
            let answer = answer.await;
            drop(kept);
            answer
        });
        Box::pin(async move {
            let mut answer = tokio::select! {
                answer = answer => match answer {
                    Ok(answer) => answer?,
                    Err(_panicked) => return Ok(failure::internal().into_http()),
                },
                () = tokio::time::sleep_until(deadline.hard) => {
                    let late = "not answered within the deadline; what was begun goes on";
                    return Ok(Status::deadline_exceeded(late).into_http());
                }
            };
            let kept = entered.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(kept) = kept.clone() {
                answer.extensions_mut().insert(kept);
            }
            Ok(answer)
        })
    }

    fn entering(
        &self,
        call: &http::Request<Body>,
        deadline: Deadline,
    ) -> BoxFuture<'static, Result<CallPermit, Status>> {
        let cost = match LARGE_ANSWER_METHODS.contains(&call.uri().path()) {
            true => Cost::Large,
            false => Cost::Work,
        };
        let sharers = vec![Sharer::Caller(account(call.extensions()))];
        let limits = Arc::clone(&self.limits);
        Box::pin(async move { limits.enter(cost, sharers, deadline).await })
    }
}
