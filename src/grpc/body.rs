//! Bodies of calls: a request's has a time to come in, an answer's keeps what
//! was taken for it until it is out.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::body::{Body as HttpBody, Bytes, Frame, SizeHint};
use tokio::time::{Instant, Sleep};
use tonic::Status;
use tonic::body::Body;

use super::limits::Kept;

/// How long the body of a request may take, which is one message. The headers
/// alone cost nothing, so that whoever sends nothing else holds nothing.
const PATIENCE: Duration = Duration::from_secs(5);

type Polled = Poll<Option<Result<Frame<Bytes>, Status>>>;

/// The body of a request, which fails when it is not there in time.
#[derive(Debug)]
pub(super) struct Timely {
    body: Body,
    until: Instant,
    /// None before there was anything to wait for: most bodies come at once.
    over: Option<Pin<Box<Sleep>>>,
}

impl Timely {
    pub(super) fn new(body: Body) -> Self {
        Self {
            body,
            until: Instant::now() + PATIENCE,
            over: None,
        }
    }
}

impl HttpBody for Timely {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Polled {
        let this = &mut *self;
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(context) {
            return Poll::Ready(frame);
        }
        let over = this
            .over
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(this.until)));
        ready!(over.as_mut().poll(context));
        Poll::Ready(Some(Err(Status::deadline_exceeded(format!(
            "the request was not there {} s after its headers",
            PATIENCE.as_secs()
        )))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of an answer, and what is kept until the caller has taken it.
#[derive(Debug)]
pub(super) struct Keeping {
    body: Body,
    _kept: Kept,
}

impl Keeping {
    pub(super) fn new(body: Body, kept: Kept) -> Self {
        Self { body, _kept: kept }
    }
}

impl HttpBody for Keeping {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Polled {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
