//! Why a credential is not taken. No text has a part of the credential in it.

/// Explains why a credential is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nothing is shown, or nothing of a kind that is taken.
    #[error("expected {0}, found neither")]
    NoCredentials(&'static str),
    /// The header is no bearer token.
    #[error("authorization: expected Bearer and a token, found something else")]
    NotBearer,
    /// The token is longer than any that is taken.
    #[error("the token is {0} bytes long, at most 8192 are taken")]
    TooLong(usize),
    /// No static token is this one.
    #[error("the token is not known; it may have been withdrawn")]
    UnknownToken,
    /// The token is no JWT of a kind that is taken.
    #[error("the token is no signed JWT: {0}")]
    Malformed(&'static str),
    /// The issuer's keys do not have the one that the token names.
    #[error(
        "the key that the token is signed with is not among the issuer's; it may be in a moment"
    )]
    UnknownKey,
    /// The signature is not of the key.
    #[error("the token's signature is not right")]
    BadSignature,
    /// A claim is not what it has to be.
    #[error("the token's claim {claim}: expected {expected}")]
    Claim {
        /// The name of the claim.
        claim: &'static str,
        /// What the claim has to be.
        expected: &'static str,
    },
    /// The token has expired.
    #[error("the token has expired")]
    Expired,
    /// The token is not valid yet.
    #[error("the token is not valid yet")]
    NotYet,
    /// The token is good for longer than tokens may be.
    #[error("the token is valid for longer than the {0} s that are taken")]
    TooLasting(u64),
    /// The issuer's keys were not to be had for too long.
    #[error("the keys of the tokens' issuer are not to be had, try again later")]
    NoKeys,
    /// The certificate names nobody.
    #[error("the client certificate is no identity: {0}")]
    NotAnIdentity(&'static str),
    /// The certificate is not valid now; it was when the connection was made.
    #[error("the client certificate has expired: connect again with a new one")]
    CertificateExpired,
    /// The certificate names somebody who is not known.
    #[error("nobody is known by the names in the client certificate")]
    UnknownCertificate,
}

impl Refusal {
    /// Returns the reason for programs: `ErrorInfo.reason`.
    pub fn reason(&self) -> &'static str {
        match self {
            Refusal::NoCredentials(_) => "CREDENTIALS_MISSING",
            Refusal::Expired | Refusal::CertificateExpired => "CREDENTIALS_EXPIRED",
            Refusal::NoKeys => "KEYS_UNAVAILABLE",
            _ => "CREDENTIALS_INVALID",
        }
    }

    /// Tells whether the caller may be right, and the service cannot know.
    pub fn is_ours(&self) -> bool {
        matches!(self, Refusal::NoKeys)
    }

    /// Returns the label of the metric: one of a closed set.
    pub fn outcome(&self) -> &'static str {
        match self {
            Refusal::NoCredentials(_) => "missing",
            Refusal::Expired | Refusal::CertificateExpired => "expired",
            Refusal::NoKeys => "keys_unavailable",
            _ => "invalid",
        }
    }
}
