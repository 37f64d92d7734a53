//! The edge of the server: what is refused before a method has it, and what is
//! the caller's fault although the library takes it for ours.

use std::convert::Infallible;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use tokio::time::Instant;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::{Code, Status};
use tower::Layer;

use super::body::{AnswerBody, TimedBody};
use super::gate::Gate;
use super::guard::{Guard, account};
use super::limits::CallPermit;
use super::rate::RateLimiter;
use crate::listener::{Activity, Busy, KillSwitch, Peer};

/// Largest metadata of a call, as HTTP/2 measures it: names, values, and 32
/// bytes for each. More is refused with RESOURCE_EXHAUSTED.
pub(super) const MAX_METADATA_BYTES: usize = 16 << 10;

/// The only calls of which the requests are a stream, which lasts.
const REFLECTION_PREFIX: &str = "/grpc.reflection.";
/// What probes and tools ask for takes no place.
const UNCOUNTED_PREFIX: &str = "/grpc.";

/// Marks an answer that lasts for as long as its client wants, and of which it
/// takes as much as it likes.
#[derive(Debug, Clone, Copy)]
pub(super) struct LongLived;

/// How the library reports a request that is no such Protobuf message.
const DECODE_ERROR: &str = "failed to decode Protobuf message";

/// All services, with the checks in front: nothing is done for a call that is refused
/// here.
#[derive(Debug, Clone)]
pub(super) struct Edge<S> {
    services: S,
    checks: Checks,
}

/// What each call has to pass, before its body is read; puts the edge in front
/// of services.
#[derive(Debug, Clone)]
pub(super) struct Checks {
    /// Identifies the caller and checks their role.
    pub(super) guard: Guard,
    /// The calls a second of each caller; `None`: as many as they like.
    pub(super) rate: Option<RateLimiter>,
    /// The places of methods that have none of their own.
    pub(super) gate: Option<Gate>,
}

impl<S> Layer<S> for Checks {
    type Service = Edge<S>;

    fn layer(&self, services: S) -> Edge<S> {
        let checks = self.clone();
        Edge { services, checks }
    }
}

impl Checks {
    fn pass(&self, call: &mut http::Request<Body>) -> Result<(), Status> {
        let bytes = metadata_bytes(call.headers());
        if bytes > MAX_METADATA_BYTES {
            return Err(Status::resource_exhausted(format!(
                "the metadata of the call is {bytes} bytes long, at most {MAX_METADATA_BYTES} are taken"
            )));
        }
        self.guard.pass(call)?;
        match &self.rate {
            Some(rate) if !is_free(call) => rate.take(&account(call.extensions()), Instant::now()),
            _ => Ok(()),
        }
    }
}

fn is_free(call: &http::Request<Body>) -> bool {
    call.uri().path().starts_with(UNCOUNTED_PREFIX)
}

impl<S> Service<http::Request<Body>> for Edge<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.services.poll_ready(context)
    }

    fn call(&mut self, mut call: http::Request<Body>) -> Self::Future {
        if let Err(refused) = self.checks.pass(&mut call) {
            return Box::pin(async move { Ok(refused.into_http()) });
        }
        let peer: Option<&Peer> = call.extensions().get();
        let kill_switch = peer.map(|peer| peer.kill_switch.clone());
        // Whoever only asks for health gives way to others all the same.
        let activity = peer.and_then(|peer| peer.activity.as_ref());
        let busy = activity.filter(|_| !is_free(&call)).map(Activity::begin);
        let answer: Self::Future = match &self.checks.gate {
            Some(gate) if !is_free(&call) => gate.call(&mut self.services, call),
            _ => {
                let is_stream = call.uri().path().starts_with(REFLECTION_PREFIX);
                let call = match is_stream {
                    true => call,
                    false => call.map(|body| Body::new(TimedBody::new(body))),
                };
                Box::pin(self.services.call(call))
            }
        };
        let keep = |answer| keep(answer, kill_switch, busy);
        Box::pin(async move { answer.await.map(blame_the_caller).map(keep) })
    }
}

fn metadata_bytes(headers: &http::HeaderMap) -> usize {
    let field = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
        name.as_str().len() + value.len() + 32
    };
    headers.iter().map(field).sum()
}

/// A request that cannot be decoded, a string that is not UTF-8 say, is
/// INVALID_ARGUMENT. The library says INTERNAL.
fn blame_the_caller(answer: http::Response<Body>) -> http::Response<Body> {
    match Status::from_header_map(answer.headers()) {
        Some(status) if status.message().starts_with(DECODE_ERROR) => {
            Status::new(Code::InvalidArgument, status.message()).into_http()
        }
        _ => answer,
    }
}

/// What was taken for a call is kept until its answer is out.
fn keep(
    mut answer: http::Response<Body>,
    kill_switch: Option<KillSwitch>,
    busy: Option<Busy>,
) -> http::Response<Body> {
    let kill_switch = match answer.extensions_mut().remove::<LongLived>() {
        // What is held for a slow client is bounded all the same.
        Some(LongLived) => None,
        None => kill_switch,
    };
    match answer.extensions_mut().remove::<CallPermit>() {
        Some(kept) => {
            answer.map(|body| Body::new(AnswerBody::new(body, (kept, busy), kill_switch)))
        }
        None => answer,
    }
}
