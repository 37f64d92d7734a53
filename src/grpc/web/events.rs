//! A stream of messages as server-sent events.
//!
//! `update` has a message, and as its id the token to go on from, which a browser
//! sends as `Last-Event-ID` when it connects again. `end` says that the stream
//! has had its time, `problem` why there is no more, as of any request. (`error`
//! is what browsers call an event of their own.)

use std::convert::Infallible;
use std::time::Duration;

use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse as _, Response};
use futures::{StreamExt as _, stream};
use hyper::header::{CACHE_CONTROL, HeaderName};
use prost::Message;
use serde::Serialize;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::super::admission::Place;
use super::super::v1;
use super::super::watches::Messages;
use super::problem::Problem;
use super::size::check_answer;

/// Tells proxies not to keep events until they have many.
const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// A message of a watch.
pub(super) trait Resumable: Message + Serialize {
    /// The token from which the watch is resumed after this message; empty when the
    /// last one holds.
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

/// The event that has a message.
fn update(message: &impl Resumable, max_bytes: usize) -> Result<Event, Status> {
    check_answer(message, max_bytes)?;
    let bug = |error| Status::internal(format!("the event: {error}"));
    let data = serde_json::to_string(message).map_err(bug)?;
    let event = Event::default().event("update");
    // An empty id would take the last one from the client.
    let event = match message.token() {
        "" => event,
        token => event.id(token),
    };
    Ok(event.data(data))
}

/// The last event of a stream: when to come back, or why not to.
fn last(status: &Status) -> Event {
    let named = |name| {
        let wait = status.get_details_retry_info();
        let wait = wait.and_then(|info| info.retry_delay);
        let event = Event::default().event(name);
        match wait {
            None => event,
            Some(wait) => event.retry(wait.max(Duration::from_millis(1))),
        }
    };
    match status.code() {
        Code::Ok => Event::default().event("end").data("{}"),
        Code::Unavailable => named("end").data("{}"),
        _ => named("problem").data(Problem::from(status.clone()).text()),
    }
}

/// Makes the response with the messages of a stream as events. An event is made when
/// the client takes it. The place is free again when the stream has ended.
pub(super) fn response<M: Resumable + 'static>(
    messages: Messages<M>,
    max_message_bytes: usize,
    place: Place,
) -> Response {
    let open = Some((messages, place));
    let events = stream::unfold(open, move |open| async move {
        let (mut messages, place) = open?;
        let event = match messages.next().await {
            Some(message) => message.and_then(|message| update(&message, max_message_bytes)),
            None => Err(Status::ok("")),
        };
        Some(match event {
            Ok(event) => (Ok::<_, Infallible>(event), Some((messages, place))),
            Err(status) => (Ok(last(&status)), None),
        })
    });
    let headers = [(CACHE_CONTROL, "no-store"), (ACCEL_BUFFERING, "no")];
    (headers, Sse::new(events)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn last(status: &Status) -> String {
        let event = super::last(status);
        let told = Sse::new(stream::iter([Ok::<_, Infallible>(event)])).into_response();
        let told = axum::body::to_bytes(told.into_body(), 4_096).await.unwrap();
        String::from_utf8_lossy(&told).into_owned()
    }

    #[tokio::test]
    async fn the_last_event_says_when_to_come_back_or_why_not_to() {
        let wait = Duration::from_millis(250);
        let details = tonic_types::ErrorDetails::with_retry_info(Some(wait));
        let had_its_time = Status::with_error_details(Code::Unavailable, "later", details);
        assert_eq!(
            last(&had_its_time).await,
            "event: end\nretry: 250\ndata: {}\n\n"
        );
        let refused = last(&Status::permission_denied("no")).await;
        assert!(refused.starts_with("event: problem\ndata: {"), "{refused}");
        assert!(refused.contains(r#""status":403"#), "{refused}");
    }
}
