//! Who asks, and what they may do.
//!
//! A caller shows a credential: a bearer token (`token`, `jwt`) or a client
//! certificate (`mtls`). [`Authenticator`] makes an [`Identity`] of it, or says
//! why not; [`methods`] says which roles each method wants. Nothing here knows
//! of gRPC: `grpc::guard` asks, before a body is read.
//!
//! Signatures are verified with ring, which the tree has for TLS anyway: a
//! library for JWT would bring a second implementation of them, or RSA code
//! with a known leak, and would still want every claim to be asked for.

mod bearer;
mod certificate;
mod fetch;
mod file;
mod identity;
mod jwks;
mod jwt;
pub mod methods;
mod refusal;
mod start;
mod tokens;

use std::sync::Arc;
use std::time::SystemTime;

pub use bearer::{MAX_BEARER_BYTES, bearer};
pub use certificate::Certificates;
pub use file::{FileError, Reloaded};
pub use identity::{Identity, Role, Roles, Tenants};
pub use jwks::{KeySet, KeySetError};
pub use jwt::Verifier;
pub use refusal::Refusal;
pub use start::{Sources, StartError, Started};
pub use tokens::{NoRandomness, Tokens, digest_hex, generate};

/// The credentials that a caller shows.
#[derive(Debug, Clone, Copy, Default)]
pub struct Shown<'c> {
    /// The value of `authorization`, if there is one.
    pub authorization: Option<&'c [u8]>,
    /// The certificate that the TLS handshake has verified, in DER.
    pub certificate: Option<&'c [u8]>,
}

/// Makes identities of credentials. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Authenticator {
    /// Whether everybody is let in as `anonymous`.
    open: bool,
    certificates: Option<Reloaded<Certificates>>,
    tokens: Option<Reloaded<Tokens>>,
    jwt: Option<Verifier>,
}

impl Authenticator {
    /// Makes one that takes everybody as `anonymous`, with every role.
    pub fn open() -> Self {
        Self {
            open: true,
            ..Self::default()
        }
    }

    /// Identifies the caller who shows these credentials.
    ///
    /// A bearer token decides alone: one that is not good is refused even where
    /// the certificate would do, so that nobody is taken for somebody else than
    /// they said.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn identify(&self, shown: Shown<'_>, now: SystemTime) -> Result<Arc<Identity>, Refusal> {
        if self.open {
            return Ok(Identity::anonymous());
        }
        match (shown.authorization, shown.certificate) {
            (Some(header), _) => self.by_token(bearer(header)?, now),
            (None, Some(certificate)) => self.by_certificate(certificate, now),
            (None, None) => Err(Refusal::NoCredentials(self.wanted())),
        }
    }

    fn by_token(&self, token: &str, now: SystemTime) -> Result<Arc<Identity>, Refusal> {
        let known = self.tokens.as_ref();
        if let Some(identity) = known.and_then(|tokens| tokens.current().find(token)) {
            return Ok(identity);
        }
        match &self.jwt {
            Some(jwt) if self.tokens.is_none() || token.contains('.') => jwt.verify(token, now),
            _ if self.tokens.is_some() => Err(Refusal::UnknownToken),
            _ => Err(Refusal::NoCredentials(self.wanted())),
        }
    }

    fn by_certificate(
        &self,
        certificate: &[u8],
        now: SystemTime,
    ) -> Result<Arc<Identity>, Refusal> {
        match &self.certificates {
            Some(certificates) => certificates.current().find(certificate, now),
            None => Err(Refusal::NoCredentials(self.wanted())),
        }
    }

    /// Names the credentials that are taken, for people.
    fn wanted(&self) -> &'static str {
        let bearer = self.tokens.is_some() || self.jwt.is_some();
        match (self.certificates.is_some(), bearer) {
            (true, true) => "a client certificate, or authorization: Bearer TOKEN",
            (true, false) => "a client certificate",
            _ => "authorization: Bearer TOKEN",
        }
    }
}

#[cfg(test)]
mod tests;
