//! A running service, asked over gRPC.

use std::time::Duration;

use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::{ExitCode, Failure};

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection to a service, and its address as it is to be shown.
pub(super) async fn connect(address: &str) -> Result<(String, Channel), Failure> {
    let address = address.strip_prefix("http://").unwrap_or(address);
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|_| {
        let message = format!("--address: expected host:port, found {address:?}");
        Failure::new(ExitCode::Usage, message)
    })?;
    let channel = endpoint.connect_timeout(CONNECT_TIMEOUT).connect().await;
    let channel = channel.map_err(|error| {
        let message = format!(
            "no gRPC server answers at {address}: {}. Is `chat-counters serve` running? --address names another",
            innermost(&error)
        );
        Failure::new(ExitCode::Server, message)
    })?;
    Ok((address.to_owned(), channel))
}

/// Why the service did not answer.
pub(super) fn refused(address: &str, status: &Status) -> Failure {
    let message = status.message();
    match status.code() {
        Code::InvalidArgument => Failure::new(ExitCode::Usage, message),
        Code::Unimplemented => {
            let message = format!(
                "the service at {address} does not answer this there: counters are at grpc.listen, dead letters and maintenance at admin.listen of its configuration"
            );
            Failure::new(ExitCode::Server, message)
        }
        code => {
            let message = format!("the service at {address} cannot answer: {message} ({code:?})");
            Failure::new(ExitCode::Server, message)
        }
    }
}

/// What a failed connection comes down to.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// A point in time as RFC 3339; null when there is none.
pub(super) fn moment(at: Option<prost_types::Timestamp>) -> Value {
    let text = at.and_then(|at| {
        let nanos = i128::from(at.seconds) * 1_000_000_000 + i128::from(at.nanos);
        OffsetDateTime::from_unix_timestamp_nanos(nanos)
            .ok()?
            .format(&Rfc3339)
            .ok()
    });
    text.map_or(Value::Null, Value::String)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_shown_to_the_microsecond() {
        let at = |seconds, nanos| moment(Some(prost_types::Timestamp { seconds, nanos }));
        assert_eq!(at(0, 0), "1970-01-01T00:00:00Z");
        assert_eq!(
            at(1_700_000_000, 123_456_000),
            "2023-11-14T22:13:20.123456Z"
        );
        assert_eq!(at(i64::MAX, 0), Value::Null);
        assert_eq!(moment(None), Value::Null);
    }
}
