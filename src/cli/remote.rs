//! A running service, asked over gRPC.

use std::error::Error as _;
use std::time::Duration;

use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use super::access::Target;
use super::{ExitCode, Failure};

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection on which every call says who calls.
pub(super) type Connection = InterceptedService<Channel, Bearer>;

/// Adds the bearer token to each call, if there is one.
#[derive(Clone)]
pub(super) struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut call: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            let metadata = call.metadata_mut();
            metadata.insert("authorization", token.clone());
        }
        Ok(call)
    }
}

/// A connection to a service, and its address as it is to be shown.
pub(super) async fn connect(target: Target) -> Result<(String, Connection), Failure> {
    let Target {
        address,
        tls,
        token,
        ..
    } = target;
    let scheme = if tls.is_some() { "https" } else { "http" };
    let mut endpoint = Endpoint::from_shared(format!("{scheme}://{address}")).map_err(|_| {
        let message = format!("--address: expected host:port, found {address:?}");
        Failure::new(ExitCode::Usage, message)
    })?;
    if let Some(tls) = tls {
        endpoint = endpoint.tls_config(tls).map_err(|error| {
            let message = format!("--tls-ca, --tls-cert, --tls-key: {}", innermost(&error));
            Failure::new(ExitCode::Usage, message)
        })?;
    }
    let channel = endpoint.connect_timeout(CONNECT_TIMEOUT).connect().await;
    let channel = channel.map_err(|error| {
        let why = innermost(&error);
        let hint =
            hint(&why).unwrap_or("Is `chat-counters serve` running? --address names another");
        let message = format!("no gRPC server answers at {address}: {why}. {hint}");
        Failure::new(ExitCode::Server, message)
    })?;
    let connection = InterceptedService::new(channel, Bearer(token));
    Ok((address, connection))
}

/// A count in an answer, which is never negative.
pub(super) fn count(count: i64) -> u64 {
    u64::try_from(count).unwrap_or(0)
}

/// What may help when TLS does not come about.
fn hint(why: &str) -> Option<&'static str> {
    let hints = [
        (
            "UnknownIssuer",
            "--tls-ca FILE names the authority that has certified it",
        ),
        (
            "not valid for name",
            "--tls-name NAME says which name its certificate has",
        ),
        (
            "NotValidForName",
            "--tls-name NAME says which name its certificate has",
        ),
        (
            "InvalidContentType",
            "Perhaps it is served without TLS: leave --tls-... out",
        ),
        (
            "ertificateRequired",
            "--tls-cert and --tls-key say who you are",
        ),
    ];
    let known = hints.iter().find(|(part, _)| why.contains(part));
    known.map(|(_, hint)| *hint)
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
        Code::Unauthenticated => {
            let message = format!(
                "the service at {address} does not know you: {message}. --token-file, or --tls-cert and --tls-key, say who you are"
            );
            Failure::new(ExitCode::Server, message)
        }
        Code::PermissionDenied => {
            let message = format!("the service at {address} refuses: {message}");
            Failure::new(ExitCode::Server, message)
        }
        code => {
            // Of the connection, not of the service.
            let broken = status.source().map(innermost).unwrap_or_default();
            let message = match hint(&broken) {
                Some(hint) => format!("{message}: {broken}. {hint}"),
                None if broken.is_empty() => message.to_owned(),
                None => format!(
                    "{message}: {broken}. Perhaps it wants TLS (--tls-ca FILE), or a certificate of yours (--tls-cert, --tls-key)"
                ),
            };
            let message = format!("the service at {address} cannot answer: {message} ({code:?})");
            Failure::new(ExitCode::Server, message)
        }
    }
}

/// Why the service did not do what an administrator asked for.
pub(super) fn work_refused(address: &str, status: &Status) -> Failure {
    match status.code() {
        Code::NotFound | Code::FailedPrecondition | Code::ResourceExhausted => {
            Failure::new(ExitCode::No, status.message())
        }
        Code::Aborted => Failure::new(ExitCode::Server, status.message()),
        _ => refused(address, status),
    }
}

/// Returns what a failed connection comes down to.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
