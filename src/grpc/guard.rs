//! Who calls: asked of every call before its body is read.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::SystemTime;

use tonic::body::Body;
use tonic::codegen::http;
use tonic::{Code, Request, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::auth::methods::{Allowed, allowed};
use crate::auth::{Authenticator, Identity, Refusal, Shown};
use crate::listener::Peer;
use crate::telemetry::metrics::Metrics;

/// Whose reasons they are, in `ErrorInfo`.
const DOMAIN: &str = "chatcounters";

/// Lets a call through to its method, with the caller's [`Identity`] among its
/// extensions, or refuses it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Guard {
    authenticator: Authenticator,
    metrics: Metrics,
}

impl Guard {
    /// Asks this authenticator, and counts what comes of it.
    pub fn new(authenticator: Authenticator, metrics: Metrics) -> Self {
        Self {
            authenticator,
            metrics,
        }
    }

    /// Lets a call go on, with the identity of its caller.
    ///
    /// # Errors
    /// The status with which it is refused.
    pub(super) fn pass(&self, call: &mut http::Request<Body>) -> Result<(), Status> {
        let checked = self.identified(call);
        let outcome = match &checked {
            // Not asked: probes are no callers.
            Ok(None) => return Ok(()),
            Ok(Some(_)) => "accepted",
            Err(Refused::Unknown(refusal)) => refusal.outcome(),
            Err(Refused::NotAllowed(..)) => "denied",
            Err(Refused::NoMethod) => return Err(Refused::NoMethod.status()),
        };
        self.metrics.auth.asked(outcome);
        match checked {
            Ok(identity) => {
                if let Some(identity) = identity {
                    call.extensions_mut().insert(identity);
                }
                Ok(())
            }
            Err(refused) => Err(refused.status()),
        }
    }

    fn identified(&self, call: &http::Request<Body>) -> Result<Option<Arc<Identity>>, Refused> {
        let allowed = allowed(call.uri().path()).ok_or(Refused::NoMethod)?;
        if allowed == Allowed::Everybody {
            return Ok(None);
        }
        let shown = shown(call).map_err(Refused::Unknown)?;
        let identity = self.authenticator.identify(shown, SystemTime::now());
        let identity = identity.map_err(Refused::Unknown)?;
        match allowed.admits(&identity) {
            true => Ok(Some(identity)),
            false => Err(Refused::NotAllowed(identity, allowed)),
        }
    }
}

/// What a call shows of who makes it.
fn shown(call: &http::Request<Body>) -> Result<Shown<'_>, Refusal> {
    let mut headers = call.headers().get_all(http::header::AUTHORIZATION).iter();
    let authorization = headers.next().map(http::HeaderValue::as_bytes);
    if headers.next().is_some() {
        // Which one somebody else has looked at cannot be known.
        return Err(Refusal::NotBearer);
    }
    let peer = call.extensions().get::<Peer>();
    let certificate = peer.and_then(|peer| peer.certificate.as_ref()?.chain.first());
    Ok(Shown {
        authorization,
        certificate: certificate.map(AsRef::as_ref),
    })
}

/// Explains why a call is refused before its body is read.
enum Refused {
    NoMethod,
    Unknown(Refusal),
    NotAllowed(Arc<Identity>, Allowed),
}

impl Refused {
    fn status(self) -> Status {
        match self {
            Refused::NoMethod => Status::unimplemented("no such method"),
            Refused::Unknown(refusal) => {
                let code = match refusal.is_ours() {
                    true => Code::Unavailable,
                    false => Code::Unauthenticated,
                };
                informed(code, refusal.reason(), refusal.to_string())
            }
            Refused::NotAllowed(identity, allowed) => informed(
                Code::PermissionDenied,
                "ROLE_MISSING",
                format!(
                    "{} may not do this: it takes the role {}",
                    identity.name(),
                    allowed.wanted()
                ),
            ),
        }
    }
}

/// What somebody may not do although their role may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Denied {
    /// The tenant is not one of the caller's.
    Tenant,
    /// The call is about all tenants, and the caller has some.
    AllTenants,
    /// The user is not the caller.
    User,
}

impl Denied {
    /// Returns `PERMISSION_DENIED` with the reason for programs.
    pub(super) fn status(self) -> Status {
        let (reason, message) = match self {
            Denied::Tenant => ("TENANT_DENIED", "the tenant is not one of the caller's"),
            Denied::AllTenants => (
                "TENANT_DENIED",
                "this is about all tenants, and the caller has some; name one of them where that is possible",
            ),
            Denied::User => (
                "USER_DENIED",
                "the role user reads its own counters, and no others",
            ),
        };
        informed(Code::PermissionDenied, reason, message)
    }
}

fn informed(code: Code, reason: &str, message: impl Into<String>) -> Status {
    let info = ErrorDetails::with_error_info(reason, DOMAIN, []);
    Status::with_error_details(code, message, info)
}

/// On whose account places are taken, of a call that came past the guard:
/// whoever has no name has an address.
pub(super) fn account(call: &http::Extensions) -> String {
    let identity = call.get::<Arc<Identity>>();
    let named = identity.filter(|identity| !identity.is_anonymous());
    let address = || call.get::<Peer>().map(|peer| place_of(peer.address.ip()));
    match named {
        Some(identity) => identity.name().to_owned(),
        None => address().unwrap_or_default(),
    }
}

/// Whoever has an IPv6 address has a network of them.
fn place_of(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            format!("{}/64", Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

/// Who calls a method, and from where.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    pub(super) identity: Arc<Identity>,
    address: Option<SocketAddr>,
}

impl Caller {
    /// Returns the caller of a call that came past the guard, or that
    /// [`Identity::local`] makes in this process.
    ///
    /// # Errors
    /// When nobody has asked who calls: a method must not answer then.
    pub(super) fn of<T>(request: &Request<T>) -> Result<Self, Status> {
        let identity = request.extensions().get::<Arc<Identity>>();
        let identity = identity.ok_or_else(|| Status::internal("nobody has asked who calls"))?;
        Ok(Self {
            identity: Arc::clone(identity),
            address: Peer::address_of(request),
        })
    }

    /// Anybody, of this process.
    #[cfg(test)]
    pub(super) fn anonymous() -> Self {
        Self {
            identity: Identity::anonymous(),
            address: None,
        }
    }

    /// Who they are, and from where they call, if not from this process.
    pub(super) fn described(&self) -> String {
        let name = self.identity.name();
        match self.address {
            Some(address) => format!("{name} (grpc:{address})"),
            None => name.to_owned(),
        }
    }
}
