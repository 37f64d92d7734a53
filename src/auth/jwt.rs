//! JSON Web Tokens (RFC 7519), signed in the compact form.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::fetch::Fetched;
use super::jwks::Algorithm;
use super::{Identity, KeySet, Refusal, Reloaded, Role, Roles, Tenants};
use crate::event::UserId;

/// How far the clocks of the issuer and of this process may be apart.
const CLOCK_LEEWAY: Duration = Duration::from_secs(60);

/// Where the issuer's keys are.
#[derive(Debug, Clone)]
pub(super) enum Keys {
    File(Reloaded<KeySet>),
    Url(Fetched),
}

/// Verifies the tokens of one issuer. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Verifier {
    issuer: Arc<str>,
    audience: Arc<str>,
    max_lifetime: Duration,
    keys: Keys,
}

/// The header of a token (JOSE).
#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    /// Extensions that must be understood. None is.
    crit: Option<serde_json::Value>,
}

/// The claims of a token that are looked at.
#[derive(Deserialize)]
struct Claims {
    exp: Option<f64>,
    nbf: Option<f64>,
    iat: Option<f64>,
    iss: Option<String>,
    aud: Option<Audience>,
    sub: Option<String>,
    tenants: Option<Vec<String>>,
    roles: Option<Vec<String>>,
}

/// The claim `aud`, which is one text or several.
#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

impl Audience {
    fn includes(&self, audience: &str) -> bool {
        match self {
            Audience::One(one) => one == audience,
            Audience::Several(several) => several.iter().any(|one| one == audience),
        }
    }
}

impl Verifier {
    /// Makes a verifier of the tokens of this issuer that are for this audience.
    pub(super) fn new(issuer: &str, audience: &str, max_lifetime: Duration, keys: Keys) -> Self {
        Self {
            issuer: issuer.into(),
            audience: audience.into(),
            max_lifetime,
            keys,
        }
    }

    /// Whose token this is. Of what is in it nothing is believed before the
    /// signature, but for which key to verify it with.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn verify(&self, token: &str, now: SystemTime) -> Result<Arc<Identity>, Refusal> {
        const PARTS: Refusal = Refusal::Malformed("expected three parts with dots between");
        let (signed, signature) = token.rsplit_once('.').ok_or(PARTS)?;
        let (header, claims) = signed.split_once('.').ok_or(PARTS)?;
        if claims.contains('.') {
            return Err(PARTS);
        }
        let header: Header = decoded(header)?;
        if header.crit.is_some() {
            return Err(Refusal::Malformed("it has extensions (crit)"));
        }
        let algorithm = Algorithm::named(&header.alg)
            .ok_or(Refusal::Malformed("expected the alg ES256, RS256 or EdDSA"))?;
        let signature = octets(signature)?;
        self.signed(header.kid.as_deref(), algorithm, signed, &signature, now)?;
        self.identity(decoded(claims)?, now)
    }

    fn signed(
        &self,
        key: Option<&str>,
        algorithm: Algorithm,
        signed: &str,
        signature: &[u8],
        now: SystemTime,
    ) -> Result<(), Refusal> {
        let keys = match &self.keys {
            Keys::File(keys) => keys.current(),
            Keys::Url(keys) => keys.current(now).ok_or(Refusal::NoKeys)?,
        };
        let candidates = keys.candidates(key, algorithm).inspect_err(|refusal| {
            if let (Refusal::UnknownKey, Keys::Url(keys)) = (refusal, &self.keys) {
                keys.want();
            }
        })?;
        let verifies = candidates
            .iter()
            .any(|key| key.verifies(signed.as_bytes(), signature));
        verifies.then_some(()).ok_or(Refusal::BadSignature)
    }

    fn identity(&self, claims: Claims, now: SystemTime) -> Result<Arc<Identity>, Refusal> {
        let claim = |claim, expected| Refusal::Claim { claim, expected };
        self.in_time(&claims, now)?;
        if claims.iss.as_deref() != Some(&*self.issuer) {
            return Err(claim("iss", "the configured issuer"));
        }
        if !claims.aud.is_some_and(|aud| aud.includes(&self.audience)) {
            return Err(claim("aud", "the configured audience among those named"));
        }
        let subject = claims.sub.unwrap_or_default();
        // Other roles are for others.
        let roles = claims.roles.unwrap_or_default();
        let roles: Roles = roles.iter().filter_map(|name| Role::named(name)).collect();
        let tenants = Tenants::named(&claims.tenants.unwrap_or_default()).ok_or_else(|| {
            claim(
                "tenants",
                "a list of at most 1000 ids of tenants, or \"*\" in it",
            )
        })?;
        let user = roles
            .contains(Role::User)
            .then(|| UserId::new(&subject).ok());
        let identity = Identity::new("jwt", &subject, roles, tenants, user.flatten());
        identity.map(Arc::new).map_err(|_| {
            claim(
                "sub",
                "1 to 512 bytes without control characters; for the role user, a user's id",
            )
        })
    }

    fn in_time(&self, claims: &Claims, now: SystemTime) -> Result<(), Refusal> {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let (now, leeway) = (now.as_secs_f64(), CLOCK_LEEWAY.as_secs_f64());
        let expires = claims.exp.ok_or(Refusal::Claim {
            claim: "exp",
            expected: "a time",
        })?;
        if expires + leeway <= now {
            return Err(Refusal::Expired);
        }
        if claims.nbf.is_some_and(|from| from > now + leeway) {
            return Err(Refusal::NotYet);
        }
        // One that was made long ago is judged by its whole life, and no time of
        // issue makes the rest of it longer.
        let since = claims.iat.map_or(now, |issued| issued.min(now));
        if expires - since > self.max_lifetime.as_secs_f64() + leeway {
            return Err(Refusal::TooLasting(self.max_lifetime.as_secs()));
        }
        Ok(())
    }
}

fn octets(part: &str) -> Result<Vec<u8>, Refusal> {
    let decoded = URL_SAFE_NO_PAD.decode(part);
    decoded.map_err(|_| Refusal::Malformed("its parts are not base64url without padding"))
}

fn decoded<T: DeserializeOwned>(part: &str) -> Result<T, Refusal> {
    let json = octets(part)?;
    serde_json::from_slice(&json)
        .map_err(|_| Refusal::Malformed("its header or claims are no JSON of the right types"))
}

#[cfg(test)]
mod tests;
