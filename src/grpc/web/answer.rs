//! Answers as JSON, with what tells two of them apart.

use axum::response::{IntoResponse, Response};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderValue};
use prost::Message;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use tonic::Status;

use super::super::v1;

/// An answer as JSON.
#[derive(Debug)]
pub(super) struct Json {
    text: Vec<u8>,
    /// The entity tag: differs when the answer differs. `None` for an answer with
    /// `as_of`, which is another each time.
    tag: Option<String>,
}

/// A message that is shown as JSON.
pub(super) trait Answer: Message + Serialize {
    /// The version of the counters in it, if it is about one thing.
    fn version(&self) -> Option<i64> {
        None
    }

    /// Tells whether it has `as_of`.
    fn is_dated(&self) -> bool {
        false
    }
}

impl Answer for v1::UserStats {
    fn version(&self) -> Option<i64> {
        Some(self.version)
    }

    fn is_dated(&self) -> bool {
        self.as_of.is_some()
    }
}

impl Answer for v1::UserDialogStats {
    fn version(&self) -> Option<i64> {
        Some(self.version)
    }

    fn is_dated(&self) -> bool {
        self.as_of.is_some()
    }
}

impl Answer for v1::DialogStats {
    fn version(&self) -> Option<i64> {
        Some(self.version)
    }

    fn is_dated(&self) -> bool {
        self.as_of.is_some()
    }
}

impl Answer for v1::MessageStats {}
impl Answer for v1::ListUserDialogStatsResponse {}
impl Answer for v1::BatchGetUserStatsResponse {}
impl Answer for v1::BatchGetDialogStatsResponse {}
impl Answer for v1::BatchGetMessageStatsResponse {}

impl Json {
    /// Writes an answer as JSON.
    ///
    /// # Errors
    /// When JSON cannot express it: a bug.
    pub(super) fn new(answer: &impl Answer) -> Result<Self, Status> {
        let bug = |error| Status::internal(format!("the answer: {error}"));
        let text = serde_json::to_vec(answer).map_err(bug)?;
        let tag = match answer.version() {
            _ if answer.is_dated() => None,
            Some(version) => Some(format!("W/\"{version}\"")),
            None => {
                let hash = hex::encode(&Sha256::digest(&text)[..12]);
                Some(format!("W/\"{hash}\""))
            }
        };
        Ok(Self { text, tag })
    }
}

impl IntoResponse for Json {
    fn into_response(self) -> Response {
        let tag = self.tag.map(|tag| [(ETAG, tag)]);
        let headers = [
            (CONTENT_TYPE, "application/json"),
            // Counters are one caller's to see, and another in a moment.
            (CACHE_CONTROL, "private, no-cache"),
        ];
        (headers, tag, self.text).into_response()
    }
}

/// Tells whether what a client has is what it would be given: `If-None-Match` names
/// tags with commas between, perhaps in several lines, or all by `*`.
pub(super) fn is_known<'a>(
    tag: Option<&HeaderValue>,
    known: impl IntoIterator<Item = &'a HeaderValue>,
) -> bool {
    let Some(Ok(tag)) = tag.map(HeaderValue::to_str) else {
        return false;
    };
    let opaque = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    let lines = known.into_iter().filter_map(|line| line.to_str().ok());
    let mut tags = lines.flat_map(|line| line.split(','));
    tags.any(|known| known.trim() == "*" || opaque(known) == opaque(tag))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_is_told_by_its_tag() {
        let value = |text: &str| HeaderValue::from_str(text).expect("ASCII");
        let tag = value("W/\"7\"");
        for (known, expected) in [
            ("W/\"7\"", true),
            ("\"7\"", true),
            ("\"6\", W/\"7\"", true),
            ("*", true),
            ("\"77\"", false),
            ("", false),
        ] {
            assert_eq!(is_known(Some(&tag), [&value(known)]), expected, "{known}");
        }
        assert!(is_known(Some(&tag), [&value("\"1\""), &value("\"7\"")]));
        assert!(!is_known(Some(&tag), []));
        assert!(!is_known(None, [&value("*")]));
    }

    #[test]
    fn names_are_those_of_the_proto_files_and_times_those_of_rfc_3339() {
        let stats = v1::DialogStats {
            tenant_id: "t".into(),
            dialog_id: "d".into(),
            message_count: 3,
            version: 9,
            last_message_at: Some(prost_types::Timestamp {
                seconds: 1_763_551_369,
                nanos: 397_648_000,
            }),
            ..Default::default()
        };
        let shown = Json::new(&stats).expect("a message");
        assert_eq!(
            String::from_utf8(shown.text).expect("UTF-8"),
            r#"{"tenant_id":"t","dialog_id":"d","message_count":3,"member_count":0,"topic_count":0,"last_message_at":"2025-11-19T11:22:49.397648Z","version":9}"#
        );
        assert_eq!(shown.tag.as_deref(), Some("W/\"9\""));
    }
}
