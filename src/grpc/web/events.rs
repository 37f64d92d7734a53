//! A stream of messages as server-sent events.
//!
//! `update` has a message, and as its id the token to go on from, which a browser
//! sends as `Last-Event-ID` when it connects again. `end` says that the stream
//! has had its time, `problem` why there is no more, as of any request. (`error`
//! is what browsers call an event of their own.)

use bytes::{Bytes, BytesMut};
use futures::stream;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use hyper::header::{CACHE_CONTROL, HeaderValue};
use prost::Message;
use serde::Serialize;
use tonic::body::Body;
use tonic::codegen::http::{Extensions, Response};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::super::admission::Place;
use super::super::v1;
use super::ask::refused;
use super::framing::unframed;
use super::problem::Problem;

const KIND: &str = "text/event-stream";
/// What proxies are told that else would keep events until they have many.
const UNBUFFERED: &str = "x-accel-buffering";

/// What one message tells.
#[derive(Debug)]
pub(super) struct Event {
    /// To go on from.
    id: String,
    /// JSON, in one line.
    data: String,
}

/// A message of a watch.
pub(super) trait Resumable: Message + Default + Serialize {
    /// To go on from.
    fn token(&self) -> &str;
}

impl Resumable for v1::WatchUserStatsResponse {
    fn token(&self) -> &str {
        &self.resume_token
    }
}

impl Resumable for v1::WatchDialogStatsResponse {
    fn token(&self) -> &str {
        &self.resume_token
    }
}

/// A message that was encoded, as an event.
///
/// # Errors
/// When it is none: a bug.
pub(super) fn event<M: Resumable>(bytes: Bytes) -> Result<Event, Status> {
    let bug = |what: &dyn std::fmt::Display| Status::internal(format!("the event: {what}"));
    let message = M::decode(bytes).map_err(|error| bug(&error))?;
    Ok(Event {
        id: message.token().to_owned(),
        data: serde_json::to_string(&message).map_err(|error| bug(&error))?,
    })
}

impl Event {
    fn written(&self) -> String {
        let Self { id, data } = self;
        // An empty id would take the last one from the client.
        match id.is_empty() {
            true => format!("event: update\ndata: {data}\n\n"),
            false => format!("event: update\nid: {id}\ndata: {data}\n\n"),
        }
    }
}

/// The last event of a stream: when to come back, or why not to.
fn last(status: &Status) -> String {
    let wait = status
        .get_details_retry_info()
        .and_then(|info| info.retry_delay);
    let retry = wait.map_or(String::new(), |wait| {
        format!("retry: {}\n", wait.as_millis().max(1))
    });
    match status.code() {
        Code::Ok => "event: end\ndata: {}\n\n".into(),
        Code::Unavailable => format!("event: end\n{retry}data: {{}}\n\n"),
        _ => {
            let problem = Problem::from(status.clone());
            format!("event: problem\n{retry}data: {}\n\n", problem.text())
        }
    }
}

/// The answer of gRPC, and what has come of it.
struct Coming {
    body: Body,
    come: BytesMut,
    show: fn(Bytes) -> Result<Event, Status>,
    is_over: bool,
    _place: Option<Place>,
}

impl Coming {
    /// What comes next, in the words of events; `None` after the last.
    async fn next(&mut self) -> Option<String> {
        loop {
            if self.is_over {
                return None;
            }
            match unframed(&mut self.come) {
                Ok(Some(message)) => {
                    return Some(match (self.show)(message) {
                        Ok(event) => event.written(),
                        Err(bug) => self.ended(&bug),
                    });
                }
                Ok(None) => {}
                Err(bug) => return Some(self.ended(&bug)),
            }
            match self.body.frame().await {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.come.extend_from_slice(&data),
                    Err(frame) => {
                        let status = frame.trailers_ref().and_then(refused);
                        return Some(self.ended(&status.unwrap_or_else(|| Status::ok(""))));
                    }
                },
                Some(Err(failed)) => return Some(self.ended(&failed)),
                None => return Some(self.ended(&Status::ok(""))),
            }
        }
    }

    fn ended(&mut self, status: &Status) -> String {
        self.is_over = true;
        last(status)
    }
}

/// The response with these events, with what the one of gRPC keeps.
pub(super) fn response(kept: Extensions, events: Body) -> Response<Body> {
    let mut response = super::response(kept, events, KIND);
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(UNBUFFERED, HeaderValue::from_static("no"));
    response
}

/// The events of an answer of gRPC. An event is made when the client takes it.
pub(super) fn body(
    body: Body,
    place: Option<Place>,
    show: fn(Bytes) -> Result<Event, Status>,
) -> Body {
    let coming = Coming {
        body,
        come: BytesMut::new(),
        show,
        is_over: false,
        _place: place,
    };
    let events = stream::unfold(coming, |mut coming| async move {
        let text = coming.next().await?;
        Some((Ok::<_, Status>(Frame::data(Bytes::from(text))), coming))
    });
    Body::new(StreamBody::new(events))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_event_says_when_to_come_back_or_why_not_to() {
        let wait = std::time::Duration::from_millis(250);
        let details = tonic_types::ErrorDetails::with_retry_info(Some(wait));
        let had_its_time = Status::with_error_details(Code::Unavailable, "later", details);
        assert_eq!(last(&had_its_time), "event: end\nretry: 250\ndata: {}\n\n");
        let refused = last(&Status::permission_denied("no"));
        assert!(refused.starts_with("event: problem\ndata: {"), "{refused}");
        assert!(refused.contains(r#""status":403"#), "{refused}");
    }
}
