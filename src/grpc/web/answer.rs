//! Answers as JSON, with what tells two of them apart.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CACHE_CONTROL, ETAG, HeaderValue};
use prost::Message;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{Extensions, Response};

use super::super::v1;
use super::response;

const KIND: &str = "application/json";

/// An answer.
#[derive(Debug)]
pub(super) struct Json {
    text: Vec<u8>,
    /// The entity tag: differs when the answer differs. `None` for an answer with
    /// `as_of`, which is another each time.
    tag: Option<String>,
}

/// A message that is shown as JSON, and may have a version of its own.
pub(super) trait Answer: Message + Default + Serialize {
    /// The version of what is answered, if it has one.
    fn version(&self) -> Option<i64> {
        None
    }

    /// Whether it says as of when it is.
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

/// A message that was encoded, as JSON.
///
/// # Errors
/// When it is none: a bug.
pub(super) fn json<M: Answer>(bytes: Bytes) -> Result<Json, Status> {
    let bug = |what: &dyn std::fmt::Display| Status::internal(format!("the answer: {what}"));
    let message = M::decode(bytes).map_err(|error| bug(&error))?;
    let text = serde_json::to_vec(&message).map_err(|error| bug(&error))?;
    let tag = match message.version() {
        _ if message.is_dated() => None,
        Some(version) => Some(format!("W/\"{version}\"")),
        None => {
            let hash = Sha256::digest(&text);
            let hex: String = hash[..12].iter().map(|b| format!("{b:02x}")).collect();
            Some(format!("W/\"{hex}\""))
        }
    };
    Ok(Json { text, tag })
}

impl Json {
    /// The response, with what the one of gRPC keeps.
    pub(super) fn response(self, kept: Extensions) -> Response<Body> {
        let body = Body::new(Full::new(Bytes::from(self.text)));
        let mut response = response(kept, body, KIND);
        let headers = response.headers_mut();
        if let Some(Ok(tag)) = self.tag.as_deref().map(HeaderValue::from_str) {
            headers.insert(ETAG, tag);
        }
        // Counters are one caller's to see, and another in a moment.
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
        response
    }
}

/// Whether what a client has is what it would be given: `If-None-Match` names
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
        let shown = json::<v1::DialogStats>(stats.encode_to_vec().into()).expect("a message");
        assert_eq!(
            String::from_utf8(shown.text).expect("UTF-8"),
            r#"{"tenant_id":"t","dialog_id":"d","message_count":3,"member_count":0,"topic_count":0,"last_message_at":"2025-11-19T11:22:49.397648Z","version":9}"#
        );
        assert_eq!(shown.tag.as_deref(), Some("W/\"9\""));
    }
}
