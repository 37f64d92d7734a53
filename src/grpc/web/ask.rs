//! The call that a request stands for, and the answer to it in JSON.

use std::convert::Infallible;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use http_body_util::{BodyExt as _, Full, Limited};
use prost::Message;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http::{Request, Response};
use tonic::{Code, Status};

use super::super::admission::{Places, Sharer};
use super::super::guard::account;
use super::super::limits::shed;
use super::super::v1::counter_service_server::SERVICE_NAME;
use super::answer::{Answer, Json, json};
use super::events::{self, Resumable, event};
use super::framing::{framed, unframed};

/// What a request asks for: among its extensions, on its way through the checks
/// of all calls.
#[derive(Debug, Clone)]
pub(super) struct Ask {
    pub(super) method: &'static str,
    /// Or what is wrong with the request.
    pub(super) message: Result<Asked, Status>,
    pub(super) answer: Wanted,
}

/// Where the message of the call is.
#[derive(Debug, Clone)]
pub(super) enum Asked {
    /// Here, in its frame.
    Given(Bytes),
    /// In the body, about a tenant, as JSON of so many bytes at most. It is read
    /// once the caller is known.
    InBody(String, usize, Read),
}

/// Makes a message about a tenant, in its frame, of the body of a request.
pub(super) type Read = fn(String, &[u8]) -> Result<Bytes, Status>;

/// How the answer is wanted.
#[derive(Debug, Clone, Copy)]
pub(super) enum Wanted {
    /// One message.
    One(fn(Bytes) -> Result<Json, Status>),
    /// One event a message, for as long as there are any.
    Events(fn(Bytes) -> Result<events::Event, Status>),
}

impl Ask {
    /// A call with this message, which is answered by one.
    pub(super) fn one<A: Answer>(
        method: &'static str,
        message: Result<impl Message, Status>,
    ) -> Self {
        Self::given(method, message, Wanted::One(json::<A>))
    }

    /// A call with this message, which is answered by an event for each change.
    pub(super) fn events<A: Resumable>(
        method: &'static str,
        message: Result<impl Message, Status>,
    ) -> Self {
        Self::given(method, message, Wanted::Events(event::<A>))
    }

    fn given(method: &'static str, message: Result<impl Message, Status>, answer: Wanted) -> Self {
        let message = message.map(|message| Asked::Given(framed(&message)));
        Self {
            method,
            message,
            answer,
        }
    }

    /// The path of the method.
    pub(super) fn path(&self) -> String {
        format!("/{SERVICE_NAME}/{}", self.method)
    }
}

/// Has a service of gRPC answer requests with an [`Ask`]: as JSON, or as
/// server-sent events. What is refused stays in gRPC's words.
#[derive(Debug, Clone)]
pub(super) struct AsJson<S> {
    service: S,
    /// For streams of events: over HTTP/1 each has a connection of its own.
    streams: Places,
}

impl<S> AsJson<S> {
    pub(super) fn new(service: S, streams: Places) -> Self {
        Self { service, streams }
    }
}

impl<S> Service<Request<Body>> for AsJson<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, mut call: Request<Body>) -> Self::Future {
        let (mut service, streams) = (self.service.clone(), self.streams.clone());
        Box::pin(async move {
            let Some(ask) = call.extensions_mut().remove::<Ask>() else {
                return Ok(Status::internal("a request without a call").into_http());
            };
            let answered = answered(&mut service, &streams, call, ask).await;
            Ok(answered.unwrap_or_else(Status::into_http))
        })
    }
}

async fn answered<S>(
    service: &mut S,
    streams: &Places,
    call: Request<Body>,
    ask: Ask,
) -> Result<Response<Body>, Status>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    let (parts, body) = call.into_parts();
    let message = match ask.message? {
        Asked::Given(message) => message,
        Asked::InBody(tenant, most, read) => read(tenant, &whole(body, most).await?)?,
    };
    let place = match ask.answer {
        Wanted::One(_) => None,
        Wanted::Events(_) => {
            let sharers = vec![Sharer::Caller(account(&parts.extensions))];
            Some(streams.take(sharers).map_err(shed)?)
        }
    };
    let call = Request::from_parts(parts, Body::new(Full::new(message)));
    let Ok(answer) = service.call(call).await;
    if let Some(status) = refused(answer.headers()) {
        return Err(status);
    }
    let (parts, body) = answer.into_parts();
    match ask.answer {
        Wanted::One(show) => {
            let answer = body.collect().await?;
            if let Some(status) = answer.trailers().and_then(refused) {
                return Err(status);
            }
            let mut bytes = BytesMut::from(answer.to_bytes());
            let message = unframed(&mut bytes)?;
            let message = message.ok_or_else(|| Status::internal("an answer without a message"))?;
            Ok(show(message)?.response(parts.extensions))
        }
        Wanted::Events(show) => {
            let events = events::body(body, place, show);
            Ok(events::response(parts.extensions, events))
        }
    }
}

/// All of a body.
async fn whole(body: Body, most: usize) -> Result<Bytes, Status> {
    let read = Limited::new(body, most).collect().await;
    read.map(|body| body.to_bytes())
        .map_err(|error| match error.downcast::<Status>() {
            Ok(late) => *late,
            Err(error) if error.is::<http_body_util::LengthLimitError>() => Status::new(
                Code::OutOfRange,
                format!("the body of the request is larger than {most} bytes"),
            ),
            Err(error) => Status::invalid_argument(format!("the body of the request: {error}")),
        })
}

/// What gRPC says of a call that failed.
pub(super) fn refused(headers: &hyper::HeaderMap) -> Option<Status> {
    Status::from_header_map(headers).filter(|status| status.code() != Code::Ok)
}
