//! Bodies of calls: a request's has a time to come in, an answer's keeps what
//! was taken for it until it is out.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::future::BoxFuture;
use hyper::body::{Body as HttpBody, Bytes, Frame, SizeHint};
use tokio::task::JoinHandle;
use tokio::time::{Instant, Sleep};
use tonic::Status;
use tonic::body::Body;

use super::limits::CallPermit;
use crate::listener::{Busy, KillSwitch};

/// How long the body of a request may take, which is one message. The headers
/// alone cost nothing, so that whoever sends nothing else holds nothing.
const REQUEST_BODY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a client may leave a part of an answer untaken, at least, and twice
/// as long at most. It loses its connection then: nothing else gives back what
/// the server holds for it.
const UNTAKEN_TIMEOUT: Duration = Duration::from_secs(10);

/// As much of an answer as the server may hold, in bytes, before the client takes it.
const MAX_PIECE_BYTES: usize = 16 << 10;

/// What polling a body for its next frame returns.
type PolledFrame = Poll<Option<Result<Frame<Bytes>, Status>>>;

/// The body of a request, which fails when it is not there in time.
#[derive(Debug)]
pub(super) struct TimedBody {
    body: Body,
    until: Instant,
    /// None before there was anything to wait for: most bodies come at once.
    over: Option<Pin<Box<Sleep>>>,
}

impl TimedBody {
    /// Gives the body its time, which begins now.
    pub(super) fn new(body: Body) -> Self {
        Self {
            body,
            until: Instant::now() + REQUEST_BODY_TIMEOUT,
            over: None,
        }
    }
}

impl HttpBody for TimedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> PolledFrame {
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
            REQUEST_BODY_TIMEOUT.as_secs()
        )))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Waits until a call may be worked on.
type Entering = BoxFuture<'static, Result<CallPermit, Status>>;

/// What a call keeps, once it was let in.
pub(super) type Entered = Arc<Mutex<Option<CallPermit>>>;

/// The body of a request that is let in when all of it is there: its last part
/// waits for that.
pub(super) struct AdmittedBody {
    body: TimedBody,
    /// The last part, while it waits.
    last: Option<Frame<Bytes>>,
    entering: Option<Entering>,
    entered: Entered,
}

impl AdmittedBody {
    /// Returns the body, and where it puts what the call keeps.
    pub(super) fn new(body: Body, entering: Entering) -> (Self, Entered) {
        let entered = Entered::default();
        let admitted = Self {
            body: TimedBody::new(body),
            last: None,
            entering: Some(entering),
            entered: Arc::clone(&entered),
        };
        (admitted, entered)
    }
}

impl HttpBody for AdmittedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> PolledFrame {
        let this = &mut *self;
        if this.last.is_none() && !this.body.is_end_stream() {
            match ready!(Pin::new(&mut this.body).poll_frame(context)) {
                Some(Ok(frame)) if this.body.is_end_stream() => this.last = Some(frame),
                None => {}
                more => return Poll::Ready(more),
            }
        }
        if let Some(entering) = &mut this.entering {
            let entered = ready!(entering.as_mut().poll(context));
            this.entering = None;
            match entered {
                Ok(kept) => {
                    let mut slot = this.entered.lock().unwrap_or_else(PoisonError::into_inner);
                    *slot = Some(kept);
                }
                Err(refused) => return Poll::Ready(Some(Err(refused))),
            }
        }
        Poll::Ready(this.last.take().map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream() && self.last.is_none() && self.entering.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of an answer, and what is kept until the caller has taken it.
///
/// It is given in pieces. The server takes a part whatever its size as soon as
/// the client has room for a byte, and then the end of the body at once: what
/// was given whole would be held by the server, and by nobody's account.
#[derive(Debug)]
pub(super) struct AnswerBody {
    body: Body,
    /// What was not given yet of the part that was asked for last.
    rest: Bytes,
    _kept: (CallPermit, Option<Busy>),
    given: Arc<TakenParts>,
    watch: Option<JoinHandle<()>>,
}

/// The parts of an answer that were given to the server, which asks for the next
/// one when it can send more. Twice their number, and one more while the next
/// one is not there: then it is not the client that is waited for.
#[derive(Debug, Default)]
struct TakenParts(AtomicU64);

impl TakenParts {
    fn note(&self, is_ready: bool) {
        let parts = self.0.load(Ordering::Relaxed) & !1;
        let now = match is_ready {
            true => parts + 2,
            false => parts | 1,
        };
        self.0.store(now, Ordering::Relaxed);
    }

    /// Returns when the client has taken nothing for a while.
    async fn left(&self) {
        let mut before = None;
        loop {
            tokio::time::sleep(UNTAKEN_TIMEOUT).await;
            let now = self.0.load(Ordering::Relaxed);
            let is_waited_for = now & 1 == 0;
            if is_waited_for && before == Some(now) {
                return;
            }
            before = Some(now);
        }
    }
}

impl AnswerBody {
    /// `kill_switch` ends the connection of a client that does not take its answer.
    pub(super) fn new(
        body: Body,
        kept: (CallPermit, Option<Busy>),
        kill_switch: Option<KillSwitch>,
    ) -> Self {
        let given = Arc::new(TakenParts::default());
        let watched = Arc::clone(&given);
        let watch = |kill_switch: KillSwitch| {
            tokio::spawn(async move {
                watched.left().await;
                tracing::debug!("a client does not take its answer: its connection is closed");
                kill_switch.trigger();
            })
        };
        Self {
            body,
            rest: Bytes::new(),
            _kept: kept,
            given,
            watch: kill_switch.map(watch),
        }
    }
}

impl HttpBody for AnswerBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> PolledFrame {
        let this = &mut *self;
        if this.rest.is_empty() {
            let frame = match ready_or_note(&this.given, Pin::new(&mut this.body), context) {
                Poll::Ready(frame) => frame,
                Poll::Pending => return Poll::Pending,
            };
            match frame.map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => this.rest = data,
                Some(Ok(Err(trailers))) => return Poll::Ready(Some(Ok(trailers))),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        } else {
            this.given.note(true);
        }
        let piece = this.rest.split_to(this.rest.len().min(MAX_PIECE_BYTES));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match self.rest.is_empty() {
            true => self.body.size_hint(),
            false => SizeHint::default(),
        }
    }
}

fn ready_or_note(
    given: &TakenParts,
    body: Pin<&mut Body>,
    context: &mut Context<'_>,
) -> PolledFrame {
    let frame = body.poll_frame(context);
    given.note(frame.is_ready());
    frame
}

impl Drop for AnswerBody {
    fn drop(&mut self) {
        if let Some(watch) = &self.watch {
            watch.abort();
        }
    }
}
