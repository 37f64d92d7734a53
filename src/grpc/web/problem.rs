//! What went wrong, as RFC 9457 has it told over HTTP.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use hyper::StatusCode;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use serde::Serialize;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// A problem: gRPC's status and its details. Fields are those of RFC 9457, then
/// ours.
#[derive(Debug, Serialize)]
pub(super) struct Problem {
    /// Always `about:blank`: no page explains it, `code` says which problem it is.
    r#type: &'static str,
    title: &'static str,
    status: u16,
    detail: String,
    /// gRPC's code, by its name.
    code: &'static str,
    /// Why somebody may not do something, for programs.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// What is wrong with which field.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    violations: Vec<Violation>,
    #[serde(skip)]
    retry_after: Option<Duration>,
}

/// A field that is not as it must be, and what was expected.
#[derive(Debug, Serialize)]
struct Violation {
    field: String,
    description: String,
}

impl From<Status> for Problem {
    fn from(status: Status) -> Self {
        let (http, code, title) = words(status.code());
        let violations = status.get_details_bad_request().map(|found| {
            let found = found.field_violations.into_iter();
            let violation = |found: tonic_types::FieldViolation| Violation {
                field: found.field,
                description: found.description,
            };
            found.map(violation).collect()
        });
        let retry_after = status.get_details_retry_info();
        Self {
            r#type: "about:blank",
            title,
            status: http,
            detail: status.message().to_owned(),
            code,
            reason: status.get_details_error_info().map(|info| info.reason),
            violations: violations.unwrap_or_default(),
            retry_after: retry_after.and_then(|info| info.retry_delay),
        }
    }
}

/// The status of HTTP for a code, its name and its words.
fn words(code: Code) -> (u16, &'static str, &'static str) {
    match code {
        Code::InvalidArgument => (400, "INVALID_ARGUMENT", "the request is not as it must be"),
        Code::FailedPrecondition => (409, "FAILED_PRECONDITION", "not as things are"),
        Code::OutOfRange => (413, "OUT_OF_RANGE", "the request is too large"),
        Code::Unauthenticated => (
            401,
            "UNAUTHENTICATED",
            "nobody is known by these credentials",
        ),
        Code::PermissionDenied => (403, "PERMISSION_DENIED", "the caller may not do this"),
        Code::NotFound => (404, "NOT_FOUND", "there is no such thing"),
        Code::Unimplemented => (404, "UNIMPLEMENTED", "there is no such thing to ask"),
        Code::AlreadyExists => (409, "ALREADY_EXISTS", "it is there already"),
        Code::Aborted => (409, "ABORTED", "somebody else was faster"),
        Code::ResourceExhausted => (429, "RESOURCE_EXHAUSTED", "there is no room for it now"),
        Code::Cancelled => (499, "CANCELLED", "the caller has given up"),
        Code::Unavailable => (503, "UNAVAILABLE", "the service cannot answer now"),
        Code::DeadlineExceeded => (504, "DEADLINE_EXCEEDED", "not answered in time"),
        Code::DataLoss => (500, "DATA_LOSS", "something is wrong with the service"),
        Code::Internal => (500, "INTERNAL", "something is wrong with the service"),
        Code::Unknown | Code::Ok => (500, "UNKNOWN", "something is wrong with the service"),
    }
}

impl Problem {
    /// Returns the same with another status of HTTP than gRPC's code has.
    pub(super) fn with_status(self, status: StatusCode) -> Self {
        let status = status.as_u16();
        Self { status, ..self }
    }

    /// Writes the problem as JSON, in one line.
    pub(super) fn text(&self) -> String {
        // Of strings and numbers alone: it cannot fail.
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = [
            (CONTENT_TYPE, "application/problem+json"),
            (CACHE_CONTROL, "no-store"),
        ];
        let retry_after = self.retry_after.map(|wait| {
            let seconds = wait.as_secs_f64().ceil().max(1.0) as u64;
            [(RETRY_AFTER, seconds.to_string())]
        });
        let challenge =
            (status == StatusCode::UNAUTHORIZED).then_some([(WWW_AUTHENTICATE, "Bearer")]);
        (status, headers, retry_after, challenge, self.text()).into_response()
    }
}

#[cfg(test)]
mod tests {
    use tonic_types::{ErrorDetails, FieldViolation};

    use super::*;

    #[test]
    fn a_problem_says_what_grpc_says() {
        let violation = FieldViolation::new("user_id", "expected 1 to 512 bytes, found 0");
        let details = ErrorDetails::with_bad_request(vec![violation]);
        let status = Status::with_error_details(Code::InvalidArgument, "invalid request", details);
        let problem: serde_json::Value =
            serde_json::from_str(&Problem::from(status).text()).expect("JSON");
        assert_eq!(
            problem,
            serde_json::json!({
                "type": "about:blank",
                "title": "the request is not as it must be",
                "status": 400,
                "detail": "invalid request",
                "code": "INVALID_ARGUMENT",
                "violations": [
                    { "field": "user_id", "description": "expected 1 to 512 bytes, found 0" }
                ],
            })
        );
    }

    #[test]
    fn who_is_to_come_back_is_told_when() {
        let details = ErrorDetails::with_retry_info(Some(Duration::from_millis(1_200)));
        let status = Status::with_error_details(Code::ResourceExhausted, "full", details);
        let response = Problem::from(status).into_response();
        assert_eq!(response.status(), 429);
        assert_eq!(response.headers()[RETRY_AFTER], "2");
    }
}
